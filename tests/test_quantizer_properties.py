"""What holds for any layout, any precision, any split into micro-batches, and any order of calls."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.quantizers import OnlineClusteredQuantizer, SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.schedules import Oscillating
from tests.dtypes import INTEGER_DTYPES
from tests.kinds import KINDS, REVIVING, every_kind, twins

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
EXACT = ["plain", "ema", "cosine", "samp", "cvq_closest"]  # draw nothing


def formats_of(tensor):
    """The same values in other memory formats."""
    yield tensor
    yield tensor.transpose(0, -1).contiguous().transpose(0, -1)
    yield torch.stack([tensor, tensor], dim=-1)[..., 0]
    if tensor.ndim == 4:
        yield tensor.contiguous(memory_format=torch.channels_last)


@every_kind
@settings(max_examples=15, deadline=None)
@given(
    grid=st.lists(st.integers(0, 4), max_size=3),
    batch=st.integers(0, 3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    channel_last=st.booleans(),
    dtypes=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    index_dtype=st.sampled_from(INTEGER_DTYPES),
)
def test_any_layout_in_any_precision(make, grid, batch, sizes, channel_last, dtypes, index_dtype):
    k, d = sizes
    of_module, dtype = dtypes
    quantizer = make(k, d, channel_last=channel_last).to(of_module)
    rows = torch.randn(batch, *grid, d).to(dtype)
    latents = rows if channel_last else rows.movedim(-1, 1)
    quantizer.eval()
    expected = None
    for same in formats_of(latents):
        quantized = quantizer(same)
        assert quantized.codes.shape == latents.shape
        assert quantized.codes.dtype == dtype
        assert quantized.indices.shape == (batch, *grid)
        assert quantized.indices.dtype == torch.int64
        assert torch.equal(quantizer.encode(same), quantized.indices)
        assert torch.equal(quantizer.replace(same), quantized.codes)
        looked_up = quantizer.lookup(quantized.indices.to(index_dtype))
        assert torch.equal(looked_up.to(dtype), quantized.codes)
        assert looked_up.is_contiguous()
        if same.is_contiguous():
            assert quantized.codes.is_contiguous()
        if expected is not None:
            assert torch.equal(quantized.indices, expected)
        expected = quantized.indices

    quantizer.train()
    latents = latents.detach().requires_grad_()
    quantized = quantizer(latents)
    (quantized.codes.sum() + quantized.loss).backward()
    quantizer.after_step()
    assert latents.grad.shape == latents.shape
    assert latents.grad.isfinite().all()
    assert quantizer.codebook.isfinite().all()
    assert quantizer.batch_counts.sum() == rows.numel() // d


@every_kind
@settings(max_examples=10, deadline=None)
@given(grid=st.lists(st.integers(1, 3), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_both_layouts_are_the_same_quantizer(make, grid, seed):
    torch.manual_seed(seed)
    first, last = twins(make, 8, 5)
    last.channel_last = True
    latents = torch.randn(2, 5, *grid)
    torch.manual_seed(seed)
    ours = first(latents)
    torch.manual_seed(seed)
    theirs = last(latents.movedim(1, -1))
    assert torch.equal(ours.codes.movedim(1, -1), theirs.codes)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.loss, theirs.loss)


WRONG = [
    ((), False),
    ((8,), False),
    ((8,), True),
    ((4, 7), False),
    ((4, 7), True),
    ((2, 5, 8), False),
    ((2, 8, 5), True),
    ((2, 4, 4, 8), False),
    ((2, 8, 4, 4), True),
    ((2, 16, 4, 4), False),
]


@every_kind
@pytest.mark.parametrize(("shape", "channel_last"), WRONG)
def test_a_wrong_layout_is_never_taken_in_silence(make, shape, channel_last, unchecked):
    quantizer = make(16, 8, channel_last=channel_last)
    needed = r"\(B, \*grid, 8\)" if channel_last else r"\(B, 8, \*grid\)"
    for call in (quantizer, quantizer.encode, quantizer.replace):
        with pytest.raises(ValueError, match=rf"latents have shape .*; they must be {needed}"):
            call(torch.zeros(shape))
    assert not quantizer.counts.any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_latents_that_are_no_floating_point_numbers_are_refused(dtype, unchecked):
    quantizer = KINDS["cosine"](16, 8)
    with pytest.raises(ValueError, match=f"latents are {dtype}; they must be floating point"):
        quantizer(torch.ones(4, 8, dtype=dtype))


# Micro-batches


@st.composite
def splits(draw):
    """Sizes of micro-batches, empty ones among them; at least one latent in all."""
    sizes = draw(st.lists(st.integers(0, 20), min_size=1, max_size=5))
    return [*sizes, draw(st.integers(1, 20))]


def assert_equal_to_rounding(one, other, but=()):
    for (name, ours), theirs in zip(one.named_buffers(), other.buffers(), strict=True):
        if name not in but:
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6), name
    assert torch.allclose(one.codebook, other.codebook, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=15, deadline=None)
@given(splits=st.lists(splits(), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_any_split_of_a_batch_leaves_what_the_whole_batch_does(kind, splits, seed):
    torch.manual_seed(seed)
    whole, parts = twins(KINDS[kind], 6, 3)
    for sizes in splits:
        batch = torch.randn(sum(sizes), 3)
        whole(batch)
        whole.after_step()
        for part in batch.split(sizes):
            parts(part)
        parts.after_step()
    assert_equal_to_rounding(parts, whole)
    assert parts.step == len(splits)


@pytest.mark.parametrize("kind", REVIVING)
def test_micro_batches_are_one_step_for_the_revival(kind):
    whole, parts = twins(REVIVING[kind], 30, 3, revive_after=3)
    for _ in range(2):
        batch = torch.randn(8, 3)
        whole(batch)
        whole.after_step()
        for part in batch.split([3, 0, 5]):
            parts(part)
        parts.after_step()
    assert whole.idle.any()
    assert_equal_to_rounding(parts, whole, but=["anchors"])  # which are drawn


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 2, 2], [0, 4, 1, 1]])
def test_random_anchors_of_micro_batches_have_the_distribution_of_the_whole_batch(sizes):
    """softmax over all latents of the step, by a chi-square test with five degrees of freedom."""
    codes = torch.tensor([[1.0, 0.0]]).expand(20_000, 2)
    angles = torch.tensor([0.0, 0.7, 1.4, 2.0, 2.5, 3.1])
    latents = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1.0, 7.0)[:, None]
    quantizer = OnlineClusteredQuantizer(20_000, 2)
    quantizer.set_codebook(codes)
    for part in latents.split(sizes):
        quantizer(part)
    chosen = torch.cdist(quantizer.anchors, latents).argmin(1)
    counts = torch.bincount(chosen, minlength=6)
    expected = 20_000 * angles.cos().softmax(0)
    chi_square = ((counts - expected).square() / expected).sum()
    assert chi_square < 20.5, "0.1%"


# Any order of calls


def batch(quantizer, size=7):
    return torch.randn(size, quantizer.dim, dtype=quantizer.codebook.dtype)


def optimize(quantizer):
    """A training step of any optimizer: it moves a codebook that learns by gradient."""
    if quantizer.trainable and not quantizer.frozen:
        quantizer.codebook.data.add_(torch.randn_like(quantizer.codebook))


def bad_batch(quantizer):
    latents = batch(quantizer)
    latents[0, 0] = torch.inf
    if quantizer.training:
        quantizer(latents)


def load(quantizer):
    saved = copy.deepcopy(quantizer.state_dict())
    quantizer.load_state_dict(saved)


def load_codes(quantizer):
    quantizer.load_state_dict({"codebook": torch.randn(5, 3)})


CALLS = {
    "train": lambda quantizer: quantizer.train(),
    "eval": lambda quantizer: quantizer.eval(),
    "freeze": lambda quantizer: quantizer.freeze(),
    "unfreeze": lambda quantizer: quantizer.unfreeze(),
    "forward": lambda quantizer: quantizer(batch(quantizer)),
    "empty": lambda quantizer: quantizer(batch(quantizer, 0)),
    "bad": bad_batch,
    "optimize": optimize,
    "after_step": lambda quantizer: quantizer.after_step(),
    "load": load,
    "load_codes": load_codes,
    "set_codebook": lambda quantizer: quantizer.set_codebook(10 * torch.randn(5, 3)),
    "begin_run": lambda quantizer: quantizer.begin_run(10),
    "continue": lambda quantizer: quantizer.begin_run(10, "continue"),
    "half": lambda quantizer: quantizer.bfloat16(),
    "float": lambda quantizer: quantizer.float(),
    "reset": lambda quantizer: quantizer.reset_usage(),
}
MAY_MOVE_IF_FROZEN = {"load", "load_codes", "set_codebook", "half", "float"}
MAY_MOVE_IN_EVALUATION = MAY_MOVE_IF_FROZEN | {"optimize"}
RESTARTS = {"load_codes", "begin_run"}
FORGETS = {"load", "load_codes", "set_codebook", "begin_run", "continue"}
OPTIONS = {"revive_after": 2}


def machine(kind):
    if kind == "oscillating":
        samp = SAMP(radius=Oscillating(0.5, 5.0, 3))
        return SphericalQuantizer(5, 3, samp, revive_after=2)
    return KINDS[kind](5, 3, **OPTIONS if kind in REVIVING else {})


@pytest.mark.parametrize("kind", [*KINDS, "oscillating"])
@settings(max_examples=20, deadline=None)
@given(calls=st.lists(st.sampled_from(sorted(CALLS)), max_size=25), seed=st.integers(0, 99))
def test_any_order_of_calls_keeps_what_a_user_relies_on(kind, calls, seed):
    torch.manual_seed(seed)
    quantizer = machine(kind)
    steps = 0
    seen = False
    for name in calls:
        training = quantizer.training
        frozen = quantizer.frozen
        before = quantizer.codebook.detach().clone()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            CALLS[name](quantizer)

        if name == "after_step" and training:
            assert bool(caught) == (not seen), "it warns where it has nothing to do"
            steps += seen
            seen = False
        if name in ("forward", "empty", "bad") and training:
            seen = True
        if name in FORGETS:
            seen = False
        if name in RESTARTS:
            steps = 0
        assert quantizer.step == steps, "optimizer steps that had a forward pass"

        may_move = MAY_MOVE_IF_FROZEN if frozen else MAY_MOVE_IN_EVALUATION
        if (frozen or not training) and name not in may_move:
            assert torch.equal(quantizer.codebook, before)
        for tensor in (*quantizer.parameters(), *quantizer.buffers()):
            assert tensor.isfinite().all()

    quantizer.eval()
    latents = batch(quantizer)
    quantized = quantizer(latents)
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.codes)
