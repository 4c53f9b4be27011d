"""Figures that a notebook reports: one line in the notebook, and a place on the report's index."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from arcvq.runtime.wording import short


@dataclass(frozen=True)
class KeyFigure:
    """A number worth reporting, shown as one line and kept in the metadata of the cell's output.

    Attributes:
        name: What was measured.
        value: The number, or a text.
        unit: "dB", "%", "codes", ...; empty for none.
    """

    name: str
    value: float | int | str
    unit: str = ""

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else short(self.value)
        unit = self.unit if self.unit == "%" else f" {self.unit}"
        return f"{self.name}: {value}{unit}".rstrip()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        return {"text/plain": str(self)}, {"arcvq": {"key_figure": asdict(self)}}


def key_figure(name: str, value: Any, unit: str = "") -> None:
    """Show a key figure in a notebook as one line, and put it on the index page of the report.

    Args:
        name: What was measured.
        value: A number, a tensor or array of one element, or a text.
        unit: "dB", "%", "codes", ...
    """
    from IPython.display import display

    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)  # JSON has no NaN and no infinity
    display(KeyFigure(name, value, unit))


def cell_outputs(notebook: Any) -> Iterator[Any]:
    """Yield every output of every code cell, in order."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.outputs


def key_figures(notebook: Any) -> list[KeyFigure]:
    """Collect the key figures that an executed notebook showed, in order."""
    found = []
    for output in cell_outputs(notebook):
        fields = output.get("metadata", {}).get("arcvq", {}).get("key_figure")
        if fields:
            found.append(KeyFigure(**fields))
    return found
