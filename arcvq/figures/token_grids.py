"""What a prior does at each place of the grid of tokens: what it costs there, and where it looks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from arcvq.figures.theme import VERMILLION, array, finish, named

Map = Float[Tensor, "_h _w"] | Float[np.ndarray, "_h _w"]


def place_maps(maps: Mapping[str, Map] | Map, label: str, title: str, summary: str, **look: Any) -> go.Figure:
    """Numbers (h, w) at the places of a grid, one panel for each name, all on one colour scale; NaN is grey.

    label: what the numbers are, with the unit. Raises ValueError for maps that are empty or not of one shape.
    """
    grids = {name: array(grid) for name, grid in named(maps, label).items()}
    shapes = {grid.shape for grid in grids.values()}
    if len(shapes) > 1 or len(shape := shapes.pop()) != 2 or not all(shape):
        found = ", ".join(f"{name} {grid.shape}" for name, grid in grids.items())
        raise ValueError(f"maps must be grids (h, w) of one shape, h and w from 1; they are {found}")
    figure = make_subplots(1, len(grids), horizontal_spacing=0.03)
    for column, (name, grid) in enumerate(grids.items(), start=1):
        figure.add_heatmap(z=grid, coloraxis="coloraxis", xgap=1, ygap=1, texttemplate="%{z:.2~r}", row=1, col=column,
                           hoverongaps=False, hovertemplate="row %{y}, column %{x}: %{z:.3~r}<extra></extra>")
        figure.update_xaxes(title_text=name, constrain="domain", col=column)
        figure.update_yaxes(scaleanchor=f"x{column}" if column > 1 else "x", constrain="domain", col=column)
    figure.update_xaxes(showgrid=False, showticklabels=False, ticks="")
    figure.update_yaxes(showgrid=False, showticklabels=False, ticks="", autorange="reversed")
    bar = {"title": {"text": label, "side": "right"}, "thickness": 12}
    return finish(figure, look, title, summary, width=min(900, 140 + 330 * len(grids)), height=420, left=24,
                  plot_bgcolor="#DCDCD8", coloraxis={"colorscale": "Viridis_r", "colorbar": bar})


def mask_picture(influences: Mapping[str, Map] | Map, place: tuple[int, int], **look: Any) -> go.Figure:
    """Where priors look for the token at `place` (row, column): each place's share of the influence (h, w), in %.

    Places of no influence at all are grey, `place` is framed. influences: from `arcvq.priors.influence`, all from 0.
    The summary counts the places seen before `place` in raster order, and from it on, where a prior must see none.
    Raises ValueError for maps that do not fit, a place outside the grid, and influence below 0.
    """
    shares, seen, (row, column) = {}, [], place
    for name, values in named(influences, "prior").items():
        grid = array(values)
        if not (0 <= row < len(grid) and 0 <= column < grid.shape[-1]):
            raise ValueError(f"place is {place}; it must lie in the grid of {name}, which is {grid.shape}")
        if not (grid >= 0).all():
            raise ValueError(f"the influence of {name} must be from 0 everywhere; its least is {grid.min()}")
        shares[name] = np.where(grid > 0, 100 * grid / (grid.sum() or 1), np.nan)
        earlier, later = np.split(grid.flatten() > 0, [row * grid.shape[1] + column])
        seen.append(f"{name} sees {earlier.sum()} of {earlier.size} earlier places and {later.sum()} of the other "
                    f"{later.size}")
    text = f"For the token at row {row}, column {column} (from 0, framed): {'; '.join(seen)}."
    figure = place_maps(shares, "share of the influence (%)", "Where a prior looks", text, **look)
    frame = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return figure.add_shape(type="rect", line={"color": VERMILLION, "width": 4}, row=1, col="all", **frame)
