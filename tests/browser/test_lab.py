"""The tests' own eyes: what JupyterLab draws is read, and what goes wrong there is noticed."""

import pytest

SLIDER = """
import ipywidgets, plotly.graph_objects as go

figure = go.FigureWidget(go.Scatter3d(x=[0.0, 1.0], y=[0.0, 1.0], z=[0.0, 0.0], mode="markers"))
figure.add_class("arcvq-figure")
slider = ipywidgets.FloatSlider(0.1, min=0, max=1, step=0.1)
slider.add_class("arcvq-height")

def move(change):
    with figure.batch_update():
        figure.data[0].z = [change["new"]] * 2

slider.observe(move, "value")
ipywidgets.VBox([slider, figure])
"""
BUTTON = """
import ipywidgets

button = ipywidgets.Button(description="bad")
button.add_class("arcvq-bad")
button.on_click(lambda _: 1 / 0)
button
"""


@pytest.fixture
def notebook(open_once):
    return open_once(SLIDER, BUTTON)


def test_a_key_press_reaches_the_plotted_data(notebook):
    assert notebook.data()[0]["z"] == [0, 0]
    assert notebook.press("arcvq-height", times=2) == "0.30"
    assert notebook.data() == [
        {
            "type": "scatter3d",
            "name": "trace 0",
            "visible": True,
            "x": [0, 1],
            "y": [0, 1],
            "z": [0.3, 0.3],
        }
    ]


def test_an_error_in_a_callback_is_noticed(notebook):
    assert notebook.errors == []
    notebook.click("arcvq-bad")
    notebook.wait(lambda: notebook.errors, "the error was not noticed")
    assert "ZeroDivisionError" in notebook.errors.pop()


def test_an_error_in_the_browser_is_noticed(notebook):
    notebook.page.evaluate("setTimeout(() => { throw new Error('from the page') })")
    notebook.wait(lambda: notebook.errors, "the error was not noticed")
    assert "from the page" in notebook.errors.pop()
    assert notebook.errors == []
