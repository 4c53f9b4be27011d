"""What a step costs, measured side by side with the least that it could take.

The floor of the margin loss is two matrix products over codes, latents and dimensions: one for the cosines, one for
the gradient. The floor of a lookup is one.
"""

import math
import time
import weakref
from collections.abc import Callable, Iterable

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
FLOOR_ENTRIES = 1 << 28  # of the products that make the floor, 1 GiB; larger ones are done in parts
PLAIN_ENTRIES = 1 << 25  # of a K x N matrix that is still measured whole: 128 MiB, of which plain SAMP holds eight


def plain_step(quantizer: Quantizer, images: ImageData, batch_size: int, **sizes: int) -> Callable[[], None]:
    """A training step as one writes it first: float32, everything as PyTorch comes, one batch that lies ready.

    sizes: those of `VQVAE`, also in `fitted_step`.
    """
    model = _model(quantizer, images, **sizes)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    batch = images.train.batch(torch.arange(batch_size))

    def step():
        output = model(batch)
        error = mse_loss(output.reconstruction, batch) / images.variance
        optimizer.zero_grad()
        (error + output.quantized.loss).backward()
        optimizer.step()
        model.quantizer.after_step()

    return step


def fitted_step(
    quantizer: Quantizer,
    images: ImageData,
    batch_size: int,
    dtype: torch.dtype,
    cuda_graph: bool = False,
    **sizes: int,
) -> Callable[[], None]:
    """A training step as `fit` does it in this precision, from the choice of the images on.

    cuda_graph: see `Compute`.
    """
    model = _model(quantizer, images, **sizes)
    optimization = Optimization(steps=1, batch_size=batch_size, lr=3e-4, seed=0)
    compute = Compute(images.device, dtype_name(dtype), cuda_graph)
    return VQVAESession(model, images, optimization, compute, Recording()).advance


def _model(quantizer: Quantizer, images: ImageData, **sizes: int) -> VQVAE:
    if isinstance(quantizer, SphericalQuantizer):
        quantizer.samp = quantizer.samp or SAMP.for_run(10_000)
    return VQVAE(images.channels, quantizer, **sizes).to(images.device)


def margin_costs(
    sizes: Iterable[tuple[int, int]], dim: int = 64, device: str | torch.device = "cpu", repeats: int = 5
) -> pd.DataFrame:
    """Time and memory of the margin loss with its gradient and of the lookup, a row for each (K, N), random vectors.

    Medians in seconds: `floor`, two matrix products; `loss`; `plain`, the whole matrix (NaN above 2^25 entries);
    `lookup_floor`, one product; `lookup`. In MiB beyond the inputs and the gradient: `memory`, `plain_memory`.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []
    for num_codes, count in tqdm(list(sizes), desc="sizes", unit="size"):
        latents = torch.randn(count, dim, generator=generator).to(device).requires_grad_()
        codebook = torch.randn(num_codes, dim, generator=generator).to(device)
        actions = _margin_actions(latents, codebook, plain=num_codes * count <= PLAIN_ENTRIES)
        times = side_by_side(actions, repeats).median().to_dict()
        memory = {name: peak_memory(actions[name], latents, codebook) - latents.nbytes for name in actions
                  if name in ("loss", "plain")}
        rows.append({"num_codes": num_codes, "count": count, "dim": dim, **times, "memory": memory["loss"] / MIB,
                     "plain_memory": memory.get("plain", math.nan) / MIB})
    return pd.DataFrame(rows)


def _margin_actions(latents: Tensor, codebook: Tensor, plain: bool) -> dict[str, Callable[[], object]]:
    still = latents.detach()
    parts = still.split(max(1, FLOOR_ENTRIES // len(codebook)))
    cosines, gradient = codebook.new_empty(len(codebook), len(parts[0])), torch.empty_like(still)

    def products(both: bool):
        for part, slope in zip(parts, gradient.split(len(parts[0])), strict=True):
            found = torch.mm(codebook, part.T, out=cosines[:, : len(part)])
            if both:
                torch.mm(found.T, codebook, out=slope)

    settings = {"margin": 0.1, "scale": 5.0, "top_k": min(3, len(latents))}
    losses = {"loss": arc_margin_loss, "plain": reference.margin_loss} if plain else {"loss": arc_margin_loss}
    slopes = {name: lambda loss=loss: torch.autograd.grad(loss(latents, codebook, **settings), latents)
              for name, loss in losses.items()}
    lookups = {"lookup_floor": lambda: products(False), "lookup": lambda: nearest_code(still, codebook)}
    return {"floor": lambda: products(True), **slopes, **lookups}


def side_by_side(actions: dict[str, Callable[[], object]], repeats: int = 9) -> pd.DataFrame:
    """Seconds of each action (a column), a row for each of `repeats` rounds in which all take turns, after a warm-up.

    On CUDA each time ends when the device has finished.
    """
    rows = [{name: _seconds(action) for name, action in actions.items()} for _ in range(repeats + 1)]
    return pd.DataFrame(rows[1:])


def _seconds(action: Callable[[], object]) -> float:
    _finish()
    began = time.perf_counter()
    action()
    _finish()
    return time.perf_counter() - began


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(action: Callable[[], object], *given: Tensor) -> int:
    """The most bytes that tensors made by `action` hold at once; `given` are those that were there before.

    On CUDA what the allocator says; elsewhere counted tensor by tensor, without the scratch space of single operations.
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
    """Counts the bytes of all storages that operations make, from their first tensor to their last."""

    def __init__(self, given: Iterable[Tensor]):
        super().__init__()
        self.held = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in given}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.sizes:
                storage = leaf.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
        return result

    def free(self, storage: int) -> None:
        self.held -= self.sizes.pop(storage)
