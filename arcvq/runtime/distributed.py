"""One model trained by many processes (torch.distributed), each with its share of every batch.

A rank is one process. Without a group of processes there is one rank, number 0, and nothing here communicates. All
ranks must call the same functions in the same order.
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
    """Join the processes that `torchrun` started, leave them at the end, also after an error; alone, do nothing.

    Gives the device to work on: of the GPUs the one that LOCAL_RANK names (by NCCL), else the CPU (by gloo). Raises
    ValueError for another kind of device.
    """
    if "RANK" not in os.environ:
        yield device
        return
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r} cannot be used by many processes; use 'cpu' or 'cuda'")
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


def world_size() -> int:
    """How many ranks there are, from 1."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool) -> bool:
    """True where it is true for at least one rank. Waits for all ranks."""
    flags = [flag] * world_size()
    if world_size() > 1:
        dist.all_gather_object(flags, flag)
    return any(flags)


def from_first(value: Any) -> Any:
    """What rank 0 has, on all ranks, so that they decide alike."""
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
    """Rank 0 does what is inside, and then the others, who find the files that it wrote."""
    if rank() > 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def parallel(model: nn.Module) -> nn.Module:
    """The model to call in training: its gradients become their mean over all ranks (DistributedDataParallel).

    So the mean over the ranks of the loss is what they minimise. Parameters and buffers become rank 0's at once; the
    owner of a buffer must keep it equal from then on.
    """
    if world_size() == 1:
        return model
    wrapped = DistributedDataParallel(model)
    wrapped.broadcast_buffers = False
    return wrapped


def gather(rows: Float[Tensor, "N D"]) -> Float[Tensor, "M D"]:
    """The rows of all ranks in their order, with gradient to this rank's own; M is N times the ranks.

    All ranks must have as many. On the CPU ValueError is raised where they have not; on a GPU the check would wait
    for the device, and TORCH_DISTRIBUTED_DEBUG=DETAIL makes PyTorch do it.
    """
    if world_size() == 1:
        return rows
    if rows.device.type == "cpu":
        counts = torch.empty(world_size(), dtype=torch.int64)
        dist.all_gather_into_tensor(counts, torch.tensor([len(rows)]))
        if (counts != len(rows)).any():
            raise ValueError(f"the ranks have {counts.tolist()} latents; all must have as many")
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """Rows of all ranks; backward sums what all ranks say about the rows of each."""

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
    """The codes, of `count`, that this rank works on: shares differ by at most one, and may be empty."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def gathered_margin(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, ""]:
    """`loss(latents, codebook)`, a mean over codes, with the latents of all ranks; each rank does its share of codes.

    The mean over the ranks of the result is the loss, and so is its gradient as DistributedDataParallel takes it: a
    rank gives back the sum over its codes times the number of ranks, divided by K. All ranks must have as many
    latents (see `gather`) and the same codebook.
    """
    own = codebook[own_codes(len(codebook))]
    return loss(gather(latents), own) * (len(own) * world_size() / len(codebook))
