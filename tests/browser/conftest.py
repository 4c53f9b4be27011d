"""One browser and one JupyterLab for a file of tests, and a screenshot of every test.

Screenshots go to ARCVQ_SCREENSHOTS, else build/screenshots. Without a browser these tests are skipped; with
ARCVQ_REQUIRE_BROWSER=1 they fail.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import lab as launch
from tests.browser.lab import Lab, Notebook

SCREENSHOTS = Path(
    os.environ.get("ARCVQ_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots"
)
NO_BROWSER = "needs Chromium or Chrome; to fix: apt install chromium (Debian, Ubuntu)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not launch.find_browser():
        (pytest.fail if os.environ.get("ARCVQ_REQUIRE_BROWSER") == "1" else pytest.skip)(NO_BROWSER)
    with launch.browser() as running:
        yield running


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with launch.jupyter_lab(
        {"OMP_NUM_THREADS": "1", "ARCVQ_DATA": str(tmp_path_factory.mktemp("data"))}
    ) as running:
        yield running


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 1500})
    page = context.new_page()
    try:
        yield page
    finally:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", f"{request.node.path.stem}-{request.node.name}").strip("-")
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
        context.close()


@pytest.fixture
def open_notebook(lab: Lab, page: Page) -> Iterator[Callable[..., Notebook]]:
    """`open_notebook(*cells)`: run in JupyterLab; at the end the test fails for an error in the browser or kernel."""
    opened: list[Notebook] = []

    def run(*cells: str) -> Notebook:
        opened.append(launch.open_notebook(lab, page, *cells))
        return opened[-1]

    yield run
    lab.end_kernels()
    assert [error for notebook in opened for error in notebook.errors] == []
