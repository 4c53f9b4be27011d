import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from arcvq.analysis.gradients import gradient_history
from arcvq.analysis.probing import stability
from arcvq.experiments import gradient_study, run_experiment, schedule_study, semantics_study
from arcvq.experiments.semantics_study import with_losses
from arcvq.images import ImageData, ImageSplit
from arcvq.runs.settings import train
from arcvq.training import evaluate
from tests import strokes

SEEDS = (0, 1)
BASE = dataclasses.replace(strokes.SMALL, steps=20, lr=1e-2)


def bars(count, seed):
    """Noise, bright on the left (class 0) or below (class 1), so that tokens tell of the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (count, 1, 8, 8), generator=generator)
    labels = torch.arange(count) % 2
    pixels[labels == 0, :, :, :4] += 190
    pixels[labels == 1, :, 4:] += 190
    return ImageSplit(pixels.to(torch.uint8), labels)


IMAGES = ImageData("bars", bars(32, 0), bars(8, 1), bars(16, 2), ("left", "lower"))


def settings_of(module, name, seed):
    (variant,) = (one for one in module.variants(BASE) if one.name == name)
    return dataclasses.replace(variant.settings, seed=seed)


def model_of(variant, seed, folder):
    settings = settings_of(semantics_study, variant, seed)
    return train(settings, IMAGES, root=folder, device="cpu", progress=False).model


def runs_in(rows):
    """Variant and seed of each run, in the order of the rows."""
    return [*rows.groupby(["variant", "seed"], sort=False).groups]


def known(rows, pattern):
    """All numbers in the columns whose names match."""
    return rows.filter(regex=pattern).stack().dropna()


def rows_of(experiment, names, folder):
    return run_experiment(
        experiment,
        BASE,
        IMAGES,
        seeds=len(SEEDS),
        out=folder,
        only=names,
        root=folder,
        device="cpu",
        workers=1,
        progress=False,
    )


@pytest.fixture(scope="module")
def meanings(tmp_path_factory):
    """The rows of CVQ and SAMP, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("semantics")
    return rows_of(semantics_study.SEMANTICS, ["CVQ", "SAMP"], folder), folder


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    return rows_of(
        gradient_study.GRADIENTS,
        ["plain VQ", "SAMP in a narrow ball"],
        tmp_path_factory.mktemp("gradients"),
    )


def test_each_run_has_one_row_of_what_its_codes_tell_within_its_range(meanings):
    rows, _ = meanings
    assert "error" not in rows
    assert len(rows) == 4
    assert runs_in(rows) == [*itertools.product(("CVQ", "SAMP"), SEEDS)]
    assert set(semantics_study.TITLES) <= set(rows)
    described = [name for name in semantics_study.TITLES if name not in semantics_study.AGREEMENT]
    assert rows[described].notna().all(axis=None)

    information = rows.filter(regex="(?<!mutual)_information")
    # The level of chance is subtracted, so that less than nothing may be left.
    assert information.abs().le(math.log2(BASE.num_codes)).all(axis=None)
    assert information.shape[1] == 6
    assert 0.1 < rows.class_information.max() <= 1
    assert known(rows, "purity|probe|replacement|^agreement").between(0, 1).all()
    assert (rows.probe_pixels == 1).all()


def test_psnr_and_codes_are_those_of_the_test_images(meanings):
    rows, folder = meanings
    for _, row in rows.iterrows():
        found = evaluate(model_of(row.variant, row.seed, folder), IMAGES.test)
        assert row.psnr == pytest.approx(found["psnr"], abs=1e-4)
        assert row.codes_used == found["codes_used"]


def test_the_second_seed_is_compared_with_the_first_of_its_variant(meanings):
    rows, folder = meanings
    columns = [*semantics_study.AGREEMENT]
    assert rows.loc[rows.seed == 0, columns].isna().all(axis=None)
    tests = IMAGES.test.batch(torch.arange(len(IMAGES.test)))
    for _, row in rows[rows.seed == 1].iterrows():
        first, second = (model_of(row.variant, seed, folder) for seed in SEEDS)
        assert row[columns].to_dict() == pytest.approx(stability(second, first, tests))
        assert -1 <= row.adjusted_mutual_information <= 1
        assert row.agreement < 1


def test_the_table_of_meanings_has_a_text_for_each_measure_and_quantizer(meanings):
    texts = semantics_study.table(meanings[0])
    assert [*texts] == ["measure", "CVQ", "SAMP"]
    assert [*texts.measure] == [*semantics_study.TITLES.values()]
    assert texts.map(lambda text: isinstance(text, str) and text != "").all(axis=None)


def test_images_of_one_class_tell_nothing_of_classes(meanings, tmp_path):
    settings = settings_of(semantics_study, "SAMP", 0)
    run = train(settings, IMAGES, root=meanings[1], device="cpu", progress=False)
    splits = {}
    for name in ("train", "validation", "test"):
        split = getattr(IMAGES, name)
        splits[name] = dataclasses.replace(split, labels=torch.zeros_like(split.labels))
    one_class = dataclasses.replace(IMAGES, **splits, classes=("bar",))
    (row,) = semantics_study.measure(run, settings, one_class, tmp_path)
    missing = [name for name, value in row.items() if math.isnan(value)]
    of_classes = ("class", "purity", "probe", "replacement")
    assert missing == [name for name in row if name.startswith(of_classes)]


def test_the_compared_quantizers_are_those_of_the_papers_table():
    names = [variant.name for variant in semantics_study.variants(BASE)]
    assert names == [*semantics_study.COMPARED]
    names = [variant.name for variant in gradient_study.variants(BASE)]
    assert names == [*gradient_study.COMPARED, gradient_study.HELD]


def test_a_course_has_a_row_for_each_look_within_its_range(courses):
    assert "error" not in courses
    assert runs_in(courses) == [*itertools.product(("plain VQ", gradient_study.HELD), SEEDS)]
    for _, run in courses.groupby(["variant", "seed"]):
        assert [*run.step] == [*range(1, BASE.steps + 1)]
    assert known(courses, "angle_").between(0, 180).all()
    assert known(courses, "share_radial|margin_pull|codes_on_ball").between(0, 1).all()
    assert known(courses, "correlation").between(-1, 1).all()
    assert known(courses, "_at_").ge(0).all()
    assert courses.codes_with_gradient.between(1, BASE.num_codes).all()
    plain = courses.variant == "plain VQ"
    assert (courses.margin_at_latents.isna() == plain).all()
    assert (courses.radius.isna() == plain).all()


@pytest.mark.parametrize("name", ["plain VQ", "SAMP in a narrow ball"])
def test_a_course_is_the_history_of_its_settings_on_a_batch(courses, name):
    history = gradient_history(
        settings_of(gradient_study, name, 1),
        IMAGES,
        device="cpu",
        probe_images=BASE.batch_size,
        progress=False,
    )
    rows = courses[(courses.variant == name) & (courses.seed == 1)]
    found = rows[[*history]].to_numpy(float)
    np.testing.assert_allclose(found, history.to_numpy(float), rtol=1e-4, atol=1e-7)


def test_the_narrow_ball_grows_to_its_radius(courses):
    rows = courses[courses.variant == "SAMP in a narrow ball"]
    expected = gradient_study.NARROW ** (rows.step / BASE.steps)
    np.testing.assert_allclose(rows.radius, expected, rtol=1e-5)


def test_the_table_of_courses_has_a_line_of_texts_for_each_stage(courses):
    texts = gradient_study.table(courses)
    assert [*texts.quantizer] == ["plain VQ"] * 4 + ["SAMP in a narrow ball"] * 4
    assert [*texts["share of the run"]] == ["2%", "10%", "50%", "100%"] * 2
    assert texts.map(lambda text: isinstance(text, str)).all(axis=None)
    margin = gradient_study.SHOWN["margin_over_reconstruction"]
    assert (texts[margin] == "").tolist() == [True] * 4 + [False] * 4
    rows = courses[(courses.variant == "SAMP in a narrow ball") & (courses.step == BASE.steps / 2)]
    mean = (rows.margin_at_latents / rows.reconstruction_at_latents).mean()
    assert texts[margin][6].startswith(f"{mean:.3f} (")


@pytest.mark.parametrize("steps", [1, 3])
def test_schedules_refuse_runs_too_short_for_a_quarter_of_them(steps):
    message = f"steps is {steps}; it must be at least 4: the shortest of the runs has 0.25"
    with pytest.raises(ValueError, match=message):
        schedule_study.variants(dataclasses.replace(BASE, steps=steps))


def test_the_shortest_schedules_have_lengths_and_names_of_their_own():
    found = schedule_study.variants(dataclasses.replace(BASE, steps=4))
    assert {variant.settings.steps for variant in found} == {1, 4, 16}
    assert len({variant.name for variant in found}) == len(found) == 57


def test_what_is_lost_and_what_is_above_chance_follow_from_the_measures():
    rows = pd.DataFrame(
        {
            "purity": [0.5],
            "purity_chance": [0.2],
            "agreement": [0.7],
            "agreement_chance": [0.4],
            "probe_latents": [0.9],
            "probe_codes": [0.8],
            "probe_bag_of_codes": [0.5],
        }
    )
    (line,) = with_losses(rows).itertuples()
    assert line.purity_excess == pytest.approx(0.3)
    assert line.agreement_excess == pytest.approx(0.5)
    assert line.lost_by_quantization == pytest.approx(0.1)
    assert line.lost_by_places == pytest.approx(0.3)

    alone = rows.drop(columns=["agreement", "agreement_chance"])
    (line,) = with_losses(alone).itertuples()
    assert math.isnan(line.agreement_excess)
    assert line.purity_excess == pytest.approx(0.3)


def test_codes_are_described_with_the_images_that_the_run_saw(monkeypatch, tmp_path):
    counts = []

    def seen(run, data, classifier):
        counts.append((len(data.train), len(data.test)))
        return {}

    monkeypatch.setattr(semantics_study, "describe_codes", seen)
    settings = dataclasses.replace(BASE, train_images=16)
    run = train(settings, IMAGES, root=tmp_path, device="cpu", progress=False)
    semantics_study.measure(run, settings, IMAGES, tmp_path)
    assert counts == [(16, 16)]
