"""The settings of explorers, whether a canvas or plotly draws them."""

import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import traitlets

from arcvq.explorers import Explorer
from arcvq.explorers.canvas import CanvasExplorer


class Plotted(Explorer):
    slope = traitlets.Float(1.0, min=-2.0, max=2.0).tag(label="slope")
    size = traitlets.Int(5, min=1, max=9).tag(label="size")

    def picture(self):
        return go.Figure()


class Drawn(CanvasExplorer):
    module = "margin"
    slope = traitlets.Float(1.0, min=-2.0, max=2.0).tag(label="slope")
    size = traitlets.Int(5, min=1, max=9).tag(label="size")

    def __init__(self, **settings):
        super().__init__({}, **settings)


class MoreOfIt(Drawn):
    module = "margin"
    color = traitlets.Unicode("red").tag(label="color")
    slope = traitlets.Float(0.5, min=0.0, max=2.0).tag(label="slope")
    hidden = traitlets.Int(0)


KINDS = pytest.mark.parametrize("kind", [Plotted, Drawn])


@KINDS
def test_nan_is_no_setting_at_the_start_nor_later(kind):
    with pytest.raises(ValueError, match=f"slope of {kind.__name__} is nan; it must be a number"):
        kind(slope=math.nan)
    explorer = kind(slope=0.5)
    with pytest.raises(ValueError, match=f"slope of {kind.__name__} is nan; it must be a number"):
        explorer.slope = math.nan
    assert explorer.settings() == {"slope": 0.5, "size": 5}


@KINDS
@pytest.mark.parametrize(
    ("slope", "size"), [(np.float32(0.5), np.int64(3)), (torch.tensor(0.5), torch.tensor(3))]
)
def test_numbers_of_numpy_and_pytorch_are_taken_at_the_start_and_later(kind, slope, size):
    explorer = kind(slope=slope, size=size)
    explorer.reset()
    later = kind()
    later.slope = slope
    later.size = size
    for settings in (explorer.settings(), later.settings()):
        assert settings == {"slope": 0.5, "size": 3}
        assert [type(value) for value in settings.values()] == [float, int]


@KINDS
def test_an_unknown_name_is_told_with_those_that_there_are(kind):
    words = f"'width' is no setting of {kind.__name__}; it has slope, size"
    with pytest.raises(ValueError, match=words):
        kind(width=3)


@KINDS
def test_a_misspelled_setting_is_refused_with_those_that_there_are(kind):
    explorer = kind()
    words = f"{kind.__name__} has no setting 'slpoe'; it has slope, size"
    with pytest.raises(AttributeError, match=words):
        explorer.slpoe = 0.5
    explorer.slope = 0.5
    assert explorer.settings() == {"slope": 0.5, "size": 5}


def test_settings_are_in_the_order_of_their_first_declaration_and_all_have_labels():
    assert list(MoreOfIt.settings_traits()) == ["slope", "size", "color"]
    assert MoreOfIt().settings() == {"slope": 0.5, "size": 5, "color": "red"}
