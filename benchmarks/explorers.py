"""How the explorers answer in a browser: pictures in a drag, frames a second, the first picture.

    python -m benchmarks.explorers

- A drag: 30 moves of a slider in a second. A picture counts if a frame of the browser shows it; a
  bare loop of `requestAnimationFrame`, measured right before, says how many frames there could be.
  "Last" is the time from the last move to its picture. Once on a page without a kernel, and once in
  JupyterLab while its kernel trains with a thread for each core.
- The playground: frames in four seconds of playing, beside the bare loop.
- Opening: the largest message that the explorer sends to JupyterLab, and the time from the first
  sight of the cell's output to the first picture. The replay shows two runs of 128 codes, with 25
  snapshots each.

Needs Chromium or Chrome. On a machine without a graphics card it draws in software.
"""

import argparse
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from playwright.sync_api import Browser, Page

from arcvq.explorers import MarginExplorer, Playground, RadiusExplorer
from benchmarks import machine, markdown_table, write_report
from tests.browser.lab import Lab, browser, jupyter_lab, open_notebook

COUNTS = (512, 4096)  # points
MOVES = 30
SECONDS = 4  # of playing
SIZES = ((64, 256), (512, 4096))  # codes and latents of the playground
VIEWPORT = {"width": 1280, "height": 720}

# Notes when a canvas is painted, and when JupyterLab shows an output.
WATCH = """
globalThis.painted = [];
globalThis.firstOutput = undefined;
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...box) {
  globalThis.painted.push(performance.now());
  return clear.apply(this, box);
};
const look = () => {
  if (document.querySelector(".jp-OutputArea-output")) {
    globalThis.firstOutput ??= performance.now();
  }
};
new MutationObserver(look).observe(document, { childList: true, subtree: true });
"""
# Counts frames for some milliseconds, and those since whose forerunner something was painted.
FRAMES = """
globalThis.countFrames = (duration) => new Promise((done) => {
  const found = { frames: 0, pictures: 0 };
  const end = performance.now() + duration;
  let seen = painted.length;
  const frame = () => {
    found.frames += 1;
    if (painted.length > seen) found.pictures += 1;
    seen = painted.length;
    if (performance.now() < end) requestAnimationFrame(frame);
    else done(found);
  };
  requestAnimationFrame(frame);
});
"""
DRAG = """async ([selector, moves]) => {
  const slider = document.querySelector(selector);
  const [min, max] = [+slider.min, +slider.max];
  const bare = await countFrames(1000);
  const start = performance.now();
  let last = 0;
  for (let move = 0; move < moves; move++) {
    setTimeout(() => {
      slider.value = min + ((max - min) * (move + 1)) / (moves + 1);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      last = performance.now();
    }, (1000 * move) / moves);
  }
  const { pictures } = await countFrames(1200);
  const after = painted.filter((time) => time >= last);
  return { bare: bare.frames, pictures, last: (after[0] ?? NaN) - last };
}"""
TRAINING_CELL = """
import threading
import torch
import arcvq

torch.set_num_threads({cores})
data = arcvq.load_images("digits", device="cpu")
model = arcvq.VQVAE(1, arcvq.SphericalQuantizer(512, 64), hidden=48, residual_hidden=12)

def train():
    recording = arcvq.Recording(progress=False)
    arcvq.fit(model, data, steps=100_000, compute=arcvq.Compute("cpu"), recording=recording)

threading.Thread(target=train, daemon=True).start()
"""
EXPLORER_CELLS = {
    "MarginExplorer": """
import torch
from arcvq.explorers import MarginExplorer
MarginExplorer(torch.randn({count}, 3), torch.randn(3))
""",
    "RadiusExplorer": """
import torch
from arcvq.explorers import RadiusExplorer
RadiusExplorer(torch.randn({count}, 3))
""",
}
RUNS_CELL = """
import arcvq
from arcvq.explorers import LiveTraining, MarginExplorer, Playground, RadiusExplorer, TrainingReplay

data = arcvq.load_images("digits", device="cpu")

def model(quantizer):
    return arcvq.VQVAE(1, quantizer, hidden=16, residual_hidden=4)

def run(quantizer):
    recording = arcvq.Recording(snapshots=24, progress=False)
    return arcvq.fit(model(quantizer), data, steps=96, recording=recording)

plain = arcvq.EuclideanQuantizer(128, 16)
samp = arcvq.SphericalQuantizer(128, 16)
"""
OPENING_CELLS = {
    "MarginExplorer": "MarginExplorer()",
    "RadiusExplorer": "RadiusExplorer()",
    "Playground": "Playground()",
    "TrainingReplay of two runs": "TrainingReplay({'plain VQ': run(plain), 'SAMP': run(samp)})",
    "LiveTraining": "LiveTraining(model(samp), data, steps=1000)",
}
SLIDERS = {"MarginExplorer": "margin", "RadiusExplorer": "step"}


def explorer(name: str, count: int) -> Any:
    """An explorer of so many points."""
    torch.manual_seed(0)
    points = torch.randn(count, 3)
    if name == "MarginExplorer":
        return MarginExplorer(points, torch.randn(3))
    return RadiusExplorer(points)


def open_page(chromium: Browser, folder: Path, html: str) -> Page:
    """A page of its own with this explorer on it, once it is drawn."""
    file = folder / "page.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'><body>{html}</body>", "utf-8")
    page = chromium.new_context(viewport=VIEWPORT).new_page()
    page.add_init_script(WATCH + FRAMES)
    page.goto(file.as_uri())
    page.wait_for_function("painted.length > 0")
    return page


def drag(page: Page, name: str, rounds: int) -> list[str]:
    """Medians over rounds: pictures, frames of the bare loop, milliseconds to the last picture."""
    selector = f".arcvq-{SLIDERS[name]} input[type=range]"
    page.wait_for_selector(selector)
    page.evaluate(DRAG, [selector, MOVES])  # warms up
    found = [page.evaluate(DRAG, [selector, MOVES]) for _ in range(rounds)]
    measures = {}
    for key in found[0]:
        measures[key] = median(one[key] for one in found)
    pictures = f"{min(measures['pictures'], MOVES):.0f} of {MOVES}"
    return [pictures, f"{measures['bare']:.0f}", f"{measures['last']:.0f}"]


def drags_on_pages(chromium: Browser, folder: Path, rounds: int) -> list[list[str]]:
    """Rows of drags without a kernel."""
    rows = []
    for name in SLIDERS:
        for count in COUNTS:
            page = open_page(chromium, folder, explorer(name, count).html())
            rows.append([name, f"{count:,}", "no kernel", *drag(page, name, rounds)])
            page.context.close()
    return rows


def drags_while_training(lab: Lab, chromium: Browser, rounds: int) -> list[list[str]]:
    """Rows of drags beside a training kernel."""
    cores = torch.get_num_threads()
    rows = []
    for name, cell in EXPLORER_CELLS.items():
        for count in COUNTS:
            page = chromium.new_context(viewport=VIEWPORT).new_page()
            page.add_init_script(WATCH + FRAMES)
            training = TRAINING_CELL.format(cores=cores)
            open_notebook(lab, page, training, cell.format(count=count))
            rows.append([name, f"{count:,}", "kernel trains", *drag(page, name, rounds)])
            page.context.close()
            lab.end_kernels()
    return rows


def playground_rates(chromium: Browser, folder: Path) -> list[list[str]]:
    """Rows of the playground: frames a second, and those of a bare loop on the same page."""
    rows = []
    for codes, latents in SIZES:
        html = Playground(num_codes=codes, num_latents=latents).html()
        page = open_page(chromium, folder, html)
        bare = page.evaluate(f"countFrames({1000 * SECONDS})")["frames"] / SECONDS
        page.click(".arcvq-play")
        page.wait_for_timeout(1000)
        playing = page.evaluate(f"countFrames({1000 * SECONDS})")["pictures"] / SECONDS
        rows.append([f"{codes:,}", f"{latents:,}", f"{playing:.0f}", f"{bare:.0f}"])
        page.context.close()
    return rows


def openings(lab: Lab, chromium: Browser) -> list[list[str]]:
    """Rows of the largest message and the time to the first picture, in JupyterLab."""
    rows = []
    for name, cell in OPENING_CELLS.items():
        page = chromium.new_context(viewport=VIEWPORT).new_page()
        page.add_init_script(WATCH + FRAMES)
        sizes: list[int] = []
        page.on("websocket", lambda socket, sizes=sizes: _note_openings(socket, sizes))
        open_notebook(lab, page, RUNS_CELL, cell)
        page.wait_for_function("painted.length > 0")
        first = page.evaluate("painted[0] - firstOutput")
        rows.append([name, f"{max(sizes) / 1000:.0f}", f"{first:.0f}"])
        page.context.close()
        lab.end_kernels()
    return rows


def _note_openings(socket: Any, sizes: list[int]) -> None:
    """Note the size of each message that opens a widget."""

    def received(frame: str | bytes) -> None:
        text = frame.encode() if isinstance(frame, str) else frame
        if b'"comm_open"' in text:
            sizes.append(len(text))

    socket.on("framereceived", received)


def report(
    drags: Sequence[Sequence[str]],
    rates: Sequence[Sequence[str]],
    opened: Sequence[Sequence[str]],
    note: str,
) -> str:
    """The three tables in Markdown."""
    tables = [
        markdown_table(
            ["explorer", "points", "", "pictures", "frames of a bare loop", "last (ms)"], drags
        ),
        markdown_table(["codes", "latents", "frames a second", "bare loop"], rates),
        markdown_table(["explorer", "opening message (kB)", "first picture (ms)"], opened),
    ]
    return "\n\n".join([*tables, note]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        browser() as chromium,
        jupyter_lab({"OMP_WAIT_POLICY": "PASSIVE"}) as lab,
    ):
        drags = drags_on_pages(chromium, Path(folder), options.rounds)
        rates = playground_rates(chromium, Path(folder))
        opened = openings(lab, chromium)
        drags += drags_while_training(lab, chromium, options.rounds)
        note = (
            f"Medians of {options.rounds} drags. {machine()}, Chromium {chromium.version}, "
            f"anywidget {version('anywidget')}, JupyterLab {version('jupyterlab')}."
        )
    write_report("explorers.md", report(drags, rates, opened, note))


if __name__ == "__main__":
    main()
