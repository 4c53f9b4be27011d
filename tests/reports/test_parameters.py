"""Parameters take the type of the notebook's default, or are refused before anything runs."""

from pathlib import Path

import nbformat
import numpy as np
import pytest

from arcvq.reports.parameters import default_parameters, plan_parameters
from tests.reports.made import write_notebook


def planned(tmp_path, default, value):
    """The value that a notebook with this default gets."""
    notebook = write_notebook(tmp_path / "a.ipynb", parameters=f"number = {default}")
    plan = plan_parameters([notebook], {"number": value})
    assert list(plan) == [notebook]
    return plan[notebook]["number"]


@pytest.mark.parametrize(
    ("value", "default", "typed"),
    [
        ("1e3", "400", 1000),
        ("3", "0.1", 3.0),
        ("1e-3", "0.1", 1e-3),
        ("true", "False", True),
        ("007", '"a"', "007"),
        ("[1, 2]", "[3]", [1, 2]),
        ("4", "None", 4),
        ("warm up", "None", "warm up"),
        ("8", "2 * 3", 8),
        (2.0, "1", 2),
        (np.int64(3), "0", 3),
        (np.float32(0.5), "0.1", 0.5),
        ([np.int64(3)], "[1]", [3]),
        ("(3, 4)", "(1, 2)", [3, 4]),
        ("[3, 4]", "(1, 2)", [3, 4]),
        ((3, 4), "[1, 2]", [3, 4]),
        ("(3, 4)", "None", [3, 4]),
        ("{'sizes': [(3, 4)]}", "{}", {"sizes": [[3, 4]]}),
        ("3", "'x # y'", "3"),
        ("[3]", "(  # two lines\n    1,\n)", [3]),
    ],
)
def test_a_value_takes_the_type_of_the_default(tmp_path, value, default, typed):
    got = planned(tmp_path, default, value)
    assert got == typed
    assert type(got) is type(typed)


@pytest.mark.parametrize(
    ("value", "default"),
    [
        ("many", "400"),
        ("1.5", "400"),
        ("x", "0.1"),
        ("1", "False"),
        (3, '"a"'),
        (3, '"#1f77b4"'),
        (3, "'x # y'  # a comment"),
        ("3", "(1, 2)"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, value, default):
    sentence = r"number in a.ipynb takes (int|float|bool|str|list), by default"
    with pytest.raises(ValueError, match=sentence):
        planned(tmp_path, default, value)


def test_defaults_are_those_that_the_cell_assigns(tmp_path):
    cell = """%matplotlib inline
color = "#1f77b4"  # as in matplotlib
size: int = 3  # size = 4
sizes = [
    1,  # the small one
    2,
]
first = second = 1e-3
print(f"{size=}")"""
    path = write_notebook(tmp_path / "a.ipynb", parameters=cell)
    defaults = {"color": '"#1f77b4"', "size": "3", "sizes": "[1, 2]"}
    assert default_parameters(path) == defaults | {"first": "1e-3", "second": "1e-3"}


def test_a_cell_of_parameters_that_is_no_python_is_refused(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", parameters="seed = = 3")
    with pytest.raises(ValueError, match=r"the parameters of .*a\.ipynb are no Python: .*line 1"):
        plan_parameters([path], {})


def test_a_notebook_may_have_braces_in_its_name(tmp_path):
    path = write_notebook(tmp_path / "braces {draft}.ipynb")
    assert plan_parameters([path], {"seed": "3"})[path] == {"seed": 3}


def test_a_name_that_no_notebook_knows_is_refused_with_those_they_know(tmp_path):
    notebook = write_notebook(tmp_path / "a.ipynb")
    sentence = "no chosen notebook has a parameter 'margn'; .*: dataset, device, profile, seed"
    with pytest.raises(ValueError, match=sentence):
        plan_parameters([notebook], {"margn": "0.1"})


def test_every_notebook_must_know_the_parameters_that_all_share(tmp_path):
    first = write_notebook(tmp_path / "a.ipynb")
    second = write_notebook(tmp_path / "b.ipynb", parameters="margin = 0.1")
    assert plan_parameters([first, second], {"margin": 1}) == {first: {}, second: {"margin": 1.0}}
    sentence = r"b.ipynb has no parameter 'seed' in a cell tagged 'parameters'"
    with pytest.raises(ValueError, match=sentence):
        plan_parameters([first, second], {"seed": 1})


def test_an_image_folder_is_named_from_where_the_caller_stands(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    notebook = write_notebook(tmp_path / "a.ipynb")
    plan = plan_parameters([notebook], {"dataset": "folder:mine"})
    assert plan[notebook] == {"dataset": f"folder:{tmp_path / 'mine'}"}


@pytest.mark.parametrize("name", ["folder", "picture"])
def test_a_path_is_named_from_where_the_caller_stands(tmp_path, monkeypatch, name):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "a.ipynb", parameters=f'{name} = ""')
    for value in ("mine", Path("mine"), str(tmp_path / "mine")):
        assert plan_parameters([path], {name: value})[path] == {name: str(tmp_path / "mine")}
    for value in ("", "nowhere"):
        assert plan_parameters([path], {name: value})[path] == {name: value}


def test_a_game_is_unlocked_where_nobody_is_there_to_guess(tmp_path):
    path = write_notebook(tmp_path / "game.ipynb", parameters="unlocked = False")
    assert plan_parameters([path], {})[path] == {"unlocked": True}
    assert plan_parameters([path], {"unlocked": "false"})[path] == {"unlocked": False}


def test_a_parameter_of_that_name_that_is_no_bool_keeps_its_default(tmp_path):
    path = write_notebook(tmp_path / "levels.ipynb", parameters="unlocked = 3  # levels")
    assert plan_parameters([path], {})[path] == {}
    assert plan_parameters([path], {"unlocked": "4"})[path] == {"unlocked": 4}


def without_language(tmp_path, **metadata):
    path = write_notebook(tmp_path / "a.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(metadata)
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        {"kernelspec": {"name": "my_env", "display_name": "Mine"}},
        {"language_info": {"name": "python"}},
    ],
)
def test_a_notebook_that_names_no_language_is_taken_as_python(tmp_path, metadata):
    path = without_language(tmp_path, **metadata)
    assert plan_parameters([path], {"seed": "3"})[path] == {"seed": 3}


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
        {"kernelspec": {"name": "ir", "display_name": "R"}, "language_info": {"name": "R"}},
        {"language_info": {"name": "julia"}},
    ],
)
def test_a_notebook_in_another_language_is_refused(tmp_path, metadata):
    path = without_language(tmp_path, **metadata)
    with pytest.raises(ValueError, match=r"a\.ipynb is written in (R|julia); only .* Python"):
        plan_parameters([path], {})


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.ipynb is no Jupyter notebook$"):
        plan_parameters([path], {})


WITH_READING = 'dataset = "digits"\nreading = {}  # how files of a folder are read'


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ({"size": 64, "grey": True}, {"size": 64, "grey": True}),
        ("{'size': 64}", {"size": 64}),
        ({"levels": (0.0, 4095.0)}, {"levels": [0, 4095]}),
        ({}, {}),
    ],
)
def test_how_a_folder_is_read_reaches_a_notebook(tmp_path, value, given):
    path = write_notebook(tmp_path / "a.ipynb", parameters=WITH_READING)
    parameters = {"dataset": f"folder:{tmp_path}", "reading": value}
    assert plan_parameters([path], parameters)[path]["reading"] == given


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"size": 33}, "size is 33; it must be a multiple of 8"),
        (
            {"sizes": 32},
            "it takes size, grey, background, levels, skip_broken, crop, stream, in a dict",
        ),
        ("large", "reading is 'large'; it takes size, grey"),
        ({"background": "no color"}, "background is 'no color'"),
        ({"levels": (3.0, 1.0)}, "levels are"),
    ],
)
def test_a_wrong_way_to_read_a_folder_is_refused(tmp_path, value, sentence):
    path = write_notebook(tmp_path / "a.ipynb", parameters=WITH_READING)
    with pytest.raises(ValueError, match=sentence):
        plan_parameters([path], {"reading": value})


def test_fields_are_checked_with_those_that_the_notebook_has(tmp_path):
    own = f'dataset = "folder:{tmp_path}"\nreading = {{"size": 64}}'
    path = write_notebook(tmp_path / "a.ipynb", parameters=own)
    plan = plan_parameters([path], {"reading": {"crop": 48}})
    assert plan[path] == {"reading": {"size": 64, "crop": 48}}
    with pytest.raises(ValueError, match="crop is 72; it must be"):
        plan_parameters([path], {"reading": {"crop": 72}})


@pytest.mark.parametrize("said", [{"dataset": "digits"}, {}], ids=["told", "default"])
def test_only_a_folder_can_be_read_in_another_way(tmp_path, said):
    path = write_notebook(tmp_path / "a.ipynb", parameters=WITH_READING)
    message = r"size: for folder:PATH only, not for digits, the data set of a\.ipynb"
    with pytest.raises(ValueError, match=message):
        plan_parameters([path], said | {"reading": {"size": 64}})
    assert plan_parameters([path], said | {"reading": {"size": 32}})  # as usual


def test_a_notebook_with_a_folder_of_its_own_reads_it_beside_any_data_set(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", parameters=f'{WITH_READING}\nfolder = ""')
    given = {"dataset": "digits", "reading": {"size": 64}, "folder": str(tmp_path)}
    assert plan_parameters([path], given)[path] == given
