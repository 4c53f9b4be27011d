"""Files that an earlier version wrote still open, and stopped runs go on.

files.tar.xz was written by the last commit before the package was divided into parts (see make_files.py).
"""

import dataclasses
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import arcvq
from arcvq import Compute, Recording, RunSettings
from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.projections import umap_angles
from arcvq.experiments import Experiment, Variant, run_experiment
from arcvq.experiments.measures import reconstruction
from arcvq.experiments.paper_table import table
from arcvq.priors import Prior, PriorSettings, fit_prior, train_prior
from arcvq.training import Run

SETTINGS = RunSettings(
    dataset="plain_digits",
    samp=arcvq.SAMP.for_run(6),
    num_codes=8,
    dim=4,
    hidden=8,
    residual_hidden=4,
    steps=6,
    batch_size=16,
    precision="float32",
)
PIXELCNN = PriorSettings(width=8, layers=2, steps=6, batch_size=16, precision="float32")
TRANSFORMER = PriorSettings(
    kind="transformer",
    tied=True,
    conditional=True,
    width=16,
    layers=1,
    steps=4,
    batch_size=16,
    precision="float32",
)


@pytest.fixture
def root(tmp_path):
    """The unpacked files; a copy of its own for each test."""
    with tarfile.open(Path(__file__).with_name("files.tar.xz")) as files:
        files.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(scope="module")
def data():
    return arcvq.load_images("plain_digits", device="cpu")


@pytest.fixture
def no_training(monkeypatch):
    """Fails the test where something is trained instead of opened."""

    def refuse(*arguments, **options):
        pytest.fail("it was trained anew")

    for optimizer in ("Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, optimizer, refuse)


def expected(root):
    return json.loads((root / "expected.json").read_text())


def run_folder(root):
    return root / "runs" / f"plain_digits-samp-{expected(root)['digest']}"


def trained(settings, data, root):
    return arcvq.train(settings, data, root=root, device="cpu", progress=False)


def test_a_model_opens_and_reconstructs_as_before(root, data):
    model = arcvq.VQVAE.from_pretrained(run_folder(root))
    psnr = arcvq.evaluate(model, data.test)["psnr"]
    assert psnr == pytest.approx(expected(root)["psnr"], rel=1e-5)
    assert model.quantizer.samp == SETTINGS.samp
    indices = model.encode(data.test.batch(torch.arange(4)))
    assert indices.flatten().tolist() == expected(root)["indices"]


def test_a_run_opens_with_its_history_and_snapshots(root):
    run = Run.load(run_folder(root))
    assert run.history.equals(pd.read_csv(run_folder(root) / "history.csv"))
    assert max(run.snapshots) == 6
    assert run.settings["steps"] == 6


@pytest.mark.parametrize("quantizer", ["samp", "ema", "plain"])
def test_kept_runs_are_found_by_their_settings(root, data, no_training, quantizer):
    samp = SETTINGS.samp if quantizer == "samp" else None
    settings = dataclasses.replace(SETTINGS, quantizer=quantizer, samp=samp)
    run = trained(settings, data, root)
    assert len(run.history) > 0
    assert not run.model.training


def test_the_digest_of_settings_is_the_same(root, data):
    assert SETTINGS.digest(data, torch.float32) == expected(root)["digest"]


def test_a_stopped_run_goes_on_to_the_weights_of_one_that_was_not_stopped(root, data):
    saved = torch.load(root / "stopped" / "checkpoint.pt", weights_only=True)
    run = arcvq.fit(
        SETTINGS.model(data),
        data,
        steps=6,
        batch_size=16,
        lr=SETTINGS.lr,
        compute=Compute(device="cpu", precision="float32"),
        recording=Recording(folder=root / "stopped", resume=True, log_every=3, progress=False),
    )
    whole = Run.load(run_folder(root))
    assert run.history.iloc[0].loss == saved["history"][0]["loss"], "it did not start anew"
    assert 0 < saved["step"] < run.history.step.iloc[-1] == 6
    for name, tensor in run.model.state_dict().items():
        # Another processor may round the last digits otherwise than the one that wrote the files.
        assert torch.allclose(tensor, whole.model.state_dict()[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("settings", [PIXELCNN, TRANSFORMER], ids=["pixelcnn", "transformer"])
def test_kept_priors_are_found_by_their_settings(root, data, no_training, settings):
    run = trained(SETTINGS, data, root)
    fitted = train_prior(settings, run.model, data, root=root, device="cpu", progress=False)
    assert fitted.history.step.iloc[-1] == settings.steps


def test_a_stopped_prior_goes_on_to_the_weights_of_one_that_was_not_stopped(root, data):
    run = Run.load(run_folder(root))
    fitted = fit_prior(
        PIXELCNN.prior(run.model, data),
        run.model,
        data,
        steps=6,
        batch_size=16,
        lr=PIXELCNN.lr,
        compute=Compute(device="cpu", precision="float32"),
        recording=Recording(
            folder=root / "stopped_prior", resume=True, validate_every=3, progress=False
        ),
    )
    (folder,) = (root / "priors").glob("*pixelcnn*")
    whole = Prior.from_pretrained(folder).state_dict()
    assert fitted.history.step.tolist() == [3, 6]
    for name, tensor in fitted.prior.state_dict().items():
        assert torch.allclose(tensor, whole[name], rtol=1e-2, atol=1e-4), name


def test_the_kept_classifier_is_found(root, data, no_training):
    classifier = train_classifier(data, root=root, device="cpu", progress=False)
    (folder,) = (root / "classifiers").iterdir()
    facts = json.loads((folder / "classifier.json").read_text())
    assert classifier.accuracy == facts["accuracy"]


def test_kept_coordinates_of_umap_are_found(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # computing would need it
    codes = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    (file,) = (root / "projections").iterdir()
    projection = umap_angles(codes, root=root, progress=False)
    assert np.array_equal(projection.points, np.load(file))


def test_an_experiment_goes_on_in_its_folder(root, data, no_training):
    def variants(base):
        plain = dataclasses.replace(base, quantizer="plain", samp=None)
        return [Variant("SAMP", base), Variant("plain VQ", plain)]

    tiny = Experiment("tiny", "Does it open?", variants, reconstruction, table)
    (folder,) = (root / "experiments").iterdir()
    before = pd.read_parquet(folder / "tiny.parquet")
    rows = run_experiment(tiny, SETTINGS, data, seeds=2, root=root, device="cpu", progress=False)
    pd.testing.assert_frame_equal(rows, before)
    assert [one.name for one in (root / "experiments").iterdir()] == [folder.name]
