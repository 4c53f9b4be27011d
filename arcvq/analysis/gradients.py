"""What each term of the loss does to latents and codes during training, seen on a fixed batch."""

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, mse_loss, normalize

from arcvq.autoencoder import Autoencoder
from arcvq.baselines.reference import UndetachedQuantizer
from arcvq.geometry import (
    angles_to,
    growth_usage_correlation,
    norm_usage_correlation,
    usage_counts,
)
from arcvq.images import ImageData
from arcvq.ops import reference
from arcvq.quantizers import SphericalQuantizer, nearest_code
from arcvq.runs.settings import RunSettings
from arcvq.runtime.checks import check_whole
from arcvq.runtime.devices import choose_device
from arcvq.runtime.precision import as_float64
from arcvq.samp import arc_margin_loss
from arcvq.training import Compute, Recording, Run, fit

SUPPORTED_QUANTIZERS = ("plain", "ema", "cosine", "cvq", "samp", "samp_undetached")
ON_BALL = 1e-4  # largest relative difference of norm and radius of a code on the ball
BINDING = 0.01  # smallest share of codes on the ball at which it binds

COLUMNS = {
    "step": "optimizer steps taken",
    "psnr": "PSNR of the batch of this step, in dB",
    "perplexity": "perplexity of training since the row before, in codes",
    "reconstruction_at_latents": "norm of the reconstruction gradient at the latents",
    "commitment_at_latents": "norm of the commitment gradient at the latents",
    "margin_at_latents": "norm of the margin gradient at the latents",
    "codebook_at_codes": "norm of the codebook gradient at the codes",
    "margin_at_codes": "norm of the margin gradient at the codes; without stop-gradient only",
    "angle_reconstruction_commitment": "angle of these two gradients at the latents, in degrees",
    "angle_reconstruction_margin": "angle of these two gradients at the latents, in degrees",
    "reconstruction_share_radial": "share of the squared gradient that is along the latents",
    "commitment_share_radial": "share of the squared gradient that is along the latents",
    "margin_share_radial": "share of the squared gradient that is along the latents",
    "margin_pull": "share of latents in the top-k of a code, which the margin loss pulls",
    "codes_with_gradient": "codes that some term moves",
    "num_codes": "codes in the codebook, K",
    "norm_usage_correlation": "rank correlation of norm and usage, over the codes in use",
    "growth_usage_correlation": "rank correlation of growth since the row before and usage",
    "codes_on_ball": "share of the codes in use whose norm is the radius",
    "radius": "radius of the ball, M(t)",
    "code_norm_mean": "mean norm of all codes",
    "latent_norm_mean": "mean norm of the latents",
}


class Gradients(NamedTuple):
    """The gradient of each term of the loss on one batch, weighted as in the loss.

    Attributes:
        latents: The latents of the batch.
        indices: The code that each latent chose.
        at_latents: The gradients at the latents of the terms reconstruction, commitment and margin.
        at_codes: The gradients at the codebook of the terms codebook and margin. Terms that the
            loss does not have are missing.
    """

    latents: Float[Tensor, "N D"]
    indices: Int[Tensor, " N"]
    at_latents: dict[str, Float[Tensor, "N D"]]
    at_codes: dict[str, Float[Tensor, "K D"]]


def term_gradients(
    model: Autoencoder, images: Float[Tensor, "B C H W"], variance: float
) -> Gradients:
    """The gradient of each term of the loss at the latents and at the codebook.

    These are the gradients that the next training step on this batch would see in float32. That of
    the reconstruction goes straight through the codes. Where the margin loss draws some codes anew
    in each step (`SAMP.codes_per_step`), its gradient is that of all codes, which a step has on
    average. The model, its usage counts and its own gradients are left as they are.

    Args:
        model: A model with one of the `SUPPORTED_QUANTIZERS`.
        images: One batch, on the model's device.
        variance: The variance of all training pixels, the divisor of the reconstruction loss.
    """
    quantizer: Any = model.quantizer
    grid = model.latents(images).permute(0, 2, 3, 1)
    still = grid.reshape(-1, quantizer.dim)
    # Leaves of their own, so that the gradients of the model stay as they are.
    latents = still.detach().requires_grad_()
    codebook = quantizer.codebook.detach()
    indices = nearest_code(still, codebook, quantizer.metric)
    codes = embedding(indices, codebook.requires_grad_())

    # The reconstruction sees the codes, and its gradient reaches the latents unchanged.
    straight_through = codes.detach() + (latents - still)
    decoded = model.decoder(straight_through.reshape(grid.shape).permute(0, 3, 1, 2))
    at_latents = {
        "reconstruction": mse_loss(decoded, images) / variance,
        "commitment": quantizer.beta * mse_loss(latents, codes.detach()),
    }
    at_codes = {}
    if quantizer.trainable and not quantizer.frozen:
        at_codes["codebook"] = mse_loss(codes, still)
    # Only SAMP has a margin term, and only with a weight.
    samp = quantizer.active_samp() if isinstance(quantizer, SphericalQuantizer) else None
    if samp is not None and samp.weight is not None:
        weight = samp.weight.value(quantizer.step, quantizer.batch_usage())
        top_k = min(samp.top_k, len(latents))
        margin_loss = arc_margin_loss(
            latents, codebook, margin=samp.margin, scale=samp.scale, top_k=top_k
        )
        at_latents["margin"] = weight * margin_loss
        if isinstance(quantizer, UndetachedQuantizer):
            moving = reference.margin_loss(still, codebook, samp.margin, samp.scale, top_k)
            at_codes["margin"] = weight * moving
    return Gradients(
        latents=still,
        indices=indices,
        at_latents=_gradients(at_latents, latents),
        at_codes=_gradients(at_codes, codebook),
    )


def _gradients(terms: dict[str, Tensor], leaf: Tensor) -> dict[str, Tensor]:
    """The gradient of each term at one tensor."""
    return {name: torch.autograd.grad(term, leaf)[0] for name, term in terms.items()}


def gradient_history(
    settings: RunSettings,
    data: ImageData,
    *,
    device: str | torch.device = "auto",
    probe_images: int = 128,
    points: int = 40,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a run and record the gradients of a fixed batch at regular steps.

    The run is the one that `train(settings)` gives, but it is not kept. Looking at the gradients
    does not change it.

    Sizes are Frobenius norms of the gradient of a weighted term, in units of loss per unit of
    latent or code. The margin loss is a mean over codes, the others are means over latents, and its
    top-k are taken from the whole batch. Its size relative to theirs is therefore that of training
    only if `probe_images` is the batch size.

    Angles are 90 degrees for gradients that neither help nor hinder each other, and NaN if one
    gradient is zero. The radial share is 1 / D for a random direction, and 0 for a loss that
    depends on angles alone. Rank correlations are Spearman's; see `arcvq.geometry`. Usage and the
    codes in use are those of the fixed batch at the time of the row.

    Args:
        settings: The run to train: a VQ-VAE with one of the `SUPPORTED_QUANTIZERS`.
        data: The images to train on; the fixed batch is the first of its training images.
        device: Where to train.
        probe_images: The size of the fixed batch.
        points: About how many rows to record.
        progress: Whether to show a progress bar.

    Returns:
        One row for each look, with the `COLUMNS` of this module; NaN where the loss has no such
        term.

    Raises:
        ValueError: For another quantizer or a VQGAN, probe_images or points out of range, and what
            `fit` refuses.
    """
    if settings.vqgan is not None:
        raise ValueError("the settings have a vqgan; the terms of the loss are known for a VQ-VAE")
    data = settings.subset(data).to(choose_device(device))
    if settings.quantizer not in SUPPORTED_QUANTIZERS:
        raise ValueError(
            f"quantizer is {settings.quantizer!r}; the terms of the loss are known for "
            f"{', '.join(SUPPORTED_QUANTIZERS)}"
        )
    check_whole(1, len(data.train), probe_images=probe_images)
    check_whole(1, points=points)

    images = data.train.batch(torch.arange(probe_images))
    recorder = _GradientRecorder(images, data.variance)
    run = fit(
        settings.model(data),
        data,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        compute=Compute(data.device, settings.precision),
        recording=Recording(
            log_every=max(1, round(settings.steps / points)),
            validate_every=settings.steps,
            snapshots=1,
            progress=progress,
            on_log=recorder,
        ),
    )
    table = pd.concat([run.history, pd.DataFrame(recorder.rows)], axis=1)
    return table.reindex(columns=[*COLUMNS])


def binding_until(history: pd.DataFrame) -> int | None:
    """The last step at which at least 1% of the codes in use lie on the ball, if there is one.

    Only codes that are chosen grow; with Adam, one that is chosen in every step by at most about
    lr sqrt(D) a step, and one that is chosen rarely by up to 3.16 times as much. Where the radius
    M(t) grows faster, as it does in a short run, the ball constrains no code.

    Args:
        history: The result of `gradient_history`.
    """
    steps = history["step"][history["codes_on_ball"] >= BINDING]
    return int(steps.max()) if len(steps) else None


class _GradientRecorder:
    """What `fit` calls each time that it logs; it adds a row of the measures that the run has."""

    def __init__(self, images: Tensor, variance: float):
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.variance = variance
        self.rows: list[dict[str, Any]] = []
        # The norms of the codes at the row before.
        self.norms: Tensor | None = None

    def __call__(self, run: Run) -> None:
        quantizer = run.model.quantizer
        codebook = quantizer.codebook.detach().cpu()
        found = term_gradients(run.model, self.images, self.variance)
        counts = usage_counts(found.indices.cpu(), len(codebook))
        used = counts > 0
        norms = codebook.norm(dim=1)

        row = _measure_gradients(found)
        row["num_codes"] = len(codebook)
        # Codebook loss and moving averages move the codes that were chosen, and a margin loss
        # without stop-gradient moves all.
        moved = used
        if "margin" in found.at_codes:
            moved = used | found.at_codes["margin"].cpu().any(dim=1)
        row["codes_with_gradient"] = int(moved.sum())
        if "margin" in found.at_latents:
            row["margin_pull"] = _margin_pull(quantizer, found.latents)
        row["norm_usage_correlation"] = norm_usage_correlation(codebook[used], counts[used])
        if self.norms is not None:
            row["growth_usage_correlation"] = growth_usage_correlation(self.norms, norms, counts)
        if "radius" in run.rows[-1]:
            on_ball = (norms[used] / run.rows[-1]["radius"] - 1).abs() <= ON_BALL
            row["codes_on_ball"] = as_float64(on_ball).mean().item()
        row["code_norm_mean"] = norms.mean().item()
        row["latent_norm_mean"] = found.latents.norm(dim=1).mean().item()
        self.rows.append(row)
        self.norms = norms


def _measure_gradients(found: Gradients) -> dict[str, float]:
    """The size of each gradient, and its direction relative to others."""
    # In float64, since these are sums over many small numbers.
    directions = normalize(found.latents.cpu().double(), dim=1)
    reconstruction = found.at_latents["reconstruction"].cpu().double()
    row = {}
    for name, gradient in found.at_latents.items():
        gradient = gradient.cpu().double()
        row[f"{name}_at_latents"] = gradient.norm().item()
        along = (gradient * directions).sum(1).square().sum()
        row[f"{name}_share_radial"] = (along / gradient.square().sum()).item()
        row[f"angle_reconstruction_{name}"] = _angle(reconstruction, gradient)
    for name, gradient in found.at_codes.items():
        row[f"{name}_at_codes"] = gradient.cpu().double().norm().item()
    return row


def _angle(one: Tensor, other: Tensor) -> float:
    """The angle of two matrices in degrees, NaN if one is zero."""
    if not one.any() or not other.any():
        return math.nan
    return math.degrees(angles_to(one.reshape(1, -1), other.flatten()).item())


def _margin_pull(quantizer: Any, latents: Tensor) -> float:
    """The share of latents that are among the top-k of some code."""
    directions = normalize(latents, dim=1)
    codes = normalize(quantizer.codebook.detach(), dim=1)
    top_k = min(quantizer.active_samp().top_k, len(latents))
    pulled = []
    # In blocks, so that the K x N cosines are never held whole.
    for block in codes.split(512):
        pulled.append((block @ directions.T).topk(top_k, dim=1).indices.flatten())
    return len(torch.cat(pulled).unique()) / len(latents)
