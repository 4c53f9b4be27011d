import dataclasses
import math
import sys
from functools import partial
from itertools import pairwise, permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize, pdist

from arcvq import geometry
from arcvq.geometry import (
    alignment,
    best_min_angle_bound,
    describe,
    effective_rank,
    growth_usage_correlation,
    mean_resultant_length,
    median_random_min_angle,
    min_angle,
    nearest_angles,
    norm_usage_correlation,
    norms,
    pairwise_angles,
    perplexity,
    perplexity_ceiling,
    quantization_error,
    random_angle_density,
    random_min_angle,
    random_nearest_angle,
    uniformity,
    usage_counts,
)
from tests.dtypes import indices_of_any_dtype
from tests.memory import LargestTensor

OCTAHEDRON = torch.cat([torch.eye(3), -torch.eye(3)])
TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
GOLDEN = (1 + 5**0.5) / 2
CORNERS = torch.tensor([[0, 1, GOLDEN], [0, 1, -GOLDEN], [0, -1, GOLDEN], [0, -1, -GOLDEN]])
ICOSAHEDRON = torch.cat([CORNERS, CORNERS.roll(1, dims=1), CORNERS.roll(2, dims=1)])


@st.composite
def codebooks(draw):
    rows = draw(st.integers(2, 40))
    dim = draw(st.integers(1, 20))
    scale = draw(st.sampled_from([1e-12, 1.0, 1e12]))
    return scale * normal(rows, dim, seed=draw(st.integers(0, 10_000)))


def normal(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def plain_angle(a, b):
    """The angle of two vectors in float64."""
    cosine = a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)
    return math.acos(min(1, max(-1, cosine)))


def plain_angles(points):
    """The K x K angles by plain loops."""
    points = points.double().numpy()
    angles = [plain_angle(a, b) for a, b in product(points, repeat=2)]
    return np.reshape(angles, (len(points), len(points)))


def degrees(radians):
    return pytest.approx(math.radians(radians), abs=1e-4)


# angles


@given(codebooks())
@settings(max_examples=25, deadline=None)
def test_angles_equal_a_plain_loop(codebook):
    matrix = plain_angles(codebook)
    rows, columns = np.triu_indices(len(codebook), 1)
    np.testing.assert_allclose(pairwise_angles(codebook), matrix[rows, columns], atol=3e-7)
    np.fill_diagonal(matrix, np.inf)
    np.testing.assert_allclose(nearest_angles(codebook), matrix.min(axis=1), atol=3e-7)
    assert min_angle(codebook) == pytest.approx(matrix.min(), abs=3e-7)


@pytest.mark.parametrize("tiny", [1e-3, 1e-8, 1e-12])
def test_angles_stay_exact_near_zero_and_pi(tiny):
    near = [3 * math.cos(tiny), 3 * math.sin(tiny)]
    codebook = torch.tensor([[1, 0], near, [-1, 0]], dtype=torch.float64)
    angles = pairwise_angles(codebook)
    assert angles[0].item() == pytest.approx(tiny, rel=1e-9)
    assert angles[1].item() == math.pi
    assert math.pi - angles[2].item() == pytest.approx(tiny, abs=1e-15)
    assert min_angle(codebook) == pytest.approx(tiny, rel=1e-9)


def test_equal_codes_have_angle_zero_exactly():
    assert pairwise_angles(torch.tensor([[0.3, 0.4], [0.3, 0.4]])).tolist() == [0.0]
    assert nearest_angles(torch.tensor([[0.3, 0.4], [0.6, 0.8], [-1.0, 0.0]]))[:2].max() < 1e-7


def test_nearest_angles_do_not_depend_on_the_blocks():
    codebook = torch.randn(2100, 3)  # 2100^2 is more than one block of 2^22 entries
    pairs = torch.full((2100, 2100), math.inf, dtype=torch.float64)
    upper = torch.triu_indices(2100, 2100, 1)
    pairs[upper[0], upper[1]] = pairwise_angles(codebook)
    expected = torch.minimum(pairs, pairs.T).min(dim=1).values
    torch.testing.assert_close(nearest_angles(codebook), expected, atol=1e-7, rtol=0)


def test_norms_are_euclidean_and_detached():
    codebook = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    assert norms(codebook).tolist() == [5.0, 0.0, 2.0]
    assert not norms(codebook).requires_grad


# bounds on the minimum angle


@pytest.mark.parametrize(
    ("num_codes", "best"), [(2, 180), (3, 120), (4, 109.4712), (5, 90), (6, 90), (12, 63.4349)]
)
def test_the_bound_is_exact_where_the_best_packing_in_3d_is_proven(num_codes, best):
    assert best_min_angle_bound(num_codes, 3) == degrees(best)


# the best packings known in 3-D (Sloane's tables); kissing configurations and other codes beyond
@pytest.mark.parametrize(
    ("num_codes", "dim", "known"),
    [
        (7, 3, 77.8695),
        (8, 3, 74.8585),
        (9, 3, 70.5288),
        (10, 3, 66.1468),
        (11, 3, 63.4349),
        (24, 3, 43.6908),
        (24, 4, 60),
        (120, 4, 36),
        (16, 5, 78.4630),
        (27, 6, 75.5225),
        (240, 8, 60),
        (196_560, 24, 60),
        (4224, 64, 82.8192),
    ],
)
def test_the_bound_is_never_below_a_known_packing(num_codes, dim, known):
    bound = best_min_angle_bound(num_codes, dim)
    assert math.radians(known) - 1e-6 <= bound <= math.pi / 2


@pytest.mark.parametrize(("num_codes", "dim", "known"), [(16, 5, 78.4630), (27, 6, 75.5225)])
def test_the_bound_meets_the_sharp_codes_of_levenshtein(num_codes, dim, known):
    assert best_min_angle_bound(num_codes, dim) == degrees(known)


@pytest.mark.parametrize("num_codes", [2144, 2145, 65_536])
def test_the_bound_stays_where_the_proof_of_levenshtein_ends(num_codes):
    expected = math.acos((math.sqrt(67) - 1) / 66)
    assert best_min_angle_bound(num_codes, 64) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_codes", [2, 3, 5, 64])
def test_in_the_plane_the_bound_is_the_regular_polygon(num_codes):
    turns = torch.arange(num_codes, dtype=torch.float64) * (2 * math.pi / num_codes)
    polygon = torch.stack([turns.cos(), turns.sin()], dim=1)
    expected = min_angle(polygon)
    assert best_min_angle_bound(num_codes, 2) == pytest.approx(expected, abs=1e-12)


def test_on_a_line_only_two_codes_have_an_angle():
    assert best_min_angle_bound(2, 1) == math.pi
    assert best_min_angle_bound(3, 1) == 0.0


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 64, 1024])
def test_more_codes_never_raise_the_bound(dim):
    proven = dim * (dim + 3) // 2
    sizes = sorted({*range(2, 3 * dim), proven, proven + 1, 65_536, 10**7})
    bounds = [best_min_angle_bound(size, dim) for size in sizes]
    assert all(b > 0 for b in bounds)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(bounds))


def test_caps_of_half_the_bound_just_fill_the_sphere():
    """D = 8, K = 10^6, where the cap bound is the tightest: the area by a sum over the angle."""
    half = best_min_angle_bound(1_000_000, 8) / 2
    angles = torch.linspace(0, half, 20_001, dtype=torch.float64)
    share = torch.trapezoid(random_angle_density(angles, 8), angles).item()
    assert 1e6 * share == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("num_codes", "dim"), [(50, 2), (12, 3), (300, 3), (512, 64), (600, 8)])
def test_random_codes_stay_below_the_bound_and_repeat_with_their_seed(num_codes, dim):
    angle = random_min_angle(num_codes, dim, seed=3)
    assert 0 < angle < best_min_angle_bound(num_codes, dim)
    assert angle == random_min_angle(num_codes, dim, seed=3)
    assert angle != random_min_angle(num_codes, dim, seed=4)


def simulated_min_angles(num_codes, dim, draws):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(draws, num_codes, dim, generator=generator, dtype=torch.float64)
    units = codes / codes.norm(dim=2, keepdim=True)
    cosines = (units @ units.mT).diagonal_scatter(torch.full((draws, num_codes), -2.0), 0, 1, 2)
    return cosines.amax((1, 2)).clamp(-1, 1).acos()


@pytest.mark.parametrize(
    ("num_codes", "dim", "within"),
    [
        (2, 2, 0.01),
        (3, 2, 0.01),
        (8, 2, 0.01),
        (2, 3, 0.01),
        (3, 3, 0.03),
        (8, 3, 0.02),
        (3, 4, 0.015),
        (16, 4, 0.01),
        (3, 8, 0.01),
        (16, 64, 0.005),
    ],
)
def test_the_median_of_the_minimum_angle_is_that_of_many_draws(num_codes, dim, within):
    # The half of the draws that lies below is known to 0.5% (two standard errors).
    found = simulated_min_angles(num_codes, dim, 40_000).quantile(0.5).item()
    assert median_random_min_angle(num_codes, dim) == pytest.approx(found, rel=0.01 + within)


@pytest.mark.parametrize(("num_codes", "dim"), [(300, 2), (300, 3), (300, 16), (128, 64)])
def test_half_of_large_random_codebooks_have_a_larger_minimum_angle(num_codes, dim):
    median = median_random_min_angle(num_codes, dim)
    larger = simulated_min_angles(num_codes, dim, 400) > median
    assert larger.double().mean().item() == pytest.approx(0.5, abs=0.08)


def test_in_one_and_two_dimensions_the_median_is_exact():
    assert median_random_min_angle(2, 1) == median_random_min_angle(2, 7) == math.pi / 2
    assert median_random_min_angle(3, 1) == 0
    for num_codes in (3, 10, 10_000):
        angle = median_random_min_angle(num_codes, 2)
        share_of_circle = num_codes * angle / (2 * math.pi)
        assert (1 - share_of_circle) ** (num_codes - 1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("num_codes", "dim", "words"), [(1, 3, "num_codes is 1"), (4, 0, "dim is 0")]
)
def test_a_median_needs_two_codes_and_a_dimension(num_codes, dim, words):
    with pytest.raises(ValueError, match=f"^{words}; it must be a whole number from"):
        median_random_min_angle(num_codes, dim)


@pytest.mark.parametrize(
    ("points", "best"), [(TETRAHEDRON, 109.4712), (OCTAHEDRON, 90), (ICOSAHEDRON, 63.4349)]
)
def test_platonic_codebooks_reach_the_bound(points, best):
    found = describe(points)
    assert found.min_angle == degrees(best)
    assert found.min_angle_bound == pytest.approx(found.min_angle, abs=1e-6)
    assert found.mean_resultant_length == pytest.approx(0, abs=1e-6)
    assert found.effective_rank == pytest.approx(3, abs=1e-6)


@pytest.mark.parametrize(
    ("num_codes", "dim", "words"),
    [(1, 3, "num_codes is 1"), (0, 3, "num_codes is 0"), (4, 0, "dim is 0")],
)
def test_a_bound_needs_two_codes_and_a_dimension(num_codes, dim, words):
    with pytest.raises(ValueError, match=f"^{words}; it must be a whole number from"):
        best_min_angle_bound(num_codes, dim)


@pytest.mark.parametrize("dim", [2, 3, 16, 512])
def test_the_density_of_random_angles_integrates_to_one_and_fits_samples(dim):
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    density = random_angle_density(angles, dim)
    assert torch.trapezoid(density, angles).item() == pytest.approx(1, abs=1e-6)
    expected_cos2 = torch.trapezoid(density * angles.cos() ** 2, angles).item()
    assert expected_cos2 == pytest.approx(1 / dim, rel=1e-4)
    outside = torch.tensor([-0.1, math.pi + 0.1])
    assert random_angle_density(outside, dim).tolist() == [0, 0]


def test_on_a_line_random_angles_have_no_density():
    with pytest.raises(ValueError, match=r"^dim is 1; it must be a whole number from 2$"):
        random_angle_density(torch.zeros(3), 1)


@pytest.mark.parametrize("nearest_of", [1, 5])
def test_a_density_is_without_gradient(nearest_of):
    angles = torch.linspace(0, 3, 7, requires_grad=True)
    density = random_angle_density(angles, 3, nearest_of=nearest_of)
    assert not density.requires_grad
    assert density.equal(random_angle_density(angles.detach(), 3, nearest_of=nearest_of))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_density_is_worked_out_in_float64(dtype):
    angles = torch.linspace(0, math.pi, 101).to(dtype)
    for nearest_of in (1, 2**20):
        found = random_angle_density(angles, 8, nearest_of)
        assert found.dtype == torch.float64
        assert found.equal(random_angle_density(angles.double(), 8, nearest_of))
    # Float32 rounds pi up, which still counts as pi.
    ends = random_angle_density(torch.tensor([0, math.pi]), 2)
    assert ends.tolist() == pytest.approx([1 / math.pi, 1 / math.pi])


@pytest.mark.parametrize(("num_codes", "dim"), [(2, 2), (10, 3), (128, 16), (512, 64)])
def test_the_density_of_the_nearest_of_many_angles_integrates_to_one(num_codes, dim):
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    density = random_angle_density(angles, dim, nearest_of=num_codes)
    assert torch.trapezoid(density, angles).item() == pytest.approx(1, abs=1e-4)
    # Half of the nearest codes lie within the median.
    within = angles <= random_nearest_angle(num_codes, dim)
    share = torch.trapezoid(density[within], angles[within]).item()
    assert share == pytest.approx(0.5, abs=2e-3)


def test_the_density_of_the_nearest_is_the_formula_written_out():
    """K f (1 - F)^(K-1), with F summed up from f."""
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    one = random_angle_density(angles, 5)
    within = torch.cumulative_trapezoid(one, angles)
    within = torch.cat([torch.zeros(1, dtype=torch.float64), within])
    expected = 7 * one * (1 - within) ** 6
    assert torch.allclose(random_angle_density(angles, 5, nearest_of=7), expected, atol=1e-6)
    outside = torch.tensor([-0.1, math.pi + 0.1])
    assert random_angle_density(outside, 5, nearest_of=7).tolist() == [0, 0]


@pytest.mark.parametrize(("num_codes", "dim"), [(20, 3), (128, 16), (512, 64)])
def test_the_nearest_of_random_codes_is_as_far_as_the_law_says(num_codes, dim):
    latents = torch.nn.functional.normalize(normal(400, dim, seed=1), dim=1)
    codes = torch.nn.functional.normalize(normal(400, num_codes, dim, seed=2), dim=2)
    cosines = torch.einsum("nd,nkd->nk", latents, codes)
    nearest = cosines.amax(dim=1).acos().median().item()
    assert nearest == pytest.approx(random_nearest_angle(num_codes, dim), abs=0.03)


def test_the_nearest_of_one_code_is_at_a_right_angle_and_of_more_codes_nearer():
    assert random_nearest_angle(1, 64) == pytest.approx(math.pi / 2)
    assert math.degrees(random_nearest_angle(512, 64)) == pytest.approx(68.5, abs=0.1)
    found = [random_nearest_angle(count, 16) for count in (1, 10, 1000, 10**9)]
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


@pytest.mark.parametrize(
    ("num_codes", "dim", "words"),
    [(0, 3, "num_codes is 0"), (2, 1, "dim is 1")],
)
def test_the_nearest_of_codes_needs_a_code_and_two_dimensions(num_codes, dim, words):
    with pytest.raises(ValueError, match=words):
        random_nearest_angle(num_codes, dim)


def test_the_nearest_of_no_angle_is_refused():
    with pytest.raises(ValueError, match="nearest_of is 0"):
        random_angle_density(torch.zeros(3), 3, nearest_of=0)


# spread


@given(codebooks())
@settings(max_examples=25, deadline=None)
def test_uniformity_equals_a_plain_loop(points):
    units = points.double() / points.double().norm(dim=1, keepdim=True)
    kernel = []
    for x, y in permutations(units, 2):
        kernel.append(math.exp(-2 * ((x - y) ** 2).sum().item()))
    assert uniformity(points) == pytest.approx(math.log(sum(kernel) / len(kernel)), abs=1e-9)


def test_uniformity_is_zero_for_one_direction_and_minus_eight_for_two_opposite_ones():
    same = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    opposite = torch.tensor([[1.0, 1.0], [-2.0, -2.0]])
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert uniformity(opposite) == pytest.approx(-8, abs=1e-9)


def test_uniformity_counts_every_block():
    points = torch.randn(2500, 2)  # two blocks
    distances = pdist(normalize(points.double()))
    kernel = (-2 * distances**2).exp()
    assert uniformity(points) == pytest.approx(kernel.mean().log().item(), abs=1e-9)


def test_alignment_looks_at_directions_only():
    latents = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    codes = torch.tensor([[0.1, 0.0], [3.0, 0.0], [7.0, 0.0]])
    assert alignment(latents, codes) == pytest.approx((0 + 2 + 4) / 3)


def test_effective_rank_counts_directions_of_equal_weight():
    assert effective_rank(torch.eye(5)[:, :4]) == pytest.approx(4)
    assert effective_rank(torch.ones(6, 3)) == pytest.approx(1, abs=1e-5)
    shares = np.array([3, 1]) / 4
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)
    assert effective_rank(torch.zeros(3, 2)) == 0.0


def test_mean_resultant_length_leaves_zero_vectors_out():
    right_angle = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    with_zero = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    assert mean_resultant_length(right_angle) == pytest.approx(math.sqrt(0.5))
    assert mean_resultant_length(with_zero) == pytest.approx(1)
    assert mean_resultant_length(torch.zeros(2, 2)) == 0.0


# usage


def test_usage_counts_any_shape_of_indices():
    assert usage_counts(torch.tensor([[[0, 2], [2, 2]]]), 4).tolist() == [1, 0, 3, 0]
    assert usage_counts(torch.zeros(0, 7, 7, dtype=torch.int64), 3).tolist() == [0, 0, 0]


@given(indices_of_any_dtype(9), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_indices_of_any_integer_dtype_count_and_measure_as_int64_does(indices, seed):
    codebook = normal(9, 4, seed=seed)
    latents = normal(len(indices), 4, seed=seed + 1)
    plain = indices.to(torch.int64)
    assert torch.equal(usage_counts(indices, 9), usage_counts(plain, 9))
    assert describe(codebook, indices, latents) == describe(codebook, plain, latents)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16, torch.complex64])
def test_what_is_not_an_integer_is_no_index(dtype, unchecked):
    indices = torch.ones(3).to(dtype)
    with pytest.raises(ValueError, match=f"^indices have dtype {dtype}; it must be an integer"):
        usage_counts(indices, 4)
    with pytest.raises(ValueError, match=f"^indices have dtype {dtype}; it must be an integer"):
        describe(torch.randn(4, 2), indices, torch.randn(3, 2))


@pytest.mark.parametrize("bad", [[0, 4], [-1, 2]])
def test_indices_out_of_range_are_named(bad):
    with pytest.raises(
        ValueError, match=f"indices reach from {bad[0]} to {bad[1]}; they must be from 0 to 3"
    ):
        usage_counts(torch.tensor(bad), 4)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_perplexity_lies_between_one_and_its_ceiling(counts):
    found = perplexity(torch.tensor(counts))
    tokens = sum(counts)
    entropy = -sum(n / tokens * math.log(n / tokens) for n in counts if n)
    assert found == pytest.approx(math.exp(entropy) if tokens else 0.0, rel=1e-9)
    assert found >= min(tokens, 1) * (1 - 1e-9)
    assert found <= perplexity_ceiling(len(counts), tokens) * (1 + 1e-9)


def test_perplexity_of_even_usage_is_the_number_of_codes():
    assert perplexity(torch.full((512,), 7)) == pytest.approx(512)
    assert perplexity(torch.tensor([9.0, 0.0])) == 1.0


BROKEN_COUNTS = [
    ([1.0, math.nan], "1 of 2 values of the counts are NaN or infinite"),
    ([math.inf, 1.0], "1 of 2 values of the counts are NaN or infinite"),
    ([3.0, -1.0], "counts reach down to -1; they must be at least 0"),
]


@pytest.mark.parametrize(("counts", "message"), BROKEN_COUNTS)
@pytest.mark.parametrize(
    "measure",
    [
        perplexity,
        lambda counts: norm_usage_correlation(torch.eye(2), counts),
        lambda counts: growth_usage_correlation(torch.ones(2), torch.ones(2), counts),
    ],
)
def test_counts_that_count_nothing_are_refused(measure, counts, message):
    with pytest.raises(ValueError, match=message):
        measure(torch.tensor(counts))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.bfloat16])
def test_counts_may_have_any_dtype(dtype):
    counts = torch.tensor([0, 3, 1, 7])
    codebook = torch.randn(4, 3)
    after = norms(codebook)
    given = counts.to(dtype)
    assert perplexity(given) == perplexity(counts)
    assert norm_usage_correlation(codebook, given) == norm_usage_correlation(codebook, counts)
    expected = growth_usage_correlation(torch.ones(4), after, counts)
    assert growth_usage_correlation(torch.ones(4), after, given) == expected


def test_norm_usage_correlation_is_a_rank_correlation():
    codebook = torch.diag(torch.tensor([1.0, 2.0, 50.0, 51.0]))
    assert norm_usage_correlation(codebook, torch.tensor([0, 1, 2, 10_000])) == pytest.approx(1)
    assert norm_usage_correlation(codebook, torch.tensor([9, 8, 7, 0])) == pytest.approx(-1)
    # ranks 1 2 3 4 against 1.5 1.5 3.5 3.5
    ties = torch.tensor([1, 1, 5, 5])
    assert norm_usage_correlation(codebook, ties) == pytest.approx(2 / math.sqrt(5))


@given(codebooks(), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_norm_usage_correlation_equals_ranks_by_pandas(codebook, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 6, (len(codebook),), generator=generator)
    lengths = norms(codebook)
    table = pd.DataFrame({"norm": (lengths / lengths.max() * 1e6).round(), "usage": counts})
    expected = table.rank().corr().fillna(0).loc["norm", "usage"]
    assert norm_usage_correlation(codebook, counts) == pytest.approx(expected, abs=1e-12)


def test_norm_usage_correlation_is_zero_where_it_is_undefined():
    codes = normalize(torch.randn(40, 8))  # equal norms up to rounding
    assert norms(codes).unique().numel() > 1
    assert norm_usage_correlation(codes, torch.arange(40)) == 0.0
    assert norm_usage_correlation(torch.randn(40, 8), torch.full((40,), 3)) == 0.0
    assert norm_usage_correlation(torch.zeros(3, 2), torch.arange(3)) == 0.0
    assert norm_usage_correlation(torch.randn(1, 2), torch.tensor([4])) == 0.0


def test_growth_usage_correlation_is_a_rank_correlation_and_zero_where_growth_is_rounding():
    before = torch.tensor([1.0, 2.0, 3.0])
    counts = torch.tensor([1, 5, 9])
    after = before + 0.1 * counts
    assert growth_usage_correlation(before, after, counts) == pytest.approx(1)
    assert growth_usage_correlation(before, before - 0.1 * counts, counts) == pytest.approx(-1)
    assert growth_usage_correlation(before, before * (1 + 1e-8 * counts), counts) == 0
    assert growth_usage_correlation(before, after, torch.ones(3)) == 0


def test_growth_usage_correlation_needs_three_codes_in_use():
    before = torch.ones(3)
    counts = torch.tensor([0, 5, 9])
    assert math.isnan(growth_usage_correlation(before, before + counts, counts))


def test_growth_that_does_not_depend_on_usage_has_no_correlation_however_many_codes_are_unused():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4000, dtype=torch.long)
    counts[:800] = torch.randint(1, 1000, (800,), generator=generator)
    growth = torch.zeros(4000)
    growth[:800] = torch.rand(800, generator=generator)
    after = 1 + growth
    found = growth_usage_correlation(torch.ones(4000), after, counts)
    assert abs(found) < 0.1  # 1 / sqrt(800) is 0.035
    assert norm_usage_correlation(after[:, None], counts) > 0.8  # which counts the unused


def test_counts_of_another_codebook_are_refused(unchecked):
    with pytest.raises(ValueError, match="each of 4 codes, got 3"):
        norm_usage_correlation(torch.randn(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match="each of 4 codes, got 3"):
        growth_usage_correlation(torch.ones(4), torch.ones(4), torch.arange(3))


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (
            lambda: alignment(torch.ones(4, 2), torch.ones(1, 2)),
            r"latents .*\(4, 2\) and codes \(1",
        ),
        (lambda: quantization_error(torch.ones(1, 2), torch.ones(4, 2)), r"\(1, 2\) and codes \(4"),
        (
            lambda: growth_usage_correlation(torch.ones(1), torch.ones(4), torch.arange(4)),
            r"before has the shape \(1,\) and after \(4,\); the shapes must be the same",
        ),
        (lambda: geometry.angles_to(torch.ones(4, 3), torch.ones(1)), r"\(3,\) and direction \(1,"),
        (
            lambda: geometry.slerp(torch.ones(2), torch.ones(3), torch.ones(1)),
            r"start has the shape \(2,\) and end \(3,\)",
        ),
    ],
)
def test_two_tensors_of_different_shapes_are_refused(measure, words, unchecked):
    with pytest.raises(ValueError, match=words):
        measure()


# errors of the latents


def test_quantization_error_equals_a_plain_loop():
    latents = torch.randn(30, 5) * 3
    codes = torch.randn(30, 5)
    x = latents.double().numpy()
    y = codes.double().numpy()
    error = ((x - y) ** 2).mean()
    variance = ((x - x.mean(axis=0)) ** 2).mean()
    angles = [plain_angle(a, b) for a, b in zip(x, y, strict=True)]
    found = quantization_error(latents, codes)
    assert found.squared == pytest.approx(error)
    assert found.relative == pytest.approx(error / variance)
    assert found.angle == pytest.approx(np.mean(angles))


def test_quantization_error_of_perfect_equal_and_zero_latents():
    latents = torch.randn(6, 3)
    assert quantization_error(latents, latents) == (0.0, 0.0, 0.0)
    assert quantization_error(torch.ones(4, 2), torch.zeros(4, 2)) == (1.0, math.inf, math.pi / 2)


# describe


def every_number(found):
    return [value for value in found.table()["value"] if value is not None]


def test_describe_gathers_what_the_functions_measure():
    codebook = torch.randn(16, 4)
    indices = torch.randint(0, 12, (5, 3, 3))
    codes = codebook[indices.flatten()]
    latents = codes + 0.1 * torch.randn(45, 4)
    counts = usage_counts(indices, 16)
    used = int((counts > 0).sum())
    error = quantization_error(latents, codes)

    found = describe(codebook, indices, latents)
    assert dataclasses.asdict(found) == {
        "num_codes": 16,
        "dim": 4,
        "zero_codes": 0,
        "norm_min": norms(codebook).min().item(),
        "norm_mean": norms(codebook).mean().item(),
        "norm_max": norms(codebook).max().item(),
        "effective_rank": effective_rank(codebook),
        "mean_resultant_length": mean_resultant_length(codebook),
        "min_angle": min_angle(codebook),
        "min_angle_bound": best_min_angle_bound(16, 4),
        "min_angle_random": median_random_min_angle(16, 4),
        "mean_nearest_angle": nearest_angles(codebook).mean().item(),
        "uniformity": uniformity(codebook),
        "tokens": 45,
        "codes_used": used,
        "dead_codes": 16 - used,
        "usage": used / 16,
        "perplexity": perplexity(counts),
        "perplexity_ceiling": 16,
        "norm_usage_correlation": norm_usage_correlation(codebook, counts),
        "quantization_error": error.squared,
        "relative_error": error.relative,
        "angular_error": error.angle,
        "alignment": alignment(latents, codes),
    }
    assert all(math.isfinite(value) for value in every_number(found))


def test_describe_leaves_out_what_it_was_not_given():
    codebook = torch.randn(5, 3)
    found = describe(codebook)
    assert found.tokens is found.usage is found.perplexity is found.quantization_error is None

    found = describe(codebook, torch.tensor([0, 1]))
    assert found.perplexity == pytest.approx(2)
    assert found.perplexity_ceiling == 2
    assert found.quantization_error is found.alignment is None


def test_describe_of_one_code_has_no_pairs_and_no_nan():
    latents = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = describe(torch.tensor([[3.0, 4.0]]), torch.tensor([0, 0]), latents)
    assert found.min_angle is found.min_angle_bound is None
    assert found.uniformity is found.mean_nearest_angle is None
    assert found.norm_mean == 5
    assert found.perplexity == 1
    assert found.norm_usage_correlation == 0
    assert not any(math.isnan(value) for value in every_number(found))


OF_DIRECTIONS = (
    "min_angle",
    "min_angle_bound",
    "mean_nearest_angle",
    "uniformity",
    "mean_resultant_length",
)


def test_codes_of_norm_zero_are_counted_and_have_no_direction():
    codebook = torch.cat([torch.zeros(2, 3), TETRAHEDRON])
    found = describe(codebook)
    without = describe(TETRAHEDRON)
    assert (found.zero_codes, found.num_codes, found.norm_min) == (2, 6, 0)
    for name in OF_DIRECTIONS:
        assert getattr(found, name) == pytest.approx(getattr(without, name), abs=1e-7), name
    assert pairwise_angles(codebook)[:9] == pytest.approx(math.pi / 2)  # of both with every other
    assert nearest_angles(codebook)[:2] == pytest.approx(math.pi / 2)
    assert uniformity(codebook) == pytest.approx(uniformity(TETRAHEDRON), abs=1e-9)
    assert min_angle(codebook) == pytest.approx(math.acos(-1 / 3))


def test_describe_of_codes_that_are_all_zero():
    found = describe(torch.zeros(3, 2), torch.tensor([0]), torch.ones(1, 2))
    assert found.min_angle is None
    assert found.effective_rank == 0
    assert not any(math.isnan(value) for value in every_number(found))


@pytest.mark.parametrize("dim", [1, 2])
def test_describe_works_on_a_line_and_in_the_plane(dim):
    found = describe(torch.randn(6, dim), torch.arange(6), torch.randn(6, dim))
    assert 0 <= found.min_angle <= found.min_angle_bound + 1e-7
    assert not any(math.isnan(value) for value in every_number(found))


def test_describe_without_any_token():
    found = describe(torch.randn(4, 2), torch.zeros(0, dtype=torch.int64))
    assert (found.tokens, found.dead_codes) == (0, 4)
    assert (found.perplexity, found.perplexity_ceiling) == (0.0, 0)


def test_the_table_holds_degrees_and_the_text_every_measure():
    found = describe(OCTAHEDRON, torch.arange(6))
    table = found.table().set_index("name")
    assert list(table.columns) == ["value", "unit"]
    assert table.loc["min_angle", "value"] == pytest.approx(90)
    assert table.loc["min_angle", "unit"] == "degrees"
    assert table.loc["tokens", "value"] == 6
    assert table.loc["codes_used", "unit"] == "codes"
    assert table.loc["alignment", "value"] is None
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == list(table.index)
    assert "90 degrees" in str(found)
    assert lines[-1].endswith("-")
    assert "nan" not in str(found).lower()


def test_the_text_needs_no_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "min_angle " in str(describe(OCTAHEDRON))
    with pytest.raises(ModuleNotFoundError, match="pandas is not installed"):
        describe(OCTAHEDRON).table()


@pytest.mark.parametrize("name", ["num_codes", "min_angle"])
def test_the_description_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        setattr(describe(OCTAHEDRON), name, 1)


def test_describe_leaves_its_inputs_alone():
    codebook = torch.nn.Parameter(torch.randn(6, 3))
    before = codebook.detach().clone()
    describe(codebook, torch.arange(6), torch.randn(6, 3, requires_grad=True))
    assert torch.equal(codebook, before)
    assert codebook.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_codebooks_are_measured_in_float64(dtype):
    codebook = torch.randn(10, 4).to(dtype)
    assert describe(codebook) == describe(codebook.double())


@pytest.mark.parametrize(
    "measure",
    [
        norms,
        pairwise_angles,
        nearest_angles,
        min_angle,
        uniformity,
        describe,
        effective_rank,
        mean_resultant_length,
    ],
)
def test_codes_that_are_not_finite_are_counted_in_the_error(measure):
    codebook = torch.randn(5, 3)
    codebook[1, :2] = math.nan
    codebook[4, 2] = math.inf
    with pytest.raises(ValueError, match="2 of 5 vectors hold NaN or infinity"):
        measure(codebook)


@pytest.mark.parametrize("measure", [norms, min_angle, uniformity, describe, effective_rank])
def test_an_empty_codebook_is_refused(measure):
    with pytest.raises(ValueError, match=r"got shape \(0, 3\)"):
        measure(torch.zeros(0, 3))


@pytest.mark.parametrize("measure", [pairwise_angles, nearest_angles, min_angle, uniformity])
def test_pairs_need_two_codes(measure):
    with pytest.raises(ValueError, match="need 2 or more nonzero vectors as rows, got shape"):
        measure(torch.ones(1, 3))


def test_a_codebook_has_two_axes(unchecked):
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        describe(torch.ones(3))


def test_latents_without_indices_are_not_ignored():
    with pytest.raises(ValueError, match=r"^latents are there but indices are None"):
        describe(torch.randn(8, 3), latents=torch.randn(2, 3))


def test_latents_must_match_the_indices(unchecked):
    with pytest.raises(ValueError, match=r"shape \(4, 3\), got \(5, 3\)"):
        describe(torch.randn(8, 3), torch.arange(4).view(1, 2, 2), torch.randn(5, 3))
    with pytest.raises(ValueError, match="indices reach from 0 to 8; they must be from 0 to 7"):
        describe(torch.randn(8, 3), torch.arange(9))


@pytest.mark.parametrize("measure", [nearest_angles, min_angle, uniformity, describe])
def test_the_matrix_of_all_pairs_is_never_held_whole(measure):
    codebook = torch.randn(3000, 2)
    with LargestTensor() as largest:
        measure(codebook)
    assert 3000 < largest.entries <= 2**20


def test_all_pairs_are_held_once_and_not_more():
    with LargestTensor() as largest:
        pairwise_angles(torch.randn(3000, 2))
    assert largest.entries == 3000 * 2999 // 2


def test_more_pairs_than_memory_holds_are_refused_before_they_are_measured():
    codebook = torch.ones(65_536, 1)
    with pytest.raises(
        ValueError, match=r"^65,536 codes have 2,147,450,880 pairs, .* 16 GiB; pass"
    ):
        pairwise_angles(codebook)


@pytest.mark.parametrize("num_codes", [2048, 2049, 3100])
def test_measures_of_many_blocks_are_those_of_one(num_codes, monkeypatch):
    codebook = normal(num_codes, 5, seed=num_codes)
    nearest = nearest_angles(codebook)
    even = uniformity(codebook)
    monkeypatch.setattr(geometry, "SIDE", 10_000)
    torch.testing.assert_close(nearest, nearest_angles(codebook), atol=1e-7, rtol=0)
    assert even == pytest.approx(uniformity(codebook), abs=1e-12)
    assert min_angle(codebook) == pytest.approx(nearest.min().item(), abs=1e-12)


@pytest.mark.parametrize("tiny", [1e-3, 1e-6])
def test_the_smallest_angle_is_found_among_thousands_of_small_ones(tiny):
    """Codes on an arc, 2 tiny apart; two in different blocks are but tiny apart."""
    turns = 2 * tiny * torch.arange(1500, dtype=torch.float64)
    turns[1300] = turns[7] + tiny
    codebook = torch.stack([turns.cos(), turns.sin()], dim=1)
    assert min_angle(codebook) == pytest.approx(tiny, rel=1e-6)


def test_the_smallest_angle_does_not_depend_on_the_precision_of_products():
    codebook = normal(1500, 64, seed=3)
    exact = min_angle(codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert min_angle(codebook) == exact


def test_describe_shows_a_bar_while_it_measures_many_codes(monkeypatch, capsys):
    monkeypatch.setattr(geometry, "SIDE", 8)
    monkeypatch.setattr(geometry.tqdm, "monitor_interval", 0)
    describe(torch.randn(128, 3))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(geometry, "tqdm", partial(geometry.tqdm, mininterval=0))
    monkeypatch.setattr(geometry, "MOMENT", 0)
    describe(torch.randn(129, 3))
    assert "pairs of 129 codes" in capsys.readouterr().err


# One vector against many, and the way between two


@given(codebooks())
@settings(max_examples=25, deadline=None)
def test_angles_to_a_vector_are_those_of_a_plain_loop(codebook):
    expected = plain_angles(codebook)[1]
    assert np.allclose(geometry.angles_to(codebook, codebook[1]), expected, atol=1e-6)


def test_angles_to_a_vector_keep_their_digits_and_count_zero_as_a_right_angle():
    tiny = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    direction = torch.tensor([1.0, 0], dtype=torch.float64)
    found = geometry.angles_to(torch.stack([tiny, -3 * tiny, 0 * tiny]), direction)
    expected = [1e-9, math.pi - 1e-9, math.pi / 2]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def plain_slerp(start, end, share):
    """Shoemake's formula for the directions, in float64; the norm is linear."""
    start_length = math.sqrt(start @ start)
    end_length = math.sqrt(end @ end)
    angle = plain_angle(start, end)
    first = math.sin((1 - share) * angle) / math.sin(angle) * start / start_length
    last = math.sin(share * angle) / math.sin(angle) * end / end_length
    return ((1 - share) * start_length + share * end_length) * (first + last)


@given(st.integers(2, 20), st.integers(0, 10_000), st.sampled_from([1e-12, 1.0, 1e12]))
@settings(max_examples=50, deadline=None)
def test_slerp_is_shoemakes_formula_with_a_linear_norm(dim, seed, scale):
    start, end = scale * normal(2, dim, seed=seed).double()
    shares = torch.linspace(0, 1, 5).double()
    path = geometry.slerp(start, end, shares)
    expected = [plain_slerp(start.numpy(), end.numpy(), share) for share in shares.tolist()]
    assert np.allclose(path, np.array(expected), rtol=1e-5, atol=1e-6 * scale)

    turn = geometry.angles_to(end[None], start)
    assert torch.allclose(geometry.angles_to(path, start), shares * turn, atol=1e-9)
    ends = torch.stack([start, end])
    assert torch.allclose(path[[0, -1]], ends, rtol=1e-9, atol=1e-12 * scale)


@given(st.integers(2, 9), st.integers(0, 1000), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_slerp_between_opposite_vectors_takes_one_great_circle_towards_the_least_axis(
    dim, seed, length
):
    start = normal(dim, seed=seed, dtype=torch.float64)
    shares = torch.linspace(0, 1, 7).double()
    path = geometry.slerp(start, -length * start, shares)
    assert torch.allclose(geometry.angles_to(path, start), math.pi * shares, atol=1e-9)

    middle = path[3]
    least = start.abs().argmin()
    axis = torch.eye(dim).double()[least]
    assert middle[least] > 0
    assert geometry.angles_to(middle[None], start).item() == pytest.approx(math.pi / 2)
    assert torch.linalg.matrix_rank(torch.stack([start, middle, axis]), rtol=1e-9) <= 2


def test_slerp_in_one_dimension_flips():
    shares = torch.tensor([0.0, 0.25, 0.75, 1.0])
    path = geometry.slerp(torch.tensor([2.0]), torch.tensor([-4.0]), shares)
    assert path[:, 0].tolist() == [2, 2.5, -3.5, -4]
    halfway = geometry.slerp(torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([0.5]))
    assert halfway.tolist() == [[1]]


def test_in_slerp_a_zero_vector_has_the_others_direction():
    shares = torch.tensor([0.0, 0.25, 0.75, 1.0])
    grown = geometry.slerp(torch.zeros(2), torch.tensor([0.0, 4.0]), shares)
    assert grown.tolist() == [[0, 0], [0, 1], [0, 3], [0, 4]]
    shrunk = geometry.slerp(torch.tensor([0.0, 4.0]), torch.zeros(2), shares)
    assert shrunk.tolist() == [[0, 4], [0, 3], [0, 1], [0, 0]]
    assert not geometry.slerp(torch.zeros(3), torch.zeros(3), shares).any()


def test_slerp_of_equal_vectors_stays_and_of_near_ones_keeps_its_digits():
    start = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    shares = torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(geometry.slerp(start, start, shares), start.expand(3, 3))
    near = torch.tensor([1.0, 1e-8, 0], dtype=torch.float64)
    assert geometry.slerp(start, near, shares)[1, 1].item() == pytest.approx(5e-9, rel=1e-7)


def test_slerp_refuses_nan():
    with pytest.raises(ValueError, match="1 of 2 vectors hold NaN or infinity"):
        geometry.slerp(torch.tensor([1.0, torch.nan]), torch.ones(2), torch.ones(1))
    with pytest.raises(ValueError, match="1 of 1 values of the shares are NaN or infinite"):
        geometry.slerp(torch.ones(2), torch.eye(2)[0], torch.tensor([torch.nan]))


def test_the_density_and_the_growth_refuse_nan():
    with pytest.raises(ValueError, match="1 of 2 values of the angles are NaN or infinite"):
        random_angle_density(torch.tensor([1.0, torch.nan]), 3)
    fine = torch.ones(2)
    broken = torch.tensor([1.0, torch.nan])
    with pytest.raises(ValueError, match="1 of 2 values of the norms before are NaN"):
        growth_usage_correlation(broken, fine, fine)
    with pytest.raises(ValueError, match="1 of 2 values of the norms after are NaN"):
        growth_usage_correlation(fine, broken, fine)


def test_the_smallest_angle_is_found_among_those_that_float32_cannot_tell_apart():
    for turn in torch.linspace(0.1, 1.5, 15, dtype=torch.float64):
        turns = 2 * math.pi / 1500 * torch.arange(1500, dtype=torch.float64) + turn
        turns[1] = turns[0] + 1e-4
        turns[1300] = turns[1299] + 1e-5
        codebook = torch.stack([turns.cos(), turns.sin()], dim=1)
        assert min_angle(codebook) == pytest.approx(1e-5, rel=1e-6)


def test_two_codes_have_an_angle():
    found = describe(torch.eye(2))
    assert found.min_angle == pytest.approx(math.pi / 2)
    assert found.mean_nearest_angle == pytest.approx(math.pi / 2)
    assert found.uniformity == pytest.approx(-4)


def test_the_nearest_of_very_many_codes_keeps_its_digits():
    # In three dimensions a cap of angle phi is a share of sin^2(phi / 2).
    expected = 2 * math.asin(math.sqrt(math.log(2) / 10**15))
    assert random_nearest_angle(10**15, 3) == pytest.approx(expected, rel=1e-6)
