import dataclasses
import itertools
import math

import pandas as pd
import pytest
import torch

from arcvq.analysis.gradients import term_gradients
from arcvq.experiments import best_study, run_experiment
from arcvq.experiments.best_study import BEST, QUANTIZERS, commitment_measures
from arcvq.figures.experiment_results import pictures
from arcvq.images import ImageData
from arcvq.runs.settings import train
from arcvq.samp import SAMP
from arcvq.schedules import Constant
from arcvq.training import evaluate
from tests.strokes import IMAGES, split
from tests.strokes import SMALL as BASE


def some_candidates(base):
    """Two or three for each quantizer."""
    return best_study.candidates(base)[::4]


SEARCH = dataclasses.replace(best_study.SEARCH, variants=some_candidates)
SHORT = dataclasses.replace(BEST, search=SEARCH)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where all tests here keep their runs and the classifier: each is trained once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run(root):
    """Runs an experiment whose rows are kept in a folder of the test's own."""

    def run(out, images=IMAGES, experiment=SHORT, **options):
        usual = {
            "seeds": 2,
            "only": ["plain VQ", "SAMP"],
            "out": out,
            "root": root,
            "device": "cpu",
            "workers": 1,
            "progress": False,
        }
        return run_experiment(experiment, BASE, images, **usual | options)

    return run


def searched(out):
    return pd.read_parquet(out / "search" / "best_search.parquet")


def test_each_quantizer_has_nine_settings_that_differ_and_can_be_built():
    found = best_study.candidates(BASE)
    assert len({variant.name for variant in found}) == len(found) == 9 * len(QUANTIZERS)
    assert len({variant.settings for variant in found}) == len(found)
    for variant in found:
        assert QUANTIZERS[variant.facts["candidate_for"]] == variant.settings.quantizer
        if variant.settings.dim == 8:
            variant.settings.model(IMAGES)


@pytest.mark.parametrize("name", ["plain VQ", "SimVQ", "SAMP"])
def test_any_two_values_of_different_settings_occur_together_once(name):
    columns = []
    for variant in best_study.candidates(BASE):
        if variant.facts["candidate_for"] == name:
            settings = variant.settings
            weight = settings.commitment if name == "SimVQ" else settings.beta
            margin = (variant.facts.get("gamma0"), variant.facts.get("decay"))
            columns.append((weight, settings.dim, settings.lr, margin))
    first, *others = zip(*columns, strict=True)
    varied = [first, *others] if name == "SAMP" else [first, *others[:2]]
    for one, other in itertools.combinations(varied, 2):
        assert len({*zip(one, other, strict=True)}) == 9


def test_the_settings_of_samp_include_the_papers_schedule_scaled_to_the_run():
    found = [one.settings.samp for one in best_study.candidates(BASE) if one.settings.samp]
    assert len(found) == 9
    assert SAMP.for_run(BASE.steps) in found
    assert {samp.radius for samp in found} == {SAMP.for_run(BASE.steps).radius}
    ends = {round(math.log(one.weight.value(0) / one.weight.value(BASE.steps)), 2) for one in found}
    assert ends == {14.75, 59.0}


def test_at_the_papers_rate_the_ball_of_each_candidate_grows_as_fast_beside_adam():
    samp = SAMP.for_run(BASE.steps, lr=BASE.lr, dim=BASE.dim, margin=0.3)
    base = dataclasses.replace(BASE, samp=samp)
    found = [one.settings for one in best_study.candidates(base) if one.settings.samp]
    assert len(found) == 9
    for settings in found:
        reach = settings.lr * math.sqrt(settings.dim)
        assert settings.samp.radius.rate / reach == pytest.approx(0.125)
        assert settings.samp.margin == 0.3
    default = best_study.candidates(BASE)
    weights = [one.settings.samp.weight for one in default if one.settings.samp]
    assert [settings.samp.weight for settings in found] == weights


@pytest.mark.parametrize("radius", [Constant(2.0), None])
def test_candidates_keep_what_they_are_told_of_samp_but_the_weight(radius):
    told = SAMP(margin=0.3, top_k=5, radius=radius, codes_per_step=8)
    base = dataclasses.replace(BASE, samp=told)
    found = [one.settings for one in best_study.candidates(base) if one.settings.samp]
    assert {settings.quantizer for settings in found} == {"samp"}
    for settings in found:
        assert dataclasses.replace(settings.samp, weight=told.weight) == told
    variants = {one.name: one.settings.samp for one in best_study.variants(base)}
    assert variants.pop("SAMP") == told
    assert {*variants.values()} == {None}


def test_the_best_on_validation_images_is_measured_with_fresh_seeds(run, root, tmp_path):
    rows = run(tmp_path)
    tried = searched(tmp_path)
    names = [one.name for one in some_candidates(BASE)]
    candidates = [name for name in names if name.startswith(("plain VQ, D", "SAMP, D"))]
    assert tried.variant.tolist() == candidates
    assert set(tried.seed) == {0}
    for variant, group in tried.groupby("candidate_for"):
        best = group.loc[group.psnr.idxmax()]
        own = rows[rows.variant == variant]
        assert own.seed.tolist() == [1, 2]
        assert set(own.chosen) == {best.variant}
        assert set(own.search_steps) == set(own.steps)
        for name in ("dim", "lr", "commitment_weight"):
            assert set(own[name]) == {best[name]}

    def psnr(name, seed, images):
        settings = dataclasses.replace(by_name[name], seed=seed)
        found = train(settings, IMAGES, root=root, device="cpu", progress=False)
        return evaluate(found.model, images)["psnr"]

    by_name = {one.name: one.settings for one in best_study.candidates(BASE)}
    assert tried.psnr[0] == psnr(tried.variant[0], 0, IMAGES.validation)
    assert rows.psnr[0] == psnr(rows.chosen[0], 1, IMAGES.test)


def test_test_images_have_no_part_in_the_choice(run, tmp_path):
    others = ImageData("strokes", IMAGES.train, IMAGES.validation, split(8, 9), ("a", "b"))
    options = {"only": ["plain VQ"], "seeds": 1}
    one = run(tmp_path / "one", **options)
    # Trained apart, too.
    other = run(tmp_path / "other", others, root=tmp_path / "other" / "data", **options)
    measures = ["variant", "psnr", "distance"]
    assert searched(tmp_path / "one")[measures].equals(searched(tmp_path / "other")[measures])
    assert one.chosen.tolist() == other.chosen.tolist()
    assert one.psnr[0] != other.psnr[0]


def test_a_search_is_only_read_when_more_seeds_are_asked_for(run, tmp_path):
    few = run(tmp_path, only=["plain VQ"], seeds=1)

    def measured_again(*run):
        raise AssertionError("a candidate was measured again")

    search = dataclasses.replace(SEARCH, measure=measured_again)
    more = run(tmp_path, experiment=dataclasses.replace(BEST, search=search), only=["plain VQ"])
    columns = ["variant", "seed", "psnr", "chosen"]
    again = more[more.seed == 1][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, few[columns])


def test_what_is_best_in_short_runs_can_be_trained_at_length(run, root, tmp_path):
    steps = BASE.steps // 2
    at_length = run(tmp_path, experiment=dataclasses.replace(SHORT, search_steps=steps), seeds=1)
    short = run_experiment(
        SEARCH,
        dataclasses.replace(BASE, steps=steps),
        IMAGES,
        seeds=1,
        only=[one.name for one in some_candidates(BASE) if one.facts["candidate_for"] == "SAMP"],
        out=tmp_path / "search",
        root=root,
        device="cpu",
        progress=False,
    )
    samp = at_length[at_length.variant == "SAMP"].iloc[0]
    assert samp.chosen == short.variant[short.psnr.idxmax()]
    assert (samp.search_steps, samp.steps) == (steps, BASE.steps)

    (chosen,) = [one for one in best_study.candidates(BASE) if one.name == samp.chosen]
    settings = dataclasses.replace(chosen.settings, seed=1)
    found = train(settings, IMAGES, root=root, device="cpu", progress=False)
    assert found.settings["steps"] == BASE.steps
    assert samp.psnr == evaluate(found.model, IMAGES.test)["psnr"]


def test_a_candidate_that_fails_is_not_chosen_and_a_quantizer_without_any_other_says_so(
    run, tmp_path
):
    def measure(run, settings, data, root):
        if settings.quantizer == "plain" or settings.lr == 3e-3:
            raise RuntimeError("diverged")
        # Those that fail would be the best.
        return [{"psnr": settings.lr}]

    search = dataclasses.replace(SEARCH, measure=measure)
    experiment = dataclasses.replace(BEST, search=search, measure=measure)
    rows = run(tmp_path, experiment=experiment, only=["plain VQ", "EMA"], seeds=1)
    assert rows.error[0].startswith("every candidate of the search failed; the reasons are in ")
    assert "chosen" not in rows or pd.isna(rows.chosen[0])
    assert not list((tmp_path / "rows").glob("plain-VQ*"))
    assert rows.lr[1] == max(lr for lr in searched(tmp_path).lr if lr < 3e-3)


def test_a_variant_without_candidates_keeps_its_settings(run, tmp_path):
    search = dataclasses.replace(SEARCH, variants=lambda base: some_candidates(base)[:2])
    rows = run(tmp_path, experiment=dataclasses.replace(BEST, search=search), only=["SAMP"])
    assert rows.seed.tolist() == [1, 2]
    assert set(rows.dim) == {BASE.dim}


@pytest.mark.parametrize("quantizer", ["plain", "cvq", "samp"])
def test_gradients_of_the_terms_are_those_of_the_analysis(tmp_path, quantizer):
    settings = dataclasses.replace(BASE, quantizer=quantizer)
    model = train(settings, IMAGES, root=tmp_path, device="cpu", progress=False).model
    images = IMAGES.train.batch(torch.arange(8))
    expected = term_gradients(model, images, IMAGES.variance)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = commitment_measures(model, images, IMAGES.variance)

    for name in ("reconstruction", "commitment"):
        norm = expected.at_latents[name].norm().item()
        assert found[f"{name}_gradient"] == pytest.approx(norm, rel=1e-4)
    codes = model.quantizer.codebook.detach()[expected.indices]
    latents = expected.latents.detach()
    assert found["distance"] == pytest.approx((latents - codes).norm(dim=1).mean().item())
    assert found["latent_norm"] == pytest.approx(latents.norm(dim=1).mean().item())
    assert found["chosen_code_norm"] == pytest.approx(codes.norm(dim=1).mean().item())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.quantizer.training


def test_where_nothing_draws_latents_and_codes_together_there_is_no_distance(tmp_path):
    settings = dataclasses.replace(BASE, quantizer="fsq")
    model = train(settings, IMAGES, root=tmp_path, device="cpu", progress=False).model
    found = commitment_measures(model, IMAGES.train.batch(torch.arange(8)), IMAGES.variance)
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {"distance", "commitment_gradient", "commitment_weight"}
    assert found["reconstruction_gradient"] > 0


def test_tables_and_figures_of_both_stages_hold_all_quantizers(run, tmp_path):
    names = ["plain VQ", "FSQ", "SAMP"]
    rows = run(tmp_path, only=names, seeds=1)
    assert "error" not in rows
    texts = best_study.table(rows)
    assert texts.quantizer.tolist() == names
    assert {"D", "beta", "learning rate", "gamma0", "lambda T"} <= {*texts.columns}
    gradient = texts["gradient of the reconstruction (thousandths)"]
    measured = [1000 * value for value in rows.reconstruction_gradient]
    assert gradient.tolist() == [f"{value:,.3f}" for value in measured]
    assert texts.beta[texts.quantizer == "FSQ"].item() == ""
    assert len(pictures(rows)) == 1

    tried = searched(tmp_path)
    assert len(best_study.table(tried)) == len(tried)
    (_, _, figure), _ = pictures(tried)
    lines = {trace.name for trace in figure.data}
    assert lines == {*names}
