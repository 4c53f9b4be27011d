"""Sweeps: experiments whose variants are the points of a grid over the settings of SAMP."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MAIN_MEASURES, nan_if_none
from arcvq.experiments.tables import cells, summary
from arcvq.geometry import describe
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import Run, evaluate

SWEEP_AXES = {  # titles of the axes that a grid may have
    "margin": "margin m (rad)",
    "scale": "scale s",
    "top_k": "top-k (latents)",
    "radius": "radius: exponent alpha T at the end of the run",
    "weight": "weight gamma at the start",
}

Axes = Mapping[str, Sequence[float | int]]  # values by the names in SWEEP_AXES


def parse_axis(name: str, text: str) -> list[float | int]:
    """Read the values of an axis from text.

    Args:
        name: The axis; "top_k" takes whole numbers only.
        text: Start, end and how many, evenly spaced, as in "0:0.5:6", or a list as in "0,0.1,0.3".

    Returns:
        The values, each once.

    Raises:
        ValueError: For any other text, for no values, and for numbers that are not finite.
    """
    number = int if name == "top_k" else float
    try:
        if ":" in text:
            start, end, count = text.split(":")
            values = np.linspace(float(start), float(end), int(count)).round(12)
        else:
            values = np.array(text.split(","), float)
        finite = len(values) > 0 and bool(np.isfinite(values).all())
        valid = finite and (number is float or bool((values % 1 == 0).all()))
    except ValueError:
        valid = False
    if not valid:
        whole = "whole numbers " if number is int else ""
        raise ValueError(
            f"--{name.replace('_', '-')} is {text!r}; it must be {whole}as in 1:5:3 (start, end, "
            "how many) or 1,3,5"
        )
    return [*dict.fromkeys(values.astype(number).tolist())]


def sweep(axes: Axes) -> Experiment:
    """Make the experiment that trains SAMP at every point of a grid.

    Run it with `run_experiment`. A row holds the five coordinates of its point and is measured on
    the validation images: see `measure`.

    Args:
        axes: The values of each axis, by the names in `SWEEP_AXES`. "radius" is alpha T, the value
            that the exponent of the ball's radius reaches at the end of the run (8.85 in the paper;
            the ball stays at 1 for 0). "weight" is gamma at the start of the run.
    """
    return Experiment(
        name="sweep",
        question="How do the settings of SAMP act together?",
        variants=functools.partial(grid, axes),
        measure=measure,
        table=functools.partial(table, axes=[*axes]),
    )


def grid(axes: Axes, base: RunSettings) -> list[Variant]:
    """Every point of a grid as a variant of `base`; the last axis moves first.

    Raises:
        ValueError: For an unknown axis, one without values or with a value out of range, and for a
            base whose quantizer is not "samp".
    """
    for name, values in axes.items():
        if name not in SWEEP_AXES:
            raise ValueError(f"axis {name!r} is unknown; known are {', '.join(SWEEP_AXES)}")
        if len(values) == 0:
            raise ValueError(f"axis {name!r} has no values; it needs at least one")
    if base.quantizer != "samp":
        raise ValueError(
            f"quantizer is {base.quantizer!r}; the axes {', '.join(axes)} are settings of 'samp'"
        )
    variants = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        name = ", ".join(f"{axis} {value}" for axis, value in point.items())
        settings = at_point(base, point)
        variants.append(Variant(name, settings, coordinates(settings)))
    return variants


def at_point(base: RunSettings, point: Mapping[str, float | int]) -> RunSettings:
    """Move the settings of SAMP to a point; those without a coordinate stay those of `base`.

    Raises:
        ValueError: For a value out of range.
    """
    samp = base.samp or SAMP.for_run(base.steps)
    changes: dict[str, Any] = dict(point)
    for name in ("radius", "weight"):
        if point.get(name, 0) < 0:
            raise ValueError(f"{name} is {point[name]}; it must be at least 0")
    if "radius" in point:
        changes["radius"] = Exponential(point["radius"] / base.steps)
    if "weight" in point:
        weight = samp.weight
        if weight is None or weight.value(0) == 0:
            raise ValueError(
                "the weight of the base is 0 at the start; it has no schedule that an axis could "
                "scale"
            )
        changes["weight"] = weight.times(point["weight"] / float(weight.value(0)))
    return dataclasses.replace(base, samp=dataclasses.replace(samp, **changes))


def coordinates(settings: RunSettings) -> dict[str, float | int]:
    """Where a run with SAMP stands on each axis; "radius" is NaN where it is not exponential."""
    samp = settings.samp or SAMP.for_run(settings.steps)
    radius = math.nan
    if isinstance(samp.radius, Exponential):
        radius = samp.radius.rate * settings.steps
    weight = float(samp.weight.value(0)) if samp.weight is not None else 0.0
    return {
        "margin": samp.margin,
        "scale": samp.scale,
        "top_k": samp.top_k,
        "radius": round(radius, 9),
        "weight": round(weight, 9),
    }


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the validation images, as `evaluate` does, and the codebook's minimum angle."""
    shape = describe(run.model.quantizer.codebook.detach().cpu())
    row = evaluate(run.model, data.validation)
    row["min_angle"] = math.degrees(nan_if_none(shape.min_angle))
    row["seconds"] = run.seconds
    return [row]


def table(rows: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """A line of text for each point; axes on which earlier rows differ are shown as well."""
    rows = each_run_once(rows)
    others = [name for name in SWEEP_AXES if name not in axes and rows[name].nunique() > 1]
    shown = [*axes, *others]
    titles = {name: SWEEP_AXES[name] for name in shown}
    return cells(summary(rows, [*MAIN_MEASURES], shown), titles | MAIN_MEASURES)


def each_run_once(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one row of each run, as a run may stand in several grids of one folder.

    A row of a run that failed is kept only if no other grid has measured the run.
    """
    if "run" not in rows:
        return rows
    if "error" in rows:
        rows = rows.sort_values("error", na_position="first", kind="stable")
    return rows.drop_duplicates("run")
