"""What explorers ask of a model: the tokens of test images, and what single codes draw."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData
from arcvq.priors.fitting import encode_split
from arcvq.training import check_single

BATCH = 256  # codes decoded at once


def encode_test(model: Autoencoder, data: ImageData, count: int) -> Int[Tensor, "n h w"]:
    """Encode the first test images, at most `count`. The tokens are on the CPU.

    Raises:
        ValueError: If there are none, they do not fit the model, or it has several codebooks.
    """
    check_single(model.quantizer, "an explorer")
    test = data.test.first(count)
    if not len(test):
        raise ValueError(f"{data.name} has no test images; at least one is needed here")
    return encode_split(model, test).tokens.cpu()


def decode_codes(model: Autoencoder, codes: Int[Tensor, " n"]) -> Float[Tensor, "n C p p"]:
    """Decode each code as 3 x 3 tokens, so that the middle one stands amid others like it."""
    grids = codes[:, None, None].expand(-1, 3, 3)
    batches = grids.split(BATCH)
    images = [model.decode(batch.to(model.device)) for batch in batches]
    return torch.cat(images).cpu()
