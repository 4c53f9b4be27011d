"""Notebooks made here are run for real: parameters, failures, the executed files and the pages of the report."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from arcvq.reports import notebooks

PARAMETERS = 'dataset = "digits"\nprofile = "quick"\ndevice = "auto"\nseed = 0'


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    cells = [new_markdown_cell(f"# About {path.stem}"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_markdown_cell(s) if s.startswith("Text") else new_code_cell(s) for s in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


FIGURE = """
import os
import plotly.graph_objects as go
from arcvq.reports import key_figure
key_figure("PSNR", 24.98765, "dB")
go.Figure(go.Scatter(y=[1, 3]), layout={"title": {"text": "A <b>curve</b>"}, "meta": {"summary": "It rises."}})
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over a notebook with a figure, one that fails, one whose kernel dies, and one with widgets."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_notebook(
        folder / "00_figure.ipynb", "margin = margin * 2", FIGURE, "print(os.getcwd(), margin, seed)",
        r"Text with $\hat z_i$ and [the next](01_failing.ipynb)", parameters=f"{PARAMETERS}\nmargin = 0.1",
    )
    write_notebook(folder / "01_failing.ipynb", "print('first')", "1 / 0", "print('never')")
    write_notebook(folder / "02_dying.ipynb", "import os\nos._exit(1)")
    write_notebook(folder / "03_widgets.ipynb", WIDGETS)
    lines, indexes, out = [], [], folder / "report"

    def echo(line):
        lines.append(line)
        indexes.append((out / "index.html").read_text())

    environment = dict(os.environ)
    results = notebooks.run_notebooks(sorted(folder.glob("*.ipynb")), {"margin": "0.25"}, seed=7, out=out, echo=echo)
    assert dict(os.environ) == environment
    return folder, results, lines, indexes


def outputs_text(path: Path) -> str:
    return json.dumps([cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells])


def test_a_run_goes_on_after_a_failing_notebook_and_a_dead_kernel(finished):
    _, results, lines, _ = finished
    assert [result.status for result in results] == ["passed", "failed", "failed", "passed"]
    assert results[1].failure == "cell In [4]: ZeroDivisionError: division by zero"
    # Whether the number of the cell that killed the kernel still came through depends on who was quicker.
    assert results[2].failure in ("cell In [3]: Kernel died", "cell In [2]: Kernel died", "Kernel died")
    assert len(lines) == 4
    assert lines[1].startswith("[2/4] 01_failing  failed in") and lines[1].endswith(results[1].failure)


def test_cells_after_the_failing_one_do_not_run(finished):
    folder, *_ = finished
    text = outputs_text(folder / "report" / "01_failing.ipynb")
    assert "first" in text and "never" not in text


def test_a_parameter_goes_to_the_notebooks_that_know_it_and_the_seed_to_all(finished):
    folder, *_ = finished
    assert f"{folder} 0.5 7" in outputs_text(folder / "report" / "00_figure.ipynb")
    for name in ("01_failing", "03_widgets"):
        assert [cell.source for cell in nbformat.read(folder / "report" / f"{name}.ipynb", as_version=4).cells
                if "injected-parameters" in cell.metadata.get("tags", [])] == ["# Parameters\nseed = 7\n"]


def test_the_notebooks_themselves_are_left_alone(finished):
    folder, *_ = finished
    assert outputs_text(folder / "00_figure.ipynb").count("output_type") == 0


def test_executed_notebooks_hold_no_widget_state_and_no_plotly_script(finished):
    folder, *_ = finished
    for path in (folder / "report").glob("*.ipynb"):
        assert "widgets" not in nbformat.read(path, as_version=4).metadata
        assert path.stat().st_size < 50_000
    assert not list((folder / "report").glob(".*")), "no half-written file stays behind"


class _Sources(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        fetched = {"src", "srcset", "data", "poster"} | ({"href"} if tag in ("link", "base", "image") else set())
        self.found += [value for name, value in attributes if name in fetched]


def test_pages_fetch_nothing_but_the_plotly_script_beside_them(finished):
    folder, *_ = finished
    for page in (folder / "report").glob("*.html"):
        sources = _Sources()
        sources.feed(page.read_text())
        assert set(sources.found) == ({"plotly.min.js"} if page.stem == "00_figure" else set())
        assert "@import" not in page.read_text() and "require(" not in page.read_text()
    assert "Plotly" in (folder / "report" / "plotly.min.js").read_text()


def test_a_page_shows_the_figure_the_formula_and_links_to_the_next_page(finished):
    folder, *_ = finished
    page = (folder / "report" / "00_figure.html").read_text()
    assert "Plotly.newPlot" in page and '"showSendToCloud": false' in page
    assert '<figure aria-label="A  curve . It rises.">' in page
    assert "<math" in page and r"\hat" not in page
    assert 'href="01_failing.html"' in page


def test_the_page_of_a_failed_notebook_leads_to_the_error(finished):
    folder, *_ = finished
    page = (folder / "report" / "01_failing.html").read_text()
    assert 'id="failure"' in page and 'href="#failure"' in page
    assert "papermill" not in page


def test_a_widget_leaves_a_word_in_its_place(finished):
    folder, *_ = finished
    page = (folder / "report" / "03_widgets.html").read_text()
    assert "open the notebook in JupyterLab" in page and "widget-view" not in page


def test_the_index_grows_with_the_run_and_ends_with_everything(finished):
    _, _, _, indexes = finished
    assert [index.count("class=waiting>waiting") for index in indexes] == [3, 2, 1, 0]
    last = indexes[-1]
    assert "2 of 4 notebooks passed" in last and "2 failed" in last
    assert "PSNR: 24.99 dB" in last and "About 00_figure" in last
    assert "ZeroDivisionError: division by zero" in last
    assert "torch 2." in last and "seed = 7, margin = 0.25" in last


@pytest.mark.parametrize(
    ("value", "default", "typed"),
    [("1e3", "400", 1000), ("3", "0.1", 3.0), ("1e-3", "0.1", 1e-3), ("true", "False", True), ("007", '"a"', "007"),
     ("[1, 2]", "[3]", [1, 2]), ("4", "None", 4), ("warm up", "None", "warm up"), ("8", "2 * 3", 8), (2.0, "1", 2)],
)
def test_a_value_takes_the_type_of_the_default(tmp_path, value, default, typed):
    notebook = write_notebook(tmp_path / "a.ipynb", parameters=f"number = {default}")
    plan = notebooks.plan_parameters([notebook], {"number": value}, {})
    assert plan == {notebook: {"number": typed}} and type(plan[notebook]["number"]) is type(typed)


@pytest.mark.parametrize(
    ("value", "default"), [("many", "400"), ("1.5", "400"), ("x", "0.1"), ("1", "False"), (3, '"a"')]
)
def test_a_value_of_another_type_is_refused(tmp_path, value, default):
    notebook = write_notebook(tmp_path / "a.ipynb", parameters=f"number = {default}")
    with pytest.raises(ValueError, match=r"number in a.ipynb takes (int|float|bool|str), by default"):
        notebooks.plan_parameters([notebook], {"number": value}, {})


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"parameters": {"margn": "0.1"}}, ValueError, "no chosen notebook has a parameter 'margn'; .*: dataset, "),
        ({"profile": "huge"}, ValueError, "profile 'huge' is unknown; use one of quick, standard, paper"),
        ({"dataset": "imagenet"}, ValueError, "data set 'imagenet' is unknown; use one of digits"),
        ({"dataset": "folder:nowhere"}, FileNotFoundError, "there is no folder /.*nowhere"),
        ({"device": "abacus"}, ValueError, "abacus"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, given, error, sentence):
    notebook = write_notebook(tmp_path / "a.ipynb", "open('trace', 'w')")
    with pytest.raises(error, match=sentence):
        notebooks.run_notebooks([notebook], out=tmp_path / "out", **given)
    assert not (tmp_path / "trace").exists() and not (tmp_path / "out").exists()


def test_a_notebook_without_parameters_cannot_take_a_seed(tmp_path):
    notebook = write_notebook(tmp_path / "a.ipynb", parameters="x = 1")
    with pytest.raises(ValueError, match=r"a.ipynb has no parameter 'seed' in a cell tagged 'parameters'"):
        notebooks.run_notebooks([notebook], seed=1, out=tmp_path / "out")


def test_an_image_folder_is_named_from_where_the_caller_stands(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert notebooks._checked("dataset", "folder:mine") == f"folder:{tmp_path / 'mine'}"


@pytest.fixture
def three(tmp_path, monkeypatch):
    for name in ("00_start_here", "01_collapse", "02_geometry"):
        write_notebook(tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["2", "02", "02_geometry", "02_geometry.ipynb"])
def test_a_notebook_is_found_by_number_name_and_file_name(three, name):
    assert notebooks.find_notebooks([name]) == [three / "02_geometry.ipynb"]


def test_no_name_means_all_notebooks_in_order(three):
    assert [path.stem for path in notebooks.find_notebooks()] == ["00_start_here", "01_collapse", "02_geometry"]


def test_a_path_is_taken_as_it_is_and_the_order_is_the_callers(three, tmp_path):
    other = write_notebook(tmp_path / "other.ipynb")
    assert notebooks.find_notebooks([other, "1"]) == [other, three / "01_collapse.ipynb"]


@pytest.mark.parametrize("name", ["7", "02_geo", "no/such.ipynb"])
def test_a_notebook_that_is_not_there_is_named(three, name):
    with pytest.raises(FileNotFoundError, match=f"there is no notebook '?{name}"):
        notebooks.find_notebooks([name])


def test_a_notebook_named_twice_is_refused(three):
    with pytest.raises(ValueError, match=r"02_geometry.ipynb was named twice"):
        notebooks.find_notebooks(["2", "02_geometry"])


def test_the_notebooks_of_the_checkout_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebooks.notebooks_folder() == Path(notebooks.__file__).parents[2] / "notebooks"


def test_without_any_notebooks_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "CHECKOUT", tmp_path / "site")
    with pytest.raises(FileNotFoundError, match="no folder notebooks/ was found"):
        notebooks.find_notebooks()


def test_a_game_is_unlocked_where_nobody_is_there_to_guess(tmp_path):
    path = write_notebook(tmp_path / "game.ipynb", parameters="unlocked = False")
    assert notebooks.plan_parameters([path], {}, {})[path] == {"unlocked": True}
    assert notebooks.plan_parameters([path], {"unlocked": "false"}, {})[path] == {"unlocked": False}
