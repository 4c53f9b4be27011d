"""Frames a second of the playground in a real browser, beside bare FigureWidget updates of the same size.

`python -m benchmarks.playground` opens JupyterLab and Chromium, lets each run on its own in a fresh notebook, one
after the other, and prints the frames that the browser drew. The FigureWidget draws random points, with no learning
behind it, and cannot say when it has drawn: it is sent frames at several paces, and its best 4 seconds count. The
playground learns a step for each frame and waits for the browser. The time of a step is that of the kernel alone.
"""

import statistics
import time

import torch

from arcvq.explorers.simulation import Simulation
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine
from tests.browser.lab import Lab, browser, jupyter_lab, open_notebook

SECONDS = 4  # the length of a window
PACES = (3, 6, 12, 24)  # updates a second that the FigureWidget is sent, one after the other
PLAYGROUND = "import arcvq.explorers\nplayground = arcvq.explorers.Playground()\nplayground"
FIGURE = """
import asyncio
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
tall = {"type": "scene", "rowspan": 3}
bare = make_subplots(3, 3, specs=[[tall, tall, {}], [None, None, {}], [None, None, {}]])
rng = np.random.default_rng(0)
for column in (1, 2):
    for size in (256, 64):
        bare.add_scatter3d(mode="markers", marker_size=3, row=1, col=column)
    for row in (1, 2, 3):
        bare.add_scatter(x=np.arange(300), y=rng.normal(size=300), row=row, col=3)
bare.update_layout(width=1000, height=380)
figure = go.FigureWidget(bare).add_class("arcvq-figure")

def send():
    with figure.batch_update():
        for trace in figure.data:
            if trace.type == "scatter":
                trace.y = rng.normal(size=300).astype(np.float32)
            else:
                count = 64 if trace.name == "codes" else 256
                trace.x, trace.y, trace.z = rng.normal(size=(3, count)).astype(np.float32)

for place in (1, 6):
    figure.data[place].name = "codes"
send()
figure"""
PUMP = f"""
async def pump():
    await asyncio.sleep(3)
    for pace in {PACES}:
        for _ in range({SECONDS + 1} * pace):
            send()
            await asyncio.sleep(1 / pace)
task = asyncio.get_running_loop().create_task(pump())"""


def step_time(steps: int = 300) -> float:
    """The median time of a step of 256 latents and 64 codes, in milliseconds, on one thread."""
    torch.set_num_threads(1)
    simulation, times = Simulation(), []
    for _ in range(steps):
        start = time.perf_counter()
        simulation.step()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[20:])


def best_window(times: list[float]) -> float:
    """The most frames a second in any window of SECONDS, from the times at which frames were drawn (milliseconds)."""
    ends = [time / 1000 for time in times]
    return max(sum(start < other <= start + SECONDS for other in ends) for start in ends) / SECONDS


def watch(page, element, script: str, seconds: float) -> float:
    """Runs the script, which notes the times of frames in `element.times`, waits, and returns the best window."""
    element.evaluate(script)
    page.wait_for_timeout(1000 * seconds)
    return best_window(element.evaluate("element => element.times"))


def bare_rate(lab: Lab, page) -> float:
    """Redraws a second of a FigureWidget, at its best."""
    figure = open_notebook(lab, page, FIGURE, PUMP, name="bare").figure()
    note = "gd => { gd.times = []; gd.on('plotly_afterplot', () => { gd.times.push(performance.now()); }); }"
    return watch(page, figure, note, len(PACES) * (SECONDS + 1) + 3)


def playground_rate(lab: Lab, page) -> float:
    """Frames a second of the playground while it plays."""
    notebook = open_notebook(lab, page, PLAYGROUND, name="playground")
    canvas = page.locator(".arcvq-playground")
    canvas.wait_for(state="attached")
    notebook.click("arcvq-play")
    note = """element => { element.times = []; new MutationObserver(() => { element.times.push(performance.now()); })
        .observe(element, { attributes: true, attributeFilter: ["data-frame"] }); }"""
    rate = watch(page, canvas, note, 3 * SECONDS)
    notebook.click("arcvq-pause")
    return rate


def main() -> None:
    """Print the table."""
    rates = {}
    for name, measure in (("bare FigureWidget", bare_rate), ("playground", playground_rate)):
        with jupyter_lab({"OMP_NUM_THREADS": "1"}) as lab, browser() as running:
            page = running.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(300_000)  # a FigureWidget that is sent too much answers late
            rates[name] = measure(lab, page)
    lines = ["| what | frames a second |", "|---|---|", *(f"| {name} | {rate:.1f} |" for name, rate in rates.items()),
             f"| ratio | {rates['playground'] / rates['bare FigureWidget']:.2f} |"]
    note = f"A step of 256 latents and 64 codes takes {step_time():.2f} ms (median, one thread); {machine()}"
    text = "\n".join(lines) + f"\n\n{note}\n"
    write_whole(RESULTS / "playground.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
