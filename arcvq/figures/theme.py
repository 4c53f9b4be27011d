"""The look that all figures share (colors, template, caption), and the checks on what they draw."""

import colorsys
import html
import itertools
import math
import re
import textwrap
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from plotly.colors import hex_to_rgb
from plotly.graph_objects import Figure
from plotly.graph_objs.layout import Template
from torch import Tensor

from arcvq.runtime.checks import check_finite

Number = int | float
Array = Tensor | np.ndarray
Vectors = Float[Array, "_N _D"]
Counts = Int[Array, " _K"]
Images = Float[Array, "_n _C _H _W"]

# The colors of Okabe and Ito, which color-blind readers can tell apart.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
BLACK = "#000000"
YELLOW = "#F0E442"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)  # faint ones last
GRAY = "#6E6E6E"
PAPER = "#FCFCFA"
INK = "#222222"  # of words
METHOD_COLORS = {
    "plain": BLACK,
    "ema": SKY,
    "cosine": BLUE,
    "cvq": GREEN,
    "samp": VERMILLION,
    "continuous": PURPLE,
    "random": GRAY,
}
DOTTED = {"color": BLACK, "dash": "dot", "width": 1.5}
LOG = {"type": "log", "nticks": 6, "tickformat": "~g"}
AXIS = {
    "gridcolor": "#E4E4E0",
    "linecolor": GRAY,
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "title": {"font": {"size": 13}, "standoff": 6},
}
TEMPLATE = Template(
    layout={
        "font": {
            "family": "Open Sans, DejaVu Sans, Arial, sans-serif",
            "size": 12,
            "color": INK,
        },
        # Opaque: on a transparent paper the dark text is lost on JupyterLab's dark background.
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": PALETTE,
        "xaxis": AXIS,
        "yaxis": AXIS,
        "title": {
            "font": {"size": 17},
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 14},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "modebar": {"remove": ["sendChartToCloud"]},  # it would upload the reader's data
    }
)
LEGEND_ROW = 20  # pixels
# For `many_colors`
GOLDEN = (math.sqrt(5) - 1) / 2  # turns by this share of the color circle never meet again
LIGHTNESS = (0.74, 0.83, 0.91)
SATURATION = 0.55


def colors(names: Collection[str]) -> dict[str, str]:
    """Choose a color for each name.

    The first variant of a method ("samp", "SAMP per step") gets the color of the method; all
    other names take the next color of the palette that is still free.
    """
    chosen: dict[str, str] = {}
    for name in names:
        color = method_color(name)
        if color and color not in chosen.values():
            chosen[name] = color
    # Begins again when a figure has more names than there are colors.
    free = itertools.cycle(color for color in PALETTE if color not in chosen.values())
    return {name: chosen.get(name) or next(free) for name in names}


def method_color(name: str) -> str | None:
    """Return the color of the method that a name begins with; None where it has none.

    "SAMP, per step" is a variant of "samp".
    """
    method = re.split(r"\W", name.lower())[0]
    return METHOD_COLORS.get(method)


def colored(values: Any, name: str = "codes") -> list[tuple[str, Any, str]]:
    """Return name, value and color of each item of a dictionary, or of a single value.

    Raises:
        ValueError: For an empty dictionary.
    """
    values = named(values, name)
    return [(key, values[key], color) for key, color in colors(values).items()]


def many_colors(count: int) -> list[str]:
    """Return `count` light colors for areas, of which there may be more than the palette has.

    Colors that follow each other differ in hue and in lightness.
    """
    found = []
    for number in range(count):
        hue = number * GOLDEN % 1
        lightness = LIGHTNESS[number % len(LIGHTNESS)]
        shares = colorsys.hls_to_rgb(hue, lightness, SATURATION)
        red, green, blue = (round(255 * share) for share in shares)
        found.append(f"rgb({red}, {green}, {blue})")
    return found


def faint(color: str) -> str:
    """Make a color of the palette translucent, for an area that others show through.

    As rgba(), since plotly before 6.7 takes no hexadecimal color with an opacity.
    """
    red, green, blue = hex_to_rgb(color)
    return f"rgba({red}, {green}, {blue}, 0.15)"


def finish(
    figure: Figure, look: dict[str, Any], title: str, summary: str, **defaults: Any
) -> Figure:
    """Give a figure the template, its size, a title, and a summary as the caption below the title.

    Args:
        figure: The figure, with everything drawn that stands in the legend.
        look: What the caller of the figure chose: `title`, `summary`, and whatever `defaults` may
            hold.
        title: The title, unless `look` has one.
        summary: What the figure shows in one line, unless `look` has one; kept in `layout.meta`.
        **defaults: Width, height, left, right, bottom (pixels), and properties of the layout.

    Returns:
        The same figure.
    """
    sizes = {"width": 900, "height": 450, "left": 76, "right": 24, "bottom": 50}
    layout = sizes | {"title": title, "summary": summary} | defaults | look
    margin = {side[0]: layout.pop(side) for side in ("left", "right", "bottom")}
    text = layout.pop("summary")
    # The plot begins below title, caption and legend, however many rows they take.
    inner = layout["width"] - margin["l"] - margin["r"]
    lines = caption_lines(text, inner)
    legend = LEGEND_ROW * _legend_rows(figure, inner)
    margin["t"] = 48 + 17 * len(lines) + legend
    figure.update_layout(template=TEMPLATE, margin=margin, meta={"summary": text}, **layout)
    return figure.add_annotation(
        text="<br>".join(lines),
        name="summary",
        align="left",
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=6 + legend,
        borderpad=0,
        showarrow=False,
    )


def caption_lines(text: str, width: Number) -> list[str]:
    """Break a caption into the lines that fit a plot of this width (pixels), as HTML."""
    letters = int(width / 6.5)  # a letter is about 6.5 pixels wide
    return [html.escape(line) for line in textwrap.wrap(text, letters)]


def _legend_rows(figure: Figure, width: Number) -> int:
    """Estimate how many rows the legend takes above a plot of this width (pixels)."""
    drawn = [*figure.data, *figure.layout.shapes]
    names = [one.name for one in drawn if one.name and one.showlegend is not False]
    # Each entry is a symbol and the letters of its name.
    widths = [45 + 7 * len(name) for name in names]
    if sum(widths) <= width:
        return min(1, len(widths))
    columns = max(1, width // max(widths))  # in rows, all entries are as wide as the widest
    return math.ceil(len(widths) / columns)


def summary(figure: Figure) -> str:
    """Return what a figure of this package shows, in one line; empty for other figures."""
    meta = figure.layout.meta or {}
    return meta.get("summary", "")


def array(values: Any) -> np.ndarray:
    """Convert a tensor on any device, an array or a list to a float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double()
    return np.asarray(values, float)


def as_vectors(values: Vectors, what: str, dim: int | None = None) -> np.ndarray:
    """Convert the vectors of a figure to float64, once they are checked.

    Args:
        values: Vectors (N, D), at least one.
        what: What they are, for the messages.
        dim: The D that they must have; None allows any.

    Raises:
        ValueError: For another shape, no vectors, and NaN or infinity in any of them.
    """
    rows = array(values)
    if rows.ndim != 2 or not rows.size or dim not in (None, rows.shape[1]):
        found = f"at least one; it is {rows.shape}"
        raise ValueError(f"{what} must be rows of shape ({dim or 'D'},), {found}")
    bad = np.count_nonzero(~np.isfinite(rows).all(axis=1))
    if bad:
        raise ValueError(f"{what} has NaN or infinity in {bad} of its {len(rows)} rows")
    return rows


def as_numbers(values: Any, count: int, what: str) -> np.ndarray:
    """Convert the numbers of `count` codes to float64.

    Raises:
        ValueError: For another number of them.
    """
    numbers = array(values)
    if numbers.shape != (count,):
        raise ValueError(f"{count} codes need as many numbers of {what!r}, not {numbers.shape}")
    return numbers


def as_images(images: Images, what: str) -> Float[Tensor, "n 3 H W"]:
    """Convert the images of a figure to float32 RGB on the CPU, once they are checked.

    Args:
        images: (n, C, H, W) in [-1, 1], at least one, with C 1 (gray) or 3.
        what: What they are, for the messages.

    Raises:
        ValueError: For another shape, no images, and NaN or infinity in any of them.
    """
    # Detached, since a model's output may still have its graph.
    tiles = torch.as_tensor(images).detach().cpu().float()
    if tiles.ndim != 4 or tiles.shape[1] not in (1, 3) or not tiles.numel():
        shape = tuple(tiles.shape)
        raise ValueError(f"{what} must have the shape (n, 1 or 3, H, W), n from 1, not {shape}")
    check_finite(tiles, what)
    return tiles.expand(-1, 3, -1, -1)


def named(values: Any, name: str = "codes") -> dict[str, Any]:
    """Return a dictionary with its keys as text, or anything else under the given name.

    Raises:
        ValueError: For an empty dictionary.
    """
    if not isinstance(values, dict):
        return {name: values}
    if not values:
        raise ValueError("there is nothing to draw: the dictionary is empty")
    return {str(key): value for key, value in values.items()}
