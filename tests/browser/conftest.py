"""One browser and one JupyterLab for all tests here, a kernel and a screenshot for each.

Both end with the last test of this folder: while Playwright runs, no other test could call asyncio.run.

Screenshots go to ARCVQ_SCREENSHOTS, else build/screenshots. Without a browser these tests are skipped; with
ARCVQ_REQUIRE_BROWSER=1 they fail.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser import lab as launch
from tests.browser.lab import Lab, Notebook

SCREENSHOTS = Path(
    os.environ.get("ARCVQ_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots"
)
NO_BROWSER = "needs Chromium or Chrome; to fix: apt install chromium (Debian, Ubuntu)"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not launch.find_browser():
        (pytest.fail if os.environ.get("ARCVQ_REQUIRE_BROWSER") == "1" else pytest.skip)(NO_BROWSER)
    with launch.browser() as running:
        yield running


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all pages, so that the browser reads and compiles JupyterLab only once."""
    with browser.new_context(viewport={"width": 1300, "height": 1500}) as shared:
        yield shared


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with launch.jupyter_lab(
        {"OMP_NUM_THREADS": "1", "ARCVQ_DATA": str(tmp_path_factory.mktemp("data"))}
    ) as running:
        yield running


@pytest.fixture
def page(context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Page]:
    page = context.new_page()
    try:
        yield page
    finally:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", f"{request.node.path.stem}-{request.node.name}").strip("-")
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
        page.close()


@pytest.fixture
def open_notebook(lab: Lab, page: Page) -> Iterator[Callable[..., Notebook]]:
    """`open_notebook(*cells)`: run in JupyterLab; at the end the test fails for an error in the browser or kernel.

    `expected`: parts of errors that belong to the test.
    """
    opened: list[Notebook] = []

    def run(*cells: str, expected: Sequence[str] = ()) -> Notebook:
        opened.append(launch.open_notebook(lab, page, *cells, expected=expected))
        return opened[-1]

    yield run
    lab.end_kernels()
    assert [error for notebook in opened for error in notebook.errors] == []
