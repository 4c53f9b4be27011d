"""A ball that grows around the codes: which of them it clips, and when it stops binding."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Generator, Tensor, randn
from torch.nn.functional import normalize

from arcvq.analysis import projections
from arcvq.explorers.canvas import CanvasExplorer, Preset
from arcvq.figures.parts import thin
from arcvq.figures.theme import as_vectors
from arcvq.samp import PAPER_BALL_RATE, PAPER_RADIUS
from arcvq.schedules import Exponential
from arcvq.training import Run

PAPER_STEPS = 29_500  # the run that the published growth was tuned to
DRAWN = 4096  # codes at most
MOST_GROWTH = 0.1  # per step
FIXED = "A ball that does not grow: no code is ever longer than 1."
PRESETS = {  # Their sentences tell of the ball alone: they must hold for any codes.
    "the paper's ball": Preset(
        {"growth": 3e-4, "run_length": PAPER_STEPS, "step": 1000, "scaled": False},
        "A growth of 0.0003 per step over 29,500 steps: the ball begins with radius 1, passes 2 at "
        "step 2,311 and ends at 6,974.",
    ),
    "in a short run": Preset(
        {"growth": 3e-4, "run_length": 3000, "step": 3000, "scaled": False},
        "The growth per step of the paper in a tenth of its steps: the ball ends at radius 2.46 "
        "and not at 6,974.",
    ),
    "scaled to the run": Preset(
        {"growth": 3e-4, "run_length": 3000, "step": 150, "scaled": True},
        "The whole growth of the paper's run within 3,000 steps, as with SAMP.for_run(3000): "
        "the radius passes 2 at step 235 and ends at 6,974.",
    ),
    "fixed": Preset(
        {"growth": 0.0, "run_length": 3000, "step": 3000, "scaled": False},
        FIXED,
    ),
    "fast growth": Preset(
        {"growth": 0.1, "run_length": 3000, "step": 15, "scaled": False},
        "A growth of 0.1 per step: the radius passes 4 at step 14 and 20,000 at step 100.",
    ),
}


class RadiusExplorer(CanvasExplorer):
    """Codes (K, D) under the ball M(t) = exp(growth t) at `step` of a run of `run_length` steps.

    In more than 3 dimensions the directions are drawn by PCA; the distance from the center is the
    norm. `growth` 0 fixes the radius at 1. `scaled`: the growth of the paper's 29,500 steps happens
    within the run.

    Args:
        codebook: Free codes, which the ball then clips: a tensor; or snapshots by step, or a Run,
            whose codes at the same share of the run are shown; an example by default. With a Run,
            the ball starts at the paper's rate relative to Adam's (see `arcvq.samp.Regime`), and
            the presets are those of its length.
        **settings: Values at the start.

    Raises:
        ValueError: For no codes, NaN, infinity, and a run without snapshots.
    """

    module = "radius"
    presets = PRESETS
    growth = traitlets.Float(3e-4, min=0.0, max=MOST_GROWTH).tag(
        label="growth per step", log=True, least=1e-6
    )
    run_length = traitlets.Int(3000, min=10, max=10_000_000).tag(
        label="run", unit="steps", log=True
    )
    step = traitlets.Int(600, min=0, max=10_000_000).tag(label="step")
    scaled = traitlets.Bool(False).tag(label="scaled to the run")

    def __init__(self, codebook: Tensor | Mapping[int, Any] | Run | None = None, **settings: Any):
        snapshots = codebook.snapshots if isinstance(codebook, Run) else codebook
        if isinstance(codebook, Run) and codebook.snapshots:
            self.presets = presets_of(codebook)
            settings = {"growth": paper_growth(codebook)} | settings
        if isinstance(snapshots, Mapping):
            length = max(snapshots, default=0)
            if length:
                usual = {"run_length": max(10, length), "step": length // 5}
                if "run_length" in settings:  # then the run may end before that step
                    del usual["step"]
                settings = usual | settings
        elif snapshots is None:
            snapshots = _example()
        super().__init__(_moments(snapshots), **settings)

    def code(self) -> str:
        steps = self.run_length
        exponent = ball_schedule(self.growth, steps, self.scaled).rate * steps
        return f"arcvq.SAMP.for_run({steps}, radius=arcvq.Exponential({exponent:.6g} / {steps}))"

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


def paper_growth(run: Run) -> float:
    """The growth per step at which alpha / (lr sqrt(D)) is the paper's in this run."""
    dim = next(iter(run.snapshots.values())).codebook.shape[1]
    reach = run.settings["lr"] * math.sqrt(dim)  # the most that Adam adds to a norm in a step
    return min(PAPER_BALL_RATE * reach, MOST_GROWTH)


def presets_of(run: Run) -> dict[str, Preset]:
    """Balls to try on the codes of a run, in its own length."""
    growth = paper_growth(run)
    return {
        "the paper's ratio": Preset(
            {"growth": growth, "scaled": False},
            f"The ball grows by {growth:.2g} per step, {PAPER_BALL_RATE:g} times the most that "
            "Adam can add to the norm of a code in a step, as in the paper's run.",
        ),
        "the paper's rate": Preset(
            {"growth": PAPER_RADIUS.rate, "scaled": False},
            "A growth of 0.0003 per step, as published. It was chosen for 29,500 steps.",
        ),
        "scaled to the run": Preset(
            {"growth": PAPER_RADIUS.rate, "scaled": True},
            "The growth of the paper's 29,500 steps happens within this run, as with "
            "SAMP.for_run(steps).",
        ),
        "fixed": Preset(
            {"growth": 0.0, "scaled": False},
            FIXED,
        ),
    }


def _example() -> Tensor:
    """512 codes in all directions with norms from 0.4 to 3."""
    generator = Generator().manual_seed(2)
    units = normalize(randn(512, 3, generator=generator), dim=1)
    return units * (0.4 + 2.6 * torch.rand(512, 1, generator=generator))


def _moments(snapshots: Tensor | Mapping[int, Any]) -> dict[str, Any]:
    """The free codes at each moment, as web/radius.js takes them."""
    if isinstance(snapshots, Mapping):
        if not snapshots:
            raise ValueError("the run has no snapshots of its codebook; train it with snapshots=24")
        books = {step: snapshots[step] for step in sorted(snapshots)}
        names = [f"the codebook at step {step:,}" for step in books]
    else:
        books = {0: snapshots}
        names = ["the codebook"]
    codebooks = [_codes(book, name) for book, name in zip(books.values(), names, strict=True)]
    shapes = {tuple(codes.shape) for codes in codebooks}
    if len(shapes) > 1:
        raise ValueError(f"the codebooks of the run have different shapes: {sorted(shapes)}")

    steps = np.array(list(books), float)
    shares = steps / max(steps[-1], 1)
    shares[0] = 0.0
    count, dim = codebooks[0].shape
    shown, note = thin(count, "codes", DRAWN)
    rows = torch.cat([codes[shown] for codes in codebooks])
    drawn = projections.exact(rows) if dim <= 3 else projections.pca(rows, 3, sphere=True)
    if dim > 3:
        note = f" Norms are exact, directions are not. {drawn.trust}{note}"
    norms = torch.stack([codes.norm(dim=1) for codes in codebooks]).numpy()
    return {
        "shares": shares,
        "norms": norms,
        "units": drawn.points.astype(np.float32),
        "longest": norms.max(axis=1),
        "shown": shown.astype(np.uint32),
        "note": note,
    }


def _codes(book: Any, name: str) -> Tensor:
    """The codes of a snapshot or a tensor, checked."""
    codes = getattr(book, "codebook", book)
    return torch.from_numpy(as_vectors(codes, name)).float()
