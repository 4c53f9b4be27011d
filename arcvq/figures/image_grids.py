"""Images and their reconstructions, tiled into one small picture inside the figure."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from PIL import Image
from plotly.colors import sample_colorscale
from torch import Tensor
from torch.nn.functional import interpolate, pad

from arcvq.figures.theme import finish, named
from arcvq.images import to_uint8
from arcvq.metrics import psnr

Images = Float[Tensor, "_n _C _H _W"] | Float[np.ndarray, "_n _C _H _W"]
TILE, GAP, BLANK = 112, 4, 0.975  # Pixels, pixels, and the grey of the paper on the scale of images.


def image_grid(images: Images, *, columns: int = 8, titles: Sequence[str] = (), **look: Any) -> go.Figure:
    """Images (n, C, H, W) in [-1, 1], row by row; large ones are made smaller to fit `width` (900 pixels).

    Raises ValueError for no images, C other than 1 or 3, NaN, `columns` below 1, titles not one an image.
    """
    tiles = _checked(images, "images")
    if columns < 1 or len(titles) not in (0, len(tiles)):
        raise ValueError(f"columns {columns} is from 1; {len(titles)} titles must be 0 or {len(tiles)}")
    text = f"{len(tiles)} images of {tiles.shape[2]} x {tiles.shape[3]} pixels."
    return _sheet(tiles, min(columns, len(tiles)), titles, [], look, "Images", text)


def reconstruction_grid(images: Images, reconstructions: dict[str, Images], *, columns: int = 8,
                        **look: Any) -> go.Figure:
    """Originals, and each method's reconstructions with PSNR (dB) and absolute errors, all on one scale.

    PSNR is over all images given, also where only the first `columns` are shown. Raises ValueError as
    `image_grid` does, and for reconstructions of another shape.
    """
    images, n = _checked(images, "images"), max(1, min(columns, len(images)))
    made = {name: _checked(other, name) for name, other in named(reconstructions).items()}
    scores = {name: f"{psnr(other, images):.1f} dB" for name, other in made.items()}
    errors = torch.stack([(other - images).abs().mean(1) for other in made.values()])
    top = max(0.1, math.ceil(10 * np.quantile(errors, 0.998)) / 10)
    scale = torch.tensor(sample_colorscale("Inferno", 64, colortype="tuple")).float() * 2 - 1
    errors = scale[(errors / top * 63).clamp(max=63).long()].movedim(4, 2)
    labels, tiles = ["original"], [images[:n]]
    for (name, other), error in zip(made.items(), errors, strict=True):
        labels += [f"<b>{name}</b><br>{scores[name]}", "error"]
        tiles += [other[:n], error[:n]]
    text, look = f"PSNR (images: {len(images)}): {', '.join(map(' '.join, scores.items()))}.", dict(look)
    look.setdefault("width", min(900, 180 + 240 * n))
    figure = _sheet(torch.cat(tiles), n, [], labels, look, "Originals and reconstructions", text, right=84)
    bar = {"title": {"text": "absolute error (pixels are -1 to 1)", "side": "right"}, "thickness": 12,
           "nticks": 5, "len": 1, "x": 1, "xpad": 12, "ypad": 0}
    marker = {"color": [0, top], "colorscale": "Inferno", "cmin": 0, "cmax": top, "colorbar": bar}
    return figure.add_scatter(x=[None] * 2, y=[None] * 2, mode="markers", marker=marker, showlegend=False)


def _checked(images: Images, what: str) -> Float[Tensor, "n 3 H W"]:
    tiles = torch.as_tensor(images).detach().cpu().float()
    if tiles.ndim != 4 or tiles.shape[1] not in (1, 3) or not tiles.numel():
        raise ValueError(f"{what} must have the shape (n, 1 or 3, H, W), n from 1, not {tuple(tiles.shape)}")
    if bad := int((~tiles.isfinite()).sum()):
        raise ValueError(f"{what} has {bad} values that are NaN or infinite")
    return tiles.expand(-1, 3, -1, -1)


def _sheet(tiles: Float[Tensor, "n 3 H W"], columns: int, titles, labels, look: dict, title: str, text: str,
           right: int = 24) -> go.Figure:
    """The tiles as one picture, pixel for pixel on the screen: enlarged by a whole number or made smaller."""
    left, head, stream = 92 if labels else 24, 18 if titles else 0, io.BytesIO()
    kind = "png" if tiles.shape[3] <= TILE else "jpeg"  # A photograph as PNG has hundreds of kilobytes.
    scale = ((look.get("width", 900) - left - right) / columns - GAP) / tiles.shape[3]
    scale = max(1, int(min(scale, TILE / tiles.shape[3]))) if scale >= 1 else scale
    high, wide = (max(1, round(scale * size)) for size in tiles.shape[2:])
    tiles = interpolate(tiles, (high, wide), mode="nearest" if scale >= 1 else "area")
    tiles = pad(tiles, (0, GAP, head, GAP), value=BLANK)
    blanks = torch.full((-len(tiles) % columns, *tiles.shape[1:]), BLANK)
    sheet = torch.cat([tiles, blanks]).unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    sheet = to_uint8(sheet.flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP]).numpy()
    Image.fromarray(sheet).save(stream, kind, quality=90, optimize=True)
    source = f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
    figure = go.Figure(go.Image(source=source, zsmooth=False, hoverinfo="skip"))
    tops = [row * (high + head + GAP) + head for row in range(math.ceil(len(tiles) / columns))]
    for number, name in enumerate(titles):
        figure.add_annotation(x=number % columns * (wide + GAP) + wide / 2, y=tops[number // columns],
                              text=name, showarrow=False, yanchor="bottom", borderpad=0)
    down, across, _ = sheet.shape
    figure.update_xaxes(visible=False, range=[0, across])
    figure.update_yaxes(range=[down, 0], showgrid=False, showline=False, ticks="", ticklabelstandoff=6,
                        tickvals=[top + high / 2 for top in tops], ticktext=labels or [""] * len(tops))
    text += f" Shown at {scale:.0%} of the size." if scale < 1 else ""
    width = max(480, left + across + right)
    finish(figure, look | {"width": width}, title, text, left=left, right=width - left - across, bottom=16)
    return figure.update_layout(height=figure.layout.margin.t + down + 16)
