from types import SimpleNamespace

import pytest
import torch

from arcvq import SAMP, CosineQuantizer, EuclideanQuantizer, SphericalQuantizer
from arcvq.baselines.reference import (
    PlainSphericalQuantizer,
    UndetachedQuantizer,
    UnitStartQuantizer,
)
from arcvq.ops import reference
from arcvq.samp import arc_margin_loss
from arcvq.schedules import Constant


def test_unit_start_has_the_first_codes_of_the_cosine_quantizer():
    torch.manual_seed(2)
    ours = UnitStartQuantizer(32, 6).codebook
    torch.manual_seed(2)
    assert torch.equal(ours, CosineQuantizer(32, 6).codebook)
    assert torch.allclose(ours.norm(dim=1), torch.ones(32))


def test_unit_start_goes_on_as_plain_vq():
    ours = UnitStartQuantizer(16, 4)
    plain = EuclideanQuantizer(16, 4)
    plain.load_state_dict(ours.state_dict())
    latents = 3 * torch.randn(2, 4, 5, 5)
    got = ours(latents)
    expected = plain(latents)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.loss, expected.loss)
    got.loss.backward()
    expected.loss.backward()
    assert torch.equal(ours.codebook.grad, plain.codebook.grad)


def test_the_reference_loss_is_the_fast_one():
    latents = torch.randn(200, 8, requires_grad=True)
    codebook = torch.randn(12, 8)
    plain = reference.margin_loss(latents, codebook, margin=0.2, scale=5.0, top_k=3)
    fast = arc_margin_loss(latents, codebook, margin=0.2, scale=5.0, top_k=3)
    assert plain.item() == pytest.approx(fast.item(), rel=1e-5)
    (plain_gradient,) = torch.autograd.grad(plain, latents)
    (fast_gradient,) = torch.autograd.grad(fast, latents)
    assert (plain_gradient - fast_gradient).norm() <= 1e-4 * fast_gradient.norm()


def test_the_plain_quantizer_takes_the_step_of_the_spherical_one():
    torch.manual_seed(3)
    plain = PlainSphericalQuantizer(16, 4, SAMP(scale=5.0))
    fast = SphericalQuantizer(16, 4, SAMP(scale=5.0))
    fast.load_state_dict(plain.state_dict())
    latents = torch.randn(2, 4, 5, 5)
    got = plain(latents)
    expected = fast(latents)
    assert torch.equal(got.indices, expected.indices)
    assert torch.allclose(got.codes, expected.codes, atol=1e-6)
    assert got.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert torch.equal(plain.counts, fast.counts)

    for quantizer, quantized in ((plain, got), (fast, expected)):
        quantized.loss.backward()
        with torch.no_grad():
            quantizer.codebook -= 9 * quantizer.codebook.grad  # to where the ball binds
        quantizer.after_step()
    assert plain.codebook.norm(dim=1).max() < 1.001
    assert torch.allclose(plain.codebook, fast.codebook, atol=1e-5)


@pytest.mark.parametrize("kind", [PlainSphericalQuantizer, UndetachedQuantizer])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_both_work_in_any_precision(kind, precision):
    quantizer = kind(8, 4, SAMP(scale=5.0)).to(precision)
    latents = torch.randn(2, 4, 3, 3).to(precision).requires_grad_()
    quantized = quantizer(latents)
    quantized.loss.backward()
    quantizer.after_step()
    assert quantized.codes.dtype == precision
    assert quantized.loss.dtype == torch.promote_types(precision, torch.float32)
    assert latents.grad.isfinite().all()
    assert quantizer.codebook.isfinite().all()


def take_step(kind, weight, codes_per_step=None):
    """The quantizer after a backward pass in float64, its latents, and what it returned."""
    torch.manual_seed(3)
    quantizer = kind(8, 4, SAMP(weight=weight, codes_per_step=codes_per_step)).double()
    latents = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    quantized.loss.backward()
    return SimpleNamespace(
        loss=quantized.loss.item(),
        losses=quantized.losses,
        latents=latents.detach(),
        codebook=quantizer.codebook.detach(),
        at_latents=latents.grad,
        at_codes=quantizer.codebook.grad,
    )


def test_the_plain_quantizer_draws_the_codes_that_the_spherical_one_draws():
    plain = take_step(PlainSphericalQuantizer, Constant(0.7), codes_per_step=3)
    fast = take_step(SphericalQuantizer, Constant(0.7), codes_per_step=3)
    assert plain.loss == pytest.approx(fast.loss, abs=1e-9)
    assert torch.allclose(plain.at_latents, fast.at_latents, atol=1e-9)
    assert torch.allclose(plain.at_codes, fast.at_codes, atol=1e-9)


def test_without_the_stop_gradient_only_the_drawn_codes_are_moved():
    undetached = take_step(UndetachedQuantizer, Constant(0.7), codes_per_step=3)
    detached = take_step(SphericalQuantizer, Constant(0.7), codes_per_step=3)
    assert undetached.loss == pytest.approx(detached.loss, abs=1e-12)
    moved = (undetached.at_codes - detached.at_codes).norm(dim=1) > 1e-9
    assert moved.sum() == 3

    drawn = undetached.codebook[moved].requires_grad_()
    flat = undetached.latents.permute(0, 2, 3, 1).reshape(-1, 4)
    (expected,) = torch.autograd.grad(0.7 * reference.margin_loss(flat, drawn, 0.1, 5.0, 3), drawn)
    found = (undetached.at_codes - detached.at_codes)[moved]
    assert torch.allclose(found, expected, atol=1e-9)


def test_without_the_stop_gradient_only_the_codes_get_another_gradient():
    undetached = take_step(UndetachedQuantizer, Constant(0.7))
    detached = take_step(SphericalQuantizer, Constant(0.7))
    assert undetached.loss == pytest.approx(detached.loss, abs=1e-12)
    assert undetached.losses.keys() == detached.losses.keys()
    assert torch.allclose(undetached.at_latents, detached.at_latents, atol=1e-12)

    codebook = undetached.codebook.clone().requires_grad_()
    flat = undetached.latents.permute(0, 2, 3, 1).reshape(-1, 4)
    moving = 0.7 * reference.margin_loss(flat, codebook, 0.1, 5.0, 3)
    (expected,) = torch.autograd.grad(moving, codebook)
    assert expected.norm() > 1e-3
    assert torch.allclose(undetached.at_codes - detached.at_codes, expected, atol=1e-9)


def test_without_a_margin_loss_or_in_evaluation_nothing_differs():
    undetached = take_step(UndetachedQuantizer, None)
    detached = take_step(SphericalQuantizer, None)
    assert undetached.loss == detached.loss
    assert torch.equal(undetached.at_codes, detached.at_codes)
    evaluated = UndetachedQuantizer(8, 4).double().eval()(undetached.latents)
    assert "margin" not in evaluated.losses


@pytest.mark.parametrize(("samp", "training"), [(SAMP(weight=None), True), (SAMP(), False)])
def test_without_a_margin_loss_or_in_evaluation_the_plain_loss_is_that_of_vq(samp, training):
    plain = PlainSphericalQuantizer(8, 4, samp).train(training)
    fast = SphericalQuantizer(8, 4, samp).train(training)
    fast.load_state_dict(plain.state_dict())
    latents = torch.randn(2, 4, 3, 3, requires_grad=True)
    got = plain(latents)
    assert got.loss.item() == pytest.approx(fast(latents).loss.item(), rel=1e-5)
    assert "margin" not in got.losses
    got.loss.backward()
    assert (plain.codebook.grad is not None) == training


@pytest.mark.parametrize("kind", [PlainSphericalQuantizer, UndetachedQuantizer])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_has_loss_0_as_in_the_spherical_one(kind, training):
    variant = kind(8, 4).train(training)
    latents = torch.zeros(0, 4, requires_grad=True)
    quantized = variant(latents)
    assert quantized.loss == 0
    assert all(term == 0 for term in quantized.losses.values())
    quantized.loss.backward()
    assert latents.grad.shape == (0, 4)
    if training:
        assert not variant.codebook.grad.any()


@pytest.mark.parametrize("kind", [PlainSphericalQuantizer, UndetachedQuantizer])
@pytest.mark.parametrize("training", [True, False])
def test_fewer_latents_than_top_k_are_all_pulled(kind, training):
    variant = kind(8, 4, SAMP(top_k=5)).train(training)
    spherical = SphericalQuantizer(8, 4, SAMP(top_k=5)).train(training)
    spherical.load_state_dict(variant.state_dict())
    latents = torch.randn(2, 4)
    expected = spherical(latents).loss.item()
    assert variant(latents).loss.item() == pytest.approx(expected, rel=1e-5)
