"""The first notebook runs on a few pictures of the reader's own."""

import nbformat
import torch
from PIL import Image

from arcvq.reports.notebooks import run_notebooks


def test_24_pictures_are_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path / "data"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(24):
        pixels = torch.randint(256, (20, 24, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")

    parameters = {"dataset": f"folder:{folder}", "reading": {"size": 16, "grey": True}}
    (result,) = run_notebooks(["0"], parameters, out=tmp_path / "report", echo=str)
    assert result.status == "passed", result.failure
    executed = nbformat.read(tmp_path / "report" / f"{result.name}.ipynb", as_version=4)
    text = str([cell.get("outputs") for cell in executed.cells])
    assert "16 x 16 pixels, 1 channel" in text
    assert "the batch of the profile quick, 32 images, is lowered to 18" in text
