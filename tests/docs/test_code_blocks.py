"""Every Python block of the README and of the site runs, page by page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.run_blocks import python_blocks

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in TEXTS if python_blocks(page)]


@pytest.fixture(scope="module")
def tracebacks(tmp_path_factory):
    """What went wrong on each page. One process runs them all: importing takes most of the time.

    It is not this process, since classes that pages define would be found by other tests.
    """
    report = tmp_path_factory.mktemp("docs") / "report.json"
    data = str(tmp_path_factory.mktemp("data"))
    environment = os.environ | {"ARCVQ_DATA": data, "ARCVQ_HEADLESS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.docs.run_blocks", report, *PAGES]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return json.loads(report.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_the_page_runs(tracebacks, page):
    assert tracebacks[str(page)] == ""


def test_the_pages_that_show_code_have_blocks():
    named = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/start.md", "docs/how-to/quantizer.md"} <= named


def test_blocks_are_found_with_their_lines_also_inside_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n```python\na = 1\n```\n<!-- hidden\n```python\nb = 2\n```\n-->\n```\nno\n```\n"
    )
    assert python_blocks(page) == [(3, "a = 1"), (7, "b = 2")]
