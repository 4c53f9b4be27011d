import dataclasses
import itertools
import math

import pandas as pd
import pytest
from scipy.stats import spearmanr

from arcvq.experiments.ablations import PAPER_CLAIMS, claims, effects, variants
from arcvq.experiments.stored_results import stored
from arcvq.experiments.tables import runs_note
from arcvq.samp import SAMP
from arcvq.schedules import Constant
from tests.strokes import SMALL

CLAIMED = sorted(set(itertools.chain.from_iterable(PAPER_CLAIMS)))


def made(means, axis="margin", spread=0.1):
    """Rows of three seeds for each variant, around its mean."""
    rows = []
    for value, (variant, mean) in enumerate(means.items()):
        for seed in range(3):
            psnr = mean + spread * (seed - 1)
            rows.append(
                {
                    "axis": axis,
                    "variant": variant,
                    "value": float(value),
                    "seed": seed,
                    "psnr": psnr,
                    "steps": 100,
                    "data": "digits",
                }
            )
    return pd.DataFrame(rows)


def test_an_axis_is_described_by_its_extremes_and_its_trend():
    rows = made({"margin 0": 20.0, "margin 0.1": 21.0, "margin 0.3": 22.0})
    (line,) = effects(rows).itertuples()
    assert (line.Index, line[1], line[2]) == ("margin", "margin 0.3", "margin 0")
    assert line.difference == pytest.approx(2)
    assert line.apart
    assert line.trend == pytest.approx(0.9486832980505138)  # ties: three values, nine runs
    assert line.p < 0.001


def one_run_each(measured, values):
    rows = pd.DataFrame({"value": values, "psnr": measured}).assign(axis="margin", seed=0)
    rows["variant"] = [f"margin {value:g}" for value in rows.value]
    return effects(rows).loc["margin"]


def test_of_few_runs_a_trend_is_compared_with_all_their_orders():
    rising = one_run_each([20.0, 21.0, 22.0, 23.0, 24.0], [0.0, 0.05, 0.1, 0.3, 0.5])
    assert rising.trend == pytest.approx(1)
    assert rising.p == pytest.approx(2 / 120)  # up or down
    # Of the 24 orders of four runs, 2 are perfect, and swapping two neighbors gives 3 more each.
    swapped = one_run_each([20.0, 22.0, 21.0, 23.0], [0.0, 0.1, 0.3, 0.5])
    assert swapped.trend == pytest.approx(0.8)
    assert swapped.p == pytest.approx(8 / 24)
    # Of the 6 ways to give two of four runs the smaller value, 2 separate high from low.
    tied = one_run_each([20.0, 20.5, 21.0, 21.5], [0.0, 0.0, 0.5, 0.5])
    assert tied.p == pytest.approx(2 / 6)


def test_the_exact_probability_is_near_that_for_many_runs():
    rows = made({"margin 0": 20.0, "margin 0.1": 20.05, "margin 0.3": 20.1, "margin 0.5": 20.15})
    few = rows[rows.seed < 2]
    found = effects(few).loc["margin"]
    approximate = spearmanr(few.value, few.psnr)
    assert found.trend == pytest.approx(approximate.statistic)
    assert found.p == pytest.approx(approximate.pvalue, abs=0.03)
    many = spearmanr(rows.value, rows.psnr)
    assert effects(rows).loc["margin", ["trend", "p"]].tolist() == [many.statistic, many.pvalue]


def test_an_axis_with_a_single_value_or_a_single_result_has_no_trend():
    for means in ({"margin 0": 20.0}, {"margin 0": 20.0, "margin 0.1": 20.0}):
        line = effects(made(means, spread=0.0)).loc["margin"]
        assert math.isnan(line.trend)
        assert math.isnan(line.p)


def test_the_effect_on_what_was_not_measured_is_refused():
    rows = made({"margin 0": 20.0, "margin 0.1": 21.0}).assign(lpips=math.nan)
    with pytest.raises(ValueError, match="measure 'lpips' has no values"):
        effects(rows, "lpips")


def test_runs_without_the_measure_have_no_part_in_a_trend():
    measured = [20.0, math.nan, 21.0, 22.0, 23.0, 24.0]
    line = one_run_each(measured, [0.0, 0.01, 0.05, 0.1, 0.3, 0.5])
    assert line.p == pytest.approx(2 / 120)


def test_settings_within_the_spread_of_their_seeds_are_not_apart():
    rows = made({"margin 0": 20.0, "margin 0.1": 20.05})
    assert not effects(rows).loc["margin", "apart"]


def test_runs_that_failed_do_not_count():
    rows = made({"margin 0": 20.0, "margin 0.1": 21.0})
    failed = made({"margin 0.3": 90.0}).assign(error="out of memory")
    every = pd.concat([rows, failed])
    assert effects(every).loc["margin", "largest at"] == "margin 0.1"
    assert runs_note(every) == "9 runs of 100 steps on digits, 3 seeds each; 3 failed"
    lengths = pd.concat([rows.assign(steps=steps) for steps in (100, 400, 1_600)])
    note = "6 runs of 100, 400 or 1,600 steps on digits, 3 seeds each; none failed"
    assert runs_note(lengths) == note


def test_a_claim_is_met_reversed_or_open():
    means = dict.fromkeys(CLAIMED, 20.0)
    means |= {"both halves": 21.0, "margin alone": 21.0, "without stop-gradient": 22.0}
    means |= {"margin 0.1": 20.05}
    found = claims(made(means)).set_index("claim")["here"]
    assert found["both halves better than BBNR alone"] == "met"
    assert found["both halves better than margin alone"] == "no difference"
    assert found["both halves better than without stop-gradient"] == "reversed"
    assert found["margin 0.1 better than margin 0"] == "within the intervals"


def test_a_difference_is_given_in_pooled_standard_errors():
    means = dict.fromkeys(CLAIMED, 20.0) | {"both halves": 21.0}
    line = claims(made(means)).set_index("claim").loc["both halves better than BBNR alone"]
    # The standard deviation of -0.1, 0, 0.1 is 0.1 in every variant.
    assert line["standard errors"] == pytest.approx(1 / (0.1 * (2 / 3) ** 0.5))


def test_a_run_that_stands_for_several_variants_counts_once_in_the_pooled_spread():
    rows = made(dict.fromkeys(CLAIMED, 20.0) | {"both halves": 21.0})
    wide = made({"scale 1": 30.0}, spread=0.3)
    found = claims(pd.concat([rows, wide])).set_index("claim")
    line = found.loc["both halves better than BBNR alone"]
    # Three different runs: that of all the others, the better one and the wide one.
    pooled = ((0.1**2 + 0.1**2 + 0.3**2) / 3) ** 0.5
    assert line["standard errors"] == pytest.approx(1 / (pooled * (2 / 3) ** 0.5))


def test_a_claim_compares_the_seeds_that_both_variants_finished():
    rows = made(dict.fromkeys(CLAIMED, 20.0))
    # The seeds of the first that the second lacks would decide, if they counted.
    extra = made({"both halves": 90.0}).assign(seed=[3, 4, 5])
    found = claims(pd.concat([rows, extra])).set_index("claim")
    line = found.loc["both halves better than BBNR alone"]
    assert line["here"] == "no difference"
    assert line["difference"] == 0


@pytest.mark.parametrize("lacking", [[0, 1, 2], [1, 2]])
def test_a_claim_about_runs_without_a_common_seed_stays_open(lacking):
    rows = made(dict.fromkeys(CLAIMED, 20.0))
    is_gone = (rows.variant == "BBNR alone") & rows.seed.isin(lacking)
    is_gone |= (rows.variant == "both halves") & (rows.seed == 0)
    found = claims(rows[~is_gone]).set_index("claim")["here"]
    assert found["both halves better than BBNR alone"] == "no common seed"
    assert found["margin 0.1 better than margin 0"] == "no difference"


def test_a_single_seed_has_no_intervals_and_decides_nothing():
    means = dict.fromkeys(CLAIMED, 20.0) | {"both halves": 21.0, "margin 0.1": 19.0}
    rows = made(means)
    several = claims(rows).set_index("claim")["here"]
    alone = claims(rows[rows.seed == 1]).set_index("claim")["here"]
    outcomes = {"met": "a single seed", "reversed": "a single seed"}
    assert set(several) == {"met", "reversed", "no difference"}
    assert alone.tolist() == several.replace(outcomes).tolist()
    # As where the others failed, so that one seed is all that two variants have in common.
    lacks = (rows.variant == "BBNR alone") & (rows.seed > 0)
    found = claims(rows[~lacks]).set_index("claim")["here"]
    assert found["both halves better than BBNR alone"] == "a single seed"
    assert found["both halves better than margin alone"] == "met"


def test_the_stored_table_answers_every_claim():
    found = claims(stored("ablations-digits"))
    assert len(found) == len(PAPER_CLAIMS)
    assert set(found.here) <= {"met", "reversed", "within the intervals", "no difference"}


def test_the_settings_of_the_text_differ_from_those_of_the_code_in_scale_and_alpha():
    found = {one.name: one.settings.samp for one in variants(SMALL)}
    text = found["scale and alpha of the text"]
    code = found["both halves"]
    assert text.scale == 10
    assert float(text.radius.value(SMALL.steps)) == pytest.approx(1.34, abs=0.01)
    assert dataclasses.replace(text, scale=code.scale, radius=code.radius) == code


@pytest.mark.parametrize("margin", [0.1, 0.3])
def test_at_the_papers_rate_the_ball_grows_as_fast_beside_adam_on_every_axis_but_its_own(margin):
    samp = SAMP.for_run(SMALL.steps, lr=SMALL.lr, dim=SMALL.dim, margin=margin)
    for one in variants(dataclasses.replace(SMALL, samp=samp)):
        settings = one.settings
        sets_alpha = one.facts["axis"] == "alpha" or one.name.startswith("scale and alpha")
        if sets_alpha or settings.samp.radius is None:
            continue
        reach = settings.lr * math.sqrt(settings.dim)
        assert settings.samp.radius.rate / reach == pytest.approx(0.125), one.name
        if one.facts["axis"] == "dim":
            assert settings.samp == dataclasses.replace(samp, radius=settings.samp.radius)


@pytest.mark.parametrize("radius", [Constant(2.0), SAMP.for_run(SMALL.steps).radius, None])
def test_any_other_ball_is_the_same_for_every_dimension(radius):
    samp = SAMP(margin=0.3, radius=radius)
    found = variants(dataclasses.replace(SMALL, samp=samp))
    dims = [one.settings for one in found if one.facts["axis"] == "dim"]
    assert len({settings.dim for settings in dims}) == len(dims) == 5
    assert {settings.samp for settings in dims} == {samp}
