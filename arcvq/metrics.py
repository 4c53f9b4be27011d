"""How close reconstructed images are to their originals; images (B, C, H, W), by default in [-1, 1]."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11  # pixels: a Gaussian of standard deviation 1.5 (Wang et al. 2004)
VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"


def l1(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Mean absolute difference of all pixels, in the units of the images."""
    images, reference = _checked(images, reference)
    return (images - reference).abs().mean().item()


def psnr(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"],
         data_range: float | int = 2.0) -> float:
    """Peak signal-to-noise ratio in dB of all pixels at once: 10 log10(data_range^2 / mean squared error).

    Not the mean of each image's PSNR. Equal images give inf. data_range is the largest minus the smallest
    value that a pixel can take.
    """
    images, reference = _checked(images, reference, data_range)
    error = (images - reference).square().mean().item()
    return 10 * math.log10(data_range**2 / error) if error else math.inf


def ssim(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"],
         data_range: float | int = 2.0) -> float:
    """Structural similarity (Wang et al. 2004; torchmetrics), at most 1: the mean of each image's own value.

    So batches, weighted by their size, average to the value of all images at once. Images must be at least
    11 x 11 pixels, the size of the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    images, reference = _checked(images, reference, data_range)
    if min(images.shape[2:]) < SSIM_WINDOW:
        height, width = images.shape[2:]
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
                         f"got {height} x {width}")
    similarities = structural_similarity_index_measure(images, reference, data_range=float(data_range))
    return torch.as_tensor(similarities).item()


def lpips(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Learned perceptual distance (Zhang et al. 2018; torchmetrics), from 0: the mean of each image's own value.

    Through VGG-16, as in the CVQ-VAE evaluation (AlexNet needs more than 28 x 28 pixels). Images are in [-1, 1] and
    clipped to it; grey counts as equal RGB. Raises FileNotFoundError, without trying to fetch them, if VGG's weights
    are missing.
    """
    images, reference = (x.float().clamp(-1, 1).expand(-1, 3, -1, -1) for x in _checked(images, reference))
    pretrained_weights(VGG, "LPIPS")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    distance = LearnedPerceptualImagePatchSimilarity("vgg").to(images.device)
    for pair in zip(images.split(64), reference.split(64), strict=True):
        distance.update(*pair)
    return distance.compute().item()


def pretrained_weights(url: str, measure: str) -> Path:
    """Where torch.hub keeps the weights that a measure needs; FileNotFoundError says how to get them if it has none."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.is_file():
        raise FileNotFoundError(f"{measure} needs weights that are not here: curl -L --create-dirs -o '{path}' {url}")
    return path


def _checked(images: Tensor, reference: Tensor, data_range: float | int = 2.0) -> tuple[Tensor, Tensor]:
    # float64: SSIM subtracts squares of nearly the same size, which TF32 convolutions on a GPU would spoil
    if images.shape != reference.shape:
        raise ValueError(f"images and reference must have the same shape, "
                         f"got {tuple(images.shape)} and {tuple(reference.shape)}")
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be a (B, C, H, W) tensor that is not empty, got {tuple(images.shape)}")
    if not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be positive and finite, got {data_range}")
    device = "cpu" if images.device.type == "mps" else images.device  # MPS has no float64
    return images.detach().to(device).double(), reference.detach().to(device).double()
