"""The margin loss as its formula reads, for comparison with the fast forms beside it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def plain_margin_loss(
    latents: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"], margin: float, scale: float, top_k: int
) -> Float[Tensor, ""]:
    """The margin loss as its formula reads: all K x N cosines at once, and autograd keeps a copy of each stage.

    The gradient goes to the codebook too, unless it is detached.
    """
    cosines = normalize(codebook, dim=1) @ normalize(latents, dim=1).T
    chosen = torch.zeros_like(cosines, dtype=torch.bool)
    chosen.scatter_(1, cosines.topk(top_k, dim=1).indices, True)
    sine = (1 - cosines.square()).clamp_min(1e-7).sqrt()
    shifted = cosines * math.cos(margin) - sine * math.sin(margin)
    logits = scale * torch.where(chosen, shifted, cosines)
    return (logits.logsumexp(1) - logits.masked_fill(~chosen, -math.inf).logsumexp(1)).mean()
