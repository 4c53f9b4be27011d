"""Run notebooks without a browser, and write a report of what they showed."""

import dataclasses
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import nbformat
import torch

from arcvq.reports.execution import Execution
from arcvq.reports.key_figures import key_figures
from arcvq.reports.local_files import LocalFiles
from arcvq.reports.notebook_files import find_notebooks
from arcvq.reports.notebook_page import write_notebook_page, write_waiting_page
from arcvq.reports.pages import (
    NotebookResult,
    check_page_is_ours,
    is_report,
    outcome,
    write_index,
)
from arcvq.reports.parameters import default_parameters, plan_parameters
from arcvq.runtime.checks import check_whole
from arcvq.runtime.devices import choose_device, device_name, usable_cores
from arcvq.runtime.files import exclusive, write_text
from arcvq.runtime.interrupt import HeldInterrupt

PACKAGES = ("arcvq", "torch", "torchvision", "plotly", "jupyterlab")  # named in the report
LOCK = ".arcvq.lock"  # in the folder of a report while it is written
ALONE = "alone"  # in the metadata of a notebook, under "arcvq": it measures time


def run_notebooks(
    paths: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path = "output",
    timeout: int | None = None,
    jobs: int = 1,
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
        jobs: Notebooks that run at the same time, from 1; they share the cores. Those that measure
            time run alone, after the others.
        echo: Called with one line after each notebook.
        watch: Called with one line as each cell begins, which says how far the run is.

    Returns:
        The outcome of each notebook, in order.

    Raises:
        FileNotFoundError: A notebook or an image folder does not exist.
        ValueError: A parameter has a wrong name, type or value, `jobs` is below 1, or `out` is the
            folder of a notebook.
        OSError: `out` cannot be written, holds an index.html that is no report of notebooks, or is
            being written by another run.
        KeyboardInterrupt: The run was stopped.
    """
    notebooks = find_notebooks(paths)
    parameters = parameters or {}
    plan = plan_parameters(notebooks, parameters)
    check_whole(1, jobs=jobs)
    if timeout is not None:
        check_whole(1, timeout=timeout)
    out = Path(out).expanduser()
    _check_out(out, notebooks)

    results = [_waiting(path, plan[path]) for path in notebooks]
    together, alone = _together_and_alone(notebooks)
    jobs = min(jobs, max(1, len(together)))
    threads = _threads_of_each(jobs)
    facts = _facts(parameters, results, jobs, threads)
    with (
        _alone_in(out),
        _NamedStop() as stop,
        _Report(out, notebooks, results, facts) as report,
    ):
        for places, at_once in ((together, jobs), (alone, 1)):
            if stop.asked:
                break
            batch = _Batch(notebooks, plan, timeout, threads if at_once > 1 else None)
            for event in batch.run(places, at_once, stop):
                _tell(event, report, echo, watch)
    if stop.asked:
        sentence = f"Stopped by {stop.name}. {outcome(report.results)}."
        raise KeyboardInterrupt(f"{sentence} Report: {out.resolve() / 'index.html'}")
    return report.results


def _together_and_alone(notebooks: Sequence[Path]) -> tuple[list[int], list[int]]:
    """The places of the notebooks that may run beside others, and of those that run alone."""
    together: list[int] = []
    alone: list[int] = []
    for place, path in enumerate(notebooks):
        own = nbformat.read(path, as_version=4).metadata.get("arcvq")
        is_alone = isinstance(own, Mapping) and own.get(ALONE)
        (alone if is_alone else together).append(place)
    return together, alone


def _threads_of_each(jobs: int) -> int | None:
    """Threads of each of several notebooks, so that they share the cores.

    None stands for what the environment says: for a single notebook, or where the user has set it.
    """
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, usable_cores() // jobs)


class _Event(NamedTuple):
    """What happens to a notebook: a cell begins, or it has ended after some seconds."""

    place: int
    execution: Execution
    cell: int = 0
    seconds: float | None = None


def _tell(
    event: _Event,
    report: "_Report",
    echo: Callable[[str], object],
    watch: Callable[[str], object],
) -> None:
    """Write an event into the report, and say it in a line."""
    width = max(len(result.name) for result in report.results)
    name = event.execution.path.stem
    start = f"[{event.place + 1}/{len(report.results)}] {name:{width}}  "
    if event.seconds is None:
        progress = f"running, cell {event.cell} of {event.execution.cells}"
        report.change(event.place, status="running", progress=progress)
        watch(start + progress)
        return
    result = report.close(event.place, event.execution, event.seconds)
    ending = f": {result.failure}" if result.failure else ""
    echo(f"{start}{result.status} in {result.seconds:5.1f} s{ending}")


class _Batch:
    """Notebooks that run in threads of this process, which do little but wait for the kernels.

    Args:
        notebooks: All notebooks of the run.
        plan: The parameters of each.
        timeout: Seconds that one cell may take.
        threads: Threads that each kernel computes with.
    """

    def __init__(
        self,
        notebooks: Sequence[Path],
        plan: Mapping[Path, Mapping[str, Any]],
        timeout: int | None,
        threads: int | None,
    ):
        self.notebooks = notebooks
        self.plan = plan
        self.timeout = timeout
        self.threads = threads
        self.stopped = ""  # why, if it is
        # SimpleQueue would do, but a signal can make its get() forget the timeout.
        self.events: Queue[_Event | None] = Queue()  # None: a thread is done
        self.waiting: Queue[int] = Queue()
        self.running: dict[int, Execution] = {}

    def run(self, places: Sequence[int], at_once: int, stop: "_NamedStop") -> Iterator[_Event]:
        """Run the notebooks at some places, and yield what happens, until all have ended."""
        for place in places:
            self.waiting.put(place)
        with ThreadPoolExecutor(at_once) as pool:
            threads = [pool.submit(self._run_waiting) for _ in range(at_once)]
            left = at_once
            try:
                while left:
                    if stop.asked:
                        self.stop(f"stopped by {stop.name}")
                    with suppress(Empty):
                        event = self.events.get(timeout=0.5)  # a signal is seen in between
                        if event is None:
                            left -= 1
                        else:
                            yield event
            finally:
                # Where the caller has met an error, or will not wait, notebooks still run.
                while not all(thread.done() for thread in threads):
                    self.stop("the run was stopped")
                    wait(threads, timeout=0.5)
        for thread in threads:
            thread.result()

    def stop(self, reason: str) -> None:
        """Begin no other notebook, and end those that run."""
        self.stopped = self.stopped or reason
        for execution in list(self.running.values()):
            execution.stop(self.stopped)

    def _run_waiting(self) -> None:
        """Run one notebook after the other, until none waits or the run is stopped."""
        try:
            with suppress(Empty):
                while not self.stopped:
                    self._run_one(self.waiting.get_nowait())
        finally:
            self.events.put(None)

    def _run_one(self, place: int) -> None:
        path = self.notebooks[place]

        def begin(cell: int, cells: int) -> None:
            self.events.put(_Event(place, execution, cell))

        execution = Execution(path, self.plan[path], begin, self.threads)
        self.running[place] = execution
        if self.stopped:  # since the thread has looked last
            execution.stop(self.stopped)
        start = time.perf_counter()
        execution.run(self.timeout)
        seconds = time.perf_counter() - start
        del self.running[place]
        self.events.put(_Event(place, execution, seconds=seconds))


class _NamedStop(HeldInterrupt):
    """A context that remembers a signal to end, and which one it was.

    Attributes:
        name: What stopped the run.
    """

    def __init__(self):
        super().__init__()
        self.name = "Ctrl-C"

    def hold(self, number, frame):
        """Remember the signal; the next one has its usual effect."""
        super().hold(number, frame)
        if number != signal.SIGINT:
            self.name = signal.Signals(number).name


def _alone_in(out: Path) -> AbstractContextManager[None]:
    """Keep other runs out of the folder of a report.

    Raises:
        BlockingIOError: Another run is writing there.
    """
    out.mkdir(parents=True, exist_ok=True)
    refusal = (
        f"another arcvq run is writing its report into {out}; wait for its end, "
        "or name another folder"
    )
    return exclusive(out / LOCK, refusal)


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
    """Raise an error if the report would replace the notebooks themselves or another page."""
    index = out / "index.html"
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
        if is_report(index):
            continue
        for name in (path.name, f"{path.stem}.html"):
            if (out / name).exists():
                raise FileExistsError(
                    f"{out / name} is there, in a folder that holds no report of arcvq, which "
                    "would replace it; name another folder"
                )
    check_page_is_ours(index)
    if index.exists() and not is_report(index):
        raise FileExistsError(
            f"{index} is a page of another command of arcvq, which the report would replace; name "
            "another folder"
        )


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


def _facts(
    parameters: Mapping[str, Any],
    results: Sequence[NotebookResult],
    jobs: int,
    threads: int | None,
) -> dict[str, str]:
    """What the index says about the run and the machine."""
    devices = ", ".join(dict.fromkeys(_device_names(parameters, results)))
    count = threads or torch.get_num_threads()
    computing = "1 thread" if count == 1 else f"{count} threads"
    if jobs > 1:
        computing += f" for each of {jobs} notebooks at a time"
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    assignments = [f"{name} = {value}" for name, value in parameters.items()]
    profiles = _used("profile", results)
    return {
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Device": f"{devices}, {computing}",
        "System": (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}"
        ),
        "Versions": ", ".join(versions),
        "Parameters": ", ".join(assignments) or "the defaults",
        "Profile": ", ".join(profiles) or "none",
    }


def _device_names(
    parameters: Mapping[str, Any], results: Sequence[NotebookResult]
) -> Iterator[str]:
    """The devices of the notebooks.

    Raises:
        ValueError: The device that was given cannot be used here.
    """
    for device in _used("device", results) or ["auto"]:
        try:
            yield device_name(choose_device(device))
        except ValueError:
            if "device" in parameters:
                raise
            yield device  # a default: the notebook says itself that it lacks the device


def _used(name: str, results: Sequence[NotebookResult]) -> list[str]:
    """The values of a parameter in the notebooks, in order, each once."""
    sources = [{**result.defaults, **result.given}.get(name, "") for result in results]
    return sorted({source.strip("'\"") for source in sources} - {""})
