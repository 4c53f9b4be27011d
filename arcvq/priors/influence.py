"""Which tokens a network prior looks at: measured by gradients, as a check on masks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from arcvq.priors.base import NetworkPrior


def influence(
    prior: NetworkPrior,
    tokens: Int[Tensor, "B h w"],
    place: tuple[int, int],
    labels: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "h w"]:
    """How far ln p of the token at `place` (row, column) hangs on the token at each place: from 0, exactly 0 if not.

    At each place, the length of the gradient with respect to the embedded token there, as the mean over the grids. In
    raster order a prior must give 0 from `place` on, and above 0 at every place before, else it has a blind spot.
    Raises ValueError for a place outside the grid, and as `forward` does.
    """
    prior.check(tokens, labels)
    row, column = place
    if not (0 <= row < prior.grid[0] and 0 <= column < prior.grid[1]):
        raise ValueError(f"place is {place}; it must lie in the grid, {prior.grid[0]} rows by {prior.grid[1]} columns")
    embedded = prior.tokens.embed(tokens).detach().requires_grad_()
    logits = prior.tokens.logits(prior.features(embedded, labels))[:, row, column]
    nats = cross_entropy(logits, tokens[:, row, column], reduction="sum")
    gradient, = torch.autograd.grad(nats, embedded, materialize_grads=True)
    return gradient.norm(dim=-1).mean(0)
