"""Panels that show a measure over the values of each axis of an experiment, with several lines."""

import math
from collections.abc import Mapping

import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.tables import summary
from arcvq.figures.sweep_map import error_bars
from arcvq.figures.theme import colors, finish


def axis_panels(
    rows: pd.DataFrame, titles: Mapping[str, str], measure: str = "psnr", **look
) -> Figure:
    """Draw a panel for each axis, with a line for each group of runs.

    Args:
        rows: rows of an experiment with the columns axis, value and line; those of runs that failed
            are left out.
        titles: titles of the axes, in the order of the panels. Axes without rows have no panel.
        measure: a column of the rows.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Each point is the mean of all runs with this value, whatever their seeds and
        other settings; the caption says over which axes the means of a line differ most.
    """
    table = summary(rows, [measure], ("axis", "line", "value")).sort_values("value")
    axes = [axis for axis in titles if axis in set(table.axis)]
    title = MEASURE_TITLES.get(measure, measure)
    columns = min(4, len(axes))
    lines = math.ceil(len(axes) / columns)
    figure = make_subplots(
        lines, columns, shared_yaxes="all", vertical_spacing=0.25, horizontal_spacing=0.03
    )
    shown = colors([*rows.line.unique()])
    for place, axis in enumerate(axes):
        row, column = divmod(place, columns)
        where = {"row": row + 1, "col": column + 1}
        for name, color in shown.items():
            points = table[(table.axis == axis) & (table.line == name)]
            if points.empty:
                continue
            figure.add_scatter(
                x=[f"{value:g}" for value in points.value],
                y=points[measure],
                error_y=error_bars(
                    points[measure], points[f"{measure}_low"], points[f"{measure}_high"], color
                ),
                mode="lines+markers",
                name=name,
                legendgroup=name,
                line_color=color,
                showlegend=not any(trace.name == name for trace in figure.data),
                **where,
            )
        # Values in their order, also where the first line lacks some.
        values = sorted(table.value[table.axis == axis].unique())
        order = {"categoryorder": "array", "categoryarray": [f"{value:g}" for value in values]}
        figure.update_xaxes(title_text=titles[axis], type="category", **order, **where)
    figure.update_yaxes(title_text=title, col=1)

    groups = table.groupby(["line", "axis"], sort=False)[measure]
    spans = (groups.max() - groups.min()).nlargest(3)
    listed = ", ".join(
        f"{name} over {titles[axis]} {span:.3g}" for (name, axis), span in spans.items()
    )
    text = (
        f"The means of {title} differ most: {listed}. Each point: the mean of all its runs with a "
        "95% interval (bootstrap)."
    )
    size = {"width": 260 * columns + 140, "height": 200 + 230 * lines, "bottom": 70}
    return finish(figure, look, f"{title} over each setting", text, **size)
