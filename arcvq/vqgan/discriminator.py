"""The opponent of a VQGAN: tells patches of images from patches of reconstructions."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from arcvq.runtime.checks import check_whole
from arcvq.vqgan.network import group_norm

SLOPE = 0.2  # of the leaky ReLU for negative values


def smallest_side(halvings: int) -> int:
    """The pixels that an image needs on each side for at least one patch to be judged."""
    return 3 * 2**halvings


class PatchDiscriminator(nn.Module):
    """The patch discriminator of pix2pix (Isola et al. 2017), with group normalization.

    It has no batch statistics, so that an image is judged alike in any batch, and several processes
    agree.

    Args:
        image_channels: Channels C of the images.
        channels: Channels of the first convolution; they double with each halving, up to 8 times.
        halvings: How often the image is halved; with 3 of them a patch has 70x70 pixels.
    """

    def __init__(self, image_channels: int, channels: int = 64, halvings: int = 3):
        super().__init__()
        check_whole(1, image_channels=image_channels, channels=channels, halvings=halvings)
        widths = [channels * min(2**number, 8) for number in range(halvings + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(image_channels, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
        ]
        for number in range(1, halvings + 1):
            stride = 2 if number < halvings else 1
            layers += [
                nn.Conv2d(widths[number - 1], widths[number], 4, stride, padding=1, bias=False),
                group_norm(widths[number]),
                nn.LeakyReLU(SLOPE),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """Return a number for each patch: large for an image, small for a reconstruction."""
        return self.layers(images)


def hinge_loss(real: Float[Tensor, "*shape"], fake: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The discriminator's loss: it wants above 1 for images and below -1 for reconstructions.

    The two halves are averaged, so that a discriminator which knows nothing has the loss 1.
    """
    return (relu(1 - real).mean() + relu(1 + fake).mean()) / 2
