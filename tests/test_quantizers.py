import itertools
import json
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.quantizers import (
    QUANTIZERS,
    ContinuousQuantizer,
    CosineQuantizer,
    EMAQuantizer,
    EuclideanQuantizer,
    OnlineClusteredQuantizer,
    Quantizer,
    SphericalQuantizer,
    nearest_code,
)
from arcvq.samp import SAMP, arc_margin_loss
from arcvq.schedules import Adaptive, Constant

VECTOR = [cls for cls in QUANTIZERS.values() if cls is not ContinuousQuantizer]
every_quantizer = pytest.mark.parametrize("cls", VECTOR, ids=lambda cls: cls.__name__)


def flatten(grid):
    """(B, D, h, w) to (N, D)."""
    return grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1])


def as_grid(rows):
    """(N, D) to (1, D, 2, N / 2)."""
    return rows.T.reshape(1, rows.shape[1], 2, -1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_quantizer
def test_autocast_does_not_change_an_index(cls, dtype):
    torch.manual_seed(1)
    quantizer = cls(256, 16).eval()
    latents = torch.randn(4, 16, 8, 8)
    if cls is EuclideanQuantizer:
        quantizer.codebook.data.normal_()
    expected = quantizer(latents)
    with torch.autocast("cpu", dtype):
        got = quantizer(latents)
        encoded = quantizer.encode(latents)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(encoded, expected.indices)
    assert got.codes.dtype == torch.float32
    assert torch.equal(got.codes, expected.codes)
    half = latents.to(dtype)
    assert torch.equal(quantizer(half).indices, quantizer(half.float()).indices)


@every_quantizer
@settings(max_examples=10, deadline=None)
@given(
    b=st.integers(0, 3),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    k=st.integers(1, 9),
    d=st.integers(1, 5),
)
def test_shapes_and_round_trip_for_any_size(cls, b, h, w, k, d):
    quantizer = cls(k, d)
    latents = torch.randn(b, d, h, w)
    out = quantizer(latents)
    assert out.codes.shape == latents.shape
    assert out.indices.shape == (b, h, w)
    assert out.indices.dtype == torch.int64
    looked_up = quantizer.lookup(out.indices)
    assert torch.equal(looked_up, out.codes), "lookup gives exactly what forward chose"
    quantizer.after_step()
    assert quantizer.codebook.isfinite().all()


@every_quantizer
def test_straight_through_gradient_reaches_the_latents_unchanged(cls):
    quantizer = cls(8, 4).eval()
    latents = torch.randn(2, 4, 3, 3, requires_grad=True)
    weights = torch.randn(2, 4, 3, 3)
    (quantizer(latents).codes * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@every_quantizer
def test_evaluation_changes_nothing_and_has_no_margin_loss(cls):
    quantizer = cls(8, 4).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    out = quantizer(torch.randn(2, 4, 3, 3))
    quantizer.encode(torch.randn(2, 4, 3, 3))
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert "margin" not in out.losses


def test_vq_loss_is_the_formula_with_its_two_gradients():
    quantizer = CosineQuantizer(6, 3, beta=0.25)
    latents = torch.randn(2, 3, 2, 2, requires_grad=True)
    out = quantizer(latents)
    out.loss.backward()

    indices = out.indices.flatten()
    flat = flatten(latents.detach()).double()
    codes = quantizer.codebook.detach().double()[indices]
    expected = 1.25 * (flat - codes).square().mean()
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)

    at_latents = 0.25 * 2 * (flat - codes) / flat.numel()
    assert torch.allclose(flatten(latents.grad).double(), at_latents, atol=1e-7)
    at_codes = torch.zeros(6, 3, dtype=torch.float64)
    at_codes.index_add_(0, indices, 2 * (codes - flat) / flat.numel())
    assert torch.allclose(quantizer.codebook.grad.double(), at_codes, atol=1e-7)


def test_starts_are_the_published_ones():
    plain = EuclideanQuantizer(50, 8).codebook
    assert 0.9 / 50 < plain.abs().max() <= 1 / 50
    cosine = CosineQuantizer(50, 8).codebook
    assert torch.allclose(cosine.norm(dim=1), torch.ones(50))


def vq_loss(out):
    return out.losses["codebook"] + 0.25 * out.losses["commitment"]


def test_spherical_loss_adds_the_weighted_margin_loss():
    samp = SAMP(margin=0.3, scale=7.0, top_k=2, weight=Constant(0.4))
    quantizer = SphericalQuantizer(6, 3, samp)
    latents = torch.randn(2, 3, 4, 4)
    out = quantizer(latents)
    margin = arc_margin_loss(flatten(latents), quantizer.codebook, margin=0.3, scale=7.0, top_k=2)
    assert out.losses["margin"].item() == pytest.approx(margin.item())
    assert out.loss.item() == pytest.approx((vq_loss(out) + 0.4 * margin).item(), rel=1e-6)
    assert not any(term.requires_grad for term in out.losses.values())


def test_the_margin_loss_of_some_codes_is_right_on_average():
    samp = SAMP(weight=Constant(1.0), codes_per_step=2)
    quantizer = SphericalQuantizer(6, 3, samp)
    latents = torch.randn(2, 3, 4, 4)
    rows = flatten(latents)
    of_each = [arc_margin_loss(rows, code[None]).item() for code in quantizer.codebook]
    pairs = {(one + other) / 2 for one, other in itertools.combinations(of_each, 2)}

    found = [quantizer(latents).losses["margin"].item() for _ in range(200)]
    for loss in found:
        assert min(abs(loss - pair) for pair in pairs) < 1e-6
    assert len({round(loss, 5) for loss in found}) == len(pairs), "every pair is drawn"
    whole = arc_margin_loss(rows, quantizer.codebook).item()
    assert statistics.mean(found) == pytest.approx(
        whole, abs=4 * statistics.stdev(found) / 200**0.5
    )


@pytest.mark.parametrize("codes", [6, 9])
def test_as_many_codes_a_step_as_there_are_give_the_loss_of_all(codes):
    latents = torch.randn(2, 3, 4, 4)
    quantizer = SphericalQuantizer(6, 3, SAMP(codes_per_step=codes))
    expected = arc_margin_loss(flatten(latents), quantizer.codebook)
    assert quantizer(latents).losses["margin"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_spherical_codes_are_in_the_ball_after_each_step_whatever_the_optimizer_did():
    quantizer = SphericalQuantizer(6, 3, SAMP.for_run(100))
    for step in range(1, 4):
        quantizer(torch.randn(2, 3, 4, 4))
        quantizer.codebook.data.mul_(50)
        quantizer.after_step()
        radius = quantizer.active_samp().radius.value(step)
        assert int(quantizer.step) == step
        assert torch.allclose(quantizer.codebook.norm(dim=1), torch.full((6,), radius), rtol=1e-5)


def test_without_radius_and_weight_neither_half_of_samp_acts():
    quantizer = SphericalQuantizer(6, 3, SAMP(radius=None, weight=None))
    quantizer.codebook.data.mul_(50)
    out = quantizer(torch.randn(2, 3, 4, 4))
    assert set(out.losses) == {"codebook", "commitment"}
    quantizer.after_step()
    assert torch.allclose(quantizer.codebook.norm(dim=1), torch.full((6,), 50.0), rtol=1e-4)


def test_spherical_default_is_the_papers():
    assert SphericalQuantizer(4, 2).active_samp() == SAMP.paper()


def test_an_adaptive_weight_reads_the_usage_of_the_batch():
    samp = SAMP(weight=Adaptive(0.0, 1.0, 1.0), radius=None)
    quantizer = SphericalQuantizer(4, 2, samp)
    quantizer.codebook.data.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    latents = as_grid(torch.tensor([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 2.0]]))
    out = quantizer(latents)
    assert float(quantizer.batch_usage()) == 0.5
    weighted = out.loss - vq_loss(out)
    assert weighted.item() == pytest.approx(0.5 * out.losses["margin"].item(), rel=1e-5)


def test_ema_codes_follow_the_smoothed_averages():
    quantizer = EMAQuantizer(3, 2, decay=0.9)
    latents = torch.randn(1, 2, 4, 4)
    flat = flatten(latents).double()
    sizes = torch.ones(3, dtype=torch.float64)
    sums = quantizer.codebook.double().clone()
    for _ in range(3):
        indices = quantizer(latents).indices.flatten()
        quantizer.after_step()
        for j in range(3):
            own = flat[indices == j]
            sizes[j] = 0.9 * sizes[j] + 0.1 * len(own)
            sums[j] = 0.9 * sums[j] + 0.1 * own.sum(0)
        smoothed = (sizes + 1e-5) / (sizes.sum() + 3e-5) * sizes.sum()
        expected = sums / smoothed[:, None]
        assert torch.allclose(quantizer.codebook.double(), expected, atol=1e-5)
    assert quantizer.codebook.grad is None


def test_ema_averages_of_codes_that_nobody_chooses_any_more_end_at_zero():
    quantizer = EMAQuantizer(3, 2, decay=0.9)
    quantizer.codebook.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    latents = as_grid(torch.tensor([[1.0, 0.0]] * 4))
    for _ in range(1000):  # 0.9^1000 is below the smallest normal number of float32
        quantizer(latents)
        quantizer.after_step()
    assert (quantizer.sizes[1:] == 0).all()
    assert (quantizer.codebook[1:] == 0).all()
    assert torch.allclose(quantizer.codebook[0], torch.tensor([1.0, 0.0]))


def test_online_clustering_moves_unused_codes_to_latents_and_leaves_used_ones():
    quantizer = OnlineClusteredQuantizer(3, 2)
    quantizer.codebook.data.copy_(torch.tensor([[1.0, 0.0], [-5.0, 0.01], [-5.0, -0.01]]))
    rows = torch.tensor([[2.0, 0.1], [2.0, 0.2], [2.0, 0.3], [2.0, 0.4]])
    for _ in range(5):
        quantizer(as_grid(rows))
        used = quantizer.codebook.data[0].clone()
        quantizer.after_step()
    distances = torch.cdist(quantizer.codebook.data[1:], rows)
    assert (distances.min(1).values < 0.05).all()
    assert torch.allclose(quantizer.codebook.data[0], used, atol=1e-6)


@every_quantizer
def test_usage_counts_training_alone_and_can_be_reset(cls):
    quantizer = cls(5, 3)
    latents = torch.randn(2, 3, 4, 4)
    first = quantizer(latents).indices
    second = quantizer(latents * -1).indices
    quantizer.encode(latents)
    expected = torch.bincount(torch.cat([first, second]).flatten(), minlength=5)
    assert torch.equal(quantizer.counts, expected)
    assert int(quantizer.counts.sum()) == 64
    quantizer.reset_usage()
    assert not quantizer.counts.any()


@pytest.mark.parametrize("cls", QUANTIZERS.values(), ids=QUANTIZERS)
def test_config_and_state_round_trip(cls):
    quantizer = cls(7, 3, beta=0.5)
    copy = Quantizer.from_config(json.loads(json.dumps(quantizer.config())))
    copy.load_state_dict(quantizer.state_dict())
    assert type(copy) is cls
    assert copy.config() == quantizer.config()
    assert torch.equal(copy.codebook, quantizer.codebook)


@every_quantizer
def test_sizes_may_be_integers_of_numpy(cls, unchecked):
    quantizer = cls(np.int64(7), np.uint8(3))
    assert json.loads(json.dumps(quantizer.config())) == cls(7, 3).config()
    assert quantizer(torch.randn(4, 3)).indices.shape == (4,)


def test_an_unknown_kind_of_quantizer_is_refused():
    with pytest.raises(ValueError, match="quantizer 'Cubic' is unknown"):
        Quantizer.from_config({"kind": "Cubic"})


def test_a_config_of_earlier_versions_holds_samp_as_a_json_text():
    samp = SAMP(margin=0.2, radius=None)
    config = SphericalQuantizer(7, 3, samp).config()
    assert config["samp"] == samp.config()
    earlier = {**config, "samp": json.dumps(config["samp"])}
    assert Quantizer.from_config(earlier).samp == samp


def test_continuous_lets_the_latents_through():
    latents = torch.randn(2, 3, 4, 4)
    out = ContinuousQuantizer(1, 3)(latents)
    assert torch.equal(out.codes, latents)
    assert out.loss.item() == 0
    assert not out.indices.any()


def test_no_parameter_of_continuous_waits_for_a_gradient():
    """Two processes would wait for it in vain."""
    quantizer = ContinuousQuantizer(8, 3)
    for change in (quantizer.freeze, quantizer.unfreeze):
        change()
        assert quantizer.frozen
        assert not any(parameter.requires_grad for parameter in quantizer.parameters())


def look_up_by(metric):
    return nearest_code(torch.randn(4, 2), torch.randn(3, 2), metric)


def quantize(*shape):
    return CosineQuantizer(4, 2)(torch.randn(*shape))


BAD = [
    (lambda: CosineQuantizer(0, 4), "num_codes is 0"),
    (lambda: CosineQuantizer(4, 0), "dim is 0"),
    (lambda: look_up_by("manhattan"), "metric 'manhattan' is unknown"),
    (lambda: CosineQuantizer(4, 2, beta=-1.0), "beta is -1.0"),
    (lambda: EMAQuantizer(4, 2, decay=1.0), "decay is 1.0"),
    (lambda: EMAQuantizer(4, 2, decay="0.9"), "decay is '0.9'; it must be a number from 0"),
    (lambda: quantize(2, 3, 2, 2), r"shape \(2, 3, 2, 2\); they must be \(B, 2, \*grid\)"),
    (lambda: quantize(2), r"shape \(2,\)"),
    (
        lambda: CosineQuantizer(4, 2).lookup(torch.full((1, 1, 1), 4)),
        "from 4 to 4; they must be from 0 to 3",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_refused_in_one_sentence(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_evaluation_names_and_counts_values_that_are_not_finite(bad):
    latents = torch.randn(1, 2, 3, 3)
    latents[0, :, 0, 0] = bad
    quantizer = CosineQuantizer(4, 2).eval()
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match="2 of 18 values of the latents are NaN or infinite"):
            call(latents)


def test_zero_norm_codes_and_latents_are_safe():
    quantizer = SphericalQuantizer(4, 2)
    quantizer.codebook.data[0] = 0
    latents = torch.randn(1, 2, 3, 3)
    latents[0, :, 0, 0] = 0
    latents.requires_grad_()
    out = quantizer(latents)
    out.loss.backward()
    quantizer.after_step()
    assert latents.grad.isfinite().all()
    assert quantizer.codebook.isfinite().all()
    assert not quantizer.codebook[0].any()
