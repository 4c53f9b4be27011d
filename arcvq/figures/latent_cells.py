"""How quantizers divide a plane of latents: the cell of each code, with the codes and latents."""

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.figures.parts import COMPONENTS, add_points, name_once, square_panels, thin
from arcvq.figures.theme import (
    BLACK,
    GRAY,
    PAPER,
    Vectors,
    array,
    as_vectors,
    finish,
    many_colors,
)
from arcvq.geometry import usage_counts
from arcvq.quantizers import Quantizer
from arcvq.runtime.checks import check_whole

SIDE = 121  # points along each side of a panel whose code is looked up
SHOWN = 0.99  # the share of latents that a panel reaches to, so that a few do not shrink the rest
FILLED = {"color": BLACK, "size": 7, "line": {"color": "white", "width": 1}}
OPEN = {"color": GRAY, "size": 7, "symbol": "circle-open"}
SPECKS = {"color": GRAY, "size": 3, "opacity": 0.5}


def latent_cells(
    quantizers: Mapping[str, Quantizer],
    latents: Vectors | Mapping[str, Vectors],
    columns: int = 5,
    **look: Any,
) -> Figure:
    """Draw, for each quantizer, which points of the plane get which code.

    Args:
        quantizers: Quantizers of 2 dimensions by name, at least one.
        latents: Latents (N, 2), the same for all, or those of each quantizer by its name. They are
            drawn as specks, and say which codes are in use.
        columns: Panels in a row, at most.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with a panel for each quantizer. A color stands for a code; filled dots are
        codes that some latent chose, open ones those that none did.

    Raises:
        ValueError: For no quantizer, one of another dimension, one without latents, and latents
            that are not finite or have another shape; for columns below 1.
    """
    if not quantizers:
        raise ValueError("there is nothing to draw: the dictionary of quantizers is empty")
    check_whole(1, columns=columns)
    columns = min(columns, len(quantizers))
    rows = math.ceil(len(quantizers) / columns)
    gaps = {"horizontal_spacing": 0.15 / columns, "vertical_spacing": 0.16 / rows}
    figure = make_subplots(rows, columns, **gaps)
    counts = []
    for number, (name, quantizer) in enumerate(quantizers.items()):
        if quantizer.dim != 2:
            raise ValueError(f"{name} has {quantizer.dim} dimensions; a plane has 2")
        points = as_vectors(_latents_of(name, latents), f"latents of {name}", dim=2)
        row, column = divmod(number, columns)
        place = {"row": row + 1, "col": column + 1}
        used = _add_panel(figure, quantizer, points, **place)
        counts.append(f"{name} {used} of {quantizer.num_codes}")
        _add_name(figure, name, **place)
    name_once(figure)
    square_panels(figure)
    figure.update_xaxes(title_text=COMPONENTS[0], row=rows)
    figure.update_yaxes(title_text=COMPONENTS[1], col=1)

    listed = ", ".join(counts)
    text = (
        f"Codes in use: {listed}. Each color is the cell of a code. Filled dots are codes in use, "
        "open ones are not; gray specks are latents."
    )
    width = max(480, 100 + 172 * columns)
    height = 150 + 205 * rows
    title = "How quantizers divide the plane"
    return finish(figure, look, title, text, width=width, height=height)


def _latents_of(name: str, latents: Vectors | Mapping[str, Vectors]) -> Vectors:
    """The latents of one quantizer."""
    if not isinstance(latents, Mapping):
        return latents
    if name not in latents:
        raise ValueError(f"{name} has no latents; there are those of {', '.join(latents)}")
    return latents[name]


def _add_panel(figure: Figure, quantizer: Quantizer, points: np.ndarray, **place: Any) -> int:
    """Draw the cells of a quantizer, its codes and latents; return how many codes are in use."""
    codes = array(quantizer.codebook)
    count = quantizer.num_codes
    chosen = _encode(quantizer, points)
    in_use = usage_counts(chosen, count).numpy() > 0
    # As far as all codes and nearly all latents.
    reach = np.quantile(np.abs(points).max(axis=1), SHOWN)
    extent = 1.08 * max(reach, np.abs(codes).max())

    ticks = np.linspace(-extent, extent, SIDE, dtype=np.float32)
    across, up = np.meshgrid(ticks, ticks)
    plane = np.stack([across.ravel(), up.ravel()], axis=1)
    cells = _encode(quantizer, plane).reshape(SIDE, SIDE)
    figure.add_heatmap(
        x=ticks,
        y=ticks,
        z=cells.int().numpy(),
        zmin=-0.5,
        zmax=count - 0.5,
        colorscale=_color_steps(count),
        showscale=False,
        hovertemplate="code %{z}<extra></extra>",
        **place,
    )
    drawn, _ = thin(len(points), "latents", limit=600)
    add_points(figure, points[drawn], "latents", marker=SPECKS, hoverinfo="skip", **place)
    add_points(figure, codes[~in_use], "codes not in use", marker=OPEN, **place)
    add_points(figure, codes[in_use], "codes in use", marker=FILLED, **place)
    axis = {"range": [-extent, extent], "constrain": "domain", "showgrid": False, "nticks": 6}
    figure.update_xaxes(axis, **place)
    figure.update_yaxes(axis, **place)
    return int(in_use.sum())


def _add_name(figure: Figure, name: str, **place: Any) -> None:
    """Write the name of a quantizer into the upper left corner of its panel."""
    figure.add_annotation(
        text=html.escape(name),
        x=0,
        y=1,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        bgcolor=PAPER,
        showarrow=False,
        **place,
    )


def _encode(quantizer: Quantizer, points: np.ndarray) -> torch.Tensor:
    """The index of each point (n, 2)."""
    latents = torch.from_numpy(points).float()
    latents = latents.to(quantizer.codebook.device)
    return quantizer.encode(latents).cpu()


def _color_steps(count: int) -> list[tuple[float, str]]:
    """A color scale with a step for each code."""
    scale = []
    for code, color in enumerate(many_colors(count)):
        start = code / count
        end = (code + 1) / count
        scale += [(start, color), (end, color)]
    return scale
