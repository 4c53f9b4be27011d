"""What a prior does at each place of the grid of tokens: what it costs there, where it looks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.figures.parts import color_bar, square_panels
from arcvq.figures.theme import VERMILLION, Array, array, finish, named

Map = Float[Array, "_h _w"]


def place_maps(
    maps: Mapping[str, Map] | Map, label: str, title: str, summary: str, **look: Any
) -> Figure:
    """Draw numbers at the places of a grid, all on one color scale.

    Args:
        maps: Grids (h, w) by name, one for each panel, or a single one; NaN is gray.
        label: What the numbers are, with the unit.
        title: Title of the figure.
        summary: What the figure shows, in one line.
        **look: Width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For no maps, and maps that are empty or not of one shape.
    """
    grids = {name: array(grid) for name, grid in named(maps, label).items()}
    _check_grids(grids)
    figure = make_subplots(1, len(grids), horizontal_spacing=0.03)
    for column, (name, grid) in enumerate(grids.items(), start=1):
        figure.add_heatmap(
            z=grid,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            texttemplate="%{z:.2~r}",
            hoverongaps=False,
            hovertemplate="row %{y}, column %{x}: %{z:.3~r}<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=name, constrain="domain", col=column)
    # Rows count from the top, as in an image.
    bare = {"showgrid": False, "showticklabels": False, "ticks": ""}
    figure.update_xaxes(bare)
    figure.update_yaxes(bare, autorange="reversed")
    square_panels(figure)
    scale = {"colorscale": "Viridis_r", "colorbar": color_bar(label)}
    layout = {"height": 420, "left": 24, "plot_bgcolor": "#DCDCD8", "coloraxis": scale}
    width = min(900, 140 + 330 * len(grids))
    return finish(figure, look, title, summary, width=width, **layout)


def _check_grids(grids: dict[str, np.ndarray]) -> None:
    """Raise ValueError for grids that are empty or not of one shape."""
    shapes = {grid.shape for grid in grids.values()}
    shape = shapes.pop()
    if shapes or len(shape) != 2 or not all(shape):
        found = [grid.shape for grid in grids.values()]
        raise ValueError(
            f"maps must be grids (h, w) of one shape, h and w from 1; they are {found}"
        )


def mask_picture(
    influences: Mapping[str, Map] | Map, place: tuple[int, int], **look: Any
) -> Figure:
    """Draw where priors look for a token: each place's share of the influence, in percent.

    Args:
        influences: Grids (h, w) of `arcvq.priors.influence` by name of the prior, or a single one,
            all from 0. Places of no influence are gray.
        place: Row and column of the token, which is framed.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Its caption counts the places that each prior sees before `place` in raster
        order, and from it on, where it must see none.

    Raises:
        ValueError: For no grids, grids that are empty or not of one shape, a place outside of
            them, and influence below 0.
    """
    row, column = place
    shares = {}
    seen = []
    for name, values in named(influences, "prior").items():
        grid = array(values)
        if not (0 <= row < len(grid) and 0 <= column < grid.shape[-1]):
            raise ValueError(
                f"place is {place}; it must lie in the grid of {name}, which is {grid.shape}"
            )
        if not (grid >= 0).all():
            least = grid.min()
            raise ValueError(
                f"the influence of {name} must be from 0 everywhere; its least is {least}"
            )
        # NaN is drawn in gray: a place without influence differs from one with little.
        looked = grid > 0
        percent = 100 * grid / (grid.sum() or 1)
        shares[name] = np.where(looked, percent, np.nan)
        # What comes before the place in raster order may be seen, the rest must not.
        order = row * grid.shape[1] + column
        earlier, later = np.split(looked.flatten(), [order])
        seen.append(
            f"{name} sees {earlier.sum()} of {earlier.size} earlier places and {later.sum()} of "
            f"the other {later.size}"
        )
    where = f"the token at row {row}, column {column} (counted from 0; framed)"
    text = f"For {where}: {'; '.join(seen)}."
    figure = place_maps(shares, "share of the influence (%)", "Where a prior looks", text, **look)
    frame = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    style = {"color": VERMILLION, "width": 4}
    return figure.add_shape(type="rect", line=style, row=1, col="all", **frame)
