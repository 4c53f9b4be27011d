import dataclasses
import math

import pytest
import torch

from arcvq.analysis.sample_quality import frechet_distance
from arcvq.experiments import measures
from arcvq.experiments.measures import reconstruction
from arcvq.images import ImageSplit
from arcvq.runs.settings import train
from tests.strokes import IMAGES, SMALL

NEED_11_PIXELS = {"ssim", "authors_psnr", "authors_ssim"}


@pytest.fixture
def missing(tmp_path, monkeypatch):
    """The measures that are NaN for a run on some data, but LPIPS, whose weights may be missing."""

    def pixel_distance(images, others):  # in place of Inception, whose weights may be missing
        return frechet_distance(images.flatten(1), others.flatten(1))

    def find_missing(data):
        run = train(SMALL, data, root=tmp_path, device="cpu", progress=False)
        (row,) = reconstruction(run, SMALL, data, tmp_path)
        return {name for name in measures.MEASURE_TITLES if math.isnan(row[name])} - {"lpips"}

    monkeypatch.setattr(measures, "inception_fid", pixel_distance)
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
