"""Measures of how close reconstructed images are to their originals.

Images are (B, C, H, W) and lie in [-1, 1].
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from arcvq.runtime.extras import extra_import

DATA_RANGE = 2.0  # the largest minus the smallest value that a pixel can take
SSIM_WINDOW = 11  # pixels: a Gaussian of standard deviation 1.5 (Wang et al. 2004)
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"


def psnr(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Return the peak signal-to-noise ratio in dB, taken over all pixels at once.

    It is 10 log10(2^2 / mean squared error), which is not the mean of each image's PSNR. Equal
    images give inf.

    Args:
        images: The reconstructions.
        reference: The originals.
    """
    images, reference = _to_float64(images, reference)
    error = (images - reference).square().mean().item()
    return 10 * math.log10(DATA_RANGE**2 / error) if error else math.inf


def ssim(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Return the mean structural similarity of the images (Wang et al. 2004), at most 1.

    The means of batches, weighted by their sizes, average to that of all images. It is
    computed with torchmetrics.

    Args:
        images: The reconstructions, at least 11x11 pixels, the size of the window.
        reference: The originals.
    """
    images, reference = _to_float64(images, reference)
    height, width = images.shape[2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"got {height} x {width}"
        )
    torchmetrics = extra_import("torchmetrics.functional.image")
    similarity = torchmetrics.structural_similarity_index_measure(
        images, reference, data_range=DATA_RANGE
    )
    return similarity.item()


def lpips(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Return the mean learned perceptual distance of the images (Zhang et al. 2018), at least 0.

    It is measured by VGG-16, as in the evaluation of CVQ-VAE; AlexNet would need more than 28x28
    pixels. The arithmetic is torchmetrics'.

    Args:
        images: The reconstructions in [-1, 1], clipped to it; gray counts as equal RGB.
        reference: The originals.

    Raises:
        FileNotFoundError: If the weights of VGG-16 are missing; they are not downloaded.
    """
    pair = _to_float64(images, reference).float().clamp(-1, 1)
    pretrained_weights(VGG_URL, "LPIPS")
    torchmetrics = extra_import("torchmetrics.image.lpip")
    distance = torchmetrics.LearnedPerceptualImagePatchSimilarity("vgg").to(pair.device)
    # In batches, because the features of VGG need much memory.
    for batch in pair.expand(-1, -1, 3, -1, -1).split(64, dim=1):
        distance.update(*batch)
    return distance.compute().item()


def pretrained_weights(url: str, measure: str) -> Path:
    """Find the file in which torch.hub keeps the weights that a measure needs.

    Raises:
        FileNotFoundError: If there is none; says how to get it.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        raise FileNotFoundError(
            f"{measure} needs weights that are not here: curl -L --create-dirs -o '{path}' {url}"
        )
    return path


def _to_float64(images: Tensor, reference: Tensor) -> Tensor:
    """Both in float64, stacked: SSIM subtracts squares of nearly the same size."""
    if images.shape != reference.shape:
        raise ValueError(
            f"images and reference must have the same shape, "
            f"got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images must be a (B, C, H, W) tensor that is not empty, got {tuple(images.shape)}"
        )
    pair = torch.stack([images.detach(), reference.detach().to(images.device)])
    if pair.device.type == "mps":  # MPS has no float64
        pair = pair.cpu()
    return pair.double()
