"""A dashboard on a training run: losses, PSNR, codes, the ball and its future, norms, images."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from plotly.graph_objects import Figure, Image
from plotly.subplots import make_subplots
from torch import Tensor, cat

from arcvq.explorers.figure_updates import Values, assign, finish_moving, points, ranked, words
from arcvq.figures.parts import image_source, measured, tile_sheet
from arcvq.figures.theme import BLACK, BLUE, GRAY, GREEN, LOG, VERMILLION
from arcvq.samp import SAMP
from arcvq.schedules import Schedule

WIDTH = 860  # pixels
HEIGHT = 620
LEFT = 68
RIGHT = 12
AHEAD = 61  # points of the lines of schedules
TILE = 64  # pixels of an image, at most
HELD = 0.999  # of the radius: a code at least so long lies on the ball
# Panels by their y-axis; each line has a name, which stands above in its color, and a column of the
# history if it is one over steps.
PANELS = {
    "loss terms": (
        ("reconstruction", BLUE, "reconstruction"),
        ("commitment", GREEN, "commitment"),
        ("margin", VERMILLION, "margin"),
    ),
    "PSNR (dB)": (
        ("training", BLUE, "psnr"),
        ("validation", VERMILLION, "validation_psnr"),
    ),
    "codes": (
        ("codes used", BLUE, "codes_used"),
        ("perplexity", VERMILLION, "perplexity"),
    ),
    "radius, weight": (
        ("radius M(t)", BLUE, "radius"),
        ("weight", VERMILLION, "weight"),
        ("ahead (dotted)", GRAY, ""),
    ),
    "norm": (("norms of the codes", BLUE, ""), ("ball (dotted)", BLACK, "")),
    "": (("images, reconstructed below", GRAY, ""),),
}
CURVES = []  # panel, name, color and column of each
for _panel, _lines in enumerate(PANELS.values()):
    CURVES += [(_panel, *line) for line in _lines if line[2]]
# The traces after the curves
RADIUS_AHEAD, WEIGHT_AHEAD, NORMS, BALL, TILES = range(len(CURVES), len(CURVES) + 5)
# Facts of the last row for the caption: name, column and format
FACTS = (
    ("loss", "loss", "{:.3g}"),
    ("validation PSNR", "validation_psnr", "{:.1f} dB"),
    ("perplexity", "perplexity", "{:.1f}"),
    ("weight of the margin loss", "weight", "{:.3g}"),
)


class Moment(NamedTuple):
    """What the dashboard shows of a run at one moment.

    Attributes:
        steps: length of the run.
        history: the rows so far, as of `fit`.
        norms: of the codes.
        samp: the one in force, None for a quantizer without it.
        images: a few, in [-1, 1].
        reconstructions: of these by the model.
    """

    steps: int
    history: pd.DataFrame
    norms: Float[np.ndarray, " K"]
    samp: SAMP | None
    images: Float[Tensor, "n C H W"]
    reconstructions: Float[Tensor, "n C H W"]


def live_picture(moment: Moment) -> Figure:
    """Draw six panels over the whole run; radius and weight go on dotted to its end."""
    figure = make_subplots(2, 3, horizontal_spacing=0.09, vertical_spacing=0.2)
    for panel, name, color, column in CURVES:
        mode = "lines+markers" if column == "validation_psnr" else "lines"
        _line(figure, panel, name, color, mode)
    _line(figure, 3, "radius ahead", BLUE, dash="dot")
    _line(figure, 3, "weight ahead", VERMILLION, dash="dot")
    _line(figure, 4, "norms of the codes", BLUE, width=3)
    _line(figure, 4, "ball", BLACK, dash="dot")
    figure.add_trace(Image(zsmooth=False, hoverinfo="skip"), 2, 3)
    _lay_out(figure, moment)
    values = live_values(moment)
    finish_moving(figure, values, width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT)
    # Room for two lines and the words above the panels
    figure.layout.margin.t = 112
    figure.layout.annotations[0].yshift = 32
    for panel, lines in enumerate(PANELS.values()):
        names = [f'<span style="color:{color}">{name}</span>' for name, color, _ in lines]
        place = figure.get_subplot(**_cell(panel))
        figure.add_annotation(
            text=", ".join(names),
            x=place.xaxis.domain[0],
            y=place.yaxis.domain[1],
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            yshift=4,
            showarrow=False,
            font_size=13,
        )
    return assign(figure, values)


def live_values(moment: Moment) -> Values:
    """Return what moves in `live_picture`, by path."""
    values: Values = {}
    for trace, (*_, column) in enumerate(CURVES):
        values |= points(trace, measured(moment.history, column).T)

    row = last_row(moment.history, moment.steps)
    now = int(row.get("step", 0))
    samp = moment.samp
    radius = samp.radius if samp else None
    weight = samp.weight if samp else None
    values |= points(RADIUS_AHEAD, _ahead(radius, now, moment.steps))
    values |= points(WEIGHT_AHEAD, _ahead(weight, now, moment.steps))

    norms = moment.norms
    count = len(norms)
    reach = float(radius.value(now)) if radius else np.inf
    values |= ranked(NORMS, norms)
    values |= points(BALL, np.array([[1, reach], [count, reach]]))
    values[f"{BALL}/visible"] = reach <= 2 * float(norms.max())
    values[f"{TILES}/source"] = image_source(_tiles(moment))

    title = f"Step {now:,} of {moment.steps:,}"
    if row:
        title += f": PSNR {row['psnr']:.1f} dB, {row['codes_used']:,.0f} of {count:,} codes used"
    return values | words(title, _sentence(norms, row, reach), WIDTH - LEFT - RIGHT)


def _sentence(norms: np.ndarray, row: dict[str, float], reach: float) -> str:
    parts = [f"{name} {form.format(row[column])}" for name, column, form in FACTS if column in row]
    parts.append(f"norms of the codes {norms.min():.3g} to {norms.max():.3g}")
    if reach < np.inf:
        held = np.mean(norms >= HELD * reach)
        radius = f"{reach:,.0f}" if reach > 1000 else f"{reach:.2f}"
        parts.append(f"the ball of radius {radius} holds {held:.0%} of the codes")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _ahead(schedule: Schedule | None, now: int, steps: int) -> np.ndarray:
    """Steps and values (n, 2) of a schedule from `now` to the end of the run, if there is one."""
    if schedule is None:
        return np.empty((0, 2))
    return np.array([[step, schedule.value(step)] for step in np.linspace(now, steps, AHEAD)])


def _tiles(moment: Moment) -> UInt8[np.ndarray, "H W 3"]:
    """The images and below them their reconstructions; of large ones every so many-th pixel."""
    stride = max(1, moment.images.shape[3] // TILE)
    tiles = cat([moment.images, moment.reconstructions])
    return tile_sheet(tiles[..., ::stride, ::stride], len(moment.images))


def _cell(panel: int) -> dict[str, int]:
    return {"row": 1 + panel // 3, "col": 1 + panel % 3}


def _line(
    figure: Figure, panel: int, name: str, color: str, mode: str = "lines", **line: Any
) -> None:
    look = {"color": color} | line
    figure.add_scatter(name=name, mode=mode, line=look, showlegend=False, **_cell(panel))


def _lay_out(figure: Figure, moment: Moment) -> None:
    """The axes: all steps from the start, so that a curve grows into its panel."""
    count = len(moment.norms)
    for panel, title in enumerate(PANELS):
        place = _cell(panel)
        if panel < 4:
            figure.update_xaxes(title_text="step", range=[0, moment.steps], **place)
        figure.update_yaxes(title_text=title, title_standoff=2, **place)
    figure.update_yaxes(**LOG, row=1, col=1)
    figure.update_yaxes(range=[0, 1.04 * count], row=1, col=3)
    figure.update_yaxes(**LOG, range=[-4, 4], row=2, col=1)
    ranks = [1, max(2, count)]
    figure.update_xaxes(title_text="codes, the longest first", range=ranks, row=2, col=2)
    figure.update_yaxes(rangemode="tozero", row=2, col=2)
    high, wide, _ = _tiles(moment).shape
    hidden = {"visible": False, "constrain": "domain", "row": 2, "col": 3}
    figure.update_xaxes(range=[-0.5, wide - 0.5], **hidden)
    figure.update_yaxes(range=[high - 0.5, -0.5], constraintoward="top", **hidden)


def last_row(history: pd.DataFrame, step: int) -> dict[str, float]:
    """Return the last line of the history up to `step`, empty if none was written yet."""
    seen = history[history["step"] <= step] if "step" in history else history
    return seen.iloc[-1].dropna().to_dict() if len(seen) else {}
