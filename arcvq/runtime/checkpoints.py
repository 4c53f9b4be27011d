"""Files that are whole or not there at all, and errors that say what became of them."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import torch

from arcvq.runtime.files import write_whole

FORMAT = 1  # of training checkpoints; raised when an older reader would misread them


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training run, whole or not at all."""
    write_whole(path, lambda draft: torch.save({"format": FORMAT, **state}, draft))


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, for a run with the same settings.

    Raises ValueError for a damaged file, another format, or settings that differ (each named with both values).
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, saved = state["format"], _with_nested_settings(state["settings"])
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


def _with_nested_settings(value: Any) -> Any:
    """The settings with JSON texts in them decoded: earlier versions wrote those of SAMP as a text."""
    if isinstance(value, dict):
        return {name: _with_nested_settings(part) for name, part in value.items()}
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


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
