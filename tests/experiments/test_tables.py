import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.experiments.tables import (
    cells,
    comparison,
    interval,
    intervals_overlap,
    markdown,
    regime_note,
    runs_note,
    summary,
    variant_interval,
    verdict,
    with_gap,
)

LEVELS = {"plain VQ": 20.0, "SAMP": 23.0, "continuous": 26.0}
ROWS = pd.DataFrame(
    [
        {"variant": name, "seed": seed, "psnr": level + seed / 2, "codes_used": 10 * level}
        for (name, level), seed in itertools.product(LEVELS.items(), range(3))
    ]
)


def test_the_interval_of_three_seeds_is_that_of_all_their_resamples():
    values = [1.0, 2.0, 6.0]
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=3))
    mean, low, high = interval(values)
    assert mean == 3.0
    # 1 of 27 resamples is all 1.0 (3.7%), so 2.5% and 97.5% fall on the smallest and the largest
    assert (low, high) == (means[0], means[-1]) == (1.0, 6.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_the_interval_holds_the_mean_and_lies_within_the_values(values):
    mean, low, high = interval(values)
    slack = 1e-9 * max(map(abs, values)) + 1e-12
    assert min(values) - slack <= low <= mean + slack
    assert mean - slack <= high <= max(values) + slack


def test_one_value_has_no_interval_none_has_no_mean_and_nan_is_left_out():
    mean, *bounds = interval([3.0])
    assert mean == 3.0
    assert all(map(math.isnan, bounds))
    assert all(map(math.isnan, interval([])))
    assert interval([1.0, math.nan, 1.0]) == (1.0, 1.0, 1.0)


def test_a_summary_has_a_line_for_each_variant_without_the_runs_that_failed():
    failed = pd.DataFrame([{"variant": "SAMP", "seed": 3, "error": "OutOfMemoryError: full"}])
    table = summary(pd.concat([ROWS, failed]), ["psnr"])
    assert table.variant.tolist() == ["plain VQ", "SAMP", "continuous"]
    assert table.runs.tolist() == [3, 3, 3]
    assert table.psnr.tolist() == pytest.approx([20.5, 23.5, 26.5])
    assert table.psnr_low[1] == 23.0
    assert table.psnr_high[1] == 24.0
    message = "column 'psnrr' is unknown; the table has variant, seed, psnr, codes_used"
    with pytest.raises(ValueError, match=message):
        summary(ROWS, ["psnrr"])


def test_the_gap_is_0_at_plain_1_at_the_limit_and_missing_without_them():
    means = with_gap(ROWS).groupby("variant").gap_closed.mean()
    assert means.to_dict() == pytest.approx({"plain VQ": 0.0, "SAMP": 0.5, "continuous": 1.0})
    without_limit = ROWS[ROWS.variant != "continuous"]
    assert with_gap(without_limit).gap_closed.isna().all()
    without_a_seed = ROWS[(ROWS.variant != "plain VQ") | (ROWS.seed > 0)]
    assert with_gap(without_a_seed).gap_closed.isna().sum() == 2


def test_cells_have_the_digits_of_their_measure_and_empty_columns_are_left_out():
    table = summary(ROWS.assign(lpips=math.nan), ["psnr", "codes_used", "lpips"])
    titles = {"variant": "quantizer", "psnr": "PSNR (dB)", "codes_used": "codes", "lpips": "LPIPS"}
    texts = cells(table, titles)
    assert [*texts.columns] == ["quantizer", "PSNR (dB)", "codes"]
    assert texts.iloc[1].tolist() == ["SAMP", "23.50 (23.00 to 24.00)", "230 (230 to 230)"]
    lines = markdown(texts).splitlines()
    assert lines[:2] == ["| quantizer | PSNR (dB) | codes |", "| --- | --- | --- |"]
    assert lines[3] == "| SAMP | 23.50 (23.00 to 24.00) | 230 (230 to 230) |"


def test_the_verdict_says_whether_intervals_overlap():
    assert verdict(ROWS, "SAMP", "plain VQ") == (
        "SAMP: 23.50 dB (23.00 to 24.00); plain VQ: 20.50 dB (20.00 to 21.00); "
        "the intervals do not overlap"
    )
    near = ROWS.assign(psnr=ROWS.psnr.where(ROWS.variant != "plain VQ", ROWS.psnr + 2.5))
    assert verdict(near, "SAMP", "plain VQ").endswith("; the intervals overlap")
    assert verdict(near, "plain VQ", "SAMP").endswith("; the intervals overlap")


def test_a_comparison_says_on_which_side_a_variant_lies():
    measures = {"psnr": "PSNR", "codes_used": "codes"}
    found = comparison(ROWS, "SAMP", ["plain VQ", "continuous", "SAMP"], measures)
    assert found.loc["PSNR"].tolist() == ["higher", "lower", "overlap"]
    assert found.index.tolist() == ["PSNR", "codes"]
    one_seed = ROWS[ROWS.seed == 0]
    assert comparison(one_seed, "SAMP", ["plain VQ"], measures).loc["PSNR", "plain VQ"] == "unknown"


def test_a_single_seed_has_no_interval_that_could_overlap():
    one = ROWS[ROWS.seed == 0]
    intervals = [variant_interval(one, name) for name in ("SAMP", "plain VQ")]
    assert intervals_overlap(*intervals) is None
    assert verdict(one, "SAMP", "plain VQ") == (
        "SAMP: 23.00 dB; plain VQ: 20.00 dB; a single seed has no interval"
    )


def test_a_variant_whose_runs_all_failed_is_named():
    errors = [None if name != "SAMP" else "out of memory" for name in ROWS.variant]
    failed = ROWS.assign(error=errors)
    message = "'SAMP' has no finished run; there are 'plain VQ', 'continuous'"
    with pytest.raises(ValueError, match=message):
        verdict(failed, "SAMP", "plain VQ")


def test_the_regime_is_told_beside_the_papers():
    rows = pd.DataFrame(
        {"positives_per_latent": [0.98, 0.98, None], "ball_rate": [0.0, 0.93, None], "psnr": 20.0}
    )
    assert regime_note(rows) == (
        "positives per latent, K k / N: 0.98 (the paper's on MNIST: 0.0306); "
        "rate of the ball, alpha / (lr sqrt(D)): 0 to 0.93 (the paper's on MNIST: 0.125)"
    )
    assert regime_note(rows[2:]) == "", "no run has SAMP"
    assert regime_note(rows[["psnr"]]) == "", "an earlier version measured"


def test_rows_without_a_value_of_by_are_a_group_as_well():
    rows = pd.DataFrame(
        {"variant": ["a", "a", "b"], "value": [0.1, 0.1, math.nan], "psnr": [20.0, 22.0, 24.0]}
    )
    table = summary(rows, ["psnr"], by=("variant", "value"))
    assert table.variant.tolist() == ["a", "b"]
    assert table.psnr.tolist() == [21.0, 24.0]


def test_intervals_that_touch_overlap():
    assert intervals_overlap((0.5, 0.0, 1.0), (1.5, 1.0, 2.0))
    assert intervals_overlap((1.5, 1.0, 2.0), (0.5, 0.0, 1.0))


@pytest.mark.parametrize("mean", [1.0, 9.0])
def test_one_seed_on_either_side_leaves_it_open(mean):
    several = (1.0, 0.0, 2.0)
    single = (mean, math.nan, math.nan)
    assert intervals_overlap(several, single) is None
    assert intervals_overlap(single, several) is None


def test_a_run_of_several_rows_is_one_run():
    rows = pd.DataFrame({"variant": "SAMP", "seed": [0, 0, 1, 1], "steps": 100, "data": "mnist"})
    assert runs_note(rows) == "2 runs of 100 steps on MNIST, 2 seeds each; none failed"


def test_a_variant_with_fewer_seeds_than_others_is_told():
    rows = pd.DataFrame(
        {"variant": ["SAMP", "SAMP", "EMA"], "seed": [0, 1, 0], "steps": 100, "data": "mnist"}
    )
    assert runs_note(rows) == "3 runs of 100 steps on MNIST, 1 to 2 seeds each; none failed"
    assert runs_note(rows[1:2]) == "1 run of 100 steps on MNIST, 1 seed each; none failed"
