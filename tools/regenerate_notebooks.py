"""Runs the stored notebooks again and keeps their figures as stills, so that GitHub shows them.

Usage: python tools/regenerate_notebooks.py [NOTEBOOK ...]     (files, names or numbers; none means all)

A notebook runs with the parameters that are written in it. One that fails is left as it was.
"""

import base64
import contextlib
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kaleido
import nbformat
from choreographer.browsers.chromium import Chromium
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

from arcvq.reports import notebooks, pages
from arcvq.runtime.files import write_text

LIMIT = 500_000  # bytes of a stored notebook
NO_BROWSER = (
    "Stills need Chromium or Chrome, and none was found.\n"
    "To fix: sudo apt install chromium (Debian, Ubuntu), or .venv/bin/plotly_get_chrome to download one."
)


def main(names: list[str]) -> int:
    if not Chromium.find_browser(skip_local=False):
        print(NO_BROWSER, file=sys.stderr)
        return 2
    failed = 0
    with _browser(), notebooks.environment(notebooks.KERNEL_ENVIRONMENT):
        for path in notebooks.find_notebooks(names):
            start = time.perf_counter()
            try:
                size, seconds = _regenerate(path), time.perf_counter() - start
                excess = f", more than the {LIMIT // 1000} KB allowed" if size > LIMIT else ""
                print(f"{path.stem:28} {size / 1000:4.0f} KB in {seconds:.0f} s{excess}", flush=True)
                failed += size > LIMIT
            except (CellExecutionError, DeadKernelError) as error:
                reason = str(error).strip().splitlines()[-1]
                print(f"{path.stem} failed and was left as it was: {reason}", file=sys.stderr)
                failed += 1
    return 1 if failed else 0


@contextlib.contextmanager
def _browser() -> Iterator[None]:
    kaleido.start_sync_server(silence_warnings=True)  # one browser for all: a second a still, not three
    try:
        yield
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def _regenerate(path: Path) -> int:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=notebooks.KERNEL_ARGUMENTS,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    clean(notebook)
    text = nbformat.writes(notebook) + "\n"
    write_text(path, text)
    return len(text.encode())


def clean(notebook) -> None:
    """Makes figures stills, takes progress bars and the state of widgets out, keeps only useful metadata."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = [_stored(output) for output in cell.outputs if not pages.is_progress_bar(output)]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})


def _stored(output):
    data = output.get("data", {})
    if pages.PLOTLY in data:
        figure = data[pages.PLOTLY]
        picture, width, height = _still(figure)
        output.data = {"image/png": picture}
        alt = pages.figure_text(figure)
        output.metadata = nbformat.from_dict({"image/png": {"alt": alt, "width": width, "height": height}})
    elif pages.WIDGET in data:
        output.data = {"text/plain": pages.WIDGET_NOTE}
    return output


def _still(figure) -> tuple[str, int, int]:
    layout = figure.get("layout", {})
    width, height = layout.get("width") or 900, layout.get("height") or 450
    options = {"format": "png", "width": width, "height": height, "scale": 1}
    png = kaleido.calc_fig_sync({"data": figure["data"], "layout": layout}, opts=options)
    # 256 colours are enough for a plot, and a third of the bytes.
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(buffer := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode(), width, height


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
