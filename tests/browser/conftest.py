"""One browser and one JupyterLab for all tests here, a kernel and a screenshot for each.

Both end with the last test of this folder: while Playwright runs, no other test could call asyncio.run.

Screenshots go to ARCVQ_SCREENSHOTS, else build/screenshots. Without a browser these tests are skipped; with
ARCVQ_REQUIRE_BROWSER=1 they fail.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
        close(page, f"{request.node.path.stem}-{request.node.name}")


def close(page: Page, name: str) -> None:
    """Closes a page; its last picture is kept."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", name).strip("-")
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    page.close()


@pytest.fixture
def open_notebook(lab: Lab, page: Page) -> Iterator[Callable[..., Notebook]]:
    """`open_notebook(*cells)`: run in JupyterLab; at the end the test fails for an error in the browser or kernel.

    `expected`: parts of errors that belong to the test. `home`: as for `lab.open_notebook`.
    """
    opened: list[Notebook] = []

    def run(*cells: str, **options: Any) -> Notebook:
        opened.append(launch.open_notebook(lab, page, *cells, **options))
        return opened[-1]

    yield run
    lab.end_kernels({notebook.path for notebook in opened})
    for notebook in opened:
        assert notebook.errors == []


@pytest.fixture(scope="module")
def open_once(
    lab: Lab, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """`open_once(*cells)`: the same, opened once for the tests of a file. Each leaves it as at the start."""
    opened: dict[tuple[str, ...], Notebook] = {}

    def find(*cells: str) -> Notebook:
        if cells not in opened:
            opened[cells] = launch.open_notebook(lab, context.new_page(), *cells)
        return opened[cells]

    yield find
    lab.end_kernels({notebook.path for notebook in opened.values()})
    for place, notebook in enumerate(opened.values()):
        close(notebook.page, f"{request.node.path.stem}-{place}")
    for notebook in opened.values():
        assert notebook.errors == []
