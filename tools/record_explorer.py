"""Film the explorer of tokens on the page of `arcvq export-explorers`, for the README.

    python -m tools.record_explorer [--out docs/_static/explorer.webp]

The clock of the page stands still between frames, so the film is smooth however slow the machine
is. Needs Chromium or Chrome.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page
from scipy.interpolate import CubicSpline

from arcvq.explorers.export import export_explorers
from tests.browser.lab import browser

OUT = Path(__file__).parents[1] / "docs" / "_static" / "explorer.webp"
WINDOW = {"width": 960, "height": 620}  # the explorer is then 900 pixels wide
FRAMES_PER_SECOND = 15
MOVES_PER_FRAME = 4  # of the mouse, so that strokes are round
LAST = 1500  # milliseconds that the last frame stays
COLORS = 256

# Corners of the stroke of a 2, in shares of the pad's width and height.
STROKE = (
    (0.30, 0.30),
    (0.36, 0.19),
    (0.50, 0.15),
    (0.64, 0.20),
    (0.68, 0.34),
    (0.60, 0.50),
    (0.46, 0.66),
    (0.31, 0.80),
    (0.48, 0.79),
    (0.72, 0.80),
)
TOKEN = (0.50, 0.21)  # in the map of tokens
# Where the sphere shows the code of this token, and where the mouse takes it.
WAY = (
    (0.50, 0.50),
    (0.68, 0.50),
    (0.66, 0.72),
    (0.42, 0.78),
    (0.30, 0.56),
    (0.36, 0.30),
)

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
  document.getElementById("film-pointer").style.transform = `translate(${x - 2}px, ${y - 2}px)`;
}"""
READY = "document.querySelectorAll('[data-frames]').length > 3"

Point = tuple[float, float]


class Film:
    """Frames of an explorer, and the mouse that acts in them.

    Args:
        page: A page whose clock is ours.
        explorer: The part of the page that is filmed.
    """

    def __init__(self, page: Page, explorer: Locator):
        self.page = page
        self.explorer = explorer
        self.frames: list[Image.Image] = []
        self.position = (0.0, 0.0)
        # The place now: a longer sentence would let the explorer grow.
        self.clip = explorer.bounding_box()
        page.evaluate(POINTER)

    def shoot(self, count: int = 1) -> None:
        """Let time pass and take `count` frames."""
        for _ in range(count):
            self.page.clock.run_for(1000 // FRAMES_PER_SECOND)
            picture = self.page.screenshot(clip=self.clip)
            self.frames.append(Image.open(io.BytesIO(picture)).convert("RGB"))

    def place(self, x: float, y: float) -> None:
        """Put the mouse at (x, y)."""
        self.position = (x, y)
        self.page.mouse.move(x, y)
        self.page.evaluate(PLACE_POINTER, [x, y])

    def move(self, points: list[Point], frames: int) -> None:
        """Move the mouse on a smooth line through points, slower at both ends."""
        corners = np.array([self.position, *points])
        for share in np.linspace(0, 1, frames * MOVES_PER_FRAME + 1)[1:]:
            eased = share * share * (3 - 2 * share)
            self.place(*along(corners, eased))
            moves = round(share * frames * MOVES_PER_FRAME)
            if moves % MOVES_PER_FRAME == 0:
                self.shoot()

    def click(self, target: Locator, frames: int, share: Point = (0.5, 0.5)) -> None:
        """Move to a part of an element and click."""
        self.move([point_of(target, share)], frames)
        self.shoot(2)
        self.page.mouse.down()
        self.page.mouse.up()
        self.shoot(6)

    def drag(self, target: Locator, shares: tuple[Point, ...], frames: int) -> None:
        """Hold the mouse button on the way through points of an element."""
        first, *others = [point_of(target, share) for share in shares]
        self.move([first], 10)
        self.shoot(2)
        self.page.mouse.down()
        self.move(others, frames)
        self.page.mouse.up()


def along(corners: np.ndarray, share: float) -> Point:
    """Return a point on a smooth line through corners, at this share of its length."""
    way = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    places = np.concatenate([[0], way.cumsum()])
    x, y = CubicSpline(places, corners)(share * places[-1])
    return float(x), float(y)


def point_of(target: Locator, share: Point) -> Point:
    """Return the point at these shares of the width and height of an element."""
    box = target.bounding_box()
    assert box
    return box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"]


def play(film: Film) -> None:
    """Draw a digit, take one of its tokens to other codes, and give it the farthest at last."""
    pad, tokens, _, sphere = film.explorer.locator("figure canvas").all()
    film.place(*point_of(film.explorer, (0.55, 0.92)))
    film.shoot(8)
    film.click(film.explorer.get_by_role("button", name="erase"), 10)
    film.drag(pad, STROKE, 40)
    film.shoot(14)

    film.click(tokens, 10, TOKEN)
    film.shoot(8)
    summary = film.explorer.locator(".arcvq-summary")
    words = summary.inner_text()
    film.drag(sphere, WAY, 40)
    film.shoot(8)
    assert summary.inner_text() != words, "the mouse has missed the code on the sphere"
    farthest = film.explorer.locator(".arcvq-token-neighbors button").last
    film.click(farthest, 14)
    film.shoot(10)


def write_film(frames: list[Image.Image], path: Path) -> None:
    """Write the frames as a WebP file that plays in a loop."""
    sample = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
    for place, number in enumerate((0, len(frames) // 2, len(frames) - 1)):
        sample.paste(frames[number], (0, place * frames[0].height))
    palette = sample.quantize(COLORS)  # a third of the bytes, and hardly to be seen
    first, *others = (
        frame.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB") for frame in frames
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=[1000 // FRAMES_PER_SECOND] * len(others) + [LAST],
        loop=0,
        lossless=True,
        quality=60,  # of the search for small files, as it is lossless
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Film the explorer of tokens.")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    with browser() as running, tempfile.TemporaryDirectory() as folder:
        context = running.new_context(viewport=WINDOW, color_scheme="light")
        page = context.new_page()
        page.clock.install()
        page.goto(export_explorers(folder).as_uri())
        page.wait_for_function(READY)
        explorer = page.locator(".explorer").first
        page.add_style_tag(content=".explorer { border: 0 !important }")
        explorer.scroll_into_view_if_needed()
        film = Film(page, explorer)
        play(film)
    write_film(film.frames, out)
    print(f"{out}: {len(film.frames)} frames, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
