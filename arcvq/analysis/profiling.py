"""What a training step and its parts cost, measured next to the least that they could cost.

The floor of the margin loss is two matrix products over codes, latents and dimensions: one for the
cosines, one for the gradient. The floor of a lookup is one product.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from arcvq.images import ImageData
from arcvq.ops import reference
from arcvq.quantizers import Quantizer, SphericalQuantizer, nearest_code
from arcvq.runtime.devices import dtype_name
from arcvq.samp import SAMP, arc_margin_loss
from arcvq.training import Compute, Optimization, Recording, VQVAESession
from arcvq.vqvae import VQVAE

MIB = 1 << 20
FLOOR_ENTRIES = 1 << 28  # 1 GiB: larger products for the floor are computed in parts
PLAIN_ENTRIES = 1 << 25  # 128 MiB: the plain loss, which holds eight K x N matrices, stops there
SIZES = ("num_codes", "count", "dim")
TIMES = ("floor", "loss", "plain", "lookup_floor", "lookup")
MEMORY = ("memory", "plain_memory")

Action = Callable[[], object]


def plain_step(quantizer: Quantizer, data: ImageData, batch_size: int) -> Action:
    """A training step as one would write it first: float32, PyTorch's defaults, one fixed batch.

    Args:
        quantizer: What to train.
        data: Its first training images are the batch.
        batch_size: The number of images.

    Returns:
        A function that takes one step.
    """
    model = _build_model(quantizer, data)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    batch = data.train.batch(torch.arange(batch_size))

    def step() -> None:
        output = model(batch)
        error = mse_loss(output.reconstruction, batch) / data.variance
        optimizer.zero_grad()
        (error + output.quantized.loss).backward()
        optimizer.step()
        model.quantizer.after_step()

    return step


def fitted_step(
    quantizer: Quantizer,
    data: ImageData,
    batch_size: int,
    dtype: torch.dtype,
    cuda_graph: bool = False,
    hidden: int = 128,
) -> Action:
    """A training step as `fit` takes it, including the choice of the images.

    Args:
        quantizer: What to train.
        data: The images to train on.
        batch_size: The number of images in a batch.
        dtype: The precision of encoder and decoder.
        cuda_graph: Replay the step as a CUDA graph; see `Compute`.
        hidden: Channels of encoder and decoder.

    Returns:
        A function that takes one step.
    """
    model = _build_model(quantizer, data, hidden)
    optimization = Optimization(steps=1, batch_size=batch_size, lr=3e-4, seed=0)
    compute = Compute(data.device, dtype_name(dtype), cuda_graph)
    return VQVAESession(model, data, optimization, compute, Recording()).advance


def _build_model(quantizer: Quantizer, data: ImageData, hidden: int = 128) -> VQVAE:
    """A model on the device of the images; SAMP gets settings if it has none."""
    if isinstance(quantizer, SphericalQuantizer) and quantizer.samp is None:
        quantizer.samp = SAMP.for_run(10_000)
    return VQVAE(data.channels, quantizer, hidden=hidden).to(data.device)


def margin_costs(
    sizes: Iterable[tuple[int, int]],
    dim: int = 64,
    device: str | torch.device = "cpu",
    repeats: int = 5,
) -> pd.DataFrame:
    """Measure time and memory of the margin loss with its gradient, and time of the lookup.

    Args:
        sizes: Pairs (K, N) of the number of codes and of latents, which are random.
        dim: D.
        device: Where to measure.
        repeats: How many times each median is over.

    Returns:
        A row for each size. Median seconds: `floor`, two matrix products; `loss`, the margin loss;
        `plain`, the loss over the whole matrix; `lookup_floor`, one product; `lookup`. MiB beyond
        inputs and gradient: `memory`, `plain_memory`. The plain loss is NaN above 2^25 entries.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []
    for num_codes, count in tqdm(list(sizes), desc="sizes", unit="size"):
        latents = torch.randn(count, dim, generator=generator).to(device).requires_grad_()
        codebook = torch.randn(num_codes, dim, generator=generator).to(device)
        actions = _margin_actions(latents, codebook)
        row = {"num_codes": num_codes, "count": count, "dim": dim}
        row |= side_by_side(actions, repeats).median().to_dict()
        for name, column in (("loss", "memory"), ("plain", "plain_memory")):
            if name in actions:
                peak = peak_memory(actions[name], latents, codebook)
                row[column] = (peak - latents.nbytes) / MIB
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=[*SIZES, *TIMES, *MEMORY])


def _margin_actions(latents: Tensor, codebook: Tensor) -> dict[str, Action]:
    """What `margin_costs` measures."""
    still = latents.detach()
    # The products write into memory that is there already, as far as their size allows.
    blocks = still.split(max(1, FLOOR_ENTRIES // len(codebook)))
    slopes = torch.empty_like(still).split(len(blocks[0]))
    cosines = codebook.new_empty(len(codebook), len(blocks[0]))
    top_k = min(3, len(latents))

    def one_product() -> None:
        for block in blocks:
            torch.mm(codebook, block.T, out=cosines[:, : len(block)])

    def two_products() -> None:
        for block, slope in zip(blocks, slopes, strict=True):
            found = torch.mm(codebook, block.T, out=cosines[:, : len(block)])
            torch.mm(found.T, codebook, out=slope)

    def differentiate(loss: Callable[..., Tensor]) -> None:
        value = loss(latents, codebook, margin=0.1, scale=5.0, top_k=top_k)
        torch.autograd.grad(value, latents)

    actions: dict[str, Action] = {"floor": two_products}
    actions["loss"] = partial(differentiate, arc_margin_loss)
    if len(latents) * len(codebook) <= PLAIN_ENTRIES:
        actions["plain"] = partial(differentiate, reference.margin_loss)
    actions["lookup_floor"] = one_product
    actions["lookup"] = partial(nearest_code, still, codebook)
    return actions


def side_by_side(actions: dict[str, Action], repeats: int = 9) -> pd.DataFrame:
    """Measure the time of several actions that take turns, after one round to warm up.

    Args:
        actions: What to measure, by name.
        repeats: The number of rounds.

    Returns:
        Seconds, a row for each round and a column for each action. On CUDA a time ends when the
        device has finished.
    """
    rows = []
    # All actions take turns in each round, so that a slow spell of the machine hits them alike.
    for _ in range(repeats + 1):
        rows.append({name: _seconds(action) for name, action in actions.items()})
    return pd.DataFrame(rows[1:])


def _seconds(action: Action) -> float:
    """How long an action takes."""
    _finish()
    began = time.perf_counter()
    action()
    _finish()
    return time.perf_counter() - began


def _finish() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(action: Action, *given: Tensor) -> int:
    """The most bytes that tensors made by an action hold at once.

    On CUDA this is what the allocator reports. Elsewhere it is counted tensor by tensor, without
    the scratch space of single operations.

    Args:
        action: What to measure.
        given: Tensors that were there before.
    """
    if given and given[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with _TensorMemory(given) as memory:
        action()
    return memory.peak


class _TensorMemory(TorchDispatchMode):
    """Adds up the bytes of all storages that operations make, for as long as they are in use."""

    def __init__(self, given: Iterable[Tensor]):
        super().__init__()
        self.peak = 0
        self.bytes: WeakKeyDictionary = WeakKeyDictionary()
        # What was there before counts nothing. The entry of a storage goes when the storage does.
        for tensor in given:
            self.bytes[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.bytes.setdefault(storage, storage.nbytes())
        self.peak = max(self.peak, sum(self.bytes.values()))
        return result
