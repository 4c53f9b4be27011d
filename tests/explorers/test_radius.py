import math
import re

import numpy as np
import pytest
import torch
import traitlets

import arcvq
from arcvq.explorers import RadiusExplorer
from arcvq.explorers.radius import ball_schedule
from arcvq.samp import project_to_ball_
from arcvq.training import Snapshot
from tests.explorers.javascript import drawn, modules
from tests.explorers.test_collapse_game import make_run

START = {"growth": 3e-4, "run_length": 3000, "step": 600, "scaled": False}


@pytest.fixture(scope="module")
def javascript():
    with modules("radius", "page") as call:
        yield call


def layer(picture, kind):
    return next(layer for layer in picture["layers"] if layer["kind"] == kind)


def rows(values):
    return np.array(values).reshape(-1, 3)


def example():
    """The codes of the default explorer."""
    data = RadiusExplorer()._numbers
    return torch.from_numpy(data["units"] * data["norms"][0][:, None])


def check(javascript, explorer, free):
    """What is drawn and said, against the package."""
    picture = drawn(javascript, explorer)
    radius = ball_schedule(explorer.growth, explorer.run_length, explorer.scaled)
    reach = radius.value(explorer.step)
    held = project_to_ball_(free.double(), reach).numpy()
    assert np.allclose(rows(layer(picture, "points")["rows"]), held, rtol=1e-5, atol=1e-6)
    norms = free.norm(dim=1).numpy()
    clipped = norms > reach * (1 + 1e-6)
    assert layer(picture, "points")["colors"] == [
        "#D55E00" if out else "#0072B2" for out in clipped
    ]
    count = f"{clipped.sum():,} of {len(clipped):,} codes are clipped"
    if clipped.sum() == 1:
        count = count.replace("are", "is")
    if len(clipped) == 1:
        count = count.replace("codes", "code")
    assert picture["title"] == f"Step {explorer.step:,}: {count}"

    stop = math.log(max(norms.max(), 1)) / radius.rate if radius.rate else math.inf
    if norms.max() <= 1:
        assert "never binds" in picture["summary"]
    elif stop <= explorer.run_length:
        assert f"stops binding at step {math.ceil(stop):,}" in picture["summary"]
    else:
        assert "still binds at the end of the run" in picture["summary"]
    return picture


CHANGES = [
    {"step": 0},
    {"step": 1777},
    {"step": 3000},
    {"growth": 0.0},
    {"growth": 1e-6},
    {"growth": 0.1},
    {"run_length": 10},
    {"run_length": 29_500, "step": 20_000},
    {"run_length": 10_000_000, "step": 10_000_000},
    {"scaled": True},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_codes_clipped_share_and_release_are_as_the_package_says(javascript, changes):
    explorer = RadiusExplorer()
    for name, value in changes.items():
        setattr(explorer, name, value)
    check(javascript, explorer, example())


def test_the_default_ball_binds(javascript):
    picture = check(javascript, RadiusExplorer(), example())
    clipped, codes = re.search(r"([\d]+) of ([\d]+) codes are clipped", picture["title"]).groups()
    assert 0.2 < int(clipped) / int(codes) < 0.8


def test_lines_lead_to_where_the_codes_would_be(javascript):
    rays = layer(drawn(javascript, RadiusExplorer()), "rays")
    free = example().norm(dim=1)
    ends = np.linalg.norm(rows(rays["rows"]) + rows(rays["moves"]), axis=1)
    assert np.allclose(ends, free[free > math.exp(0.18)], rtol=1e-5)
    assert np.allclose(np.linalg.norm(rows(rays["rows"]), axis=1), math.exp(0.18), rtol=1e-5)


def test_a_ball_beyond_the_picture_is_not_drawn_and_is_finite(javascript):
    explorer = RadiusExplorer(run_length=10_000_000, step=10_000_000, growth=0.1)
    picture = check(javascript, explorer, example())
    assert [layer["kind"] for layer in picture["layers"]] == ["rays", "points"]
    assert "beyond the picture" in picture["summary"]
    explorer.step = 0
    assert layer(drawn(javascript, explorer), "ball")["radius"] == 1


def test_the_step_stays_within_the_run(javascript):
    explorer = RadiusExplorer(step=2000)
    explorer.run_length = 1000
    assert explorer.step == 1000
    with pytest.raises(traitlets.TraitError, match="step is 1,001; the run ends after 1,000 steps"):
        explorer.step = 1001
    explorer.reset()
    assert explorer.settings() == START | {"step": 2000}
    assert RadiusExplorer(run_length=100).step == 100
    assert RadiusExplorer(step=9000, run_length=10_000).step == 9000


def test_reset_goes_back_from_a_step_beyond_the_first_run():
    explorer = RadiusExplorer()
    explorer.run_length = 100_000
    explorer.step = 90_000
    explorer.reset()
    assert explorer.settings() == START


@pytest.mark.parametrize("name", RadiusExplorer.presets)
def test_every_preset_can_be_chosen_after_every_other(name):
    for other in RadiusExplorer.presets:
        explorer = RadiusExplorer()
        explorer.choose_preset(other)
        explorer.choose_preset(name)
        assert explorer.settings() == RadiusExplorer.presets[name].settings


def test_presets_tell_of_the_ball_and_not_of_codes_that_they_do_not_know():
    presets = RadiusExplorer.presets
    passed = 0
    for name, (settings, sentence) in presets.items():
        assert not re.search("binds|lets go|outruns|tight|any code", f"{name} {sentence}")
        ball = ball_schedule(settings["growth"], settings["run_length"], settings["scaled"])
        steps = re.findall(r"(?:passes|and) ([\d,]+) at step ([\d,]+)", sentence)
        for radius, step in (map(number, pair) for pair in steps):
            assert ball.value(step - 1) < radius <= ball.value(step)
            passed += 1
        for end in re.findall(r"ends at (?:radius )?([\d,.]*\d)", sentence):
            assert ball.value(settings["run_length"]) == pytest.approx(number(end), rel=1e-3)
            passed += 1
    assert passed == 7, "the numbers of all sentences"


def number(words):
    return float(words.replace(",", ""))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("growth", [0.0, 3e-4, 1.26e-3, 0.1])
def test_code_evaluates_to_the_same_ball_scaled_to_the_run(javascript, growth, scaled):
    explorer = RadiusExplorer(growth=growth, run_length=2000, scaled=scaled)
    in_browser = javascript("codeOf(values)", values=explorer.settings())
    radius = ball_schedule(growth, 2000, scaled)
    for code in (explorer.code(), in_browser):
        assert code.startswith("arcvq.SAMP.for_run(2000, radius=")
        samp = eval(code, {"arcvq": arcvq})
        assert samp.radius.rate == pytest.approx(radius.rate, rel=1e-5)
        assert samp.weight == arcvq.SAMP.for_run(2000).weight


def test_scaled_is_the_schedule_of_the_whole_package():
    assert ball_schedule(3e-4, 400, True).rate == pytest.approx(arcvq.SAMP.for_run(400).radius.rate)


def test_snapshots_are_shown_at_their_share_of_the_run(javascript):
    books = {step: (step / 50 + 1) * torch.randn(20, 3) for step in (100, 0, 50)}
    snapshots = {step: Snapshot(book, torch.ones(20)) for step, book in books.items()}
    explorer = RadiusExplorer(snapshots, growth=0.1)
    assert (explorer.run_length, explorer.step) == (100, 20)
    explorer.run_length = 1000
    for step, book in ((499, 0), (500, 50), (999, 50), (1000, 100)):
        explorer.step = step
        points = layer(drawn(javascript, explorer), "points")
        assert np.allclose(rows(points["rows"]), books[book], rtol=1e-4, atol=1e-6)


def test_snapshots_are_shown_in_a_run_of_any_length(javascript):
    snapshots = {step: Snapshot(torch.randn(20, 3), torch.ones(20)) for step in (0, 2000)}
    for run_length in (10, 100, 5000):
        explorer = RadiusExplorer(snapshots, run_length=run_length)
        assert explorer.run_length == run_length
        assert explorer.step <= run_length
        at_end = explorer.step == run_length
        check(javascript, explorer, snapshots[2000 if at_end else 0].codebook)


def test_a_step_after_the_end_of_the_run_is_drawn_as_the_end(javascript):
    """Such a step can stand in the address of a page, where Python does not check it."""
    end = RadiusExplorer(run_length=100, step=100)
    beyond = RadiusExplorer(run_length=4000, step=400)
    found = drawn(javascript, end)
    changed = drawn(javascript, beyond, run_length=100)
    assert changed["title"] == found["title"]


def test_a_run_is_shown_by_its_snapshots(javascript):
    explorer = RadiusExplorer(make_run(arcvq.EuclideanQuantizer(20, 4), 3))
    assert (explorer.run_length, explorer.step) == (37, 7)
    points = rows(layer(drawn(javascript, explorer), "points")["rows"])
    # All codes have norm 2; after 7 steps the ball has hardly opened.
    assert np.allclose(np.linalg.norm(points, axis=1), math.exp(7 * explorer.growth))


def test_on_a_run_the_ball_starts_at_the_papers_ratio_and_presets_keep_the_length_of_the_run():
    run = make_run(arcvq.EuclideanQuantizer(20, 4), 3)
    explorer = RadiusExplorer(run)
    samp = arcvq.SAMP.for_run(37, lr=run.settings["lr"], dim=4)
    assert explorer.growth == pytest.approx(samp.radius.rate)
    assert [preset["name"] for preset in explorer.preset_specs] == list(explorer.presets)
    assert set(explorer.presets) != set(RadiusExplorer.presets)
    for name, preset in explorer.presets.items():
        explorer.choose_preset(name)
        assert (explorer.run_length, explorer.step) == (37, 7)
        assert explorer.growth == preset.settings["growth"]
    assert explorer.growth == 0
    assert RadiusExplorer(run, growth=0.02).growth == 0.02


def test_on_a_run_with_a_large_learning_rate_the_ball_starts_at_the_end_of_the_slider():
    run = make_run(arcvq.EuclideanQuantizer(20, 4), 3)
    run.settings["lr"] = 10.0
    assert RadiusExplorer(run).growth == 0.1


def test_the_radius_axis_shows_the_codes_and_the_end_of_the_ball(javascript):
    call = "topOf(codes, rate, length)"
    assert javascript(call, codes=4.4, rate=0.0015, length=200) == 10
    assert javascript(call, codes=4.4, rate=0.02, length=200) == 100
    assert javascript(call, codes=4.4, rate=3e-4, length=29_500) == 10_000
    assert javascript(call, codes=4.4, rate=0.1, length=10_000) == 10_000
    assert javascript(call, codes=20_000, rate=0.0, length=10) == 100_000


def test_a_ball_without_growth_is_said_to_be_fixed_at_radius_1(javascript):
    fixed = drawn(javascript, RadiusExplorer(growth=0.0))["summary"]
    assert "The ball is fixed at radius 1 and still binds at the end of the run" in fixed
    small = drawn(javascript, RadiusExplorer(0.1 * torch.randn(9, 3), growth=0.0))["summary"]
    assert "The ball is fixed at radius 1 and never binds" in small
    assert "fixed" not in drawn(javascript, RadiusExplorer())["summary"]


def test_with_snapshots_the_last_binding_is_that_of_any_of_them(javascript):
    call = "lastBinding({ shares: [0, 0.5, 1], longest: [1, 3, 2] }, rate, length)"
    # M(200) = 7.4 is above the 3 that begins there
    assert javascript(call, rate=0.01, length=400) == 0
    assert javascript(call, rate=0.01, length=200) == pytest.approx(100 * math.log(3))
    assert javascript(call, rate=1e-4, length=200) == "Infinity"
    assert javascript(call, rate=0, length=200) == "Infinity"
    assert javascript("lastBinding({ shares: [0], longest: [1] }, 0, 200)") == 0


def test_more_dimensions_keep_norms_and_say_how_far_directions_can_be_trusted(javascript):
    codebook = 2 * torch.randn(30, 16)
    picture = drawn(javascript, RadiusExplorer(codebook, run_length=29_500, step=29_500))
    points = rows(layer(picture, "points")["rows"])
    assert np.allclose(np.linalg.norm(points, axis=1), codebook.norm(dim=1), rtol=1e-4)
    assert "Norms are exact, directions are not. PCA: " in picture["summary"]
    assert "rank correlation of angles" in picture["summary"]


@pytest.mark.parametrize(
    "codebook", [torch.ones(1, 3), torch.ones(9, 3), torch.eye(3), 0.1 * torch.randn(9, 3)]
)
def test_one_code_equal_codes_and_codes_on_the_surface_are_drawn(javascript, codebook):
    explorer = RadiusExplorer(codebook, step=0)
    check(javascript, explorer, codebook)


@pytest.mark.parametrize("dim", [1, 2])
def test_fewer_dimensions_are_drawn(javascript, dim):
    points = layer(drawn(javascript, RadiusExplorer(torch.ones(5, dim))), "points")
    assert len(points["rows"]) == 3 * 5


@pytest.mark.parametrize("dim", [3, 16])
def test_codes_of_norm_zero_lie_in_the_center(javascript, dim):
    codebook = torch.randn(8, dim)
    codebook[5] = 0
    points = layer(drawn(javascript, RadiusExplorer(codebook)), "points")
    assert rows(points["rows"])[5].tolist() == [0, 0, 0]
    assert np.isfinite(points["rows"]).all()


def test_many_codes_are_thinned_and_the_summary_says_so_but_all_are_counted(javascript):
    codebook = torch.randn(10_000, 3)
    picture = drawn(javascript, RadiusExplorer(codebook))
    assert len(layer(picture, "points")["rows"]) == 3 * 4096
    assert "4,096 of 10,000 codes are drawn." in picture["summary"]
    clipped = int((codebook.norm(dim=1) > math.exp(0.18)).sum())
    assert f"{clipped:,} of 10,000 codes are clipped" in picture["title"]


def test_a_single_code_is_counted_and_not_lost_in_a_rounded_share(javascript):
    codebook = 0.1 * torch.ones(5000, 3)
    codebook[7, 0] = 3
    picture = drawn(javascript, RadiusExplorer(codebook))
    assert picture["title"] == "Step 600: 1 of 5,000 codes is clipped"
    alone = drawn(javascript, RadiusExplorer(2 * torch.ones(1, 3)))
    assert alone["title"] == "Step 600: 1 of 1 code is clipped"
    assert "the longest of 1 free code has norm 3.46" in alone["summary"]


def test_the_example_opens_with_less_than_100_kb():
    explorer = RadiusExplorer()
    state = explorer.get_state()
    arrays = [value["bytes"] for value in state["data"].values() if isinstance(value, dict)]
    assert sum(map(len, arrays)) + len(explorer._esm) < 100_000


@pytest.mark.parametrize(
    ("codebook", "words"),
    [
        (torch.empty(0, 3), "the codebook must be rows of shape"),
        (torch.randn(3), "the codebook must be rows of shape"),
        (torch.full((1, 3), math.nan), "the codebook has NaN or infinity in 1 of its 1 rows"),
        (
            {0: torch.ones(4, 3), 1200: torch.tensor([[1.0], [math.nan], [math.inf]])},
            "the codebook at step 1,200 has NaN or infinity in 2 of its 3 rows",
        ),
        ({0: torch.ones(4, 3), 9: torch.ones(5, 3)}, "codebooks of the run have different shapes"),
        ({}, "the run has no snapshots of its codebook"),
    ],
)
def test_bad_input_is_one_sentence(unchecked, codebook, words):
    with pytest.raises(ValueError, match=words) as caught:
        RadiusExplorer(codebook)
    assert "\n" not in str(caught.value)


def test_a_value_out_of_range_is_named():
    explorer = RadiusExplorer()
    for name, value in (("growth", -1e-9), ("growth", 1.0), ("run_length", 1), ("step", -1)):
        with pytest.raises(traitlets.TraitError, match=name):
            setattr(explorer, name, value)
    with pytest.raises(ValueError, match="growth of RadiusExplorer is nan"):
        explorer.growth = math.nan
    with pytest.raises(ValueError, match="'radius' is no setting of RadiusExplorer"):
        RadiusExplorer(radius=2)
    assert explorer.settings() == START
