"""The sampling explorer by hand in JupyterLab: keys on its sliders, its menu, draw again and play."""

import itertools

import numpy as np

from arcvq.explorers.sampling_figure import BARS, LEFT, TOKENS
from tests.browser.lab import pixels

SAMPLING = """
import torch, arcvq
from arcvq.explorers import SamplingExplorer
from arcvq.priors import PixelCNN

torch.manual_seed(0)  # with some weights, every image of so small a decoder is the same
images = arcvq.load_images("plain_digits", device="cpu")
model = arcvq.VQVAE(1, arcvq.CosineQuantizer(64, 16), hidden=4, residual_hidden=2)
prior = PixelCNN(64, (4, 4), classes=10, width=8, layers=2)
SamplingExplorer(model, prior, images)
"""
SOURCES = "gd => gd._fullData.slice(0, 3).map(trace => trace.source)"
TITLE = "gd => gd._fullLayout.title.text"


def drawn(notebook):
    """How many tokens of the grid have a colour."""
    rows = notebook.data()[TOKENS]["z"]
    values = itertools.chain.from_iterable(rows)
    return sum(value is not None for value in values)


def test_keys_on_the_sliders_change_samples_probabilities_and_tokens(open_once):
    notebook = open_once(SAMPLING)
    figure = notebook.figure()
    start = notebook.data()
    sources = figure.evaluate(SOURCES)
    for slider, key in (
        ("arcvq-temperature", "PageDown"),
        ("arcvq-top-k", "PageDown"),
        ("arcvq-top-p", "PageDown"),
        ("arcvq-label", "ArrowRight"),
        ("arcvq-seed", "ArrowRight"),
    ):
        bars = notebook.data()[BARS]["y"]
        seen = pixels(figure)
        old = notebook.reads(slider)
        assert notebook.press(slider, key) != old
        notebook.wait(
            lambda bars=bars: notebook.data()[BARS]["y"] != bars, f"{slider} does not move the bars"
        )
        assert (np.abs(pixels(figure) - seen).max(axis=2) > 40).any()
    assert len(notebook.data()[LEFT]["x"]) < 64  # top-k and top-p have cut codes off
    assert figure.evaluate(SOURCES)[0] != sources[0]
    finished = figure.evaluate(SOURCES)[0]
    count = drawn(notebook)
    notebook.press("arcvq-position", times=2)
    notebook.wait(lambda: drawn(notebook) == count + 2, "two more tokens do not come")
    assert figure.evaluate(SOURCES)[0] == finished
    notebook.click("arcvq-reset")
    notebook.wait(
        lambda: figure.evaluate(SOURCES) == sources and notebook.data() == start,
        "reset did not bring the start back",
    )


def test_the_menu_completes_and_the_buttons_draw_again_and_play(open_once):
    notebook = open_once(SAMPLING)
    figure = notebook.figure()
    page = notebook.page
    sources = figure.evaluate(SOURCES)
    notebook.click("arcvq-again")
    notebook.wait(lambda: figure.evaluate(SOURCES)[0] != sources[0], "draw again draws nothing new")
    assert notebook.reads("arcvq-seed") == "1"
    page.locator(".arcvq-task select").select_option("complete the lower half")
    notebook.wait(lambda: drawn(notebook) == 0, "the upper half, 8 tokens, is not given")
    page.get_by_role("button", name="play or pause").click()
    notebook.wait(
        lambda: figure.evaluate(TITLE) == "All 16 tokens are set", "play does not reach the end"
    )
    assert drawn(notebook) == 8
    assert notebook.reads("arcvq-position") == "16"
    notebook.click("arcvq-reset")
