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
            "perplexity": level,
        }
        for (name, level), seed in itertools.product(LEVELS.items(), range(3))
    ]
).assign(
    experiment="paper",
    data="mnist",
    dataset="mnist",
    steps=1000,
    batch_size=128,
    num_codes=512,
    dim=64,
    hidden=128,
    residual_hidden=32,
    lr=3e-4,
    train_images=None,
    mismatch=None,
    ball_rate=0.25,
)


def lines_of(text):
    """The lines of the tables in a text, as lists of cells."""
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in tables]


@pytest.mark.parametrize("name", findings.COMMANDS)
def test_a_note_says_where_a_command_makes_more_today_than_its_table_has(name):
    rows = stored(name)
    experiment = EXPERIMENTS[name.split("-")[0]]
    sizes = {field: int(rows[field].median()) for field in ("steps", "batch_size", "num_codes")}
    made = {variant.name for variant in experiment.variants(RunSettings(**sizes))}
    note = findings.NOTES.get(name, "")
    on_variants = note.removesuffix("since then: SSIM")
    if "--only" not in findings.COMMANDS[name]:
        assert made == {*rows.variant} or "since then" in on_variants or "--only" in note
    if experiment.measure in (reconstruction, paper_table.measure, best_study.measure):
        assert ("authors_psnr" in rows) != (findings.AUTHORS in note)
        assert rows.ssim.isna().all() == ("SSIM" in note)


def test_every_stored_table_that_has_a_command_has_a_section():
    assert {finding.name for finding in findings.findings()} == {*findings.COMMANDS}


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([0], ", one seed, so without intervals."),
        ([0, 1], ", 2 seeds (two equal settings have separate intervals one time in three)."),
        ([0, 1, 2], ", 3 seeds."),
    ],
)
def test_the_number_of_seeds_is_told_with_what_it_means(seeds, sentence):
    assert sentence in findings.quantizers(PAPER[PAPER.seed.isin(seeds)])


def test_the_published_gap_is_split_into_weight_and_quantizer():
    cvq = PAPER[PAPER.variant == "CVQ"]
    closest = cvq.assign(variant="CVQ, closest anchors", psnr=cvq.psnr + 1)
    weighted = cvq.assign(variant="CVQ as its authors run it", psnr=cvq.psnr + 1.5)
    text = findings.quantizers(pd.concat([PAPER, closest, weighted]))
    assert "27.87 dB of CVQ and 28.01 dB of SAMP" in text
    assert '"CVQ as its authors run it" is 0.50 dB above "CVQ, closest anchors"; the' in text
    assert 'SAMP is 1.50 dB above "CVQ as its authors run it"; the' in text
    assert 'SAMP is 2.00 dB above "CVQ, closest anchors"; the' in text
    assert "as published" not in findings.quantizers(PAPER)
    digits = pd.concat([PAPER, closest, weighted]).assign(dataset="digits")
    assert "as published" not in findings.quantizers(digits), "nothing is published of these"


def test_the_start_of_the_codes_is_told_apart_from_the_lookup_by_angle():
    unit_start = PAPER[PAPER.variant == "plain VQ"].assign(variant="plain VQ, unit start")
    unit_start = unit_start.assign(psnr=unit_start.psnr + 2.5)
    text = findings.quantizers(pd.concat([PAPER, unit_start]))
    start = '"plain VQ, unit start" is 2.50 dB above plain VQ; the intervals do not overlap'
    lookup = 'cosine is 0.40 dB above "plain VQ, unit start"; the intervals do not overlap'
    assert f"**The start on the unit sphere.** {start}." in text
    assert f"**The lookup by angle.** {lookup}." in text
    assert "ranks 2nd of 5 quantizers" in text, "another start is no other quantizer"
    assert "on the unit sphere" not in findings.quantizers(PAPER)


def test_nothing_is_said_of_intervals_that_are_not_known():
    text = findings.quantizers(PAPER[PAPER.seed == 0])
    assert "SAMP ranks 2nd of 5 quantizers." in text
    assert "Its interval" not in text
    alone = PAPER[(PAPER.seed == 0) | (PAPER.variant != "CVQ")]
    assert "Its interval overlaps with that of cosine." in findings.quantizers(alone)


def test_variants_that_lack_a_seed_are_told():
    incomplete = PAPER[(PAPER.seed < 2) | (PAPER.variant != "CVQ")]
    assert ", 2 to 3 seeds." in findings.quantizers(incomplete)


def test_quantizers_are_listed_by_their_decibels():
    _, _, *lines = lines_of(findings.quantizers(PAPER))
    names = [line[0] for line in lines]
    assert names[:2] == ["continuous", "FSQ"]
    assert {*names[2:4]} == {"SAMP", "margin alone"}
    assert {*names[-2:]} == {"plain VQ", "CVQ"}
    assert lines[1] == [
        "FSQ",
        "25.10 (25.00 to 25.20)",
        "0.50 (0.50 to 0.50)",
        "250 (250 to 250)",
        "25 (25 to 25)",
    ]


def test_the_place_of_samp_is_told_with_whose_intervals_overlap():
    text = findings.quantizers(PAPER)
    assert (
        "By PSNR, SAMP ranks 2nd of 5 quantizers. Its interval overlaps with that of cosine."
        in text
    )
    better = PAPER.assign(psnr=PAPER.psnr + (PAPER.variant == "SAMP"))
    assert "Its interval overlaps with none of the others." in findings.quantizers(better)


def test_the_parts_of_samp_are_told_with_what_they_add():
    text = findings.quantizers(PAPER)
    assert "BBNR alone is 0.90 dB below cosine; the intervals do not overlap." in text
    assert "SAMP is 0.00 dB above margin alone; the intervals overlap." in text
    assert 'SAMP is 2.00 dB above "SAMP without stop-gradient"; the intervals do not' in text


def test_parts_and_gaps_that_were_not_measured_are_not_told():
    text = findings.quantizers(PAPER[PAPER.variant.isin(["plain VQ", "SAMP"])])
    assert "The ball" not in text
    assert "stop-gradient" not in text
    assert "gap" not in text.lower()
    assert "Usage" not in text


def test_usage_is_told_with_its_rank_correlation():
    rows = pd.concat(
        [
            PAPER[PAPER.variant == "SAMP"].assign(
                variant=name, psnr=20.0 + number, codes_used=100 + number
            )
            for number, name in enumerate(findings.QUANTIZERS)
        ]
    )
    assert "rank correlation of 1.00" in findings.quantizers(rows)
    turned = rows.assign(codes_used=-rows.codes_used)
    assert "rank correlation of -1.00" in findings.quantizers(turned)


def test_at_a_glance_the_gain_of_samp_is_bold_where_the_intervals_are_apart(monkeypatch):
    monkeypatch.setattr(findings, "stored", lambda name: PAPER)
    sections = [
        findings.Finding("paper-x", "The paper's runs, again", ""),
        findings.Finding("regime-x", "No quantizers here", ""),
        findings.Finding("best-x", "At their best", ""),
    ]
    header, _, first, second = lines_of(findings.at_a_glance(sections))
    by_name = dict(zip(header, first, strict=True))
    assert by_name["runs"] == "[The paper's runs, again](#the-papers-runs-again)"
    assert by_name["steps"] == "1,000"
    assert by_name["plain VQ"] == "**+3.00**"
    assert by_name["cosine"] == "+0.10"
    assert by_name["EMA"] == ""
    assert by_name["FSQ"] == "**-2.00**"
    assert by_name["seeds"] == "3"
    assert second[0] == "[At their best](#at-their-best)"


def tuned(rows, lr):
    """Rows as those of the experiment `best`."""
    return rows.assign(
        experiment="best", lr=lr, commitment_weight=0.25, gamma0=1.0, decay=14.75
    ).assign(**dict.fromkeys(best_study.COMMITMENT_MEASURES, 1.0))


def test_tuned_quantizers_are_listed_by_what_they_reach():
    rows = PAPER[PAPER.variant.isin(["SAMP", "FSQ"])]
    text = findings.at_their_best(tuned(rows, [1e-3] * 3 + [3e-3] * 3))
    _, _, *lines = lines_of(text)
    assert [line[0] for line in lines] == ["FSQ", "SAMP"]
    assert lines[0][3:7] == ["0.003", "1", "14.75", "25.10 (25.00 to 25.20)"]
    assert "On MNIST: 1,000 steps" in text
    assert "has 128 channels, 32 in the residual layers, and learns from" in text
    assert "SAMP ranks 2nd of 2" in text
    assert "the largest tried" not in text


def test_a_start_that_was_tuned_on_its_own_counts_among_the_tuned():
    rows = PAPER[PAPER.variant.isin(["SAMP", "FSQ"])]
    unit_start = PAPER[PAPER.variant == "SAMP"].assign(variant="plain VQ, unit start")
    unit_start = unit_start.assign(psnr=unit_start.psnr - 0.15)
    text = findings.at_their_best(tuned(pd.concat([rows, unit_start]), 1e-3))
    assert "SAMP ranks 2nd of 3 quantizers." in text
    assert 'Its interval overlaps with that of "plain VQ, unit start".' in text


@pytest.mark.parametrize(
    ("rates", "who"),
    [({"cosine": 3e-3}, "All chose"), ({"cosine": 1e-3}, "All but cosine chose")],
)
def test_where_most_chose_the_largest_rate_the_pairs_that_were_tried_with_it_are_named(rates, who):
    rows = PAPER[PAPER.variant.isin(["SAMP", "FSQ", "cosine"])]
    text = findings.at_their_best(tuned(rows, rows.variant.map(rates).fillna(3e-3)))
    assert f"{who} a learning rate of 0.003, the largest tried" in text
    assert "three pairs only (0.25 with 64, 1 with 16, 4 with 8)" in text


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
    rows = pd.DataFrame(rows).assign(steps=1000, seed=0, variant="SAMP")
    text = findings.regime(rows)
    assert text.startswith("Runs of 1,000 steps on digits (one seed, so without intervals)")
    _, _, codes, top_k = lines_of(text)
    assert codes == ["codes K", "32 to 512", "3.00", "50", "3.00", "25"]
    assert top_k[:4] == ["top-k (latents)", "1 to 12", "0.50", "8"]
    assert text.endswith("by at most 0.50 dB and usage by at most 8 points.")


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
    _, _, _, few, _ = lines_of(text)
    assert few == [
        "K 512, SAMP on 3%",
        "24.50 (24.00 to 25.00)",
        "300 (300 to 300)",
        "21.0 (21.0 to 21.0)",
    ]
    assert text.endswith(
        '"K 512, SAMP on 3%" is 0.10 dB below "K 512, SAMP on 100%"; the intervals overlap.'
    )


def schedule_rows(half):
    psnr = {
        "exponential scaled": {100: 19.0, 400: 30.0},
        "exponential per step": {100: 20.0, 400: 27.0},
        "no ball": {100: 18.0, 400: 29.0},
    }
    return [
        {"half": half, "schedule": name, "steps": steps, "psnr": psnr[name][steps], "seed": 0}
        for name, steps in itertools.product(psnr, (100, 400))
    ]


def test_the_steadiest_schedule_is_the_one_that_is_never_far_below_the_best():
    rows = pd.DataFrame(schedule_rows("radius") + schedule_rows("weight"))
    rows = rows.assign(data="digits", variant=rows.schedule, num_codes=64, dim=16)
    rows = rows.assign(ball_rate=rows.half.map({"radius": 9.0, "weight": 0.5}))
    text = findings.schedules(rows)
    assert text.startswith("Runs of 100 and 400 steps on digits, with 64 codes of 16 dimensions")
    assert (
        "alpha / (lr sqrt(D)): 0.5 (the paper's on MNIST: 0.125). Each radius has its own" in text
    )
    _, _, *lines = lines_of(text)
    assert lines[:3] == [
        ["exponential scaled", "1.00", "0 of 2"],
        ["no ball", "2.00", "0 of 2"],
        ["exponential per step", "3.00", "0 of 2"],
    ]
    assert lines[3][0] == "schedule of the weight"


def test_settings_are_told_by_their_titles_and_the_one_that_moves_most_comes_first():
    psnr = {
        ("margin", 0.0): (20.0, 21.0),
        ("margin", 0.1): (20.5, 21.5),
        ("lambda", 0.0): (18.0, 19.0),
        ("lambda", 3.0): (20.5, 21.5),
        ("part", 0.0): (1.0, 2.0),  # what is left out is no setting
    }
    runs = []
    for (axis, value), both in psnr.items():
        variant = f"{axis} {value:g}"
        for seed, one in enumerate(both):
            run = {"axis": axis, "value": value, "variant": variant, "seed": seed, "psnr": one}
            runs.append(run)
    rows = pd.DataFrame(runs).assign(data="digits", steps=400, num_codes=64, ball_rate=0.25)
    text = findings.ablations(rows)
    _, _, decay, margin, *_ = lines_of(text)
    assert decay == [
        "decay of the weight over the run, lambda T",
        "lambda 3",
        "lambda 0",
        "2.50",
        "apart",
    ]
    assert margin == ["margin m (rad)", "margin 0.1", "margin 0", "0.50", "overlap"]
    # The pooled spread is sqrt(0.5), so that a difference of two means of two varies by as much.
    claim = ["margin 0.1 better than margin 0", "+0.50", "+0.7", "within the intervals"]
    assert claim in lines_of(text)


@pytest.mark.parametrize(
    ("start", "until"), [(4.0, "above 1 until step 30"), (0.5, "never above 1")]
)
def test_the_gradients_are_told_until_the_margin_no_longer_leads(start, until):
    growth = {HELD: 0.1, "SAMP": 0.4, "plain VQ": 0.3}
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
                "growth_usage_correlation": growth[name] + 0.01 * seed + (step > 20),
            }
            for name, seed, step in itertools.product(growth, range(3), (10, 20, 30))
        ]
    )
    text = findings.gradients(rows)
    assert f"is {start:.1f} times as long as that of the reconstruction at step 10 of 40" in text
    assert f"the ratio is {until}. The angle between the two averages 90.0 degrees" in text
    samp = "SAMP: 0.410 (0.400 to 0.420)"
    assert f"{HELD}: 0.110 (0.100 to 0.120); {samp}; the intervals do not overlap." in text
    assert f"plain VQ: 0.310 (0.300 to 0.320); {samp}; the intervals do not overlap." in text


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
        "3,160 steps instead of 29,500, 128 images per step instead of 1,024, 48 channels instead of "
        "128, 12 channels in the residual layers instead of 32, a learning rate of 0.001 instead of "
        "0.0003 and only the first 10,000 training images"
    )
