"""Files that are written whole, and the folder where data and runs are kept."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]  # where the package is used from a checkout


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader never sees half a file.

    Raises OSError in one sentence when the folder cannot be written or the disk is full; the earlier file is kept.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        kept = "the earlier file is kept" if path.exists() else "nothing was written"
        raise OSError(f"{path} cannot be written ({error}); {kept}") from error
    finally:
        if draft.exists():
            draft.unlink()


def data_root() -> Path:
    """Where data sets and runs are kept: $ARCVQ_DATA, else `data/` of the checkout that holds arcvq, else ./data."""
    if os.environ.get("ARCVQ_DATA"):
        return Path(os.environ["ARCVQ_DATA"])
    return CHECKOUT / "data" if (CHECKOUT / "pyproject.toml").is_file() else Path("data")
