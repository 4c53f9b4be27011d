"""Sampling taken apart: images, one in the making, its tokens, and each next code's probability."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from plotly.graph_objects import Figure
from scipy import stats
from torch import Tensor
from torch.nn.functional import pad

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
from arcvq.figures.parts import BLANK, image_source, thin, tile_sheet, to_pixels
from arcvq.figures.theme import BLUE, VERMILLION
from arcvq.images import ImageData, to_float
from arcvq.priors import Prior, sampling_steps

SAMPLE = "sample"
COMPLETE = "complete the lower half"
TASKS = (SAMPLE, COMPLETE)
SIDE = 4  # finished images in a row and in a column
DRAWN = 4096  # codes on the map that can come next, and that cannot, at most
IMAGES = 256  # test images that usage is counted on, where a map is of the most used codes
BATCH = 64  # images encoded at once
TILE = 64  # pixels of a finished image, at most
LIKELIEST = 10  # bars, at most
# Pixels: the plots, beside them, above them (4 lines of caption)
WIDTH = 852
HEIGHT = 384
MARGIN = 24
BELOW = 44  # for the scale of the map
HEAD = 142
# The panels by name, which stand on the axes of their number (bars: xaxis5): left, top, width and
# height in pixels.
PANELS = {
    "finished": (0, 0, 260, 190),
    "making": (296, 0, 260, 190),
    "tokens": (592, 0, 260, 190),
    "map": (0, 240, 380, 140),
    "bars": (460, 240, 392, 96),
    "patches": (460, 341, 392, 39),
}
AXIS = {name: str(number) if number > 1 else "" for number, name in enumerate(PANELS, start=1)}
TITLES = {
    "making": "in the making",
    "tokens": "its tokens, by their probability",
    "bars": "the likeliest next codes, decoded below",
}
# The traces
FINISHED, MAKING, PATCHES, PLACES, TOKENS, CUT, LEFT, RINGS, NEXT, BARS, FRAME = range(11)
FLOOR = 1e-4  # a lower probability has the color of this one
COMING = 0.85  # the gray of what is still to come
Choice = dict[str, Any]  # temperature, top_k and top_p


@dataclass(frozen=True)
class Drawing:
    """What one seed draws.

    Attributes:
        tokens: of the image in the making.
        probabilities: that each token was drawn from.
        given: how many tokens were there from the start, in raster order.
        finished: all images, as one PNG.
    """

    tokens: Int[Tensor, "h w"]
    probabilities: Float[np.ndarray, "hw K"]
    given: int
    finished: str


@dataclass(frozen=True)
class Sampler:
    """A model, a prior over its tokens and the data whose test images are completed.

    Attributes:
        model: on any device.
        prior: on any device.
        data: the images.
        maps: those that were asked for, by method.
        last: the last drawing alone, by what it was asked for with.
    """

    model: Autoencoder
    prior: Prior
    data: ImageData
    maps: dict[str, Projection] = field(default_factory=dict)
    last: dict[tuple, Drawing] = field(default_factory=dict)

    def map(self, method: str) -> Projection:
        """Place the codes on a map, by "PCA" or "UMAP" of their angles."""
        if method not in self.maps:
            self.maps[method] = place_codes(self.codebook, method, self.count_usage)
        return self.maps[method]

    def count_usage(self) -> Int[Tensor, " K"]:
        """Count the tokens of each code in the first test images."""
        images = to_float(self.data.test.images[:IMAGES]).to(self.codebook.device)
        tokens = [self.model.encode(batch).flatten() for batch in images.split(BATCH)]
        return geometry.usage_counts(torch.cat(tokens).cpu(), len(self.codebook))

    @property
    def codebook(self) -> Float[Tensor, "K D"]:
        """The codes, where the model is."""
        return self.model.quantizer.codebook

    def drawing(self, task: str, label: int, seed: int, **choice: Any) -> Drawing:
        """Draw 16 samples of a class, or 3 completions of each of 4 test images, the class first.

        The first that is drawn is the one in the making.

        Args:
            task: one of `TASKS`.
            label: the class; ignored by a prior without classes.
            seed: of the draw.
            **choice: temperature, top_k and top_p.
        """
        key = (task, label, seed, *choice.values())
        if key not in self.last:
            self.last.clear()
            draw = self._sample if task == SAMPLE else self._complete
            self.last[key] = draw(label, seed, choice)
        return self.last[key]

    def making(self, drawing: Drawing, position: int) -> Float[Tensor, "C H W"]:
        """Decode the image in the making, with zeros for the codes to come and gray above them."""
        tokens = drawing.tokens
        known = torch.arange(tokens.numel()).view(tokens.shape) < position
        device = self.codebook.device
        codes = self.model.quantizer.lookup(tokens[None].to(device))
        with torch.no_grad():
            image = self.model.decoder(codes * known.to(device))[0].clamp(-1, 1).cpu()
        for side in (0, 1):
            known = known.repeat_interleave(self.model.downsample, side)
        return image.where(known, COMING)

    def patches(self, codes: Int[np.ndarray, " n"]) -> Float[Tensor, "n C p p"]:
        """Decode 3 x 3 equal codes."""
        grids = torch.as_tensor(codes)[:, None, None].expand(-1, 3, 3)
        return self.model.decode(grids.to(self.codebook.device)).cpu()

    def _sample(self, label: int, seed: int, choice: Choice) -> Drawing:
        nothing = torch.zeros(SIDE**2, *self.prior.grid, dtype=torch.int64)
        labels = torch.full((SIDE**2,), label)
        tokens, probabilities = self._steps(nothing, labels, 0, seed, choice)
        return Drawing(tokens[0].cpu(), probabilities, 0, _sheet(self.model.decode(tokens).cpu()))

    def _complete(self, label: int, seed: int, choice: Choice) -> Drawing:
        test = self.data.test
        rows = self.prior.grid[0] // 2
        first = ((test.labels != label) * self.prior.classes).argsort(stable=True)[:SIDE]
        originals = test.batch(first).to(self.codebook.device)
        times = SIDE - 1
        grids = self.model.encode(originals).repeat_interleave(times, dim=0)
        labels = test.labels[first].repeat_interleave(times)
        tokens, probabilities = self._steps(grids, labels, rows, seed, choice)
        completed = self.model.decode(tokens).unflatten(0, (-1, times))
        tiles = torch.cat([originals[:, None], completed], dim=1).flatten(0, 1).cpu()
        given = rows * self.prior.grid[1]
        return Drawing(tokens[0].cpu(), probabilities, given, _sheet(tiles))

    def _steps(
        self, tokens: Tensor, labels: Tensor, rows: int, seed: int, choice: Choice
    ) -> tuple[Tensor, np.ndarray]:
        """All tokens, with so many rows given, and what those of the first grid were drawn from."""
        prior = self.prior
        device = prior.device
        given = (torch.arange(prior.grid[0]) < rows)[:, None].expand(prior.grid)
        classes = labels.to(device) if prior.classes else None
        generator = torch.Generator().manual_seed(seed)
        probabilities = []
        for step in sampling_steps(
            prior, tokens.to(device), given.to(device), classes, generator, **choice
        ):
            probabilities.append(step.probabilities[0])
        drawn_from = torch.stack(probabilities).float().cpu().numpy()
        return step.tokens.to(self.codebook.device), drawn_from


def sampler(model: Autoencoder, prior: Prior, data: ImageData) -> Sampler:
    """Put the three together.

    Raises:
        ValueError: for a prior of another model, and for images that do not fit.
    """
    prior.check_model(model)
    if not len(data.test):
        raise ValueError(f"{data.name} has no test images; at least one is there to be completed")
    model.check_images(to_float(data.test.images[:1]))
    grid = tuple(side // model.downsample for side in data.size)
    if grid != prior.grid:
        raise ValueError(
            f"the prior's grid is {prior.grid} and the tokens of {data.name} have {grid}; "
            "they must be the same"
        )
    if prior.classes not in (0, len(data.classes)):
        raise ValueError(
            f"the prior has {prior.classes} classes and {data.name} has {len(data.classes)}; "
            "they must be the same"
        )
    return Sampler(model, prior, data)


def sampling_picture(sampler: Sampler, position: int, method: str, **choice: Any) -> Figure:
    """Draw finished images, and one with the first `position` tokens set.

    The map shows the probability of each next code after temperature, top-k and top-p, with the 10
    likeliest ringed; the bars name these and show them decoded, 3 x 3 of each.

    Args:
        sampler: model, prior and data.
        position: from 0 to h w; tokens given count from the start.
        method: of the map, "PCA" or "UMAP".
        **choice: as in `Sampler.drawing`.
    """
    figure = Figure()
    for panel in ("finished", "making", "patches"):
        figure.add_image(hoverinfo="skip", zsmooth=False, **_axes(panel))
    cells = _axes("tokens") | {
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "texttemplate": "%{text}",
    }
    grays = [[0, "#ECECE8"], [1, "#C9C9C4"]]
    figure.add_heatmap(zmin=0, zmax=1, colorscale=grays, hoverinfo="skip", **cells)
    place = "row %{y}, column %{x}<br>code %{text}<extra></extra>"
    figure.add_heatmap(coloraxis="coloraxis", hovertemplate=place, **cells)
    _add_codes(figure)
    chance = "%{y:.3%}<extra></extra>"
    figure.add_bar(width=0.7, showlegend=False, hovertemplate=chance, **_axes("bars"))
    line = {"color": VERMILLION, "width": 2}
    figure.add_scatter(
        mode="lines", line=line, hoverinfo="skip", showlegend=False, **_axes("finished")
    )
    _lay_out(figure, sampler)
    values = sampling_values(sampler, position, method, **choice)
    finish_moving(figure, values, width=WIDTH + 2 * MARGIN, left=MARGIN, right=MARGIN, bottom=BELOW)
    fix_head(figure, HEAD, HEIGHT + BELOW)
    return assign(figure, values)


def sampling_values(sampler: Sampler, position: int, method: str, **choice: Any) -> Values:
    """Return what moves in `sampling_picture`, by path."""
    drawing = sampler.drawing(**choice)
    seen = sampler.map(method)
    count = drawing.tokens.numel()
    position = max(position, drawing.given)
    following: int | None = None
    chances = np.zeros_like(drawing.probabilities[0])
    if position < count:
        following = int(drawing.tokens.flatten()[position])
        chances = drawing.probabilities[position]
    left = int(np.count_nonzero(chances))
    likeliest = np.argsort(-chances, kind="stable")[: min(LIKELIEST, left)]

    making = to_pixels(sampler.making(drawing, position))
    values = {f"{FINISHED}/source": drawing.finished, f"{MAKING}/source": image_source(making)}
    values |= _tokens(drawing, position) | _codes(seen.points, chances, likeliest, following)
    values |= _bars(sampler, chances, likeliest, following)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    heading = "test image, then completions"
    if choice["task"] == SAMPLE:
        heading = f"{SIDE**2} samples"
        if sampler.prior.classes:
            heading += f" of class {sampler.data.classes[choice['label']]}"
    else:
        corners[:, 0] += 1  # around the first completion
    values["layout/xaxis.title.text"] = heading
    values |= points(FRAME, corners * _tile(sampler.data.size) - 0.5)

    title = f"All {count} tokens are set"
    if position < count:
        codes = "code" if left == 1 else "codes"
        title = f"{position} of {count} tokens are set; {left:,} {codes} can come next"
    text = _sentence(chances, likeliest, following, choice)
    if left > DRAWN:
        text += f" The map shows the {DRAWN:,} likeliest."
    return values | words(title, f"{text} {seen.trust}", WIDTH)


def _sentence(
    chances: np.ndarray, likeliest: np.ndarray, following: int | None, choice: Choice
) -> str:
    settings = (
        f"Temperature {choice['temperature']:.3g}, top-k {choice['top_k']}, "
        f"top-p {choice['top_p']:.3g}, seed {choice['seed']}."
    )
    if following is None:
        return settings
    bits = stats.entropy(chances, base=2)
    first = likeliest[0]
    return (
        f"{settings} The next code has an entropy of {bits:.2f} bits; {first} is the likeliest "
        f"({chances[first]:.1%}), and {following} will be drawn ({chances[following]:.1%})."
    )


def _tokens(drawing: Drawing, position: int) -> Values:
    """The grid of tokens: drawn ones by their probability, given ones gray, those to come light."""
    shape = drawing.tokens.shape
    tokens = drawing.tokens.flatten().numpy()
    place = np.arange(len(tokens))
    given = place < drawing.given
    drawn = ~given & (place < position)
    logs = _logs(drawing.probabilities[place, tokens]).astype(object)
    logs[~drawn] = None  # a grid is sent as JSON, which has no NaN
    values: Values = {}
    for trace, shown, colors in ((PLACES, given, given * 1.0), (TOKENS, drawn, logs)):
        text = np.where(shown, tokens.astype(str), "")
        values[f"{trace}/z"] = colors.reshape(shape).tolist()
        values[f"{trace}/text"] = text.reshape(shape).tolist()
    return values


def _codes(
    places: np.ndarray, chances: np.ndarray, likeliest: np.ndarray, following: int | None
) -> Values:
    """The map: codes that can come next by their probability, and the others."""
    placed = np.flatnonzero(np.isfinite(places).all(axis=1))
    left = placed[chances[placed] > 0]
    # Of very many codes the likeliest are enough, and fewer than a browser takes seconds for.
    left = np.sort(left[np.argsort(-chances[left], kind="stable")[:DRAWN]])
    cut = placed[chances[placed] == 0]
    cut = cut[thin(len(cut), "codes", limit=DRAWN)[0]]
    drawn = np.array([] if following is None else [following], int)
    values: Values = {f"{LEFT}/marker.color": _logs(chances[left])}
    for trace, rows in ((CUT, cut), (LEFT, left), (RINGS, likeliest), (NEXT, drawn)):
        hover = np.column_stack([rows, chances[rows]]).astype(np.float32)
        values |= points(trace, places[rows]) | {f"{trace}/customdata": hover}
    return values


def _bars(
    sampler: Sampler, chances: np.ndarray, likeliest: np.ndarray, following: int | None
) -> Values:
    """The likeliest codes: their probability, number and patch; the one drawn next stands out."""
    count = len(likeliest)
    middles = np.arange(count) + 0.5
    patches = sampler.patches(np.resize(likeliest, LIKELIEST).astype(int))
    patches[count:] = BLANK
    blanks = [""] * (LIKELIEST - count)
    colors = [VERMILLION if code == following else BLUE for code in likeliest]
    return {
        f"{BARS}/x": middles.astype(np.float32),
        f"{BARS}/y": chances[likeliest],
        f"{BARS}/marker.color": colors,
        f"{PATCHES}/source": image_source(tile_sheet(patches, LIKELIEST)),
        "layout/yaxis5.range": [0, 1.05 * float(chances.max()) or 1],
        "layout/xaxis6.ticktext": [*map(str, likeliest), *blanks],
    }


def _tile(size: tuple[int, int]) -> Int[np.ndarray, "2"]:
    """Width and height of a finished image with its paper."""
    return -(-np.array(size[::-1]) // _stride(size[1])) + 2


def _stride(width: int) -> int:
    """Of large images every so many-th pixel is shown."""
    return max(1, width // TILE)


def _logs(chances: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(chances, FLOOR)).astype(np.float32)


def _sheet(images: Float[Tensor, "n C H W"]) -> str:
    """Finished images row by row; places without an image stay blank."""
    stride = _stride(images.shape[3])
    shown = images[..., ::stride, ::stride]
    missing = SIDE**2 - len(shown)
    return image_source(tile_sheet(pad(shown, (0,) * 7 + (missing,), value=BLANK), SIDE))


def _axes(panel: str) -> dict[str, str]:
    return {"xaxis": f"x{AXIS[panel]}", "yaxis": f"y{AXIS[panel]}"}


def _add_codes(figure: Figure) -> None:
    """The four traces of the map, still empty."""
    ring = {"size": 14, "symbol": "circle-open", "color": BLUE, "line_width": 2}
    diamond = {"size": 15, "symbol": "diamond-open", "color": VERMILLION, "line_width": 3}
    markers = {
        "cannot come": {"size": 4, "color": "#B9B9B4"},
        "codes": {"size": 8, "coloraxis": "coloraxis"},
        "10 likeliest": ring,
        "drawn next": diamond,
    }
    for name, marker in markers.items():
        figure.add_scatter(
            mode="markers",
            name=name,
            marker=marker,
            showlegend=name != "codes",
            hovertemplate="code %{customdata[0]:.0f}<br>%{customdata[1]:.3%}<extra></extra>",
            **_axes("map"),
        )


def _lay_out(figure: Figure, sampler: Sampler) -> None:
    """Places, titles and ranges of the panels; the legend above the map, and its scale below."""
    bare = {"showticklabels": False}
    for panel, box in PANELS.items():
        title = {"text": TITLES.get(panel, ""), "standoff": 4}
        place_axes(figure, AXIS[panel], box, (WIDTH, HEIGHT), bare | {"title": title}, bare)

    patch = 3 * sampler.model.downsample + 2
    sizes: dict[str, Any] = {
        "finished": SIDE * _tile(sampler.data.size),
        "making": sampler.data.size[::-1],
        "tokens": sampler.prior.grid[::-1],
        "patches": (LIKELIEST * patch, patch),
    }
    for panel, size in sizes.items():
        wide, high = size
        axis = AXIS[panel]
        figure.layout[f"xaxis{axis}"].range = [-0.5, wide - 0.5]
        figure.layout[f"yaxis{axis}"].update(range=[high - 0.5, -0.5], scaleanchor=f"x{axis}")

    figure.layout.xaxis5.range = [0, LIKELIEST]
    figure.layout.yaxis5.update(
        showticklabels=True, ticks="outside", tickformat="~%", showgrid=True, nticks=5
    )
    names = [(place + 0.5) * patch - 0.5 for place in range(LIKELIEST)]
    figure.layout.xaxis6.update(showticklabels=True, tickvals=names, tickangle=0, side="bottom")
    _, top, width, _ = PANELS["map"]
    bar = {
        "orientation": "h",
        "x": 30 / WIDTH,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "len": width - 30,
        "lenmode": "pixels",
        "thickness": 8,
        "ypad": 4,
        "xpad": 0,
        "tickvals": [-4, -3, -2, -1, 0],
        "ticktext": ["≤ 0.01%", "0.1%", "1%", "10%", "100%"],
        "title": {"text": "probability", "side": "bottom"},
    }
    figure.update_layout(
        coloraxis={"cmin": -4, "cmax": 0, "colorscale": "Viridis_r", "colorbar": bar},
        legend={"x": 0, "y": 1 - top / HEIGHT, "itemsizing": "constant"},
    )
