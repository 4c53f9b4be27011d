"""The cache of results: each is kept as ROOT/KIND/NAME-DIGEST and is found again by its digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from arcvq.runtime.files import data_root


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


def kept_path(root: str | Path | None, kind: str, name: str) -> Path:
    """Where a result is kept, whether or not it is there yet.

    Args:
        root: See `data_root`.
        kind: The folder of all results of this kind, such as `"runs"`.
        name: NAME-DIGEST, for a result that is a file with its ending. What stands before the
            digest is for people; see `safe_name`.

    Returns:
        An existing path with this digest, whatever its name, else the path of this name.
    """
    shelf = data_root(root) / kind
    for path in sorted(shelf.glob(f"*-{digest_in(name)}")):
        return path
    return shelf / name
