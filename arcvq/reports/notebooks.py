"""Runs notebooks without a browser: parameters checked first, one line a notebook, a report at the end."""

import ast
import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arcvq.reports import pages
from arcvq.reports.key_figures import key_figures, outputs
from arcvq.reports.pages import NotebookResult
from arcvq.runtime.devices import choose_device, device_name
from arcvq.runtime.files import CHECKOUT, write_text

_VERSIONS = ("arcvq", "torch", "torchvision", "plotly", "jupyterlab")
HEADLESS = {"unlocked": True}  # nobody is there to guess first
# Live figures as plotly's own type: its HTML renderers would put 5 MB of plotly.js into each notebook.
KERNEL_ENVIRONMENT = {"ARCVQ_HEADLESS": "1", "PLOTLY_RENDERER": "plotly_mimetype",
                      "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]  # its own words would fall between ours


def run_notebooks(
    paths: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    dataset: str | None = None,
    profile: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    out: str | Path = "output",
    echo: Callable[[str], object] = print,
) -> list[NotebookResult]:
    """Runs notebooks, each in its own folder; `out` gets index.html, pages and executed .ipynb files.

    paths: files, names ("02_codebook_geometry") or numbers ("2"); none means all. parameters: a value goes to
    every notebook with a parameter of that name. dataset, profile, device, seed: go to all; None leaves each
    notebook its own default. Goes on after a failing notebook.

    Raises before anything runs: FileNotFoundError for a notebook or image folder that is missing, ValueError
    for a parameter of wrong name, type or value, OSError for an `out` that cannot be written.
    """
    notebooks = find_notebooks(paths)
    given = {"dataset": dataset, "profile": profile, "device": device, "seed": seed}
    shared = {name: _checked(name, value) for name, value in given.items() if value is not None}
    facts = _facts(str(choose_device(device or "auto")), shared | dict(parameters or {}))
    plan = plan_parameters(notebooks, parameters or {}, shared)
    (out := Path(out)).mkdir(parents=True, exist_ok=True)
    results = [NotebookResult(path.stem, pages.notebook_title(_read(path))) for path in notebooks]
    pages.write_index(out / "index.html", results, facts)
    width = max(len(result.name) for result in results)
    for place, path in enumerate(notebooks):
        results[place] = result = _run(path, plan[path], out, results[place])
        pages.write_index(out / "index.html", results, facts)
        ending = f" in {result.seconds:5.1f} s" + (f": {result.failure}" if result.failure else "")
        echo(f"[{place + 1}/{len(results)}] {result.name:{width}}  {result.status}{ending}")
    return results


def notebooks_folder() -> Path:
    """The folder notebooks/ of the checkout that holds this package, else of the working directory.

    Raises FileNotFoundError where neither has notebooks.
    """
    for folder in (CHECKOUT / "notebooks", Path("notebooks").resolve()):
        if any(folder.glob("*.ipynb")):
            return folder
    raise FileNotFoundError("no folder notebooks/ was found; call arcvq in a checkout, or name the files")


def find_notebooks(names: Sequence[str | Path] = ()) -> list[Path]:
    """The files meant by paths, names ("02_codebook_geometry") or numbers ("2"); none means all, in order.

    Raises FileNotFoundError for one that is not there, ValueError where two have the same file name.
    """
    found = [_find(str(name)) for name in names] or sorted(notebooks_folder().glob("*.ipynb"))
    stems = [path.stem for path in found]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"{twice[0]}.ipynb was named twice; a report holds one notebook of a name")
    return found


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name).resolve()
    if len(Path(name).parts) > 1:
        raise FileNotFoundError(f"there is no notebook {name}")
    paths = sorted(notebooks_folder().glob("*.ipynb"))
    start = f"{int(name):02d}_" if name.isdecimal() else f"{Path(name).stem}.ipynb"
    for path in paths:
        if path.name.startswith(start):
            return path
    raise FileNotFoundError(f"there is no notebook {name!r} among {', '.join(path.stem for path in paths)}")


def plan_parameters(
    notebooks: Sequence[Path], parameters: Mapping[str, Any], shared: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """What each notebook gets: all of `shared`, and of `HEADLESS` and `parameters` what it knows, in its own type.

    Raises ValueError for a name that no notebook has, a shared name that one lacks, a value of another type.
    """
    from papermill import inspect_notebook

    defaults = {
        path: {name: inspected["default"] for name, inspected in inspect_notebook(path).items()}
        for path in notebooks
    }
    for path in notebooks:
        if missing := sorted(set(shared) - set(defaults[path])):
            raise ValueError(f"{path.name} has no parameter {missing[0]!r} in a cell tagged 'parameters'")
    names = sorted(set().union(*defaults.values()))
    if unknown := sorted(set(parameters) - set(names)):
        known = ", ".join(names) or "none"
        raise ValueError(f"no chosen notebook has a parameter {unknown[0]!r}; their parameters are: {known}")
    given = {**HEADLESS, **parameters, **shared}
    return {
        path: {name: _typed(path, name, given[name], own[name]) for name in own if name in given}
        for path, own in defaults.items()
    }


def _typed(path: Path, name: str, value: Any, default: str) -> Any:
    # papermill takes any value; a text where the notebook counts would fail late or, worse, not at all.
    kind = type(_literal(default, None))  # a default that is an expression, or None, has no type to hold to
    if isinstance(value, str) and kind is not str:
        value = _literal(value.capitalize() if value in ("true", "false", "none") else value, value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind not in (type(None), type(value)):
        raise ValueError(f"{name} in {path.name} takes {kind.__name__}, by default {default}, not {value!r}")
    return value


def _literal(text: str, otherwise: Any) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return otherwise


def _checked(name: str, value: Any) -> Any:
    from arcvq.images import DATASETS
    from arcvq.runs.settings import PROFILES

    if name == "profile" and value not in PROFILES:
        raise ValueError(f"profile {value!r} is unknown; use one of {', '.join(PROFILES)}")
    if name != "dataset" or value in DATASETS:
        return value
    if not value.startswith("folder:"):
        raise ValueError(f"data set {value!r} is unknown; use one of {', '.join(DATASETS)}, folder:PATH")
    folder = Path(value.removeprefix("folder:")).expanduser().resolve()  # a notebook runs in its own folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return f"folder:{folder}"


def _run(path: Path, parameters: dict[str, Any], out: Path, result: NotebookResult) -> NotebookResult:
    import nbformat
    import papermill

    partial, failure, start = out / f".{path.stem}.partial.ipynb", "", time.perf_counter()
    papermill.engines.papermill_engines.register("arcvq", _engine())
    settings = {"engine_name": "arcvq", "kernel_name": "python3", "progress_bar": False,
                "extra_arguments": KERNEL_ARGUMENTS}
    try:
        with environment(KERNEL_ENVIRONMENT):
            papermill.execute_notebook(path, partial, parameters, cwd=path.parent, **settings)
    except Exception as error:
        failure = str(error) or type(error).__name__
    finally:
        notebook = _read(partial if partial.exists() else path)
        partial.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    failure = failure and _where(notebook, failure)
    notebook = papermill.execute.remove_error_markers(notebook)  # the page has its own
    notebook.metadata.pop("widgets", None)  # 5 MB for each live figure
    write_text(out / path.name, nbformat.writes(notebook))
    pages.write_notebook_page(notebook, out / f"{path.stem}.html", failure)
    status, figures = "failed" if failure else "passed", key_figures(notebook)
    return replace(result, status=status, seconds=seconds, failure=failure, key_figures=figures)


def _engine() -> type:
    """papermill's engine, writing the notebook once at the end, not twice a cell: 1 to 2 s less a notebook."""
    from papermill.engines import NBClientEngine

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, *arguments, **settings):
            save, nb_man.save = nb_man.save, lambda **_: None
            try:
                super().execute_managed_notebook(nb_man, *arguments, **settings)
            finally:  # also when the kernel died
                nb_man.save = save

    return Engine


def _read(path: Path):
    import nbformat

    return nbformat.read(path, as_version=4)


def _where(notebook, failure: str) -> str:
    for output in outputs(notebook):
        if output.output_type == "error":
            failure = f"{output.ename}: {output.evalue}"
    line = next((line.strip() for line in failure.splitlines() if line.strip()), failure)
    count = max((cell.get("execution_count") or 0 for cell in notebook.cells), default=0)  # of the last that ran
    return f"cell In [{count}]: {line}" if count else line


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the kernels that are started within."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _facts(device: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    import torch

    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return {
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Device": f"{device_name(device)}, {torch.get_num_threads()} threads",
        "System": f"{system}, Python {platform.python_version()}",
        "Versions": ", ".join(f"{name} {version(name)}" for name in _VERSIONS),
        "Parameters": ", ".join(f"{name} = {value}" for name, value in parameters.items()) or "the defaults",
    }
