"""Every explorer by hand in JupyterLab: keys on its sliders, clicks on its buttons and points."""

import numpy as np
import pytest

from tests.browser.lab import pixels

# An explorer on a canvas, and below it what Python knows of a setting.
CANVAS = """
import ipywidgets, traitlets
from arcvq.explorers import {explorer}

explorer = {explorer}({arguments})
told = ipywidgets.Label().add_class("told")
traitlets.dlink((explorer, "{setting}"), (told, "value"), str)
ipywidgets.VBox([explorer, told]).add_class("{name}")
"""
# By name: the explorer, its setting, and the setting's value after three keys.
SLIDERS = {
    "margin": ("MarginExplorer", "", "margin", "0.13"),
    "margin-circle": ("MarginExplorer", "dim=2", "scale", "6.5"),
    "radius": ("RadiusExplorer", "", "step", "603"),
    "radius-growth": ("RadiusExplorer", "", "growth", "0.0004"),
}
MOVED = {"by-hand": ("MarginExplorer", "dim=2", "moved", "")}
CODE_MAP = """
import torch, arcvq
from arcvq.explorers import CodeMap

images = arcvq.load_images("digits", device="cpu").subset(train=32)
torch.manual_seed(0)
model = arcvq.VQVAE(1, arcvq.CosineQuantizer(64, 16), hidden=4, residual_hidden=2)
CodeMap(model, images, used_only=False)
"""


@pytest.fixture
def canvases(open_once):
    """`canvases(name)`: the notebook, and in it the explorer with what Python knows."""
    cells = []
    for name, (explorer, arguments, setting, _) in (SLIDERS | MOVED).items():
        cells.append(
            CANVAS.format(name=name, explorer=explorer, arguments=arguments, setting=setting)
        )

    def find(name):
        notebook = open_once(*cells)
        return notebook, notebook.page.locator(f".{name}")

    return find


@pytest.mark.parametrize("name", SLIDERS)
def test_keys_on_a_slider_draw_again_and_reach_python(canvases, name):
    notebook, explorer = canvases(name)
    *_, setting, value = SLIDERS[name]
    canvas = explorer.locator("canvas").first
    told = explorer.locator(".told")
    slider = explorer.locator(f".arcvq-{setting} input")
    slider.wait_for(state="visible")
    start = told.inner_text()
    picture = pixels(canvas)
    slider.focus()
    for _ in range(3):
        notebook.page.keyboard.press("ArrowRight")
    notebook.wait(lambda: told.inner_text() == value, "Python was not told")
    assert (np.abs(pixels(canvas) - picture).max(axis=2) > 40).any()
    explorer.locator("button.arcvq-reset").click()
    notebook.wait(lambda: told.inner_text() == start, "reset did not bring the start back")
    notebook.wait(lambda: (pixels(canvas) == picture).all(), "the first picture did not come back")


@pytest.mark.parametrize("by", ["pointer", "keys"])
def test_the_code_of_the_margin_explorer_is_moved_by_hand(canvases, by):
    notebook, explorer = canvases("by-hand")
    page = notebook.page
    canvas = explorer.locator("canvas").first
    title = explorer.locator("figcaption")
    canvas.scroll_into_view_if_needed()
    start = title.inner_text()
    canvas.focus()
    page.keyboard.press("p")  # the last point is the code
    tip = explorer.locator(".arcvq-tip").first
    notebook.wait(lambda: tip.inner_text() == "the code", "the keys did not reach the code")
    if by == "keys":
        page.keyboard.press("Shift+ArrowUp")
    else:
        left, top = tip.evaluate("tip => [parseFloat(tip.style.left), parseFloat(tip.style.top)]")
        box = tip.locator("xpath=..").bounding_box()
        aside = tip.evaluate("tip => tip.style.transform")
        x = box["x"] + left + (14 if aside else -14)
        y = box["y"] + top - 14
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 10, y - 30, steps=3)
        page.mouse.up()
    told = explorer.locator(".told")
    notebook.wait(lambda: told.inner_text().startswith("code:"), "Python was not told")
    assert title.inner_text() != start
    explorer.locator("button.arcvq-reset").click()
    notebook.wait(lambda: title.inner_text() == start, "reset did not bring the code back")


def test_a_click_on_a_point_of_the_code_map_chooses_its_code(open_notebook):
    notebook = open_notebook(CODE_MAP)
    figure = notebook.figure()
    # On a narrow page the figure is scaled.
    point = """gd => {
        const trace = gd._fullData[1], box = gd.getBoundingClientRect(), layout = gd._fullLayout;
        const scale = new DOMMatrix(getComputedStyle(gd).transform).a;
        const x = Array.from(trace.x), y = Array.from(trace.y), place = x.indexOf(Math.max(...x));
        return [box.left + scale * (layout._size.l + layout.xaxis.l2p(x[place])),
                box.top + scale * (layout._size.t + layout.yaxis.l2p(y[place]))];
    }"""
    said = "gd => gd._fullLayout.xaxis9.title.text"
    before = figure.evaluate(said)
    chosen = notebook.reads("arcvq-chosen")

    def decodes_the_code_under_the_pointer():
        # The figure may still find its place: point again, from a step beside.
        x, y = figure.evaluate(point)
        notebook.page.mouse.move(x + 30, y + 30)
        notebook.page.mouse.move(x, y)
        notebook.page.wait_for_timeout(500)
        return figure.evaluate(said) != before

    notebook.wait(decodes_the_code_under_the_pointer, "the code under the pointer was not decoded")
    assert notebook.reads("arcvq-chosen") == chosen
    notebook.page.mouse.click(*figure.evaluate(point))
    notebook.wait(lambda: notebook.reads("arcvq-chosen") != chosen, "no other code was chosen")
    notebook.wait(
        lambda: notebook.data()[2]["name"] != f"code {chosen}", "no other code was ringed"
    )
    chosen = notebook.reads("arcvq-chosen")
    assert figure.evaluate(said) == f"code {chosen}, decoded"
    assert notebook.data()[2]["name"] == f"code {chosen}"
