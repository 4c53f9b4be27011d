"""Formulas written out in float64, to compare with."""

import math

import torch
from torch.nn.functional import normalize


def whole_matrix_loss(latents, codebook, margin, scale, top_k):
    """The margin loss with all K x N angles at once, differentiable.

    Where an angle plus the margin passes pi, the logit goes on falling as `arc_margin_loss` says.
    """
    cosines = normalize(codebook, dim=1) @ normalize(latents, dim=1).T
    nearest = torch.zeros_like(cosines, dtype=torch.bool)
    nearest.scatter_(1, cosines.topk(top_k, dim=1).indices, True)

    sines = (1 - cosines.square()).clamp_min(1e-300).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    beyond = cosines < -math.cos(margin)
    shifted = torch.where(beyond, cosines + math.cos(margin) - 1, shifted)

    logits = scale * torch.where(nearest, shifted, cosines)
    log_numerator = logits.masked_fill(~nearest, -math.inf).logsumexp(1)
    return (logits.logsumexp(1) - log_numerator).mean()
