"""A training run played back: snapshots of the codebook on the sphere, and curves with a cursor, to be moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from arcvq.analysis import projections
from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
from arcvq.figures.curves import UNITS
from arcvq.figures.parts import add_ball, ball_surface, measured, set_scene, thin, usage_scale
from arcvq.figures.theme import array, check_vectors, colors, finish
from arcvq.quantizers import SphericalQuantizer
from arcvq.training import Run

CURVES, WIDTH = ("codes_used", "perplexity", "psnr"), 860  # columns of the history, pixels
UNUSED, USED, BALL = range(3)  # the traces of each run, which come before all curves


@dataclass(frozen=True)
class Reel:
    """A run made ready to be played: name, the run, and three axes for all of its steps.

    axes: exact up to D = 3, else the principal axes (through the origin) of the last snapshot. trust: how far these
    can be trusted at that snapshot, None where they are exact. extent: the largest norm of any code at any step.
    """

    name: str
    run: Run
    axes: Float[np.ndarray, "D 3"]
    trust: projections.Projection | None
    extent: float

    def last(self, step: int) -> int:
        """The step of the last snapshot up to `step`, or else of the first."""
        return max(
            (seen for seen in self.run.snapshots if seen <= step), default=min(self.run.snapshots)
        )

    def codes(self, step: int) -> Float[np.ndarray, "K 3"]:
        """Where the codes are drawn: the direction as the axes show it, at the true norm from the centre."""
        return _placed(array(self.run.snapshots[self.last(step)].codebook), self.axes)

    def radius(self, step: int) -> float | None:
        """The radius M(t) of the ball at the snapshot, for a run that had one."""
        quantizer, shot = self.run.model.quantizer, self.run.snapshots[self.last(step)]
        if (
            not isinstance(quantizer, SphericalQuantizer)
            or (radius := quantizer.active_samp().radius) is None
        ):
            return None
        return float(radius.value(self.last(step), float((shot.counts > 0).float().mean())))


def reels(runs: Run | Mapping[str, Run]) -> list[Reel]:
    """One or two runs made ready. Raises ValueError for another number, no snapshots, and codes with NaN."""
    named = {"run": runs} if isinstance(runs, Run) else dict(runs)
    if len(named) not in (1, 2):
        raise ValueError(f"a replay shows one or two runs side by side, not {len(named)}")
    return [_reel(name, run) for name, run in named.items()]


def _reel(name: str, run: Run) -> Reel:
    if not run.snapshots:
        raise ValueError(
            f"run {name!r} has no snapshots of its codebook, so there is nothing to replay"
        )
    shots = [
        check_vectors(shot.codebook, f"the codebook of {name!r} at step {step}")
        for step, shot in sorted(run.snapshots.items())
    ]
    last, extent = shots[-1], max(float(np.linalg.norm(shot, axis=1).max()) for shot in shots)
    if last.shape[1] <= 3:
        return Reel(name, run, np.eye(last.shape[1], 3), None, extent)
    _, values, axes = np.linalg.svd(last, full_matrices=False)
    share = float(np.square(values[:3]).sum() / max(np.square(values).sum(), 1e-300))
    axes = np.pad(axes[:3], ((0, 3 - len(axes[:3])), (0, 0))).T
    trust = projections.assess(last, _placed(last, axes), "PCA", variance_share=share)
    return Reel(name, run, axes, trust, extent)


def _placed(codes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return projections.directions(codes @ axes) * np.linalg.norm(codes, axis=1, keepdims=True)


def replay_picture(reels: Sequence[Reel], step: int, **look: Any) -> go.Figure:
    """The codes of each run in a scene, all in one scale, and below them codes used, perplexity and PSNR over steps."""
    count = len(reels)
    figure = make_subplots(
        2,
        6,
        row_heights=[0.66, 0.34],
        vertical_spacing=0.08,
        horizontal_spacing=0.1,
        specs=[
            [{"type": "scene", "colspan": 6 // count}, *[None] * (6 // count - 1)] * count,
            [{"colspan": 2}, None] * 3,
        ],
    )
    most = max(
        1, *(int(shot.counts.max()) for reel in reels for shot in reel.run.snapshots.values())
    )
    for place in range(count):
        _add_codes(figure, "scene" if place == 0 else "scene2", most, place == 0)
    _add_curves(figure, reels)
    limit = 1.02 * max(max(reel.extent for reel in reels), 1e-9)
    set_scene(figure, limit, names=("", "", ""), zoom=1.35)
    values = replay_values(reels, step)
    finish(
        figure,
        look,
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH,
        height=760,
        left=60,
        legend_itemsizing="constant",
    )
    for place, reel in enumerate(reels):
        left, right = figure.layout["scene2" if place else "scene"].domain.x
        figure.add_annotation(
            text=reel.name,
            x=(left + right) / 2,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="center",
            yanchor="top",
            showarrow=False,
            font={"size": 14},
        )
    return assign(figure, values)


def replay_values(reels: Sequence[Reel], step: int) -> Values:
    """What moves in `replay_picture`, by path."""
    values: Values = {}
    limit, text = max(reel.extent for reel in reels), [f"At step {step:,}"]
    for place, reel in enumerate(reels):
        counts = array(reel.run.snapshots[reel.last(step)].counts)
        rows, note = thin(len(counts), "codes")
        codes, counts, radius = reel.codes(step)[rows], counts[rows], reel.radius(step)
        for trace, chosen in ((UNUSED, counts == 0), (USED, counts > 0)):
            values |= points(3 * place + trace, codes[chosen]) | {
                f"{3 * place + trace}/text": rows[chosen]
            }
        values[f"{3 * place + USED}/marker.color"] = np.log10(counts[counts > 0])
        seen = radius is not None and radius <= 1.02 * limit
        values |= {
            f"{3 * place + BALL}/{path}": value for path, value in _ball(radius or 1.0).items()
        }
        values |= {f"{3 * place + BALL}/visible": seen}
        values[f"layout/annotations[{place + 1}].text"] = f"{reel.name}, step {reel.last(step):,}"
        text.append(_sentence(reel, step, counts, radius, bool(seen)) + note)
    first = 3 * len(reels) + len(CURVES) * len(reels)
    values |= {f"{first + panel}/x": [step, step] for panel in range(len(CURVES))}
    summary = "; ".join([": ".join(text[:2]), *text[2:]]) + f". {_trust(reels)}"
    return values | words("Training, step by step", summary, WIDTH - 84)


def _sentence(reel: Reel, step: int, counts: np.ndarray, radius: float | None, seen: bool) -> str:
    row = last_row(reel.run.history, reel.last(step))
    parts = [f"{np.count_nonzero(counts)} of {len(counts)} codes used"]
    parts += [
        f"{name} {row[column]:.1f}{unit}"
        for name, column, unit in (("perplexity", "perplexity", ""), ("PSNR", "psnr", " dB"))
        if column in row
    ]
    if radius is not None:
        parts.append(f"ball {radius:,.3g}" + ("" if seen else ", beyond the picture"))
    return f"{reel.name} {', '.join(parts)}"


def _trust(reels: Sequence[Reel]) -> str:
    """How far the drawn directions can be trusted; norms are always true."""
    drawn = [(reel.name, reel.trust) for reel in reels if reel.trust]
    if not drawn:
        return "Directions and norms are exact."
    shares = ", ".join(
        f"{name} {trust.variance_share:.0%} of the variance"
        + (
            f" (rank correlation of angles {trust.angle_correlation:.2f})"
            if trust.angle_correlation is not None
            else ""
        )
        for name, trust in drawn
    )
    least = min((trust for _, trust in drawn), key=lambda trust: trust.angle_correlation or -1)
    return f"Norms are true; directions are drawn along 3 principal axes of the last step: {shares}. {least.words}"


def last_row(history: pd.DataFrame, step: int) -> dict[str, float]:
    """The last line of the history up to `step`; nothing where none was written yet."""
    seen = history[history["step"] <= step] if "step" in history else history[:0]
    return seen.iloc[-1].dropna().to_dict() if len(seen) else {}


def _add_codes(figure: go.Figure, scene: str, most: int, legend: bool) -> None:
    shades = usage_scale(most, len=0.5, y=0.7)
    marks = (
        {"size": 3, "color": theme.GRAY, "symbol": "circle-open"},
        {"size": 4, "showscale": legend, **shades},
    )
    for name, marker in zip(("unused codes", "used codes"), marks, strict=True):
        figure.add_scatter3d(
            name=name,
            mode="markers",
            marker=marker,
            scene=scene,
            showlegend=legend,
            legendgroup=name,
            hovertemplate=f"code %{{text}}<extra>{name}</extra>",
        )
    add_ball(figure, 1.0, "ball of radius M(t)")
    figure.data[-1].update(scene=scene, showlegend=legend, legendgroup="ball")


def _ball(radius: float) -> Values:
    """What moves in the surface of a ball."""
    rings = {"start": -radius, "end": radius, "size": radius / 3}
    surface = dict(zip("xyz", radius * ball_surface(), strict=True))
    return surface | {f"contours.z.{key}": end for key, end in rings.items()}


def _add_curves(figure: go.Figure, reels: Sequence[Reel]) -> None:
    """A panel for each column of the histories, all curves first, then the cursor in each panel."""
    chosen, ends = colors([reel.name for reel in reels]), []
    for panel, column in enumerate(CURVES):
        curves = [measured(reel.run.history, column) for reel in reels]
        for reel, (x, y) in zip(reels, curves, strict=True):
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
        heights = np.concatenate([[0.0, 1.0], *(y[np.isfinite(y)] for _, y in curves)])
        ends.append([heights.min(), 1.05 * heights.max()])
    for panel, column in enumerate(CURVES):
        place = {"row": 2, "col": 1 + 2 * panel}
        figure.add_scatter(
            x=[0, 0],
            y=ends[panel],
            name="this step",
            mode="lines",
            line=theme.DOTTED,
            showlegend=False,
            hoverinfo="skip",
            **place,
        )
        figure.update_yaxes(title_text=UNITS[column], range=ends[panel], **place)
        figure.update_xaxes(title_text="step", **place)
