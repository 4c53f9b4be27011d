"""Codes under a growing ball, to be moved: the ball, the norms, and the radius over the steps."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure
from torch import Tensor

from arcvq.explorers.figure_updates import (
    Values,
    assign,
    ball,
    finish_moving,
    points,
    ranked,
    words,
)
from arcvq.figures.parts import add_ball, add_points, set_scene, thin
from arcvq.figures.theme import BLACK, BLUE, DOTTED, GRAY, GREEN, LOG, PURPLE, VERMILLION
from arcvq.samp import project_to_ball_
from arcvq.schedules import Exponential

PAPER_STEPS = 29_500  # the run that the published growth was tuned to
WIDTH = 860  # pixels
HEIGHT = 600
SIDE = 24
TOP = 1e4  # of the radius axis: the paper's ball ends at 6,974
# The traces that move, in the order in which they are drawn.
INSIDE, HELD, BALL, FREE, BOUND, PER_STEP, SCALED, LONGEST, NOW, RELEASE = range(10)


class Codes(NamedTuple):
    """Free codes over a run.

    Attributes:
        shares: of the run, rising from 0.
        codebooks: the codes at each share.
        units: directions to draw them in.
        note: for the caption.
    """

    shares: Float[np.ndarray, " S"]
    codebooks: Float[Tensor, "S K D"]
    units: Float[np.ndarray, "S K 3"]
    note: str = ""

    @property
    def longest(self) -> Float[np.ndarray, " S"]:
        """The largest norm at each share."""
        return self.codebooks.norm(dim=2).amax(dim=1).double().numpy()

    @property
    def extent(self) -> float:
        """What the axes reach to."""
        return 1.02 * max(1.0, float(self.longest.max()))


def ball_schedule(growth: float, run_length: int, scaled: bool) -> Exponential:
    """Return M(t) = exp(growth t); scaled, the growth of 29,500 steps happens within the run."""
    return Exponential(growth * PAPER_STEPS / run_length if scaled else growth)


def last_binding(codes: Codes, radius: Exponential, run_length: int) -> float:
    """Return the step from which on no code is longer than M(t).

    It is infinite if the ball still binds at the end of the run.
    """
    found = 0.0
    starts = codes.shares * run_length
    for start, end, norm in zip(starts, [*starts[1:], math.inf], codes.longest, strict=True):
        let_go = min(end, math.log(max(norm, 1.0)) / radius.rate)
        if let_go > start:
            found = max(found, let_go)
    return found if found <= run_length else math.inf


def ball_picture(codes: Codes, **settings: Any) -> Figure:
    """Draw codes in the ball of radius M(step), their norms, and the radius over the steps.

    The radius is drawn per step and scaled to the run, on a log axis.

    Args:
        codes: the free codes.
        **settings: growth, run_length, step and scaled.
    """
    figure = Figure()
    origin = np.zeros((1, 3))
    add_points(figure, origin, "codes inside", marker={"color": BLUE, "size": 4})
    add_points(figure, origin, "codes clipped", marker={"color": VERMILLION, "size": 4})
    add_ball(figure, 1.0, "ball of radius M(t)")
    figure.add_scatter(name="free norms", mode="lines", line_color=GRAY)
    bound = {"color": VERMILLION, "width": 3}
    figure.add_scatter(name="norms in the ball", mode="lines", line=bound)

    below = {"xaxis": "x2", "yaxis": "y2"}
    lines = below | {"mode": "lines"}
    figure.add_scatter(name="M(t) per step", line_color=BLUE, **lines)
    dashed = {"color": PURPLE, "dash": "dash"}
    figure.add_scatter(name="M(t) scaled to the run", line=dashed, **lines)
    stairs = {"color": GRAY, "shape": "hv"}
    figure.add_scatter(name="longest free code", line=stairs, **lines)
    dot = {"size": [9, 0], "color": BLACK}
    figure.add_scatter(mode="lines+markers", line=DOTTED, showlegend=False, marker=dot, **below)
    star = {"symbol": "star", "size": 13, "color": GREEN}
    figure.add_scatter(name="it stops binding", mode="markers", marker=star, **below)

    _axes(figure, codes)
    values = ball_values(codes, **settings)
    finish_moving(
        figure,
        values,
        width=WIDTH,
        height=HEIGHT,
        left=SIDE,
        right=SIDE,
        legend_itemsizing="constant",
    )
    return assign(figure, values)


def ball_values(codes: Codes, *, growth: float, run_length: int, step: int, scaled: bool) -> Values:
    """Return what moves in `ball_picture`, by path."""
    radius = ball_schedule(growth, run_length, scaled)
    reach = radius.value(step)
    starts = codes.shares * run_length
    place = max(0, int(np.searchsorted(starts, step, side="right")) - 1)
    free = codes.codebooks[place].double()
    before = free.norm(dim=1).numpy()
    after = project_to_ball_(free.clone(), reach).norm(dim=1).numpy()
    clipped = before > reach
    extent = codes.extent
    drawn, note = thin(len(free), "codes")
    where = codes.units[place][drawn] * after[drawn, None]
    out = clipped[drawn]
    values = points(INSIDE, where[~out]) | points(HELD, where[out])
    values |= ball(BALL, reach, extent) | ranked(FREE, before) | ranked(BOUND, after)

    steps = np.linspace(0, run_length, 101)
    for trace, kind in ((PER_STEP, False), (SCALED, True)):
        curve = ball_schedule(growth, run_length, kind)
        values |= points(trace, np.column_stack([steps, [curve.value(t) for t in steps]]))
    longest = codes.longest
    stairs = np.stack([[*starts, run_length], [*longest, longest[-1]]], axis=1)
    stop = last_binding(codes, radius, run_length)
    release = [stop, radius.value(stop)] if stop < math.inf else [np.nan, np.nan]
    values |= points(LONGEST, stairs)
    values |= points(NOW, np.array([[step, reach], [step, 1e-9]]))
    values |= points(RELEASE, np.array([release]))
    values["layout/xaxis2.range"] = [0, run_length]

    beyond = ", beyond the picture" if reach > extent else ""
    text = (
        f"M({step:,}) = {reach:,.4g}{beyond}; the longest of {len(free):,} free codes has norm "
        f"{before.max():.3g}. The ball {_ends(stop)} ({run_length:,} steps).{codes.note}{note}"
    )
    title = f"Step {step:,}: {clipped.mean():.1%} of the codes are clipped"
    return values | words(title, text, WIDTH - 2 * SIDE)


def _ends(stop: float) -> str:
    """Say when the ball stops binding."""
    if stop == math.inf:
        return "still binds at the end of the run"
    return f"stops binding at step {math.ceil(stop):,}" if stop else "never binds"


def _axes(figure: Figure, codes: Codes) -> None:
    extent = codes.extent
    count = codes.codebooks.shape[1]
    set_scene(figure, extent)
    figure.update_scenes(domain={"x": [0, 0.55]})
    top = math.log10(max(TOP, 2 * extent))
    radius = {"domain": [0, 0.4], "title_text": "radius M(t)", "range": [-0.15, top]}
    across = {"domain": [0.64, 1], "title_text": "codes, the longest first"}
    figure.update_layout(
        xaxis=across | {"range": [1, max(2, count)]},
        yaxis={"domain": [0.6, 0.98], "title_text": "norm", "range": [0, 1.04 * extent]},
        xaxis2={"domain": [0.64, 1], "title_text": "step", "anchor": "y2"},
        yaxis2=LOG | radius | {"anchor": "x2", "dtick": 1},
    )
