"""Codes of many dimensions on maps, and maps of the tokens of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Real
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.analysis.projections import Projection
from arcvq.figures.parts import (
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
    as_images,
    as_numbers,
    finish,
)
from arcvq.runtime.checks import as_indices
from arcvq.runtime.wording import counted

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
        projection: Where the K codes are drawn, of `arcvq.analysis.projections`; codes at NaN are
            left out.
        color: (K,), a number for each code, or with `classes` the number of its class; codes of no
            class (-1) are hollow.
        label: What `color` is, with the unit.
        log: Color on a log scale, for numbers from 0; codes of 0 are hollow.
        classes: Names of the classes.
        hover: More numbers (K,) by name to show under the pointer.
        indices: (K,), the indices of the codes, where the projection is of some codes alone.
        chosen: The index of a code to ring.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Its traces are the codes, the hollow codes and the ring; `customdata` begins
        with the index.

    Raises:
        ValueError: For numbers or classes that do not fit the codes.
    """
    points = projection.points
    count, axes = points.shape
    numbers = np.arange(count) if indices is None else as_numbers(indices, count, "indices")
    values = np.ones(count) if color is None else as_numbers(color, count, label)
    table = {"code": numbers}
    if color is not None and not classes:
        table[label] = values
    for name, column in (hover or {}).items():
        table[name] = as_numbers(column, count, name)
    is_placed = np.isfinite(points).all(axis=1)
    rows, note = _drawn(is_placed)
    is_hollow = _hollow(values, log, classes)[rows]
    solid = rows[~is_hollow]
    quantity = label.split(" (")[0]
    zero = "unused codes" if quantity == "usage" else f"{quantity} 0"
    of_hollow = "no class" if classes else zero

    size = 8 if axes == 2 else 4
    marker = {"size": size, "symbol": "circle", "opacity": 0.85, "color": BLUE}
    if color is not None:
        marker |= _shades(values[solid], label, log, classes)
    hollow = {"size": size - 1, "symbol": "circle-open", "opacity": 0.6, "color": GRAY}
    ring = {"size": 2 * size, "symbol": "circle-open", "color": VERMILLION, "line": {"width": 3}}
    ringed = np.flatnonzero(is_placed & (numbers == chosen))
    # Always three traces, some of them empty, so that a live figure can change them in place.
    groups = (
        ("codes", solid, marker),
        (of_hollow, rows[is_hollow], hollow),
        (f"code {chosen}", ringed, ring),
    )
    data = np.column_stack([*table.values()]).astype(np.float32)
    template = _hover_template(table)
    figure = Figure()
    for name, group, look_of_group in groups:
        style: dict[str, Any] = {"marker": look_of_group, "customdata": data[group]}
        add_points(figure, points[group], name, hovertemplate=template, **style)
        figure.data[-1].showlegend = len(group) > 0

    layout = _lay_out_map(figure, axes)
    summary = f"{projection.trust}{note}"
    return finish(figure, look, f"Map of the codes ({projection.method})", summary, **layout)


def _hollow(values: np.ndarray, log: bool, classes: Sequence[str]) -> Bool[np.ndarray, " K"]:
    """Which codes have no class, or a number that a log scale cannot show."""
    if classes:
        return values < 0
    if log:
        return values <= 0
    return np.zeros(len(values), bool)


def _hover_template(columns: Mapping[str, np.ndarray]) -> str:
    """What the pointer shows: a line for each column of `customdata`; whole numbers are whole."""
    lines = []
    for place, (name, values) in enumerate(columns.items()):
        digits = ",.0f" if (values % 1 == 0).all() else ",.4~g"
        if name == "code":
            digits = ".0f"
        lines.append(f"{name}: %{{customdata[{place}]:{digits}}}")
    return "<br>".join(lines) + "<extra></extra>"


def _lay_out_map(figure: Figure, axes: int) -> dict[str, int]:
    """Name the axes and give them one scale, since gaps in different directions are compared.

    Returns:
        The sizes of the figure, for `finish`.
    """
    if axes == 3:
        set_scene(figure, None, names=MAP_AXES)
        return {"width": 760, "height": 620, "left": 24, "bottom": 8}
    figure.update_xaxes(title_text=MAP_AXES[0])
    figure.update_yaxes(title_text=MAP_AXES[1], scaleanchor="x")
    return {"width": 760, "height": 640}


def _drawn(is_placed: Bool[np.ndarray, " K"]) -> tuple[Int[np.ndarray, " n"], str]:
    """The codes to draw, and a sentence that says so if there are too many."""
    placed = np.flatnonzero(is_placed)
    sample, note = thin(len(placed), "codes")
    return placed[sample], note


def _shades(values: np.ndarray, label: str, log: bool, classes: Sequence[str]) -> dict[str, Any]:
    """Return the marker properties that show numbers or classes by color."""
    if classes:
        return _class_shades(values, label, classes)
    style: dict[str, Any] = {"color": values, "colorscale": "Viridis_r"}
    if log:
        style |= usage_scale(values.max(initial=1), label, len=0.8)
        style["color"] = np.log10(values)
        return style
    # Equal ends would leave plotly to choose the range.
    style |= {"cmin": float(values.min()), "cmax": float(values.max()) + 1e-9}
    style["colorbar"] = color_bar(label, len=0.8, tickmode="auto")
    return style


def _class_shades(values: np.ndarray, label: str, classes: Sequence[str]) -> dict[str, Any]:
    count = len(classes)
    numbers = values.astype(int)
    as_indices(torch.tensor(numbers), count, "classes")
    # A scale of steps: each color begins where the last one ends.
    edges = np.linspace(0, 1, count + 1).repeat(2)[1:-1]
    steps = np.resize(CLASSES, count).repeat(2)
    symbols = np.resize(SYMBOLS, 1 + count // 10)
    ticks = {"tickmode": "array", "tickvals": np.arange(count), "ticktext": classes}
    return {
        "color": values,
        "colorscale": list(zip(edges, steps, strict=True)),
        "symbol": symbols[numbers // 10],
        "cmin": -0.5,
        "cmax": count - 0.5,
        "colorbar": color_bar(label, len=0.8, **ticks),
    }


def code_maps(
    projections: Mapping[str, Projection], usage: Mapping[str, Counts], **look: Any
) -> Figure:
    """Draw maps of several codebooks side by side, with usage by color on one log scale.

    Args:
        projections: By name, onto 2 axes; each map has axes of its own.
        usage: By the same names (K,), how many tokens chose each code; unused codes are hollow.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For names or counts that do not fit.
    """
    if projections.keys() != usage.keys():
        names = ", ".join(projections)
        given = ", ".join(usage)
        raise ValueError(f"projections of {names} need the usage of the same, not {given}")
    figure = make_subplots(1, len(projections), horizontal_spacing=0.04)
    text = []
    for column, (name, projection) in enumerate(projections.items(), start=1):
        codes, unused, _ = code_map(projection, usage[name], log=True).data
        figure.add_trace(codes, 1, column)
        figure.add_trace(unused, 1, column)
        figure.update_xaxes(title_text=name, col=column)
        count = len(projection.points)
        text.append(f"{name}: {counted(count, 'code')}, {projection.kept}")
    most = max(array(counts).max() for counts in usage.values())
    # One scale for all maps, and one bar beside the first.
    figure.update_traces(marker=usage_scale(most, len=0.8), selector={"name": "codes"})
    figure.update_traces(showlegend=False, marker_showscale=False)
    figure.data[0].marker.showscale = True
    bare = {"showticklabels": False, "ticks": ""}
    figure.update_xaxes(bare)
    figure.update_yaxes(bare)
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
        label: What `values` are, with the unit.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For grids and images of different number, and for an index without a value.
    """
    tiles = as_images(images, "images")
    grids = torch.as_tensor(indices).cpu()
    if len(tiles) != len(grids) or grids.ndim != 3:
        found = tuple(grids.shape)
        raise ValueError(f"{len(tiles)} images need as many grids (h, w) of indices, not {found}")
    numbers = np.arange(int(grids.max()) + 1) if values is None else array(values)
    grids = as_indices(grids, len(numbers))

    shown = grids[:8].numpy()
    count, high, wide = shown.shape
    figure = make_subplots(2, count, horizontal_spacing=0.01, vertical_spacing=0.03)
    hover = "row %{y}, column %{x}<br>code %{customdata}<extra></extra>"
    style = {"coloraxis": "coloraxis", "xgap": 1, "ygap": 1, "hovertemplate": hover}
    for column, grid in enumerate(shown, start=1):
        pixels = to_pixels(tiles[column - 1])
        figure.add_image(z=pixels, hoverinfo="skip", row=1, col=column)
        figure.add_heatmap(z=numbers[grid], customdata=grid, row=2, col=column, **style)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed")
    square_panels(figure)
    shades = "Turbo" if values is None else "Viridis_r"
    scale = {"colorscale": shades, "colorbar": color_bar(label, len=0.5, y=0.25)}
    drawn = counted(count, "image")
    if count < len(tiles):
        drawn = f"{count} of {counted(len(tiles), 'image')}"
    different = counted(len(np.unique(shown)), "different code")
    text = f"{drawn}, {high} x {wide} tokens each; {different}."
    layout = {"height": 380, "bottom": 16, "left": 24, "coloraxis": scale}
    return finish(figure, look, "Tokens", text, **layout)
