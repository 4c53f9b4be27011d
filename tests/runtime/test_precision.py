from threading import Event, Thread

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from arcvq.ops import nearest_code
from arcvq.quantizers import SphericalQuantizer
from arcvq.runtime.precision import (
    as_float64,
    at_least_float32,
    float32_weights,
    widest_float,
)

MATMULS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)

RAISED = [
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
]


@pytest.mark.parametrize(("own", "raised"), RAISED)
def test_half_precision_is_raised_and_more_stays(own, raised):
    tensor = torch.tensor([0.5, -3.0], dtype=own)
    assert at_least_float32(tensor).dtype == raised
    assert at_least_float32(tensor).tolist() == [0.5, -3.0]


@pytest.mark.parametrize(("own", "_"), RAISED)
def test_float64_holds_the_same_numbers_without_gradient(own, _):
    tensor = torch.tensor([0.5, -3.0], dtype=own, requires_grad=True)
    wide = as_float64(tensor)
    assert wide.dtype == torch.float64
    assert not wide.requires_grad
    assert wide.tolist() == [0.5, -3.0]


def test_every_device_but_mps_has_float64():
    widest = {device: widest_float(torch.device(device)) for device in ("cpu", "cuda", "mps")}
    assert widest == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}


class BuffersAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.ones(2))


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 1), BuffersAlone])
@pytest.mark.parametrize(("own", "raised"), RAISED)
def test_weights_have_their_own_precision_again_even_after_an_error(make, own, raised):
    model = make().to(own)
    with pytest.raises(KeyboardInterrupt), float32_weights(model):
        assert {tensor.dtype for tensor in model.state_dict().values()} == {raised}
        raise KeyboardInterrupt
    assert {tensor.dtype for tensor in model.state_dict().values()} == {own}


def test_parts_of_different_precision_get_their_own_again():
    model = nn.Sequential(nn.Linear(2, 3).bfloat16(), nn.Linear(3, 3), nn.Linear(3, 1).double())
    weights = [layer.weight.detach().clone() for layer in model]
    with float32_weights(model):
        inside = [layer.weight.dtype for layer in model]
    assert inside == [torch.float32, torch.float32, torch.float64]
    for layer, weight in zip(model, weights, strict=True):
        assert layer.weight.dtype == weight.dtype
        assert torch.equal(layer.weight, weight)


# Products of matrices


def set_for_all(precision):
    torch.backends.fp32_precision = precision


def set_for_each():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def allow_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True


def set_on_top_of_the_old_way():
    torch.set_float32_matmul_precision("high")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


WAYS = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": allow_tf32,
    "for each": set_for_each,
    "for all": lambda: set_for_all("tf32"),
    "mixed": set_on_top_of_the_old_way,
}


def settings():
    """Both settings of this version, and the older one that covers them, where it can be read."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch refuses where the newer ones say something else
        older = "mixed"
    return older, *(products.fp32_precision for products in MATMULS)


@pytest.fixture(params=WAYS)
def lowered(request):
    """What the settings are after one of the ways to lower them."""
    WAYS[request.param]()
    yield settings()
    torch.set_float32_matmul_precision("highest")
    for products in MATMULS:
        products.fp32_precision = "none"
    set_for_all("none")


class AtProducts(TorchDispatchMode):
    """Calls a function before each product of matrices in this thread."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in str(function):
            self.act()
        return function(*args, **kwargs or {})


def quantize(make=SphericalQuantizer, compile_it=False):
    """Indices, loss and gradient of a training batch, and the indices of both metrics."""
    torch.manual_seed(0)
    quantizer = make(256, 64)
    latents = torch.randn(1000, 64, requires_grad=True)
    forward = torch.compile(quantizer, backend="aot_eager") if compile_it else quantizer
    quantized = forward(latents)
    quantized.loss.backward()
    rows = latents.detach()
    by_distance = nearest_code(rows, quantizer.codebook.detach(), "euclidean")
    return quantized.indices, quantized.loss, latents.grad, quantizer.encode(rows), by_distance


EXACT = quantize()


@pytest.mark.parametrize("compile_it", [False, True])
def test_a_lower_precision_of_products_changes_nothing_in_a_quantizer(lowered, compile_it):
    """On CPUs without bfloat16 it could not: so the settings during each product are looked at."""
    seen = []
    with AtProducts(lambda: seen.extend(settings()[1:])):
        found = quantize(compile_it=compile_it)
    assert len(seen) >= 2 * 4  # both settings, before each of at least four products
    assert {*seen} <= {"ieee", "none"}
    assert settings() == lowered
    for one, exact in zip(found, EXACT, strict=True):
        assert torch.equal(one, exact)


def test_the_precision_of_products_is_restored_after_an_error(lowered):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), AtProducts(fail):
        quantize()
    assert settings() == lowered


@pytest.mark.parametrize("lowered", ["for all"], indirect=True)
def test_what_was_set_for_all_products_can_still_be_changed_for_all(lowered):
    quantize()
    set_for_all("none")
    assert settings() == ("highest", "none", "none")


def test_the_precision_of_products_stays_up_until_the_last_thread_leaves(lowered):
    is_inside = Event()
    may_leave = Event()
    seen = []

    def wait():
        if not is_inside.is_set():
            is_inside.set()
            assert may_leave.wait(60)
            seen.append(settings()[1:])

    def slow():
        with AtProducts(wait):
            nearest_code(torch.randn(8, 4), torch.randn(4, 4))

    thread = Thread(target=slow)

    def start():
        if not thread.is_alive():
            thread.start()
            assert is_inside.wait(60)

    with AtProducts(start):  # comes first and leaves first
        nearest_code(torch.randn(8, 4), torch.randn(4, 4))
    may_leave.set()
    thread.join()
    assert set(seen[0]) <= {"ieee", "none"}
    assert settings() == lowered
