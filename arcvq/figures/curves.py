"""Curves over training steps, schedules, and plain lines and bars for comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.figures.parts import measured, name_once, thin
from arcvq.figures.theme import DOTTED, LOG, array, colored, colors, finish, named
from arcvq.runtime.checks import check_whole
from arcvq.runtime.wording import short
from arcvq.schedules import Schedule

UNITS = {
    "psnr": "PSNR (dB)",
    "codes_used": "codes used",
    "perplexity": "perplexity",
    "radius": "radius M(t)",
    "weight": "weight of the margin loss",
}


def lines(
    x: Any,
    ys: Mapping[str, Any],
    x_title: str,
    y_title: str,
    title: str,
    summary: str,
    *,
    log: str = "",
    markers: bool = False,
    **look: Any,
) -> Figure:
    """Draw named curves over one x.

    Args:
        x: (n,), a tensor, an array or a list.
        ys: Curves (n,) by name, with gaps at NaN; a single number is a dotted horizontal line.
        x_title: Title of the x-axis, with the unit.
        y_title: Title of the y-axis, with the unit.
        title: Title of the figure.
        summary: What the figure shows, in one line.
        log: The axes on a log scale: "x", "y" or "xy".
        markers: Draw the points as well.
        **look: Width, height, or properties of the layout.

    Returns:
        The figure, with at most 20,000 points of each curve.

    Raises:
        ValueError: For no curves, or a curve of another length than x.
    """
    x = array(x)
    rows, note = thin(len(x), "points of each curve")
    mode = "lines+markers" if markers else "lines"
    curves: dict[str, np.ndarray] = {}
    levels: dict[str, np.ndarray] = {}
    for name, y in named(ys).items():
        kind = curves if np.ndim(y) else levels
        kind[name] = array(y)
    figure = Figure()
    for name, y, color in colored(curves):
        if y.shape != x.shape:
            raise ValueError(f"{name!r} has the shape {y.shape}, x has {x.shape}")
        style = {"mode": mode, "line_color": color, "showlegend": True}
        figure.add_scatter(x=x[rows], y=y[rows], name=name, **style)
    for name, y in levels.items():
        figure.add_hline(y=float(y), line=DOTTED, name=name, showlegend=True)
    figure.update_xaxes(LOG if "x" in log else {}, title_text=x_title)
    figure.update_yaxes(LOG if "y" in log else {}, title_text=y_title)
    return finish(figure, look, title, summary + note)


def bars(values: Mapping[str, Any], y_title: str, title: str, summary: str, **look: Any) -> Figure:
    """Draw a bar from zero for each name, with its number above it.

    Args:
        values: Numbers by name.
        y_title: Title of the y-axis, with the unit.
        title: Title of the figure.
        summary: What the figure shows, in one line.
        **look: Width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For no values.
    """
    heights = {name: float(value) for name, value in named(values).items()}
    names = list(heights)
    y = list(heights.values())
    shades = list(colors(names).values())
    text = [short(height) for height in y]
    figure = Figure()
    figure.add_bar(x=names, y=y, marker_color=shades, width=0.5)
    # As text of their own: labels of bars can be cut off at the top.
    figure.add_scatter(
        x=names, y=y, text=text, mode="text", textposition="top center", cliponaxis=False
    )
    figure.update_yaxes(title_text=y_title, rangemode="tozero")
    return finish(figure, look, title, summary, showlegend=False)


def history_curves(
    runs: Mapping[str, pd.DataFrame] | pd.DataFrame,
    columns: Sequence[str] = ("psnr", "codes_used", "perplexity"),
    *,
    ceiling: int | None = None,
    **look: Any,
) -> Figure:
    """Draw columns of training histories over the steps, each in a panel of its own.

    Args:
        runs: Histories by name, or a single one; rows where a column was not measured (NaN) are
            skipped.
        columns: The columns to draw.
        ceiling: The number of codes K, drawn where codes are counted.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with at most 20,000 points of each curve, evenly spaced from the first to the
        last; its caption tells the last value of each.

    Raises:
        ValueError: For no runs, or a column that no run has values of.
    """
    histories = named(runs, "run")
    # Each panel has the numbers and the title of its own y-axis.
    figure = make_subplots(1, len(columns), horizontal_spacing=0.09)
    text = []
    for panel, column in enumerate(columns, start=1):
        quantity = column.removeprefix("validation_")
        title = UNITS.get(quantity, quantity.replace("_", " "))
        if quantity != column:
            title = f"validation {title}"
        figure.update_yaxes(title_text=title, col=panel)
        last = _add_column(figure, histories, column, panel)
        text.append(f"{title}: {last}")
        if ceiling and quantity in ("codes_used", "perplexity"):
            label = {"text": f"K = {ceiling:,}", "textposition": "end", "yanchor": "top"}
            figure.add_hline(y=ceiling, line=DOTTED, label=label, row=1, col=panel)
            figure.update_yaxes(range=[0, 1.04 * ceiling], col=panel)
    name_once(figure)
    figure.update_xaxes(title_text="step")
    figure.update_layout(showlegend=len(histories) > 1)
    return finish(figure, look, "Training", f"At the end, {'; '.join(text)}.", height=380)


def _add_column(figure: Figure, histories: dict[str, pd.DataFrame], column: str, panel: int) -> str:
    """Draw a column of all histories in a panel; return the last values in words."""
    last = []
    for name, history, color in colored(histories):
        x, y = measured(history, column)
        if len(x):
            # Few points are easier to see with markers.
            mode = "lines" if len(x) >= 12 else "lines+markers"
            style = {"name": name, "legendgroup": name, "mode": mode, "line_color": color}
            figure.add_scatter(x=x, y=y, row=1, col=panel, **style)
            last.append(f"{name} {short(y[-1])}" if len(histories) > 1 else short(y[-1]))
    if not last:
        every = pd.concat(histories.values())  # has all columns in the order of their first history
        known = ", ".join(every.columns)
        raise ValueError(f"no history has values of {column!r}; the columns are {known}")
    return ", ".join(last)


def schedule_curves(
    schedules: Mapping[str, Schedule] | Schedule,
    steps: int,
    *,
    y_title: str = UNITS["radius"],
    **options: Any,
) -> Figure:
    """Draw schedules of the radius or of the weight over a run.

    Args:
        schedules: Schedules by name, or a single one.
        steps: Length of the run, at least 1; the curves have 201 points from 0 to `steps`.
        y_title: Title of the y-axis.
        **options: Options and look of `lines`.

    Returns:
        The figure; its caption tells the ends of each curve.

    Raises:
        ValueError: For no schedules, or steps below 1.
    """
    check_whole(1, steps=steps)
    x = np.linspace(0, steps, 201)
    ys = {}
    ends = []
    for name, schedule in named(schedules, "schedule").items():
        y = [float(schedule.value(step)) for step in x]
        ys[name] = y
        ends.append(f"{name} from {short(y[0])} to {short(y[-1])}")
    words = {"title": "Schedules", "summary": f"Over {steps:,} steps: {'; '.join(ends)}."}
    return lines(x, ys, "step", y_title, **words | options)
