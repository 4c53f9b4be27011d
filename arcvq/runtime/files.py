"""Files that are written whole or not at all, and the folder of data sets and results."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
CHECKOUT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (CHECKOUT / "pyproject.toml").is_file()  # else the folder of installed packages
# Holds the notebooks, trained models and stored results that come with arcvq.
SHIPPED = CHECKOUT if IS_CHECKOUT else CHECKOUT / "arcvq" / "shipped"
OLD_DRAFT = 3600  # seconds
NAME_LENGTH = 80  # most file systems allow 255 bytes; a digest and an ending are still to come


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that a reader never sees half of it.

    Args:
        path: The file; its folder is made if need be.
        write: Fills the temporary file that it is given, which then takes the place of `path`.

    Raises:
        OSError: If the folder cannot be written or the disk is full. The earlier file is kept.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_old_drafts(path.parent)
        draft.touch()
        mode = draft.stat().st_mode  # what the umask allows; some writers make private files
        write(draft)
        draft.chmod(mode)
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        kept = "the earlier file is kept" if path.exists() else "nothing was written"
        if isinstance(error, PermissionError):
            kept += "; the environment variable ARCVQ_DATA names another folder for results"
        raise OSError(f"{path} cannot be written ({error}); {kept}") from error
    finally:
        if draft.exists():
            draft.unlink()


def remove_old_drafts(folder: Path) -> None:
    """Delete what writers that were killed have left in a folder: drafts older than an hour."""
    for draft in folder.glob(".*.draft"):
        with suppress(OSError):  # another process was first
            if time.time() - draft.stat().st_mtime > OLD_DRAFT:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def write_folder(folder: Path, write: Callable[[Path], Result]) -> Result:
    """Write several files into a folder, each of them whole or not at all.

    Args:
        folder: The folder, which is made if need be.
        write: Fills the temporary folder that it is given; its files then move into `folder`.

    Returns:
        What `write` returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_old_drafts(folder)
    drafts = folder / f".{secrets.token_hex(4)}.draft"
    drafts.mkdir()
    try:
        (drafts / "mode").touch()
        mode = (drafts / "mode").stat().st_mode
        (drafts / "mode").unlink()
        result = write(drafts)
        for file in sorted(drafts.iterdir()):
            file.chmod(mode)
            file.replace(folder / file.name)
        return result
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


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
    if IS_CHECKOUT:
        return CHECKOUT / "data"
    return Path("data")


def shared_root() -> Path | None:
    """A second folder of data sets and finished results, which is only read.

    The environment variable ARCVQ_SHARED names it. In a class it holds what the teacher has
    trained, below the folder of each student's own.
    """
    chosen = os.environ.get("ARCVQ_SHARED")
    return Path(chosen).expanduser() if chosen else None


def safe_name(text: str) -> str:
    """A short name for a file or folder: `"folder:/my/long path"` becomes `"folder-long-path"`."""
    last_part = re.sub(r":.*[/\\]", "-", text.rstrip("/\\"))
    return re.sub(r"[^A-Za-z0-9._]+", "-", last_part)[:NAME_LENGTH]
