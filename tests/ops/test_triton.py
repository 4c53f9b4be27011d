"""The Triton kernels against formulas in float64.

The cases marked `runs` need something that runs a kernel: a CUDA GPU, or Triton's interpreter, in
which one test starts this file once more in a process of its own.
"""

import math
import os
import subprocess
import sys
import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arcvq.ops import loss_and_gradient, margin_loss, nearest_code, triton
from tests.oracles import whole_matrix_loss

KERNELS = ("scan_kernel", "logits_kernel", "push_kernel", "tangent_kernel", "best_kernel")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA GPU")
runs = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs CUDA or the interpreter"
)


usable = triton.usable


@pytest.fixture(autouse=True)
def float32_goes_to_the_kernels(monkeypatch):
    """On the interpreter's and on meta tensors too; float64 rows go to `blockwise`."""
    monkeypatch.setattr(triton, "usable", lambda latents, codebook: latents.dtype == torch.float32)


@pytest.mark.skipif(INTERPRETED, reason="runs already")
@pytest.mark.timeout(900)  # the interpreter is slow on a busy machine
def test_every_case_holds_in_tritons_interpreter():
    pytest.importorskip("triton", reason="Triton is not made for this system")
    environment = {"TRITON_INTERPRET": "1"}
    for name, value in os.environ.items():
        if not name.startswith("PYTEST_"):
            environment[name] = value
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", __file__, *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def random(count, dim):
    """Norms over two orders of magnitude; the same rows on every device."""
    directions = torch.randn(count, dim)
    norms = torch.rand(count, 1).mul_(5).exp()
    return (directions * norms).to(DEVICE)


def clustered(count, dim):
    centers = random(5, dim)[torch.arange(count) % 5]
    return centers + 0.05 * random(count, dim)


def compare(latents, codebook, margin, scale, top_k, with_gradient=True):
    exact = latents.double().requires_grad_()
    expected = whole_matrix_loss(exact, codebook.double(), margin, scale, top_k)
    (slope,) = torch.autograd.grad(expected, exact)
    loss, got = loss_and_gradient(
        latents, codebook, margin, scale, top_k, with_gradient=with_gradient
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=2e-7)
    if with_gradient:
        assert (got - slope).abs().max() <= 1e-5 * slope.abs().max() + 1e-9


@runs
@pytest.mark.parametrize(("top_k", "margin"), [(1, 0.0), (3, 0.1), (3, 1.2), (64, 0.5)])
@pytest.mark.parametrize(("rows", "scale"), [(random, 5.0), (clustered, 32.0)])
def test_the_loss_and_its_gradient_equal_the_formula(rows, scale, margin, top_k):
    # Two chunks and one of 44 latents; in the gradient, a tile of codes and one of 2. In these rows
    # no two latents are so near to being a code's last nearest that float32 and float64 choose
    # differently.
    compare(rows(300, 20), random(34, 20), margin, scale, top_k)


SIZES = [
    (1, 1, 3, 1),
    (1, 7, 64, 1),
    (3, 1, 20, 3),
    (3, 66, 3, 2),
    (64, 9, 64, 64),
    (65, 129, 20, 64),
    (128, 1, 3, 3),
    (130, 4, 256, 100),
    (1000, 2, 3, 1),
    (33, 32, 2, 2),
    (400, 3, 100, 400),
]


@runs
@pytest.mark.parametrize(("count", "num_codes", "dim", "top_k"), SIZES)
def test_every_shape_around_a_tile_equals_the_formula(count, num_codes, dim, top_k):
    compare(random(count, dim), random(num_codes, dim), 0.1, 5.0, top_k)


@runs
@pytest.mark.parametrize("top_k", [1, 3, 64])
def test_duplicated_latents_and_codes_give_the_loss_of_the_formula(top_k):
    """Which of equal latents is chosen is free, and with it the gradient, but not the loss."""
    latents = random(30, 20).repeat(5, 1)
    codebook = random(6, 20).repeat(4, 1)
    compare(latents, codebook, 0.1, 5.0, top_k, with_gradient=False)
    compare(torch.cat([latents, codebook]), codebook, 0.0, 5.0, top_k, with_gradient=False)


@runs
@pytest.mark.parametrize("group", [1, 10_000])
def test_the_loss_is_the_same_whatever_the_groups(group, monkeypatch):
    monkeypatch.setattr(triton, "GROUP", group)
    assert triton.group_rows(7, 200, 8, 3) < 7
    compare(random(200, 8), random(7, 8), 0.1, 5.0, 3)


@runs
def test_a_latent_without_direction_gets_no_gradient_and_moves_nothing_else():
    latents = random(80, 4)
    latents[7] = 0
    latents[8] = 1e-13
    codebook = random(5, 4)
    compare_with_float64(latents, codebook)
    _, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    assert not gradient[7:9].any()
    assert gradient[9].any()


@runs
def test_rows_of_zeros_are_at_right_angles_to_all():
    latents = random(6, 4)
    codebook = random(4, 4)
    latents[:2] = 0
    codebook[1] = 0
    exact = latents.double().requires_grad_()
    expected = whole_matrix_loss(exact, codebook.double(), 0.1, 5.0, 3)
    (slope,) = torch.autograd.grad(expected, exact)
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient[2:].double(), slope[2:], atol=1e-6)


def compare_with_float64(latents, codebook):
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    expected, slope = loss_and_gradient(latents.double(), codebook.double(), 0.1, 5.0, 3)
    assert torch.allclose(loss.double(), expected)
    assert torch.allclose(gradient.double(), slope, atol=1e-7)


@runs
@pytest.mark.parametrize(
    "part", [lambda rows: rows[::2, ::2], lambda rows: rows[:, 5:], lambda rows: rows.T]
)
def test_rows_apart_in_memory_are_read_as_they_are(part):
    latents = part(random(90, 90))
    codebook = part(random(90, 90))
    compare_with_float64(latents, codebook)
    for metric in ("cosine", "euclidean"):
        chosen = nearest_code(latents, codebook, metric)
        assert torch.equal(chosen, nearest_in_float64(latents, codebook, metric))


def nearest_in_float64(latents, codebook, metric="cosine"):
    return nearest_code(latents.double(), codebook.double(), metric)


LOOKUPS = [(1, 1, 1), (100, 150, 3), (65, 64, 20), (64, 65, 64), (3, 40, 256)]


@runs
@pytest.mark.parametrize(("count", "num_codes", "dim"), LOOKUPS)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_code_is_that_of_float64(count, num_codes, dim, metric):
    latents = random(count, dim)
    codebook = random(num_codes, dim)
    latents[0] = 0
    chosen = nearest_code(latents, codebook, metric)
    assert chosen.tolist() == nearest_in_float64(latents, codebook, metric).tolist()


@runs
@pytest.mark.parametrize("dim", [16, 64])
def test_rows_close_together_and_far_from_the_origin_are_told_apart(dim):
    apart = torch.randn(300, dim).to(DEVICE)
    for metric, latents in [("euclidean", 300 + apart), ("cosine", 1 + 0.01 * apart)]:
        codebook = latents[:100]
        chosen = nearest_code(latents, codebook, metric)
        assert torch.equal(chosen, nearest_in_float64(latents, codebook, metric))
        assert chosen[:100].tolist() == list(range(100))


@runs
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_equal_codes_the_lowest_index_is_taken(metric):
    """Equal codes lie in one tile and in others.

    They are whole numbers along one axis each, so that equal scores of either metric are exactly
    equal, in whatever order a product is summed up.
    """
    lengths = torch.randint(1, 4, (45, 1)) * torch.randint(0, 2, (45, 1)).mul(2).sub(1)
    axes = torch.eye(16)[torch.randint(0, 16, (45,))]
    codebook = (lengths * axes).repeat(4, 1).to(DEVICE)
    latents = torch.randint(-3, 4, (130, 16)).float().to(DEVICE)
    chosen = nearest_code(latents, codebook, metric)
    assert (chosen < 45).all()
    for index in chosen.unique().tolist():
        equal = (codebook[:index] == codebook[index]).all(1)
        assert not equal.any()


class Held(TorchDispatchMode):
    """The largest number of bytes that lived at once in tensors that operations gave."""

    def __init__(self):
        super().__init__()
        self.holders = Counter()
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        for tensor in results:
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = storage.nbytes()
        if not self.holders[key]:
            self.now += size
        self.holders[key] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self.release, key, size)

    def release(self, key, size):
        self.holders[key] -= 1
        if not self.holders[key]:
            self.now -= size


class LaunchesNothing:
    """In place of a kernel."""

    def __getitem__(self, grid):
        return lambda *arguments, **sizes: None


@pytest.mark.skipif(INTERPRETED, reason="runs already")
@pytest.mark.parametrize(("dim", "top_k"), [(64, 3), (256, 3), (256, 64)])
def test_memory_stays_within_256_mib_and_no_value_is_asked_for_at_the_largest_size(
    dim, top_k, monkeypatch
):
    """On tensors without values: what asks for one fails, and all that PyTorch holds is counted."""
    for name in KERNELS:
        monkeypatch.setattr(triton, name, LaunchesNothing())
    count = 1_048_576
    num_codes = 65_536
    latents = torch.empty(count, dim, device="meta")
    codebook = torch.empty(num_codes, dim, device="meta")
    with Held() as held:
        loss_and_gradient(latents, codebook, 0.1, 5.0, top_k)
    gradient = 4 * latents.numel()
    rows = triton.group_rows(num_codes, count, dim, top_k)
    group = rows * triton.bytes_per_code(count, dim, top_k)
    plan = 4 * codebook.numel() + 12 * count + group
    assert gradient < held.peak <= gradient + 1.01 * plan <= gradient + (1 << 28)
    with Held() as held:
        triton.best_scores(latents, codebook, center=codebook[0], bias=None)
    assert held.peak <= 1 << 28


def test_only_float32_rows_on_a_gpu_are_usable():
    assert not usable(torch.randn(4, 3), torch.randn(5, 3))


@on_gpu
def test_which_rows_on_a_gpu_are_usable():
    rows = torch.randn(4, 3, device="cuda")
    assert usable(rows, rows) == (torch.cuda.get_device_capability() >= (8, 0))
    for unusable in (rows.double(), rows[:, :0], rows.repeat(1, 100)):
        assert not usable(unusable, unusable)
    for codes in (rows.cpu(), rows.double(), rows[:0]):
        assert not usable(rows, codes)
        assert not usable(codes, rows)


@on_gpu
def test_torch_func_differentiates_through_the_lookup_and_the_loss(monkeypatch):
    monkeypatch.setattr(triton, "usable", usable)
    codebook = random(20, 6)

    def loss(latents):
        codes = codebook[nearest_code(latents, codebook)]
        return (latents - codes).square().sum() + margin_loss(latents, codebook, 0.1, 5.0, 3)

    latents = random(50, 6).requires_grad_()
    (expected,) = torch.autograd.grad(loss(latents), latents)
    torch.testing.assert_close(torch.func.grad(loss)(latents.detach()), expected)


class Compiling:
    """In place of a kernel: compiles it for what it is called with, and launches nothing."""

    def __init__(self, kernel, capability):
        self.kernel = kernel
        self.capability = capability
        self.made = []

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, num_warps, enable_fp_fusion, **sizes):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        # What Triton's just-in-time compiler makes of the arguments: a 1 is a constant, and it is
        # told which pointers and numbers are multiples of 16.
        names = self.kernel.arg_names
        values = dict(zip(names, arguments, strict=False)) | sizes
        constants = dict(sizes)
        signature = {}
        attributes = {}
        for place, name in enumerate(names):
            value = values[name]
            kind = POINTERS.get(getattr(value, "dtype", None), "i32")
            if isinstance(value, int) and value == 1:
                constants[name] = 1
            if name in constants:
                signature[name] = "constexpr"
                continue
            signature[name] = kind
            if kind != "i32" or value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
        target = GPUTarget("cuda", self.capability, 32)
        self.made.append(triton.compile(source, target=target, options=options))


POINTERS = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}

# Bytes of shared memory that a program may have on the smallest of these GPUs (8.6, 8.9, 12.0).
SHARED = 99 << 10

TARGETS = [
    (80, 6_272, 512, 64),
    (90, 6_272, 512, 64),
    (90, 1, 1, 3),
    (90, 1_001, 101, 256),
    (120, 6_272, 512, 128),
]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("capability", "count", "num_codes", "dim"), TARGETS)
def test_every_kernel_compiles_to_machine_code_that_fits(
    capability, count, num_codes, dim, monkeypatch, tmp_path
):
    pytest.importorskip("triton", reason="Triton is not made for this system")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in KERNELS:
        monkeypatch.setattr(triton, name, Compiling(getattr(triton, name), capability))
    latents = torch.empty(count, dim, device="meta")
    codebook = torch.empty(num_codes, dim, device="meta")
    loss_and_gradient(latents, codebook, 0.1, 5.0, 1)
    triton.best_scores(latents, codebook, center=None, bias=None)
    for name in KERNELS:
        (made,) = getattr(triton, name).made
        assert made.asm["cubin"], name
        assert made.metadata.shared <= SHARED, name
        on_tensor_cores = name in ("scan_kernel", "push_kernel", "best_kernel")
        assert ("mma" in made.asm["ptx"]) == on_tensor_cores, name


@on_gpu
@pytest.mark.parametrize(
    ("count", "num_codes", "dim", "top_k"), [(65_536, 4_096, 64, 3), (20_000, 1_000, 256, 64)]
)
def test_large_sizes_on_a_gpu_equal_the_operations_in_float64(count, num_codes, dim, top_k):
    latents = random(count, dim)
    codebook = random(num_codes, dim)
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, top_k)
    expected, slope = loss_and_gradient(latents.double(), codebook.double(), 0.1, 5.0, top_k)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    right = ((gradient - slope).abs() <= 1e-5 * slope.abs().max()).all(1)
    same = nearest_code(latents, codebook) == nearest_in_float64(latents, codebook)
    # The others are as near as float32 can tell.
    assert right.float().mean() > 0.999
    assert same.float().mean() > 0.999


@on_gpu
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_rows_that_are_no_numbers_give_an_index_within_the_codebook(broken):
    """Not in the interpreter, whose largest of NaNs is an error."""
    latents = random(70, 4)
    latents[3] = broken
    codebook = random(80, 4)
    codebook[:3] = broken
    for metric in ("cosine", "euclidean"):
        chosen = nearest_code(latents, codebook, metric)
        assert chosen.min() >= 0
        assert chosen.max() < 80
    loss, _ = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    assert loss.isnan()


@on_gpu
def test_memory_on_a_gpu_stays_within_256_mib():
    latents = random(1_048_576, 64)
    codebook = random(2_048, 64)
    gradient = 4 * latents.numel()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    assert torch.cuda.max_memory_allocated() - before - gradient <= 1 << 28


@on_gpu
def test_a_cuda_graph_holds_the_loss_and_the_lookup():
    latents = random(1_000, 64)
    codebook = random(300, 64)

    def work():
        loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
        return loss, gradient, nearest_code(latents, codebook)

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = work()
    latents.copy_(random(1_000, 64))
    graph.replay()
    for one, other in zip(held, work(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
