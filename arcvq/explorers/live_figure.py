"""A dashboard on a training run: losses, PSNR, codes, the ball with what lies ahead, norms, and a few images."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots
from torch import Tensor, cat

from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.explorers.replay_figure import last_row
from arcvq.figures import theme
from arcvq.figures.parts import image_source, measured, tile_sheet
from arcvq.figures.theme import finish
from arcvq.samp import SAMP
from arcvq.schedules import Schedule

WIDTH, HEIGHT, LEFT, RIGHT = 860, 620, 68, 12  # pixels
RANKS, AHEAD, TILE = (
    512,
    61,
    64,
)  # points of the lines of norms and schedules; pixels of an image; at most
HELD = 0.999  # of the radius: a code at least so long lies on the ball
# Panels by their y-axis; each line has a name, which stands above in its colour, and a column of the history if it is
# one over steps.
PANELS = {
    "loss terms": (
        ("reconstruction", theme.BLUE, "reconstruction"),
        ("commitment", theme.GREEN, "commitment"),
        ("margin", theme.VERMILLION, "margin"),
    ),
    "PSNR (dB)": (
        ("training", theme.BLUE, "psnr"),
        ("validation", theme.VERMILLION, "validation_psnr"),
    ),
    "codes": (
        ("codes used", theme.BLUE, "codes_used"),
        ("perplexity", theme.VERMILLION, "perplexity"),
    ),
    "radius, weight": (
        ("radius M(t)", theme.BLUE, "radius"),
        ("weight", theme.VERMILLION, "weight"),
        ("ahead (dotted)", theme.GRAY, ""),
    ),
    "norm": (("norms of the codes", theme.BLUE, ""), ("ball (dotted)", theme.BLACK, "")),
    "": (("images, reconstructed below", theme.GRAY, ""),),
}
CURVES = [
    (panel, *line) for panel, lines in enumerate(PANELS.values()) for line in lines if line[2]
]
RADIUS_AHEAD, WEIGHT_AHEAD, NORMS, BALL, TILES = range(
    len(CURVES), len(CURVES) + 5
)  # the traces after the curves


class Moment(NamedTuple):
    """What the dashboard shows of a run of `steps` steps at one moment.

    history: the rows so far, as of `fit`. norms: of the codes (K,). samp: the settings in force, None for a quantizer
    without them. images, reconstructions: the same few images (n, C, H, W) in [-1, 1] before and after the model.
    """

    steps: int
    history: pd.DataFrame
    norms: Float[np.ndarray, " K"]
    samp: SAMP | None
    images: Float[Tensor, "n C H W"]
    reconstructions: Float[Tensor, "n C H W"]


def live_picture(moment: Moment) -> go.Figure:
    """Six panels over the whole length of the run; the schedules of radius and weight go on dotted to its end."""
    figure = make_subplots(2, 3, horizontal_spacing=0.09, vertical_spacing=0.2)
    for panel, name, colour, column in CURVES:
        _line(
            figure,
            panel,
            name,
            colour,
            mode="lines+markers" if column == "validation_psnr" else "lines",
        )
    _line(figure, 3, "radius ahead", theme.BLUE, dash="dot")
    _line(figure, 3, "weight ahead", theme.VERMILLION, dash="dot")
    _line(figure, 4, "norms of the codes", theme.BLUE, width=3)
    _line(figure, 4, "ball", theme.BLACK, dash="dot")
    figure.add_trace(go.Image(zsmooth=False, hoverinfo="skip"), 2, 3)
    _lay_out(figure, moment)
    values = live_values(moment)
    finish(
        figure,
        {},
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
    )
    figure.layout.margin.t, figure.layout.annotations[0].yshift = (
        112,
        32,
    )  # room for two lines and the panels' words
    for panel, lines in enumerate(PANELS.values()):
        text = ", ".join(f'<span style="color:{colour}">{name}</span>' for name, colour, _ in lines)
        place = figure.get_subplot(*_cell(panel))
        figure.add_annotation(
            text=text,
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
    assign(figure, values)
    return figure


def live_values(moment: Moment) -> Values:
    """What moves in `live_picture`, by path."""
    values: Values = {}
    for trace, (*_, column) in enumerate(CURVES):
        values |= points(trace, measured(moment.history, column).T)
    row = last_row(moment.history, moment.steps)
    now = int(row.get("step", 0))
    radius, weight = (moment.samp.radius, moment.samp.weight) if moment.samp else (None, None)
    values |= points(RADIUS_AHEAD, _ahead(radius, now, moment.steps))
    values |= points(WEIGHT_AHEAD, _ahead(weight, now, moment.steps))
    count, longest = len(moment.norms), float(moment.norms.max())
    ranks = np.linspace(0, count - 1, min(RANKS, count)).round().astype(int)
    values |= points(NORMS, np.stack([ranks + 1, np.sort(moment.norms)[::-1][ranks]], axis=1))
    reach = float(radius.value(now)) if radius else np.inf
    values |= points(BALL, np.array([[1, reach], [count, reach]])) | {
        f"{BALL}/visible": reach <= 2 * longest
    }
    values[f"{TILES}/source"] = image_source(_tiles(moment))
    title = f"Step {now:,} of {moment.steps:,}"
    if row:
        title += f": PSNR {row['psnr']:.1f} dB, {row['codes_used']:,.0f} of {count:,} codes used"
    return values | words(title, _sentence(moment, row, reach), WIDTH - LEFT - RIGHT)


def _sentence(moment: Moment, row: dict[str, float], reach: float) -> str:
    parts = [
        f"{label} {row[column]:{form}}{unit}"
        for label, column, form, unit in (
            ("loss", "loss", ".3g", ""),
            ("validation PSNR", "validation_psnr", ".1f", " dB"),
            ("perplexity", "perplexity", ".1f", ""),
            ("weight of the margin loss", "weight", ".3g", ""),
        )
        if column in row
    ]
    parts.append(f"norms of the codes {moment.norms.min():.3g} to {moment.norms.max():.3g}")
    if reach < np.inf:
        held = np.mean(moment.norms >= HELD * reach)
        parts.append(
            f"the ball of radius {reach:,.{0 if reach > 1000 else 2}f} holds {held:.0%} of the codes"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _ahead(schedule: Schedule | None, now: int, steps: int) -> np.ndarray:
    """Steps and values (n, 2) of a schedule from `now` to the end of the run; none without a schedule."""
    rows = (
        [[step, schedule.value(step)] for step in np.linspace(now, steps, AHEAD)]
        if schedule
        else []
    )
    return np.array(rows).reshape(-1, 2)


def _tiles(moment: Moment) -> UInt8[np.ndarray, "H W 3"]:
    """The images side by side, and below them their reconstructions; of large images every so many-th pixel."""
    thinned = slice(None, None, max(1, moment.images.shape[3] // TILE))
    tiles = cat([moment.images, moment.reconstructions])[..., thinned, thinned]
    return tile_sheet(tiles, len(moment.images))


def _cell(panel: int) -> tuple[int, int]:
    return 1 + panel // 3, 1 + panel % 3


def _line(
    figure: go.Figure, panel: int, name: str, colour: str, mode: str = "lines", **line
) -> None:
    row, col = _cell(panel)
    figure.add_scatter(
        name=name, mode=mode, line={"color": colour} | line, showlegend=False, row=row, col=col
    )


def _lay_out(figure: go.Figure, moment: Moment) -> None:
    """The axes: all steps from the start, so that a curve grows into its panel."""
    count = len(moment.norms)
    for panel, title in enumerate(PANELS):
        place = dict(zip(("row", "col"), _cell(panel), strict=True))
        if panel < 4:
            figure.update_xaxes(title_text="step", range=[0, moment.steps], **place)
        figure.update_yaxes(title_text=title, title_standoff=2, **place)
    figure.update_yaxes(**theme.LOG, row=1, col=1)
    figure.update_yaxes(range=[0, 1.04 * count], row=1, col=3)
    figure.update_yaxes(**theme.LOG, range=[-4, 4], row=2, col=1)
    figure.update_xaxes(
        title_text="codes, the longest first", range=[1, max(2, count)], row=2, col=2
    )
    figure.update_yaxes(rangemode="tozero", row=2, col=2)
    high, wide, _ = _tiles(moment).shape
    hidden = {"visible": False, "constrain": "domain", "row": 2, "col": 3}
    figure.update_xaxes(range=[-0.5, wide - 0.5], **hidden)
    figure.update_yaxes(range=[high - 0.5, -0.5], constraintoward="top", **hidden)
