"""Codes under a ball that grows, to be moved: the ball, the norms, and the radius per step and scaled to the run."""

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
from arcvq.figures.parts import add_ball, add_points, ball_surface, set_scene, thin
from arcvq.figures.theme import finish
from arcvq.samp import project_to_ball_
from arcvq.schedules import Exponential

PAPER_STEPS = 29_500  # the run that the published growth was tuned to
WIDTH, HEIGHT, SIDE, RANKS = 860, 600, 24, 512
TOP = 1e4  # the radius axis: the paper's ball ends at 6,974
# The traces that move, in the order in which they are drawn.
INSIDE, HELD, BALL, FREE, BOUND, PER_STEP, SCALED, LONGEST, NOW, RELEASE = range(10)


UNIT_BALL = ball_surface()


class Codes(NamedTuple):
    """Free codes over a run: `shares` (S,) of the run, rising from 0, codebooks (S, K, D), and directions to draw."""

    shares: Float[np.ndarray, " S"]
    codebooks: Float[Tensor, "S K D"]
    units: Float[np.ndarray, "S K 3"]
    note: str = ""


def ball_schedule(growth: float, run_length: int, scaled: bool) -> Exponential:
    """M(t) = exp(growth t); scaled, the growth of 29,500 steps happens within `run_length` steps."""
    return Exponential(growth * PAPER_STEPS / run_length if scaled else growth)


def last_binding(codes: Codes, radius: Exponential, run_length: int) -> float:
    """The step from which on no code is longer than M(t); inf if the ball still binds at the end of the run."""
    found, starts = 0.0, codes.shares * run_length
    for start, end, norm in zip(starts, [*starts[1:], math.inf], _longest(codes), strict=True):
        let_go = min(end, math.log(max(norm, 1.0)) / radius.rate)
        found = max(found, let_go) if let_go > start else found
    return found if found <= run_length else math.inf


def ball_picture(
    codes: Codes, *, growth: float, run_length: int, step: int, scaled: bool = False
) -> go.Figure:
    """Codes in the ball of radius M(step), their norms, and the radius per step and scaled to the run (log axis)."""
    figure, origin = go.Figure(), np.zeros((1, 3))
    add_points(figure, origin, "codes inside", marker={"color": theme.BLUE, "size": 4})
    add_points(figure, origin, "codes clipped", marker={"color": theme.VERMILLION, "size": 4})
    add_ball(figure, 1.0, "ball of radius M(t)")
    figure.add_scatter(name="free norms", mode="lines", line_color=theme.GRAY)
    figure.add_scatter(
        name="norms in the ball", mode="lines", line={"color": theme.VERMILLION, "width": 3}
    )
    below = {"xaxis": "x2", "yaxis": "y2", "mode": "lines"}
    figure.add_scatter(name="M(t) per step", line_color=theme.BLUE, **below)
    figure.add_scatter(
        name="M(t) scaled to the run", line={"color": theme.PURPLE, "dash": "dash"}, **below
    )
    figure.add_scatter(name="longest free code", line={"color": theme.GRAY, "shape": "hv"}, **below)
    star = {"symbol": "star", "size": 13, "color": theme.GREEN}
    figure.add_scatter(
        line=theme.DOTTED,
        showlegend=False,
        marker={"size": [9, 0], "color": theme.BLACK},
        **below | {"mode": "lines+markers"},
    )
    figure.add_scatter(name="it stops binding", marker=star, **below | {"mode": "markers"})
    _axes(figure, codes)
    values = ball_values(codes, growth=growth, run_length=run_length, step=step, scaled=scaled)
    finish(
        figure,
        {},
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH,
        height=HEIGHT,
        left=SIDE,
        right=SIDE,
        legend_itemsizing="constant",
    )
    assign(figure, values)
    return figure


def ball_values(
    codes: Codes, *, growth: float, run_length: int, step: int, scaled: bool = False
) -> Values:
    """What moves in `ball_picture`, by path."""
    radius, starts = ball_schedule(growth, run_length, scaled), codes.shares * run_length
    reach, place = radius.value(step), max(0, int(np.searchsorted(starts, step, side="right")) - 1)
    free = codes.codebooks[place].double()
    held = project_to_ball_(free.clone(), reach)
    before, after = (torch.linalg.vector_norm(rows, dim=1).numpy() for rows in (free, held))
    clipped, (drawn, note), extent = before > reach, thin(len(free), "codes"), _extent(codes)
    where, out = codes.units[place][drawn] * after[drawn, None], clipped[drawn]
    values = points(INSIDE, where[~out]) | points(HELD, where[out]) | _ball(reach, extent)
    ranks = np.linspace(0, len(free) - 1, min(RANKS, len(free))).round().astype(int)
    for trace, norms in ((FREE, before), (BOUND, after)):
        values |= points(trace, np.stack([ranks + 1, np.sort(norms)[::-1][ranks]], axis=1))
    steps = np.linspace(0, run_length, 101)
    for trace, kind in ((PER_STEP, False), (SCALED, True)):
        curve = ball_schedule(growth, run_length, kind)
        values |= points(trace, np.stack([steps, [curve.value(t) for t in steps]], axis=1))
    values |= points(
        LONGEST, np.stack([[*starts, run_length], [*_longest(codes), _longest(codes)[-1]]], axis=1)
    )
    stop = last_binding(codes, radius, run_length)
    values |= points(NOW, np.array([[step, reach], [step, 1e-9]]))
    values |= points(
        RELEASE, np.array([[stop, radius.value(stop)] if stop < math.inf else [np.nan, np.nan]])
    )
    ends = "still binds at the end of the run"
    if stop < math.inf:
        ends = f"stops binding at step {math.ceil(stop):,}" if stop else "never binds"
    text = (
        f"M({step:,}) = {reach:,.4g}{', beyond the picture' if reach > extent else ''}; the longest of "
        f"{len(free):,} free codes has norm {before.max():.3g}. The ball {ends} ({run_length:,} steps)."
        f"{codes.note}{note}"
    )
    title = f"Step {step:,}: {clipped.mean():.1%} of the codes are clipped"
    return values | words(title, text, WIDTH - 2 * SIDE) | {"layout/xaxis2.range": [0, run_length]}


def _longest(codes: Codes) -> np.ndarray:
    return torch.linalg.vector_norm(codes.codebooks, dim=2).amax(dim=1).double().numpy()


def _extent(codes: Codes) -> float:
    return 1.02 * max(1.0, float(_longest(codes).max()))


def _ball(reach: float, extent: float) -> Values:
    """The shell of `figures.sphere` at this radius; hidden where it would lie outside the axes."""
    if reach > extent:
        return {f"{BALL}/visible": False}
    return {f"{BALL}/visible": True} | {
        f"{BALL}/{axis}": np.float32(reach) * rows
        for axis, rows in zip("xyz", UNIT_BALL, strict=True)
    }


def _axes(figure: go.Figure, codes: Codes) -> None:
    extent, count = _extent(codes), codes.codebooks.shape[1]
    set_scene(figure, extent)
    figure.update_scenes(domain={"x": [0, 0.55]})
    top = math.log10(max(TOP, 2 * extent))
    figure.update_layout(
        xaxis={
            "domain": [0.64, 1],
            "title_text": "codes, the longest first",
            "range": [1, max(2, count)],
        },
        yaxis={"domain": [0.6, 0.98], "title_text": "norm", "range": [0, 1.04 * extent]},
        xaxis2={"domain": [0.64, 1], "title_text": "step", "anchor": "y2"},
        yaxis2=theme.LOG
        | {
            "domain": [0, 0.4],
            "title_text": "radius M(t)",
            "range": [-0.15, top],
            "anchor": "x2",
            "dtick": 1,
        },
    )
