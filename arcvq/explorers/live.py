"""A dashboard on a run that trains in the background, and that the reader steers meanwhile."""

import copy
import math
import threading
import time
import weakref
from dataclasses import replace
from typing import Any, ClassVar, cast

import traitlets

from arcvq.autoencoder import Autoencoder
from arcvq.explorers.canvas import CanvasExplorer
from arcvq.explorers.live_view import LiveView
from arcvq.figures.theme import Number
from arcvq.images import ImageData
from arcvq.quantizers import SphericalQuantizer
from arcvq.runtime.run_record import Row
from arcvq.samp import SAMP
from arcvq.schedules import MAX_EXPONENT, Exponential
from arcvq.training import Compute, Recording, Run, check_single, fit

FIT = ("batch_size", "lr", "seed", "precision", "device")  # options of `fit` and `Compute`
PAUSE = 0.1  # seconds between two drawings at least; a row that comes sooner is drawn with the next
ROWS = 75  # rows of a short run, at most
APART = 25  # steps between two rows of a long run, which stops only at a row
STARTING = threading.Lock()  # of two starts at once one is the newer


class LiveTraining(CanvasExplorer):
    """A run of `fit` in a background thread, drawn as it goes; the model given stays as it is.

    Both settings act from the next step on. `weight`: a factor on the weight of the margin loss, 0
    to 10. `growth`: of the ball's radius per step, 0 to 80 / steps, at first that of the model's
    SAMP; the radius goes on from where it is. A quantizer without SAMP has neither.

    `run` is the run so far (None before the first row); its history tells which radius and weight
    were in force. While it trains, torch's random generator is the training's; so one dashboard
    trains at a time, and a start ends the run of another, as when a cell is run again.

    Args:
        model: The untrained model.
        data: What it trains on.
        steps: Length of the run.
        **settings: Values at the start; also batch_size, lr and seed of `fit`, and precision and
            device of `Compute`.

    Attributes:
        model: The model that trains.
        run: The run so far.
        status: What it does, in words.
        lacks: What cannot be steered, by the name of its setting.
    """

    module = "live"
    # The dashboard that was started last
    latest: ClassVar["weakref.ref[LiveTraining] | None"] = None
    model: Any = None
    run: Run | None = None
    status = ""

    weight = traitlets.Float(1.0, min=0.0, max=10.0).tag(label="margin weight (factor)", step=0.1)
    growth = traitlets.Float(0.0, min=0.0, max=MAX_EXPONENT).tag(label="radius growth (per step)")

    def __init__(self, model: Autoencoder, data: ImageData, *, steps: int, **settings: Any):
        self._thread: threading.Thread | None = None
        self._halt = threading.Event()
        # The training draws while the browser speaks in other threads.
        self._lock = threading.RLock()
        check_single(model.quantizer, "an explorer")
        self.images = data
        self.steps = steps
        self.options = {name: settings.pop(name) for name in FIT if name in settings}
        self._untrained = copy.deepcopy(model)
        self.samp: Any = _own_samp(self._untrained, steps)
        self.lacks = _lacks(self.samp, steps)
        self._renew()
        self._tell("", training=False)
        super().__init__(self._seen | self._words, **settings)

    @property
    def running(self) -> bool:
        """Whether the training runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Train from step 0 in the background, with the settings as they are.

        A run of another dashboard ends at its next row.

        Raises:
            RuntimeError: While it trains.
        """
        if self.running:
            raise RuntimeError(
                "this LiveTraining is training already; stop() it before you start() it again"
            )
        with STARTING:
            self._end_the_other()
            self._renew()
            self._tell("Training.", training=True)
            self._draw()
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
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: If it has not ended by then.
            RuntimeError: If nothing was started.
            Exception: What the training raised.
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
        self._tell("", training=False)
        self._draw()

    def close(self) -> None:
        """Stop, and take the widget out of the page."""
        self.stop()
        super().close()

    def set_state(self, sync_data: dict[str, Any]) -> None:
        # While a message is taken in, all changes are held back: one of another thread would be
        # lost.
        with self._lock:
            super().set_state(sync_data)

    def template(self) -> str:
        given = ["model", "images", f"steps={self.steps}"]
        given += [f"{name}={value!r}" for name, value in self.options.items()]
        given += [f"{name}={{{name}}}" for name in self.settings_traits() if name not in self.lacks]
        return f"LiveTraining({', '.join(given)})"

    @traitlets.default("specs")
    def _steered(self) -> list[dict[str, Any]]:
        specs = [spec for spec in super()._default_specs() if spec["name"] not in self.lacks]
        for spec in specs:
            if spec["name"] == "growth":
                limit = MAX_EXPONENT / self.steps
                spec |= {"max": limit, "step": limit / 160}
        return specs

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
    def _steer_at_rest(self, _) -> None:
        """Give the quantizer the settings, unless it trains and takes them before its next step."""
        if not self.running:
            self._steer()

    def _steer(self) -> None:
        """Give the quantizer the settings as they are; the ball goes on from its radius."""
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
            other._tell(f"{other._told} Another run has started.", training=False)
            other._draw()
        LiveTraining.latest = weakref.ref(self)

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """Do what a button of the browser asks for, and tell a new view what it has missed."""
        super()._receive(_, content, buffers)
        if content == "view":
            self.send_state("data")
        if content == "start" and not self.running:  # of two quick clicks one counts
            self.start()
        if content == "stop":
            self.stop()
        if content == "reset":
            self.reset()

    def _set_all(self, settings: Any) -> None:
        with self._lock:
            super()._set_all(settings)

    def _renew(self) -> None:
        """An untrained model under the settings as they are, and no run yet."""
        self.model = copy.deepcopy(self._untrained)
        self.run = None
        self._error: Exception | None = None
        self._halt.clear()
        self._steer()
        self._view = LiveView(self.images.validation.images, self.steps, self.samp)
        self._look([])

    def _train(self) -> None:
        every = min(math.ceil(self.steps / ROWS), APART)
        options = dict(self.options)
        # A setting that changed in the middle of a step would tear the ball.
        steering = self.model.quantizer.register_forward_pre_hook(lambda *_: self._steer())
        try:
            compute = Compute(options.pop("device", "auto"), options.pop("precision", "auto"))
            recording = Recording(log_every=every, progress=False, on_log=self._logged)
            self.run = fit(
                self.model,
                self.images,
                steps=self.steps,
                compute=compute,
                recording=recording,
                **options,
            )
            self._look(self.run.rows)
            step = self.run.rows[-1]["step"]
            ended = f"Stopped at step {step:,} of {self.steps:,}."
            if step == self.steps:
                ended = "Finished."
            self._tell(f"{ended} Press start to begin again at step 0.", training=False)
        except Exception as error:  # shown here, and raised by `wait`
            self._error = error
            self._tell(f"Training ended: {error}", training=False)
        finally:
            steering.remove()
            self._steer()  # what was set after the last step
        self._draw()

    def _logged(self, run: Run) -> bool:
        self.run = run
        if time.monotonic() - self._looked >= PAUSE:
            self._look(run.rows)
            self._draw()
        return self._halt.is_set()

    def _look(self, rows: list[Row]) -> None:
        """Keep what is shown of the model as it is now."""
        with self._lock:  # so that radius and growth belong together
            self._seen = self._view.look(self.model, rows, self.growth)
        self._looked = time.monotonic()

    def _draw(self) -> None:
        with self._lock:
            self.show(self._seen | self._words)

    def _tell(self, text: str, training: bool) -> None:
        """Say it below the buttons, of which either start or stop can be pressed."""
        note = ""
        if self.lacks:
            lacking = " and no ".join(self.lacks.values())
            note = f"This {type(self.model.quantizer).__name__} has no {lacking}. "
        self._told = text
        self.status = note + text
        self._words = {"status": self.status, "isTraining": training}


def _own_samp(model: Autoencoder, steps: int) -> SAMP | None:
    """The SAMP with which `fit` begins."""
    if not isinstance(model.quantizer, SphericalQuantizer):
        return None
    model.quantizer.begin_run(steps)
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
