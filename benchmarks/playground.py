"""Frames a second of the playground, beside a loop in the same page that draws nothing.

    python -m benchmarks.playground

Opens the playground on a page of its own in Chromium, without a kernel, and lets it play: a step of
learning and two spheres a frame. The loop counts what `requestAnimationFrame` gives, mostly 60
frames a second at best. A busy machine spoils all of it, so the load before the run is told.
"""

import os
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from arcvq.explorers import Playground
from benchmarks import machine, markdown_table, write_report
from tests.browser.lab import browser

SIZES = [(256, 64), (4096, 512)]  # latents and codes
SECONDS = 5
COUNT_FRAMES = """async (seconds) => {
  let bare = 0;
  let isOn = true;
  const loop = () => {
    bare += 1;
    if (isOn) requestAnimationFrame(loop);
  };
  requestAnimationFrame(loop);
  const { dataset } = document.querySelector("canvas");
  const before = Number(dataset.frames);
  const start = performance.now();
  await new Promise((done) => setTimeout(done, 1000 * seconds));
  isOn = false;
  const passed = (performance.now() - start) / 1000;
  return [(Number(dataset.frames) - before) / passed, bare / passed];
}"""


def rates(chromium: Browser, num_latents: int, num_codes: int) -> tuple[list[float], list[float]]:
    """Frames a second of the playground and of the bare loop, before and while it plays."""
    playground = Playground(num_latents=num_latents, num_codes=num_codes)
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "playground.html")
        path.write_text(f"<!doctype html><meta charset=utf-8>{playground.html()}")
        page.goto(path.as_uri())
        page.locator("canvas[data-frames]").first.wait_for()
        still = page.evaluate(COUNT_FRAMES, SECONDS)
        page.locator("button.arcvq-play").click()
        page.wait_for_timeout(2000)  # the browser compiles what is called often
        playing = page.evaluate(COUNT_FRAMES, SECONDS)
    page.close()
    return still, playing


def main() -> None:
    rows = []
    load = f"load average before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    with browser() as chromium:
        for num_latents, num_codes in SIZES:
            (_, alone), (frames, beside) = rates(chromium, num_latents, num_codes)
            name = f"{num_latents:,} latents, {num_codes} codes"
            rows.append([name, f"{frames:.1f}", f"{beside:.1f}", f"{alone:.1f}"])
    columns = ["playground", "frames a second", "bare loop beside it", "bare loop alone"]
    write_report("playground.md", f"{markdown_table(columns, rows)}\n\n{machine()}, {load}\n")


if __name__ == "__main__":
    main()
