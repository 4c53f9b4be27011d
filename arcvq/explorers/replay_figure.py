"""A training run played back, to be moved: the codebook on the sphere, and curves with a cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.analysis import projections
from arcvq.explorers.figure_updates import Values, assign, ball, finish_moving, points, words
from arcvq.figures.curves import UNITS
from arcvq.figures.parts import add_ball, measured, set_scene, thin, usage_scale
from arcvq.figures.theme import DOTTED, GRAY, array, check_vectors, colors
from arcvq.quantizers import SphericalQuantizer
from arcvq.training import Run

CURVES = ("codes_used", "perplexity", "psnr")  # columns of the history
WIDTH = 860  # pixels
LEFT = 60
RIGHT = 24
UNUSED, USED, BALL = range(3)  # the traces of each run, which come before all curves
SCENES = ("scene", "scene2")


@dataclass(frozen=True)
class Reel:
    """A run made ready to be played.

    Attributes:
        name: of the run.
        run: the run.
        axes: three axes for all steps: exact up to D = 3, else the principal axes (through the
            origin) of the last snapshot.
        trust: how far these can be trusted at that snapshot, None where they are exact.
        extent: the largest norm of any code at any step.
    """

    name: str
    run: Run
    axes: Float[np.ndarray, "D 3"]
    trust: projections.Projection | None
    extent: float

    def last(self, step: int) -> int:
        """Return the step of the last snapshot up to `step`, or else of the first."""
        steps = self.run.snapshots
        return max((seen for seen in steps if seen <= step), default=min(steps))

    def codes(self, step: int) -> Float[np.ndarray, "K 3"]:
        """Place the codes: the direction as the axes show it, at the true norm from the center."""
        return _placed(array(self.run.snapshots[self.last(step)].codebook), self.axes)

    def radius(self, step: int) -> float | None:
        """Return the radius M(t) of the ball at the snapshot, for a run that had one."""
        quantizer = self.run.model.quantizer
        if not isinstance(quantizer, SphericalQuantizer):
            return None
        radius = quantizer.active_samp().radius
        if radius is None:
            return None
        seen = self.last(step)
        usage = float((self.run.snapshots[seen].counts > 0).float().mean())
        return float(radius.value(seen, usage))


def reels(runs: Run | Mapping[str, Run]) -> list[Reel]:
    """Make one or two runs ready.

    Raises:
        ValueError: for another number of runs, no snapshots, and codes with NaN.
    """
    named = {"run": runs} if isinstance(runs, Run) else dict(runs)
    if len(named) not in (1, 2):
        raise ValueError(f"a replay shows one or two runs side by side, not {len(named)}")
    return [_reel(name, run) for name, run in named.items()]


def _reel(name: str, run: Run) -> Reel:
    if not run.snapshots:
        raise ValueError(
            f"run {name!r} has no snapshots of its codebook, so there is nothing to replay"
        )
    extent = 0.0
    for step, shot in sorted(run.snapshots.items()):
        codes = check_vectors(shot.codebook, f"the codebook of {name!r} at step {step}")
        extent = max(extent, float(np.linalg.norm(codes, axis=1).max()))
    dim = codes.shape[1]
    if dim <= 3:
        return Reel(name, run, np.eye(dim, 3), None, extent)
    _, values, axes = np.linalg.svd(codes, full_matrices=False)
    energy = np.square(values)
    share = float(energy[:3].sum() / max(energy.sum(), 1e-300))
    axes = np.pad(axes[:3], ((0, max(0, 3 - len(axes))), (0, 0))).T
    trust = projections.assess(codes, _placed(codes, axes), "PCA", variance_share=share)
    return Reel(name, run, axes, trust, extent)


def _placed(codes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return projections.directions(codes @ axes) * np.linalg.norm(codes, axis=1, keepdims=True)


def replay_picture(reels: Sequence[Reel], step: int) -> Figure:
    """Draw the codes of each run in a scene, all in one scale, and below them curves over steps.

    The curves are codes used, perplexity and PSNR.
    """
    count = len(reels)
    scene = [{"type": "scene", "colspan": 6 // count}, *[None] * (6 // count - 1)]
    figure = make_subplots(
        2,
        6,
        row_heights=[0.66, 0.34],
        vertical_spacing=0.08,
        horizontal_spacing=0.1,
        specs=[scene * count, [{"colspan": 2}, None] * 3],
    )
    most = 1
    for reel in reels:
        most = max(most, *(int(shot.counts.max()) for shot in reel.run.snapshots.values()))
    for name in SCENES[:count]:
        _add_codes(figure, name, most)
    _add_curves(figure, reels)
    limit = 1.02 * max(_extent(reels), 1e-9)
    set_scene(figure, limit, names=("", "", ""), zoom=1.35)
    values = replay_values(reels, step)
    finish_moving(figure, values, width=WIDTH, height=760, left=LEFT, legend_itemsizing="constant")
    for name in SCENES[:count]:
        figure.add_annotation(
            x=np.mean(figure.layout[name].domain.x),
            y=1,
            xref="paper",
            yref="paper",
            xanchor="center",
            yanchor="top",
            showarrow=False,
            font={"size": 14},
        )
    return assign(figure, values)


def _extent(reels: Sequence[Reel]) -> float:
    return max(reel.extent for reel in reels)


def replay_values(reels: Sequence[Reel], step: int) -> Values:
    """Return what moves in `replay_picture`, by path."""
    values: Values = {}
    limit = 1.02 * _extent(reels)
    sentences = []
    for place, reel in enumerate(reels):
        seen = reel.last(step)
        all_counts = array(reel.run.snapshots[seen].counts)
        rows, note = thin(len(all_counts), "codes")
        codes = reel.codes(step)[rows]
        counts = all_counts[rows]
        unused = 3 * place + UNUSED
        used = 3 * place + USED
        for trace, chosen in ((unused, counts == 0), (used, counts > 0)):
            values |= points(trace, codes[chosen]) | {f"{trace}/text": rows[chosen]}
        values[f"{used}/marker.color"] = np.log10(counts[counts > 0])

        radius = reel.radius(step)
        values |= ball(3 * place + BALL, radius, limit)
        values[f"layout/annotations[{place + 1}].text"] = f"{reel.name}, step {seen:,}"
        text = _sentence(reel, seen, counts)
        if radius is not None:
            text += f", ball {radius:,.3g}"
            if radius > limit:
                text += ", beyond the picture"
        sentences.append(text + note)
    first = (BALL + 1 + len(CURVES)) * len(reels)
    for panel in range(len(CURVES)):
        values[f"{first + panel}/x"] = [step, step]
    summary = f"At step {step:,}: {'; '.join(sentences)}. {_trust(reels)}"
    return values | words("Training, step by step", summary, WIDTH - LEFT - RIGHT)


def _sentence(reel: Reel, step: int, counts: np.ndarray) -> str:
    row = last_row(reel.run.history, step)
    text = f"{reel.name} {np.count_nonzero(counts)} of {len(counts)} codes used"
    if "perplexity" in row:
        text += f", perplexity {row['perplexity']:.1f}"
    if "psnr" in row:
        text += f", PSNR {row['psnr']:.1f} dB"
    return text


def _trust(reels: Sequence[Reel]) -> str:
    """How far the drawn directions can be trusted; norms are always true."""
    shares = []
    trusts = []
    for reel in reels:
        trust = reel.trust
        if trust:
            text = f"{reel.name} {trust.variance_share:.0%} of the variance"
            if trust.angle_correlation is not None:
                text += f" (rank correlation of angles {trust.angle_correlation:.2f})"
            shares.append(text)
            trusts.append(trust)
    if not trusts:
        return "Directions and norms are exact."
    least = min(trusts, key=lambda trust: trust.angle_correlation or -1)
    return (
        "Norms are true; directions are drawn along 3 principal axes of the last step: "
        f"{', '.join(shares)}. {least.words}"
    )


def last_row(history: pd.DataFrame, step: int) -> dict[str, float]:
    """Return the last line of the history up to `step`, empty if none was written yet."""
    seen = history[history["step"] <= step] if "step" in history else history
    return seen.iloc[-1].dropna().to_dict() if len(seen) else {}


def _add_codes(figure: Figure, scene: str, most: int) -> None:
    first = scene == SCENES[0]
    shades = usage_scale(most, len=0.5, y=0.7)
    ring = {"size": 3, "color": GRAY, "symbol": "circle-open"}
    dot = {"size": 4, "showscale": first, **shades}
    for name, marker in (("unused codes", ring), ("used codes", dot)):
        figure.add_scatter3d(
            name=name,
            mode="markers",
            marker=marker,
            scene=scene,
            showlegend=first,
            legendgroup=name,
            hovertemplate=f"code %{{text}}<extra>{name}</extra>",
        )
    add_ball(figure, 1.0, "ball of radius M(t)")
    figure.data[-1].update(scene=scene, showlegend=first, legendgroup="ball")


def _add_curves(figure: Figure, reels: Sequence[Reel]) -> None:
    """A panel for each column of the histories, all curves first, then the cursor in each panel."""
    chosen = colors([reel.name for reel in reels])
    ends = []
    for panel, column in enumerate(CURVES):
        low = 0.0
        high = 1.0
        for reel in reels:
            x, y = measured(reel.run.history, column)
            figure.add_scatter(
                x=x,
                y=y,
                name=reel.name,
                mode="lines",
                line_color=chosen[reel.name],
                legendgroup=reel.name,
                showlegend=panel == 0,
                row=2,
                col=1 + 2 * panel,
            )
            finite = y[np.isfinite(y)]
            low = finite.min(initial=low)
            high = finite.max(initial=high)
        ends.append([low, 1.05 * high])
    for panel, column in enumerate(CURVES):
        place = {"row": 2, "col": 1 + 2 * panel}
        figure.add_scatter(
            x=[0, 0],
            y=ends[panel],
            name="this step",
            mode="lines",
            line=DOTTED,
            showlegend=False,
            hoverinfo="skip",
            **place,
        )
        figure.update_yaxes(title_text=UNITS[column], range=ends[panel], **place)
        figure.update_xaxes(title_text="step", **place)
