import nbformat
import pytest
from check_claims import false_claims, faults
from nbformat.v4 import new_code_cell, new_notebook, new_output


def checked(source, stored):
    cell = new_code_cell(source, outputs=[new_output("stream", text=stored)])
    cell.metadata["tags"] = ["nbval-check-output"]
    return cell


@pytest.fixture
def written(tmp_path):
    """A function that writes a notebook of one checked cell."""

    def write(source, stored):
        parameters = new_code_cell("seed = 0")
        parameters.metadata["tags"] = ["parameters"]
        path = tmp_path / "00_small.ipynb"
        nbformat.write(new_notebook(cells=[parameters, checked(source, stored)]), path)
        return path

    return write


def test_a_claim_is_a_checked_line_that_ends_with_its_verdict():
    unchecked = new_code_cell("...", outputs=[new_output("stream", text="unchecked: False\n")])
    text = "it holds: True\nit does not: False\nnot a claim, False\n"
    assert false_claims(new_notebook(cells=[checked("...", text), unchecked])) == ["it does not"]


def test_a_claim_that_fails_for_another_seed_is_told(written):
    path = written("print('the seed is 0:', seed == 0)", "the seed is 0: True\n")
    assert [*faults(path, 0, "float32", 1)] == []
    assert [*faults(path, 1, "float32", 1)] == ["False: the seed is 0"]


def test_precision_and_threads_are_those_that_were_asked_for(written):
    source = """
import torch
from arcvq.runtime.devices import choose_precision
chosen = choose_precision("auto", torch.device("cpu"))
print(chosen, torch.get_num_threads())
"""
    path = written(source, "torch.bfloat16 2\n")
    assert [*faults(path, 0, "bfloat16", 2)] == []
    assert [*faults(path, 0, "float32", 1)] == ["stored 'torch.bfloat16 2', now 'torch.float32 1'"]


def test_a_notebook_that_stops_tells_where(written):
    path = written("raise ValueError('too short')", "")
    (fault,) = faults(path, 0, "float32", 1)
    assert "too short" in fault
