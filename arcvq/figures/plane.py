"""Codes of two dimensions in the plane, with the way that each went in training."""

from typing import Any

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure

from arcvq.figures.parts import COMPONENTS, add_points
from arcvq.figures.theme import (
    GRAY,
    SKY,
    VERMILLION,
    Array,
    Counts,
    Vectors,
    array,
    as_numbers,
    as_vectors,
    finish,
)


def code_paths(
    latents: Vectors,
    path: Float[Array, "_steps _K _D"],
    counts: Counts,
    **look: Any,
) -> Figure:
    """Draw where codes in the plane went, and which of them are used.

    Args:
        latents: The latents (N, 2), which stay where they are.
        path: The codebook (K, 2) at each step, the last one at the end.
        counts: How many latents chose each code at the end (K,).
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Used codes are filled, with a line for their way; unused ones are hollow.

    Raises:
        ValueError: For other shapes, and for NaN or infinity.
    """
    points = as_vectors(latents, "latents", dim=2)
    ways = array(path)
    if ways.ndim != 3 or not len(ways):
        raise ValueError(f"path must have the shape (steps, K, 2), steps from 1, not {ways.shape}")
    codes_of_all_steps = np.concatenate(ways)
    as_vectors(codes_of_all_steps, "path", dim=2)  # refuses what cannot be drawn
    ends = ways[-1]
    used = as_numbers(counts, len(ends), "tokens") > 0

    figure = Figure()
    add_points(figure, points, "latents", marker={"color": SKY, "size": 6})
    gap = np.full((1, 2), np.nan)
    lines = [np.concatenate([ways[:, code], gap]) for code in np.flatnonzero(used)]
    if lines:
        style = {"color": GRAY, "width": 1.5}
        add_points(figure, np.concatenate(lines), "paths of used codes", "lines", line=style)
    groups = (("unused codes", ~used, "diamond-open"), ("used codes", used, "diamond"))
    for name, rows, symbol in groups:
        marker = {"symbol": symbol, "size": 11, "color": VERMILLION}
        add_points(figure, ends[rows], name, marker=marker)
    across, up, _ = COMPONENTS
    figure.update_xaxes(title_text=across)
    figure.update_yaxes(title_text=up, scaleanchor="x", constrain="domain")
    text = f"Codes used at the end: {used.sum()} of {len(used)}."
    return finish(figure, look, "Codes in the plane", text, width=640, height=560)
