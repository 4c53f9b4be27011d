"""The arithmetic that must be fast: the margin loss and the lookup of the nearest code.

Each exists in three forms, which agree up to rounding. Two hold only a part of the K x N matrix
of cosines at a time: `blockwise` runs on every device, and `triton` is made of kernels for NVIDIA
GPUs. `whole` holds all of it: it serves torch.export, and derivatives of higher order. The
functions here are what the forms have in common; they pick the form. For torch.compile each is a
single operator that the compiler does not look into. `reference` has the loss as the paper writes
it, to read and to compare with.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops import blockwise, triton, whole
from arcvq.ops.blockwise import TINY as TINY
from arcvq.runtime.checks import check_rows
from arcvq.runtime.precision import at_least_float32, exact_products, widest_float

MEDIAN_CODES = 32  # that the middle of a codebook is taken from, since that of all takes long


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
    latents = at_least_float32(latents)
    # The error of a logit is that of its cosine times the scale: float32 keeps 1e-6 of the loss up
    # to scales of about 32.
    dtype = widest_float(latents.device) if scale > blockwise.SAFE_SCALE else latents.dtype
    rows = latents.to(dtype)
    codebook = codebook.to(dtype)
    with_gradient = torch.is_grad_enabled() and rows.requires_grad
    compute = _margin_operator if torch.compiler.is_compiling() else _MarginLoss.apply
    loss, _ = compute(rows, codebook, margin, scale, top_k, with_gradient)
    return loss.to(latents.dtype)


def loss_and_gradient(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
    with_gradient: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "M D"]]:
    """Compute the margin loss and its gradient to the latents in one pass.

    Args:
        latents: Latents.
        codebook: Codes of the same dtype.
        margin: Angular margin in radians.
        scale: Scale of the cosines; above `blockwise.SAFE_SCALE` not for float32 on a GPU.
        top_k: Latents that each code pulls, at least 1; all latents where there are fewer.
        with_gradient: Whether the gradient is wanted.

    Returns:
        The loss, and the gradient: M = N rows, or none if it is not wanted.
    """
    gradient = latents.new_zeros(latents.shape if with_gradient else (0, latents.shape[1]))
    if len(latents) == 0 or len(codebook) == 0:
        return latents.new_zeros(()), gradient

    form = triton if triton.usable(latents, codebook) else blockwise
    top_k = min(top_k, len(latents))
    with exact_products(latents):
        latents = latents.contiguous()
        norms = torch.linalg.vector_norm(latents, dim=1)
        inverse = torch.where(norms > TINY, 1 / norms, 0.0)  # a row of zeros has no direction
        codes = normalize(codebook.contiguous(), dim=1)
        slopes = gradient if with_gradient else None
        total = form.sum_losses(latents, inverse, codes, margin, scale, top_k, slopes)
        if with_gradient:  # so far that to the normalized latents
            form.through_normalization_(gradient, latents, inverse, len(codes))
    return total / len(codes), gradient


class _MarginLoss(torch.autograd.Function):
    """The loss, with a gradient that the forward pass computes while its tiles are in the cache.

    The gradient is a second result only because torch.func knows of nothing else that a forward
    pass may leave behind.
    """

    forward = staticmethod(loss_and_gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        latents, codebook, *ctx.settings, _ = inputs
        _, ctx.gradient = output
        ctx.save_for_backward(latents, codebook)
        ctx.mark_non_differentiable(ctx.gradient)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_loss, _):
        if grad_loss is None:
            return None, None, None, None, None, None
        latents, codebook = ctx.saved_tensors
        gradient = ctx.gradient
        # It is scaled in place and handed on without a copy, so it serves only once.
        ctx.gradient = None
        if gradient is None or torch.is_grad_enabled():
            # Backward goes through the same graph again, or its result will be differentiated.
            gradient = _MarginGradient.apply(latents, codebook, *ctx.settings) * grad_loss
        else:
            gradient.mul_(grad_loss)
        return gradient, None, None, None, None, None


class _MarginGradient(torch.autograd.Function):
    """The gradient of the loss, to be differentiated in its turn."""

    @staticmethod
    def forward(latents, codebook, *settings):
        _, gradient = loss_and_gradient(latents, codebook, *settings)
        return gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        latents, codebook, *ctx.settings = inputs
        ctx.save_for_backward(latents, codebook)

    @staticmethod
    def backward(ctx, vector):
        latents, codebook = ctx.saved_tensors

        def gradient(latents):
            return torch.func.grad(whole.margin_loss)(latents, codebook, *ctx.settings)

        # The Hessian is symmetric, so its product with the vector from either side is the same.
        pull_back = torch.func.vjp(gradient, latents)[1]
        return *pull_back(vector), None, None, None, None


@torch.library.custom_op("arcvq::margin_loss", mutates_args=())
def _margin_operator(
    latents: Tensor, codebook: Tensor, margin: float, scale: float, top_k: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """`loss_and_gradient` as a single operator, for torch.compile."""
    return loss_and_gradient(latents, codebook, margin, scale, top_k, with_gradient)


@_margin_operator.register_fake
def _(latents, codebook, margin, scale, top_k, with_gradient):
    gradient = latents.new_empty(latents.shape if with_gradient else (0, latents.shape[1]))
    return latents.new_empty(()), gradient


def _backward_of_operator(ctx, grad_loss, _):
    """As that of `_MarginLoss`, but the results of an operator may not change afterwards."""
    latents, codebook = ctx.saved_tensors
    gradient = ctx.gradient
    if torch.is_grad_enabled():
        gradient = _MarginGradient.apply(latents, codebook, *ctx.settings)
    return gradient * grad_loss, None, None, None, None, None


_margin_operator.register_autograd(_backward_of_operator, setup_context=_MarginLoss.setup_context)


def nearest_code(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    metric: str = "cosine",
) -> Int64[Tensor, " N"]:
    """Find the nearest code of each latent.

    Distances are compared from the middle of the codebook, so that they keep their digits where
    latents and codes lie close together and far from the origin. Half precision is raised to
    float32.

    Args:
        latents: Rows to look up.
        codebook: The codes, of the same dtype.
        metric: "cosine" for the smallest angle, "euclidean" for the smallest distance.

    Returns:
        The index of the nearest code; of equal scores the lowest. Copies of one code may score a
            rounding apart, so that either is found.

    Raises:
        ValueError: For another metric, an empty codebook, or latents and codes of other shapes.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is unknown; use 'cosine' or 'euclidean'")
    check_rows(codebook, latents)
    if codebook.numel() == 0:
        raise ValueError(
            f"the codebook has shape {tuple(codebook.shape)}; it must be (K, D), both from 1"
        )
    latents = at_least_float32(latents.detach())
    codebook = at_least_float32(codebook.detach())
    if torch.compiler.is_exporting():
        return whole.best_scores(latents, *_score_terms(codebook, metric))
    if torch.compiler.is_compiling():
        return _nearest_operator(latents, codebook, metric)
    return _nearest_code(latents, codebook, metric)


def _nearest_code(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """`nearest_code` of rows of at least float32."""
    form = triton if triton.usable(latents, codebook) else blockwise
    with exact_products(latents):
        return form.best_scores(latents, *_score_terms(codebook, metric))


def _score_terms(codebook: Tensor, metric: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Codes, center and bias for which the nearest code has the largest <z - center, code> + bias.

    Scores of far codes would lose the digits in which they differ. So all are taken from the
    middle of the codes, which changes each score of a latent by the same amount.
    """
    if metric == "euclidean":
        # |z - e|^2 is smallest where <z, e> - |e|^2 / 2 is largest, whatever the origin.
        center = _middle(codebook)
        codes = codebook - center
        return codes, center, codes.square().sum(1) / -2
    # The norm of a latent makes no difference. That of a code must be very exactly 1, since in a
    # narrow cone the cosines differ by less than float32 can tell.
    directions = codebook.to(widest_float(codebook.device), copy=True)
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min_(TINY)
    directions -= _middle(directions)
    return directions.to(codebook.dtype), None, None


def _middle(codes: Tensor) -> Tensor:
    """The median (D,) of the codes, rounded to a power of two near their usual deviation from it.

    A single code that is very long would draw a mean away from all others. With so few digits,
    differences from whole numbers are exact, and equal distances stay equal.
    """
    some = codes[:: 1 + len(codes) // MEDIAN_CODES]
    median = _median(some)
    deviation = _median((some - median).abs().mean(1))
    # To add a number and take it away again rounds to its last digit.
    large = deviation / torch.finfo(codes.dtype).eps
    return (median + large) - large


def _median(values: Tensor) -> Tensor:
    """The median along the first axis: the value with the least sum of distances to the others.

    It is the mean of those that share this place, so that the middle of a symmetric codebook is the
    origin. An exported program folds it into a constant, which it does not do with a sort.
    """
    distances = (values[:, None] - values).abs().sum(1)
    is_median = distances == distances.amin(0)
    return values.where(is_median, 0.0).sum(0) / is_median.sum(0)


@torch.library.custom_op("arcvq::nearest_code", mutates_args=())
def _nearest_operator(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """`nearest_code` as a single operator, for torch.compile."""
    return _nearest_code(latents, codebook, metric)


@_nearest_operator.register_fake
def _(latents, codebook, metric):
    return latents.new_empty(latents.shape[0], dtype=torch.int64)
