"""What a row of a table says of a run: its settings, its machine, and measures of its images and codebook."""

import math
import platform
from pathlib import Path
from typing import Any

import torch

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.sample_quality import frechet_distance, inception_fid
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit
from arcvq.metrics import lpips
from arcvq.quantizers import ContinuousQuantizer
from arcvq.runs.settings import RunSettings, run_name
from arcvq.runtime.devices import choose_precision, device_name
from arcvq.training import Run, evaluate
from arcvq.vqvae import VQVAE

MEASURES = {  # column: title with unit
    "psnr": "PSNR (dB)", "ssim": "SSIM", "l1": "L1", "lpips": "LPIPS", "rfid": "rFID",
    "classifier_frechet": "Frechet distance of classifier features", "codes_used": "codes used",
    "perplexity": "perplexity", "perplexity_ceiling": "ceiling of the perplexity", "min_angle": "minimum angle (°)",
    "uniformity": "uniformity", "norm_usage_correlation": "norm-usage correlation",
    "step_milliseconds": "time per step (ms)",
}
SSIM_IMAGES = 1_000  # the first so many test images: in float64, which SSIM needs, all of MNIST's take a minute
OF_CODES = ("codes_used", "usage", "perplexity", "perplexity_ceiling", "tokens")


def facts(settings: RunSettings, images: ImageData, device: torch.device) -> dict[str, Any]:
    """All settings of a run, the name of its folder, the data, the device and the versions."""
    precision = str(choose_precision(settings.precision, device)).removeprefix("torch.")
    name = run_name(settings, images, device)
    return settings.plain() | {"precision": precision, "run": name, "data": images.name, "images": images.fingerprint,
                               "device": device_name(device), "torch": torch.__version__,
                               "python": platform.python_version()}


def reconstruction(run: Run, settings: RunSettings, images: ImageData, root: Path) -> list[dict[str, Any]]:
    """Measures of the test images, straight from tensors, and of the codebook: see MEASURES.

    SSIM is that of the first 1,000 images. LPIPS and rFID are NaN where their weights are not on this machine. The
    Frechet distance is between the test images and their reconstructions, in the features of `train_classifier`; it is
    NaN for training images of one class. It and rFID are NaN for a single test image, which has no covariance. The
    time per step is that of the whole run over its steps, whatever else the machine did meanwhile.
    """
    split, model = images.test, run.model
    row: dict[str, Any] = evaluate(model, split)
    row["ssim"] = evaluate(model, split.first(SSIM_IMAGES), ssim=True)["ssim"] if min(images.size) >= 11 else math.nan
    indices, outputs = _outputs(model, split)
    for name, measure, least in (("lpips", lpips, 1), ("rfid", inception_fid, 2)):
        try:
            originals = split.batch(torch.arange(len(split))).to(outputs.device)
            row[name] = measure(outputs, originals) if len(split) >= least else math.nan
        except (FileNotFoundError, ModuleNotFoundError):
            row[name] = math.nan
    row["classifier_frechet"] = _classifier_frechet(images, outputs, root)
    row |= {"seconds": run.seconds, "step_milliseconds": run.seconds / settings.steps * 1000}
    if isinstance(model.quantizer, ContinuousQuantizer):
        return [row | dict.fromkeys(OF_CODES, math.nan)]
    shape = describe(model.quantizer.codebook.detach().cpu(), indices.cpu())
    return [row | {"min_angle": math.degrees(shape.min_angle) if shape.min_angle is not None else math.nan,
                   "uniformity": shape.uniformity if shape.uniformity is not None else math.nan,
                   "norm_usage_correlation": shape.norm_usage_correlation}]


def _outputs(model: VQVAE, split: ImageSplit) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and reconstructions of all images."""
    device, parts = next(model.parameters()).device, []
    model.eval()
    with torch.no_grad():
        for chosen in torch.arange(len(split)).split(500):
            output = model(split.batch(chosen).to(device))
            parts.append((output.quantized.indices, output.reconstruction.clamp(-1, 1)))
    indices, outputs = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(outputs)


def _classifier_frechet(images: ImageData, outputs: torch.Tensor, root: Path) -> float:
    if len(images.train.labels.unique()) < 2 or len(images.test) < 2:
        return math.nan
    classifier = train_classifier(images, root=root, device=outputs.device, progress=False)
    return frechet_distance(classifier.features(images.test.images), classifier.features(outputs))
