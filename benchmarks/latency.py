"""Key press to picture in a browser: each explorer against bare FigureWidgets of the same size.

    python -m benchmarks.latency

Median of 20 presses on a slider in JupyterLab, from the key to plotly's `plotly_afterplot`, taking
turns with two bare figures in the same notebook, for 512 and 4,096 points. "Same picture" is a
FigureWidget with the traces and the layout of the explorer, whose callback only assigns to the
title and to the arrays that the explorer moves. "One scatter3d" draws the same points and nothing
else. Needs Chromium or Chrome.
"""

import argparse
import statistics
from importlib.metadata import version
from typing import NamedTuple

from playwright.sync_api import Browser

from benchmarks import machine, markdown_row, markdown_table, write_report
from tests.browser.lab import Lab, Notebook, browser, jupyter_lab, open_notebook

COUNTS = (512, 4096)  # points

MARGIN_CELL = """
import torch
from arcvq.explorers import MarginExplorer

explorer = MarginExplorer(torch.randn({count}, 3), torch.randn(3))
explorer
"""
RADIUS_CELL = """
import torch
from arcvq.explorers import RadiusExplorer

explorer = RadiusExplorer(torch.randn({count}, 3))
explorer
"""
REPLAY_CELL = """
import torch
import arcvq
from arcvq.explorers import TrainingReplay
from arcvq.training import Run, Snapshot

quantizer = arcvq.SphericalQuantizer({count}, 3, arcvq.SAMP.for_run(100))
model = arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2)
measures = {{"codes_used": 1, "perplexity": 1.0, "psnr": 10.0}}
rows = [{{"step": step, **measures}} for step in range(100)]
snapshots = {{}}
for step in range(100):
    snapshots[step] = Snapshot(torch.randn({count}, 3), torch.randint(0, 9, ({count},)))
explorer = TrainingReplay(Run(model, rows, snapshots, {{}}, 1.0), step=20)
explorer
"""
# Two bare figures, each with a slider that scales its points.
BARE_CELL = """
import ipywidgets
import numpy as np
import plotly.graph_objects as go

def bare(figure, name, columns, titled):
    slider = ipywidgets.FloatSlider(1.0, min=0.5, max=2.0, step=0.005)
    slider.add_class(f"arcvq-{{name}}")

    def move(change):
        with figure.batch_update():
            for (trace, axis), column in columns.items():
                figure.data[trace][axis] = column * np.float32(change["new"])
            if titled:
                figure.layout.title.text = str(change["new"])

    slider.observe(move, "value")
    move({{"new": 1.0}})
    return ipywidgets.VBox([slider, figure]).add_class(f"arcvq-{{name}}-figure")

# What the explorer moves: the coordinates that a change of its setting changes.
before = explorer.values()
setattr(explorer, {setting!r}, explorer.{setting} + {step})
moved = explorer.values()
explorer.reset()
same = go.FigureWidget(explorer.picture())
original = {{}}
for path, value in moved.items():
    trace, _, axis = path.partition("/")
    if axis in ("x", "y", "z") and not np.array_equal(value, before.get(path)):
        original[int(trace), axis] = np.array(same.data[int(trace)][axis], np.float32)

one = go.FigureWidget(go.Scatter3d(mode="markers", marker_size=3))
points = np.random.default_rng(0).normal(size=(3, {count})).astype(np.float32)
columns = {{(0, "x"): points[0], (0, "y"): points[1], (0, "z"): points[2]}}
ipywidgets.VBox([bare(same, "same", original, True), bare(one, "one", columns, False)])
"""
WAIT = """([figure, handle]) => new Promise((done, failed) => {
    const start = performance.now();
    setTimeout(() => failed(new Error('no redraw within 20 s')), 20000);
    figure.once('plotly_afterplot', () => done(performance.now() - start));
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
})"""


class Measured(NamedTuple):
    """An explorer to measure.

    Attributes:
        title: Its name in the table.
        setting: The setting whose slider is pressed.
        step: How far the setting is moved to see what it changes.
        cell: The notebook cell that makes it.
    """

    title: str
    setting: str
    step: float
    cell: str


EXPLORERS = (
    Measured("MarginExplorer, margin", "margin", 0.05, MARGIN_CELL),
    Measured("RadiusExplorer, step", "step", 60, RADIUS_CELL),
    Measured("TrainingReplay, step", "step", 1, REPLAY_CELL),
)
TITLES = ["explorer", "points", "explorer (ms)", "same picture (ms)", "ratio"]


def latency(notebook: Notebook, slider: str, figure: str) -> float:
    """Milliseconds from a key press on a slider to the end of the redraw."""
    plot = notebook.figure(figure=figure)
    handle = notebook.page.locator(f".{slider} .noUi-handle").first
    handle.focus()
    return notebook.page.evaluate(WAIT, [plot.element_handle(), handle.element_handle()])


def compare(notebook: Notebook, slider: str, presses: int) -> list[float]:
    """Medians of the explorer, the same picture and one scatter3d, pressed in turns."""
    pairs = {
        f"arcvq-{slider}": ".arcvq-figure",
        "arcvq-same": ".arcvq-same-figure",
        "arcvq-one": ".arcvq-one-figure",
    }
    rounds = []
    for _ in range(presses + 2):
        rounds.append([latency(notebook, *pair) for pair in pairs.items()])
    measured = zip(*rounds[2:], strict=True)  # the first two warm up
    return [statistics.median(times) for times in measured]


def measure(lab: Lab, chromium: Browser, explorer: Measured, count: int, presses: int) -> list[str]:
    """A row of the table."""
    context = chromium.new_context(viewport={"width": 1300, "height": 2600})
    cell = explorer.cell.format(count=count)
    bare = BARE_CELL.format(count=count, setting=explorer.setting, step=explorer.step)
    notebook = open_notebook(lab, context.new_page(), cell, bare)
    own, same, one = compare(notebook, explorer.setting, presses)
    context.close()
    lab.end_kernels()
    times = [f"{own:.0f}", f"{same:.0f}", f"{own / same:.2f}", f"{one:.0f}", f"{own / one:.2f}"]
    return [explorer.title, f"{count:,}", *times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presses", type=int, default=20)
    options = parser.parse_args()

    rows = []
    with browser() as chromium, jupyter_lab({"OMP_NUM_THREADS": "1"}) as lab:
        for count in COUNTS:
            for explorer in EXPLORERS:
                rows.append(measure(lab, chromium, explorer, count, options.presses))
                print(markdown_row(rows[-1]), flush=True)
        chromium_version = chromium.version
    versions = f"plotly {version('plotly')}, JupyterLab {version('jupyterlab')}"
    note = (
        f"Median of {options.presses} presses. {machine()}, Chromium {chromium_version}, "
        f"{versions}."
    )
    table = markdown_table([*TITLES, "one scatter3d (ms)", "ratio"], rows)
    write_report("latency.md", f"{table}\n\n{note}\n")


if __name__ == "__main__":
    main()
