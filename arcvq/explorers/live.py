"""A dashboard on a run that trains in the background, and that the reader steers meanwhile."""

import copy
import html
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, cast

import ipywidgets as widgets
import pandas as pd
import traitlets
from plotly.graph_objects import Figure

from arcvq import geometry
from arcvq.explorers.base import Explorer
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.live_figure import Moment, live_picture, live_values
from arcvq.figures.theme import Number
from arcvq.images import ImageData, to_float
from arcvq.quantizers import SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.schedules import MAX_EXPONENT, Exponential
from arcvq.training import Compute, Recording, Run, fit
from arcvq.vqvae import VQVAE

FIT = ("batch_size", "lr", "seed", "precision", "device")  # options of `fit` and `Compute`
EXAMPLES = 4  # validation images that are shown
PAUSE = 0.1  # seconds between two drawings at least; a row that comes sooner is drawn with the next
ROWS = 75  # rows of a short run
APART = 25  # steps between two rows of a long run, which stops only at a row
STARTING = threading.Lock()  # of two starts at once one is the newer


class LiveTraining(Explorer):
    """A run of `fit` in a background thread, drawn as it goes; the model given stays as it is.

    Both settings act from the next step on. `weight`: a factor on the weight of the margin loss, 0
    to 10. `growth`: of the ball's radius per step, 0 to 80 / steps, at first that of the model's
    SAMP; the radius goes on from where it is. A quantizer without SAMP has neither.

    `run` is the run so far (None before the first row); its history tells which radius and weight
    were in force. While it trains, torch's random generator is the training's; so one dashboard
    trains at a time, and a start ends the run of another, as when a cell is run again.

    Args:
        model: the untrained model.
        data: what it trains on.
        steps: length of the run.
        **settings: values at the start; also batch_size, lr and seed of `fit`, and precision and
            device of `Compute`.
    """

    # The dashboard that was started last
    latest: ClassVar["weakref.ref[LiveTraining] | None"] = None

    weight = traitlets.Float(1.0, min=0.0, max=10.0).tag(label="margin weight (factor)", step=0.1)
    growth = traitlets.Float(0.0, min=0.0, max=MAX_EXPONENT).tag(label="radius growth (per step)")

    def __init__(self, model: VQVAE, data: ImageData, *, steps: int, **settings: Any):
        self._thread: threading.Thread | None = None
        self._halt = threading.Event()
        # The training draws while sliders and the browser speak in other threads.
        self._lock = threading.RLock()
        self.data = data
        self.steps = steps
        self.options = {name: settings.pop(name) for name in FIT if name in settings}
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        self.given = ("model", "images", f"steps={steps}", *options)
        self.examples = to_float(data.validation.images[:EXAMPLES])
        self._untrained = copy.deepcopy(model)
        self.samp: Any = _own_samp(self._untrained, steps)
        self.lacks = _lacks(self.samp, steps)
        self._renew()
        super().__init__(**settings)

        # While ipywidgets takes a message in, it holds back all changes: one that is sent just then
        # would be lost.
        self.figure.set_state = self._alone(self.figure.set_state)
        growth = self.controls["growth"]
        growth.max = 75 / steps  # below the limit of 80 / steps, because the slider rounds
        growth.step = 0.5 / steps
        growth.readout_format = ".3g"
        for name, control in self.controls.items():
            control.disabled = name in self.lacks
            control.layout.width = "400px"

        self.message = widgets.HTML()
        self.message.add_class("arcvq-message")
        self._start_button = self.button("start", self._pressed)
        self._stop_button = self.button("stop", self.stop)
        self.buttons.children = (self._start_button, self._stop_button, *self.buttons.children)
        self.children = (*self.children[:2], self.message, self.figure)
        self._tell("", training=False)

    @property
    def running(self) -> bool:
        """Whether the training runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Train from step 0 in the background, with the settings as they are.

        A run of another dashboard ends at its next row.

        Raises:
            RuntimeError: while it trains.
        """
        if self.running:
            raise RuntimeError(
                "this LiveTraining is training already; stop() it before you start() it again"
            )
        with STARTING:
            self._end_the_other()
            self._renew()
            self.redraw()
            self._tell("Training.", training=True)
            self._thread = threading.Thread(target=self._train, name="arcvq-live", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the run at its next row, and wait for that; `run` keeps what there is."""
        self._halt.set()
        if self._thread:
            self._thread.join()

    def wait(self, timeout: Number | None = None) -> Run:
        """Return the run once it has ended; an interrupted wait lets it train on.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: if it has not ended by then.
            RuntimeError: if nothing was started.
            Exception: what the training raised.
        """
        if self._thread is None:
            raise RuntimeError("there is no training to wait for; start() it first")
        self._thread.join(timeout)
        if self.running:
            raise TimeoutError(f"the training has not ended within {timeout} s; stop() ends it")
        if self._error:
            raise self._error
        return cast(Run, self.run)

    def reset(self) -> None:
        """Stop, and go back to the untrained model and to the settings at the start."""
        self.stop()
        self._thread = None
        super().reset()
        self._renew()
        self.redraw()
        self._tell("", training=False)

    def close(self) -> None:
        """Stop, and take the widget out of the page."""
        self.stop()
        super().close()

    def redraw(self) -> None:
        with self._lock:
            super().redraw()

    def picture(self) -> Figure:
        return live_picture(self._moment())

    def values(self) -> Values:
        return live_values(self._moment())

    @traitlets.default("growth")
    def _own_growth(self) -> float:
        return 0.0 if "growth" in self.lacks else self.samp.radius.rate

    @traitlets.validate("weight", "growth")
    def _can_be_steered(self, proposal) -> float:
        name = proposal.trait.name
        value = proposal.value
        if name in self.lacks and value != getattr(self, name):
            raise ValueError(f"{name} is {value}, but this quantizer has no {self.lacks[name]}")
        limit = MAX_EXPONENT / self.steps
        if name == "growth" and value > limit:
            raise ValueError(
                f"growth is {value}; in a run of {self.steps:,} steps it must be at most "
                f"{limit:.3g}"
            )
        return value

    @traitlets.observe("weight", "growth")
    def _steer(self, _=None) -> None:
        """Give the quantizer the settings, as one new object: another thread reads them."""
        with self._lock:
            quantizer: Any = self.model.quantizer
            if "weight" not in self.lacks:
                weight = self.samp.weight.times(self.weight)
                quantizer.samp = replace(quantizer.samp, weight=weight)
            if "growth" not in self.lacks and quantizer.samp.radius.rate != self.growth:
                step = int(quantizer.step)
                now = quantizer.samp.radius.value(step)
                radius = Exponential.through(step, now, self.growth)
                quantizer.samp = replace(quantizer.samp, radius=radius)

    def _end_the_other(self) -> None:
        other = LiveTraining.latest() if LiveTraining.latest else None
        if other is not None and other.running:
            other.stop()
            other.message.value += " Another training has begun."
        LiveTraining.latest = weakref.ref(self)

    def _pressed(self) -> None:
        if not self.running:  # of two quick clicks one counts
            self.start()

    def _renew(self) -> None:
        """An untrained model under the settings as they are, and no run yet."""
        self.model = copy.deepcopy(self._untrained)
        self.run: Run | None = None
        self._error: Exception | None = None
        self._halt.clear()
        self._steer()
        self._look(pd.DataFrame())

    def _train(self) -> None:
        every = max(1, min(self.steps // ROWS, APART))
        options = dict(self.options)
        try:
            compute = Compute(options.pop("device", "auto"), options.pop("precision", "auto"))
            recording = Recording(log_every=every, progress=False, on_log=self._logged)
            self.run = fit(
                self.model,
                self.data,
                steps=self.steps,
                compute=compute,
                recording=recording,
                **options,
            )
            self._look(self.run.history)
            self.redraw()
            step = self.run.history["step"].iloc[-1]
            ended = f"Stopped at step {step:,} of {self.steps:,}."
            if step == self.steps:
                ended = "Finished."
            self._tell(f"{ended} start begins again at step 0.", training=False)
        except Exception as error:  # shown here, and raised by `wait`
            self._error = error
            text = f"Training ended: {html.escape(str(error))}"
            self._tell(f'<span role="alert">{text}</span>', training=False)

    def _logged(self, run: Run) -> bool:
        self.run = run
        if time.monotonic() - self._looked >= PAUSE:
            self._look(run.history)
            self.redraw()
        return self._halt.is_set()

    def _look(self, history: pd.DataFrame) -> None:
        """Keep what the figure shows of the model as it is now."""
        codebook = self.model.quantizer.codebook.detach()
        norms = geometry.norms(codebook).cpu().numpy()
        reconstructions = self.model.reconstruct(self.examples.to(codebook.device)).cpu()
        self._seen = Moment(self.steps, history, norms, None, self.examples, reconstructions)
        self._looked = time.monotonic()

    def _moment(self) -> Moment:
        return self._seen._replace(samp=getattr(self.model.quantizer, "samp", None))

    def _tell(self, text: str, training: bool) -> None:
        """Say it below the buttons, of which either start or stop can be pressed."""
        note = ""
        if self.lacks:
            lacking = " and no ".join(self.lacks.values())
            note = f"This {type(self.model.quantizer).__name__} has no {lacking}. "
        self.message.value = note + text
        self._start_button.disabled = training
        self._stop_button.disabled = not training

    def _alone(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """The action, but never while the figure is drawn."""

        def held(argument: Any) -> None:
            with self._lock:
                action(argument)

        return held


def _own_samp(model: VQVAE, steps: int) -> SAMP | None:
    """The SAMP of the model's quantizer, which gets one for the run if it has none, as in `fit`."""
    if not isinstance(model.quantizer, SphericalQuantizer):
        return None
    model.quantizer.samp = model.quantizer.samp or SAMP.for_run(steps)
    return model.quantizer.samp


def _lacks(samp: SAMP | None, steps: int) -> dict[str, str]:
    """What cannot be steered, by the name of its setting."""
    lacks = {}
    if samp is None or samp.weight is None:
        lacks["weight"] = "margin loss to weigh"
    radius = samp.radius if samp else None
    if not isinstance(radius, Exponential) or not 0 <= radius.rate * steps <= MAX_EXPONENT:
        lacks["growth"] = "ball that grows exponentially"
    return lacks
