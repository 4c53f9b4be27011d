"""Explorers wherever a notebook is open: cells run again, a tab opened again, Jupyter Notebook 7."""

import os
from importlib.util import find_spec

import pytest

from tests.browser import lab as launch
from tests.browser.lab import pixels
from tests.browser.test_figure_widget import LINE

MARGIN = """
from arcvq.explorers import MarginExplorer

explorer = MarginExplorer()
explorer
"""
ASK = "print('margin', explorer.margin, 'slope', line.slope)"
# Counts the pictures that watch their size, each as long as it lives.
COUNT = """
globalThis.watching = new Set();
globalThis.ResizeObserver = class extends ResizeObserver {
  observe(...what) {
    watching.add(this);
    super.observe(...what);
  }
  disconnect() {
    watching.delete(this);
    super.disconnect();
  }
};
"""
# What it says of itself as it opens.
NOTEBOOK_7 = ("reading 'schema'", "Command 'filebrowser:open-path' not registered")
STILL_THERE = 3500  # milliseconds, longer than a widget is waited for before its spare is drawn


def answers(notebook, margin, slope):
    """Moves both explorers by a key, and waits until Python has the values."""
    page = notebook.page
    page.locator(".arcvq-margin input").first.focus()
    page.keyboard.press("ArrowRight")
    assert notebook.press("arcvq-slope") == slope
    rerun(page, 2)
    told = page.locator(".jp-OutputArea-output", has_text=f"margin {margin} slope {slope}")
    told.wait_for(timeout=launch.PATIENCE * 1000)


def rerun(page, place):
    """Runs a cell again."""
    page.locator(".jp-CodeCell .cm-content").nth(place).click()
    page.keyboard.press("Control+Enter")


def run_count(page, place):
    """How often cells had been run when this one was."""
    text = page.locator(".jp-CodeCell .jp-InputPrompt").nth(place).inner_text()
    return int(text.strip("[]: \n*") or 0)


def is_drawn(page):
    """Whether there is one explorer of each kind with its picture."""
    explorers = page.locator(".arcvq-explorer:visible")
    canvas = page.locator(".arcvq-explorer canvas[data-frames]:visible")
    plot = page.locator(".arcvq-figure .js-plotly-plot .main-svg:visible")
    return explorers.count() == 2 and canvas.count() > 0 and plot.count() > 0


def test_a_cell_run_again_leaves_no_view_behind_and_a_closed_tab_opens_over_its_kernel(
    open_notebook, lab, page
):
    page.add_init_script(COUNT)
    notebook = open_notebook(MARGIN, LINE, ASK)
    notebook.wait(lambda: is_drawn(page), "not both explorers were drawn")
    page.wait_for_timeout(STILL_THERE)
    watching = page.evaluate("watching.size")
    for _ in range(5):
        before = run_count(page, 1)
        rerun(page, 0)
        rerun(page, 1)
        notebook.wait(lambda before=before: run_count(page, 1) > before, "the cells did not run")
        notebook.wait(lambda: is_drawn(page), "an explorer is not drawn again, or is there twice")
    notebook.wait(lambda: page.evaluate("watching.size") == watching, "views are left behind")
    answers(notebook, margin=0.11, slope="1.01")

    notebook.menu("File", "Save Notebook")
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    page.goto("about:blank")
    again = launch.visit(lab, page, notebook.path)
    again.wait(lambda: is_drawn(page), "a tab opened again does not draw both explorers")
    assert page.locator(".arcvq-margin output").first.inner_text() == "0.11 rad"
    assert again.reads("arcvq-slope") == "1.01"
    answers(again, margin=0.12, slope="1.02")


def test_explorers_draw_and_reach_python_in_notebook_7(open_notebook, page):
    if find_spec("notebook") is None:
        # In CI it is there, with the tests' other packages.
        required = os.environ.get("ARCVQ_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("needs Jupyter Notebook: pip install notebook")
    notebook = open_notebook(MARGIN, LINE, ASK, home="notebooks", expected=NOTEBOOK_7)
    notebook.wait(lambda: is_drawn(page), "not both explorers were drawn")
    sphere = page.locator(".arcvq-explorer canvas").first
    answers(notebook, margin=0.11, slope="1.01")
    before = pixels(sphere)
    box = sphere.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    notebook.wait(lambda: (pixels(sphere) != before).any(), "the sphere does not turn")
