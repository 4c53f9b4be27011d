"""Notebooks with a few pictures of the reader's own."""

import nbformat
import torch
from PIL import Image

from arcvq.reports.notebook_files import find_notebooks
from arcvq.reports.notebooks import run_notebooks


def save_pictures(folder, count, size):
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


def test_24_pictures_are_enough_for_the_first_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path / "data"))
    folder = tmp_path / "pictures"
    save_pictures(folder, 24, (20, 24))
    parameters = {"dataset": f"folder:{folder}", "reading": {"size": 16, "grey": True}}
    (result,) = run_notebooks(["0"], parameters, out=tmp_path / "report", echo=str)
    assert result.status == "passed", result.failure
    executed = nbformat.read(tmp_path / "report" / f"{result.name}.ipynb", as_version=4)
    text = str([cell.get("outputs") for cell in executed.cells])
    assert "16 x 16 pixels, gray" in text
    assert "the batch of the profile quick, 32 images, is lowered to 18" in text


# Where notebook 13 opens the folder or depends on the size of its images, by what each cell holds.
CELLS_OF_13 = (
    "check_parameters(",
    "path = Path(folder)",
    "images = arcvq.load_images(",
    "reading_coarse = ",
    "class Autoencoder(",
    "def train_mine(",
)


def test_notebook_13_takes_random_crops_of_a_folder(tmp_path):
    """Beside the folder, the data set is the built-in one."""
    folder = tmp_path / "pictures"
    save_pictures(folder, 48, (40, 44))
    (path,) = find_notebooks(["13"])
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    reading = {"size": 32, "crop": 24}
    names = {
        "dataset": "digits",
        "profile": "quick",
        "device": "cpu",
        "seed": 0,
        "reading": reading,
        "folder": str(folder),
        "picture": "",
        "own_steps": 100,
    }
    for held in CELLS_OF_13:
        (cell,) = [source for source in cells if held in source]
        exec(cell, names)
    assert names["images"].size == (24, 24)
    assert names["small"].size == (16, 16)
    batch = names["images"].train.batch(torch.arange(2))
    assert names["mine"].encoder(batch).shape == (2, 16, 1, 12)
