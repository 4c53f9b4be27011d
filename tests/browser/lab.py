"""JupyterLab and a real browser for tests and benchmarks; whoever starts them inside `with` is rid of them after."""

import contextlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Playwright, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A machine without a graphics card draws WebGL in software; none of the rest may reach for the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-unsafe-swiftshader",
]
# The news toast covers plots; a notebook that renders only what is in view has no finished state to wait for.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
# anywidget says so of a model that is not there in two seconds.
GIVEN_UP = "[anywidget] Failed to initialize model."
PATIENCE = 90.0  # seconds for anything that a page does, on a busy machine
DRAWN = """gd => gd._fullData && (gd._fullLayout._has('gl3d')
    ? Object.keys(gd._fullLayout).filter(key => /^scene\\d*$/.test(key)).every(key => gd._fullLayout[key]._scene)
    : gd._fullLayout._size !== undefined)"""
DATA = """gd => gd._fullData.map(trace => ({
    type: trace.type, name: trace.name, visible: trace.visible,
    ...Object.fromEntries(['x', 'y', 'z'].filter(axis => trace[axis] && trace[axis].length).map(
        axis => [axis, Array.from(trace[axis], row => row && row.length && typeof row === 'object'
            ? Array.from(row) : Number.isNaN(row) ? null : row)]))}))"""
# What a subplot draws is in step with its data only after this event.
WATCH = "gd => { gd.redraws = 0; gd.on('plotly_afterplot', () => { gd.redraws += 1; }); }"


STARTED: list[Playwright] = []


def find_browser() -> str | None:
    """The path of Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Chromium with a fresh profile. Raises FileNotFoundError where there is none."""
    path = find_browser()
    if not path:
        raise FileNotFoundError(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with _playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def _playwright() -> Iterator[Playwright]:
    """Playwright, which runs once in a process: within another `with` it is that one."""
    if STARTED:
        yield STARTED[0]
        return
    with sync_playwright() as playwright:
        STARTED.append(playwright)
        try:
            yield playwright
        finally:
            STARTED.clear()


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token and the folder that it serves."""

    url: str
    token: str
    folder: Path

    def ask(self, path: str, method: str = "GET") -> Any:
        """The answer of the server's REST interface."""
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"token {self.token}"}, method=method
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=30
        ) as answer:
            return json.loads(answer.read() or "null")

    def end_kernels(self, paths: Collection[str] | None = None) -> None:
        """Ends the kernels of notebooks, or all: each holds most of a gigabyte."""
        for session in self.ask("/api/sessions"):
            if paths is None or session["path"] in paths:
                address = f"/api/sessions/{session['id']}"
                _wait(lambda address=address: self._ends(address), "a kernel did not end")

    def _ends(self, session: str) -> bool:
        """Ends a kernel; the server cannot while it starts the kernel again."""
        try:
            self.ask(session, "DELETE")
        except urllib.error.HTTPError as error:
            return error.code == 404
        return True


@contextlib.contextmanager
def jupyter_lab(environment: dict[str, str] | None = None) -> Iterator[Lab]:
    """JupyterLab on a random port of the loopback, with a token and nothing of the user's own settings."""
    with tempfile.TemporaryDirectory(prefix="arcvq-lab-") as home:
        lab = Lab(
            f"http://127.0.0.1:{_free_port()}", secrets.token_hex(16), Path(home, "notebooks")
        )
        lab.folder.mkdir()
        for name, content in SETTINGS.items():
            path = Path(home, "settings", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        own = {name: str(Path(home, folder)) for name, folder in folders.items()} | {
            "JUPYTER_TOKEN": lab.token
        }
        headless = ("ARCVQ_HEADLESS", "PLOTLY_RENDERER")
        inherited = {name: value for name, value in os.environ.items() if name not in headless}
        with open(Path(home, "log"), "w+") as log:
            server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab",
                    "--no-browser",
                    "--allow-root",
                    "--ip=127.0.0.1",
                    f"--port={lab.url.rpartition(':')[2]}",
                    "--ServerApp.port_retries=0",
                    f"--notebook-dir={lab.folder}",
                ],
                env=inherited | own | (environment or {}),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
            try:
                _wait(lambda: _answers(lab, server, Path(log.name)), "JupyterLab did not start")
                yield lab
            finally:
                server.terminate()  # it ends its kernels first
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()


@dataclass
class Notebook:
    """A notebook open in a page of JupyterLab.

    path: where it lies below the folder of the server.
    errors: what went wrong so far: errors of the browser's console and of the kernel, those of callbacks among them.
    """

    page: Page
    path: str = ""
    errors: list[str] = field(default_factory=list)

    def figure(self, place: int = 0, figure: str = ".arcvq-figure") -> Locator:
        """A plotly figure, once it is drawn. From then on it counts its redraws."""
        found = self.page.locator(f"{figure}.js-plotly-plot, {figure} .js-plotly-plot").nth(place)
        found.wait_for(state="attached", timeout=PATIENCE * 1000)
        found.scroll_into_view_if_needed()
        self.wait(lambda: found.evaluate(DRAWN), "the figure was not drawn")
        if found.evaluate("gd => gd.redraws === undefined"):
            found.evaluate(WATCH)
        return found

    def data(self, place: int = 0) -> list[dict]:
        """What a figure plots, trace for trace: type, name, visible, and the numbers x, y, z."""
        return self.figure(place).evaluate(DATA)

    def press(self, control: str, key: str = "ArrowRight", times: int = 1, place: int = 0) -> str:
        """Presses a key on the slider of class `control` and waits for the redraw; returns what the slider reads."""
        figure = self.figure(place)
        handle = self.page.locator(f".{control} .noUi-handle").first
        handle.focus()
        for _ in range(times):
            before = figure.evaluate("gd => gd.redraws")
            self.page.keyboard.press(key)
            self.wait(
                lambda before=before: figure.evaluate("gd => gd.redraws") > before,
                f"{control}: the figure was not drawn again after {key}",
            )
        return self.reads(control)

    def reads(self, control: str) -> str:
        """The number beside a slider; `aria-valuenow` has one decimal only."""
        return self.page.locator(f".{control} .widget-readout").first.inner_text()

    def wait(self, ready: Callable[[], Any], failure: str) -> Any:
        """Waits until `ready()` is true, while the page goes on; returns what it gave."""
        return _wait(ready, failure, pause=lambda: self.page.wait_for_timeout(50))

    def run(self, code: str) -> None:
        """Runs code in a new cell at the end."""
        self.page.locator(".jp-Notebook .jp-CodeCell .cm-content").last.click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")

    def menu(self, menu: str, item: str) -> None:
        """Clicks an item of JupyterLab's menus."""
        bar = self.page.locator("#jp-MainMenu .lm-MenuBar-itemLabel", has_text=menu)
        bar.first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=item).first.click()

    def click(self, name: str) -> None:
        """Clicks the button of class `name`."""
        self.page.locator(f"button.{name}, .{name} button").first.click(timeout=PATIENCE * 1000)


def open_notebook(
    lab: Lab,
    page: Page,
    *cells: str,
    name: str = "test",
    expected: Sequence[str] = (),
    home: str = "lab/tree",
) -> Notebook:
    """Writes a notebook of these cells, opens it in the page, runs it all and waits for its end.

    Errors with any of the parts `expected` are not noted. `home`: "lab/tree" for JupyterLab,
    "notebooks" for Jupyter Notebook 7.
    """
    path = f"{name}-{secrets.token_hex(4)}.ipynb"
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    content.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(content, lab.folder / path)
    notebook = visit(lab, page, path, expected, home)
    notebook.menu("Run", "Run All Cells")
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    notebook.wait(
        lambda: (
            notebook.errors
            or all(text.strip("[]: \n").isdigit() for text in prompts.all_inner_texts())
        ),
        "the cells did not end",
    )
    if notebook.errors:
        raise RuntimeError(f"the notebook failed: {notebook.errors}")
    return notebook


def visit(
    lab: Lab, page: Page, path: str, expected: Sequence[str] = (), home: str = "lab/tree"
) -> Notebook:
    """Opens a notebook that is there, and waits for its kernel; for the rest see `open_notebook`."""
    notebook = Notebook(page, path)
    _listen(page, notebook.errors, expected)
    page.goto(f"{lab.url}/{home}/{path}?reset&token={lab.token}")
    _wait(lambda: _kernel_idle(lab, path), "the kernel did not start")
    # Before its page knows the kernel, "Run All Cells" is lost.
    idle = "#jp-main-statusbar >> text=| Idle"
    if home == "notebooks":
        idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    page.locator(idle).wait_for(timeout=PATIENCE * 1000)
    return notebook


def pixels(figure: Locator) -> np.ndarray:
    """What is to be seen of a figure: (height, width, 3), 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("RGB"), int)


def _listen(page: Page, errors: list[str], expected: Sequence[str]) -> None:
    def note(text: str) -> None:
        if not any(part in text for part in expected):
            errors.append(text)

    page.on("console", lambda message: note(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: note(str(error)))

    def received(frame: str | bytes) -> None:
        text = frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame
        if (
            '"msg_type": "error"' in text
        ):  # of a cell, or of a callback, which the page does not show
            note("in the kernel: " + text[text.find('"ename"') :][:2000])

    page.on("websocket", lambda socket: socket.on("framereceived", received))


def _wait(
    ready: Callable[[], Any], failure: str, pause: Callable[[], Any] = lambda: time.sleep(0.05)
) -> Any:
    end = time.monotonic() + PATIENCE
    while not (answer := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"{failure} within {PATIENCE:.0f} s")
        pause()
    return answer


def _answers(lab: Lab, server: subprocess.Popen, log: Path) -> bool:
    if server.poll() is not None:
        raise RuntimeError(f"JupyterLab ended at once: {log.read_text()[-2000:]}")
    with contextlib.suppress(OSError):
        return bool(lab.ask("/api/status"))
    return False


def _kernel_idle(lab: Lab, path: str) -> bool:
    kernels = [session["kernel"] for session in lab.ask("/api/sessions") if session["path"] == path]
    return any(
        kernel["connections"] >= 1 and kernel["execution_state"] == "idle" for kernel in kernels
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
