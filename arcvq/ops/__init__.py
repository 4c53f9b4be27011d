"""The arithmetic that must be fast: the margin loss and the lookup of the nearest code.

Each exists in two forms, which give the same to rounding and never hold the K x N matrix of
cosines: `blockwise` runs on every device, and `triton` is made of kernels for NVIDIA GPUs. The
functions here are what both have in common; they pick the form. `reference` has the loss as the
paper writes it, to read and to compare with.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops import blockwise, triton

# The smallest norm that anything is divided by: a row of zeros then stays zero.
TINY = 1e-12


def margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
) -> Float[Tensor, ""]:
    """Compute the ArcCosine Additive Margin loss; its gradient goes to the latents alone.

    Arguments and result are those of `arcvq.samp.arc_margin_loss`, which checks them.
    """
    result_dtype = torch.promote_types(latents.dtype, torch.float32)
    # The error of a logit is that of its cosine times the scale: float32 keeps 1e-6 of the loss up
    # to scales of about 32. (MPS has no float64.)
    exact = scale > blockwise.SAFE_SCALE and latents.device.type != "mps"
    dtype = torch.float64 if exact else result_dtype
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.to(dtype)
        codebook = codebook.to(dtype)
        if len(latents) == 0 or len(codebook) == 0:
            return latents.sum().to(result_dtype) * 0.0  # 0, but still part of the graph
        top_k = min(top_k, len(latents))
        return _MarginLoss.apply(latents, codebook, margin, scale, top_k).to(result_dtype)


class _MarginLoss(torch.autograd.Function):
    """The loss, with a gradient that the forward pass computes while its tiles are in the cache."""

    @staticmethod
    def forward(ctx, latents, codebook, *settings):
        ctx.save_for_backward(latents, codebook)
        ctx.settings = settings
        loss, ctx.gradient = loss_and_gradient(
            latents, codebook, *settings, with_gradient=ctx.needs_input_grad[0]
        )
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        latents, codebook = ctx.saved_tensors
        # The gradient is scaled in place and handed on without a copy, so it serves only once.
        gradient = ctx.gradient
        ctx.gradient = None
        if gradient is None:  # backward goes through the same graph a second time
            _, gradient = loss_and_gradient(latents, codebook, *ctx.settings)
        return gradient.mul_(grad_output), None, None, None, None


def loss_and_gradient(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
    *,
    with_gradient: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "N D"] | None]:
    """Compute the margin loss and its gradient to the latents in one pass.

    Args:
        latents: Latents, at least one.
        codebook: Codes of the same dtype, at least one.
        margin: Angular margin in radians.
        scale: Scale of the cosines; above `blockwise.SAFE_SCALE` not for float32 on a GPU.
        top_k: Latents that each code pulls, from 1 to N.
        with_gradient: Whether the gradient is wanted.

    Returns:
        The loss, and the gradient or None.
    """
    form = triton if triton.usable(latents, codebook) else blockwise
    latents = latents.contiguous()
    norms = torch.linalg.vector_norm(latents, dim=1)
    inverse = torch.where(norms > TINY, 1 / norms, 0.0)  # a row of zeros has no direction
    codes = normalize(codebook.contiguous(), dim=1)
    gradient = torch.zeros_like(latents) if with_gradient else None
    total = form.sum_losses(latents, inverse, codes, margin, scale, top_k, gradient)
    if gradient is not None:  # so far that to the normalized latents
        form.through_normalization_(gradient, latents, inverse, len(codes))
    return total / len(codes), gradient


def nearest_code(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    metric: str = "cosine",
) -> Int[Tensor, " N"]:
    """Find the nearest code of each latent.

    Args:
        latents: Rows to look up.
        codebook: The codes, of the same dtype.
        metric: "cosine" for the smallest angle, "euclidean" for the smallest distance.

    Returns:
        The index of the nearest code; of equally near codes the lowest.

    Raises:
        ValueError: For another metric.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is unknown; use 'cosine' or 'euclidean'")
    form = triton if triton.usable(latents, codebook) else blockwise
    with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
        if metric == "cosine":  # the norm of a latent makes no difference
            return form.best_scores(latents, normalize(codebook, dim=1), bias=None)
        # |z - e|^2 is smallest where <z, e> - |e|^2 / 2 is largest.
        return form.best_scores(latents, codebook, bias=codebook.square().sum(1) / -2)
