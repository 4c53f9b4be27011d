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

    Over all places of the grids, the logits of two codes have a correlation. The result is
    Spearman's correlation of these numbers with the negative angles, over all pairs of codes that
    occur in the grids.

    Args:
        prior: The prior.
        codebook: The codes that the tokens stand for.
        tokens: The grids.
        labels: The class of each grid, if the prior has classes.

    Returns:
        1 if a smaller angle always means more similar logits, 0 if the two are unrelated, and NaN
        for fewer than three codes or a prior whose logits never change.

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
    logits = at_least_float32(prior(tokens, labels))[..., codes.to(prior.device)]
    centered = logits.flatten(0, 2).double().cpu()
    centered = centered - centered.mean(0)
    if not centered.any(0).all():
        return math.nan
    rows, columns = torch.triu_indices(len(codes), len(codes), 1)
    together = torch.corrcoef(centered.T)[rows, columns]
    angles = pairwise_angles(codebook.detach()[codes.to(codebook.device)])
    return float(spearmanr(together.numpy(), -angles.cpu().numpy()).statistic)
