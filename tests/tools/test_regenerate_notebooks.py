from pathlib import Path

import nbformat
from regenerate_notebooks import clean

from arcvq.reports.notebooks import ALONE

FOLDER = Path(__file__).parents[2] / "notebooks"


def alone(notebook):
    return notebook.metadata.get("arcvq", {}).get(ALONE, False)


def test_the_notebook_that_measures_time_runs_alone_and_still_does_once_it_is_regenerated():
    notebooks = {path.stem: nbformat.read(path, 4) for path in FOLDER.glob("*.ipynb")}
    assert [name for name, notebook in notebooks.items() if alone(notebook)] == [
        "12_speed_and_scale"
    ]
    for name, notebook in notebooks.items():
        stored = dict(notebook.metadata)
        notebook.metadata["widgets"] = {}
        clean(notebook)
        assert notebook.metadata == stored, name
