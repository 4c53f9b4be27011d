"""The margin loss as the paper writes it, to read and to compare the fast forms with."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
) -> Float[Tensor, ""]:
    """Compute the ArcCosine Additive Margin loss of the paper with whole K x N matrices.

        L_A = -(1/K) sum_j log( numerator_j / denominator_j )
        numerator_j   = sum_{i in N_j} exp(s cos(theta_ij + m))
        denominator_j = numerator_j + sum_{i not in N_j} exp(s cos(theta_ij))

    Autograd keeps a copy of every stage, which takes gigabytes at the sizes of the paper.
    `arcvq.samp.arc_margin_loss` gives the same value without them. (It differs in one case that the
    paper leaves out: where an angle of N_j plus the margin passes pi.)

    Args:
        latents: Latents z_i of the batch.
        codebook: Codes e_j. They get a gradient too, unless they are detached.
        margin: m in radians.
        scale: s.
        top_k: Size of N_j, from 1 to N, or 0 where N is 0.

    Returns:
        L_A, the mean over the codes; 0 without latents.
    """
    if len(latents) == 0:
        return latents.sum()

    # theta_ij is the angle between latent i (a column) and code j (a row).
    cosines = normalize(codebook, dim=1) @ normalize(latents, dim=1).T

    # N_j: the k latents nearest to code j by angle.
    nearest = torch.zeros_like(cosines, dtype=torch.bool)
    nearest.scatter_(1, cosines.topk(top_k, dim=1).indices, True)

    # cos(theta + m) = cos(theta) cos(m) - sin(theta) sin(m). The floor keeps the slope of the root
    # finite where theta is 0 or pi.
    sines = (1 - cosines.square()).clamp_min(1e-7).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)

    # The nearest latents compete with the margin, all others without.
    logits = scale * torch.where(nearest, shifted, cosines)

    log_numerator = logits.masked_fill(~nearest, -math.inf).logsumexp(1)
    log_denominator = logits.logsumexp(1)
    return (log_denominator - log_numerator).mean()
