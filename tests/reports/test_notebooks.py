"""Notebooks made here are run: parameters, failures, the executed files, the report."""

import json
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from arcvq.reports.notebooks import run_notebooks
from arcvq.reports.pages import NotebookResult
from tests.reports.made import PARAMETERS, write_notebook

FIGURE = """
import os
import sys
import plotly.graph_objects as go
from arcvq.reports import key_figure
key_figure("PSNR", 24.98765, "dB")
figure = go.Figure(go.Scatter(y=[1, 3]))
figure.update_layout(title="A <b>curve</b>", meta={"summary": "It rises."})
"""
WIDGETS = """
import ipywidgets
import plotly.graph_objects as go
from IPython.display import display
block = ipywidgets.Output()
with block:
    print("inside")
display(block, go.FigureWidget(go.Scatter(y=[1, 3])))
"""


class Finished(NamedTuple):
    """A finished run: the notebooks' folder, the lines it printed, the index after each line."""

    folder: Path
    results: list[NotebookResult]
    lines: list[str]
    indexes: list[str]

    @property
    def report(self) -> Path:
        return self.folder / "report"

    def page(self, name: str) -> str:
        return (self.report / f"{name}.html").read_text()

    def executed(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.report / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over notebooks with a figure, a failure, a kernel that dies, and widgets."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_notebook(
        folder / "00_figure.ipynb",
        "margin = margin * 2",
        FIGURE,
        "print(os.getcwd(), margin, seed)",
        r"Text with $\hat z_i$ and [the next](01_failing.ipynb)",
        parameters=f"{PARAMETERS}\nmargin = 0.1",
    )
    write_notebook(folder / "01_failing.ipynb", "print('first')", "1 / 0", "print('never')")
    write_notebook(folder / "02_dying.ipynb", "import os\nos._exit(1)")
    write_notebook(folder / "03_widgets.ipynb", WIDGETS)
    out = folder / "report"
    lines = []
    indexes = []

    def echo(line):
        lines.append(line)
        indexes.append((out / "index.html").read_text())

    environment = dict(os.environ)
    paths = sorted(folder.glob("*.ipynb"))
    results = run_notebooks(paths, {"seed": 7, "margin": "0.25"}, out=out, echo=echo)
    assert dict(os.environ) == environment
    return Finished(folder, results, lines, indexes)


def outputs_text(notebook) -> str:
    return json.dumps([cell.get("outputs") for cell in notebook.cells])


def test_a_run_goes_on_after_a_failing_notebook_and_a_dead_kernel(finished):
    states = [result.status for result in finished.results]
    assert states == ["passed", "failed", "failed", "passed"]
    assert len(finished.lines) == 4

    failure = finished.results[1].failure
    assert failure == "cell In [4]: ZeroDivisionError: division by zero"
    assert finished.lines[1].startswith("[2/4] 01_failing  failed in")
    assert finished.lines[1].endswith(failure)

    # Whether the number of the deadly cell still came through depends on who was quicker.
    cell, _, reason = finished.results[2].failure.rpartition("Kernel died")
    assert cell in ("cell In [3]: ", "cell In [2]: ", "")
    assert reason == ""


def test_cells_after_the_failing_one_do_not_run(finished):
    text = outputs_text(finished.executed("01_failing"))
    assert "first" in text
    assert "never" not in text


def test_a_parameter_goes_to_the_notebooks_that_know_it_and_the_seed_to_all(finished):
    assert f"{finished.folder} 0.5 7" in outputs_text(finished.executed("00_figure"))
    for name in ("01_failing", "03_widgets"):
        cells = finished.executed(name).cells
        injected = [cell.source for cell in cells if cell.metadata.tags == ["injected-parameters"]]
        assert injected == ["# Parameters\nseed = 7\n"]


def test_the_notebooks_themselves_are_left_alone(finished):
    notebook = nbformat.read(finished.folder / "00_figure.ipynb", as_version=4)
    assert "output_type" not in outputs_text(notebook)


def test_executed_notebooks_hold_no_widget_state_and_no_plotly_script(finished):
    for path in finished.report.glob("*.ipynb"):
        assert "widgets" not in finished.executed(path.stem).metadata
        assert path.stat().st_size < 50_000
    assert not list(finished.report.glob(".*")), "no half-written file stays behind"


class FetchedSources(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        fetched = {"src", "srcset", "data", "poster"}
        if tag in ("link", "base", "image"):
            fetched.add("href")
        self.found |= {value for name, value in attributes if name in fetched}


def test_pages_fetch_nothing_but_the_plotly_script_beside_them(finished):
    for path in finished.report.glob("*.html"):
        page = path.read_text()
        sources = FetchedSources()
        sources.feed(page)
        expected = {"plotly.min.js"} if path.stem == "00_figure" else set()
        assert sources.found == expected
        assert "@import" not in page
        assert "require(" not in page
    assert "Plotly" in (finished.report / "plotly.min.js").read_text()


def test_a_page_shows_the_figure_the_formula_and_links_to_the_next_page(finished):
    page = finished.page("00_figure")
    assert "Plotly.newPlot" in page
    assert '"showSendToCloud": false' in page
    assert '<figure aria-label="A  curve . It rises.">' in page
    assert "<math" in page
    assert r"\hat" not in page
    assert 'href="01_failing.html"' in page


def test_the_page_of_a_failed_notebook_leads_to_the_error(finished):
    page = finished.page("01_failing")
    assert 'id="failure"' in page
    assert 'href="#failure"' in page
    assert "papermill" not in page


def test_a_widget_leaves_a_word_in_its_place(finished):
    page = finished.page("03_widgets")
    assert "open the notebook in JupyterLab" in page
    assert "widget-view" not in page


def test_the_index_grows_with_the_run_and_ends_with_everything(finished):
    waiting = [index.count('class="waiting">waiting') for index in finished.indexes]
    assert waiting == [3, 2, 1, 0]
    last = finished.indexes[-1]
    for text in (
        "2 of 4 notebooks passed",
        "2 failed",
        "PSNR: 24.99 dB",
        "About 00_figure",
        "ZeroDivisionError: division by zero",
        "torch 2.",
        "seed = 7, margin = 0.25",
    ):
        assert text in last


@pytest.mark.parametrize(
    ("parameters", "error", "sentence"),
    [
        ({"margn": "0.1"}, ValueError, "no chosen notebook has a parameter 'margn'"),
        ({"profile": "huge"}, ValueError, "'huge' is unknown; use one of quick, standard, paper"),
        ({"dataset": "imagenet"}, ValueError, "set 'imagenet' is unknown; use one of digits"),
        ({"dataset": "folder:nowhere"}, FileNotFoundError, "there is no folder /.*nowhere"),
        ({"device": "abacus"}, ValueError, "abacus"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, parameters, error, sentence):
    notebook = write_notebook(tmp_path / "a.ipynb", "open('trace', 'w')")
    with pytest.raises(error, match=sentence):
        run_notebooks([notebook], parameters, out=tmp_path / "out")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", [".", "sub/.."])
def test_a_report_never_replaces_the_notebooks_that_it_runs(tmp_path, monkeypatch, out):
    path = write_notebook(tmp_path / "mine.ipynb", "1 / 0")
    (tmp_path / "sub").mkdir()
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the folder of mine\.ipynb itself"):
        run_notebooks(["mine.ipynb"], out=out, echo=str)
    assert path.read_bytes() == before
    assert not (tmp_path / "index.html").exists()


def test_a_notebook_of_the_reader_in_the_folder_of_the_report_is_not_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    (tmp_path / "work").mkdir()
    other = write_notebook(tmp_path / "work" / "mine.ipynb", "print('my own notes')")
    before = other.read_bytes()
    with pytest.raises(FileExistsError, match="is there, in a folder that holds no report"):
        run_notebooks([path], out=other.parent, echo=str)
    assert other.read_bytes() == before


def test_an_earlier_report_is_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("<title>arcvq notebooks</title>")
    for _ in range(2):
        run_notebooks([path], out=page.parent, echo=str)
    assert "1 of 1 notebooks passed" in page.read_text()


def test_a_page_of_somebody_else_is_not_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    page = tmp_path / "site" / "index.html"
    page.parent.mkdir()
    page.write_text("<h1>My own site</h1>")
    with pytest.raises(FileExistsError, match=r"index\.html was not written by arcvq"):
        run_notebooks([path], out=page.parent, echo=str)
    assert page.read_text() == "<h1>My own site</h1>"


def test_this_python_runs_the_notebooks_whatever_kernels_the_user_has(tmp_path, monkeypatch):
    wrong = {"argv": ["/nowhere/python"], "display_name": "Python 3", "language": "python"}
    for folder in ("data", "first"):
        spec = tmp_path / folder / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(wrong))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "first"))
    path = write_notebook(tmp_path / "which.ipynb", "import sys", "print(sys.executable)")
    notebook = nbformat.read(path, as_version=4)
    del notebook.metadata["kernelspec"]  # as some editors leave it out
    nbformat.write(notebook, path)

    (result,) = run_notebooks([path], {"seed": 1}, out=tmp_path / "report", echo=str)
    assert result.status == "passed", result.failure
    executed = nbformat.read(tmp_path / "report" / "which.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == sys.executable


@pytest.mark.parametrize("policy, seen", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_of_a_notebook_sleep_unless_the_user_says_otherwise(
    tmp_path, monkeypatch, policy, seen
):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    path = write_notebook(tmp_path / "a.ipynb", "import os", "print(os.environ['OMP_WAIT_POLICY'])")
    run_notebooks([path], out=tmp_path / "report", echo=str)
    executed = nbformat.read(tmp_path / "report" / "a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == seen
    assert os.environ.get("OMP_WAIT_POLICY") == policy


def test_a_notebook_called_index_is_refused_before_it_runs(tmp_path):
    path = write_notebook(tmp_path / "index.ipynb", "1 / 0")
    with pytest.raises(ValueError, match="take the place of the report's index"):
        run_notebooks([path], out=tmp_path / "report", echo=str)
    assert not (tmp_path / "report").exists()
