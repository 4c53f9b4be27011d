"""The look that all figures share (colors, template, caption), and the checks on what they draw."""

import html
import itertools
import re
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

Vectors = Float[Tensor, "_N _D"] | Float[np.ndarray, "_N _D"]
Counts = Int[Tensor, " _K"] | Int[np.ndarray, " _K"]
# Okabe and Ito's colors, which colour-blind readers can tell apart; the faint ones come last.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
SKY, BLACK, YELLOW, GRAY, PAPER = "#56B4E9", "#000000", "#F0E442", "#6E6E6E", "#FCFCFA"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
METHOD_COLORS = {"plain": BLACK, "ema": SKY, "cosine": BLUE, "cvq": GREEN, "samp": VERMILLION,
                  "continuous": PURPLE, "random": GRAY}
DOTTED = {"color": BLACK, "dash": "dot", "width": 1.5}
LOG = {"type": "log", "nticks": 6, "tickformat": "~g"}
_AXIS = {"gridcolor": "#E4E4E0", "linecolor": GRAY, "zeroline": False, "showline": True, "ticks": "outside",
         "title": {"font": {"size": 13}, "standoff": 6}}
# The paper is opaque: on a transparent one the dark text is lost on JupyterLab's dark background.
TEMPLATE = go.layout.Template(layout={
    "font": {"family": "Open Sans, DejaVu Sans, Arial, sans-serif", "size": 12, "color": "#222222"},
    "paper_bgcolor": PAPER, "plot_bgcolor": PAPER, "colorway": PALETTE, "xaxis": _AXIS, "yaxis": _AXIS,
    "title": {"font": {"size": 17}, "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 14}},
    "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}})


def colors(names: Any) -> dict[str, str]:
    """One colour a name: a method ("samp", "SAMP per step") has its own, others take the next free one."""
    owners = {METHOD_COLORS.get(re.split(r"\W", name.lower())[0]): name for name in reversed(list(names))}
    own = {name: colour for colour, name in owners.items() if colour}
    free = itertools.cycle(colour for colour in PALETTE if colour not in owners)
    return {name: own.get(name) or next(free) for name in names}


def finish(figure: go.Figure, look: dict[str, Any], title: str, summary: str, **defaults: Any) -> go.Figure:
    """Gives a figure the template, a title and a one-line summary, in `layout.meta` and as a caption.

    `look` may replace title, summary, and the defaults: width, height, left, right, bottom (pixels), layout.
    """
    sizes = {"width": 900, "height": 450, "left": 76, "right": 24, "bottom": 50}
    layout = {"title": title, "summary": summary} | sizes | defaults | look
    margin, text = {side[0]: layout.pop(side) for side in ("left", "right", "bottom")}, layout.pop("summary")
    inner = layout["width"] - margin["l"] - margin["r"]
    entries = [45 + 7 * len(drawn.name) for drawn in (*figure.data, *figure.layout.shapes)
               if drawn.name and drawn.showlegend is not False]
    rows = bool(entries) if sum(entries) <= inner else -(-len(entries) // max(1, inner // max(entries)))
    caption = textwrap.wrap(text, int(inner / 6.5))
    margin["t"] = 48 + 17 * len(caption) + 20 * rows
    figure.update_layout(template=TEMPLATE, margin=margin, meta={"summary": text}, **layout)
    return figure.add_annotation(text="<br>".join(map(html.escape, caption)), name="summary", align="left",
                                 x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
                                 yshift=6 + 20 * rows, borderpad=0, showarrow=False)


def summary(figure: go.Figure) -> str:
    """What a figure of this package shows, in one line; empty for other figures."""
    return (figure.layout.meta or {}).get("summary", "")


def array(values: Any) -> np.ndarray:
    """A tensor on any device, an array or a list as a float64 array."""
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, float)


def vectors(values: Vectors, what: str, dim: int | None = None) -> np.ndarray:
    """Checked rows in float64. Raises ValueError for a wrong shape, no rows, NaN or infinity."""
    rows = array(values)
    if rows.ndim != 2 or not rows.size or dim not in (None, rows.shape[1]):
        raise ValueError(f"{what} must be rows of shape ({dim or 'D'},), at least one; it is {rows.shape}")
    if bad := np.count_nonzero(~np.isfinite(rows).all(axis=1)):
        raise ValueError(f"{what} has NaN or infinity in {bad} of its {len(rows)} rows")
    return rows


def named(values: Any, name: str = "codes") -> dict[str, Any]:
    """A dictionary, its keys as text; anything else as the only value of one. Raises ValueError if empty."""
    if isinstance(values, dict) and not values:
        raise ValueError("there is nothing to draw: the dictionary is empty")
    return {str(key): one for key, one in values.items()} if isinstance(values, dict) else {name: values}


def thin(count: int, what: str, limit: int = 20_000) -> tuple[np.ndarray, str]:
    """Which of `count` points to draw, at most `limit`, by a fixed seed, and a sentence that says so."""
    if count <= limit:
        return np.arange(count), ""
    rows = np.random.default_rng(0).choice(count, limit, replace=False)
    return np.sort(rows), f" {limit:,} of {count:,} {what} are drawn."
