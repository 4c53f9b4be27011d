"""What each term of the loss does to latents and codes over a run, by quantizer."""

import dataclasses
import math
from pathlib import Path

import pandas as pd

from arcvq.analysis.gradients import gradient_history
from arcvq.experiments import paper_table
from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.tables import cells, finished, summary
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.schedules import Exponential

COMPARED = ("plain VQ", "cosine", "margin alone", "SAMP", "SAMP without stop-gradient")
HELD = "SAMP in a narrow ball"
NARROW = 4.0  # the radius at the end of HELD's run: small enough to hold codes in short runs too
STAGES = (0.02, 0.1, 0.5, 1.0)  # of the run
SHOWN = {
    "codes_with_gradient": "codes with a gradient",
    "margin_over_reconstruction": "gradient norms, margin / reconstruction",
    "angle_reconstruction_margin": "angle between the two (°)",
    "norm_usage_correlation": "norm-usage correlation",
    "growth_usage_correlation": "growth-usage correlation",
    "codes_on_ball": "share of the codes on the ball",
}


def variants(base: RunSettings) -> list[Variant]:
    """Runs of the paper's table, and SAMP in a ball that stays narrow."""
    samp = base.samp or SAMP.for_run(base.steps)
    narrow = dataclasses.replace(samp, radius=Exponential(math.log(NARROW) / base.steps))
    held = dataclasses.replace(base, quantizer="samp", samp=narrow)
    found = [variant for variant in paper_table.variants(base) if variant.name in COMPARED]
    return [*found, Variant(HELD, held)]


def measure(run: None, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Train a run and observe its gradients (see `gradient_history`) on one batch of images."""
    history = gradient_history(
        settings,
        data,
        device=data.device,
        probe_images=settings.batch_size,
        progress=False,
    )
    return history.to_dict("records")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each variant at each of a few stages of the run."""
    rows = finished(rows)
    rows = rows.assign(
        margin_over_reconstruction=rows.margin_at_latents / rows.reconstruction_at_latents
    )
    chosen = []
    for _, runs in rows.groupby("variant", sort=False):
        for stage in STAGES:
            distance = (runs.step - stage * runs.steps).abs()
            nearest = distance.groupby(runs.seed).idxmin()
            chosen.append(runs.loc[nearest].assign(stage=f"{stage:.0%}"))
    lines = summary(pd.concat(chosen), [*SHOWN], ("variant", "stage"))
    return cells(lines, {"variant": "quantizer", "stage": "share of the run", **SHOWN})


def while_held(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all variants at the steps where the narrow ball holds most of the codes in use.

    These steps are those of the run of HELD with the same seed.
    """
    held = rows[(rows.variant == HELD) & (rows.codes_on_ball > 0.5)]
    return rows.merge(held[["seed", "step"]])


GRADIENTS = Experiment(
    name="gradients",
    question="What does each term of the loss do to latents and codes during training?",
    variants=variants,
    measure=measure,
    table=table,
    trained=False,
)
