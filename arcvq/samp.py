"""The spherical angular-margin prior (SAMP) of ArcVQ-VAE (Kim and Yoo, arXiv 2605.13517).

SAMP has two halves. Ball-Bounded Norm Regularization holds the codes inside a ball whose radius M(t) grows, so that
early in training every code competes by its angle alone. The ArcCosine Additive Margin loss pulls the latents
nearest to each code towards it, against all other latents of the batch.
"""

import dataclasses
import json
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops import blockwise, triton
from arcvq.ops.blockwise import SAFE_SCALE, TINY
from arcvq.schedules import Exponential, Number, Schedule, bounded_exp

PAPER_RADIUS, PAPER_WEIGHT = Exponential(3e-4), Exponential(-5e-4)  # tuned to runs of about 29,500 steps


@dataclasses.dataclass(frozen=True)
class SAMP:
    """Settings of the prior.

    margin: m in radians, in [0, pi/2). scale: s > 0. top_k: latents pulled by each code, from 1. radius: M(t), the
    radius of the ball by optimiser step; None for no ball. weight: gamma(t), the weight of the margin loss by
    optimiser step; None for no margin loss.
    """

    margin: float = 0.1
    scale: float = 5.0
    top_k: int = 3
    radius: Schedule | None = PAPER_RADIUS
    weight: Schedule | None = PAPER_WEIGHT

    def __post_init__(self):
        check_margin_settings(self.margin, self.scale, self.top_k)

    @classmethod
    def paper(cls) -> "SAMP":
        """The published values for MNIST and CIFAR-10: rates per step, tuned to runs of about 29,500 steps."""
        return cls()

    @classmethod
    def for_run(cls, steps: int) -> "SAMP":
        """The paper's whole schedule within `steps` steps: alpha T = 8.85 and lambda T = 14.75 at the end."""
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        return cls(radius=Exponential(8.85 / steps), weight=Exponential(-14.75 / steps))

    def to_json(self) -> str:
        """The settings as JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({k: json.loads(v.to_json()) if isinstance(v, Schedule) else v for k, v in fields.items()})

    @classmethod
    def from_json(cls, text: str) -> "SAMP":
        """The settings that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("radius", "weight"):
            if fields[name] is not None:
                fields[name] = Schedule.from_json(json.dumps(fields[name]))
        return cls(**fields)


def check_margin_settings(margin: float, scale: float, top_k: int) -> None:
    """Raise ValueError when a setting of the margin loss is out of range."""
    if not 0 <= margin < math.pi / 2:
        raise ValueError(f"margin is {margin} rad; it must be at least 0 and below pi/2 = 1.5708")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale is {scale}; it must be a finite number above 0")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be a whole number from 1")


def ball_radius(step: Number, growth: float = 3e-4) -> float | Tensor:
    """The radius M(t) = exp(growth * t) after `step` optimiser steps (paper: BBNR, growth is its alpha).

    Finite for any step: the exponent is held at 80, a radius of 5.5e34. A tensor in gives a tensor out.
    """
    return bounded_exp(growth * step)


@torch.no_grad()
def project_to_ball_(codebook: Float[Tensor, "K D"], radius: float | Float[Tensor, ""]) -> Float[Tensor, "K D"]:
    """Scale every code (row) longer than `radius` back to it, in place; the others stay (paper: BBNR).

    Rows of zeros stay zero and an infinite radius changes nothing. Raises ValueError when `radius` is a Python number
    that is NaN or not above 0 (a tensor is not read, so that no device is waited for).
    """
    if not isinstance(radius, Tensor) and not radius > 0:
        raise ValueError(f"radius is {radius}; it must be above 0")
    norms = torch.linalg.vector_norm(codebook, dim=1, keepdim=True).clamp_min(TINY)
    return codebook.mul_((radius / norms).clamp(max=1.0).to(codebook.dtype))


def arc_margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    *,
    margin: float = 0.1,
    scale: float = 5.0,
    top_k: int = 3,
) -> Float[Tensor, ""]:
    """The ArcCosine Additive Margin loss L_A of the paper, with gradient to the latents alone.

    For each code, the `top_k` latents nearest by angle must stand out from all others of the batch, although the
    angle of each is counted `margin` radians larger. With fewer latents than `top_k` all of them are taken, and
    with no others left the loss is 0. Where theta + margin would pass pi, where the cosine turns back, the logit goes
    on falling along cos(theta) + cos(margin) - 1 instead.

    Half precision is raised to float32; float64 stays, and a scale above 32 is worked out in it. Exact, and without
    the K x N matrix: less than 64 MiB in float32 beside the gradient, which is made in the same pass. Raises
    ValueError for settings out of range (see SAMP) or unequal D.
    """
    check_margin_settings(margin, scale, top_k)
    if latents.shape[1] != codebook.shape[1]:
        raise ValueError(f"latents have D = {latents.shape[1]} but the codebook has D = {codebook.shape[1]}")
    result = torch.float64 if latents.dtype == torch.float64 else torch.float32
    # A logit is rounded as its cosine is, times the scale: float32 holds 1e-6 of the loss up to scales of about 32.
    dtype = torch.float64 if scale > SAFE_SCALE and latents.device.type != "mps" else result
    with torch.autocast(latents.device.type, enabled=False):
        latents, codes = latents.to(dtype), codebook.detach().to(dtype)
        if len(latents) == 0 or len(codes) == 0:
            return latents.sum().to(result) * 0.0
        return _ArcMargin.apply(latents, codes, margin, scale, min(top_k, len(latents))).to(result)


class _ArcMargin(torch.autograd.Function):
    """The loss with its gradient, which is ready after the forward pass and handed on without a copy."""

    @staticmethod
    def forward(ctx, latents, codebook, margin, scale, top_k):
        ctx.settings = margin, scale, top_k
        loss, ctx.gradient = _margin_loss(latents, codebook, ctx.settings, ctx.needs_input_grad[0])
        ctx.save_for_backward(latents, codebook)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        latents, codebook = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # a second time through the same graph
            gradient = _margin_loss(latents, codebook, ctx.settings, True)[1]
        return gradient.mul_(grad_output), None, None, None, None


def _margin_loss(latents, codebook, settings, with_gradient):
    margin, scale, top_k = settings
    module = triton if triton.usable(latents, codebook) and scale <= SAFE_SCALE else blockwise
    return module.margin_loss(latents, codebook, margin, scale, top_k, with_gradient)


@torch.no_grad()
def rescale_codes_(
    codebook: Float[Tensor, "K D"],
    latents: Float[Tensor, "N D"],
    indices: Int[Tensor, " N"],
    *,
    max_norm: float | None = None,
) -> Float[Tensor, "K D"]:
    """Norm-based scaling after training, in place: keep each code's direction, choose its best norm.

    The norm is the closed-form least-squares one, the mean of <z_i, e_j/|e_j|> over the latents assigned to code j,
    at most `max_norm` (no limit if None). Codes without latents, of norm zero, or whose mean is not above 0 stay.
    The paper's summary names this step without a formula; this reading is ours.
    """
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < codebook.shape[0]:
        raise ValueError(f"indices reach from {int(indices.min())} to {int(indices.max())}; "
                         f"they must be from 0 to {codebook.shape[0] - 1}")
    directions = normalize(codebook.float(), dim=1, eps=TINY)
    lengths = (latents.float() * directions[indices]).sum(1)
    sums = torch.zeros_like(directions[:, 0]).index_add_(0, indices, lengths)
    norms = sums / torch.bincount(indices, minlength=codebook.shape[0]).clamp_min(1)
    if max_norm is not None:
        norms = norms.clamp(max=max_norm)
    return codebook.copy_(torch.where(norms[:, None] > 0, directions * norms[:, None], codebook.float()))
