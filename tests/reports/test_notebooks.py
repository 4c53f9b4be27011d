"""Notebooks made here are run: parameters, failures, the executed files, the report."""

import json
import os
import re
import signal
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from arcvq.reports import execution
from arcvq.reports.notebooks import run_notebooks
from arcvq.reports.pages import NotebookResult, write_figures_page
from arcvq.runtime.devices import usable_cores
from tests.reports.made import PARAMETERS, write_notebook

FIGURE = """
import os
import re
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
    """A finished run: its folder, the lines it printed for notebooks and cells, the index then."""

    folder: Path
    results: list[NotebookResult]
    lines: list[str]
    indexes: list[str]
    watched: list[str]
    indexes_while_running: list[str]

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
    watched = []
    indexes_while_running = []

    def echo(line):
        lines.append(line)
        indexes.append((out / "index.html").read_text())

    def watch(line):
        watched.append(line)
        indexes_while_running.append((out / "index.html").read_text())

    environment = dict(os.environ)
    paths = sorted(folder.glob("*.ipynb"))
    parameters = {"seed": 7, "margin": "0.25"}
    results = run_notebooks(paths, parameters, out=out, echo=echo, watch=watch)
    assert dict(os.environ) == environment
    return Finished(folder, results, lines, indexes, watched, indexes_while_running)


def outputs_text(notebook) -> str:
    return json.dumps([cell.get("outputs") for cell in notebook.cells])


def test_a_run_goes_on_after_a_failing_notebook_and_a_dead_kernel(finished):
    states = [result.status for result in finished.results]
    assert states == ["passed", "failed", "stopped", "passed"]
    assert len(finished.lines) == 4

    failure = finished.results[1].failure
    assert failure == "cell In [4]: ZeroDivisionError: division by zero"
    assert finished.lines[1].startswith("[2/4] 01_failing  failed in")
    assert finished.lines[1].endswith(failure)

    dead = finished.results[2].failure
    assert dead == "cell In [3]: the kernel died, as it does when memory runs out"


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


def test_each_page_says_with_which_parameters_it_was_run(finished):
    page = finished.page("00_figure")
    given, _, own = page.partition("The notebook's own:")
    assert "<code>seed = 7</code>" in given
    assert "<code>margin = 0.25</code>" in given
    assert "<code>profile = &#34;quick&#34;</code>, <code>device" in own


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
    assert '"waiting">running, cell 2 of 5<' in finished.indexes_while_running[1]
    assert finished.watched[1] == "[1/4] 00_figure   running, cell 2 of 5"
    last = finished.indexes[-1]
    for text in (
        "2 of 4 notebooks passed",
        "1 failed, 1 stopped",
        "PSNR: 25.0 dB",
        "About 00_figure",
        "ZeroDivisionError: division by zero",
        "torch 2.",
        "seed = 7, margin = 0.25",
        "<dt>Profile</dt><dd>quick</dd>",
    ):
        assert text in last


@pytest.mark.parametrize(
    ("parameters", "error", "sentence"),
    [
        ({"margn": "0.1"}, ValueError, "no chosen notebook has a parameter 'margn'"),
        ({"profile": "huge"}, ValueError, "'huge' is unknown; known are quick, standard, full"),
        ({"dataset": "imagenet"}, ValueError, "set 'imagenet' is unknown; use one of digits"),
        ({"dataset": "folder:nowhere"}, FileNotFoundError, "folder 'nowhere' does not exist"),
        ({"seed": "-1"}, ValueError, "seed is -1; it must be a whole number from 0 to"),
        ({"device": "abacus"}, ValueError, "abacus"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, parameters, error, sentence):
    notebook = write_notebook(tmp_path / "a.ipynb", "open('trace', 'w')")
    with pytest.raises(error, match=sentence):
        run_notebooks([notebook], parameters, out=tmp_path / "out")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()


def test_the_home_folder_is_found_in_the_name_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook = write_notebook(tmp_path / "a.ipynb", "1")
    with pytest.raises(ValueError, match=str(tmp_path)):  # it would write over the notebook
        run_notebooks([notebook], out="~")


def run_alone(tmp_path, *sources, tag=None, **options):
    """Run a notebook of these cells, the first with a tag; its result, notebook and page."""
    path = write_notebook(tmp_path / "a.ipynb", *sources)
    if tag:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[2].metadata["tags"] = [tag]
        nbformat.write(notebook, path)
    out = tmp_path / "out"
    (result,) = run_notebooks([path], out=out, echo=str, **options)
    executed = nbformat.read(out / "a.ipynb", as_version=4)
    return result, executed, (out / "a.html").read_text()


def test_a_cell_that_runs_out_of_time_is_named_and_what_it_printed_is_kept(tmp_path):
    slow = "import time\nprint('so far', flush=True)\ntime.sleep(60)"
    result, executed, page = run_alone(tmp_path, slow, "print('never')", timeout=2)
    assert result.status == "stopped"
    assert result.failure == (
        "cell In [2]: it ran longer than the timeout of 2 s; a larger --timeout allows more"
    )
    assert "so far" in page
    assert "Stopped in" in page
    assert [output.output_type for output in executed.cells[2].outputs] == ["stream", "error"]
    assert "never" not in outputs_text(executed)


def test_an_error_that_was_allowed_is_not_the_reason_why_a_kernel_died(tmp_path):
    result, _, page = run_alone(tmp_path, "1 / 0", "import os\nos._exit(1)", tag="raises-exception")
    assert result.status == "stopped"
    assert result.failure == "cell In [3]: the kernel died, as it does when memory runs out"
    assert page.index("ZeroDivisionError") < page.index('id="failure"')


def test_an_error_that_was_allowed_is_not_the_one_that_failed(tmp_path):
    result, _, page = run_alone(tmp_path, "1 / 0", "[][1]", tag="raises-exception")
    assert result.failure == "cell In [3]: IndexError: list index out of range"
    assert page.count('id="failure"') == 1
    assert page.index("ZeroDivisionError") < page.index('id="failure"')


def test_a_notebook_passes_with_an_error_that_is_allowed(tmp_path):
    result, _, page = run_alone(tmp_path, "1 / 0", tag="raises-exception")
    assert (result.status, result.failure) == ("passed", "")
    assert "ZeroDivisionError" in page


def test_a_cell_that_leaves_the_kernel_is_named(tmp_path):
    result, _, page = run_alone(tmp_path, "import sys\nsys.exit('enough')")
    assert (result.status, result.failure) == ("failed", "cell In [2]: SystemExit: enough")
    assert 'id="failure"' in page


@pytest.mark.parametrize(("name", "said"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")])
def test_what_ran_before_a_stop_is_kept_and_the_rest_is_not_run(tmp_path, name, said):
    number = getattr(signal, name)
    handler = signal.signal(number, signal.default_int_handler)  # a shell may have it ignored
    slow = "import time\nprint('so far', flush=True)\ntime.sleep(60)"
    first = write_notebook(tmp_path / "first.ipynb", slow, "Text [after](second.ipynb)")
    second = write_notebook(tmp_path / "second.ipynb")
    out = tmp_path / "out"
    run_notebooks([second], out=out, echo=str)
    assert "not run yet" not in (out / "second.html").read_text()

    def watch(line):
        if "cell 2" in line:
            threading.Timer(1.5, os.kill, [os.getpid(), number]).start()

    try:
        with pytest.raises(KeyboardInterrupt, match=rf"^Stopped by {said}\. 0 of 2 .*1 not run"):
            run_notebooks([first, second], out=out, echo=str, watch=watch)
    finally:
        signal.signal(number, handler)
    index = (out / "index.html").read_text()
    assert '<td class="stopped">stopped</td>' in index
    assert '<td class="waiting">not run</td>' in index
    assert f"cell In [2]: stopped by {said}" in index
    assert "so far" in (out / "first.html").read_text()
    assert "not run yet" in (out / "second.html").read_text(), "the page of the earlier run"
    assert not list(out.glob(".*"))


MEETING = """
import pathlib
import time
pathlib.Path("{own}").touch()
for _ in range(300):
    if pathlib.Path("{other}").exists():
        break
    time.sleep(0.1)
else:
    raise RuntimeError("the other notebook has not begun")
"""


def test_notebooks_run_at_the_same_time_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = "import os\nprint(os.environ['OMP_NUM_THREADS'])"
    one = write_notebook(tmp_path / "1.ipynb", MEETING.format(own="one", other="two"), threads)
    two = write_notebook(tmp_path / "2.ipynb", MEETING.format(own="two", other="one"), threads)
    lines = []
    out = tmp_path / "out"
    results = run_notebooks([one, two], out=out, jobs=2, echo=lines.append)
    assert [result.status for result in results] == ["passed", "passed"], lines
    assert [result.name for result in results] == ["1", "2"]
    share = max(1, usable_cores() // 2)
    for name in ("1", "2"):
        executed = nbformat.read(out / f"{name}.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0].text.strip() == str(share)
    assert "2 of 2 notebooks passed" in (out / "index.html").read_text()


def test_a_notebook_that_measures_time_runs_alone_after_the_others(tmp_path):
    here = "import pathlib, time\npathlib.Path('{0}_is_here').touch()\ntime.sleep(1)"
    gone = "pathlib.Path('{0}_is_here').unlink()\npathlib.Path('{0}_was_here').touch()"
    timed = write_notebook(
        tmp_path / "1.ipynb",
        "import pathlib\nprint(sorted(path.name for path in pathlib.Path().glob('*_here')))",
    )
    notebook = nbformat.read(timed, as_version=4)
    notebook.metadata["arcvq"] = {"alone": True}
    nbformat.write(notebook, timed)
    others = []
    for name in ("2", "3"):
        path = tmp_path / f"{name}.ipynb"
        others.append(write_notebook(path, here.format(name), gone.format(name)))
    out = tmp_path / "out"
    run_notebooks([timed, *others], out=out, jobs=3, echo=str)
    executed = nbformat.read(out / "1.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == "['2_was_here', '3_was_here']"


SLOW = "import time\nprint('so far', flush=True)\ntime.sleep(60)"


def stop_in_cell(number, paths, out, jobs=1):
    """Run notebooks, and send Ctrl-C when `jobs` of them are in the cell of this number."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = []

    def watch(line):
        if f"cell {number} " not in line:
            return
        begun.append(line)
        if len(begun) == jobs:
            threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()

    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_notebooks(paths, out=out, jobs=jobs, echo=str, watch=watch)
    finally:
        signal.signal(signal.SIGINT, handler)
    return str(stopped.value)


def test_a_stop_ends_all_notebooks_that_run_and_begins_no_other(tmp_path):
    paths = [write_notebook(tmp_path / f"{number}.ipynb", SLOW) for number in range(4)]
    notebook = nbformat.read(paths[0], as_version=4)
    notebook.metadata["arcvq"] = {"alone": True}
    nbformat.write(notebook, paths[0])
    out = tmp_path / "out"
    said = stop_in_cell(2, paths, out, jobs=2)
    assert "0 of 4 notebooks passed, 2 stopped, 2 not run" in said
    index = (out / "index.html").read_text()
    assert index.count("cell In [2]: stopped by Ctrl-C") == 2


def test_a_cell_that_is_stopped_may_save_what_it_has(tmp_path):
    saving = """
import pathlib
import signal
import time

def save(number, frame):
    pathlib.Path("saved").touch()
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, save)
time.sleep(60)
"""
    path = write_notebook(tmp_path / "a.ipynb", saving, "print('never')")
    said = stop_in_cell(2, [path], tmp_path / "out")
    assert "1 stopped" in said
    assert (tmp_path / "saved").exists()
    page = (tmp_path / "out" / "a.html").read_text()
    assert "stopped by Ctrl-C" in page
    assert "never" not in outputs_text(nbformat.read(tmp_path / "out" / "a.ipynb", as_version=4))


DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"


def test_a_cell_that_does_not_let_itself_be_stopped_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "PATIENCE", 1.0)
    path = write_notebook(tmp_path / "a.ipynb", DEAF)
    began = time.monotonic()
    said = stop_in_cell(2, [path], tmp_path / "out")
    assert "1 stopped" in said
    assert time.monotonic() - began < 40


@pytest.mark.parametrize("cell", [SLOW, DEAF], ids=["slow", "deaf"])
def test_an_error_in_the_report_ends_the_notebooks_that_run(tmp_path, monkeypatch, cell):
    monkeypatch.setattr(execution, "PATIENCE", 1.0)
    paths = [write_notebook(tmp_path / f"{number}.ipynb", cell) for number in range(2)]

    def watch(line):
        if "cell 2" in line:
            time.sleep(1)  # the cell is under way
            raise OSError("the disk is full")

    began = time.monotonic()
    with pytest.raises(OSError, match="the disk is full"):
        run_notebooks(paths, out=tmp_path / "out", jobs=2, echo=str, watch=watch)
    assert time.monotonic() - began < 40


@pytest.mark.parametrize("own", [None, "alone", ["alone"], {}, {"alone": False}])
def test_metadata_of_other_kinds_do_not_matter(tmp_path, own):
    path = write_notebook(tmp_path / "a.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["arcvq"] = own
    nbformat.write(notebook, path)
    (result,) = run_notebooks([path], out=tmp_path / "out", echo=str)
    assert result.status == "passed"


@pytest.mark.parametrize("jobs", [0, -1])
def test_a_wrong_number_of_jobs_is_refused(tmp_path, jobs):
    path = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match=f"jobs is {jobs}"):
        run_notebooks([path], out=tmp_path / "out", jobs=jobs, echo=str)


def test_a_second_run_into_the_same_folder_is_refused_until_the_first_has_ended(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb")
    out = tmp_path / "out"
    refused = []  # once a cell: that of the parameters, and the notebook's own

    def watch(_):
        with pytest.raises(BlockingIOError, match="another arcvq run is writing") as caught:
            run_notebooks([path], {"seed": 2}, out=out, echo=str)
        refused.append(caught.value)

    out.mkdir()
    (out / ".arcvq.lock").touch()  # as a run leaves it that was killed
    (result,) = run_notebooks([path], {"seed": 1}, out=out, echo=str, watch=watch)
    assert (result.status, len(refused)) == ("passed", 2)
    assert "seed = 1" in (out / "index.html").read_text()
    assert not list(out.glob(".*"))


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


@pytest.mark.parametrize("name", ["mine.ipynb", "mine.html"])
def test_a_file_of_the_reader_in_the_folder_of_the_report_is_not_replaced(tmp_path, name):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    (tmp_path / "work").mkdir()
    other = tmp_path / "work" / name
    other.write_text("my own notes")
    with pytest.raises(FileExistsError, match=f"{name} is there, in a folder that holds no report"):
        run_notebooks([path], out=other.parent, echo=str)
    assert other.read_text() == "my own notes"


def test_an_earlier_report_is_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("<title>arcvq notebooks</title>")
    for _ in range(2):
        run_notebooks([path], out=page.parent, echo=str)
    assert "1 of 1 notebook passed" in page.read_text()


def test_a_page_of_somebody_else_is_not_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    page = tmp_path / "site" / "index.html"
    page.parent.mkdir()
    page.write_text("<h1>My own site</h1>")
    with pytest.raises(FileExistsError, match=r"index\.html was not written by arcvq"):
        run_notebooks([path], out=page.parent, echo=str)
    assert page.read_text() == "<h1>My own site</h1>"


def test_a_page_of_another_command_is_not_replaced(tmp_path):
    path = write_notebook(tmp_path / "mine.ipynb", "print(1)")
    page = tmp_path / "sweep" / "index.html"
    write_figures_page(page, "How do the settings act together?", [])
    before = page.read_bytes()
    with pytest.raises(FileExistsError, match=r"index\.html is a page of another command of arcvq"):
        run_notebooks([path], out=page.parent, echo=str)
    assert page.read_bytes() == before


def test_the_index_names_the_devices_that_the_notebooks_have_by_default(tmp_path):
    paths = []
    for number, name in enumerate(("cpu", "cpu:0", "cuda:99")):
        parameters = f'device = "{name}"'
        paths.append(write_notebook(tmp_path / f"{number}.ipynb", parameters=parameters))
    run_notebooks(paths, out=tmp_path / "out", echo=str)
    index = (tmp_path / "out" / "index.html").read_text()
    assert re.search(
        r"<dt>Device</dt><dd>cpu \(\w+\), cpu:0 \(\w+\), cuda:99, \d+ threads?<", index
    )


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


@pytest.mark.parametrize(("policy", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
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
