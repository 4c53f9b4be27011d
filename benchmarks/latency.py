"""Key press to picture in a real browser: each explorer against a bare FigureWidget of the same size.

    python -m benchmarks.latency

Median of 20 presses on a slider in JupyterLab, from the key to plotly's `plotly_afterplot`, in turns with the bare
figure in the same notebook, for 512 and 4,096 points. Needs Chromium or Chrome.
"""

import argparse
import statistics
from importlib.metadata import version

from arcvq.checkpoints import write_whole
from benchmarks import RESULTS, machine
from tests.browser.lab import Notebook, browser, jupyter_lab, open_notebook

COUNTS = (512, 4096)
TARGET = 1.3  # times the bare update
# A bare update sends the points of a scatter3d anew, all of them, and nothing else.
BARE = """
import ipywidgets, numpy as np, plotly.graph_objects as go

rows = np.random.default_rng(0).normal(size=({count}, 3)).astype(np.float32)
bare = go.FigureWidget(go.Scatter3d(x=rows[:, 0], y=rows[:, 1], z=rows[:, 2], mode="markers", marker_size=3))
bare.add_class("arcvq-bare-figure")
slider = ipywidgets.FloatSlider(1.0, min=0.0, max=4.0, step=0.02)
slider.add_class("arcvq-bare")

def move(change):
    with bare.batch_update():
        for axis, column in zip("xyz", rows.T):
            bare.data[0][axis] = column * change["new"]

slider.observe(move, "value")
ipywidgets.VBox([slider, bare])
"""
RUN = """
import pandas as pd, torch, arcvq
from arcvq.training import Run, Snapshot

shots = {{step: Snapshot(torch.randn({count}, 3), torch.randint(0, 9, ({count},))) for step in range(100)}}
history = pd.DataFrame({{"step": range(100), "codes_used": 1, "perplexity": 1.0, "psnr": 10.0}})
run = Run(arcvq.VQVAE(1, arcvq.SphericalQuantizer({count}, 3, arcvq.SAMP.for_run(100)), hidden=4, residual_hidden=2),
          history, shots, {{}}, 1.0)
"""
EXPLORERS = {
    "MarginExplorer, margin": ("arcvq-margin", "import torch\nfrom arcvq.explorers import MarginExplorer\n"
                               "MarginExplorer(torch.randn({count}, 3), torch.randn(3))"),
    "RadiusExplorer, step": ("arcvq-step", "import torch\nfrom arcvq.explorers import RadiusExplorer\n"
                             "RadiusExplorer(torch.randn({count}, 3))"),
    "TrainingReplay, step": ("arcvq-step", RUN + "from arcvq.explorers import TrainingReplay\n"
                             "TrainingReplay(run, step=20)"),
}
WAIT = """([figure, handle]) => new Promise((done, failed) => {
    const start = performance.now();
    setTimeout(() => failed(new Error('no redraw within 20 s')), 20000);
    figure.once('plotly_afterplot', () => done(performance.now() - start));
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
})"""


def latency(notebook: Notebook, slider: str, figure: str) -> float:
    """Milliseconds from the key to the end of the redraw."""
    plot = notebook.figure(figure=figure)
    handle = notebook.page.locator(f".{slider} .noUi-handle").first
    handle.focus()
    return notebook.page.evaluate(WAIT, [plot.element_handle(), handle.element_handle()])


def compare(notebook: Notebook, slider: str, presses: int) -> tuple[float, float]:
    """Medians of the explorer and of the bare figure, pressed in turns."""
    times = [(latency(notebook, slider, ".arcvq-figure"), latency(notebook, "arcvq-bare", ".arcvq-bare-figure"))
             for _ in range(presses + 2)][2:]  # the first two warm up
    return statistics.median(one for one, _ in times), statistics.median(other for _, other in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presses", type=int, default=20)
    options = parser.parse_args()
    lines = ["| explorer | points | key to picture (ms) | bare figure (ms) | ratio |", "|---|---|---|---|---|"]
    with browser() as chromium, jupyter_lab() as lab:
        for count in COUNTS:
            for name, (slider, cell) in EXPLORERS.items():
                context = chromium.new_context(viewport={"width": 1300, "height": 2600})
                notebook = open_notebook(lab, context.new_page(), BARE.format(count=count), cell.format(count=count))
                own, bare = compare(notebook, slider, options.presses)
                context.close()
                lines.append(f"| {name} | {count:,} | {own:.0f} | {bare:.0f} | {own / bare:.2f} |")
                print(lines[-1], flush=True)
        name = f"Chromium {chromium.version}"
    note = (f"Median of {options.presses} presses; the target is a ratio of at most {TARGET}. {machine()}, {name}, "
            f"plotly {version('plotly')}, JupyterLab {version('jupyterlab')}.")
    text = "\n".join(lines) + f"\n\n{note}\n"
    write_whole(RESULTS / "latency.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
