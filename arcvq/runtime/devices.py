"""Which device to use, what it is called, and in which precision it is fastest."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arcvq.runtime.extras import extra_import


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Choose the device to work on.

    Args:
        device: A device, or `"auto"` for CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If PyTorch does not know the device, or this machine lacks it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:  # of many types
        known = ", ".join(repr(name) for name in _available())
        raise ValueError(
            f"device {str(device)!r} cannot be used here; use 'auto', or one of {known}"
        ) from error
    return chosen


def _available() -> list[str]:
    """The devices of this machine."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def device_name(device: str | torch.device) -> str:
    """A device with the name of its hardware: "cuda (NVIDIA H100 80GB HBM3)" or "cpu (x86_64)"."""
    if torch.device(device).type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"


def total_memory(device: torch.device) -> int:
    """Bytes of memory of this machine, or of its GPU if the device is one and has less."""
    machine = extra_import("psutil").virtual_memory().total
    if device.type == "cuda":
        return min(machine, torch.cuda.get_device_properties(device).total_memory)
    return machine


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is faster than float32.

    It is on a CPU with AMX or AVX512-bf16, and on CUDA from the Ampere generation on.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Choose the dtype for autocast.

    Args:
        precision: "float32", "bfloat16", or "auto" for bfloat16 where it is faster.
        device: The device.

    Raises:
        ValueError: For another precision.
    """
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is unknown; use 'auto', 'float32' or 'bfloat16'")
    return getattr(torch, precision)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads_kept(count: int | None = None) -> Iterator[None]:
    """A context after which torch has as many threads as before, whatever was set meanwhile.

    Args:
        count: The number of threads inside; None for those there are.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)
