"""Tables of results: means over seeds with 95% intervals, as numbers and as text."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from arcvq.runtime.wording import counted, span
from arcvq.samp import PAPER_REGIME, REGIME_TITLES

RESAMPLES = 9999
DECIMALS = {  # of a measure in text; 3 for others
    "psnr": 2,
    "authors_psnr": 2,
    "classifier_frechet": 1,
    "rfid": 2,
    "frechet": 2,
    "bits_per_image": 1,
    "codes_used": 0,
    "perplexity": 0,
    "perplexity_ceiling": 0,
    "min_angle": 1,
    "norm_usage_correlation": 2,
    "uniformity": 2,
    "step_milliseconds": 0,
    "processor_milliseconds": 1,
    "gap_closed": 2,
    "codes_with_gradient": 0,
    "angle_reconstruction_margin": 1,
}
DATA_TITLES = {"mnist": "MNIST", "mnist_full": "MNIST with all training images"}

Interval = tuple[float, float, float]  # a mean, the lower and the upper bound


def interval(values: Sequence[float] | np.ndarray | pd.Series) -> Interval:
    """Mean of a measure over seeds with its 95% interval, by scipy's percentile bootstrap.

    The bootstrap's own seed is fixed, so equal values give equal bounds. With two or three seeds
    the interval is the range of the values. The range of three values drawn from one distribution
    holds its median three times in four, that of two every other time.

    Args:
        values: One number for each seed; NaN is left out.

    Returns:
        The mean, the lower and the upper bound. A single value has NaN bounds, and all three are
        NaN where there is no value.
    """
    from scipy.stats import bootstrap

    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    mean = known.mean() if len(known) else math.nan
    if len(known) < 2:
        return mean, math.nan, math.nan

    result = bootstrap((known,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    return mean, *result.confidence_interval


def summary(
    rows: pd.DataFrame, measures: Sequence[str], by: Sequence[str] = ("variant",)
) -> pd.DataFrame:
    """Summarize the finished runs of each group of rows in one line.

    Args:
        rows: One row for each run.
        measures: Columns to average.
        by: Columns that make up the groups.

    Returns:
        The columns `by`, `runs` (how many finished) and, for each measure, its mean and bounds:
        NAME, NAME_low and NAME_high.

    Raises:
        ValueError: If no run finished, or the table lacks one of the columns.
    """
    good = finished(rows)
    if good.empty:
        raise ValueError("there is nothing to summarize: no run finished")
    for name in (*measures, *by):
        if name not in good:
            raise ValueError(f"column {name!r} is unknown; the table has {', '.join(good)}")

    lines = []
    for key, group in good.groupby([*by], sort=False, dropna=False):
        line = dict(zip(by, key, strict=True))
        line["runs"] = len(group)
        for name in measures:
            columns = (name, f"{name}_low", f"{name}_high")
            line.update(zip(columns, interval(group[name]), strict=True))
        lines.append(line)
    return pd.DataFrame(lines)


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs that did not fail."""
    return rows[rows.error.isna()] if "error" in rows else rows


def data_title(rows: pd.DataFrame) -> str:
    """The name of the rows' data as it is usually written."""
    name = rows.data.iloc[0]
    return DATA_TITLES.get(name, name)


def runs_note(rows: pd.DataFrame) -> str:
    """Say what runs the rows come from: how many, how long, on what data, and how many failed."""
    runs = rows.groupby(["variant", "seed"]).ngroups
    *lengths, longest = [f"{length:,}" for length in sorted(rows.steps.unique())]
    steps = f"{', '.join(lengths)} or {longest}" if lengths else longest
    failed = len(rows) - len(finished(rows))
    seeds = span(rows.groupby("variant").seed.nunique())
    noun = "seed" if seeds == "1" else "seeds"
    return (
        f"{counted(runs, 'run')} of {steps} steps on {data_title(rows)}, "
        f"{seeds} {noun} each; {failed or 'none'} failed"
    )


def regime_titles(rows: pd.DataFrame) -> dict[str, str]:
    """The columns of the regime with their titles; none where an earlier version measured."""
    return {name: title for name, title in REGIME_TITLES.items() if name in rows}


def regime_note(rows: pd.DataFrame) -> str:
    """Say in which regime the runs with SAMP were, beside the paper's (see `arcvq.samp.Regime`)."""
    notes = []
    for name, title in regime_titles(rows).items():
        known = rows[name].dropna().unique()
        if len(known) == 0:
            continue
        low = f"{known.min():.3g}"
        high = f"{known.max():.3g}"
        ours = low if low == high else f"{low} to {high}"
        theirs = getattr(PAPER_REGIME, name)
        notes.append(f"{title}: {ours} (the paper's on MNIST: {theirs:.3g})")
    return "; ".join(notes)


def with_gap(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `gap_closed`: how much of the PSNR gap from plain VQ to no quantization a run closes.

    It is 0 for plain VQ and 1 for the continuous autoencoder of the same seed, and NaN where one of
    these two was not run with that seed.
    """
    psnr = rows.pivot(index="seed", columns="variant", values="psnr")
    ends = psnr.reindex(columns=["plain VQ", "continuous"]).loc[rows.seed].to_numpy()
    start, end = ends.T
    return rows.assign(gap_closed=(rows.psnr - start) / (end - start))


def cell(measure: str, mean: float, low: float, high: float) -> str:
    """A mean with its interval as text, in the measure's decimals; empty where the mean is NaN."""
    decimals = DECIMALS.get(measure, 3)
    if math.isnan(mean):
        return ""
    if math.isnan(low):
        return f"{mean:,.{decimals}f}"
    return f"{mean:,.{decimals}f} ({low:,.{decimals}f} to {high:,.{decimals}f})"


def cells(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Turn a summary into text.

    Args:
        table: What `summary` returns.
        titles: The columns to show, with their titles. A measure without any value is left out.
    """
    texts = {}
    for name, title in titles.items():
        if f"{name}_low" not in table:
            texts[title] = [_text(value) for value in table[name]]
        elif table[name].notna().any():
            lines = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
            texts[title] = [cell(name, *line) for line in lines]
    return pd.DataFrame(texts)


def _text(value: float | int | str) -> str:
    """A name or a number as text; empty for NaN."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:,g}"


def markdown(texts: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    lines = [[*texts.columns], ["---"] * texts.shape[1], *texts.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def variant_interval(rows: pd.DataFrame, variant: str, measure: str = "psnr") -> Interval:
    """Mean and 95% interval of a measure over the finished runs of a variant; see `interval`.

    Raises:
        ValueError: If no run of the variant finished.
    """
    runs = finished(rows)
    known = runs.variant.unique()
    if variant not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"variant {variant!r} has no finished run; there are {names}")
    return interval(runs[measure][runs.variant == variant])


def intervals_overlap(one: Interval, other: Interval) -> bool | None:
    """Whether two intervals overlap; None where one has no bounds, as with a single seed.

    Of three seeds each, two equal settings have separate intervals one time in ten.
    """
    _, low, high = one
    _, other_low, other_high = other
    if math.isnan(low) or math.isnan(other_low):
        return None
    return bool(low <= other_high and other_low <= high)


def comparison(
    rows: pd.DataFrame, name: str, others: Sequence[str], measures: Mapping[str, str]
) -> pd.DataFrame:
    """Say of each measure whether a variant is higher than others, lower, or not apart from them.

    Args:
        rows: The rows of an experiment.
        name: The variant that is compared.
        others: Those it is compared with.
        measures: The titles of the measures by their columns.

    Returns:
        A line for each title and a column for each of the others, with "higher" or "lower" where
        the 95% intervals are apart, "overlap" where they are not, and "unknown" for a single seed.

    Raises:
        ValueError: If no run of one of the variants finished.
    """
    found: dict[str, dict[str, str]] = {other: {} for other in others}
    for measure, title in measures.items():
        ours = variant_interval(rows, name, measure)
        for other in others:
            theirs = variant_interval(rows, other, measure)
            side = "higher" if ours[0] > theirs[0] else "lower"
            outcomes = {True: "overlap", False: side, None: "unknown"}
            found[other][title] = outcomes[intervals_overlap(ours, theirs)]
    return pd.DataFrame(found)


def verdict(
    rows: pd.DataFrame, one: str, other: str, measure: str = "psnr", unit: str = "dB"
) -> str:
    """A sentence with two variants' means and intervals of a measure, and whether these overlap.

    Raises:
        ValueError: If no run of one of the variants finished.
    """
    intervals = []
    texts = []
    for name in (one, other):
        found = variant_interval(rows, name, measure)
        intervals.append(found)
        mean, *bounds = cell(measure, *found).split(" ", 1)
        texts.append(" ".join([f"{name}:", mean, *unit.split(), *bounds]))
    outcomes = {
        True: "the intervals overlap",
        False: "the intervals do not overlap",
        None: "a single seed has no interval",
    }
    outcome = outcomes[intervals_overlap(*intervals)]
    return "; ".join([*texts, outcome])
