"""The paper's autoencoder, and the checkpoints of its authors."""

from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from arcvq.autoencoder import Autoencoder
from arcvq.quantizers import Quantizer, SphericalQuantizer
from arcvq.runtime.checks import check_whole, is_whole
from arcvq.runtime.hub import check_official_names

DOWNSAMPLE = 4  # of the paper's network: images of 28 x 28 pixels have 7 x 7 latents


def official_layers(residual_layers: int) -> list[str]:
    """Return the layers of the authors' network, in the order of those of a `VQVAE`."""

    def residual_stack(part: str) -> list[str]:
        names = []
        for number in range(residual_layers):
            block = f"{part}._residual_stack._layers.{number}._block"
            names += [f"{block}.1", f"{block}.3"]  # the 3x3 and the 1x1 convolution
        return names

    return [
        "_encoder._conv_1",
        "_encoder._conv_2",
        "_encoder._conv_3",
        *residual_stack("_encoder"),
        "_pre_vq_conv",
        "_vq_vae.embedding",
        "_decoder._conv_1",
        *residual_stack("_decoder"),
        "_decoder._conv_trans_1",
        "_decoder._conv_trans_2",
    ]


class Residual(nn.Module):
    """Residual layer: a 3x3 convolution to few channels and a 1x1 convolution back.

    As in the authors' code, whose first ReLU works in place, the skip path carries relu(x).
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        x = relu(x)
        return x + self.mix(relu(self.conv(x)))


def _widths(hidden, downsample):
    """Channels at each halving of the image: [C] for 2, [C/2, C] for 4, [C/4, C/2, C] for 8."""
    halvings = downsample.bit_length() - 1
    return [hidden >> place for place in reversed(range(halvings))]


def _residual_stack(channels, residual):
    """Residual layers and a last ReLU."""
    hidden, layers = residual
    return [*(Residual(channels, hidden) for _ in range(layers)), nn.ReLU()]


def _build_encoder(image_channels, widths, residual, dim):
    """(B, C, H, W) to (B, D, h, w)."""
    network = nn.Sequential()
    channels = image_channels
    for width in widths:
        network.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
        network.append(nn.ReLU())
        channels = width
    network.append(nn.Conv2d(channels, channels, 3, padding=1))
    network.extend(_residual_stack(channels, residual))
    network.append(nn.Conv2d(channels, dim, 1))
    return network


def _build_decoder(image_channels, widths, residual, dim):
    """(B, D, h, w) to (B, C, H, W): the encoder in reverse."""
    *narrower, channels = widths
    network = nn.Sequential(nn.Conv2d(dim, channels, 3, padding=1))
    network.extend(_residual_stack(channels, residual))
    for width in reversed(narrower):
        network.append(nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1))
        network.append(nn.ReLU())
        channels = width
    network.append(nn.ConvTranspose2d(channels, image_channels, 4, stride=2, padding=1))
    return network


class VQVAE(Autoencoder):
    """VQ-VAE: encoder, quantizer and decoder (van den Oord et al. 2017; sizes of arXiv 2605.13517).

    Args:
        image_channels: Channels C of the images.
        quantizer: Any `Quantizer`; its `dim` is the number of channels D of the latents.
        hidden: Channels of the convolutions, from `downsample`.
        residual_hidden: Channels inside a residual layer.
        residual_layers: Residual layers in the encoder and as many in the decoder.
        downsample: Height of the images over height of the latent grid: 2, 4 or 8.

    Attributes:
        encoder, quantizer, decoder: The three parts, modules.
    """

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(
        self,
        image_channels: int,
        quantizer: Quantizer,
        hidden: int = 128,
        residual_hidden: int = 32,
        residual_layers: int = 2,
        downsample: int = DOWNSAMPLE,
    ):
        if not is_whole(downsample) or downsample not in (2, 4, 8):
            raise ValueError(f"downsample is {downsample}; it must be 2, 4 or 8")
        check_whole(1, image_channels=image_channels, residual_hidden=residual_hidden)
        check_whole(downsample, hidden=hidden)
        check_whole(0, residual_layers=residual_layers)
        # Plain numbers, since those of NumPy cannot be written as JSON.
        widths = _widths(int(hidden), int(downsample))
        residual = (int(residual_hidden), int(residual_layers))
        super().__init__(
            image_channels,
            downsample,
            _build_encoder(image_channels, widths, residual, quantizer.dim),
            quantizer,
            _build_decoder(image_channels, widths, residual, quantizer.dim),
        )
        self.hidden = int(hidden)
        self.residual_hidden, self.residual_layers = residual

    def sizes(self) -> dict[str, Any]:
        return {
            "image_channels": self.image_channels,
            "hidden": self.hidden,
            "residual_hidden": self.residual_hidden,
            "residual_layers": self.residual_layers,
            "downsample": self.downsample,
        }

    @classmethod
    def from_official_weights(cls, state: dict[str, Tensor]) -> "VQVAE":
        """Build the model whose weights have these names in the authors' code."""
        width, channels = state["_encoder._conv_1.weight"].shape[:2]
        residual_hidden = len(state["_encoder._residual_stack._layers.0._block.1.weight"])
        convolutions = [name for name in state if name.endswith("_block.1.weight")]
        residual_layers = sum(name.startswith("_encoder.") for name in convolutions)
        num_codes, dim = state["_vq_vae.embedding.weight"].shape
        quantizer = SphericalQuantizer(num_codes, dim)
        model = cls(channels, quantizer, 2 * width, residual_hidden, residual_layers)

        # Their parameters and ours are paired by their order.
        layers = official_layers(residual_layers)
        theirs = [f"{layer}.{kind}" for layer, kind in product(layers, ("weight", "bias"))]
        theirs.remove("_vq_vae.embedding.bias")  # a codebook has none
        check_official_names(state, theirs)
        parameters = dict(model.named_parameters())
        weights = {ours: state[name] for ours, name in zip(parameters, theirs, strict=True)}
        model.load_state_dict(weights, strict=False)  # usage counts are not among them
        return model
