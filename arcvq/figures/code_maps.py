"""Codebooks of many dimensions as maps and on the sphere, with their trust beside them; and maps of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int, Real
from plotly.subplots import make_subplots
from torch import Tensor

from arcvq.analysis.projections import Projection
from arcvq.figures import theme
from arcvq.figures.image_grids import Images, _checked
from arcvq.figures.sphere import sphere
from arcvq.figures.theme import Counts, array, finish, thin
from arcvq.images import to_uint8

Values = Real[Tensor, " _K"] | Real[np.ndarray, " _K"]
Norms = Float[Tensor, " _K"] | Float[np.ndarray, " _K"]
Indices = Int[Tensor, "_n _h _w"] | Int[np.ndarray, "_n _h _w"]
# The palette and two more, so that ten classes differ.
CLASSES = (*theme.PALETTE, "#8C510A", "#A6A6A0")
SYMBOLS = ("circle", "diamond", "square", "cross", "x")


def code_map(projection: Projection, color: Values | None = None, *, label: str = "usage (tokens)",
             log: bool = False, classes: Sequence[str] = (), hover: Mapping[str, Values] | None = None,
             indices: Int[np.ndarray, " _K"] | None = None, chosen: int | None = None, **look: Any) -> go.Figure:
    """Codes of a projection as points on a map of 2 or 3 axes, with its trust as the caption.

    color: a number for each code, named by `label` (`log`: on a log scale, zeros hollow); or with `classes` (names)
    the number of its class, -1 for none (hollow). hover: more numbers to show under the pointer. indices: the codes'
    indices, where the projection is of some codes alone. chosen: the index of a code to ring. Traces are the codes, the
    hollow ones and the ring; `customdata` begins with the index. Raises ValueError for what does not fit.
    """
    points, count = projection.points, len(projection.points)
    values, numbers = np.zeros(count) if color is None else array(color), np.arange(count)
    numbers = numbers if indices is None else indices
    shown = {label: values} if color is not None and not classes else {}
    shown = {"code": numbers} | shown | {name: array(column) for name, column in (hover or {}).items()}
    for name, column in {label: values, **shown}.items():
        if column.shape != (count,):
            raise ValueError(f"{count} codes need as many numbers of {name!r}, not {column.shape}")
    if classes and not -1 <= values.min() <= values.max() < len(classes):
        raise ValueError(f"classes reach from {values.min():.0f} to {values.max():.0f}; allowed are -1 to "
                         f"{len(classes) - 1}, one for each name")
    rows, note = thin(count, "codes")
    hollow = rows[(values[rows] < 0) if classes else (values[rows] <= 0) & log]
    solid, size = np.setdiff1d(rows, hollow), 8 if points.shape[1] == 2 else 4
    marker = _colours(values, label, log, classes)
    marker |= {"color": marker["color"][solid]} if color is not None else {"color": theme.BLUE}
    symbols = [SYMBOLS[int(value) // len(CLASSES) % len(SYMBOLS)] for value in values[solid]] if classes else "circle"
    figure, ring = go.Figure(), np.flatnonzero(numbers == chosen)
    _add(figure, points, solid, shown, "codes", marker | {"size": size, "symbol": symbols, "opacity": 0.85})
    empty = {"size": size - 1, "symbol": "circle-open", "color": theme.GRAY, "opacity": 0.6}
    _add(figure, points, hollow, shown, "no class" if classes else f"{label.split(' (')[0]} 0", empty)
    mark = {"size": 2 * size, "symbol": "circle-open", "color": theme.VERMILLION, "line": {"width": 3}}
    _add(figure, points, ring, shown, f"code {chosen}", mark)
    return _framed(figure, points, look, f"{projection.method} of the codes", f"{projection.trust}{note}")


def code_maps(projections: Mapping[str, Projection], usage: Mapping[str, Counts], **look: Any) -> go.Figure:
    """Maps (2 axes) of several codebooks side by side, all coloured by `usage` on one log scale, each on its own axes.

    Raises ValueError for names or counts that do not fit.
    """
    if projections.keys() != usage.keys():
        raise ValueError(f"projections of {', '.join(projections)} need the usage of the same, not {', '.join(usage)}")
    figure = make_subplots(1, len(projections), horizontal_spacing=0.04)
    top = max(float(array(counts).max()) for counts in usage.values())
    for column, (name, seen) in enumerate(projections.items(), start=1):
        for trace in code_map(seen, usage[name], log=True).data[:2]:
            marker = _colours(np.array([top]), "usage (tokens)", True, ()) if trace.name == "codes" else {}
            marker.pop("color", None)
            marker["showscale"] = trace.name == "codes" and column == 1
            figure.add_trace(trace.update(showlegend=False, marker=marker), 1, column)
    figure.update_xaxes(showticklabels=False, ticks="").update_yaxes(showticklabels=False, ticks="")
    for column, name in enumerate(projections, start=1):
        figure.update_xaxes(title_text=name, col=column)
        figure.update_yaxes(scaleanchor=f"x{column}" if column > 1 else "x", constrain="domain", col=column)
    trust = [f"{name}: {len(seen.points)} codes, nearest kept {seen.neighbors_kept:.0%}"
             for name, seen in projections.items()]
    return finish(figure, look, "Maps side by side", f"{'; '.join(trust)}. Scales differ from map to map.", left=24,
                  height=400)


def projected_sphere(projection: Projection, norms: Norms | None = None, usage: Counts | None = None,
                     radius: float | int | None = None, **look: Any) -> go.Figure:
    """Codes at their drawn directions on the sphere and at their true `norms` from its centre (1 without norms).

    usage and radius as in `sphere`. The caption carries the trust. Raises ValueError for a projection onto a map.
    """
    if not projection.sphere:
        raise ValueError(f"this projection ({projection.method}) is a map, not a sphere; make one with sphere=True")
    lengths = np.ones(len(projection.points)) if norms is None else array(norms)
    if lengths.shape != (len(projection.points),):
        raise ValueError(f"{len(projection.points)} codes need as many norms, not {lengths.shape}")
    places = projection.points * lengths[:, None]
    unit = norms is None and radius is None
    ball: dict[str, Any] = {"radius": 1.0 if unit else radius, "usage": usage}
    text = f"{projection.trust} {theme.summary(sphere(places, **ball))}"
    figure = sphere(places, **ball, **{"title": f"Codes on the sphere: {projection.method}", "summary": text} | look)
    if unit:
        figure.update_traces(name="unit sphere", selector={"name": "ball of radius M(t)"})
    names = {f"{one}axis_title": f"axis {number}" for number, one in enumerate("xyz", start=1)}
    return figure if projection.method == "exact" else figure.update_scenes(**names)


def with_patch(figure: go.Figure, patch: Float[Tensor, "_C _H _W"], title: str) -> go.Figure:
    """The map of `code_map` on the left, and on the right an image (C, H, W) in [-1, 1], such as a code decoded."""
    picture = to_uint8(_checked(patch[None], "patch")[0]).permute(1, 2, 0).numpy()
    figure.add_image(z=picture, xaxis="x9", yaxis="y9", hoverinfo="skip")
    bare = {"showgrid": False, "showline": False, "ticks": "", "showticklabels": False, "constrain": "domain"}
    top = {"title": {"text": title}, "side": "top", "anchor": "y9", "domain": [0.82, 1]}
    left = {"anchor": "x9", "domain": [0.25, 0.75], "scaleanchor": "x9", "autorange": "reversed"}
    figure.update_layout(width=figure.layout.width + 220, xaxis_domain=[0, 0.68], scene_domain_x=[0, 0.68],
                         xaxis9=bare | top, yaxis9=bare | left)
    return figure.update_traces(marker_colorbar={"x": 0.7, "xanchor": "left"}, selector={"name": "codes"})


def token_map(images: Images, indices: Indices, values: Values | None = None, *, label: str = "code",
              **look: Any) -> go.Figure:
    """Images (n, C, H, W) in [-1, 1] above their grids of indices (n, h, w); the first 8 are drawn.

    Each code has a colour, by its number or by `values` (K,), named by `label`; the pointer shows row, column and
    code. Raises ValueError for grids and images of different number, and for an index without a value.
    """
    images, grids = _checked(images, "images"), array(indices).astype(int)
    if len(images) != len(grids) or grids.ndim != 3:
        raise ValueError(f"{len(images)} images need as many grids (h, w) of indices, not {grids.shape}")
    numbers = np.arange(grids.max() + 1) if values is None else array(values)
    if grids.min() < 0 or grids.max() >= len(numbers):
        raise ValueError(f"indices reach from {grids.min()} to {grids.max()}; values stand for 0 to {len(numbers) - 1}")
    shown = min(8, len(images))
    figure = make_subplots(2, shown, horizontal_spacing=0.01, vertical_spacing=0.03)
    for column, (image, grid) in enumerate(zip(images[:shown], grids[:shown], strict=True), start=1):
        picture = go.Image(z=to_uint8(image).permute(1, 2, 0).numpy(), hoverinfo="skip")
        cells = go.Heatmap(z=numbers[grid], customdata=grid, coloraxis="coloraxis", xgap=1, ygap=1,
                           hovertemplate="row %{y}, column %{x}<br>code %{customdata}<extra></extra>")
        figure.add_trace(picture, 1, column).add_trace(cells, 2, column)
    figure.update_xaxes(visible=False, constrain="domain").update_yaxes(visible=False, autorange="reversed")
    for number, axis in enumerate(figure.select_yaxes(), start=1):
        axis.update(scaleanchor=f"x{number}".removesuffix("1") if number == 1 else f"x{number}", constrain="domain")
    bar = _bar(label) | {"len": 0.5, "y": 0.25}
    scale = {"colorscale": "Turbo" if values is None else "Viridis_r", "colorbar": bar}
    text = (f"{shown} of {len(images)} images and the codes of their {grids.shape[1]} x {grids.shape[2]} places; "
            f"{len(np.unique(grids[:shown]))} different codes.")
    return finish(figure, look, "Tokens", text, height=380, coloraxis=scale, bottom=16, left=24)


def _colours(values: np.ndarray, label: str, log: bool, classes: Sequence[str]) -> dict[str, Any]:
    """Colours, scale and colour bar for all codes; classes get a bar of steps."""
    if classes:
        steps = np.linspace(0, 1, len(classes) + 1)
        scale = [(edge, CLASSES[number % len(CLASSES)]) for number in range(len(classes))
                 for edge in steps[number:number + 2]]
        ticks = {"tickmode": "array", "tickvals": np.arange(len(classes)), "ticktext": list(classes)}
        return {"color": values, "colorscale": scale, "cmin": -0.5, "cmax": len(classes) - 0.5,
                "colorbar": _bar(label) | ticks}
    if not log:
        low, high = float(values.min()), float(values.max())
        return {"color": values, "colorscale": "Viridis_r", "cmin": low, "cmax": high + 1e-9 * (low == high),
                "colorbar": _bar(label) | {"tickmode": "auto"}}
    top = int(np.ceil(np.log10(max(10, values.max()))))
    names = [f"{10**power:,}" for power in range(top + 1)]
    ticks = {"tickmode": "array", "tickvals": np.arange(top + 1), "ticktext": names}
    return {"color": np.log10(np.maximum(values, 1e-300)), "colorscale": "Viridis_r", "cmin": 0, "cmax": top,
            "colorbar": _bar(label) | ticks}


def _bar(label: str) -> dict[str, Any]:
    return {"title": {"text": label, "side": "right"}, "thickness": 12, "len": 0.8}


def _add(figure: go.Figure, points: np.ndarray, rows: np.ndarray, shown: Mapping[str, np.ndarray], name: str,
         marker: dict[str, Any]) -> None:
    """Some rows of the points as a trace; the pointer shows what `shown` says of them."""
    add = figure.add_scatter if points.shape[1] == 2 else figure.add_scatter3d
    table = np.column_stack([column[rows] for column in shown.values()]).astype(np.float32)
    lines = [f"{label}: %{{customdata[{place}]:,.4~g}}" for place, label in enumerate(shown)]
    add(**dict(zip("xyz", points[rows].astype(np.float32).T, strict=False)), mode="markers", name=name, marker=marker,
        customdata=table, hovertemplate="<br>".join(lines) + "<extra></extra>", showlegend=len(rows) > 0)


def _framed(figure: go.Figure, points: np.ndarray, look: dict, title: str, text: str) -> go.Figure:
    """Axes of one scale, since gaps in different directions are compared."""
    if points.shape[1] == 2:
        figure.update_xaxes(title_text="map axis 1").update_yaxes(title_text="map axis 2", scaleanchor="x")
        return finish(figure, look, title, text, width=760, height=640)
    axes = {f"{one}axis": {"title": f"map axis {n}", "showbackground": False, "nticks": 5}
            for n, one in enumerate("xyz", start=1)}
    camera = {"eye": {"x": 1.3, "y": 1.3, "z": 0.8}, "projection": {"type": "orthographic"}}
    figure.update_scenes(aspectmode="data", camera=camera, **axes)
    return finish(figure, look, title, text, width=760, height=620, left=24, bottom=8)
