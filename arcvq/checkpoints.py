"""Files that are whole or not there at all, and errors that say what became of them."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FORMAT = 1  # of training checkpoints; raised when an older reader would misread them


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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training run, whole or not at all."""
    write_whole(path, lambda draft: torch.save({"format": FORMAT, **state}, draft))


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, for a run with the same settings.

    Raises ValueError for a damaged file, another format, or settings that differ (each named with both values).
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, saved = state["format"], state["settings"]
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"checkpoint {path} is damaged ({reason}); delete it to start this run again") from error
    if version != FORMAT:
        raise ValueError(f"checkpoint {path} has format {version}, and this arcvq reads format {FORMAT}; "
                         "delete it to start this run again")
    differing = [f"{name} was {saved.get(name)!r} and is now {value!r}"
                 for name, value in settings.items() if saved.get(name) != value]
    if differing:
        raise ValueError(f"checkpoint {path} belongs to other settings ({'; '.join(differing)}); "
                         "use the old settings or another folder")
    return state


class HeldInterrupt:
    """Within this context the first Ctrl-C sets `asked` instead of raising, so that a training step ends whole.

    A second Ctrl-C raises at once. Outside the main thread nothing changes.
    """

    asked = False

    def __enter__(self):
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.earlier = signal.signal(signal.SIGINT, self.hold)
        return self

    def hold(self, number, frame):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *exception):
        if self.main:
            signal.signal(signal.SIGINT, self.earlier)
