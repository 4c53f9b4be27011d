"""In what precision to compute: at least float32, and float64 where it is needed and there is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


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
def float32_weights(model: nn.Module) -> Iterator[None]:
    """A context in which a model has at least float32, and then its own precision again.

    The steps of an optimizer are too small for half precision. Parts of the model may differ in
    their precision.
    """
    parts = [(part, _precision_of(part)) for part in model.modules()]
    halves = [(part, precision) for part, precision in parts if precision in HALF]
    try:
        for part, _ in halves:
            _cast(part, torch.float32)
        yield
    finally:
        for part, precision in halves:
            _cast(part, precision)


def _precision_of(part: nn.Module) -> torch.dtype | None:
    """The precision of a module's own weights, without those of its submodules."""
    own = chain(part.parameters(recurse=False), part.buffers(recurse=False))
    return next((tensor.dtype for tensor in own if tensor.is_floating_point()), None)


def _cast(part: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's own weights."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    part._apply(cast, recurse=False)
