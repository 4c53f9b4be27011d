"""The game hides what a run did until the guess is locked, and then tells how far off it was."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import arcvq
from arcvq.explorers import CollapseGame
from arcvq.training import Run, Snapshot

USED = {"plain": 3, "samp": 70}


def make_run(quantizer, used, history=True):
    counts = torch.zeros(quantizer.num_codes, dtype=torch.int64)
    counts[torch.randperm(quantizer.num_codes)[:used]] = torch.arange(1, used + 1)
    counts[counts == 1] += 5000 - counts.sum()
    snapshots = {
        step: Snapshot(torch.ones(quantizer.num_codes, 4), counts * (step == 37))
        for step in (0, 37)
    }
    table = pd.DataFrame(
        {"step": [11, 23, 37], "codes_used": [used + 9, used + 5, used]} if history else {}
    )
    settings = {"steps": 37, "batch_size": 19, "lr": 0.0125, "data": "digits"}
    return Run(
        arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2),
        table.to_dict("records"),
        snapshots,
        settings,
        1.0,
    )


@pytest.fixture
def runs():
    return {
        "plain": make_run(arcvq.EuclideanQuantizer(40, 4), USED["plain"]),
        "samp": make_run(arcvq.SphericalQuantizer(90, 4), USED["samp"]),
    }


@pytest.fixture
def game(runs):
    return CollapseGame(runs)


def summary(game):
    return game.figure.layout.meta["summary"]


def points(game, trace):
    drawn = game.figure.data[trace]
    return (
        []
        if drawn.x is None
        else list(zip(np.asarray(drawn.x).tolist(), np.asarray(drawn.y).tolist(), strict=True))
    )


def test_the_settings_are_told_in_words(game):
    assert "Plain VQ: the nearest code by distance." in summary(game)
    settings = "K = 40, D = 4, 37 steps, batches of 19 images, learning rate 0.0125"
    assert f"Settings: {settings}, trained on digits." in summary(game)
    assert game.figure.layout.title.text == "Run 1 of 2, plain: how many codes does it use?"
    game.next()
    assert "SAMP: the nearest code by angle, with the margin loss" in summary(game)
    assert "K = 90" in summary(game)


def test_before_the_lock_nothing_in_the_figure_depends_on_what_the_run_did(runs, game):
    other = CollapseGame(
        {"plain": make_run(arcvq.EuclideanQuantizer(40, 4), 31), "samp": runs["samp"]}
    )
    for one in (game, other):
        one.guess = 25
        assert [len(points(one, trace)) for trace in range(6)] == [0, 0, 2, 2, 0, 0]
    assert json.loads(game.figure.to_json()) == json.loads(other.figure.to_json())
    assert "hidden until you lock your guess" in game.figure.layout.annotations[1].text


def test_the_guess_moves_its_lines(game):
    for guess in (0, 40, 25):
        game.controls["guess"].value = guess
        assert points(game, 2) == [(0, guess), (37, guess)]
        assert {x for x, _ in points(game, 3)} == {guess}
        assert f"Your guess is {guess} ({guess / 40:.0%})." in summary(game)
        assert game.figure.data[2].name == f"your guess: {guess} codes"


def test_the_lock_shows_the_run_the_truth_and_how_far_off_the_guess_was(game):
    game.guess = 25
    game.lock_button.click()
    assert points(game, 0) == [(11, 12), (23, 8), (37, 3)]
    assert points(game, 1) == [(0, 0.5), (0, 4995), (1, 3), (2, 2), (3, 0.5)]
    assert points(game, 4) == [(0, 3), (37, 3)]
    assert {x for x, _ in points(game, 5)} == {3}
    assert (
        "plain used 3 of 40 codes (8%) for its last 5,000 training tokens; your guess of 25 "
        "is 22 codes too many. Score so far: 45 of 100 (1 of 2 runs)."
    ) in summary(game)
    assert game.figure.layout.annotations[1].text == ""
    assert game.guesses == {"plain": 25}
    assert game.controls["guess"].disabled
    assert game.lock_button.disabled
    with pytest.raises(
        ValueError,
        match=r"the guess for run 'plain' is locked at 25; reset\(\) forgets all guesses",
    ):
        game.guess = 3


@pytest.mark.parametrize(
    ("guess", "verdict"),
    [(3, "exactly right"), (2, "1 code too few"), (40, "37 codes too many")],
)
def test_the_verdict(game, guess, verdict):
    game.guess = guess
    game.lock()
    assert f"your guess of {guess} is {verdict}" in summary(game)


def test_the_next_run_is_hidden_again_and_the_score_is_the_mean(game):
    game.guess = 25
    game.lock()
    game.next_button.click()
    assert game.run == "samp"
    assert not game.seen
    assert points(game, 0) == []
    assert not game.controls["guess"].disabled
    assert game.controls["guess"].max == 90
    assert "Score so far: 45 of 100 (1 of 2 runs)." in summary(game)
    game.guess = 88
    game.lock()
    assert (
        f"Score so far: {100 * (1 - (22 / 40 + 18 / 90) / 2):.0f} of 100 (2 of 2 runs)."
        in summary(game)
    )
    game.controls["run"].value = "plain"
    assert game.seen
    assert game.guess == 25
    assert game.controls["guess"].disabled
    assert len(points(game, 0)) == 3


def test_a_run_with_fewer_codes_limits_the_guess(game):
    game.run = "samp"
    game.guess = 90
    game.next()
    slider = game.controls["guess"]
    assert (game.run, game.guess, slider.value, slider.max) == ("plain", 40, 40, 40)
    game.guess = 7
    game.lock()
    game.next()
    game.guess = 80
    game.lock()
    for run, guess, codes in (("plain", 7, 40), ("samp", 80, 90)):
        game.next()
        assert (game.run, game.guess, slider.value, slider.max) == (run, guess, guess, codes)


def test_reset_forgets_the_guesses(game):
    start = game.settings()
    game.lock()
    game.next()
    game.lock()
    game.reset()
    assert game.settings() == start
    assert game.guesses == {}
    assert points(game, 0) == []
    assert "Score" not in summary(game)
    assert not game.controls["guess"].disabled
    assert not game.lock_button.disabled


def test_unlocked_everything_is_visible_without_a_lock(runs):
    game = CollapseGame(runs, unlocked=True, run="samp", guess=60)
    assert len(points(game, 0)) == 3
    assert "your guess of 60 is 10 codes too few." in summary(game)
    assert game.code() == "CollapseGame(runs, unlocked=True, run='samp', guess=60)"
    assert "Score" not in summary(game)
    assert CollapseGame(runs).code() == "CollapseGame(runs, run='plain', guess=20)"


def test_the_still_of_a_locked_game_stays_locked(game, monkeypatch):
    monkeypatch.setenv("ARCVQ_HEADLESS", "1")
    monkeypatch.setattr("plotly.io.renderers.default", "plotly_mimetype")
    still = game._repr_mimebundle_()["application/vnd.plotly.v1+json"]
    assert "hidden until" in json.dumps(still)
    assert len(points(game, 0)) == 0
    assert not game.seen


def test_a_codebook_of_one_code_is_a_game_too():
    game = CollapseGame({"run": make_run(arcvq.EMAQuantizer(1, 4), 1)}, guess=1)
    game.lock()
    assert "run used 1 of 1 codes (100%)" in summary(game)
    assert "exactly right. Score so far: 100" in summary(game)


def test_bad_input_is_named(runs):
    with pytest.raises(
        ValueError, match="there is no run to guess at: the game needs at least one, by its name"
    ):
        CollapseGame({})
    with pytest.raises(ValueError, match="run 'bare' has no history of the codes used"):
        CollapseGame({"bare": make_run(arcvq.EuclideanQuantizer(4, 4), 2, history=False)})
    runs["plain"].snapshots = {}
    with pytest.raises(ValueError, match="run 'plain' has no snapshots"):
        CollapseGame(runs)
    del runs["plain"]
    with pytest.raises(ValueError, match="run 'cvq' is unknown; known are samp"):
        CollapseGame(runs, run="cvq")
    with pytest.raises(
        ValueError, match="guess is 91; it must be from 0 to 90, the codes of run 'samp'"
    ):
        CollapseGame(runs).guess = 91


def test_a_real_run_is_played(tmp_path):
    images = arcvq.load_images("plain_digits", device="cpu")
    model = arcvq.VQVAE(1, arcvq.CosineQuantizer(16, 4), hidden=4, residual_hidden=2)
    run = arcvq.fit(
        model,
        images,
        steps=3,
        batch_size=8,
        compute=arcvq.Compute("cpu"),
        recording=arcvq.Recording(progress=False),
    )
    game = CollapseGame({"cosine": run}, unlocked=True)
    used = int(run.history["codes_used"].iloc[-1])
    assert f"cosine used {used} of 16 codes" in summary(game)
    assert "trained on plain_digits." in summary(game)
    assert points(game, 4)[0][1] == used


def test_reset_goes_back_from_a_guess_above_the_codes_of_the_first_run(game):
    start = game.settings()
    game.next()
    game.guess = 80
    game.reset()
    slider = game.controls["guess"]
    assert game.settings() == start
    assert (slider.value, slider.max) == (20, 40)


def test_a_run_and_a_guess_can_be_set_together(game):
    game.guess = 40
    for run, guess, codes in (("samp", 90, 90), ("plain", 7, 40)):
        with game.hold_trait_notifications():
            game.run = run
            game.guess = guess
        slider = game.controls["guess"]
        assert (game.guess, slider.value, slider.max) == (guess, guess, codes)
