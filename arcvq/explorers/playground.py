"""A playground: codes learn live on the sphere, under SAMP and as plain VQ beside it.

It is the one explorer that is not plotly: a canvas of its own draws almost three times as many
frames a second, and lets the reader drag a code. Without a browser, the still is a plotly figure
like every other.
"""

import asyncio
import html
import threading
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq import figures
from arcvq.explorers.base import Explorer
from arcvq.explorers.simulation import REACH, Learner, Settings, Simulation
from arcvq.figures.theme import GRAY, METHOD_COLORS, ORANGE, PAPER, SKY, TEMPLATE

# Frames on their way to the browser: one is drawn while the next is worked out, and none waits.
IN_FLIGHT = 2
IDLE = 0.02  # seconds between two steps while no browser has ever looked
NAMES = {"samp": "SAMP", "plain": "plain VQ"}
CURVES = {
    "codes_used": "codes used",
    "perplexity": "perplexity (codes)",
    "min_angle": "smallest angle (degrees)",
}
LOOK = {
    "samp": METHOD_COLORS["samp"],
    "plain": METHOD_COLORS["plain"],
    "latents": SKY,
    "grey": GRAY,
    "ball": ORANGE,
    "paper": PAPER,
    "text": TEMPLATE.layout.font.color,
    "grid": TEMPLATE.layout.xaxis.gridcolor,
    "font": TEMPLATE.layout.font.family,
}


class Canvas(anywidget.AnyWidget):
    """Draws `frame`.

    It sends back: view (it is there), drawn (a frame's number), hold and release (of a code).
    """

    _esm = Path(__file__).with_name("web") / "playground.js"
    frame = traitlets.Bytes().tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    look = traitlets.Dict(LOOK).tag(sync=True)


class Playground(Explorer):
    """Latents and codes on the sphere, learning live, beside plain VQ from the same start.

    All settings may change while it plays. Drag a code to move it, anything else to turn both
    spheres. `reset()` goes back to the settings and the state at the start, `restart()` to step 0
    with the present settings; `simulation` has the numbers. Playing is a task on the kernel's event
    loop, one step a frame; it waits for the browser, so it stands still while nobody looks.

    Args:
        num_latents: how many latents learn.
        num_codes: K of each codebook.
        seed: of latents and codes.
        **settings: values at the start.
    """

    clusters = traitlets.Int(6, min=1, max=20).tag(label="clusters")
    concentration = traitlets.Float(20.0, min=0, max=200).tag(label="concentration", step=1.0)
    margin = traitlets.Float(0.1, min=0, max=1.5).tag(label="margin (rad)")
    scale = traitlets.Float(5.0, min=0.5, max=50).tag(label="scale", step=0.5)
    top_k = traitlets.Int(3, min=1, max=20).tag(label="top-k")
    growth = traitlets.Float(0.005, min=0, max=0.03).tag(
        label="radius growth (per step)", step=0.001
    )
    weight = traitlets.Float(0.3, min=0, max=3).tag(label="weight", step=0.05)
    learning_rate = traitlets.Float(0.02, min=1e-3, max=0.3).tag(label="learning rate", log=True)

    def __init__(
        self, *, num_latents: int = 256, num_codes: int = 64, seed: int = 0, **settings: Any
    ):
        self.given = (f"num_latents={num_latents}", f"num_codes={num_codes}", f"seed={seed}")
        self.simulation = Simulation(num_latents=num_latents, num_codes=num_codes, seed=seed)
        self._lock = threading.RLock()  # messages of a widget may come in another thread
        self._loop = _running_loop()
        self._player: object | None = None  # the token of the task that plays
        self._sent = 0
        self._acknowledged = 0
        self._seen = False
        # Not the Explorer's, which makes a FigureWidget of 5 MB that nobody would see
        widgets.VBox.__init__(self)
        rows = self._set_up(settings)
        self.controls["growth"].readout_format = ".3f"

        self.message = widgets.HTML()
        self.message.add_class("arcvq-message")
        self.canvas = Canvas()
        self.canvas.on_msg(self._receive)
        actions = (self.play, self.pause, self.step, self.reset, self.restart)
        buttons = [self.button(action.__name__, action) for action in actions]
        self.buttons = widgets.HBox([*buttons, self.copy_button])
        self.children = (rows, self.buttons, self.message, self.canvas)
        self.redraw()
        self.restart()

    @property
    def figure(self) -> Figure:
        """The still of the present state."""
        return self.picture()

    @property
    def playing(self) -> bool:
        """Whether it plays."""
        return self._player is not None

    def play(self) -> None:
        """Learn step after step, as fast as the browser draws.

        Raises:
            RuntimeError: without an event loop.
        """
        loop = self._loop if self._loop and self._loop.is_running() else _running_loop()
        if loop is None:
            raise RuntimeError(
                "play() needs a running event loop, as notebooks have one; here use step(50)"
            )
        if not self.playing:
            self._loop = loop
            self._player = object()
            self._acknowledged = self._sent
            self._wake = asyncio.Event()
            self.message.value = ""
            loop.call_soon_threadsafe(self._begin, self._player)

    def pause(self) -> None:
        """Stop playing, after the step that is being worked out."""
        if self.playing:
            self._player = None
            self._wake_up()
            self.show()

    def step(self, count: int = 1) -> None:
        """Learn for `count` steps and draw the last one."""
        with self._lock:
            self.simulation.step(count)
            self.show()

    def reset(self) -> None:
        """Pause, and set the settings, the codes and the latents back to the start."""
        self.pause()
        super().reset()
        self.restart()

    def restart(self) -> None:
        """Begin again at step 0, with the settings as they are now."""
        with self._lock:
            self.simulation.reset()
            self.show()

    def redraw(self) -> None:
        """Take over the settings and draw."""
        with self._lock:
            self.simulation.change(Settings(**self.settings()))
            self.show()

    def show(self) -> None:
        """Send the present state to the browser."""
        self._sent += 1
        with self.canvas.hold_sync():
            self.canvas.frame = self.frame()
            self.canvas.summary = self.simulation.summary()

    def frame(self) -> bytes:
        """Return the state as float32.

        In this order: number of the frame, step, N, K, rows of the curves, M(t), norm of the data;
        of SAMP and then of plain VQ the latents (N, 3), codes (K, 3) and counts (K,); the curves'
        steps; and of both again codes used, perplexity and smallest angle.
        """
        world = self.simulation
        learners = world.learners.values()
        samp, plain = (np.array(learner.history).T for learner in learners)
        sizes = [len(world.data), world.num_codes, samp.shape[1]]
        parts: list[Any] = [[self._sent, world.steps, *sizes, world.radius, REACH]]
        for learner in learners:
            parts += [learner.latents, learner.codes, learner.counts]
        parts += [samp, plain[1:]]
        return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts]).tobytes()

    def picture(self) -> Figure:
        """Draw the present state as a plotly figure: both spheres and the curves."""
        tall = {"type": "scene", "rowspan": 3}
        figure = make_subplots(
            3,
            3,
            specs=[[tall, tall, {}], [None, None, {}], [None, None, {}]],
            subplot_titles=[*NAMES.values()],
            column_widths=[0.37, 0.37, 0.26],
            horizontal_spacing=0.04,
            vertical_spacing=0.08,
        )
        world = self.simulation
        _add_sphere(figure, "scene", 1, world.samp, world.radius)
        _add_sphere(figure, "scene2", 2, world.plain, None)
        for name, learner in world.learners.items():
            table = learner.table()
            line = {"color": LOOK[name], "dash": "solid" if name == "samp" else "dash"}
            for row, (column, title) in enumerate(CURVES.items(), start=1):
                figure.add_scatter(
                    x=table["step"],
                    y=table[column],
                    name=NAMES[name],
                    line=line,
                    mode="lines",
                    showlegend=False,
                    row=row,
                    col=3,
                )
                figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=3)
        figure.update_xaxes(title_text="step", row=3, col=3)
        title = "Codes learning on the sphere"
        figures.finish(figure, {}, title, world.summary(), width=1200, height=580, left=10)
        figure.layout.annotations[-1].yshift += 20  # the names of the spheres stand below it
        figure.layout.margin.t += 20
        return figure

    def close(self) -> None:
        """Stop playing and take the widget out of the page."""
        self.pause()
        super().close()

    def _begin(self, player: object) -> None:
        self._task = asyncio.ensure_future(self._play(player))
        self._task.add_done_callback(self._ended)

    async def _play(self, player: object) -> None:
        while self._player is player:
            if self._seen and self._sent - self._acknowledged >= IN_FLIGHT:
                self._wake.clear()
                await self._wake.wait()
            elif self._seen:
                self.step()
                await asyncio.sleep(0)
            else:  # no browser is there yet: send nothing that would wait in line for it
                with self._lock:
                    self.simulation.step()
                await asyncio.sleep(IDLE)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error:
            self._player = None
            text = f"Playing stopped: {html.escape(repr(error))}"
            self.message.value = f'<span role="alert">{text}</span>'

    def _wake_up(self) -> None:
        if self._loop and not self._loop.is_closed() and hasattr(self, "_wake"):
            self._loop.call_soon_threadsafe(self._wake.set)

    def _receive(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        """What the canvas says."""
        if "drawn" in content:
            self._acknowledged = max(self._acknowledged, int(content["drawn"]))
            self._wake_up()
        elif "view" in content:
            # A new view, or the page was loaded again: nothing is on its way to it
            self._seen = True
            self._acknowledged = self._sent
            self.show()
            self._wake_up()
        else:
            with self._lock:
                if "hold" in content:
                    name, code, position = content["hold"]
                    self.simulation.hold(name, code, tuple(position))
                else:
                    self.simulation.release()
                if not self.playing:
                    self.show()


def _add_sphere(
    figure: Figure, scene: str, column: int, learner: Learner, radius: float | None
) -> None:
    """Add a learner's codes and latents, and the ball if there is one."""
    single = figures.sphere(learner.codes, learner.latents, radius, learner.counts)
    single.update_traces(showlegend=False)
    single.update_traces(marker_showscale=False, selector={"type": "scatter3d"})
    figure.add_traces(single.data, rows=1, cols=column)
    look = single.layout.scene.to_plotly_json()
    figure.layout[scene].update(look | {"domain": figure.layout[scene].domain})


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
