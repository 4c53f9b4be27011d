"""What a quantizer adds to a training step, beside the same network without any.

    python -m benchmarks.steps

Whole training steps in float32 on digits of 28 x 28 pixels, at three sizes. All steps of a size
take turns in one process; medians. "Written as published" is SAMP in the form that the code of its
authors has: a one-hot matrix that is multiplied with the codebook, and a margin loss whose matrix
of all cosines autograd keeps, with the logarithm of a ratio of exponentials.
"""

import argparse
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from arcvq import SAMP, ContinuousQuantizer, CosineQuantizer, SphericalQuantizer, load_images
from arcvq.analysis.profiling import fitted_step, side_by_side
from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.runtime.devices import choose_device
from benchmarks import machine, markdown_table, write_report

DIM = 64
STEPS = 10_000  # to which the schedules of SAMP are scaled
SHARE = 0.03  # of the codes in the margin loss, for the step with a random share
BARE = "no quantizer"


class Size(NamedTuple):
    """The size of a training step: channels of the network, images and codes."""

    hidden: int
    batch_size: int
    num_codes: int


SIZES = (Size(128, 256, 512), Size(48, 128, 512), Size(48, 128, 4096))


class PublishedForm(SphericalQuantizer):
    """SAMP written as in the code of its authors."""

    def quantize(self, latents):
        samp = self.active_samp()
        directions = normalize(latents, dim=1)
        code_directions = normalize(self.codebook, dim=1)
        squares = directions.square().sum(1, keepdim=True) + code_directions.square().sum(1)
        distances = squares - 2 * directions @ code_directions.T
        indices = distances.argmin(1)
        one_hot = latents.new_zeros(len(latents), self.num_codes)
        one_hot.scatter_(1, indices[:, None], 1)
        codes = one_hot @ self.codebook
        if self.training:
            self.observe(latents.detach(), indices)

        margin_loss = published_margin_loss(latents, self.codebook.detach(), samp)
        weight = samp.weight.value(self.step, self.batch_usage())
        vq_loss = mse_loss(codes, latents.detach()) + self.beta * mse_loss(latents, codes.detach())
        codes = latents + (codes - latents).detach()  # straight-through gradient
        return codes, indices, vq_loss + weight * margin_loss, {"margin": margin_loss}


def published_margin_loss(latents: Tensor, codebook: Tensor, samp: SAMP) -> Tensor:
    """The margin loss from whole matrices, with arc cosines and exponentials."""
    cosines = normalize(codebook, dim=1) @ normalize(latents, dim=1).T
    nearest, places = cosines.topk(samp.top_k, dim=1)
    angles = nearest.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    logits = samp.scale * cosines.scatter(1, places, (angles + samp.margin).cos())
    positives = logits.gather(1, places).exp().sum(1)
    return -(positives / logits.exp().sum(1)).log().mean()


def seconds(size: Size, device: torch.device, repeats: int) -> dict[str, float]:
    """The median seconds of a training step with each quantizer."""
    data = load_images("digits", device=device)
    num_codes = size.num_codes
    all_codes = SAMP.for_run(STEPS)
    some_codes = SAMP.for_run(STEPS, codes_per_step=math.ceil(SHARE * num_codes))
    quantizers = {
        BARE: ContinuousQuantizer(num_codes, DIM),
        "cosine": CosineQuantizer(num_codes, DIM),
        "SAMP": SphericalQuantizer(num_codes, DIM, samp=all_codes),
        f"SAMP, {SHARE:.0%} of the codes a step": SphericalQuantizer(
            num_codes, DIM, samp=some_codes
        ),
        "SAMP, written as published": PublishedForm(num_codes, DIM, samp=all_codes),
        "cosine EMA of vector-quantize-pytorch": BASELINES["cosine_ema"](num_codes, DIM),
    }
    steps = {}
    for name, quantizer in quantizers.items():
        steps[name] = fitted_step(
            quantizer, data, size.batch_size, torch.float32, hidden=size.hidden
        )
    return side_by_side(steps, repeats).median().to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)

    titles = ["training step"]
    lines: dict[str, list[str]] = {}
    for size in SIZES:
        name = f"C {size.hidden}, batch {size.batch_size}, K {size.num_codes:,}"
        titles += [f"{name} (ms)", "over the network alone"]
        found = seconds(size, device, options.repeats)
        for quantizer, value in found.items():
            line = lines.setdefault(quantizer, [quantizer])
            line += [f"{1e3 * value:.0f}", f"{value / found[BARE]:.2f}"]
    note = f"Medians of {options.repeats} steps, float32, D {DIM}; {machine()}"
    write_report("steps.md", f"{markdown_table(titles, lines.values())}\n\n{note}\n")


if __name__ == "__main__":
    main()
