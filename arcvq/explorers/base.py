"""What all explorers share: sliders bound to attributes, one live figure, reset, and the settings as code."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go

from arcvq.explorers.figure_updates import Values, changed, flat, send

try:
    import anywidget
    import ipywidgets as widgets
    import traitlets
except ModuleNotFoundError as missing:
    raise ImportError(
        f"arcvq.explorers needs {missing.name}, which is not installed: pip install {missing.name}",
        name=missing.name,
    ) from None

LOG_STEP = 0.02  # of a log slider, in powers of 10: 5%
_COPY = """
function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button arcvq-copy-button";
  const idle = () => { button.textContent = "copy as code"; button.title = model.get("code"); };
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(model.get("code")); button.textContent = "copied"; }
    catch { window.prompt("Copy the settings:", model.get("code")); }
    setTimeout(idle, 1500);
  };
  model.on("change:code", idle); idle(); el.appendChild(button);
}
export default { render };
"""


class CopyButton(anywidget.AnyWidget):
    """A button that puts `code` on the reader's clipboard, or shows it where the browser forbids that."""

    _esm = _COPY
    code = traitlets.Unicode().tag(sync=True)


class Explorer(widgets.VBox):
    """Controls over one live figure. A subclass declares its settings as traits and draws `picture()`.

    A trait with a `label` gets a control: a number with min and max a slider (`step`, `log=True`), an Enum a menu, a
    Bool a checkbox. The trait is the setting: `explorer.margin = 0.3` moves the slider, and the slider sets the trait.
    Every change redraws once, and the reader's camera stays. Headless (ARCVQ_HEADLESS is set) it shows as a still.
    A subclass that knows what moves gives only that in `values()`, which is many times quicker.
    """

    def __init__(self, **settings: Any):
        super().__init__()
        self.add_class("arcvq-explorer")
        self.controls = {
            name: self._control(name, trait) for name, trait in self.settings_traits().items()
        }
        for name in settings:
            if name not in self.controls:
                raise ValueError(
                    f"{name!r} is no setting of {type(self).__name__}; it has {', '.join(self.controls)}"
                )
        for name in self.controls:  # in their order, as one may limit the next
            if name in settings:
                setattr(self, name, settings[name])
        self._start = self._drawn = self.settings()
        picture = self.picture()
        picture.update_layout(
            uirevision="kept"
        )  # the camera and hidden traces stay as the reader left them
        self.figure = go.FigureWidget(picture)
        self.figure._config = self.figure._config | {"displaylogo": False}
        self.figure.add_class("arcvq-figure")
        self._shown = flat(picture)
        reset = self.button("reset", self.reset)
        self.copy_button = CopyButton(code=self.code())
        self.buttons = widgets.HBox([reset, self.copy_button])
        rows = widgets.Box(
            list(self.controls.values()), layout={"flex_flow": "row wrap", "width": "100%"}
        )
        self.children = (rows, self.buttons, self.figure)
        self.observe(self._changed, names=list(self.controls))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self).get("controls", ()) and isinstance(value, float) and np.isnan(value):
            raise ValueError(
                f"{name} of {type(self).__name__} is nan; it must be a number"
            )  # min and max let it by
        super().__setattr__(name, value)

    @classmethod
    def settings_traits(cls) -> dict[str, traitlets.TraitType]:
        """The traits that have a control, in the order in which the class declares them."""
        found = cls.class_traits(label=lambda label: label is not None)
        order = [name for base in reversed(cls.__mro__) for name in vars(base) if name in found]
        return {name: found[name] for name in order}

    def settings(self) -> dict[str, Any]:
        """The settings as they are now, by name."""
        return {name: getattr(self, name) for name in self.controls}

    def picture(self) -> go.Figure:
        """The whole figure for the present settings: always the same number and types of traces."""
        raise NotImplementedError

    def values(self) -> Values:
        """What may differ from the figure as it is shown, by "TRACE/property" or "layout/property"."""
        return flat(self.picture())

    def code(self) -> str:
        """The settings as a line of Python."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def reset(self) -> None:
        """Set every setting back to what it was at the start, with one redraw."""
        with self.hold_trait_notifications():
            for name, value in self._start.items():
                setattr(self, name, value)

    def redraw(self) -> None:
        """Bring the live figure to `values()`: only what differs is sent, in one message."""
        fresh = changed(self.values(), self._shown)
        send(self.figure, fresh, self._shown)
        self._shown |= fresh

    def button(self, name: str, action: Callable[[], Any]) -> widgets.Button:
        """A button that calls `action()`, with the class arcvq-NAME."""
        button = widgets.Button(description=name, layout={"width": "auto"})
        button.add_class(f"arcvq-{name}")
        button.on_click(lambda _: action())
        return button

    def _changed(self, _: Any) -> None:
        if (
            self.settings() != self._drawn
        ):  # a reset tells of each setting, when all of them are set
            self._drawn = self.settings()
            self.copy_button.code = self.code()
            self.redraw()

    def _control(self, name: str, trait: Any) -> widgets.Widget:
        value, log, whole = (
            getattr(self, name),
            trait.metadata.get("log"),
            isinstance(trait, traitlets.Int),
        )
        shown = {
            "description": trait.metadata["label"],
            "style": {"description_width": "initial"},
            "layout": {"width": "300px"},
        }
        if isinstance(trait, traitlets.Enum):
            control = widgets.Dropdown(options=trait.values, value=value, **shown)
        elif isinstance(trait, traitlets.Bool):
            control = widgets.Checkbox(value=value, **shown)
        elif log:
            # The browser moves a value to the slider's grid, so the grid goes through the value at the start.
            start, ends = math.log10(value), np.log10([value / trait.min, trait.max / value])
            below, above = LOG_STEP * np.ceil(ends / LOG_STEP)
            control = widgets.FloatLogSlider(
                value,
                min=start - below,
                max=start + above,
                step=LOG_STEP,
                readout_format=",.3r" if whole else ".3r",
                **shown,
            )
        elif whole:
            control = widgets.IntSlider(value, trait.min, trait.max, **shown)
        else:
            step = trait.metadata.get("step", 0.01)
            control = widgets.FloatSlider(value, min=trait.min, max=trait.max, step=step, **shown)
        control.add_class(f"arcvq-{name.replace('_', '-')}")
        taken = partial(self._taken, name, control) if hasattr(control, "step") else _same
        traitlets.link((self, name), (control, "value"), transform=(float if log else _same, taken))
        return control

    def _taken(self, name: str, control: widgets.Widget, value: float | int) -> float | int:
        """A slider's value as the setting: in range and without noise in its last digits.

        The browser also sends a slider's nearest stop back where Python set a value between two: then that stays.
        """
        setting, trait = getattr(self, name), self.traits()[name]
        log = trait.metadata.get("log")
        place: Callable[[float], float] = math.log10 if log else float
        if abs(place(value) - place(setting)) < control.step / 2:
            return setting
        value = min(
            max(float(f"{value:.{3 if log else 6}g}"), trait.min), trait.max
        )  # 0.3, not 0.30000000000000004
        return round(value) if isinstance(trait, traitlets.Int) else value

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if os.environ.get(
            "ARCVQ_HEADLESS"
        ):  # no browser looks: a still says more than a widget without its kernel
            return go.Figure(self.figure)._repr_mimebundle_()
        return super()._repr_mimebundle_(**kwargs)


def pointed_code(trace: Any, points: Any) -> int | None:
    """The code under the pointer, as plotly's click and hover tell it: the first column of a map's `customdata`."""
    return int(trace.customdata[points.point_inds[0]][0]) if points and points.point_inds else None


def _same(value: Any) -> Any:
    return value
