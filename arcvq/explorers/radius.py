"""A ball that grows around the codes: which of them it clips, and when it stops binding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Generator, Tensor, randn
from torch.nn.functional import normalize

from arcvq.analysis import projections
from arcvq.explorers.canvas import CanvasExplorer
from arcvq.figures.parts import thin
from arcvq.schedules import Exponential
from arcvq.training import Run

PAPER_STEPS = 29_500  # the run that the published growth was tuned to


class RadiusExplorer(CanvasExplorer):
    """Codes (K, D) under the ball M(t) = exp(growth t) at `step` of a run of `run_length` steps.

    In more than 3 dimensions the directions are drawn by PCA; the distance from the center is the
    norm. `scaled`: the growth of the paper's 29,500 steps happens within the run.

    Args:
        codebook: free codes, which the ball then clips: a tensor; or snapshots by step, or a Run,
            whose codes at the same share of the run are shown; an example by default.
        **settings: values at the start.

    Raises:
        ValueError: for no codes, NaN, infinity, a code of norm zero, and a run without snapshots.
    """

    module = "radius"
    growth = traitlets.Float(3e-4, min=1e-6, max=0.1).tag(label="growth (per step)", log=True)
    run_length = traitlets.Int(3000, min=10, max=10_000_000).tag(label="run (steps)", log=True)
    step = traitlets.Int(600, min=0, max=10_000_000).tag(label="step")
    scaled = traitlets.Bool(False).tag(label="scaled to the run")

    def __init__(self, codebook: Tensor | Mapping[int, Any] | Run | None = None, **settings: Any):
        snapshots = codebook.snapshots if isinstance(codebook, Run) else codebook
        if isinstance(snapshots, Mapping):
            length = max(snapshots, default=0)
            if length:
                settings = {"run_length": max(10, length), "step": length // 5} | settings
        super().__init__(_moments(_example() if snapshots is None else snapshots), **settings)

    def code(self) -> str:
        rate = ball_schedule(self.growth, self.run_length, self.scaled).rate
        return f"arcvq.SAMP(radius=arcvq.Exponential({rate!r}))"

    @traitlets.validate("step")
    def _within_the_run(self, proposal) -> int:
        step = proposal.value
        if step > self.run_length:
            raise traitlets.TraitError(
                f"step is {step:,}; the run ends after {self.run_length:,} steps"
            )
        return step

    @traitlets.observe("run_length")
    def _limit_step(self, _=None) -> None:
        self.step = min(self.step, self.run_length)


def ball_schedule(growth: float, run_length: int, scaled: bool) -> Exponential:
    """Return M(t) = exp(growth t); scaled, the growth of 29,500 steps happens within the run."""
    return Exponential(growth * PAPER_STEPS / run_length if scaled else growth)


def _example() -> Tensor:
    """512 codes in all directions with made-up norms, up to about 5."""
    generator = Generator().manual_seed(2)
    units = normalize(randn(512, 3, generator=generator), dim=1)
    return units * (0.4 + 0.4 * randn(512, 1, generator=generator)).exp()


def _moments(snapshots: Tensor | Mapping[int, Any]) -> dict[str, Any]:
    """The free codes at each moment, as web/radius.js takes them."""
    if not isinstance(snapshots, Mapping):
        snapshots = {0: snapshots}
    if not snapshots:
        raise ValueError("the run has no snapshots of its codebook; train it with snapshots=24")
    steps = sorted(snapshots)
    books = [getattr(snapshots[step], "codebook", snapshots[step]).detach() for step in steps]
    codebooks = torch.stack(books).cpu().float()
    count, dim = codebooks.shape[1:]
    rows = codebooks.flatten(0, 1)
    drawn = projections.exact(rows) if dim <= 3 else projections.pca(rows, 3, sphere=True)
    zeros = len(rows) - int(rows.any(dim=1).sum())
    if zeros:
        raise ValueError(
            f"{zeros} of {len(rows)} codes have norm 0 and so no direction to be drawn in"
        )
    shares = np.array(steps, float) / max(steps[-1], 1)
    shares[0] = 0.0
    shown, note = thin(count, "codes")
    if dim > 3:
        share = f"{drawn.variance_share:.0%}"
        note = f" Directions by PCA, {share} of the variance; norms are exact.{note}"
    norms = codebooks.double().norm(dim=2).numpy()
    return {
        "shares": shares,
        "norms": norms,
        "units": drawn.points.reshape(len(steps), count, 3)[:, shown],
        "longest": norms.max(axis=1),
        "shown": np.arange(count)[shown],
        "note": note,
    }
