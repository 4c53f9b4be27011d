import numpy as np
import pytest
import torch

from arcvq.figures import mask_picture, place_maps, summary
from arcvq.figures.theme import VERMILLION


def test_every_map_is_a_panel_on_one_scale_with_the_first_row_on_top():
    first = torch.arange(6.0).view(2, 3)
    second = np.full((2, 3), 9.0)
    figure = place_maps({"a": first, "b": second}, "bits", "T", "Text.")
    assert np.array_equal(figure.data[0].z, first)
    assert np.array_equal(figure.data[1].z, second)
    assert {panel.coloraxis for panel in figure.data} == {"coloraxis"}
    assert {axis.autorange for axis in figure.select_yaxes()} == {"reversed"}
    assert [axis.title.text for axis in figure.select_xaxes()] == ["a", "b"]
    assert [axis.scaleanchor for axis in figure.select_yaxes()] == ["x", "x2"]  # places are squares
    assert figure.layout.coloraxis.colorbar.title.text == "bits"
    assert summary(figure) == "Text."


@pytest.mark.parametrize("maps", [{"a": torch.ones(2, 3), "b": torch.ones(3, 2)}, torch.ones(2, 0)])
def test_maps_of_different_or_no_shape_are_refused(maps):
    with pytest.raises(
        ValueError, match=r"maps must be grids \(h, w\) of one shape, h and w from 1; they are"
    ):
        place_maps(maps, "bits", "T", "Text.")
    with pytest.raises(ValueError, match="nothing to draw"):
        place_maps({}, "bits", "T", "Text.")


def test_a_mask_picture_shows_shares_leaves_what_is_not_seen_grey_and_frames_the_place():
    seen = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    leak = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    figure = mask_picture({"good": seen, "leaky": leak}, (1, 1))
    good, leaky = (panel.z for panel in figure.data)
    assert np.allclose(good, [[25, np.nan, 50], [25, np.nan, np.nan]], equal_nan=True)
    assert np.nansum(leaky) == 100
    assert leaky[1, 2] == 25
    assert [(frame.x0, frame.x1, frame.y0, frame.y1) for frame in figure.layout.shapes] == [
        (0.5, 1.5, 0.5, 1.5)
    ] * 2
    assert {frame.line.color for frame in figure.layout.shapes} == {VERMILLION}
    assert summary(figure) == (
        "For the token at row 1, column 1 (counted from 0; framed): good sees 3 of 4 earlier places and "
        "0 of the other 2; leaky sees 3 of 4 earlier places and 1 of the other 2."
    )


def test_the_first_place_sees_nothing():
    figure = mask_picture(torch.zeros(2, 2), (0, 0), width=500)
    assert np.isnan(figure.data[0].z).all()
    assert "prior sees 0 of 0 earlier places" in summary(figure)
    assert figure.layout.width == 500


@pytest.mark.parametrize("place", [(-1, 0), (2, 0), (0, 3)])
def test_a_place_outside_the_grid_is_refused(place):
    with pytest.raises(ValueError, match="it must lie in the grid of prior"):
        mask_picture(torch.ones(2, 3), place)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_influence_that_cannot_be_one_is_refused(wrong):
    with pytest.raises(ValueError, match="the influence of prior must be from 0 everywhere"):
        mask_picture(torch.tensor([[1.0, wrong]]), (0, 1))
