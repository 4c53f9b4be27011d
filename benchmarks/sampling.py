"""How fast priors sample: 1,000 grids of 49 tokens, with their caches and without.

    python -m benchmarks.sampling

Priors of the sizes of the quick and the standard profile, untrained (which does not change the
time), K 512, one after the other in one process. The last column is a single forward pass over all
tokens at once, for comparison.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from arcvq.priors import PRIORS, Prior, sample_tokens
from arcvq.priors.settings import SIZES
from arcvq.runtime.devices import choose_device
from benchmarks import machine, markdown_row, markdown_table, write_report

CODES = 512
GRID = (7, 7)
TITLES = ["prior", "size", "cached (s)", "computed anew (s)", "ratio", "one forward pass (s)"]


def without_cache(prior: Prior) -> Prior:
    """Make a prior compute all tokens for each new one, as the base class does."""
    prior.start = partial(Prior.start, prior)
    prior.next_logits = partial(Prior.next_logits, prior)
    return prior


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long an action takes on a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.no_grad()
def predict(prior: Prior, tokens: torch.Tensor) -> None:
    """One forward pass over all tokens."""
    for batch in tokens.split(256):
        prior(batch)


def measure(kind: str, size: str, samples: int, device: torch.device) -> list[str]:
    """A row of the table."""
    width, layers = SIZES[kind][size]
    prior = PRIORS[kind](CODES, GRID, width=width, layers=layers).eval().to(device)
    tokens = sample_tokens(prior, 64)[:1].expand(samples, *GRID)  # which also warms up
    cached = seconds(partial(sample_tokens, prior, samples), device)
    forward = seconds(partial(predict, prior, tokens), device)
    anew = seconds(partial(sample_tokens, without_cache(prior), samples), device)
    times = [f"{cached:.2f}", f"{anew:.1f}", f"{anew / cached:.1f}", f"{forward:.2f}"]
    return [kind, size, *times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)

    rows = []
    for kind in PRIORS:
        for size in ("quick", "standard"):
            rows.append(measure(kind, size, options.samples, device))
            print(markdown_row(rows[-1]), flush=True)
    note = f"{options.samples} grids of 49 tokens, K {CODES}; {machine()}"
    write_report("sampling.md", f"{markdown_table(TITLES, rows)}\n\n{note}\n")


if __name__ == "__main__":
    main()
