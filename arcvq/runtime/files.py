"""Files that are written whole or not at all, and the folder of data sets and results."""

import os
import platform
import re
import secrets
import shutil
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

CHECKOUT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (CHECKOUT / "pyproject.toml").is_file()  # else the folder of installed packages
# Holds the notebooks, trained models and stored results that come with arcvq.
SHIPPED = CHECKOUT if IS_CHECKOUT else CHECKOUT / "arcvq" / "shipped"
OLD_DRAFT = 3600  # seconds
MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
NAME_LENGTH = 80  # bytes; most disks allow 255, and a digest and an ending are still to come


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that a reader never sees half of it.

    Args:
        path: The file; its folder is made if need be.
        write: Fills the temporary file that it is given, which then takes the place of `path`.

    Raises:
        OSError: If the folder cannot be written or the disk is full. The earlier file is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _draft_in(path.parent) as draft, _draft_in(path.parent) as whole:
            draft.mkdir()
            file = draft / path.name
            mode = _mode_of_new_files(draft)
            write(file)
            file.chmod(mode)
            # Leave nothing to do after the file has its name: a kill may come in between.
            os.replace(file, whole)
            delete(draft)
            os.replace(whole, path)
    # On a full disk torch.save raises RuntimeError, and safetensors an error of its own.
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = "the earlier file is kept" if path.exists() else "nothing was written"
        advice = _advice(path, error)
        raise OSError(f"{path} cannot be written ({error}); {kept}{advice}") from error


def write_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write several files into a folder, each of them whole or not at all.

    Args:
        folder: The folder, which is made if need be.
        write: Fills the temporary folder that it is given; its files then move into `folder`.

    Raises:
        OSError: If the folder cannot be written or the disk is full. Earlier files are kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _draft_in(folder) as draft:
            draft.mkdir()
            mode = _mode_of_new_files(draft)
            write(draft)
            for file in sorted(draft.iterdir()):
                file.chmod(mode)
                file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        advice = _advice(folder, error)
        raise OSError(f"the folder {folder} cannot be written ({error}){advice}") from error


def _advice(path: Path, error: Exception) -> str:
    """What helps where a file may not be written in the folder of data sets and results."""
    in_data_root = path.absolute().is_relative_to(data_root().absolute())
    if isinstance(error, PermissionError) and in_data_root:
        return "; the environment variable ARCVQ_DATA names another folder for results"
    return ""


def _mode_of_new_files(folder: Path) -> int:
    """The permissions that the umask gives; some writers make files for the owner alone."""
    probe = folder / "mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


@contextmanager
def _draft_in(folder: Path) -> Iterator[Path]:
    """A new name for a draft in a folder; whatever has this name at the end is deleted.

    The draft of a file is a folder as well, since some writers make further files of their own.

    Drafts of writers that were killed are deleted first. Every writer holds a lock on the folder,
    which ends with its process: if nobody else holds one, all drafts of this machine are such
    leftovers. Those of other machines, whose locks may not be visible here, are deleted once they
    are old.
    """
    with _opened(folder) as handle:
        alone = _lock(handle, "LOCK_EX", "LOCK_NB")
        for draft in folder.glob(".*.draft"):
            if (alone and draft.name.startswith(f".{MACHINE}-")) or _is_old(draft):
                delete(draft)
        _lock(handle, "LOCK_SH")
        draft = folder / f".{MACHINE}-{secrets.token_hex(4)}.draft"
        try:
            yield draft
        finally:
            delete(draft)


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A handle of a folder; None on systems and for folders that give none."""
    handle = None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int | None, *flags: str) -> bool:
    """Lock a folder in the way of `fcntl.flock`; False if it is locked, or cannot be."""
    if fcntl is None or handle is None:
        return False
    try:
        fcntl.flock(handle, sum(getattr(fcntl, flag) for flag in flags))
    except OSError:
        return False
    return True


@contextmanager
def exclusive(lock_file: Path, refusal: str | None = None) -> Iterator[None]:
    """Let one process at a time do something. A lock ends with its process at the latest.

    Args:
        lock_file: The file by which processes know of each other, in a folder that exists. It is
            removed at the end.
        refusal: What to say when another process holds the lock; None to wait for its end.

    Raises:
        BlockingIOError: With the words of the refusal.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=-1 if refusal is None else 0)
    except Timeout:
        raise BlockingIOError(refusal) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; an idle one does no harm
            lock_file.unlink()
        lock.release()


def _is_old(draft: Path) -> bool:
    try:
        return time.time() - draft.stat().st_mtime > OLD_DRAFT
    except OSError:  # another process was first
        return False


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that it holds, if it is there and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def reason_of(error: Exception) -> str:
    """What an error says, in one line; with its type where that says more than the message."""
    message = " ".join(str(error).split())
    if isinstance(error, LookupError | TypeError | AttributeError) or not message:
        return f"{type(error).__name__} {message}".strip()
    return message


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
    # One spelling, since disks differ in whether an accent is a character of its own.
    name = re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", last_part))
    return name.encode()[:NAME_LENGTH].decode(errors="ignore")
