import math

import numpy as np
import pytest
import torch
import traitlets

import arcvq
from arcvq.explorers import RadiusExplorer
from arcvq.explorers import radius_figure as view


def rows(explorer, trace):
    data = explorer.figure.data[trace]
    return np.stack([data[axis] for axis in "xyz" if axis in data], axis=1)


def rate(explorer):
    return explorer.growth * (29_500 / explorer.run_length if explorer.scaled else 1)


def check(explorer, free):
    """Everything that moves, against plain numpy."""
    radius = math.exp(min(80.0, rate(explorer) * explorer.step))
    norms = np.linalg.norm(free, axis=1)
    held = free * np.minimum(1, radius / norms)[:, None]
    out = norms > radius
    for trace, chosen in ((view.INSIDE, ~out), (view.HELD, out)):
        assert np.allclose(rows(explorer, trace), held[chosen], rtol=1e-5, atol=1e-6)
    assert (
        explorer.figure.layout.title.text
        == f"Step {explorer.step:,}: {out.mean():.1%} of the codes are clipped"
    )
    assert rows(explorer, view.BOUND)[0, 1] == pytest.approx(min(norms.max(), radius), rel=1e-5)
    assert rows(explorer, view.FREE)[-1, 1] == pytest.approx(norms.min(), rel=1e-5)
    scaled = explorer.growth * 29_500 / explorer.run_length
    for trace, growth in ((view.PER_STEP, explorer.growth), (view.SCALED, scaled)):
        steps, curve = rows(explorer, trace).T
        assert steps[-1] == explorer.run_length
        assert np.allclose(np.log(curve), np.minimum(80, growth * steps), rtol=1e-4, atol=1e-5)
    assert rows(explorer, view.NOW)[0] == pytest.approx([explorer.step, radius], rel=1e-5)
    stop = math.log(norms.max()) / rate(explorer)
    [[x, y]] = rows(explorer, view.RELEASE)
    if stop <= explorer.run_length:
        assert (x, y) == pytest.approx((stop, norms.max()), rel=1e-4)
        assert (
            f"stops binding at step {math.ceil(stop):,}" in explorer.figure.layout.meta["summary"]
        )
    else:
        assert (
            math.isnan(x)
            and "still binds at the end of the run" in explorer.figure.layout.meta["summary"]
        )


CHANGES = [
    ("step", 0),
    ("step", 1777),
    ("step", 3000),
    ("growth", 1e-6),
    ("growth", 0.1),
    ("growth", 1.26e-3),
    ("run_length", 10),
    ("run_length", 29_500),
    ("run_length", 10_000_000),
    ("scaled", True),
]


@pytest.mark.parametrize("through", ["trait", "slider"])
@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_each_slider_moves_codes_norms_and_schedules_as_the_formula_says(through, name, value):
    explorer = RadiusExplorer()
    if through == "slider":
        explorer.controls[name].value = value
    else:
        setattr(explorer, name, value)
    assert getattr(explorer, name) == value
    check(explorer, explorer.codes.codebooks[0].double().numpy())


def test_ten_million_steps_are_finite_and_the_ball_is_hidden():
    explorer = RadiusExplorer(run_length=10_000_000, step=10_000_000, growth=0.1)
    check(explorer, explorer.codes.codebooks[0].double().numpy())
    assert explorer.figure.data[view.BALL].visible is False
    assert "beyond the picture" in explorer.figure.layout.meta["summary"]
    explorer.step = 0
    assert explorer.figure.data[view.BALL].visible is True


def test_the_shell_has_the_radius():
    explorer = RadiusExplorer(step=2000)
    shell = explorer.figure.data[view.BALL]
    norms = np.sqrt(sum(np.asarray(shell[axis], float) ** 2 for axis in "xyz"))
    assert np.allclose(norms, math.exp(0.6), rtol=1e-5)


def test_the_step_stays_within_the_run():
    explorer, sent = RadiusExplorer(step=2000), []
    explorer.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    explorer.run_length = 1000
    assert explorer.step == 1000 == explorer.controls["step"].max and len(sent) == 1
    with pytest.raises(traitlets.TraitError, match="step is 1,001; the run ends after 1,000 steps"):
        explorer.step = 1001
    explorer.reset()
    assert explorer.settings() == {
        "growth": 3e-4,
        "run_length": 3000,
        "step": 2000,
        "scaled": False,
    }
    assert explorer.controls["step"].max == 3000


def test_code_evaluates_to_the_same_radius():
    explorer = RadiusExplorer(growth=5e-4)
    assert eval(explorer.code()).radius == arcvq.Exponential(5e-4)
    explorer.scaled, explorer.run_length = True, 2000
    assert eval(explorer.code()).radius.rate == pytest.approx(5e-4 * 14.75)
    assert explorer.copy_button.code == explorer.code()


def test_scaled_is_the_schedule_of_the_whole_package():
    assert view.ball_schedule(3e-4, 400, True).rate == pytest.approx(
        arcvq.SAMP.for_run(400).radius.rate
    )


def test_snapshots_are_shown_at_their_share_of_the_run():
    books = {0: torch.randn(20, 3), 50: 2 * torch.randn(20, 3), 100: 3 * torch.randn(20, 3)}
    explorer = RadiusExplorer(books, growth=1e-3)
    assert (explorer.run_length, explorer.step) == (100, 20)
    explorer.run_length = 1000
    for step, book in ((0, 0), (499, 0), (500, 50), (999, 50), (1000, 100)):
        explorer.step = step
        shown = rows(explorer, view.FREE)[:, 1]
        assert np.allclose(shown, np.sort(books[book].norm(dim=1).numpy())[::-1], rtol=1e-5)


def test_with_snapshots_the_last_binding_is_that_of_any_of_them():
    codes = torch.eye(3)[None] * torch.tensor([1.0, 3.0, 2.0])[:, None, None]
    free = view.Codes(np.array([0.0, 0.5, 1.0]), codes, codes.numpy())
    radius = arcvq.Exponential(0.01)
    assert view.last_binding(free, radius, 400) == 0, (
        "M(200) = 7.4 is above the 3 that begins there"
    )
    assert view.last_binding(free, radius, 200) == pytest.approx(100 * math.log(3))
    assert view.last_binding(free, arcvq.Exponential(1e-4), 200) == math.inf


def test_more_dimensions_keep_norms_and_say_how_directions_were_drawn():
    codebook = 2 * torch.randn(30, 16)
    explorer = RadiusExplorer(codebook, run_length=29_500, step=29_500)
    drawn = np.concatenate([rows(explorer, view.INSIDE), rows(explorer, view.HELD)])
    assert np.allclose(np.linalg.norm(drawn, axis=1), codebook.norm(dim=1), rtol=1e-4)
    summary = explorer.figure.layout.meta["summary"]
    assert "Directions by PCA" in summary and "norms are exact" in summary
    for dim in (1, 2):
        RadiusExplorer(torch.randn(5, dim)).step = 3


def test_one_code_and_equal_codes_are_drawn():
    check(RadiusExplorer(torch.ones(1, 3)), np.ones((1, 3)))
    check(RadiusExplorer(torch.ones(9, 3)), np.ones((9, 3)))


def test_short_codes_are_never_bound():
    explorer = RadiusExplorer(0.1 * torch.randn(9, 3))
    assert (
        "never binds" in explorer.figure.layout.meta["summary"]
        and "0.0%" in explorer.figure.layout.title.text
    )


@pytest.mark.parametrize(
    ("codebook", "words"),
    [
        (torch.zeros(2, 3), "2 of 2 codes have norm 0"),
        (torch.empty(0, 3), "shape"),
        (torch.full((1, 3), math.nan), "NaN"),
        ({}, "the run has no snapshots of its codebook"),
    ],
)
def test_bad_input_is_one_sentence(codebook, words):
    with pytest.raises(ValueError, match=words) as caught:
        RadiusExplorer(codebook)
    assert "\n" not in str(caught.value)


def test_a_value_out_of_range_is_named():
    explorer = RadiusExplorer()
    for name, value in (("growth", 0.0), ("growth", 1.0), ("run_length", 1), ("step", -1)):
        with pytest.raises(traitlets.TraitError, match=name):
            setattr(explorer, name, value)


def test_a_change_is_one_message_and_the_camera_stays():
    explorer, sent = RadiusExplorer(), []
    explorer.figure.layout.scene.camera.eye.x = 5
    explorer.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    explorer.step = 3000
    assert len(sent) == 1 and explorer.figure.layout.scene.camera.eye.x == 5
    assert not {view.FREE, view.PER_STEP, view.SCALED} & set(sent[0]["style_traces"])


def test_reset_goes_back_from_a_step_beyond_the_first_run():
    explorer = RadiusExplorer()
    start = explorer.settings()
    explorer.run_length = 100_000
    explorer.step = 90_000
    explorer.reset()
    slider = explorer.controls["step"]
    assert explorer.settings() == start
    assert (slider.value, slider.max) == (600, 3000)
