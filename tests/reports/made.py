"""Notebooks made for tests."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'dataset = "digits"\nprofile = "quick"\ndevice = "auto"\nseed = 0'


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook with a title, a cell of parameters, and a cell for each source.

    A source that starts with "Text" becomes a text cell, any other a code cell.
    """
    cells = [
        new_markdown_cell(f"# About {path.stem}"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    ]
    for source in sources:
        new_cell = new_markdown_cell if source.startswith("Text") else new_code_cell
        cells.append(new_cell(source))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
    return path
