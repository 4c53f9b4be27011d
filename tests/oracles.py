"""Formulas written out in float64, to compare with."""

import math

import torch


def whole_matrix_loss(latents, codebook, margin, scale, top_k):
    """The formula of the paper in float64 with all K x N angles at once, differentiable."""
    cosines = torch.nn.functional.normalize(codebook, dim=1) @ torch.nn.functional.normalize(latents, dim=1).T
    chosen = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, cosines.topk(top_k, dim=1).indices, True)
    sine = (1 - cosines.square()).clamp_min(1e-300).sqrt()
    shifted = cosines * math.cos(margin) - sine * math.sin(margin)
    shifted = torch.where(cosines < -math.cos(margin), cosines + math.cos(margin) - 1, shifted)
    logits = scale * torch.where(chosen, shifted, cosines)
    return (logits.logsumexp(1) - logits.masked_fill(~chosen, -math.inf).logsumexp(1)).mean()
