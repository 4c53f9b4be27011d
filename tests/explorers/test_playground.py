"""The playground in Python: its settings, its steps, and the state that it shares with a browser."""

import numpy as np
import pytest

import arcvq
from arcvq.explorers import Playground

SIZES = {"num_latents": 40, "num_codes": 12}


@pytest.fixture
def playground():
    playground = Playground(**SIZES)
    yield playground
    playground.close()


def shared(playground):
    """The state that the browser is given."""
    return np.frombuffer(playground.data["state"]["bytes"])


def say(playground, **data):
    """What a browser would send."""
    playground.set_state({"data": playground.data | data})


def test_the_browser_has_all_that_it_needs_to_start(playground):
    assert playground.data["version"] == 0
    assert not playground.playing
    for name, tensor in playground.simulation.draws._asdict().items():
        sent = np.frombuffer(playground.data[name]["bytes"])
        assert np.array_equal(sent, tensor.numpy().ravel())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clusters", 2),
        ("concentration", 150.0),
        ("margin", 0.4),
        ("scale", 20.0),
        ("top_k", 7),
        ("growth", 0.0),
        ("weight", 2.0),
        ("learning_rate", 0.1),
    ],
)
def test_each_setting_changes_the_next_steps(playground, name, value):
    other = Playground(**SIZES)
    playground.step(3)
    other.step(3)
    setattr(playground, name, value)
    assert getattr(playground.simulation.settings, name) == value
    playground.step(9)
    other.step(9)
    assert not np.array_equal(shared(playground), shared(other))
    assert f"{name}={value}" in playground.code()


def test_settings_at_the_start_hold_from_step_0_on():
    given = Playground(**SIZES, clusters=2, margin=0.5)
    later = Playground(**SIZES)
    later.clusters = 2
    later.margin = 0.5
    later.restart()
    given.step(5)
    later.step(5)
    assert np.array_equal(shared(given), shared(later))


def test_unknown_settings_are_refused_in_a_sentence(playground):
    with pytest.raises(AttributeError, match=r"Playground has no setting 'codes'; it has clusters"):
        playground.codes = 8
    with pytest.raises(ValueError, match=r"'margins' is no setting of Playground; it has clusters"):
        Playground(margins=1)


def test_the_ball_may_stand_still(playground):
    playground.growth = 0.0
    playground.step(30)
    assert playground.simulation.radius == 1
    assert playground.simulation.samp.codes.norm(dim=1).max() <= 1 + 1e-6


def test_steps_in_python_go_to_the_browser(playground):
    playground.step()
    playground.step(49)
    assert playground.simulation.steps == 50
    assert np.array_equal(shared(playground), playground.simulation.state)
    assert playground.data["version"] == 2


def test_what_the_browser_has_learned_comes_back(playground):
    other = Playground(**SIZES)
    other.step(30)
    say(playground, state=other.data["state"], playing=False, version=7)
    assert np.array_equal(playground.simulation.state, other.simulation.state)
    assert playground.simulation.summary() == other.simulation.summary()
    playground.step(5)
    other.step(5)
    assert np.array_equal(shared(playground), shared(other))
    assert playground.data["version"] == 8


def test_a_step_in_python_waits_for_what_the_browser_has_learned(playground):
    other = Playground(**SIZES)
    other.step(30)
    start = playground.simulation.state
    say(playground, state=shared_bytes(start), playing=True, version=1)
    with pytest.raises(RuntimeError, match=r"call pause\(\) first, and step\(\) in the next cell"):
        playground.step()
    playground.pause()
    with pytest.raises(RuntimeError, match="the playground is playing in the browser"):
        playground.step()  # in the same cell, in which the state has not come yet
    assert not playground.playing
    assert playground.data["version"] == 1, "the browser goes on from its own state"
    say(playground, state=other.data["state"], playing=False, version=2)
    playground.step()
    assert playground.simulation.steps == 31


def shared_bytes(state):
    """A state as it travels."""
    return {"array": "Float64Array", "bytes": state.tobytes()}


def test_a_restart_gives_up_what_the_browser_plays_and_then_a_step_is_welcome(playground):
    say(playground, state=shared_bytes(playground.simulation.state), playing=True, version=1)
    playground.restart()
    playground.step(2)
    assert playground.simulation.steps == 2
    playground.play()
    with pytest.raises(RuntimeError, match="the playground is playing"):
        playground.step()
    playground.pause()
    playground.step()  # no browser has played
    assert playground.simulation.steps == 3


def test_play_and_pause_leave_the_state_to_the_browser(playground):
    playground.step(5)
    before = playground.data
    playground.play()
    assert playground.playing
    assert playground.data == before | {"playing": True}
    playground.pause()
    assert playground.data == before


def test_restart_keeps_the_settings_and_reset_does_not(playground):
    start = playground.simulation.state
    playground.margin = 0.5
    playground.step(5)
    playground.restart()
    assert playground.margin == 0.5
    assert np.array_equal(shared(playground), start)
    playground.step(5)
    playground.reset()
    assert playground.margin == 0.1
    assert np.array_equal(shared(playground), start)


def test_the_code_makes_the_same_playground_again(playground):
    playground.weight = 1.5
    playground.restart()
    again = eval(playground.code(), {"Playground": Playground})
    again.step(3)
    playground.step(3)
    assert np.array_equal(shared(again), shared(playground))


def test_the_code_has_the_prior_for_a_run_of_any_length(playground):
    playground.margin = 0.4
    lines = playground.code().splitlines()
    prior = [line.removeprefix("# ") for line in lines if line.startswith("#")][1:]
    samp = eval("\n".join(prior), {"arcvq": arcvq, "steps": 6000})
    assert samp.margin == 0.4
    assert samp.radius.value(6000) == pytest.approx(np.exp(300 * playground.growth))


@pytest.mark.parametrize("name", Playground.presets)
def test_every_preset_can_be_chosen_and_stays_finite(playground, name):
    playground.choose_preset(name)
    playground.step(20)
    assert np.isfinite(shared(playground)).all()


def test_the_page_without_a_kernel_holds_the_state(playground):
    before = playground.html()
    playground.step(4)
    after = playground.html()
    assert '"state"' not in before
    assert '"state": {"array": "Float64Array"' in after
