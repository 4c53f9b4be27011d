"""Plotly explorers where the page is too busy for anywidget, and where the kernel is gone."""

import pytest

from tests.browser.lab import GIVEN_UP
from tests.browser.test_inspector import GAME, INSPECTOR, RUNS
from tests.browser.test_sampling import SAMPLING

# anywidget gives a model up that is not there in time; every other limit stays.
FORCED = """
const timeout = AbortSignal.timeout;
AbortSignal.timeout = (limit) => timeout.call(AbortSignal, limit === 2000 ? 1 : limit);
"""
LINE = """
import numpy as np, traitlets
from plotly.graph_objects import Figure, Scatter
from arcvq.explorers import Explorer

class Line(Explorer):
    slope = traitlets.Float(1.0, min=-2.0, max=2.0).tag(label="slope")
    rate = traitlets.Float(3e-4, min=1e-5, max=1.0).tag(label="rate", log=True)

    def picture(self):
        x = np.arange(4.0)
        title = {"text": f"slope {self.slope:g}"}
        return Figure(Scatter(x=x, y=self.slope * x), {"title": title})

line = Line()
line
"""
# UMAP takes long to compile
MAP = """
from arcvq.analysis import projections
from arcvq.explorers import CodeMap

projections.umap_angles = lambda codes, dim, **_: projections.pca(codes, dim)
code_map = CodeMap(model, images, used_only=False)
code_map
"""
TITLES = "plots => plots.map(gd => gd._fullLayout?.title.text ?? '')"


@pytest.fixture
def forced(page):
    page.add_init_script(FORCED)


def test_explorers_that_anywidget_has_given_up_draw_and_follow(forced, open_notebook):
    inspector = INSPECTOR.replace("CodeInspector(", "inspector = CodeInspector(") + "\ninspector"
    sampling = SAMPLING.replace("SamplingExplorer(", "sampling = SamplingExplorer(") + "\nsampling"
    moves = "line.slope = 0.5; inspector.chosen = 7; code_map.chosen = 5; sampling.position = 3"
    cells = [LINE, inspector, MAP, sampling, RUNS, GAME, f"{moves}; game.next()"]
    notebook = open_notebook(*cells, expected=[GIVEN_UP])
    plots = notebook.page.locator(".arcvq-figure .js-plotly-plot")

    def are_up_to_date():
        titles = "\n".join(plots.evaluate_all(TITLES))
        told = ("slope 0.5", "Code 7 and", "PCA", "3 of 16", "samp")
        return all(words in titles for words in told)

    notebook.wait(are_up_to_date, "not all explorers were drawn with what came after them")
    assert plots.count() == 5
    said = "gd => gd._fullLayout.xaxis9.title.text"
    assert notebook.figure(2).evaluate(said) == "code 5, decoded"
    assert notebook.press("arcvq-slope", times=2) == "0.52"
    assert notebook.data()[0]["y"][1] == pytest.approx(0.52)


def test_sliders_and_figures_have_names_and_tell_the_value(open_notebook):
    notebook = open_notebook(LINE)
    notebook.figure()
    names = "handles => handles.map(handle => [handle.ariaLabel, handle.ariaValueText])"
    handles = notebook.page.locator(".noUi-handle")
    notebook.wait(
        lambda: handles.evaluate_all(names) == [["slope", "1.00"], ["rate", "0.000300"]],
        "the sliders do not tell their names and values",
    )
    handles.last.focus()
    notebook.page.keyboard.press("ArrowRight")
    notebook.wait(
        lambda: handles.last.get_attribute("aria-valuetext") == "0.000314",
        "the slider tells another value than it has",
    )
    assert notebook.figure().get_attribute("aria-label") == "slope 1"


def test_a_still_stays_when_the_kernel_goes(open_notebook):
    notebook = open_notebook(LINE, expected=["widget model not found"])
    notebook.figure()
    page = notebook.page
    still = page.locator("[data-arcvq-still]")
    notebook.wait(lambda: still.locator("img").count(), "there is no still")
    assert not still.is_visible()
    notebook.menu("File", "Save Notebook")
    notebook.menu("Kernel", "Restart Kernel…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.get_by_text("The kernel behind this explorer is gone: run the cell again.").wait_for()
    page.wait_for_timeout(500)
    page.reload()
    still.locator("img").wait_for()
    assert "Run the cell again" in still.inner_text()
    assert still.locator("img").get_attribute("alt") == "slope 1"
    assert not page.get_by_text("Error displaying widget").is_visible()
