"""The cache of results: each is kept as ROOT/KIND/NAME-DIGEST and is found again by its digest.

Finished results are also found in the shared folder, if there is one, and never written there.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from arcvq.runtime.files import data_root, shared_root

WRITTEN_LAST = ("run.json", "classifier.json")


def digest_of(facts: Any) -> str:
    """12 hex digits that change with any of the facts.

    Args:
        facts: What decides a result: numbers, texts, None, and lists and dicts of these.
    """
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_in(name: str) -> str:
    """The digest at the end of a result's name, which alone decides whether two are the same."""
    return name.rpartition("-")[2]


def find_result(
    root: str | Path | None, kind: str, name: str, shared: bool = True
) -> tuple[Path, bool]:
    """Find a result that is a folder, or the place for it.

    Args:
        root: See `kept_path`.
        kind: See `kept_path`.
        name: See `kept_path`.
        shared: See `kept_path`.

    Returns:
        The folder, and whether it holds the finished result. Otherwise the result goes there, and
        the folder may hold a checkpoint to go on from.
    """
    folder = kept_path(root, kind, name, shared)
    return folder, is_finished(folder)


def kept_path(root: str | Path | None, kind: str, name: str, shared: bool = True) -> Path:
    """Where a result is kept, whether or not it is there yet.

    Args:
        root: See `data_root`.
        kind: The folder of all results of this kind, such as `"runs"`.
        name: NAME-DIGEST, for a result that is a file with its ending. What stands before the
            digest is for people; see `safe_name`.
        shared: Whether to look in the shared folder as well.

    Returns:
        A path with this digest, whatever its name: a finished result, else one that was begun, else
        a finished one in the shared folder, else an empty folder. If there is none, the path of
        this name.
    """
    pattern = f"*-{digest_in(name)}"
    shelf = data_root(root) / kind
    own = sorted(shelf.glob(pattern))
    finished = [path for path in own if is_finished(path)]
    begun = [path for path in own if path.is_dir() and any(path.iterdir())]

    lent = []
    common = shared_root() if shared else None
    if common is not None:
        lent = sorted((common / kind).glob(pattern))
        lent = [path for path in lent if is_finished(path)]

    # In the order of preference; what is left of `own` is empty.
    candidates = [*finished, *begun, *lent, *own]
    return candidates[0] if candidates else shelf / name


def is_finished(path: Path) -> bool:
    """Whether a result is whole: a file is, and a folder once it holds what is written last."""
    return path.is_file() or any((path / name).exists() for name in WRITTEN_LAST)
