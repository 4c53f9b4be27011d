"""A training step on CUDA that is recorded once as a CUDA graph and then replayed.

The host then launches the whole step in one call instead of one for each kernel.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

WARM_UP = 3  # steps before the recording: kernels are compiled and optimizer states made in them


class CapturedStep:
    """Calls `step(batch)`, from the fourth call on by replaying its recording.

    Follows PyTorch's notes on whole-network capture. All batches must have one shape.

    Args:
        step: The step. It must not read a value from the device. What it leaves behind (losses,
            buffers) must be tensors; after a replay they are the same tensors with new values.
        signature: Gives what else the recording depends on, such as numbers that are constants in
            it. When it changes, the step is recorded anew.

    Raises:
        RuntimeError: If something in the step cannot be recorded.
    """

    def __init__(
        self, step: Callable[[Float[Tensor, "B C H W"]], None], signature: Callable[[], object]
    ):
        self.step = step
        self.signature = signature
        self.calls = 0
        self.graph: Any = None

    def __call__(self, batch: Float[Tensor, "B C H W"]) -> None:
        self.calls += 1
        if self.calls <= WARM_UP:
            self._warm_up(batch)
            return
        if self.graph is None or self.recorded_signature != self.signature():
            self._record(batch)
        self.recorded_batch.copy_(batch)
        self.graph.replay()

    def _warm_up(self, batch: Tensor) -> None:
        """Take the step on a stream of its own, as PyTorch asks of steps before a recording."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(batch)
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self, batch: Tensor) -> None:
        """Record the step, which does none of its work yet."""
        self.recorded_signature = self.signature()
        self.recorded_batch = batch.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.recorded_batch)
