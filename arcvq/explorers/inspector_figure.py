"""One code taken apart: its nearest codes, the images that use it, the ways to another, a swap."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from plotly.graph_objects import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from arcvq import geometry
from arcvq.analysis.projections import Projection
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.encoding import encode_test
from arcvq.explorers.figure_updates import Values, assign, finish_moving, points, words
from arcvq.explorers.panels import SLIM, Panel
from arcvq.explorers.placing import place_codes
from arcvq.figures.code_maps import code_map
from arcvq.figures.image_grids import GAP, TILE
from arcvq.figures.parts import image_source, inferno, tile_sheet
from arcvq.figures.theme import BLACK, VERMILLION
from arcvq.images import ImageData
from arcvq.runtime.wording import counted

IMAGES = 1000  # test images that usage is counted on, at most
TILES = 7  # in a long strip
UNIT = TILE / (TILE + GAP)  # the part of its place that a tile fills, without the gap
# Pixels
WIDTH = 852  # of the plots
HEIGHT = 414
SIDE = 24  # beside and below them
HEAD = 136  # above them, with 4 lines of caption
MAP = 294  # width of the map and of the strip below it
MAP_HEIGHT = 220
# Each with the number of its pair of axes, left, top, width and height
STRIPS = {
    "nearest": Panel(2, 397, 36, 455, 65),
    "images": Panel(3, 397, 140, 455, 65),
    "slerp": Panel(4, 397, 244, 455, 65),
    "lerp": Panel(5, 397, 348, 455, 65),
    "swap": Panel(6, 0, 316, MAP, 98),
}
COLUMNS = dict.fromkeys(STRIPS, TILES) | {"swap": 3}  # tiles in each strip

# Numbers of the traces: those of the map, then the strips, then the frames on two of them
CODES, UNUSED, CHOSEN, OTHER = range(4)
PICTURE = {name: number for number, name in enumerate(STRIPS, start=OTHER + 1)}
AFTER_STRIPS = OTHER + 1 + len(STRIPS)
FRAMES = {"images": AFTER_STRIPS, "swap": AFTER_STRIPS + 1}

Tiles = Float[Tensor, "n C H W"]
Places = Bool[Tensor, "n h w"]


class Subject:
    """A model, and the test images that usage is counted on, with all tensors on the CPU.

    Args:
        model: On any device.
        data: The images.

    Attributes:
        model: On any device.
        codebook: Its codes (K, D).
        images: The first 1,000 test images (n, C, H, W), in [-1, 1].
        tokens: Their tokens (n, h, w).
        usage: How many tokens chose each code (K,).
        map: As `draw_map` of a method; each map is drawn once.

    Raises:
        ValueError: If there are no test images, or they do not fit.
    """

    def __init__(self, model: Autoencoder, data: ImageData):
        self.model = model
        self.tokens = encode_test(model, data, IMAGES)
        self.codebook = model.quantizer.codebook.detach().cpu()
        self.images = data.test.batch(torch.arange(len(self.tokens))).cpu()
        self.usage = geometry.usage_counts(self.tokens, len(self.codebook))
        self.map = cache(self.draw_map)

    def draw_map(self, method: str) -> tuple[Projection, Figure]:
        """Draw the codes on a map, by "PCA" or "UMAP" of their angles, colored by usage."""
        seen = place_codes(self.codebook, method, lambda: self.usage)
        return seen, code_map(seen, self.usage, log=True)

    @torch.no_grad()
    def patches(self, codes: Float[Tensor, "n D"]) -> Tiles:
        """Decode 3 x 3 equal codes, for each code or any point between codes, at its own norm."""
        # The device and the precision of the model.
        there = codes.to(self.model.quantizer.codebook)
        grids = there[:, :, None, None].expand(-1, -1, 3, 3)
        images = self.model.decoder(grids)
        return images.clamp(-1, 1).cpu()

    def swapped(self, image: int, chosen: int, other: int) -> Float[Tensor, "2 C H W"]:
        """Decode an image as it is, and with one code in all places of the other."""
        grid = self.tokens[image]
        changed = grid.where(grid != chosen, other)
        both = torch.stack([grid, changed])
        return self.model.decode(both.to(self.model.device)).cpu()


class Inspection:
    """What is found out about a code.

    Args:
        subject: The model and the images.
        chosen: The code.
        other: The code that it is compared with.
        rank: Which of the images that use the code is looked at, from 1; if there are fewer, the
            last of them.

    Attributes:
        chosen: The code.
        other: The code that it is compared with.
        angles: From the code to each code, in degrees (K,).
        near: The codes nearest to it.
        places: Where the images use it (n, h, w).
        users: The images that use it, from the one that uses it most.
        image: The image that is looked at; the first one if none uses the code.
        swapped: This image, decoded as it is and with the other code in all these places.
        change: By how much they differ, as a mean over the channels (H, W).
    """

    def __init__(self, subject: Subject, chosen: int, other: int, rank: int):
        self.chosen = chosen
        self.other = other

        codebook = subject.codebook
        self.angles = geometry.angles_to(codebook, codebook[chosen]).rad2deg()
        by_angle = self.angles.argsort(stable=True)
        others = by_angle[by_angle != chosen]
        self.near = others[: TILES - 1].tolist()  # the first tile is the code itself

        self.places = subject.tokens == chosen
        counts = self.places.sum(dim=(1, 2))
        by_count = counts.argsort(descending=True, stable=True)
        using = int((counts > 0).sum())
        self.users = by_count[:using].tolist()

        first = self.users[:rank] or [0]
        self.image = first[-1]
        self.swapped = subject.swapped(self.image, chosen, other)
        before, after = self.swapped
        self.change = (after - before).abs().mean(dim=0)


def inspector_picture(subject: Subject, chosen: int, other: int, rank: int, method: str) -> Figure:
    """Draw all about the code `chosen`, and what lies between it and the code `other`.

    Both are marked on the map. The strips are the code and its nearest by angle, decoded; the test
    images that use it most, its places framed; the ways to the other code on the sphere (slerp) and
    straight (lerp), decoded; and the image of this rank (from 1; the last if there are fewer)
    decoded as it is and with the other code in these places, with the absolute difference.
    """
    _, drawn = subject.map(method)
    figure = Figure(drawn.data[:2])
    _add_mark(figure, "chosen code", "circle-open", VERMILLION)
    _add_mark(figure, "other code", "diamond-open", BLACK)
    _add_strips(figure, _aspect(subject.images))
    _add_frames(figure)
    _add_scale_of_differences(figure)
    _lay_out_map(figure)
    values = inspector_values(subject, chosen, other, rank, method)
    width = WIDTH + 2 * SIDE
    around = {"left": SIDE, "right": SIDE, "bottom": SIDE}
    finish_moving(figure, values, HEAD, HEIGHT + SIDE, width=width, **around)
    return assign(figure, values)


def inspector_values(subject: Subject, chosen: int, other: int, rank: int, method: str) -> Values:
    """Return what moves in `inspector_picture`, by path."""
    view = Inspection(subject, chosen, other, rank)
    seen, drawn = subject.map(method)
    values: Values = {}
    for trace in (CODES, UNUSED):
        codes = drawn.data[trace]
        values[f"{trace}/x"] = codes.x
        values[f"{trace}/y"] = codes.y
        values[f"{trace}/customdata"] = codes.customdata
    values |= points(CHOSEN, seen.points[[chosen]])
    values |= points(OTHER, seen.points[[other]])
    values |= _nearest(subject, view)
    values |= _users(subject, view)
    values |= _ways(subject, view)
    values |= _swap(view)
    title = f"Code {chosen} and code {other}"
    sentences = [*_findings(subject, view), *_hidden(seen, view), seen.trust]
    return values | words(title, " ".join(sentences), WIDTH)


def _findings(subject: Subject, view: Inspection) -> list[str]:
    """The findings in sentences."""
    chosen = view.chosen
    other = view.other
    images = counted(len(subject.images), "test image")
    found = []
    if view.users:
        users = len(view.users)
        usage = subject.usage[chosen]
        tokens = subject.tokens.numel()
        found.append(
            f"Code {chosen} is chosen by {usage:,} of {tokens:,} tokens, in {users:,} of {images}."
        )
    else:
        found.append(f"None of {images} uses code {chosen}.")
    if view.near:
        nearest = view.near[0]
        angle = view.angles[nearest]
        found.append(f"The code nearest to it is {nearest}, at {angle:.0f}°.")
    else:
        found.append("It is the only code.")
    angle = view.angles[other]
    found.append(f"Code {other} is {angle:.0f}° away.")
    if view.users:
        places = _count(view.places[view.image])
        mean = view.change.mean()
        found.append(
            f"Put into {places} of image {view.image}, it changes the pixels (from -1 to 1) "
            f"by {mean:.3f} on average."
        )
    return found


def _hidden(seen: Projection, view: Inspection) -> list[str]:
    """A sentence on which of the two codes have no place on the map, if any."""
    hidden = []
    for code in np.unique([view.chosen, view.other]):
        if np.isnan(seen.points[code]).any():
            hidden.append(str(code))
    if not hidden:
        return []
    names = ", ".join(hidden)
    return [f"Not on the map: {names}."]


def _nearest(subject: Subject, view: Inspection) -> Values:
    """The strip of the code and those nearest to it."""
    titles = [f"<b>{view.chosen}</b>"]
    for code in view.near:
        angle = view.angles[code]
        titles.append(f"{code}<br>{angle:.0f}°")
    shown = [view.chosen, *view.near]
    patches = subject.patches(subject.codebook[shown])
    return _strip("nearest", patches, titles, "nearest<br>codes")


def _users(subject: Subject, view: Inspection) -> Values:
    """The strip of the images that use the code."""
    users = view.users[:TILES]
    titles = []
    for image in users:
        name = f"<b>{image}</b>" if image == view.image else image
        places = _count(view.places[image])
        titles.append(f"image {name}<br>{places}")
    images = subject.images[users]
    strip = _strip("images", images, titles or ["none"], "images<br>that use it")
    return strip | _frames("images", view.places[users], _aspect(images))


def _ways(subject: Subject, view: Inspection) -> Values:
    """The strips from one code to the other, with the angle from the first and the norm."""
    both = [view.chosen, view.other]
    first, last = subject.codebook[both].double()
    shares = torch.linspace(0, 1, TILES, dtype=torch.float64)
    slerp = geometry.slerp(first, last, shares)
    lerp = torch.lerp(first, last, shares[:, None])
    values: Values = {}
    for name, path in (("slerp", slerp), ("lerp", lerp)):
        angles = geometry.angles_to(path, first).rad2deg()
        norms = geometry.norms(path)
        titles = []
        for angle, norm in zip(angles, norms, strict=True):
            titles.append(f"{angle:.0f}°<br>norm {norm:.2g}")
        label = f"{name}<br>to {view.other}"
        patches = subject.patches(path)
        values |= _strip(name, patches, titles, label)
    return values


def _swap(view: Inspection) -> Values:
    """The strip of the image without and with the other code, and of the difference."""
    # Three channels, also for gray images: the difference is drawn in color.
    before, after = view.swapped.expand(-1, 3, -1, -1)
    tiles = torch.stack([before, after, inferno(view.change)])
    places = view.places[view.image]
    mean = view.change.mean()
    titles = [
        f"image {view.image},<br>decoded",
        f"code {view.other} in<br>{_count(places)}",
        f"difference,<br>mean {mean:.3f}",
    ]
    # The difference has no frames.
    twice = places.expand(2, -1, -1)
    frames = _frames("swap", twice, _aspect(tiles))
    return frames | _strip("swap", tiles, titles, "")


def _strip(name: str, tiles: Tiles, titles: Sequence[str], label: str) -> Values:
    """Tiles side by side as one small picture, with titles above and a label on the left."""
    panel = STRIPS[name]
    columns = COLUMNS[name]
    height = max(1, round(TILE * _aspect(tiles)))
    # Small images keep their pixels; of large ones the pixels are averaged.
    mode = "nearest" if tiles.shape[3] <= TILE else "area"
    resized = interpolate(tiles, (height, TILE), mode=mode)
    sheet = tile_sheet(resized, columns, frame=(0, GAP, 0, 0))
    blanks = [""] * (columns - len(titles))
    values: Values = {f"{PICTURE[name]}/source": image_source(sheet)}
    values[f"layout/{panel.yaxis}.ticktext"] = [label]
    values[f"layout/{panel.xaxis}.ticktext"] = [*titles, *blanks]
    return values


def _frames(name: str, places: Places, aspect: float) -> Values:
    """Lines around the places of a strip's tiles, whose height is `aspect` times their width."""
    # With a border of cells outside, places at the rim have edges on all sides too.
    inside = np.pad(places.numpy(), ((0, 0), (1, 1), (1, 1)))
    # An edge has a place on one of its sides only.
    is_level = np.diff(inside[:, :, 1:-1], axis=1)
    is_upright = np.diff(inside[:, 1:-1], axis=2)
    _, rows, columns = places.shape
    cell = np.array([UNIT / columns, UNIT * aspect / rows])
    level = _edges(is_level, cell, [1, 0])
    upright = _edges(is_upright, cell, [0, 1])
    return points(FRAMES[name], np.concatenate([level, upright]))


def _edges(
    is_edge: Bool[np.ndarray, "n h w"], cell: Float[np.ndarray, "2"], step: list[int]
) -> Float[np.ndarray, "_ 2"]:
    """Start, end and a gap of each edge, which goes from its cell's corner by so many cells."""
    tile, row, column = np.nonzero(is_edge)
    start = cell * np.column_stack([column, row])
    start[:, 0] += tile  # the tiles stand side by side, one unit each
    end = start + cell * step
    gap = np.full_like(start, np.nan)
    lines = np.stack([start, end, gap], axis=1)
    return lines.reshape(-1, 2)


def _add_mark(figure: Figure, name: str, symbol: str, color: str) -> None:
    """Add the mark of a code on the map, still without its place."""
    marker = {"size": 15, "symbol": symbol, "color": color, "line": {"width": 3}}
    figure.add_scatter(mode="markers", name=name, marker=marker, hoverinfo="skip")


def _add_strips(figure: Figure, aspect: float) -> None:
    """Add the strips, still empty, with titles above their tiles."""
    pixel = UNIT / TILE
    # A pixel's own place is its middle.
    scale = {"dx": pixel, "dy": pixel, "x0": pixel / 2, "y0": pixel / 2}
    small = {"tickangle": 0, "tickfont": {"size": 11}}
    for name, panel in STRIPS.items():
        figure.add_image(hoverinfo="skip", zsmooth="fast", **scale, **panel.axes)
        columns = COLUMNS[name]
        middles = np.arange(columns) + UNIT / 2
        x = small | {"range": [0, columns], "tickvals": middles, "constraintoward": "left"}
        is_of_images = name in FRAMES
        height = UNIT * aspect if is_of_images else UNIT  # codes have square tiles
        y = small | {"range": [height, 0], "tickvals": [height / 2]}
        y["scaleanchor"] = f"x{panel.number}"
        panel.place(figure, (WIDTH, HEIGHT), x, y)


def _add_frames(figure: Figure) -> None:
    """Add the lines on two of the strips, still empty, with one entry in the legend."""
    line = {"color": VERMILLION, "width": 3}
    style = {"name": "its places", "mode": "lines", "line": line, "hoverinfo": "skip"}
    for name in FRAMES:
        is_first = name == "images"
        figure.add_scatter(showlegend=is_first, **style, **STRIPS[name].axes)


def _add_scale_of_differences(figure: Figure) -> None:
    """Add the scale of the difference beside its strip, by a trace without points."""
    bar = SLIM | {
        "len": STRIPS["swap"].height,
        "x": (MAP + 2) / WIDTH,
        "y": 0,
        "yanchor": "bottom",
        "tickvals": [0, 0.5, 1],
        "ticktext": ["0", "0.5", "≥ 1"],
    }
    shades = {"colorscale": "Inferno", "cmin": 0, "cmax": 1, "color": [0, 1], "colorbar": bar}
    none = [None, None]
    figure.add_scatter(x=none, y=none, mode="markers", marker=shades, showlegend=False)


def _lay_out_map(figure: Figure) -> None:
    """Place the map, and the scale of its usage below it."""
    bottom = 1 - MAP_HEIGHT / HEIGHT
    below = 1 - (MAP_HEIGHT + 4) / HEIGHT
    bar = SLIM | {"orientation": "h", "x": 0, "y": below, "yanchor": "top", "len": MAP}
    codes = figure.data[CODES].marker.colorbar
    codes.update(bar)
    codes.title.side = "bottom"
    bare = {"showticklabels": False, "ticks": "", "constrain": "domain"}
    figure.layout.xaxis.update(bare, domain=[0, MAP / WIDTH])
    figure.layout.yaxis.update(bare, domain=[bottom, 1], scaleanchor="x")


def _aspect(tiles: Tiles) -> float:
    """Height by width."""
    _, _, height, width = tiles.shape
    return height / width


def _count(places: Bool[Tensor, "h w"]) -> str:
    """How many places these are, in words."""
    return counted(int(places.sum()), "place")
