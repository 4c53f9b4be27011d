"""What a sweep found: a heat map over two settings, a line over one, or the table itself."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from arcvq.experiments.sweep import SWEEP_AXES
from arcvq.figures.curves import UNITS
from arcvq.figures.theme import BLACK, BLUE, GRAY, VERMILLION, finish

TITLES = UNITS | SWEEP_AXES | {"min_angle": "minimum angle (°)", "usage": "usage (share of codes)",
                         "seconds": "training time (s)"}


def sweep_map(table: pd.DataFrame, measure: str = "psnr", x: str | None = None, y: str | None = None,
              **look) -> go.Figure:
    """The mean of a measure at each point of a sweep's grid, over seeds and over what is neither x nor y.

    table: of `arcvq.experiments.sweep`. x, y: axes; by default the two with the most values. With one axis that
    varies a line with the least and greatest seed is drawn. Missing values stay empty. Raises ValueError for an
    unknown measure or axis, for a measure without any value, and when nothing varies.
    """
    for name in (measure, x, y):
        if name is not None and name not in table:
            raise ValueError(f"the table has no column {name!r}; it has {', '.join(table)}")
    if table[measure].isna().all():
        raise ValueError(f"{measure} is missing in all {len(table)} rows of the table")
    varying = sorted(_varying(table), key=lambda name: -table[name].nunique())
    free = (name for name in varying if name not in (x, y))
    x, y = x or next(free, None), y or next(free, None)
    if x is None:
        raise ValueError(f"nothing varies in this table of {len(table)} rows; a sweep needs an axis with two values")
    title = TITLES.get(measure, measure.replace("_", " "))
    runs = f"{len(table):,} runs" + (f", {table.seed.nunique()} seeds" if table.seed.nunique() > 1 else "")
    figure, text = _line(table, measure, x, title) if y is None else _heat(table, measure, x, y, title)
    return finish(figure, look, title[0].upper() + title[1:], f"{text} {runs}.", width=760, height=460)


def _varying(table: pd.DataFrame) -> list[str]:
    return [name for name in SWEEP_AXES if table[name].nunique() > 1]


def _heat(table, measure, x, y, title):
    means = table.pivot_table(measure, y, x, aggfunc="mean", dropna=False)
    values = means.to_numpy(float)
    texts = [["" if np.isnan(value) else f"{value:.4g}" for value in line] for line in values]
    across, up = ([f"{value:g}" for value in axis] for axis in (means.columns, means.index))
    bar = {"title": {"text": title, "side": "right"}}
    figure = go.Figure(go.Heatmap(x=across, y=up, z=values, text=texts, texttemplate="%{text}", colorscale="Cividis",
                                  hoverongaps=False, xgap=1, ygap=1, colorbar=bar))
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    figure.add_shape(x0=column - 0.48, x1=column + 0.48, y0=row - 0.48, y1=row + 0.48, name="largest", showlegend=True,
                     line={"color": VERMILLION, "width": 4})
    figure.update_xaxes(title_text=SWEEP_AXES[x], type="category").update_yaxes(title_text=SWEEP_AXES[y], type="category")
    return figure, (f"Largest {values[row, column]:.4g} at {x} {across[column]} and {y} {up[row]}, smallest "
                    f"{np.nanmin(values):.4g}.{_missing(values)}")


def _line(table, measure, x, title):
    found = table.groupby(x)[measure].agg(["mean", "min", "max"])
    spread = {"type": "data", "array": found["max"] - found["mean"], "arrayminus": found["mean"] - found["min"],
              "color": GRAY}
    figure = go.Figure(go.Scatter(x=found.index, y=found["mean"], error_y=spread, mode="lines+markers",
                                  line_color=BLUE, marker_color=BLACK))
    figure.update_xaxes(title_text=SWEEP_AXES[x]).update_yaxes(title_text=title)
    return figure, (f"Largest mean {found['mean'].max():.4g} at {x} {found['mean'].idxmax():g}; bars reach from the "
                    f"least to the greatest seed.{_missing(found['mean'].to_numpy())}")


def _missing(values: np.ndarray) -> str:
    missing = int(np.isnan(values).sum())
    return f" {missing} of {values.size} points are missing." if missing else ""
