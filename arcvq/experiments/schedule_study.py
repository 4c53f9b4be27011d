"""Schedules of the radius and of the margin loss's weight, in short, middle and long runs."""

import dataclasses
from typing import Any

import pandas as pd

from arcvq.experiments.base import Experiment, Variant
from arcvq.experiments.measures import MAIN_MEASURES, reconstruction
from arcvq.experiments.tables import cells, summary
from arcvq.runs.settings import RunSettings
from arcvq.samp import PAPER_RADIUS, PAPER_WEIGHT, SAMP
from arcvq.schedules import Adaptive, Constant, Cosine, Oscillating, Schedule, WarmUp

LENGTHS = (0.25, 1.0, 4.0)  # of the runs, in steps of the base
LARGEST = 8.0  # radius that schedules without growth by a factor reach: beyond the latents' norms


def radii(steps: int) -> dict[str, Schedule | None]:
    """Schedules of the radius for a run of `steps`; only the first does not know its length."""
    quarter = max(1, steps // 4)
    return {
        "exponential per step": PAPER_RADIUS,
        "exponential scaled": SAMP.for_run(steps).radius,
        "constant 1": Constant(1.0),
        "constant 4": Constant(4.0),
        "linear": WarmUp(1.0, LARGEST, steps),
        "cosine": Cosine(1.0, LARGEST, steps),
        "oscillating": Oscillating(1.0, LARGEST, quarter),
        "adaptive": Adaptive(low=LARGEST, high=1.0, target=0.5),
        "no ball": None,
    }


def weights(steps: int) -> dict[str, Schedule | None]:
    """Schedules of the weight for a run of `steps`; only the first does not know its length."""
    quarter = max(1, steps // 4)
    return {
        "exponential per step": PAPER_WEIGHT,
        "exponential scaled": SAMP.for_run(steps).weight,
        "constant 1": Constant(1.0),
        "constant 0.1": Constant(0.1),
        "linear warm-up": WarmUp(0.0, 1.0, quarter),
        "linear": WarmUp(1.0, 0.0, steps),
        "cosine": Cosine(1.0, 0.0, steps),
        "oscillating": Oscillating(0.0, 1.0, quarter),
        "adaptive": Adaptive(low=0.0, high=1.0, target=0.5),
        "no margin loss": None,
    }


def variants(base: RunSettings) -> list[Variant]:
    """Each schedule of one half at each length.

    The other half is scaled to the run; but the ball is that of `base.samp` if it is given, as one
    that grows at the same rate in runs of any length.

    Raises:
        ValueError: If the shortest run would have less than one step.
    """
    shortest = min(LENGTHS)
    if base.steps * shortest < 1:
        raise ValueError(
            f"steps is {base.steps}; it must be at least {1 / shortest:g}: the shortest of the "
            f"runs has {shortest:g} of them"
        )
    found = []
    for length in LENGTHS:
        found += _variants_of_length(base, round(base.steps * length))
    return found


def _variants_of_length(base: RunSettings, steps: int) -> list[Variant]:
    scaled = SAMP.for_run(steps)
    samp = dataclasses.replace(base.samp or scaled, weight=scaled.weight)
    found = []
    for half, schedules in (("radius", radii(steps)), ("weight", weights(steps))):
        for name, schedule in schedules.items():
            change: dict[str, Any] = {half: schedule}
            changed = dataclasses.replace(samp, **change)
            settings = dataclasses.replace(base, quantizer="samp", steps=steps, samp=changed)
            facts = {"half": half, "schedule": name}
            found.append(Variant(f"{half}: {name}, {steps} steps", settings, facts))
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each schedule and length."""
    titles = {"half": "half of SAMP", "schedule": "schedule", "steps": "steps"}
    return cells(summary(rows, [*MAIN_MEASURES], [*titles]), titles | MAIN_MEASURES)


def steadiness(rows: pd.DataFrame, half: str, measure: str = "psnr") -> pd.DataFrame:
    """Sort the schedules of one half, those that need no retuning first.

    Args:
        rows: The rows of the experiment.
        half: "radius" or "weight".
        measure: What the schedules are compared by; larger is better.

    Returns:
        A line for each schedule. `behind` is the most that its mean falls short of the best of the
        same length; it is NaN, and the line last, where the schedule lacks a length. `level` is the
        number of lengths at which its interval overlaps with that of the best; it is 0 for a single
        seed, which has no interval.
    """
    lines = summary(rows[rows.half == half], [measure], ("schedule", "steps"))
    lines = lines.set_index(["schedule", "steps"])
    means = lines[measure].unstack()
    best = means.dropna(axis=1, how="all").idxmax()
    bounds = {steps: lines.loc[(name, steps), f"{measure}_low"] for steps, name in best.items()}

    behind = (means.max() - means).max(axis=1, skipna=False)
    highs = lines[f"{measure}_high"].unstack()
    level = highs.ge(pd.Series(bounds, dtype=float), axis=1).sum(axis=1)
    found = pd.DataFrame({"behind": behind, "level": level})
    return found.sort_values("behind", kind="stable")


SCHEDULES = Experiment(
    name="schedules",
    question="Which schedule needs no retuning when the run gets shorter or longer?",
    variants=variants,
    measure=reconstruction,
    table=table,
)
