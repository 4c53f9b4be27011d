"""A playground: codes learn live on the sphere, under SAMP and as plain VQ beside it, and the reader may interfere.

It is the one explorer that is not plotly: a canvas of its own draws almost three times as many frames a second, and
lets the reader take a code by hand. Headless, the still is a plotly figure like every other.
"""

import asyncio
import html
import threading
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from plotly.subplots import make_subplots

from arcvq import figures
from arcvq.explorers.base import CopyButton, Explorer
from arcvq.explorers.simulation import REACH, Settings, Simulation
from arcvq.figures import theme

IN_FLIGHT = 2  # frames on their way to the browser: one is drawn while the next is worked out, and none waits in line
IDLE = 0.02  # seconds between two steps while no browser has ever looked
NAMES = {"samp": "SAMP", "plain": "plain VQ"}
CURVES = {
    "codes_used": "codes used",
    "perplexity": "perplexity (codes)",
    "min_angle": "smallest angle (degrees)",
}
LOOK = {
    "samp": theme.METHOD_COLORS["samp"],
    "plain": theme.METHOD_COLORS["plain"],
    "latents": theme.SKY,
    "grey": theme.GRAY,
    "ball": theme.ORANGE,
    "paper": theme.PAPER,
    "text": theme.TEMPLATE.layout.font.color,
    "grid": theme.TEMPLATE.layout.xaxis.gridcolor,
    "font": theme.TEMPLATE.layout.font.family,
}


class Canvas(anywidget.AnyWidget):
    """Draws `frame`, and sends back: view (it is there), drawn (a frame's number), hold and release (of a code)."""

    _esm = Path(__file__).with_name("web") / "playground.js"
    frame = traitlets.Bytes().tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    look = traitlets.Dict(LOOK).tag(sync=True)


class Playground(Explorer):
    """Latents and codes on the sphere, learning live, with plain VQ from the same start beside them.

    All settings may change while it plays. Drag a code to move it, anything else to turn both spheres. From Python:
    `play()`, `pause()`, `step(50)`, `reset()` (settings and state as at the start), `restart()` (step 0 with the
    present settings), `simulation` for the numbers. Playing is a task on the kernel's event loop, one step a frame; it
    waits for the browser, so it stands still while nobody looks.
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
        self._sizes = {"num_latents": num_latents, "num_codes": num_codes, "seed": seed}
        self.simulation = Simulation(num_latents=num_latents, num_codes=num_codes, seed=seed)
        self._lock = (
            threading.RLock()
        )  # a widget's messages may come in another thread than the loop's
        self._loop = _running_loop()
        self._player: object | None = None  # the token of the task that plays
        self._sent = self._acknowledged = 0
        self._seen = False
        widgets.VBox.__init__(
            self
        )  # not Explorer's, which makes a FigureWidget of 5 MB that nobody would see
        self.add_class("arcvq-explorer")
        self.controls = {
            name: self._control(name, trait) for name, trait in self.settings_traits().items()
        }
        if unknown := [name for name in settings if name not in self.controls]:
            raise ValueError(
                f"{unknown[0]!r} is no setting of Playground; it has {', '.join(self.controls)}"
            )
        for name, value in settings.items():
            setattr(self, name, value)
        self._start = self._drawn = self.settings()
        self.controls["growth"].readout_format = ".3f"
        self.message, self.canvas = widgets.HTML(), Canvas()
        self.message.add_class("arcvq-message")
        self.canvas.on_msg(self._receive)
        self.copy_button = CopyButton(code=self.code())
        actions = (self.play, self.pause, self.step, self.reset, self.restart)
        self.buttons = widgets.HBox(
            [*(self.button(act.__name__, act) for act in actions), self.copy_button]
        )
        rows = widgets.Box(
            list(self.controls.values()), layout={"flex_flow": "row wrap", "width": "100%"}
        )
        self.children: tuple[widgets.Widget, ...] = (rows, self.buttons, self.message, self.canvas)
        self.observe(self._changed, names=list(self.controls))
        self.redraw()
        self.restart()

    @property
    def figure(self) -> go.Figure:
        """The still of the present state."""
        return self.picture()

    @property
    def playing(self) -> bool:
        """Whether it plays."""
        return self._player is not None

    def play(self) -> None:
        """Learn step after step, as fast as the browser draws. Raises RuntimeError without an event loop."""
        loop = self._loop if self._loop and self._loop.is_running() else _running_loop()
        if loop is None:
            raise RuntimeError(
                "play() needs a running event loop, as notebooks have one; here use step(50)"
            )
        if not self.playing:
            self._loop, self._player, self._acknowledged, self._wake = (
                loop,
                object(),
                self._sent,
                asyncio.Event(),
            )
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
        """Pause, and set the settings, the codes and the latents back to what they were at the start."""
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
            self.canvas.frame, self.canvas.summary = self.frame(), self.simulation.summary()

    def frame(self) -> bytes:
        """The state as float32: number of the frame, step, N, K, rows of the curves, M(t), norm of the data; of SAMP
        and then of plain VQ the latents (N, 3), codes (K, 3) and counts (K,); the curves' steps; and of both again
        codes used, perplexity and smallest angle.
        """
        world = self.simulation
        curves = [np.array(learner.history).T for learner in world.learners.values()]
        header = [
            self._sent,
            world.steps,
            world.num_latents,
            world.num_codes,
            curves[0].shape[1],
            world.radius,
            REACH,
        ]
        parts: list[Any] = [header]
        for learner in world.learners.values():
            parts += [learner.latents, learner.codes, learner.counts]
        parts += [curves[0][0], curves[0][1:], curves[1][1:]]
        return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts]).tobytes()

    def picture(self) -> go.Figure:
        """The present state as a plotly figure: both spheres and the curves."""
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
        for place, (name, learner) in enumerate(self.simulation.learners.items(), start=1):
            radius = self.simulation.radius if name == "samp" else None
            single = figures.sphere(learner.codes, learner.latents, radius, learner.counts)
            single.update_traces(showlegend=False).update_traces(
                marker_showscale=False, selector={"type": "scatter3d"}
            )
            figure.add_traces(single.data, rows=1, cols=place)
            scene = "scene" if place == 1 else "scene2"
            figure.layout[scene].update(
                single.layout.scene.to_plotly_json() | {"domain": figure.layout[scene].domain}
            )
            table = learner.table()
            for row, (column, title) in enumerate(CURVES.items(), start=1):
                line = {"color": LOOK[name], "dash": "solid" if name == "samp" else "dash"}
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
        figures.finish(
            figure,
            {},
            "Codes learning on the sphere",
            self.simulation.summary(),
            width=1200,
            height=580,
            left=10,
        )
        figure.layout.annotations[
            -1
        ].yshift += 20  # the names of the spheres stand below the caption
        figure.layout.margin.t += 20
        return figure

    def code(self) -> str:
        """The settings, and what else makes this playground, as a line of Python."""
        usual = {"num_latents": 256, "num_codes": 64, "seed": 0}
        more = [f"{name}={value}" for name, value in self._sizes.items() if value != usual[name]]
        return f"{', '.join([super().code()[:-1], *more])})"

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
            else:  # no browser is there yet: learn, and send nothing that would wait in line for it
                with self._lock:
                    self.simulation.step()
                await asyncio.sleep(IDLE)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self._player = None
            self.message.value = (
                f'<span role="alert">Playing stopped: {html.escape(repr(error))}</span>'
            )

    def _wake_up(self) -> None:
        if self._loop and not self._loop.is_closed() and hasattr(self, "_wake"):
            self._loop.call_soon_threadsafe(self._wake.set)

    def _receive(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        """What the canvas says."""
        if "drawn" in content:
            self._acknowledged = max(self._acknowledged, int(content["drawn"]))
            self._wake_up()
        elif (
            "view" in content
        ):  # a new view, or the page was loaded again: nothing is on its way to it
            self._seen, self._acknowledged = True, self._sent
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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
