import dataclasses
import subprocess
import sys

import pytest
import torch

from arcvq.runs import settings
from arcvq.runs.settings import RunSettings, run_folder, train
from arcvq.samp import SAMP
from tests.test_training import images  # noqa: F401  (the fixture)

TINY = RunSettings(num_codes=8, dim=4, hidden=8, residual_hidden=4, steps=4, batch_size=8, precision="float32")


def test_the_same_settings_are_trained_once_and_others_anew(images, tmp_path, monkeypatch):  # noqa: F811
    fits = []
    monkeypatch.setattr(settings, "fit", lambda *a, fit=settings.fit, **k: fits.append(1) or fit(*a, **k))
    first = train(TINY, images, root=tmp_path, device="cpu", progress=False)
    again = train(TINY, images, root=tmp_path, device="cpu", progress=False)
    assert len(fits) == 1 and torch.equal(first.model.quantizer.codebook, again.model.quantizer.codebook)
    changes = [{"lr": 2e-3}, {"seed": 1}, {"quantizer": "plain"}, {"samp": SAMP(margin=0.2)}, {"train_images": 32}]
    for count, change in enumerate(changes, start=2):
        train(dataclasses.replace(TINY, **change), images, root=tmp_path, device="cpu", progress=False)
        assert len(fits) == count, change
    pixels = images.train.images.clone()
    pixels[0, 0, 0, 0] += 1
    other = dataclasses.replace(images, train=dataclasses.replace(images.train, images=pixels))
    train(TINY, other, root=tmp_path, device="cpu", progress=False)
    assert len(fits) == len(changes) + 2, "other pixels are another run"


def test_the_seed_alone_decides_the_model(images):  # noqa: F811
    torch.manual_seed(1)
    first = TINY.model(images)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), TINY.model(images).parameters(), strict=True))


def test_profiles_change_the_size_alone():
    assert RunSettings.for_profile("paper").steps == 29_500 and RunSettings.for_profile("paper").hidden == 128
    assert RunSettings.for_profile("quick", steps=7, quantizer="ema").steps == 7
    with pytest.raises(ValueError, match="profile 'huge' is unknown; known are quick, standard, paper"):
        RunSettings.for_profile("huge")
    with pytest.raises(ValueError, match="quantizer 'cubic' is unknown; known are plain"):
        RunSettings(quantizer="cubic")


def test_beta_goes_to_our_quantizers_and_is_refused_for_baselines(images):  # noqa: F811
    assert dataclasses.replace(TINY, beta=0.5).model(images).quantizer.beta == 0.5
    with pytest.raises(ValueError, match=r"beta is 0\.5; 'fsq' has a commitment weight of its own"):
        dataclasses.replace(TINY, quantizer="fsq", beta=0.5)


def test_importing_arcvq_brings_nothing_heavy():
    heavy = "umap torchmetrics plotly ipywidgets papermill nbconvert sklearn torchvision numba matplotlib"
    code = f"import sys, arcvq; print([name for name in '{heavy}'.split() if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_folder_deep_in_the_disk_gets_a_short_name(images, tmp_path):  # noqa: F811
    deep = dataclasses.replace(images, name="folder:/" + "long/" * 60 + "x" * 200)
    folder = run_folder(dataclasses.replace(TINY, dataset=deep.name), deep, tmp_path, torch.device("cpu"))
    assert folder.parent == tmp_path / "runs" and folder.name.startswith("folder-xxx") and len(folder.name) < 100
