"""Notebooks are found by number, name and path."""

from pathlib import Path

import pytest

from arcvq.reports import notebook_files
from arcvq.reports.notebook_files import copy_notebooks, find_notebooks, notebooks_folder
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


def test_the_home_folder_is_found_in_a_path(three, monkeypatch):
    monkeypatch.setenv("HOME", str(three))
    assert find_notebooks(["~/01_collapse.ipynb"]) == [three / "01_collapse.ipynb"]


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
    monkeypatch.setattr(notebook_files, "SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no notebooks; install arcvq again$"):
        find_notebooks()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_copies_of_the_notebooks_are_those_of_the_package_and_are_made_once(three, tmp_path):
    folder = tmp_path / "new" / "my notebooks"
    expected = [folder / path.name for path in find_notebooks()]
    assert copy_notebooks(folder) == expected
    written = [path.stat().st_mtime_ns for path in expected]
    expected[1].unlink()
    assert copy_notebooks(folder) == expected
    assert contents(folder) == {path.name: path.read_bytes() for path in find_notebooks()}
    assert [expected[place].stat().st_mtime_ns for place in (0, 2)] == [written[0], written[2]]


def write_other(path):
    path.write_text("mine")


def link_to_nothing(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [write_other, Path.mkdir, link_to_nothing])
def test_what_a_reader_has_under_the_name_of_a_notebook_stays_and_nothing_is_copied(
    three, tmp_path, make
):
    folder = tmp_path / "mine"
    folder.mkdir()
    mine = folder / "01_collapse.ipynb"
    make(mine)
    before = mine.lstat()
    message = "01_collapse.ipynb is there and differs .* nothing was copied"
    with pytest.raises(FileExistsError, match=message):
        copy_notebooks(folder)
    after = mine.lstat()
    # What reads a file may move its time of access, so only what a change would move is compared.
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert len(list(folder.iterdir())) == 1


def test_other_files_of_a_reader_stay_beside_the_copies(three, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    copy_notebooks(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list(folder.iterdir())) == 4
