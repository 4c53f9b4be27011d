"""Measures of how close reconstructed images are to their originals.

Images are (B, C, H, W) and lie in [-1, 1].
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from arcvq.runtime.checks import check_finite
from arcvq.runtime.extras import extra_import
from arcvq.runtime.precision import as_float64

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
    images, reference = _pair(images, reference)
    return decibels((images - reference).square().mean().item())


def decibels(error: float) -> float:
    """Return the PSNR in dB that belongs to a mean squared error; inf for an error of 0."""
    return 10 * math.log10(DATA_RANGE**2 / error) if error else math.inf


def ssim(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Return the mean structural similarity of the images (Wang et al. 2004), at most 1.

    It is that of the pixels as intensities from 0 to 1, since it compares mean intensities, which
    have no negative values. On black, one gray level too much already lowers it: runs on MNIST
    that differ in nothing but their seed had 0.95 and 0.97. The means of batches, weighted by
    their sizes, average to that of all images. It is computed with torchmetrics; only windows that
    lie inside the image count, as in the paper.

    Args:
        images: The reconstructions, at least 11x11 pixels, the size of the window.
        reference: The originals.
    """
    images, reference = _pair(images, reference)
    _check_size(images, "SSIM", SSIM_WINDOW)
    torchmetrics = extra_import("torchmetrics.functional.image")
    _, by_window = torchmetrics.structural_similarity_index_measure(
        (images + 1) / 2, (reference + 1) / 2, data_range=1.0, return_full_image=True
    )
    # Nearer to the edge, a window sees the image mirrored.
    edge = SSIM_WINDOW // 2
    return by_window[..., edge:-edge, edge:-edge].mean().item()


def sharpness(images: Float[Tensor, "B C H W"]) -> float:
    """Return the variance of the images' Laplacian, which blur lowers (Pech-Pacheco et al. 2000).

    The Laplacian of a pixel is the sum of its four neighbors minus four times the pixel, in the
    mean over the channels. Noise raises it as detail does.

    Args:
        images: The images, at least 3x3 pixels.

    Raises:
        ValueError: For smaller images, and for NaN or infinite values.
    """
    gray = _to_float64(images).mean(dim=1)
    _check_size(images, "sharpness", 3)
    vertical = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1]
    horizontal = gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    laplacian = vertical + horizontal - 4 * gray[:, 1:-1, 1:-1]
    return laplacian.var(correction=0).item()


def authors_measures(
    images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]
) -> dict[str, float]:
    """Measure PSNR and SSIM as the authors of ArcVQ-VAE and of CVQ-VAE do.

    Both are taken from JPEG files of quality 75, whose pixels were cut to 8 bits without rounding,
    as RGB. PSNR is the mean over images, where that of `psnr` is over all pixels at once, and SSIM
    has a uniform window of 11x11 pixels with sample variances, as in scikit-image. Only these
    measures can be compared with published figures. The means of batches, weighted by their sizes,
    average to those of all images. One image whose file has the very pixels of its original, a
    blank page for instance, makes the mean of the PSNR infinite.

    Args:
        images: The reconstructions in [-1, 1], clipped to it, gray or RGB, at least 11x11 pixels.
        reference: The originals.

    Returns:
        psnr: In dB.
        ssim: At most 1.
    """
    pair = _pair(images, reference)
    _check_size(images, "SSIM", SSIM_WINDOW)
    _check_channels(images)
    found, true = (_through_jpeg(part).double() / 255 for part in pair)
    if images.shape[1] == 1:
        # The three channels are equal, so that one of them has the same mean.
        found = found[:, :1]
        true = true[:, :1]
    errors = (found - true).square().mean((1, 2, 3))
    psnrs = -10 * errors.log10()
    return {"psnr": psnrs.mean().item(), "ssim": _uniform_ssim(found, true)}


def _through_jpeg(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Images in [-1, 1] as the pixels that a JPEG file of quality 75 gives back."""
    pillow = extra_import("PIL.Image")
    pixels = (images.cpu().float() + 1) / 2
    pixels = (pixels.clamp(0, 1) * 255).to(torch.uint8)  # without rounding
    pixels = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    opened = []
    for image in pixels.numpy():
        file = io.BytesIO()
        pillow.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=75)
        opened.append(np.array(pillow.open(file)))
    return torch.from_numpy(np.stack(opened)).permute(0, 3, 1, 2)


def _uniform_ssim(images: Tensor, reference: Tensor) -> float:
    """Mean structural similarity of images in [0, 1], with equal weights in the window."""
    count = SSIM_WINDOW**2

    def mean(values):
        return avg_pool2d(values, SSIM_WINDOW, stride=1)

    stable_mean = 0.01**2  # the constants of Wang et al. 2004
    stable_variance = 0.03**2
    mean_of_images = mean(images)
    mean_of_reference = mean(reference)
    mean_product = mean_of_images * mean_of_reference
    mean_squares = mean_of_images.square() + mean_of_reference.square()
    sample = count / (count - 1)
    covariance = sample * (mean(images * reference) - mean_product)
    variances = sample * (mean(images.square() + reference.square()) - mean_squares)
    luminance = (2 * mean_product + stable_mean) / (mean_squares + stable_mean)
    structure = (2 * covariance + stable_variance) / (variances + stable_variance)
    return (luminance * structure).mean().item()


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
    pair = _pair(images, reference).float().clamp(-1, 1)
    _check_channels(images)
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


def _check_size(images: Tensor, measure: str, least: int) -> None:
    """Raise ValueError for images with a side of fewer pixels than a measure needs."""
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise ValueError(
            f"{measure} needs images of at least {least} x {least} pixels, got {height} x {width}"
        )


def _check_channels(images: Tensor) -> None:
    """Raise ValueError for images that are neither gray nor RGB."""
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"images have {channels} channels; they must have 1 (gray) or 3 (RGB)")


def _pair(images: Tensor, reference: Tensor) -> Tensor:
    """Both in float64, checked and stacked: SSIM subtracts squares of nearly the same size."""
    if images.shape != reference.shape:
        raise ValueError(
            f"images and reference must have the same shape, "
            f"got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    reference = reference.to(images.device)
    return torch.stack([_to_float64(images), _to_float64(reference, "reference")])


def _to_float64(images: Tensor, name: str = "images") -> Tensor:
    """Checked and detached."""
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"{name} must be a (B, C, H, W) tensor that is not empty, got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(f"{name} are {images.dtype}; they must be floating point in [-1, 1]")
    check_finite(images, name)
    return as_float64(images)
