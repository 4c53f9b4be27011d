import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots
from torch.nn.functional import normalize

from arcvq.figures.parts import (
    BLANK,
    add_arrows,
    add_points,
    arrow_lines,
    ball_surface,
    cap,
    image_source,
    inferno,
    measured,
    name_once,
    normals,
    set_scene,
    square_panels,
    thin,
    tile_sheet,
    to_pixels,
    usage_scale,
)


def test_thin_keeps_up_to_20000_points_and_says_when_it_does_not():
    rows, note = thin(20_000, "latents")
    assert len(rows) == 20_000
    assert note == ""
    rows, note = thin(50_000, "latents")
    assert len(set(rows)) == 20_000
    assert (np.diff(rows) > 0).all()
    assert rows.max() < 50_000
    assert note == " 20,000 of 50,000 latents are drawn."
    assert (rows == thin(50_000, "latents")[0]).all()


def test_measured_skips_the_rows_without_a_value():
    history = pd.DataFrame({"step": [1, 2, 3], "psnr": [np.nan, 5.0, 6.0]})
    assert measured(history, "psnr").tolist() == [[2, 3], [5, 6]]
    assert measured(history, "radius").shape == measured(history[:0], "psnr").shape == (2, 0)


def test_measured_takes_evenly_spaced_rows_of_a_long_history_with_both_ends():
    steps = np.arange(50_001)
    x, y = measured(pd.DataFrame({"step": steps, "psnr": 2.0 * steps}), "psnr")
    assert len(x) == 20_000
    assert (x[0], x[-1]) == (0, 50_000)
    assert set(np.diff(x)) == {2, 3}
    assert (y == 2 * x).all()


def test_a_name_stands_in_the_legend_once():
    figure = Figure()
    for name in ("a", "b", "a"):
        figure.add_scatter(y=[1], name=name)
    name_once(figure)
    assert [trace.showlegend for trace in figure.data] == [True, True, False]


def test_the_axes_of_each_panel_get_one_scale():
    figure = make_subplots(1, 2)
    square_panels(figure)
    assert [axis.scaleanchor for axis in figure.select_yaxes()] == ["x", "x2"]


@pytest.mark.parametrize(("dim", "kind"), [(2, "scatter"), (3, "scatter3d")])
def test_points_are_drawn_in_their_dimensions_and_named_ones_are_in_the_legend(dim, kind):
    figure = Figure()
    add_points(figure, np.arange(2.0 * dim).reshape(2, dim), "points", marker_size=3)
    add_points(figure, np.ones((1, dim)), "")
    points, one = figure.data
    assert points.type == kind
    assert list(points.y) == [1, 1 + dim]
    assert points.marker.size == 3
    assert points.showlegend
    assert not one.showlegend


def test_the_ball_is_the_unit_sphere():
    assert np.allclose(np.linalg.norm(ball_surface(), axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_cap_lies_at_its_angle(dim):
    code = normalize(torch.randn(dim, dtype=torch.float64), dim=0).numpy()
    assert np.allclose(normals(code) @ code, 0)
    edge = cap(code, 0.7)
    if dim == 2:  # an arc between two rays
        assert not edge[0].any()
        assert not edge[-1].any()
        angles = np.arccos(edge[1:-1] @ code)
        assert angles.max() == pytest.approx(0.7)
        assert angles.min() == pytest.approx(0, abs=1e-6)
    else:
        angles = np.arccos(edge @ code / np.linalg.norm(edge, axis=1))
        assert np.allclose(angles, 0.7)


@pytest.mark.parametrize("dim", [2, 3])
def test_only_the_tips_of_longer_arrows_have_a_head(dim):
    starts = np.ones((2, dim))
    moves = np.array([[0.5], [0.001]]) * np.ones(dim)
    points, sizes = arrow_lines(starts, moves)
    assert points.shape == (6, dim)
    assert np.allclose(points[1], 1.5)
    assert np.isnan(points[[2, 5]]).all()
    assert np.flatnonzero(sizes).tolist() == [1]
    figure = Figure()
    add_arrows(figure, starts, moves, "#000000")
    assert figure.data[0].marker.symbol == ("arrow" if dim == 2 else "diamond")


def test_all_axes_of_a_scene_reach_equally_far():
    figure = Figure().add_scatter3d(x=[1], y=[2], z=[3])
    set_scene(figure, 2.5, names=("a", "b", "c"), visible=False)
    scene = figure.layout.scene
    (reach,) = {axis.range for axis in (scene.xaxis, scene.yaxis, scene.zaxis)}
    assert reach[1] == -reach[0]
    assert reach[1] >= 2.5
    assert scene.yaxis.title.text == "b"
    assert not scene.yaxis.visible
    assert scene.aspectmode == "manual"
    assert scene.camera.projection.type == "orthographic"


@pytest.mark.parametrize(
    ("extent", "tick"),
    [(1.0, 1), (1.9, 1), (4.3, 2), (9.99, 5), (0.03, 0.02), (1e-9, 1e-9), (6e4, 5e4)],
)
def test_the_ticks_of_a_scene_are_at_round_numbers_within_its_extent(extent, tick):
    figure = Figure().add_scatter3d(x=[1], y=[2], z=[3])
    set_scene(figure, extent, visible=True)
    scene = figure.layout.scene
    for axis in (scene.xaxis, scene.yaxis, scene.zaxis):
        assert axis.tickvals == pytest.approx((-tick, 0, tick))
        assert axis.range[1] > 1.1 * axis.tickvals[2], "no label at a corner"


def test_usage_has_a_tick_for_each_power_of_ten():
    scale = usage_scale(150, len=0.5)
    assert scale["cmax"] == 3
    assert scale["colorbar"]["len"] == 0.5
    assert scale["colorbar"]["ticktext"] == ["1", "10", "100", "1,000"]
    assert usage_scale(0)["cmax"] == 1


def test_inferno_goes_from_dark_to_bright():
    images = inferno(torch.tensor([[[0.0, 0.5, 1.0, 7.0]]]))
    assert images.shape == (1, 3, 1, 4)
    brightness = images.mean(dim=1)[0, 0]
    assert (brightness[1:3] > brightness[:2]).all()
    assert brightness[3] == brightness[2]


@pytest.mark.parametrize(
    ("count", "columns", "size"), [(5, 3, (8, 15)), (1, 3, (4, 15)), (0, 2, (4, 10))]
)
def test_a_sheet_has_its_images_row_by_row_and_blanks_for_the_rest(count, columns, size):
    tiles = torch.rand(count, 1, 2, 3) * 2 - 1
    sheet = tile_sheet(tiles, columns)
    assert sheet.shape == (*size, 3)
    expected = np.full_like(sheet, 0) + np.array([0xFC, 0xFC, 0xFA], np.uint8)  # the paper
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        expected[4 * row + 1 : 4 * row + 3, 5 * column + 1 : 5 * column + 4] = to_pixels(tile)
    assert np.array_equal(sheet, expected)


def test_a_frame_can_differ_from_side_to_side():
    sheet = tile_sheet(torch.full((1, 3, 2, 2), -1.0), 1, frame=(0, 4, 3, 1))
    assert sheet.shape == (6, 6, 3)
    assert not sheet[3:5, :2].any()
    assert sheet[:3].all()


def test_a_blank_pixel_of_a_tile_is_paper_and_transparent_in_a_png():
    tile = torch.full((1, 1, 1, 2), BLANK)
    tile[..., 1] = 0.98
    source = image_source(tile_sheet(tile, 1, frame=(0, 0, 0, 0)))
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    alpha = np.asarray(picture.convert("RGBA"))[0, :, 3]
    assert alpha.tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_source_holds_the_picture(kind):
    pixels = np.full((8, 8, 3), 200, np.uint8)
    start, _, data = image_source(pixels, kind).partition(",")
    assert start == f"data:image/{kind};base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)
