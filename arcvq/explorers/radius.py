"""A ball that grows around the codes: which of them it clips, and when it stops binding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Generator, Tensor, randn
from torch.nn.functional import normalize

from arcvq.analysis import projections
from arcvq.explorers.base import Explorer
from arcvq.explorers.radius_figure import Codes, ball_picture, ball_schedule, ball_values
from arcvq.training import Run


class RadiusExplorer(Explorer):
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
        self.codes = _codes(_example() if snapshots is None else snapshots)
        super().__init__(**settings)
        self._limit_step()

    def picture(self):
        return ball_picture(self.codes, **self.settings())

    def values(self):
        return ball_values(self.codes, **self.settings())

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
        control = self.controls["step"]
        # In one message, or the browser sends the old value back, moved to the new grid.
        with control.hold_sync():
            self.end_slider("step", self.run_length)
            control.step = max(1, self.run_length // 100)


def _example() -> Tensor:
    """512 codes in all directions with made-up norms, up to about 5."""
    generator = Generator().manual_seed(2)
    units = normalize(randn(512, 3, generator=generator), dim=1)
    return units * (0.4 + 0.4 * randn(512, 1, generator=generator)).exp()


def _codes(snapshots: Tensor | Mapping[int, Any]) -> Codes:
    """Snapshots by share of the run, with the directions in which to draw them."""
    if not isinstance(snapshots, Mapping):
        snapshots = {0: snapshots}
    if not snapshots:
        raise ValueError("the run has no snapshots of its codebook; train it with snapshots=24")
    steps = sorted(snapshots)
    books = [getattr(snapshots[step], "codebook", snapshots[step]).detach() for step in steps]
    codebooks = torch.stack(books).cpu().float()
    dim = codebooks.shape[2]
    rows = codebooks.flatten(0, 1)
    drawn = projections.exact(rows) if dim <= 3 else projections.pca(rows, 3, sphere=True)
    zeros = len(rows) - int(rows.any(dim=1).sum())
    if zeros:
        raise ValueError(
            f"{zeros} of {len(rows)} codes have norm 0 and so no direction to be drawn in"
        )
    shares = np.array(steps, float) / max(steps[-1], 1)
    shares[0] = 0.0
    note = ""
    if dim > 3:
        share = f"{drawn.variance_share:.0%}"
        note = f" Directions by PCA, {share} of the variance; norms are exact."
    return Codes(shares, codebooks, drawn.points.reshape(*codebooks.shape[:2], 3), note)
