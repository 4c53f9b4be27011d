"""Scrub through a training run: the codes on the sphere step by step, and curves with a cursor."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import traitlets
from plotly.graph_objects import Figure

from arcvq.explorers.base import Explorer
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.replay_figure import reels, replay_picture, replay_values
from arcvq.training import Run


class TrainingReplay(Explorer):
    """A slider over the snapshots of one or two runs, in one scale and with one camera.

    `step` is that of the optimizer; the nearest snapshot is shown. Where the runs have other steps
    than each other, each shows its last one so far. The cursor in the curves follows.

    Args:
        runs: a `Run`, or two by name, also of a model on the GPU.
        **settings: the step at the start, by default the last.

    Raises:
        ValueError: for no runs or more than two, for a run without snapshots, and for codes with
            NaN.
    """

    step = traitlets.Int().tag(label="step")
    given = ("runs",)

    def __init__(self, runs: Run | Mapping[str, Run], **settings: Any):
        self.reels = reels(runs)
        steps: set[int] = set()
        for reel in self.reels:
            steps.update(reel.run.snapshots)
        self.steps = sorted(steps)
        super().__init__(**settings)
        for scene in ("scene", "scene2")[: len(self.reels)]:
            self.figure.layout.on_change(self._turn, f"{scene}.camera")

    @traitlets.default("step")
    def _last(self) -> int:
        return self.steps[-1]

    @traitlets.validate("step")
    def _nearest(self, proposal) -> int:
        return min(self.steps, key=lambda step: abs(step - proposal.value))

    def picture(self) -> Figure:
        return replay_picture(self.reels, self.step)

    def values(self) -> Values:
        return replay_values(self.reels, self.step)

    def _turn(self, layout, camera) -> None:
        """The reader turned one scene: the other follows."""
        if len(self.reels) == 2:
            with self.figure.batch_update():
                for scene in (layout.scene, layout.scene2):
                    if scene.camera != camera:
                        scene.camera = camera

    def _widget(self, name: str, trait: Any) -> widgets.Widget:
        return widgets.SelectionSlider(
            options=self.steps, value=self.step, description="step", layout={"width": "600px"}
        )
