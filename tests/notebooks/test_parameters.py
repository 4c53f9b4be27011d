"""A parameter that a notebook cannot take is named in one sentence, before anything is loaded or trained.

What a number may be is read from its comment in the parameters cell, so that comment and check agree.
"""

import ast
import math
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import arcvq
from arcvq.images import load_images

PATHS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SEED = "seed = 0  # a whole number from 0 to 1,000,000,000"
RANGE = re.compile(r"([\d.,]*\d) to ([\d.,]*\d)")  # the first such range of a comment holds
NO_NUMBERS = (None, "many", [3], True, math.nan, math.inf)


class Loading(Exception):
    """The setup cell has come to where images are loaded, and so has passed its checks."""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch, unchecked):
    def begin_to_load(*arguments, **options):
        raise Loading

    monkeypatch.setattr(arcvq, "load_images", begin_to_load)


@cache
def first_cells(path):
    """The sources of the parameters cell and of the code cell after it."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    place = [cell.metadata.get("tags") for cell in code].index(["parameters"])
    assert place == 0 or code[place - 1].id == "colab"  # of tools/publish_links.py
    return code[place].source, code[place + 1].source


def defaults(path):
    """The parameters of a notebook with their values, and with the comment behind each."""
    source, _ = first_cells(path)
    lines = source.splitlines()
    values = {}
    comments = {}
    for statement in ast.parse(source).body:
        name = statement.targets[0].id
        values[name] = ast.literal_eval(statement.value)
        comments[name] = lines[statement.lineno - 1].partition("#")[2]
    return values, comments


def number(text):
    digits = text.replace(",", "")
    return float(digits) if "." in digits else int(digits)


def numbers_of(path):
    """The parameters that are numbers: name, smallest, largest, and whether they are whole."""
    values, comments = defaults(path)
    for name, value in values.items():
        if type(value) in (int, float):
            stated = RANGE.search(comments[name])
            assert stated, f"{name} in {path.name} does not say from where to where it goes"
            yield name, number(stated[1]), number(stated[2]), type(value) is int


def start(path, name, value, **others):
    """Run the first two code cells of a notebook with other values for some parameters."""
    parameters, setup = first_cells(path)
    namespace = {}
    exec(parameters, namespace)
    changed = {name: value, **others}
    assert changed.keys() <= namespace.keys()
    namespace |= changed
    with suppress(Loading):
        exec(setup, namespace)


NUMBERS = []
for path in PATHS:
    for found in numbers_of(path):
        NUMBERS.append(pytest.param(path, *found, id=f"{path.stem[:2]}-{found[0]}"))
of_each_number = pytest.mark.parametrize(("path", "name", "low", "high", "whole"), NUMBERS)
of_each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def assert_refused(path, name, value, named=None):
    """The value is answered with one sentence, which begins with the parameter and the value."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        start(path, name, value)
    sentence = str(caught.value)
    assert sentence.startswith(f"{named or name} "), sentence
    assert repr(value) in sentence
    assert "\n" not in sentence
    assert ". " not in sentence


@of_each_number
def test_a_number_out_of_its_range_is_refused(path, name, low, high, whole):
    below = low - 1 if whole else math.nextafter(low, -math.inf)
    above = high + 1 if whole else math.nextafter(high, math.inf)
    for value in (below, above, low - 10**6, 1000 * high + 10**6, 10**30):
        assert_refused(path, name, value)


@of_each_number
def test_what_is_no_such_number_is_refused(path, name, low, high, whole):
    for value in NO_NUMBERS:
        assert_refused(path, name, value)
    if whole:
        assert_refused(path, name, low + 0.5)


@of_each_number
def test_both_ends_of_the_range_are_taken(path, name, low, high, whole):
    start(path, name, low)
    start(path, name, high)


@of_each_notebook
@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("dataset", ("digts", "", 3, None, ["digits"]), "data set"),
        ("profile", ("fast", "", 3, None, ["quick"]), "profile"),
        ("reading", ("large", {"colour": True}, None, 3, [("size", 32)]), "reading"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(path, name, values, named):
    for value in values:
        assert_refused(path, name, value, named)


@of_each_notebook
@pytest.mark.parametrize("device", ["gpu", "", "cpu:x"])
def test_a_device_that_there_is_not_is_refused(path, device):
    assert_refused(path, "device", device)


@of_each_notebook
def test_a_field_of_reading_that_is_out_of_range_is_named(path):
    with pytest.raises(ValueError, match=r"^size is 33; it must be a multiple of 8 pixels$"):
        start(path, "reading", {"size": 33})


@of_each_notebook
def test_a_folder_that_is_not_there_is_named(path, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=r"^the folder '.*missing' does not exist$"):
        start(path, "dataset", f"folder:{missing}")
    start(path, "dataset", f"folder:{tmp_path}")


@of_each_notebook
def test_every_notebook_says_the_same_of_its_seed(path):
    source, _ = first_cells(path)
    assert re.search(rf"^{re.escape(SEED)}(;|$)", source, re.MULTILINE)


def test_what_is_neither_number_nor_shared_is_tried_here():
    others = set()
    for path in PATHS:
        values, _ = defaults(path)
        others |= {name for name, value in values.items() if type(value) not in (int, float)}
    assert others == {"dataset", "profile", "device", "reading", "unlocked", "folder", "picture"}


@pytest.mark.parametrize("value", ["yes", None, 3])
def test_the_game_of_notebook_01_is_unlocked_by_true_alone(value):
    assert_refused(PATHS[1], "unlocked", value)
    start(PATHS[1], "unlocked", True)


def test_one_class_is_too_few_for_notebook_11(tmp_path, monkeypatch):
    monkeypatch.setattr(arcvq, "load_images", load_images)
    for number in range(10):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"^folder:.* has one class; this notebook needs two"):
        start(PATHS[11], "dataset", f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["folder", "picture"])
def test_own_files_of_notebook_13_must_be_there(name, tmp_path):
    for value in (str(tmp_path / "missing"), None, 3):
        assert_refused(PATHS[13], name, value)
    start(PATHS[13], name, str(tmp_path))


@pytest.mark.parametrize("folder", ["mine", ""])
def test_the_folder_of_notebook_13_is_read_as_told_whatever_the_data_set(folder, tmp_path):
    """With a built-in data set, which only section 4 uses, and without a folder of one's own."""
    start(PATHS[13], "reading", {"size": 64}, folder=folder and str(tmp_path))
