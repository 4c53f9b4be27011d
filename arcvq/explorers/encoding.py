"""What explorers ask of a model: the tokens of test images, and what single codes draw."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData, to_float

BATCH = 256  # images encoded, or codes decoded, at once


def encode_test(model: Autoencoder, data: ImageData, count: int) -> Int[Tensor, "n h w"]:
    """Encode the first test images, at most `count`. The tokens are on the CPU.

    Raises:
        ValueError: If there are none, or they do not fit the model.
    """
    images = data.test.images[:count]
    if not len(images):
        raise ValueError(f"{data.name} has no test images; at least one is needed here")
    device = model.quantizer.codebook.device
    batches = to_float(images).split(BATCH)
    tokens = [model.encode(batch.to(device)) for batch in batches]
    return torch.cat(tokens).cpu()


def decode_codes(model: Autoencoder, codes: Int[Tensor, " n"]) -> Float[Tensor, "n C p p"]:
    """Decode each code as 3 x 3 tokens, so that the middle one stands amid others like it."""
    device = model.quantizer.codebook.device
    grids = codes[:, None, None].expand(-1, 3, 3)
    batches = grids.split(BATCH)
    images = [model.decode(batch.to(device)) for batch in batches]
    return torch.cat(images).cpu()
