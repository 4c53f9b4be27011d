"""Panels that show a measure over the values of each axis of an experiment, with several lines."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.tables import summary
from arcvq.figures.parts import error_bars, means_with_intervals, name_once
from arcvq.figures.theme import colors, finish
from arcvq.runtime.wording import capitalized, short


def axis_panels(
    rows: pd.DataFrame, titles: Mapping[str, str], measure: str = "psnr", **look
) -> Figure:
    """Draw a panel for each axis, with a line for each group of runs.

    Args:
        rows: Rows of an experiment with the columns axis, value and line; those of runs that failed
            are left out.
        titles: Titles of the axes, in the order of the panels. Axes without rows have no panel.
        measure: A column of the rows.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Each point is the mean of all runs with this value, whatever their seeds and
        other settings; the caption says over which axes the means of a line differ most.

    Raises:
        ValueError: If no run finished, there are no rows of any of the axes, or a column is not
            there.
    """
    point = ["axis", "line", "value"]
    table = summary(rows, [measure], point).sort_values("value")
    tried = [*table.axis.unique()]
    axes = [axis for axis in titles if axis in tried]
    if not axes:
        raise ValueError(
            f"the rows are of the axes {', '.join(tried)}; titles are given for {', '.join(titles)}"
        )
    title = MEASURE_TITLES.get(measure, measure)
    columns = min(4, len(axes))
    rows_of_panels = math.ceil(len(axes) / columns)
    gaps = {"vertical_spacing": 0.28 / rows_of_panels, "horizontal_spacing": 0.03}
    figure = make_subplots(rows_of_panels, columns, shared_yaxes="all", **gaps)
    shown = colors([*rows.line.unique()])
    for place, axis in enumerate(axes):
        row, column = divmod(place, columns)
        where = {"row": row + 1, "col": column + 1}
        panel = table[table.axis == axis]
        for name, color in shown.items():
            _add_line(figure, panel[panel.line == name], measure, color, where)
        # Values in their order, also where the first line lacks some.
        values = sorted(panel.value.unique())
        figure.update_xaxes(title_text=titles[axis], type="category", **where)
        figure.update_xaxes(categoryorder="array", categoryarray=_written(values), **where)
    name_once(figure)
    figure.update_yaxes(title_text=title, col=1)

    text = f"Points are {means_with_intervals(table)}."
    if "variant" in rows and rows.groupby(point).variant.nunique().max() > 1:
        text = (
            "Points are means of all runs with this value, whose other settings vary, and bars are "
            "95% bootstrap intervals."
        )
    spans = _largest_spans(table, titles, measure)
    if spans:
        text = f"The means of {title} vary most for {'; '.join(spans)}. {text}"
    width = max(640, 260 * columns + 140)
    height = 200 + 230 * rows_of_panels
    size = {"width": width, "height": height, "bottom": 70}
    return finish(figure, look, capitalized(f"{title} over each setting"), text, **size)


def _add_line(
    figure: Figure, points: pd.DataFrame, measure: str, color: str, where: dict[str, int]
) -> None:
    """Draw the means of a line in a panel, if it has any there, with their intervals."""
    if points.empty:
        return
    name = points.line.iloc[0]
    means = points[measure]
    bars = error_bars(means, points[f"{measure}_low"], points[f"{measure}_high"], color)
    style = {"mode": "lines+markers", "line_color": color, "name": name, "legendgroup": name}
    figure.add_scatter(x=_written(points.value), y=means, error_y=bars, **style, **where)


def _written(values: Iterable[float]) -> list[str]:
    """Numbers as the names of categories."""
    return [f"{value:g}" for value in values]


def _largest_spans(table: pd.DataFrame, titles: Mapping[str, str], measure: str) -> list[str]:
    """Over which of the titled axes the means of a line differ most, and by how much, in words."""
    drawn = table[table.axis.isin([*titles])]
    means = drawn.groupby(["line", "axis"], sort=False)[measure]
    spans = (means.max() - means.min())[means.count() > 1]
    listed = []
    for (name, axis), span in spans.nlargest(3).items():
        listed.append(f"{name} over {titles[axis]}, by {short(span)}")
    return listed
