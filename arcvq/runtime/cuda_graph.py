"""A training step on CUDA recorded once as a CUDA graph and replayed, so that the host launches it in one call."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

WARM_UP = 3  # steps before the recording, in which kernels are compiled and optimiser states made


class CapturedStep:
    """Calls `step(batch)`, from the fourth time on by replaying its recording; all batches must have one shape.

    `step` must not read a value of the device, and what it leaves behind (losses, buffers) must be tensors: after a
    replay they are the same tensors with new values. `signature()` gives what else decides the recording, numbers
    for instance that stand in it as constants; when it changes, the step is recorded anew. Follows PyTorch's
    notes on whole-network capture. Raises RuntimeError when the device forbids to record something.
    """

    def __init__(self, step: Callable[[Float[Tensor, "B C H W"]], None], signature: Callable[[], object]):
        self.step, self.signature = step, signature
        self.calls = 0
        self.graph: Any = None

    def __call__(self, batch: Float[Tensor, "B C H W"]) -> None:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.beside(batch)
        if self.graph is None or self.recorded != self.signature():
            self.record(batch)
        self.batch.copy_(batch)
        self.graph.replay()

    def beside(self, batch: Tensor) -> None:
        """One step on a stream of its own, as PyTorch asks of the steps before a recording."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(batch)
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, batch: Tensor) -> None:
        """Record the step; nothing of it is done yet."""
        self.recorded, self.batch = self.signature(), batch.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.batch)
