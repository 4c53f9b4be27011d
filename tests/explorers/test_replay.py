"""The replay shows every snapshot as it was: codes at their norms, how often used, and curves."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ipywidgets.widgets.widget import _remove_buffers

import arcvq
from arcvq.explorers import TrainingReplay
from arcvq.explorers.drawn_codes import FLOOR, LIMIT, MOST, pack
from arcvq.schedules import Adaptive, Exponential
from arcvq.training import Run, Snapshot
from tests.explorers.javascript import modules, opened

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
    logged = np.array([2, 4, 6, 8, 10])
    history = pd.DataFrame(
        {
            "step": logged,
            "codes_used": [1, 2, 3, 4, 5],
            "perplexity": [1.0, 2, 3, 4, 5],
            "psnr": [10.0, 11, 12, 13, 14],
        }
    )
    if isinstance(quantizer, arcvq.SphericalQuantizer):
        history["radius"] = np.exp(0.05 * logged)
    return Run(
        arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2),
        history.to_dict("records"),
        snapshots,
        {},
        1.0,
    )


def value(explorer, name):
    """What a replay sends to the browser, with numbers as an array."""
    sent = explorer.data[name]
    if not isinstance(sent, dict):
        return sent
    return np.frombuffer(sent["bytes"], sent["array"].removesuffix("Array").lower())


def rows_of(packed, extent):
    """Where the browser draws packed codes (see web/codes.js)."""
    turn, tilt, height = np.asarray(packed, float).T / MOST
    turn = 2 * np.pi * (turn - 0.5)
    tilt = np.pi * (tilt - 0.5)
    norm = np.where(height > 0, extent * FLOOR ** (1 - height), 0)
    units = [np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)]
    return norm[:, None] * np.stack(units, axis=1)


def drawn(explorer, step, run=0):
    """Where the codes of a snapshot are drawn."""
    place = value(explorer, f"steps{run}").index(step)
    packed = value(explorer, f"codes{run}").reshape(-1, len(value(explorer, f"shown{run}")), 3)
    return rows_of(packed[place], value(explorer, f"extent{run}"))


def counts(explorer, step, run=0):
    place = value(explorer, f"steps{run}").index(step)
    return value(explorer, f"counts{run}").reshape(-1, len(value(explorer, f"shown{run}")))[place]


@pytest.mark.parametrize("step", STEPS)
def test_in_three_dimensions_every_code_is_drawn_where_it_was(step):
    run = make_run()
    explorer = TrainingReplay(run)
    codes = run.snapshots[step].codebook.numpy()
    off = np.linalg.norm(drawn(explorer, step) - codes, axis=1)
    assert (off < 2e-4 * np.linalg.norm(codes, axis=1)).all()
    np.testing.assert_array_equal(counts(explorer, step), run.snapshots[step].counts)
    assert value(explorer, "trust") == "Directions and norms are exact."


@pytest.mark.parametrize("dim", [1, 2, 4, 64])
def test_the_distance_from_the_center_is_the_norm(dim):
    run = make_run(dim)
    explorer = TrainingReplay(run)
    lengths = np.linalg.norm(drawn(explorer, 4), axis=1)
    np.testing.assert_allclose(lengths, run.snapshots[4].codebook.norm(dim=1), rtol=2e-4)
    assert ("of the squared length" in value(explorer, "trust")) == (dim > 3)


@given(arrays(float, (4, 3), elements=st.floats(-1, 1, width=32)), st.floats(1e-30, 1e30))
def test_codes_of_any_length_are_packed_where_they_are(codes, size):
    codes *= size
    norms = np.linalg.norm(codes, axis=1)
    rows = rows_of(pack(codes, np.eye(3), norms.max()), norms.max())
    far = np.linalg.norm(rows - codes, axis=1)
    assert (far <= 3e-4 * norms + 1.01 * FLOOR * norms.max()).all()


def test_the_browser_unpacks_codes_and_colors_them_by_usage():
    codes = np.random.default_rng(0).normal(size=(40, 3)) * np.geomspace(1e-4, 10, 40)[:, None]
    codes[7] = 0
    longest = float(np.linalg.norm(codes, axis=1).max())
    packed = pack(codes, np.eye(3), longest)
    with modules("codes") as javascript:
        rows = javascript("rowsOf(packed, e)", packed=packed.ravel().tolist(), e=longest)
        colors = javascript(
            "usageColors(shares, decadesAround(0.002, 0.7), { isDark: false, soft: 'gray' })",
            shares=[0, 0.001, 0.03, 0.9],
        )
        ends = javascript("[[2, 30], [1e-5, 0.1], [1, 1]].map((pair) => decadesAround(...pair))")
    np.testing.assert_allclose(np.reshape(rows, (40, 3)), rows_of(packed, longest), atol=1e-12)
    assert colors[0] == "gray"
    assert colors[1] == "rgb(94 201 98)"
    assert len({*colors}) == 4
    np.testing.assert_allclose(ends, [[1, 100], [1e-5, 0.1], [0.1, 1]])


SEEN = """{
  titles: view.spheres.map(({ title }) => title.textContent),
  points: view.spheres.map(({ sphere }) => sphere.layers[0]),
  tips: view.spheres.map(({ sphere }) => sphere.layers[0].tell(3).textContent),
  curves: view.charts.map(({ content }) => content.title),
  summary: view.summary.textContent,
  legend: place.querySelector(".arcvq-usage-legend").textContent,
}"""


def counted_run(windows):
    """A run that was measured at steps 4 and 10, with so many tokens counted at each snapshot."""
    run = make_run(steps=tuple(windows))
    for step, times in windows.items():
        uses = times * torch.tensor([0, 1, 1, 3, 5, 0])
        run.snapshots[step] = Snapshot(run.snapshots[step].codebook, uses)
    return run


def test_colors_are_shares_of_the_tokens_however_many_steps_were_counted():
    replay = TrainingReplay(counted_run({0: 0, 4: 40, 5: 4}))
    with modules("replay", "page") as javascript:
        long, short = (opened(javascript, replay, SEEN, step=step) for step in (4, 5))
    assert long["points"][0]["colors"] == short["points"][0]["colors"]
    assert long["points"][0]["hollow"] == [True, False, False, False, False, True]
    assert "chosen 120 times in 400 tokens" in long["tips"][0]
    assert "chosen 12 times in 40 tokens" in short["tips"][0]
    assert "code chosen for 10%  100% of the tokens since the previous" in long["legend"]


def test_words_and_curves_tell_the_same_codes_used_and_none_before_the_first_count():
    replay = TrainingReplay({"plain": counted_run({0: 0, 1: 2, 5: 4}), "samp": make_run()})
    with modules("replay", "page") as javascript:
        begin, uncounted, later = (
            opened(javascript, replay, SEEN, step=step) for step in (0, 1, 5)
        )
    assert begin["titles"][0] == "plain, step 0: codes not counted yet"
    assert begin["summary"].startswith("At step 0: plain codes not counted yet")
    assert "not counted yet" in begin["tips"][0]
    assert not any(begin["points"][0]["hollow"]), "nobody knows that they are unused"
    assert uncounted["titles"][0] == "plain, step 1"
    assert later["titles"] == [
        "plain, step 5: 2 of 6 codes used",
        "samp, step 4: 2 of 6 codes used",
    ]
    assert "At step 5: plain 2 of 6 codes used, perplexity 2.0" in later["summary"]
    assert "training PSNR 11.0 dB" in later["summary"]
    assert later["curves"][2] == "PSNR of training batches (dB)"


def test_a_run_of_which_nothing_was_counted_is_drawn():
    replay = TrainingReplay(counted_run({0: 0}))
    with modules("replay", "page") as javascript:
        found = opened(javascript, replay, SEEN)
    assert len(set(found["points"][0]["colors"])) == 1
    assert "NaN" not in found["legend"]


def test_the_axes_are_those_of_the_last_snapshot_at_every_step():
    run = make_run(8)
    last = run.snapshots[10].codebook.double().numpy()
    axes = np.linalg.svd(last)[2][:3]
    explorer = TrainingReplay(run)
    for step in STEPS:
        flat = run.snapshots[step].codebook.double().numpy() @ axes.T
        # The signs of the axes are free, so inner products are compared.
        shown = drawn(explorer, step)
        shown = shown / np.linalg.norm(shown, axis=1, keepdims=True)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        np.testing.assert_allclose(shown @ shown.T, flat @ flat.T, atol=1e-3)
    share = np.square(last @ axes.T).sum() / np.square(last).sum()
    assert f"{share:.0%} of the squared length" in value(explorer, "trust")


def test_a_step_between_snapshots_becomes_the_nearest():
    explorer = TrainingReplay(make_run(), step=3)
    assert explorer.step == 4
    explorer.step = 1000
    assert explorer.step == 10
    assert explorer.code() == "TrainingReplay(runs, step=10)"
    explorer.reset()
    assert explorer.step == 4
    assert explorer.specs[0]["options"] == [0, 4, 10], "the slider stops at snapshots alone"


def test_two_runs_keep_their_own_steps_names_and_balls():
    runs = {
        "plain": make_run(quantizer=arcvq.EuclideanQuantizer(6, 3), shift=0.3),
        "samp": make_run(steps=(0, 6, 10)),
    }
    explorer = TrainingReplay(runs, step=6)
    assert explorer.steps == [0, 4, 6, 10]
    assert [value(explorer, f"name{run}") for run in (0, 1)] == ["plain", "samp"]
    assert [value(explorer, f"steps{run}") for run in (0, 1)] == [[0, 4, 10], [0, 6, 10]]
    assert np.isnan(value(explorer, "radii0")).all()
    np.testing.assert_allclose(value(explorer, "radii1"), np.exp(0.05 * np.array([0, 6, 10])))


def fitted(quantizer, schedule="restart"):
    """A run of 12 steps with a row for each, and its replay."""
    pixels = torch.arange(16 * 64).reshape(16, 1, 8, 8).to(torch.uint8)
    part = arcvq.ImageSplit(pixels, torch.zeros(16, dtype=torch.int64))
    data = arcvq.ImageData("ramps", part, part, part, ("ramp",))
    return arcvq.fit(
        arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2),
        data,
        steps=12,
        batch_size=8,
        schedule=schedule,
        compute=arcvq.Compute("cpu", "float32"),
        recording=arcvq.Recording(log_every=1, snapshots=4, progress=False),
    )


def trained_quantizer():
    """One whose ball has grown for 8 steps."""
    quantizer = arcvq.SphericalQuantizer(6, 3, arcvq.SAMP(radius=Exponential(0.2)))
    quantizer(torch.randn(20, 3))
    quantizer.step.fill_(7)
    quantizer.after_step()
    return quantizer


def quantizer_with_long_codes():
    quantizer = arcvq.SphericalQuantizer(6, 3, arcvq.SAMP(radius=Exponential(0.2)))
    quantizer.set_codebook(30 * torch.eye(6, 3) + 1)
    return quantizer


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (lambda: arcvq.SphericalQuantizer(6, 3), "restart"),
        (lambda: arcvq.SphericalQuantizer(6, 3, arcvq.SAMP(radius=Adaptive(0.5, 3.0))), "restart"),
        (trained_quantizer, "continue"),
        (quantizer_with_long_codes, "restart"),
    ],
)
def test_the_ball_is_the_one_that_held_the_codes_at_that_step(make, schedule):
    run = fitted(make(), schedule)
    replay = TrainingReplay(run)
    assert value(replay, "steps0") == [0, 3, 6, 9, 12]
    in_force = run.history.set_index("step")["radius"].loc[[3, 6, 9, 12]]
    np.testing.assert_allclose(value(replay, "radii0")[1:], in_force)


def test_the_ball_of_a_run_that_starts_anew_begins_with_radius_1_and_others_begin_as_they_stood():
    assert value(TrainingReplay(fitted(arcvq.SphericalQuantizer(6, 3))), "radii0")[0] == 1
    continued = value(TrainingReplay(fitted(trained_quantizer(), "continue")), "radii0")
    assert continued[0] == pytest.approx(np.exp(0.2 * 9))


def test_a_second_run_can_be_given_without_names():
    run = make_run()
    explorer = TrainingReplay(run, make_run(steps=(0, 6)), step=4)
    assert (value(explorer, "name0"), value(explorer, "name1")) == ("run", "other")
    assert explorer.code() == "TrainingReplay(run, other, step=4)"


def test_the_curves_hold_what_was_measured():
    run = make_run()
    run.rows[1]["psnr"] = float("nan")
    explorer = TrainingReplay(run)
    assert value(explorer, "codes_used0").tolist() == [2, 4, 6, 8, 10, 1, 2, 3, 4, 5]
    assert value(explorer, "psnr0").tolist() == [2, 6, 8, 10, 10, 12, 13, 14]
    long = [{"step": step, "psnr": float(step)} for step in range(5000)]
    explorer = TrainingReplay(Run(run.model, long, run.snapshots, {}, 1.0))
    curve = value(explorer, "psnr0")
    assert 500 < len(curve) / 2 <= 1000, "more points than pixels help nobody"
    assert [curve[0], curve[-1]] == [0, 4999]


def test_each_code_comes_with_the_patch_that_it_decodes_to():
    run = make_run()
    explorer = TrainingReplay(run)
    side = value(explorer, "side0")
    patches = value(explorer, "patches0").reshape(6, side, side, 1)
    assert side == run.model.downsample == 4
    for code in range(6):
        image = run.model.decode(torch.full((1, 3, 3), code))[0]
        pixels = (image[:, 4:8, 4:8].movedim(0, -1) + 1) * 127.5
        np.testing.assert_allclose(patches[code], pixels, atol=0.51)


def test_equal_codes_one_code_and_zero_codes_are_drawn():
    for codes in (torch.ones(5, 4), torch.ones(1, 1), torch.zeros(3, 4)):
        run = make_run(codes.shape[1], len(codes))
        run.snapshots = {0: Snapshot(codes, torch.ones(len(codes), dtype=torch.int64))}
        lengths = np.linalg.norm(drawn(TrainingReplay(run), 0), axis=1)
        np.testing.assert_allclose(lengths, codes.norm(dim=1), rtol=2e-4)


def test_more_codes_than_are_drawn_are_thinned_and_said_to_be():
    run = make_run(2, LIMIT + 1, steps=(0, 1))
    explorer = TrainingReplay(run)
    assert len(value(explorer, "shown0")) == LIMIT
    assert value(explorer, "note0") == " 4,096 of 4,097 codes are drawn."
    assert value(explorer, "total0") == 4097
    tokens = LIMIT * (LIMIT + 1) // 2
    assert value(explorer, "tokens0") == [0, tokens], "of all codes, drawn or not"


def test_two_quick_runs_open_with_less_than_100_kb():
    runs = {"plain": make_run(16, 128, range(25)), "samp": make_run(16, 128, range(25))}
    state, _, buffers = _remove_buffers(TrainingReplay(runs).get_state())
    assert len(json.dumps(state)) + sum(map(len, buffers)) < 90_000


def test_bad_input_is_named(unchecked):
    run = make_run()
    with pytest.raises(ValueError, match="run 'bare' has no snapshots of its codebook"):
        TrainingReplay({"bare": Run(run.model, run.rows, {}, {}, 1.0)})
    with pytest.raises(ValueError, match="one or two runs side by side, not 3"):
        TrainingReplay({"a": run, "b": run, "c": run})
    with pytest.raises(ValueError, match="one or two runs side by side, not 0"):
        TrainingReplay({})
    with pytest.raises(ValueError, match="'stride' is no setting of TrainingReplay; it has step"):
        TrainingReplay(run, stride=2)
    run.snapshots[4].codebook[2, 1] = torch.nan
    with pytest.raises(
        ValueError, match=r"codebook of 'run' at step 4 has NaN or infinity in 1 of its 6 rows"
    ):
        TrainingReplay(run)


def test_a_run_without_a_history_shows_its_codes():
    run = make_run()
    run.rows = []
    explorer = TrainingReplay(run)
    assert len(drawn(explorer, 10)) == 6
    assert not len(value(explorer, "psnr0"))


def test_a_model_without_codes_has_no_patches():
    explorer = TrainingReplay(make_run(quantizer=arcvq.ContinuousQuantizer(6, 3)))
    assert not len(value(explorer, "patches0"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_the_gpu_is_drawn():
    run = make_run()
    run.model.cuda()
    for step, shot in run.snapshots.items():
        on_gpu = [tensor.cuda() for tensor in shot]
        run.snapshots[step] = Snapshot(*on_gpu)
    assert len(drawn(TrainingReplay(run), 10)) == 6
