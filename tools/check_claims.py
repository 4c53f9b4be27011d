"""Run notebooks with several seeds, precisions and threads, and see whether their claims hold.

    python tools/check_claims.py [NOTEBOOK ...] --seeds 0 1 2

A claim is a line "...: True" or "...: False" that a cell with the tag nbval-check-output prints. It
must be True in every run. With the seed of the stored copy, such cells must also print what is
stored, as nbval asks for. Notebooks are files, names or numbers; none means all.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell
from tqdm.auto import tqdm

from arcvq.reports.execution import Execution
from arcvq.reports.notebook_files import find_notebooks

CHECKED = "nbval-check-output"
PARAMETERS = "parameters"
STORED_SEED = 0
CLAIM = re.compile(r"^(.*): (True|False)$", re.MULTILINE)
# "auto" then chooses the precision that is asked for, on any processor.
SETUP = """
import torch
from arcvq.runtime import devices
torch.set_num_threads({threads})
devices.has_fast_bfloat16 = lambda device: {fast}
"""


def checked_texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell with checked output has printed."""
    texts = []
    for cell in notebook.cells:
        if CHECKED in cell.metadata.get("tags", []):
            texts.append("".join(output.get("text", "") for output in cell.outputs))
    return texts


def false_claims(notebook: nbformat.NotebookNode) -> list[str]:
    """The claims of a notebook that did not hold when it ran."""
    found = []
    for text in checked_texts(notebook):
        for claim, verdict in CLAIM.findall(text):
            if verdict == "False":
                found.append(claim)
    return found


def faults(path: Path, seed: int, precision: str, threads: int) -> Iterator[str]:
    """Run a notebook in one setting and say what does not hold."""
    stored = nbformat.read(path, as_version=4)
    execution = Execution(path, {"seed": seed})
    place = _place_of_parameters(execution.notebook) + 1
    setup = SETUP.format(threads=threads, fast=precision == "bfloat16")
    execution.notebook.cells.insert(place, new_code_cell(setup))
    execution.run()
    if execution.failure:
        yield execution.failure
        return
    for claim in false_claims(execution.notebook):
        yield f"False: {claim}"
    if seed != STORED_SEED:
        return
    for before, now in zip(checked_texts(stored), checked_texts(execution.notebook), strict=True):
        if before != now:
            yield f"stored {before.strip()!r}, now {now.strip()!r}"


def _place_of_parameters(notebook: nbformat.NotebookNode) -> int:
    """The number of the cell that holds the parameters."""
    for number, cell in enumerate(notebook.cells):
        if PARAMETERS in cell.metadata.get("tags", []):
            return number
    raise ValueError("the notebook has no cell with the tag parameters")


def main() -> int:
    """Run all settings and return the exit code: 1 if a claim did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    options = parser.parse_args()

    paths = find_notebooks(options.notebooks)
    settings = itertools.product(paths, options.seeds, options.precisions, options.threads)
    failed = 0
    for path, seed, precision, threads in tqdm([*settings], unit="run"):
        found = [*faults(path, seed, precision, threads)]
        failed += bool(found)
        setting = f"{path.stem}, seed {seed}, {precision}, {threads} threads"
        tqdm.write(f"{setting}: {'; '.join(found) or 'all claims hold'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
