import dataclasses
import math

import pandas as pd
import pytest
import torch

from arcvq.experiments import (
    EXPERIMENTS,
    ablations,
    paper_table,
    run_experiment,
    schedule_study,
)
from arcvq.experiments.base import without_effect
from arcvq.experiments.measures import reconstruction
from arcvq.metrics import psnr
from arcvq.runs.settings import ALL_QUANTIZERS, train
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from tests.strokes import IMAGES
from tests.strokes import SMALL as BASE


def by_name(variants):
    assert len({variant.name for variant in variants}) == len(variants)
    return {variant.name: variant for variant in variants}


@pytest.mark.parametrize(
    "module", [paper_table, ablations, schedule_study], ids=lambda module: module.__name__
)
def test_variants_differ_and_can_all_be_built(module):
    base = dataclasses.replace(BASE, num_codes=16)
    variants = module.variants(base)
    by_name(variants)
    for variant in variants:
        if variant.settings.num_codes <= 1024:
            variant.settings.model(IMAGES)
    facts = {(variant.settings, *variant.facts.items()) for variant in variants}
    assert len(facts) == len(variants)


def test_the_papers_table_holds_every_quantizer_and_each_half_of_samp():
    found = by_name(paper_table.variants(BASE))
    quantizers = {variant.settings.quantizer for variant in found.values()}
    assert quantizers == set(ALL_QUANTIZERS) - {"cosine_ema"}
    scaled = SAMP.for_run(BASE.steps)
    assert found["SAMP"].settings.samp == scaled
    assert found["BBNR alone"].settings.samp == dataclasses.replace(scaled, weight=None)
    assert found["margin alone"].settings.samp == dataclasses.replace(scaled, radius=None)
    for name, variant in found.items():
        beta = BASE.beta / 4 if name == "CVQ as its authors run it" else BASE.beta
        expected = dataclasses.replace(BASE, beta=beta)
        assert dataclasses.replace(variant.settings, quantizer="samp", samp=None) == expected


def test_a_commitment_weight_goes_to_the_quantizers_that_have_it():
    weighted = dataclasses.replace(BASE, beta=1.0)
    found = by_name(paper_table.variants(weighted))
    assert {found[name].settings.beta for name in ("plain VQ", "SAMP", "BBNR alone")} == {1.0}
    assert found["CVQ as its authors run it"].settings.beta == 0.25
    for name in ("FSQ", "SimVQ", "rotation trick"):
        assert found[name].settings == by_name(paper_table.variants(BASE))[name].settings

    of_baseline = dataclasses.replace(BASE, quantizer="simvq", commitment=2.0)
    found = by_name(paper_table.variants(of_baseline))
    assert {found[name].settings.commitment for name in ("LFQ", "SimVQ")} == {2.0}
    assert {found[name].settings.commitment for name in ("SAMP", "BSQ")} == {None}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize(
    "change",
    [{"beta": 1.0}, {"quantizer": "simvq"}, {"quantizer": "plain"}, {"samp": SAMP(margin=0.2)}],
    ids=str,
)
def test_an_experiment_starts_from_settings_that_only_some_variants_have(name, change):
    base = dataclasses.replace(BASE, **change)
    usual = EXPERIMENTS[name].variants(BASE)
    assert [one.name for one in EXPERIMENTS[name].variants(base)] == [one.name for one in usual]


@pytest.mark.parametrize("quantizer", ["plain", "cvq_closest"])
def test_a_reconstruction_that_weighs_four_times_is_a_fourth_of_the_commitment_loss(quantizer):
    """With Adam, but for its eps, which hardly counts here."""

    def weights_after_training(beta, weight):
        settings = dataclasses.replace(BASE, quantizer=quantizer, beta=beta)
        model = settings.model(IMAGES).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-15)
        torch.manual_seed(1)
        for _ in range(5):
            images = IMAGES.train.batch(torch.arange(16)).double()
            output = model(images)
            error = (output.reconstruction - images).square().mean()
            optimizer.zero_grad()
            (weight * error + output.quantized.loss).backward()
            optimizer.step()
            model.quantizer.after_step()
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    theirs = weights_after_training(0.25, 4)
    ours = weights_after_training(0.0625, 1)
    assert torch.allclose(theirs, ours, atol=1e-6)
    assert not torch.allclose(theirs, weights_after_training(0.25, 1), atol=1e-4)


def test_an_ablation_changes_one_thing_and_holds_the_papers_own_value():
    samp = SAMP.for_run(BASE.steps)
    base = dataclasses.replace(BASE, samp=samp)
    found = ablations.variants(BASE)
    for axis in ablations.ABLATION_AXES:
        field = {"beta": "beta", "codes": "num_codes", "dim": "dim"}.get(axis, "samp")
        for variant in found:
            if variant.facts["axis"] == axis:
                value = getattr(variant.settings, field)
                assert variant.settings == dataclasses.replace(base, **{field: value})

    names = by_name(found)
    own = "margin 0.1, scale 5, top_k 3, alpha 8.85, gamma0 1, lambda 14.75, both halves"
    for name in own.split(", "):
        assert names[name].settings.samp == samp
    assert names["alpha 3"].settings.samp.radius.value(BASE.steps) == pytest.approx(math.exp(3))
    assert names["gamma0 3"].settings.samp.weight.value(0) == 3.0


def test_schedules_know_their_run_but_for_the_papers_rates():
    found = schedule_study.variants(dataclasses.replace(BASE, steps=400))
    assert {variant.settings.steps for variant in found} == {100, 400, 1600}
    for variant in found:
        scaled = SAMP.for_run(variant.settings.steps)
        other_half = {"radius": "weight", "weight": "radius"}[variant.facts["half"]]
        assert getattr(variant.settings.samp, other_half) == getattr(scaled, other_half)
        if variant.facts == {"half": "radius", "schedule": "exponential per step"}:
            assert variant.settings.samp.radius == Exponential(3e-4)


def test_a_given_ball_grows_at_its_own_rate_beside_weights_of_any_length():
    given = SAMP.for_run(400, lr=6e-4, dim=16, margin=0.3)
    found = schedule_study.variants(dataclasses.replace(BASE, steps=400, samp=given))
    lengths = set()
    for variant in found:
        steps = variant.settings.steps
        samp = variant.settings.samp
        assert samp.margin == 0.3
        if variant.facts["half"] == "weight":
            lengths.add(steps)
            assert samp.radius == given.radius
        else:
            assert samp.weight == SAMP.for_run(steps).weight
    assert lengths == {100, 400, 1600}


def test_a_row_measures_the_test_images_and_the_codebook(tmp_path):
    run = train(BASE, IMAGES, root=tmp_path, device="cpu", progress=False)
    (row,) = reconstruction(run, BASE, IMAGES, tmp_path)
    originals = IMAGES.test.batch(torch.arange(len(IMAGES.test)))
    outputs = run.model.reconstruct(originals)
    assert row["psnr"] == pytest.approx(psnr(outputs, originals), abs=1e-5)
    assert row["l1"] == pytest.approx((outputs - originals).abs().mean().item(), abs=1e-6)
    assert row["codes_used"] == run.model.encode(originals).unique().numel()
    assert math.isnan(row["ssim"])
    assert math.isnan(row["lpips"])
    assert row["classifier_frechet"] >= 0
    assert 0 < row["min_angle"] < 180
    assert row["step_milliseconds"] > 0


def test_a_model_without_codes_has_no_figures_of_codes(tmp_path):
    settings = dataclasses.replace(BASE, quantizer="continuous")
    run = train(settings, IMAGES, root=tmp_path, device="cpu", progress=False)
    (row,) = reconstruction(run, settings, IMAGES, tmp_path)
    assert math.isnan(row["codes_used"])
    assert math.isnan(row["perplexity"])
    assert row["psnr"] > 0


def test_the_papers_table_runs_on_every_quantizer(tmp_path):
    rows = run_experiment(
        paper_table.PAPER_TABLE,
        dataclasses.replace(BASE, num_codes=16),
        IMAGES,
        seeds=1,
        out=tmp_path,
        root=tmp_path,
        device="cpu",
        workers=1,
        progress=False,
    )
    assert "error" not in rows
    assert rows.variant.tolist() == [*paper_table.PAPER_QUANTIZERS]
    mismatches = rows.mismatch.dropna()
    assert len(mismatches) >= 5
    assert mismatches.str.startswith("rotation trick: K and D match").any()
    table = paper_table.table(rows)
    assert table.quantizer.tolist() == [*paper_table.PAPER_QUANTIZERS]
    assert table["gap closed"][0] == "1.00"


@pytest.mark.parametrize(
    ("num_codes", "dim", "measure", "beside"),
    [
        (512, 64, "authors_psnr", True),
        (512, 64, "psnr", False),
        (64, 16, "authors_psnr", False),
    ],
)
def test_published_figures_stand_only_beside_their_size_and_measure(
    num_codes, dim, measure, beside
):
    run = {"dataset": "mnist_full", "num_codes": num_codes, "dim": dim, "seed": 0, "psnr": 20.0}
    rows = pd.DataFrame([run | {"variant": "SAMP", measure: 20.0}])
    columns = paper_table.table(rows).columns
    assert ("published PSNR (dB)" in columns) == beside


def test_the_steadiest_schedule_comes_first_with_the_lengths_at_which_it_is_level_with_the_best():
    means = pd.DataFrame(
        {"near": [19.9, 29.9], "best once": [20.0, 25.0], "best late": [18.0, 30.0]},
        index=pd.Index([100, 400], name="steps"),
    )
    seed_0 = means.melt(var_name="schedule", value_name="psnr", ignore_index=False).reset_index()
    seed_0 = seed_0.assign(half="radius", seed=0)
    rows = pd.concat([seed_0, seed_0.assign(seed=1, psnr=seed_0.psnr + 0.2)])

    found = schedule_study.steadiness(rows, "radius")
    assert [*found.index] == ["near", "best late", "best once"]
    assert [*found.behind] == pytest.approx([0.1, 2.0, 5.0])
    assert [*found.level] == [2, 1, 1]
    assert schedule_study.steadiness(seed_0, "radius").level.eq(0).all()

    lacks_a_length = rows[(rows.schedule != "near") | (rows.steps == 400)]
    part = schedule_study.steadiness(lacks_a_length, "radius")
    assert [*part.index] == ["best late", "best once", "near"]
    assert math.isnan(part.behind["near"])


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("paper", []),
        ("regime", []),
        ("codes_per_step", ["num_codes"]),
        ("best", ["dim", "lr"]),
        ("natural_images", ["precision", "hidden", "residual_hidden"]),
    ],
)
def test_sizes_that_an_experiment_sets_itself_are_named(name, ignored):
    base = dataclasses.replace(BASE, num_codes=7, dim=5, lr=0.5, precision="bfloat16")
    assert without_effect(EXPERIMENTS[name], base) == ignored


def test_sizes_among_those_that_an_experiment_tries_have_an_effect():
    assert without_effect(EXPERIMENTS["best"], dataclasses.replace(BASE, dim=8, lr=3e-3)) == []
