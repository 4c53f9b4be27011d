"""Priors fitted by counting: the baselines that a network must beat.

Counts are smoothed after Witten and Bell (1991, method C), so a token that was never seen keeps
a probability; it is larger where many different tokens were seen.
"""

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from arcvq.priors.base import Prior
from arcvq.quantizers import at_least_float32


def witten_bell(counts: Int[Tensor, "*n K"], shorter: Float[Tensor, "K"]) -> Float[Tensor, "*n K"]:
    """Estimate probabilities from counts.

    After a context seen n times, with T different tokens following, the probability of token k
    is (count(k) + T q(k)) / (n + T).

    Args:
        counts: How often each token followed each context.
        shorter: q, the probabilities after a shorter context, whose precision the result has.
    """
    different = (counts > 0).sum(-1, keepdim=True).clamp_min(1)
    return (counts + different * shorter) / (counts.sum(-1, keepdim=True) + different)


class CountingPrior(Prior):
    """The base of priors that `count` fits.

    Args:
        num_codes: See `Prior`.
        grid: See `Prior`.

    Attributes:
        table: The log-probabilities of the tokens after each context, uniform before fitting.
    """

    def __init__(self, num_codes: int, grid: tuple[int, int]):
        super().__init__(num_codes, grid)
        self.table: Tensor
        uniform = torch.full((self.contexts(), num_codes), 1 / num_codes)
        self.register_buffer("table", uniform.log())

    def contexts(self) -> int:
        """Return the number of contexts."""
        raise NotImplementedError

    def context(self, tokens: Int[Tensor, "B h w"]) -> Int[Tensor, "B h w"]:
        """Return the context of each token, a row of the table."""
        raise NotImplementedError

    def count(self, tokens: Integer[Tensor, "n h w"]) -> "CountingPrior":
        """Fit the prior to these grids and return it.

        Raises:
            ValueError: As `forward` does.
        """
        tokens, _ = self.as_tokens(tokens, None)
        pairs = self.context(tokens) * self.num_codes + tokens
        counts = torch.bincount(pairs.flatten(), minlength=self.table.numel())
        counts = counts.view_as(self.table)

        precision = at_least_float32(self.table).dtype
        uniform = torch.full((self.num_codes,), 1 / self.num_codes, dtype=precision)
        without_context = witten_bell(counts.sum(0), uniform.to(counts.device))
        self.table = witten_bell(counts, without_context).log().to(self.table)
        return self

    def predict(self, tokens, labels):
        return self.table[self.context(tokens)]


class HistogramPrior(CountingPrior):
    """Draws each token by itself, from the histogram of its place in the grid."""

    def contexts(self):
        return self.grid[0] * self.grid[1]

    def context(self, tokens):
        places = torch.arange(self.contexts(), device=tokens.device)
        return places.view(self.grid).expand_as(tokens)


class BigramPrior(CountingPrior):
    """Draws each token given the one before it; the first has a context of its own."""

    def contexts(self):
        return self.num_codes + 1

    def context(self, tokens):
        before = tokens.flatten(1).roll(1, 1)
        before[:, 0] = self.num_codes
        return before.view_as(tokens)
