"""The replay draws every snapshot as it was: codes at their norms, used or not, and curves."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import arcvq
from arcvq.explorers import TrainingReplay
from arcvq.explorers.replay_figure import reels, replay_picture
from arcvq.training import Run, Snapshot

STEPS = (0, 4, 10)


def make_run(dim=3, codes=6, steps=STEPS, quantizer=None, shift=0.0) -> Run:
    generator = torch.Generator().manual_seed(int(10 * shift))
    snapshots = {
        step: Snapshot(
            torch.randn(codes, dim, generator=generator) + step * shift,
            torch.arange(codes) * (step > 0),
        )
        for step in steps
    }
    quantizer = quantizer or arcvq.SphericalQuantizer(
        codes, dim, arcvq.SAMP(radius=arcvq.schedules.Exponential(0.05), weight=None)
    )
    history = pd.DataFrame(
        {
            "step": [2, 4, 6, 8, 10],
            "codes_used": [1, 2, 3, 4, 5],
            "perplexity": [1.0, 2, 3, 4, 5],
            "psnr": [10.0, 11, 12, 13, 14],
        }
    )
    return Run(
        arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2),
        history.to_dict("records"),
        snapshots,
        {},
        1.0,
    )


def traces(explorer, name):
    return [trace for trace in explorer.figure.data if trace.name == name]


def drawn(trace):
    return np.stack([trace.x, trace.y, trace.z], axis=1)


@pytest.mark.parametrize("step", STEPS)
def test_in_three_dimensions_every_code_is_drawn_where_it_was(step):
    run = make_run()
    explorer = TrainingReplay(run, step=step)
    codes, counts = run.snapshots[step].codebook.numpy(), run.snapshots[step].counts.numpy()
    np.testing.assert_allclose(
        drawn(traces(explorer, "used codes")[0]), codes[counts > 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        drawn(traces(explorer, "unused codes")[0]), codes[counts == 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        traces(explorer, "used codes")[0].marker.color, np.log10(counts[counts > 0])
    )


@pytest.mark.parametrize("dim", [1, 2, 4, 64])
def test_the_distance_from_the_centre_is_the_norm(dim):
    run = make_run(dim)
    explorer = TrainingReplay(run, step=4)
    lengths = np.linalg.norm(drawn(traces(explorer, "used codes")[0]), axis=1)
    np.testing.assert_allclose(lengths, run.snapshots[4].codebook.norm(dim=1)[1:], rtol=1e-4)
    assert ("of the variance" in explorer.figure.layout.meta["summary"]) == (dim > 3)


def test_the_axes_are_those_of_the_last_snapshot_at_every_step():
    run = make_run(8)
    last = run.snapshots[10].codebook.double().numpy()
    axes = np.linalg.svd(last)[2][:3]
    for step in STEPS:
        flat = run.snapshots[step].codebook.double().numpy() @ axes.T
        shown = reels(run)[0].codes(step)
        cosines = (
            (flat * shown).sum(axis=1)
            / np.linalg.norm(flat, axis=1)
            / np.linalg.norm(shown, axis=1)
        )
        np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-9)
    share = (np.square(last @ axes.T).sum()) / np.square(last).sum()
    assert f"{share:.0%} of the variance" in TrainingReplay(run).figure.layout.meta["summary"]


def test_the_slider_moves_picture_cursor_and_words():
    explorer = TrainingReplay(make_run(), step=0)
    before = drawn(traces(explorer, "unused codes")[0])
    explorer.controls["step"].value = 10
    assert explorer.step == 10
    assert [list(trace.x) for trace in traces(explorer, "this step")] == [[10, 10]] * 3
    assert len(before) == 6 and len(drawn(traces(explorer, "unused codes")[0])) == 1
    summary = explorer.figure.layout.meta["summary"]
    assert "step 10: run 5 of 6 codes used, perplexity 5.0, PSNR 14.0 dB, ball 1.65" in summary
    explorer.reset()
    assert explorer.step == 0 and explorer.controls["step"].value == 0
    np.testing.assert_allclose(drawn(traces(explorer, "unused codes")[0]), before)


def test_a_step_between_snapshots_becomes_the_nearest():
    explorer = TrainingReplay(make_run(), step=3)
    assert explorer.step == 4
    explorer.step = 1000
    assert explorer.step == 10
    assert explorer.code() == "TrainingReplay(runs, step=10)"


def test_two_runs_share_scale_and_camera_and_keep_their_own_steps():
    runs = {
        "plain": make_run(quantizer=arcvq.EuclideanQuantizer(6, 3), shift=0.3),
        "samp": make_run(steps=(0, 6, 10)),
    }
    explorer = TrainingReplay(runs, step=6)
    assert explorer.steps == [0, 4, 6, 10]
    layout = explorer.figure.layout
    assert (
        layout.scene.xaxis.range == layout.scene2.zaxis.range
        and layout.scene.camera == layout.scene2.camera
    )
    assert [note.text for note in layout.annotations[1:]] == ["plain, step 4", "samp, step 6"]
    assert [ball.visible for ball in traces(explorer, "ball of radius M(t)")] == [False, True]
    assert layout.meta["summary"].startswith("At step 6: plain 5 of 6 codes used")
    turned = {"eye": {"x": 2.0, "y": 0.0, "z": 0.0}}
    explorer._turn(layout, go.layout.scene.Camera(turned))
    assert layout.scene.camera.eye.x == layout.scene2.camera.eye.x == 2.0


def test_the_ball_has_the_radius_of_the_step_and_goes_once_it_is_beyond_the_codes():
    quantizer = arcvq.SphericalQuantizer(
        6, 3, arcvq.SAMP(radius=arcvq.schedules.Exponential(0.2), weight=None)
    )
    explorer = TrainingReplay(make_run(quantizer=quantizer), step=4)
    ball = traces(explorer, "ball of radius M(t)")[0]
    np.testing.assert_allclose(np.sqrt(ball.x**2 + ball.y**2 + ball.z**2), np.exp(0.8), rtol=1e-5)
    explorer.step = 10
    assert (
        not ball.visible
        and "ball 7.39, beyond the picture" in explorer.figure.layout.meta["summary"]
    )
    explorer.step = 4
    assert ball.visible


def test_the_live_figure_equals_a_fresh_picture_after_any_walk():
    runs = {
        "plain": make_run(8, quantizer=arcvq.EuclideanQuantizer(6, 8), shift=0.3),
        "samp": make_run(8),
    }
    explorer = TrainingReplay(runs)
    for step in (0, 4, 0, 10, 4):
        explorer.step = step
    fresh = replay_picture(reels(runs), 4)
    for live, new in zip(explorer.figure.data, fresh.data, strict=True):
        for axis in {*"xyz"} & {*new}:
            np.testing.assert_array_equal(live[axis], new[axis])
    assert explorer.figure.layout.meta == fresh.layout.meta


def test_equal_codes_one_code_and_zero_codes_are_drawn():
    for codes in (torch.ones(5, 4), torch.ones(1, 1), torch.zeros(3, 4)):
        run = make_run(codes.shape[1], len(codes))
        run.snapshots = {0: Snapshot(codes, torch.ones(len(codes), dtype=torch.int64))}
        assert np.isfinite(drawn(traces(TrainingReplay(run), "used codes")[0])).all()


def test_more_codes_than_a_browser_bears_are_thinned_and_said_to_be():
    run = make_run(2, 20_001, steps=(0, 1))
    explorer = TrainingReplay(run)
    assert sum(len(trace.x) for trace in explorer.figure.data[:2]) == 20_000
    assert "20,000 of 20,001 codes are drawn" in explorer.figure.layout.meta["summary"]


def test_bad_input_is_named(unchecked):
    run = make_run()
    with pytest.raises(ValueError, match="run 'bare' has no snapshots of its codebook"):
        TrainingReplay({"bare": Run(run.model, run.rows, {}, {}, 1.0)})
    with pytest.raises(ValueError, match="one or two runs side by side, not 3"):
        TrainingReplay({"a": run, "b": run, "c": run})
    with pytest.raises(ValueError, match="one or two runs side by side, not 0"):
        TrainingReplay({})
    run.snapshots[4].codebook[2, 1] = torch.nan
    with pytest.raises(
        ValueError, match=r"codebook of 'run' at step 4 has NaN or infinity in 1 of its 6 rows"
    ):
        TrainingReplay(run)


def test_a_run_without_a_history_shows_its_codes():
    run = make_run()
    run.rows = []
    assert "PSNR" not in TrainingReplay(run).figure.layout.meta["summary"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_the_gpu_is_drawn():
    run = make_run()
    run.model.cuda()
    run.snapshots = {
        step: Snapshot(*(tensor.cuda() for tensor in shot)) for step, shot in run.snapshots.items()
    }
    assert len(drawn(traces(TrainingReplay(run), "used codes")[0])) == 5
