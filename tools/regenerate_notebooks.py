"""Run the stored notebooks again and keep their figures as stills, so that GitHub shows them.

Usage: python tools/regenerate_notebooks.py [NOTEBOOK ...]   (files, names, numbers; none: all)

A notebook runs with the parameters that are written in it. One that fails, or one of whose claims
turns out False, is left as it was.
"""

import base64
import contextlib
import io
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kaleido
import nbformat
from check_claims import false_claims
from choreographer.browsers.chromium import Chromium
from PIL import Image
from playwright.sync_api import sync_playwright

from arcvq.reports.execution import Execution
from arcvq.reports.notebook_files import find_notebooks
from arcvq.reports.notebook_page import PLOTLY, WIDGET, WIDGET_NOTE, is_progress_bar
from arcvq.reports.pages import figure_text
from arcvq.runtime.files import write_text

SIZE_LIMIT = 1_000_000  # bytes of a stored notebook
SCALE = 2  # pixels of a still to one of the page, for sharp screens
COLORS = 256  # enough for a plot, at a third of the bytes
WINDOW = {"width": 1000, "height": 900}  # in which explorers are drawn
# What moves an explorer would promise too much on a still.
STILL = """
.arcvq-controls, .arcvq-presets, .arcvq-sentence, .arcvq-buttons { display: none !important; }
"""
DRAWN = """() => {
  const selector = ".arcvq-explorer canvas:not(.arcvq-patch)"; // patches are drawn as they are made
  const canvases = [...document.querySelectorAll(selector)];
  return canvases.length > 0 && canvases.every((canvas) => canvas.dataset.frames);
}"""
NO_BROWSER = (
    "Stills need Chromium or Chrome, and none was found.\n"
    "To fix: sudo apt install chromium (Debian, Ubuntu), or .venv/bin/plotly_get_chrome to "
    "download one."
)


def main(names: list[str]) -> int:
    """Regenerate notebooks and return the exit code: 1 if one failed or is too large."""
    if not Chromium.find_browser(skip_local=False):
        print(NO_BROWSER, file=sys.stderr)
        return 2
    with browser():
        succeeded = [regenerate(path) for path in find_notebooks(names)]
    return 0 if all(succeeded) else 1


@contextlib.contextmanager
def browser() -> Iterator[None]:
    """Keep one browser for all stills of figures: a second for each, not three."""
    kaleido.start_sync_server(silence_warnings=True)
    try:
        yield
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def regenerate(path: Path) -> bool:
    """Run a notebook and store it with its outputs.

    Returns:
        Whether it ran to its end and is small enough.
    """
    start = time.perf_counter()
    execution = Execution(path, {})
    execution.run()
    if execution.failure:
        print(f"{path.stem} failed and was left as it was: {execution.failure}", file=sys.stderr)
        return False

    notebook = execution.notebook
    broken = false_claims(notebook)
    if broken:
        print(f"{path.stem} was left as it was, for this is False: {broken[0]}", file=sys.stderr)
        return False

    clean(notebook)
    text = nbformat.writes(notebook) + "\n"
    write_text(path, text)

    size = len(text.encode())
    seconds = time.perf_counter() - start
    excess = f", more than the {SIZE_LIMIT // 1000} KB allowed" if size > SIZE_LIMIT else ""
    print(f"{path.stem:28} {size / 1000:4.0f} KB in {seconds:.0f} s{excess}", flush=True)
    return size <= SIZE_LIMIT


def clean(notebook: nbformat.NotebookNode) -> None:
    """Turn figures into stills, and remove progress bars, widgets' states and needless metadata.

    What `arcvq run` reads in the metadata, under "arcvq", is kept.
    """
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            kept = [output for output in cell.outputs if not is_progress_bar(output)]
            cell.outputs = [stored(output) for output in kept]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    own = notebook.metadata.get("arcvq")
    if own:
        metadata["arcvq"] = own
    notebook.metadata = nbformat.from_dict(metadata)


def stored(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Replace a live figure or an explorer by its still, and a widget by a note."""
    data = output.get("data", {})
    if PLOTLY in data:
        keep_still(output, *figure_still(data[PLOTLY]))
    elif "arcvq-explorer" in data.get("text/html", ""):
        keep_still(output, *explorer_still(data["text/html"]))
    elif WIDGET in data:
        output.data = {"text/plain": WIDGET_NOTE}
    return output


def keep_still(output: nbformat.NotebookNode, png: bytes, words: str) -> None:
    """Replace what an output holds by a picture of few colors, and words for who cannot see it."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.quantize(COLORS, dither=Image.Dither.FLOYDSTEINBERG)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    width, height = picture.size
    description = {"alt": words, "width": width // SCALE, "height": height // SCALE}
    output.data = {"image/png": base64.b64encode(small.getvalue()).decode()}
    output.metadata = nbformat.from_dict({"image/png": description})


def figure_still(figure: Mapping[str, Any]) -> tuple[bytes, str]:
    """Draw a plotly figure, given as JSON; return the PNG and the figure in words."""
    layout = figure.get("layout", {})
    content = {"data": figure["data"], "layout": layout}
    size = {"width": layout.get("width") or 900, "height": layout.get("height") or 450}
    png = kaleido.calc_fig_sync(content, opts={"format": "png", "scale": SCALE, **size})
    return png, figure_text(figure)


def explorer_still(html: str) -> tuple[bytes, str]:
    """Draw an explorer's page; return the PNG without the controls, and the explorer in words."""
    path = Chromium.find_browser(skip_local=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW, device_scale_factor=SCALE)
        page.set_content(f"<!doctype html><body>{html}")
        page.add_style_tag(content=STILL)
        page.wait_for_function(DRAWN)
        png = page.locator(".arcvq-explorer").screenshot(animations="disabled")
        words = page.locator(".arcvq-summary").first.inner_text()
        browser.close()
    return png, words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
