"""What a row of a results table says of a run: its settings and machine, and what was measured."""

import json
import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.sample_quality import frechet_distance, inception_features
from arcvq.autoencoder import Autoencoder
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit
from arcvq.metrics import SSIM_WINDOW, lpips
from arcvq.priors.fitting import encode_split
from arcvq.quantizers import ContinuousQuantizer
from arcvq.runs.settings import RunSettings, run_name
from arcvq.runtime.devices import choose_precision, device_name, dtype_name
from arcvq.runtime.modes import evaluation_mode
from arcvq.training import Run, evaluate

MEASURE_TITLES = {  # of the columns, with units
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "authors_psnr": "PSNR as the authors measure it (dB)",
    "authors_ssim": "SSIM as the authors measure it",
    "l1": "L1",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "classifier_frechet": "Frechet distance of classifier features",
    "codes_used": "codes used",
    "perplexity": "perplexity",
    "perplexity_ceiling": "ceiling of the perplexity",
    "min_angle": "minimum angle (°)",
    "uniformity": "uniformity",
    "norm_usage_correlation": "norm-usage correlation",
    "step_milliseconds": "time per step (ms)",
}
MAIN_MEASURES = {name: MEASURE_TITLES[name] for name in ("psnr", "codes_used", "perplexity")}
SSIM_IMAGES = 1_000  # at most; in float64, which SSIM needs, all of MNIST's would take a minute
CODE_MEASURES = ("codes_used", "usage", "perplexity", "perplexity_ceiling", "tokens")


def run_facts(settings: RunSettings, data: ImageData, device: torch.device) -> dict[str, Any]:
    """Everything that identifies a run: settings, folder name, data, device and versions."""
    config = settings.config()
    # Each of these records is one JSON text, so that it fits into a cell of a table.
    for record in ("samp", "reading", "vqgan"):
        if isinstance(config.get(record), dict):
            config[record] = json.dumps(config[record])
    regime = settings.regime(data)
    return {
        **config,
        "positives_per_latent": regime.positives_per_latent if regime else None,
        "ball_rate": regime.ball_rate if regime else None,
        "precision": dtype_name(choose_precision(settings.precision, device)),
        "run": run_name(settings, data, device),
        "data": data.name,
        "images": data.fingerprint,
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def reconstruction(
    run: Run, settings: RunSettings, data: ImageData, root: Path
) -> list[dict[str, Any]]:
    """Measure the reconstructed test images, straight from tensors, and the codebook.

    - SSIM is that of at most 1,000 images, in equal steps from the first to the last.
    - The measures of the authors are through JPEG files; see `arcvq.metrics.authors_measures`.
    - LPIPS and rFID are NaN where their weights are not on this machine.
    - The Frechet distance is between the test images and their reconstructions, in the features of
      `train_classifier`. It is NaN for training images of a single class.
    - The Frechet distance and rFID are NaN for a single test image, which has no covariance.
    - The time per step is that of the whole run over its steps, whatever else the machine did.
    - Measures of codes are NaN for a model without codes.

    Args:
        run: The trained run.
        settings: Its settings.
        data: Its data.
        root: Where classifiers are kept.

    Returns:
        One row, with the columns of `MEASURE_TITLES` and what `evaluate` returns.
    """
    model = run.model
    split = data.test
    row: dict[str, Any] = evaluate(model, split)
    row |= dict.fromkeys(("ssim", "authors_psnr", "authors_ssim"), math.nan)
    if min(data.size) >= SSIM_WINDOW:  # smaller images have no SSIM
        row["ssim"] = evaluate(model, split.in_steps(SSIM_IMAGES), ssim=True)["ssim"]
        theirs = evaluate(model, split, protocol="authors")
        row |= {f"authors_{name}": theirs[name] for name in ("psnr", "ssim")}
    row["lpips"] = _if_available(_lpips, model, split)
    row["rfid"] = _if_available(_rfid, model, split)
    row["classifier_frechet"] = _classifier_frechet(model, data, root)
    row["seconds"] = run.seconds
    row["step_milliseconds"] = run.seconds / settings.steps * 1000
    if isinstance(model.quantizer, ContinuousQuantizer):
        return [row | dict.fromkeys(CODE_MEASURES, math.nan)]
    return [row | codebook_measures(model, encode_split(model, split).tokens)]


def codebook_measures(model: Autoencoder, indices: Tensor) -> dict[str, float]:
    """Measure a model's codebook, with the codes that images were encoded into.

    Returns:
        The minimum angle in degrees and the uniformity, NaN where fewer than two codes have a
        direction, and the correlation of norm and usage.
    """
    shape = describe(model.quantizer.codebook.detach().cpu(), indices.cpu())
    return {
        "min_angle": math.degrees(nan_if_none(shape.min_angle)),
        "uniformity": nan_if_none(shape.uniformity),
        "norm_usage_correlation": nan_if_none(shape.norm_usage_correlation),
    }


def nan_if_none(value: float | None) -> float:
    """A measure as it stands in a table, where NaN means that there is none."""
    return math.nan if value is None else value


def _if_available(
    measure: Callable[[Autoencoder, ImageSplit], float], model: Autoencoder, split: ImageSplit
) -> float:
    """A measure of reconstructed images; NaN where its package or weights are missing."""
    try:
        return measure(model, split)
    except (FileNotFoundError, ModuleNotFoundError):
        return math.nan


def _pairs(model: Autoencoder, split: ImageSplit) -> Iterator[tuple[Tensor, Tensor]]:
    """Reconstructions and originals, some at a time, so that no split has to fit into memory."""
    with evaluation_mode(model):
        for originals in split.batches(None, model.device):
            yield model.reconstruct(originals), originals


def _lpips(model: Autoencoder, split: ImageSplit) -> float:
    """The mean learned perceptual distance of the reconstructions."""
    total = 0.0
    for rebuilt, originals in _pairs(model, split):
        total += lpips(rebuilt, originals) * len(originals)
    return total / len(split)


def _rfid(model: Autoencoder, split: ImageSplit) -> float:
    """FID of the reconstructions; NaN for a single image."""
    if len(split) < 2:
        return math.nan
    rebuilt = inception_features(rebuilt for rebuilt, _ in _pairs(model, split))
    originals = inception_features(split.batches(None, model.device))
    return frechet_distance(rebuilt, originals)


def _classifier_frechet(model: Autoencoder, data: ImageData, root: Path) -> float:
    """The Frechet distance of classifier features; NaN where no classifier can be trained."""
    if len(data.train.labels.unique()) < 2 or len(data.test) < 2:
        return math.nan
    classifier = train_classifier(data, root=root, device=model.device, progress=False)
    features = []
    features_of_rebuilt = []
    for rebuilt, originals in _pairs(model, data.test):
        features.append(classifier.features(originals))
        features_of_rebuilt.append(classifier.features(rebuilt))
    return frechet_distance(torch.cat(features), torch.cat(features_of_rebuilt))
