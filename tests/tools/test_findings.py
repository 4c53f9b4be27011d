import itertools

import findings
import pandas as pd
import pytest

from arcvq.experiments import EXPERIMENTS, best_study, paper_table
from arcvq.experiments.gradient_study import HELD
from arcvq.experiments.measures import reconstruction
from arcvq.experiments.stored_results import stored
from arcvq.runs.settings import RunSettings

LEVELS = {
    "continuous": 30.0,
    "plain VQ": 20.0,
    "cosine": 22.9,
    "CVQ": 20.0,
    "BBNR alone": 22.0,
    "margin alone": 23.0,
    "SAMP": 23.0,
    "SAMP without stop-gradient": 21.0,
    "FSQ": 25.0,
}
PAPER = pd.DataFrame(
    [
        {
            "variant": name,
            "seed": seed,
            "psnr": level + 0.1 * seed,
            "codes_used": 10 * level,
            "data": "mnist",
            "steps": 1000,
        }
        for (name, level), seed in itertools.product(LEVELS.items(), range(3))
    ]
)


@pytest.mark.parametrize("name", findings.COMMANDS)
def test_a_note_says_where_a_command_makes_more_today_than_its_table_has(name):
    rows = stored(name)
    experiment = EXPERIMENTS[name.split("-")[0]]
    sizes = {field: int(rows[field].median()) for field in ("steps", "batch_size", "num_codes")}
    made = {variant.name for variant in experiment.variants(RunSettings(**sizes))}
    note = findings.NOTES.get(name, "")
    if "--only" not in findings.COMMANDS[name]:
        assert made == {*rows.variant} or "since then" in note or "--only" in note
    if experiment.measure in (reconstruction, paper_table.measure, best_study.measure):
        assert ("authors_psnr" in rows) != (findings.AUTHORS in note)


def test_samp_and_its_peers_are_told_with_whose_intervals_overlap():
    assert findings.peers(PAPER) == (
        "After 1,000 steps on MNIST, SAMP reaches a PSNR of 23.10 (23.00 to 23.20) dB; the others: "
        "plain VQ 20.10 (20.00 to 20.20), cosine 23.00 (22.90 to 23.10), CVQ 20.10 (20.00 to "
        "20.20). The interval of SAMP overlaps with that of cosine."
    )
    better = PAPER.assign(psnr=PAPER.psnr + (PAPER.variant == "SAMP"))
    assert findings.peers(better).endswith("The interval of SAMP overlaps with none of theirs.")


def test_the_best_quantizer_and_the_place_of_samp_are_found():
    text = findings.ranking(PAPER)
    assert text.startswith(
        "Of 5 quantizers, FSQ reconstructs best, with a PSNR of 25.10 (25.00 to 25.20) dB; this "
        "closes 0.50 (0.50 to 0.50) of the gap"
    )
    assert "SAMP ranks 2 of 5 and closes 0.30" in text
    assert text.endswith("overlaps with that of cosine.")


def test_tuned_quantizers_are_listed_by_what_they_reach():
    rows = PAPER[PAPER.variant.isin(["SAMP", "FSQ"])]
    text = findings.at_their_best(rows.assign(lr=[1e-3, *[3e-3] * 5]))
    assert "FSQ 25.10 (25.00 to 25.20) dB with 250 codes, SAMP 23.10" in text
    assert "in runs of 1,000 steps on MNIST" in text
    assert text.endswith("SAMP ranks 2 of 2. The interval of SAMP overlaps with none of theirs.")


def test_where_all_chose_the_largest_rate_the_pairs_that_were_tried_with_it_are_named():
    text = findings.at_their_best(PAPER[PAPER.variant.isin(["SAMP", "FSQ"])].assign(lr=3e-3))
    assert "All chose the learning rate 0.003, the largest tried" in text
    assert "three pairs only (0.25 with 64, 1 with 16, 4 with 8)" in text


def test_a_search_that_is_repeated_names_who_did_not_choose_the_largest_rate():
    rows = PAPER[PAPER.variant.isin(["SAMP", "FSQ", "cosine"])]
    rates = rows.variant.map({"SAMP": 3e-3, "FSQ": 3e-3, "cosine": 1e-3})
    text = findings.at_their_best_again(rows.assign(lr=rates))
    assert text.startswith("The same search in runs of 1,000 steps on MNIST. On test images, with ")
    assert "All but cosine chose the learning rate 0.003, the largest tried" in text


def test_the_ratios_of_the_regime_are_told_apart_from_codes_batch_and_dimension():
    rows = []
    for axis, value, psnr, used in (
        ("codes", 32, 22.0, 1.0),
        ("codes", 512, 25.0, 0.5),
        ("top_k", 1, 24.0, 0.7),
        ("top_k", 12, 24.5, 0.78),
    ):
        point = {"axis": axis, "value": float(value), "line": "SAMP", "data": "digits"}
        rows.append(point | {"psnr": psnr, "usage": used})
        if axis == "codes":
            rows.append(point | {"line": "cosine", "psnr": psnr - 0.5, "usage": used / 2})
    text = findings.regime(pd.DataFrame(rows))
    assert "codes K, 32 to 512: 3.00 dB and 50 points (cosine 3.00 dB and 25 points)" in text
    assert "top-k (latents), 1 to 12: 0.50 dB and 8 points." in text
    assert text.endswith("at most 0.50 dB and the share of the codes used by at most 8 points.")


def test_a_random_share_of_the_codes_is_compared_with_all_of_them():
    rows = []
    for name, psnr, used, time in (
        ("K 512, cosine", 23.0, 60, 20.0),
        ("K 512, SAMP on 3%", 24.0, 300, 21.0),
        ("K 512, SAMP on 100%", 24.1, 310, 30.0),
    ):
        for seed in range(2):
            row = {"variant": name, "seed": seed, "psnr": psnr + seed, "codes_used": used}
            row |= {"processor_milliseconds": time, "num_codes": 512, "steps": 500}
            rows.append(row | {"data": "digits"})
    text = findings.random_share(pd.DataFrame(rows))
    assert "of 500 steps on digits. K 512, SAMP on 3% 24.50 (24.00 to 25.00) dB, K 512, " in text
    assert "the intervals overlap; codes used 300 and 310; processor time" in text
    assert text.endswith("21 and 30 ms, 20 ms without the margin loss.")


def test_runs_of_full_length_are_told_in_the_order_of_their_decibels():
    names = ["plain VQ", "margin alone", "SAMP"]
    facts = {"num_codes": 64, "codes_used": 60, "perplexity": 30.0, "ball_rate": 0.25}
    rows = PAPER[PAPER.variant.isin(names)].assign(**facts)
    assert findings.full_length(rows) == (
        "After as many steps as in the paper, 1,000, on MNIST, with 64 codes (3 seeds). The regime "
        "of SAMP: rate of the ball, alpha / (lr sqrt(D)): 0.25 (the paper's: 0.125). PSNR, codes "
        "used and their perplexity: SAMP 23.10 (23.00 to 23.20) dB, 60 (60 to 60) codes, "
        "perplexity 30 (30 to 30); margin alone 23.10 (23.00 to 23.20) dB, 60 (60 to 60) codes, "
        "perplexity 30 (30 to 30); plain VQ 20.10 (20.00 to 20.20) dB, 60 (60 to 60) codes, "
        "perplexity 30 (30 to 30). SAMP ranks 1 of 3. The interval of SAMP overlaps with that of "
        "margin alone. Adding the ball to the margin loss: SAMP 23.10 (23.00 to 23.20) dB, margin "
        "alone 23.10 (23.00 to 23.20) dB: the intervals overlap."
    )


def test_usage_is_told_with_its_rank_correlation():
    text = findings.usage(PAPER)
    assert "rank correlation of 1.00" in text
    assert "Codes used, with the PSNR: FSQ 250 (25.10 dB), SAMP 230 (23.10 dB), " in text
    reversed_usage = PAPER.assign(codes_used=-PAPER.codes_used)
    assert "rank correlation of -1.00" in findings.usage(reversed_usage)


def test_the_halves_of_samp_are_told_with_what_they_add():
    text = findings.halves(PAPER)
    assert (
        "without the margin loss: BBNR alone 22.10 (22.00 to 22.20) dB, cosine 23.00 (22.90 to "
        "23.10) dB: the intervals do not overlap; with the margin loss: SAMP" in text
    )


@pytest.mark.parametrize(
    ("worst", "sentence"),
    [
        (
            3.0,
            "the mean of exponential scaled is never more than 1.00 dB below the best of the same "
            "length. Others, where they do worst: exponential per step 3.00 dB below (0), no ball "
            "2.00 dB below (0) and constant 1 10.00 dB below (0). ",
        ),
        (
            1.0,
            "the mean of exponential per step or exponential scaled is never more than 1.00 dB "
            "below the best of the same length. Others, where they do worst: no ball 2.00 dB below "
            "(0) and constant 1 10.00 dB below (0). ",
        ),
    ],
)
def test_the_steadiest_schedule_is_the_one_that_is_never_far_below_the_best(worst, sentence):
    psnr = {
        "exponential scaled": {100: 19.0, 400: 30.0},
        "exponential per step": {100: 20.0 - worst, 400: 29.5},
        "no ball": {100: 18.0, 400: 29.0},
        "constant 1": {100: 20.0, 400: 20.0},
    }
    rows = pd.DataFrame(
        [
            {
                "data": "digits",
                "half": "radius",
                "schedule": name,
                "steps": steps,
                "psnr": psnr[name][steps],
                "seed": 0,
            }
            for name, steps in itertools.product(psnr, (100, 400))
        ]
    )
    runs = "In runs of 100 and 400 steps on digits"
    levels = (
        "In parentheses: at how many of the 2 lengths the interval overlaps with that of the best."
    )
    assert findings.steadiest(rows, "radius") == f"{runs}, {sentence}{levels}"


def test_settings_are_told_by_their_titles_and_the_one_that_moves_most_comes_first():
    psnr = {
        ("margin", 0.0): (20.0, 21.0),
        ("margin", 0.1): (20.5, 21.5),
        ("lambda", 0.0): (18.0, 19.0),
        ("lambda", 3.0): (20.0, 21.0),
        ("part", 0.0): (1.0, 2.0),  # what is left out is no setting
        ("part", 1.0): (30.0, 40.0),
    }
    runs = []
    for (axis, value), both in psnr.items():
        runs += [{"axis": axis, "value": value, "psnr": one} for one in both]
    rows = pd.DataFrame(runs)
    assert findings.ranges(rows).endswith(
        "changing one setting at a time: decay of the weight over the run, lambda T, 2.00 dB; "
        "margin m (rad), 0.50 dB."
    )


@pytest.mark.parametrize(
    ("start", "until"), [(4.0, "above 1 until step 30"), (0.5, "never above 1")]
)
def test_the_gradients_are_told_until_the_margin_no_longer_leads(start, until):
    rows = pd.DataFrame(
        [
            {
                "variant": name,
                "seed": seed,
                "step": step,
                "steps": 40,
                "reconstruction_at_latents": 2.0,
                "margin_at_latents": 2.0 * start / (step / 10),
                "angle_reconstruction_margin": 90.0,
                "codes_on_ball": 0.6 if name == HELD and step < 30 else 0.1,
                "growth_usage_correlation": (0.1 if name == HELD else 0.4)
                + 0.01 * seed
                + (step > 20),
            }
            for name, seed, step in itertools.product((HELD, "SAMP"), range(3), (10, 20, 30))
        ]
    )
    text = findings.gradient_course(rows)
    assert f"is {start:.1f} at step 10 of 40, {until}; the angle between the two gradients" in text
    assert "averages 90.0 degrees" in text
    assert text.endswith(
        f"{HELD} 0.110 (0.100 to 0.120), SAMP 0.410 (0.400 to 0.420): the intervals do not overlap."
    )


def test_what_differs_from_the_published_runs_is_said():
    row = {
        "steps": 3160,
        "batch_size": 128,
        "hidden": 48,
        "residual_hidden": 12,
        "lr": 1e-3,
        "num_codes": 512,
        "dim": 64,
        "train_images": 10_000.0,
    }
    assert findings.differences(pd.DataFrame([row])) == (
        "3,160 steps instead of 29,500, 128 images a step instead of 1,024, 48 channels instead of "
        "128, 12 channels in the residual layers instead of 32, a learning rate of 0.001 instead of "
        "0.0003, only the first 10,000 training images; they were measured straight from tensors, "
        "not through JPEG files"
    )
