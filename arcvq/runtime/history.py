"""The record of a training run: its history as history.csv, its settings and time as run.json."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcvq.runtime.extras import extra_import
from arcvq.runtime.files import reason_of, write_text

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]  # numbers by the names of their columns; a row may lack columns


def history_table(rows: list[Row]) -> "pandas.DataFrame":
    """The rows as a table, its columns in the order in which they first appear."""
    return extra_import("pandas").DataFrame(rows)


def training_text(rows: list[Row], seconds: float) -> str:
    """How long a training was, in steps and in seconds."""
    steps = int(rows[-1]["step"]) if rows else 0
    return f"{steps:,} steps in {seconds:.1f} s"


def write_record(folder: Path, rows: list[Row], settings: dict[str, Any], seconds: float) -> None:
    """Write history.csv and then run.json, which says that the run is finished."""
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # what a row lacks stays empty
    write_text(folder / "history.csv", text.getvalue())
    facts = {"settings": settings, "seconds": seconds, "rows": len(rows)}
    write_text(folder / "run.json", json.dumps(facts, indent=2))


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote: rows, settings and seconds. Empty cells are NaN.

    Raises:
        ValueError: If a file is cut or holds something else; names it.
    """
    file = folder / "run.json"
    with naming_file(file):
        facts = json.loads(file.read_text("utf-8"))
        settings = dict(facts["settings"])
        seconds = float(facts["seconds"])
        count = facts.get("rows")  # which earlier versions did not write
    file = folder / "history.csv"
    with naming_file(file):
        rows = _read_rows(file.read_text("utf-8"))
        if count not in (None, len(rows)):
            raise ValueError(f"{len(rows)} rows are left of {count}")
    return {"rows": rows, "settings": settings, "seconds": seconds}


def _read_rows(text: str) -> list[Row]:
    """The rows of a table in CSV, each line of which ends."""
    if not text.endswith("\n"):
        raise ValueError("its last line is cut")
    rows: list[Row] = []
    for cells in csv.DictReader(text.splitlines(), strict=True):
        if None in cells or None in cells.values():
            raise ValueError(f"row {len(rows) + 1} has too few or too many cells")
        rows.append({name: _number(cell) for name, cell in cells.items()})
    return rows


@contextmanager
def naming_file(file: Path) -> Iterator[None]:
    """Name the file in the message of any error inside, which becomes a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{file.name}: {reason_of(error)}") from error


@contextmanager
def reading_run(what: str, folder: Path, model: str) -> Iterator[None]:
    """Tell what is wrong with a finished run in one sentence, with the ways to heal it.

    Args:
        what: What the folder holds, such as "run".
        folder: The folder.
        model: The function that opens its model alone.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
        ValueError: For any error inside.
    """
    if not (folder / "run.json").exists():
        raise FileNotFoundError(f"{folder} holds no finished run; run.json is missing")
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the {what} in {folder} is damaged ({reason_of(error)}); train it again with "
            f"overwrite=True, or open the model alone, if that is whole, with {model}"
        ) from error


def _number(text: str) -> int | float:
    """The number in a cell; counts are ints, as they are in the rows of a run."""
    return int(text) if text.isdecimal() else float(text or "nan")
