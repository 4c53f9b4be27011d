"""Explorers that are drawn in the browser: their settings are traits, their picture is JavaScript.

A page or a notebook needs no kernel to move them; with one, each setting is a trait of the widget.
"""

import base64
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import anywidget
import numpy as np
import traitlets
from IPython.display import display
from packaging.version import Version

from arcvq.explorers.bundle import WEB, bundle, packed
from arcvq.explorers.settings import HasSettings

# What the browser calls the types of arrays; any other type travels as float64.
ARRAYS = {
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "float32": "Float32Array",
    "float64": "Float64Array",
}
OLDEST_ANYWIDGET = "0.9.13"
SPARE_LIMIT = 500_000  # characters that may stand in a saved notebook beside a widget


class Preset(NamedTuple):
    """Settings that show something.

    Attributes:
        settings: By name; those that are left out are as at the start.
        sentence: What there is to see.
    """

    settings: Mapping[str, Any]
    sentence: str


class CanvasExplorer(HasSettings, anywidget.AnyWidget):
    """Controls beside pictures that the browser draws.

    A subclass names its `module` in `web` and declares its settings as traits with a `label`. Each
    gets a control: a number with min and max a slider (`step`, `log=True`), an Enum a menu, a Bool
    a checkbox. The trait is the setting: `explorer.margin = 0.3` moves the slider, and the slider
    sets the trait, ten times a second at most.

    Args:
        data: What the pictures show besides the settings: arrays of numbers, and plain values.
        **settings: Values at the start.

    Attributes:
        module: The JavaScript module of the explorer, whose `mount` draws it (see web/widget.js).
        presets: Settings by name, each a button; an explorer may have its own.
        first_settings: The settings at the start.
    """

    module: ClassVar[str]
    presets: Mapping[str, Preset] = {}
    specs: Any = traitlets.List().tag(sync=True)
    preset_specs: Any = traitlets.List().tag(sync=True)
    first_settings = traitlets.Dict().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)
    code_template = traitlets.Unicode().tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for value in vars(cls).values():  # settings_traits() knows them only once the class is made
            if isinstance(value, traitlets.TraitType) and "label" in value.metadata:
                value.tag(sync=True)
        if "module" not in vars(cls):  # anywidget derives a class of its own for each widget
            return
        cls._esm = packed(
            f"{bundle('widget', cls.module)}\n"
            f"export default {{ render: widgetModule.widget({cls.module}Module.mount) }};"
        )
        cls._css = (WEB / "style.css").read_text()

    def __init__(self, data: dict[str, Any], **settings: Any):
        if Version(anywidget.__version__) < Version(OLDEST_ANYWIDGET):
            raise ImportError(
                f"anywidget is {anywidget.__version__}, and explorers need {OLDEST_ANYWIDGET} or "
                "later; to fix: pip install --upgrade anywidget, then start JupyterLab again"
            )
        self._check_names(settings)
        self._numbers = data
        # All that the browser needs is there when the widget opens: a later message may be lost
        super().__init__(data=_packed(data), **settings)
        self.on_msg(self._receive)

    @traitlets.default("specs")
    def _default_specs(self) -> list[dict[str, Any]]:
        return [_spec(name, trait) for name, trait in self.settings_traits().items()]

    @traitlets.default("preset_specs")
    def _default_preset_specs(self) -> list[dict[str, Any]]:
        return [{"name": name, **preset._asdict()} for name, preset in self.presets.items()]

    @traitlets.default("first_settings")
    def _default_first_settings(self) -> dict[str, Any]:
        return self.settings()

    @traitlets.default("code_template")
    def _default_code_template(self) -> str:
        return self.template()

    def template(self) -> str:
        """Return `code()` with {name} in place of each setting."""
        settings = [f"{name}={{{name}}}" for name in self.settings_traits()]
        return f"{type(self).__name__}({', '.join(settings)})"

    def code(self) -> str:
        """Return the settings as a line of Python."""
        return self.template().format(**{name: repr(x) for name, x in self.settings().items()})

    def reset(self) -> None:
        """Set every setting back to what it was at the start."""
        self._set_all(self.first_settings)

    def choose_preset(self, name: str) -> None:
        """Set every setting as a preset has it.

        Args:
            name: One of `presets`.

        Raises:
            ValueError: For another name.
        """
        if name not in self.presets:
            names = ", ".join(map(repr, self.presets)) or "none"
            raise ValueError(f"{name!r} is no preset of {type(self).__name__}; it has {names}")
        self._set_all(self.first_settings | dict(self.presets[name].settings))

    def close(self) -> None:
        """Take the explorer out of the page, with the widget of its layout."""
        layout = self.layout
        super().close()
        if layout is not None:
            layout.close()

    def show(self, data: dict[str, Any]) -> None:
        """Draw other data under the settings as they are."""
        self._numbers = data
        self.data = _packed(data)

    def html(self, address: str = "") -> str:
        """Return the explorer as HTML that needs no kernel: it moves wherever scripts run.

        Args:
            address: The explorer's name in the page's address, where its settings then stand.
        """
        return self._html(address=address)

    def on_page(self, **options: Any) -> tuple[str, str]:
        """Return an element and the script that draws the explorer there.

        The script needs the bundle of "page" and of `module`, which explorers may share.

        Args:
            **options: More for `page` in web/page.js.
        """
        state = {
            "specs": self.specs,
            "presets": self.preset_specs,
            "values": self.settings(),
            "data": {name: _text_of(value) for name, value in self._numbers.items()},
            "template": self.template(),
            **options,
        }
        place = f"arcvq-{uuid.uuid4().hex[:12]}"
        found = f"document.getElementById({place!r})"
        script = f"pageModule.page({self.module}Module.mount, {found}, {_safe_json(state)});"
        return f'<div id="{place}"></div>', script

    def _html(self, **options: Any) -> str:
        element, script = self.on_page(**options)
        modules = bundle("page", self.module)
        return (
            f"<style>{self._css}</style>{element}"
            f'<script type="module">\n{modules}\n{script}\n</script>'
        )

    def _set_all(self, settings: Mapping[str, Any]) -> None:
        """Change several settings in one message."""
        with self.hold_sync(), self.hold_trait_notifications():
            for name, value in settings.items():
                setattr(self, name, value)

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A browser says which settings it shows; what it has missed is sent again."""
        shown = content.get("shown", {}) if isinstance(content, dict) else {}
        missed = [name for name, value in shown.items() if getattr(self, name) != value]
        if missed:
            self.send_state(missed)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if _is_headless():  # a widget shows nothing without its kernel
            return {"text/html": self.html(), "text/plain": self.code()}
        data, _ = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return data

    def _ipython_display_(self) -> None:
        """Show the widget, and below it what stands in when its kernel has ended."""
        display(self._repr_mimebundle_(), raw=True)  # as IPython would without this method
        if not _is_headless():
            spare = self._html(isSpare=True)
            if len(spare) <= SPARE_LIMIT:
                display({"text/html": spare, "text/plain": ""}, raw=True)


def _is_headless() -> bool:
    return bool(os.environ.get("ARCVQ_HEADLESS"))


def _spec(name: str, trait: Any) -> dict[str, Any]:
    """What the browser needs to know of a control."""
    metadata = trait.metadata
    spec = {"name": name, "label": metadata["label"], "unit": metadata.get("unit", "")}
    if isinstance(trait, traitlets.Bool):
        return spec | {"kind": "flag"}
    if isinstance(trait, traitlets.Enum):
        return spec | {"kind": "choice", "options": list(trait.values or ())}
    if isinstance(trait, traitlets.Unicode):  # what the reader sets in the picture
        return spec | {"kind": "text"}
    is_whole = isinstance(trait, traitlets.Int)
    return spec | {
        "kind": "whole" if is_whole else "number",
        "min": trait.min,
        "max": trait.max,
        "step": metadata.get("step", 1 if is_whole else 0.01),
        "log": metadata.get("log", False),
        "least": metadata.get("least", trait.min),
    }


def _packed(data: dict[str, Any]) -> dict[str, Any]:
    packed = {}
    for name, value in data.items():
        packed[name] = _bytes_of(value)
        if packed[name] is value:
            _check_plain(name, value)
    return packed


def _check_plain(name: str, value: Any) -> None:
    """A message is JSON, which knows no NaN; arrays travel beside it."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError(f"{name} is {value!r}; it must be finite to be drawn") from None


def _bytes_of(value: Any) -> Any:
    """An array as its type and its bytes, which travel beside the message; all else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name not in ARRAYS:
        value = value.astype(float)
    return {"array": ARRAYS[value.dtype.name], "bytes": value.tobytes()}


def _text_of(value: Any) -> Any:
    """The same for a page, which is text."""
    packed = _bytes_of(value)
    if packed is not value:
        packed["bytes"] = base64.b64encode(packed["bytes"]).decode()
    return packed


def _safe_json(state: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(state).replace("<", "\\u003c")
