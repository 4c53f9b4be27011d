"""Every quantizer at its best: the same nine settings are tried for each, and one is chosen.

The search trains each quantizer with each of the settings and measures validation images. The best
setting of each quantizer is then trained with fresh seeds, and only these runs are measured on test
images.
"""

import copy
import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from arcvq.autoencoder import Autoencoder
from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MAIN_MEASURES, reconstruction
from arcvq.experiments.tables import cells, regime_titles, summary
from arcvq.images import ImageData
from arcvq.runs.settings import COMMITTED, RunSettings
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.schedules import Exponential
from arcvq.training import Run, evaluate

QUANTIZERS = {  # that are compared, as in RunSettings
    "plain VQ": "plain",
    "plain VQ, unit start": "plain_unit_start",
    "EMA": "ema",
    "cosine": "cosine",
    "CVQ": "cvq",
    "SimVQ": "simvq",
    "FSQ": "fsq",
    "rotation trick": "rotation",
    "SAMP": "samp",
}
BETAS = (0.25, 1.0, 4.0)
DIMS = (8, 16, 64)
RATES = (3e-4, 1e-3, 3e-3)
MARGIN_WEIGHTS = ((1.0, 14.75), (0.2, 14.75), (1.0, 59.0))  # gamma0 and lambda T; the paper's first

COMMITMENT_MEASURES = {
    "distance": "distance of latents and codes",
    "latent_norm": "norm of the latents",
    "chosen_code_norm": "norm of their codes",
    "commitment_gradient": "gradient of the commitment loss",
    "reconstruction_gradient": "gradient of the reconstruction",
}
NEED_COMMITMENT = ("commitment_weight", "distance", "commitment_gradient")
SETTINGS = {
    "commitment_weight": "beta",
    "dim": "D",
    "lr": "learning rate",
    "gamma0": "gamma0",
    "decay": "lambda T",
}


def candidates(base: RunSettings) -> list[Variant]:
    """The nine settings of each quantizer.

    They are an orthogonal array: any two values of different settings occur together once. So the
    nine have every D with every learning rate, which is all that FSQ can set, and each setting can
    be averaged over the others. But at a single learning rate each beta has one D, and which of the
    two makes a difference there cannot be told. The fourth setting, the weight of the margin loss,
    is SAMP's alone.

    Of `base.samp`, if it is given, all but this weight is kept. A ball that grows at the paper's
    rate beside the steps of Adam does so at the learning rate and D of each candidate.
    """
    found = []
    for name, quantizer in QUANTIZERS.items():
        for first, second in itertools.product(range(3), repeat=2):
            beta = BETAS[first]
            dim = DIMS[second]
            lr = RATES[(first + second) % 3]
            margin_weight = MARGIN_WEIGHTS[(first + 2 * second) % 3]
            settings = dataclasses.replace(base.with_quantizer(quantizer), dim=dim, lr=lr)
            if quantizer == "samp":
                settings = dataclasses.replace(settings, samp=base.samp_at(lr, dim))
            found.append(_candidate(name, settings, beta, margin_weight))
    return found


def _candidate(
    name: str, settings: RunSettings, beta: float, margin_weight: tuple[float, float]
) -> Variant:
    """One of the settings of a quantizer, with those among beta and weight that it has."""
    facts: dict[str, float | str] = {"candidate_for": name}
    title = f"{name}, D {settings.dim}, lr {settings.lr:g}"
    if settings.quantizer != "fsq":
        field = "commitment" if settings.quantizer in COMMITTED else "beta"
        changed: dict[str, Any] = {field: beta}
        settings = dataclasses.replace(settings, **changed)
        title += f", beta {beta:g}"
    if settings.samp is not None:
        gamma0, decay = margin_weight
        weight = Exponential(-decay / settings.steps, start=gamma0)
        samp = dataclasses.replace(settings.samp, weight=weight)
        settings = dataclasses.replace(settings, samp=samp)
        facts |= {"gamma0": gamma0, "decay": decay}
        title += f", gamma0 {gamma0:g}, lambda T {decay:g}"
    return Variant(title, settings, facts)


def variants(base: RunSettings) -> list[Variant]:
    """The quantizers; the search gives them their settings."""
    return [Variant(name, base.with_quantizer(one)) for name, one in QUANTIZERS.items()]


def measure_candidate(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the validation images, and what the commitment loss has done."""
    return [evaluate(run.model, data.validation) | _commitment(run, settings, data)]


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the test images, and what the commitment loss has done."""
    (row,) = reconstruction(run, settings, data, root)
    return [row | _commitment(run, settings, data)]


def _commitment(run: Run, settings: RunSettings, data: ImageData) -> dict[str, float]:
    """What `commitment_measures` finds on the first batch of the training images."""
    seen = settings.subset(data)
    images = seen.train.batch(torch.arange(settings.batch_size)).to(run.model.device)
    return commitment_measures(run.model, images, seen.variance)


def commitment_measures(
    model: Autoencoder, images: Float[Tensor, "B C H W"], variance: float
) -> dict[str, float]:
    """Measure what the commitment loss acts on: how far latents are from their codes, and the pull.

    The model is left as it is.

    Args:
        model: A trained model with any quantizer.
        images: A batch of images, on the model's device.
        variance: Variance of all training pixels, by which the error of the reconstruction is
            divided in training.

    Returns:
        The weight of the commitment loss, and the `COMMITMENT_MEASURES`. Distance and norms are
        means over the latents of the batch. Gradients are those at the latents, weighted as in the
        loss, and given by their Frobenius norm; the reconstruction's takes the way that the
        quantizer has for it. Where there is no commitment loss, as with FSQ, nothing draws latents
        and codes together: their distance, the weight and the gradient are NaN.
    """
    model = copy.deepcopy(model)  # in training, the quantizer counts what it sees
    quantizer = model.quantizer.train()
    latents = model.latents(images).requires_grad_()
    with isolated_rng():  # some quantizers draw numbers
        quantized = quantizer(latents)
    decoded = model.decoder(quantized.codes)
    error = mse_loss(decoded, images) / variance
    commitment = quantizer.beta * mse_loss(latents, quantized.codes.detach())
    (error_gradient,) = torch.autograd.grad(error, latents)
    (commitment_gradient,) = torch.autograd.grad(commitment, latents)

    latents = latents.detach()
    codes = quantized.codes.detach()
    found = {
        "commitment_weight": quantizer.beta,
        "distance": (latents - codes).norm(dim=1).mean().item(),
        "latent_norm": latents.norm(dim=1).mean().item(),
        "chosen_code_norm": codes.norm(dim=1).mean().item(),
        "commitment_gradient": commitment_gradient.norm().item(),
        "reconstruction_gradient": error_gradient.norm().item(),
    }
    if "commitment" not in quantized.losses:
        found |= dict.fromkeys(NEED_COMMITMENT, math.nan)
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each quantizer, or each candidate, with its settings."""
    settings = {name: title for name, title in SETTINGS.items() if name in rows}
    regime = regime_titles(rows)
    measures = MAIN_MEASURES | COMMITMENT_MEASURES
    thousandths = {}  # of the gradients, which are small
    for name in ("commitment_gradient", "reconstruction_gradient"):
        thousandths[name] = 1000 * rows[name]
        measures[name] += " (thousandths)"
    rows = rows.assign(**thousandths)
    lines = summary(rows, [*measures], by=("variant", *settings, *regime))
    return cells(lines, {"variant": "quantizer", **settings, **measures, **regime})


SEARCH = Experiment(
    name="best_search",
    question="Which of nine settings suits each quantizer, judged by validation images?",
    variants=candidates,
    measure=measure_candidate,
    table=table,
)
BEST = Experiment(
    name="best",
    question="How do quantizers compare when the same effort has been made to tune each?",
    variants=variants,
    measure=measure,
    table=table,
    search=SEARCH,
)
