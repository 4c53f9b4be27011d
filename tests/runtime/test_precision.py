import pytest
import torch
from torch import nn

from arcvq.runtime.precision import (
    as_float64,
    at_least_float32,
    float32_weights,
    widest_float,
)

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
