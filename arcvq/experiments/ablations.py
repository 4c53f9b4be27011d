"""Ablations: what each setting of SAMP does, with the others as in the paper, scaled to the run."""

import dataclasses
from typing import Any

import pandas as pd

from arcvq.experiments.base import Experiment, Variant
from arcvq.experiments.measures import MAIN_MEASURES, MEASURE_TITLES, reconstruction
from arcvq.experiments.paper_table import halves
from arcvq.experiments.sweep import at_point
from arcvq.experiments.tables import cells, regime_titles, summary
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.schedules import Exponential

SHOWN = MAIN_MEASURES | {"norm_usage_correlation": MEASURE_TITLES["norm_usage_correlation"]}
ABLATION_AXES = {  # title and values, also the paper's own
    "margin": ("margin m (rad)", (0.0, 0.05, 0.1, 0.3, 0.5)),
    "scale": ("scale s", (1.0, 2.5, 5.0, 10.0, 20.0)),
    "top_k": ("top-k (latents)", (1, 2, 3, 5, 10)),
    "alpha": ("exponent of the ball at the end, alpha T", (0.0, 1.0, 3.0, 8.85, 20.0)),
    "gamma0": ("weight at the start, gamma0", (0.1, 0.3, 1.0, 3.0, 10.0)),
    "lambda": ("decay of the weight over the run, lambda T", (0.0, 3.0, 14.75, 30.0, 60.0)),
    "beta": ("weight of the commitment loss, beta", (0.05, 0.1, 0.25, 0.5, 1.0)),
    "codes": ("codes K", (64, 256, 512, 1024, 4096, 16384)),
    "dim": ("components D", (2, 8, 32, 64, 128)),
}
RUN_FIELDS = {"beta": "beta", "codes": "num_codes", "dim": "dim"}  # axes outside SAMP
SWEEP_NAMES = {"alpha": "radius", "gamma0": "weight"}  # of axes that a sweep names otherwise


def variants(base: RunSettings) -> list[Variant]:
    """Every value of every axis, and SAMP without some of its parts; each is trained by itself."""
    samp = base.samp or SAMP.for_run(base.steps)
    base = dataclasses.replace(base, quantizer="samp", samp=samp)
    found = []
    for axis, (_, values) in ABLATION_AXES.items():
        for value in values:
            facts = {"axis": axis, "value": float(value)}
            found.append(Variant(f"{axis} {value:g}", _changed(base, samp, axis, value), facts))

    parts = {
        "neither half": dataclasses.replace(samp, radius=None, weight=None),
        **halves(samp),
        "both halves": samp,
    }
    for name, part in parts.items():
        found.append(Variant(name, dataclasses.replace(base, samp=part), {"axis": "part"}))
    undetached = dataclasses.replace(base, quantizer="samp_undetached")
    return [*found, Variant("without stop-gradient", undetached, {"axis": "part"})]


def _changed(base: RunSettings, samp: SAMP, axis: str, value: Any) -> RunSettings:
    """The settings with another value on one axis."""
    if axis in RUN_FIELDS:
        return dataclasses.replace(base, **{RUN_FIELDS[axis]: value})
    if axis == "lambda":
        weight = Exponential(-value / base.steps)
        return dataclasses.replace(base, samp=dataclasses.replace(samp, weight=weight))
    return at_point(base, {SWEEP_NAMES.get(axis, axis): value})


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each variant."""
    regime = regime_titles(rows)
    lines = summary(rows, [*SHOWN], by=("variant", *regime)).round(3)
    return cells(lines, {"variant": "setting", **SHOWN, **regime})


ABLATIONS = Experiment(
    name="ablations",
    question="Which settings of SAMP matter, and how much?",
    variants=variants,
    measure=reconstruction,
    table=table,
)
