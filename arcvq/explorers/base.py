"""What all explorers share: sliders bound to settings, one live figure, reset, settings as code."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from IPython.display import display
from plotly.graph_objects import Figure

from arcvq.explorers.figure_updates import Values, changed, flat, send
from arcvq.explorers.figure_widget import FigureView, LiveFigure
from arcvq.explorers.settings import HasSettings
from arcvq.figures.theme import Number

LOG_STEP = 0.02  # of a log slider, in powers of 10: 5%


class CopyButton(widgets.Button):
    """A button with the code that its `FigureView` copies to the clipboard."""

    code = traitlets.Unicode().tag(sync=True)

    def __init__(self, code: str):
        super().__init__(description="copy as code", layout={"width": "auto"}, code=code)
        self.add_class("arcvq-copy-as-code")


class Explorer(HasSettings, widgets.VBox):
    """Controls over one live figure.

    A subclass declares its settings as traits and draws `picture()`. A trait with a `label` gets a
    control: a number with min and max a slider (`step`, `log=True`), an Enum a menu, a Bool a
    checkbox. The trait is the setting: `explorer.margin = 0.3` moves the slider, and the slider
    sets the trait. Every change redraws the figure once, and the reader's camera stays. Without a
    browser (ARCVQ_HEADLESS is set) the explorer is shown as a still. A subclass that knows what
    moves returns only that from `values()`, which is many times faster.

    Attributes:
        given: What `code()` passes before the settings.
    """

    given: tuple[str, ...] = ()

    def __init__(self, **settings: Any):
        super().__init__()
        rows = self._set_up(settings)

        picture = self.picture()
        picture.update_layout(uirevision="kept")  # keeps the reader's camera and hidden traces
        self.figure = LiveFigure(picture)
        self.view = FigureView(self.figure, self.copy_button)
        self._shown = flat(picture)

        reset = self.button("reset", self.reset)
        self.buttons = widgets.HBox([reset, self.copy_button]).add_class("arcvq-buttons")
        self.children: tuple[widgets.Widget, ...] = (rows, self.buttons, self.view)

    def picture(self) -> Figure:
        """Draw the whole figure: for all settings the same number and types of traces."""
        raise NotImplementedError

    def values(self) -> Values:
        """Return what may differ from the figure as it is shown, by path (see `figure_updates`)."""
        return flat(self.picture())

    def code(self) -> str:
        """Return the settings as a line of Python."""
        settings = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__name__}({', '.join([*self.given, *settings])})"

    def reset(self) -> None:
        """Set every setting back to what it was at the start, with one redraw."""
        with self.hold_trait_notifications():
            for name, value in self._start.items():
                setattr(self, name, value)

    def close(self) -> None:
        """Take the explorer out of the page, and close all widgets that it opened."""
        parts = _parts(self)
        super().close()
        for part in parts:
            _close(part)

    def redraw(self) -> None:
        """Bring the live figure to `values()`: only what differs is sent, in one message."""
        fresh = changed(self.values(), self._shown)
        send(self.figure, fresh, self._shown)
        self._shown |= fresh

    def button(self, name: str, action: Callable[[], Any]) -> widgets.Button:
        """Make a button that calls `action()`, with the class arcvq-NAME."""
        button = widgets.Button(description=name, layout={"width": "auto"})
        button.add_class(f"arcvq-{name}")
        button.on_click(lambda _: action())
        return button

    def limit(self, name: str, least: int, most: int) -> None:
        """End the slider of a setting at `most`, and disable it if there is nothing to choose."""
        slider = self.controls[name]
        slider.max = max(least + 1, most)  # a slider in the browser needs two ends
        slider.disabled = least == most

    def end_slider(self, name: str, most: int) -> None:
        """Let the slider of a setting end at `most`, which the setting does not exceed."""
        slider = self.controls[name]
        # During a reset the slider may still stand elsewhere, and none can end below its value.
        slider.max = max(slider.max, most)
        slider.value = getattr(self, name)
        slider.max = most

    def _set_up(self, settings: dict[str, Any]) -> widgets.Box:
        """Make the controls and the copy button, and take over the settings given at the start."""
        self.add_class("arcvq-explorer")
        traits = self.settings_traits()
        self.controls = {name: self._control(name, trait) for name, trait in traits.items()}
        self._check_names(settings)
        for name in self.controls:  # in their order, as one may limit the next
            if name in settings:
                setattr(self, name, settings[name])
        self._start = self._drawn = self.settings()
        self.copy_button = CopyButton(self.code())
        self.observe(self._changed, names=list(self.controls))
        return widgets.Box(list(self.controls.values())).add_class("arcvq-sliders")

    def _changed(self, _) -> None:
        # A reset notifies of each setting, once all of them are set: the first redraws.
        if self.settings() != self._drawn:
            self._drawn = self.settings()
            self.copy_button.code = self.code()
            self.redraw()

    def _control(self, name: str, trait: Any) -> widgets.Widget:
        """The control of a setting, linked to it."""
        control = self._widget(name, trait)
        control.add_class(f"arcvq-{name.replace('_', '-')}")
        to_control = float if trait.metadata.get("log") else _same
        to_setting = partial(self._taken, name, control) if hasattr(control, "step") else _same
        traitlets.link((self, name), (control, "value"), transform=(to_control, to_setting))
        return control

    def _widget(self, name: str, trait: Any) -> widgets.Widget:
        """The kind of control that fits the trait."""
        shown = {
            "value": getattr(self, name),
            "description": trait.metadata["label"],
            "style": {"description_width": "initial"},
            "layout": {"width": "auto"},
        }
        if isinstance(trait, traitlets.Enum):
            return widgets.Dropdown(options=trait.values, **shown)
        if isinstance(trait, traitlets.Bool):
            return widgets.Checkbox(**shown)
        if trait.metadata.get("log"):
            return _log_slider(trait, shown)
        if isinstance(trait, traitlets.Int):
            return widgets.IntSlider(min=trait.min, max=trait.max, **shown)
        step = trait.metadata.get("step", 0.01)
        return widgets.FloatSlider(min=trait.min, max=trait.max, step=step, **shown)

    def _taken(self, name: str, control: widgets.Widget, value: Number) -> Number:
        """A slider's value as the setting: in range and without noise in its last digits.

        Where Python set a value between two stops of the slider, the browser sends the nearest
        stop back: then the value stays.
        """
        setting = getattr(self, name)
        trait: Any = self.traits()[name]
        log = trait.metadata.get("log")
        place = math.log10 if log else float
        if abs(place(value) - place(setting)) < control.step / 2:
            return setting
        rounded = float(f"{value:.{3 if log else 6}g}")  # 0.3, not 0.30000000000000004
        value = min(max(rounded, trait.min), trait.max)
        return round(value) if isinstance(trait, traitlets.Int) else value

    def _ipython_display_(self) -> None:
        if os.environ.get("ARCVQ_HEADLESS"):
            raise NotImplementedError  # which sends IPython to `_repr_mimebundle_`
        display(self._repr_mimebundle_(), raw=True)
        self.figure.show_still()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if os.environ.get("ARCVQ_HEADLESS"):  # a widget shows nothing without its kernel
            return Figure(self.figure)._repr_mimebundle_()
        return super()._repr_mimebundle_(**kwargs)


class MapExplorer(Explorer):
    """An explorer whose map chooses a code by a click: its setting `chosen`."""

    def choose_by_click(self, trace, points, state) -> None:
        """Choose the code under the pointer, if there is one."""
        code = pointed_code(trace, points)
        if code is not None:
            self.chosen = code


def pointed_code(trace: Any, points: Any) -> int | None:
    """Return the code under the pointer: the first column of a map's `customdata`.

    Args:
        trace: The trace, as plotly's click and hover give it.
        points: The points, as plotly's click and hover give them.
    """
    if not points or not points.point_inds:
        return None
    return int(trace.customdata[points.point_inds[0]][0])


def _parts(widget: widgets.Widget) -> list[widgets.Widget]:
    """The widgets that are values of a widget's traits: children, layout, style."""
    parts = []
    for name in widget.keys:
        value = getattr(widget, name)
        several = value if isinstance(value, (list, tuple)) else [value]
        parts += [part for part in several if isinstance(part, widgets.Widget)]
    return parts


def _close(widget: widgets.Widget) -> None:
    """Close a widget and all that it holds; an explorer has an end of its own."""
    parts = [] if isinstance(widget, Explorer) else _parts(widget)
    widget.close()
    for part in parts:
        _close(part)


def _log_slider(trait: Any, shown: dict[str, Any]) -> widgets.FloatLogSlider:
    """A log slider. The browser moves a value to the grid, so that goes through the first value."""
    value = shown["value"]
    start = math.log10(value)
    ends = np.log10([value / trait.min, trait.max / value])
    below, above = LOG_STEP * np.ceil(ends / LOG_STEP)
    return widgets.FloatLogSlider(
        min=start - below,
        max=start + above,
        step=LOG_STEP,
        readout_format=",.3r" if isinstance(trait, traitlets.Int) else ".3r",
        **shown,
    )


def _same(value: Any) -> Any:
    return value
