"""Which of the two ratios of the regime decides usage and decibels, and does the dimension?

Codes, batch, top-k and the codes that the margin loss draws all move the positives per latent,
K k / N. Each is varied by itself, with the rate of the ball held where it is in the paper. Codes
and batch varied together hold both ratios, and so does the dimension; the rate is varied by alpha,
with all else held. Codes, batch and dimension change more than ratios, so they are also varied for
the cosine quantizer, which has no margin loss and no ball.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MAIN_MEASURES
from arcvq.experiments.tables import cells, finished, regime_titles, summary
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.samp import PAPER_BALL_RATE, REGIME_TITLES, SAMP
from arcvq.schedules import Exponential
from arcvq.training import Run, evaluate

AXES = {  # title and values; the base's own value is added
    "codes": ("codes K", (32, 128, 512, 2048)),
    "batch": ("images per step", (16, 64, 256)),
    "codes and batch": ("codes K, batch in proportion", (32, 128, 512)),
    "top_k": ("top-k (latents)", (1, SAMP.top_k, 12)),
    "share": ("share of the codes in the margin loss", (1.0, 0.25, 0.0625)),
    "dim": ("components D", (4, 16, 64)),
    "ball rate": (REGIME_TITLES["ball_rate"], (0.03, PAPER_BALL_RATE, 0.5, 2.0)),
}
OWN_VALUES = {  # fields of the axes that the cosine quantizer has as well
    "codes": "num_codes",
    "batch": "batch_size",
    "codes and batch": "num_codes",
    "dim": "dim",
}
SHOWN = MAIN_MEASURES | {"usage": "share of the codes used"}


def variants(base: RunSettings) -> list[Variant]:
    """Every value of every axis for SAMP, and for cosine where it has the axis as well.

    The ball grows at the paper's rate, and what else SAMP has is the paper's, scaled to the run,
    whatever `base` says of it.
    """
    found = []
    for axis, (_, values) in AXES.items():
        own = getattr(base, OWN_VALUES[axis]) if axis in OWN_VALUES else values[0]
        for value in sorted({*values, own}):
            moved = _moved(base, axis, value)
            facts = {"axis": axis, "value": float(value)}
            samp = dataclasses.replace(moved, quantizer="samp", samp=_samp(moved, axis, value))
            found.append(Variant(f"SAMP, {axis} {value:g}", samp, {**facts, "line": "SAMP"}))
            if axis in OWN_VALUES:
                cosine = dataclasses.replace(moved, quantizer="cosine", samp=None)
                name = f"cosine, {axis} {value:g}"
                found.append(Variant(name, cosine, {**facts, "line": "cosine"}))
    return found


def _moved(base: RunSettings, axis: str, value: Any) -> RunSettings:
    """The settings outside of SAMP at a value of an axis."""
    if axis not in OWN_VALUES:
        return base
    if axis == "codes and batch":
        batch_size = max(1, round(base.batch_size * value / base.num_codes))
        base = dataclasses.replace(base, batch_size=batch_size)
    return dataclasses.replace(base, **{OWN_VALUES[axis]: value})


def _samp(settings: RunSettings, axis: str, value: Any) -> SAMP:
    """The settings of SAMP at a value of an axis; the ball has the paper's rate elsewhere."""
    samp = SAMP.for_run(settings.steps, lr=settings.lr, dim=settings.dim)
    if axis == "top_k":
        return dataclasses.replace(samp, top_k=value)
    if axis == "share":
        # None is what all codes are called.
        codes = None if value == 1 else max(1, round(value * settings.num_codes))
        return dataclasses.replace(samp, codes_per_step=codes)
    if axis == "ball rate":
        growth = value * settings.lr * math.sqrt(settings.dim)
        return dataclasses.replace(samp, radius=Exponential(growth))
    return samp


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the test images, as `evaluate` does: other measures take longer than these runs."""
    return [evaluate(run.model, data.test)]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each variant."""
    titles = {"variant": "setting", **regime_titles(rows)}
    return cells(summary(rows, [*SHOWN], by=[*titles]), {**titles, **SHOWN})


def spans(rows: pd.DataFrame, measure: str = "psnr") -> pd.DataFrame:
    """How far the mean of a measure moves over each axis.

    Args:
        rows: The rows of the experiment.
        measure: A column of the rows.

    Returns:
        The largest mean less the smallest, with a line for each axis and a column for each of SAMP
        and cosine; NaN where cosine does not have the axis.
    """
    means = finished(rows).groupby(["axis", "line", "value"], sort=False)[measure].mean()
    groups = means.groupby(["axis", "line"], sort=False)
    moved = (groups.max() - groups.min()).unstack()
    return moved.reindex(index=[axis for axis in AXES if axis in moved.index])


REGIME = Experiment(
    name="regime",
    question="Which ratio of the regime decides usage and decibels?",
    variants=variants,
    measure=measure,
    table=table,
)
