"""Quantizers in a VQGAN on photographs, and what its further losses do."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.tables import cells, summary
from arcvq.images import ImageData
from arcvq.metrics import sharpness
from arcvq.runs.settings import RunSettings
from arcvq.training import Run, evaluate
from arcvq.vqgan import PerceptualDistance, VQGANLosses, VQGANSettings, mean_distance

FEATURES = "efficientnet_lite0"  # that the perceptual distance is learned from and measured in
# Small enough for a core of a CPU: a token stands for 4 x 4 pixels. In runs this short the
# discriminator has learned little, and at the usual weight of 0.8 it cost plain VQ and cosine 3 dB.
NETWORK = VQGANSettings(
    channels=16,
    multipliers=(1, 2, 2),
    blocks=1,
    attention=False,
    normalized=False,
    losses=VQGANLosses(FEATURES, adversarial=0.1, channels=32, halvings=2),
    averaging=0.995,
)
# The public VQGAN code weighs the codebook term by 0.25; with Adam, beta 1 is the same.
BETA = 1.0
PRECISION = "float32"  # in which a network of this size is as fast as in bfloat16
# Pixel values that sharpness is measured on, since all are held at once in float64: more than
# `photos_128` has in its 500 test images, and 170 images of 256 x 256 pixels.
SHARPNESS_VALUES = 2**25
COMPARED = {"plain VQ": "plain", "cosine": "cosine", "CVQ": "cvq", "SAMP": "samp"}
FEWER_LOSSES: dict[str, dict[str, Any]] = {
    "SAMP without discriminator": {"adversarial": 0.0},
    "SAMP on pixels alone": {"adversarial": 0.0, "perceptual": 0.0},
}
SHOWN = {
    "perceptual": "perceptual distance (EfficientNet-Lite0)",
    "sharpness": "sharpness (photographs: 1)",
    "psnr": MEASURE_TITLES["psnr"],
    "codes_used": MEASURE_TITLES["codes_used"],
    "perplexity": MEASURE_TITLES["perplexity"],
}


def variants(base: RunSettings) -> list[Variant]:
    """The quantizers that the paper compares, and SAMP with fewer losses."""
    network = base.vqgan or NETWORK
    base = base.with_quantizer("samp")
    base = dataclasses.replace(base, beta=BETA, vqgan=network, precision=PRECISION)
    found = []
    for name, quantizer in COMPARED.items():
        found.append(Variant(name, base.with_quantizer(quantizer)))
    for name, changes in FEWER_LOSSES.items():
        losses = dataclasses.replace(network.losses, **changes)
        vqgan = dataclasses.replace(network, losses=losses)
        found.append(Variant(name, dataclasses.replace(base, quantizer="samp", vqgan=vqgan)))
    return found


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the reconstructed test images: as `evaluate` does, their distance and sharpness."""
    distance = PerceptualDistance(FEATURES).to(data.device)
    row = evaluate(run.model, data.test)
    row["perceptual"] = mean_distance(distance, run.model, data.test)
    height, width = data.size
    some = data.test.first(max(1, SHARPNESS_VALUES // (3 * height * width)))
    originals = [*some.batches(None, data.device)]
    rebuilt = [run.model.reconstruct(images) for images in originals]
    row["sharpness"] = sharpness(torch.cat(rebuilt)) / sharpness(torch.cat(originals))
    row["seconds"] = run.seconds
    return [row]


def check(data: ImageData) -> None:
    """Raise ValueError for data without color."""
    if data.channels != 3:
        raise ValueError(
            f"{data.name} has {data.channels} channels; the perceptual distance needs RGB, such as "
            "photos_64"
        )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each quantizer and choice of losses."""
    return cells(summary(rows, [*SHOWN]), {"variant": "quantizer", **SHOWN})


NATURAL_IMAGES = Experiment(
    name="natural_images",
    question="What do quantizers and losses do to photographs?",
    variants=variants,
    measure=measure,
    table=table,
    check=check,
)
