"""The coding exercises as they stand in the notebooks: each has its stub, and a solution that is right."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from arcvq.exercises import EXERCISES, check

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


def found_in_notebooks():
    """The cells of each coding exercise: its text, and the stub that follows."""
    found = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for text, stub in itertools.pairwise(cells):
            asked = re.search(r"^check\((\w+)\);", stub.source, re.MULTILINE)
            if asked:
                found[asked[1]] = (text, stub)
    return found


CELLS = found_in_notebooks()


def test_every_exercise_stands_in_a_notebook():
    assert set(CELLS) == set(EXERCISES)


def test_the_notebooks_01_to_09_let_the_reader_write_code():
    asking = [path.name[:2] for path in NOTEBOOKS if "arcvq.exercises" in path.read_text("utf-8")]
    assert set(asking) >= {f"{number:02}" for number in range(1, 10)}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_folded_solution_is_right(name):
    text, _ = CELLS[name]
    namespace = {"torch": torch, "math": math}
    exec(SOLUTION.search(text.source)[1], namespace)
    assert check(namespace[name])


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_unwritten_and_difficulty_and_minutes_are_told(name):
    text, stub = CELLS[name]
    assert "    return ...\n" in stub.source
    assert stub.outputs[0].text == f"{name}: not written yet.\n"
    assert re.search(r"\*(Easy|Medium|Hard), about \d+ minutes\.\*", text.source)
    assert "<summary>Hint</summary>" in text.source
