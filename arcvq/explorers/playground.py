"""A playground: codes learn live on the sphere, under SAMP and as plain VQ beside it."""

from typing import Any

import numpy as np
import traitlets

from arcvq.explorers.canvas import CanvasExplorer, Preset
from arcvq.explorers.simulation import Settings, Simulation

SHOWN = 300  # steps, after which little changes
IN_A_RUN = f"""\
# The same prior in a run of `steps` steps, whose ball grows as here in {SHOWN}:
# arcvq.SAMP(
#     margin={{margin}},
#     scale={{scale}},
#     top_k={{top_k}},
#     radius=arcvq.Exponential({{growth}} * {SHOWN} / steps),
#     weight=arcvq.Constant({{weight}}),
# )"""
NARROW = {"clusters": 1, "concentration": 150.0}
PRESETS = {
    "six clusters": Preset(
        {},
        "Starting from the same codes, plain VQ soon uses one or two per cluster, and SAMP many "
        "more.",
    ),
    "the paper's ball": Preset(
        {"growth": 3e-4},
        "The ball grows by 0.03% per step and holds the codes near the unit sphere: they differ in "
        "direction, but hardly in norm.",
    ),
    "a tight ball": Preset(
        {"growth": 0.0},
        "The ball does not grow: no code can come nearer to the data, which lie at twice its "
        "radius, and none can win by its norm.",
    ),
    "collapse": Preset(
        NARROW | {"weight": 0.0},
        "One narrow cluster and no margin loss: plain VQ ends up with a single code, and lookup by "
        "angle alone saves only a few.",
    ),
    "saved by the margin": Preset(
        NARROW,
        "The same narrow cluster with the margin loss: it draws latents to codes that none of them "
        "chose, and more of them are used.",
    ),
    "margin too large": Preset(
        {"margin": 1.5, "weight": 1.0},
        "Latents are pulled far from their places in the data, and codes end up on top of each "
        "other: the smallest angle goes to 0.",
    ),
}


class Playground(CanvasExplorer):
    """Latents and codes on the sphere, learning live, beside plain VQ from the same start.

    All settings may change while it plays. Drag a code or a latent to move it, anything else to
    turn both spheres. It plays in the browser, also while the kernel is busy; when it pauses, its
    state comes back to `simulation`, which has the numbers and learns the same way in Python.

    Args:
        num_latents: How many latents learn.
        num_codes: K of each codebook.
        seed: Of latents and codes.
        **settings: Values at the start.

    Attributes:
        simulation: The state after the last pause.
    """

    module = "playground"
    presets = PRESETS
    clusters = traitlets.Int(6, min=1, max=20).tag(label="clusters of the data")
    concentration = traitlets.Float(20.0, min=0, max=200).tag(label="their concentration", step=1.0)
    margin = traitlets.Float(0.1, min=0, max=1.5).tag(label="margin", unit="rad")
    scale = traitlets.Float(5.0, min=0.5, max=50).tag(label="scale", step=0.5)
    top_k = traitlets.Int(3, min=1, max=20).tag(label="top-k")
    growth = traitlets.Float(0.005, min=0, max=0.03).tag(label="growth of the ball", step=1e-4)
    weight = traitlets.Float(0.3, min=0, max=3).tag(label="weight of the margin loss", step=0.05)
    learning_rate = traitlets.Float(0.02, min=1e-3, max=0.3).tag(label="learning rate", log=True)

    def __init__(
        self, *, num_latents: int = 256, num_codes: int = 64, seed: int = 0, **settings: Any
    ):
        self.given = {"num_latents": num_latents, "num_codes": num_codes, "seed": seed}
        self._is_away = False  # whether the browser has learned what is not here yet
        self.simulation = Simulation(num_latents=num_latents, num_codes=num_codes, seed=seed)
        draws = self.simulation.draws._asdict()
        self._draws = {name: drawn.numpy() for name, drawn in draws.items()}
        super().__init__(self._draws | {"playing": False, "version": 0}, **settings)
        self._take_settings()
        self.simulation.reset()
        self.observe(self._take_settings, names=list(self.settings()))
        self.observe(self._take_data, names="data")

    @property
    def playing(self) -> bool:
        """Whether it plays."""
        return self.data["playing"]

    def play(self) -> None:
        """Learn step after step in the browser, one a frame."""
        self.show(self._numbers | {"playing": True})

    def pause(self) -> None:
        """Stop playing; the browser then sends its state, which the next cell finds here."""
        self.show(self._numbers | {"playing": False})

    def step(self, count: int = 1) -> None:
        """Learn for `count` steps in Python.

        Raises:
            RuntimeError: While it plays, and until the browser's state has come after a pause.
        """
        if self.playing or self._is_away:
            raise RuntimeError(
                "the playground is playing in the browser; call pause() first, and step() in the "
                "next cell, which has its state"
            )
        self.simulation.step(count)
        self._share()

    def reset(self) -> None:
        """Pause, and set the settings, the codes and the latents back to the start."""
        super().reset()
        self.restart()

    def restart(self) -> None:
        """Pause, and go back to step 0, with the settings as they are now."""
        self.simulation.reset()
        self._share()

    def template(self) -> str:
        values = self.given | {name: f"{{{name}}}" for name in self.settings()}
        lines = [f"    {name}={value},\n" for name, value in values.items()]
        return f"Playground(\n{''.join(lines)})\n{IN_A_RUN}"

    def _share(self) -> None:
        """Let the browser stand at the state of `simulation`, whatever it has worked out since."""
        self._is_away = False
        version = self.data["version"] + 1
        state = {"state": self.simulation.state, "playing": False, "version": version}
        self.show(self._draws | state)

    def _take_settings(self, _: Any = None) -> None:
        self.simulation.change(Settings(**self.settings()))

    def _take_data(self, _: Any) -> None:
        """Go on from what the browser has worked out."""
        if self.data["version"] != self._numbers["version"]:  # from the browser
            self._is_away = self.data["playing"]
        self._numbers = self._draws | {name: self.data[name] for name in ("playing", "version")}
        if "state" in self.data:
            self._numbers["state"] = np.frombuffer(self.data["state"]["bytes"])
            self.simulation.resume(self._numbers["state"])
