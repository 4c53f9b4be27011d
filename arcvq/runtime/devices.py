"""Which device to use, what it is, and in which precision it is fastest."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device to work on: `"auto"` takes CUDA, then MPS, then the CPU.

    Raises ValueError for a device that PyTorch does not know or that this machine lacks.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:
        raise ValueError(f"device {str(device)!r} cannot be used here; use 'auto', {_available()}") from error
    return chosen


def _available() -> str:
    names = ["cpu"]
    names += [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    return "or one of " + ", ".join(repr(name) for name in names)


def device_name(device: str | torch.device) -> str:
    """A device with the name of its hardware, as "cuda (NVIDIA H100 80GB HBM3)" or "cpu (x86_64)"."""
    cuda = torch.device(device).type == "cuda"
    return f"{device} ({torch.cuda.get_device_name(torch.device(device)) if cuda else platform.machine()})"


def has_fast_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 arithmetic is quicker than float32: AMX or AVX512-bf16 on a CPU, Ampere or later on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype for autocast: `"auto"` takes bfloat16 where it is quicker, else float32.

    Raises ValueError for a name other than auto, float32, bfloat16.
    """
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is unknown; use 'auto', 'float32' or 'bfloat16'")
    return torch.float32 if precision == "float32" else torch.bfloat16


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module, such as "float32"."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def threads_kept() -> Iterator[None]:
    """At the end torch computes with as many threads as before, whatever was set meanwhile."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
