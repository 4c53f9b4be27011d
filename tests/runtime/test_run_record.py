import dataclasses

import pytest
import torch

from arcvq.priors import BigramPrior, PriorRun
from arcvq.quantizers import EMAQuantizer
from arcvq.training import Run, Snapshot
from arcvq.vqvae import VQVAE

ROWS = [{"step": 10, "loss": 0.5}, {"step": 1200, "loss": 0.25, "psnr": 21.0}]
SETTINGS = {"steps": 1200, "lr": 0.1}


def run_of_a_model():
    model = VQVAE(1, EMAQuantizer(7, 4), hidden=8, residual_hidden=4)
    snapshot = Snapshot(torch.randn(7, 4), torch.arange(7))
    return Run(model, ROWS, {0: snapshot}, SETTINGS, 2.5)


def run_of_a_prior():
    return PriorRun(BigramPrior(5, (3, 4)), ROWS, SETTINGS, 2.5)


@pytest.fixture(params=[run_of_a_model, run_of_a_prior], ids=["Run", "PriorRun"])
def run(request):
    return request.param()


def part_of(run):
    """What was trained."""
    return run.prior if isinstance(run, PriorRun) else run.model


def test_a_saved_run_opens_with_all_its_fields(run, tmp_path):
    run.save(tmp_path)
    opened = type(run).load(tmp_path)
    assert type(opened) is type(run)
    assert opened.history.equals(run.history)
    assert (opened.settings, opened.seconds) == (SETTINGS, 2.5)
    state = part_of(opened).state_dict()
    assert all(torch.equal(state[name], value) for name, value in part_of(run).state_dict().items())


def test_a_run_is_shown_by_what_was_trained_and_for_how_long(run):
    names = {Run: "VQVAE with EMAQuantizer", PriorRun: "BigramPrior"}
    cls = type(run)
    shown = f"{cls.__name__}({names[cls]}, 1,200 steps in 2.5 s)"
    assert repr(run) == shown
    none = dataclasses.replace(run, rows=[])
    assert repr(none) == shown.replace("1,200", "0")


def test_a_save_that_is_interrupted_leaves_no_run_that_counts_as_finished(
    run, tmp_path, monkeypatch
):
    def interrupt(folder):
        raise KeyboardInterrupt

    run.save(tmp_path)
    monkeypatch.setattr(part_of(run), "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no finished run; run\.json is missing"):
        type(run).load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "history.csv", "run.json"])
def test_a_damaged_file_is_told_with_the_ways_to_heal_it(run, name, tmp_path):
    run.save(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-3])
    openers = {Run: ("run", "Autoencoder"), PriorRun: ("prior", "Prior")}
    what, opener = openers[type(run)]
    message = (
        rf"^the {what} in .* is damaged \(.+\); train it again with .*[ .]{opener}\.from_pretr"
    )
    with pytest.raises(ValueError, match=message):
        type(run).load(tmp_path)
