import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from arcvq.experiments import grid, parse_axis, sweep
from arcvq.experiments.sweep import coordinates
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import Compute, Recording, evaluate, fit
from tests.strokes import IMAGES
from tests.strokes import SMALL as BASE

AXES = {"margin": [0.0, 0.3], "radius": [2.0, 8.85]}


@pytest.mark.parametrize("name, text, values", [
    ("margin", "0:0.5:6", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]), ("scale", "5", [5.0]), ("scale", "10,5", [10.0, 5.0]),
    ("top_k", "1:5:3", [1, 3, 5]), ("radius", "8.85:8.85:1", [8.85]), ("scale", "5,5", [5.0]),
])
def test_an_axis_is_read_from_its_text(name, text, values):
    found = parse_axis(name, text)
    assert found == pytest.approx(values)
    assert {type(value) for value in found} == {int if name == "top_k" else float}


@pytest.mark.parametrize("name, text", [
    ("margin", ""), ("margin", "0:1"), ("margin", "0:1:0"), ("margin", "0:1:-2"), ("margin", "a,b"),
    ("scale", "1,inf"), ("scale", "nan"), ("top_k", "1,2.5"), ("margin", "0:1:2.5"),
])
def test_a_text_that_is_no_axis_is_told_with_an_example(name, text):
    with pytest.raises(ValueError, match=r"must be .*as in 1:5:3 \(start, end, how many\) or 1,3,5"):
        parse_axis(name, text)


def test_a_grid_holds_every_point_and_seed_once_and_says_where_it_stands():
    settings = grid(AXES | {"scale": [5.0], "top_k": [2], "weight": [0.5]}, BASE, seeds=3)
    assert len(set(settings)) == len(settings) == 12
    assert [one.seed for one in settings[:4]] == [0, 1, 2, 0]
    places = [coordinates(one) for one in settings[::3]]
    assert [place["margin"] for place in places] == [0.0, 0.0, 0.3, 0.3]
    assert [place["radius"] for place in places] == [2.0, 8.85, 2.0, 8.85]
    assert all((place["scale"], place["top_k"], place["weight"]) == (5.0, 2, 0.5) for place in places)
    # alpha T is what the exponent reaches at the end of the run.
    assert settings[0].samp.radius.value(BASE.steps) == pytest.approx(math.exp(2))
    assert settings[0].samp.weight.value(BASE.steps) == pytest.approx(0.5 * math.exp(-14.75))


def test_an_axis_changes_nothing_else_of_the_base_and_settings_without_a_prior_stand_nowhere():
    base = dataclasses.replace(BASE, samp=SAMP(scale=7.0, weight=Exponential(-0.1, 0.2)))
    (one,) = grid({"weight": [0.5]}, base)
    assert coordinates(one)["weight"] == 0.5 and one.samp.scale == 7.0 and one.samp.weight.rate == -0.1
    assert coordinates(BASE)["radius"] == 8.85  # no settings: the paper's, scaled to the run
    assert all(map(math.isnan, coordinates(dataclasses.replace(BASE, quantizer="cosine")).values()))


@pytest.mark.parametrize("axes, base, seeds, sentence", [
    ({"marign": [1]}, BASE, 1, "axis 'marign' is unknown; known are margin, scale, top_k, radius, weight"),
    ({"margin": [2.0]}, BASE, 1, "margin is 2.0 rad; it must be at least 0 and below"),
    ({"margin": []}, BASE, 1, "axis 'margin' has no values; it needs at least one"),
    ({"radius": [-1.0]}, BASE, 1, "radius is -1.0; it must be at least 0"),
    ({"weight": [-1.0]}, BASE, 1, "weight is -1.0; it must be at least 0"),
    ({"weight": [1.0]}, dataclasses.replace(BASE, samp=SAMP(weight=None)), 1, "the weight of the base is 0"),
    (AXES, BASE, 0, "seeds is 0; it must be at least 1"),
    (AXES, dataclasses.replace(BASE, quantizer="plain"), 1, "the axes margin, radius are settings of 'samp'"),
])
def test_a_grid_that_cannot_be_is_told(axes, base, seeds, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid(axes, base, seeds)


def test_a_sweep_gives_and_writes_one_row_for_each_run_with_what_was_measured(tmp_path):
    file = tmp_path / "table.parquet"
    table = sweep(AXES, BASE, IMAGES, seeds=2, out=file, root=tmp_path, device="cpu", workers=1, progress=False)
    assert len(table) == 8 and list(table.margin) == [0.0] * 4 + [0.3] * 4 and list(table.seed) == [0, 1] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(file), table)
    one = grid(AXES, BASE, 2)[5]
    alone = fit(one.model(IMAGES), IMAGES, steps=6, batch_size=8, seed=one.seed,
                compute=Compute("cpu", "float32"), recording=Recording(progress=False))
    measured = evaluate(alone.model, IMAGES.validation)
    assert table.psnr[5] == pytest.approx(measured["psnr"], abs=1e-4)
    assert table.codes_used[5] == measured["codes_used"] and table.perplexity_ceiling[5] == 8
    assert 0 < table.min_angle[5] < 180 and (table.device[5].split()[0], table.torch[5]) == ("cpu", torch.__version__)


def test_a_table_of_other_runs_is_left_alone(tmp_path):
    file, options = tmp_path / "table.parquet", {"root": tmp_path, "device": "cpu", "workers": 1, "progress": False}
    sweep({"margin": [0.3]}, BASE, IMAGES, out=file, **options)
    assert len(sweep({"margin": [0.0, 0.3]}, BASE, IMAGES, out=file, **options)) == 2  # a larger grid goes on there
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"table\.parquet holds runs that this sweep does not have; name another"):
        sweep({"margin": [0.0]}, BASE, IMAGES, out=file, **options)
    assert file.read_bytes() == before
    file.write_text("mine")
    with pytest.raises(ValueError, match="is not the table of a sweep, or of an older one; name another"):
        sweep({"margin": [0.0]}, BASE, IMAGES, out=file, **options)


SCRIPT = """
import dataclasses, sys
sys.path.insert(0, {checkout!r})
from arcvq.experiments import sweep
from tests.strokes import IMAGES, SMALL

if __name__ == "__main__":
    sweep({axes}, dataclasses.replace(SMALL, steps={steps}), IMAGES, out={root!r} + "/table.parquet", root={root!r},
          device="cpu", workers=1, progress=False)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process")
def test_a_sweep_that_was_killed_goes_on_and_ends_with_the_same_table(tmp_path):
    steps, file = 100, tmp_path / "table.parquet"
    script = tmp_path / "script.py"
    checkout = str(Path(__file__).parents[2])
    script.write_text(SCRIPT.format(checkout=checkout, root=str(tmp_path), steps=steps, axes=AXES))
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(pd.read_parquet(file)) < 4
    base = dataclasses.replace(BASE, steps=steps)
    options = {"device": "cpu", "workers": 1, "progress": False}
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/run.json")}
    resumed = sweep(AXES, base, IMAGES, out=file, root=tmp_path, **options)
    anew = sweep(AXES, base, IMAGES, root=tmp_path / "anew", **options)
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), anew.drop(columns="seconds"))
    assert kept and all(path.stat().st_mtime_ns == before for path, before in kept.items())
