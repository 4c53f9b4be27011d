"""The code inspector and the collapse game by hand in JupyterLab."""

import numpy as np

from arcvq.figures.theme import PAPER
from tests.browser.lab import pixels

INSPECTOR = """
import torch, arcvq
from arcvq.explorers import CodeInspector

torch.manual_seed(0)
images = arcvq.load_images("plain_digits", device="cpu")
model = arcvq.VQVAE(1, arcvq.CosineQuantizer(64, 16), hidden=4, residual_hidden=2)
CodeInspector(model, images)
"""
GAME = """
from arcvq.explorers import CollapseGame

game = CollapseGame(runs)
game
"""
RUNS = """
import pandas as pd, torch, arcvq
from arcvq.training import Run, Snapshot

def make_run(quantizer, used):
    counts = torch.arange(64) * (torch.arange(64) <= used)
    history = pd.DataFrame({"step": [5, 10, 15, 20], "codes_used": [60, 40, 30, used]})
    return Run(arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2), history.to_dict("records"),
               {20: Snapshot(torch.randn(64, 3), counts)}, {"steps": 20, "batch_size": 32, "lr": 0.003}, 1.0)

runs = {"plain": make_run(arcvq.EuclideanQuantizer(64, 3), 5), "samp": make_run(arcvq.SphericalQuantizer(64, 3), 50)}
"""
TITLE = "gd => gd._fullLayout.title.text"
SUMMARY = "gd => gd.layout.meta.summary"
# The colors of the codes from rare to often, as red, green and blue.
SCALE = """gd => gd._fullData[0].marker.colorscale.map(([_, color]) => {
    const pen = document.createElement("canvas").getContext("2d");
    pen.fillStyle = color;
    return pen.fillStyle.match(/[0-9a-f]{2}/g).map(part => parseInt(part, 16));
})"""
# The middle of the point of the map that lies farthest from all others, so that a click meets no other.
# A figure that is too high for the page is scaled.
POINT = """gd => {
    const box = gd.getBoundingClientRect(), {xaxis, yaxis} = gd._fullLayout;
    const scale = new DOMMatrix(getComputedStyle(gd).transform).a;
    const places = gd._fullData.slice(0, 2).flatMap(trace => Array.from(trace.x, (x, row) => ({
        code: trace.customdata[row][0],
        left: box.left + scale * (xaxis._offset + xaxis.l2p(x)),
        top: box.top + scale * (yaxis._offset + yaxis.l2p(trace.y[row]))})));
    const gap = one => Math.min(...places.map(other => other === one ? Infinity
        : Math.hypot(one.left - other.left, one.top - other.top)));
    const chosen = Number(gd._fullLayout.title.text.match(/\\d+/)[0]);
    return places.filter(one => one.code !== chosen).sort((a, b) => gap(b) - gap(a))[0];
}"""


def test_a_click_on_the_map_and_keys_on_the_sliders_take_the_code_apart(open_once):
    notebook = open_once(INSPECTOR, RUNS, GAME)
    figure = notebook.figure()
    page = notebook.page
    for slider in ("arcvq-rank", "arcvq-other", "arcvq-chosen"):
        before = pixels(figure)
        said = figure.evaluate(SUMMARY)
        old = notebook.reads(slider)
        assert notebook.press(slider, "ArrowRight" if old in ("0", "1") else "ArrowLeft") != old
        assert figure.evaluate(SUMMARY) != said
        assert (np.abs(pixels(figure) - before).max(axis=2) > 40).any()

    def click_chooses_its_code():
        # A busy page may not yet know what is under the pointer: point again, from a step beside.
        figure.scroll_into_view_if_needed()  # keys on the sliders may have moved it
        point = figure.evaluate(POINT)
        page.mouse.move(point["left"] + 30, point["top"] + 30)
        page.mouse.move(point["left"], point["top"])
        page.wait_for_timeout(300)
        page.mouse.click(point["left"], point["top"])
        page.wait_for_timeout(3000)
        return figure.evaluate(TITLE).startswith(f"Code {point['code']} and")

    notebook.wait(click_chooses_its_code, "the click chose no code")
    notebook.click("arcvq-reset")
    notebook.wait(lambda: notebook.reads("arcvq-rank") == "1", "reset did not bring the start back")


def test_on_a_dark_page_the_most_used_code_is_the_brightest(open_once):
    notebook = open_once(INSPECTOR, RUNS, GAME)
    figure = notebook.figure()
    body = notebook.page.locator("body")
    body.evaluate("body => body.style.setProperty('--jp-layout-color0', '#111111')")
    ground = "gd => gd._fullLayout.paper_bgcolor"
    notebook.wait(lambda: figure.evaluate(ground) == "#111111", "the ground stays light")
    least, *_, most = figure.evaluate(SCALE)
    assert sum(least) < sum(most)
    body.evaluate("body => body.style.removeProperty('--jp-layout-color0')")
    notebook.wait(lambda: figure.evaluate(ground) == PAPER, "the ground stays dark")
    least, *_, most = figure.evaluate(SCALE)
    assert sum(least) > sum(most)


def test_a_guess_is_locked_and_the_run_shows_itself(open_once):
    notebook = open_once(INSPECTOR, RUNS, GAME)
    figure = notebook.figure(1)
    hidden = notebook.data(1)
    assert [len(trace.get("x", [])) for trace in hidden] == [0, 0, 2, 2, 0, 0]
    guess = int(notebook.press("arcvq-guess", "ArrowLeft", times=2, place=1))
    assert guess == 30
    assert notebook.data(1)[2]["y"] == [30, 30]
    notebook.click("arcvq-lock")
    notebook.wait(
        lambda: "25 codes too many" in figure.evaluate(SUMMARY), "the lock did not show the run"
    )
    assert notebook.data(1)[0]["y"] == [60, 40, 30, 5]
    assert notebook.data(1)[4]["y"] == [5, 5]
    notebook.click("arcvq-next")
    notebook.wait(lambda: "samp" in figure.evaluate(TITLE), "the next run did not come")
    assert [len(trace.get("x", [])) for trace in notebook.data(1)] == [0, 0, 2, 2, 0, 0]
    assert "Score so far" in figure.evaluate(SUMMARY)
    game = notebook.page.locator(".arcvq-explorer", has=notebook.page.locator(".arcvq-guess"))
    game.locator("button.arcvq-reset").click()
    notebook.wait(lambda: notebook.data(1) == hidden, "reset did not bring the start back")
