"""Measurements that are no tests.

Each module is a command and writes to benchmarks/results, or to the folder ARCVQ_BENCHMARK_RESULTS.
"""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from arcvq.runtime.files import write_text

OWN_RESULTS = Path(__file__).parent / "results"
RESULTS_VARIABLE = "ARCVQ_BENCHMARK_RESULTS"
RESULTS = Path(os.environ.get(RESULTS_VARIABLE) or OWN_RESULTS)


def machine() -> str:
    """The device, the threads and the versions that something was measured with, in one line."""
    device = f"CPU ({platform.machine()})"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{device}, {threads} threads, {versions}"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [markdown_row(titles), "|---" * len(titles) + "|"]
    lines += [markdown_row(row) for row in rows]
    return "\n".join(lines)


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def write_report(name: str, text: str) -> None:
    """Print a text and write it to a file among the results."""
    write_text(RESULTS / name, text)
    print(text)
