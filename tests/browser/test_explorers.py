"""Every explorer by hand in JupyterLab: keys on its sliders, clicks on its buttons and points."""

import numpy as np
import pytest

from tests.browser.lab import pixels

SLIDERS = {
    "margin": (
        "from arcvq.explorers import MarginExplorer\nMarginExplorer()",
        {"arcvq-margin": "cap θ + m", "arcvq-top-k": "nearest latents", "arcvq-scale": ""},
    ),
    "margin-circle": (
        "from arcvq.explorers import MarginExplorer\nMarginExplorer(dim=2)",
        {"arcvq-margin": "cap θ + m"},
    ),
    "radius": (
        "from arcvq.explorers import RadiusExplorer\nRadiusExplorer()",
        {"arcvq-growth": "", "arcvq-step": "", "arcvq-run-length": ""},
    ),
}
CODE_MAP = """
import torch, arcvq
from arcvq.explorers import CodeMap

images = arcvq.load_images("digits", device="cpu").subset(train=32)
model = arcvq.VQVAE(1, arcvq.CosineQuantizer(64, 16), hidden=4, residual_hidden=2)
CodeMap(model, images, used_only=False)
"""


@pytest.mark.parametrize("name", SLIDERS)
def test_keys_on_the_sliders_move_the_plotted_data(open_notebook, name):
    cell, sliders = SLIDERS[name]
    notebook = open_notebook(cell)
    start = notebook.data()
    for slider, trace in sliders.items():
        before, picture = notebook.data(), pixels(notebook.figure())
        old = notebook.reads(slider)
        assert notebook.press(slider, times=3) != old
        moved = [
            one["name"] for one, other in zip(notebook.data(), before, strict=True) if one != other
        ]
        assert trace in moved or (not trace and moved)
        assert (np.abs(pixels(notebook.figure()) - picture).max(axis=2) > 40).any()
    notebook.click("arcvq-reset")
    notebook.wait(lambda: notebook.data() == start, "reset did not bring the start back")


def test_the_playground_plays_pauses_and_steps(open_notebook):
    notebook = open_notebook("from arcvq.explorers import Playground\nPlayground()")
    canvas = notebook.page.locator(".arcvq-playground")

    def counted(name="frame"):
        return int(canvas.get_attribute(f"data-{name}") or 0)

    notebook.wait(lambda: counted() >= 1, "the playground was not drawn")
    picture = pixels(canvas)
    notebook.click("arcvq-play")
    notebook.wait(lambda: counted("step") >= 30, "the playground does not play")
    notebook.click("arcvq-pause")
    notebook.page.wait_for_timeout(500)
    frame, step = counted(), counted("step")
    assert (np.abs(pixels(canvas) - picture).max(axis=2) > 40).mean() > 0.005
    notebook.page.wait_for_timeout(700)
    assert (counted(), counted("step")) == (frame, step)
    notebook.click("arcvq-step")
    notebook.wait(lambda: counted("step") == step + 1, "one step is not one step")
    notebook.page.locator(".arcvq-margin .noUi-handle").first.focus()
    notebook.page.keyboard.press("ArrowRight")
    notebook.click("arcvq-reset")
    notebook.wait(lambda: counted("step") == 0, "reset did not bring step 0 back")
    assert notebook.reads("arcvq-margin") == "0.10"


def test_a_click_on_a_point_of_the_code_map_chooses_its_code(open_notebook):
    notebook = open_notebook(CODE_MAP)
    figure = notebook.figure()
    point = """gd => {
        const trace = gd._fullData[1], box = gd.getBoundingClientRect(), size = gd._fullLayout._size;
        const x = Array.from(trace.x), y = Array.from(trace.y), place = x.indexOf(Math.max(...x));
        return [box.left + size.l + gd._fullLayout.xaxis.l2p(x[place]),
                box.top + size.t + gd._fullLayout.yaxis.l2p(y[place])];
    }"""
    said = "gd => gd._fullLayout.xaxis9.title.text"
    before, chosen = figure.evaluate(said), notebook.reads("arcvq-chosen")
    notebook.page.mouse.move(*figure.evaluate(point))
    notebook.wait(
        lambda: figure.evaluate(said) != before, "the code under the pointer was not decoded"
    )
    assert notebook.reads("arcvq-chosen") == chosen
    notebook.page.mouse.click(*figure.evaluate(point))
    notebook.wait(lambda: notebook.reads("arcvq-chosen") != chosen, "no other code was chosen")
    notebook.wait(
        lambda: notebook.data()[2]["name"] != f"code {chosen}", "no other code was ringed"
    )
    chosen = notebook.reads("arcvq-chosen")
    assert (
        figure.evaluate(said) == f"code {chosen}, decoded"
        and notebook.data()[2]["name"] == f"code {chosen}"
    )
