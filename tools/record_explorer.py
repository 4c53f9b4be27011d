"""Film the playground in a real JupyterLab, for the first screen of the README.

    python -m tools.record_explorer [--out docs/_static/explorer.webp]

The film is taken frame by frame: every frame waits until its steps are drawn, so it is smooth
however slow the machine is. Needs Chromium or Chrome.
"""

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.browser.lab import Notebook, browser, jupyter_lab, open_notebook

CELL = """\
from arcvq.explorers import Playground

Playground(num_latents=400, num_codes=48)"""
OUT = Path(__file__).parents[1] / "docs" / "_static" / "explorer.webp"
WINDOW = {"width": 1200, "height": 860}  # the explorer is then about 770 pixels wide
FRAMES_PER_SECOND = 12
STEPS_PER_FRAME = 2  # training steps between two frames
COLORS = 128

# Screenshots have no mouse pointer, so the page gets one that follows ours.
POINTER = """() => {
  const pointer = document.createElement("div");
  pointer.id = "film-pointer";
  pointer.style.cssText = "position:fixed; z-index:99999; pointer-events:none; left:0; top:0";
  pointer.innerHTML = `<svg width="20" height="26" viewBox="0 0 20 26">
    <path d="M2 2 L2 20 L6.5 16 L9.5 23.5 L13 22 L10 14.8 L16 14.5 Z"
      fill="black" stroke="white" stroke-width="1.5"/></svg>`;
  document.body.appendChild(pointer);
}"""
PLACE_POINTER = """([x, y]) => {
  document.getElementById("film-pointer").style.transform = `translate(${x}px, ${y}px)`;
}"""


class Film:
    """Frames of the playground, and the mouse that acts in them."""

    def __init__(self, notebook: Notebook):
        self.notebook = notebook
        self.page: Page = notebook.page
        self.explorer = self.page.locator(".arcvq-panels")
        self.frames: list[Image.Image] = []
        self.position = (0.0, 0.0)
        self.playing = False
        self.step = 0
        self.clip = self._visible_part()
        self.page.evaluate(POINTER)

    def _visible_part(self) -> dict[str, float]:
        """The rectangle from the notebook's code to the end of the explorer."""
        code = self.page.locator(".jp-Notebook .jp-CodeCell .jp-Editor").first.bounding_box()
        explorer = self.page.locator(".arcvq-explorer").first.bounding_box()
        assert code and explorer
        left, top = explorer["x"] - 6, code["y"] - 4
        bottom = explorer["y"] + explorer["height"] + 4
        return {"x": left, "y": top, "width": explorer["width"] + 8, "height": bottom - top}

    def shoot(self, count: int = 1) -> None:
        """Take `count` frames, with some training steps before each while it plays."""
        for _ in range(count):
            if self.playing:
                self._train()
            picture = self.page.screenshot(clip=self.clip)
            self.frames.append(Image.open(io.BytesIO(picture)).convert("RGB"))

    def _train(self) -> None:
        for _ in range(STEPS_PER_FRAME):
            self.page.locator("button.arcvq-step").evaluate("button => button.click()")
        self.step += STEPS_PER_FRAME
        said = f"Step {self.step}:"
        summary = self.page.locator(".arcvq-summary")
        self.notebook.wait(lambda: said in summary.inner_text(), f"step {self.step} did not come")
        self.page.evaluate("() => new Promise(requestAnimationFrame)")

    def move(self, x: float, y: float, frames: int) -> None:
        """Move the mouse to (x, y) in `frames` frames, slower at both ends."""
        start_x, start_y = self.position
        for frame in range(1, frames + 1):
            share = frame / frames
            eased = share * share * (3 - 2 * share)
            self.place(start_x + (x - start_x) * eased, start_y + (y - start_y) * eased)
            self.shoot()

    def place(self, x: float, y: float) -> None:
        """Put the mouse at (x, y) at once."""
        self.position = (x, y)
        self.page.mouse.move(x, y)
        self.page.evaluate(PLACE_POINTER, [x, y])

    def drag(self, x: float, y: float, frames: int) -> None:
        """Hold the mouse button while moving to (x, y)."""
        self.page.mouse.down()
        self.move(x, y, frames)
        self.page.mouse.up()

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element."""
        box = self.page.locator(selector).first.bounding_box()
        assert box
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def play(film: Film) -> None:
    """Start the playground, turn the spheres, spread the latents over more clusters."""
    button_x, button_y = film.middle("button.arcvq-play")
    film.place(button_x + 160, button_y + 60)
    film.move(button_x, button_y, 6)
    film.shoot(2)
    film.playing = True
    film.shoot(26)

    box = film.explorer.bounding_box()
    assert box
    # Between the two spheres, where there is no code to catch.
    film.move(box["x"] + 0.32 * box["width"], box["y"] + 0.20 * box["height"], 6)
    film.drag(box["x"] + 0.52 * box["width"], box["y"] + 0.26 * box["height"], 26)

    slider = film.page.get_by_role("slider", name="clusters of the data")
    rail = slider.bounding_box()
    assert rail
    handle_y = rail["y"] + rail["height"] / 2
    film.move(rail["x"] + 0.27 * rail["width"], handle_y, 7)
    film.drag(rail["x"] + 0.6 * rail["width"], handle_y, 12)
    film.shoot(18)


def write_film(frames: list[Image.Image], path: Path) -> None:
    """Write the frames as a WebP file that plays in a loop; the last one stays for a second."""
    sample = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
    for place, number in enumerate((0, len(frames) // 2, len(frames) - 1)):
        sample.paste(frames[number], (0, place * frames[0].height))
    palette = sample.quantize(COLORS)  # a third of the bytes, and hardly to be seen
    first, *others = (
        frame.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB") for frame in frames
    )

    durations = [1000 // FRAMES_PER_SECOND] * (len(frames) - 1) + [1000]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        lossless=True,
        quality=60,  # of the search for small files, as it is lossless
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Film the playground in JupyterLab.")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    with browser() as running, jupyter_lab({"OMP_NUM_THREADS": "1"}) as lab:
        page = running.new_context(viewport=WINDOW).new_page()
        notebook = open_notebook(lab, page, CELL)
        page.locator(".arcvq-panels canvas[data-frames]").first.wait_for()
        film = Film(notebook)
        play(film)
        lab.end_kernels()
    write_film(film.frames, out)
    print(f"{out}: {len(film.frames)} frames, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
