"""Notebooks are found by number, name and path."""

from pathlib import Path

import pytest

from arcvq.reports import notebook_files
from arcvq.reports.notebook_files import find_notebooks, notebooks_folder
from tests.reports.made import write_notebook


@pytest.fixture
def three(tmp_path, monkeypatch):
    for name in ("00_start_here", "01_collapse", "02_geometry"):
        write_notebook(tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebook_files, "notebooks_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["2", "02", "02_geometry", "02_geometry.ipynb"])
def test_a_notebook_is_found_by_number_name_and_file_name(three, name):
    assert find_notebooks([name]) == [three / "02_geometry.ipynb"]


def test_no_name_means_all_notebooks_in_order(three):
    stems = [path.stem for path in find_notebooks()]
    assert stems == ["00_start_here", "01_collapse", "02_geometry"]


def test_a_path_is_taken_as_it_is_and_the_order_is_the_callers(three, tmp_path):
    other = write_notebook(tmp_path / "other.ipynb")
    assert find_notebooks([other, "1"]) == [other, three / "01_collapse.ipynb"]


@pytest.mark.parametrize("name", ["7", "02_geo", "no/such.ipynb"])
def test_a_notebook_that_is_not_there_is_named(three, name):
    with pytest.raises(FileNotFoundError, match=f"there is no notebook '?{name}"):
        find_notebooks([name])


def test_a_notebook_named_twice_is_refused(three):
    with pytest.raises(ValueError, match=r"02_geometry.ipynb was named twice"):
        find_notebooks(["2", "02_geometry"])


def test_the_notebooks_of_the_checkout_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebooks_folder() == Path(notebook_files.__file__).parents[2] / "notebooks"


def test_without_any_notebooks_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook_files, "CHECKOUT", tmp_path / "site")
    with pytest.raises(FileNotFoundError, match="no folder notebooks/ was found"):
        find_notebooks()
