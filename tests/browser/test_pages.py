"""The report, opened from the disk with the network off."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Page

from arcvq.cli import main
from tests.browser import lab as launch
from tests.browser.lab import pixels


@pytest.fixture
def offline(page: Page):
    """`offline(path)`: the page, loaded without a network; at the end, nothing was asked of one and no error came."""
    page.context.set_offline(True)
    trouble: list[str] = []
    page.on(
        "console", lambda message: trouble.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:", "blob:"))
            else trouble.append(f"asks for {request.url}")
        ),
    )

    def load(path: Path) -> launch.Notebook:
        page.goto(path.as_uri())
        return launch.Notebook(page)

    yield load
    page.context.set_offline(False)
    assert trouble == []


def shown(notebook: launch.Notebook, place: int):
    return notebook.figure(place, figure="figure")


def test_the_report_draws_its_figures_and_its_explorers_answer_without_a_kernel(offline, tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A small notebook\n\nWith a formula: $x^2$."),
        nbformat.v4.new_code_cell(
            "import torch, arcvq\nfrom arcvq import figures\ncodes = torch.randn(20, 3)\n"
            "figures.sphere(codes)"
        ),
        nbformat.v4.new_code_cell(
            "from arcvq.explorers import MarginExplorer\nMarginExplorer(margin=0.3)"
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "small.ipynb")
    done = CliRunner().invoke(
        main, ["run", str(tmp_path / "small.ipynb"), "--out", str(tmp_path / "report")]
    )
    assert done.exit_code == 0, done.output
    report = offline(tmp_path / "report" / "index.html")
    report.page.get_by_role("link", name="A small notebook").click()
    sphere = shown(report, 0)
    assert len(sphere.evaluate(launch.DATA)[0]["x"]) == 20
    assert colours_in(sphere) > 20
    explorer = report.page.locator(".arcvq-explorer")
    slider = explorer.locator(".arcvq-margin input[type=range]")
    assert slider.get_attribute("aria-valuetext").startswith("0.3")
    before = pixels(explorer.locator("canvas").first)
    slider.press("End")
    report.wait(
        lambda: (pixels(explorer.locator("canvas").first) != before).any(), "it did not move"
    )
    report.page.get_by_role("link", name="All notebooks").click()
    assert report.page.title() == "arcvq notebooks"


def colours_in(figure) -> int:
    return len(np.unique(pixels(figure).reshape(-1, 3), axis=0))
