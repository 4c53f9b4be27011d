"""Files that are written whole or not at all, and the folder of data sets and results."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]  # only a checkout if it holds pyproject.toml
NAME_LENGTH = 80  # most file systems allow 255 bytes; a digest and an ending are still to come


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that a reader never sees half of it.

    Args:
        path: The file; its folder is made if need be.
        write: Fills the temporary file that it is given, which then takes the place of `path`.

    Raises:
        OSError: If the folder cannot be written or the disk is full. The earlier file is kept.
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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all (see `write_whole`)."""
    write_whole(path, lambda draft: draft.write_text(text, "utf-8"))


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data sets and kept results.

    This is `root` if it is given, else the environment variable ARCVQ_DATA, else `data` in the
    checkout that holds arcvq, else `data` in the working directory. `~` stands for the home folder.
    """
    chosen = root or os.environ.get("ARCVQ_DATA")
    if chosen:
        return Path(chosen).expanduser()
    if (CHECKOUT / "pyproject.toml").is_file():
        return CHECKOUT / "data"
    return Path("data")


def safe_name(text: str) -> str:
    """A short name for a file or folder: `"folder:/my/long path"` becomes `"folder-long-path"`."""
    last_part = re.sub(r":.*[/\\]", "-", text.rstrip("/\\"))
    return re.sub(r"[^A-Za-z0-9._]+", "-", last_part)[:NAME_LENGTH]
