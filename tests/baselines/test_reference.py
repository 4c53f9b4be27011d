import pytest
import torch

from arcvq import SAMP, SphericalQuantizer
from arcvq.baselines.reference import PlainSphericalQuantizer, UndetachedQuantizer
from arcvq.ops import reference
from arcvq.samp import arc_margin_loss
from arcvq.schedules import Constant


def test_the_plain_loss_is_the_streaming_one():
    latents, codebook = torch.randn(200, 8, requires_grad=True), torch.randn(12, 8)
    plain, ours = (loss(latents, codebook, margin=0.2, scale=5.0, top_k=3)
                   for loss in (reference.margin_loss, arc_margin_loss))
    assert plain.item() == pytest.approx(ours.item(), rel=1e-5)
    one, other = (torch.autograd.grad(loss, latents)[0] for loss in (plain, ours))
    assert (one - other).norm() <= 1e-4 * other.norm()


def test_the_plain_quantizer_takes_the_step_of_the_spherical_one():
    torch.manual_seed(3)
    plain = PlainSphericalQuantizer(16, 4, SAMP(scale=5.0))
    ours = SphericalQuantizer(16, 4, SAMP(scale=5.0))
    ours.load_state_dict(plain.state_dict())
    latents = torch.randn(2, 4, 5, 5)
    one, other = plain(latents), ours(latents)
    assert torch.equal(one.indices, other.indices) and torch.allclose(one.codes, other.codes, atol=1e-6)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-5)
    assert torch.equal(plain.counts, ours.counts)


def steps(kind, weight):
    """Loss, its terms, and the gradients at latents and codebook."""
    torch.manual_seed(3)
    quantizer = kind(8, 4, SAMP(weight=weight)).double()
    latents = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    quantized.loss.backward()
    return quantized, latents.grad, quantizer.codebook.grad, quantizer, latents.detach()


def test_without_the_stop_gradient_only_the_codes_get_another_gradient():
    (one, at_latents, at_codes, quantizer, latents), (other, latents_too, detached, *_) = (
        steps(kind, Constant(0.7)) for kind in (UndetachedQuantizer, SphericalQuantizer))
    assert one.loss.item() == pytest.approx(other.loss.item(), abs=1e-12) and one.losses.keys() == other.losses.keys()
    assert torch.allclose(at_latents, latents_too, atol=1e-12)
    codebook = quantizer.codebook.detach().clone().requires_grad_()
    flat = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    moving = 0.7 * reference.margin_loss(flat, codebook, 0.1, 5.0, 3)
    (expected,) = torch.autograd.grad(moving, codebook)
    assert expected.norm() > 1e-3 and torch.allclose(at_codes - detached, expected, atol=1e-9)


def test_without_a_margin_loss_or_in_evaluation_nothing_differs():
    (one, _, at_codes, _, latents), (other, _, detached, *_) = (
        steps(kind, None) for kind in (UndetachedQuantizer, SphericalQuantizer))
    assert one.loss.item() == other.loss.item() and torch.equal(at_codes, detached)
    assert "margin" not in UndetachedQuantizer(8, 4).double().eval()(latents).losses


def test_fewer_latents_than_top_k_are_all_pulled():
    quantizer = UndetachedQuantizer(8, 4, SAMP(top_k=5))
    assert quantizer(torch.randn(1, 4, 1, 2)).loss.isfinite()
