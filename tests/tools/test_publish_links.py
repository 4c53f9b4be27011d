"""The links to Colab and Binder: what is written, what stays, and what the first cell does where."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import nbformat
import pytest
from packaging.requirements import Requirement
from publish_links import main, publish

ROOT = Path(__file__).parents[2]
REPOSITORY = "ada/arc.vq-kit"
STORED_CHECKS = Path("tests") / "notebooks" / "test_stored.py"


def copy_of_the_checkout(folder):
    (folder / STORED_CHECKS.parent).mkdir(parents=True)
    shutil.copy(ROOT / STORED_CHECKS, folder / STORED_CHECKS)
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    return folder


def texts(folder):
    """What stands in README.md and in each notebook, as stored."""
    files = [folder / "README.md", *sorted((folder / "notebooks").glob("*.ipynb"))]
    return {path.name: path.read_text("utf-8") for path in files}


def notebooks(folder):
    return {path.name: nbformat.read(path, 4) for path in (folder / "notebooks").glob("*.ipynb")}


def content(notebook):
    """What a reader wrote or saw in each cell, except in what this tool writes."""
    cells = [cell for cell in notebook.cells if cell.id != "colab"]
    title = re.sub(r"\[!\[Open in Colab.*\n\n", "", cells[0].source)
    outputs = []
    for cell in cells:
        outputs += cell.get("outputs", [])
    for output in outputs:
        output.pop("execution_count", None)
    return [title, *(cell.source for cell in cells[1:])], outputs


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = copy_of_the_checkout(tmp_path_factory.mktemp("published"))
    publish(folder, REPOSITORY)
    return folder


def test_badges_below_each_title_open_that_notebook(published):
    opened = {"README.md": "00_start_here.ipynb"}
    for name, notebook in notebooks(published).items():
        opened[name] = name
        title, line = notebook.cells[0].source.split("\n\n")[:2]
        assert title.startswith("# ")
        assert line.startswith("[![")
    for name, text in texts(published).items():
        (colab,) = re.findall(r"\]\(https://colab\.research\.google\.com/github/(\S+?)\)", text)
        (binder,) = re.findall(r"\]\(https://mybinder\.org/v2/gh/(\S+?)\)", text)
        assert colab == f"{REPOSITORY}/blob/main/notebooks/{opened[name]}"
        path = f"lab/tree/notebooks/{opened[name]}"
        assert unquote(binder) == f"{REPOSITORY}/main?urlpath={path}"


def test_the_readme_stays_apart_from_its_badges(published):
    lines = (published / "README.md").read_text("utf-8").splitlines()
    assert lines[0] == "# arcvq"
    assert lines[2].startswith("[![")
    assert lines[1] == lines[3] == ""
    stored = (ROOT / "README.md").read_text("utf-8")
    assert lines[4:] == re.sub(r"\[!\[Open in Colab.*\n\n", "", stored).splitlines()[2:]


def test_texts_code_and_outputs_of_the_notebooks_stay(published):
    stored = notebooks(ROOT)
    for name, notebook in notebooks(published).items():
        assert content(notebook) == content(stored[name])


def test_the_checks_of_stored_notebooks_hold_for_the_published(published):
    options = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", published, STORED_CHECKS]
    done = subprocess.run(command, cwd=published, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_a_second_call_changes_nothing(published):
    before = texts(published)
    publish(published, REPOSITORY)
    assert texts(published) == before


def test_another_address_takes_the_place_of_the_former(published, tmp_path):
    fresh = copy_of_the_checkout(tmp_path / "fresh")
    publish(fresh, "emmy/other")
    moved = shutil.copytree(published, tmp_path / "moved")
    publish(moved, "emmy/other")
    assert texts(moved) == texts(fresh)
    assert not [name for name, text in texts(moved).items() if REPOSITORY in text]


@pytest.mark.parametrize("address", ["https://github.com/ada/arcvq", "arcvq", "ada/arcvq/", ""])
def test_an_address_of_another_kind_is_refused_before_anything_is_written(address, capsys):
    before = texts(ROOT)
    assert main([address]) == 2
    sentence = f"{address!r} is no name of a repository; it must be OWNER/NAME, as in ada/arcvq"
    assert capsys.readouterr().err == f"{sentence}\n"
    assert texts(ROOT) == before


@pytest.fixture
def run_first_cell(published, tmp_path, monkeypatch):
    """A function that runs the cell, and returns what was asked of pip: one call, one line."""
    calls = tmp_path / "calls"
    calls.touch()

    def run(exit_code=0):
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\nexit {exit_code}\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", os.fspath(python))
        notebook = notebooks(published)["03_ball_bounded_norm.ipynb"]
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        exec(first.source, {})
        return calls.read_text().splitlines()

    return run


@pytest.fixture
def colab(monkeypatch):
    """Stand-ins for Colab's package; the list has a word for each call."""
    called = []
    package = ModuleType("google.colab")
    package.output = ModuleType("google.colab.output")
    package.output.enable_custom_widget_manager = lambda: called.append("widgets")
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setitem(sys.modules, "google.colab.output", package.output)
    return called


@pytest.fixture
def without_arcvq(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_outside_colab_the_first_cell_does_nothing(run_first_cell, without_arcvq):
    assert run_first_cell() == []


def test_in_colab_it_installs_the_kit_from_the_repository(run_first_cell, colab, without_arcvq):
    (call,) = run_first_cell()
    options, _, package = call.partition(" arcvq")
    assert options == "-m pip install --quiet"
    wanted = Requirement(f"arcvq{package}")
    assert wanted.url == f"git+https://github.com/{REPOSITORY}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wanted.extras == {"kit"} <= set(extras["optional-dependencies"])
    assert colab == ["widgets"]


def test_in_colab_it_installs_only_once(run_first_cell, colab):
    assert run_first_cell() == []
    assert colab == ["widgets"]


def test_in_colab_a_failed_installation_stops_the_notebook(run_first_cell, colab, without_arcvq):
    with pytest.raises(subprocess.CalledProcessError):
        run_first_cell(exit_code=1)
