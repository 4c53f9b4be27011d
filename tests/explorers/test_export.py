"""The exported page holds plotly.js once, every picture, and nothing from a network."""

import re

import numpy as np
import plotly.graph_objects as go
import pytest
from click.testing import CliRunner

import arcvq
from arcvq.cli import main
from arcvq.explorers import TrainingReplay, export
from arcvq.reports import pages
from tests.explorers.test_replay import make_run


def shown(figure, frame):
    """The figure as it is drawn once a frame was applied."""
    drawn = go.Figure(figure.data, figure.layout)
    for place, trace in zip(frame.traces, frame.data, strict=True):
        drawn.data[place].update(trace.to_plotly_json())
    return drawn.update_layout(frame.layout.to_plotly_json())


def test_each_stop_of_the_slider_shows_what_the_explorer_shows():
    explorer = TrainingReplay(
        {"plain": make_run(quantizer=arcvq.EuclideanQuantizer(6, 3)), "samp": make_run()}, step=4
    )
    figure = export.moved(explorer, "step", [0, 4, 10])
    assert explorer.step == 4
    assert figure.layout.sliders[0].active == 1
    assert [stop.label for stop in figure.layout.sliders[0].steps] == ["0", "4", "10"]
    for step, frame in zip((0, 4, 10), figure.frames, strict=True):
        explorer.step = step
        expected, got = explorer.picture(), shown(figure, frame)
        for one, other in zip(expected.data, got.data, strict=True):
            for axis in {*"xyz"} & {*one}:
                np.testing.assert_array_equal(one[axis], other[axis])
            assert one.visible == other.visible
        assert got.layout.annotations == expected.layout.annotations


def test_frames_hold_only_what_moves():
    figure = export.moved(TrainingReplay(make_run()), "step", [0, 4, 10])
    curves = {place for place, trace in enumerate(figure.data) if trace.name == "run"}
    assert curves and not any(curves & {*frame.traces} for frame in figure.frames)
    assert all("camera" not in str(frame.layout.to_plotly_json()) for frame in figure.frames)


def test_the_command_writes_one_page_without_a_network(tmp_path, monkeypatch):
    asked = []

    def train(settings, **_):
        asked.append((settings.quantizer, settings.dim))
        return make_run()

    monkeypatch.setattr(export, "train", train)
    path = tmp_path / "new" / "explorers.html"
    done = CliRunner().invoke(main, ["export-explorers", "--out", str(path)])
    assert done.exit_code == 0, done.output
    assert asked == [("plain", 3), ("samp", 3)]
    page = path.read_text()
    assert len(page.encode()) < 8_000_000 and str(path) in done.output
    assert page.count("Plotly.newPlot(") - page.count("Plotly.newPlot()") >= 3
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=['\"]?(https?:)?//", page)
    assert page.count("plotly.js v") == 1


def test_a_page_beyond_the_limit_is_refused_and_the_earlier_one_survives(tmp_path, monkeypatch):
    path = tmp_path / "explorers.html"
    path.write_text("earlier")
    monkeypatch.setattr(pages, "PAGE_LIMIT", 1_000_000)
    with pytest.raises(ValueError, match=r"the page would have .* MB; at most 1 are allowed"):
        pages.write_figures_page(path, "Title", [("Nothing", "Nothing moves.", go.Figure())])
    assert path.read_text() == "earlier"
