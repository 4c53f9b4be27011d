import io
import itertools
import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from arcvq.analysis import projections
from arcvq.analysis.projections import (
    assess,
    clusters,
    directions,
    dominant_classes,
    exact,
    nearest_in_group,
    pca,
    stereographic,
    trust_table,
    umap_angles,
)
from arcvq.runtime.files import CHECKOUT
from tests.dtypes import INTEGER_DTYPES

CODES = torch.ones(3, 4)
TOKENS = torch.full((1, 2, 2), 9)
EASY = [pca, partial(pca, dim=3), partial(pca, sphere=True), stereographic]


def angles(rows):
    """The angles of all pairs of rows."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = itertools.combinations(units, 2)
    return np.array([math.acos(np.clip(one @ other, -1, 1)) for one, other in pairs])


def blobs(groups=4, each=15, dim=16):
    centers = 5 * torch.randn(groups, dim)
    return centers.repeat_interleave(each, 0) + torch.randn(groups * each, dim)


def test_three_dimensions_are_exact():
    codes = torch.randn(40, 3) * torch.rand(40, 1)
    seen = exact(codes)
    assert np.allclose(seen.points, codes / codes.norm(dim=1, keepdim=True), atol=1e-6)
    assert seen.method == "exact"
    assert seen.sphere
    assert seen.angle_correlation == pytest.approx(1)
    assert seen.neighbors_kept == 1
    assert "exact" in seen.trust


def test_fewer_dimensions_are_exact_too_and_more_are_refused():
    assert np.allclose(exact(torch.tensor([[2.0], [-1.0]])).points, [[1, 0, 0], [-1, 0, 0]])
    with pytest.raises(ValueError, match="codes have 4 dimensions; a picture is exact up to 3"):
        exact(torch.ones(2, 4))


def test_pca_is_the_best_flat_shadow_of_the_directions_through_the_origin():
    codes = torch.randn(30, 8, dtype=torch.float64) * torch.arange(1, 9)
    units = (codes / codes.norm(dim=1, keepdim=True)).numpy()
    values, axes = np.linalg.eigh(units.T @ units)
    seen = pca(codes, 3)
    assert seen.axes_share == pytest.approx(values[-3:].sum() / values.sum())
    for column, axis in enumerate(axes[:, :-4:-1].T):
        assert np.allclose(np.abs(seen.points[:, column]), np.abs(units @ axis), atol=1e-6)


def test_pca_on_the_sphere_has_unit_rows():
    seen = pca(torch.randn(30, 8), sphere=True)
    assert np.allclose(np.linalg.norm(seen.points, axis=1), 1)
    assert seen.points.shape == (30, 3)


def test_stereographic_distance_is_tan_of_half_the_angle_to_the_mean_in_any_dimension():
    codes = torch.randn(50, 10).double() + 0.5
    units = directions(codes)
    center = units.sum(0) / np.linalg.norm(units.sum(0))
    wanted = [math.tan(math.acos(unit @ center) / 2) for unit in units]
    assert np.allclose(np.linalg.norm(stereographic(codes).points, axis=1), wanted, atol=1e-6)


def test_stereographic_in_three_dimensions_keeps_the_bearing_of_each_code():
    codes = torch.randn(30, 3).double()
    units = directions(codes)
    center = units.sum(0) / np.linalg.norm(units.sum(0))
    level = units - (units @ center)[:, None] * center  # the part of each direction across the mean
    assert np.allclose(angles(stereographic(codes).points), angles(level), atol=1e-6)


def test_the_pole_itself_stays_on_the_map():
    codes = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, -1]])
    assert np.linalg.norm(stereographic(codes).points, axis=1).max() == pytest.approx(10)


def test_angle_correlation_is_spearmans_of_angles_on_the_sphere_and_of_distances_on_a_map():
    codes = torch.randn(25, 6).double()
    ball = pca(codes, sphere=True)
    flat = pca(codes)
    pairs = itertools.combinations(flat.points, 2)
    apart = [np.linalg.norm(one - other) for one, other in pairs]
    true = angles(codes.numpy())
    of_angles = spearmanr(true, angles(ball.points)).statistic
    of_distances = spearmanr(true, apart).statistic
    assert ball.angle_correlation == pytest.approx(of_angles, abs=1e-6)
    assert flat.angle_correlation == pytest.approx(of_distances, abs=1e-6)


def test_the_correlation_of_a_sample_of_pairs_is_near_that_of_all(monkeypatch):
    codes = torch.randn(200, 6)
    whole = pca(codes, sphere=True).angle_correlation
    monkeypatch.setattr(projections, "MAX_PAIRS", 5000)
    sample = pca(codes, sphere=True).angle_correlation
    assert sample != whole
    assert sample == pytest.approx(whole, abs=0.05)


def test_neighbors_kept_is_the_shared_part_of_the_five_nearest():
    codes = torch.randn(30, 6).double()
    seen = pca(codes)
    units = directions(codes)

    def nearest(rows, code):
        order = np.argsort(np.linalg.norm(rows - rows[code], axis=1))
        return set(order[1:6])  # the first is the code itself

    kept = 0
    for code in range(30):
        kept += len(nearest(units, code) & nearest(seen.points, code))
    assert seen.neighbors_kept == pytest.approx(kept / 150)


@pytest.mark.parametrize(("count", "nearest"), [(3, 1), (6, 2), (7, 3), (10, 4), (11, 5), (30, 5)])
def test_random_places_keep_nearest_codes_by_chance_however_few_there_are(count, nearest):
    generator = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(200):
        codes = torch.randn(count, 6, generator=generator)
        places = torch.randn(count, 3, generator=generator)
        kept.append(assess(codes, places).neighbors_kept)
    chance = nearest / (count - 1)
    assert chance <= 0.5
    assert np.mean(kept) == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize(
    "codes",
    [torch.randn(1, 5), torch.randn(2, 5), torch.ones(20, 5), torch.eye(8), torch.zeros(12, 4)],
    ids=["one", "two", "equal", "orthogonal", "zero"],
)
def test_where_no_code_is_nearer_than_another_none_is_kept_or_lost(codes):
    seen = assess(codes, torch.randn(len(codes), 3))
    assert math.isnan(seen.neighbors_kept)
    assert "no nearest codes to compare" in seen.trust
    assert math.isnan(trust_table({"own": seen}).loc["own", "nearest codes kept"])


def grid(side):
    """Directions at equal distances from several others."""
    axis = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(axis, axis, axis)


@pytest.mark.parametrize(
    "codes",
    [grid(3), torch.randn(8, 3).repeat_interleave(6, 0), torch.randn(20, 3).repeat(2, 1)],
    ids=["grid", "six alike", "two alike"],
)
def test_of_codes_at_equal_angles_any_may_be_the_nearest(codes):
    assert exact(codes).neighbors_kept == pytest.approx(1)
    # Equal directions are drawn apart, each near to its own.
    apart = exact(codes).points + 1e-4 * np.random.default_rng(0).normal(size=(len(codes), 3))
    assert assess(codes, apart, sphere=False).neighbors_kept > 0.95


def test_a_map_that_draws_all_codes_in_one_place_keeps_them_by_chance():
    codes = torch.randn(31, 6)
    seen = assess(codes, torch.ones(31, 3))
    assert seen.neighbors_kept == pytest.approx(5 / 30)


def test_random_places_are_trusted_little_and_said_so():
    codes = torch.randn(300, 6)
    seen = assess(codes, torch.randn(300, 3))
    assert abs(seen.angle_correlation) < 0.05
    assert seen.neighbors_kept < 0.05
    assert "Angles cannot be read off" in seen.words
    assert "Angles cannot be read off" in seen.trust


def test_umap_keeps_groups_together_and_a_seed_gives_the_same_bits(tmp_path):
    codes = blobs()
    one, other, third = (
        umap_angles(codes, seed=seed, root=tmp_path / folder, progress=False)
        for seed, folder in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert np.array_equal(one.points, other.points)
    assert not np.array_equal(one.points, third.points)
    gaps = np.linalg.norm(one.points[:, None] - one.points[None], axis=2) + 1e9 * np.eye(60)
    assert (gaps.argmin(axis=1) // 15 == np.arange(60) // 15).all()
    assert one.points.shape == (60, 2)
    assert one.axes_share is None


@pytest.mark.parametrize("whole", [np.int64, torch.tensor])
def test_whole_numbers_of_numpy_and_pytorch_are_those_of_python(whole, tmp_path, unchecked):
    codes = blobs()
    usual = umap_angles(codes, 3, seed=1, neighbors=5, root=tmp_path, progress=False)
    found = umap_angles(
        codes, whole(3), seed=whole(1), neighbors=whole(5), root=tmp_path, progress=False
    )
    assert np.array_equal(found.points, usual.points)
    assert len([*tmp_path.rglob("*.npy")]) == 1, "both calls share a file"
    assert np.array_equal(clusters(codes, whole(4), whole(1)), clusters(codes, 4, 1))
    assert np.array_equal(pca(codes, whole(2)).points, pca(codes, 2).points)


def test_umap_leaves_torch_its_threads(tmp_path):
    """This takes a process of its own, since numba sets them once."""
    script = f"""
import numpy as np, torch
from arcvq.analysis.projections import umap_angles
torch.set_num_threads(1)
assert torch.get_num_threads() == 1  # which torch settles at its first use of them
umap_angles(np.random.default_rng(0).normal(size=(60, 8)), root={str(tmp_path)!r}, progress=False)
print(torch.get_num_threads())
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_umap_on_the_sphere_has_unit_rows_and_three_dimensions_work(tmp_path):
    seen = umap_angles(blobs(), sphere=True, root=tmp_path, progress=False)
    assert np.allclose(np.linalg.norm(seen.points, axis=1), 1, atol=1e-6)
    assert seen.sphere
    assert umap_angles(blobs(), 3, root=tmp_path, progress=False).points.shape == (60, 3)


def test_the_second_visit_computes_nothing_and_does_not_even_import_umap(tmp_path):
    codes = blobs()
    first = umap_angles(codes, root=tmp_path, progress=False)
    (file,) = (tmp_path / "projections").iterdir()
    np.save(tmp_path / "codes.npy", codes.numpy())
    script = f"""
import sys
import numpy as np
from arcvq.analysis.projections import umap_angles
codes = np.load(r'{tmp_path / "codes.npy"}')
seen = umap_angles(codes, root=r'{tmp_path}', progress=False)
assert 'umap' not in sys.modules
assert 'numba' not in sys.modules
np.save(r'{tmp_path / "seen.npy"}', seen.points)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert np.array_equal(np.load(tmp_path / "seen.npy"), first.points)
    assert file.suffix == ".npy"


def npy(points):
    """The bytes of a file of coordinates."""
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


def test_settings_have_files_of_their_own_and_a_damaged_file_is_computed_again(tmp_path):
    codes = blobs()
    first = umap_angles(codes, root=tmp_path, progress=False)
    (file,) = (tmp_path / "projections").iterdir()
    umap_angles(codes, neighbors=5, root=tmp_path, progress=False)
    assert len(list((tmp_path / "projections").iterdir())) == 2
    kept = file.read_bytes()
    for damage in (kept[:100], npy(np.full((60, 2), np.nan)), npy(np.zeros((3, 2)))):
        file.write_bytes(damage)
        again = umap_angles(codes, root=tmp_path, progress=False)
        assert np.array_equal(again.points, first.points)
        assert file.read_bytes() == kept


def test_a_cache_that_cannot_be_written_costs_a_warning_not_the_picture(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert umap_angles(blobs(), root=tmp_path / "file", progress=False).points.shape == (60, 2)


@pytest.mark.parametrize(
    "codes",
    [
        torch.randn(4, 8),
        torch.ones(30, 8),
        torch.zeros(30, 8),
        torch.randn(9, 1),
        torch.randn(1, 8),
    ],
    ids=["four", "equal", "zero", "D = 1", "one"],
)
def test_umap_of_too_few_directions_falls_back_on_principal_axes_and_says_so(codes, tmp_path):
    for sphere in (False, True):
        seen = umap_angles(codes, sphere=sphere, root=tmp_path)
        assert seen.method == "PCA"
        assert "UMAP needs 5, and there" in seen.trust
        assert np.isfinite(seen.points).all()
        assert len(seen.points) == len(codes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dim", [2, 3])
def test_umap_of_five_codes_works(dim, tmp_path):
    options = {"root": tmp_path, "progress": False}
    flat = umap_angles(torch.randn(5, 8), dim, **options)
    assert np.isfinite(flat.points).all()
    sphere = umap_angles(torch.randn(5, 2), sphere=True, **options)
    assert np.isfinite(sphere.points).all()


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    dim=st.integers(1, 9),
    power=st.sampled_from([-30, 0, 30]),
    zeros=st.booleans(),
)
def test_any_finite_codebook_gets_finite_places_and_a_trust(count, dim, power, zeros):
    codes = torch.randn(count, dim) * 10.0**power
    codes[: count * zeros] = 0
    for project in EASY:
        seen = project(codes)
        assert np.isfinite(seen.points).all()
        assert len(seen.points) == count
        assert math.isnan(seen.neighbors_kept) or 0 <= seen.neighbors_kept <= 1
        assert seen.words in seen.trust
        assert seen.angle_correlation is None or -1 - 1e-9 <= seen.angle_correlation <= 1 + 1e-9


@pytest.mark.parametrize(
    "codes",
    [
        torch.nn.Parameter(torch.ones(3, 2)),
        torch.ones(3, 2, dtype=torch.bfloat16),
        np.ones((3, 2), np.float32),
    ],
)
def test_parameters_half_precision_and_arrays_are_read(codes):
    assert np.allclose(directions(codes), 0.5**0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_on_a_gpu_are_read():
    assert pca(torch.ones(3, 2, device="cuda")).points.shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pca(torch.ones(0, 4)), r"codes have the shape \(0, 4\); they must be \(K, D\)"),
        (lambda: pca(torch.tensor([[1, math.nan]])), "1 of 2 values of the codes are NaN"),
        (lambda: pca(CODES, 4), "dim is 4; a picture has 2 or 3"),
        (lambda: pca(CODES, 2.0), "dim is 2.0; a picture has 2 or 3"),
        (lambda: umap_angles(CODES, neighbors=1), "neighbors is 1; it must be a whole number"),
        (lambda: umap_angles(CODES, seed=-1), "seed is -1; it must be a whole number from 0"),
        (lambda: clusters(CODES, seed=2**32), "seed is 4294967296; it must be a whole number"),
        (lambda: assess(CODES, torch.ones(2, 3)), "there are 2 points for 3 codes"),
        (lambda: assess(CODES, np.full((3, 2), np.nan)), "values of the points are NaN"),
        (lambda: assess(CODES, np.full((3, 2), np.inf), sphere=False), "values of the points"),
        (lambda: nearest_in_group(np.full((3, 2), np.nan), np.zeros(3)), "values of the points"),
        (lambda: clusters(CODES, 0), "count is 0"),
        (
            lambda: dominant_classes(TOKENS[:0], torch.zeros(0).long(), 10),
            "there are 0 images and 0 labels; both must be the same number, from 1",
        ),
        (lambda: dominant_classes(TOKENS, torch.zeros(2).long(), 10), "1 images and 2 labels"),
        (lambda: dominant_classes(TOKENS, torch.zeros(1).long(), 5), "reach from 9 to 9"),
        (lambda: dominant_classes(TOKENS, torch.zeros(1), 10), "labels have dtype torch.float32"),
        (
            lambda: dominant_classes(TOKENS.repeat(2, 1, 1), torch.tensor([-1, 2]), 10),
            "labels reach from -1 to 2",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words, unchecked):
    with pytest.raises(ValueError, match=words):
        call()


def test_clusters_find_groups_and_the_largest_is_0():
    codes = torch.cat([blobs(1, 5), blobs(1, 20), blobs(1, 10)])
    labels = clusters(codes, 3)
    assert set(labels[5:25]) == {0}
    assert set(labels[25:]) == {1}
    assert set(labels[:5]) == {2}
    assert set(clusters(torch.ones(4, 3), 8)) == {0}


def test_dominant_classes_are_relative_to_what_a_class_uses():
    # Class 0 has three images and uses code 1 most often, but class 1 gives it a larger share.
    indices = torch.tensor([[[0, 0], [0, 1]]] * 3 + [[[1, 1], [2, 2]]])
    labels = torch.tensor([0, 0, 0, 1])
    assert dominant_classes(indices, labels, 4).tolist() == [0, 1, 1, -1]
    for dtype in INTEGER_DTYPES:
        found = dominant_classes(indices.to(dtype), labels.to(dtype), 4)
        assert found.tolist() == [0, 1, 1, -1], dtype


READ_ONLY = """
import os
import numpy as np
access = os.access
os.access = lambda path, mode: mode != os.W_OK and access(path, mode)
from arcvq.analysis.projections import umap_angles
projection = umap_angles(np.random.default_rng(0).normal(size=(40, 6)), root=os.getcwd())
print(projection.points.shape, os.path.isdir(os.environ["NUMBA_CACHE_DIR"]))
"""


def test_umap_works_where_its_package_cannot_be_written(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    shown = subprocess.run(
        [sys.executable, "-c", READ_ONLY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.split("\n")[0] == "(40, 2) True", shown.stderr


def test_the_table_of_trust_has_a_row_for_each_projection():
    codes = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    axes = pca(codes)
    pole = stereographic(codes)
    table = trust_table({"axes": axes, "pole": pole})
    assert table.index.tolist() == ["axes", "pole"]
    assert table["rank correlation"].tolist() == [axes.angle_correlation, pole.angle_correlation]
    assert pole.axes_share is None  # its distances are not those along axes
    assert table.loc["axes", "share along axes"] == axes.axes_share
    assert table.loc["pole", "nearest codes kept"] == pole.neighbors_kept


def test_of_points_that_are_equally_near_each_counts_for_a_share():
    points = np.array([[0.0, 0], [0, 1], [0, 1], [0, -1]])
    groups = np.array([0, 0, 1, 1])
    # The first is as near to one of its group as to two others; 1 and 2 are in the same place.
    assert projections.nearest_in_group(points, groups) == pytest.approx((1 / 3 + 0 + 0 + 0) / 4)


def test_points_in_separate_groups_have_their_nearest_point_in_their_group():
    generator = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 20)
    apart = 100 * groups[:, None] + generator.normal(size=(60, 2))
    assert nearest_in_group(apart, groups) == 1
    mixed = generator.normal(size=(6000, 2))
    shares = nearest_in_group(mixed, np.repeat([0, 1, 2], 2000))
    assert shares == pytest.approx(1 / 3, abs=0.03)  # the sum of the squared shares


def test_one_point_and_a_missing_group_are_errors():
    with pytest.raises(ValueError, match="1 points and 1 groups; both must be the same number"):
        nearest_in_group(np.zeros((1, 2)), np.array([0]))
    with pytest.raises(ValueError, match="4 points and 3 groups"):
        nearest_in_group(np.zeros((4, 2)), np.zeros(3, np.int64))
