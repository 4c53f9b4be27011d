"""Checks of arguments that several modules make at their public boundary."""

from typing import Any

from jaxtyping import Int
from torch import Tensor


def check_whole(minimum: int, **numbers: Any) -> None:
    """Raise ValueError, naming it, for a number that is not whole or is below `minimum`."""
    for name, number in numbers.items():
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if not is_whole or number < minimum:
            raise ValueError(f"{name} is {number}; it must be a whole number from {minimum}")


def check_range(values: Int[Tensor, "..."], count: int, name: str = "indices") -> None:
    """Raise ValueError unless all values are indices of `count` things: 0 to `count` - 1.

    Waits for the device.
    """
    if values.numel() == 0:
        return
    lowest = int(values.min())
    highest = int(values.max())
    if lowest < 0 or highest >= count:
        raise ValueError(
            f"{name} reach from {lowest} to {highest}; they must be from 0 to {count - 1}"
        )


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise ValueError, with their number, if there are NaN or infinite values in the tensor.

    Waits for the device.
    """
    bad = int((~tensor.isfinite()).sum())
    if bad:
        found = f"{bad} of {tensor.numel()} values of the {name} are NaN or infinite"
        raise ValueError(f"{found}; all must be finite")
