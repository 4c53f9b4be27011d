"""Evaluation mode for a while, after which a module is left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """A context in which a module and all its submodules are in evaluation mode.

    Afterwards, also after an error, each submodule has its own mode again: one that was in
    evaluation mode while the rest was training stays in it.

    Args:
        module: The module.
    """
    before = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in before:
            part.training = training
