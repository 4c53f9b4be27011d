"""The zoom explorer by hand in JupyterLab: keys on its sliders move the window of all panels."""

ZOOM = """
import torch
from arcvq.explorers import ZoomExplorer

torch.manual_seed(0)
photograph, other = 2 * torch.rand(2, 1, 3, 40, 60) - 1
ZoomExplorer(photograph, {"SAMP": other})
"""
RANGES = """gd => ["xaxis", "yaxis", "xaxis2", "yaxis2"].map(
    name => Array.from(gd._fullLayout[name].range))"""


def test_keys_on_the_sliders_move_the_window_of_all_panels(open_once):
    notebook = open_once(ZOOM)
    figure = notebook.figure()
    start = figure.evaluate(RANGES)
    for slider, key in (
        ("arcvq-zoom", "PageUp"),
        ("arcvq-across", "ArrowLeft"),
        ("arcvq-down", "ArrowRight"),
    ):
        before = figure.evaluate(RANGES)
        notebook.press(slider, key)
        notebook.wait(
            lambda before=before: figure.evaluate(RANGES) != before,
            f"{slider} does not move the window",
        )
        x, y, other_x, other_y = figure.evaluate(RANGES)
        assert x == other_x
        assert y == other_y
    notebook.click("arcvq-reset")
    notebook.wait(
        lambda: figure.evaluate(RANGES) == start, "reset did not bring the whole photograph back"
    )
