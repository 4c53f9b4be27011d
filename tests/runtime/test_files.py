import os
import signal
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from arcvq.runtime.files import (
    CHECKOUT,
    data_root,
    exclusive,
    safe_name,
    write_folder,
    write_text,
    write_whole,
)


def full_disk(draft):
    draft.write_text("half of it")
    raise OSError(28, "No space left on device")


def test_a_failed_write_keeps_the_earlier_file_and_leaves_no_draft(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "first")
    with pytest.raises(
        OSError, match=r"cannot be written .*No space left.*; the earlier file is kept"
    ):
        write_whole(path, full_disk)
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_failed_first_write_says_that_nothing_was_written(tmp_path):
    with pytest.raises(OSError, match="nothing was written"):
        write_whole(tmp_path / "other.txt", full_disk)


def denied(draft):
    raise PermissionError(13, "Permission denied")


def test_the_variable_for_another_folder_is_named_where_it_would_help_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path / "data"))
    with pytest.raises(OSError, match=r"nothing was written; .* ARCVQ_DATA names another folder"):
        write_whole(tmp_path / "data" / "runs" / "model", denied)
    with pytest.raises(OSError, match=r"nothing was written$"):
        write_whole(tmp_path / "notebooks" / "00.ipynb", denied)


def private(draft):
    """Writes as safetensors does: a new file that only its owner may read."""
    draft.unlink(missing_ok=True)
    draft.touch(0o600)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_says_whoever_wrote_them(tmp_path, umask, mode):
    earlier = os.umask(umask)
    try:
        write_whole(tmp_path / "one", private)
        write_folder(tmp_path / "some", lambda folder: private(folder / "two"))
    finally:
        os.umask(earlier)
    for path in (tmp_path / "one", tmp_path / "some" / "two"):
        assert path.stat().st_mode & 0o777 == mode


def test_a_folder_gets_whole_files_and_no_draft_where_writing_fails(tmp_path):
    def write(folder):
        (folder / "a").write_text("new")
        full_disk(folder / "b")

    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path, write)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("No space left")])
def test_a_full_disk_is_one_kind_of_error_whoever_writes(tmp_path, error):
    def write(draft):
        raise error

    with pytest.raises(OSError, match=r"file cannot be written .*No space left"):
        write_whole(tmp_path / "file", write)
    with pytest.raises(OSError, match=r"the folder .*model cannot be written .*No space left"):
        write_folder(tmp_path / "model", write)


def test_drafts_of_writers_that_were_killed_go_with_the_next_write_once_they_are_old(tmp_path):
    old_file = tmp_path / ".model.1234.draft"
    old_folder = tmp_path / ".5678.draft"
    young = tmp_path / ".other.9abc.draft"
    old_folder.mkdir()
    for draft in (old_file, old_folder / "weights", young):
        draft.touch()
    an_hour_ago = time.time() - 3601
    for draft in (old_file, old_folder):
        os.utime(draft, (an_hour_ago, an_hour_ago))
    write_text(tmp_path / "note.txt", "new")
    assert sorted(os.listdir(tmp_path)) == [young.name, "note.txt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process")
def test_the_draft_of_a_writer_that_was_killed_goes_with_the_next_write(tmp_path):
    def be_killed(draft):
        draft.write_text("half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write_whole(tmp_path / "file", be_killed)
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1
    write_text(tmp_path / "note.txt", "new")
    assert os.listdir(tmp_path) == ["note.txt"]


def test_the_draft_of_a_writer_at_work_stays(tmp_path):
    def write(folder):
        (folder / "part").touch()
        write_text(tmp_path / "file", "of another writer")

    write_folder(tmp_path, write)
    assert sorted(os.listdir(tmp_path)) == ["file", "part"]


def test_what_a_writer_makes_beside_its_file_goes(tmp_path):
    def write(draft):
        (draft.parent / ".tmp1234").touch()
        draft.write_text("whole")

    write_whole(tmp_path / "file", write)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "猫" * 85], ids=["ascii", "latin", "kanji"])
def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_processes_with_equal_numbers_write_side_by_side(tmp_path, monkeypatch):
    """As in containers, where every first process has the number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)

    def write(draft):
        write_text(tmp_path / "file", "inner")
        draft.write_text("outer")

    write_whole(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "outer"


def test_one_process_at_a_time_gets_past_a_lock(tmp_path):
    file = tmp_path / ".lock"
    inside = []
    order = []

    def enter(number):
        with exclusive(file):
            inside.append(number)
            time.sleep(0.01)
            assert inside == [number]
            inside.clear()
            order.append(number)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(enter, number)
    assert sorted(order) == [0, 1, 2, 3]
    assert not file.exists()


def test_who_would_not_wait_for_a_lock_is_refused(tmp_path):
    with (
        exclusive(tmp_path / ".lock"),
        pytest.raises(BlockingIOError, match="come back later"),
        exclusive(tmp_path / ".lock", refusal="come back later"),
    ):
        pass
    with exclusive(tmp_path / ".lock", refusal="come back later"):
        assert (tmp_path / ".lock").exists()


def test_data_root_is_what_is_given_then_the_environment_then_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert data_root() == tmp_path
    monkeypatch.setenv("ARCVQ_DATA", "~/arcvq")
    assert data_root() == Path.home() / "arcvq"
    assert data_root("~/mine") == Path.home() / "mine"
    monkeypatch.delenv("ARCVQ_DATA")
    assert data_root() == CHECKOUT / "data"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain_digits", "plain_digits"),
        ("folder:/home/me/My Pictures/", "folder-My-Pictures"),
        ("radius: linear, 400 steps", "radius-linear-400-steps"),
        ("folder:/home/me/写真", "folder-写真"),
        ("folder:/" + "猫" * 200, "folder-" + "猫" * 24),
        ("folder:/" + "long/" * 60 + "x" * 200, "folder-" + "x" * 73),
    ],
)
def test_a_safe_name_is_short_and_made_of_letters_digits_and_dashes(text, name):
    assert safe_name(text) == name


@given(st.text(min_size=1, max_size=400))
def test_a_safe_name_of_any_text_fits_on_a_disk_in_one_spelling(text):
    name = safe_name(text)
    assert len(name.encode()) <= 80
    assert not set(name) & set("/\\:\0 ")
    assert safe_name(unicodedata.normalize("NFD", text)) == name
