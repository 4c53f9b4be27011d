"""Sampling taken apart: images, one in the making, its tokens, and each next code's probability."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from plotly.graph_objects import Figure
from scipy import stats
from torch import Tensor

from arcvq import geometry
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.encoding import decode_codes, encode_test
from arcvq.explorers.figure_updates import Values, assign, finish_moving, points, words
from arcvq.explorers.panels import SLIM, Panel
from arcvq.explorers.placing import place_codes
from arcvq.figures.parts import BLANK, image_source, thin, tile_sheet, to_pixels
from arcvq.figures.theme import BLUE, VERMILLION
from arcvq.images import ImageData
from arcvq.priors import Prior, sampling_steps
from arcvq.runtime.checks import as_seed
from arcvq.runtime.wording import counted

SAMPLE = "sample"
COMPLETE = "complete the lower half"
TASKS = (SAMPLE, COMPLETE)
SIDE = 4  # finished images in a row and in a column
TIMES = SIDE - 1  # that each test image is completed
DRAWN = 4096  # codes on the map that can come next, and that cannot, at most
IMAGES = 256  # test images that usage is counted on, where a map is of the most used codes
TILE = 64  # pixels of a finished image, at most
LIKELIEST = 10  # bars, at most
# Pixels: the plots, beside them, above them (4 lines of caption)
WIDTH = 852
HEIGHT = 384
MARGIN = 24
BELOW = 66  # for the scale of the map
HEAD = 142
# The panels
MADE = Panel(1, 0, 0, 260, 190)
IN_THE_MAKING = Panel(2, 296, 0, 260, 190)
GRID = Panel(3, 592, 0, 260, 190)
MAP = Panel(4, 0, 240, 380, 140)
CHANCES = Panel(5, 460, 240, 392, 96)
DECODED = Panel(6, 460, 341, 392, 39)
TITLES = {
    MADE: "",
    IN_THE_MAKING: "in the making",
    GRID: "its tokens, colored by probability",
    MAP: "",
    CHANCES: "the likeliest next codes, decoded below",
    DECODED: "",
}
# The traces
FINISHED, MAKING, PATCHES, PLACES, TOKENS, CUT, LEFT, RINGS, NEXT, BARS, FRAME = range(11)
GRAYS = [[0, "#ECECE8"], [1, "#C9C9C4"]]  # of tokens that are still to come, and of given ones
FLOOR = 1e-4  # a lower probability has the color of this one
COMING = 0.4  # the gray of what is still to come: neither white on a dark page nor lost on paper

Choice = dict[str, Any]  # temperature, top_k and top_p
Chances = Float[np.ndarray, " K"]


@dataclass(frozen=True)
class DrawnImages:
    """What one seed draws.

    Attributes:
        tokens: Of the image in the making.
        probabilities: That each token was drawn from.
        given: How many tokens were there from the start, in raster order.
        finished: All images, as one PNG.
        tile: Width and height of an image in it.
    """

    tokens: Int[Tensor, "h w"]
    probabilities: Float[np.ndarray, "hw K"]
    given: int
    finished: str
    tile: Int[np.ndarray, "2"]


class NextCode:
    """What the next code of an image in the making can be, and what it will be.

    Args:
        drawn: What one seed draws.
        position: How many of its tokens are set.

    Attributes:
        chances: The probability of each code, 0 if all tokens are set.
        drawn: The code that is drawn next, None if all tokens are set.
        possible: How many codes have a probability above 0.
        likeliest: The likeliest codes, from the likeliest on.
    """

    def __init__(self, drawn: DrawnImages, position: int):
        tokens = drawn.tokens.flatten()
        self.chances: Chances = np.zeros_like(drawn.probabilities[0])
        self.drawn: int | None = None
        if position < len(tokens):
            self.chances = drawn.probabilities[position]
            self.drawn = int(tokens[position])
        self.possible = np.count_nonzero(self.chances)
        order = np.argsort(-self.chances, kind="stable")
        self.likeliest = order[: min(LIKELIEST, self.possible)]


class Sampler:
    """A model, a prior over its tokens and the data whose test images are completed.

    Args:
        model: On any device.
        prior: On any device.
        data: The images.

    Attributes:
        map: As `place_codes` of a method; each map is made once.

    Raises:
        ValueError: For a prior of another model, and for images that do not fit.
    """

    def __init__(self, model: Autoencoder, prior: Prior, data: ImageData):
        _check_fit(model, prior, data)
        self.model = model
        self.prior = prior
        self.data = data
        self.map = cache(partial(place_codes, self.codebook, count_usage=self.count_usage))
        self._asked: Any = None
        self._drawn: DrawnImages

    @property
    def codebook(self) -> Float[Tensor, "K D"]:
        """The codes, where the model is."""
        return self.model.quantizer.codebook

    def count_usage(self) -> Int[Tensor, " K"]:
        """Count the tokens of each code in the first test images."""
        tokens = encode_test(self.model, self.data, IMAGES)
        return geometry.usage_counts(tokens, len(self.codebook))

    def drawn(self, task: str, label: int, seed: int, **choice: Any) -> DrawnImages:
        """Draw 16 samples of a class, or 3 completions of each of 4 test images, the class first.

        The first that is drawn is the one in the making. The last draw is kept, as its tokens are
        shown one by one.

        Args:
            task: One of `TASKS`.
            label: The class; ignored by a prior without classes.
            seed: Of the draw.
            **choice: Temperature, top_k and top_p.
        """
        asked = (task, label, seed, choice)
        if asked != self._asked:
            draw = self._sample if task == SAMPLE else self._complete
            self._drawn = draw(label, seed, choice)
            self._asked = asked
        return self._drawn

    def making(self, drawn: DrawnImages, position: int) -> Float[Tensor, "C H W"]:
        """Decode the image in the making, with zeros for the codes to come and gray above them."""
        tokens = drawn.tokens
        device = self.codebook.device
        places = torch.arange(tokens.numel()).view(tokens.shape)
        is_known = places < position
        codes = self.model.quantizer.lookup(tokens[None].to(device))
        with torch.no_grad():
            decoded = self.model.decoder(codes * is_known.to(device))
        image = decoded[0].clamp(-1, 1).cpu()
        side = self.model.downsample
        patch = torch.ones(side, side, dtype=torch.bool)
        return image.where(is_known.kron(patch), COMING)

    def _sample(self, label: int, seed: int, choice: Choice) -> DrawnImages:
        count = SIDE**2
        nothing = torch.zeros(count, *self.prior.grid, dtype=torch.int64)
        labels = torch.full((count,), label)
        tokens, probabilities = self._steps(nothing, labels, 0, seed, choice)
        return _drawn_images(tokens, probabilities, 0, self.model.decode(tokens))

    def _complete(self, label: int, seed: int, choice: Choice) -> DrawnImages:
        test = self.data.test
        rows = self.prior.grid[0] // 2
        is_other = test.labels != label
        if not self.prior.classes:
            is_other = torch.zeros_like(is_other)
        first = is_other.argsort(stable=True)[:SIDE]
        originals = test.batch(first).to(self.codebook.device)
        grids = self.model.encode(originals).repeat_interleave(TIMES, dim=0)
        labels = test.labels[first].repeat_interleave(TIMES)
        tokens, probabilities = self._steps(grids, labels, rows, seed, choice)
        completed = self.model.decode(tokens)
        rows_of_images = completed.unflatten(0, (-1, TIMES))
        images = torch.cat([originals[:, None], rows_of_images], dim=1)
        return _drawn_images(tokens, probabilities, rows, images.flatten(0, 1))

    def _steps(
        self, tokens: Tensor, labels: Tensor, rows: int, seed: int, choice: Choice
    ) -> tuple[Tensor, list[Tensor]]:
        """All tokens, with so many rows given, and what those of the first grid were drawn from."""
        device = self.prior.device
        is_given = torch.zeros(self.prior.grid, dtype=torch.bool)
        is_given[:rows] = True
        grids = (tokens.to(device), is_given.to(device))
        classes = labels.to(device) if self.prior.classes else None
        generator = torch.Generator().manual_seed(as_seed(seed))
        probabilities = []
        for step in sampling_steps(self.prior, *grids, classes, generator, **choice):
            probabilities.append(step.probabilities[0])
        return step.tokens.to(self.codebook.device), probabilities


def _check_fit(model: Autoencoder, prior: Prior, data: ImageData) -> None:
    prior.check_model(model)
    encode_test(model, data, 1)  # raises where there are no images, or the model does not take them
    prior.check_grid(model, data)
    classes = len(data.classes)
    if prior.classes not in (0, classes):
        raise ValueError(
            f"the prior has {prior.classes} classes and {data.name} has {classes}; "
            "they must be the same"
        )


def _drawn_images(
    tokens: Tensor, probabilities: list[Tensor], rows: int, images: Tensor
) -> DrawnImages:
    """What is shown of finished images: all of them, and how the first grid was drawn.

    Of large images every so many-th pixel is shown. Places without an image stay blank.
    """
    first = tokens[0].cpu()
    given = rows * first.shape[1]
    drawn_from = torch.stack(probabilities).float().cpu().numpy()
    stride = max(1, images.shape[3] // TILE)
    shown = images[..., ::stride, ::stride].cpu()
    tiles = shown.new_full((SIDE**2, *shown.shape[1:]), BLANK)
    tiles[: len(shown)] = shown
    sheet = tile_sheet(tiles, SIDE)
    height, width, _ = sheet.shape
    tile = np.array([width, height]) // SIDE
    finished = image_source(sheet)
    return DrawnImages(first, drawn_from, given, finished, tile)


def sampling_picture(sampler: Sampler, position: int, method: str, **choice: Any) -> Figure:
    """Draw finished images, and one with the first `position` tokens set.

    The map shows the probability of each next code after temperature, top-k and top-p, with the 10
    likeliest ringed; the bars name these and show them decoded, 3 x 3 of each.

    Args:
        sampler: Model, prior and data.
        position: From 0 to h w; tokens given count from the start.
        method: Of the map, "PCA" or "UMAP".
        **choice: As in `Sampler.drawn`.
    """
    figure = Figure()
    for panel in (MADE, IN_THE_MAKING, DECODED):
        figure.add_image(hoverinfo="skip", zsmooth=False, **panel.axes)
    _add_grid(figure)
    _add_codes(figure)
    chance = "%{y:.3%}<extra></extra>"
    figure.add_bar(width=0.7, showlegend=False, hovertemplate=chance, **CHANCES.axes)
    frame = {"color": VERMILLION, "width": 2}
    figure.add_scatter(mode="lines", line=frame, hoverinfo="skip", showlegend=False, **MADE.axes)
    _lay_out(figure, sampler)
    drawn = sampler.drawn(**choice)
    _fit(figure, MADE, SIDE * drawn.tile)
    values = sampling_values(sampler, position, method, **choice)
    width = WIDTH + 2 * MARGIN
    below = {"bottom": BELOW, "left": MARGIN, "right": MARGIN}
    finish_moving(figure, values, HEAD, HEIGHT + BELOW, width=width, **below)
    return assign(figure, values)


def sampling_values(sampler: Sampler, position: int, method: str, **choice: Any) -> Values:
    """Return what moves in `sampling_picture`, by path."""
    drawn = sampler.drawn(**choice)
    position = max(position, drawn.given)
    following = NextCode(drawn, position)
    seen = sampler.map(method)
    making = to_pixels(sampler.making(drawn, position))
    values: Values = {f"{FINISHED}/source": drawn.finished}
    values[f"layout/{MADE.xaxis}.title.text"] = _heading(sampler, **choice)
    values[f"{MAKING}/source"] = image_source(making)
    values |= _frame(drawn, choice["task"])
    values |= _tokens(drawn, position)
    values |= _codes(seen.points, following)
    values |= _bars(sampler, following)
    title = _title(drawn, position, following)
    text = f"{_sentence(following, **choice)} {seen.trust}"
    return values | words(title, text, WIDTH)


def _heading(sampler: Sampler, task: str, label: int, **_: Any) -> str:
    """What the finished images are."""
    if task == COMPLETE:
        return "test image, then completions"
    samples = f"{SIDE**2} samples"
    if not sampler.prior.classes:
        return samples
    return f"{samples} of class {sampler.data.classes[label]}"


def _title(drawn: DrawnImages, position: int, following: NextCode) -> str:
    count = drawn.tokens.numel()
    if position == count:
        return f"All {count} tokens are set"
    codes = counted(int(following.possible), "code")
    return f"{position} of {count} tokens are set; {codes} can come next"


def _sentence(
    following: NextCode, temperature: float, top_k: int, top_p: float, seed: int, **_: Any
) -> str:
    text = f"Temperature {temperature:.3g}, top-k {top_k}, top-p {top_p:.3g}, seed {seed}."
    if following.drawn is None:
        return text
    chances = following.chances
    bits = stats.entropy(chances, base=2)
    first = following.likeliest[0]
    drawn = following.drawn
    text += f" The next code has an entropy of {bits:.2f} bits. "
    text += f"Code {first} is the likeliest ({chances[first]:.1%})"
    if drawn == first:
        text += " and will be drawn."
    else:
        text += f"; code {drawn} ({chances[drawn]:.1%}) will be drawn."
    if following.possible > DRAWN:
        text += f" The map shows the {DRAWN:,} likeliest."
    return text


def _frame(drawn: DrawnImages, task: str) -> Values:
    """The frame of the image in the making: the first image, or the first completion."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    if task == COMPLETE:
        corners[:, 0] += 1
    return points(FRAME, corners * drawn.tile - 0.5)


def _tokens(drawn: DrawnImages, position: int) -> Values:
    """The grid of tokens: drawn ones by their probability, given ones gray, those to come light."""
    tokens = drawn.tokens.flatten()
    place = np.arange(len(tokens))
    is_given = place < drawn.given
    is_drawn = ~is_given & (place < position)
    chances = drawn.probabilities[place, tokens]
    shades = _logs(chances).astype(object)
    shades[~is_drawn] = None  # a grid is sent as JSON, which has no NaN
    given = _cells(PLACES, drawn, is_given, is_given.astype(float))
    return given | _cells(TOKENS, drawn, is_drawn, shades)


def _cells(trace: int, drawn: DrawnImages, is_shown: np.ndarray, shades: np.ndarray) -> Values:
    """Some of the tokens as cells, each with its number."""
    tokens = drawn.tokens.numpy()
    shape = tokens.shape
    colors = shades.reshape(shape)
    text = np.where(is_shown.reshape(shape), tokens.astype(str), "")
    return {f"{trace}/z": colors.tolist(), f"{trace}/text": text.tolist()}


def _codes(places: Float[np.ndarray, "K 2"], following: NextCode) -> Values:
    """The map: codes that can come next by their probability, and the others."""
    chances = following.chances
    placed = np.flatnonzero(np.isfinite(places).all(axis=1))
    is_possible = chances[placed] > 0
    left = placed[is_possible]
    cut = placed[~is_possible]
    # Of very many codes the likeliest are enough, and fewer than a browser takes seconds for.
    order = np.argsort(-chances[left], kind="stable")
    left = np.sort(left[order[:DRAWN]])
    sample, _ = thin(len(cut), "codes", DRAWN)
    drawn = np.array([] if following.drawn is None else [following.drawn], int)
    values: Values = {f"{LEFT}/marker.color": _logs(chances[left])}
    groups = {CUT: cut[sample], LEFT: left, RINGS: following.likeliest, NEXT: drawn}
    for trace, codes in groups.items():
        hover = np.column_stack([codes, chances[codes]])
        values[f"{trace}/customdata"] = hover.astype(np.float32)
        values |= points(trace, places[codes])
    return values


def _bars(sampler: Sampler, following: NextCode) -> Values:
    """The likeliest codes: their probability, number and patch; the one drawn next stands out."""
    codes = following.likeliest
    chances = following.chances[codes]
    middles = np.arange(len(codes)) + 0.5
    highest = float(chances.max(initial=0))
    numbers = [str(code) for code in codes]
    blanks = [""] * (LIKELIEST - len(codes))
    values = points(BARS, np.column_stack([middles, chances]))
    values[f"{BARS}/marker.color"] = np.where(codes == following.drawn, VERMILLION, BLUE)
    values[f"{PATCHES}/source"] = _patches(sampler.model, codes)
    top = 1.05 * highest if highest else 1
    values[f"layout/{CHANCES.yaxis}.range"] = [0, top]
    values[f"layout/{DECODED.xaxis}.ticktext"] = numbers + blanks
    return values


def _patches(model: Autoencoder, codes: Int[np.ndarray, " n"]) -> str:
    """The codes decoded side by side, with blank places at the end if there are few."""
    chosen = torch.zeros(LIKELIEST, dtype=torch.int64)
    chosen[: len(codes)] = torch.from_numpy(codes)
    patches = decode_codes(model, chosen)
    patches[len(codes) :] = BLANK
    return image_source(tile_sheet(patches, LIKELIEST))


def _logs(chances: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(chances, FLOOR)).astype(np.float32)


def _add_grid(figure: Figure) -> None:
    """Add the two traces of the grid of tokens, still empty: the given ones, and the others."""
    cells = GRID.axes | {"xgap": 1, "ygap": 1, "texttemplate": "%{text}"}
    figure.add_heatmap(zmin=0, zmax=1, colorscale=GRAYS, showscale=False, hoverinfo="skip", **cells)
    place = "row %{y}, column %{x}<br>code %{text}<extra></extra>"
    figure.add_heatmap(coloraxis="coloraxis", showscale=False, hovertemplate=place, **cells)


def _add_codes(figure: Figure) -> None:
    """Add the four traces of the map, still empty."""
    ring = {"size": 14, "symbol": "circle-open", "color": BLUE, "line_width": 2}
    diamond = {"size": 15, "symbol": "diamond-open", "color": VERMILLION, "line_width": 3}
    markers = {
        "cannot come next": {"size": 4, "color": "#B9B9B4"},
        "codes": {"size": 8, "coloraxis": "coloraxis"},
        "10 likeliest": ring,
        "drawn next": diamond,
    }
    hover = "code %{customdata[0]:.0f}<br>%{customdata[1]:.3%}<extra></extra>"
    style = MAP.axes | {"mode": "markers", "hovertemplate": hover}
    for name, marker in markers.items():
        figure.add_scatter(name=name, marker=marker, showlegend=name != "codes", **style)


def _lay_out(figure: Figure, sampler: Sampler) -> None:
    """Places, titles and ranges of the panels; the legend above the map, and its scale below."""
    for panel, text in TITLES.items():
        title = {"text": text, "standoff": 4}
        bare = {"showticklabels": False}
        panel.place(figure, (WIDTH, HEIGHT), bare | {"title": title}, bare)
    rows, columns = sampler.prior.grid
    height, width = sampler.data.size
    patch = 3 * sampler.model.downsample + 2
    _fit(figure, IN_THE_MAKING, (width, height))
    _fit(figure, GRID, (columns, rows))
    _fit(figure, DECODED, (LIKELIEST * patch, patch))

    layout = figure.layout
    layout[CHANCES.xaxis].range = [0, LIKELIEST]
    chances = layout[CHANCES.yaxis]
    chances.update(showticklabels=True, ticks="outside", tickformat="~%", showgrid=True, nticks=5)
    middles = np.arange(LIKELIEST) + 0.5
    names = patch * middles - 0.5
    decoded = layout[DECODED.xaxis]
    decoded.update(showticklabels=True, tickvals=names, tickangle=0, side="bottom")
    layout.legend.update(x=0, y=1 - MAP.top / HEIGHT, itemsizing="constant")
    layout.coloraxis.update(cmin=-4, cmax=0, colorscale="Viridis_r", colorbar=SLIM)
    bar = layout.coloraxis.colorbar
    bar.update(orientation="h", yanchor="top", x=30 / WIDTH, y=0, ypad=4, len=MAP.width - 30)
    bar.tickvals = [-4, -3, -2, -1, 0]
    bar.ticktext = ["≤ 0.01%", "0.1%", "1%", "10%", "100%"]
    bar.title = {"text": "probability", "side": "bottom"}


def _fit(figure: Figure, panel: Panel, size: Any) -> None:
    """Let a panel show a picture whole and undistorted, from its first pixel at the top left.

    Args:
        figure: The figure.
        panel: The panel.
        size: Width and height of the picture in pixels, or in cells.
    """
    width, height = size
    x_axis = figure.layout[panel.xaxis]
    y_axis = figure.layout[panel.yaxis]
    x_axis.range = [-0.5, width - 0.5]
    y_axis.range = [height - 0.5, -0.5]
    y_axis.scaleanchor = f"x{panel.number}"
