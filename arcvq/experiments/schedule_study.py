"""Schedules of the ball's radius and of the margin loss's weight, in short, middle and long runs."""

import dataclasses

import pandas as pd

from arcvq.experiments.base import Experiment, Variant
from arcvq.experiments.measures import MEASURES, reconstruction
from arcvq.experiments.tables import cells, summary
from arcvq.runs.settings import RunSettings
from arcvq.samp import PAPER_RADIUS, PAPER_WEIGHT, SAMP
from arcvq.schedules import Adaptive, Constant, Cosine, Oscillating, Schedule, WarmUp

SHOWN = {name: MEASURES[name] for name in ("psnr", "codes_used", "perplexity")}
LENGTHS = (0.25, 1.0, 4.0)  # of the base's steps
LARGEST = 8.0  # radius that the schedules reach that do not grow exponentially: beyond the norms of the latents


def radii(steps: int) -> dict[str, Schedule | None]:
    """Schedules of the radius for a run of so many steps; only the first does not know how long the run is."""
    return {
        "exponential per step": PAPER_RADIUS,
        "exponential scaled": SAMP.for_run(steps).radius,
        "constant 1": Constant(1.0),
        "constant 4": Constant(4.0),
        "linear": WarmUp(1.0, LARGEST, steps),
        "cosine": Cosine(1.0, LARGEST, steps),
        "oscillating": Oscillating(1.0, LARGEST, max(1, steps // 4)),
        "adaptive": Adaptive(low=LARGEST, high=1.0, target=0.5),
        "no ball": None,
    }


def weights(steps: int) -> dict[str, Schedule | None]:
    """Schedules of the weight for a run of so many steps; only the first does not know how long the run is."""
    return {
        "exponential per step": PAPER_WEIGHT,
        "exponential scaled": SAMP.for_run(steps).weight,
        "constant 1": Constant(1.0),
        "constant 0.1": Constant(0.1),
        "linear warm-up": WarmUp(0.0, 1.0, max(1, steps // 4)),
        "linear": WarmUp(1.0, 0.0, steps),
        "cosine": Cosine(1.0, 0.0, steps),
        "oscillating": Oscillating(0.0, 1.0, max(1, steps // 4)),
        "adaptive": Adaptive(low=0.0, high=1.0, target=0.5),
        "no margin loss": None,
    }


def variants(base: RunSettings) -> list[Variant]:
    """Each schedule of one half, with the other half scaled to the run, at each length.

    Raises ValueError where the shortest run would have less than one step.
    """
    if base.steps * min(LENGTHS) < 1:
        raise ValueError(f"steps is {base.steps}; it must be at least {1 / min(LENGTHS):g}: the shortest of the runs "
                         f"has {min(LENGTHS):g} of them")
    found = []
    for length in LENGTHS:
        steps = round(base.steps * length)
        scaled = SAMP.for_run(steps)
        samp = dataclasses.replace(base.samp or scaled, radius=scaled.radius, weight=scaled.weight)
        chosen = [("radius", name, dataclasses.replace(samp, radius=one)) for name, one in radii(steps).items()]
        chosen += [("weight", name, dataclasses.replace(samp, weight=one)) for name, one in weights(steps).items()]
        for half, name, one in chosen:
            settings = dataclasses.replace(base, quantizer="samp", steps=steps, samp=one)
            found.append(Variant(f"{half}: {name}, {steps} steps", settings, {"half": half, "schedule": name}))
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each schedule and run length, as texts."""
    titles = {"half": "of the", "schedule": "schedule", "steps": "steps", **SHOWN}
    return cells(summary(rows, [*SHOWN], ("half", "schedule", "steps")), titles)


def steadiness(rows: pd.DataFrame, half: str, measure: str = "psnr") -> pd.DataFrame:
    """A line for each schedule of one half, those first that need no retuning.

    behind: how far its mean is, at most, below the best of the same length; NaN, and last, where it lacks a length.
    level: at how many lengths its interval overlaps with that of the best; 0 for a single seed, which has none.
    """
    lines = summary(rows[rows.half == half], [measure], ("schedule", "steps"))
    means, low, high = (lines.pivot(index="schedule", columns="steps", values=measure + end)
                        for end in ("", "_low", "_high"))
    best = means.dropna(axis=1, how="all").idxmax()
    bound = pd.Series({steps: low.loc[name, steps] for steps, name in best.items()}, dtype=float)
    behind = (means.max() - means).max(axis=1, skipna=False)
    found = pd.DataFrame({"behind": behind, "level": high.ge(bound, axis=1).sum(axis=1)})
    return found.sort_values("behind", kind="stable")


SCHEDULES = Experiment(
    name="schedules",
    question="Which schedule needs no retuning when the run gets shorter or longer?",
    variants=variants,
    measure=reconstruction,
    table=table,
)
