"""One code taken apart: its nearest codes, the images that use it, the ways to another code, and a swap of the two."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from arcvq import geometry
from arcvq.analysis import projections
from arcvq.analysis.projections import Projection
from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
from arcvq.figures.code_maps import code_map
from arcvq.figures.image_grids import GAP, TILE
from arcvq.figures.parts import image_source, inferno, tile_sheet
from arcvq.figures.theme import finish
from arcvq.images import ImageData
from arcvq.vqvae import VQVAE

IMAGES, BATCH = 1000, 256  # test images that usage is counted on, at most; images encoded at once
TILES, UNIT = (
    7,
    TILE / (TILE + GAP),
)  # tiles of a long strip; the part of its place that a tile fills, without the gap
WIDTH, HEIGHT, SIDE, HEAD = (
    852,
    458,
    24,
    136,
)  # pixels: the plots, beside them, above them (4 lines of caption)
# The strips by name: their tiles, and their left, top and width in pixels.
STRIPS = {
    "nearest": (TILES, 397, 36, 455),
    "images": (TILES, 397, 155, 455),
    "slerp": (TILES, 397, 274, 455),
    "lerp": (TILES, 397, 393, 455),
    "swap": (3, 0, 360, 294),
}
CODES, UNUSED, CHOSEN, OTHER = range(4)  # the traces of the map, before those of the strips
PICTURE = {name: number for number, name in enumerate(STRIPS, start=4)}
FRAMES = {"images": 4 + len(STRIPS), "swap": 5 + len(STRIPS)}


@dataclass(frozen=True)
class Subject:
    """A model, and the test images that usage is counted on, in [-1, 1]; tensors on the CPU, wherever the model is."""

    model: VQVAE
    codebook: Float[Tensor, "K D"]
    images: Float[Tensor, "n C H W"]
    indices: Int[Tensor, "n h w"]
    usage: Int[Tensor, " K"]
    maps: dict[str, tuple[Projection, go.Figure]] = field(
        default_factory=dict
    )  # those that were asked for

    def map(self, method: str) -> tuple[Projection, go.Figure]:
        """The codes on a map, by "PCA" or "UMAP" of their angles, coloured by usage."""
        if method not in self.maps:
            seen = (projections.pca if method == "PCA" else projections.umap_angles)(self.codebook)
            self.maps[method] = seen, code_map(seen, self.usage, log=True)
        return self.maps[method]

    @torch.no_grad()
    def patches(self, codes: Float[Tensor, "n D"]) -> Float[Tensor, "n C p p"]:
        """What 3 x 3 equal codes decode to, for each code or any point between codes, at its own norm."""
        grids = codes.to(self.model.quantizer.codebook)[:, :, None, None].expand(-1, -1, 3, 3)
        return self.model.decoder(grids).clamp(-1, 1).cpu()

    def swapped(self, image: int, chosen: int, other: int) -> Float[Tensor, "2 C H W"]:
        """An image decoded as it is, and with one code in all places of the other."""
        grid = self.indices[image]
        grids = torch.stack([grid, grid.where(grid != chosen, other)])
        return self.model.decode(grids.to(self.model.quantizer.codebook.device)).cpu()


def subject(model: VQVAE, images: ImageData) -> Subject:
    """A model with the first 1,000 test images. Raises ValueError where there are none or they do not fit."""
    if not len(images.test):
        raise ValueError(
            f"{images.name} has no test images; the use of a code is counted on at least one"
        )
    codebook, shown = (
        model.quantizer.codebook.detach(),
        images.test.batch(torch.arange(min(IMAGES, len(images.test)))),
    )
    indices = torch.cat(
        [model.encode(batch.to(codebook.device)) for batch in shown.split(BATCH)]
    ).cpu()
    return Subject(
        model, codebook.cpu(), shown.cpu(), indices, geometry.usage_counts(indices, len(codebook))
    )


def inspector_picture(
    subject: Subject, chosen: int, other: int, rank: int = 1, method: str = "PCA", **look: Any
) -> go.Figure:
    """All about the code `chosen`, and what lies between it and the code `other`; both are marked on the map.

    Strips: the code and its nearest by angle, decoded; the test images that use it most, its places framed; the ways
    to the other code on the sphere (slerp) and straight (lerp), decoded; and the image of this rank (from 1; the last
    if there are fewer) decoded as it is and with the other code in these places, with the absolute difference.
    """
    figure = go.Figure(subject.map(method)[1].data[:2])
    for name, symbol, colour in (
        ("chosen code", "circle-open", theme.VERMILLION),
        ("other code", "diamond-open", theme.BLACK),
    ):
        marker = {"size": 15, "symbol": symbol, "color": colour, "line": {"width": 3}}
        figure.add_scatter(mode="markers", name=name, marker=marker, hoverinfo="skip")
    _add_strips(figure, subject.images.shape[2] / subject.images.shape[3])
    _add_scales(figure)
    values = inspector_values(subject, chosen, other, rank, method)
    finish(
        figure,
        look,
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH + 2 * SIDE,
        left=SIDE,
        right=SIDE,
    )
    figure.layout.annotations[0].update(
        yanchor="top", yshift=HEAD - 44
    )  # from below the title down
    figure.update_layout(margin={"t": HEAD, "b": SIDE}, height=HEAD + HEIGHT + SIDE)
    return assign(figure, values)


def inspector_values(subject: Subject, chosen: int, other: int, rank: int, method: str) -> Values:
    """What moves in `inspector_picture`, by path."""
    (seen, drawn), codebook, places = (
        subject.map(method),
        subject.codebook,
        subject.indices == chosen,
    )
    angles, counts = geometry.angles_to(codebook, codebook[chosen]), places.flatten(1).sum(dim=1)
    near = [code for code in angles.argsort(stable=True).tolist() if code != chosen][: TILES - 1]
    users = [
        image for image in counts.argsort(descending=True, stable=True).tolist() if counts[image]
    ]
    image = users[min(rank, TILES, len(users)) - 1] if users else 0
    titles = [f"<b>{chosen}</b>", *(f"{code}<br>{_degrees(angles[code])}" for code in near)]
    swap, change = _swap(subject, places[image], image, chosen, other)
    text = [
        f"Code {chosen} has {subject.usage[chosen]:,} of {places.numel():,} tokens, in {len(users):,} of "
        f"{len(places):,} test images."
        if users
        else f"None of {len(places):,} test images uses code {chosen}.",
        f"Its nearest is code {near[0]}, at {_degrees(angles[near[0]])}."
        if near
        else "It is the only code.",
        f"Code {other} lies {_degrees(angles[other])} away.",
        f"In {_places(places[image])} of image {image} it changes pixels, which are -1 to 1, by {change:.3f} on "
        f"average."
        if users
        else "",
        seen.trust,
    ]
    values: Values = {
        f"{trace}/{part}": drawn.data[trace][part]
        for trace in (CODES, UNUSED)
        for part in ("x", "y", "customdata")
    }
    values |= points(CHOSEN, seen.points[[chosen]]) | points(OTHER, seen.points[[other]])
    values |= _strip(
        "nearest", subject.patches(codebook[[chosen, *near]]), titles, "nearest<br>codes"
    )
    values |= _ways(subject, chosen, other) | _users(subject, places, users[:TILES], image) | swap
    return values | words(f"Code {chosen} and code {other}", " ".join(filter(None, text)), WIDTH)


def _ways(subject: Subject, chosen: int, other: int) -> Values:
    """The strips from one code to the other, with the angle from the first and the norm."""
    first, last = subject.codebook[[chosen, other]].double()
    shares, values = torch.linspace(0, 1, TILES, dtype=torch.float64), Values()
    for name, path in (
        ("slerp", geometry.slerp(first, last, shares)),
        ("lerp", torch.lerp(first, last, shares[:, None])),
    ):
        sizes = zip(geometry.angles_to(path, first), geometry.norms(path), strict=True)
        titles = [f"{_degrees(angle)}<br>norm {norm:.2g}" for angle, norm in sizes]
        values |= _strip(name, subject.patches(path), titles, f"{name}<br>to {other}")
    return values


def _users(
    subject: Subject, places: Bool[Tensor, "n h w"], users: Sequence[int], image: int
) -> Values:
    """The strip of the images that use the code."""
    names = {user: str(user) for user in users} | {image: f"<b>{image}</b>"}
    titles = [f"image {names[user]}<br>{_places(places[user])}" for user in users]
    strip = _strip("images", subject.images[users], titles or ["none"], "images<br>that use it")
    return strip | _frames("images", places[users], subject.images.shape)


def _swap(
    subject: Subject, places: Bool[Tensor, "h w"], image: int, chosen: int, other: int
) -> tuple[Values, float]:
    """The strip of an image with and without the code, and the mean absolute difference."""
    before, after = subject.swapped(image, chosen, other).expand(-1, 3, -1, -1)
    change = (after - before).abs().mean(dim=0)
    tiles = torch.stack([before, after, inferno(change)])
    titles = [
        f"image {image},<br>decoded",
        f"code {other} in<br>{_places(places)}",
        f"difference,<br>mean {change.mean():.3f}",
    ]
    return _strip("swap", tiles, titles) | _frames(
        "swap", places.expand(2, -1, -1), tiles.shape
    ), float(change.mean())


def _strip(
    name: str, tiles: Float[Tensor, "n C H W"], titles: Sequence[str], label: str = ""
) -> Values:
    """Tiles side by side as one small picture, with a title above each and a label on the left."""
    columns, axis, (high, wide) = STRIPS[name][0], PICTURE[name] - 2, tiles.shape[2:]
    size = max(1, round(TILE * high / wide)), TILE
    tiles = interpolate(tiles, size, mode="nearest" if wide <= TILE else "area")
    source = image_source(tile_sheet(tiles, columns, frame=(0, GAP, 0, 0)))
    return {
        f"{PICTURE[name]}/source": source,
        f"layout/yaxis{axis}.ticktext": [label],
        f"layout/xaxis{axis}.ticktext": [*titles, *[""] * (columns - len(titles))],
    }


def _frames(name: str, places: Bool[Tensor, "n h w"], shape: Sequence[int]) -> Values:
    """Lines around the places of the tiles (n, C, H, W) of a strip: edges with a place on one of their sides only."""
    cell = UNIT * np.array([1, shape[2] / shape[3]]) / places.shape[:0:-1]
    inside, lines = np.pad(places.numpy(), ((0, 0), (1, 1), (1, 1))), [np.empty((0, 2))]
    for edges, step in (
        (np.diff(inside[:, :, 1:-1], axis=1), [1, 0]),
        (np.diff(inside[:, 1:-1], axis=2), [0, 1]),
    ):
        tile, row, column = np.nonzero(edges)
        start = np.stack([tile, 0 * tile], axis=1) + cell * np.stack([column, row], axis=1)
        lines.append(
            np.stack([start, start + cell * step, np.full_like(start, np.nan)], axis=1).reshape(
                -1, 2
            )
        )
    return points(FRAMES[name], np.concatenate(lines))


def _add_strips(figure: go.Figure, aspect: float) -> None:
    """The strips, still empty, with a title above each tile, and the frames on two of them; aspect of the images."""
    bare = {
        "showgrid": False,
        "showline": False,
        "ticks": "",
        "tickangle": 0,
        "tickfont": {"size": 11},
        "constrain": "domain",
    }
    scale = dict.fromkeys(["dx", "dy"], 1 / (TILE + GAP)) | dict.fromkeys(
        ["x0", "y0"], 0.5 / (TILE + GAP)
    )
    for name, (columns, left, top, width) in STRIPS.items():
        axis, tall = PICTURE[name] - 2, UNIT * (aspect if name in FRAMES else 1)
        figure.add_image(
            hoverinfo="skip", zsmooth="fast", xaxis=f"x{axis}", yaxis=f"y{axis}", **scale
        )
        figure.layout[f"xaxis{axis}"] = bare | {
            "side": "top",
            "anchor": f"y{axis}",
            "domain": [left / WIDTH, (left + width) / WIDTH],
            "range": [0, columns],
            "tickvals": np.arange(columns) + UNIT / 2,
            "constraintoward": "left",
        }
        figure.layout[f"yaxis{axis}"] = bare | {
            "anchor": f"x{axis}",
            "domain": [1 - (top + width / columns) / HEIGHT, 1 - top / HEIGHT],
            "range": [tall, 0],
            "tickvals": [tall / 2],
            "constraintoward": "top",
            "scaleanchor": f"x{axis}",
        }
    for name in FRAMES:
        figure.add_scatter(
            mode="lines",
            name="its places",
            line={"color": theme.VERMILLION, "width": 3},
            hoverinfo="skip",
            showlegend=name == "images",
            xaxis=f"x{PICTURE[name] - 2}",
            yaxis=f"y{PICTURE[name] - 2}",
        )


def _add_scales(figure: go.Figure) -> None:
    """The place of the map, and the scales of its usage and of the difference."""
    bar = {"len": 98, "lenmode": "pixels", "thickness": 8, "xpad": 0, "ypad": 0, "xanchor": "left"}
    shades = {
        "color": [0, 1],
        "colorscale": "Inferno",
        "cmin": 0,
        "cmax": 1,
        "colorbar": bar
        | {
            "x": 296 / WIDTH,
            "y": 0,
            "yanchor": "bottom",
            "tickvals": [0, 0.5, 1],
            "ticktext": ["0", "0.5", "≥ 1"],
        },
    }
    figure.add_scatter(x=[None] * 2, y=[None] * 2, mode="markers", marker=shades, showlegend=False)
    below = bar | {"orientation": "h", "x": 0, "y": 1 - 268 / HEIGHT, "yanchor": "top", "len": 294}
    figure.update_traces(
        marker_colorbar=below, marker_colorbar_title_side="bottom", selector={"name": "codes"}
    )
    axis = {"showticklabels": False, "ticks": "", "constrain": "domain"}
    figure.update_layout(
        xaxis=axis | {"domain": [0, 294 / WIDTH]},
        yaxis=axis | {"domain": [1 - 264 / HEIGHT, 1], "scaleanchor": "x"},
    )


def _degrees(angle: Float[Tensor, ""]) -> str:
    return f"{angle.rad2deg():.0f}°"


def _places(places: Bool[Tensor, "h w"]) -> str:
    count = int(places.sum())
    return "1 place" if count == 1 else f"{count} places"
