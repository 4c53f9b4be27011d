"""VQGAN: the convolutional autoencoder for natural images (Esser et al. 2021).

Its layers have the names of the public VQGAN code, so that published weights are read as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from arcvq.autoencoder import Autoencoder
from arcvq.quantizers import Quantizer, SphericalQuantizer
from arcvq.runtime.checks import check_flag, check_whole
from arcvq.runtime.hub import check_official_names

GROUPS = 32  # of group normalization
GROUP_CHANNELS = 4  # in each group of a small network

# Where the public code keeps what belongs to our encoder, quantizer and decoder.
OFFICIAL_PARTS = {
    "quant_conv.": "encoder.quant_conv.",
    "post_quant_conv.": "decoder.post_quant_conv.",
    "quantize.embedding.weight": "quantizer.codebook",
}
TRAINING_ONLY = ("loss.",)  # discriminator and perceptual network of a public checkpoint


def check_sizes(channels: int, multipliers: Sequence[int], blocks: int) -> None:
    """Raise ValueError for sizes that no `VQGAN` has."""
    check_whole(1, channels=channels, blocks=blocks)
    if channels % GROUP_CHANNELS:
        raise ValueError(f"channels is {channels}; it must be a multiple of {GROUP_CHANNELS}")
    if not isinstance(multipliers, Sequence) or not multipliers:
        raise ValueError(
            f"multipliers is {multipliers!r}; it must hold one number for each resolution"
        )
    for multiplier in multipliers:
        check_whole(1, multipliers=multiplier)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group normalization as in the public code, or of fewer groups on a small network.

    Args:
        channels: Channels; where they are no multiple of 32, each group has at least 4 of them.
    """
    groups = GROUPS
    while channels % groups:
        groups //= 2
    if groups < GROUPS:
        groups = max(1, min(groups, channels // GROUP_CHANNELS))
    return nn.GroupNorm(groups, channels, eps=1e-6)


def remove_normalization(network: nn.Module) -> None:
    """Replace every group normalization of a network by nothing."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after normalization and SiLU, beside a skip path.

    Args:
        channels: Channels that come in.
        width: Channels that go out.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        is_same = channels == width
        self.nin_shortcut = nn.Identity() if is_same else nn.Conv2d(channels, width, 1)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h w"]:
        change = self.conv1(silu(self.norm1(x)))
        change = self.conv2(silu(self.norm2(change)))
        return self.nin_shortcut(x) + change


class Attention(nn.Module):
    """Self-attention of all places of a feature map with one head, beside a skip path."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        normed = self.norm(x)

        def places(projection: nn.Module) -> Float[Tensor, "B 1 n c"]:
            # In another order in memory, PyTorch would build the matrix of all pairs of places.
            return projection(normed).flatten(2).transpose(1, 2)[:, None].contiguous()

        attended = scaled_dot_product_attention(places(self.q), places(self.k), places(self.v))
        maps = attended[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(maps)


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution, padded below and on the right."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h2 w2"]:
        return self.conv(pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, followed by a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h2 w2"]:
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution: residual, each followed by attention if there is any.

    Args:
        channels: Channels that come in.
        width: Channels that go out.
        blocks: Number of residual blocks.
        attention: Whether each is followed by attention.
    """

    def __init__(self, channels: int, width: int, blocks: int, attention: bool):
        super().__init__()
        widths = [channels, *[width] * blocks]
        self.block = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        self.attn = nn.ModuleList(Attention(width) for _ in range(blocks if attention else 0))

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h w"]:
        for number, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        return x


class DownLevel(Level):
    """The blocks of one resolution of the encoder; all but the lowest then halve the image."""

    def __init__(self, channels: int, width: int, blocks: int, attention: bool, is_lowest: bool):
        super().__init__(channels, width, blocks, attention)
        self.downsample = nn.Identity() if is_lowest else Downsample(width)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h2 w2"]:
        return self.downsample(super().forward(x))


class UpLevel(Level):
    """The blocks of one resolution of the decoder; all but the highest then double the image."""

    def __init__(self, channels: int, width: int, blocks: int, attention: bool, is_highest: bool):
        super().__init__(channels, width, blocks, attention)
        self.upsample = nn.Identity() if is_highest else Upsample(width)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B w_ h2 w2"]:
        return self.upsample(super().forward(x))


class Middle(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        return self.block_2(self.attn_1(self.block_1(x)))


@dataclass(frozen=True)
class NetworkSizes:
    """What the sizes of encoder and decoder follow from.

    Attributes:
        image_channels: C.
        widths: Channels at each resolution, from the highest to the lowest.
        blocks: Residual blocks at each resolution of the encoder; the decoder has one more.
        attention: Whether those of the lowest resolution have attention.
        bottleneck: Channels on either side of the quantizer, between a 3x3 convolution and the 1x1
            convolution to or from `dim`.
        dim: D.
    """

    image_channels: int
    widths: list[int]
    blocks: int
    attention: bool
    bottleneck: int
    dim: int


class Encoder(nn.Module):
    """Images (B, C, H, W) to latents (B, D, h, w)."""

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        widths = sizes.widths
        last = len(widths) - 1
        channels = widths[0]
        self.conv_in = nn.Conv2d(sizes.image_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for number, width in enumerate(widths):
            is_lowest = number == last
            attention = sizes.attention and is_lowest
            self.down.append(DownLevel(channels, width, sizes.blocks, attention, is_lowest))
            channels = width
        self.mid = Middle(channels)
        self.norm_out = group_norm(channels)
        self.conv_out = nn.Conv2d(channels, sizes.bottleneck, 3, padding=1)
        self.quant_conv = nn.Conv2d(sizes.bottleneck, sizes.dim, 1)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        return self.quant_conv(self.conv_out(silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Codes (B, D, h, w) to images (B, C, H, W): the encoder in reverse, with one block more."""

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        widths = sizes.widths
        last = len(widths) - 1
        lowest = widths[last]
        self.post_quant_conv = nn.Conv2d(sizes.dim, sizes.bottleneck, 1)
        self.conv_in = nn.Conv2d(sizes.bottleneck, lowest, 3, padding=1)
        self.mid = Middle(lowest)
        self.up = nn.ModuleList()
        # Kept from the highest resolution to the lowest, and passed through in reverse.
        below = [*widths[1:], lowest]
        for number, width in enumerate(widths):
            attention = sizes.attention and number == last
            is_highest = number == 0
            blocks = sizes.blocks + 1
            self.up.append(UpLevel(below[number], width, blocks, attention, is_highest))
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], sizes.image_channels, 3, padding=1)

    def forward(self, codes: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        x = self.mid(self.conv_in(self.post_quant_conv(codes)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(silu(self.norm_out(x)))

    @property
    def last_layer(self) -> Tensor:
        """The weights where the terms of the loss are weighed against each other."""
        return self.conv_out.weight


class VQGAN(Autoencoder):
    """The autoencoder of a VQGAN around any quantizer (Esser et al. 2021, arXiv 2012.09841).

    The paper's for ImageNet has 1,024 codes of 16 dimensions and halves the image three times.
    `fit_vqgan` trains it with perceptual and adversarial losses, `fit` with the squared error.

    Args:
        image_channels: Channels C of the images.
        quantizer: Any `Quantizer`; its `dim` is the number of channels D of the latents. The fit
            functions train it with a single codebook.
        channels: Channels at the resolution of the images, a multiple of 4.
        multipliers: Channels at each resolution as a multiple of `channels`. Between two of them
            the image is halved, so that (1, 2, 2, 4) downsamples by 8.
        blocks: Residual blocks at each resolution.
        attention: Whether the blocks of the lowest resolution have attention. One layer of
            attention stands between encoder and decoder in any case.
        bottleneck: Channels next to the quantizer, where a 1x1 convolution leads to D; None for D.
        normalized: Whether there is group normalization, as in the public code. It takes mean and
            contrast out of each group of feature maps. With few channels the network needs long to
            find a way round it, and learns sooner without.
    """

    def __init__(
        self,
        image_channels: int,
        quantizer: Quantizer,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        blocks: int = 2,
        attention: bool = True,
        bottleneck: int | None = None,
        normalized: bool = True,
    ):
        check_whole(1, image_channels=image_channels)
        check_sizes(channels, multipliers, blocks)
        check_flag(attention=attention, normalized=normalized)
        width = quantizer.dim if bottleneck is None else bottleneck
        check_whole(1, bottleneck=width)
        # Plain numbers, since those of NumPy overflow, and cannot be written as JSON.
        factors = [int(multiplier) for multiplier in multipliers]
        sizes = NetworkSizes(
            image_channels=int(image_channels),
            widths=[int(channels) * factor for factor in factors],
            blocks=int(blocks),
            attention=bool(attention),
            bottleneck=int(width),
            dim=quantizer.dim,
        )
        downsample = 2 ** (len(factors) - 1)
        super().__init__(image_channels, downsample, Encoder(sizes), quantizer, Decoder(sizes))
        if not normalized:
            remove_normalization(self.encoder)
            remove_normalization(self.decoder)
        self.channels = int(channels)
        self.multipliers = factors
        self.blocks = sizes.blocks
        self.attention = sizes.attention
        self.bottleneck = None if bottleneck is None else sizes.bottleneck
        self.normalized = bool(normalized)

    def check_images(self, images: Tensor) -> None:
        super().check_images(images)
        tokens = images.shape[2:].numel() // self.downsample**2
        lowest = group_norm(self.channels * self.multipliers[-1])
        if self.normalized and tokens == 1 and lowest.num_groups == lowest.num_channels:
            raise ValueError(
                f"images of {self.downsample}x{self.downsample} pixels become one token, and group "
                f"normalization makes it the same for all images where {lowest.num_channels} "
                "channels are in as many groups; take larger images, other channels, or "
                "normalized=False"
            )

    def sizes(self) -> dict[str, Any]:
        return {
            "image_channels": self.image_channels,
            "channels": self.channels,
            "multipliers": self.multipliers,
            "blocks": self.blocks,
            "attention": self.attention,
            "bottleneck": self.bottleneck,
            "normalized": self.normalized,
        }

    @classmethod
    def from_official_weights(cls, state: dict[str, Tensor]) -> "VQGAN":
        """Build the model whose weights have these names in the public code."""
        state = {
            name: weight for name, weight in state.items() if not name.startswith(TRAINING_ONLY)
        }
        channels, image_channels, *_ = state["encoder.conv_in.weight"].shape
        last = max(_numbers(state, "encoder.down."))
        multipliers = []
        for level in range(last + 1):
            width = len(state[f"encoder.down.{level}.block.0.conv1.weight"])
            multipliers.append(width // channels)
        lowest = f"encoder.down.{last}."
        num_codes, dim = state["quantize.embedding.weight"].shape
        model = cls(
            image_channels,
            SphericalQuantizer(num_codes, dim),
            channels,
            multipliers,
            blocks=1 + max(_numbers(state, f"{lowest}block.")),
            attention=f"{lowest}attn.0.q.weight" in state,
            bottleneck=len(state["encoder.conv_out.weight"]),
        )
        ours = {_official_name(name): name for name, _ in model.named_parameters()}
        check_official_names(state, ours)
        weights = {ours[name]: weight for name, weight in state.items()}
        model.load_state_dict(weights, strict=False)  # usage counts are not among them
        return model


def _official_name(name: str) -> str:
    """The name that a weight of ours has in the public code."""
    for theirs, ours in OFFICIAL_PARTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _numbers(names: Any, prefix: str) -> set[int]:
    """The numbers that follow a prefix in the names of weights."""
    found = set()
    for name in names:
        if name.startswith(prefix):
            number, _, _ = name.removeprefix(prefix).partition(".")
            found.add(int(number))
    if not found:
        raise KeyError(f"{prefix}0")
    return found
