import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from arcvq.baselines import vector_quantize_pytorch
from arcvq.baselines.vector_quantize_pytorch import BASELINES, fsq_levels
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import Quantizer
from arcvq.runs.settings import RunSettings
from arcvq.training import Compute, Recording, fit
from arcvq.vqvae import VQVAE

pytest.importorskip("vector_quantize_pytorch")
every_baseline = pytest.mark.parametrize("kind", BASELINES)


def make(kind, num_codes=64, dim=8):
    torch.manual_seed(0)
    return BASELINES[kind](num_codes, dim)


def latents(batch=3, dim=8, height=4, width=5):
    return torch.randn(batch, dim, height, width, generator=torch.Generator().manual_seed(1))


def direct(kind):
    """The package's own module for 64 codes and 8 components, as a user of the package makes it."""
    import vector_quantize_pytorch as package

    return {
        "fsq": lambda: package.FSQ([8, 8], dim=8),
        "lfq": lambda: package.LFQ(codebook_size=64, dim=8, commitment_loss_weight=0.25),
        "bsq": lambda: package.LFQ(codebook_size=64, dim=8, spherical=True),
        "simvq": lambda: package.SimVQ(dim=8, codebook_size=64, rotation_trick=False),
        "rotation": lambda: package.VectorQuantize(dim=8, codebook_size=64, rotation_trick=True),
        "cosine_ema": lambda: package.VectorQuantize(
            dim=8, codebook_size=64, use_cosine_sim=True, rotation_trick=False
        ),
    }[kind]()


def flatten(grid):
    return grid.permute(0, 2, 3, 1).reshape(1, -1, grid.shape[1])


@every_baseline
def test_it_trains_as_the_package_does(kind):
    """Indices, codes, losses and all gradients over three steps; from the second on the averages have moved."""
    quantizer = make(kind)
    module = direct(kind)
    module.load_state_dict(quantizer.method.state_dict())
    for step in range(3):
        own = (latents() + step).requires_grad_()
        flat = flatten(own.detach()).requires_grad_()
        weight = torch.randn(1, 60, 8)
        quantized = quantizer(own)
        our_codes = flatten(quantized.codes)
        codes, indices, *losses = module(flat)  # FSQ has no loss
        loss = sum(losses, torch.zeros(()))
        assert torch.equal(quantized.indices.flatten(), indices.flatten().long())
        assert torch.allclose(our_codes, codes, atol=1e-5)
        assert torch.allclose(quantized.loss, loss, atol=1e-6)

        ((our_codes * weight).sum() + quantized.loss).backward()
        ((codes * weight).sum() + loss).backward()
        assert own.grad.any()
        assert torch.allclose(flatten(own.grad), flat.grad, atol=1e-5)
        for ours, theirs in zip(quantizer.parameters(), module.parameters(), strict=True):
            assert ours.grad.any()
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
        quantizer.after_step()
    expected = module.state_dict()
    for name, value in quantizer.method.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_the_rotation_gradient_turns_and_scales_as_the_latent_to_its_code():
    """Fifty et al. 2025, equation 4: R = I - 2 w w' + 2 q z', times |code| / |latent|."""
    own = latents().requires_grad_()
    weight = torch.randn(60, 8, dtype=torch.float64)
    codes = make("rotation")(own).codes
    (flatten(codes)[0] * weight).sum().backward()

    z = flatten(own.detach())[0].double()
    q = flatten(codes.detach())[0].double()
    scale = q.norm(dim=1) / z.norm(dim=1)
    z = normalize(z, dim=1)
    q = normalize(q, dim=1)
    w = normalize(z + q, dim=1)
    reflection = torch.eye(8) - 2 * torch.einsum("ni,nj->nij", w, w)
    rotation = reflection + 2 * torch.einsum("ni,nj->nij", q, z)
    expected = scale[:, None] * torch.einsum("nij,ni->nj", rotation, weight)
    assert torch.allclose(flatten(own.grad)[0].double(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["rotation", "cosine_ema"])
def test_averages_of_codes_that_nobody_chooses_end_at_zero(kind):
    quantizer = make(kind)
    same = latents()[:1, :, :1, :1]
    for _ in range(500):  # 0.8^500 is below the smallest normal number of float32
        quantizer(same)
        quantizer.after_step()
    sizes = quantizer.method._codebook.cluster_size.flatten()
    assert (sizes > 0.9).sum() == 1
    assert (sizes == 0).sum() == len(sizes) - 1


def test_cosine_codes_in_use_have_norm_1_and_one_at_zero_may_be_chosen_again():
    quantizer = make("cosine_ema", 4, 2)
    latent = torch.tensor([[1.0, 0.0]])
    for _ in range(500):
        quantizer(latent)
        quantizer.after_step()
    norms = quantizer.codebook.norm(dim=1)
    used = quantizer(latent).indices
    assert norms[used].item() == pytest.approx(1.0)
    assert norms.count_nonzero() == 1
    assert quantizer(-latent).indices != used
    assert "codes in use have norm 1" in quantizer.mismatch


WEIGHTS = {
    "fsq": {},
    "lfq": {"sample_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25},
    "bsq": {"sample_entropy": 0.1, "codebook_entropy": -0.1},
    "simvq": {"codebook": 1, "commitment": 0.25},
    "rotation": {"commitment": 1},
    "cosine_ema": {"commitment": 1},
}


@pytest.mark.parametrize(("kind", "terms"), WEIGHTS.items())
def test_the_loss_is_the_weighted_sum_of_its_terms(kind, terms):
    quantized = make(kind)(latents())
    assert quantized.losses.keys() == terms.keys()
    expected = sum(weight * quantized.losses[name].item() for name, weight in terms.items())
    assert quantized.loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["lfq", "simvq", "rotation", "cosine_ema"])
def test_another_commitment_weight_changes_the_loss_by_so_much_and_is_kept(kind):
    def loss(commitment):
        torch.manual_seed(0)
        quantizer = BASELINES[kind](64, 8, commitment=commitment)
        return quantizer, quantizer(latents())

    usual, quantized = loss(None)
    heavy, heavier = loss(usual.commitment + 2)
    difference = heavier.loss - quantized.loss
    assert difference.item() == pytest.approx(2 * quantized.losses["commitment"].item(), rel=1e-4)
    assert "commitment" not in usual.config()
    assert Quantizer.from_config(heavy.config()).commitment == usual.commitment + 2
    with pytest.raises(ValueError, match=r"beta is -1.0; it must be a finite number from 0"):
        BASELINES[kind](64, 8, commitment=-1.0)


def test_a_baseline_without_a_commitment_loss_takes_no_weight_of_it():
    with pytest.raises(ValueError, match="but BinarySphericalQuantizer has no commitment loss"):
        BASELINES["bsq"](64, 8, commitment=1.0)


@every_baseline
def test_lookup_gives_the_very_codes_of_forward_and_encode_its_indices(kind):
    quantizer = make(kind).eval()
    quantized = quantizer(latents())
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.codes.detach())
    assert torch.equal(quantizer.encode(latents()), quantized.indices)
    described = describe(quantizer.codebook.detach(), quantized.indices)
    assert described.codes_used == len(quantized.indices.unique())


@every_baseline
def test_training_counts_and_evaluation_changes_nothing(kind):
    quantizer = make(kind)
    quantized = quantizer(latents())
    expected = torch.bincount(quantized.indices.flatten(), minlength=64)
    assert torch.equal(quantizer.counts, expected)
    quantizer.after_step()
    assert quantizer.step == 1
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents())
    quantizer.encode(latents())
    assert not quantizer.training
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@every_baseline
def test_in_evaluation_only_latents_get_a_gradient(kind):
    quantizer = make(kind)
    expected = quantizer(latents())
    quantizer.eval()
    own = latents().requires_grad_()
    quantized = quantizer(own)
    assert torch.equal(quantized.codes, expected.codes)
    (of_loss,) = torch.autograd.grad(quantized.loss + 0.0 * own.sum(), own, retain_graph=True)
    assert bool(of_loss.any()) == (kind == "simvq")
    (quantized.codes.square().sum() + quantized.loss).backward()
    assert own.grad.any()
    assert all(parameter.grad is None for parameter in quantizer.parameters())
    assert all(parameter.requires_grad for parameter in quantizer.method.parameters())


@every_baseline
def test_half_precision_changes_no_index(kind):
    quantizer = make(kind).eval()
    expected = quantizer(latents())
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(latents())
        encoded = quantizer.encode(latents())
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(encoded, expected.indices)
    assert found.codes.dtype == torch.float32
    assert torch.equal(found.codes, expected.codes)


@every_baseline
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_a_quantizer_of_any_precision_computes_in_float32(kind, precision):
    plain = make(kind).eval()
    quantizer = make(kind).eval().to(precision)
    given = latents().to(precision)
    found = quantizer(given)
    expected = plain(given.float())
    assert found.codes.dtype == precision
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.codes, expected.codes.to(precision))
    assert torch.equal(quantizer.lookup(found.indices).to(precision), found.codes)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@every_baseline
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_it_trains_in_a_model_of_any_precision(kind, precision):
    model = VQVAE(1, make(kind, 16, 4), hidden=8, residual_hidden=4).to(precision)
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    output = model(images)
    (output.reconstruction.float().square().mean() + output.quantized.loss).backward()
    model.quantizer.after_step()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    model.eval()
    assert torch.equal(
        model.reconstruct(images), model(images).reconstruction.clamp(-1, 1).detach()
    )


@every_baseline
def test_a_frozen_one_learns_nothing_until_it_is_unfrozen(kind):
    quantizer = make(kind)
    before = {name: value.clone() for name, value in quantizer.method.state_dict().items()}
    quantizer.freeze()
    own = latents().requires_grad_()
    for _ in range(2):
        quantized = quantizer(own)
        (quantized.codes.square().mean() + quantized.loss).backward()
        quantizer.after_step()
    assert own.grad.any()
    assert all(parameter.grad is None for parameter in quantizer.parameters())
    for name, value in quantizer.method.state_dict().items():
        assert torch.equal(value, before[name]), name

    quantizer.unfreeze()
    quantized = quantizer(own)
    (quantized.codes.square().mean() + quantized.loss).backward()
    quantizer.after_step()
    learned = any(parameter.grad is not None for parameter in quantizer.parameters())
    after = quantizer.method.state_dict()
    moved = any(not torch.equal(after[name], value) for name, value in before.items())
    assert learned or moved


@every_baseline
def test_freezing_drops_a_gradient_that_waits_for_its_step(kind):
    quantizer = make(kind)
    learned = [*quantizer.parameters()]
    before = [parameter.detach().clone() for parameter in learned]
    optimizer = torch.optim.Adam([*learned, torch.zeros(1, requires_grad=True)], lr=0.1)
    quantized = quantizer(latents().requires_grad_())
    (quantized.codes.square().mean() + quantized.loss).backward()
    quantizer.freeze()
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(learned, before, strict=True))


MOVING = pytest.mark.parametrize("kind", ["rotation", "cosine_ema"])


@MOVING
def test_small_batches_before_a_step_count_as_one_large_batch(kind):
    whole = make(kind)
    parts = make(kind)
    for step in range(3):
        batch = latents(batch=4) + step
        whole(batch)
        for part in batch.split([1, 2, 1]):
            parts(part)
        for quantizer in (whole, parts):
            quantizer.after_step()
    assert not torch.equal(whole.codebook, make(kind).codebook)
    assert torch.allclose(parts.codebook, whole.codebook, atol=1e-6)
    assert torch.equal(parts.counts, whole.counts)


@MOVING
def test_what_was_collected_before_a_run_is_no_part_of_it(kind):
    quantizer = make(kind)
    quantizer(latents() + 3)
    quantizer.begin_run(steps=5)
    fresh = make(kind)
    for each in (quantizer, fresh):
        each(latents())
        each.after_step()
    assert torch.equal(quantizer.codebook, fresh.codebook)


@MOVING
def test_a_forward_pass_repeated_by_checkpointing_counts_once(kind):
    quantizer = make(kind)
    plain = make(kind)
    own = latents().requires_grad_()
    checkpoint(lambda x: quantizer(x).codes, own, use_reentrant=False).sum().backward()
    plain(own).codes.sum().backward()
    for each in (quantizer, plain):
        each.after_step()
    assert torch.equal(quantizer.codebook, plain.codebook)
    assert torch.equal(quantizer.counts, plain.counts)


@MOVING
def test_a_batch_that_is_not_finite_or_empty_moves_nothing(kind):
    quantizer = make(kind)
    bad = latents()
    bad[0, 0, 0, 0] = math.inf
    before = {name: value.clone() for name, value in quantizer.method.state_dict().items()}
    for batch in (bad, latents()[:0]):
        quantizer(batch)
        quantizer.after_step()
        for name, value in quantizer.method.state_dict().items():
            assert torch.allclose(value, before[name], atol=1e-6), name
    quantizer(latents())
    quantizer.after_step()
    assert quantizer.codebook.isfinite().all()


@MOVING
def test_a_micro_batch_that_is_not_finite_leaves_the_others_of_its_step(kind):
    quantizer = make(kind)
    plain = make(kind)
    bad = latents()
    bad[0, 0, 0, 0] = math.nan
    for batch in (latents(), bad):
        quantizer(batch)
    plain(latents())
    for each in (quantizer, plain):
        each.after_step()
    assert torch.equal(quantizer.codebook, plain.codebook)
    assert torch.equal(quantizer.counts, plain.counts)


@every_baseline
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_is_not_counted_and_training_goes_on(kind, bad):
    quantizer = make(kind)
    batch = latents()
    batch[1] = bad
    quantizer(batch)
    quantizer.after_step()
    assert quantizer.counts.sum() == 0
    indices = quantizer(latents()).indices
    quantizer.after_step()
    assert quantizer.counts.sum() == indices.numel()


@pytest.mark.parametrize("kind", ["fsq", "lfq", "bsq"])
def test_a_grid_of_signs_or_levels_is_exported_for_any_batch_size(kind):
    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer = make(kind).eval()

        def forward(self, batch):
            return self.quantizer(batch).indices

    model = Encode()
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(model, (latents(batch=5),), dynamic_shapes=sizes).module()
    other = latents(batch=7)
    assert torch.equal(exported(other), model(other))


@every_baseline
def test_an_empty_batch_has_no_loss(kind):
    quantizer = make(kind)
    own = latents()[:0].requires_grad_()
    quantized = quantizer(own)
    assert quantized.loss == 0
    assert quantized.codes.shape == own.shape
    assert quantized.indices.shape == (0, 4, 5)
    quantized.loss.backward()
    quantizer.after_step()


@every_baseline
def test_masked_latents_are_left_out(kind):
    whole = make(kind)
    masked = make(kind)
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[:2] = True
    expected = whole(latents()[:2])
    found = masked(latents(), mask=mask)
    assert torch.equal(found.indices[:2], expected.indices)
    assert (found.indices[2] == -1).all()
    assert torch.allclose(found.loss, expected.loss, atol=1e-6)
    for quantizer in (whole, masked):
        quantizer.after_step()
    assert torch.allclose(masked.codebook, whole.codebook, atol=1e-6)


@every_baseline
def test_encode_leaves_every_part_in_its_mode(kind):
    quantizer = make(kind).train()
    quantizer.method.eval()
    modes = [part.training for part in quantizer.modules()]
    quantizer.encode(latents())
    assert [part.training for part in quantizer.modules()] == modes
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer.encode(latents() * math.nan)
    assert [part.training for part in quantizer.modules()] == modes


@every_baseline
def test_its_codes_cannot_be_set(kind):
    with pytest.raises(ValueError, match="follow from its method; they cannot be set"):
        make(kind).set_codebook(torch.randn(64, 8))


@every_baseline
@settings(max_examples=5, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    power=st.integers(3, 7),
)
def test_shapes(kind, batch, height, width, power):
    quantizer = make(kind, 2**power, 6)
    quantized = quantizer(latents(batch, 6, height, width))
    assert quantized.codes.shape == (batch, 6, height, width)
    assert quantized.indices.shape == (batch, height, width)
    assert quantizer.codebook.shape == (quantizer.num_codes, 6)
    assert quantized.indices.max() < quantizer.num_codes
    assert quantized.loss.isfinite()
    assert quantized.loss.ndim == 0


@every_baseline
def test_a_model_with_it_learns_and_is_saved_and_opened(kind, tmp_path):
    ramp = torch.linspace(0, 255, 8).expand(64, 1, 8, 8) * torch.rand(64, 1, 1, 1)
    split = ImageSplit(ramp.to(torch.uint8), torch.zeros(64, dtype=torch.int64))
    data = ImageData("ramps", split, split, split, ("ramp",))
    sizes = {"num_codes": 16, "dim": 4, "hidden": 8, "residual_hidden": 4}
    model = RunSettings(dataset="ramps", quantizer=kind, **sizes).model(data)
    compute = Compute("cpu", "float32")
    recording = Recording(progress=False)
    run = fit(model, data, steps=40, batch_size=16, lr=1e-2, compute=compute, recording=recording)
    psnr = run.history.psnr
    assert psnr.tail(5).mean() > psnr.head(5).mean() + 3

    run.model.save_pretrained(tmp_path)
    opened = VQVAE.from_pretrained(tmp_path)
    assert type(opened.quantizer) is BASELINES[kind]
    assert opened.quantizer.step == 40
    assert torch.equal(opened.quantizer.codebook, run.model.quantizer.codebook)
    batch = split.batch(torch.arange(8))
    # Training lays out the weights as channels_last, where convolutions round differently.
    expected = run.model.reconstruct(batch)
    assert torch.allclose(opened.reconstruct(batch), expected, atol=1e-5)


def test_it_is_known_without_an_import_of_its_own_and_the_package_comes_only_with_the_first():
    code = """
import sys, arcvq
print("vector_quantize_pytorch" in sys.modules)
arcvq.Quantizer.from_config({"kind": "SimVQQuantizer", "num_codes": 4, "dim": 2})
print("vector_quantize_pytorch" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


@every_baseline
def test_what_differs_is_said_in_a_sentence(kind):
    sentence = make(kind, 512, 64).mismatch
    assert "K and D match" in sentence or "512 codes of" in sentence


LEVELS = {512: [8, 8, 8], 16: [4, 4], 1024: [8, 8, 4, 4], 99: [5, 5, 4]}


@pytest.mark.parametrize(("num_codes", "levels"), LEVELS.items())
def test_fsq_takes_the_nearest_size(num_codes, levels):
    assert fsq_levels(num_codes) == levels


@settings(deadline=None)
@given(st.integers(4, 2**16))
def test_the_size_that_fsq_takes_gives_the_same_levels_again(num_codes):
    levels = fsq_levels(num_codes)
    assert fsq_levels(math.prod(levels)) == levels
    assert set(levels) <= {4, 5, 6, 7, 8}


BAD_SIZES = [
    ("lfq", 100, "num_codes is 100; LFQ needs a power of two from 2"),
    ("bsq", 3, "num_codes is 3; BSQ on the unit sphere needs a power of two from 2"),
    ("fsq", 3, "num_codes is 3; FSQ needs at least 4"),
]


@pytest.mark.parametrize(("kind", "num_codes", "sentence"), BAD_SIZES)
def test_a_size_that_a_method_cannot_have_is_told(kind, num_codes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(kind, num_codes)


@every_baseline
def test_latents_of_another_shape_are_told(kind):
    with pytest.raises(ValueError, match=r"they must be \(B, 8, \*grid\)"):
        make(kind)(torch.randn(2, 7, 3, 3))


def test_a_missing_package_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    message = r"not installed; it comes with pip install 'arcvq\[baselines\]'"
    with pytest.raises(ImportError, match=message):
        make("simvq")


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_a_method_whose_package_errs_over_many_processes_refuses_to_train_there(kind, monkeypatch):
    quantizer = make(kind)
    monkeypatch.setattr(vector_quantize_pytorch, "world_size", lambda: 2)
    with pytest.raises(
        ValueError, match="is trained by 2 processes; it can be trained by one only"
    ):
        quantizer(latents())
    assert quantizer.eval()(latents()).indices.shape == (3, 4, 5)
