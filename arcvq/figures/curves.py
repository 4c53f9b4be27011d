"""Curves over training steps, schedules, and plain lines and bars for comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from arcvq.figures.theme import DOTTED, GRAY, LOG, array, colors, finish, named, thin
from arcvq.schedules import Schedule

UNITS = {"psnr": "PSNR (dB)", "codes_used": "codes used (codes)", "perplexity": "perplexity (codes)",
         "radius": "radius M(t) (norm of a code)", "weight": "weight of the margin loss"}


def lines(x: Any, ys: Mapping[str, Any], x_title: str, y_title: str, title: str, summary: str, *,
          log_x: bool = False, log_y: bool = False, markers: bool = False,
          levels: Mapping[str, float | int] | None = None, **look: Any) -> go.Figure:
    """Named curves over one x, with a gap at NaN, and named dotted horizontal `levels`.

    Raises ValueError for a curve whose length is not that of x.
    """
    x, ys, figure, (rows, note) = array(x), named(ys), go.Figure(), thin(len(x), "points of each curve")
    for name, colour in colors(ys).items():
        if (y := array(ys[name])).shape != x.shape:
            raise ValueError(f"{name!r} has the shape {y.shape}, x has {x.shape}")
        figure.add_scatter(x=x[rows], y=y[rows], name=name, mode="lines+markers" if markers else "lines",
                           line_color=colour, showlegend=True)
    for name, level in (levels or {}).items():
        figure.add_hline(y=level, line=DOTTED, name=name, showlegend=True)
    figure.update_xaxes(title_text=x_title, **LOG if log_x else {})
    figure.update_yaxes(title_text=y_title, **LOG if log_y else {})
    return finish(figure, look, title, summary + note)


def bars(values: Mapping[str, Any], y_title: str, title: str, summary: str, **look: Any) -> go.Figure:
    """A bar from zero for each name: a number, or the mean of several (seeds), with standard deviation."""
    seeds = {name: np.atleast_1d(array(value)) for name, value in named(values).items()}
    means, most = [numbers.mean() for numbers in seeds.values()], max(map(len, seeds.values()))
    spread = [numbers.std(ddof=1) if len(numbers) > 1 else 0.0 for numbers in seeds.values()]
    figure = go.Figure(go.Bar(x=[*seeds], y=means, marker_color=[*colors(seeds).values()], width=0.5,
                              error_y={"array": spread, "color": GRAY, "visible": most > 1}))
    text = [f"{mean:,.4g}" + f" ± {sd:.2g}" * (most > 1) for mean, sd in zip(means, spread, strict=True)]
    figure.add_scatter(x=[*seeds], y=np.add(means, spread), text=text, mode="text", textposition="top center")
    figure.update_layout(showlegend=False).update_yaxes(title_text=y_title, rangemode="tozero")
    note = f" Mean ± standard deviation of {most} runs." if most > 1 else ""
    return finish(figure, look, title, summary + note)


def history_curves(runs: Mapping[str, pd.DataFrame] | pd.DataFrame,
                   columns: Sequence[str] = ("psnr", "codes_used", "perplexity"), *,
                   ceiling: int | None = None, **look: Any) -> go.Figure:
    """A panel for each column of the histories, over steps; `ceiling` (K) is drawn where codes are counted.

    Rows where a column was not measured (NaN) are skipped. Raises ValueError for a column that no run has.
    """
    runs, text = named(runs, "run"), []
    chosen, figure = colors(runs), make_subplots(1, len(columns), horizontal_spacing=0.26 / len(columns))
    for panel, column in enumerate(columns, start=1):
        kind, last = column.removeprefix("validation_"), []
        for name, history in runs.items():
            if column in history and len(seen := history[["step", column]].dropna()):
                x, y = seen.to_numpy(np.float64)[thin(len(seen), "rows")[0]].T
                mode, new = "lines" + "+markers" * (len(x) < 12), all(t.name != name for t in figure.data)
                figure.add_scatter(x=x, y=y, name=name, mode=mode, line_color=chosen[name], row=1, col=panel,
                                   legendgroup=name, showlegend=new)
                last.append(f"{name} {y[-1]:,.4g}")
        if not last:
            known = ", ".join(dict.fromkeys(column for history in runs.values() for column in history))
            raise ValueError(f"no history has values of {column!r}; the columns are {known}")
        unit = ("" if kind == column else "validation ") + UNITS.get(kind, kind.replace("_", " "))
        figure.update_yaxes(title_text=unit, col=panel)
        if ceiling and kind in ("codes_used", "perplexity"):
            label = {"text": f"K = {ceiling:,}", "textposition": "end", "yanchor": "top"}
            figure.add_hline(y=ceiling, line=DOTTED, label=label, row=1, col=panel)
            figure.update_yaxes(range=[0, 1.04 * ceiling], col=panel)
        text.append(f"{unit.split(' (')[0]} {', '.join(last)}")
    figure.update_xaxes(title_text="step")
    return finish(figure, look, "Training", f"At the end: {'; '.join(text)}.", height=380)


def schedule_curves(schedules: Mapping[str, Schedule] | Schedule, steps: int, *,
                    y_title: str = UNITS["radius"], **options: Any) -> go.Figure:
    """Schedules of the radius or the weight at 201 steps from 0 to `steps`; `options` as in `lines`."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    x, chosen = np.linspace(0, steps, 201), named(schedules, "schedule")
    ys = {name: [float(schedule.value(step)) for step in x] for name, schedule in chosen.items()}
    ends = "; ".join(f"{name} from {y[0]:,.4g} to {y[-1]:,.4g}" for name, y in ys.items())
    text = {"title": "Schedules", "summary": f"Over {steps:,} steps: {ends}."}
    return lines(x, ys, "step", y_title, **text | options)
