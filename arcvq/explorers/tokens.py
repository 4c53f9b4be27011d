"""A trained model that runs in the browser: an image, its tokens on the sphere, what they draw."""

from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor, nn

from arcvq.explorers.canvas import CanvasExplorer
from arcvq.images import to_uint8
from arcvq.vqvae import VQVAE, Residual


class TokenExplorer(CanvasExplorer):
    """Images to choose or to draw on, their tokens on the sphere and on a map, the image decoded.

    The browser runs the model, with its weights rounded to half precision.

    Args:
        model: For square gray images and with codes in 3 dimensions.
        images: Images to choose from, in [-1, 1].
        **settings: Values at the start.

    Raises:
        ValueError: For other models.
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
        dim = model.quantizer.dim
        if dim != 3 or model.image_channels != 1:
            raise ValueError(
                f"the model has codes of D = {dim} and images of {model.image_channels} channels; "
                "its tokens can be drawn on the sphere for D = 3 and 1 channel"
            )
        data = {
            "images": to_uint8(images).numpy(),
            "plan": plan(model, images),
            "weights": weights(model).view(np.uint16),
        }
        super().__init__(data, **settings)


def plan(model: VQVAE, images: Float[Tensor, "B C H W"]) -> dict[str, Any]:
    """Describe the layers of a model, as web/model.js builds them again."""
    return {
        "image": list(images.shape[2:]),
        "grid": list(model.encode(images[:1]).shape[1:]),
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
            parts += [layer.weight.permute(2, 3, 1, 0), layer.bias]
        elif isinstance(layer, nn.ConvTranspose2d):
            parts += [layer.weight.permute(2, 3, 0, 1), layer.bias]
    parts.append(model.quantizer.codebook)
    return torch.cat([part.detach().flatten() for part in parts]).half().numpy()


def _described(layer: Any) -> dict[str, Any]:
    if isinstance(layer, nn.ReLU):
        return {"kind": "relu"}
    if isinstance(layer, Residual):
        return {"kind": "residual", "conv": _described(layer.conv), "mix": _described(layer.mix)}
    return {
        "kind": "transposed" if isinstance(layer, nn.ConvTranspose2d) else "conv",
        "size": layer.kernel_size[0],
        "stride": layer.stride[0],
        "padding": layer.padding[0],
        "inputs": layer.in_channels,
        "channels": layer.out_channels,
    }
