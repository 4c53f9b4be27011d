"""A training that runs in the kernel's background, watched and steered in JupyterLab."""

from itertools import pairwise

SETUP = """
import arcvq
from arcvq.explorers import LiveTraining

images = arcvq.load_images("digits", device="cpu").subset(train=256)
model = arcvq.VQVAE(1, arcvq.SphericalQuantizer(32, 8), hidden=8, residual_hidden=4)
"""
LIVE = "live = LiveTraining(model, images, steps={steps}, batch_size=16, precision='float32', device='cpu')\nlive"


def curve(notebook, name):
    """Steps and values of a line as the browser plots it."""
    trace = next(trace for trace in notebook.data() if trace["name"] == name)
    return trace.get("x", []), trace.get("y", [])


def rises(notebook):
    """How often the weight of the margin loss, which decays by itself, is larger than at the row before."""
    return sum(later > earlier for earlier, later in pairwise(curve(notebook, "weight")[1]))


def test_it_grows_while_it_trains_follows_the_slider_and_stops(open_notebook):
    notebook = open_notebook(SETUP, LIVE.format(steps=20_000))
    assert curve(notebook, "training") == ([], [])
    notebook.click("arcvq-start")
    for rows in (2, 5):
        notebook.wait(
            lambda rows=rows: len(curve(notebook, "training")[0]) >= rows, "the curve does not grow"
        )
    assert notebook.page.locator("button.arcvq-start").is_disabled() and rises(notebook) == 0
    assert notebook.press("arcvq-weight", times=5) == "1.50"
    notebook.wait(lambda: rises(notebook), "the slider did not reach the training")
    notebook.click("arcvq-stop")
    message = notebook.page.locator(".arcvq-message")
    notebook.wait(lambda: "Stopped at step" in message.inner_text(), "it did not stop")
    steps = curve(notebook, "training")[0]
    assert f"Stopped at step {steps[-1]:,} of 20,000" in message.inner_text(), (
        "the last row is drawn"
    )
    notebook.page.wait_for_timeout(1000)
    assert curve(notebook, "training")[0] == steps
    notebook.click("arcvq-reset")
    notebook.wait(lambda: curve(notebook, "training") == ([], []), "reset left the curve")
    assert notebook.reads("arcvq-weight") == "1.00"


def test_rows_arrive_while_a_cell_waits_for_the_run(open_notebook):
    notebook = open_notebook(SETUP, LIVE.format(steps=150), "live.start()\nrun = live.wait()")
    notebook.wait(
        lambda: curve(notebook, "training")[0] == list(range(2, 151, 2)), "rows are missing"
    )
    assert "Step 150 of 150" in notebook.figure().evaluate("gd => gd._fullLayout.title.text")
    assert "Finished." in notebook.page.locator(".arcvq-message").inner_text()
