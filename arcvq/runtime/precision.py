"""In what precision to compute: at least float32, and float64 where it is needed and there is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)

# Where PyTorch keeps the precision of products of float32 matrices, on GPUs and on CPUs, whichever
# of its ways to set it was taken (`set_float32_matmul_precision`, `allow_tf32`, `fp32_precision`).
PRODUCTS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, detached; on the CPU in place of MPS, which has no float64."""
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    return tensor.detach().double()


def autocast_off(rows: Tensor) -> AbstractContextManager:
    """A context in which operations keep the precision of the rows.

    Tensors on the device "meta" know no autocast.
    """
    device = rows.device.type
    active = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else nullcontext()


@contextmanager
def exact_products(rows: Tensor) -> Iterator[None]:
    """A context in which products of matrices have the precision of the rows.

    Neither autocast nor `torch.set_float32_matmul_precision` lowers it.
    """
    with autocast_off(rows), _full_float32:
        yield


class _FullFloat32:
    """A context in which products of float32 matrices do not use bfloat16 or TF32.

    The setting is that of the whole process. So it is restored by the last thread that leaves.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.inside = 0
        self.before: dict[Any, str] = {}

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            for products in PRODUCTS:
                if products.fp32_precision not in ("ieee", "none"):
                    self.before[products] = products.fp32_precision
                    products.fp32_precision = "ieee"

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside > 0:
                return
            for products, precision in self.before.items():
                products.fp32_precision = "none"  # leaves it to a more general setting
                if products.fp32_precision != precision:
                    products.fp32_precision = precision
            self.before.clear()


_full_float32 = _FullFloat32()


@contextmanager
def float32_weights(model: nn.Module) -> Iterator[None]:
    """A context in which a model has at least float32, and then its own precision again.

    The steps of an optimizer are too small for half precision. Parts of the model may differ in
    their precision.
    """
    parts = [(part, _precision_of(part)) for part in model.modules()]
    halves = [(part, precision) for part, precision in parts if precision in HALF]
    try:
        for part, _ in halves:
            cast_own(part, torch.float32)
        yield
    finally:
        for part, precision in halves:
            cast_own(part, precision)


def _precision_of(part: nn.Module) -> torch.dtype | None:
    """The precision of a module's own weights, without those of its submodules."""
    own = chain(part.parameters(recurse=False), part.buffers(recurse=False))
    return next((tensor.dtype for tensor in own if tensor.is_floating_point()), None)


def cast_own(part: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's own weights, without those of its submodules."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    part._apply(cast, recurse=False)
