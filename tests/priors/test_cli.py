"""The command `arcvq sample`."""

import re

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from arcvq import cli
from arcvq.priors import PixelCNN, sampling
from arcvq.quantizers import SphericalQuantizer
from arcvq.vqgan import VQGAN
from arcvq.vqvae import VQVAE


@pytest.fixture
def folders(tmp_path):
    """A folder with a model, and a prior without and one with classes."""
    torch.manual_seed(2)
    model = VQVAE(1, SphericalQuantizer(5, 3), hidden=8, residual_hidden=4)
    model.save_pretrained(tmp_path / "model")
    for name, classes in (("prior", 0), ("conditional", 3)):
        prior = PixelCNN(5, (2, 2), classes, width=8, layers=1)
        prior.save_pretrained(tmp_path / name)
    return tmp_path


def invoke(folders, *arguments, model="model", prior="prior"):
    inputs = ("--model", folders / model, "--prior", folders / prior)
    output = ("--out", folders / "grid.png", "--device", "cpu")
    command = ["sample", *inputs, *output, *arguments]
    return CliRunner().invoke(cli.main, [str(argument) for argument in command])


def test_sample_writes_a_grid_and_the_same_one_for_the_same_seed(folders):
    grid = folders / "grid.png"
    shown = invoke(folders, "-n", 7)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == f"{grid.resolve()}: 7 images\n"
    first = grid.read_bytes()
    side = 3 * 8 + 4 * 2
    assert Image.open(grid).size == (side, side), "rows of 3, each 8 pixels and 2 between"

    invoke(folders, "-n", 7)
    assert grid.read_bytes() == first
    invoke(folders, "-n", 7, "--seed", 1)
    assert grid.read_bytes() != first


def test_sample_decodes_the_tokens_of_a_vqgan(folders):
    model = VQGAN(3, SphericalQuantizer(5, 3), channels=4, multipliers=(1, 2), blocks=1)
    model.save_pretrained(folders / "model")
    shown = invoke(folders, "-n", 1)
    assert shown.exit_code == 0, shown.stderr
    assert Image.open(folders / "grid.png").size == (4, 4)


def test_sample_takes_temperature_top_k_top_p_and_label(folders):
    choice = ("--temperature", 0.5, "--top-k", 2, "--top-p", 0.9, "--label", 2)
    shown = invoke(folders, "-n", 2, *choice, prior="conditional")
    assert shown.exit_code == 0, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-n", 0], "Error: n is 0; it must be a whole number from 1"),
        (["--temperature", 0], "Error: temperature is 0.0; it must be above 0 and in the range of"),
        (["--temperature", "1e-46"], "Error: temperature is 1e-46; it must be above 0 and in the"),
        (["--seed", -1], "Error: seed is -1; it must be a whole number from 0 to 4,294,967,295"),
        (["--seed", 2**32], "Error: seed is 4294967296; it must be a whole number from 0 to"),
        (["--seed", 2**64], "Error: seed is 18446744073709551616; it must be a whole number"),
        (["--top-k", 9], "Error: top_k is 9; it must be a whole number from 1 to 5"),
        (["--top-p", 2], "Error: top_p is 2.0; it must be above 0"),
        (["--label", 0], "Error: labels were given, and this prior was made without classes"),
    ],
)
def test_an_error_is_one_sentence_and_nothing_is_written(folders, arguments, sentence):
    shown = invoke(folders, *arguments)
    assert shown.exit_code == 2
    assert shown.stderr.startswith(sentence)
    assert len(shown.stderr.splitlines()) == 1
    assert not (folders / "grid.png").exists()


@pytest.mark.parametrize("label", [-1, 3, 2**63, 10**20])
def test_a_label_out_of_range_is_refused_with_what_is_allowed(folders, label):
    shown = invoke(folders, "--label", label, prior="conditional")
    assert shown.exit_code == 2
    assert re.match(rf"Error: labels .*{label}; they must be .*from 0 to 2\n$", shown.stderr)


def test_a_folder_that_is_no_prior_or_not_there_is_named(folders):
    shown = invoke(folders, prior="model")
    assert shown.exit_code == 2
    assert "it is no prior of format 1" in shown.stderr
    shown = invoke(folders, prior="nowhere")
    assert shown.exit_code == 2
    assert "nowhere' does not exist" in shown.stderr


def test_the_folder_of_a_prior_is_no_model(folders):
    shown = invoke(folders, model="prior")
    assert shown.exit_code == 2
    assert "it is no model of format 1" in shown.stderr


def test_ctrl_c_leaves_the_earlier_picture(folders, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    grid = folders / "grid.png"
    grid.write_bytes(b"earlier")
    monkeypatch.setattr(sampling, "draw", interrupted)
    shown = invoke(folders)
    assert shown.exit_code == 130
    assert "Stopped" in shown.stderr
    assert grid.read_bytes() == b"earlier"
    names = sorted(path.name for path in folders.iterdir())
    assert names == ["conditional", "grid.png", "model", "prior"]
