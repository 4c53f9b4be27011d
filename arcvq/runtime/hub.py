"""Files on the Hugging Face hub, and checkpoints of other people's code."""

import inspect
import pickle
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import torch
from huggingface_hub import errors
from torch import Tensor

from arcvq.runtime.files import reason_of

# What saved tensors are built from, besides their storage.
TENSOR_PARTS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "collections.OrderedDict",
)

DOWNLOAD = "huggingface_hub.hf_hub_download"
PUSH = "huggingface_hub.PyTorchModelHubMixin.push_to_hub"
OPTIONS = {  # of these functions, by their names
    DOWNLOAD: {*inspect.signature(huggingface_hub.hf_hub_download).parameters},
    PUSH: {*inspect.signature(huggingface_hub.PyTorchModelHubMixin.push_to_hub).parameters},
}

# What each error of the hub means; the first kind that fits is taken.
REASONS: list[tuple[type[Exception], str]] = [
    (errors.LocalEntryNotFoundError, "the hub cannot be reached, and its cache lacks the file"),
    (errors.EntryNotFoundError, "the repository holds no such file"),
    (errors.RevisionNotFoundError, "the repository has no such revision"),
    (errors.RepositoryNotFoundError, "there is no such public repository"),
    (errors.HFValidationError, "a repository is named OWNER/NAME"),
]


def check_options(options: Iterable[str], function: str) -> None:
    """Raise TypeError for a name that is no option of `DOWNLOAD` or `PUSH`.

    Where the hub is not asked, nobody else would notice.
    """
    unknown = sorted(set(options) - OPTIONS[function])
    if unknown:
        raise TypeError(
            f"there is no option {unknown[0]!r}; for the hub there are those of {function}, such "
            "as token"
        )


def download(repository: str, filename: str, revision: str | None = None, **options: Any) -> Path:
    """Download a file, unless the cache of the hub has it already.

    Args:
        repository: OWNER/NAME.
        filename: The path of the file in the repository.
        revision: A branch, tag or commit; None for the newest version.
        **options: Other options of `huggingface_hub.hf_hub_download`, such as `token`.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded; says why.
    """
    try:
        path = huggingface_hub.hf_hub_download(
            repo_id=repository, filename=filename, revision=revision, **options
        )
    except Exception as error:  # of many types
        known = (reason for kind, reason in REASONS if isinstance(error, kind))
        reason = next(known, reason_of(error))
        raise FileNotFoundError(
            f"{filename} of {repository} cannot be downloaded from the Hugging Face hub: {reason}"
        ) from error
    return Path(path)


def make_repository(repository: str, private: bool | None, token: str | None) -> str:
    """Make a repository on the hub, unless it is there, and return its name with the owner."""
    api = huggingface_hub.HfApi(token=token)
    return api.create_repo(repository, private=private, exist_ok=True).repo_id


def holds_file(repository: str, filename: str, revision: str | None, token: str | None) -> bool:
    """Whether a repository on the hub has a file on a branch; None for the main one."""
    api = huggingface_hub.HfApi(token=token)
    return api.file_exists(repository, filename, revision=revision)


def official_file(path: str | Path, filename: str | None, revision: str | None) -> Path:
    """Return the path of a checkpoint, after its download where it is not on this machine.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded.
    """
    place = Path(path).expanduser()
    file = place / (filename or "")
    if file.is_file():
        return file
    if filename is None:
        raise FileNotFoundError(
            f"{path} is no file; a checkpoint on the Hugging Face hub is given by the name of its "
            "repository and that of the file in it"
        )
    if place.is_dir():
        raise FileNotFoundError(f"{path} holds no {filename}")
    return download(str(path), filename, revision)


class _Unknown:
    """Stands in for an object whose code we neither have nor would run, and keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Unknown":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object):
        pass

    def __call__(self, *args: object, **kwargs: object) -> "_Unknown":
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass


class _TensorUnpickler(pickle.Unpickler):
    """Reads tensors and plain data. What else a file names becomes `_Unknown`, and nothing runs."""

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        if is_storage or f"{module}.{name}" in TENSOR_PARTS:
            return super().find_class(module, name)
        return _Unknown


def _load(file: Path) -> Any:
    """What torch.save wrote, on the CPU, with shells in place of objects of other code.

    A checkpoint of PyTorch Lightning holds such objects, its callbacks, beside the weights.
    """
    reader = SimpleNamespace(
        Unpickler=_TensorUnpickler,
        load=lambda file, **options: _TensorUnpickler(file, **options).load(),
        __name__="pickle",
    )
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=reader)


def official_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint by their names in the authors' code.

    Raises:
        ValueError: If the file is no checkpoint.
    """
    try:
        state = _load(file)
        for field in ("state_dict", "model"):
            state = state.get(field, state)
        # DataParallel adds a prefix.
        named = {name.removeprefix("module."): weight for name, weight in state.items()}
    except Exception as error:
        raise ValueError(
            f"{file} cannot be read as a checkpoint of the authors' code, "
            f"a state dict that torch.save wrote ({reason_of(error)})"
        ) from error
    return {name: weight for name, weight in named.items() if isinstance(weight, Tensor)}


def check_official_names(found: Iterable[str], needed: Iterable[str]) -> None:
    """Raise ValueError, naming them, for weights that a checkpoint lacks and others that it has."""
    problems = []
    for adjective, names in (
        ("missing", set(needed) - set(found)),
        ("unknown", set(found) - set(needed)),
    ):
        if names:
            problems.append(f"{adjective} {', '.join(sorted(names))}")
    if problems:
        raise ValueError("; ".join(problems))
