"""Figures that a notebook reports: shown as one line, and found again in the executed notebook."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class KeyFigure:
    """A number worth reporting: shown as one line, and found again in the metadata of the cell's output."""

    name: str
    value: float | int | str
    unit: str = ""

    def __str__(self) -> str:
        value = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.name}: {value} {self.unit}".rstrip()

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        return {"text/plain": str(self)}, {"arcvq": {"key_figure": asdict(self)}}


def key_figure(name: str, value: Any, unit: str = "") -> None:
    """Shows a key figure in a notebook as one line, and puts it on the index page of the report.

    `value` is a number, a tensor or array of one element, or a text; `unit` is "dB", "%", "codes", ...
    """
    from IPython.display import display

    value = value.item() if hasattr(value, "item") else value
    finite = not isinstance(value, float) or math.isfinite(value)
    display(KeyFigure(name, value if finite else str(value), unit))  # JSON has no nan


def outputs(notebook) -> Iterator[Any]:
    """Every output of every code cell."""
    return (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


def key_figures(notebook) -> list[KeyFigure]:
    """The key figures that an executed notebook showed, in order."""
    shown = (output.get("metadata", {}).get("arcvq", {}).get("key_figure") for output in outputs(notebook))
    return [KeyFigure(**figure) for figure in shown if figure]
