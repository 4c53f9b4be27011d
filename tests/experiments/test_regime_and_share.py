import dataclasses
import math

import pandas as pd
import pytest
import torch

from arcvq.experiments import regime_study, run_experiment, share_study
from arcvq.experiments.regime_study import AXES, OWN_VALUES, REGIME
from arcvq.experiments.share_study import CODES_PER_STEP
from arcvq.figures.experiment_results import pictures
from arcvq.samp import PAPER_BALL_RATE
from tests.strokes import IMAGES
from tests.strokes import SMALL as BASE

RATIOS = {  # that each axis moves
    "codes": {"positives"},
    "batch": {"positives"},
    "codes and batch": set(),
    "top_k": {"positives"},
    "share": {"positives"},
    "dim": set(),
    "ball rate": {"rate"},
}
LARGER = dataclasses.replace(BASE, num_codes=128, dim=16, batch_size=64, steps=400)


def run(experiment, out, only=(), base=BASE):
    return run_experiment(
        experiment,
        base,
        IMAGES,
        seeds=1,
        out=out,
        only=only,
        root=out,
        device="cpu",
        workers=1,
        progress=False,
    )


@pytest.mark.parametrize("axis", [*AXES])
def test_an_axis_moves_the_ratio_that_it_should_and_holds_the_other(axis):
    found = [one for one in regime_study.variants(LARGER) if one.facts["axis"] == axis]
    regimes = [one.settings.regime(IMAGES) for one in found if one.facts["line"] == "SAMP"]
    positives = {round(regime.positives_per_latent, 6) for regime in regimes}
    rates = {round(regime.ball_rate, 3) for regime in regimes}
    moved = {"positives"} if len(positives) > 1 else set()
    moved |= {"rate"} if len(rates) > 1 else set()
    assert moved == RATIOS[axis]
    assert PAPER_BALL_RATE in rates


def test_every_axis_goes_through_the_base_with_the_same_run():
    found = regime_study.variants(LARGER)
    assert len({one.name for one in found}) == len(found)
    for line in ("SAMP", "cosine"):
        axes = {}
        for one in found:
            if one.facts["line"] == line:
                axes.setdefault(one.facts["axis"], set()).add(one.settings)
        assert len(set.intersection(*axes.values())) == 1
        assert {*axes} == ({*AXES} if line == "SAMP" else {*OWN_VALUES})


def test_spans_are_those_of_the_means_over_an_axis():
    rows = []
    for line, values in {"SAMP": [20, 23], "cosine": [20, 21]}.items():
        for value, psnr in enumerate(values):
            for seed in range(2):
                row = {"axis": "dim", "line": line, "value": value, "psnr": psnr + seed}
                rows.append(row)
    rows.append({"axis": "share", "line": "SAMP", "value": 1, "psnr": 5.0})
    found = regime_study.spans(pd.DataFrame(rows))
    assert [*found.index] == ["share", "dim"]
    assert found.loc["dim"].to_dict() == {"SAMP": 3, "cosine": 1}
    assert math.isnan(found.loc["share", "cosine"])


def test_the_regime_study_runs_and_has_a_table_and_figures(tmp_path):
    names = [one.name for one in regime_study.variants(BASE) if "batch" not in one.name]
    chosen = [name for name in names if "2048" not in name]
    rows = run(REGIME, tmp_path, chosen)
    assert "error" not in rows
    assert regime_study.table(rows).setting.tolist() == chosen
    (_, _, figure), _ = pictures(rows)
    assert {trace.name for trace in figure.data} == {"SAMP", "cosine"}


def test_shares_of_the_codes_are_drawn_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(share_study, "CODES", (16, 64))
    rows = run(CODES_PER_STEP, tmp_path)
    assert "error" not in rows
    shares = [0, 1, 0.1, 0.03]
    assert rows.value.tolist() == shares * 2
    assert rows.num_codes.tolist() == [16] * 4 + [64] * 4
    drawn = rows.samp.dropna().str.extract(r'"codes_per_step": (\d+)')[0]
    assert drawn.dropna().astype(int).tolist() == [2, 1, 6, 2]
    assert (rows.processor_milliseconds > 0).all()
    assert len(share_study.table(rows)) == 8
    (_, _, figure), _ = pictures(rows)
    assert [trace.name for trace in figure.data] == ["K 16", "K 64"]


def test_the_time_of_a_step_is_that_of_one_thread(monkeypatch):
    counts = []

    class Session:
        def __init__(self, *arguments):
            pass

        def advance(self):
            counts.append(torch.get_num_threads())

    monkeypatch.setattr(share_study, "VQVAESession", Session)
    before = torch.get_num_threads()
    share_study.processor_milliseconds(BASE, IMAGES)
    assert set(counts) == {1}
    assert torch.get_num_threads() == before
