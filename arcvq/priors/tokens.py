"""How tokens enter a prior and how they leave it: free, or tied to the codebook's geometry."""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from arcvq.runtime.checks import check_finite
from arcvq.runtime.precision import at_least_float32

INITIAL_SCALE = 30.0  # of tied logits; high, because codes in use lie close together
Built = TypeVar("Built", bound=nn.Module)


class FreeTokens(nn.Module):
    """A learned vector for each code on the way in and another one on the way out.

    Args:
        num_codes: K, the number of codes.
        width: C, the channels of the prior.
    """

    def __init__(self, num_codes: int, width: int):
        super().__init__()
        self.table = nn.Embedding(num_codes, width)
        self.head = nn.Linear(width, num_codes)

    def embed(self, tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        """Map tokens to vectors of the prior's width."""
        return self.table(tokens)

    def logits(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B K"]:
        """Map features to a logit for each code."""
        return self.head(features)


class TiedTokens(nn.Module):
    """Tokens as the fixed directions of their codes, e_k / |e_k|.

    A logit is scale * cos(prediction, e_k), and the scale is learned. So the prior knows from the
    start which codes are neighbors. It has fewer parameters than with free tokens;
    `match_parameters` makes the numbers equal.

    Args:
        codebook: The codes, all finite; they are copied.
        width: C, the channels of the prior.
    """

    def __init__(self, codebook: Float[Tensor, "K D"], width: int):
        super().__init__()
        check_finite(codebook, "codebook")
        dim = codebook.shape[1]
        directions = normalize(codebook.detach().float(), dim=1)
        self.directions: Tensor
        self.register_buffer("directions", directions)
        self.inward = nn.Linear(dim, width)
        self.outward = nn.Linear(width, dim)
        # A logarithm, so that training changes the scale by factors.
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def embed(self, tokens: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        """Map the directions of the tokens' codes to vectors of the prior's width."""
        dim = self.directions.shape[1]
        # Entries of a unit vector are small; times sqrt(D) their mean square is 1.
        directions = self.directions * dim**0.5
        # Each code is mapped once, however many tokens name it.
        table = self.inward(directions)
        return embedding(tokens, table)

    def logits(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B K"]:
        """Map features to a logit for each code; in float32, also under autocast."""
        prediction = at_least_float32(self.outward(features))
        with torch.autocast(prediction.device.type, enabled=False):
            directions = self.directions.to(prediction.dtype)
            cosines = normalize(prediction, dim=-1) @ directions.T
            scale = at_least_float32(self.log_scale).exp()
            return scale * cosines


def parameter_count(module: nn.Module) -> int:
    """Count the numbers that training may change."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sum(parameter.numel() for parameter in trained)


def match_parameters(build: Callable[[int], Built], parameters: int, multiple: int = 1) -> Built:
    """Build a module of the width that brings its parameter count nearest to a number.

    This compares free and tied tokens at equal size::

        free = PixelCNN(512, (7, 7), width=48)
        tied = match_parameters(
            lambda width: PixelCNN(512, (7, 7), codebook=codebook, width=width),
            parameter_count(free),
        )

    Args:
        build: Makes the module of a width.
        parameters: The number of parameters to come near to.
        multiple: The width is a multiple of this.
    """

    def count(width: int) -> int:
        with torch.device("meta"):  # nothing is allocated, and no random number is drawn
            return parameter_count(build(width))

    def distance(width: int) -> int:
        return abs(count(width) - parameters)

    # The widest of these has more parameters than wanted: each channel has at least one.
    widths = range(multiple, multiple * (parameters + 2), multiple)
    # The parameters grow with the width, so the nearest is the first with enough or the one before.
    enough = bisect_left(widths, parameters, key=count)
    candidates = widths[max(0, enough - 1) : enough + 1]
    nearest = min(candidates, key=distance)
    return build(nearest)
