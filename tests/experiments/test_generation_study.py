import dataclasses
import itertools

import pytest
import torch

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.sample_quality import frechet_distance
from arcvq.experiments import generation_study, run_experiment
from arcvq.experiments.generation_study import (
    GENERATION,
    REAL,
    RECONSTRUCTED,
    settings_of_prior,
)
from arcvq.figures.experiment_results import pictures
from arcvq.runs.settings import train
from arcvq.training import Run
from tests.strokes import IMAGES, SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def rows(folder):
    """The rows of two tokenizers."""
    return run_experiment(
        GENERATION,
        SMALL,
        IMAGES,
        seeds=1,
        out=folder / "table",
        only=["cosine", "SAMP"],
        root=folder,
        device="cpu",
        workers=1,
        progress=False,
    )


def test_each_tokenizer_is_measured_with_each_prior_and_with_none(rows):
    assert "error" not in rows
    pairs = {*zip(rows.variant, rows.prior, strict=True)}
    tokenizers = ("cosine", "SAMP")
    priors = (REAL, RECONSTRUCTED, "pixelcnn", "transformer")
    assert pairs == set(itertools.product(tokenizers, priors))
    without = rows.prior.isin([REAL, RECONSTRUCTED])
    assert rows.bits_per_image[without].isna().all()
    tokens = 2 * 2  # of an image of 8 x 8 pixels; three codes of eight cost less than 2 nats
    assert {*rows.precision} == {"float32"}, "what the runs were trained in"
    assert rows[["sample_precision", "sample_recall"]].stack().between(0, 1).all()
    assert rows.bits_per_image[~without].between(0, 3 * tokens * 2).all()


def test_references_are_other_images_than_those_that_samples_are_compared_with(rows, folder):
    """No reference sees the images that it is compared with: it would be far too good."""
    images = IMAGES.test.batch(torch.arange(8))
    classifier = train_classifier(IMAGES, root=folder, device="cpu", progress=False)
    compared = classifier.features(images[::2])
    of_samp = rows[rows.variant == "SAMP"].set_index("prior")
    run = Run.load(folder / "runs" / of_samp.run[REAL])
    others = {REAL: images[1::2], RECONSTRUCTED: run.model.reconstruct(images[1::2])}
    for name, reference in others.items():
        expected = frechet_distance(compared, classifier.features(reference))
        assert of_samp.frechet[name] == pytest.approx(expected, rel=1e-6)
        correct = classifier.predict(reference) == IMAGES.test.labels[1::2]
        assert of_samp.label_agreement[name] == correct.double().mean().item()


def test_the_table_has_a_line_for_each_tokenizer_and_prior(rows):
    table = GENERATION.table(rows)
    assert len(table) == 8
    assert [*table.tokenizer[:2]] == ["SAMP", "cosine"] or [*table.tokenizer[:2]] == [
        "cosine",
        "SAMP",
    ]


def test_the_picture_has_a_dot_for_each_tokenizer_and_prior_and_a_line_for_real_images(rows):
    ((_, _, figure),) = pictures(rows)
    of_frechet = {trace.name: trace for trace in figure.data if trace.xaxis == "x"}
    for prior, title in (
        ("pixelcnn", "samples of the PixelCNN"),
        ("transformer", "samples of the transformer"),
        (RECONSTRUCTED, "reconstructions of real images"),
    ):
        found = rows[rows.prior == prior]
        assert dict(zip(of_frechet[title].y, of_frechet[title].x, strict=True)) == pytest.approx(
            dict(zip(found.variant, found.frechet, strict=True))
        )
    assert len(of_frechet) == 3
    lines = {line.xref: line.x0 for line in figure.layout.shapes}
    real = rows[rows.prior == REAL].iloc[0]
    assert lines["x"] == pytest.approx(real.frechet)
    assert lines["x4"] == pytest.approx(real.label_agreement)
    for axis, line in lines.items():  # within what is drawn
        low, high = figure.layout[f"xaxis{axis[1:]}"].range
        assert low < line < high
    samples = rows[~rows.prior.isin([REAL, RECONSTRUCTED])]
    best = samples.loc[samples.frechet.idxmin()]
    expected = f"lowest for {best.variant} with the {best.prior}, {best.frechet:.2f}."
    assert expected in figure.layout.meta["summary"]


def test_data_that_samples_cannot_be_measured_on_are_refused_before_training(tmp_path):
    alike = dataclasses.replace(IMAGES.train, labels=torch.zeros(32, dtype=torch.int64))
    for data, message in (
        (dataclasses.replace(IMAGES, train=alike), "two or more classes; strokes has 1"),
        (
            dataclasses.replace(IMAGES, test=IMAGES.test.first(7)),
            "strokes has 7 test images; 8 are",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_experiment(GENERATION, SMALL, data, out=tmp_path / "table", root=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_all_tokenizers_of_a_seed_get_the_same_prior():
    longer = dataclasses.replace(SMALL, steps=generation_study.LONGEST_FIT + 1)
    settings = [one.settings for one in generation_study.variants(longer)]
    for kind in ("pixelcnn", "transformer"):
        assert len({settings_of_prior(kind, one) for one in settings}) == 1
        assert settings_of_prior(kind, settings[0]).steps == generation_study.LONGEST_FIT


def test_priors_learn_only_from_the_images_that_their_tokenizer_saw(monkeypatch, folder):
    counts = []

    def seen(settings, model, data, **options):
        counts.append(len(data.train))
        raise StopIteration

    monkeypatch.setattr(generation_study, "train_prior", seen)
    settings = dataclasses.replace(SMALL, train_images=16)
    run = train(settings, IMAGES, root=folder, device="cpu", progress=False)
    with pytest.raises(StopIteration):
        generation_study.measure(run, settings, IMAGES, folder)
    assert counts == [16]
