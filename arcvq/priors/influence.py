"""Which tokens a network prior looks at, measured by gradients: a check on its masks."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy

from arcvq.priors.base import NetworkPrior
from arcvq.runtime.precision import at_least_float32


def influence(
    prior: NetworkPrior,
    tokens: Integer[Tensor, "B h w"],
    place: tuple[int, int],
    labels: Integer[Tensor, " B"] | None = None,
) -> Float[Tensor, "h w"]:
    """Measure how far ln p of one token depends on the token at each place.

    A prior must give 0 from `place` on in raster order, and more at every place before; where it
    does not, it has a blind spot.

    Args:
        prior: The prior to look into.
        tokens: The grids to average over.
        place: Row and column of the token that is predicted.
        labels: The class of each grid, if the prior has classes.

    Returns:
        For each place, the norm of the gradient with respect to the embedded token there.

    Raises:
        ValueError: For a place outside the grid, and as `Prior.forward` does.
    """
    tokens, labels = prior.as_tokens(tokens, labels)
    row, column = place
    height, width = prior.grid
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"place is {place}; it must lie in the grid, {height} rows by {width} columns"
        )
    embedded = prior.tokens.embed(tokens).detach().requires_grad_()
    logits = prior.tokens.logits(prior.features(embedded, labels))[:, row, column]
    nats = cross_entropy(at_least_float32(logits), tokens[:, row, column], reduction="sum")
    (gradient,) = torch.autograd.grad(nats, embedded, materialize_grads=True)
    return gradient.norm(dim=-1).mean(0)
