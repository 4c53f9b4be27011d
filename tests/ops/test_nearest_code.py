"""The nearest code against distances and angles of pairs, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from arcvq.ops import blockwise, nearest_code


def scores(latents, codebook, metric):
    """How near each code is to each latent: the cosine, or minus the squared distance."""
    latents = latents.double()
    codebook = codebook.double()
    if metric == "cosine":
        return normalize(latents, dim=1) @ normalize(codebook, dim=1).T
    return -(latents[:, None] - codebook).square().sum(2)


def wrong_share(latents, codebook, metric):
    """Share of latents for which another code is nearer than the one that was found."""
    exact = scores(latents, codebook, metric)
    found = nearest_code(latents, codebook, metric)
    chosen = exact.gather(1, found[:, None])[:, 0]
    return (chosen < exact.amax(1)).double().mean().item()


def far(count, dim, distance):
    return distance + torch.randn(count, dim)


def cone(count, dim, spread):
    return torch.eye(dim)[0] + spread * torch.randn(count, dim)


def test_codes_far_from_the_origin_are_told_apart():
    codebook = torch.tensor([[1000, 1000], [1000, 1000.25], [1000, 1000.5]])
    latents = torch.tensor([[1000, 1000.3]])
    assert nearest_code(latents, codebook, "euclidean").tolist() == [1]


@pytest.mark.parametrize("distance", [0, 1, 300, 3000])
def test_the_nearest_by_distance_is_found_however_far_all_lie_from_the_origin(distance):
    latents = far(4096, 64, distance)
    assert wrong_share(latents, far(512, 64, distance), "euclidean") <= 2 / 4096


@pytest.mark.parametrize("distance", [0, 1000])
@pytest.mark.parametrize("num_codes", [4, 64, 1500])
@pytest.mark.parametrize("length", [1e3, 1e4, 1e6])
def test_one_code_that_is_very_long_leaves_the_others_apart(length, num_codes, distance):
    latents = far(2048, 16, distance)
    codebook = far(num_codes, 16, distance)
    codebook[num_codes // 2] *= length
    assert wrong_share(latents, codebook, "euclidean") <= 2 / 2048


@pytest.mark.parametrize("length", [1e-3, 1, 100])
@pytest.mark.parametrize("spread", [10, 1, 0.1, 0.01, 0.001])
def test_the_nearest_by_angle_is_found_however_narrow_the_cone(spread, length):
    latents = length * cone(4096, 64, spread)
    assert wrong_share(latents, cone(512, 64, spread), "cosine") <= 2 / 4096


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_in_a_whole_is_found_as_well(metric, monkeypatch):
    """As torch.export does it."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert wrong_share(far(2000, 16, 300), far(100, 16, 300), metric) == 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_indices_of_the_same_values_in_float32(dtype, metric):
    latents = torch.randn(300, 16).to(dtype)
    codebook = torch.randn(40, 16).to(dtype)
    expected = nearest_code(latents.float(), codebook.float(), metric)
    assert torch.equal(nearest_code(latents, codebook, metric), expected)


def test_autocast_changes_no_index():
    latents = far(300, 16, 30)
    codebook = far(40, 16, 30)
    expected = nearest_code(latents, codebook, "euclidean")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(latents, codebook, "euclidean"), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_single_code_is_always_the_nearest(metric):
    assert nearest_code(torch.randn(5, 3), torch.randn(1, 3), metric).tolist() == [0] * 5
    assert nearest_code(torch.randn(5, 3), torch.zeros(1, 3), metric).tolist() == [0] * 5


def test_a_code_of_norm_zero_counts_as_a_right_angle():
    codebook = torch.tensor([[0.0, 0, 0], [1, 0.1, 0], [1, -0.1, 0], [2, 0, 0.1]])
    latents = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0.05, 0.6, 0.7], [-0.1, 0.1, 0]])
    exact = scores(latents, codebook, "cosine")
    assert exact.argmax(1).tolist() == [3, 0, 1, 0]
    assert nearest_code(latents, codebook).tolist() == [3, 0, 1, 0]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_latents_that_are_no_numbers_get_an_index_and_change_no_other(broken, metric):
    latents = torch.randn(30, 4)
    codebook = torch.randn(20, 4)
    expected = nearest_code(latents, codebook, metric)
    latents[3, 1] = broken
    latents[4] = broken
    found = nearest_code(latents, codebook, metric)
    assert found.min() >= 0
    assert found.max() < 20
    others = [i for i in range(30) if i not in (3, 4)]
    assert torch.equal(found[others], expected[others])


def test_codes_and_latents_stay_as_they_are_and_get_no_gradient():
    latents = torch.randn(9, 4, requires_grad=True)
    codebook = torch.randn(5, 4, requires_grad=True)
    before = codebook.detach().clone()
    for metric in ("cosine", "euclidean"):
        assert not nearest_code(latents, codebook, metric).requires_grad
    assert torch.equal(codebook, before)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("latents", "codebook", "message"),
    [
        ((4, 2), (0, 2), r"the codebook has shape \(0, 2\); it must be \(K, D\), both from 1"),
        ((4, 0), (3, 0), r"the codebook has shape \(3, 0\); it must be \(K, D\), both from 1"),
        ((4, 2), (2,), r"the codebook has shape \(2,\); it must be \(K, D\)"),
        ((4, 3), (5, 2), r"latents have shape \(4, 3\); they must be \(N, 2\)"),
        ((4, 2, 5, 5), (3, 2), r"latents have shape \(4, 2, 5, 5\); they must be \(N, 2\)"),
        ((2,), (3, 2), r"latents have shape \(2,\); they must be \(N, 2\)"),
    ],
)
def test_tensors_of_other_shapes_are_refused(latents, codebook, message, metric, unchecked):
    with pytest.raises(ValueError, match=message):
        nearest_code(torch.randn(latents), torch.randn(codebook), metric)


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match="metric 'l1' is unknown; use 'cosine' or 'euclidean'"):
        nearest_code(torch.randn(2, 3), torch.randn(2, 3), "l1")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 40), st.sampled_from([1, 5, 40, 64, 128]), st.integers(1, 20)),
    distance=st.sampled_from([0, 1, 100, 10_000]),
    scale=st.sampled_from([1e-6, 1, 1e6]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    tile=st.sampled_from([40, 1 << 21]),
    seed=st.integers(0, 999),
)
def test_no_code_is_clearly_nearer_than_the_one_found(
    shape, distance, scale, metric, dtype, tile, seed
):
    count, num_codes, dim = shape
    generator = torch.Generator().manual_seed(seed)
    latents = scale * (distance + torch.randn(count, dim, generator=generator)).to(dtype)
    codebook = scale * (distance + torch.randn(num_codes, dim, generator=generator)).to(dtype)
    codebook[seed % num_codes] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "TILE", tile)
        found = nearest_code(latents, codebook, metric)
    assert found.shape == (count,)
    exact = scores(latents, codebook, metric)
    missed = exact.amax(1, keepdim=True) - exact.gather(1, found[:, None])
    unit = 1 if metric == "cosine" else (scale * max(1, distance / num_codes)) ** 2
    assert (missed <= 1e-5 * dim * unit).all()


@settings(max_examples=60, deadline=None)
@given(
    num_codes=st.sampled_from([1, 3, 7, 40, 64, 100, 192]),
    dim=st.integers(1, 9),
    distance=st.sampled_from([0, 5, 1000]),
    unit=st.sampled_from([0.25, 1, 8]),
    seed=st.integers(0, 999),
)
def test_of_codes_equally_far_from_a_latent_the_lowest_is_found(
    num_codes, dim, distance, unit, seed
):
    """On a grid, where float32 holds all distances exactly."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randint(-3, 4, (num_codes, dim), generator=generator)
    codebook = distance + unit * codebook.float()
    latents = torch.randint(-7, 8, (50, dim), generator=generator)
    latents = distance + unit / 2 * latents.float()
    nearest = scores(latents, codebook, "euclidean").argmax(1)
    assert torch.equal(nearest_code(latents, codebook, "euclidean"), nearest)


@settings(max_examples=40, deadline=None)
@given(
    copies=st.integers(1, 5),
    num_codes=st.sampled_from([1, 3, 32, 60, 64, 128]),
    dim=st.integers(1, 70),
    metric=st.sampled_from(["cosine", "euclidean"]),
    seed=st.integers(0, 999),
)
def test_of_equal_codes_the_lowest_is_found(copies, num_codes, dim, metric, seed):
    """Codes are whole numbers along one axis each, so that no order of summing rounds a score.

    Copies of other codes may score one rounding apart: a product sums up its last columns in an
    order of their own on some processors.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(dim)[torch.randint(0, dim, (num_codes,), generator=generator)]
    lengths = torch.randint(-3, 4, (num_codes, 1), generator=generator)
    codebook = (lengths * axes).repeat(copies, 1)
    latents = torch.randint(-3, 4, (50, dim), generator=generator).float()
    nearest = scores(latents, codebook, metric).argmax(1)
    assert torch.equal(nearest_code(latents, codebook, metric), nearest)
