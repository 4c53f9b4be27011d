"""Codes of many dimensions on maps, and maps of the tokens of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Real
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.analysis.projections import Projection
from arcvq.figures.parts import (
    Rows,
    add_points,
    color_bar,
    set_scene,
    square_panels,
    thin,
    to_pixels,
    usage_scale,
)
from arcvq.figures.theme import (
    BLUE,
    GRAY,
    PALETTE,
    VERMILLION,
    Array,
    Counts,
    Images,
    array,
    check_images,
    check_numbers,
    finish,
)

Values = Real[Array, " _K"]
CLASSES = (*PALETTE, "#8C510A", "#A6A6A0")  # two more, so that ten classes differ
SYMBOLS = ("circle", "diamond", "square", "cross", "x")  # for the first ten classes, the next, ...
MAP_AXES = ("map axis 1", "map axis 2", "map axis 3")


def code_map(
    projection: Projection,
    color: Values | None = None,
    *,
    label: str = "usage (tokens)",
    log: bool = False,
    classes: Sequence[str] = (),
    hover: Mapping[str, Values] | None = None,
    indices: Int[Array, " _K"] | None = None,
    chosen: int | None = None,
    **look: Any,
) -> Figure:
    """Draw codes as points on a map of 2 or 3 axes, with the trust in the projection as caption.

    Args:
        projection: where the K codes are drawn, of `arcvq.analysis.projections`.
        color: (K,), a number for each code, or with `classes` the number of its class; codes of no
            class (-1) are hollow.
        label: what `color` is, with the unit.
        log: color on a log scale, for numbers from 0; codes of 0 are hollow.
        classes: names of the classes.
        hover: more numbers (K,) by name to show under the pointer.
        indices: (K,), the indices of the codes, where the projection is of some codes alone.
        chosen: the index of a code to ring.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Its traces are the codes, the hollow codes and the ring; `customdata` begins
        with the index.

    Raises:
        ValueError: for numbers or classes that do not fit the codes.
    """
    points = projection.points
    count, axes = points.shape
    numbers = np.arange(count) if indices is None else array(indices)
    values = np.ones(count) if color is None else array(color)
    columns = {"code": numbers, label: values, **(hover or {})}
    table = pd.DataFrame(
        {
            name: check_numbers(column, count, f"numbers of {name!r}")
            for name, column in columns.items()
        }
    )
    if color is None or classes:
        del table[label]
    if classes and not -1 <= values.min() <= values.max() < len(classes):
        raise ValueError(
            f"classes reach from {values.min():.0f} to {values.max():.0f}; allowed are -1 to "
            f"{len(classes) - 1}, one for each name"
        )
    empty = (values < 0) if classes else (values <= 0) & log
    rows, note = thin(count, "codes")
    solid = rows[~empty[rows]]
    hollow = rows[empty[rows]]

    size = 8 if axes == 2 else 4
    marker = {"size": size, "symbol": "circle", "opacity": 0.85, "color": BLUE}
    if color is not None:
        marker |= _shades(values[solid], label, log, classes)
    figure = Figure()
    _add_codes(figure, points, table, solid, "codes", marker)
    marker = {"size": size - 1, "symbol": "circle-open", "opacity": 0.6, "color": GRAY}
    name = "no class" if classes else f"{label.split(' (')[0]} 0"
    _add_codes(figure, points, table, hollow, name, marker)
    ring = np.flatnonzero(numbers == chosen)
    line = {"width": 3}
    marker = {"size": 2 * size, "symbol": "circle-open", "line": line, "color": VERMILLION}
    _add_codes(figure, points, table, ring, f"code {chosen}", marker)

    # One scale for all axes, since gaps in different directions are compared.
    layout = {"width": 760, "height": 640}
    if axes == 2:
        figure.update_xaxes(title_text=MAP_AXES[0])
        figure.update_yaxes(title_text=MAP_AXES[1], scaleanchor="x")
    else:
        set_scene(figure, None, names=MAP_AXES)
        layout = {"width": 760, "height": 620, "left": 24, "bottom": 8}
    title = f"{projection.method} of the codes"
    return finish(figure, look, title, f"{projection.trust}{note}", **layout)


def _shades(values: np.ndarray, label: str, log: bool, classes: Sequence[str]) -> dict[str, Any]:
    """Return the marker properties that show numbers or classes by color."""
    if log:
        scale = usage_scale(values.max(initial=1), label, len=0.8)
        return {"color": np.log10(values), **scale}
    if not classes:
        bar = color_bar(label, len=0.8, tickmode="auto")
        ends = {"cmin": float(values.min()), "cmax": float(values.max()) + 1e-9}
        return {"color": values, "colorscale": "Viridis_r", "colorbar": bar, **ends}
    # A scale of steps: each color begins where the last one ends.
    count = len(classes)
    edges = np.linspace(0, 1, count + 1).repeat(2)[1:-1]
    scale = list(zip(edges, np.resize(CLASSES, count).repeat(2), strict=True))
    ticks = {"tickmode": "array", "tickvals": np.arange(count), "ticktext": classes}
    bar = color_bar(label, len=0.8, **ticks)
    symbols = np.resize(np.repeat(SYMBOLS, len(CLASSES)), count)[values.astype(int)]
    ends = {"cmin": -0.5, "cmax": count - 0.5}
    return {"color": values, "colorscale": scale, "colorbar": bar, "symbol": symbols, **ends}


def _add_codes(
    figure: Figure,
    points: Rows,
    table: pd.DataFrame,
    rows: np.ndarray,
    name: str,
    marker: dict[str, Any],
) -> None:
    """Draw some of the codes; the pointer shows their rows of the table."""
    lines = [f"{label}: %{{customdata[{place}]:,.4~g}}" for place, label in enumerate(table)]
    add_points(
        figure,
        points[rows],
        name,
        marker=marker,
        customdata=table.iloc[rows].to_numpy(np.float32),
        hovertemplate="<br>".join(lines) + "<extra></extra>",
    )
    figure.data[-1].showlegend = len(rows) > 0


def code_maps(
    projections: Mapping[str, Projection], usage: Mapping[str, Counts], **look: Any
) -> Figure:
    """Draw maps of several codebooks side by side, with usage by color on one log scale.

    Args:
        projections: by name, onto 2 axes; each map has axes of its own.
        usage: by the same names (K,), how many tokens chose each code; unused codes are hollow.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: for names or counts that do not fit.
    """
    if projections.keys() != usage.keys():
        books = ", ".join(projections)
        raise ValueError(
            f"projections of {books} need the usage of the same, not {', '.join(usage)}"
        )
    figure = make_subplots(1, len(projections), horizontal_spacing=0.04)
    text = []
    for column, (name, projection) in enumerate(projections.items(), start=1):
        codes, unused, _ = code_map(projection, usage[name], log=True).data
        figure.add_trace(codes, 1, column)
        figure.add_trace(unused, 1, column)
        figure.update_xaxes(title_text=name, constrain="domain", col=column)
        kept = f"nearest kept {projection.neighbors_kept:.0%}"
        text.append(f"{name}: {len(projection.points)} codes, {kept}")
    most = max(array(counts).max() for counts in usage.values())
    figure.update_traces(marker=usage_scale(most, len=0.8), selector={"name": "codes"})
    figure.update_traces(showlegend=False, marker_showscale=False)
    figure.data[0].marker.showscale = True
    figure.update_xaxes(showticklabels=False, ticks="")
    figure.update_yaxes(showticklabels=False, ticks="")
    square_panels(figure)
    summary = f"{'; '.join(text)}. Scales differ from map to map."
    return finish(figure, look, "Maps side by side", summary, left=24, height=400)


def token_map(
    images: Images,
    indices: Int[Array, "_n _h _w"],
    values: Values | None = None,
    *,
    label: str = "code",
    **look: Any,
) -> Figure:
    """Draw images above their grids of tokens; the pointer shows row, column and code.

    Args:
        images: (n, C, H, W) in [-1, 1], with C 1 or 3; the first 8 are drawn.
        indices: (n, h, w), the codes of their places.
        values: (K,), a number for each code that gives it its color; by default its index.
        label: what `values` are, with the unit.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: for grids and images of different number, and for an index without a value.
    """
    tiles = check_images(images, "images")
    grids = array(indices).astype(int)
    if len(tiles) != len(grids) or grids.ndim != 3:
        raise ValueError(
            f"{len(tiles)} images need as many grids (h, w) of indices, not {grids.shape}"
        )
    numbers = np.arange(grids.max() + 1) if values is None else array(values)
    if grids.min() < 0 or grids.max() >= len(numbers):
        found = f"indices reach from {grids.min()} to {grids.max()}"
        raise ValueError(f"{found}; values stand for 0 to {len(numbers) - 1}")

    shown = grids[:8]
    figure = make_subplots(2, len(shown), horizontal_spacing=0.01, vertical_spacing=0.03)
    hover = "row %{y}, column %{x}<br>code %{customdata}<extra></extra>"
    cells = {"coloraxis": "coloraxis", "xgap": 1, "ygap": 1, "hovertemplate": hover}
    for column, grid in enumerate(shown, start=1):
        pixels = to_pixels(tiles[column - 1])
        figure.add_image(z=pixels, hoverinfo="skip", row=1, col=column)
        figure.add_heatmap(z=numbers[grid], customdata=grid, row=2, col=column, **cells)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed")
    square_panels(figure)
    shades = "Turbo" if values is None else "Viridis_r"
    scale = {"colorscale": shades, "colorbar": color_bar(label, len=0.5, y=0.25)}
    _, high, wide = grids.shape
    text = (
        f"{len(shown)} of {len(tiles)} images and the codes of their {high} x {wide} places; "
        f"{len(np.unique(shown))} different codes."
    )
    return finish(figure, look, "Tokens", text, height=380, coloraxis=scale, bottom=16, left=24)
