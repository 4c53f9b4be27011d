"""Checks of arguments that several modules make at their public boundary.

While torch.compile or torch.export traces a program, or torch.func transforms one, its tensors have
no values to read, and tensors on the device "meta" never have any: checks that read values are then
left out.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

LARGEST_SEED = 2**32 - 1  # as in NumPy, scikit-learn and UMAP


def is_transformed() -> bool:
    """Whether `torch.func` transforms the program, which must then have no side effects."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor has values that can be read."""
    return not (tensor.is_meta or torch.compiler.is_compiling() or is_transformed())


def check_whole(minimum: int, maximum: int | None = None, /, **numbers: Any) -> None:
    """Raise ValueError, naming it, for a number that is not whole or is out of range.

    Integers of NumPy and of PyTorch pass as well; `int()` makes them Python's.

    Args:
        minimum: The smallest number allowed.
        maximum: The largest number allowed; None for any.
        **numbers: The numbers by name, such as `steps=steps`.
    """
    allowed = f"a whole number from {minimum:,}"
    if maximum is not None:
        allowed += f" to {maximum:,}"
    for name, number in numbers.items():
        in_range = is_whole(number) and minimum <= number
        if maximum is not None:
            in_range = in_range and number <= maximum
        if not in_range:
            raise ValueError(f"{name} is {number!r}; it must be {allowed}")


def as_seed(seed: Any) -> int:
    """Return a seed as Python's int, which PyTorch and JSON need.

    Raises:
        ValueError: For another than a whole number from 0 to `LARGEST_SEED`.
    """
    check_whole(0, LARGEST_SEED, seed=seed)
    return int(seed)


def check_range(minimum: int | float, maximum: int | float, /, **numbers: Any) -> None:
    """Raise ValueError, naming it, for a value that is not a number from `minimum` to `maximum`.

    Both ends are allowed; NaN and booleans are not.
    """
    for name, number in numbers.items():
        if not is_number(number) or not minimum <= number <= maximum:
            allowed = f"a number from {minimum} to {maximum}"
            raise ValueError(f"{name} is {number!r}; it must be {allowed}")


def check_positive(**numbers: Any) -> None:
    """Raise ValueError, naming it, for a value that is not a finite number above 0."""
    for name, number in numbers.items():
        if not is_number(number) or not 0 < number < math.inf:
            raise ValueError(f"{name} is {number!r}; it must be a finite number above 0")


def check_not_negative(**numbers: Any) -> None:
    """Raise ValueError, naming it, for a value that is not a finite number from 0."""
    for name, number in numbers.items():
        if not is_number(number) or not 0 <= number < math.inf:
            raise ValueError(f"{name} is {number!r}; it must be a finite number from 0")


def check_finite_numbers(**numbers: Any) -> None:
    """Raise ValueError, naming it, for a value that is not a finite number."""
    for name, number in numbers.items():
        if not is_number(number) or not -math.inf < number < math.inf:
            raise ValueError(f"{name} is {number!r}; it must be a finite number")


def is_number(value: Any) -> bool:
    """Whether a value is a single number of Python, NumPy or PyTorch; True and False are none."""
    if not isinstance(value, int | float):
        value = python_number(value)
    return isinstance(value, Real) and not isinstance(value, bool)


def python_number(value: Any) -> Any:
    """Return a single number of NumPy or PyTorch as Python's; other values as they are."""
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        return value.item()
    return value


def check_flag(**flags: Any) -> None:
    """Raise ValueError, naming it, for a value that is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(python_number(flag), bool):
            raise ValueError(f"{name} is {flag!r}; it must be True or False")


def check_paths(**paths: Any) -> None:
    """Raise ValueError, naming it, for a path that is not empty and leads to nothing."""
    for name, path in paths.items():
        is_path = isinstance(path, str | Path)
        if not is_path or (path and not Path(path).expanduser().exists()):
            raise ValueError(
                f"{name} is {path!r}; it must be the path of a file or folder that exists, or empty"
            )


def is_whole(number: Any) -> bool:
    """Whether Python would take it as an index. True and False are not counted as numbers."""
    if isinstance(number, bool) or getattr(number, "dtype", None) == torch.bool:
        return False
    try:
        operator.index(number)
    except TypeError:
        return False
    return True


def use_python_numbers(settings: Any) -> None:
    """Make Python's numbers of those of NumPy and PyTorch in a frozen dataclass, for JSON.

    A field of floats gets a float where it was given a whole number, so that settings which are
    equal are the same text in JSON.
    """
    for field in dataclasses.fields(settings):
        value = python_number(getattr(settings, field.name))
        if type(value) is int and field.type in (float, float | None):
            value = float(value)
        object.__setattr__(settings, field.name, value)


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ, with both values; None is the same as no setting.

    Lists and tuples of the same values are the same, since JSON knows only one of them.
    """
    found = []
    for name in dict.fromkeys([*now, *was]):
        earlier = was.get(name)
        later = now.get(name)
        if _as_lists(earlier) != _as_lists(later):
            found.append(f"{name} was {earlier!r} and is now {later!r}")
    return found


def _as_lists(value: Any) -> Any:
    """The value with lists in place of tuples, at any depth."""
    if isinstance(value, Mapping):
        return {name: _as_lists(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_lists(part) for part in value]
    return value


def as_integers(values: Shaped[Tensor, "*shape"], name: str) -> Int64[Tensor, "*shape"]:
    """Return whole numbers of any integer dtype as int64.

    Most operations refuse the unsigned dtypes, and uint8 would select rows like a mask.

    Raises:
        ValueError: For bool, floating-point and complex numbers.
    """
    dtype = values.dtype
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        raise ValueError(f"{name} have dtype {dtype}; it must be an integer dtype such as int64")
    return values.long()


def as_indices(
    indices: Shaped[Tensor, "*shape"], count: int, name: str = "indices"
) -> Int64[Tensor, "*shape"]:
    """Return indices of any integer dtype as int64, checked to lie in 0 to `count` - 1.

    Waits for the device.

    Raises:
        ValueError: For another dtype, and for an index out of range.
    """
    indices = as_integers(indices, name)
    if not has_values(indices) or indices.numel() == 0:
        return indices
    lowest = int(indices.min())
    highest = int(indices.max())
    if lowest < 0 or highest >= count:
        raise ValueError(
            f"{name} reach from {lowest} to {highest}; they must be from 0 to {count - 1}"
        )
    return indices


def check_rows(codebook: Tensor, latents: Tensor) -> None:
    """Raise ValueError unless codes and latents are rows of the same length."""
    if codebook.ndim != 2:
        raise ValueError(f"the codebook has shape {tuple(codebook.shape)}; it must be (K, D)")
    if latents.ndim != 2 or latents.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}; they must be (N, {codebook.shape[1]}), "
            "as the codes have that dimension"
        )


class NotFinite(ValueError):
    """A tensor holds NaN or infinity where all values must be finite."""


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise NotFinite, with their number, if there are NaN or infinite values in the tensor.

    Waits for the device.
    """
    if not has_values(tensor):
        return
    bad = int((~tensor.isfinite()).sum())
    if bad:
        found = f"{bad} of {tensor.numel()} values of the {name} are NaN or infinite"
        raise NotFinite(f"{found}; all must be finite")
