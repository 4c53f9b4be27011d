"""A trained model that runs in the browser: an image, its tokens on the sphere, what they draw."""

from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor, nn

from arcvq.explorers.canvas import CanvasExplorer
from arcvq.images import to_uint8
from arcvq.ops import nearest_code
from arcvq.training import check_single
from arcvq.vqvae import VQVAE, Residual

MOST_CODES = 36**2  # two letters each of a link name the tokens


class TokenExplorer(CanvasExplorer):
    """Images to choose or to draw on, their tokens on the sphere and on a map, the image decoded.

    The browser runs the model, with its weights rounded to half precision.

    Args:
        model: For gray images and with codes in 3 dimensions, at most 1,296 of them, of which
            each latent takes the nearest.
        images: Images to choose from, square and in [-1, 1]; at least one.
        **settings: Values at the start.

    Raises:
        ValueError: For other models, or other images.
    """

    module = "tokens"
    image = traitlets.Int(0, min=-1, max=999).tag(label="image")  # -1 for a drawing
    place = traitlets.Int(0, min=0, max=9999).tag(label="token")
    tokens = traitlets.Unicode("").tag(label="tokens")  # empty for those that the encoder chose

    def __init__(
        self,
        model: VQVAE,
        images: Float[Tensor, "B 1 H H"],
        **settings: Any,
    ):
        check_single(model.quantizer, "an explorer")
        dim = model.quantizer.dim
        if dim != 3 or model.image_channels != 1:
            raise ValueError(
                f"the model has codes of D = {dim} and images of {model.image_channels} channels; "
                "its tokens can be drawn on the sphere for D = 3 and 1 channel"
            )
        if model.quantizer.num_codes > MOST_CODES:
            raise ValueError(
                f"the model has {model.quantizer.num_codes:,} codes; a link can name the tokens of "
                f"up to {MOST_CODES:,}"
            )
        count, _, height, width = images.shape
        if count == 0 or height != width:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; there must be at least one, and they "
                "must be square"
            )
        _check_nearest(model, images)
        data = {
            "images": to_uint8(images).numpy(),
            "plan": plan(model, images),
            "weights": weights(model).view(np.uint16),
        }
        super().__init__(data, **settings)


@torch.no_grad()
def _check_nearest(model: VQVAE, images: Float[Tensor, "B 1 H H"]) -> None:
    """Raise ValueError for a quantizer that chooses codes otherwise than the browser does."""
    quantizer = model.quantizer
    latents = model.latents(images).movedim(1, -1).flatten(0, -2)
    nearest = nearest_code(latents, quantizer.codebook, quantizer.metric)
    if not torch.equal(nearest, model.encode(images).flatten()):
        raise ValueError(
            f"the quantizer is a {quantizer.kind}; the explorer takes one that gives each latent "
            "the nearest code of its codebook"
        )


def plan(model: VQVAE, images: Float[Tensor, "B C H W"]) -> dict[str, Any]:
    """Describe the layers of a model, as web/model.js builds them again."""
    _, *grid = model.encode(images[:1]).shape
    _, _, *size = images.shape
    return {
        "image": size,
        "grid": grid,
        "dim": model.quantizer.dim,
        "metric": model.quantizer.metric,
        "encoder": [_described(layer) for layer in model.encoder],
        "decoder": [_described(layer) for layer in model.decoder],
    }


def weights(model: VQVAE) -> np.ndarray:
    """All weights in half precision and in the order of the plan, the codebook last."""
    parts: list[Any] = []
    for layer in [*model.encoder.modules(), *model.decoder.modules()]:
        if isinstance(layer, nn.Conv2d):
            parts.append(layer.weight.permute(2, 3, 1, 0))
            parts.append(layer.bias)
        elif isinstance(layer, nn.ConvTranspose2d):
            parts.append(layer.weight.permute(2, 3, 0, 1))
            parts.append(layer.bias)
    parts.append(model.quantizer.codebook)
    rows = [part.detach().flatten() for part in parts]
    return torch.cat(rows).half().numpy()


def _described(layer: Any) -> dict[str, Any]:
    if isinstance(layer, nn.ReLU):
        return {"kind": "relu"}
    if isinstance(layer, Residual):
        conv = _described(layer.conv)
        mix = _described(layer.mix)
        return {"kind": "residual", "conv": conv, "mix": mix}
    kind = "transposed" if isinstance(layer, nn.ConvTranspose2d) else "conv"
    size, _ = layer.kernel_size
    stride, _ = layer.stride
    padding, _ = layer.padding
    return {
        "kind": kind,
        "size": size,
        "stride": stride,
        "padding": padding,
        "inputs": layer.in_channels,
        "channels": layer.out_channels,
    }
