import dataclasses
import math

import pytest
import torch

from arcvq import images as image_data
from arcvq.experiments import measures
from arcvq.experiments.measures import CODE_MEASURES, reconstruction
from arcvq.geometry import min_angle
from arcvq.images import ImageSplit
from arcvq.runs.settings import train
from arcvq.training import evaluate
from tests.strokes import IMAGES, SMALL

NEED_11_PIXELS = {"ssim", "authors_psnr", "authors_ssim"}


def pixels(batches):
    """Features in place of Inception's, whose weights may be missing."""
    return torch.cat([images.flatten(1) for images in batches])


def mean_difference(images, others):
    """A distance in place of LPIPS, whose weights may be missing."""
    return (images - others).abs().mean().item()


@pytest.fixture
def missing(tmp_path, monkeypatch):
    """The measures that are NaN for a run on some data, but LPIPS, whose weights may be missing."""

    def find_missing(data):
        run = train(SMALL, data, root=tmp_path, device="cpu", progress=False)
        (row,) = reconstruction(run, SMALL, data, tmp_path)
        return {name for name in measures.MEASURE_TITLES if math.isnan(row[name])} - {"lpips"}

    monkeypatch.setattr(measures, "inception_features", pixels)
    return find_missing


def test_all_measures_but_those_that_need_11_pixels_have_a_number(missing):
    assert missing(IMAGES) == NEED_11_PIXELS


def test_training_images_of_one_class_lack_the_distance_of_the_classifier_alone(missing):
    one_class = ImageSplit(IMAGES.train.images, torch.zeros_like(IMAGES.train.labels))
    assert missing(dataclasses.replace(IMAGES, train=one_class)) == NEED_11_PIXELS | {
        "classifier_frechet"
    }


def test_a_single_test_image_lacks_the_frechet_distances_alone(missing):
    single = dataclasses.replace(IMAGES, test=IMAGES.test.first(1))
    assert missing(single) == NEED_11_PIXELS | {"rfid", "classifier_frechet"}


def test_measures_hold_few_images_at_a_time_and_do_not_depend_on_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "inception_features", pixels)
    monkeypatch.setattr(measures, "lpips", mean_difference)
    run = train(SMALL, IMAGES, root=tmp_path, device="cpu", progress=False)
    (whole,) = reconstruction(run, SMALL, IMAGES, tmp_path)
    monkeypatch.setattr(image_data, "BATCH_VALUES", 3 * IMAGES.test.images[0].numel())
    counts = []
    run.model.encoder.register_forward_hook(
        lambda module, given, output: counts.append(len(given[0]))
    )
    (few,) = reconstruction(run, SMALL, IMAGES, tmp_path)
    assert max(counts) == 3
    for name, value in whole.items():
        assert few[name] == pytest.approx(value, rel=1e-4, nan_ok=True)


def framed(split):
    """The images with a frame of 4 pixels, so that they have SSIM."""
    images = torch.nn.functional.pad(split.images, (4, 4, 4, 4))
    return ImageSplit(images, split.labels)


def test_numbers_are_in_the_units_of_their_titles(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "inception_features", pixels)
    monkeypatch.setattr(measures, "SSIM_IMAGES", 3)
    parts = {name: framed(getattr(IMAGES, name)) for name in ("train", "validation", "test")}
    data = dataclasses.replace(IMAGES, **parts)
    run = train(SMALL, data, root=tmp_path, device="cpu", progress=False)
    (row,) = reconstruction(run, SMALL, data, tmp_path)
    angle = min_angle(run.model.quantizer.codebook)
    assert row["min_angle"] == pytest.approx(math.degrees(angle))
    assert row["step_milliseconds"] == pytest.approx(1000 * run.seconds / SMALL.steps)
    some = evaluate(run.model, data.test.in_steps(3), ssim=True)
    assert row["ssim"] == pytest.approx(some["ssim"])


def test_a_model_without_codes_lacks_their_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "inception_features", pixels)
    settings = dataclasses.replace(SMALL, quantizer="continuous")
    run = train(settings, IMAGES, root=tmp_path, device="cpu", progress=False)
    (row,) = reconstruction(run, settings, IMAGES, tmp_path)
    assert all(math.isnan(row[name]) for name in CODE_MEASURES)
