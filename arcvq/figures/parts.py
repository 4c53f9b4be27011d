"""What several figures share: points, bars, arrows, balls, axes, scales of colors, image sheets."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from numpy import cos, pi, sin
from numpy.linalg import norm, svd
from PIL import Image
from plotly.colors import hex_to_rgb, sample_colorscale
from plotly.graph_objects import Figure, Surface
from torch import Tensor
from torch.nn.functional import pad

from arcvq.figures.theme import BLACK, GRAY, ORANGE, PAPER, SKY, Number
from arcvq.images import to_uint8

Rows = Float[np.ndarray, "_n _D"]  # points or directions, with D 2 or 3 where they are drawn
Direction = Float[np.ndarray, " _D"]
Pixels = UInt8[np.ndarray, "_height _width 3"]

COMPONENTS = ("component 1", "component 2", "component 3")
BLANK = 0.975  # stands for the paper, on the scale of images
SHADES = 64  # of the color scale Inferno
PAPER_PIXEL = hex_to_rgb(PAPER)


def thin(count: int, what: str, limit: int = 20_000) -> tuple[np.ndarray, str]:
    """Choose which of `count` points to draw, always the same ones.

    Returns:
        The indices of at most `limit` points in order, and a sentence for the caption that says
        so, empty if all are drawn.
    """
    if count <= limit:
        return np.arange(count), ""
    # A fixed seed: the same figure twice shows the same points.
    rows = np.random.default_rng(0).choice(count, limit, replace=False)
    note = f" {limit:,} of {count:,} {what} are drawn."
    return np.sort(rows), note


def evenly(count: int, limit: int) -> np.ndarray:
    """Choose at most `limit` of `count` rows, evenly spaced, the first and the last among them."""
    chosen = min(count, limit)
    places = np.linspace(0, count - 1, chosen)
    return places.round().astype(int)


def measured(history: pd.DataFrame, column: str) -> Float[np.ndarray, "2 n"]:
    """Return steps and values of a column, without the rows where it was not measured (NaN).

    Of more than 20,000 rows as many are returned, evenly spaced from the first to the last.
    """
    columns = history.reindex(columns=["step", column])
    seen = columns.dropna().to_numpy(float)
    return seen[evenly(len(seen), 20_000)].T


def error_bars(means: pd.Series, low: pd.Series, high: pd.Series, color: str = BLACK) -> dict:
    """Describe error bars from `low` to `high`; where these are NaN, there is none."""
    above = (high - means).fillna(0)
    below = (means - low).fillna(0)
    return {"type": "data", "array": above, "arrayminus": below, "color": color, "thickness": 1.5}


def means_of_runs(table: pd.DataFrame) -> str:
    """Say in a caption what the numbers of a `tables.summary` are, and of how many runs."""
    most = table.runs.max()
    if most == 1:
        return "single runs"
    return f"means of {most} runs" if table.runs.min() == most else f"means of up to {most} runs"


def means_with_intervals(table: pd.DataFrame) -> str:
    """Say in a caption what the numbers of a `tables.summary` and their error bars are."""
    most = table.runs.max()
    if most == 1:
        return means_of_runs(table)
    # A 95% bootstrap interval of so few values reaches from the lowest to the highest.
    intervals = "their range" if most <= 3 else "95% intervals (bootstrap over seeds)"
    return f"{means_of_runs(table)} with {intervals}"


def name_once(figure: Figure) -> None:
    """Keep the first entry of each name in the legend; what has no name is not in it."""
    seen = set()
    for trace in figure.data:
        trace.showlegend = bool(trace.name) and trace.name not in seen
        seen.add(trace.name)


def square_panels(figure: Figure) -> None:
    """Give both axes of each panel one scale."""
    figure.for_each_yaxis(lambda axis: axis.update(scaleanchor=axis.anchor, constrain="domain"))


def add_points(figure: Figure, rows: Rows, name: str, mode: str = "markers", **style: Any) -> None:
    """Draw points in 2 or 3 dimensions, or a line through them; named ones are in the legend."""
    # float32 is enough for a screen and halves the size of a stored figure.
    columns = rows.T.astype(np.float32)
    axes = dict(zip("xyz", columns, strict=False))
    add = figure.add_scatter3d if "z" in axes else figure.add_scatter
    add(**axes, name=name, mode=mode, showlegend=bool(name), **style)


def ball_surface() -> Float[np.ndarray, "3 17 33"]:
    """Return x, y and z of the unit sphere, at 17 polar angles by 33 turns around the axis."""
    polar = np.linspace(0, pi, 17)[:, None]
    around = np.linspace(0, 2 * pi, 33)
    x = sin(polar) * cos(around)
    y = sin(polar) * sin(around)
    z = cos(polar) + 0 * around
    return np.stack([x, y, z]).astype(np.float32)


def add_ball(figure: Figure, radius: Number, name: str) -> None:
    """Draw a translucent ball around the origin, with rings; a named one is in the legend."""
    x, y, z = radius * ball_surface()
    # Without rings a flat, translucent ball looks like a disc.
    rings = {
        "show": True,
        "start": -radius,
        "end": radius,
        "size": radius / 3,  # from one ring to the next
        "color": GRAY,
    }
    flat = {"ambient": 1, "diffuse": 0, "specular": 0}
    ball = Surface(x=x, y=y, z=z, name=name, showlegend=bool(name), hoverinfo="skip")
    ball.update(colorscale=[SKY, SKY], showscale=False, opacity=0.14)
    ball.update(contours_z=rings, lighting=flat)
    figure.add_trace(ball)


def add_circle(figure: Figure, **place: int) -> None:
    """Draw the unit circle, in a panel where `place` names one."""
    corners = {"x0": -1, "x1": 1, "y0": -1, "y1": 1}
    figure.add_shape(type="circle", line_color=GRAY, layer="between", **corners, **place)


def normals(code: Direction) -> Rows:
    """Return the directions at right angles to a unit vector: (1, 2) or (2, 3)."""
    # These rows are orthonormal, and the first lies along the vector.
    _, _, rows = svd(code[None])
    return rows[1:]


def cap(code: Direction, angle: Number) -> Rows:
    """Outline the directions within `angle` (radians) of a unit vector.

    Returns:
        In 2 dimensions an arc and the rays to its ends; in 3 dimensions a ring, just above the
        unit sphere.
    """
    turn = np.linspace(-1, 1, 91)[:, None]
    if len(code) == 2:
        (across,) = normals(code)
        arc = _turned(code, across, turn * angle)
        # The origin before and after the arc makes both rays.
        return np.pad(arc, ((1, 1), (0, 0)))
    across, up = normals(code)
    around = _turned(across, up, turn * pi)
    ring = _turned(code, around, angle)
    # Just above the shell, which would hide parts of it.
    return 1.004 * ring


def _turned(start: np.ndarray, end: np.ndarray, angle: Any) -> Rows:
    """The direction at an angle (radians) from `start`, on the way to `end` at right angles."""
    return cos(angle) * start + sin(angle) * end


def add_cap(
    figure: Figure, code: Direction, angle: Number, name: str, dash: str, **style: Any
) -> None:
    """Draw the outline of a `cap`."""
    width = 2 if len(code) == 2 else 4
    line = {"color": ORANGE, "width": width, "dash": dash}
    outline = cap(code, angle)
    add_points(figure, outline, name, "lines", line=line, **style)


def arrow_lines(starts: Rows, moves: Rows) -> tuple[Rows, np.ndarray]:
    """Return three points for each arrow: start, tip and a gap; and the sizes of their markers.

    Only tips have a marker, as the head of the arrow, and only where the arrow is longer than 0.02.
    """
    dim = starts.shape[1]
    tips = starts + moves
    gaps = np.full_like(starts, np.nan)
    points = np.stack([starts, tips, gaps], axis=1)
    is_longer = norm(moves, axis=1) > 0.02
    size = 11 if dim == 2 else 3
    # A marker for start, tip and gap; only the tip has a size.
    sizes = np.outer(is_longer, [0, size, 0])
    return points.reshape(-1, dim), sizes.ravel()


def add_arrows(figure: Figure, starts: Rows, moves: Rows, color: str, **style: Any) -> None:
    """Draw arrows from `starts` along `moves`; in 3 dimensions their heads are diamonds."""
    points, sizes = arrow_lines(starts, moves)
    dim = starts.shape[1]
    marker: dict[str, Any] = {"color": color, "size": sizes, "symbol": "diamond"}
    if dim == 2:
        # Only plots of two dimensions can turn a symbol along a line.
        marker |= {"symbol": "arrow", "angleref": "previous"}
    line = {"color": color, "width": dim}
    add_points(figure, points, "", "lines+markers", marker=marker, line=line, **style)


def set_scene(
    figure: Figure,
    extent: Number | None,
    *,
    names: Sequence[str] = COMPONENTS,
    eye: Sequence[Number] | np.ndarray = (1.3, 1.3, 0.8),
    zoom: Number = 1.15,
    **axis: Any,
) -> None:
    """Give 3-D scenes axes of one scale and no perspective, so that a sphere looks like one.

    Args:
        figure: The figure, whose scenes all get the same axes.
        extent: The axes show at least -extent to extent, with ticks at a round number; None: as
            far as the data.
        names: Titles of the axes.
        eye: Where the camera stands.
        zoom: Size of the cube of the axes.
        **axis: More properties of all three axes.
    """
    axis |= {"showbackground": False, "nticks": 5}
    aspect: dict[str, Any] = {"aspectmode": "data"}
    if extent is not None:
        # Few ticks, none of them near a corner: labels of two axes would meet there, and the
        # labels of one axis its title.
        reach = 1.15 * extent
        tick = _round_down(extent)
        axis |= {"range": [-reach, reach], "tickvals": [-tick, 0, tick]}
        aspect = {"aspectmode": "manual", "aspectratio": dict.fromkeys("xyz", 1.1 * zoom)}
    x, y, z = names
    titles = {"xaxis_title_text": x, "yaxis_title_text": y, "zaxis_title_text": z}
    figure.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, **titles)
    place = dict(zip("xyz", eye, strict=True))
    # Perspective would make equal distances look unequal.
    figure.update_scenes(camera_eye=place, camera_projection_type="orthographic", **aspect)


def _round_down(number: Number) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a positive number."""
    power = 10.0 ** math.floor(math.log10(number))
    digit = max(digit for digit in (1, 2, 5) if digit * power <= number)
    return digit * power


def color_bar(label: str, **more: Any) -> dict[str, Any]:
    """Return a slim color bar with its label on the right."""
    return {"title": {"text": label, "side": "right"}, "thickness": 12, **more}


def usage_scale(most: Number, label: str = "usage (tokens)", **bar: Any) -> dict[str, Any]:
    """Return what a marker needs to show log10 of a usage up to `most` by color, with its bar."""
    top = math.ceil(math.log10(max(10, most)))
    powers = list(range(top + 1))
    names = [f"{10**power:,}" for power in powers]
    colorbar = color_bar(label, tickmode="array", tickvals=powers, ticktext=names, **bar)
    return {"colorscale": "Viridis_r", "cmin": 0, "cmax": top, "colorbar": colorbar}


def inferno(shares: Float[Tensor, "*n H W"]) -> Float[Tensor, "*n 3 H W"]:
    """Turn numbers from 0 to 1 (and above, drawn as 1) into images by the color scale Inferno."""
    colors = sample_colorscale("Inferno", SHADES, colortype="tuple")
    # Colors go from 0 to 1, images from -1 to 1.
    scale = 2 * torch.tensor(colors).float() - 1
    last = SHADES - 1
    numbers = (last * shares).clamp(max=last).long()
    return scale[numbers].movedim(-1, -3)


def to_pixels(image: Float[Tensor, "C H W"]) -> Pixels:
    """Convert an image in [-1, 1], gray or RGB, to RGB pixels."""
    pixels = to_uint8(image).expand(3, -1, -1)
    return pixels.movedim(0, -1).numpy()


def tile_sheet(
    tiles: Float[Tensor, "n C H W"], columns: int, frame: tuple[int, ...] = (1, 1, 1, 1)
) -> Pixels:
    """Lay out images row by row as one picture.

    What is blank has the color of the paper, which no gray image has.

    Args:
        tiles: Images in [-1, 1], with C 1 (gray) or 3; pixels of `BLANK` are blank.
        columns: Images in a row; places without an image are blank.
        frame: Blank pixels on the left, right, top and bottom of each image.
    """
    count = len(tiles)
    rows = max(1, math.ceil(count / columns))
    missing = rows * columns - count
    # From the last dimension to the first: no more channels, but blank tiles for what is missing.
    framed = pad(tiles, (*frame, 0, 0, 0, missing), value=BLANK)
    grid = framed.unflatten(0, (rows, columns))
    # (rows, columns, C, H, W) becomes (C, rows, H, columns, W): the rows of pixels of tiles beside
    # each other come together.
    beside = grid.permute(2, 0, 3, 1, 4)
    sheet = beside.flatten(3, 4).flatten(1, 2)
    is_blank = (sheet == BLANK).all(dim=0)
    pixels = to_pixels(sheet).copy()
    pixels[is_blank.numpy()] = PAPER_PIXEL
    return pixels


def image_source(pixels: Pixels, kind: str = "png", **options: Any) -> str:
    """Encode pixels as a data URI, for the `source` of a plotly image.

    In a PNG the paper of `tile_sheet` is transparent, so that it is dark on a dark page.

    Args:
        pixels: RGB.
        kind: "png" or "jpeg".
        **options: Settings of Pillow's encoder.
    """
    if kind == "png":
        options["transparency"] = PAPER_PIXEL
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{kind};base64,{data}"
