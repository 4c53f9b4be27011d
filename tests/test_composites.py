import json
import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from arcvq.clustering import kmeans
from arcvq.composites import GroupedQuantizer, ResidualQuantizer
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import (
    CosineQuantizer,
    EMAQuantizer,
    EuclideanQuantizer,
    OnlineClusteredQuantizer,
    Quantizer,
    SphericalQuantizer,
)
from arcvq.runtime.precision import HALF
from arcvq.training import evaluate, fit
from arcvq.vqvae import VQVAE

KINDS = [
    EuclideanQuantizer,
    EMAQuantizer,
    CosineQuantizer,
    SphericalQuantizer,
    OnlineClusteredQuantizer,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def spread(quantizer):
    """Random codes, so that the nearest one matters."""
    for part in quantizer.modules():
        if hasattr(part, "codebook"):
            part.set_codebook(torch.randn_like(part.codebook))
    return quantizer


def residual(stages=3, num_codes=8, dim=4, kind=EuclideanQuantizer, dropout=False, **settings):
    parts = [kind(num_codes, dim, **settings) for _ in range(stages)]
    return spread(ResidualQuantizer(parts, dropout))


def grouped(dims=(4, 2), num_codes=8, kind=EuclideanQuantizer, **settings):
    return spread(GroupedQuantizer([kind(num_codes, dim, **settings) for dim in dims]))


def nested(kind=EuclideanQuantizer, stages=3, **settings):
    """Two groups of 4 and 2 channels, each quantized in stages."""
    parts = [residual(stages, dim=dim, kind=kind, **settings) for dim in (4, 2)]
    return GroupedQuantizer(parts)


def mixed():
    """One stage of each kind."""
    return spread(ResidualQuantizer([kind(8, 4) for kind in KINDS]))


COMPOSITES = {
    "residual": residual,
    "grouped": lambda **settings: grouped((2, 2), **settings),
    "residual of grouped": lambda **settings: ResidualQuantizer(
        [grouped((3, 1), **settings) for _ in range(2)]
    ),
    "grouped of residual": lambda **settings: GroupedQuantizer(
        [residual(2, dim=2, **settings) for _ in range(2)]
    ),
}
every_composite = pytest.mark.parametrize("make", COMPOSITES.values(), ids=COMPOSITES)


def choose(latents, codebook, metric):
    """Index and code of the nearest code of each row, in float64."""
    codebook = codebook.detach().double()
    if metric == "cosine":
        indices = (normalize(latents, dim=1) @ normalize(codebook, dim=1).T).argmax(1)
    else:
        indices = (latents[:, None] - codebook).square().sum(2).argmin(1)
    return indices, codebook[indices]


def quantize_in_stages(latents, stages):
    """Residual quantization written out: indices (N, stages), codes and residuals (N, D)."""
    left = latents.double()
    columns = []
    residuals = []
    for stage in stages:
        residuals.append(left)
        indices, codes = choose(left, stage.codebook, stage.metric)
        columns.append(indices)
        left = left - codes
    return torch.stack(columns, 1), latents.double() - left, residuals


def state(quantizer):
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


def assert_same_state(quantizer, before):
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# ---- the arithmetic ----


@pytest.mark.parametrize("make", [residual, mixed], ids=["plain", "one stage of each kind"])
def test_each_stage_quantizes_what_the_stages_before_left_over(make):
    quantizer = make()
    latents = torch.randn(50, 4)
    out = quantizer(latents)
    indices, codes, _ = quantize_in_stages(latents, quantizer.parts)
    assert torch.equal(out.indices, indices)
    assert torch.allclose(out.codes.double(), codes, atol=1e-6)


def test_the_groups_of_channels_are_quantized_independently():
    quantizer = grouped((4, 2))
    latents = torch.randn(5, 6, 3, 2)
    out = quantizer(latents)
    first = quantizer.parts[0](latents[:, :4])
    second = quantizer.parts[1](latents[:, 4:])
    assert torch.equal(out.indices, torch.stack([first.indices, second.indices], -1))
    assert torch.equal(out.codes, torch.cat([first.codes, second.codes], 1))
    assert out.loss.item() == pytest.approx((first.loss + second.loss).item(), rel=1e-6)


def test_grouped_stages_are_the_same_as_groups_in_stages():
    in_stages = nested(stages=2)
    first = [group.parts[0] for group in in_stages.parts]
    second = [group.parts[1] for group in in_stages.parts]
    in_groups = ResidualQuantizer([GroupedQuantizer(first), GroupedQuantizer(second)])
    latents = torch.randn(7, 6, 5)
    ours = in_stages(latents)
    theirs = in_groups(latents)
    assert ours.indices.shape == (7, 5, 2, 2)
    assert torch.equal(ours.indices, theirs.indices.transpose(-1, -2))
    assert torch.allclose(ours.codes, theirs.codes, atol=1e-6)
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_stages_are_those_of_vector_quantize_pytorch():
    package = pytest.importorskip("vector_quantize_pytorch")
    ours = residual(4, 16, 8, EMAQuantizer, beta=1.0, channel_last=True)
    theirs = package.ResidualVQ(
        dim=8, codebook_size=16, num_quantizers=4, commitment_weight=1.0, rotation_trick=False
    )
    for stage, layer in zip(ours.parts, theirs.layers, strict=True):
        layer._codebook.embed.data.copy_(stage.codebook.detach()[None])
    latents = torch.randn(3, 20, 8)

    codes, indices, _ = theirs.eval()(latents)
    out = ours.eval()(latents)
    assert torch.equal(out.indices, indices)
    assert torch.allclose(out.codes, codes, atol=1e-6)
    assert torch.equal(ours.encode(latents), indices)
    from_indices = theirs.get_output_from_indices(indices)
    assert torch.allclose(ours.lookup(indices), from_indices, atol=1e-6)

    _, _, losses = theirs.train()(latents)  # the commitment loss of each stage
    expected = losses.flatten().tolist()
    ours_by_stage = [float(term) for term in ours.train()(latents).losses.values()]
    assert ours_by_stage == pytest.approx(expected, rel=1e-5)


def test_groups_in_stages_are_those_of_vector_quantize_pytorch():
    package = pytest.importorskip("vector_quantize_pytorch")
    settings = {"num_codes": 16, "dim": 4, "channel_last": True}
    ours = GroupedQuantizer([residual(3, **settings) for _ in range(2)]).eval()
    theirs = package.GroupedResidualVQ(dim=8, groups=2, codebook_size=16, num_quantizers=3).eval()
    for group, layers in zip(ours.parts, theirs.rvqs, strict=True):
        for stage, layer in zip(group.parts, layers.layers, strict=True):
            layer._codebook.embed.data.copy_(stage.codebook.detach()[None])
    latents = torch.randn(3, 20, 8)
    codes, indices, _ = theirs(latents)
    out = ours(latents)
    assert torch.equal(out.indices.permute(3, 0, 1, 2), indices)
    assert torch.allclose(out.codes, codes, atol=1e-6)


# ---- gradients and losses ----


@every_composite
def test_the_gradient_goes_straight_through_once(make):
    quantizer = make()
    latents = torch.randn(3, 4, 5, requires_grad=True)
    weights = torch.randn(3, 4, 5)
    (quantizer(latents).codes * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@every_composite
def test_padding_gets_no_gradient_no_index_and_no_part_in_the_loss(make):
    quantizer = make()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    latents = torch.randn(3, 4, 5, requires_grad=True)
    latents.data[0, :, 4] = math.nan  # whatever stands there
    out = quantizer(latents, mask)
    (out.codes.sum() + out.loss).backward()
    padded = ~mask[:, None].expand(3, 4, 5)
    assert not latents.grad[padded].any()
    assert (latents.grad[~padded] != 0).all()
    assert not out.codes[padded].any()
    assert (out.indices[~mask] == -1).all()

    rows = latents.detach().movedim(1, -1)[mask]
    alone = quantizer(rows)
    assert out.loss.item() == pytest.approx(alone.loss.item(), rel=1e-6)
    assert torch.equal(out.indices[mask], alone.indices)


def test_each_stage_has_the_vq_loss_of_its_own_residual():
    quantizer = residual(3, beta=0.25).double()
    latents = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    out = quantizer(latents)
    out.loss.backward()

    indices, _, residuals = quantize_in_stages(latents.detach(), quantizer.parts)
    expected_loss = 0.0
    at_latents = torch.zeros_like(latents)
    for number, (stage, left) in enumerate(zip(quantizer.parts, residuals, strict=True)):
        chosen = indices[:, number]
        error = left - stage.codebook.detach()[chosen]
        expected_loss += 1.25 * error.square().mean()
        at_latents += 0.25 * 2 * error / error.numel()
        at_codes = torch.zeros_like(stage.codebook)
        at_codes.index_add_(0, chosen, -2 * error / error.numel())
        assert torch.allclose(stage.codebook.grad, at_codes, atol=1e-15)
        for name in ("codebook", "commitment"):
            term = out.losses[f"stage{number}.{name}"]
            assert term.item() == pytest.approx(error.square().mean().item(), rel=1e-12)
    assert out.loss.item() == pytest.approx(float(expected_loss), rel=1e-12)
    assert torch.allclose(latents.grad, at_latents, atol=1e-15)


def test_losses_of_nested_parts_carry_the_names_of_all_levels():
    losses = nested(EMAQuantizer, stages=2)(torch.randn(3, 6)).losses
    assert list(losses) == [
        "group0.stage0.commitment",
        "group0.stage1.commitment",
        "group1.stage0.commitment",
        "group1.stage1.commitment",
    ]
    assert not any(term.requires_grad for term in losses.values())


# ---- any layout, dtype and mask ----


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(COMPOSITES)),
    kind=st.sampled_from(KINDS),
    batch=st.integers(0, 3),
    grid=st.lists(st.integers(1, 4), max_size=3),
    layout=st.sampled_from(["channels first", "channels last", "strided"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_codes_and_indices_for_any_layout_dtype_and_mask(
    name, kind, batch, grid, layout, dtype, masked, seed
):
    torch.manual_seed(seed)
    channel_last = layout == "channels last"
    quantizer = COMPOSITES[name](kind=kind, channel_last=channel_last)
    shape = (batch, *grid, 4) if channel_last else (batch, 4, *grid)
    latents = torch.randn(shape).to(dtype)
    if layout == "strided":
        latents = latents.movedim(0, -1).contiguous().movedim(-1, 0)
    mask = torch.rand(batch, *grid) < 0.7 if masked else None
    if masked and batch:
        mask.view(-1)[0] = True

    out = quantizer(latents, mask)
    assert out.codes.shape == latents.shape
    assert out.codes.dtype == dtype
    assert out.codes.is_contiguous() or not latents.is_contiguous()
    assert out.indices.shape == (batch, *grid, *quantizer.index_shape)
    assert out.indices.dtype == torch.int64
    assert out.loss.isfinite()

    used = torch.ones(batch, *grid, dtype=torch.bool) if mask is None else mask
    assert torch.equal(quantizer.encode(latents)[used], out.indices[used])
    looked_up = quantizer.lookup(out.indices.masked_fill(out.indices < 0, 0)).to(dtype)
    codes = [one if channel_last else one.movedim(1, -1) for one in (out.codes, looked_up)]
    tolerance = 1e-6 if dtype == torch.float64 else 0.0  # sums in float32 and in float64
    assert torch.allclose(codes[0][used], codes[1][used], atol=tolerance, rtol=0)
    quantizer.after_step()
    assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())


@every_composite
def test_autocast_and_modules_in_half_precision_change_no_index(make):
    quantizer = make().bfloat16()
    latents = torch.randn(4, 4, 6).bfloat16()
    expected = quantizer(latents)
    with torch.autocast("cpu", torch.bfloat16):
        got = quantizer(latents)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.codes, expected.codes)
    assert torch.equal(quantizer.lookup(got.indices), got.codes)
    assert got.codes.dtype == torch.bfloat16
    single_precision = make()
    single_precision.load_state_dict(quantizer.state_dict())
    assert torch.equal(single_precision(latents.float()).indices, expected.indices)


@every_composite
def test_replace_gives_the_codes_of_forward(make):
    quantizer = make()
    latents = torch.randn(4, 4, 6)
    assert torch.equal(quantizer.replace(latents), quantizer(latents).codes)


# ---- fewer stages ----


def test_the_first_columns_are_a_coarser_description():
    quantizer = residual(4)
    latents = torch.randn(20, 4, 3)
    indices = quantizer.encode(latents)
    for stages in range(1, 5):
        first = quantizer.encode(latents, stages=stages)
        assert torch.equal(first, indices[..., :stages])
        rows = latents.movedim(1, -1).reshape(-1, 4)
        _, codes, _ = quantize_in_stages(rows, quantizer.parts[:stages])
        looked_up = quantizer.lookup(first).movedim(1, -1).reshape(-1, 4)
        assert torch.allclose(looked_up.double(), codes, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8])
def test_an_index_of_minus_one_leaves_a_stage_out(dtype):
    quantizer = residual(3)
    indices = torch.tensor([[1, -1, -1], [1, 2, -1], [1, 2, 3]], dtype=dtype)
    one, two, three = (stage.codebook.detach() for stage in quantizer.parts)
    expected = torch.stack([one[1], one[1] + two[2], one[1] + two[2] + three[3]])
    assert torch.equal(quantizer.lookup(indices), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_indices_may_have_an_unsigned_dtype(dtype):
    quantizer = residual(2, num_codes=256)
    indices = torch.tensor([[3, 255]])
    assert torch.equal(quantizer.lookup(indices.to(dtype)), quantizer.lookup(indices))


def test_a_stage_of_groups_is_left_out_as_a_whole():
    quantizer = COMPOSITES["residual of grouped"]()
    indices = quantizer.encode(torch.randn(5, 4, 3))
    coarse = indices.clone()
    coarse[2:, ..., 1] = -1
    codes = quantizer.lookup(coarse)
    assert torch.equal(codes[:2], quantizer.lookup(indices)[:2])
    assert torch.equal(codes[2:], quantizer.lookup(indices[..., :1])[2:])


def test_the_first_stages_of_all_groups_can_be_looked_up():
    quantizer = nested(stages=3)
    latents = torch.randn(5, 6, 2)
    coarse = quantizer.encode(latents)[..., :1, :]
    parts = zip(quantizer.parts, latents.split([4, 2], dim=1), strict=True)
    expected = [part.lookup(part.encode(channels, stages=1)) for part, channels in parts]
    assert torch.equal(quantizer.lookup(coarse), torch.cat(expected, 1))


# ---- dropout ----


def stages_used(out):
    return int((out.indices >= 0).flatten(0, -2).any(0).sum())


def test_dropout_draws_each_number_of_stages_equally_often():
    quantizer = residual(3, dropout=True)
    latents = torch.randn(3, 4)
    drawn = [stages_used(quantizer(latents)) for _ in range(600)]
    counts = torch.bincount(torch.tensor(drawn), minlength=4)
    expected = torch.tensor([0, 200, 200, 200])
    four_deviations = 4 * math.sqrt(600 * 1 / 3 * 2 / 3)
    assert ((counts - expected).abs() <= four_deviations).all()
    assert counts[0] == 0


@every_kind
def test_a_stage_left_out_learns_and_counts_nothing_but_its_clock_goes_on(kind):
    quantizer = residual(3, kind=kind, dropout=True)
    for step in range(1, 21):
        before = [state(stage) for stage in quantizer.parts]
        out = quantizer(torch.randn(2, 4, 6, requires_grad=True))
        used = stages_used(out)
        assert (out.indices[..., :used] >= 0).all()
        assert (out.indices[..., used:] == -1).all()
        with_losses = {name.partition(".")[0] for name in out.losses}
        assert with_losses == {f"stage{number}" for number in range(used)}
        assert torch.equal(quantizer.lookup(out.indices), out.codes)
        out.loss.backward()
        quantizer.after_step()
        for stage, earlier in zip(quantizer.parts[used:], before[used:], strict=True):
            assert torch.equal(stage.codebook, earlier["codebook"])
            assert torch.equal(stage.counts, earlier["counts"])
            assert stage.codebook.grad is None or not stage.codebook.grad.any()
        assert [int(stage.step) for stage in quantizer.parts] == [step] * 3
        quantizer.zero_grad()


def test_the_loss_with_dropout_is_that_of_the_stages_in_use():
    quantizer = residual(3, dropout=True)
    latents = torch.randn(30, 4)
    out = quantizer(latents)
    used = stages_used(out)
    fewer = ResidualQuantizer(list(quantizer.parts[:used]))
    assert used < 3
    assert out.loss.item() == pytest.approx(fewer(latents).loss.item(), rel=1e-6)


def test_dropout_and_a_mask_work_together():
    quantizer = residual(3, dropout=True)
    mask = torch.rand(4, 5) < 0.6
    drawn = set()
    for _ in range(20):
        out = quantizer(torch.randn(4, 4, 5), mask)
        drawn.add(stages_used(out))
        in_use = out.indices[..., : stages_used(out)]
        assert torch.equal(in_use >= 0, mask[..., None].expand_as(in_use))
        quantizer.after_step()
    assert drawn == {1, 2, 3}


def test_evaluation_uses_all_stages_and_draws_nothing():
    quantizer = residual(4, dropout=True).eval()
    generator = torch.get_rng_state()
    assert stages_used(quantizer(torch.ones(3, 4))) == 4
    assert torch.equal(torch.get_rng_state(), generator)


def test_dropout_of_one_stage_always_uses_it():
    quantizer = residual(1, dropout=True)
    assert all(stages_used(quantizer(torch.randn(3, 4))) == 1 for _ in range(20))


def train_with_dropout(rank, port, folder):
    """Ten steps of two processes with different seeds; keeps what each of them drew and learned."""
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)
    parts = [kind(5, 4) for kind in KINDS]
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), ResidualQuantizer(parts, True)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(100 + rank)
    drawn = []
    for _ in range(10):
        quantized = model(torch.randn(6, 4))
        drawn.append(stages_used(quantized))
        optimizer.zero_grad()
        (quantized.codes.square().mean() + quantized.loss).backward()
        optimizer.step()
        model.module[1].after_step()
    found = {"drawn": torch.tensor(drawn)} | model.module.state_dict()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_all_processes_draw_the_same_stages_and_stay_equal(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_with_dropout, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first["drawn"].unique()) > 1
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-6), name


# ---- in a training loop ----


@every_composite
def test_training_reduces_the_error(make):
    quantizer = make()
    latents = torch.randn(200, 4)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    errors = []
    for _ in range(100):
        out = quantizer(latents)
        errors.append((out.codes - latents).square().mean().item())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        quantizer.after_step()
    assert errors[-1] < 0.7 * errors[0]


def test_stages_that_start_from_k_means_have_a_small_error():
    pytest.importorskip("sklearn")
    quantizer = residual(3)
    latents = torch.randn(300, 4)
    residuals = latents
    errors = []
    for stage in quantizer.parts:
        stage.set_codebook(kmeans(residuals, stage.num_codes))
        residuals = residuals - stage.replace(residuals)
        errors.append(residuals.square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert torch.allclose(latents - quantizer.replace(latents), residuals, atol=1e-6)
    assert errors[-1] < 0.15  # of the latents: 1


@every_kind
def test_gradient_reaches_latents_of_a_torch_func_transform(kind):
    quantizer = residual(2, kind=kind).eval()
    latents = torch.randn(5, 4)

    def loss(latents):
        out = quantizer(latents)
        return out.codes.sum() + out.loss

    leaf = latents.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.grad(loss)(latents), leaf.grad)


def test_a_checkpointed_forward_draws_and_counts_once():
    quantizer = residual(3, dropout=True)
    latents = torch.randn(5, 4, requires_grad=True)
    outputs = []

    def forward(latents):
        outputs.append(quantizer(latents))
        return outputs[-1].loss

    for _ in range(5):
        outputs.clear()
        quantizer.reset_usage()
        with set_checkpoint_early_stop(False):
            checkpoint(forward, latents, use_reentrant=False).backward()
        first, again = outputs
        assert torch.equal(first.indices, again.indices)
        assert int(quantizer.parts[0].counts.sum()) == 5


@every_kind
def test_a_batch_that_is_not_finite_counts_for_nothing(kind):
    quantizer = residual(2, kind=kind)
    before = [part.codebook.detach().clone() for part in quantizer.parts]
    latents = torch.randn(6, 4)
    latents[2, 1] = math.inf
    quantizer(latents)
    quantizer.after_step()
    for part, codebook in zip(quantizer.parts, before, strict=True):
        assert torch.equal(part.codebook, codebook)
        assert not part.counts.any()
    assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())


@every_kind
def test_micro_batches_count_as_one_large_batch(kind):
    settings = {"anchor": "closest"} if kind is OnlineClusteredQuantizer else {}
    whole = residual(2, kind=kind, **settings)
    parts = residual(2, kind=kind, **settings)
    parts.load_state_dict(whole.state_dict())
    for _ in range(3):
        latents = torch.randn(16, 4, 3)
        whole(latents)
        for micro_batch in latents.split(4):
            parts(micro_batch)
        whole.after_step()
        parts.after_step()
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, parts.state_dict()[name], atol=1e-6), name


@every_composite
@every_kind
def test_evaluation_and_a_frozen_quantizer_move_no_code(make, kind):
    quantizer = make(kind=kind)
    before = state(quantizer)
    quantizer.eval()
    latents = torch.randn(5, 4, 3, requires_grad=True)
    quantizer(latents).loss.backward()
    quantizer.after_step()
    assert latents.grad.any()
    assert all(parameter.grad is None for parameter in quantizer.parameters())
    assert_same_state(quantizer, before)

    quantizer.train()
    assert not quantizer.frozen
    quantizer.freeze()
    assert quantizer.frozen
    latents = torch.randn(5, 4, 3, requires_grad=True)
    for _ in range(3):
        quantizer(latents).loss.backward()
        quantizer.after_step()
    for name, tensor in quantizer.state_dict().items():
        if name.endswith("codebook"):
            assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in quantizer.parameters())
    quantizer.unfreeze()
    assert not quantizer.frozen
    assert all(parameter.requires_grad for parameter in quantizer.parameters())


def test_a_part_can_be_frozen_on_its_own():
    quantizer = residual(2, kind=EMAQuantizer)
    quantizer.parts[0].freeze()
    before = [part.codebook.detach().clone() for part in quantizer.parts]
    quantizer(torch.randn(20, 4))
    quantizer.after_step()
    assert not quantizer.frozen
    assert torch.equal(quantizer.parts[0].codebook, before[0])
    assert not torch.equal(quantizer.parts[1].codebook, before[1])


def test_after_step_without_forward_says_that_it_did_nothing():
    with pytest.warns(UserWarning, match="after_step was called without a forward pass"):
        residual().after_step()


def test_a_run_begins_in_all_parts():
    quantizer = nested(SphericalQuantizer, stages=2)
    parts = []
    for group in quantizer.parts:
        parts += group.parts
    quantizer(torch.randn(20, 6))
    quantizer.after_step()
    quantizer.begin_run(100, "continue")
    assert [int(part.step) for part in parts] == [1] * 4
    assert not any(part.counts.any() for part in parts)
    quantizer.begin_run(100)
    assert [int(part.step) for part in parts] == [0] * 4
    assert all(part.samp is not None for part in parts)
    with pytest.raises(ValueError, match="schedule is 'later'"):
        quantizer.begin_run(100, "later")


def test_usage_is_counted_in_each_part_and_can_be_reset():
    quantizer = residual(2)
    out = quantizer(torch.randn(30, 4))
    for number, part in enumerate(quantizer.parts):
        counted = torch.bincount(out.indices[:, number], minlength=8)
        assert torch.equal(part.counts, counted)
    quantizer.reset_usage()
    assert not any(part.counts.any() for part in quantizer.parts)


@pytest.mark.usefixtures("unchecked")  # the checks of shapes cannot be compiled
@every_composite
def test_it_compiles_without_graph_breaks(make):
    quantizer = make()
    latents = torch.randn(6, 4, 3)
    expected = quantizer(latents)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)(latents)
    assert torch.equal(compiled.indices, expected.indices)
    assert torch.allclose(compiled.codes, expected.codes)
    assert compiled.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_dropout_compiles_with_a_graph_break():
    quantizer = residual(2, dropout=True)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, backend="aot_eager")
    used = set()
    for _ in range(12):
        out = compiled(torch.randn(6, 4, 3))
        used.add(stages_used(out))
        assert torch.equal(quantizer.lookup(out.indices), out.codes)
    assert used == {1, 2}


# ---- saving and loading ----


@every_composite
@every_kind
def test_config_and_state_round_trip(make, kind):
    quantizer = make(kind=kind)
    copy = Quantizer.from_config(json.loads(json.dumps(quantizer.config())))
    copy.load_state_dict(quantizer.state_dict())
    assert type(copy) is type(quantizer)
    assert copy.config() == quantizer.config()
    latents = torch.randn(5, 4, 3)
    assert torch.equal(copy.encode(latents), quantizer.encode(latents))


def test_dropout_layout_and_settings_of_parts_are_in_the_config():
    parts = [
        EMAQuantizer(8, 4, decay=0.5, channel_last=True),
        CosineQuantizer(4, 4, channel_last=True),
    ]
    copy = Quantizer.from_config(ResidualQuantizer(parts, dropout=True).config())
    assert copy.dropout is True
    assert copy.channel_last is True
    assert copy.parts[0].decay == 0.5
    assert [type(part) for part in copy.parts] == [EMAQuantizer, CosineQuantizer]


def test_a_class_that_pytorch_derives_is_of_the_kind_that_it_wraps():
    quantizer = residual(2)
    quantizer.__class__ = type(
        "FSDPResidualQuantizer", (ResidualQuantizer,), {"__module__": "torch.distributed.fsdp"}
    )
    assert type(Quantizer.from_config(quantizer.config())) is ResidualQuantizer


@every_composite
def test_it_works_in_a_vqvae_and_is_saved_with_it(make, tmp_path):
    model = VQVAE(1, make(), hidden=8, residual_hidden=4)
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    output = model(images)
    (output.reconstruction.square().mean() + output.quantized.loss).backward()
    model.quantizer.after_step()
    model.eval()
    model.save_pretrained(tmp_path)
    opened = VQVAE.from_pretrained(tmp_path)
    assert torch.equal(opened.encode(images), model.encode(images))
    reconstruction = opened.reconstruct(images)
    assert torch.equal(opened.decode(opened.encode(images)), reconstruction)
    expected = model(images).reconstruction.clamp(-1, 1)
    assert torch.allclose(reconstruction, expected, atol=1e-6)


def test_fit_and_evaluate_say_that_they_take_a_single_codebook():
    model = VQVAE(1, residual(), hidden=8, residual_hidden=4)
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    split = ImageSplit(images, torch.zeros(4, dtype=torch.int64))
    data = ImageData("black", split, split, split, ("all",))
    with pytest.raises(ValueError, match="the quantizer is a ResidualQuantizer; fit takes one"):
        fit(model, data, steps=1, batch_size=2)
    with pytest.raises(ValueError, match="the quantizer is a ResidualQuantizer; evaluate takes"):
        evaluate(model, split)


# ---- sizes and bad input ----


def test_the_number_of_codes_is_that_of_all_combinations():
    quantizer = GroupedQuantizer([residual(3, 8, 4), residual(3, 4, 2)])
    assert quantizer.num_codes == 8**3 * 4**3
    assert quantizer.dim == 6
    assert residual(3).dim == 4


BAD_PARTS = {
    "there is no stage; there must be at least one": lambda: ResidualQuantizer([]),
    "there is no group; there must be at least one": lambda: GroupedQuantizer([]),
    "a stage is a Linear; it must be a quantizer": lambda: ResidualQuantizer([nn.Linear(4, 4)]),
    "the stages have dim 4, 8; it must be the same in all": lambda: ResidualQuantizer(
        [EMAQuantizer(8, 4), EMAQuantizer(8, 8)]
    ),
    "the groups have channel_last True, False; it must be the same in all": lambda: (
        GroupedQuantizer([EMAQuantizer(8, 4, channel_last=True), EMAQuantizer(8, 4)])
    ),
    r"the groups have index_shape \(2,\), \(3,\); it must be the same": lambda: GroupedQuantizer(
        [residual(2), residual(3)]
    ),
    "a quantizer appears twice; each stage must be a different one": lambda: ResidualQuantizer(
        2 * [EMAQuantizer(8, 4)]
    ),
    "dropout is 0.5; it must be True or False": lambda: residual(dropout=0.5),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BAD_PARTS)
def test_parts_that_do_not_fit_are_refused(message):
    with pytest.raises(ValueError, match=message):
        BAD_PARTS[message]()


def outside(value):
    return torch.full((2, 5, 3), value)


BAD_CALLS = {
    r"latents have shape \(2, 5, 4\); they must be \(B, 4, \*grid\)": lambda q: q(
        torch.randn(2, 5, 4)
    ),
    "latents are torch.int64; they must be floating point": lambda q: q.encode(
        torch.zeros(2, 4, dtype=torch.int64)
    ),
    r"mask has shape \(5, 2\)": lambda q: q(torch.randn(2, 4, 5), torch.ones(5, 2).bool()),
    "mask is False everywhere": lambda q: q(torch.randn(2, 4, 5), torch.zeros(2, 5).bool()),
    "stages is 4; it must be at most 3": lambda q: q.encode(torch.randn(2, 4), stages=4),
    "stages is 0; it must be a whole number from 1": lambda q: q.encode(
        torch.randn(2, 4), stages=0
    ),
    r"indices have shape \(2, 4\); they must be \(B, \*grid, 1 to 3\), with a column for each stage": (
        lambda q: q.lookup(torch.zeros(2, 4, dtype=torch.int64))
    ),
    r"indices have shape \(2, 5, 0\)": lambda q: q.lookup(outside(0)[..., :0]),
    r"indices have shape \(3,\)": lambda q: q.lookup(outside(0)[0, 0]),
    "indices reach from 8 to 8; they must be from 0 to 7": lambda q: q.lookup(outside(8)),
    "indices reach from -1 to -1; they must be from 0 to 7": lambda q: q.lookup(outside(-1)),
    "indices reach from -2 to": lambda q: q.lookup(torch.tensor([[0, -2, 0]])),
    "1 of 4 values of the latents are NaN or infinite": lambda q: q.encode(
        torch.tensor([[math.nan, 0.0, 0.0, 0.0]])
    ),
    "indices have dtype torch.float32; it must be an integer dtype": lambda q: q.lookup(
        torch.zeros(2, 3)
    ),
    "a ResidualQuantizer has no codebook of its own; set those of its parts": lambda q: (
        q.set_codebook(torch.randn(8, 4))
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_input_gets_one_sentence_and_changes_nothing(message):
    quantizer = residual(3)
    before = state(quantizer)
    with pytest.raises(ValueError, match=message):
        BAD_CALLS[message](quantizer)
    assert_same_state(quantizer, before)


@pytest.mark.usefixtures("unchecked")
def test_groups_need_all_their_channels_and_columns():
    quantizer = nested(stages=2)
    with pytest.raises(ValueError, match=r"they must be \(B, 6, \*grid\)"):
        quantizer(torch.randn(3, 7))
    with pytest.raises(ValueError, match=r"they must be \(B, \*grid, 2, 2\)"):
        quantizer.lookup(torch.zeros(3, 2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"they must be \(B, \*grid, 1 to 2\)"):
        quantizer.lookup(torch.zeros(3, 3, 2, dtype=torch.int64))


def test_a_stage_of_stages_is_left_out_in_part():
    stages = [ResidualQuantizer([EuclideanQuantizer(4, 3), EuclideanQuantizer(4, 3)]) for _ in "ab"]
    quantizer = ResidualQuantizer(stages)
    indices = quantizer.encode(torch.randn(5, 3))
    indices[:, 1, 1] = -1
    first = stages[0].lookup(indices[:, :, 0])
    second = stages[1].parts[0].lookup(indices[:, 0, 1])
    assert torch.equal(quantizer.lookup(indices), first + second)


def test_an_optimizer_moves_the_whole_if_it_moves_a_part():
    assert ResidualQuantizer([EMAQuantizer(4, 3), EuclideanQuantizer(4, 3)]).trainable
    assert not ResidualQuantizer([EMAQuantizer(4, 3)]).trainable


def test_the_config_of_a_run_is_told_before_it_begins():
    quantizer = ResidualQuantizer([SphericalQuantizer(4, 3), EuclideanQuantizer(4, 3)])
    told = quantizer.config_in_run(50)
    assert quantizer.config() != told
    quantizer.begin_run(50)
    assert quantizer.config() == told


@pytest.mark.parametrize("dtype", HALF)
def test_encode_gives_the_indices_of_forward_in_half_precision(dtype):
    quantizer = ResidualQuantizer([EuclideanQuantizer(16, 3) for _ in range(4)]).eval()
    latents = torch.randn(2000, 3).to(dtype)
    for stage in quantizer.parts:
        stage.set_codebook(torch.randn(16, 3))
    assert torch.equal(quantizer.encode(latents), quantizer(latents).indices)
