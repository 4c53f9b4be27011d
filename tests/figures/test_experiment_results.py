import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.experiments import EXPERIMENTS
from arcvq.experiments.ablations import ABLATION_AXES
from arcvq.experiments.stored_results import RESULTS, stored
from arcvq.figures.axis_panels import axis_panels
from arcvq.figures.experiment_results import (
    ablation_panels,
    measure_panels,
    pictures,
    schedule_map,
)
from arcvq.figures.theme import summary


def row(experiment, variant, seed=0, **columns):
    return {"experiment": experiment, "variant": variant, "seed": seed, **columns}


def paper_rows():
    rows = []
    for name, level, codes in (
        ("continuous", 30.0, np.nan),
        ("plain VQ", 22.0, 40),
        ("SAMP", 24.0, 200),
    ):
        measures = {"codes_used": codes, "perplexity": codes / 2, "data": "mnist"}
        for seed in range(3):
            rows.append(row("paper", name, seed, psnr=level + seed, **measures))
    return pd.DataFrame(rows)


def ablation_rows():
    """Two seeds of each value, one of two parts."""
    rows = []
    for axis, (_, values) in ABLATION_AXES.items():
        for place, value in enumerate(values):
            point = {"axis": axis, "value": float(value), "codes_used": 10 * place}
            for seed in range(2):
                psnr = 20 + place + seed / 10
                rows.append(row("ablations", f"{axis} {value:g}", seed, psnr=psnr, **point))
    for name in ("BBNR alone", "both halves"):
        point = {"axis": "part", "value": np.nan, "codes_used": 5}
        rows.append(row("ablations", name, psnr=21.0, **point))
    return pd.DataFrame(rows)


def schedule_rows():
    psnr = {
        ("constant", 100): 20.0,
        ("constant", 400): 24.0,
        ("linear", 100): 19.5,
        ("linear", 400): 25.0,
        ("per step", 100): 15.0,
        ("per step", 400): 24.5,
    }
    rows = []
    for half, (name, steps) in itertools.product(("radius", "weight"), psnr):
        point = {"half": half, "schedule": name, "steps": steps}
        rows.append(row("schedules", f"{half}: {name}", psnr=psnr[name, steps], **point))
    return pd.DataFrame(rows)


PAPER = paper_rows()
ABLATIONS = ablation_rows()
SCHEDULES = schedule_rows()


def test_panels_show_every_run_and_the_mean_with_its_interval():
    figure = measure_panels(PAPER, ("psnr", "codes_used"))
    dots, means, *_ = figure.data
    assert len(dots.x) == 9
    assert [*means.x] == [31.0, 23.0, 25.0]
    assert [*means.y] == ["continuous", "plain VQ", "SAMP"]
    assert [*means.error_x.array] == [1.0, 1.0, 1.0]
    assert [*means.error_x.arrayminus] == [1.0, 1.0, 1.0]
    assert [*figure.layout.yaxis.categoryarray] == ["SAMP", "plain VQ", "continuous"]
    assert "PSNR (dB): highest for continuous, 31" in summary(figure)
    assert "Large dots are means of 3 runs with their range" in summary(figure)
    with pytest.raises(ValueError, match="column 'lpips' is unknown"):
        measure_panels(PAPER, ["lpips"])


def test_the_caption_of_panels_names_the_smallest_distance():
    distances = PAPER.assign(perceptual=PAPER.psnr)
    figure = measure_panels(distances, {"perceptual": "perceptual distance"})
    assert "Perceptual distance: lowest for plain VQ, 23.000." in summary(figure)


def test_panels_of_what_was_not_measured_are_empty_and_name_no_best():
    rows = PAPER.assign(lpips=np.nan)
    figure = measure_panels(rows, ("lpips", "psnr"))
    assert np.isnan(figure.data[1].x).all()
    assert [*figure.data[3].x] == [31.0, 23.0, 25.0]
    assert summary(figure).startswith("Large dots are means")


def test_each_axis_of_the_ablations_has_a_panel_with_its_values_in_order():
    figure = ablation_panels(ABLATIONS)
    assert len(figure.data) == len(ABLATION_AXES) + 1
    assert [*figure.data[0].x] == ["0", "0.05", "0.1", "0.3", "0.5"]
    assert [*figure.data[0].y] == pytest.approx([20.05, 21.05, 22.05, 23.05, 24.05])
    assert [*figure.data[-1].x] == ["BBNR alone", "both halves"]
    assert "vary most with codes (by 5)" in summary(figure)


def test_a_line_of_the_ablations_goes_from_value_to_value_whatever_the_order_of_the_rows():
    turned = ablation_panels(ABLATIONS[::-1])
    for line, as_usual in zip(turned.data[:-1], ablation_panels(ABLATIONS).data, strict=False):
        assert [*line.x] == [*as_usual.x]
        assert [*line.y] == pytest.approx([*as_usual.y])
    assert [*turned.data[-1].x] == ["both halves", "BBNR alone"]


def test_the_last_panel_of_the_ablations_takes_what_its_row_has_left_for_its_long_names():
    figure = ablation_panels(ABLATIONS)
    assert figure.layout.xaxis10.domain[1] == pytest.approx(figure.layout.xaxis3.domain[1])
    part = ABLATIONS[ABLATIONS.axis == "part"]
    others = ABLATIONS[ABLATIONS.axis.isin(["margin", "scale"])]
    narrow = ablation_panels(pd.concat([others, part]))
    assert [*narrow.data[-1].x] == ["BBNR<br>alone", "both<br>halves"]


def test_a_map_of_schedules_tells_the_steadiest_and_colors_the_distance_to_the_best():
    figure = schedule_map(SCHEDULES, "radius")
    heat = figure.data[0]
    assert [*heat.y] == ["per step", "constant", "linear"]
    assert [*heat.x] == ["100 steps", "400 steps"]
    assert np.allclose(np.array(heat.z), [[5.0, 0.5], [0.0, 1.0], [0.5, 0.0]])
    assert [*heat.text[2]] == ["19.50", "25.00"]
    text = "Closest to the best of each column: linear, never more than 0.50 below"
    assert text in summary(figure)


SWEEP = pd.DataFrame(
    [
        row("sweep", "a", margin=0.0, scale=5.0, top_k=3, radius=2.0, weight=1.0, psnr=20.0),
        row("sweep", "b", margin=0.3, scale=5.0, top_k=3, radius=2.0, weight=1.0, psnr=21.0),
    ]
).assign(codes_used=8)


@pytest.mark.parametrize(
    ("rows", "count"), [(PAPER, 1), (ABLATIONS, 2), (SCHEDULES, 2), (SWEEP, 2)]
)
def test_every_experiment_has_its_pictures(rows, count):
    found = pictures(rows)
    assert len(found) == count
    assert all(summary(figure) for _, _, figure in found)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows: measure_panels(rows, ["psnr"]),
        lambda rows: ablation_panels(rows),
        lambda rows: axis_panels(rows.assign(line="SAMP"), {"margin": "margin m"}),
        lambda rows: schedule_map(rows, "radius"),
    ],
)
def test_where_no_run_finished_a_figure_says_so_in_one_sentence(draw):
    # A run that failed has no measures.
    failed = pd.concat([ABLATIONS.assign(half=None), SCHEDULES]).drop(columns="psnr")
    with pytest.raises(ValueError, match="nothing to summarize: no run finished"):
        draw(failed.assign(error="ValueError: no"))


def test_axes_without_titles_are_named_instead_of_drawn():
    with pytest.raises(ValueError, match=r"rows are of the axes margin, .* given for growth"):
        axis_panels(ABLATIONS.assign(line="SAMP"), {"growth": "growth"})


def test_the_caption_of_axes_compares_only_values_that_differ():
    one_value = ABLATIONS[ABLATIONS.variant.isin(["margin 0.1", "scale 5"])].assign(line="SAMP")
    titles = {"margin": "margin m", "scale": "scale s"}
    assert "differ" not in summary(axis_panels(one_value, titles))
    margins = ABLATIONS[ABLATIONS.axis.isin(["margin", "scale"])].assign(line="SAMP")
    text = summary(axis_panels(margins, {"margin": "margin m"}))
    assert text.startswith(
        "The means of PSNR (dB) vary most for SAMP over margin m, by 4. Points are"
    )


def test_only_points_of_runs_with_other_settings_say_so():
    titles = {"value": "share"}
    rows = pd.DataFrame({"axis": "value", "line": "K 8", "value": 0.1, "psnr": [20.0, 22.0]})
    text = summary(axis_panels(rows.assign(variant="share 0.1", seed=[0, 1]), titles))
    assert text == "Points are means of 2 runs with their range."
    text = summary(axis_panels(rows.assign(variant=["beta 1", "beta 4"], seed=0), titles))
    assert "whose other settings vary" in text


def test_variants_of_a_method_have_its_color_and_measures_keep_their_units():
    rows = pd.DataFrame({"variant": ["CVQ", "CVQ, closest anchors", "BBNR"], "seed": 0, "psnr": 1})
    figure = measure_panels(rows, {"psnr": "information on the class of images (bits per token)"})
    shades = figure.data[1].marker.color
    assert shades[0] == shades[1] != shades[2]
    assert figure.layout.xaxis.title.text.replace("<br>", " ").endswith("(bits per token)")


def test_points_of_a_sweep_that_failed_are_missing_in_its_maps():
    failed = SWEEP.assign(error=[None, "ValueError: no"], psnr=[20.0, None], codes_used=[8, None])
    for _, _, figure in pictures(failed):
        assert "1 of 2 points are missing" in summary(figure)


STORED = sorted(path.stem for path in RESULTS.glob("*.parquet"))
# Columns that only some runs have.
NOT_ALWAYS = ("value", "agreement", "agreement_chance", "adjusted_mutual_information")
table = functools.cache(stored)


def part(rows, variants, seeds, failed=()):
    """What `run_experiment` gives for some variants and seeds, where some of these runs failed."""
    runs = []
    for key, run in rows.groupby(["variant", "seed"], sort=False):
        if key in failed:
            run = run.loc[run.index[:1], :"python"].assign(error="ValueError: no")
        if key[0] in variants and key[1] in seeds:
            runs.append(run)
    found = pd.concat(runs, ignore_index=True)
    empty = [name for name in NOT_ALWAYS if name in found and found[name].isna().all()]
    return found.drop(columns=empty)


def headings(rows):
    """Of the pictures that the runs that ended well allow."""
    good = rows[rows.error.isna()] if "error" in rows else rows
    if good.empty:
        return []
    experiment = good.experiment.iloc[0]
    if experiment in ("paper", "best"):
        return ["Quantizers"] if any(good.variant != "continuous") else []
    if experiment == "schedules":
        return [f"The {half}" for half in ("radius", "weight") if half in set(good.half)]
    return {
        "ablations": ["PSNR (dB)", "codes used"],
        "regime": ["PSNR (dB)", "codes used"],
        "codes_per_step": ["PSNR (dB)", "codes used"],
        "semantics": ["What codes tell"],
        "natural_images": ["Photographs"],
        "gradients": ["Sizes", "Angles", "Norms and usage"],
        "generation": ["Samples"],
    }[experiment]


def check_pictures(rows):
    found = pictures(rows)
    assert [heading for heading, _, _ in found] == headings(rows)
    for _, _, figure in found:
        assert figure.data
        assert "nan" not in summary(figure)


def test_every_stored_table_is_that_of_an_experiment():
    assert {name.split("-")[0] for name in STORED} <= set(EXPERIMENTS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", STORED)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_part_of_an_experiment_has_its_pictures(name, data):
    rows = table(name)
    variants = data.draw(st.sets(st.sampled_from([*rows.variant.unique()]), min_size=1, max_size=6))
    seeds = data.draw(st.sets(st.sampled_from([*rows.seed.unique()]), min_size=1))
    runs = [*itertools.product(sorted(variants), sorted(seeds))]
    check_pictures(part(rows, variants, seeds, data.draw(st.sets(st.sampled_from(runs)))))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("paper-mnist", ["continuous"]),
        ("paper-mnist", ["SAMP"]),
        ("paper-mnist", ["continuous", "SAMP"]),
        ("ablations-digits", ["both halves"]),
        ("ablations-digits", ["margin 0.1"]),
        ("schedules-digits", ["radius: no ball, 100 steps"]),
        ("schedules-digits", ["weight: linear, 400 steps"]),
        ("semantics-mnist", ["SAMP"]),
        ("gradients-digits", ["plain VQ"]),
        ("gradients-digits", ["SAMP"]),
    ],
)
def test_a_variant_alone_has_its_pictures_with_one_seed_with_all_and_after_failures(name, variants):
    rows = table(name)
    seeds = [*rows.seed.unique()]
    first, *others = seeds
    for some, failed in (
        (seeds, []),
        ([first], []),
        (seeds, [first]),
        (seeds, others),
        (seeds, seeds),
    ):
        check_pictures(part(rows, variants, some, [(variants[0], seed) for seed in failed]))


def test_a_course_is_that_of_the_first_seed_that_ended_well():
    rows = part(table("gradients-digits"), ["plain VQ", "SAMP"], [0, 1, 2], [("SAMP", 0)])
    figure = pictures(rows)[2][2]
    for name, seed in (("plain VQ", 0), ("SAMP", 1)):
        (drawn,) = (trace for trace in figure.data if trace.name == name and trace.xaxis == "x")
        course = rows[(rows.variant == name) & (rows.seed == seed)]
        assert [*drawn.y] == [*course.norm_usage_correlation]


def test_captions_count_the_runs_and_compare_only_where_there_is_something_to_compare():
    assert "up to 2 runs" in summary(ablation_panels(ABLATIONS))
    assert "PSNR (dB), single runs." in summary(schedule_map(SCHEDULES, "radius"))
    alone = ABLATIONS[ABLATIONS.variant == "both halves"].drop(columns="value")
    text = "Points are single runs."
    assert summary(ablation_panels(alone)) == text


def test_a_schedule_that_lacks_a_length_has_an_empty_place_in_the_map():
    rows = SCHEDULES[~((SCHEDULES.schedule == "linear") & (SCHEDULES.steps == 400))]
    figure = schedule_map(rows, "weight")
    assert figure.data[0].y[0] == "linear"
    assert [*figure.data[0].text[0]] == ["19.50", ""]
    text = "constant, never more than 0.50 below it. Farthest: per step, up to 5.00 below"
    assert text in summary(figure)


def test_a_map_without_any_figure_names_no_schedule():
    figure = schedule_map(SCHEDULES.assign(psnr=np.nan), "weight")
    assert "best of each column" not in summary(figure)
