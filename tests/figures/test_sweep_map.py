import itertools

import numpy as np
import pandas as pd
import pytest

from arcvq.figures import summary, sweep_map


def table(margins=(0.0, 0.1, 0.3), radii=(2.0, 8.85), seeds=2):
    points = itertools.product(margins, radii, range(seeds))
    rows = pd.DataFrame(points, columns=["margin", "radius", "seed"])
    rows = rows.assign(scale=5.0, top_k=3, weight=1.0)
    psnr = 20 + 10 * rows.margin + rows.radius + rows.seed
    return rows.assign(psnr=psnr, codes_used=100 * rows.margin)


def test_two_axes_make_a_heat_map_of_means_over_seeds_with_the_largest_marked():
    figure = sweep_map(table())
    (heat,) = figure.data
    (mark,) = figure.layout.shapes
    assert heat.x == ("0", "0.1", "0.3")
    assert heat.y == ("2", "8.85")
    assert np.allclose(heat.z, [[22.5, 23.5, 25.5], [29.35, 30.35, 32.35]])
    # On an axis of categories the cell in column 2, row 1 has its middle at (2, 1).
    assert 1.5 < mark.x0 < 1.6
    assert 2.4 < mark.x1 < 2.5
    assert 0.5 < mark.y0 < 0.6
    assert 1.4 < mark.y1 < 1.5
    told = summary(figure)
    assert "Largest: 32.35 at margin 0.3 and radius 8.85" in told
    assert "12 runs, 2 seeds at each point." in told
    assert "rad" in figure.layout.xaxis.title.text


def test_equal_largest_values_are_all_marked_and_counted():
    rows = table()
    figure = sweep_map(rows.assign(codes_used=rows.margin.clip(upper=0.1)), "codes_used")
    marked = {(round(mark.x0 + 0.48), round(mark.y0 + 0.48)) for mark in figure.layout.shapes}
    assert marked == {(1, 0), (2, 0), (1, 1), (2, 1)}
    assert [mark.showlegend for mark in figure.layout.shapes] == [True, False, False, False]
    assert "Largest: 0.1 at 4 points;" in summary(figure)
    line = sweep_map(table(radii=(2.0,)).assign(psnr=25.0))
    assert "Largest: 25 at 3 points;" in summary(line)


def test_axes_may_be_chosen():
    figure = sweep_map(table(), "codes_used", x="radius", y="margin")
    heat = figure.data[0]
    assert heat.x == ("2", "8.85")
    assert heat.y == ("0", "0.1", "0.3")


def test_missing_points_stay_empty_and_are_counted():
    rows = table()
    no_runs = (rows.margin == 0.1) & (rows.radius == 2.0)
    no_values = (rows.margin == 0.0) & (rows.radius == 2.0)
    rows.loc[no_values, "psnr"] = np.nan
    figure = sweep_map(rows[~no_runs])
    heat = figure.data[0]
    assert np.isnan(heat.z[0][:2]).all()
    assert heat.text[0][1] == ""
    assert "2 of 6 points are missing" in summary(figure)


def test_one_axis_makes_a_line_from_the_least_to_the_greatest_seed():
    figure = sweep_map(table(radii=(2.0,), seeds=3))
    (line,) = figure.data
    assert list(line.x) == [0.0, 0.1, 0.3]
    assert np.allclose(line.y, [23, 24, 26])
    assert np.allclose(line.error_y.array, 1)
    assert np.allclose(line.error_y.arrayminus, 1)


def test_a_point_without_values_leaves_a_gap_in_the_line_and_is_counted():
    rows = table(radii=(2.0,), seeds=3)
    rows.loc[rows.margin == 0.1, "psnr"] = np.nan
    figure = sweep_map(rows)
    line = figure.data[0]
    assert np.isnan(line.y[1])
    assert "1 of 3 points are missing" in summary(figure)


def test_what_cannot_be_drawn_is_told():
    one_point = table(margins=(0.1,), radii=(2.0,))
    with pytest.raises(ValueError, match="nothing varies in this table of 2 rows"):
        sweep_map(one_point)
    without_psnr = table().assign(psnr=np.nan)
    with pytest.raises(ValueError, match="psnr is missing in all 12 rows"):
        sweep_map(without_psnr)
    with pytest.raises(ValueError, match="no column 'ssim'"):
        sweep_map(table(), "ssim")
    with pytest.raises(ValueError, match="axis 'seed' is unknown; known are margin, scale"):
        sweep_map(table(), x="seed")
    with pytest.raises(ValueError, match="x and y are both 'margin'; a map needs two"):
        sweep_map(table(), x="margin", y="margin")


def test_failed_runs_and_points_with_fewer_seeds_are_told():
    rows = table(seeds=3).assign(error=None)
    rows.loc[:1, ["psnr", "error"]] = [np.nan, "ValueError: no"]
    told = summary(sweep_map(rows))
    assert "16 runs, 1 to 3 seeds at each point; 2 more failed." in told


def test_a_run_that_stands_in_two_grids_counts_once():
    by_margin = table(radii=(2.0,), margins=(0.0, 0.1), seeds=1)
    by_scale = table(radii=(2.0,), margins=(0.1,), seeds=1)
    rows = pd.concat([by_margin, by_scale, by_scale.assign(scale=10.0, psnr=30.0)])
    rows = rows.assign(run=["a", "b", "b", "c"], error=["no", "no", None, None])
    rows.loc[rows.error == "no", "psnr"] = np.nan
    figure = sweep_map(rows, x="scale", y="margin")
    assert "2 runs, 1 seed at each point; 1 more failed." in summary(figure)
    heat = figure.data[0]
    assert np.allclose(heat.z, [[np.nan, np.nan], [23.0, 30.0]], equal_nan=True)


def over_three_axes(other):
    """Rows in which a third axis varies as well, and adds its value to the PSNR."""
    tables = [table().assign(**{other: value}) for value in (1, 2)]
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(psnr=rows.psnr + rows[other])


@pytest.mark.parametrize("other", ["scale", "top_k", "weight"])
def test_values_over_an_axis_that_is_not_drawn_are_called_means_over_it(other):
    rows = over_three_axes(other)
    told = summary(sweep_map(rows, x="margin", y="radius"))
    assert "Largest: 33.85 at margin 0.3 and radius 8.85" in told
    name = other.replace("_", "-")
    assert f"Values are means over {name} (1, 2)." in told
    told = summary(sweep_map(rows, x="margin", y=other))
    assert f"Largest: 30.93 at margin 0.3 and {name} 2" in told
    assert "Values are means over radius (2, 8.85)." in told
    assert "means over" not in summary(sweep_map(table()))


def test_all_axes_that_are_not_drawn_are_named():
    rows = pd.concat([over_three_axes("scale"), over_three_axes("weight").assign(scale=0.5)])
    told = summary(sweep_map(rows, x="margin", y="radius"))
    assert "Values are means over scale (0.5, 1, 2) and weight (1, 2)." in told


@pytest.mark.parametrize("near", [(0.1, 0.10000001), (0.1, 0.1 + 1e-16), (1e6, 1e6 + 0.5)])
def test_values_that_are_equal_to_six_digits_have_labels_of_their_own(near):
    rows = table(margins=(0.0, *near), radii=(0.0, *near))
    figure = sweep_map(rows.assign(psnr=np.arange(len(rows))))
    heat = figure.data[0]
    for labels in (heat.x, heat.y):
        assert [float(label) for label in labels] == [0.0, *near]
        assert len(set(labels)) == 3
    assert f"at margin {heat.x[2]} and radius {heat.y[2]}" in summary(figure)
