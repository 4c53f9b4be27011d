"""Figures of a sweep: a map over two settings, a line over one, or the table itself."""

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy
from plotly.graph_objects import Figure

from arcvq.experiments.sweep import SWEEP_AXES, each_run_once
from arcvq.experiments.tables import finished
from arcvq.figures.curves import UNITS
from arcvq.figures.parts import color_bar, error_bars
from arcvq.figures.theme import BLACK, BLUE, GRAY, VERMILLION, finish
from arcvq.runtime.wording import capitalized, counted

TITLES = {
    **UNITS,
    **SWEEP_AXES,
    "min_angle": "minimum angle (°)",
    "usage": "usage (share of codes)",
    "seconds": "training time (s)",
}


def sweep_map(
    table: pd.DataFrame, measure: str = "psnr", x: str | None = None, y: str | None = None, **look
) -> Figure:
    """Draw the mean of a measure over the points of a sweep's grid.

    The mean is taken over seeds, and over the axes that are not drawn. Two axes make a map, in
    which missing values stay empty; a single axis that varies makes a line. A run that stands in
    several grids of the table counts once.

    Args:
        table: Rows of the experiment `arcvq.experiments.sweep`.
        measure: A column of the table.
        x: An axis of the sweep; by default the one with the most values.
        y: Another one; by default the one with the next most values.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure; its caption tells the largest value and where it is, the values of the axes
        over which means are taken, how many runs and seeds there are, and how many runs failed.

    Raises:
        ValueError: For an unknown measure or axis, the same axis twice, a measure without any
            value, or a table in which nothing varies.
    """
    if measure not in table:
        raise ValueError(f"the table has no column {measure!r}; it has {', '.join(table)}")
    for axis in filter(None, (x, y)):
        if axis not in SWEEP_AXES:
            raise ValueError(f"axis {axis!r} is unknown; known are {', '.join(SWEEP_AXES)}")
    if x is not None and x == y:
        raise ValueError(f"x and y are both {x!r}; a map needs two different axes")
    table = each_run_once(table)
    if table[measure].isna().all():
        raise ValueError(f"{measure} is missing in all {len(table)} rows of the table")
    varying = [name for name in SWEEP_AXES if table[name].nunique() > 1]
    varying.sort(key=lambda name: -table[name].nunique())
    free = (name for name in varying if name not in (x, y))
    axes = [name for name in (x or next(free, None), y or next(free, None)) if name]
    if not axes:
        raise ValueError(
            f"nothing varies in this table of {len(table)} rows; a sweep needs an axis with two "
            "values"
        )

    runs = table.groupby(axes)[measure]
    title = TITLES.get(measure, measure.replace("_", " "))
    means = runs.mean()
    largest = _places(means, axes)
    if len(axes) == 1:
        figure = _draw_line(runs, title)
        note = "; bars span the seeds"
    else:
        means = means.unstack(0)
        figure = _draw_map(means, title)
        note = ""
    figure.update_xaxes(title_text=SWEEP_AXES[axes[0]])

    values = means.to_numpy()
    text = (
        f"Largest: {np.nanmax(values):.4g} at {largest}; smallest: {np.nanmin(values):.4g}{note}."
    )
    others = [name for name in varying if name not in axes]
    if others:
        text += f" Values are means over {_axes_with_values(table[others])}."
    missing = np.isnan(values).sum()
    if missing:
        text += f" {missing} of {values.size} points are missing."
    text += _runs_and_seeds(table, measure)
    return finish(figure, look, capitalized(title), text, width=760, height=460)


def _runs_and_seeds(table: pd.DataFrame, measure: str) -> str:
    """Say how many runs have a value, how many seeds their points have, and how many failed."""
    measured = table.dropna(subset=measure)
    seeds = measured.groupby([*SWEEP_AXES], dropna=False).seed.nunique()
    fewest = int(seeds.min())
    most = int(seeds.max())
    each = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    failed = len(table) - len(finished(table))
    more = f"; {failed} more failed" if failed else ""
    runs = counted(len(measured), "run")
    return f" {runs}, {each} at each point{more}."


def _places(means: pd.Series, axes: list[str]) -> str:
    """Say where the means are largest: the point, or how many points, as counts may be equal."""
    points = means.index[means == means.max()]
    if len(points) > 1:
        return f"{len(points)} points"
    parts = []
    for axis in axes:
        label = _labels(means.index.unique(axis))[points.get_level_values(axis)[0]]
        parts.append(f"{_name(axis)} {label}")
    return " and ".join(parts)


def _draw_line(runs: SeriesGroupBy, title: str) -> Figure:
    """Draw the means over one axis, with bars over the seeds."""
    means = runs.mean()
    bars = error_bars(means, runs.min(), runs.max(), GRAY)
    style = {"mode": "lines+markers", "line_color": BLUE, "marker_color": BLACK}
    figure = Figure()
    figure.add_scatter(x=means.index, y=means, error_y=bars, **style)
    return figure.update_yaxes(title_text=title)


def _draw_map(means: pd.DataFrame, title: str) -> Figure:
    """Draw the means over two axes, with the largest marked."""
    labeled = means.rename(columns=_labels(means.columns), index=_labels(means.index))
    figure = value_map(labeled, "{:.4g}", title)
    figure.update_yaxes(title_text=SWEEP_AXES[means.index.name])

    values = means.to_numpy()
    line = {"color": VERMILLION, "width": 4}
    for number, (row, column) in enumerate(np.argwhere(values == np.nanmax(values))):
        cell = {"x0": column - 0.48, "x1": column + 0.48, "y0": row - 0.48, "y1": row + 0.48}
        figure.add_shape(cell, name="largest", showlegend=number == 0, line=line)
    return figure


def _labels(values: pd.Series | pd.Index) -> dict[float | int, str]:
    """A label for each value, with as many digits, from six, as keep them apart."""
    found: dict[float | int, str] = {}
    for digits in range(6, 18):  # 17 tell any two numbers apart
        found = {value: f"{value:.{digits}g}" for value in values}
        if len({*found.values()}) == len(found):
            break
    return found


def _name(axis: str) -> str:
    """The name of an axis as the command line has it."""
    return axis.replace("_", "-")


def _axes_with_values(table: pd.DataFrame) -> str:
    """The axes of a table with their values in brackets, for the caption."""
    found = []
    for axis in table:
        values = _labels(table[axis].dropna().sort_values()).values()
        found.append(f"{_name(axis)} ({', '.join(values)})")
    return " and ".join(found)


def value_map(values: pd.DataFrame, text_format: str, label: str, **style) -> Figure:
    """Draw a table as colored cells with their values written in them; NaN stays empty.

    Args:
        values: The table; its index and columns are the labels of the axes.
        text_format: How a value is written, such as "{:.2f}".
        label: Title of the scale of colors.
        **style: Properties of the plotly heat map; `z` colors the cells by other values.
    """
    texts = values.map(text_format.format).replace("nan", "")
    figure = Figure()
    figure.add_heatmap(
        x=[*values.columns],
        y=[*values.index],
        z=values.to_numpy(),
        text=texts.to_numpy().tolist(),
        texttemplate="%{text}",
        colorscale="Cividis",
        colorbar=color_bar(label),
        hoverongaps=False,
        xgap=2,
        ygap=2,
    )
    figure.update_traces(style)
    return figure.update_xaxes(type="category").update_yaxes(type="category")
