"""Random numbers that are drawn without touching the caller's generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """A context whose random numbers leave the generators outside of it as they were.

    It covers the generator of the CPU and those of all GPUs in use. As long as CUDA is not in use,
    its generators are not seeded either. (`torch.manual_seed` would do so as soon as they are, and
    replace a seed that the caller gave before.)

    Args:
        seed: With what the generators start inside; None goes on with the caller's state.
    """
    kind, devices = _gpus_in_use()
    with torch.random.fork_rng(devices, device_type=kind):
        if seed is not None and devices:
            torch.manual_seed(seed)
        elif seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def _gpus_in_use() -> tuple[str, range]:
    """The kind of the GPUs whose generators may have been drawn from, and their numbers."""
    if torch.backends.mps.is_available():
        return "mps", range(1)
    return "cuda", range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
