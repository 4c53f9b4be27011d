"""What each setting of SAMP does: one at a time, the others as the paper has them, scaled to the run."""

import dataclasses
from typing import Any

import pandas as pd

from arcvq.experiments.base import Experiment, Variant
from arcvq.experiments.measures import MEASURES, reconstruction
from arcvq.experiments.paper_table import halves
from arcvq.experiments.sweep import grid
from arcvq.experiments.tables import cells, summary
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.schedules import Exponential

SHOWN = {name: MEASURES[name] for name in ("psnr", "codes_used", "perplexity", "norm_usage_correlation")}
AXES: dict[str, tuple[str, tuple[Any, ...]]] = {  # title and values; the paper's own is among them
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
SWEPT = {"margin": "margin", "scale": "scale", "top_k": "top_k", "alpha": "radius", "gamma0": "weight"}  # by `grid`
OWN = {"beta": "beta", "codes": "num_codes", "dim": "dim"}  # fields of RunSettings


def variants(base: RunSettings) -> list[Variant]:
    """Every value of every axis, and the parts of SAMP with the rest left out; each variant is a run of its own."""
    found = [Variant(f"{axis} {value:g}", _changed(base, axis, value), {"axis": axis, "value": float(value)})
             for axis, (_, values) in AXES.items() for value in values]
    samp = base.samp or SAMP.for_run(base.steps)
    neither = dataclasses.replace(samp, radius=None, weight=None)
    parts = {"neither half": neither, **halves(samp), "both halves": samp, "without stop-gradient": samp}
    kinds = {"without stop-gradient": "samp_undetached"}
    return found + [Variant(name, dataclasses.replace(base, quantizer=kinds.get(name, "samp"), samp=part),
                            {"axis": "part"}) for name, part in parts.items()]


def _changed(base: RunSettings, axis: str, value: Any) -> RunSettings:
    samp = base.samp or SAMP.for_run(base.steps)
    base = dataclasses.replace(base, quantizer="samp", samp=samp)
    if axis in SWEPT:
        return grid({SWEPT[axis]: [value]}, base)[0]
    if axis == "lambda":
        return dataclasses.replace(base, samp=dataclasses.replace(samp, weight=Exponential(-value / base.steps)))
    return dataclasses.replace(base, **{OWN[axis]: value})


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant, as texts."""
    return cells(summary(rows, [*SHOWN]), {"variant": "setting", **SHOWN})


ABLATIONS = Experiment(
    name="ablations",
    question="Which settings of SAMP matter, and how much?",
    variants=variants,
    measure=reconstruction,
    table=table,
)
