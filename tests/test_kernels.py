"""The Triton kernels against formulas in float64.

The cases marked `runs` need something that runs a kernel: a CUDA GPU, or Triton's interpreter, in which one test
starts this file once more in a process of its own.
"""

import inspect
import math
import os
import subprocess
import sys
import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arcvq import kernels, streaming

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA GPU")
runs = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or the interpreter")


@pytest.mark.skipif(INTERPRETED, reason="runs already")
def test_every_case_holds_in_tritons_interpreter():
    pytest.importorskip("triton", reason="Triton is not made for this system")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(command, env=environment | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def whole_matrix_loss(latents, codebook, margin, scale, top_k):
    """The formula of the paper in float64 with all K x N angles at once, differentiable."""
    cosines = torch.nn.functional.normalize(codebook, dim=1) @ torch.nn.functional.normalize(latents, dim=1).T
    chosen = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, cosines.topk(top_k, dim=1).indices, True)
    sine = (1 - cosines.square()).clamp_min(1e-300).sqrt()
    shifted = cosines * math.cos(margin) - sine * math.sin(margin)
    shifted = torch.where(cosines < -math.cos(margin), cosines + math.cos(margin) - 1, shifted)
    logits = scale * torch.where(chosen, shifted, cosines)
    return (logits.logsumexp(1) - logits.masked_fill(~chosen, -math.inf).logsumexp(1)).mean()


def random(count, dim):
    return torch.randn(count, dim, device=DEVICE) * torch.rand(count, 1, device=DEVICE).mul_(5).exp()


def clustered(count, dim):
    return random(5, dim)[torch.arange(count) % 5] + 0.05 * random(count, dim)


def compare(latents, codebook, margin, scale, top_k, with_gradient=True):
    exact = latents.double().requires_grad_()
    expected = whole_matrix_loss(exact, codebook.double(), margin, scale, top_k)
    (slope,) = torch.autograd.grad(expected, exact)
    loss, got = kernels.margin_loss(latents, codebook, margin, scale, top_k, with_gradient)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=2e-7)
    if with_gradient:
        assert (got - slope).abs().max() <= 1e-5 * slope.abs().max() + 1e-9


@runs
@pytest.mark.parametrize("top_k", [1, 3, 64])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.2])
@pytest.mark.parametrize("rows, scale", [(random, 5.0), (clustered, 32.0)])
def test_the_loss_and_its_gradient_equal_the_formula(rows, scale, margin, top_k):
    # two chunks and one of 45 latents; a tile of codes and one of 6
    compare(rows(301, 20), random(70, 20), margin, scale, top_k)


@runs
@pytest.mark.parametrize("count, num_codes, dim, top_k", [
    (1, 1, 3, 1), (1, 7, 64, 1), (3, 1, 20, 3), (3, 66, 3, 2), (64, 9, 64, 64), (65, 129, 20, 64), (128, 1, 3, 3),
    (130, 4, 256, 100), (1000, 2, 3, 1), (33, 32, 1, 2), (400, 3, 100, 400),
])  # fmt: skip
def test_every_shape_around_a_tile_equals_the_formula(count, num_codes, dim, top_k):
    compare(random(count, dim), random(num_codes, dim), 0.1, 5.0, top_k)


@runs
@pytest.mark.parametrize("top_k", [1, 3, 64])
def test_duplicated_latents_and_codes_give_the_loss_of_the_formula(top_k):
    """Which of equal latents is chosen is free, and with it the gradient, but not the loss."""
    latents, codebook = random(60, 20).repeat(5, 1), random(6, 20).repeat(4, 1)
    compare(latents, codebook, 0.1, 5.0, top_k, with_gradient=False)
    compare(torch.cat([latents, codebook]), codebook, 0.0, 5.0, top_k, with_gradient=False)


@runs
@pytest.mark.parametrize("group", [1, 100_000])
def test_the_loss_is_the_same_whatever_the_groups(group, monkeypatch):
    monkeypatch.setattr(kernels, "GROUP", group)
    assert kernels.group_rows(40, 200, 8, 3) < 40
    compare(random(200, 8), random(40, 8), 0.1, 5.0, 3)


@runs
def test_a_latent_without_direction_gets_no_gradient_and_moves_nothing_else():
    latents, codebook = random(80, 4), random(5, 4)
    latents[7], latents[8] = 0, 1e-13
    loss, gradient = kernels.margin_loss(latents, codebook, 0.1, 5.0, 3)
    expected, slope = streaming.margin_loss(latents, codebook, 0.1, 5.0, 3)
    assert torch.allclose(loss, expected) and torch.allclose(gradient, slope, atol=1e-7)
    assert not gradient[7:9].any() and gradient[9].any()


@runs
def test_rows_apart_in_memory_are_read_as_they_are():
    latents, codebook = random(90, 14), random(30, 14)
    loss, gradient = kernels.margin_loss(latents[::2, ::2], codebook[:, 7:], 0.1, 5.0, 3)
    expected, slope = streaming.margin_loss(latents[::2, ::2], codebook[:, 7:], 0.1, 5.0, 3)
    assert torch.allclose(loss, expected) and torch.allclose(gradient, slope, atol=1e-7)
    chosen = kernels.nearest_code(latents[::2, ::2], codebook[:, 7:], "euclidean")
    assert torch.equal(chosen, streaming.nearest_code(latents[::2, ::2], codebook[:, 7:], "euclidean"))


@runs
@pytest.mark.parametrize("count, num_codes, dim", [(1, 1, 1), (100, 150, 3), (65, 64, 20), (64, 65, 64), (3, 40, 256)])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_code_is_that_of_float64(count, num_codes, dim, metric):
    latents, codebook = random(count, dim), random(num_codes, dim)
    latents[0] = 0
    chosen = kernels.nearest_code(latents, codebook, metric)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, streaming.nearest_code(latents.double(), codebook.double(), metric))


@runs
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_equal_codes_the_lowest_index_is_taken(metric):
    """Whole numbers, so that equal scores are exactly equal; equal codes lie in one tile and in others."""
    codebook = torch.randint(-3, 4, (45, 3), device=DEVICE).float().repeat(4, 1)
    latents = torch.randint(-3, 4, (130, 3), device=DEVICE).float()
    chosen = kernels.nearest_code(latents, codebook, metric)
    assert (chosen < 45).all()
    assert torch.equal(codebook[chosen], codebook[streaming.nearest_code(latents, codebook, metric)])
    for index in chosen.unique().tolist():
        assert not (codebook[:index] == codebook[index]).all(1).any()


@runs
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_rows_that_are_no_numbers_give_an_index_within_the_codebook(broken):
    latents, codebook = random(70, 4), random(80, 4)
    latents[3], codebook[:3] = broken, broken
    for metric in ("cosine", "euclidean"):
        chosen = kernels.nearest_code(latents, codebook, metric)
        assert 0 <= chosen.min() and chosen.max() < 80 and chosen[3] == 0
    assert kernels.margin_loss(latents, codebook, 0.1, 5.0, 3)[0].isnan()


class Held(TorchDispatchMode):
    """The largest number of bytes that lived at once in tensors that operations gave."""

    def __init__(self):
        super().__init__()
        self.holders, self.now, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.now += size if not self.holders[key] else 0
        self.holders[key] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self.release, key, size)

    def release(self, key, size):
        self.holders[key] -= 1
        self.now -= size if not self.holders[key] else 0


class Nothing:
    """In place of a kernel."""

    def __getitem__(self, grid):
        return lambda *arguments, **sizes: None


@pytest.mark.parametrize("dim, top_k", [(64, 3), (256, 3), (256, 64), (64, 1000)])
def test_memory_stays_within_256_mib_and_no_value_is_asked_for_at_the_largest_size(dim, top_k, monkeypatch):
    """Tensors without values, so that whatever asks for one fails, and all that PyTorch holds is counted."""
    for name in ("_scan", "_look", "_push", "_tangent", "_nearest"):
        monkeypatch.setattr(kernels, name, Nothing())
    latents, codebook = torch.empty(1_048_576, dim, device="meta"), torch.empty(65_536, dim, device="meta")
    with Held() as held:
        kernels.margin_loss(latents, codebook, 0.1, 5.0, top_k)
    gradient = 4 * latents.numel()
    rows = kernels.group_rows(*map(len, (codebook, latents)), dim, top_k)
    plan = 4 * codebook.numel() + 12 * len(latents) + rows * kernels.bytes_per_code(len(latents), dim, top_k)
    assert gradient < held.peak <= gradient + 1.01 * plan <= gradient + (1 << 28)
    with Held() as held:
        kernels.nearest_code(latents, codebook, "euclidean")
    assert held.peak <= 1 << 28


def test_only_float32_rows_on_a_gpu_are_usable():
    assert not kernels.usable(torch.randn(4, 3), torch.randn(5, 3))


@on_gpu
def test_which_rows_on_a_gpu_are_usable():
    rows = torch.randn(4, 3, device="cuda")
    assert kernels.usable(rows, rows) == (torch.cuda.get_device_capability() >= (8, 0))
    for latents, codes in [(rows.double(), rows.double()), (rows, rows.cpu()), (rows[:0], rows), (rows, rows[:0]),
                           (rows[:, :0], rows[:, :0]), (rows.repeat(1, 100), rows.repeat(1, 100))]:
        assert not kernels.usable(latents, codes)


POINTERS = {"chosen": "*i64", "bits": "*i32"}
LENGTHS = ("count", "num_codes", "chunks", "per_code")
COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from arcvq import kernels
LENGTHS, POINTERS = ("count", "num_codes", "chunks", "per_code"), {"chosen": "*i64", "bits": "*i32"}

class Compiled:
    def __init__(self, kernel): self.kernel = kernel
    def __getitem__(self, grid): return self
"""


@on_gpu
@pytest.mark.parametrize("count, num_codes, dim, top_k", [(65_536, 4_096, 64, 3), (20_000, 1_000, 256, 64)])
def test_large_sizes_on_a_gpu_equal_the_operations_in_float64(count, num_codes, dim, top_k):
    latents, codebook = random(count, dim), random(num_codes, dim)
    loss, gradient = kernels.margin_loss(latents, codebook, 0.1, 5.0, top_k)
    expected, slope = streaming.margin_loss(latents.double(), codebook.double(), 0.1, 5.0, top_k)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - slope).abs().max() <= 1e-5 * slope.abs().max()
    same = kernels.nearest_code(latents, codebook) == streaming.nearest_code(latents.double(), codebook.double())
    assert same.float().mean() > 0.9999  # two codes may be as near as float32 can tell


@on_gpu
def test_memory_on_a_gpu_stays_within_256_mib():
    latents, codebook = random(1_048_576, 64), random(2_048, 64)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernels.margin_loss(latents, codebook, 0.1, 5.0, 3)
    assert torch.cuda.max_memory_allocated() - before - 4 * latents.numel() <= 1 << 28


@on_gpu
def test_a_cuda_graph_holds_the_loss_and_the_lookup():
    latents, codebook = random(1_000, 64), random(300, 64)

    def work():
        return *kernels.margin_loss(latents, codebook, 0.1, 5.0, 3), kernels.nearest_code(latents, codebook)

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = work()
    latents.copy_(random(1_000, 64))
    graph.replay()
    for one, other in zip(held, work(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
