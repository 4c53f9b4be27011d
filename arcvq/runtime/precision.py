"""Half precision: what is computed, averaged or trained is at least float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and float32 and float64 as they are."""
    return tensor.to(_precise(tensor.dtype))


@contextmanager
def float32_weights(model: nn.Module) -> Iterator[None]:
    """A context in which a model has at least float32, and then its own precision again.

    The steps of an optimizer are too small for half precision.
    """
    precision = next(chain(model.parameters(), model.buffers())).dtype
    try:
        model.to(_precise(precision))
        yield
    finally:
        model.to(precision)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
