"""Frames a second of the playground in a browser, beside bare FigureWidget updates of its size.

    python -m benchmarks.playground

Opens JupyterLab and Chromium and lets each run on its own in a fresh notebook, one after the
other. What counts is the frames that the browser drew. The FigureWidget draws random points, with
no learning behind it, and cannot say when it has drawn: frames are sent to it at several rates, and
its best 4 seconds count. The playground learns a step for each frame and waits for the browser. The
time of a step is that of the kernel alone.
"""

import statistics
import time
from collections.abc import Callable

import torch
from playwright.sync_api import Locator, Page

from arcvq.explorers.simulation import Simulation
from benchmarks import machine, markdown_table, write_report
from tests.browser.lab import Lab, browser, jupyter_lab, open_notebook

SECONDS = 4  # the length of the window that counts
RATES = (3, 6, 12, 24)  # updates a second that the FigureWidget is sent, one after the other
WARM_UP = 20  # steps

PLAYGROUND_CELL = "import arcvq.explorers\nplayground = arcvq.explorers.Playground()\nplayground"
FIGURE_CELL = """
import asyncio
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

scene = {"type": "scene", "rowspan": 3}
bare = make_subplots(3, 3, specs=[[scene, scene, {}], [None, None, {}], [None, None, {}]])
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
figure
"""
SEND_CELL = f"""
async def send_all():
    await asyncio.sleep(3)
    for rate in {RATES}:
        for _ in range({SECONDS + 1} * rate):
            send()
            await asyncio.sleep(1 / rate)

task = asyncio.get_running_loop().create_task(send_all())
"""
NOTE_REDRAWS = """gd => {
    gd.times = [];
    gd.on('plotly_afterplot', () => { gd.times.push(performance.now()); });
}"""
NOTE_FRAMES = """element => {
    element.times = [];
    const note = () => { element.times.push(performance.now()); };
    const watched = {attributes: true, attributeFilter: ['data-frame']};
    new MutationObserver(note).observe(element, watched);
}"""


def step_time(steps: int = 300) -> float:
    """Median milliseconds of a step of 256 latents and 64 codes, on one thread."""
    torch.set_num_threads(1)
    simulation = Simulation()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        simulation.step()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM_UP:])


def best_rate(times: list[float]) -> float:
    """The most frames a second in any window, from the times of the frames in milliseconds."""
    most = 0
    for start in times:
        end = start + 1000 * SECONDS
        most = max(most, sum(start < other <= end for other in times))
    return most / SECONDS


def watch(element: Locator, script: str, seconds: float) -> float:
    """The best rate of an element while a script notes the times of its frames."""
    element.evaluate(script)
    element.page.wait_for_timeout(1000 * seconds)
    return best_rate(element.evaluate("element => element.times"))


def bare_rate(lab: Lab, page: Page) -> float:
    """Redraws a second of a FigureWidget, at its best."""
    figure = open_notebook(lab, page, FIGURE_CELL, SEND_CELL, name="bare").figure()
    return watch(figure, NOTE_REDRAWS, len(RATES) * (SECONDS + 1) + 3)


def playground_rate(lab: Lab, page: Page) -> float:
    """Frames a second of the playground while it plays."""
    notebook = open_notebook(lab, page, PLAYGROUND_CELL, name="playground")
    canvas = page.locator(".arcvq-playground")
    canvas.wait_for(state="attached")
    notebook.click("arcvq-play")
    rate = watch(canvas, NOTE_FRAMES, 3 * SECONDS)
    notebook.click("arcvq-pause")
    return rate


def measure(rate: Callable[[Lab, Page], float]) -> float:
    """A rate in a fresh JupyterLab and browser."""
    with jupyter_lab({"OMP_NUM_THREADS": "1"}) as lab, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(300_000)  # a FigureWidget that is sent too much answers late
        return rate(lab, page)


def main() -> None:
    bare = measure(bare_rate)
    playground = measure(playground_rate)
    rows = [
        ["bare FigureWidget", f"{bare:.1f}"],
        ["playground", f"{playground:.1f}"],
        ["ratio", f"{playground / bare:.2f}"],
    ]
    step = f"A step of 256 latents and 64 codes takes {step_time():.2f} ms (median, one thread)"
    table = markdown_table(["what", "frames a second"], rows)
    write_report("playground.md", f"{table}\n\n{step}; {machine()}\n")


if __name__ == "__main__":
    main()
