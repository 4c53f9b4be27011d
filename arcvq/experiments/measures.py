"""What a row of a results table says of a run: its settings and machine, and what was measured."""

import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.sample_quality import frechet_distance, inception_fid
from arcvq.autoencoder import Autoencoder
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit
from arcvq.metrics import SSIM_WINDOW, lpips
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
SSIM_IMAGES = 1_000  # in float64, which SSIM needs, all test images of MNIST take a minute
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

    - SSIM is that of the first 1,000 images.
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
    indices, outputs = _reconstruct(model, split)
    originals = split.batch(torch.arange(len(split))).to(outputs.device)

    row: dict[str, Any] = evaluate(model, split)
    row |= dict.fromkeys(("ssim", "authors_psnr", "authors_ssim"), math.nan)
    if min(data.size) >= SSIM_WINDOW:  # smaller images have no SSIM
        row["ssim"] = evaluate(model, split.first(SSIM_IMAGES), ssim=True)["ssim"]
        theirs = evaluate(model, split, protocol="authors")
        row |= {f"authors_{name}": theirs[name] for name in ("psnr", "ssim")}
    row["lpips"] = _if_available(lpips, outputs, originals)
    row["rfid"] = _if_available(inception_fid, outputs, originals) if len(split) > 1 else math.nan
    row["classifier_frechet"] = _classifier_frechet(data, outputs, root)
    row["seconds"] = run.seconds
    row["step_milliseconds"] = run.seconds / settings.steps * 1000
    if isinstance(model.quantizer, ContinuousQuantizer):
        return [row | dict.fromkeys(CODE_MEASURES, math.nan)]
    return [row | codebook_measures(model, indices)]


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


def _if_available(measure: Callable[..., float], outputs: Tensor, originals: Tensor) -> float:
    """A measure of reconstructions and originals; NaN where its package or weights are missing."""
    try:
        return measure(outputs, originals)
    except (FileNotFoundError, ModuleNotFoundError):
        return math.nan


@torch.no_grad()
def _reconstruct(model: Autoencoder, split: ImageSplit) -> tuple[Tensor, Tensor]:
    """Indices and reconstructions of all images of a split."""
    indices = []
    outputs = []
    with evaluation_mode(model):
        for images in split.batches(500, model.device):
            output = model(images)
            indices.append(output.quantized.indices)
            outputs.append(output.reconstruction.clamp(-1, 1))
    return torch.cat(indices), torch.cat(outputs)


def _classifier_frechet(data: ImageData, outputs: Tensor, root: Path) -> float:
    """The Frechet distance of classifier features; NaN where no classifier can be trained."""
    if len(data.train.labels.unique()) < 2 or len(data.test) < 2:
        return math.nan
    classifier = train_classifier(data, root=root, device=outputs.device, progress=False)
    return frechet_distance(
        classifier.features(data.test.images[:]),
        classifier.features(outputs),
    )
