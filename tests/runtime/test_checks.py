import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given

from arcvq.analysis.projections import clusters, umap_angles
from arcvq.clustering import kmeans
from arcvq.explorers.simulation import Draws
from arcvq.geometry import random_min_angle
from arcvq.images import ImageSplit
from arcvq.runs.settings import RunSettings
from arcvq.runtime.checks import (
    LARGEST_SEED,
    as_indices,
    as_seed,
    check_finite,
    check_finite_numbers,
    check_not_negative,
    check_paths,
    check_positive,
    check_range,
    check_whole,
    differences,
)
from arcvq.samp import SAMP
from arcvq.schedules import Constant
from arcvq.training import Optimization, batch_indices
from arcvq.vqgan import VQGANLosses
from tests.dtypes import INTEGER_DTYPES, indices_of_any_dtype

NOT_WHOLE = [
    (0, "0"),
    (-3, "-3"),
    (1.0, "1.0"),
    (math.nan, "nan"),
    (True, "True"),
    (None, "None"),
    ("1", "'1'"),
    (np.int64(0), r"np.int64\(0\)"),
    (np.float64(2), r"np.float64\(2.0\)"),
    (np.bool_(True), "np.True_"),
    (torch.tensor(True), r"tensor\(True\)"),
    (torch.tensor(2.0), r"tensor\(2.\)"),
]


@pytest.mark.parametrize(("number", "shown"), NOT_WHOLE)
def test_a_number_that_is_not_whole_or_too_small_is_named(number, shown):
    with pytest.raises(ValueError, match=f"^steps is {shown}; it must be a whole number from 1$"):
        check_whole(1, batch_size=4, steps=number)


@pytest.mark.parametrize(
    "kind", [int, np.int8, np.int32, np.int64, np.uint8, np.uint64, torch.tensor]
)
def test_whole_numbers_from_the_minimum_on_pass_whoever_made_them(kind):
    check_whole(0, classes=kind(0), width=kind(7))


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (1001, "1001"), (2.0, "2.0"), (True, "True")]
)
def test_a_whole_number_may_have_a_largest_value(number, shown):
    message = f"^steps is {shown}; it must be a whole number from 1 to 1,000$"
    with pytest.raises(ValueError, match=message):
        check_whole(1, 1000, steps=number)
    check_whole(1, 1000, steps=1, more_steps=1000)


@pytest.mark.parametrize("number", [-0.1, 1.6, math.nan, math.inf, True, None, "1", [1]])
def test_a_number_out_of_its_range_is_named(number):
    with pytest.raises(ValueError, match=r"^margin is .*; it must be a number from 0 to 1\.5$"):
        check_range(0, 1.5, scale=1, margin=number)


@pytest.mark.parametrize("kind", [int, float, np.float32, np.int8])
def test_both_ends_of_a_range_pass_whoever_made_them(kind):
    check_range(-1, 2, low=kind(-1), high=kind(2))


NO_FINITE_NUMBERS = [-0.1, math.nan, math.inf, True, None, "1", [1], torch.tensor([1.0])]


@pytest.mark.parametrize("number", [0, *NO_FINITE_NUMBERS])
def test_a_number_that_is_not_positive_is_named(number):
    with pytest.raises(ValueError, match=r"^lr is .*; it must be a finite number above 0$"):
        check_positive(scale=1, lr=number)


@pytest.mark.parametrize("number", NO_FINITE_NUMBERS)
def test_a_negative_number_is_named(number):
    with pytest.raises(ValueError, match=r"^beta is .*; it must be a finite number from 0$"):
        check_not_negative(scale=0, beta=number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "2", None, True, [2]])
def test_what_is_no_finite_number_is_named(number):
    with pytest.raises(ValueError, match=r"^rate is .*; it must be a finite number$"):
        check_finite_numbers(scale=-2, rate=number)


@pytest.mark.parametrize("kind", [int, float, np.float32, np.array, torch.tensor])
def test_positive_numbers_pass_whoever_made_them(kind):
    check_positive(lr=kind(2))
    check_not_negative(beta=kind(0), gamma0=kind(2))
    check_finite_numbers(rate=kind(-2), growth=kind(0))


def test_settings_that_differ_are_named_with_both_values():
    was = {"steps": 6, "lr": 0.1, "vqgan": {"channels": 16}}
    now = {"steps": 7, "lr": 0.1, "samp": {"top_k": 3}}
    assert differences(was, now) == [
        "steps was 6 and is now 7",
        "samp was None and is now {'top_k': 3}",
        "vqgan was {'channels': 16} and is now None",
    ]


def test_settings_are_the_same_as_what_json_makes_of_them():
    settings = {"levels": (0, 4095), "vqgan": {"multipliers": (1, 2), "attention": None}}
    assert differences(json.loads(json.dumps(settings)), settings) == []
    assert differences(settings | {"reading": None}, settings) == []


def test_a_path_must_be_empty_or_there(tmp_path):
    check_paths(folder="", picture=str(tmp_path), other=tmp_path)
    for path in (str(tmp_path / "missing"), tmp_path / "missing", None, 3):
        with pytest.raises(ValueError, match=r"^picture is .*; it must be the path of .* exists"):
            check_paths(folder="", picture=path)


@pytest.mark.parametrize(("values", "lowest", "highest"), [([0, 4], 0, 4), ([[-1, 2]], -1, 2)])
def test_values_out_of_range_are_answered_with_their_range(values, lowest, highest):
    message = f"^tokens reach from {lowest} to {highest}; they must be from 0 to 3$"
    with pytest.raises(ValueError, match=message):
        as_indices(torch.tensor(values), 4, "tokens")


def test_all_indices_in_range_and_no_index_at_all_pass():
    assert torch.equal(as_indices(torch.arange(4), 4), torch.arange(4))
    assert as_indices(torch.zeros(0, 7, 7, dtype=torch.int64), 4).shape == (0, 7, 7)


@given(indices_of_any_dtype(100, min_size=0))
def test_indices_of_any_integer_dtype_become_int64(indices):
    found = as_indices(indices, 100)
    assert found.dtype == torch.int64
    assert found.tolist() == indices.tolist()


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_an_index_too_large_is_found_in_any_integer_dtype(dtype):
    indices = torch.tensor([[3, 100]]).to(dtype)
    with pytest.raises(
        ValueError, match=r"^tokens reach from 3 to 100; they must be from 0 to 99$"
    ):
        as_indices(indices, 100, "tokens")


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.float64, torch.complex64])
def test_what_is_not_an_integer_is_no_index(dtype):
    with pytest.raises(
        ValueError,
        match=f"^tokens have dtype {dtype}; it must be an integer dtype such as int64$",
    ):
        as_indices(torch.zeros(3, dtype=dtype), 4, "tokens")


def test_values_that_are_not_finite_are_counted():
    with pytest.raises(ValueError, match=r"^2 of 3 values of the latents are NaN or infinite"):
        check_finite(torch.tensor([1.0, math.nan, -math.inf]), "latents")
    check_finite(torch.zeros(0), "latents")


def test_a_compiled_function_reads_no_values(unchecked):
    """So that it is compiled as a whole, and what it cannot check passes."""

    def checked(latents, indices):
        check_finite(latents, "latents")
        return latents + as_indices(indices, 3)

    compiled = torch.compile(checked, fullgraph=True, backend="eager")
    found = compiled(torch.ones(2), torch.tensor([7, 0], dtype=torch.uint8))
    assert found.tolist() == [8, 1]


def test_settings_take_numbers_of_numpy_and_hold_those_of_python(unchecked):
    samp = SAMP(margin=np.float32(0.25), top_k=np.int64(2), radius=Constant(np.float64(3.0)))
    settings = RunSettings(num_codes=np.int64(64), lr=np.float32(0.5), samp=samp)
    assert json.loads(json.dumps(settings.config()))["samp"]["margin"] == 0.25
    assert RunSettings.from_config(json.loads(json.dumps(settings.config()))) == settings
    assert SAMP.for_run(np.int32(100)) == SAMP.for_run(100)
    assert type(Optimization(np.int64(3), np.int16(2), 1e-3, np.int8(0)).steps) is int


def test_equal_settings_are_the_same_text_whether_their_numbers_are_whole_or_not(unchecked):
    for whole, decimal in [
        (SAMP(scale=5, radius=Constant(2)), SAMP(scale=5.0, radius=Constant(2.0))),
        (RunSettings(beta=1, lr=1), RunSettings(beta=1.0, lr=1.0)),
        (
            RunSettings(quantizer="rotation", commitment=2),
            RunSettings(quantizer="rotation", commitment=2.0),
        ),
        (VQGANLosses(adversarial=1), VQGANLosses(adversarial=1.0)),
    ]:
        assert whole == decimal
        assert repr(whole) == repr(decimal)
    assert type(SAMP(top_k=3).top_k) is int


def test_settings_take_single_numbers_of_pytorch_and_hold_those_of_python(unchecked):
    samp = SAMP.for_run(100, lr=torch.tensor(0.5), dim=torch.tensor(4), margin=torch.tensor(0.25))
    settings = RunSettings(steps=torch.tensor(7), lr=torch.tensor(0.5), samp=samp)
    assert settings.samp == SAMP.for_run(100, lr=0.5, dim=4, margin=0.25)
    assert json.loads(json.dumps(settings.config())) == settings.config()
    assert Constant(torch.tensor(2.0)) == Constant(np.array(2.0)) == Constant(2.0)


KINDS_OF_SEED = [np.int64, np.int32, np.uint8, torch.tensor]
POINTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
PIXELS = torch.arange(144, dtype=torch.uint8).expand(5, 1, 144).reshape(5, 1, 12, 12)
CROPPED = ImageSplit(PIXELS, torch.zeros(5, dtype=torch.int64), crop=4)
SEEDED = {
    "random_min_angle": lambda seed, root: torch.tensor(random_min_angle(20, 3, seed)),
    "kmeans": lambda seed, root: kmeans(POINTS, 7, seed=seed),
    "clusters": lambda seed, root: torch.from_numpy(clusters(POINTS, 7, seed)),
    "umap_angles": lambda seed, root: torch.from_numpy(
        umap_angles(POINTS, seed=seed, root=root, progress=False).points
    ),
    "simulation": lambda seed, root: Draws.of_seed(seed, 6).normals,
    "batch_indices": lambda seed, root: batch_indices(20, 20, seed, step=3),
    "crops": lambda seed, root: CROPPED.batch(torch.arange(5), seed),
}


@pytest.mark.parametrize("kind", KINDS_OF_SEED)
@pytest.mark.parametrize("seeded", SEEDED.values(), ids=SEEDED)
def test_a_seed_draws_the_same_whoever_made_it(seeded, kind, tmp_path, unchecked):
    drawn = seeded(kind(3), tmp_path)
    assert torch.equal(drawn, seeded(3, tmp_path))
    assert not torch.equal(drawn, seeded(4, tmp_path))


@pytest.mark.parametrize("seed", [0, 3, LARGEST_SEED, *(kind(3) for kind in KINDS_OF_SEED)])
def test_a_seed_becomes_a_number_of_python(seed):
    assert type(as_seed(seed)) is int
    assert as_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 2.0, np.float64(3), True, None, "3"])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="it must be a whole number from 0 to 4,294,967,295"):
        as_seed(seed)
