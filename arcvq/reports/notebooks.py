"""Run notebooks without a browser, and write a report of what they showed."""

import dataclasses
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import torch
from filelock import FileLock, Timeout

from arcvq.reports.execution import Execution
from arcvq.reports.key_figures import key_figures
from arcvq.reports.local_files import LocalFiles
from arcvq.reports.notebook_files import find_notebooks
from arcvq.reports.notebook_page import write_notebook_page, write_waiting_page
from arcvq.reports.pages import (
    NotebookResult,
    check_page_is_ours,
    is_our_page,
    outcome,
    write_index,
)
from arcvq.reports.parameters import default_parameters, plan_parameters
from arcvq.runtime.checks import check_whole
from arcvq.runtime.devices import choose_device, device_name
from arcvq.runtime.files import write_text
from arcvq.runtime.interrupt import HeldInterrupt

PACKAGES = ("arcvq", "torch", "torchvision", "plotly", "jupyterlab")  # named in the report
LOCK = ".arcvq.lock"  # in the folder of a report while it is written


def run_notebooks(
    paths: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path = "output",
    timeout: int | None = None,
    echo: Callable[[str], object] = print,
    watch: Callable[[str], object] = lambda line: None,
) -> list[NotebookResult]:
    """Run notebooks, each in its own folder, and write a report.

    Parameters are checked before anything runs. A notebook that fails does not stop the others.
    After Ctrl-C, SIGTERM or SIGHUP the report holds what has run until then.

    Args:
        paths: Files, names ("02_codebook_geometry") or numbers ("2"); none means all notebooks.
        parameters: Values for every notebook that has a parameter of that name. All of them must
            have "dataset", "profile", "device", "seed" and "reading" if these are given.
        out: Folder for index.html, a page for each notebook, and the executed notebooks.
        timeout: Seconds that one cell may take; None for as long as it needs.
        echo: Called with one line after each notebook.
        watch: Called with one line before each cell, which says how far the run is.

    Returns:
        The outcome of each notebook, in order.

    Raises:
        FileNotFoundError: A notebook or an image folder does not exist.
        ValueError: A parameter has a wrong name, type or value, or `out` is the folder of a
            notebook.
        OSError: `out` cannot be written, holds a page that arcvq did not write, or is being written
            by another run.
        KeyboardInterrupt: The run was stopped.
    """
    notebooks = find_notebooks(paths)
    parameters = parameters or {}
    plan = plan_parameters(notebooks, parameters)
    if timeout is not None:
        check_whole(1, timeout=timeout)
    out = Path(out)
    _check_out(out, notebooks)

    results = [_waiting(path, plan[path]) for path in notebooks]
    facts = _facts(parameters, results)
    width = max(len(result.name) for result in results)
    with (
        _alone_in(out),
        _StopInNotebook() as stop,
        _Report(out, notebooks, results, facts) as report,
    ):
        for place, path in enumerate(notebooks):
            if stop.asked:
                break
            start = f"[{place + 1}/{len(results)}] {path.stem:{width}}  "

            def show(cell: int, cells: int, place: int = place, start: str = start) -> None:
                progress = f"running, cell {cell} of {cells}"
                report.change(place, status="running", progress=progress)
                watch(start + progress)

            execution = Execution(path, plan[path], show)
            seconds = _run(execution, timeout, stop)
            result = report.close(place, execution, seconds)
            ending = f": {result.failure}" if result.failure else ""
            echo(f"{start}{result.status} in {result.seconds:5.1f} s{ending}")
    if stop.asked:
        sentence = f"Stopped by {stop.name}. {outcome(report.results)}."
        raise KeyboardInterrupt(f"{sentence} Report: {out.resolve() / 'index.html'}")
    return report.results


def _run(execution: Execution, timeout: int | None, stop: "_StopInNotebook") -> float:
    """Run a notebook to its end, or until the user stops it, and return the seconds it took."""
    start = time.perf_counter()
    try:
        stop.is_in_notebook = True
        execution.run(timeout)
    except KeyboardInterrupt:
        execution.end("stopped", f"stopped by {stop.name}")
    finally:
        stop.is_in_notebook = False
    return time.perf_counter() - start


class _StopInNotebook(HeldInterrupt):
    """A context in which a signal to end interrupts the notebook that runs, but no writing.

    Attributes:
        name: What stopped the run.
        is_in_notebook: Whether a signal may interrupt what runs now.
    """

    def __init__(self):
        super().__init__()
        self.name = "Ctrl-C"
        self.is_in_notebook = False

    def hold(self, number, frame):
        """Remember the signal, and interrupt the notebook."""
        super().hold(number, frame)
        if number != signal.SIGINT:
            self.name = signal.Signals(number).name
        if self.is_in_notebook:
            raise KeyboardInterrupt


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder of a report. The lock ends with the process at the latest.

    Raises:
        BlockingIOError: Another run is writing there.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another arcvq run is writing its report into {out}; wait for its end, "
            "or name another folder"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; an idle one does no harm
            (out / LOCK).unlink()
        lock.release()


class _Report:
    """A report that grows with the run: a context that ends with every notebook accounted for.

    Args:
        out: Its folder.
        notebooks: The notebooks of the run.
        results: What is known of them, in the same order.
        facts: What the index says about the run and the machine.
    """

    def __init__(
        self,
        out: Path,
        notebooks: Sequence[Path],
        results: Sequence[NotebookResult],
        facts: Mapping[str, str],
    ):
        self.out = out
        self.results = list(results)
        self.facts = facts
        self.pages = {path.resolve(): path.stem for path in notebooks}

    def __enter__(self) -> "_Report":
        write_index(self.out / "index.html", self.results, self.facts)
        # Pages of an earlier run would be taken for pages of this one.
        for result in self.results:
            write_waiting_page(result, self.out)
        return self

    def change(self, place: int, **changes: Any) -> NotebookResult:
        """Change what is known of a notebook, and the index with it."""
        self.results[place] = dataclasses.replace(self.results[place], **changes)
        write_index(self.out / "index.html", self.results, self.facts)
        return self.results[place]

    def close(self, place: int, execution: Execution, seconds: float) -> NotebookResult:
        """Write a notebook that has run and its page."""
        notebook = execution.notebook
        notebook.metadata.pop("widgets", None)  # 5 MB for each live figure
        result = dataclasses.replace(
            self.results[place],
            status=execution.status,
            progress="",
            seconds=seconds,
            failure=execution.failure,
            key_figures=key_figures(notebook),
        )
        write_text(self.out / execution.path.name, nbformat.writes(notebook))
        local = LocalFiles(execution.path.parent, self.pages)
        write_notebook_page(notebook, result, self.out, local)
        return self.change(place, **vars(result))

    def __exit__(self, *exception: object) -> None:
        for place, result in enumerate(self.results):
            if result.status in ("waiting", "running"):
                self.change(place, status="not run", progress="")


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
        if is_our_page(out / "index.html"):
            continue
        for name in (path.name, f"{path.stem}.html"):
            if (out / name).exists():
                raise FileExistsError(
                    f"{out / name} is there, in a folder that holds no report of arcvq, which "
                    "would replace it; name another folder"
                )
    check_page_is_ours(out / "index.html")


def _waiting(path: Path, given: Mapping[str, Any]) -> NotebookResult:
    """The result of a notebook that has not run yet, with its first heading as title."""
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    heading = re.search(r"^#\s+(.+?)\s*$", "\n".join(sources), re.MULTILINE)
    title = heading[1] if heading else path.stem
    own = default_parameters(path)
    defaults = {name: value for name, value in own.items() if name not in given}
    source = {
        name: json.dumps(value) if isinstance(value, str) else repr(value)
        for name, value in given.items()
    }
    return NotebookResult(path.stem, title, given=source, defaults=defaults)


def _facts(parameters: Mapping[str, Any], results: Sequence[NotebookResult]) -> dict[str, str]:
    """What the index says about the run and the machine."""
    device = choose_device(parameters.get("device", "auto"))
    count = torch.get_num_threads()
    threads = "1 thread" if count == 1 else f"{count} threads"
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    assignments = [f"{name} = {value}" for name, value in parameters.items()]
    sources = [{**result.defaults, **result.given}.get("profile", "") for result in results]
    profiles = sorted({source.strip("'\"") for source in sources} - {""})
    return {
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Device": f"{device_name(device)}, {threads}",
        "System": (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}"
        ),
        "Versions": ", ".join(versions),
        "Parameters": ", ".join(assignments) or "the defaults",
        "Profile": ", ".join(profiles) or "none",
    }
