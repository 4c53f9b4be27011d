"""What every stored notebook must be: small, complete, with its stills and its checks, for GitHub and for nbval."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
# nbval runs cells with this tag and compares what they print with what is stored.
CHECK = "nbval-check-output"


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    found = []
    for cell in code(notebook):
        found += cell.outputs
    return found


def test_notebooks_have_numbers_of_their_own_from_zero():
    numbers = [path.stem.split("_")[0] for path in PATHS]
    assert numbers[0] == "00"
    assert numbers == sorted(set(numbers))
    assert all(len(number) == 2 for number in numbers)


def test_it_is_at_most_1_mb(path):
    assert path.stat().st_size <= 1_000_000


def test_it_is_a_valid_notebook_of_the_python3_kernel(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_holds_no_widget_state_and_no_traces_of_a_run(notebook):
    assert "widgets" not in notebook.metadata
    assert "papermill" not in notebook.metadata
    assert not tagged(notebook, "injected-parameters")


def test_one_cell_is_tagged_parameters_and_has_the_five_that_all_notebooks_share(notebook):
    [cell] = tagged(notebook, "parameters")
    assert {"dataset", "profile", "device", "seed", "reading"} <= set(
        re.findall(r"^(\w+)\b.*=", cell.source, re.MULTILINE)
    )


def test_a_readers_own_pictures_are_read_as_asked_and_few_of_them_lower_the_batch(notebook):
    # A call that is broken over lines is read as one line.
    source = "\n".join(re.sub(r"\(\n\s+", "(", cell.source) for cell in code(notebook))
    for call in re.findall(r"load_images\((?:dataset|f\"folder).*", source):
        assert "**reading" in call or call == "load_images(dataset, device=device)"
    assert "**reading" in source
    of_the_data = re.findall(r"RunSettings\.for_profile\(.*?(?:dataset|\*\*).*", source)
    for call in of_the_data:
        assert re.search(r"for_profile\((profile|\"quick\"), (images|data),", call), call


def test_it_starts_with_a_title(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def test_every_code_cell_was_run_once_and_in_order(notebook):
    run = [cell.execution_count for cell in code(notebook) if cell.source.strip()]
    assert run == list(range(1, len(run) + 1))


def test_no_cell_ended_in_an_error_or_a_warning(notebook):
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def test_at_least_three_checks_have_a_stored_text(notebook):
    checks = tagged(notebook, CHECK)
    assert len(checks) >= 3
    for cell in checks:
        texts = [
            output.get("text") or output.get("data", {}).get("text/plain")
            for output in cell.outputs
        ]
        assert texts, cell.source
        assert all(texts), cell.source


def test_a_cell_that_prints_has_its_output_stored(notebook):
    for cell in code(notebook):
        if re.search(r"^(print|display|key_figure)\(", cell.source, re.MULTILINE):
            assert cell.outputs, cell.source


def test_figures_are_stills_with_a_text_for_those_who_cannot_see_them(notebook):
    kinds = set()
    for output in outputs(notebook):
        data = output.get("data", {})
        kinds |= set(data)
        assert "Plotly" not in data.get("text/html", "")
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alt) > 10
    assert "image/png" in kinds
    assert not [kind for kind in kinds if "plotly" in kind or "widget" in kind]


def test_no_output_names_a_folder_of_the_machine_that_ran_it(notebook):
    assert not re.search(r"(/home/|/root/|/Users/|/tmp/|site-packages)", str(outputs(notebook)))


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_code_is_easy_to_read(notebook):
    """Short lines, one thought a statement: the field's model notebooks have 11 to 14 nodes in each."""
    sources = [
        re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE) for cell in code(notebook)
    ]
    nodes = []
    lines = []
    for source in sources:
        nodes += ast.walk(ast.parse(source))
        lines += source.splitlines()
    statements = [node for node in nodes if isinstance(node, ast.stmt)]
    assert len(nodes) / len(statements) <= 13.5
    assert max(len(line) for line in lines) <= 100


def test_no_comprehension_is_inside_another(notebook):
    for cell in code(notebook):
        found = [
            node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, COMPREHENSIONS)
        ]
        for outer in found:
            inside = [node for node in ast.walk(outer) if isinstance(node, COMPREHENSIONS)]
            assert inside == [outer], cell.source
