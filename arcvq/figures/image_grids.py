"""Images and their reconstructions, tiled into one small picture inside the figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from plotly.graph_objects import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from arcvq.figures.parts import PAPER_PIXEL, color_bar, image_source, inferno, tile_sheet
from arcvq.figures.theme import Images, Number, as_images, finish, named
from arcvq.metrics import psnr
from arcvq.runtime.checks import check_whole
from arcvq.runtime.wording import counted

TILE = 112  # pixels of an enlarged image, at most
GAP = 4  # pixels between tiles


def image_grid(
    images: Images, *, columns: int = 8, titles: Sequence[str] = (), **look: Any
) -> Figure:
    """Draw images row by row.

    Small images are enlarged by a whole number, large ones are made smaller to fit the width.

    Args:
        images: (n, C, H, W) in [-1, 1], with C 1 or 3.
        columns: Images in a row, at most.
        titles: One for each image, one for each column, or none.
        **look: Title, summary, width (900 pixels), height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For no images, another shape or NaN, `columns` below 1 or more than the width
            has room for, and titles of another number than the images or the columns.
    """
    tiles = as_images(images, "images")
    count, _, high, wide = tiles.shape
    check_whole(1, columns=columns)
    columns = min(columns, count)
    if len(titles) not in (0, columns, count):
        raise ValueError(
            f"{len(titles)} titles do not fit {count} images in {columns} columns; "
            "give none, or one for each image or each column"
        )
    text = f"{counted(count, 'image')} of {high} x {wide} pixels."
    return _sheet_figure(tiles, columns, look, "Images", text, titles=titles)


def reconstruction_grid(
    images: Images, reconstructions: dict[str, Images], *, columns: int = 8, **look: Any
) -> Figure:
    """Draw originals, and below them the reconstructions of each method with their errors.

    Args:
        images: The originals (n, C, H, W) in [-1, 1], with C 1 or 3.
        reconstructions: Images of the same shape by name of the method.
        columns: How many images to draw, at most; PSNR (dB) is over all that are given.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. The absolute errors, means over the channels, are all on one color scale.

    Raises:
        ValueError: For no images or reconstructions, other shapes, NaN, and `columns` below 1 or
            more than the width has room for.
    """
    images = as_images(images, "images")
    check_whole(1, columns=columns)
    columns = min(columns, len(images))
    labels = ["original"]
    scores = []
    made = []
    errors = []
    for name, other in named(reconstructions).items():
        other = as_images(other, name)
        score = f"{psnr(other, images):.1f} dB"
        labels += [f"<b>{name}</b><br>{score}", "error"]
        scores.append(f"{name} {score}")
        made.append(other[:columns])
        errors.append((other - images).abs().mean(1))
    # A few outliers may saturate, so that the other errors can be told apart.
    top = max(0.1, math.ceil(10 * np.quantile(torch.stack(errors), 0.998)) / 10)

    rows = [images[:columns]]
    for other, error in zip(made, errors, strict=True):
        rows += [other, inferno(error[:columns] / top)]
    over = counted(len(images), "image")
    text = f"PSNR over {over}: {', '.join(scores)}. Pixels have values from -1 to 1."
    if torch.stack(errors).max() > top:
        text += f" Errors above {top:g} have the brightest color."
    look = {"width": min(900, 180 + 240 * columns)} | look
    title = "Originals and reconstructions"
    figure = _sheet_figure(torch.cat(rows), columns, look, title, text, labels=labels, right=84)

    bar = color_bar("absolute error", nticks=5, len=1, x=1, xpad=12, ypad=0)
    scale = {"colorscale": "Inferno", "cmin": 0, "cmax": top, "colorbar": bar}
    marker = {"color": [0, top], **scale}
    nowhere = [None, None]
    return figure.add_scatter(x=nowhere, y=nowhere, mode="markers", marker=marker, showlegend=False)


def _room_for(labels: Sequence[str]) -> int:
    """The pixels that the labels of rows take, which may be bold and have several lines."""
    lines = "<br>".join(labels).replace("<b>", "").replace("</b>", "").split("<br>")
    longest = max(map(len, lines))
    return max(92, 16 + 8 * longest)


def _sheet_figure(
    tiles: Tensor,
    columns: int,
    look: dict[str, Any],
    title: str,
    text: str,
    titles: Sequence[str] = (),
    labels: Sequence[str] = (),
    right: int = 24,
) -> Figure:
    """Draw tiles as one picture, pixel for pixel, with titles above tiles or labels of rows."""
    left = _room_for(labels) if labels else 24
    head = 18 if titles else 0
    # Pixels for a tile, if the sheet is to fill the width.
    inner = look.get("width", 900) - left - right
    most = int(inner // (GAP + 1))
    if columns > most:
        raise ValueError(
            f"columns is {columns}; this width has room for at most {most}, a pixel for each image"
        )
    room = inner / columns - GAP
    kind = "png" if tiles.shape[3] <= TILE else "jpeg"  # a photograph as PNG is very large
    tiles, scale = _fit(tiles, room)
    if scale < 1:
        text += f" Shown at {scale:.0%} of the size."
    # Titles of columns need room above the first row only.
    above = head if len(titles) > columns else 0
    sheet = tile_sheet(tiles, columns, frame=(0, GAP, above, GAP))[:-GAP, :-GAP]
    top_rows = np.full((head - above, sheet.shape[1], 3), PAPER_PIXEL, np.uint8)
    sheet = np.concatenate([top_rows, sheet])
    down, across, _ = sheet.shape
    source = image_source(sheet, kind, quality=90, optimize=True)
    figure = Figure()
    figure.add_image(source=source, zsmooth=False, hoverinfo="skip")

    high, wide = tiles.shape[2:]
    tops = np.arange(head, down, above + high + GAP)
    for number, name in enumerate(titles):
        row, column = divmod(number, columns)
        x = column * (wide + GAP) + wide / 2
        place = {"x": x, "y": tops[row], "yanchor": "bottom"}
        figure.add_annotation(text=name, showarrow=False, borderpad=0, **place)
    names = labels or [""] * len(tops)
    rows = {"tickvals": tops + high / 2, "ticktext": names, "ticks": "", "ticklabelstandoff": 6}
    figure.update_xaxes(visible=False, range=[0, across])
    figure.update_yaxes(range=[down, 0], showgrid=False, showline=False, **rows)

    # The axes are as large as the sheet, so that a pixel of it is a pixel of the screen.
    width = max(480, left + across + right)
    margins = {"left": left, "right": width - left - across, "bottom": 16}
    finish(figure, look | {"width": width}, title, text, **margins)
    return figure.update_layout(height=figure.layout.margin.t + down + 16)


def _fit(tiles: Tensor, room: Number) -> tuple[Tensor, Number]:
    """Enlarge tiles by a whole number up to 112 pixels, or make them fit `room` pixels."""
    wide = tiles.shape[3]
    scale = room / wide
    if scale < 1:
        mode = "area"
    else:
        # A whole number, so that all pixels are equally large.
        scale = max(1, int(min(room, TILE) / wide))
        mode = "nearest"
    size = [max(1, round(scale * side)) for side in tiles.shape[2:]]
    return interpolate(tiles, size, mode=mode), scale
