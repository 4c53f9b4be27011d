"""How far a prior has found out which codes are neighbors on the sphere."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from arcvq.geometry import pairwise_angles
from arcvq.priors.base import Prior
from arcvq.runtime.precision import at_least_float32


@torch.no_grad()
def angle_correlation(
    prior: Prior,
    codebook: Float[Tensor, "K D"],
    tokens: Integer[Tensor, "B h w"],
    labels: Integer[Tensor, " B"] | None = None,
) -> float:
    """Measure how far codes at a small angle become likely together, as a rank correlation.

    Over all places of the grids, the log-probabilities of two codes have a correlation. The result
    is Spearman's correlation of these numbers with the negative angles, over all pairs of codes
    that occur in the grids.

    Args:
        prior: The prior.
        codebook: The codes that the tokens stand for.
        tokens: The grids.
        labels: The class of each grid, if the prior has classes.

    Returns:
        1 if a smaller angle always means more similar log-probabilities, 0 if the two are
        unrelated, and NaN for fewer than three codes or a prior with a code whose probability never
        changes.

    Raises:
        ValueError: For a codebook of another size than the prior's, and as `Prior.forward` does.
    """
    from scipy.stats import spearmanr

    if len(codebook) != prior.num_codes:
        raise ValueError(
            f"codebook has {len(codebook)} codes and the prior {prior.num_codes}; "
            "they must be the same"
        )
    codes = tokens.unique().long()
    if len(codes) < 3:
        return math.nan
    # Logits may hold another number at each place, which changes no probability.
    log_probabilities = at_least_float32(prior(tokens, labels)).log_softmax(-1)
    over_places = log_probabilities[..., codes.to(prior.device)].flatten(0, 2).double().cpu()
    never_changes = (over_places == over_places[0]).all(0)
    if never_changes.any():
        return math.nan
    rows, columns = torch.triu_indices(len(codes), len(codes), 1)
    together = torch.corrcoef(over_places.T)[rows, columns]
    angles = pairwise_angles(codebook.detach()[codes.to(codebook.device)])
    return float(spearmanr(together.numpy(), -angles.cpu().numpy()).statistic)
