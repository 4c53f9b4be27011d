import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from arcvq.analysis import sample_quality
from arcvq.analysis.sample_quality import (
    NearestTraining,
    PixelFeatures,
    as_uint8,
    describe_samples,
    frechet_distance,
    inception_fid,
    label_agreement,
    nearest_training,
    precision_recall,
    usage_distance,
)
from arcvq.images import to_float
from tests.dtypes import INTEGER_DTYPES


def points(count, dim=3, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) + shift


def pictures(count, seed=0, channels=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


class Means:
    """A classifier whose features are the means of rows, and whose label is the brighter half."""

    accuracy = 0.75

    def features(self, images):
        return to_float(as_uint8(images)).mean(dim=(1, 3))

    def predict(self, images):
        bright = self.features(images)
        return (bright[:, :4].sum(1) > bright[:, 4:].sum(1)).long()


def root(matrix):
    """The symmetric square root of a positive matrix, by its eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T


def plain_frechet(a, b):
    a = a.double().numpy()
    b = b.double().numpy()
    s = np.atleast_2d(np.cov(a, rowvar=False))
    t = np.atleast_2d(np.cov(b, rowvar=False))
    cross = root(root(s) @ t @ root(s))
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return means + np.trace(s) + np.trace(t) - 2 * np.trace(cross)


def plain_share_inside(queries, centers, neighbors):
    """The share of queries within some center's ball, by loops."""
    radii = []
    for center in centers:
        distances = sorted(math.dist(center, other) for other in centers)
        radii.append(distances[neighbors])  # the first is that to the center itself
    inside = 0
    for query in queries:
        reached = zip(centers, radii, strict=True)
        inside += any(math.dist(query, center) <= radius for center, radius in reached)
    return inside / len(queries)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=40, deadline=None)
def test_the_frechet_distance_equals_its_formula_with_matrix_roots(n, m, dim, scale):
    a = points(n, dim, 1) * scale
    b = (points(m, dim, 2) * 1.5 + 0.3) * scale
    found = frechet_distance(a, b)
    assert found == pytest.approx(plain_frechet(a, b), rel=1e-5, abs=1e-5 * scale**2)
    assert found == pytest.approx(frechet_distance(b, a), abs=1e-12 * scale**2)


def test_equal_sets_are_at_distance_zero_also_with_a_singular_covariance():
    flat = points(50, 5)
    flat[:, 2:] = flat[:, :1]
    for a in (points(50, 5), points(3, 5), flat, torch.ones(4, 5)):
        assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-13)


def test_a_shift_alone_costs_its_squared_length():
    a = points(30, 4)
    shift = torch.tensor([1.0, -2.0, 0.0, 2.0])
    assert frechet_distance(a, a + shift) == pytest.approx(9, abs=1e-12)
    # Far from the origin as well.
    assert frechet_distance(a + 1e6, a + 1e6 + 2) == pytest.approx(16, rel=1e-9)


def test_scaled_axes_cost_the_squared_difference_of_their_deviations():
    white = points(400, 3)
    white = white - white.mean(0)
    factor = torch.linalg.cholesky(white.T.cov())
    white = white @ torch.linalg.inv(factor).T  # unit covariance, exactly
    s = torch.tensor([1.0, 2.0, 0.0]).double()
    t = torch.tensor([4.0, 0.5, 0.0]).double()
    expected = ((s - t) ** 2).sum().item()
    assert frechet_distance(white * s, white * t) == pytest.approx(expected, abs=1e-10)


def test_few_samples_alone_make_the_frechet_distance_larger():
    few = frechet_distance(points(20, 8, 1), points(20, 8, 2))
    many = frechet_distance(points(2000, 8, 1), points(2000, 8, 2))
    assert few > 10 * many > 0


@given(
    st.integers(3, 25), st.integers(3, 25), st.integers(1, 4), st.integers(1, 2), st.floats(0, 2)
)
@settings(max_examples=40, deadline=None)
def test_precision_and_recall_equal_plain_loops(n, m, dim, neighbors, shift):
    real = points(n, dim, 1)
    generated = points(m, dim, 2, shift)
    expected = (
        plain_share_inside(generated.tolist(), real.tolist(), neighbors),
        plain_share_inside(real.tolist(), generated.tolist(), neighbors),
    )
    assert precision_recall(real, generated, neighbors) == pytest.approx(expected, abs=1e-12)


def test_precision_and_recall_tell_quality_from_variety():
    real = points(200, 2, 1)
    assert precision_recall(real, real.clone()) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    narrow = real[:1] + 1e-3 * points(200, 2, 2)  # good, and all alike
    precision, recall = precision_recall(real, narrow)
    assert precision == 1
    assert recall < 0.05
    # All there is, and three times as much that is not.
    wide = torch.cat([real, points(600, 2, 3, 50)])
    assert precision_recall(real, wide) == (0.25, 1)


def test_copies_of_a_point_that_occurs_many_times_count_as_inside():
    many = torch.tensor([[0.1, 0.7]]).repeat(6, 1) * 1e3
    assert precision_recall(many, many.clone()) == (1, 1)


def test_blocks_change_nothing(monkeypatch):
    a = points(100, 4, 1)
    b = points(90, 4, 2, 0.5)
    whole = precision_recall(a, b)
    near = nearest_training(a, b, points(80, 4, 3))
    split = torch.Tensor.split
    monkeypatch.setattr(torch.Tensor, "split", lambda self, size: split(self, 7))
    assert precision_recall(a, b) == whole
    assert torch.equal(nearest_training(a, b, points(80, 4, 3)).indices, near.indices)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 30), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_nearest_training_point_is_the_one_that_a_loop_finds(n, m, count, dim):
    generated = points(n, dim, 1)
    held_out = points(m, dim, 2)
    train = points(count, dim, 3)
    found = nearest_training(generated, held_out, train)
    for i, point in enumerate(generated.tolist()):
        distances = [math.dist(point, other) for other in train.tolist()]
        assert found.indices[i] == int(np.argmin(distances))
        assert found.distances[i].item() == pytest.approx(min(distances), abs=1e-12)
    for i, point in enumerate(held_out.tolist()):
        nearest = min(math.dist(point, other) for other in train.tolist())
        assert found.held_out[i].item() == pytest.approx(nearest, abs=1e-12)

    pairs = itertools.product(found.distances.tolist(), found.held_out.tolist())
    wins = [(own < held) + (own == held) / 2 for own, held in pairs]
    ratio = np.median(found.distances) / np.median(found.held_out)
    copies = np.mean(found.distances.numpy() < np.quantile(found.held_out, 0.01))
    assert found.nearer == pytest.approx(np.mean(wins), abs=1e-12)
    assert found.median_ratio == pytest.approx(ratio)
    assert found.near_copies == pytest.approx(copies)


def test_copies_of_training_data_are_told_from_new_samples():
    train = points(2000, 4, 1)
    held_out = points(1000, 4, 2)
    copies = nearest_training(train[100:300], held_out, train)
    assert (copies.median_ratio, copies.nearer, copies.near_copies) == (0, 1, 1)
    some_known = torch.cat([held_out, train[:20]])
    assert nearest_training(train[:50], some_known, train).near_copies == 1
    assert torch.equal(copies.indices, torch.arange(100, 300))
    assert not copies.distances.any()
    new = nearest_training(points(1000, 4, 3), held_out, train)
    assert new.median_ratio == pytest.approx(1, abs=0.1)
    assert new.nearer == pytest.approx(0.5, abs=0.04)
    assert new.near_copies == pytest.approx(0.01, abs=0.01)
    half = nearest_training(torch.cat([train[:500], points(500, 4, 3)]), held_out, train)
    assert half.near_copies == pytest.approx(0.5, abs=0.02), "the share of copies"


@pytest.mark.parametrize(("held_out", "expected"), [(5, 0.173), (20, 0.057), (500, 0.012)])
def test_new_samples_seem_near_copies_the_more_often_the_fewer_points_are_held_out(
    held_out, expected
):
    assert expected == pytest.approx((1 + 0.01 * (held_out - 1)) / (held_out + 1), abs=5e-4)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(400):
        # New samples and held-out data have distances of one distribution.
        distances, others = torch.randn(2, 500, 8, generator=generator).norm(dim=2).double()
        found = NearestTraining(distances, others[:held_out], torch.zeros(500).long())
        shares.append(found.near_copies)
    assert np.mean(shares) == pytest.approx(expected, rel=0.12)


def test_ties_count_half():
    equal = NearestTraining(torch.ones(3).double(), torch.ones(5).double(), torch.zeros(3).long())
    assert equal.nearer == 0.5
    assert equal.near_copies == 0
    assert equal.median_ratio == 1


def test_label_agreement_is_the_share_read_as_asked(unchecked):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    images[:3, :, :4] = 200  # three are brighter above
    assert label_agreement(Means(), images, torch.ones(4).long()) == 0.75
    assert label_agreement(Means(), images, torch.tensor([1, 1, 0, 0])) == 0.75
    with pytest.raises(ValueError, match="one number for each of 4 images, got 3"):
        label_agreement(Means(), images, torch.ones(3).long())
    for dtype in INTEGER_DTYPES:
        assert label_agreement(Means(), images, torch.ones(4).to(dtype)) == 0.75, dtype
    with pytest.raises(ValueError, match=r"labels have dtype torch.bool; it must be an integer"):
        label_agreement(Means(), images, torch.ones(4).bool())


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_usage_distance_equals_sums_over_codes(made, seen):
    found = usage_distance(torch.tensor(made), torch.tensor(seen).view(1, -1), 6)
    total = 0.0
    for code in range(6):
        total += abs(made.count(code) / len(made) - seen.count(code) / len(seen))
    assert found == pytest.approx(total / 2, abs=1e-12)


def test_usage_distance_is_zero_for_equal_shares_and_one_without_a_common_code():
    a = torch.tensor([0, 1, 1])
    assert usage_distance(a, a.repeat(4), 4) == 0
    assert usage_distance(a, a + 2, 4) == 1
    for dtype in INTEGER_DTYPES:
        assert usage_distance(a.to(dtype), (a + 1).to(dtype), 4) == pytest.approx(2 / 3), dtype
    with pytest.raises(ValueError, match="on both sides, got 0 generated and 3 of data"):
        usage_distance(a[:0], a, 4)
    with pytest.raises(ValueError, match="indices reach from 0 to 4; they must be from 0 to 3"):
        usage_distance(torch.tensor([0, 4]), a, 4)


def test_the_table_holds_what_the_measures_give_and_names_the_classifier():
    real = pictures(30, 1)
    generated = pictures(25, 2) // 2
    train = pictures(40, 3)
    labels = torch.ones(25).long()
    table = describe_samples(Means(), real=real, generated=generated, train=train, labels=labels)
    features = [Means().features(images) for images in (generated, real, train)]
    pixels = [images.flatten(1).double() for images in (generated, real, train)]
    near = nearest_training(*features)
    pixel_near = nearest_training(*pixels)
    precision, recall = precision_recall(features[1], features[0])
    expected = {
        "frechet_distance": frechet_distance(features[1], features[0]),
        "precision": precision,
        "recall": recall,
        "median_ratio": near.median_ratio,
        "nearer": near.nearer,
        "near_copies": near.near_copies,
        "pixel_median_ratio": pixel_near.median_ratio,
        "pixel_nearer": pixel_near.nearer,
        "pixel_near_copies": pixel_near.near_copies,
        "label_agreement": label_agreement(Means(), generated, labels),
    }
    wanted = pd.Series(expected, name="classifier features (accuracy 75.0%)")
    pd.testing.assert_series_equal(table, wanted)
    unlabelled = describe_samples(Means(), real=real, generated=to_float(generated), train=train)
    pd.testing.assert_series_equal(unlabelled, table.drop("label_agreement"))


def test_images_of_one_class_are_measured_by_their_pixels():
    real, generated, train = (pictures(12, seed=seed) for seed in range(3))
    labels = torch.zeros(12, dtype=torch.int64)
    found = describe_samples(
        PixelFeatures(), real=real, generated=generated, train=train, labels=labels
    )
    flat = [to_float(images).flatten(1).double() for images in (real, generated)]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*flat), rel=1e-6)
    assert found["median_ratio"] == pytest.approx(found["pixel_median_ratio"], rel=1e-6)
    assert found["label_agreement"] == 1, "all images have the only label"


def test_images_are_stored_as_uint8_rounded_and_clipped():
    floats = torch.tensor([-3.0, -1, 0.001, 1, 7]).view(1, 1, 1, 5)
    assert as_uint8(floats).flatten().tolist() == [0, 0, 128, 255, 255]
    assert torch.equal(as_uint8(to_float(pictures(3))), pictures(3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 1, 2, 2), math.nan), "uint8, or finite floats"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "got torch.int64 from 0 to 0"),
        (torch.zeros(0, 1, 2, 2), r"not empty, got \(0, 1, 2, 2\)"),
        (torch.zeros(2, 2), r"not empty, got \(2, 2\)"),
    ],
)
def test_what_is_no_image_is_refused(images, message, unchecked):
    with pytest.raises(ValueError, match=message):
        as_uint8(images)


MEASURES = [frechet_distance, precision_recall, lambda a, b: nearest_training(a, b, b)]


@pytest.mark.parametrize("measure", MEASURES)
def test_features_that_cannot_be_measured_are_refused_in_one_sentence(measure, unchecked):
    few = r"2 or more rows and the same F, got \(1, 3\) and \(5, 3\)"
    with pytest.raises(ValueError, match=few):
        measure(points(1), points(5))
    with pytest.raises(ValueError, match=r"the same F, got \(5, 3\) and \(5, 4\)"):
        measure(points(5), points(5, 4))
    with pytest.raises(ValueError, match=r"features must be \(N, F\).*got \(5,\)"):
        measure(points(5)[:, 0], points(5))
    broken = points(5)
    broken[1, 0] = math.nan
    broken[3, 2] = math.inf
    with pytest.raises(ValueError, match=r"2 of 15 values of the features are NaN or infinite"):
        measure(broken, points(6))


@pytest.mark.parametrize("neighbors", [0, 5, -1])
def test_neighbors_must_be_fewer_than_the_points(neighbors):
    sentence = f"neighbors must be 1 to 4.* 9 real and 5 generated points, got {neighbors}"
    with pytest.raises(ValueError, match=sentence):
        precision_recall(points(9), points(5), neighbors)


def test_fid_says_at_once_which_package_or_weights_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_quality, "find_spec", lambda name: None)
    sentence = "FID needs .* not installed: pip install torch-fidelity"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        inception_fid(pictures(2), pictures(2))
    monkeypatch.setattr(sample_quality, "find_spec", lambda name: name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sentence = f"FID needs weights .* curl .*{tmp_path}.*weights-inception-2015"
    with pytest.raises(FileNotFoundError, match=sentence):
        inception_fid(pictures(2), pictures(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_fid_equals_that_of_torchmetrics_on_the_same_network(channels, monkeypatch):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Toy(nn.Module):
        num_features = 4

        def forward(self, images):
            assert images.dtype == torch.uint8
            assert images.shape[1] == 3
            return nn.functional.adaptive_avg_pool2d(images[:, 2].double() / 255, 2).flatten(1)

    monkeypatch.setattr(sample_quality, "inception", Toy)
    real = pictures(150, 1, channels)
    generated = pictures(140, 2, channels) // 2
    judge = FrechetInceptionDistance(Toy(), input_img_size=(3, 8, 8))
    judge.update(real.expand(-1, 3, -1, -1), real=True)
    judge.update(generated.expand(-1, 3, -1, -1), real=False)
    expected = judge.compute().item()
    assert inception_fid(real, generated) == pytest.approx(expected, rel=1e-6)
    assert inception_fid(real, to_float(generated)) == pytest.approx(expected, rel=1e-6)


def test_no_distance_is_below_zero():
    for seed in range(20):
        features = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed)).double()
        assert frechet_distance(features, features.flip(0)) >= 0


def test_the_table_tells_precision_from_recall():
    real = pictures(30, 1)
    generated = torch.cat([real[:5]] * 5)  # copies of a few: precise, with little recall
    table = describe_samples(Means(), real=real, generated=generated, train=pictures(40, 3))
    features = [Means().features(images) for images in (real, generated)]
    expected = precision_recall(*features)
    assert expected[0] > expected[1]
    assert (table["precision"], table["recall"]) == expected
