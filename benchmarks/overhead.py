"""What a quantizer costs on a small batch, where most of the time goes into calling operations.

    python -m benchmarks.overhead

Each quantizer in training mode at latents (8, 64, 8, 8) with K 512, beside the cosine quantizer of
vector-quantize-pytorch, which moves its codebook in `forward`. Ours move theirs in `after_step`, so
the whole step has it. All take turns in one process; medians.
"""

import argparse
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from arcvq import QUANTIZERS, ContinuousQuantizer, Quantizer
from arcvq.analysis.profiling import side_by_side
from arcvq.runtime.devices import choose_device
from benchmarks import machine, markdown_table, write_report

DIM = 64
SHAPE = (8, DIM, 8, 8)
CODES = 512
THEIRS = "cosine of vector-quantize-pytorch"
TITLES = ["quantizer", "forward (ms)", "ratio", "whole step (ms)", "ratio"]


def forward(quantizer: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and loss of a training batch."""
    output = quantizer(latents)
    codes, _, loss = output[:3]
    return codes, loss


def step(quantizer: nn.Module, latents: Tensor) -> None:
    """Forward and backward pass, with a gradient of ones, and what follows the optimizer step."""
    codes, loss = forward(quantizer, latents)
    (codes.sum() + loss).backward()
    quantizer.zero_grad()
    latents.grad = None
    if isinstance(quantizer, Quantizer):
        quantizer.after_step()


def milliseconds(
    action: Callable[[nn.Module, Tensor], object],
    quantizers: dict[str, nn.Module],
    latents: Tensor,
    repeats: int,
) -> pd.DataFrame:
    """The times of an action with each quantizer, all of which take turns."""
    actions = {name: partial(action, one, latents) for name, one in quantizers.items()}
    return 1e3 * side_by_side(actions, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)

    torch.manual_seed(0)
    quantizers: dict[str, nn.Module] = {
        THEIRS: VectorQuantize(DIM, CODES, use_cosine_sim=True, accept_image_fmap=True)
    }
    for name, kind in QUANTIZERS.items():
        if kind is not ContinuousQuantizer:
            quantizers[name] = kind(CODES, DIM)
    latents = torch.randn(SHAPE, device=device, requires_grad=True)
    for quantizer in quantizers.values():
        quantizer.to(device)

    rows = {name: [name] for name in quantizers}
    spreads = []
    for action in (forward, step):
        times = milliseconds(action, quantizers, latents, options.repeats)
        medians = times.median()
        spreads.append((times.quantile(0.75) - times.quantile(0.25)) / 2 / medians)
        for name, time in medians.items():
            rows[name] += [f"{time:.2f}", f"{time / medians[THEIRS]:.2f}"]
    largest = pd.concat(spreads).max()
    note = (
        f"Medians; half the distance between the quartiles is at most {largest:.0%} of them. "
        f"Latents {SHAPE}, K {CODES}; {machine()}"
    )
    write_report("overhead.md", f"{markdown_table(TITLES, rows.values())}\n\n{note}\n")


if __name__ == "__main__":
    main()
