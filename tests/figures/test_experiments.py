import numpy as np
import pandas as pd
import pytest

from arcvq.experiments.ablations import AXES
from arcvq.figures.experiments import ablation_panels, measure_panels, pictures, schedule_map
from arcvq.figures.theme import summary

PAPER = pd.DataFrame([
    {"experiment": "paper", "variant": name, "seed": seed, "psnr": level + seed, "codes_used": codes,
     "perplexity": codes / 2}
    for name, level, codes in (("continuous", 30.0, np.nan), ("plain VQ", 22.0, 40), ("SAMP", 24.0, 200))
    for seed in range(3)])
ABLATIONS = pd.DataFrame([
    {"experiment": "ablations", "variant": f"{axis} {value:g}", "axis": axis, "value": float(value), "seed": seed,
     "psnr": 20 + place + seed / 10, "codes_used": 10 * place}
    for axis, (_, values) in AXES.items() for place, value in enumerate(values) for seed in range(2)]
    + [{"experiment": "ablations", "variant": name, "axis": "part", "value": np.nan, "seed": 0, "psnr": 21.0,
        "codes_used": 5} for name in ("BBNR alone", "both halves")])
SCHEDULES = pd.DataFrame([
    {"experiment": "schedules", "half": half, "schedule": name, "steps": steps, "seed": 0, "psnr": psnr}
    for half in ("radius", "weight")
    for name, steps, psnr in (("constant", 100, 20.0), ("constant", 400, 24.0), ("linear", 100, 19.5),
                              ("linear", 400, 25.0), ("per step", 100, 15.0), ("per step", 400, 24.5))])


def test_panels_show_every_run_and_the_mean_with_its_interval():
    figure = measure_panels(PAPER, ("psnr", "codes_used"))
    dots, means = figure.data[0], figure.data[1]
    assert len(dots.x) == 9 and [*means.x] == [31.0, 23.0, 25.0] and [*means.y] == ["continuous", "plain VQ", "SAMP"]
    assert [*means.error_x.array] == [1.0, 1.0, 1.0] and [*means.error_x.arrayminus] == [1.0, 1.0, 1.0]
    assert [*figure.layout.yaxis.categoryarray] == ["SAMP", "plain VQ", "continuous"]
    assert "Largest PSNR (dB): continuous, 31" in summary(figure) and "up to 3 runs" in summary(figure)
    with pytest.raises(ValueError, match="column 'lpips' is unknown"):
        measure_panels(PAPER, ["lpips"])


def test_each_axis_of_the_ablations_has_a_panel_with_its_values_in_order():
    figure = ablation_panels(ABLATIONS)
    assert len(figure.data) == len(AXES) + 1
    assert [*figure.data[0].x] == ["0", "0.05", "0.1", "0.3", "0.5"]
    assert [*figure.data[0].y] == pytest.approx([20.05, 21.05, 22.05, 23.05, 24.05])
    assert [*figure.data[-1].x] == ["BBNR<br>alone", "both<br>halves"]
    assert "differ most over codes 5" in summary(figure)


def test_a_map_of_schedules_tells_the_steadiest_and_colours_the_distance_to_the_best():
    figure = schedule_map(SCHEDULES, "radius")
    heat = figure.data[0]
    assert [*heat.y] == ["per step", "constant", "linear"] and [*heat.x] == ["100 steps", "400 steps"]
    assert np.allclose(np.array(heat.z), [[5.0, 0.5], [0.0, 1.0], [0.5, 0.0]])
    assert [*heat.text[2]] == ["19.50", "25.00"]
    assert "Never far from the best of its column: linear, at most 0.50 below" in summary(figure)


@pytest.mark.parametrize("rows, count", [(PAPER, 1), (ABLATIONS, 2), (SCHEDULES, 2)])
def test_every_experiment_has_its_pictures(rows, count):
    found = pictures(rows)
    assert len(found) == count and all(summary(figure) for _, _, figure in found)
