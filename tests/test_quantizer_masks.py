"""A mask makes a quantizer see the unmasked latents alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.quantizers import (
    ContinuousQuantizer,
    CosineQuantizer,
    EuclideanQuantizer,
    SphericalQuantizer,
)
from arcvq.samp import SAMP
from arcvq.schedules import Adaptive
from tests.kinds import KINDS, assert_same_state, every_kind, state_of, twins

GRIDS = [(), (5,), (3, 4), (2, 3, 2)]


def layout_of(rows, channel_last):
    """(B, *grid, D) in the layout of the quantizer."""
    return rows if channel_last else rows.movedim(-1, 1)


@every_kind
@settings(max_examples=12, deadline=None)
@given(
    grid=st.sampled_from(GRIDS),
    channel_last=st.booleans(),
    share=st.floats(0.1, 1),
    padding=st.sampled_from([0.0, 100.0, math.nan, math.inf]),
    seed=st.integers(0, 99),
)
def test_a_masked_batch_is_the_batch_of_its_unmasked_latents(
    make, grid, channel_last, share, padding, seed
):
    """Codes, indices, losses, gradients, and all that a step leaves behind."""
    torch.manual_seed(seed)
    quantizer, flat = twins(make, 16, 3, channel_last=channel_last)
    flat.channel_last = True
    mask = torch.rand(4, *grid) < share
    mask.view(-1)[seed % mask.numel()] = True
    rows = torch.randn(*mask.shape, 3)
    rows[~mask] = padding
    latents = layout_of(rows, channel_last).detach().requires_grad_()
    unmasked = rows[mask].requires_grad_()

    torch.manual_seed(seed)
    got = quantizer(latents, mask=mask)
    torch.manual_seed(seed)
    expected = flat(unmasked)
    (got.codes.square().sum() + got.loss).backward()
    (expected.codes.square().sum() + expected.loss).backward()
    codes = got.codes if channel_last else got.codes.movedim(1, -1)
    gradient = latents.grad if channel_last else latents.grad.movedim(1, -1)

    assert torch.equal(codes[mask], expected.codes)
    assert torch.equal(got.indices[mask], expected.indices)
    assert (codes[~mask] == 0).all()
    assert (got.indices[~mask] == -1).all()
    assert torch.equal(got.loss, expected.loss)
    assert got.losses == expected.losses
    assert torch.equal(gradient[mask], unmasked.grad)
    assert (gradient[~mask] == 0).all()
    for one in (quantizer, flat):
        one.after_step()
    assert_same_state(state_of(quantizer), state_of(flat))
    if quantizer.codebook.grad is not None:
        assert torch.equal(quantizer.codebook.grad, flat.codebook.grad)


@every_kind
@pytest.mark.parametrize("padding", [7.0, math.nan, -math.inf])
def test_padding_is_not_looked_at_in_evaluation_either(make, padding):
    quantizer = make(16, 8).eval()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    latents = torch.randn(2, 8, 3)
    latents.movedim(1, -1)[~mask] = padding
    quantized = quantizer(latents, mask=mask)
    assert quantized.loss.isfinite()
    assert quantized.codes.isfinite().all()
    assert (quantized.indices == -1).sum() == 3
    latents.movedim(1, -1)[0, 1, :2] = math.nan
    message = "2 of 24 values of the latents are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        quantizer(latents, mask=mask)


@every_kind
def test_a_mask_that_is_true_everywhere_changes_nothing(make):
    quantizer, other = twins(make, 16, 8)
    latents = torch.randn(2, 8, 3)
    torch.manual_seed(1)
    got = quantizer(latents, mask=torch.ones(2, 3, dtype=torch.bool))
    torch.manual_seed(1)
    expected = other(latents)
    for ours, theirs in zip(got[:3], expected[:3], strict=True):
        assert torch.equal(ours, theirs)
    assert got.codes.is_contiguous()


@every_kind
def test_micro_batches_with_different_masks_count_as_one(make):
    quantizer = make(16, 8)
    for lengths in ([3, 1], [2, 3]):
        mask = torch.arange(3) < torch.tensor(lengths)[:, None]
        quantizer(torch.randn(2, 8, 3), mask=mask)
    quantizer.after_step()
    assert quantizer.batch_counts.sum() == 9
    assert quantizer.codebook.isfinite().all()


def test_the_margin_loss_knows_no_negatives_from_padding():
    """All unmasked latents are positives of each code: nothing is left to stand out from."""
    quantizer = SphericalQuantizer(16, 8, SAMP(top_k=3))
    mask = torch.tensor([[True, True, True, False, False, False]])
    quantized = quantizer(torch.randn(1, 8, 6), mask=mask)
    assert quantized.losses["margin"] == 0
    assert quantizer(torch.randn(1, 8, 6)).losses["margin"] > 0


def test_an_adaptive_schedule_reads_the_usage_of_unmasked_latents():
    quantizer = SphericalQuantizer(4, 2, SAMP(weight=Adaptive(0.0, 1.0)))
    mask = torch.tensor([[True, True, False, False]])
    quantizer(torch.tensor([[[1.0, 1.0, -1.0, 0.0], [0.0, 0.01, 0.0, 1.0]]]), mask=mask)
    assert quantizer.batch_usage() == 1 / 2


def test_revived_codes_come_from_unmasked_latents():
    quantizer = EuclideanQuantizer(16, 2, revive_after=1)
    mask = torch.rand(4, 10) < 0.3
    latents = torch.full((4, 2, 10), 5.0)
    latents.movedim(1, -1)[~mask] = math.nan
    for _ in range(3):
        quantizer(latents, mask=mask)
        quantizer.after_step()
    assert (quantizer.codebook == 5).all()


def test_the_continuous_quantizer_masks_as_well():
    mask = torch.tensor([[True, False]])
    latents = torch.randn(1, 3, 2)
    quantized = ContinuousQuantizer(1, 3)(latents, mask=mask)
    assert torch.equal(quantized.codes[..., 0], latents[..., 0])
    assert not quantized.codes[..., 1].any()
    assert quantized.indices.tolist() == [[0, -1]]


def test_an_empty_batch_has_an_empty_mask():
    quantizer = CosineQuantizer(16, 8)
    quantized = quantizer(torch.zeros(0, 8, 3), mask=torch.zeros(0, 3, dtype=torch.bool))
    assert quantized.loss == 0
    assert quantized.indices.shape == (0, 3)


BAD = {
    "all masked": (torch.zeros(2, 3, dtype=torch.bool), "mask is False everywhere; it must be"),
    "integers": (torch.ones(2, 3, dtype=torch.int64), "mask is torch.int64; it must be"),
    "bytes": (torch.ones(2, 3, dtype=torch.uint8), "mask is torch.uint8; it must be"),
    "weights": (torch.ones(2, 3), "mask is torch.float32; it must be"),
    "array": (np.ones((2, 3), dtype=bool), "mask is ndarray; it must be a tensor of torch.bool"),
    "list": ([[True] * 3] * 2, "mask is list; it must be a tensor of torch.bool"),
    "transposed": (torch.ones(3, 2, dtype=torch.bool), r"shape \(3, 2\); it must be \(2, 3\)"),
    "of latents": (torch.ones(2, 8, 3, dtype=torch.bool), r"shape \(2, 8, 3\); it must be"),
    "of examples": (torch.ones(2, dtype=torch.bool), r"shape \(2,\); it must be \(2, 3\)"),
    "flat": (torch.ones(6, dtype=torch.bool), r"shape \(6,\); it must be \(2, 3\)"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mask", "message"), BAD.values(), ids=BAD)
def test_a_bad_mask_is_refused_in_one_sentence_and_loses_nothing(kind, mask, message, unchecked):
    quantizer = KINDS[kind](16, 8)
    before = state_of(quantizer)
    with pytest.raises(ValueError, match=message) as caught:
        quantizer(torch.randn(2, 8, 3), mask=mask)
    assert "\n" not in str(caught.value)
    assert_same_state(state_of(quantizer), before)
    assert not quantizer.pending
