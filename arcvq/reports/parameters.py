"""What each notebook of a run gets as parameters, checked before any of them starts."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from arcvq.image_folders import Reading, folder_of
from arcvq.images import DATASETS, check_dataset
from arcvq.reports.shared_parameters import SHARED, check_reading, check_seed
from arcvq.runs.settings import check_profile
from arcvq.runtime.checks import python_number

HEADLESS = {"unlocked": True}  # nobody is there to guess first; for a parameter that is a bool
PATHS = ("folder", "picture")  # parameters that may be paths
_WORDS = {"true": True, "false": False, "none": None}  # as they are written on a command line


def plan_parameters(
    notebooks: Sequence[Path], parameters: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Decide what each notebook gets.

    Args:
        notebooks: Their files.
        parameters: Values for the notebooks that have a parameter of that name. A value takes the
            type of the notebook's default: "1e3" becomes 1000 where that is an int. A tuple becomes
            a list, as papermill knows no tuples, and a list may stand for a tuple. The fields of
            "reading" change those of the notebook's own. The folder in
            "folder:PATH" becomes absolute, because a notebook runs in its own folder, and so does
            a value of `PATHS` that exists from here.

    Returns:
        Parameters by notebook; those of `HEADLESS` among them where a notebook has them as a bool.

    Raises:
        ValueError: No notebook has a parameter of that name, a notebook lacks one in `SHARED`, a
            value has another type than the default, a value of `SHARED` is not allowed, or a file
            is no notebook in Python.
        FileNotFoundError: An image folder does not exist.
    """
    known = {path: default_parameters(path) for path in notebooks}
    for name in sorted(parameters):
        _check_name(name, known)

    given = dict(parameters)
    if "profile" in given:
        check_profile(given["profile"])
    if "dataset" in given:
        given["dataset"] = _absolute(given["dataset"])
    for name in PATHS:
        if given.get(name):
            given[name] = _from_here(given[name])

    plan = {}
    for path, own in known.items():
        wanted = _headless(own) | given
        if "reading" in wanted:
            wanted["reading"] = _reading(wanted["reading"], own["reading"])
        chosen = [name for name in own if name in wanted]
        plan[path] = {name: _converted(path, name, wanted[name], own[name]) for name in chosen}
        if "seed" in plan[path]:
            check_seed(plan[path]["seed"])
        if "reading" in plan[path]:
            _check_has_files(path, own, plan[path])
    return plan


def default_parameters(path: Path) -> dict[str, str]:
    """The parameters of a notebook by name, with their defaults as source text.

    Raises:
        ValueError: The file is no notebook in Python, or its cell of parameters is no Python.
    """
    source = TransformerManager().transform_cell(_parameters_cell(path))  # magics become Python
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the parameters of {path} are no Python: {error}") from error
    defaults: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if statement.value is not None:
            defaults |= dict.fromkeys(names, _in_one_line(source, statement.value))
    return defaults


def _parameters_cell(path: Path) -> str:
    """The source of the cell with the tag; a notebook without kernel or language is in Python."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has many kinds, and its messages hold the whole file
        raise ValueError(f"{path} is no Jupyter notebook") from error
    named = notebook.metadata.get("language_info", {}).get("name", "python")
    language = notebook.metadata.get("kernelspec", {}).get("language", named)
    if language.lower() != "python":
        raise ValueError(f"{path} is written in {language}; only notebooks in Python can be run")
    tagged = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return next(tagged, {"source": ""})["source"]


def _in_one_line(source: str, value: ast.expr) -> str:
    """The text of a value as it is written; one of several lines is put into one."""
    text = ast.get_source_segment(source, value) or ""
    return ast.unparse(value) if "\n" in text else text


def _headless(own: Mapping[str, str]) -> dict[str, Any]:
    """What a notebook gets of `HEADLESS`."""
    return {
        name: value
        for name, value in HEADLESS.items()
        if name in own and isinstance(_literal(own[name], None), bool)
    }


def _check_name(name: str, known: Mapping[Path, Mapping[str, str]]) -> None:
    """Raise ValueError if no notebook has the parameter, or one lacks it that must have it."""
    lacking = [path.name for path, own in known.items() if name not in own]
    if lacking and name in SHARED:
        raise ValueError(f"{lacking[0]} has no parameter {name!r} in a cell tagged 'parameters'")
    if len(lacking) == len(known):
        names = sorted(set().union(*known.values()))
        raise ValueError(
            f"no chosen notebook has a parameter {name!r}; "
            f"their parameters are: {', '.join(names) or 'none'}"
        )


def _absolute(dataset: str) -> str:
    """The data set, checked, with the absolute path of an image folder."""
    check_dataset(dataset)
    if not dataset.startswith("folder:"):
        return dataset
    return f"folder:{folder_of(dataset).resolve()}"


def _from_here(value: Any) -> Any:
    """A path that exists, seen from the working directory, as an absolute one; else the value."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


def _reading(given: Any, default: str) -> Any:
    """How a folder is read, checked: as in the default, but for the fields that are given."""
    fields = _literal(given, given) if isinstance(given, str) else given
    own = _literal(default, None)
    if isinstance(own, dict) and isinstance(fields, Mapping):
        fields = own | dict(fields)
    check_reading(fields)
    return fields


def _check_has_files(path: Path, own: Mapping[str, str], planned: Mapping[str, Any]) -> None:
    """Raise ValueError if files are to be read in another way, and the notebook reads none."""
    if "dataset" not in own or "folder" in own:  # a parameter `folder` is read beside any data set
        return
    dataset = planned.get("dataset", _literal(own["dataset"], None))
    if dataset not in DATASETS:
        return
    try:
        check_dataset(dataset, Reading(**planned["reading"]))
    except ValueError as error:
        raise ValueError(f"{error}, the data set of {path.name}") from None


def _converted(path: Path, name: str, value: Any, default: str) -> Any:
    """The value in the type of its default (source text); papermill itself would take any."""
    # A default that is None or an expression (`2 * 3`) has no type to hold to.
    kind = type(_plain(_literal(default, None)))
    if isinstance(value, str) and kind is not str:
        value = _WORDS.get(value, _literal(value, value))
    value = _plain(value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind not in (type(None), type(value)):
        raise ValueError(
            f"{name} in {path.name} takes {kind.__name__}, by default {default}, not {value!r}"
        )
    return value


def _plain(value: Any) -> Any:
    """A value as papermill writes it: with lists in place of tuples, and Python's numbers."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return python_number(value)


def _literal(text: str, otherwise: Any) -> Any:
    """The Python literal that a text is, or `otherwise`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return otherwise
