"""Formulas written out in float64, to compare with."""

import math

import torch
from torch.nn.functional import normalize


def whole_matrix_loss(latents, codebook, margin, scale, top_k):
    """The margin loss with all K x N angles at once, differentiable.

    Where an angle plus the margin passes pi, the logit goes on falling as `arc_margin_loss` says.
    """
    directions = normalize(latents, dim=1)
    cosines = normalize(codebook, dim=1) @ directions.T
    # For each code, its top_k nearest latents.
    nearest = torch.zeros_like(cosines, dtype=torch.bool)
    columns = cosines.topk(top_k, dim=1).indices
    nearest.scatter_(1, columns, True)

    # cos(angle + margin)
    sines = (1 - cosines.square()).clamp_min(1e-300).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    beyond = cosines < -math.cos(margin)
    falling = cosines + math.cos(margin) - 1
    shifted = torch.where(beyond, falling, shifted)

    logits = scale * torch.where(nearest, shifted, cosines)
    logits_of_nearest = logits.masked_fill(~nearest, -math.inf)
    log_numerator = logits_of_nearest.logsumexp(1)
    log_denominator = logits.logsumexp(1)
    return (log_denominator - log_numerator).mean()
