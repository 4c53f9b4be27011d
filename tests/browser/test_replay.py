"""The replay of a training run in JupyterLab."""

import numpy as np

from tests.browser.lab import GIVEN_UP, pixels

RUNS = """
import math, pandas as pd, torch, arcvq
from arcvq.training import Run, Snapshot

def make_run(quantizer):
    shots = {step: Snapshot(torch.randn(64, 3, generator=torch.Generator().manual_seed(step)) * (1 + step / 10),
                            torch.arange(64) * (step > 0)) for step in (0, 10, 20)}
    history = pd.DataFrame({"step": [5, 10, 15, 20], "codes_used": [3, 6, 9, 12], "perplexity": [2.0, 3, 4, 5],
                            "psnr": [10.0, 12, 13, 14]})
    if isinstance(quantizer, arcvq.SphericalQuantizer):
        history["radius"] = (0.05 * history["step"]).map(math.exp)
    return Run(arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2), history.to_dict("records"), shots, {}, 1.0)

samp = arcvq.SAMP(radius=arcvq.schedules.Exponential(0.05), weight=None)
runs = {"plain": make_run(arcvq.EuclideanQuantizer(64, 3)), "samp": make_run(arcvq.SphericalQuantizer(64, 3, samp))}
"""
REPLAY = "from arcvq.explorers import TrainingReplay\nreplay = TrainingReplay(runs, step=0)\nreplay"


# anywidget then gives up before any explorer can be there.
IMPATIENT = """
const patient = AbortSignal.timeout;
AbortSignal.timeout = (milliseconds) => patient.call(AbortSignal, milliseconds / 1000);
"""


def summary(notebook):
    return notebook.page.locator(".arcvq-summary").inner_text()


def spheres(notebook):
    """What is to be seen of each sphere."""
    figures = notebook.page.locator(".arcvq-replay figure > canvas")
    return [pixels(figures.nth(place)) for place in range(figures.count())]


def changed(before, after):
    """The share of the pixels that changed."""
    return (np.abs(after - before).max(axis=2) > 40).mean()


def test_keys_and_buttons_move_codes_and_words_and_the_kernel_follows(open_once):
    notebook = open_once(RUNS, REPLAY)
    page = notebook.page
    notebook.wait(
        lambda: "At step 0: plain codes not counted yet" in summary(notebook), "no summary"
    )
    before = spheres(notebook)
    assert len(before) == 2
    page.locator(".arcvq-step input").focus()
    page.keyboard.press("ArrowRight")
    notebook.wait(lambda: "At step 10: plain 6 of 64" in summary(notebook), "the key did nothing")
    notebook.wait(
        lambda: min(map(changed, before, spheres(notebook))) > 0.002, "the spheres stood still"
    )
    assert page.locator(".arcvq-step output").inner_text() == "10"
    page.locator("button.arcvq-play").click()
    notebook.wait(lambda: "At step 20" in summary(notebook), "it did not play")
    notebook.wait(
        lambda: page.locator("button.arcvq-play").inner_text() == "play", "it did not stop"
    )
    page.locator("button.arcvq-back").click()
    notebook.wait(lambda: "At step 10" in summary(notebook), "back did nothing")
    notebook.run("print('the kernel has', replay.step)")
    notebook.wait(lambda: "the kernel has 10" in page.content(), "the kernel did not follow")
    page.locator("button.arcvq-reset").click()


def test_spheres_turn_together_and_say_what_a_code_is(open_once):
    notebook = open_once(RUNS, REPLAY)
    page = notebook.page
    sphere = page.locator(".arcvq-replay figure > canvas").first
    sphere.scroll_into_view_if_needed()
    page.locator("button.arcvq-forward").click()
    before = spheres(notebook)
    box = sphere.bounding_box()
    x = box["x"] + box["width"] / 2
    y = box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 20, steps=5)
    page.mouse.up()
    notebook.wait(lambda: min(map(changed, before, spheres(notebook))) > 0.002, "one did not turn")
    tip = page.locator(".arcvq-tip:not([hidden])")
    for step in range(60):
        page.mouse.move(x - 60 + 2 * step, y)
        if tip.count():
            break
    assert "code " in tip.inner_text()
    assert "norm " in tip.inner_text()
    assert tip.locator("canvas").count() == 1, "its decoded patch"


def test_it_draws_although_anywidget_gives_up(open_notebook, page):
    page.add_init_script(IMPATIENT)
    notebook = open_notebook(RUNS, REPLAY, expected=[GIVEN_UP])
    notebook.wait(lambda: "At step 0" in summary(notebook), "it stayed empty")
    page.locator(".arcvq-step input").focus()
    page.keyboard.press("End")
    notebook.wait(lambda: "At step 20" in summary(notebook), "it does not answer")
