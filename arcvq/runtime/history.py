"""The record of a training run: its history as history.csv, its settings and time as run.json."""

import csv
import io
import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcvq.runtime.extras import extra_import
from arcvq.runtime.files import write_text

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]  # numbers by the names of their columns; a row may lack columns


def history_table(rows: list[Row]) -> "pandas.DataFrame":
    """The rows as a table, its columns in the order in which they first appear."""
    return extra_import("pandas").DataFrame(rows)


def write_record(folder: Path, rows: list[Row], settings: dict[str, Any], seconds: float) -> None:
    """Write history.csv and then run.json, which says that the run is finished."""
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # what a row lacks stays empty
    write_text(folder / "history.csv", text.getvalue())
    facts = {"settings": settings, "seconds": seconds}
    write_text(folder / "run.json", json.dumps(facts, indent=2))


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote: rows, settings and seconds. Empty cells are NaN."""
    rows = []
    for cells in csv.DictReader((folder / "history.csv").read_text().splitlines()):
        rows.append({name: _number(text) for name, text in cells.items()})
    return {"rows": rows, **json.loads((folder / "run.json").read_text())}


def _number(text: str) -> int | float:
    """The number in a cell; counts are ints, as they are in the rows of a run."""
    return int(text) if text.isdecimal() else float(text or "nan")
