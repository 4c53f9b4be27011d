import dataclasses

import numpy as np
import pytest
import torch

from arcvq.analysis import classifier
from arcvq.analysis.classifier import Classifier, train_classifier
from arcvq.analysis.sample_quality import describe_samples, label_agreement
from arcvq.images import ImageData, ImageSplit, to_float
from tests.test_training import stripes


@pytest.fixture(scope="module")
def images():
    return ImageData("stripes", stripes(256, 0), stripes(64, 1), stripes(64, 2), ("down", "across"))


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 40)
    monkeypatch.setattr(classifier, "VALIDATE_EVERY", 10)


def train(images, root, **options):
    return train_classifier(images, root=root, device="cpu", progress=False, **options)


def test_it_learns_the_labels_and_its_accuracy_is_counted_on_the_test_images(
    images, brief, tmp_path
):
    trained = train(images, tmp_path)
    right = (trained.predict(images.test.images) == images.test.labels).double().mean().item()
    assert trained.accuracy == right > 0.9
    assert label_agreement(trained, images.test.images, images.test.labels) == right
    assert not trained.training
    assert trained.classes == images.classes


def test_images_that_are_cropped_are_classified_as_they_are_trained(images, brief, tmp_path):
    def framed(split, crop):
        larger = torch.nn.functional.pad(split.images, (2, 2, 2, 2))
        return ImageSplit(larger, split.labels, crop)

    size = images.size[0]
    parts = {name: getattr(images, name) for name in ("train", "validation", "test")}
    cropped = {name: framed(part, size) for name, part in parts.items()}
    found = train(dataclasses.replace(images, **cropped), tmp_path)
    inner = images.test.images
    assert found.accuracy == label_agreement(found, inner, images.test.labels)


def test_features_are_the_layer_before_the_logits(images, brief, tmp_path):
    trained = train(images, tmp_path)
    features = trained.features(images.test.images)
    assert features.shape == (64, 64)
    assert (features >= 0).all()
    assert not features.requires_grad
    head = trained.head
    logits = features.double() @ head.weight.double().T + head.bias.double()
    torch.testing.assert_close(
        logits.float(), trained(to_float(images.test.images)), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(logits.argmax(1), trained.predict(images.test.images))
    assert torch.equal(trained.features(to_float(images.test.images)), features), (
        "floats are read as stored"
    )


def test_it_is_trained_once_for_the_same_pixels_and_seed(images, brief, tmp_path):
    first = train(images, tmp_path)
    (weights,) = tmp_path.rglob("model.safetensors")
    written = weights.stat().st_mtime_ns
    again = train(images, tmp_path)
    assert weights.stat().st_mtime_ns == written
    assert (again.shape, again.classes) == (first.shape, first.classes)
    assert again.accuracy == first.accuracy
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_it_is_trained_anew_for_another_seed_other_pixels_and_other_settings(
    images, brief, tmp_path, monkeypatch
):
    first = train(images, tmp_path)
    other = train(images, tmp_path, seed=1)
    assert not torch.equal(other.head.weight, first.head.weight)
    train(images.subset(train=200), tmp_path)
    monkeypatch.setattr(classifier, "LR", 1e-3)
    train(images, tmp_path)
    assert len(list((tmp_path / "classifiers").iterdir())) == 4


def test_it_is_kept_below_data_root_and_the_callers_generator_stays_put(
    images, brief, tmp_path, monkeypatch
):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    before = torch.get_rng_state()
    train(images, None)
    assert torch.equal(torch.get_rng_state(), before)
    (folder,) = (tmp_path / "classifiers").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "classifier.json",
        "model.safetensors",
    ]


def test_a_folder_without_its_last_file_is_trained_again(images, brief, tmp_path):
    train(images, tmp_path)
    (facts,) = tmp_path.rglob("classifier.json")
    facts.unlink()
    with pytest.raises(FileNotFoundError):
        Classifier.load(facts.parent)
    assert train(images, tmp_path).accuracy > 0.9
    assert facts.is_file()


def test_validation_chooses_the_weights_and_test_images_have_no_say(
    images, brief, tmp_path, monkeypatch
):
    seen = []
    validated = [0.3, 0.9, 0.5, 0.2]

    def scripted(trained, pixels, labels):
        seen.append((pixels, trained.head.weight.detach().clone()))
        return validated[len(seen) - 1] if len(seen) <= 4 else 0.125

    monkeypatch.setattr(classifier, "label_agreement", scripted)
    trained = train(images, tmp_path)
    assert len(seen) == 5
    assert all(torch.equal(pixels, to_float(images.validation.images)) for pixels, _ in seen[:4])
    assert torch.equal(seen[4][0], to_float(images.test.images))
    assert trained.accuracy == 0.125
    best = seen[1][1]  # the second of four validated best
    assert torch.equal(trained.head.weight, best)


@pytest.mark.parametrize(("channels", "size"), [(1, 4), (3, 8), (1, 28), (2, 33)])
def test_images_of_any_size_from_four_pixels_are_read(channels, size):
    model = Classifier((channels, size, size + 1), tuple("abcde"))
    pictures = torch.rand(3, channels, size, size + 1)
    assert model(pictures).shape == (3, 5)
    assert model.body(pictures).shape == (3, 64)


def test_one_class_is_refused_in_one_sentence(images, tmp_path):
    def alike(split):
        return ImageSplit(split.images, torch.zeros_like(split.labels))

    one = ImageData(
        "folder:cats", alike(images.train), alike(images.validation), alike(images.test), ("all",)
    )
    with pytest.raises(
        ValueError, match=r"needs training images of two or more classes; folder:cats has 1 \(all\)"
    ):
        train(one, tmp_path)
    named = dataclasses.replace(one, classes=("cat", "dog"))
    with pytest.raises(ValueError, match="folder:cats has 1"):
        train(named, tmp_path)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_a_seed_of_numpy_or_pytorch_finds_what_that_of_python_has_kept(
    images, brief, tmp_path, kind, unchecked
):
    trained = train(images, tmp_path, seed=kind(3))
    again = train(images, tmp_path, seed=3)
    assert torch.equal(trained.head.weight, again.head.weight)
    assert len(list((tmp_path / "classifiers").iterdir())) == 1


@pytest.mark.parametrize("seed", [-1, 2.5, 2**32])
def test_what_is_no_seed_is_refused_before_anything_is_trained(images, tmp_path, seed, unchecked):
    with pytest.raises(ValueError, match=r"seed is .*; it must be a whole number from 0 to"):
        train(images, tmp_path, seed=seed)
    assert not (tmp_path / "classifiers").exists()


def test_images_of_another_shape_are_refused(images, brief, tmp_path):
    trained = train(images, tmp_path)
    with pytest.raises(ValueError, match=r"reads images of shape \(1, 8, 8\), got \(3, 8, 8\)"):
        trained.features(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"reads images of shape \(1, 8, 8\), got \(1, 9, 8\)"):
        trained.predict(torch.zeros(2, 1, 9, 8))


def test_real_images_score_better_than_blurred_ones_and_those_better_than_noise(
    images, brief, tmp_path
):
    trained = train(images, tmp_path)
    real = images.test.images
    train_images = images.train.images
    blurred = torch.nn.functional.avg_pool2d(
        to_float(images.validation.images), 3, stride=1, padding=1
    )
    samples = {
        "new": images.validation.images,
        "blurred": blurred,
        "noise": torch.rand(64, 1, 8, 8) * 2 - 1,
    }
    tables = {
        name: describe_samples(trained, real=real, generated=generated, train=train_images)
        for name, generated in samples.items()
    }
    distances = [table["frechet_distance"] for table in tables.values()]
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]
    assert tables["new"].name == f"classifier features (accuracy {trained.accuracy:.1%})"
    copies = describe_samples(trained, real=real, generated=train_images[:64], train=train_images)
    assert copies["near_copies"] == copies["pixel_nearer"] == 1
    assert copies["pixel_median_ratio"] == 0
    assert tables["new"]["near_copies"] < 0.1
