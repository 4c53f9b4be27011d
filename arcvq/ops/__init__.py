"""The arithmetic that must be fast: the margin loss and the lookup of the nearest code.

Both exist in three forms, which agree to rounding: `reference` writes the loss as the paper does,
`blockwise` runs on every device without ever holding the K x N matrix of cosines, and `triton` does
the same in kernels for NVIDIA GPUs. The functions here pick the fastest form for their arguments.
"""

from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.ops import blockwise, triton
from arcvq.ops.blockwise import SAFE_SCALE, TINY

__all__ = ["SAFE_SCALE", "TINY", "margin_loss", "nearest_code"]


def _fastest_form(latents: Tensor, codebook: Tensor) -> ModuleType:
    """The module that does the work for these rows."""
    return triton if triton.usable(latents, codebook) else blockwise


def margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
) -> Float[Tensor, ""]:
    """Compute the ArcCosine Additive Margin loss; its gradient goes to the latents alone.

    The settings are those of `arcvq.samp.arc_margin_loss`, which checks them. Half precision is
    raised to float32, and the result is float64 only for float64 latents.
    """
    result_dtype = torch.float64 if latents.dtype == torch.float64 else torch.float32
    # The error of a logit is that of its cosine times the scale: float32 keeps 1e-6 of the loss up
    # to scales of about 32. (MPS has no float64.)
    exact = scale > SAFE_SCALE and latents.device.type != "mps"
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
    def forward(ctx, latents, codebook, margin, scale, top_k):
        ctx.save_for_backward(latents, codebook)
        ctx.settings = (margin, scale, top_k)
        form = _fastest_form(latents, codebook)
        loss, ctx.gradient = form.margin_loss(
            latents, codebook, *ctx.settings, with_gradient=ctx.needs_input_grad[0]
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
            form = _fastest_form(latents, codebook)
            _, gradient = form.margin_loss(latents, codebook, *ctx.settings)
        return gradient.mul_(grad_output), None, None, None, None


def nearest_code(
    latents: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"], metric: str = "cosine"
) -> Int[Tensor, " N"]:
    """Find the nearest code of each latent without ever holding the N x K matrix.

    Args:
        latents: Rows to look up; one dtype with the codebook.
        codebook: The codes.
        metric: "cosine" for the smallest angle, "euclidean" for the smallest distance.

    Returns:
        The index of the nearest code; of equally near codes the lowest.

    Raises:
        ValueError: For another metric.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is unknown; use 'cosine' or 'euclidean'")
    with torch.autocast(latents.device.type, enabled=False):
        return _fastest_form(latents, codebook).nearest_code(latents, codebook, metric)
