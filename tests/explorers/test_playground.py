"""The playground without a browser: settings, frames, playing under an event loop, the still."""

import asyncio

import numpy as np
import pytest
import torch

from arcvq.explorers import Playground
from arcvq.explorers import playground as module


@pytest.fixture
def playground():
    playground = Playground(num_latents=40, num_codes=12)
    yield playground
    playground.close()


def decoded(playground):
    """The numbers of a frame, taken apart as the canvas does."""
    floats = np.frombuffer(playground.canvas.frame, np.float32)
    (number, step, latents, codes, rows, radius, reach), rest = floats[:7], floats[7:]
    sizes = [int(size) for size in [*[3 * latents, 3 * codes, codes] * 2, rows, 3 * rows, 3 * rows]]
    assert sum(sizes) == len(rest)
    parts = np.split(rest, np.cumsum(sizes)[:-1])
    names = [
        "samp latents",
        "samp codes",
        "samp counts",
        "plain latents",
        "plain codes",
        "plain counts",
        "steps",
        "samp curves",
        "plain curves",
    ]
    header = {"number": number, "step": step, "radius": radius, "reach": reach}
    return header | dict(zip(names, parts, strict=True))


def say(playground, **content):
    """What the canvas would send."""
    playground.canvas._handle_custom_msg(content, [])


def test_a_frame_holds_the_state_of_the_simulation(playground):
    playground.step(7)
    frame, world = decoded(playground), playground.simulation
    assert frame["step"] == 7 and frame["radius"] == np.float32(world.radius)
    for name, learner in world.learners.items():
        assert np.array_equal(frame[f"{name} latents"].reshape(-1, 3), learner.latents.numpy())
        assert np.array_equal(frame[f"{name} codes"].reshape(-1, 3), learner.codes.numpy())
        assert np.array_equal(frame[f"{name} counts"], learner.counts.numpy())
        curves = frame[f"{name} curves"].reshape(3, -1)
        assert np.allclose(
            curves, learner.table()[["codes_used", "perplexity", "min_angle"]].to_numpy().T
        )
    assert frame["steps"].tolist() == list(range(8))
    assert playground.canvas.summary == world.summary()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clusters", 2),
        ("concentration", 150.0),
        ("margin", 0.4),
        ("scale", 20.0),
        ("top_k", 7),
        ("growth", 0.02),
        ("weight", 2.0),
        ("learning_rate", 0.1),
    ],
)
def test_each_slider_changes_the_simulation_and_what_is_drawn_next(playground, name, value):
    other = Playground(num_latents=40, num_codes=12)
    playground.step(3), other.step(3)
    playground.controls[name].value = value
    assert getattr(playground, name) == pytest.approx(value)
    assert getattr(playground.simulation.settings, name) == pytest.approx(value)
    playground.step(9), other.step(9)
    assert not np.array_equal(decoded(playground)["samp codes"], decoded(other)["samp codes"])
    assert f"{name}=" in playground.copy_button.code


def test_a_setting_moves_its_slider(playground):
    playground.margin = 0.3
    assert playground.controls["margin"].value == 0.3
    with pytest.raises(ValueError, match="'margins' is no setting of Playground"):
        Playground(margins=1)


def test_step_counts(playground):
    playground.step()
    playground.step(49)
    assert playground.simulation.steps == decoded(playground)["step"] == 50


def test_reset_returns_to_the_start_exactly(playground):
    start = playground.canvas.frame[4:]  # all but the frame's own number
    playground.margin, playground.clusters = 0.5, 2
    playground.step(5)
    playground.reset()
    assert (
        playground.canvas.frame[4:] == start
        and playground.margin == 0.1
        and playground.clusters == 6
    )


def test_restart_keeps_the_settings(playground):
    playground.margin = 0.5
    playground.step(5)
    playground.restart()
    assert (
        playground.simulation.steps == 0
        and playground.margin == playground.simulation.settings.margin == 0.5
    )


def test_the_code_makes_the_same_playground_again(playground):
    playground.weight = 1.5
    again = eval(playground.code(), {"Playground": Playground})
    again.step(3), playground.step(3)
    assert torch.equal(again.simulation.samp.codes, playground.simulation.samp.codes)


def test_buttons_do_what_they_say(playground):
    buttons = {button.description: button for button in playground.buttons.children[:-1]}
    assert [*buttons] == ["play", "pause", "step", "reset", "restart"]
    assert all(f"arcvq-{name}" in button._dom_classes for name, button in buttons.items())
    buttons["step"].click()
    assert playground.simulation.steps == 1
    buttons["reset"].click()
    assert playground.simulation.steps == 0


def test_it_plays_without_blocking_and_pauses():
    async def visit():
        playground = Playground(num_latents=40, num_codes=12)
        playground.play()
        assert playground.playing and playground.simulation.steps == 0
        await asyncio.sleep(0.3)
        playground.margin = 0.4  # while it plays
        await asyncio.sleep(0.1)
        playground.pause()
        seen = playground.simulation.steps
        await asyncio.sleep(0.1)
        assert not playground.playing and playground._task.done()
        return seen, playground.simulation.steps, playground.simulation.settings.margin

    seen, after, margin = asyncio.run(visit())
    assert 2 <= seen == after and margin == 0.4


def test_it_never_runs_ahead_of_the_browser():
    async def visit():
        playground = Playground(num_latents=40, num_codes=12)
        say(playground, view=True)
        playground.play()
        await asyncio.sleep(0.2)
        # Nothing was drawn, so no more is sent.
        assert playground.simulation.steps == module.IN_FLIGHT
        say(playground, drawn=int(decoded(playground)["number"]))
        await asyncio.sleep(0.1)
        assert playground.simulation.steps == 2 * module.IN_FLIGHT
        say(playground, view=True)  # the page was loaded again
        await asyncio.sleep(0.1)
        assert playground.simulation.steps > 2 * module.IN_FLIGHT
        playground.pause()
        await asyncio.sleep(0.05)
        assert playground._task.done()

    asyncio.run(visit())


def test_a_task_that_dies_shows_its_error(monkeypatch):
    async def visit():
        playground = Playground(num_latents=40, num_codes=12)

        def broken(count=1):
            raise ValueError("no <b>more</b> codes")

        monkeypatch.setattr(playground.simulation, "step", broken)
        playground.play()
        await asyncio.sleep(0.1)
        assert "no &lt;b&gt;more" in playground.message.value and not playground.playing
        monkeypatch.undo()
        playground.play()  # and it plays again once the cause is gone
        await asyncio.sleep(0.1)
        assert playground.simulation.steps and not playground.message.value
        playground.close()

    asyncio.run(visit())


def test_playing_ends_with_the_widget_and_twice_is_once():
    async def visit():
        playground = Playground(num_latents=40, num_codes=12)
        playground.play()
        await asyncio.sleep(0)
        task = playground._task
        playground.play()
        await asyncio.sleep(0.05)
        assert playground._task is task and not task.done()
        playground.pause()
        playground.play()  # at once, before the old task has noticed
        await asyncio.sleep(0.1)
        assert task.done() and not playground._task.done()
        playground.close()
        await asyncio.sleep(0.1)
        assert playground._task.done()

    asyncio.run(visit())


def test_without_an_event_loop_play_says_so(playground):
    with pytest.raises(RuntimeError, match=r"needs a running event loop.*step\(50\)"):
        playground.play()
    assert not playground.playing


def test_a_code_follows_the_hand_and_is_let_go(playground):
    say(playground, hold=["samp", 4, [0.0, 0.0, 1.0]])
    assert decoded(playground)["samp codes"].reshape(-1, 3)[4].tolist() == [0, 0, 1]
    playground.step(2)
    assert playground.simulation.samp.codes[4].tolist() == [0, 0, 1]
    say(playground, release=True)
    assert playground.simulation.held is None


def test_the_still_draws_the_state(playground, monkeypatch):
    playground.step(4)
    figure = playground.figure
    for scene, learner in (
        ("scene", playground.simulation.samp),
        ("scene2", playground.simulation.plain),
    ):
        dots = [
            trace for trace in figure.data if trace.type == "scatter3d" and trace.scene == scene
        ]
        drawn = {
            tuple(point) for trace in dots for point in zip(trace.x, trace.y, trace.z, strict=True)
        }
        assert drawn == {tuple(row) for row in np.vstack([learner.latents, learner.codes])}
    curves = [trace for trace in figure.data if trace.type == "scatter"]
    table = playground.simulation.samp.table()
    assert [list(trace.y) for trace in curves[:3]] == [
        table[name].tolist() for name in table.columns[1:]
    ]
    assert figure.layout.meta["summary"] == playground.simulation.summary()
    monkeypatch.setenv("ARCVQ_HEADLESS", "1")
    monkeypatch.setattr("plotly.io.renderers.default", "plotly_mimetype")
    assert "application/vnd.plotly.v1+json" in playground._repr_mimebundle_()


@pytest.mark.parametrize(
    "settings",
    [
        {"clusters": 1},
        {"concentration": 0.0},
        {"concentration": 200.0},
        {"learning_rate": 0.3},
        {"scale": 50.0, "margin": 1.5, "weight": 3.0},
    ],
)
def test_extremes_stay_finite(settings):
    playground = Playground(num_latents=40, num_codes=12, **settings)
    playground.step(40)
    assert np.isfinite(np.frombuffer(playground.canvas.frame, np.float32)).all()
