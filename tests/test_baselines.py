import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq import baselines
from arcvq.baselines import BASELINES, fsq_levels
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import Quantizer
from arcvq.runs import RunSettings
from arcvq.training import fit
from arcvq.vqvae import VQVAE

pytest.importorskip("vector_quantize_pytorch")
every_baseline = pytest.mark.parametrize("kind", BASELINES)


def make(kind, num_codes=64, dim=8):
    torch.manual_seed(0)
    return BASELINES[kind](num_codes, dim)


def latents(batch=3, dim=8, height=4, width=5):
    return torch.randn(batch, dim, height, width, generator=torch.Generator().manual_seed(1))


@every_baseline
def test_it_gives_what_the_package_gives(kind):
    """Indices, codes and loss of the package's own module with the same weights."""
    quantizer, other, given = make(kind), make(kind), latents()
    quantized = quantizer(given)
    flat = given.permute(0, 2, 3, 1).reshape(1, -1, 8)
    passed, indices, *loss = other.method(flat)
    assert torch.equal(quantized.indices.flatten(), indices.flatten().long())
    assert torch.allclose(quantized.codes.permute(0, 2, 3, 1).reshape(1, -1, 8), passed, atol=1e-5)
    assert torch.allclose(quantized.loss, loss[0].sum() if loss else torch.zeros(()), atol=1e-6)


@every_baseline
def test_the_gradient_to_the_latents_is_that_of_the_package(kind):
    quantizer, other = make(kind), make(kind)
    one, flat = latents().requires_grad_(), latents().permute(0, 2, 3, 1).reshape(1, -1, 8).requires_grad_()
    weight = torch.randn(1, 60, 8)
    quantized = quantizer(one)
    (quantized.codes.permute(0, 2, 3, 1).reshape(1, -1, 8) * weight).sum().backward()
    (other.method(flat)[0] * weight).sum().backward()
    assert one.grad.abs().sum() > 0
    assert torch.allclose(one.grad.permute(0, 2, 3, 1).reshape(1, -1, 8), flat.grad, atol=1e-5)


@every_baseline
def test_lookup_gives_the_very_codes_of_forward_and_encode_its_indices(kind):
    quantizer = make(kind).eval()
    quantized = quantizer(latents())
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.codes.detach())
    assert torch.equal(quantizer.encode(latents()), quantized.indices)
    assert describe(quantizer.codebook.detach(), quantized.indices).codes_used == len(quantized.indices.unique())


@every_baseline
def test_training_counts_and_evaluation_changes_nothing(kind):
    quantizer = make(kind)
    quantized = quantizer(latents())
    assert torch.equal(quantizer.counts, torch.bincount(quantized.indices.flatten(), minlength=64))
    quantizer.after_step()
    assert quantizer.step == 1
    before = {name: value.clone() for name, value in quantizer.eval().state_dict().items()}
    quantizer(latents())
    quantizer.encode(latents())
    assert not quantizer.training
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@every_baseline
def test_half_precision_changes_no_index(kind):
    quantizer = make(kind).eval()
    expected = quantizer(latents()).indices
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(latents()).indices, expected)


@every_baseline
@settings(max_examples=5, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(1, 4), width=st.integers(1, 4), power=st.integers(3, 7))
def test_shapes(kind, batch, height, width, power):
    quantizer = make(kind, 2**power, 6)
    quantized = quantizer(latents(batch, 6, height, width))
    assert quantized.codes.shape == (batch, 6, height, width) and quantized.indices.shape == (batch, height, width)
    assert quantizer.codebook.shape == (quantizer.num_codes, 6) and quantized.indices.max() < quantizer.num_codes
    assert quantized.loss.isfinite() and quantized.loss.ndim == 0


@every_baseline
def test_a_model_with_it_is_saved_and_opened(kind, tmp_path):
    model = VQVAE(1, make(kind, 16, 4), hidden=8, residual_hidden=4).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    opened = VQVAE.from_pretrained(tmp_path)
    assert torch.equal(opened.encode(images), model.encode(images))
    assert isinstance(Quantizer.from_config(model.quantizer.config()), BASELINES[kind])


@every_baseline
def test_it_learns(kind):
    ramp = torch.linspace(0, 255, 8).expand(64, 1, 8, 8) * torch.rand(64, 1, 1, 1)
    split = ImageSplit(ramp.to(torch.uint8), torch.zeros(64, dtype=torch.int64))
    images = ImageData("ramps", split, split, split, ("ramp",))
    model = RunSettings(dataset="ramps", quantizer=kind, num_codes=16, dim=4, hidden=8, residual_hidden=4).model(images)
    run = fit(model, images, steps=40, batch_size=16, lr=1e-2, precision="float32", device="cpu", progress=False)
    assert run.history.psnr.tail(5).mean() > run.history.psnr.head(5).mean() + 3


@every_baseline
def test_what_differs_is_said_in_a_sentence(kind):
    sentence = make(kind, 512, 64).mismatch
    assert "K and D match" in sentence or "512 codes of" in sentence


@pytest.mark.parametrize("num_codes, levels", [(512, [8, 8, 8]), (64, [8, 8]), (5, [5]), (1000, [8, 5, 5, 5])])
def test_fsq_takes_the_nearest_size(num_codes, levels):
    assert fsq_levels(num_codes) == levels


@pytest.mark.parametrize("kind, num_codes, sentence", [
    ("lfq", 100, "num_codes is 100; LFQ needs a power of two from 2"),
    ("bsq", 3, "num_codes is 3; BSQ on the unit sphere needs a power of two from 2"),
    ("fsq", 4, "num_codes is 4; FSQ needs at least 5"),
])
def test_a_size_that_a_method_cannot_have_is_told(kind, num_codes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(kind, num_codes)


@every_baseline
def test_latents_of_another_shape_are_told(kind):
    with pytest.raises(ValueError, match=r"they must be \(B, 8, h, w\)"):
        make(kind)(torch.randn(2, 7, 3, 3))


def test_a_missing_package_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ImportError, match="baselines need vector-quantize-pytorch: pip install"):
        baselines.package()
