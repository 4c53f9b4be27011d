"""Folders of models: the weights as model.safetensors, and what builds them as config.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from arcvq.runtime.files import reason_of, write_folder
from arcvq.runtime.precision import cast_own
from arcvq.runtime.random_numbers import isolated_rng

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Model = TypeVar("Model", bound=nn.Module)


def save_folder(folder: str | Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a model into a folder, each file whole or not at all.

    Args:
        folder: The folder, which is made if need be.
        model: The model.
        config: What builds it again, without its weights.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """

    def write(draft: Path) -> None:
        save_model(model, str(draft / WEIGHTS))
        (draft / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")

    write_folder(Path(folder).expanduser(), write)


def open_folder(
    folder: str | Path, from_config: Callable[[dict[str, Any]], Model], what: str
) -> Model:
    """Open the model in a folder, in evaluation mode; the caller's generator stays as it is.

    Weights in half precision open in float32, and those in float64 stay so.

    Args:
        folder: The folder.
        from_config: Builds the model of a config, with new weights.
        what: What the folder holds, such as "model", for messages.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, of another version or of another kind of model.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; a {what} is {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} holds no JSON object")
        with isolated_rng():  # the new weights are not kept
            model = from_config(config)
        _raise_to_float64(model, folder / WEIGHTS)
        load_model(model, str(folder / WEIGHTS))
    except Exception as error:
        reason = reason_of(error)
        raise ValueError(f"the {what} in {folder} cannot be opened: {reason}") from error
    check_weights(model, f"the {what} in {folder}")
    return model.eval()


def _raise_to_float64(model: nn.Module, file: Path) -> None:
    """Cast the modules whose weights are float64 in the file, so that they lose no digits."""
    with safe_open(file, "pt") as weights:
        saved = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    owners = {name.rpartition(".")[0] for name, dtype in saved.items() if dtype == "F64"}
    for name, part in model.named_modules(remove_duplicate=False):
        if name in owners:
            cast_own(part, torch.float64)


def check_weights(model: nn.Module, description: str) -> None:
    """Raise ValueError if there are NaN or infinite values in the weights; names the first."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name, weights in model.state_dict().items():
        # A buffer may hold infinity, as a mask of attention does.
        damaged = weights.isnan() if name in buffers else ~weights.isfinite()
        if damaged.any():
            raise ValueError(f"{description} cannot be used: {name} holds NaN or infinity")
