import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import arcvq
from arcvq.images import ImageSplit, load_images
from arcvq.runs import pretrained
from arcvq.runs.pretrained import FOLDER, card, load, write_pretrained
from arcvq.runtime.devices import device_name
from arcvq.training import Run, evaluate
from tests.strokes import IMAGES, SMALL

LIMIT = 4_000_000  # bytes


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An untrained model "strokes" in a folder of pretrained models, and that folder."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    model = SMALL.model(IMAGES).eval()
    write_pretrained(tmp_path / "strokes", model, {"command": "make", "figures": {"psnr": 20.0}})
    return model, tmp_path / "strokes"


def test_a_model_comes_back_as_it_was_with_its_card(shelf):
    model, folder = shelf
    images = IMAGES.test.batch(torch.arange(4))
    assert torch.equal(load("strokes").encode(images), model.encode(images))
    assert card("strokes")["figures"] == {"psnr": 20.0}
    page = (folder / "README.md").read_text()
    assert "command: `make`" in page
    assert "| psnr | 20.0 |" in page


def test_a_card_of_other_weights_is_told_and_nothing_is_opened(shelf):
    weights = shelf[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x12\x34\x56\x78")
    message = "the card of .*strokes was written for other weights: sha256"
    with pytest.raises(ValueError, match=message):
        load("strokes")
    weights.unlink()
    with pytest.raises(ValueError, match="the file has nothing, as it is missing"):
        card("strokes")


def test_a_name_that_is_not_there_is_told_with_those_that_are(shelf):
    with pytest.raises(FileNotFoundError, match="no pretrained model 'faces'; there are strokes"):
        load("faces")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_what_comes_with_the_checkout_is_small_and_opens(name):
    assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) < LIMIT
    assert tuple(load(name).quantizer.codebook.shape) == (512, 64)
    assert card(name)["settings"]["dataset"] == name


@pytest.mark.parametrize("quantizer", ["plain", "cosine", "cvq", "samp"])
def test_the_models_to_compare_differ_in_their_quantizer_alone(quantizer):
    settings = card(f"digits_{quantizer}")["settings"]
    others = card("digits_samp")["settings"]
    assert settings["quantizer"] == quantizer
    assert settings | {"quantizer": "samp"} == others
    assert tuple(load(f"digits_{quantizer}").quantizer.codebook.shape) == (256, 16)


@pytest.mark.parametrize("name", ["page/samp", "page/plain"])
def test_the_runs_of_the_page_come_with_their_snapshots_in_half_precision(name):
    run = Run.load(FOLDER / name)
    codes = run.snapshots[card(name)["settings"]["steps"]].codebook
    assert torch.equal(codes.half(), run.model.quantizer.codebook.half())
    for parameter in run.model.parameters():
        assert torch.equal(parameter, parameter.half().float())
    assert name not in pretrained.names()


@pytest.mark.parametrize(
    "file", sorted(FOLDER.rglob("card.json")), ids=lambda file: str(file.parent)
)
def test_the_page_of_a_card_has_its_figures(file):
    page = (file.parent / "README.md").read_text()
    for name, value in json.loads(file.read_text())["figures"].items():
        assert f"| {name} | {value} |" in page


@pytest.mark.parametrize("name", ["digits", "digits_plain", "digits_samp"])
def test_a_model_of_digits_has_the_figures_of_its_card(name):
    measured = evaluate(load(name), load_images("digits", device="cpu").test)
    figures = card(name)["figures"]
    assert measured["psnr"] == pytest.approx(figures["psnr"], abs=0.02)
    assert measured["codes_used"] == pytest.approx(figures["codes_used"], abs=3)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/make_pretrained.py, with two steps on 128 random images in the place of the digits."""
    path = Path(__file__).parents[2] / "tools" / "make_pretrained.py"
    spec = importlib.util.spec_from_file_location("make_pretrained", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    pixels = torch.randint(256, (128, 1, 12, 12), dtype=torch.uint8)
    split = ImageSplit(pixels, torch.arange(128) % 2)
    images = replace(IMAGES, train=split, validation=split, test=split)
    monkeypatch.setattr(arcvq, "load_images", lambda name, root: images)
    monkeypatch.setattr(tool, "choose_device", lambda: torch.device("cpu"))
    monkeypatch.setitem(tool.SETTINGS["digits"], "steps", 2)
    for module in (tool, pretrained):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "shelf")
    return tool


def test_the_device_is_on_the_card_of_a_run_that_was_trained_now_alone(tool, tmp_path):
    device = device_name("cpu")
    tool.make("digits", tmp_path)
    trained = card("digits")
    assert trained["machine"].startswith(f"{device}, ")
    assert trained["machine"].endswith("s of training")
    tool.make("digits", tmp_path)
    without_device = trained["machine"].removeprefix(f"{device}, ")
    assert card("digits") == trained | {"machine": without_device}
