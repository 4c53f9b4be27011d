"""Sampling taken apart: finished images, one in the making, its tokens, and the probability of each next code."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.analysis import projections
from arcvq.analysis.projections import Projection
from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
from arcvq.figures.parts import BLANK, image_source, tile_sheet, to_pixels
from arcvq.figures.theme import finish
from arcvq.images import ImageData
from arcvq.priors import Prior, sampling_steps
from arcvq.vqvae import VQVAE

TASKS = SAMPLE, COMPLETE = "sample", "complete the lower half"
SIDE, TILE, LIKELIEST = (
    4,
    64,
    10,
)  # finished images in a row and a column; pixels of one and bars, at most
WIDTH, HEIGHT, MARGIN, HEAD = (
    852,
    590,
    24,
    142,
)  # pixels: the plots, beside them, above them (4 lines of caption)
# The panels by name, which stand on the axes of their number: left, top, width and height in pixels.
PANELS = {
    "finished": (0, 0, 270, 270),
    "making": (310, 0, 255, 255),
    "tokens": (597, 0, 255, 255),
    "map": (0, 340, 380, 240),
    "bars": (460, 340, 392, 190),
    "patches": (460, 535, 392, 55),
}
FINISHED, MAKING, PATCHES, PLACES, TOKENS, CUT, LEFT, RINGS, NEXT, BARS, FRAME = range(
    11
)  # the traces
AXIS = {name: str(number) if number > 1 else "" for number, name in enumerate(PANELS, start=1)}
TITLES = {
    "making": "in the making",
    "tokens": "its tokens, by their probability",
    "bars": "the likeliest next codes, decoded below",
}
FLOOR, COMING = (
    1e-4,
    0.85,
)  # probabilities below have the colour of this one; the grey of what is still to come


@dataclass(frozen=True)
class Drawing:
    """What one seed draws: `tokens` of the image in the making and the `probabilities` that each was drawn from.

    given: how many tokens were there from the start, in raster order. finished: all images, as one PNG.
    """

    tokens: Int[Tensor, "h w"]
    probabilities: Float[np.ndarray, "hw K"]
    given: int
    finished: str


@dataclass(frozen=True)
class Sampler:
    """A model, a prior over its tokens and the images whose test part is completed, on any devices."""

    model: VQVAE
    prior: Prior
    images: ImageData
    maps: dict[str, Projection] = field(default_factory=dict)  # those that were asked for
    last: dict[tuple, Drawing] = field(default_factory=dict)  # the last drawing alone

    def map(self, method: str) -> Projection:
        """The codes on a map, by "PCA" or "UMAP" of their angles."""
        if method not in self.maps:
            project = projections.pca if method == "PCA" else projections.umap_angles
            self.maps[method] = project(self.model.quantizer.codebook)
        return self.maps[method]

    def drawing(self, task: str, label: int, seed: int, **choice: Any) -> Drawing:
        """16 samples of a class, or three completions of each of 4 test images, those of the class first.

        choice: temperature, top_k and top_p. The first that is drawn is the one in the making. To a prior without
        classes the label says nothing.
        """
        key = task, label, seed, *choice.values()
        if key not in self.last:
            self.last.clear()
            self.last[key] = (self._sample if task == SAMPLE else self._complete)(
                label, seed, choice
            )
        return self.last[key]

    def making(self, drawing: Drawing, position: int) -> Float[Tensor, "C H W"]:
        """The image in the making: zeros in place of the codes to come, and their pixels grey."""
        known = torch.arange(drawing.tokens.numel()).view(drawing.tokens.shape) < position
        codes = self.model.quantizer.lookup(
            drawing.tokens[None].to(self.model.quantizer.codebook.device)
        )
        with torch.no_grad():
            image = self.model.decoder(codes * known.to(codes.device))[0].clamp(-1, 1).cpu()
        for side in (0, 1):
            known = known.repeat_interleave(self.model.downsample, side)
        return image.where(known, COMING)

    def patches(self, codes: Int[np.ndarray, " n"]) -> Float[Tensor, "n C p p"]:
        """What 3 x 3 equal codes decode to."""
        grids = torch.as_tensor(codes)[:, None, None].expand(-1, 3, 3)
        return self.model.decode(grids.to(self.model.quantizer.codebook.device)).cpu()

    def _sample(self, label: int, seed: int, choice: dict[str, Any]) -> Drawing:
        nothing = torch.zeros(SIDE**2, *self.prior.grid, dtype=torch.int64)
        tokens, probabilities = self._steps(nothing, torch.full((SIDE**2,), label), 0, seed, choice)
        return Drawing(tokens[0].cpu(), probabilities, 0, _sheet(self.model.decode(tokens).cpu()))

    def _complete(self, label: int, seed: int, choice: dict[str, Any]) -> Drawing:
        test, rows = self.images.test, self.prior.grid[0] // 2
        first = ((test.labels != label) * self.prior.classes).argsort(stable=True)[:SIDE]
        originals = test.batch(first).to(self.model.quantizer.codebook.device)
        tokens, probabilities = self._steps(
            self.model.encode(originals).repeat_interleave(SIDE - 1, dim=0),
            test.labels[first].repeat_interleave(SIDE - 1),
            rows,
            seed,
            choice,
        )
        completed = self.model.decode(tokens).unflatten(0, (-1, SIDE - 1))
        tiles = torch.cat([originals[:, None], completed], dim=1).flatten(0, 1).cpu()
        return Drawing(tokens[0].cpu(), probabilities, rows * self.prior.grid[1], _sheet(tiles))

    def _steps(
        self, tokens: Tensor, labels: Tensor, rows: int, seed: int, choice: dict[str, Any]
    ) -> tuple[Tensor, np.ndarray]:
        """All tokens, with so many rows given, and what those of the first grid were drawn from."""
        device, probabilities = self.prior.device, []
        given = (torch.arange(self.prior.grid[0]) < rows)[:, None].expand(self.prior.grid)
        for step in sampling_steps(
            self.prior,
            tokens.to(device),
            given.to(device),
            labels.to(device) if self.prior.classes else None,
            torch.Generator().manual_seed(seed),
            **choice,
        ):
            probabilities.append(step.probabilities[0])
        return step.tokens.to(self.model.quantizer.codebook.device), torch.stack(
            probabilities
        ).float().cpu().numpy()


def sampler(model: VQVAE, prior: Prior, images: ImageData) -> Sampler:
    """The three together. Raises ValueError for a prior of another model, and for images that do not fit."""
    prior.check_model(model)
    if not len(images.test):
        raise ValueError(f"{images.name} has no test images; at least one is there to be completed")
    model.check_images(images.test.batch(torch.zeros(1, dtype=torch.int64)))
    if (grid := tuple(side // model.downsample for side in images.size)) != prior.grid:
        raise ValueError(
            f"the prior's grid is {prior.grid} and the tokens of {images.name} have {grid}; "
            "they must be the same"
        )
    if prior.classes not in (0, len(images.classes)):
        raise ValueError(
            f"the prior has {prior.classes} classes and {images.name} has {len(images.classes)}; "
            "they must be the same"
        )
    return Sampler(model, prior, images)


def sampling_picture(
    sampler: Sampler, position: int, method: str = "PCA", **choice: Any
) -> go.Figure:
    """Finished images, and one with the first `position` tokens set, from 0 to h w; tokens given count from the start.

    The map shows the probability of each next code after temperature, top-k and top-p, with the 10 likeliest ringed;
    the bars name these and show them decoded, 3 x 3 of each. choice: as in `Sampler.drawing`.
    """
    figure = go.Figure()
    for panel in ("finished", "making", "patches"):
        figure.add_image(hoverinfo="skip", zsmooth=False, **_axes(panel))
    shown = {"showscale": False, "xgap": 1, "ygap": 1, "texttemplate": "%{text}"} | _axes("tokens")
    figure.add_heatmap(
        zmin=0, zmax=1, colorscale=[[0, "#ECECE8"], [1, "#C9C9C4"]], hoverinfo="skip", **shown
    )
    figure.add_heatmap(
        coloraxis="coloraxis",
        **shown,
        hovertemplate="row %{y}, column %{x}<br>code %{text}<extra></extra>",
    )
    _add_codes(figure)
    figure.add_bar(
        width=0.7, showlegend=False, hovertemplate="%{y:.3%}<extra></extra>", **_axes("bars")
    )
    figure.add_scatter(
        mode="lines",
        line={"color": theme.VERMILLION, "width": 2},
        hoverinfo="skip",
        showlegend=False,
        **_axes("finished"),
    )
    _lay_out(figure, sampler)
    values = sampling_values(sampler, position, method, **choice)
    finish(
        figure,
        {},
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH + 2 * MARGIN,
        left=MARGIN,
        right=MARGIN,
    )
    figure.layout.annotations[0].update(
        yanchor="top", yshift=HEAD - 44
    )  # from below the title down
    figure.update_layout(margin={"t": HEAD, "b": MARGIN}, height=HEAD + HEIGHT + MARGIN)
    return assign(figure, values)


def sampling_values(sampler: Sampler, position: int, method: str = "PCA", **choice: Any) -> Values:
    """What moves in `sampling_picture`, by path."""
    drawing, seen = sampler.drawing(**choice), sampler.map(method)
    count, position = drawing.tokens.numel(), max(position, drawing.given)
    chances = (
        drawing.probabilities[position]
        if position < count
        else np.zeros_like(drawing.probabilities[0])
    )
    following = int(drawing.tokens.flatten()[position]) if position < count else None
    left = int(np.count_nonzero(chances))
    likeliest = np.argsort(-chances, kind="stable")[: min(LIKELIEST, left)]
    making = image_source(to_pixels(sampler.making(drawing, position)))
    values = {f"{FINISHED}/source": drawing.finished, f"{MAKING}/source": making}
    values |= _tokens(drawing, position) | _codes(seen.points, chances, likeliest, following)
    values |= _bars(sampler, chances, likeliest, following)
    wanted = f" of class {sampler.images.classes[choice['label']]}" if sampler.prior.classes else ""
    values["layout/xaxis.title.text"] = (
        f"{SIDE**2} samples{wanted}" if choice["task"] == SAMPLE else "test image, then completions"
    )
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) + np.array(
        [choice["task"] == COMPLETE, 0]
    )
    values |= points(FRAME, corners * _tile(sampler.images.size) - 0.5)
    title = (
        f"{position} of {count} tokens are set; {left:,} code{'s' * (left != 1)} can come next"
        if position < count
        else f"All {count} tokens are set"
    )
    return values | words(
        title, f"{_sentence(chances, likeliest, following, choice)} {seen.trust}", WIDTH
    )


def _sentence(
    chances: np.ndarray, likeliest: np.ndarray, following: int | None, choice: dict[str, Any]
) -> str:
    settings = (
        f"Temperature {choice['temperature']:.3g}, top-k {choice['top_k']}, top-p {choice['top_p']:.3g}, "
        f"seed {choice['seed']}."
    )
    if following is None:
        return settings
    left = chances[chances > 0].astype(float)
    return (
        f"{settings} The next code has an entropy of {abs((left * np.log2(left)).sum()):.2f} bits; "
        f"{likeliest[0]} is the likeliest ({chances[likeliest[0]]:.1%}), and {following} will be drawn "
        f"({chances[following]:.1%})."
    )


def _tokens(drawing: Drawing, position: int) -> Values:
    """The grid of tokens: those drawn by their probability, those given grey, those to come light."""
    tokens, place = drawing.tokens.flatten().numpy(), np.arange(drawing.tokens.numel())
    given, drawn = place < drawing.given, (place >= drawing.given) & (place < position)
    values, logs = Values(), _logs(drawing.probabilities[place, tokens]).astype(object)
    logs[~drawn] = None  # a grid is sent as JSON, which has no NaN
    for trace, shown, colour in ((PLACES, given, given * 1.0), (TOKENS, drawn, logs)):
        text = np.where(shown, tokens.astype(str), "")
        for part, cells in (("z", colour), ("text", text)):
            values[f"{trace}/{part}"] = cells.reshape(drawing.tokens.shape).tolist()
    return values


def _codes(
    places: np.ndarray, chances: np.ndarray, likeliest: np.ndarray, following: int | None
) -> Values:
    """The map: codes that can come next by their probability, those that cannot, the likeliest, the next."""
    values, left = Values(), np.flatnonzero(chances)
    for trace, rows in (
        (CUT, np.flatnonzero(chances == 0)),
        (LEFT, left),
        (RINGS, likeliest),
        (NEXT, np.array([], int) if following is None else np.array([following])),
    ):
        values |= points(trace, places[rows])
        values[f"{trace}/customdata"] = np.stack([rows, chances[rows]], axis=1).astype(np.float32)
    return values | {f"{LEFT}/marker.color": _logs(chances[left])}


def _bars(
    sampler: Sampler, chances: np.ndarray, likeliest: np.ndarray, following: int | None
) -> Values:
    """The likeliest codes: their probability, number and patch; the one that will be drawn stands out."""
    middles, patches = (
        np.arange(len(likeliest)) + 0.5,
        sampler.patches(np.resize(likeliest, LIKELIEST).astype(int)),
    )
    patches[len(likeliest) :] = BLANK
    return {
        f"{BARS}/x": middles.astype(np.float32),
        f"{BARS}/y": chances[likeliest],
        f"{BARS}/marker.color": [
            theme.VERMILLION if code == following else theme.BLUE for code in likeliest
        ],
        f"{PATCHES}/source": image_source(tile_sheet(patches, LIKELIEST)),
        f"layout/yaxis{AXIS['bars']}.range": [0, 1.05 * float(chances.max()) or 1],
        f"layout/xaxis{AXIS['patches']}.ticktext": [
            *map(str, likeliest),
            *[""] * (LIKELIEST - len(likeliest)),
        ],
    }


def _tile(size: tuple[int, int]) -> Int[np.ndarray, "2"]:
    """Width and height of a finished image with its paper: of large images every so many-th pixel is shown."""
    return -(-np.array(size[::-1]) // _stride(size)) + 2


def _stride(size: tuple[int, int]) -> int:
    return max(1, size[1] // TILE)


def _logs(chances: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(chances, FLOOR)).astype(np.float32)


def _sheet(images: Float[Tensor, "n C H W"]) -> str:
    """Finished images row by row; places without an image stay blank."""
    thinned = slice(None, None, _stride((images.shape[2], images.shape[3])))
    blanks = images.new_full((SIDE**2 - len(images), *images.shape[1:]), BLANK)
    return image_source(tile_sheet(torch.cat([images, blanks])[..., thinned, thinned], SIDE))


def _axes(panel: str) -> dict[str, str]:
    return {"xaxis": f"x{AXIS[panel]}", "yaxis": f"y{AXIS[panel]}"}


def _add_codes(figure: go.Figure) -> None:
    """The four traces of the map, still empty."""
    for name, marker in (
        ("cannot come", {"size": 4, "color": "#B9B9B4"}),
        ("codes", {"size": 8, "coloraxis": "coloraxis"}),
        (
            "10 likeliest",
            {"size": 14, "symbol": "circle-open", "color": theme.BLUE, "line_width": 2},
        ),
        (
            "drawn next",
            {"size": 15, "symbol": "diamond-open", "color": theme.VERMILLION, "line_width": 3},
        ),
    ):
        figure.add_scatter(
            mode="markers",
            name=name,
            marker=marker,
            showlegend=name != "codes",
            **_axes("map"),
            hovertemplate="code %{customdata[0]:.0f}<br>%{customdata[1]:.3%}<extra></extra>",
        )


def _lay_out(figure: go.Figure, sampler: Sampler) -> None:
    """Places, titles and ranges of the panels; the legend above the map, and its scale below."""
    bare = {"showgrid": False, "showline": False, "ticks": "", "showticklabels": False}
    for panel, (left, top, width, height) in PANELS.items():
        figure.layout[f"xaxis{AXIS[panel]}"] = bare | {
            "domain": [left / WIDTH, (left + width) / WIDTH],
            "anchor": f"y{AXIS[panel]}",
            "side": "top",
            "constrain": "domain",
            "title": {"text": TITLES.get(panel, ""), "standoff": 4},
        }
        figure.layout[f"yaxis{AXIS[panel]}"] = bare | {
            "domain": [1 - (top + height) / HEIGHT, 1 - top / HEIGHT],
            "anchor": f"x{AXIS[panel]}",
            "constrain": "domain",
            "constraintoward": "top",
        }
    patch = 3 * sampler.model.downsample + 2
    for panel, wide, high in (
        ("finished", *SIDE * _tile(sampler.images.size)),
        ("making", *sampler.images.size[::-1]),
        ("tokens", *sampler.prior.grid[::-1]),
        ("patches", LIKELIEST * patch, patch),
    ):
        figure.layout[f"xaxis{AXIS[panel]}"].range = [-0.5, wide - 0.5]
        figure.layout[f"yaxis{AXIS[panel]}"].update(
            range=[high - 0.5, -0.5], scaleanchor=f"x{AXIS[panel]}"
        )
    figure.layout[f"xaxis{AXIS['bars']}"].range = [0, LIKELIEST]
    figure.layout[f"yaxis{AXIS['bars']}"].update(
        showticklabels=True, ticks="outside", tickformat="~%", showgrid=True, nticks=5
    )
    names = [(place + 0.5) * patch - 0.5 for place in range(LIKELIEST)]
    figure.layout[f"xaxis{AXIS['patches']}"].update(
        showticklabels=True, tickvals=names, tickangle=0, side="bottom"
    )
    powers = [-4, -3, -2, -1, 0]
    bar = {
        "orientation": "h",
        "x": 30 / WIDTH,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "len": PANELS["map"][2] - 30,
        "lenmode": "pixels",
        "thickness": 8,
        "ypad": 4,
        "xpad": 0,
        "tickvals": powers,
        "ticktext": ["≤ 0.01%", "0.1%", "1%", "10%", "100%"],
        "title": {"text": "probability", "side": "bottom"},
    }
    figure.update_layout(
        coloraxis={"cmin": powers[0], "cmax": 0, "colorscale": "Viridis_r", "colorbar": bar},
        legend={"x": 0, "y": 1 - PANELS["map"][1] / HEIGHT, "itemsizing": "constant"},
    )
