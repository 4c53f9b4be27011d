"""Quantizers in training loops of any make: evaluation, freezing, accumulation, loading, precision."""

import copy
import io
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from arcvq.composites import GroupedQuantizer, ResidualQuantizer
from arcvq.quantizers import (
    ContinuousQuantizer,
    CosineQuantizer,
    EMAQuantizer,
    EuclideanQuantizer,
    OnlineClusteredQuantizer,
    SphericalQuantizer,
)
from arcvq.samp import SAMP
from arcvq.schedules import Adaptive, Constant
from arcvq.vqvae import VQVAE
from tests.kinds import (
    KINDS,
    REVIVED,
    assert_same_state,
    every_kind,
    every_reviving_kind,
    state_of,
    twins,
)

NOT_FINITE = [math.nan, math.inf, -math.inf]
every_bad_value = pytest.mark.parametrize("bad", NOT_FINITE)


def latents_of(codes):
    """(K, D) to (1, D, 1, K): a batch in which each code is a latent."""
    return codes.T[None, :, None, :]


def spoiled(latents, bad):
    """The latents with one value that is not finite."""
    latents = latents.clone()
    latents[0, 0, 0, 0] = bad
    return latents


# Evaluation and freezing


@every_kind
def test_evaluation_is_inert(make):
    quantizer = make(16, 8)
    for _ in range(3):
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
    quantizer.eval()
    before = state_of(quantizer)
    for _ in range(50):
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
    assert_same_state(state_of(quantizer), before)


@every_kind
def test_in_evaluation_the_loss_reaches_the_latents_but_moves_no_code(make):
    quantizer = make(16, 8)
    latents = torch.randn(4, 8, 2, 2, requires_grad=True)
    with torch.no_grad():
        quantizer(latents)
    quantizer.eval()
    before = state_of(quantizer)
    optimizer = torch.optim.Adam(quantizer.parameters())
    for _ in range(3):
        quantized = quantizer(latents)
        quantized.loss.backward()
        optimizer.step()
        quantizer.after_step()
    assert_same_state(state_of(quantizer), before)
    codes = quantizer.lookup(quantized.indices)
    slope = 2 * quantizer.beta * (latents - codes) / latents.numel()
    assert torch.allclose(latents.grad, 3 * slope, atol=1e-6)
    error = (latents - codes).square().mean()
    weight = quantizer.beta + quantizer.trainable
    assert torch.allclose(quantized.loss, weight * error)


@every_kind
def test_a_validation_between_forward_and_after_step_changes_nothing(make):
    quantizer, other = twins(make, 16, 8)
    batch = torch.randn(4, 8, 2, 2)
    for one in (quantizer, other):
        torch.manual_seed(1)
        one(batch)
    quantizer.eval()
    quantizer(torch.randn(4, 8, 2, 2))
    quantizer.after_step()
    quantizer.train()
    for one in (quantizer, other):
        one.after_step()
    assert_same_state(state_of(quantizer), state_of(other))
    assert quantizer.step == 1


FREEZING = {
    "freeze": lambda quantizer: quantizer.freeze(),
    "requires_grad": lambda quantizer: quantizer.codebook.requires_grad_(False),
    "whole module": lambda quantizer: quantizer.requires_grad_(False),
}


@every_kind
@pytest.mark.parametrize("freeze", FREEZING.values(), ids=FREEZING)
def test_a_frozen_codebook_stays_and_steps_and_usage_are_counted(make, freeze):
    quantizer = make(16, 8)
    encoder = nn.Conv2d(3, 8, 1)
    freeze(quantizer)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *quantizer.parameters()], lr=0.1)
    before = state_of(quantizer)
    for _ in range(5):
        optimizer.zero_grad()
        quantized = quantizer(encoder(torch.randn(4, 3, 2, 2)))
        (quantized.codes.square().mean() + quantized.loss).backward()
        optimizer.step()
        quantizer.after_step()
    assert_same_state(state_of(quantizer), before, but=("step", "counts", "batch_counts"))
    assert quantizer.frozen
    assert quantizer.step == 5
    assert quantizer.counts.sum() == 80


@every_kind
def test_after_unfreeze_the_codebook_learns_as_if_it_had_never_been_frozen(make):
    quantizer, other = twins(make, 16, 8)
    quantizer.freeze()
    quantizer.unfreeze()
    batch = torch.randn(4, 8, 2, 2, requires_grad=True)
    for one in (quantizer, other):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        before = one.codebook.detach().clone()
        one(batch).loss.backward()
        optimizer.step()
        one.after_step()
        assert not torch.equal(one.codebook, before)
    assert_same_state(state_of(quantizer), state_of(other))


def test_freezing_drops_a_gradient_that_waits_for_its_step():
    quantizer = CosineQuantizer(16, 8)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    quantizer(torch.randn(4, 8, 2, 2)).loss.backward()
    before = quantizer.codebook.detach().clone()
    quantizer.freeze()
    optimizer.step()
    assert torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("make", [*KINDS.values(), *REVIVED.values()])
def test_nothing_follows_from_a_batch_that_a_frozen_codebook_saw(make):
    quantizer = make(16, 8)
    before = quantizer.codebook.detach().clone()
    quantizer.freeze()
    quantizer(torch.randn(4, 8, 2, 2))
    quantizer.unfreeze()
    quantizer.after_step()
    assert torch.equal(quantizer.codebook, before)


def test_averages_take_only_the_batches_that_they_collected():
    """Half of a step was frozen: its counts without its sums would shrink the codes."""
    quantizer, other = twins(EMAQuantizer, 16, 8)
    first, second = torch.randn(2, 4, 8, 2, 2)
    quantizer.freeze()
    quantizer(first)
    quantizer.unfreeze()
    for one in (quantizer, other):
        one(second)
        one.after_step()
    counts = ("counts", "batch_counts")
    assert_same_state(state_of(quantizer), state_of(other), but=counts)


@every_kind
def test_a_codebook_that_is_frozen_after_forward_does_not_follow(make):
    quantizer = make(16, 8)
    before = quantizer.codebook.detach().clone()
    quantizer(torch.randn(4, 8, 2, 2))
    quantizer.freeze()
    quantizer.after_step()
    quantizer.unfreeze()
    assert torch.equal(quantizer.codebook, before)
    with pytest.warns(UserWarning, match="without a forward pass"):
        quantizer.after_step()
    assert torch.equal(quantizer.codebook, before)
    assert quantizer.step == 1


@every_kind
def test_after_step_applies_a_batch_once_and_warns_when_it_has_none(make):
    quantizer, other = twins(make, 16, 8)
    batch = torch.randn(4, 8, 2, 2)
    for one in (quantizer, other):
        torch.manual_seed(1)
        one(batch)
        one.after_step()
    message = "without a forward pass in training since the last call"
    with pytest.warns(UserWarning, match=message):
        quantizer.after_step()
    assert_same_state(state_of(quantizer), state_of(other))


def test_a_loop_as_documented_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in KINDS.values():
            quantizer = make(16, 8)
            for _ in range(3):
                quantizer(torch.randn(4, 8, 2, 2))
                quantizer.after_step()
            quantizer.eval()
            quantizer.after_step()


# Batches that must not count


@every_bad_value
@pytest.mark.parametrize("kind", ["plain", "ema", "cosine", "samp", "cvq_closest"])
def test_a_batch_that_is_not_finite_counts_for_nothing(kind, bad):
    quantizer, other = twins(KINDS[kind], 16, 8)
    batch = torch.randn(4, 8, 2, 2)
    for latents in (batch, spoiled(batch, bad), batch):
        quantizer(latents)
        quantizer.after_step()
    for latents in (batch, batch):
        other(latents)
        other.after_step()
    assert quantizer.step == 3
    clock = ("step", "radius")
    assert_same_state(state_of(quantizer), state_of(other), but=clock)


@every_bad_value
def test_a_code_never_moves_to_a_latent_that_is_not_finite(bad):
    quantizer = OnlineClusteredQuantizer(16, 8)
    for _ in range(5):
        for latents in (torch.randn(4, 8, 2, 2), spoiled(torch.randn(4, 8, 2, 2), bad)):
            quantizer(latents)
            quantizer.after_step()
    assert quantizer.codebook.isfinite().all()


@every_kind
def test_a_micro_batch_that_is_not_finite_leaves_the_others_of_its_step(make):
    quantizer, other = twins(make, 16, 8)
    good = torch.randn(4, 8, 2, 2)
    for one, batches in ((quantizer, (good, spoiled(good, math.inf))), (other, (good,))):
        torch.manual_seed(1)
        for latents in batches:
            one(latents)
        one.after_step()
    assert_same_state(state_of(quantizer), state_of(other))


@every_kind
@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
def test_finite_latents_count_however_large_their_sum(make, signs):
    quantizer = make(4, 8)
    largest = torch.finfo(torch.float32).max
    latents = torch.tensor(signs).repeat(8)[:, None] * torch.full((16, 8), largest)
    quantizer(latents)
    assert quantizer.counts.sum() == 16
    quantizer.after_step()
    quantizer(torch.randn(16, 8))
    quantizer.after_step()
    assert all(value.isfinite().all() for value in state_of(quantizer).values())


@every_reviving_kind
def test_a_code_is_revived_at_finite_latents_however_large_their_sum(make):
    quantizer = make(4, 8, revive_after=1)
    quantizer.set_codebook(torch.eye(4, 8))
    latents = torch.full((16, 8), 1e38)
    quantizer(latents)
    anchors = quantizer.anchors.clone()
    assert torch.equal(anchors, latents[:4])


EMPTY = [(0, 8, 2, 2), (0, 8), (3, 8, 0), (2, 8, 0, 4)]


@every_kind
@pytest.mark.parametrize("shape", EMPTY)
def test_an_empty_batch_has_loss_0_and_moves_nothing(make, shape):
    quantizer = make(16, 8)
    before = quantizer.codebook.detach().clone()
    latents = torch.zeros(shape, requires_grad=True)
    quantized = quantizer(latents)
    quantized.loss.backward()
    quantizer.after_step()
    assert quantized.loss == 0
    assert all(term == 0 for term in quantized.losses.values())
    assert quantized.indices.numel() == 0
    assert latents.grad.shape == shape
    assert torch.equal(quantizer.codebook, before)
    assert quantizer.step == 1


@every_kind
def test_an_empty_batch_between_others_leaves_the_averages(make):
    quantizer = make(16, 8)
    for _ in range(3):
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
    before = state_of(quantizer)
    quantizer(torch.zeros(0, 8, 2, 2))
    quantizer.after_step()
    of_the_step = ("step", "radius", "batch_counts", "batch_sizes", "batch_sums", "anchor_weights")
    assert_same_state(state_of(quantizer), before, but=of_the_step)


@pytest.mark.parametrize("radius", [Adaptive(3.0, 0.5), Adaptive(0.5, 3.0)])
def test_an_empty_batch_says_nothing_of_the_usage_to_an_adaptive_ball(radius):
    quantizer = SphericalQuantizer(16, 8, SAMP(radius=radius))
    quantizer(torch.randn(64, 8))
    quantizer.codebook.data.mul_(10)
    quantizer.after_step()
    before = quantizer.codebook.detach().clone()
    quantizer(torch.zeros(0, 8))
    quantizer.after_step()
    assert torch.allclose(quantizer.codebook, before, rtol=1e-6)


@every_bad_value
@every_kind
def test_a_codebook_that_is_not_finite_is_named_outside_training(make, bad):
    quantizer = make(16, 8).eval()
    quantizer.codebook.data[3, :2] = bad
    message = "2 of 128 values of the codebook are NaN or infinite; all must be finite"
    for call in (quantizer, quantizer.encode, quantizer.replace):
        with pytest.raises(ValueError, match=message):
            call(torch.randn(4, 8, 2, 2))


# Codebooks from outside


def copy_in(quantizer, codes):
    quantizer.codebook.data.copy_(codes)


def new_parameter(quantizer, codes):
    quantizer.codebook = nn.Parameter(codes.clone())


def load_of_another_kind(quantizer, codes):
    other = EMAQuantizer(*codes.shape)
    if isinstance(quantizer, EMAQuantizer):
        other = EuclideanQuantizer(*codes.shape)
    other.codebook.data.copy_(codes)
    quantizer.load_state_dict(other.state_dict(), strict=False)


WAYS_IN = {
    "copy": copy_in,
    "parameter": new_parameter,
    "set_codebook": lambda quantizer, codes: quantizer.set_codebook(codes),
    "load": lambda quantizer, codes: quantizer.load_state_dict({"codebook": codes}),
    "assign": lambda quantizer, codes: quantizer.load_state_dict(
        {"codebook": codes.clone()}, assign=True
    ),
    "another kind": load_of_another_kind,
}
every_way_in = pytest.mark.parametrize("put", WAYS_IN.values(), ids=WAYS_IN)


@every_kind
@every_way_in
@pytest.mark.parametrize(("length", "steps_before"), [(0.01, 3), (30.0, 0), (30.0, 3)])
def test_codes_from_outside_stay_where_their_latents_are(make, put, steps_before, length):
    quantizer = make(16, 8)
    for _ in range(steps_before):
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
    codes = length * torch.rand(16, 1) * nn.functional.normalize(torch.randn(16, 8), dim=1)
    put(quantizer, codes)
    assert torch.equal(quantizer.codebook, codes)
    for _ in range(2):
        quantizer(latents_of(codes))
        quantizer.after_step()
    distance = (quantizer.codebook - codes).norm() / codes.norm()
    # By its own rule a code of CVQ-VAE with the average usage moves a little towards a latent.
    assert distance < (1e-3 if isinstance(quantizer, OnlineClusteredQuantizer) else 1e-5)


@every_kind
def test_a_loaded_codebook_shares_no_memory_with_the_averages(make):
    codes = torch.randn(16, 8)
    quantizer = make(16, 8)
    quantizer.load_state_dict({"codebook": codes.clone()}, assign=True)
    places = [tensor.data_ptr() for tensor in quantizer.state_dict().values()]
    assert len(set(places)) == len(places)
    other = make(16, 8)
    other.load_state_dict({"codebook": codes})
    for one in (quantizer, other):
        torch.manual_seed(1)
        for _ in range(3):
            one(torch.randn(4, 8, 2, 2))
            one.after_step()
    assert_same_state(state_of(quantizer), state_of(other))


@every_kind
def test_the_own_state_continues_bit_for_bit(make):
    quantizer = make(16, 8)
    torch.manual_seed(1)
    for _ in range(3):
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
    resumed = make(16, 8)
    resumed.load_state_dict(quantizer.state_dict())
    for one in (quantizer, resumed):
        torch.manual_seed(2)
        for _ in range(3):
            one(torch.randn(4, 8, 2, 2))
            one.after_step()
    assert_same_state(state_of(quantizer), state_of(resumed))


def test_weights_without_a_codebook_leave_the_quantizer_as_it_is():
    model = nn.ModuleDict({"encoder": nn.Linear(3, 8), "quantizer": EMAQuantizer(16, 8)})
    model["quantizer"](torch.randn(32, 8))
    model["quantizer"].after_step()
    before = state_of(model["quantizer"])
    encoder = {f"encoder.{name}": value for name, value in model["encoder"].state_dict().items()}
    model.load_state_dict(encoder, strict=False)
    assert_same_state(state_of(model["quantizer"]), before)


@every_kind
def test_a_forward_pass_before_a_new_codebook_or_run_does_not_count_for_its_first_step(make):
    batch = torch.randn(4, 8, 2, 2)
    codes = torch.randn(16, 8)
    for begin in (
        lambda one: one.set_codebook(codes),
        lambda one: one.load_state_dict({"codebook": codes}),
        lambda one: one.begin_run(10),
    ):
        quantizer, other = twins(make, 16, 8)
        quantizer(torch.randn(4, 8, 2, 2))  # to see the shapes, for instance
        for one in (quantizer, other):
            begin(one)
            torch.manual_seed(1)
            one(batch)
            one.after_step()
        assert_same_state(state_of(quantizer), state_of(other))


@every_kind
def test_set_codebook_refuses_what_is_no_codebook_of_its_shape(make, unchecked):
    quantizer = make(16, 8)
    before = state_of(quantizer)
    with pytest.raises(ValueError, match=r"codebook has shape \(8, 16\); it must be \(16, 8\)"):
        quantizer.set_codebook(torch.randn(8, 16))
    bad = torch.randn(16, 8)
    bad[0] = math.nan
    with pytest.raises(ValueError, match="8 of 128 values of the codebook are NaN or infinite"):
        quantizer.set_codebook(bad)
    with pytest.raises(RuntimeError, match=r"size mismatch for codebook"):
        quantizer.load_state_dict({"codebook": torch.randn(16, 9)})
    assert_same_state(state_of(quantizer), before)


# Precision


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_changes_neither_indices_nor_losses(make, dtype):
    quantizer = make(16, 8).to(dtype)
    exact = make(16, 8).to(torch.promote_types(dtype, torch.float32))
    exact.load_state_dict(quantizer.state_dict())
    latents = torch.randn(4, 8, 3, 3).to(dtype).requires_grad_()
    got = quantizer(latents)
    expected = exact(latents.detach().to(exact.codebook.dtype))
    assert got.codes.dtype == dtype
    assert got.loss.dtype == exact.codebook.dtype
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.loss, expected.loss)
    assert torch.equal(got.codes, quantizer.lookup(got.indices))
    (got.codes.sum() + got.loss).backward()
    assert latents.grad.isfinite().all()
    assert latents.grad.dtype == dtype


@every_kind
@pytest.mark.parametrize("codebook", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("latents", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_codes_have_the_dtype_of_the_latents_whatever_that_of_the_codebook(make, codebook, latents):
    quantizer = make(16, 8).to(codebook)
    for _ in range(2):
        batch = torch.randn(4, 8, 3).to(latents)
        quantized = quantizer(batch)
        assert quantized.codes.dtype == latents
        assert torch.equal(quantizer.lookup(quantized.indices).to(latents), quantized.codes)
        assert quantizer.replace(batch).dtype == latents
        quantizer.after_step()
    assert quantizer.codebook.dtype == codebook
    assert quantizer.codebook.isfinite().all()


@every_kind
@pytest.mark.parametrize("convert", ["half", "bfloat16"])
def test_averages_stay_in_float32_in_a_module_of_half_precision(make, convert):
    quantizer = make(16, 8)
    buffers = dict(quantizer.named_buffers())
    getattr(quantizer, convert)()
    for name, buffer in quantizer.named_buffers():
        assert buffer.equal(buffers[name]), name
        assert buffer.dtype == buffers[name].dtype, name
    saved = quantizer.state_dict()
    for name, value in saved.items():
        saved[name] = value.bfloat16() if value.is_floating_point() else value
    quantizer.load_state_dict(saved, assign=True)
    dtypes = {buffer.dtype for buffer in quantizer.buffers() if buffer.is_floating_point()}
    assert dtypes <= {torch.float32}


@pytest.fixture(params=[torch.float16, torch.bfloat16])
def half_by_default(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@every_kind
def test_averages_are_in_float32_where_half_precision_is_the_default(make, half_by_default):
    quantizer = make(16, 8)
    assert quantizer.codebook.dtype == half_by_default
    dtypes = {buffer.dtype for buffer in quantizer.buffers()}
    assert dtypes <= {torch.int64, torch.float32}


def test_a_codebook_in_bfloat16_follows_averages_that_do_not_stall():
    """What a step adds is less than bfloat16 can tell; with one code, rounding moves no index."""
    quantizer = EMAQuantizer(1, 2, decay=0.9999).bfloat16()
    target = torch.tensor([[3.0, -1.0]])
    start = quantizer.codebook.detach().float()
    for _ in range(150):
        quantizer(target.expand(8, 2).bfloat16())
        quantizer.after_step()
    left = 0.9999**150
    sizes = left + 8 * (1 - left)
    expected = (start * left + 8 * target * (1 - left)) / sizes
    assert torch.allclose(quantizer.codebook.float(), expected, rtol=0.01)


@every_kind
def test_a_module_goes_through_all_precisions_and_back(make):
    quantizer = make(16, 8)
    for convert in ("half", "float", "bfloat16", "double", "float", "double", "half", "float"):
        getattr(quantizer, convert)()
        quantized = quantizer(torch.randn(64, 8, dtype=quantizer.codebook.dtype))
        quantizer.after_step()
        assert quantized.codes.dtype == quantizer.codebook.dtype
        assert quantizer.codebook.isfinite().all()
    assert quantizer.step == 8
    assert {buffer.dtype for buffer in quantizer.buffers()} <= {torch.int64, torch.float32}


def test_a_whole_model_in_half_precision_trains():
    model = VQVAE(1, CosineQuantizer(16, 8), hidden=8).bfloat16()
    images = torch.rand(2, 1, 8, 8).bfloat16()
    output = model(images)
    assert output.reconstruction.dtype == torch.bfloat16
    (output.reconstruction.float().square().mean() + output.quantized.loss).backward()
    model.quantizer.after_step()
    assert model.encode(images).dtype == torch.int64


# GradScaler, checkpointing, transforms, copies


@every_kind
def test_grad_scaler_skips_a_step_and_training_goes_on(make):
    encoder = nn.Conv2d(3, 8, 1)
    quantizer = make(16, 8)
    optimizer = torch.optim.Adam([*encoder.parameters(), *quantizer.parameters()], lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number in range(4):
        images = torch.randn(4, 3, 2, 2)
        if number == 1:
            images[0, 0, 0, 0] = math.inf
        before = encoder.weight.detach().clone()
        optimizer.zero_grad()
        quantized = quantizer(encoder(images))
        loss = quantized.codes.square().mean() + quantized.loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        quantizer.after_step()
        assert torch.equal(encoder.weight, before) == (number == 1)
    assert quantizer.codebook.isfinite().all()
    assert encoder.weight.isfinite().all()
    assert quantizer.counts.sum() == 48, "without the bad batch"
    assert quantizer.step == 4


def with_dropout(quantizer):
    """A part of a network whose dropout draws numbers after the quantizer may have."""

    def part(latents):
        quantized = quantizer(latents)
        return nn.functional.dropout(quantized.codes, 0.5).square().mean() + quantized.loss

    return part


CHECKPOINTED = KINDS | {
    "revived": lambda *sizes: EuclideanQuantizer(*sizes, revive_after=1),
}


@pytest.mark.parametrize("make", CHECKPOINTED.values(), ids=CHECKPOINTED)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_counts_once_and_gives_the_same_gradients(make, reentrant):
    quantizer, other = twins(make, 16, 8)
    latents = torch.randn(4, 8, 2, 2)
    found = []
    for one in (quantizer, other):
        torch.manual_seed(1)
        own = latents.clone().requires_grad_()
        part = with_dropout(one)
        repeated = one is quantizer
        loss = checkpoint(part, own, use_reentrant=reentrant) if repeated else part(own)
        loss.backward()
        one.after_step()
        found.append((loss, own.grad, one.codebook.grad))
    assert quantizer.counts.sum() == 16
    assert_same_state(state_of(quantizer), state_of(other))
    for ours, expected in zip(*found, strict=True):
        assert (ours is None) == (expected is None)
        assert ours is None or torch.equal(ours, expected)


def repeat_compiled(forward, reentrant):
    compiled = torch.compile(forward, backend="aot_eager")
    return lambda latents: checkpoint(compiled, latents, use_reentrant=reentrant)


def compile_repeated(forward):
    repeated = partial(checkpoint, forward, use_reentrant=False)
    return torch.compile(repeated, backend="aot_eager")


ORDERS = {
    "checkpoint of compiled": partial(repeat_compiled, reentrant=False),
    "reentrant checkpoint of compiled": partial(repeat_compiled, reentrant=True),
    "compiled checkpoint": compile_repeated,
}


@pytest.mark.parametrize(
    ("kind", "order"), [("cvq", "checkpoint of compiled")] + [("ema", order) for order in ORDERS]
)
def test_compiled_activation_checkpointing_counts_once(kind, order):
    """Two micro-batches a step, so that what is counted twice shows in every statistic."""
    quantizer, other = twins(KINDS[kind], 16, 8)
    batches = torch.randn(2, 2, 16, 8)
    for one in (quantizer, other):
        torch.compiler.reset()
        torch.manual_seed(1)

        def forward(latents, one=one):
            quantized = one(latents)
            return quantized.codes.square().sum() + quantized.loss

        run = ORDERS[order](forward) if one is quantizer else forward
        for micro_batches in batches:
            for latents in micro_batches:
                run(latents.clone().requires_grad_()).backward()
            one.after_step()
    assert quantizer.counts.sum() == 4 * 16
    assert_same_state(state_of(quantizer), state_of(other))


@every_kind
def test_torch_func_gives_the_gradient_and_leaves_the_quantizer_alone(make):
    quantizer = make(16, 8)
    latents = torch.randn(4, 8, 2, 2)
    before = state_of(quantizer)
    gradient = torch.func.grad(lambda latents: quantizer(latents).loss)(latents)
    assert_same_state(state_of(quantizer), before)
    own = latents.clone().requires_grad_()
    quantizer(own).loss.backward()
    assert torch.allclose(gradient, own.grad, atol=1e-7)


@every_kind
def test_vmap_gives_each_example_what_it_gets_alone(make, unchecked):
    quantizer = make(16, 8).eval()
    latents = torch.randn(3, 2, 8, 2, 2)
    codes = torch.func.vmap(lambda latents: quantizer(latents).codes)(latents)
    indices = torch.func.vmap(quantizer.encode)(latents)
    found = torch.func.vmap(quantizer.lookup)(indices)
    for number, example in enumerate(latents):
        assert torch.equal(codes[number], quantizer(example).codes)
        assert torch.equal(indices[number], quantizer.encode(example))
        assert torch.equal(found[number], quantizer.lookup(indices[number]))


def through_pickle(quantizer):
    return pickle.loads(pickle.dumps(quantizer))


def through_torch_save(quantizer):
    file = io.BytesIO()
    torch.save(quantizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_kind
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
@pytest.mark.parametrize("in_a_step", [False, True])
def test_a_copy_trains_on_like_the_original(make, duplicate, in_a_step):
    quantizer = make(16, 8, channel_last=True)
    quantizer(torch.randn(32, 8))
    if not in_a_step:
        quantizer.after_step()
    other = duplicate(quantizer)
    for one in (quantizer, other):
        torch.manual_seed(1)
        for _ in range(2):
            one(torch.randn(4, 5, 8))
            one.after_step()
    assert_same_state(state_of(quantizer), state_of(other))


@every_kind
@pytest.mark.parametrize("assign", [False, True])
def test_a_module_from_the_meta_device_trains_like_any(make, assign):
    quantizer = make(16, 8)
    torch.manual_seed(1)
    for _ in range(2):
        quantizer(torch.randn(32, 8))
        quantizer.after_step()
    with torch.device("meta"):
        other = make(16, 8)
    if not assign:
        other.to_empty(device="cpu")
        for buffer in other.buffers():
            buffer.fill_(math.nan if buffer.is_floating_point() else -7)  # what memory held before
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    other.load_state_dict(state, assign=assign)
    for one in (quantizer, other):
        torch.manual_seed(2)
        for latents in (spoiled(torch.randn(8, 8, 1, 1), math.nan), torch.randn(8, 8, 2, 2)):
            one(latents)
            one.after_step()
    unused = ("anchors",)
    assert_same_state(state_of(quantizer), state_of(other), but=unused)


@every_kind
def test_a_codebook_alone_fills_a_module_from_the_meta_device(make):
    codes = torch.randn(16, 8)
    with torch.device("meta"):
        quantizer = make(16, 8)
    quantizer.load_state_dict({"codebook": codes}, assign=True)
    assert not any(tensor.is_meta for tensor in state_of(quantizer).values())
    quantizer(torch.randn(32, 8))
    quantizer.after_step()
    assert quantizer.codebook.isfinite().all()


def assert_it_works_on_the_meta_device(quantizer):
    """Shapes come out as on any other device; there are no values to check or to count."""
    latents = torch.empty(3, 8, 2, 2, device="meta", requires_grad=True)
    for training in (True, False):
        quantizer.train(training)
        quantized = quantizer(latents)
        assert quantized.codes.is_meta
        assert quantized.codes.shape == (3, 8, 2, 2)
        assert quantized.indices.shape == (3, 2, 2, *quantizer.index_shape)
        (quantized.codes.sum() + quantized.loss).backward()
        quantizer.after_step()
        assert quantizer.encode(latents).shape == quantized.indices.shape
        assert quantizer.lookup(quantized.indices).shape == latents.shape
    assert latents.grad.shape == latents.shape


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_works_on_the_meta_device(make, dtype):
    with torch.device("meta"):
        quantizer = make(16, 8)
    assert_it_works_on_the_meta_device(quantizer.to(dtype))


@every_reviving_kind
def test_codes_are_revived_on_the_meta_device(make):
    assert_it_works_on_the_meta_device(make(16, 8, revive_after=1).to("meta"))


def test_composites_work_on_the_meta_device():
    groups = [SphericalQuantizer(16, 2), EMAQuantizer(16, 6)]
    stages = [GroupedQuantizer(groups), GroupedQuantizer(copy.deepcopy(groups))]
    assert_it_works_on_the_meta_device(ResidualQuantizer(stages).to("meta"))


# Accumulation


@every_kind
def test_each_call_of_after_step_begins_a_new_step(make):
    """The statistics of one step do not leak into the next."""
    quantizer = make(16, 8)
    quantizer(torch.randn(64, 8))
    quantizer(torch.randn(64, 8))
    quantizer.after_step()
    assert quantizer.batch_counts.sum() == 128
    quantizer(torch.randn(64, 8))
    assert quantizer.batch_counts.sum() == 64
    assert quantizer.counts.sum() == 192


# Revival


def dead_and_alive(make, revive_after):
    """A quantizer whose codes 0 and 1 are near the latents of `two_clusters`, the others far."""
    quantizer = make(6, 2, revive_after=revive_after)
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1, -0.1], [-1, 0.1], [-0.1, -1], [0.1, -1]])
    quantizer.set_codebook(codes)
    return quantizer


def two_clusters(count=40):
    rows = torch.cat([torch.tensor([1.0, 0.2]), torch.tensor([0.2, 1.0])]).reshape(2, 2)
    return rows.repeat(count // 2, 1) + 0.05 * torch.randn(count, 2)


@every_reviving_kind
@pytest.mark.parametrize("revive_after", [1, 3])
def test_dead_codes_become_latents_of_the_batch_after_so_many_steps(make, revive_after):
    quantizer = dead_and_alive(make, revive_after)
    before = quantizer.codebook.detach().clone()
    for step in range(1, revive_after + 1):
        latents = two_clusters()
        quantizer(latents)
        quantizer.after_step()
        if step < revive_after and make is not EMAQuantizer:
            assert torch.equal(quantizer.codebook, before)
    moved = quantizer.codebook.detach()
    rows = latents
    if make is SphericalQuantizer:  # which keeps to its ball
        radius = quantizer.radius
        rows = latents * (radius / latents.norm(dim=1, keepdim=True)).clamp(max=1)
    distances = torch.cdist(moved[2:], rows).min(1).values
    assert (distances < 1e-6).all()
    alive = moved[:2] - before[:2]
    assert alive.abs().max() < (0.2 if make is EMAQuantizer else 1e-6)


@every_reviving_kind
def test_new_codes_have_as_long_as_all_others_before_they_are_revived(make):
    quantizer = dead_and_alive(make, 3)
    for _ in range(2):
        quantizer(two_clusters())
        quantizer.after_step()
    assert (quantizer.idle[2:] == 2).all()
    quantizer.set_codebook(quantizer.codebook.detach().clone())
    fresh = dead_and_alive(make, 3)
    fresh.set_codebook(quantizer.codebook.detach())
    assert_same_state(quantizer.state_dict(), fresh.state_dict(), but=["step"])


@every_reviving_kind
def test_a_code_that_is_used_now_and_then_is_not_revived(make):
    quantizer = dead_and_alive(make, 3)
    far = quantizer.codebook.detach()[2:].clone()
    for step in range(12):
        latents = two_clusters()
        if step % 2:
            latents = torch.cat([latents, 5 * far])
        quantizer(latents)
        quantizer.after_step()
    directions = nn.functional.normalize(quantizer.codebook.detach()[2:], dim=1)
    cosines = (directions * nn.functional.normalize(far, dim=1)).sum(1)
    assert (cosines > 0.99).all()


@every_reviving_kind
def test_accumulation_empty_and_bad_batches_count_for_revival_as_they_do_elsewhere(make):
    quantizer = dead_and_alive(make, 2)
    before = quantizer.codebook.detach().clone()
    for latents in (torch.zeros(0, 2), torch.full((3, 2), math.nan), torch.zeros(0, 2)):
        quantizer(latents)
        quantizer.after_step()
    assert torch.equal(quantizer.codebook, before), "no latent has passed a code by"
    for _ in range(5):
        quantizer(two_clusters(8))
    quantizer.after_step()
    assert (quantizer.codebook[2:] < 0).any(1).all(), "five micro-batches are one step"
    quantizer(two_clusters(8))
    quantizer.after_step()
    assert (quantizer.codebook[2:] > 0).all()


def test_a_revived_code_is_drawn_from_all_micro_batches_alike():
    counts = torch.zeros(4)
    for _ in range(4):
        quantizer = EuclideanQuantizer(500, 1, revive_after=1)
        quantizer.set_codebook(torch.arange(100.0, 600.0)[:, None])
        for latents in (torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0]])):
            quantizer(latents)
        quantizer.after_step()
        revived = quantizer.codebook.detach()[1:].flatten().long()
        counts += torch.bincount(revived, minlength=4)
    expected = counts.sum() / 4
    chi_square = ((counts - expected).square() / expected).sum()
    assert chi_square < 16.3, "0.1% with three degrees of freedom"


def test_the_averages_of_a_revived_code_start_from_it():
    quantizer = dead_and_alive(EMAQuantizer, 1)
    latents = two_clusters()
    quantizer(latents)
    quantizer.after_step()
    revived = quantizer.codebook.detach()[2:].clone()
    quantizer(revived.repeat(10, 1))
    quantizer.after_step()
    assert torch.allclose(quantizer.codebook[2:], revived, atol=1e-4)
    assert torch.allclose(quantizer.sizes[2:], torch.full((4,), 0.99 + 0.01 * 10), atol=1e-5)


@every_reviving_kind
def test_a_frozen_codebook_is_not_revived(make):
    quantizer = dead_and_alive(make, 1)
    quantizer.freeze()
    before = quantizer.codebook.detach().clone()
    for _ in range(3):
        quantizer(two_clusters())
        quantizer.after_step()
    assert torch.equal(quantizer.codebook, before)


def test_revival_is_part_of_the_settings(unchecked):
    quantizer = CosineQuantizer(16, 8, revive_after=np.int64(7))
    assert quantizer.config()["revive_after"] == 7
    assert "idle" in quantizer.state_dict()
    for bad in (0, -1, 2.5, True):
        with pytest.raises(
            ValueError, match=r"revive_after is .*; it must be a whole number from 1"
        ):
            CosineQuantizer(16, 8, revive_after=bad)


# The schedules of SAMP and GradScaler


def test_the_usage_that_a_schedule_reads_is_exact():
    quantizer = SphericalQuantizer(7, 2, SAMP(radius=Adaptive(1.0, 2.0, 1.0), weight=Constant(0.0)))
    quantizer.double()
    codes = torch.randn(7, 2, dtype=torch.float64)
    quantizer.codebook.data.copy_(codes)
    quantizer(5 * codes[:3].repeat(4, 1))
    quantizer.after_step()
    assert float(quantizer.radius) == pytest.approx(2 - 3 / 7, rel=1e-15)


class UnitNorm(nn.Module):
    def forward(self, codebook):
        return nn.functional.normalize(codebook, dim=1)


@every_kind
def test_codes_that_would_be_lost_in_a_parametrization_are_refused(make):
    quantizer = make(16, 8)
    nn.utils.parametrize.register_parametrization(quantizer, "codebook", UnitNorm())
    with pytest.raises(ValueError, match="the codebook is computed, a Tensor; codes cannot be"):
        quantizer.set_codebook(torch.randn(16, 8))


MOVED_AFTER_A_STEP = [KINDS["ema"], KINDS["samp"], KINDS["cvq"], *REVIVED.values()]


@pytest.mark.parametrize("make", MOVED_AFTER_A_STEP)
def test_a_codebook_that_is_computed_is_refused_where_codes_are_moved_after_a_step(make):
    quantizer = make(16, 8)
    nn.utils.parametrize.register_parametrization(quantizer, "codebook", UnitNorm())
    quantizer(torch.randn(4, 8, 2, 2))
    with pytest.raises(ValueError, match="the codebook is computed, a Tensor; codes cannot be"):
        quantizer.after_step()
    before = quantizer.codebook.detach().clone()
    for freeze in (quantizer.freeze, lambda: quantizer.requires_grad_(False)):
        freeze()
        quantizer(torch.randn(4, 8, 2, 2))
        quantizer.after_step()
        assert quantizer.frozen
        assert torch.equal(quantizer.codebook, before)
        quantizer.unfreeze()
        assert not quantizer.frozen


@pytest.mark.parametrize("kind", ["plain", "cosine"])
def test_a_codebook_that_is_computed_is_learned_by_gradients(kind):
    quantizer = KINDS[kind](16, 8)
    nn.utils.parametrize.register_parametrization(quantizer, "codebook", UnitNorm())
    before = quantizer.codebook.detach().clone()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    quantizer(torch.randn(4, 8, 2, 2)).loss.backward()
    optimizer.step()
    quantizer.after_step()
    assert quantizer.step == 1
    assert not torch.equal(quantizer.codebook, before)
    assert torch.allclose(quantizer.codebook.norm(dim=1), torch.ones(16))


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_may_come_from_numpy_as_those_of_scikit_learn(make, dtype):
    quantizer = make(16, 8)
    codes = np.random.default_rng(0).standard_normal((16, 8)).astype(dtype)
    quantizer.set_codebook(codes)
    assert torch.equal(quantizer.codebook, torch.from_numpy(codes).float())


@every_kind
def test_new_codes_start_without_any_history_of_those_before(make):
    codes = torch.randn(16, 8)
    trained = make(16, 8)
    for _ in range(3):
        trained(torch.randn(4, 8, 2, 2))
        trained.after_step()
    fresh = make(16, 8)
    for one in (trained, fresh):
        one.set_codebook(codes)
    assert_same_state(trained.state_dict(), fresh.state_dict(), but=["step"])


def test_without_quantization_a_forward_pass_in_evaluation_is_no_step():
    quantizer = ContinuousQuantizer(4, 2).eval()
    quantizer(torch.randn(5, 2))
    quantizer.train()
    with pytest.warns(UserWarning, match="without a forward pass in training"):
        quantizer.after_step()
    assert quantizer.step == 0
