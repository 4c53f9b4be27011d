"""Priors fitted by counting: what a network must beat.

Counts are smoothed after Witten and Bell (1991, method C): after a context seen n times with T different tokens
following, p(k) = (count(k) + T q(k)) / (n + T), where q is the same for a shorter context. So a token never seen keeps
a probability, larger where many different ones were seen.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.priors.base import Prior


def smoothed(counts: Int[Tensor, "*n K"], shorter: Float[Tensor, "K"]) -> Float[Tensor, "*n K"]:
    """Probabilities from the counts after each context; `shorter` are those of the shorter context."""
    kinds = (counts > 0).sum(-1, keepdim=True).clamp_min(1)
    return (counts + kinds * shorter) / (counts.sum(-1, keepdim=True) + kinds)


class CountingPrior(Prior):
    """The base: `count` fits, `table` holds log-probabilities, uniform before."""

    def __init__(self, num_codes: int, grid: tuple[int, int]):
        super().__init__(num_codes, grid)
        self.table: Tensor
        self.register_buffer("table", torch.full((self.rows(), num_codes), 1 / num_codes).log())

    def rows(self) -> int:
        """The number of contexts."""
        raise NotImplementedError

    def context(self, tokens: Int[Tensor, "B h w"]) -> Int[Tensor, "B h w"]:
        """The number of each token's context."""
        raise NotImplementedError

    def count(self, tokens: Int[Tensor, "n h w"]) -> "CountingPrior":
        """Fit to these grids; returns the prior itself. Raises ValueError as `forward` does."""
        self.check(tokens, None)
        pairs = (self.context(tokens) * self.num_codes + tokens).flatten()
        counts = torch.bincount(pairs, minlength=self.table.numel()).view_as(self.table)
        alone = smoothed(counts.sum(0), counts.new_full((self.num_codes,), 1 / self.num_codes, dtype=torch.float32))
        self.table = smoothed(counts, alone).log().to(self.device)
        return self

    def predict(self, tokens, labels):
        return self.table[self.context(tokens)]


class HistogramPrior(CountingPrior):
    """Each token drawn by itself from the histogram of its place in the grid."""

    def rows(self):
        return self.grid[0] * self.grid[1]

    def context(self, tokens):
        return torch.arange(self.rows(), device=tokens.device).view(self.grid).expand_as(tokens)


class BigramPrior(CountingPrior):
    """Each token given the one before it in raster order; the first of a grid has a context of its own."""

    def rows(self):
        return self.num_codes + 1

    def context(self, tokens):
        before = tokens.flatten(1).roll(1, 1)
        before[:, 0] = self.num_codes
        return before.view_as(tokens)
