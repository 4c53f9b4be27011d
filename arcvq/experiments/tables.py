"""From rows to tables: means over seeds with 95% intervals, and what a reader compares."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

RESAMPLES = 9999
DIGITS = {"psnr": 2, "classifier_frechet": 1, "rfid": 2, "codes_used": 0, "perplexity": 0, "perplexity_ceiling": 0,
          "min_angle": 1, "norm_usage_correlation": 2, "uniformity": 2, "step_milliseconds": 0, "gap_closed": 2,
          "codes_with_gradient": 0, "angle_reconstruction_margin": 1}
HOW = "mean (95% interval, bootstrap over seeds)"


def interval(values: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float, float]:
    """Mean and 95% interval of a measure over seeds, by the percentile bootstrap of scipy with a fixed seed.

    NaN is left out. One value has no interval: its bounds are NaN. Of few seeds the interval is about their range.
    """
    from scipy.stats import bootstrap

    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    mean = known.mean() if len(known) else math.nan
    if len(known) < 2:
        return mean, math.nan, math.nan
    found = bootstrap((known,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return mean, found.low, found.high


def summary(rows: pd.DataFrame, measures: Sequence[str], by: Sequence[str] = ("variant",)) -> pd.DataFrame:
    """A line for each group of rows: `runs` that ended well, and of each measure NAME, NAME_low and NAME_high."""
    rows = finished(rows)
    missing = [name for name in (*measures, *by) if name not in rows]
    if missing:
        raise ValueError(f"column {missing[0]!r} is unknown; the table has {', '.join(rows)}")
    lines = []
    for key, group in rows.groupby([*by], sort=False, dropna=False):
        line = dict(zip(by, key, strict=True)) | {"runs": len(group)}
        for name in measures:
            line |= zip((name, f"{name}_low", f"{name}_high"), interval(group[name]), strict=True)
        lines.append(line)
    return pd.DataFrame(lines)


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that did not fail."""
    return rows[rows.error.isna()] if "error" in rows else rows


def data_title(rows: pd.DataFrame) -> str:
    """The name of the data as one writes it."""
    return {"mnist": "MNIST"}.get(rows.data.iloc[0], rows.data.iloc[0])


def with_gap(rows: pd.DataFrame, plain: str = "plain VQ", limit: str = "continuous") -> pd.DataFrame:
    """The rows with `gap_closed`: the share of the way in dB from plain VQ to the continuous autoencoder, by seed.

    0 is plain VQ, 1 the autoencoder that does not quantize; NaN where one of the two was not run with that seed.
    """
    ends = {name: rows[rows.variant == name].set_index("seed").psnr for name in (plain, limit)}
    start, end = (rows.seed.map(ends[name]) for name in (plain, limit))
    return rows.assign(gap_closed=(rows.psnr - start) / (end - start))


def cell(name: str, mean: float, low: float, high: float) -> str:
    """A mean with its interval, in the measure's digits; empty for NaN."""
    if math.isnan(mean):
        return ""
    digits = DIGITS.get(name, 3)
    bounds = "" if math.isnan(low) else f" ({low:,.{digits}f} to {high:,.{digits}f})"
    return f"{mean:,.{digits}f}{bounds}"


def cells(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """A summary as texts: the columns of `titles` under their titles; measures that no line has are left out."""
    texts = {}
    for name, title in titles.items():
        if f"{name}_low" in table:
            if table[name].notna().any():
                texts[title] = [cell(name, *line) for line in table[[name, f"{name}_low", f"{name}_high"]].to_numpy()]
        else:
            texts[title] = [f"{value:,g}" if isinstance(value, int | float) else str(value) for value in table[name]]
    return pd.DataFrame(texts)


def markdown(texts: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    lines = [[*texts.columns], ["---"] * texts.shape[1], *texts.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def apart(rows: pd.DataFrame, one: str, other: str, measure: str = "psnr") -> bool | None:
    """Whether the intervals of two variants do not overlap; None where one has no interval, as with a single seed.

    Of three seeds each, equals are apart once in ten times. Raises ValueError for a variant without a finished run.
    """
    (_, low, high), (_, other_low, other_high) = (_interval_of(rows, name, measure) for name in (one, other))
    return bool(low > other_high or other_low > high) if low <= high and other_low <= other_high else None


def verdict(rows: pd.DataFrame, one: str, other: str, measure: str = "psnr", unit: str = "dB") -> str:
    """A sentence: the two variants' intervals of a measure, and whether they overlap."""
    told = ", ".join(f"{name} {cell(measure, *_interval_of(rows, name, measure))} {unit}".rstrip()
                     for name in (one, other))
    found = {True: "do not overlap", False: "overlap", None: "are not known; they take two seeds"}
    return f"{told}: the intervals {found[apart(rows, one, other, measure)]}"


def _interval_of(rows: pd.DataFrame, variant: str, measure: str) -> tuple[float, float, float]:
    runs = finished(rows)
    if not (runs.variant == variant).any():
        raise ValueError(f"variant {variant!r} has no finished run; there are {', '.join(runs.variant.unique())}")
    return interval(runs[measure][runs.variant == variant])
