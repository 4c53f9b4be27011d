"""One code taken apart: its nearest codes, the images that use it, the ways to another, a swap."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from plotly.graph_objects import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from arcvq import geometry
from arcvq.analysis.projections import Projection
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.figure_updates import (
    Values,
    assign,
    finish_moving,
    fix_head,
    place_axes,
    points,
    words,
)
from arcvq.explorers.placing import place_codes
from arcvq.figures.code_maps import code_map
from arcvq.figures.image_grids import GAP, TILE
from arcvq.figures.parts import image_source, inferno, tile_sheet
from arcvq.figures.theme import BLACK, VERMILLION
from arcvq.images import ImageData, to_float

IMAGES = 1000  # test images that usage is counted on, at most
BATCH = 256  # images encoded at once
TILES = 7  # in a long strip
UNIT = TILE / (TILE + GAP)  # the part of its place that a tile fills, without the gap
# Pixels: the plots, beside them, above them (4 lines of caption)
WIDTH = 852
HEIGHT = 414
SIDE = 24
HEAD = 136
MAP = 294  # pixels: width of the map and of the strip below it
# The strips by name: their tiles, and their left, top and width in pixels.
STRIPS = {
    "nearest": (TILES, 397, 36, 455),
    "images": (TILES, 397, 140, 455),
    "slerp": (TILES, 397, 244, 455),
    "lerp": (TILES, 397, 348, 455),
    "swap": (3, 0, 316, MAP),
}
CODES, UNUSED, CHOSEN, OTHER = range(4)  # the traces of the map, before those of the strips
PICTURE = {name: number for number, name in enumerate(STRIPS, start=4)}
FRAMES = {"images": 4 + len(STRIPS), "swap": 5 + len(STRIPS)}
AXES = {name: number - 2 for name, number in PICTURE.items()}  # of the strips, after the map's


@dataclass(frozen=True)
class Subject:
    """A model, and the test images that usage is counted on, with all tensors on the CPU.

    Attributes:
        model: on any device.
        codebook: its codes.
        images: in [-1, 1].
        indices: of the images.
        usage: tokens by code.
        maps: those that were asked for, by method.
    """

    model: Autoencoder
    codebook: Float[Tensor, "K D"]
    images: Float[Tensor, "n C H W"]
    indices: Int[Tensor, "n h w"]
    usage: Int[Tensor, " K"]
    maps: dict[str, tuple[Projection, Figure]] = field(default_factory=dict)

    def map(self, method: str) -> tuple[Projection, Figure]:
        """Draw the codes on a map, by "PCA" or "UMAP" of their angles, colored by usage."""
        if method not in self.maps:
            seen = place_codes(self.codebook, method, lambda: self.usage)
            self.maps[method] = seen, code_map(seen, self.usage, log=True)
        return self.maps[method]

    @torch.no_grad()
    def patches(self, codes: Float[Tensor, "n D"]) -> Float[Tensor, "n C p p"]:
        """Decode 3 x 3 equal codes, for each code or any point between codes, at its own norm."""
        grids = codes.to(self.model.quantizer.codebook)[:, :, None, None].expand(-1, -1, 3, 3)
        return self.model.decoder(grids).clamp(-1, 1).cpu()

    def swapped(self, image: int, chosen: int, other: int) -> Float[Tensor, "2 C H W"]:
        """Decode an image as it is, and with one code in all places of the other."""
        grid = self.indices[image]
        grids = torch.stack([grid, grid.where(grid != chosen, other)])
        return self.model.decode(grids.to(self.model.quantizer.codebook.device)).cpu()


def subject(model: Autoencoder, data: ImageData) -> Subject:
    """Encode the first 1,000 test images with a model.

    Raises:
        ValueError: if there are none or they do not fit.
    """
    if not len(data.test):
        raise ValueError(
            f"{data.name} has no test images; the use of a code is counted on at least one"
        )
    codebook = model.quantizer.codebook.detach()
    images = to_float(data.test.images[:IMAGES])
    batches = [model.encode(batch.to(codebook.device)) for batch in images.split(BATCH)]
    indices = torch.cat(batches).cpu()
    usage = geometry.usage_counts(indices, len(codebook))
    return Subject(model, codebook.cpu(), images.cpu(), indices, usage)


def inspector_picture(subject: Subject, chosen: int, other: int, rank: int, method: str) -> Figure:
    """Draw all about the code `chosen`, and what lies between it and the code `other`.

    Both are marked on the map. The strips are the code and its nearest by angle, decoded; the test
    images that use it most, its places framed; the ways to the other code on the sphere (slerp) and
    straight (lerp), decoded; and the image of this rank (from 1; the last if there are fewer)
    decoded as it is and with the other code in these places, with the absolute difference.
    """
    figure = Figure(subject.map(method)[1].data[:2])
    for name, symbol, color in (
        ("chosen code", "circle-open", VERMILLION),
        ("other code", "diamond-open", BLACK),
    ):
        marker = {"size": 15, "symbol": symbol, "color": color, "line": {"width": 3}}
        figure.add_scatter(mode="markers", name=name, marker=marker, hoverinfo="skip")
    _add_strips(figure, subject.images.shape[2] / subject.images.shape[3])
    _add_scales(figure)
    values = inspector_values(subject, chosen, other, rank, method)
    finish_moving(figure, values, width=WIDTH + 2 * SIDE, left=SIDE, right=SIDE, bottom=SIDE)
    fix_head(figure, HEAD, HEIGHT + SIDE)
    return assign(figure, values)


def inspector_values(subject: Subject, chosen: int, other: int, rank: int, method: str) -> Values:
    """Return what moves in `inspector_picture`, by path."""
    seen, drawn = subject.map(method)
    codebook = subject.codebook
    places = subject.indices == chosen
    angles = geometry.angles_to(codebook, codebook[chosen])
    near = [code for code in angles.argsort(stable=True).tolist() if code != chosen]
    near = near[: TILES - 1]
    counts = places.flatten(1).sum(dim=1)
    by_count = counts.argsort(descending=True, stable=True).tolist()
    users = [image for image in by_count if counts[image]]
    image = users[min(rank, TILES, len(users)) - 1] if users else 0

    values: Values = {}
    for trace in (CODES, UNUSED):
        for part in ("x", "y", "customdata"):
            values[f"{trace}/{part}"] = drawn.data[trace][part]
    values |= points(CHOSEN, seen.points[[chosen]]) | points(OTHER, seen.points[[other]])
    titles = [f"<b>{chosen}</b>", *(f"{code}<br>{_degrees(angles[code])}" for code in near)]
    nearest = subject.patches(codebook[[chosen, *near]])
    values |= _strip("nearest", nearest, titles, "nearest<br>codes")
    values |= _ways(subject, chosen, other)
    values |= _users(subject, places, users[:TILES], image)
    swap, change = _swap(subject, places[image], image, chosen, other)
    values |= swap

    text = [f"None of {len(places):,} test images uses code {chosen}."]
    if users:
        text = [
            f"Code {chosen} has {subject.usage[chosen]:,} of {places.numel():,} tokens, in "
            f"{len(users):,} of {len(places):,} test images."
        ]
    text.append(
        f"Its nearest is code {near[0]}, at {_degrees(angles[near[0]])}."
        if near
        else "It is the only code."
    )
    text.append(f"Code {other} lies {_degrees(angles[other])} away.")
    if users:
        text.append(
            f"In {_places(places[image])} of image {image} it changes pixels, which are -1 to 1, "
            f"by {change:.3f} on average."
        )
    away = [code for code in {chosen, other} if np.isnan(seen.points[code]).any()]
    if away:
        text.append(f"Not on the map: {', '.join(map(str, sorted(away)))}.")
    text.append(seen.trust)
    return values | words(f"Code {chosen} and code {other}", " ".join(text), WIDTH)


def _ways(subject: Subject, chosen: int, other: int) -> Values:
    """The strips from one code to the other, with the angle from the first and the norm."""
    first, last = subject.codebook[[chosen, other]].double()
    shares = torch.linspace(0, 1, TILES, dtype=torch.float64)
    paths = {
        "slerp": geometry.slerp(first, last, shares),
        "lerp": torch.lerp(first, last, shares[:, None]),
    }
    values: Values = {}
    for name, path in paths.items():
        sizes = zip(geometry.angles_to(path, first), geometry.norms(path), strict=True)
        titles = [f"{_degrees(angle)}<br>norm {norm:.2g}" for angle, norm in sizes]
        values |= _strip(name, subject.patches(path), titles, f"{name}<br>to {other}")
    return values


def _users(
    subject: Subject, places: Bool[Tensor, "n h w"], users: Sequence[int], image: int
) -> Values:
    """The strip of the images that use the code."""
    titles = []
    for user in users:
        name = f"<b>{user}</b>" if user == image else user
        titles.append(f"image {name}<br>{_places(places[user])}")
    strip = _strip("images", subject.images[users], titles or ["none"], "images<br>that use it")
    return strip | _frames("images", places[users], subject.images.shape)


def _swap(
    subject: Subject, places: Bool[Tensor, "h w"], image: int, chosen: int, other: int
) -> tuple[Values, float]:
    """The strip of an image with and without the code, and the mean absolute difference."""
    before, after = subject.swapped(image, chosen, other).expand(-1, 3, -1, -1)
    change = (after - before).abs().mean(dim=0)
    mean = float(change.mean())
    tiles = torch.stack([before, after, inferno(change)])
    titles = [
        f"image {image},<br>decoded",
        f"code {other} in<br>{_places(places)}",
        f"difference,<br>mean {mean:.3f}",
    ]
    frames = _frames("swap", places.expand(2, -1, -1), tiles.shape)
    return _strip("swap", tiles, titles) | frames, mean


def _strip(
    name: str, tiles: Float[Tensor, "n C H W"], titles: Sequence[str], label: str = ""
) -> Values:
    """Tiles side by side as one small picture, with titles above and a label on the left."""
    columns = STRIPS[name][0]
    axis = AXES[name]
    high, wide = tiles.shape[2:]
    size = (max(1, round(TILE * high / wide)), TILE)
    tiles = interpolate(tiles, size, mode="nearest" if wide <= TILE else "area")
    blanks = [""] * (columns - len(titles))
    return {
        f"{PICTURE[name]}/source": image_source(tile_sheet(tiles, columns, frame=(0, GAP, 0, 0))),
        f"layout/yaxis{axis}.ticktext": [label],
        f"layout/xaxis{axis}.ticktext": [*titles, *blanks],
    }


def _frames(name: str, places: Bool[Tensor, "n h w"], shape: Sequence[int]) -> Values:
    """Lines around the places of a strip's tiles (n, C, H, W).

    They are the edges with a place on one of their sides only.
    """
    cell = UNIT * np.array([1, shape[2] / shape[3]]) / places.shape[:0:-1]
    inside = np.pad(places.numpy(), ((0, 0), (1, 1), (1, 1)))
    lines = [np.empty((0, 2))]
    for edges, step in (
        (np.diff(inside[:, :, 1:-1], axis=1), [1, 0]),
        (np.diff(inside[:, 1:-1], axis=2), [0, 1]),
    ):
        tile, row, column = np.nonzero(edges)
        corner = np.column_stack([tile, 0 * tile])
        start = corner + cell * np.column_stack([column, row])
        gap = np.full_like(start, np.nan)
        lines.append(np.stack([start, start + cell * step, gap], axis=1).reshape(-1, 2))
    return points(FRAMES[name], np.concatenate(lines))


def _add_strips(figure: Figure, aspect: float) -> None:
    """Add the strips, still empty, with titles above their tiles, and the frames on two of them."""
    small = {"tickangle": 0, "tickfont": {"size": 11}}
    scale = {"dx": UNIT / TILE, "dy": UNIT / TILE, "x0": UNIT / TILE / 2, "y0": UNIT / TILE / 2}
    for name, (columns, left, top, width) in STRIPS.items():
        axis = AXES[name]
        tall = UNIT * (aspect if name in FRAMES else 1)
        figure.add_image(
            hoverinfo="skip", zsmooth="fast", xaxis=f"x{axis}", yaxis=f"y{axis}", **scale
        )
        x = small | {
            "range": [0, columns],
            "tickvals": np.arange(columns) + UNIT / 2,
            "constraintoward": "left",
        }
        y = small | {"range": [tall, 0], "tickvals": [tall / 2], "scaleanchor": f"x{axis}"}
        place_axes(figure, axis, (left, top, width, width / columns), (WIDTH, HEIGHT), x, y)
    for name in FRAMES:
        figure.add_scatter(
            mode="lines",
            name="its places",
            line={"color": VERMILLION, "width": 3},
            hoverinfo="skip",
            showlegend=name == "images",
            xaxis=f"x{AXES[name]}",
            yaxis=f"y{AXES[name]}",
        )


def _add_scales(figure: Figure) -> None:
    """Place the map, and add the scales of its usage and of the difference."""
    bar = {"lenmode": "pixels", "thickness": 8, "xpad": 0, "ypad": 0, "xanchor": "left"}
    beside = bar | {
        "len": 98,
        "x": (MAP + 2) / WIDTH,
        "y": 0,
        "yanchor": "bottom",
        "tickvals": [0, 0.5, 1],
        "ticktext": ["0", "0.5", "≥ 1"],
    }
    shades = {
        "color": [0, 1],
        "colorscale": "Inferno",
        "cmin": 0,
        "cmax": 1,
        "colorbar": beside,
    }
    none = [None, None]
    figure.add_scatter(x=none, y=none, mode="markers", marker=shades, showlegend=False)
    below = bar | {
        "orientation": "h",
        "x": 0,
        "y": 1 - 224 / HEIGHT,
        "yanchor": "top",
        "len": MAP,
        "title_side": "bottom",
    }
    figure.update_traces(marker_colorbar=below, selector={"name": "codes"})
    axis = {"showticklabels": False, "ticks": "", "constrain": "domain"}
    figure.update_layout(
        xaxis=axis | {"domain": [0, MAP / WIDTH]},
        yaxis=axis | {"domain": [1 - 220 / HEIGHT, 1], "scaleanchor": "x"},
    )


def _degrees(angle: Float[Tensor, ""]) -> str:
    return f"{angle.rad2deg():.0f}°"


def _places(places: Bool[Tensor, "h w"]) -> str:
    count = int(places.sum())
    return "1 place" if count == 1 else f"{count} places"
