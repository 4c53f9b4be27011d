import dataclasses
import math

import pandas as pd
import pytest
import torch

from arcvq.experiments import grid, parse_axis, run_experiment, sweep
from arcvq.experiments.sweep import coordinates
from arcvq.runs.settings import train
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import evaluate
from tests.strokes import IMAGES
from tests.strokes import SMALL as BASE

AXES = {"margin": [0.0, 0.3], "radius": [2.0, 8.85]}


def run(folder, axes=AXES, **options):
    usual = {"out": folder, "root": folder / "data", "device": "cpu", "workers": 1}
    return run_experiment(sweep(axes), BASE, IMAGES, progress=False, **usual | options)


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("margin", "0:0.5:6", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ("scale", "5", [5.0]),
        ("scale", "10,5", [10.0, 5.0]),
        ("top_k", "1:5:3", [1, 3, 5]),
        ("radius", "8.85:8.85:1", [8.85]),
        ("scale", "5,5", [5.0]),
    ],
)
def test_an_axis_is_read_from_its_text(name, text, values):
    found = parse_axis(name, text)
    assert found == pytest.approx(values)
    assert {type(value) for value in found} == {int if name == "top_k" else float}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("margin", ""),
        ("margin", "0:1"),
        ("margin", "0:1:0"),
        ("margin", "0:1:-2"),
        ("margin", "a,b"),
        ("scale", "1,inf"),
        ("scale", "nan"),
        ("top_k", "1,2.5"),
        ("top_k", "1,nan"),
        ("margin", "0:1:2.5"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_text_that_is_no_axis_is_told_with_an_example(name, text):
    message = r"must be .*as in 1:5:3 \(start, end, how many\) or 1,3,5"
    with pytest.raises(ValueError, match=message):
        parse_axis(name, text)


def test_a_grid_holds_every_point_once_and_says_where_it_stands():
    variants = grid(AXES | {"scale": [5.0], "top_k": [2], "weight": [0.5]}, BASE)
    assert len({variant.settings for variant in variants}) == len(variants) == 4
    assert len({variant.name for variant in variants}) == 4
    assert variants[0].name == "margin 0.0, radius 2.0, scale 5.0, top_k 2, weight 0.5"

    places = pd.DataFrame([variant.facts for variant in variants])
    assert places.margin.tolist() == [0.0, 0.0, 0.3, 0.3]
    assert places.radius.tolist() == [2.0, 8.85, 2.0, 8.85]
    assert (places[["scale", "top_k", "weight"]] == [5.0, 2, 0.5]).all(axis=None)

    # alpha T is what the exponent reaches at the end of the run.
    samp = variants[0].settings.samp
    assert samp.radius.value(BASE.steps) == pytest.approx(math.exp(2))
    assert samp.weight.value(BASE.steps) == pytest.approx(0.5 * math.exp(-14.75))


def test_an_axis_changes_nothing_else_of_the_base():
    base = dataclasses.replace(BASE, samp=SAMP(scale=7.0, weight=Exponential(-0.1, 0.2)))
    (variant,) = grid({"weight": [0.5]}, base)
    assert variant.facts["weight"] == 0.5
    assert variant.settings.samp.scale == 7.0
    assert variant.settings.samp.weight.rate == -0.1


def test_settings_without_a_samp_stand_where_the_papers_stands_scaled_to_the_run():
    assert coordinates(BASE)["radius"] == 8.85
    assert math.isnan(coordinates(dataclasses.replace(BASE, samp=SAMP(radius=None)))["radius"])


@pytest.mark.parametrize(
    ("axes", "changes", "sentence"),
    [
        (
            {"marign": [1]},
            {},
            "axis 'marign' is unknown; known are margin, scale, top_k, radius, weight",
        ),
        ({"margin": [2.0]}, {}, "margin is 2.0 rad; it must be at least 0 and below"),
        ({"margin": []}, {}, "axis 'margin' has no values; it needs at least one"),
        ({"radius": [-1.0]}, {}, "radius is -1.0; it must be at least 0"),
        ({"weight": [-1.0]}, {}, "weight is -1.0; it must be at least 0"),
        ({"weight": [1.0]}, {"samp": SAMP(weight=None)}, "the weight of the base is 0"),
        (AXES, {"quantizer": "plain"}, "the axes margin, radius are settings of 'samp'"),
    ],
)
def test_a_grid_that_cannot_be_is_told(axes, changes, sentence):
    base = dataclasses.replace(BASE, **changes)
    with pytest.raises(ValueError, match=sentence):
        sweep(axes).variants(base)


def test_a_sweep_gives_and_writes_one_row_for_each_run_with_what_was_measured(tmp_path):
    rows = run(tmp_path, seeds=2)
    assert len(rows) == 8
    assert rows.margin.tolist() == [0.0] * 4 + [0.3] * 4
    assert rows.seed.tolist() == [0, 1] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "sweep.parquet"), rows)

    settings = dataclasses.replace(grid(AXES, BASE)[2].settings, seed=1)
    alone = train(settings, IMAGES, root=tmp_path / "alone", device="cpu", progress=False)
    measured = evaluate(alone.model, IMAGES.validation)
    row = rows.iloc[5]
    assert row.psnr == pytest.approx(measured["psnr"], abs=1e-4)
    assert row.codes_used == measured["codes_used"]
    assert row.perplexity_ceiling == 8
    assert 0 < row.min_angle < 180
    assert (row.device.split()[0], row.torch) == ("cpu", torch.__version__)


def test_a_larger_grid_goes_on_in_the_folder_and_a_smaller_one_keeps_the_rows(tmp_path):
    run(tmp_path, {"margin": [0.3]}, seeds=1)
    first = next(tmp_path.glob("rows/*.parquet"))
    written = first.stat().st_mtime_ns
    assert len(run(tmp_path, {"margin": [0.0, 0.3]}, seeds=1)) == 2
    assert run(tmp_path, {"margin": [0.0]}, seeds=1).margin.tolist() == [0.0]
    assert len([*tmp_path.glob("rows/*.parquet")]) == 2
    assert first.stat().st_mtime_ns == written


def test_a_point_that_failed_keeps_its_coordinates_and_has_its_reason(tmp_path):
    failing = dataclasses.replace(sweep(AXES), measure=lambda *run: 1 / 0)
    rows = run_experiment(
        failing, BASE, IMAGES, seeds=1, out=tmp_path, root=tmp_path, workers=1, progress=False
    )
    assert rows.margin.tolist() == [0.0, 0.0, 0.3, 0.3]
    assert set(rows.error) == {"ZeroDivisionError: division by zero"}


def test_the_table_of_a_sweep_has_a_line_for_each_point(tmp_path):
    texts = sweep(AXES).table(run(tmp_path, seeds=2))
    assert [*texts][:3] == [
        "margin m (rad)",
        "radius: exponent alpha T at the end of the run",
        "PSNR (dB)",
    ]
    assert texts.iloc[:, 0].tolist() == ["0", "0", "0.3", "0.3"]
    assert texts["PSNR (dB)"].str.contains(" to ").all()


def test_a_run_that_stands_in_two_grids_of_a_folder_has_no_interval_of_its_own(tmp_path):
    run(tmp_path, {"margin": [0.1, 0.3]}, seeds=1)
    run(tmp_path, {"scale": [5.0, 10.0]}, seeds=1)
    rows = pd.read_parquet(tmp_path / "sweep.parquet")
    assert (len(rows), rows.run.nunique()) == (4, 3)
    texts = sweep({"scale": [5.0, 10.0]}).table(rows)
    assert texts[["scale s", "margin m (rad)"]].to_numpy().tolist() == [
        ["5", "0.1"],
        ["10", "0.1"],
        ["5", "0.3"],
    ]
    assert not texts["PSNR (dB)"].str.contains(" to ").any()
