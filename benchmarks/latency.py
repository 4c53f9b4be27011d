"""Key press to picture in a real browser: each explorer against bare FigureWidgets of the same size.

    python -m benchmarks.latency

Median of 20 presses on a slider in JupyterLab, from the key to plotly's `plotly_afterplot`, in turns with two bare
figures in the same notebook, for 512 and 4,096 points. `same picture` is a FigureWidget with the very traces and
layout of the explorer, whose callback only assigns to the arrays that the explorer moves, and to the title. `one
scatter3d` draws the same points and nothing else: no ball, no curves, no text. Needs Chromium or Chrome.
"""

import argparse
import statistics
from importlib.metadata import version

from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine
from tests.browser.lab import Notebook, browser, jupyter_lab, open_notebook

COUNTS = (512, 4096)
BARE = """
import ipywidgets, numpy as np, plotly.graph_objects as go
from arcvq.figures.moving import changed

before, start = explorer.values(), explorer.settings()
setattr(explorer, {name!r}, getattr(explorer, {name!r}) + {step})
arrays = [path.split("/") for path in changed(explorer.values(), before) if path[-2:] in ("/x", "/y", "/z")]
same, one = go.FigureWidget(explorer.picture()), go.FigureWidget(go.Scatter3d(mode="markers", marker_size=3))
explorer.reset()
original = {{(int(trace), axis): np.array(same.data[int(trace)][axis], np.float32) for trace, axis in arrays}}
rows = np.random.default_rng(0).normal(size=({count}, 3)).astype(np.float32)

def bare(figure, name, values, titled):
    figure.add_class(f"arcvq-{{name}}-figure")
    slider = ipywidgets.FloatSlider(1.0, min=0.5, max=2.0, step=0.005)
    slider.add_class(f"arcvq-{{name}}")

    def move(change):
        with figure.batch_update():
            for (trace, axis), column in values.items():
                figure.data[trace][axis] = column * np.float32(change["new"])
            if titled:
                figure.layout.title.text = str(change["new"])

    slider.observe(move, "value")
    move({{"new": 1.0}})
    return ipywidgets.VBox([slider, figure])

points = dict(zip(((0, axis) for axis in "xyz"), rows.T))
ipywidgets.VBox([bare(same, "same", original, True), bare(one, "one", points, False)])
"""
RUN = """
import pandas as pd, torch, arcvq
from arcvq.training import Run, Snapshot

shots = {{step: Snapshot(torch.randn({count}, 3), torch.randint(0, 9, ({count},))) for step in range(100)}}
history = pd.DataFrame({{"step": range(100), "codes_used": 1, "perplexity": 1.0, "psnr": 10.0}})
run = Run(arcvq.VQVAE(1, arcvq.SphericalQuantizer({count}, 3, arcvq.SAMP.for_run(100)), hidden=4, residual_hidden=2),
          history.to_dict("records"), shots, {{}}, 1.0)
"""
EXPLORERS = {  # its slider, how far the setting moves, and the cell that makes it
    "MarginExplorer, margin": ("margin", 0.05, "import torch\nfrom arcvq.explorers import MarginExplorer\n"
                               "explorer = MarginExplorer(torch.randn({count}, 3), torch.randn(3))\nexplorer"),
    "RadiusExplorer, step": ("step", 60, "import torch\nfrom arcvq.explorers import RadiusExplorer\n"
                             "explorer = RadiusExplorer(torch.randn({count}, 3))\nexplorer"),
    "TrainingReplay, step": ("step", 1, RUN + "from arcvq.explorers import TrainingReplay\n"
                             "explorer = TrainingReplay(run, step=20)\nexplorer"),
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


def compare(notebook: Notebook, slider: str, presses: int) -> list[float]:
    """Medians of the explorer, the same picture bare, and one bare scatter3d, pressed in turns."""
    pairs = ((f"arcvq-{slider}", ".arcvq-figure"), ("arcvq-same", ".arcvq-same-figure"),
             ("arcvq-one", ".arcvq-one-figure"))
    times = [[latency(notebook, *pair) for pair in pairs] for _ in range(presses + 2)][2:]  # the first two warm up
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presses", type=int, default=20)
    options = parser.parse_args()
    lines = ["| explorer | points | explorer (ms) | same picture (ms) | ratio | one scatter3d (ms) | ratio |",
             "|---" * 7 + "|"]
    with browser() as chromium, jupyter_lab({"OMP_NUM_THREADS": "1"}) as lab:
        for count in COUNTS:
            for name, (setting, step, cell) in EXPLORERS.items():
                context = chromium.new_context(viewport={"width": 1300, "height": 2600})
                bare = BARE.format(count=count, name=setting, step=step)
                notebook = open_notebook(lab, context.new_page(), cell.format(count=count), bare)
                own, same, one = compare(notebook, setting, options.presses)
                context.close()
                lab.end_kernels()
                lines.append(f"| {name} | {count:,} | {own:.0f} | {same:.0f} | {own / same:.2f} | {one:.0f} | "
                             f"{own / one:.2f} |")
                print(lines[-1], flush=True)
        name = f"Chromium {chromium.version}"
    note = (f"Median of {options.presses} presses. "
            f"{machine()}, {name}, plotly {version('plotly')}, JupyterLab {version('jupyterlab')}.")
    text = "\n".join(lines) + f"\n\n{note}\n"
    write_whole(RESULTS / "latency.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
