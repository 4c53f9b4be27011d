"""The margin loss and the lookup with the whole K x N matrix, in a few differentiable operations.

They are for what the fast forms cannot serve: torch.export, which would unroll their loops over
blocks for one number of latents, and derivatives of the loss beyond the first.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops.blockwise import TINY
from arcvq.runtime.precision import widest_float


def margin_loss(
    latents: Tensor, codebook: Tensor, margin: float, scale: float, top_k: int
) -> Tensor:
    """Compute the margin loss of `arcvq.samp.arc_margin_loss` as a function to differentiate.

    It is worked out in float64: unlike the fast forms it takes sines from 1 - cos^2, which cancels
    at small angles.
    """
    dtype = widest_float(latents.device)
    latents = latents.to(dtype)
    codes = normalize(codebook.to(dtype), dim=1)
    squares = latents.square().sum(1, keepdim=True)
    # A row of zeros has no direction: 1 / infinity is 0, with slopes of 0.
    inverse = squares.masked_fill(squares <= TINY**2, math.inf).rsqrt()
    cosines = codes @ (latents * inverse).T
    top_k = min(top_k, len(latents))
    nearest = cosines.topk(top_k, dim=1, sorted=False).indices

    # cos(theta + m) of the nearest. The floor keeps the slopes of the root finite at 0 and pi.
    cos_margin = math.cos(margin)
    sin_margin = math.sin(margin)
    floor = torch.finfo(dtype).eps
    cosine = cosines.gather(1, nearest)
    sine = (1 - cosine.square()).clamp_min(floor).sqrt()
    shifted = cosine * cos_margin - sine * sin_margin
    # Where theta + m > pi: the straight line of `blockwise`.
    beyond = cosine < -cos_margin
    shifted = torch.where(beyond, cosine + cos_margin - 1, shifted)

    # -log of the part of the softmax that the nearest latents hold.
    logits = scale * cosines.scatter(1, nearest, shifted)
    log_all = logits.logsumexp(1)
    log_nearest = (scale * shifted).logsumexp(1)
    losses = log_all - log_nearest
    return losses.mean()


def best_scores(
    latents: Tensor, codes: Tensor, center: Tensor | None, bias: Tensor | None
) -> Tensor:
    """As `arcvq.ops.blockwise.best_scores`."""
    if center is not None:
        latents = latents - center
    scores = latents @ codes.T
    if bias is not None:
        scores = scores + bias
    return scores.argmax(1)
