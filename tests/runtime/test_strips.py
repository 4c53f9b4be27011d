"""Networks in strips, beside the same networks on the whole map, in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad, relu

from arcvq.runtime.strips import in_strips
from tests.memory import LargestTensor

ROWS = [1, 4, 100]


class Layer(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


class Residual(nn.Module):
    """A sum of a map and a change that sees `reach` rows above and below."""

    def __init__(self, channels, reach):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 2 * reach + 1, padding=reach)

    def forward(self, x):
        return x + self.conv(x)


class Flipped(Residual):
    """The sum in the other order."""

    def forward(self, x):
        return self.conv(x) + x


WEIGHT = torch.linspace(-1, 1, 4 * 4 * 3 * 3).double().view(4, 4, 3, 3)
LAYERS = {
    "3x3": nn.Conv2d(4, 6, 3, padding=1),
    "1x1": nn.Conv2d(4, 6, 1, bias=False),
    "no padding": nn.Conv2d(4, 6, (5, 3)),
    "stride": nn.Conv2d(4, 6, 4, stride=2, padding=1),
    "dilated, grouped": nn.Conv2d(4, 6, 3, stride=(3, 2), padding=(2, 1), dilation=2, groups=2),
    "padding by name": nn.Conv2d(4, 6, 3, padding="same"),
    "transposed": nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
    "transposed, 5x5": nn.ConvTranspose2d(4, 6, 5, stride=3, padding=2, groups=2),
    "transposed, odd": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, with gaps": nn.ConvTranspose2d(4, 6, 1, stride=2),
    "convolution as a function": Layer(lambda x: conv2d(x, WEIGHT, padding=1, stride=2)),
    "transposed as a function": Layer(lambda x: conv_transpose2d(x, WEIGHT, stride=2)),
    "padded": Layer(lambda x: pad(x, (0, 1, 2, 3))),
    "padded by a value": Layer(lambda x: pad(x, (1, 1, 1, 1), value=2.0)),
    "reflected": Layer(lambda x: pad(x, (1, 1, 1, 1), mode="reflect")),
    "enlarged": Layer(lambda x: interpolate(x, scale_factor=2.0, mode="nearest")),
    "enlarged by 3": nn.Upsample(scale_factor=3),
    "enlarged smoothly": Layer(lambda x: interpolate(x, scale_factor=2.0, mode="bilinear")),
    "enlarged in one direction": Layer(lambda x: interpolate(x, scale_factor=(2.0, 1.0))),
    "enlarged by a fraction": Layer(lambda x: interpolate(x, scale_factor=1.5)),
    "to a size": Layer(lambda x: interpolate(x, size=(20, 7))),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "group norm": nn.GroupNorm(2, 4),
    "group norm without weights": nn.GroupNorm(2, 4, affine=False),
    "batch norm": nn.BatchNorm2d(4).eval(),
    "sum of multiples": Layer(lambda x: x.add(x, alpha=2)),
    "sum of one map": Layer(lambda x: x + x),
    "sum and number": Layer(lambda x: x + 1),
    "sum and row": Layer(lambda x: x + torch.arange(9.0).double()),
    "concatenation": Layer(lambda x: torch.cat([x, relu(x)], dim=1)),
}


def random_maps(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def small_network():
    """Residual blocks with normalization at two resolutions."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        Residual(8, 1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        Residual(8, 2),
        Residual(8, 1),
        nn.Conv2d(8, 8, 4, stride=2, padding=1),
        nn.GroupNorm(4, 8),
        Flipped(8, 1),
        Residual(8, 3),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(1, 8),
        Residual(8, 1),
        nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
    )


@torch.no_grad()
def assert_same_in_strips(network, x, rows):
    network = network.double()
    before = x.clone()
    expected = network(x)
    result = in_strips(network, x, pixels=rows * x.shape[3])
    assert type(result) is torch.Tensor
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert x.equal(before)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_gives_in_strips_what_it_gives_at_once(layer, rows):
    assert_same_in_strips(layer, random_maps(2, 4, 13, 9), rows)


@pytest.mark.parametrize("rows", ROWS)
def test_layers_after_each_other_give_in_strips_what_they_give_at_once(rows):
    assert_same_in_strips(small_network(), random_maps(2, 4, 26, 10), rows)


@pytest.mark.parametrize("reach", [1, 4, 30])
def test_a_sum_in_the_memory_of_its_first_term_keeps_rows_that_later_strips_need(reach):
    network = nn.Sequential(Residual(4, 1), Residual(4, reach), Residual(4, reach))
    assert_same_in_strips(network, random_maps(1, 4, 25, 8), rows=2)


def test_no_map_within_a_block_is_held_as_a_whole():
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1)
    )
    x = torch.randn(1, 1, 100, 10)
    with LargestTensor() as largest:
        in_strips(network, x, pixels=4 * 10)
    assert largest.entries <= 32 * (4 + 2) * 10


@pytest.mark.parametrize(("height", "width", "strips"), [(40, 10, 4), (10, 40, 5), (3, 400, 3)])
def test_a_strip_has_as_many_rows_as_fit_and_at_least_one(height, width, strips):
    done = []
    in_strips(nn.ReLU(), torch.randn(1, 1, height, width), 100, lambda: done.append(None))
    assert len(done) == strips


def test_sums_at_one_resolution_take_one_memory():
    made = []

    class Empties(LargestTensor):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten.empty.memory_format:
                made.append(tuple(arguments[0]))
            return super().__torch_dispatch__(function, types, arguments, options)

    network = nn.Sequential(*(Residual(4, 1) for _ in range(5)))
    with Empties():
        in_strips(network, torch.randn(1, 4, 12, 12), pixels=4 * 12)
    assert made.count((1, 4, 12, 12)) == 1


def test_normalization_is_precise_far_from_zero():
    x = 1000 + random_maps(1, 4, 200, 50) * torch.linspace(0.1, 2, 200).double()[:, None]
    norm = nn.GroupNorm(2, 4)
    result = in_strips(norm, x.float(), pixels=7 * 50)
    expected = norm.double()(x.float().double())
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_is_normalized_in_float32(dtype):
    x = random_maps(1, 4, 30, 20).to(dtype)
    norm = nn.GroupNorm(2, 4).to(dtype)
    result = in_strips(norm, x, pixels=4 * 20)
    assert result.dtype == dtype
    torch.testing.assert_close(result, norm.float()(x.float()).to(dtype), rtol=0.01, atol=0.01)


def test_a_map_whose_memory_a_sum_has_taken_cannot_be_used_again():
    def forward(x):
        first = x + relu(x)
        second = first + relu(first)
        return second + first

    with pytest.raises(RuntimeError, match="a sum has taken over the memory of this map"):
        in_strips(Layer(forward), torch.randn(1, 2, 8, 8), pixels=4 * 8)


def test_an_activation_in_place_is_refused():
    with pytest.raises(RuntimeError, match="cannot be changed in place; use inplace=False"):
        in_strips(nn.ReLU(inplace=True), torch.randn(1, 2, 8, 8), pixels=4 * 8)


def test_a_whole_map_that_an_operation_was_given_is_not_overwritten():
    def forward(x):
        first = x + x
        view = first.flatten(2)
        second = first + relu(first)
        return view.reshape(second.shape) + second

    assert_same_in_strips(Layer(forward), random_maps(1, 2, 8, 8), rows=3)
