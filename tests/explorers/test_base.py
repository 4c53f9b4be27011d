import math
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
import traitlets

from arcvq.explorers import Explorer


class Line(Explorer):
    """A line of a slope, the smallest explorer."""

    slope = traitlets.Float(1.0, min=-2.0, max=2.0).tag(label="slope")
    size = traitlets.Int(5, min=1, max=1000).tag(label="size", log=True)
    dashed = traitlets.Bool(False).tag(label="dashed")
    colour = traitlets.Enum(["red", "blue"], "red").tag(label="colour")
    drawn = 0

    def picture(self):
        self.drawn += 1
        x = np.arange(self.size, dtype=float)
        line = {"dash": "dash" if self.dashed else "solid", "color": self.colour}
        return go.Figure(
            go.Scatter(x=x, y=self.slope * x, line=line),
            {"title": {"text": f"slope {self.slope:g}"}},
        )


@pytest.fixture
def explorer():
    return Line()


def messages(explorer):
    found = []
    explorer.figure.observe(lambda change: change.new and found.append(change.new), "_py2js_update")
    return found


def test_the_control_sets_the_trait_and_the_trait_the_control(explorer):
    assert list(explorer.controls) == ["slope", "size", "dashed", "colour"]
    explorer.slope = 0.5
    assert explorer.controls["slope"].value == 0.5
    assert np.allclose(explorer.figure.data[0].y, [0, 0.5, 1, 1.5, 2])
    explorer.controls["slope"].value = -1.0
    assert explorer.slope == -1.0
    assert explorer.figure.data[0].y[4] == -4
    explorer.controls["dashed"].value = True
    explorer.controls["colour"].value = "blue"
    assert (explorer.figure.data[0].line.dash, explorer.figure.data[0].line.color) == (
        "dash",
        "blue",
    )
    explorer.controls["size"].value = 31.6227766
    assert explorer.size == 32
    assert len(explorer.figure.data[0].x) == 32


def test_a_slider_gives_round_numbers(explorer):
    explorer.controls["slope"].value = 0.1 + 0.2
    assert (
        explorer.code()
        == "Line(slope=0.3, size=5, dashed=False, colour='red')"
        == explorer.copy_button.code
    )


def test_a_value_between_two_stops_outlives_the_stop_that_the_browser_sends_back(explorer):
    explorer.slope = 0.137
    explorer.size = 77
    explorer.controls["slope"].value = 0.14
    explorer.controls["size"].value = 78.2
    assert (explorer.slope, explorer.size) == (0.137, 77)
    explorer.controls["slope"].value = 0.15
    explorer.controls["size"].value = 81.6
    assert (explorer.slope, explorer.size) == (0.15, 82)


def test_the_stops_of_a_log_slider_go_through_the_start_and_reach_both_ends(explorer):
    slider = explorer.controls["size"]
    stop = (math.log10(5) - slider.min) / slider.step
    assert stop == pytest.approx(round(stop), abs=1e-9)
    assert slider.min <= 0
    assert slider.max >= 3
    for end in (1, 1000):
        explorer.size = end
        assert (explorer.size, slider.value) == (end, end)


def test_code_makes_the_same_explorer(explorer):
    explorer.slope = 0.7
    explorer.size = 12
    assert eval(explorer.code()).settings() == explorer.settings()


def test_a_change_is_one_message_of_what_differs(explorer):
    sent = messages(explorer)
    explorer.slope = 0.25
    assert len(sent) == 1
    assert set(sent[0]["style_data"]) == {"y"}
    assert sent[0]["layout_data"] == {"title.text": "slope 0.25"}
    explorer.slope = 0.25
    explorer.redraw()
    assert len(sent) == 1, "nothing differs, so nothing is sent"


def test_reset_is_one_redraw_and_one_message(explorer):
    explorer.slope = 0.5
    explorer.size = 9
    explorer.dashed = True
    sent = messages(explorer)
    before = explorer.drawn
    explorer.buttons.children[0].click()
    assert explorer.settings() == Line().settings()
    assert len(sent) == 1
    assert explorer.drawn == before + 1


def test_reset_goes_to_the_settings_at_the_start():
    explorer = Line(slope=0.5)
    explorer.slope = 2
    explorer.reset()
    assert explorer.slope == 0.5


def test_the_camera_stays_the_readers(explorer):
    class Cube(Line):
        def picture(self):
            scene = {
                "camera": {"eye": {"x": 1, "y": 1, "z": 1}},
                "xaxis": {"range": [0, self.slope + 3]},
            }
            return go.Figure(go.Scatter3d(x=[0], y=[0], z=[0]), {"scene": scene})

    cube = Cube()
    cube.figure.layout.scene.camera.eye = {"x": 9, "y": 8, "z": 7}
    sent = messages(cube)
    cube.slope = 0.5
    assert cube.figure.layout.scene.camera.eye.to_plotly_json() == {"x": 9, "y": 8, "z": 7}
    assert not [key for key in sent[0]["layout_data"] if "camera" in key]
    assert cube.figure.layout.uirevision == "kept"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"slop": 1},
            ValueError,
            "'slop' is no setting of Line; it has slope, size, dashed, colour",
        ),
        ({"slope": 7.0}, traitlets.TraitError, "slope.*Line.*2"),
        ({"colour": "green"}, traitlets.TraitError, "colour.*Line"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(settings, error, words):
    with pytest.raises(error, match=words) as caught:
        Line(**settings)
    assert "\n" not in str(caught.value)


def test_it_has_the_classes_that_pages_and_tests_look_for(explorer):
    assert "arcvq-explorer" in explorer._dom_classes
    assert "arcvq-figure" in explorer.view._dom_classes
    assert "arcvq-slope" in explorer.controls["slope"]._dom_classes
    assert "arcvq-reset" in explorer.buttons.children[0]._dom_classes


def test_headless_it_is_a_still(explorer, monkeypatch):
    monkeypatch.delenv("ARCVQ_HEADLESS", raising=False)
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()
    monkeypatch.setenv("ARCVQ_HEADLESS", "1")
    monkeypatch.setattr("plotly.io.renderers.default", "plotly_mimetype")
    explorer.slope = 0.5
    bundle = explorer._repr_mimebundle_()
    assert list(bundle) == ["application/vnd.plotly.v1+json"]
    assert bundle["application/vnd.plotly.v1+json"]["layout"]["title"]["text"] == "slope 0.5"


def test_a_missing_anywidget_is_one_sentence_with_the_command():
    script = "import sys; sys.modules['anywidget'] = None\nimport arcvq\narcvq.explorers"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    message = "anywidget is not installed; it comes with pip install 'arcvq[kit]'"
    assert last == f"ModuleNotFoundError: {message}"
