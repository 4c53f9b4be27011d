"""Scrub through a training run: the codes on the sphere step by step, and curves with a cursor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float

from arcvq.analysis.projections import Projection
from arcvq.explorers.canvas import CanvasExplorer
from arcvq.explorers.drawn_codes import LIMIT, code_axes, pack, patches, trust
from arcvq.figures.parts import evenly, measured, thin
from arcvq.figures.theme import as_vectors, colors
from arcvq.training import Run

CURVES = ("codes_used", "perplexity", "psnr")  # columns of the history
ROWS = 1000  # of a curve, at most


class TrainingReplay(CanvasExplorer):
    """A slider over the snapshots of one or two runs, in one scale and with one camera.

    `step` is that of the optimizer; the nearest snapshot is shown. Where the runs have other steps
    than each other, each shows its last one so far. The cursor in the curves follows. In more than
    3 dimensions, directions are drawn along the principal axes of the last step; distances from the
    center are always the norms. The patch beside a code is what the trained model decodes it to.

    Args:
        runs: A `Run`, or two by name, also of a model on the GPU.
        other: A second `Run`.
        **settings: The step at the start, by default the last.

    Raises:
        ValueError: For no runs or more than two, for a run without snapshots, and for codes with
            NaN.
    """

    module = "replay"
    step = traitlets.Int().tag(label="step")

    def __init__(self, runs: Run | Mapping[str, Run], other: Run | None = None, **settings: Any):
        named = {"run": runs} if isinstance(runs, Run) else dict(runs)
        if other is not None:
            named["other"] = other
        if len(named) not in (1, 2):
            raise ValueError(f"a replay shows one or two runs side by side, not {len(named)}")
        steps: set[int] = set()
        for run in named.values():
            steps.update(run.snapshots)
        self.steps = sorted(steps)
        self._given = "runs" if other is None else "run, other"

        data: dict[str, Any] = {"steps": self.steps}
        chosen = colors(named)
        trusts = {}
        for place, (name, run) in enumerate(named.items()):
            codes = _codes_of_run(name, run)
            axes = code_axes(codes[-1])
            trusts[name] = trust(codes[-1], axes)
            reel = _reel(run, codes, axes) | _curves(run)
            reel |= {"name": name, "color": chosen[name]}
            data |= {f"{key}{place}": value for key, value in reel.items()}
        super().__init__(data | {"trust": _sentence(trusts)}, **settings)

    def template(self) -> str:
        return f"TrainingReplay({self._given}, step={{step}})"

    @traitlets.default("specs")
    def _a_stop_for_each_snapshot(self) -> list[dict[str, Any]]:
        return [{"name": "step", "label": "step", "kind": "stops", "options": self.steps}]

    @traitlets.default("step")
    def _last(self) -> int:
        return self.steps[-1]

    @traitlets.validate("step")
    def _nearest(self, proposal) -> int:
        return min(self.steps, key=lambda step: abs(step - proposal.value))


def _codes_of_run(name: str, run: Run) -> Float[np.ndarray, "T K D"]:
    """The codes of all snapshots, in order."""
    if not run.snapshots:
        raise ValueError(
            f"run {name!r} has no snapshots of its codebook, so there is nothing to replay; train "
            "it with Recording(snapshots=24)"
        )
    codebooks = []
    for step, shot in sorted(run.snapshots.items()):
        codebooks.append(as_vectors(shot.codebook, f"the codebook of {name!r} at step {step}"))
    return np.stack(codebooks)


def _reel(
    run: Run, codes: Float[np.ndarray, "T K D"], axes: Float[np.ndarray, "D 3"]
) -> dict[str, Any]:
    """The snapshots of a run as web/replay.js takes them."""
    steps = sorted(run.snapshots)
    shots = [run.snapshots[step] for step in steps]
    counts = torch.stack([shot.counts for shot in shots]).cpu().numpy()
    count = len(codes[0])
    shown, note = thin(count, "codes", LIMIT)
    extent = float(np.linalg.norm(codes, axis=2).max())
    reel: dict[str, Any] = {"steps": steps, "extent": extent, "total": count, "note": note}
    reel["codes"] = pack(codes[:, shown].reshape(-1, codes.shape[2]), axes, extent)
    # The shortest numbers that hold them
    reel["counts"] = counts[:, shown].astype(np.min_scalar_type(counts.max()))
    reel["shown"] = shown.astype(np.min_scalar_type(count))
    reel["tokens"] = counts.sum(axis=1).tolist()
    reel["radii"] = _radii(run, steps)
    reel["patches"] = patches(run.model, shown)
    reel["side"] = reel["patches"].shape[1]
    return reel


def _radii(run: Run, steps: list[int]) -> Float[np.ndarray, " T"]:
    """The radius of the ball at each snapshot; NaN for a run that had none.

    Between two rows of the history it is taken to grow exponentially.
    """
    logged, radii = measured(run.history, "radius")
    if len(radii) == 0:
        return np.full(len(steps), np.nan)
    if run.settings.get("schedule") != "continue":
        # The ball that codes start in; one that continues has the size of the first row.
        logged = np.append(0, logged)
        radii = np.append(1, radii)
    return np.exp(np.interp(steps, logged, np.log(radii)))


def _curves(run: Run) -> dict[str, Any]:
    """Steps and values of each curve."""
    curves = {}
    for column in CURVES:
        points = measured(run.history, column).astype(np.float32)
        curves[column] = points[:, evenly(points.shape[1], ROWS)]
    return curves


def _sentence(trusts: dict[str, Projection | None]) -> str:
    """How far the drawn directions can be trusted; norms are always true."""
    inexact = {name: drawn for name, drawn in trusts.items() if drawn}
    if not inexact:
        return "Directions and norms are exact."
    shares = []
    for name, drawn in inexact.items():
        text = f"{name} {drawn.axes_share:.0%} of the squared length"
        if drawn.angle_correlation is not None:
            text += f" (rank correlation of angles {drawn.angle_correlation:.2f})"
        shares.append(text)
    least = min(inexact.values(), key=lambda drawn: drawn.angle_correlation or -1)
    return (
        "Norms are exact; directions are drawn along 3 principal axes of the last step: "
        f"{', '.join(shares)}. {least.words}"
    )
