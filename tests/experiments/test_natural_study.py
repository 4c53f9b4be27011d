import dataclasses

import pytest
import torch

from arcvq.experiments import natural_study, run_experiment
from arcvq.experiments.natural_study import NATURAL_IMAGES
from arcvq.figures.experiment_results import pictures
from arcvq.images import ImageData, ImageSplit, load_images
from arcvq.vqgan import PerceptualDistance, VQGANLosses, VQGANSettings
from tests.strokes import IMAGES, SMALL

TINY = VQGANSettings(
    channels=4,
    multipliers=(1, 2),
    blocks=1,
    attention=False,
    losses=VQGANLosses(channels=4, halvings=1),
    averaging=0.5,
)


@pytest.fixture(scope="module")
def data():
    """24 photographs of 32 x 32 pixels."""
    patches = load_images("photos", device="cpu").train.images[:24]
    labels = torch.arange(24) % 2
    splits = [ImageSplit(part, labels[:8]) for part in patches.split(8)]
    return ImageData("patches", *splits, ("china", "flower"))


def test_quantizers_differ_in_nothing_else_and_fewer_losses_only_in_losses():
    settings = {one.name: one.settings for one in natural_study.variants(SMALL)}
    full = settings["SAMP"]
    for name, quantizer in natural_study.COMPARED.items():
        assert dataclasses.replace(settings[name], quantizer="samp") == full
        assert settings[name].quantizer == quantizer
    for name in natural_study.FEWER_LOSSES:
        losses = settings[name].vqgan.losses
        assert losses.adversarial == 0
        restored = dataclasses.replace(settings[name].vqgan, losses=full.vqgan.losses)
        assert dataclasses.replace(settings[name], vqgan=restored) == full
    assert settings["SAMP on pixels alone"].vqgan.losses.perceptual == 0


def test_runs_are_measured_as_written_out_and_drawn(data, tmp_path):
    base = dataclasses.replace(SMALL, steps=4, vqgan=TINY)
    rows = run_experiment(
        NATURAL_IMAGES,
        base,
        data,
        seeds=1,
        out=tmp_path,
        only=["plain VQ", "SAMP on pixels alone"],
        root=tmp_path,
        device="cpu",
        workers=1,
        progress=False,
    )
    assert "error" not in rows
    run = natural_study.Run.load(tmp_path / "runs" / rows.run[0])
    images = data.test.batch(torch.arange(8))
    rebuilt = run.model.reconstruct(images)
    distance = PerceptualDistance()(rebuilt, images).mean().item()
    assert rows.perceptual[0] == pytest.approx(distance, rel=1e-4)
    assert rows.sharpness[0] == pytest.approx(laplacian(rebuilt) / laplacian(images), rel=1e-4)
    table = NATURAL_IMAGES.table(rows)
    assert [*table.quantizer] == ["plain VQ", "SAMP on pixels alone"]
    ((_, _, figure),) = pictures(rows)
    assert len(figure.data) > 0


def test_gray_images_are_refused_before_training(tmp_path):
    with pytest.raises(
        ValueError, match="strokes has 1 channels; the perceptual distance needs RGB"
    ):
        run_experiment(NATURAL_IMAGES, SMALL, IMAGES, out=tmp_path / "table", root=tmp_path)
    assert not [*tmp_path.iterdir()]


def laplacian(images):
    """The variance of the Laplacian by a convolution."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
    gray = images.double().mean(dim=1, keepdim=True)
    return torch.nn.functional.conv2d(gray, kernel[None, None]).var(correction=0).item()
