"""What each term of the loss does to latents and codes while a run trains, seen on a fixed batch of images."""

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, mse_loss, normalize

from arcvq.baselines.reference import UndetachedQuantizer
from arcvq.geometry import (
    angles_to,
    growth_usage_correlation,
    norm_usage_correlation,
    usage_counts,
)
from arcvq.images import ImageData
from arcvq.ops.reference import plain_margin_loss
from arcvq.quantizers import SphericalQuantizer, nearest_code
from arcvq.runs.settings import RunSettings
from arcvq.runtime.devices import choose_device
from arcvq.samp import arc_margin_loss
from arcvq.training import Run, fit
from arcvq.vqvae import VQVAE

KINDS = ("plain", "ema", "cosine", "cvq", "samp", "samp_undetached")
AT_LATENTS = ("reconstruction", "commitment", "margin")
AT_CODES = ("codebook", "margin")


class Gradients(NamedTuple):
    """Latents (N, D), the codes they chose (N,), and the gradient of each term there is, weighted as in the loss."""

    latents: Float[Tensor, "N D"]
    indices: Int[Tensor, " N"]
    at_latents: dict[str, Float[Tensor, "N D"]]
    at_codes: dict[str, Float[Tensor, "K D"]]


def term_gradients(model: VQVAE, images: Float[Tensor, "B C H W"], variance: float) -> Gradients:
    """The gradients of one batch, at the latents (terms in `AT_LATENTS`) and at the codebook (terms in `AT_CODES`).

    The next training step on this batch would see them, but for half precision. variance: of all training pixels. The
    reconstruction's gradient goes straight through the codes. The model stays as it is, with its counts and grads.
    """
    quantizer = model.quantizer
    grid = model.latents(images).permute(0, 2, 3, 1)
    latents = grid.reshape(-1, quantizer.dim).requires_grad_()
    codebook = quantizer.codebook.detach().requires_grad_()
    indices = nearest_code(latents.detach(), codebook.detach(), quantizer.metric)
    codes = embedding(indices, codebook)
    passed = codes.detach() + (latents - latents.detach())
    reconstruction = model.decoder(passed.reshape(grid.shape).permute(0, 3, 1, 2))
    at_latents = {"reconstruction": mse_loss(reconstruction, images) / variance,
                  "commitment": quantizer.beta * mse_loss(latents, codes.detach())}
    at_codes = {"codebook": mse_loss(codes, latents.detach())} if quantizer.codebook.requires_grad else {}
    if isinstance(quantizer, SphericalQuantizer) and (samp := quantizer.settings()).weight is not None:
        weight = samp.weight.value(quantizer.step, quantizer.batch_usage())
        margin, scale, top_k = samp.margin, samp.scale, min(samp.top_k, len(latents))
        at_latents["margin"] = weight * arc_margin_loss(latents, codebook, margin=margin, scale=scale, top_k=top_k)
        if isinstance(quantizer, UndetachedQuantizer):
            at_codes["margin"] = weight * plain_margin_loss(latents.detach(), codebook, margin, scale, top_k)
    return Gradients(latents.detach(), indices, _gradients(at_latents, latents), _gradients(at_codes, codebook))


def _gradients(terms: dict[str, Tensor], leaf: Tensor) -> dict[str, Tensor]:
    return {name: torch.autograd.grad(term, leaf)[0] for name, term in terms.items()}


def gradient_history(
    settings: RunSettings,
    images: ImageData,
    *,
    device: str | torch.device = "auto",
    probe_images: int = 128,
    points: int = 40,
    progress: bool = True,
) -> pd.DataFrame:
    """Train the run of these settings and look, about `points` times, at its first `probe_images` training images.

    The run is the one that `arcvq.runs.settings.train` gives; nothing of it is kept or changed. The gradients are float32.
    The margin loss is a mean over codes, the others are means over latents, and its top-k competes with the whole
    batch: its size beside theirs is that of training where probe_images is the batch size. One row for each look, NaN
    where the run has no such term:

    - step: optimiser steps taken; psnr (dB), perplexity (codes): of training since the row before.
    - reconstruction_at_latents, commitment_at_latents, margin_at_latents: Frobenius norm of the gradient of the term,
      weighted as in the loss (1 / Var, beta, gamma(t)), at the latents (N, D); the unit is loss per unit of latent.
    - codebook_at_codes, margin_at_codes: the same at the codebook (K, D); the second without stop-gradient only.
    - angle_reconstruction_commitment, angle_reconstruction_margin: angle of the two gradients at the latents
      (degrees, 0 to 180; 90: neither helps nor hinders the other), over the whole matrix; NaN if one is zero.
    - reconstruction_share_radial, commitment_share_radial, margin_share_radial: share (0 to 1) of the gradient's
      squared norm that is along the latents; 1 / D for a random direction, 0 for a loss that knows angles alone.
    - margin_pull: share (0 to 1) of the latents that are in the top-k of a code, which the margin loss pulls.
    - codes_with_gradient, num_codes: codes that a term moves, of K. The codebook loss (for ema: the average) moves
      those that were chosen, a margin loss without stop-gradient moves all.
    - norm_usage_correlation: Spearman's (-1 to 1) of norm and count over the codes that the batch chose;
      growth_usage_correlation: the same of the change of norm since the row before, NaN in the first row and for fewer
      than three such codes. Both are 0 where norms, growths or counts are all equal, the first two to a millionth of
      the largest norm.
    - codes_on_ball: share (0 to 1) of the codes that the batch chose whose norm is M(t) to 1e-4 of it; radius: M(t).
    - code_norm_mean, latent_norm_mean: mean norms over all K codes and over the N latents.

    Raises ValueError for a quantizer not in `KINDS`, for probe_images or points out of range, and what `fit` raises.
    """
    images = settings.subset(images).to(choose_device(device))
    if settings.quantizer not in KINDS:
        raise ValueError(f"quantizer is {settings.quantizer!r}; the terms of the loss are known for {', '.join(KINDS)}")
    if not 1 <= probe_images <= len(images.train):
        raise ValueError(f"probe_images is {probe_images}; it must be 1 to {len(images.train)}, the training images")
    if points < 1:
        raise ValueError(f"points is {points}; it must be at least 1")
    probe = _Probe(images.train.batch(torch.arange(probe_images)), images.variance)
    fit(settings.model(images), images, steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr,
        seed=settings.seed, precision=settings.precision, device=images.device, snapshots=1, progress=progress,
        log_every=max(1, round(settings.steps / points)), validate_every=settings.steps, on_log=probe)
    return pd.DataFrame(probe.rows)


def binding_until(history: pd.DataFrame) -> int | None:
    """The last step of a `gradient_history` with at least 1% of the codes in use on the ball; None if there is none.

    Only codes that are chosen grow, by about lr sqrt(D) a step at most with Adam: where M(t) grows faster, as it does
    when a run is short, the ball binds no code.
    """
    steps = history["step"][history["codes_on_ball"] >= 0.01]
    return int(steps.max()) if len(steps) else None


class _Probe:
    """What `fit` calls after each row of its history; it adds a row of its own."""

    def __init__(self, images: Float[Tensor, "B C H W"], variance: float):
        self.images, self.variance = images.contiguous(memory_format=torch.channels_last), variance
        self.rows: list[dict[str, Any]] = []
        self.norms: Tensor | None = None

    def __call__(self, run: Run) -> None:
        logged, codebook = run.history.iloc[-1], run.model.quantizer.codebook.detach().cpu()
        found = term_gradients(run.model, self.images, self.variance)
        counts, norms = usage_counts(found.indices.cpu(), len(codebook)), codebook.norm(dim=1)
        growth = math.nan if self.norms is None else growth_usage_correlation(self.norms, norms, counts)
        self.norms, radius, used = norms, logged.get("radius", math.nan), counts > 0
        on_ball = (norms[used] / radius - 1).abs() <= 1e-4
        self.rows.append({
            "step": int(logged["step"]), "psnr": logged["psnr"], "perplexity": logged["perplexity"],
            **_sizes_and_directions(found),
            "margin_pull": _margin_pull(run.model.quantizer, found),
            "codes_with_gradient": _codes_with_gradient(found, counts), "num_codes": len(codebook),
            "norm_usage_correlation": norm_usage_correlation(codebook[used], counts[used]),
            "growth_usage_correlation": growth,
            "codes_on_ball": math.nan if math.isnan(radius) else on_ball.double().mean().item(), "radius": radius,
            "code_norm_mean": norms.mean().item(), "latent_norm_mean": found.latents.norm(dim=1).mean().item(),
        })


def _sizes_and_directions(found: Gradients) -> dict[str, float]:
    latents = found.latents.cpu().double()
    at_latents, at_codes = ({name: gradient.cpu().double() for name, gradient in gradients.items()}
                            for gradients in (found.at_latents, found.at_codes))
    row = {f"{name}_at_latents": _norm(at_latents.get(name)) for name in AT_LATENTS}
    row |= {f"{name}_at_codes": _norm(at_codes.get(name)) for name in AT_CODES}
    row |= {f"angle_reconstruction_{name}": _angle(at_latents["reconstruction"], at_latents.get(name))
            for name in ("commitment", "margin")}
    return row | {f"{name}_share_radial": _share_radial(at_latents.get(name), latents) for name in AT_LATENTS}


def _norm(gradient: Tensor | None) -> float:
    return math.nan if gradient is None else gradient.norm().item()


def _angle(one: Tensor, other: Tensor | None) -> float:
    if other is None or not one.any() or not other.any():
        return math.nan
    return math.degrees(angles_to(one.reshape(1, -1), other.flatten()).item())


def _share_radial(gradient: Tensor | None, latents: Tensor) -> float:
    if gradient is None or not gradient.any():
        return math.nan
    along = (gradient * normalize(latents, dim=1)).sum(1)
    return (along.square().sum() / gradient.square().sum()).item()


def _margin_pull(quantizer: Any, found: Gradients) -> float:
    if "margin" not in found.at_latents:
        return math.nan
    directions, codes = normalize(found.latents, dim=1), normalize(quantizer.codebook.detach(), dim=1)
    top_k = min(quantizer.settings().top_k, len(directions))
    pulled = [(block @ directions.T).topk(top_k, dim=1).indices.flatten() for block in codes.split(512)]
    return len(torch.cat(pulled).unique()) / len(directions)


def _codes_with_gradient(found: Gradients, counts: Tensor) -> int:
    moved = counts > 0
    if "margin" in found.at_codes:
        moved |= found.at_codes["margin"].cpu().any(dim=1)
    return int(moved.sum())
