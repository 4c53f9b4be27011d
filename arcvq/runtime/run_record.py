"""The record of a training run: its history as history.csv, its settings and time as run.json."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from arcvq.runtime.extras import extra_import
from arcvq.runtime.files import reason_of, write_text

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]  # numbers by the names of their columns; a row may lack columns

Record = TypeVar("Record", bound="RunRecord")


class RunRecord:
    """The base of finished runs: history, settings and time, and how they are saved with a model.

    A subclass is a dataclass that has these fields and those of its model. It defines `subject`,
    `write_model` and `read_model`.

    Attributes:
        rows: One dict for each row of `history`.
        settings: What decided the result.
        seconds: Training time, all sessions together.
    """

    WHAT: str  # what messages call the run
    OPENER: str  # the function that opens its model alone
    rows: list[Row]
    settings: dict[str, Any]
    seconds: float

    def __repr__(self) -> str:
        steps = int(self.rows[-1]["step"]) if self.rows else 0
        length = f"{steps:,} steps in {self.seconds:.1f} s"
        return f"{type(self).__name__}({self.subject()}, {length})"

    @cached_property
    def history(self) -> "pandas.DataFrame":
        """The rows as a pandas table, made when it is first asked for.

        Its columns are in the order in which they first appear.
        """
        return extra_import("pandas").DataFrame(self.rows)

    def subject(self) -> str:
        """What was trained."""
        raise NotImplementedError

    def write_model(self, folder: Path) -> None:
        """Write the model, and what else the subclass keeps, into a folder."""
        raise NotImplementedError

    @staticmethod
    def read_model(folder: Path) -> dict[str, Any]:
        """Read what `write_model` wrote, as fields by their names."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the run into a folder.

        run.json, which says that all files are there, comes last; one that is there goes first.
        """
        folder = Path(folder).expanduser()
        (folder / "run.json").unlink(missing_ok=True)
        self.write_model(folder)
        write_text(folder / "history.csv", _table_of(self.rows))
        facts = {
            "kind": self.WHAT,
            "settings": self.settings,
            "seconds": self.seconds,
            "rows": len(self.rows),
        }
        write_text(folder / "run.json", json.dumps(facts, indent=2))

    @classmethod
    def load(cls: type[Record], folder: str | Path) -> Record:
        """Open a folder that `save` wrote.

        Raises:
            FileNotFoundError: If it holds no finished run.
            ValueError: If a file is damaged or missing; names it and says what to do. Also for a
                prior where a run is meant, and the reverse.
        """
        folder = Path(folder).expanduser()
        if not (folder / "run.json").exists():
            raise FileNotFoundError(f"{folder} holds no finished run; run.json is missing")
        try:
            facts = _facts(folder)
            if facts.get("kind", cls.WHAT) == cls.WHAT:  # which earlier versions did not write
                return cls(**cls.read_model(folder), **_read_record(folder, facts))
        except Exception as error:
            raise ValueError(
                f"the {cls.WHAT} in {folder} is damaged ({reason_of(error)}); train it again with "
                f"overwrite=True, or open the model alone, if that is whole, with {cls.OPENER}"
            ) from error
        raise ValueError(f"{folder} holds a {facts['kind']} and no {cls.WHAT}")


def _table_of(rows: list[Row]) -> str:
    """Rows as a table in CSV."""
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # what a row lacks stays empty
    return text.getvalue()


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings of the finished run in a folder.

    Raises:
        ValueError: If run.json is damaged.
    """
    return _facts(folder)["settings"]


def is_ended_early(folder: Path) -> bool:
    """Whether the run in a folder was saved before its last step, as one that a listener ended.

    A damaged run is not, so that opening it says what is wrong.
    """
    try:
        facts = _facts(folder)
        rows = _read_record(folder, facts)["rows"]
        return rows[-1]["step"] < facts["settings"]["steps"]
    except (ValueError, LookupError, TypeError):
        return False


def _facts(folder: Path) -> dict[str, Any]:
    """What run.json holds; if it is cut or holds something else, a ValueError names it."""
    file = folder / "run.json"
    with naming_file(file):
        facts = json.loads(file.read_text("utf-8"))
        settings = dict(facts["settings"])
        return facts | {"settings": settings, "seconds": float(facts["seconds"])}


def _read_record(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The rows, settings and seconds that were saved. Empty cells are NaN.

    A history that is cut or holds something else is named in a ValueError.
    """
    count = facts.get("rows")  # which earlier versions did not write
    file = folder / "history.csv"
    with naming_file(file):
        rows = _read_rows(file.read_text("utf-8"))
        if count not in (None, len(rows)):
            raise ValueError(f"{len(rows)} rows are left of {count}")
    return {"rows": rows, "settings": facts["settings"], "seconds": facts["seconds"]}


def _read_rows(text: str) -> list[Row]:
    """The rows of a table in CSV, whose last line must be whole."""
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


def _number(text: str) -> int | float:
    """The number in a cell; counts are ints, as they are in the rows of a run."""
    return int(text) if text.isdecimal() else float(text or "nan")
