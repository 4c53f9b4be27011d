import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances
from plotly.graph_objects import Figure, Scatter

from arcvq.explorers.base import CopyButton
from arcvq.explorers.figure_widget import FigureView, LiveFigure
from arcvq.figures import sphere


@pytest.fixture
def figure():
    return LiveFigure(Figure(Scatter(x=np.arange(3.0), y=np.arange(3.0)), {"title": {"text": "a"}}))


def script(figure):
    return FigureView(figure, CopyButton("code")).script.removeprefix("IPY_MODEL_")


def test_a_figure_and_its_view_bring_no_script_of_plotly(figure):
    view = FigureView(figure, CopyButton("code"))
    assert figure.get_state()["_esm"] == ""
    assert len(view.get_state()["_esm"]) < 100_000


def test_all_figures_share_one_script_which_is_sent_again_after_it_was_closed(figure):
    first = script(figure)
    assert script(figure) == first
    _instances[first].close()
    second = script(figure)
    assert second != first
    assert len(_instances[second].source) > 1_000_000


def test_a_view_that_comes_late_gets_the_figure_as_it_is(figure):
    figure.plotly_update({"y": [np.full(3, 7.0)]}, {"title.text": "b"}, [0])
    sent = []
    figure.send = sent.append
    figure._handle_custom_msg("whole", [])
    state = figure.get_state(["_widget_layout", "_widget_data"])
    assert state["_widget_layout"]["title"]["text"] == "b"
    assert list(state["_widget_data"][0]["y"]["buffer"]) == [7, 7, 7]
    assert sent == ["whole"]


def test_the_still_of_a_browser_is_kept_until_the_figure_is_closed(figure, monkeypatch):
    shown = []

    def display(content, *, display_id, update=False):
        shown.append((content.data, display_id, update))

    monkeypatch.setattr("arcvq.explorers.stills.display", display)
    figure.show_still()
    still = {"url": "data:image/png;base64,AA==", "words": 'a "b" < c', "width": 900.4}
    figure._handle_custom_msg({"still": still}, [])
    figure.close()
    texts, names, updates = zip(*shown, strict=True)
    assert set(names) == {figure.still_name}
    assert updates == (False, True, True)
    assert "<img" not in texts[0] + texts[2]
    assert 'alt="a &quot;b&quot; &lt; c"' in texts[1]
    assert "Run the cell again" in texts[1]


def test_no_button_uploads_what_the_reader_sees(figure):
    assert figure._config["showSendToCloud"] is False
    shown = sphere(np.eye(3))
    assert "sendChartToCloud" in shown.layout.template.layout.modebar.remove
