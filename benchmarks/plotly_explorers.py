"""How soon plotly explorers answer a key in JupyterLab, beside bare figures with the same traces.

    python -m benchmarks.plotly_explorers

A key moves a slider; the time from the key to plotly's event that the figure is drawn, for an
explorer and for a `FigureWidget` with the same traces and layout, whose slider goes back and forth
between two pictures that were made before. Both are in one notebook and take turns.

Needs Chromium or Chrome. On a machine without a graphics card it draws in software.
"""

import argparse
from importlib.metadata import version
from statistics import median
from typing import NamedTuple

from playwright.sync_api import Browser, Page

from benchmarks import machine, markdown_table, write_report
from tests.browser.lab import Lab, browser, jupyter_lab, open_notebook

VIEWPORT = {"width": 1280, "height": 1500}
PAUSE = 400  # milliseconds between keys: an answer to one does not meet the next
PATIENCE = 30_000  # milliseconds for an answer
SETUP = """
import ipywidgets
import plotly.graph_objects as go
import torch

import arcvq
from arcvq.analysis import projections
from arcvq.explorers import CodeInspector, CodeMap, SamplingExplorer
from arcvq.explorers.figure_updates import assign, changed
from arcvq.priors import PixelCNN

torch.manual_seed(0)
images = arcvq.load_images("digits", device="cpu")
model = arcvq.VQVAE(1, arcvq.CosineQuantizer(512, 16), hidden=32, residual_hidden=8)
prior = PixelCNN(512, (7, 7), classes=10)
projections.umap_angles = lambda codes, dim, **_: projections.pca(codes, dim)


def bare(explorer, setting, values):
    \"\"\"The figure of an explorer alone, under a slider between two of its pictures.\"\"\"
    figure = go.FigureWidget(go.Figure(explorer.figure))
    pictures = []
    for value in values:
        setattr(explorer, setting, value)
        pictures.append(explorer.values())
    moves = [changed(pictures[0], pictures[1]), changed(pictures[1], pictures[0])]
    slider = ipywidgets.IntSlider(min=0, max=1).add_class("bare-slider")

    def show(change):
        with figure.batch_update():
            assign(figure, moves[change["old"]])

    slider.observe(show, "value")
    return ipywidgets.VBox([slider, figure]).add_class("bare")
"""
# The explorer, its setting, two values of it side by side.
CASES = {
    "CodeMap": ("CodeMap(model, images, used_only=False)", "chosen", (7, 8)),
    "CodeInspector": ("CodeInspector(model, images)", "chosen", (7, 8)),
    "SamplingExplorer": ("SamplingExplorer(model, prior, images)", "position", (7, 8)),
}
CELL = """
explorer = {explorer}
other = bare(explorer, "{setting}", {values})
ipywidgets.VBox([explorer, other])
"""
# Also lets anywidget wait for a bare figure as long as it takes; after its two seconds it is lost.
WATCH = """
globalThis.pressed = NaN;
document.addEventListener("keydown", () => { globalThis.pressed = performance.now(); }, true);
const timeout = AbortSignal.timeout;
AbortSignal.timeout = (limit) => timeout.call(AbortSignal, limit === 2000 ? 90_000 : limit);
"""
# A promise of the milliseconds from the next key to the picture.
ASK = """([plot, limit]) => {
  globalThis.answer = new Promise((done, fail) => {
    setTimeout(() => fail(new Error("no picture")), limit);
    plot.once("plotly_afterplot", () => done(performance.now() - pressed));
  });
}"""


class Part(NamedTuple):
    """Where a slider and its plot are in the page."""

    slider: str
    plot: str


def answers(page: Page, parts: dict[str, Part], rounds: int) -> dict[str, list[float]]:
    """Milliseconds from a key to the picture, for each part; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for key in ("ArrowRight", "ArrowLeft"):
            for name, part in parts.items():
                found[name].append(answer(page, part, key))
    return found


def answer(page: Page, part: Part, key: str) -> float:
    """Milliseconds from a key on the part's slider to the picture of its plot."""
    page.locator(part.slider).first.focus()
    page.wait_for_timeout(PAUSE)
    plot = page.locator(part.plot).first.element_handle()
    page.evaluate(ASK, [plot, PATIENCE])
    page.keyboard.press(key)
    return page.evaluate("answer")


def measure(lab: Lab, chromium: Browser, name: str, rounds: int) -> list[str]:
    """The row of an explorer."""
    explorer, setting, values = CASES[name]
    page = chromium.new_context(viewport=VIEWPORT).new_page()
    page.add_init_script(WATCH)
    cell = CELL.format(explorer=explorer, setting=setting, values=values)
    open_notebook(lab, page, SETUP, cell)
    parts = {
        "explorer": Part(f".arcvq-{setting} .noUi-handle", ".arcvq-figure .js-plotly-plot"),
        "bare": Part(".bare-slider .noUi-handle", ".bare .js-plotly-plot"),
    }
    for part in parts.values():
        page.locator(f"{part.plot} .main-svg").first.wait_for()
    answers(page, parts, rounds=1)  # warms up
    times = answers(page, parts, rounds)
    page.context.close()
    lab.end_kernels()
    middle = {name: median(found) for name, found in times.items()}
    ratio = middle["explorer"] / middle["bare"]
    row = [name, f"{middle['explorer']:.0f}", f"{middle['bare']:.0f}", f"{ratio:.2f}"]
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=CASES, action="append", help="an explorer; none: all")
    options = parser.parse_args()
    with browser() as chromium, jupyter_lab({"OMP_WAIT_POLICY": "PASSIVE"}) as lab:
        rows = [measure(lab, chromium, name, options.rounds) for name in options.only or CASES]
        note = (
            f"Medians of {2 * options.rounds} keys; 512 codes of 16 dimensions. {machine()}, "
            f"Chromium {chromium.version}, plotly {version('plotly')}, "
            f"JupyterLab {version('jupyterlab')}."
        )
    titles = ["explorer", "its picture (ms)", "bare figure (ms)", "ratio"]
    write_report("plotly_explorers.md", f"{markdown_table(titles, rows)}\n\n{note}\n")


if __name__ == "__main__":
    main()
