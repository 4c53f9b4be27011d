"""Priors fitted by counting: the baselines that a network must beat.

Counts are smoothed after Witten and Bell (1991, method C), so a token that was never seen keeps
a probability; it is larger where many different tokens were seen.
"""

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from arcvq.priors.base import Prior
from arcvq.runtime.precision import at_least_float32


def witten_bell(
    counts: Int[Tensor, "*n K"], shorter: Float[Tensor, "*#n K"]
) -> Float[Tensor, "*n K"]:
    """Estimate probabilities from counts.

    After a context seen n times, with T different tokens following, the probability of token k
    is (count(k) + T q(k)) / (n + T).

    Args:
        counts: How often each token followed each context.
        shorter: q, the probabilities after a shorter context, for each context or one for all; the
            result has their precision.
    """
    total = counts.sum(-1, keepdim=True)
    different = (counts > 0).sum(-1, keepdim=True)
    # After a context that was never seen, T = 1 leaves q alone.
    different = different.clamp_min(1)
    return (counts + different * shorter) / (total + different)


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

        The tokens do not tell of which codebook they are; see `remember`.

        Raises:
            ValueError: As `forward` does.
        """
        tokens, _ = self.as_tokens(tokens, None)
        table = self.log_probabilities(tokens)
        self.table = table.to(self.table)
        self.forget_codebook()
        return self

    def log_probabilities(self, tokens: Int[Tensor, "n h w"]) -> Float[Tensor, "_contexts K"]:
        """Estimate the table from grids of tokens."""
        counts = self.counts(self.context(tokens), tokens, self.contexts())
        return witten_bell(counts, self.without_context(counts)).log()

    def counts(
        self, contexts: Int[Tensor, "n h w"], tokens: Int[Tensor, "n h w"], number: int
    ) -> Int[Tensor, "_number K"]:
        """Count how often each token came in each of a number of contexts."""
        # The cells of the table are numbered row by row, to count in all of them at once.
        cells = contexts * self.num_codes + tokens
        size = number * self.num_codes
        counts = torch.bincount(cells.flatten(), minlength=size)
        return counts.view(number, self.num_codes)

    def without_context(self, counts: Int[Tensor, "_n K"]) -> Float[Tensor, " K"]:
        """Return the probability of each token in any context."""
        precision = at_least_float32(self.table).dtype
        uniform = torch.full((self.num_codes,), 1 / self.num_codes, dtype=precision)
        in_any_context = counts.sum(0)
        return witten_bell(in_any_context, uniform.to(counts.device))

    def predict(self, tokens, labels):
        return self.table[self.context(tokens)]


class HistogramPrior(CountingPrior):
    """Draws each token by itself, from the histogram of its place in the grid."""

    def contexts(self):
        height, width = self.grid
        return height * width

    def context(self, tokens):
        places = torch.arange(self.contexts(), device=tokens.device)
        return places.view(self.grid).expand_as(tokens)


class BigramPrior(CountingPrior):
    """Draws each token given the one before it; the first has a context of its own."""

    def contexts(self):
        return self.num_codes + 1

    def context(self, tokens):
        in_order = tokens.flatten(1)
        before = in_order.roll(1, dims=1)
        # Rolling brings the last token to the front, where there is none before.
        before[:, 0] = self.num_codes
        return before.view_as(tokens)


class NeighborPrior(CountingPrior):
    """Draws each token given its left and its upper neighbor.

    What lies beyond the border counts as a neighbor of its own kind. After a pair of neighbors that
    was never seen, the left one alone decides.

    Args:
        num_codes: See `Prior`.
        grid: See `Prior`.
        pairs: How many pairs of neighbors have a row in the table; `count` sets it.

    Attributes:
        seen: The pairs that have one, sorted.
    """

    def __init__(self, num_codes: int, grid: tuple[int, int], pairs: int = 0):
        super().__init__(num_codes, grid)
        uniform = self.table[:1]
        rows = self.contexts() + pairs
        self.table = uniform.repeat(rows, 1)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(pairs, dtype=torch.int64))

    def contexts(self):
        return self.num_codes + 1  # the left neighbors; the pairs come after them

    def left(self, tokens: Int[Tensor, "B h w"]) -> Int[Tensor, "B h w"]:
        """Return the left neighbor of each token."""
        left = tokens.roll(1, dims=2)
        left[:, :, 0] = self.num_codes  # beyond the border
        return left

    def pair(self, tokens: Int[Tensor, "B h w"]) -> Int[Tensor, "B h w"]:
        """Return the number of each token's pair of neighbors."""
        upper = tokens.roll(1, dims=1)
        upper[:, 0] = self.num_codes  # beyond the border
        left = self.left(tokens)
        return left * self.contexts() + upper

    def context(self, tokens):
        left = self.left(tokens)
        if not len(self.seen):
            return left
        pair = self.pair(tokens)
        place = torch.searchsorted(self.seen, pair)
        # A pair above all that were seen would come after the last.
        place = place.clamp(max=len(self.seen) - 1)
        was_seen = self.seen[place] == pair
        row = self.contexts() + place
        return torch.where(was_seen, row, left)

    def log_probabilities(self, tokens):
        by_left = self.counts(self.left(tokens), tokens, self.contexts())
        after_left = witten_bell(by_left, self.without_context(by_left))

        # What follows a pair is smoothed with what follows its left neighbor.
        seen, place = self.pair(tokens).unique(return_inverse=True)
        by_pair = self.counts(place, tokens, len(seen))
        left = seen // self.contexts()
        after_pair = witten_bell(by_pair, after_left[left])

        self.seen = seen.to(self.table.device)
        return torch.cat([after_left, after_pair]).log()

    def config(self):
        return super().config() | {"pairs": len(self.seen)}
