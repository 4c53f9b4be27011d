"""How fast priors sample: 1,000 grids of 49 tokens, K 512, with their caches and with everything computed anew.

    python -m benchmarks.sampling

Priors of the quick profile's size and of the standard one, untrained (that changes no time), one after the other in
one process. For comparison, the last column is a single forward pass over all tokens at once.
"""

import argparse
import time
from collections.abc import Callable

import torch

from arcvq.priors import PRIORS, Prior, sample_tokens
from arcvq.priors.settings import SIZES
from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine

CODES, GRID = 512, (7, 7)


def anew(prior: Prior) -> Prior:
    """The same prior without its cache: the base class computes all tokens for each new one."""
    def without_cache(name: str) -> Callable:
        return getattr(Prior, name).__get__(prior)

    prior.start, prior.next_logits = without_cache("start"), without_cache("next_logits")
    return prior


def seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    lines = ["| prior | size | cached (s) | computed anew (s) | ratio | one forward pass (s) |", "|---" * 6 + "|"]
    for kind, build in PRIORS.items():
        for size in ("quick", "standard"):
            width, layers = SIZES[kind][size]
            prior = build(CODES, GRID, width=width, layers=layers).eval().to(device)
            tokens = sample_tokens(prior, 64)  # warm-up
            cached = seconds(lambda prior=prior: sample_tokens(prior, options.samples), device)
            tokens = tokens[:1].expand(options.samples, *GRID)
            with torch.no_grad():
                floor = seconds(lambda prior=prior, tokens=tokens: [prior(some) for some in tokens.split(256)], device)
            whole = seconds(lambda prior=prior: sample_tokens(anew(prior), options.samples), device)
            lines.append(f"| {kind} | {size} | {cached:.2f} | {whole:.1f} | {whole / cached:.1f} | {floor:.2f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + f"\n\n{options.samples} grids of 49 tokens, K {CODES}; {machine()}\n"
    write_whole(RESULTS / "sampling.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
