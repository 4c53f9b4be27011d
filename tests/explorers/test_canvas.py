"""What explorers on a canvas share: settings, presets, what is sent to a browser and what is stored."""

import json
from typing import ClassVar

import numpy as np
import pytest
import traitlets
from ipywidgets.widgets.widget import _remove_buffers

import arcvq
from arcvq.explorers import MarginExplorer, Playground, RadiusExplorer, TrainingReplay, canvas
from arcvq.explorers.canvas import CanvasExplorer, Preset
from tests.explorers.test_collapse_game import make_run


class Dial(CanvasExplorer):
    """Some settings of every kind; the browser never draws it here."""

    module = "margin"
    presets: ClassVar = {"wide": Preset({"angle": 90.0}, "Half a turn.")}
    angle = traitlets.Float(10.0, min=0.0, max=180.0).tag(label="angle", unit="degrees", step=5.0)
    count = traitlets.Int(3, min=1, max=50).tag(label="count", log=True)
    shape = traitlets.Enum(["circle", "square"], "circle").tag(label="shape")
    filled = traitlets.Bool(False).tag(label="filled")

    def __init__(self, data=None, **settings):
        super().__init__({} if data is None else data, **settings)


def replay():
    return TrainingReplay({"plain": make_run(arcvq.EuclideanQuantizer(20, 4), 3)})


EXPLORERS = {
    "margin": MarginExplorer,
    "radius": RadiusExplorer,
    "playground": Playground,
    "replay": replay,
}


@pytest.fixture
def explorer():
    return Dial(angle=20.0)


@pytest.fixture
def sent(explorer, monkeypatch):
    """The messages to the browser."""
    messages = []

    def send(self, data=None, **_):
        messages.append(data)

    # The class of a channel depends on ipykernel, and that of old ones sends only with a kernel.
    channel = type(explorer.comm)
    monkeypatch.setattr(channel, "send", send)
    monkeypatch.setattr(channel, "kernel", "a kernel", raising=False)
    return messages


@pytest.fixture
def shown(monkeypatch):
    """The outputs of a cell."""
    outputs = []
    monkeypatch.setattr(canvas, "display", lambda data, raw: outputs.append(data))
    return outputs


def test_the_browser_knows_every_setting_and_how_to_control_it(explorer):
    state = explorer.get_state()
    kinds = {spec["name"]: spec["kind"] for spec in state["specs"]}
    expected = {"angle": "number", "count": "whole", "shape": "choice", "filled": "flag"}
    assert kinds == expected
    assert {name: state[name] for name in kinds} == explorer.settings()
    assert state["specs"][0]["unit"] == "degrees"


def test_a_preset_sets_all_settings_in_one_message(explorer, sent):
    explorer.count = 7
    sent.clear()
    explorer.choose_preset("wide")
    assert explorer.settings() == {
        "angle": 90.0,
        "count": 3,
        "shape": "circle",
        "filled": False,
    }
    assert [message["state"] for message in sent] == [{"angle": 90.0, "count": 3}]


def test_reset_goes_to_the_settings_at_the_start_in_one_message(explorer, sent):
    explorer.angle = 90.0
    explorer.count = 7
    sent.clear()
    explorer.reset()
    assert [message["state"] for message in sent] == [{"angle": 20.0, "count": 3}]


def test_an_unknown_preset_and_an_unknown_setting_are_named(explorer):
    with pytest.raises(ValueError, match="'flat' is no preset of Dial; it has 'wide'"):
        explorer.choose_preset("flat")
    with pytest.raises(AttributeError, match="Dial has no setting 'codes'; it has angle, count"):
        explorer.codes = 8
    with pytest.raises(ValueError, match="'codes' is no setting of Dial; it has angle, count"):
        Dial(codes=8)


def test_code_makes_the_same_explorer(explorer):
    explorer.angle = 35.5
    explorer.shape = "square"
    explorer.filled = True
    assert eval(explorer.code()).settings() == explorer.settings()


def test_a_browser_that_missed_a_change_is_told_again(explorer, sent):
    opened = explorer.settings()
    explorer.angle = 70.0
    sent.clear()
    data = {"method": "custom", "content": {"shown": opened}}
    explorer._handle_msg({"content": {"data": data}, "buffers": []})
    assert [message["state"] for message in sent] == [{"angle": 70.0}]


@pytest.mark.parametrize("make", EXPLORERS.values(), ids=EXPLORERS)
def test_presets_are_settings_with_a_sentence(make):
    explorer = make()
    for name, preset in explorer.presets.items():
        assert preset.sentence.endswith(".")
        explorer.choose_preset(name)
        assert explorer.settings() == explorer.first_settings | dict(preset.settings)


@pytest.mark.parametrize("make", EXPLORERS.values(), ids=EXPLORERS)
def test_the_message_at_opening_is_below_100_kb(make):
    state, _, buffers = _remove_buffers(make().get_state())
    assert len(json.dumps(state)) + sum(map(len, buffers)) < 100_000


def test_html_holds_the_settings_and_no_end_of_a_script():
    page = Dial({"words": "</script><b>"}, angle=33.0).html("dial")
    assert page.count("</script") == 1
    assert '"angle": 33.0' in page
    assert '"address": "dial"' in page


def test_without_a_kernel_to_come_the_explorer_is_shown_as_html(explorer, shown, monkeypatch):
    monkeypatch.setenv("ARCVQ_HEADLESS", "1")
    explorer._ipython_display_()
    assert [list(output) for output in shown] == [["text/html", "text/plain"]]
    assert shown[0]["text/plain"] == explorer.code()


def test_in_a_notebook_a_spare_stands_below_the_widget_unless_it_is_large(shown, monkeypatch):
    monkeypatch.delenv("ARCVQ_HEADLESS", raising=False)
    Dial()._ipython_display_()
    widget, spare = shown
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert list(spare) == ["text/html", "text/plain"]
    shown.clear()
    Dial({"rows": np.zeros(100_000)})._ipython_display_()
    assert len(shown) == 1


def test_a_number_that_json_does_not_know_is_named():
    with pytest.raises(ValueError, match="radius is nan; it must be finite to be drawn"):
        Dial({"radius": float("nan")})


def test_an_old_anywidget_is_named_with_the_command_that_helps(monkeypatch):
    monkeypatch.setattr("anywidget.__version__", "0.8.1")
    with pytest.raises(ImportError, match=r"anywidget is 0\.8\.1, .* pip install --upgrade"):
        Dial()
