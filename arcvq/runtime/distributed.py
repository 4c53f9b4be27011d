"""One model trained by several processes (torch.distributed), each with its share of every batch.

What changes with several processes:

- Each process, called a rank, takes its share of a batch (`arcvq.training`), and gradients become
  their mean over the ranks (`parallel`).
- FSDP2 divides parameters among the ranks (`whole`, `assign_`).
- What a quantizer knows of a batch is that of all ranks: counts and averages (`sum_`), latents to
  draw from (`gather`), and the margin loss (`gathered_margin`), whose codes the ranks divide.
- The first rank writes files (`rank`), and the ranks decide alike (`any_rank`, `from_first`).

Without a group of processes there is one rank, number 0, and nothing here communicates. All ranks
must call the same functions in the same order.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, and leave them at the end, also after an error.

    Without `torchrun` nothing happens.

    Args:
        device: A device of the kind to work on.

    Yields:
        The device to work on: the GPU that LOCAL_RANK names (ranks then talk by NCCL), or the CPU
        (by gloo).

    Raises:
        ValueError: If the device is neither a CPU nor CUDA.
    """
    if "RANK" not in os.environ:
        yield device
        return
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device {str(device)!r} cannot be used by many processes; use 'cpu' or 'cuda'"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def in_group() -> bool:
    """Whether there is a group of processes, which may have a single rank."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of ranks, at least 1."""
    return dist.get_world_size() if in_group() else 1


def rank() -> int:
    """The number of this rank, at least 0."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sum a tensor over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Average a tensor over all ranks, in place."""
    return sum_(tensor).div_(world_size())


def own_share(rows: Shaped[Tensor, "N *shape"]) -> Shaped[Tensor, "n *shape"]:
    """The rows that this rank takes, of as many as the ranks divide evenly."""
    return rows.chunk(world_size())[rank()]


def any_rank(flag: bool) -> bool:
    """Whether the flag is true on at least one rank. Waits for all ranks."""
    flags = [flag] * world_size()
    if world_size() > 1:
        dist.all_gather_object(flags, flag)
    return any(flags)


def from_first(value: Any) -> Any:
    """The value of rank 0, on all ranks."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def barrier() -> None:
    """Wait until all ranks are here."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """A context that rank 0 goes through before the others, who then find the files it wrote."""
    if rank() > 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def parallel(model: nn.Module) -> nn.Module:
    """The model to call in training (DistributedDataParallel).

    Its gradients become their mean over all ranks, so that the ranks minimize the mean of their
    losses. Parameters and buffers become those of rank 0 at once; afterwards the owner of a buffer
    must keep it equal on all ranks.
    """
    if world_size() == 1:
        return model
    wrapped = DistributedDataParallel(model)
    # Quantizers keep their buffers equal themselves, by `sum_`.
    wrapped.broadcast_buffers = False
    return wrapped


def average_gradients_(module: nn.Module) -> None:
    """Give the parameters of a module the mean of their gradients over all ranks.

    For a module that is called more than once before its backward pass, which `parallel` does not
    allow.
    """
    for parameter in module.parameters():
        if parameter.grad is not None:
            mean_(parameter.grad)


def whole(parameter: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The whole tensor, where FSDP2 has divided it among the ranks; otherwise the tensor itself."""
    if hasattr(parameter, "full_tensor"):
        return parameter.full_tensor()
    return parameter


def assign_(parameter: Float[Tensor, "*shape"], values: Float[Tensor, "*shape"]) -> None:
    """Write values, which are the same on all ranks, into a parameter that may be divided.

    Raises:
        ValueError: For what is computed from a parameter, where the values would be lost.
    """
    if not isinstance(parameter, nn.Parameter):
        raise ValueError(
            f"the codebook is computed, a {type(parameter).__name__}; codes cannot be written into "
            "it (take its parametrization away first)"
        )
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        values = distribute_tensor(
            values, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    parameter.copy_(values)


def gather(rows: Float[Tensor, "N D"], ragged: bool = False) -> Float[Tensor, "M D"]:
    """The rows of all ranks in their order, with gradient to the rows of this rank.

    Args:
        rows: The rows of this rank.
        ragged: Whether the ranks may have different numbers of rows, which waits for the device.

    Raises:
        ValueError: If the numbers differ and `ragged` is False, on the CPU. On a GPU this check
            would wait for the device; TORCH_DISTRIBUTED_DEBUG=DETAIL makes PyTorch do it.
    """
    if world_size() == 1:
        return rows
    if not ragged and rows.device.type != "cpu":
        return _Gather.apply(rows)
    counts = _numbers_of_rows(rows)
    if counts == [len(rows)] * world_size():
        return _Gather.apply(rows)
    if not ragged:
        raise ValueError(f"the ranks have {counts} latents; all must have as many")
    # Padded to the same length for the exchange, and cut afterwards.
    longest = max(counts)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, longest - len(rows)))
    everyone = _Gather.apply(padded).split(longest)
    return torch.cat([part[:count] for part, count in zip(everyone, counts, strict=True)])


def _numbers_of_rows(rows: Tensor) -> list[int]:
    """How many rows each rank has."""
    counts = torch.empty(world_size(), dtype=torch.int64, device=rows.device)
    own = torch.tensor([len(rows)], device=rows.device)
    dist.all_gather_into_tensor(counts, own)
    return counts.tolist()


class _Gather(torch.autograd.Function):
    """The rows of all ranks; backward sums what all ranks say about the rows of each."""

    @staticmethod
    def forward(ctx, rows):
        everyone = rows.new_empty(len(rows) * world_size(), *rows.shape[1:])
        dist.all_gather_into_tensor(everyone, rows.contiguous())
        return everyone

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        own = gradient.new_empty(len(gradient) // world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def own_codes(count: int) -> slice:
    """The codes that this rank works on, of `count`; shares differ by one at most."""
    first = rank() * count // world_size()
    end = (rank() + 1) * count // world_size()
    return slice(first, end)


def gathered_margin(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    loss: Callable[[Tensor, Tensor], Tensor],
    ragged: bool = False,
) -> Float[Tensor, ""]:
    """A margin loss over the latents of all ranks, each of which does its share of the codes.

    The mean of the result over the ranks is the loss, and so is its gradient with `parallel`: a
    rank gives the sum over its codes, times the number of ranks, divided by K.

    Args:
        latents: The latents of this rank.
        codebook: The codebook, the same on all ranks.
        loss: `loss(latents, codes)`, a mean over codes.
        ragged: Whether the ranks may have different numbers of latents.
    """
    codes = codebook[own_codes(len(codebook))]
    share = len(codes) * world_size() / len(codebook)
    return loss(gather(latents, ragged), codes) * share
