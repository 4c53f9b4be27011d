"""Ablations: what each setting of SAMP does, with the others as in the paper, scaled to the run."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from arcvq.experiments.base import Experiment, Variant
from arcvq.experiments.measures import MAIN_MEASURES, MEASURE_TITLES, reconstruction
from arcvq.experiments.paper_table import halves
from arcvq.experiments.sweep import at_point
from arcvq.experiments.tables import (
    cells,
    finished,
    interval,
    intervals_overlap,
    regime_titles,
    summary,
    variant_interval,
)
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
PAPER_CLAIMS = (  # variants of which the paper reports that the first is better
    ("both halves", "BBNR alone"),
    ("both halves", "margin alone"),
    ("both halves", "without stop-gradient"),
    ("margin 0.1", "margin 0"),
    ("margin 0.1", "margin 0.3"),
    ("top_k 3", "top_k 1"),
    ("top_k 3", "top_k 5"),
)
TEXT_SCALE = 10.0
TEXT_GROWTH = 1e-5 * 29_500  # alpha T: the ball ends at a radius of 1.34
RUN_FIELDS = {"beta": "beta", "codes": "num_codes", "dim": "dim"}  # axes outside SAMP
EXACT_RUNS = 8  # up to which a trend is compared with all orders of the runs: 8! = 40,320
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
    in_text = dataclasses.replace(base, samp=as_in_text(samp, base.steps))
    return [
        *found,
        Variant("without stop-gradient", undetached, {"axis": "part"}),
        Variant("scale and alpha of the text", in_text, {"axis": "part"}),
    ]


def as_in_text(samp: SAMP, steps: int) -> SAMP:
    """SAMP with the scale and alpha that the paper's text names, where its code has others."""
    return dataclasses.replace(samp, scale=TEXT_SCALE, radius=Exponential(TEXT_GROWTH / steps))


def _changed(base: RunSettings, samp: SAMP, axis: str, value: Any) -> RunSettings:
    """The settings with another value on one axis; a ball at the paper's rate keeps this rate."""
    if axis in RUN_FIELDS:
        changed = dataclasses.replace(base, **{RUN_FIELDS[axis]: value})
        return dataclasses.replace(changed, samp=base.samp_at(changed.lr, changed.dim))
    if axis == "lambda":
        weight = Exponential(-value / base.steps)
        return dataclasses.replace(base, samp=dataclasses.replace(samp, weight=weight))
    return at_point(base, {SWEEP_NAMES.get(axis, axis): value})


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each variant."""
    regime = regime_titles(rows)
    lines = summary(rows, [*SHOWN], by=("variant", *regime))
    lines[[*regime]] = lines[[*regime]].round(3)
    return cells(lines, {"variant": "setting", **SHOWN, **regime})


def effects(rows: pd.DataFrame, measure: str = "psnr") -> pd.DataFrame:
    """How far each axis moves a measure, and how sure that is.

    Args:
        rows: The rows of the experiment.
        measure: A column of the rows.

    Returns:
        A line for each axis: the variants with the largest and the smallest mean, the difference of
        the two, and whether their 95% intervals are apart. `trend` is Spearman's rank correlation
        of the values of the axis with the measure over all runs, and `p` is the probability of so
        strong a trend if there were none: by Student's t, and for up to 8 runs, which are too few
        for that, exactly, as the share of all orders of the runs with so strong a trend. Both are
        NaN where the axis has a single value, or the measure has.

    Raises:
        ValueError: For a measure that no run has.
    """
    rows = finished(rows).dropna(subset=measure)
    if rows.empty:
        raise ValueError(f"measure {measure!r} has no values; it was not measured in these runs")
    found = {}
    for axis, runs in rows[rows.axis != "part"].groupby("axis", sort=False):
        means = runs.groupby("variant")[measure].mean()
        largest = means.idxmax()
        smallest = means.idxmin()
        bounds = [variant_interval(runs, name, measure) for name in (largest, smallest)]
        trend, p = _trend(runs.value, runs[measure])
        found[axis] = {
            "largest at": largest,
            "smallest at": smallest,
            "difference": means[largest] - means[smallest],
            "apart": intervals_overlap(*bounds) is False,
            "trend": trend,
            "p": p,
        }
    return pd.DataFrame.from_dict(found, orient="index")


def _trend(values: pd.Series, measured: pd.Series) -> tuple[float, float]:
    """Spearman's rank correlation, and the probability of so strong a one if there were none."""
    from scipy.stats import rankdata, spearmanr

    if values.nunique() < 2 or measured.nunique() < 2:
        return math.nan, math.nan
    found = spearmanr(values, measured)
    if len(values) > EXACT_RUNS:
        return found.statistic, found.pvalue

    ranks = rankdata(values) - (len(values) + 1) / 2
    orders = np.array([*itertools.permutations(rankdata(measured))])
    # Proportional to the correlation; the first order is that of the runs.
    strengths = np.abs(orders @ ranks)
    as_strong = strengths >= strengths[0] - 1e-9  # equal strengths may differ by rounding
    return found.statistic, as_strong.mean()


def claims(rows: pd.DataFrame, measure: str = "psnr") -> pd.DataFrame:
    """Whether what the paper reports of the parts and settings of SAMP holds in these runs.

    Args:
        rows: The rows of the experiment.
        measure: A column of the rows; larger is better.

    Returns:
        A line for each of `PAPER_CLAIMS`, from the seeds that both of its variants finished: what
        came out, the difference of the means, and the same in standard errors, from a spread over
        seeds that is pooled over all variants. Of variants that came out the same in every seed,
        as those with the paper's own value of each setting do, one counts. "met" and "reversed"
        have intervals apart; "no difference" is the same value in every seed; "a single seed" has
        no interval, and "no common seed" has nothing to compare.
    """
    by_seed = finished(rows).pivot_table(index="seed", columns="variant", values=measure)
    different = by_seed.T.drop_duplicates().T
    pooled = math.sqrt(different.var().mean())
    found = []
    for better, worse in PAPER_CLAIMS:
        pairs = by_seed.reindex(columns=[better, worse]).dropna()
        difference = (pairs[better] - pairs[worse]).mean()
        standard_error = pooled * math.sqrt(2 / max(1, len(pairs)))
        found.append(
            {
                "claim": f"{better} better than {worse}",
                "here": _outcome(pairs[better], pairs[worse]),
                "difference": difference,
                "standard errors": difference / standard_error,
            }
        )
    return pd.DataFrame(found)


def _outcome(better: pd.Series, worse: pd.Series) -> str:
    """What came out of a claim, in words, from the values of two variants in the same seeds."""
    if better.empty:
        return "no common seed"
    if (better == worse).all():
        return "no difference"
    overlap = intervals_overlap(interval(better), interval(worse))
    if overlap is None:
        return "a single seed"
    if overlap:
        return "within the intervals"
    return "met" if better.mean() > worse.mean() else "reversed"


ABLATIONS = Experiment(
    name="ablations",
    question="Which settings of SAMP matter, and how much?",
    variants=variants,
    measure=reconstruction,
    table=table,
)
