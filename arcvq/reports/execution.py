"""One notebook in a kernel of this Python, with papermill, and how it ended."""

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import papermill_engines
from papermill.iorw import load_notebook_node
from papermill.log import logger
from papermill.parameterize import parameterize_notebook

from arcvq.runtime.files import data_root

KERNEL_ENVIRONMENT = {
    "ARCVQ_HEADLESS": "1",
    # Live figures as plotly's own type: its HTML puts 5 MB of plotly.js into each notebook.
    "PLOTLY_RENDERER": "plotly_mimetype",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]  # its log would fall between our lines
PATIENCE = 5.0  # seconds that a kernel has to end by itself
DEAD_KERNEL = "the kernel died, as it does when memory runs out"

logger.disabled = True  # what papermill would log, an `Execution` says in `reason`


class Execution:
    """A notebook that runs in a kernel of its own, in its own folder, up to the first error.

    Args:
        path: The notebook; the file is left as it is.
        parameters: Values for its parameters.
        on_cell: Called before each cell of code, with its number and the number of them all.
        threads: Threads that the kernel computes with; None for as many as this process would.

    Attributes:
        notebook: The notebook with the outputs of the cells that have run.
        status: "running", "passed", "failed" (a cell raised an error) or "stopped" (the kernel
            died, a cell ran out of time, or the user stopped it).
        reason: Why it failed or was stopped; else empty.
        cell: Number of the last cell that was started, counted from 1 as in `In [1]`.
        cells: Number of cells to run.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, Any],
        on_cell: Callable[[int, int], object] = lambda cell, cells: None,
        threads: int | None = None,
    ):
        self.path = path
        self.on_cell = on_cell
        self.threads = threads
        self.notebook: NotebookNode = load_notebook_node(str(path))
        if parameters:
            self.notebook = parameterize_notebook(
                self.notebook, dict(parameters), kernel_name="python3", language="python"
            )
        self.status = "running"
        self.reason = ""
        self.cell = 0
        self.cells = len([cell for cell in self.notebook.cells if _is_run(cell)])
        self._current: NotebookNode | None = None
        self._error = ""
        self._kernel: KernelOfThisPython | None = None
        self._stop = ""
        self._stopped_at = 0.0

    @property
    def failure(self) -> str:
        """The cell and the reason of a failure or stop; empty where all cells ran."""
        return f"cell In [{self.cell}]: {self.reason}" if self.reason and self.cell else self.reason

    def run(self, timeout: int | None = None) -> None:
        """Run the cells, and say in `status` and `reason` how it ended.

        Args:
            timeout: Seconds that one cell may take; None for as long as it needs.
        """
        try:
            # The engine fills in `notebook` itself: what came before a kernel died is kept.
            papermill_engines.execute_notebook_with_engine(
                None,
                self.notebook,
                "python3",
                progress_bar=False,
                execution_timeout=timeout,
                extra_arguments=KERNEL_ARGUMENTS,
                kernel_manager_class=self._kernel_class(),
                resources={"metadata": {"path": str(self.path.parent)}},
                on_cell_execute=self._begin,
                on_cell_error=self._note_error,
            )
        except Exception as error:
            self.end(*self._how_it_ended(error, timeout))
        else:
            if self._stop:  # the cell has ended by itself
                self.end("stopped", self._stop)
            # An error that a cell may raise, by its tag, is noted too, but is no exception here.
            elif self.notebook.metadata.papermill["exception"]:
                self.end("failed", self._error)
            else:
                self.status = "passed"
        finally:
            join_streams(self.notebook)

    def stop(self, reason: str) -> None:
        """Ask the kernel to end, from another thread; called again after `PATIENCE`, kill it.

        What the notebook has shown until then is kept, and a run that trains saves its checkpoint.
        """
        if not self._stop:
            self._stop = reason
            self._stopped_at = time.monotonic()
        if self._kernel is not None:
            waited = time.monotonic() - self._stopped_at
            self._kernel.end(at_once=waited > PATIENCE)

    def _how_it_ended(self, error: Exception, timeout: int | None) -> tuple[str, str]:
        """The status and the reason, given what the engine raised."""
        if self._stop:
            return "stopped", self._stop
        if isinstance(error, DeadKernelError):
            return "stopped", DEAD_KERNEL
        if isinstance(error, CellTimeoutError):
            reason = (
                f"it ran longer than the timeout of {timeout} s; a larger --timeout allows more"
            )
            return "stopped", reason
        return "failed", str(error).strip() or type(error).__name__

    def _kernel_class(self) -> type[AsyncKernelManager]:
        """The kernel for the engine, which makes one of its own and does not hand it out."""
        execution = self

        class Kernel(KernelOfThisPython):
            def __init__(self, **options: Any):
                super().__init__(**options)
                self.threads = execution.threads
                execution._kernel = self

        return Kernel

    def end(self, status: str, reason: str) -> None:
        """Set how the notebook ended, and say it in the output of the cell where it ended."""
        self.status = status
        self.reason = reason.partition("\n")[0]
        if self._current is None:
            return
        self._current.execution_count = self.cell
        outputs = self._current.outputs
        if not any(output.output_type == "error" for output in outputs):
            name, _, message = reason.partition(": ")
            outputs.append(new_output("error", ename=name, evalue=message, traceback=[reason]))

    def _begin(self, cell: NotebookNode, cell_index: int) -> None:
        if self._stop:  # before there was a kernel to end
            raise DeadKernelError(self._stop)
        self._current = cell
        self.cell += 1
        self.on_cell(self.cell, self.cells)

    def _note_error(self, execute_reply: Mapping[str, Any], **_: Any) -> None:
        content = execute_reply["content"]
        self._error = f"{content['ename']}: {content['evalue']}"


def _is_run(cell: NotebookNode) -> bool:
    is_skipped = "skip-execution" in cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and not is_skipped


def join_streams(notebook: NotebookNode) -> None:
    """Join what a cell printed bit by bit, as JupyterLab does, and keep what `\\r` left of it."""
    for cell in filter(_is_run, notebook.cells):
        joined: list[NotebookNode] = []
        for output in cell.outputs:
            last = joined[-1] if joined else {}
            if output.output_type == "stream" and output.name == last.get("name"):
                last["text"] += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?=[^\r\n])", "", output.text)
        cell.outputs = joined


class KernelOfThisPython(AsyncKernelManager):
    """A kernel of this Python, whatever other kernels the user has installed.

    Attributes:
        threads: Threads that it computes with; None for as many as this process would.
        is_asked_to_end: Whether `end` has asked it.
    """

    threads: int | None = None
    is_asked_to_end = False

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._kernel_spec = KernelSpec(argv=make_ipkernel_cmd(), language="python")

    def start_kernel(self, **options: Any) -> Any:
        """Start it with an environment that suits a run without a browser."""
        own = {
            # Kept where the caller keeps it: notebooks of a wheel run in the folder of the package.
            "ARCVQ_DATA": str(data_root().resolve()),
            # Threads that wait for work sleep, or a busy machine would crawl.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }
        if self.threads is not None:
            own["OMP_NUM_THREADS"] = str(self.threads)
        return super().start_kernel(env={**os.environ, **KERNEL_ENVIRONMENT, **own}, **options)

    def end(self, at_once: bool = False) -> None:
        """Ask the process to end, or kill it with all that it has started.

        Unlike the methods for this, it can be called from any thread.
        """
        process = getattr(self.provisioner, "process", None)
        if process is None:  # not started yet
            return
        group = getattr(self.provisioner, "pgid", None)
        with suppress(ProcessLookupError):
            if at_once and group:
                os.killpg(group, signal.SIGKILL)
            elif at_once:
                process.kill()
            elif not self.is_asked_to_end:
                process.terminate()
        self.is_asked_to_end = True
