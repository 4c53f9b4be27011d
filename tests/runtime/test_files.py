import os
from pathlib import Path

import pytest

from arcvq.runtime.files import CHECKOUT, data_root, safe_name, write_text, write_whole


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
    "text, name",
    [
        ("plain_digits", "plain_digits"),
        ("folder:/home/me/My Pictures/", "folder-My-Pictures"),
        ("radius: linear, 400 steps", "radius-linear-400-steps"),
        ("folder:/" + "long/" * 60 + "x" * 200, "folder-" + "x" * 73),
    ],
)
def test_a_safe_name_is_short_and_made_of_plain_characters(text, name):
    assert safe_name(text) == name
