"""How tokens enter a prior and how its predictions become logits: free, or tied to the codebook's geometry."""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from arcvq.ops.blockwise import TINY
from arcvq.quantizers import at_least_float32, check_finite

INITIAL_SCALE = 30.0  # of tied logits: codes in use lie close together; learned as a logarithm, so in factors
Built = TypeVar("Built", bound=nn.Module)


class FreeTokens(nn.Module):
    """A learned vector for each code on the way in and another on the way out: the prior starts from bare symbols."""

    def __init__(self, num_codes: int, width: int):
        super().__init__()
        self.table = nn.Embedding(num_codes, width)
        self.head = nn.Linear(width, num_codes)

    def embed(self, tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        """Tokens to vectors of the prior's width."""
        return self.table(tokens)

    def logits(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B K"]:
        """Features to a logit for each code."""
        return self.head(features)


class TiedTokens(nn.Module):
    """Tokens are the frozen codes' directions e_k / |e_k|; logits are scale * cos(prediction, e_k), the scale learned.

    The prior thus knows from the start which codes are neighbours. codebook: (K, D), all finite; it is copied and
    stays as it is. This form has fewer parameters than the free one; `match_parameters` evens them out.
    """

    def __init__(self, codebook: Float[Tensor, "K D"], width: int):
        super().__init__()
        check_finite(codebook, "codebook")
        self.directions: Tensor
        self.register_buffer("directions", normalize(codebook.detach().float(), dim=1, eps=TINY))
        self.inward = nn.Linear(codebook.shape[1], width)
        self.outward = nn.Linear(width, codebook.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def embed(self, tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        """Tokens to vectors of the prior's width: one linear map of their codes' directions."""
        return embedding(tokens, self.inward(self.directions * self.directions.shape[1] ** 0.5))

    def logits(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B K"]:
        """Features to a logit for each code; the cosines are float32 also under autocast."""
        prediction = at_least_float32(self.outward(features))
        with torch.autocast(prediction.device.type, enabled=False):
            return self.log_scale.exp() * (normalize(prediction, dim=-1, eps=TINY) @ self.directions.T)


def parameter_count(module: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def match_parameters(build: Callable[[int], Built], parameters: int, multiple: int = 1) -> Built:
    """`build(width)` for the width, a multiple of `multiple`, whose parameter count is nearest to `parameters`.

    This compares free and tied tokens at equal size, since the width is all that may differ::

        free = PixelCNN(512, (7, 7), width=48)
        tied = match_parameters(lambda width: PixelCNN(512, (7, 7), codebook=codebook, width=width),
                                parameter_count(free))
        parameter_count(free), parameter_count(tied)  # as near as it goes
    """
    def count(width: int) -> int:
        with torch.device("meta"):  # nothing is allocated and nothing drawn
            return parameter_count(build(width))

    widths = range(multiple, multiple * (parameters + 2), multiple)
    above = bisect_left(widths, parameters, key=count)
    return build(min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(count(width) - parameters)))
