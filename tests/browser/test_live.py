"""A training that runs in the kernel's background, watched and steered in JupyterLab."""

from tests.browser.lab import GIVEN_UP, pixels
from tests.browser.test_replay import IMPATIENT

SETUP = """
import torch, arcvq
from arcvq.explorers import LiveTraining

torch.manual_seed(0)
images = arcvq.load_images("digits", device="cpu").subset(train=256)
model = arcvq.VQVAE(1, arcvq.SphericalQuantizer(32, 8), hidden=8, residual_hidden=4)
"""
LIVE = "live = LiveTraining(model, images, steps={steps}, batch_size=16, precision='float32', device='cpu')\nlive"


def step(notebook):
    """The step that the title tells."""
    title = notebook.page.locator(".arcvq-live-sphere figcaption").inner_text()
    return int(title.split()[1].replace(",", ""))


def status(notebook):
    return notebook.page.locator(".arcvq-status").inner_text()


def test_it_grows_while_it_trains_follows_the_slider_and_stops(open_notebook):
    notebook = open_notebook(SETUP, LIVE.format(steps=20_000))
    page = notebook.page
    notebook.wait(lambda: step(notebook) == 0, "no title")
    notebook.click("arcvq-start")
    for rows in (25, 75):
        notebook.wait(lambda rows=rows: step(notebook) >= rows, "the run does not go on")
    assert page.locator("button.arcvq-start").is_disabled()
    slider = page.locator(".arcvq-weight input")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.locator(".arcvq-weight output").inner_text() == "1.5"
    notebook.click("arcvq-stop")
    notebook.wait(lambda: "Stopped at step" in status(notebook), "it did not stop")
    last = step(notebook)
    assert f"Stopped at step {last:,} of 20,000" in status(notebook), "the last row is drawn"
    page.wait_for_timeout(1000)
    assert step(notebook) == last
    notebook.run("print('rises:', (live.run.history['weight'].diff() > 0).sum())")
    notebook.wait(lambda: "rises: " in page.content(), "the kernel does not answer")
    assert "rises: 0" not in page.content(), "the slider did not reach the training"
    notebook.click("arcvq-reset")
    notebook.wait(lambda: step(notebook) == 0, "reset left the run")
    assert page.locator(".arcvq-weight output").inner_text() == "1"


def test_rows_arrive_while_a_cell_waits_although_anywidget_gives_up(open_notebook, page):
    page.add_init_script(IMPATIENT)
    notebook = open_notebook(
        SETUP,
        LIVE.format(steps=150),
        "live.start()\nrun = live.wait()",
        expected=[GIVEN_UP],
    )
    notebook.wait(lambda: step(notebook) == 150, "rows are missing")
    notebook.wait(lambda: "Finished." in status(notebook), "it does not say that it is finished")
    assert (pixels(page.locator(".arcvq-live-sphere canvas")) < 200).mean() > 0.004
