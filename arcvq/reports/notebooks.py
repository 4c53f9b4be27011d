"""Run notebooks without a browser, with papermill, and write a report of what they showed."""

import dataclasses
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import torch
from ipykernel.kernelspec import write_kernel_spec
from nbformat import NotebookNode
from papermill.engines import papermill_engines
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from arcvq.reports.key_figures import cell_outputs, key_figures
from arcvq.reports.notebook_files import find_notebooks
from arcvq.reports.notebook_page import write_notebook_page
from arcvq.reports.pages import NotebookResult, check_page_is_ours, is_our_page, write_index
from arcvq.reports.parameters import plan_parameters
from arcvq.runtime.devices import choose_device, device_name
from arcvq.runtime.files import write_text

PACKAGES = ("arcvq", "torch", "torchvision", "plotly", "jupyterlab")  # named in the report
KERNEL_ENVIRONMENT = {
    "ARCVQ_HEADLESS": "1",
    # Live figures as plotly's own type: its HTML puts 5 MB of plotly.js into each notebook.
    "PLOTLY_RENDERER": "plotly_mimetype",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]  # its log would fall between our lines


def run_notebooks(
    paths: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path = "output",
    echo: Callable[[str], object] = print,
) -> list[NotebookResult]:
    """Run notebooks, each in its own folder, and write a report.

    Parameters are checked before anything runs. A notebook that fails does not stop the others.

    Args:
        paths: Files, names ("02_codebook_geometry") or numbers ("2"); none means all notebooks.
        parameters: Values for every notebook that has a parameter of that name. All of them must
            have "dataset", "profile", "device" and "seed" if these are given.
        out: Folder for index.html, a page for each notebook, and the executed notebooks.
        echo: Called with one line after each notebook.

    Returns:
        The outcome of each notebook, in order.

    Raises:
        FileNotFoundError: A notebook or an image folder does not exist.
        ValueError: A parameter has a wrong name, type or value, or `out` is the folder of a
            notebook.
        OSError: `out` cannot be written, or holds a page that arcvq did not write.
    """
    notebooks = find_notebooks(paths)
    parameters = parameters or {}
    plan = plan_parameters(notebooks, parameters)
    facts = _facts(parameters)

    out = Path(out)
    _check_out(out, notebooks)
    out.mkdir(parents=True, exist_ok=True)
    results = [_waiting(path) for path in notebooks]
    write_index(out / "index.html", results, facts)

    width = max(len(result.name) for result in results)
    for place, path in enumerate(notebooks):
        result = _run(path, plan[path], results[place], out)
        results[place] = result
        write_index(out / "index.html", results, facts)
        ending = f": {result.failure}" if result.failure else ""
        echo(
            f"[{place + 1}/{len(results)}] {result.name:{width}}  "
            f"{result.status} in {result.seconds:5.1f} s{ending}"
        )
    return results


def _check_out(out: Path, notebooks: Sequence[Path]) -> None:
    """Raise an error if the report would replace the notebooks themselves or a page of others."""
    for path in notebooks:
        if path.stem == "index":
            raise ValueError(
                f"{path} would take the place of the report's index.html; give it another name"
            )
        if path.parent.resolve() == out.resolve():
            raise ValueError(
                f"out is {out}, the folder of {path.name} itself, which its executed copy would "
                "replace; name another folder"
            )
        if (out / path.name).exists() and not is_our_page(out / "index.html"):
            raise FileExistsError(
                f"{out / path.name} is there, in a folder that holds no report of arcvq; its "
                "executed copy would replace it, so name another folder"
            )
    check_page_is_ours(out / "index.html")


@contextmanager
def _kernel_of_this_python() -> Iterator[dict[str, str]]:
    """Make this Python the kernel "python3", whatever other kernels the user has installed.

    Yields:
        What the environment of the kernel must hold, so that Jupyter looks there first, and so that
        its threads let others work. A policy that the user has set stays.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_kernel_spec(str(Path(folder) / "kernels" / "python3"))
        places = [folder, os.environ.get("JUPYTER_PATH", "")]
        yield {
            "JUPYTER_PATH": os.pathsep.join(filter(None, places)),
            # Threads that wait for work sleep, or a busy machine would crawl.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }


def execute(path: Path, parameters: Mapping[str, Any]) -> tuple[NotebookNode, str]:
    """Run a notebook in a kernel of its own, in its own folder, up to the first error.

    Args:
        path: The notebook; the file is left as it is.
        parameters: Values for its parameters.

    Returns:
        The executed notebook, and the cell and message of the error (empty where all cells ran).
    """
    notebook = load_notebook_node(str(path))
    if parameters:
        notebook = parameterize_notebook(
            notebook, dict(parameters), kernel_name="python3", language="python"
        )
    message = ""
    try:
        with _kernel_of_this_python() as own, patch.dict(os.environ, KERNEL_ENVIRONMENT | own):
            # The engine fills in `notebook` itself: what came before a kernel died is kept.
            papermill_engines.execute_notebook_with_engine(
                None,
                notebook,
                "python3",
                progress_bar=False,
                extra_arguments=KERNEL_ARGUMENTS,
                resources={"metadata": {"path": str(path.parent)}},
            )
    except Exception as error:
        message = str(error) or type(error).__name__
    return notebook, _failure(notebook, message)


def _failure(notebook: NotebookNode, message: str) -> str:
    """Where a notebook failed, and the first line of its error or of `message`; else empty."""
    for output in cell_outputs(notebook):
        if output.output_type == "error":
            message = f"{output.ename}: {output.evalue}"
    first_line = message.strip().partition("\n")[0]
    last_cell = max((cell.get("execution_count") or 0 for cell in notebook.cells), default=0)
    if first_line and last_cell:
        return f"cell In [{last_cell}]: {first_line}"
    return first_line


def _waiting(path: Path) -> NotebookResult:
    """The result of a notebook that has not run yet, with its first heading as title."""
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    heading = re.search(r"^#\s+(.+?)\s*$", "\n".join(sources), re.MULTILINE)
    return NotebookResult(path.stem, heading[1] if heading else path.stem)


def _run(
    path: Path, parameters: Mapping[str, Any], waiting: NotebookResult, out: Path
) -> NotebookResult:
    """Run one notebook and write it and its page into `out`."""
    start = time.perf_counter()
    notebook, failure = execute(path, parameters)
    result = dataclasses.replace(
        waiting,
        status="failed" if failure else "passed",
        seconds=time.perf_counter() - start,
        failure=failure,
        key_figures=key_figures(notebook),
    )
    notebook.metadata.pop("widgets", None)  # 5 MB for each live figure
    write_text(out / path.name, nbformat.writes(notebook))
    write_notebook_page(notebook, result, out)
    return result


def _facts(parameters: Mapping[str, Any]) -> dict[str, str]:
    """What the index says about the run and the machine."""
    device = choose_device(parameters.get("device", "auto"))
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    assignments = [f"{name} = {value}" for name, value in parameters.items()]
    return {
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Device": f"{device_name(device)}, {torch.get_num_threads()} threads",
        "System": (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}"
        ),
        "Versions": ", ".join(versions),
        "Parameters": ", ".join(assignments) or "the defaults",
    }
