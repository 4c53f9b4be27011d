"""Checkpoints: the state of an interrupted training run, from which it can resume."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arcvq.runtime.checks import differences
from arcvq.runtime.files import reason_of, write_whole

CHECKPOINT_FORMAT = 1  # bump it when older readers would misread a checkpoint


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training run, whole or not at all."""
    state = {"format": CHECKPOINT_FORMAT, **state}
    write_whole(path, lambda draft: torch.save(state, draft))


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read a state that `save_checkpoint` wrote, on the CPU.

    Args:
        path: The file.
        settings: The settings of the run that resumes; those of the checkpoint must be the same.
            None is the same as no setting.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is damaged, of another format, or of a run with other
            settings; these are named with both values.
    """
    with reading_checkpoint(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        found_format = state["format"]
        saved = dict(state["settings"])
    if found_format != CHECKPOINT_FORMAT:
        raise ValueError(
            f"checkpoint {path} has format {found_format}, and this arcvq reads format "
            f"{CHECKPOINT_FORMAT}; delete it to start this run again"
        )
    check_settings(f"checkpoint {path}", saved, settings)
    return state


def check_settings(owner: str, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError, naming them with both values, where settings differ from saved ones.

    Args:
        owner: What the saved settings belong to, for the message.
        saved: The saved settings.
        settings: The settings now. None is the same as no setting.
    """
    saved = with_nested_settings(saved)
    if "images" in settings and saved.get("images") == settings["images"]:
        saved = saved | {"data": settings.get("data")}  # the same images, in a folder that moved
    changes = differences(saved, settings)
    if changes:
        raise ValueError(
            f"{owner} belongs to other settings ({'; '.join(changes)}); "
            "use the old settings or another folder"
        )


@contextmanager
def reading_checkpoint(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a checkpoint and what to do about it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: For any other error inside.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # of many types, for files and for what they hold
        # PyTorch goes on with advice on files that were saved by others.
        reason, _, _ = reason_of(error).partition(". ")
        raise ValueError(
            f"checkpoint {path} is damaged ({reason}); delete it to start this run again"
        ) from error


def check_parameters(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Raise ValueError unless all parameters were saved; loading would change some, and then fail.

    What else the state of a model holds may have been added since.
    """
    for name, parameter in model.named_parameters():
        if name not in saved:
            raise ValueError(f"{name} is missing")
        if saved[name].shape != parameter.shape:
            raise ValueError(
                f"{name} has shape {tuple(saved[name].shape)}, that of the model "
                f"{tuple(parameter.shape)}"
            )


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless the moments of each parameter have its shape, as PyTorch expects."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.ndim and moment.shape != parameter.shape:
                raise ValueError(
                    f"{name} of the optimizer has shape {tuple(moment.shape)}, "
                    f"its parameter {tuple(parameter.shape)}"
                )


def with_nested_settings(value: Any) -> Any:
    """The settings with JSON texts in them decoded, as earlier versions wrote those of SAMP."""
    if isinstance(value, dict):
        return {name: with_nested_settings(part) for name, part in value.items()}
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    return value
