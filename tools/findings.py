"""What the experiments found: the sections of docs/results.md, computed from the stored tables."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from arcvq.analysis.probing import PROBE_IMAGES
from arcvq.experiments import EXPERIMENTS
from arcvq.experiments.ablations import ABLATION_AXES, claims, effects
from arcvq.experiments.best_study import RATES, candidates
from arcvq.experiments.best_study import SETTINGS as BEST_TITLES
from arcvq.experiments.generation_study import LONGEST_FIT, REAL, RECONSTRUCTED, SAMPLES
from arcvq.experiments.gradient_study import HELD, NARROW, while_held
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.paper_table import AUTHORS_CVQ, PUBLISHED, RECONSTRUCTION_WEIGHT
from arcvq.experiments.regime_study import AXES, OWN_VALUES, spans
from arcvq.experiments.schedule_study import steadiness
from arcvq.experiments.semantics_study import TITLES as MEANING_TITLES
from arcvq.experiments.share_study import SHARES
from arcvq.experiments.stored_results import stored
from arcvq.experiments.tables import (
    Interval,
    cell,
    cells,
    data_title,
    intervals_overlap,
    markdown,
    regime_note,
    summary,
    variant_interval,
    verdict,
)
from arcvq.images import FULL
from arcvq.runs.settings import RunSettings
from arcvq.runtime.wording import capitalized, span

MNIST = "--dataset mnist --profile standard --steps 3160 --train-images 10000"
CIFAR = "--dataset cifar10 --profile standard --steps 1000"
FEW = "--only continuous --only 'plain VQ' --only cosine --only CVQ --only SAMP --only FSQ"
SIX = "--only 'plain VQ' --only EMA --only cosine --only CVQ --only 'margin alone' --only SAMP"
FULL_SIZE = f"--dataset mnist_full --profile full {SIX} --only 'plain VQ, unit start'"
SMALL = (
    f"--dataset mnist_full --profile full_small {SIX} --only 'CVQ, closest anchors' "
    "--only 'CVQ as its authors run it' --only 'BBNR alone' "
    "--only 'SAMP without stop-gradient'"
)
SHORT = "--steps 1000 --batch-size 64 --lr 1e-3"
LARGER = "--dataset mnist --profile quick --steps 3160 --batch-size 128"
WIDE = "--steps 400 --num-codes 512 --dim 64"
RATIOS = "--dataset mnist --profile full_small --paper-rate"
VQGAN = "--steps 2000 --batch-size 8 --lr 1e-3 --num-codes 256 --dim 16"
COMMANDS = {  # by the stored table that it makes
    "paper-mnist": f"arcvq experiment paper {MNIST}",
    "paper-cifar10-jpeg": f"arcvq experiment paper {CIFAR} {FEW}",
    "paper-mnist_full": f"arcvq experiment paper {FULL_SIZE}",
    "paper-mnist_full_small": f"arcvq experiment paper {SMALL}",
    "regime-digits": f"arcvq experiment regime {SHORT}",
    "codes_per_step-digits": f"arcvq experiment codes_per_step {SHORT}",
    "best-digits": f"arcvq experiment best {SHORT} --num-codes 512",
    "best-mnist": f"arcvq experiment best {LARGER} --num-codes 512",
    "ablations-digits": f"arcvq experiment ablations {WIDE}",
    "ablations-mnist": f"arcvq experiment ablations {RATIOS} --steps 1580",
    "schedules-digits": f"arcvq experiment schedules {WIDE}",
    "schedules-mnist": f"arcvq experiment schedules {RATIOS} --steps 400",
    "natural_images-photos_64": f"arcvq experiment natural_images --dataset photos_64 {VQGAN}",
    "semantics-mnist": f"arcvq experiment semantics {MNIST}",
    "generation-mnist_full": "arcvq experiment generation --dataset mnist_full --profile full",
    "gradients-digits": f"arcvq experiment gradients {WIDE}",
}
AUTHORS = "SSIM, the measures of the authors"
SSIM_CAME_LATER = ("paper-mnist_full_small", "best-digits", "best-mnist", "schedules-mnist")
NOTES = {  # by the table: how what the command makes today differs from it
    "paper-mnist": f"since then: two more kinds of CVQ, {AUTHORS}",
    "paper-mnist_full": 'the table has one seed of "plain VQ, unit start"',
    "paper-cifar10-jpeg": f"our images had been through JPEG; since then: {AUTHORS}",
    "ablations-digits": f'since then: "scale and alpha of the text", {AUTHORS}',
    "ablations-mnist": (
        "with --only for each variant but those of codes, dim and beta; since then: SSIM"
    ),
    "schedules-digits": f"since then: {AUTHORS}",
    **dict.fromkeys(SSIM_CAME_LATER, "since then: SSIM"),
}
CLOSEST = "CVQ, closest anchors"
UNIT_START = "plain VQ, unit start"
# What SAMP is set against at a glance.
RIVALS = ("plain VQ", UNIT_START, "cosine", "EMA", "CVQ", "FSQ")
SAMPLED = {  # the columns of the table of generated images, by what stands in its rows
    RECONSTRUCTED: "reconstructions",
    "pixelcnn": "samples of the PixelCNN",
    "transformer": "samples of the transformer",
}
QUANTIZERS = (
    "plain VQ",
    "EMA",
    "cosine",
    "CVQ",
    "SAMP",
    "FSQ",
    "LFQ",
    "BSQ",
    "SimVQ",
    "rotation trick",
)
PARTS = {  # what SAMP adds to plain VQ: variants that differ in this part only, with it and without
    "The start on the unit sphere": (UNIT_START, "plain VQ"),
    "The lookup by angle": ("cosine", UNIT_START),
    "The ball alone": ("BBNR alone", "cosine"),
    "The ball beside the margin loss": ("SAMP", "margin alone"),
    "The stop-gradient": ("SAMP", "SAMP without stop-gradient"),
}


class Finding(NamedTuple):
    """A section of the page about the results.

    Attributes:
        name: The stored table that it is about.
        title: The heading.
        text: Paragraphs and small tables, in Markdown.
    """

    name: str
    title: str
    text: str


def findings() -> list[Finding]:
    """All sections, in the order in which they are read."""
    sections = {
        "paper-mnist": ("Ten quantizers on MNIST", quantizers),
        "paper-cifar10-jpeg": ("The same on CIFAR-10", quantizers),
        "paper-mnist_full": ("At the paper's length, 512 codes", quantizers),
        "paper-mnist_full_small": ("At the paper's length, 64 codes", quantizers),
        "best-digits": ("Each at its best, on digits", at_their_best),
        "best-mnist": ("Each at its best, on MNIST", at_their_best),
        "regime-digits": ("Which ratio decides?", regime),
        "codes_per_step-digits": ("The margin loss on a random share of the codes", random_share),
        "ablations-digits": ("One setting of SAMP at a time", ablations),
        "ablations-mnist": ("The paper's ablations, at its ratios", ablations),
        "schedules-digits": ("Schedules and the length of a run", schedules),
        "schedules-mnist": ("Schedules, at the paper's ratios", schedules),
        "gradients-digits": ("What each term of the loss does during training", gradients),
        "natural_images-photos_64": ("Photographs", photographs),
        "semantics-mnist": ("What codes tell about an image", meanings),
        "generation-mnist_full": ("Generated images", samples),
    }
    found = []
    for name, (title, write) in sections.items():
        found.append(Finding(name, title, write(stored(name))))
    return found


def command(name: str) -> str:
    """The command that makes a stored table, with its note as a comment before it."""
    return f"# {NOTES[name]}\n{COMMANDS[name]}" if name in NOTES else COMMANDS[name]


def at_a_glance(sections: Sequence[Finding]) -> str:
    """How far SAMP is above other quantizers, in every section that compares them."""
    lines = []
    for section in sections:
        if not section.name.startswith(("paper-", "best-")):
            continue
        rows = stored(section.name)
        line = {
            "runs": f"[{section.title}](#{anchor(section.title)})",
            "steps": f"{rows.steps.iloc[0]:,}",
            "seeds": _seed_count(rows),
        }
        gains = {other: _gain(rows, other) for other in RIVALS}
        lines.append(line | gains)
    return markdown(pd.DataFrame(lines))


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    words = re.sub(r"[^a-z0-9 -]", "", title.lower())
    return words.replace(" ", "-")


def quantizers(rows: pd.DataFrame) -> str:
    """How quantizers compare with the same network, data and training."""
    measures = [
        MEASURE_TITLES["psnr"],
        "gap closed",
        MEASURE_TITLES["authors_psnr"],
        "published PSNR (dB)",
        MEASURE_TITLES["codes_used"],
        MEASURE_TITLES["perplexity"],
    ]
    if "authors_psnr" in rows:
        way = "directly on tensors, and then through JPEG files, as the authors measure it"
    else:
        way = "directly on tensors, not through JPEG files"
    paragraphs = [
        f"{_runs(rows)}. Network, data and training are the same for all. Compared with the "
        f"paper's runs on MNIST, these had {differences(rows)}. PSNR was measured {way}. "
        f"{_ratios(rows)}",
        _own_table(rows, measures),
    ]
    if "continuous" in {*rows.variant}:
        paragraphs.append(
            "*Gap closed* is the share of the way from plain VQ (0) to no quantization at all (1)."
        )
    unequal = mismatches(rows)
    if unequal:
        paragraphs.append(f"Not matched in size: {unequal}.")

    points = [f"- **Place.** {_place(rows)}"]
    known = {*rows.variant}
    parts = {part: pair for part, pair in PARTS.items() if known.issuperset(pair)}
    for part, pair in parts.items():
        points.append(f"- **{part}.** {_compared(rows, *pair)}.")
    dataset = rows.dataset.iloc[0].removesuffix(FULL)
    if known.issuperset([CLOSEST, AUTHORS_CVQ]) and (dataset, "CVQ") in PUBLISHED:
        points.append(f"- **CVQ as published.** {_cvq_as_published(rows)}")
    if known.issuperset(QUANTIZERS):
        points.append(f"- **Usage.** {_usage(rows)}")
    return _paragraphs(*paragraphs, "\n".join(points))


def at_their_best(rows: pd.DataFrame) -> str:
    """How quantizers compare when the same effort has been made to tune each."""
    settings = ("commitment_weight", "dim", "lr", "gamma0", "decay")
    results = ("psnr", "codes_used", "perplexity")
    titles = [BEST_TITLES[name] for name in settings]
    titles += [MEASURE_TITLES[name] for name in results]
    length = ""
    if "search_steps" in rows and (rows.search_steps < rows.steps).all():
        length = f" in runs of {rows.search_steps.iloc[0]:,} steps"
    return _paragraphs(
        f"{_runs(rows)}. {_network(rows)} For each quantizer nine settings (commitment weight, "
        f"dimension, learning rate) were tried{length}, and the best on validation images was "
        "trained again with fresh seeds. "
        "These are all 9 combinations for FSQ, which has no commitment weight. They are 9 of 27 "
        "for the other quantizers, and 9 of 81 for SAMP, for which three weights of the margin "
        "loss were tried as well.",
        _own_table(rows, titles),
        f"{_place(rows, [*QUANTIZERS, UNIT_START])} {_ratios(rows)}",
        _at_the_edge(rows),
    )


def regime(rows: pd.DataFrame) -> str:
    """What moves PSNR and usage: the ratios of the regime, or what else changes with them?"""
    decibels = spans(rows, "psnr")
    points = 100 * spans(rows, "usage")
    lines = []
    for axis in decibels.index:
        title, _ = AXES[axis]
        values = rows.value[rows["axis"] == axis]
        line = {"what was changed": title, "from, to": f"{values.min():g} to {values.max():g}"}
        for name in ("SAMP", "cosine"):
            moved = decibels[name][axis]
            known = not math.isnan(moved)
            line[f"{name}: PSNR (dB)"] = f"{moved:.2f}" if known else ""
            line[f"{name}: codes used (points)"] = f"{points[name][axis]:.0f}" if known else ""
        lines.append(line)

    ratios_alone = decibels.index.difference([*OWN_VALUES])
    most_decibels = decibels.SAMP[ratios_alone].max()
    most_points = points.SAMP[ratios_alone].max()
    return _paragraphs(
        f"Runs of {rows.steps.iloc[0]:,} steps on {data_title(rows)} ({_seeds(rows)}), in which "
        "one thing at a time was changed, with the ball at the paper's rate. The table shows the "
        "largest mean minus the smallest. Usage is the share of the codes used, in percentage "
        "points. Cosine quantization has no margin loss and no ball: where it moves as far as SAMP "
        "does, the ratio is not the cause.",
        markdown(pd.DataFrame(lines)),
        "Settings that change a ratio, but neither codes nor batch nor dimension, moved the PSNR "
        f"by at most {most_decibels:.2f} dB and usage by at most {most_points:.0f} points.",
    )


def random_share(rows: pd.DataFrame) -> str:
    """Whether the margin loss on a few codes a step is as good as on all, and what it saves."""
    smallest = min(SHARES)
    titles = {
        "variant": "codes K, quantizer",
        "psnr": MEASURE_TITLES["psnr"],
        "codes_used": MEASURE_TITLES["codes_used"],
        "processor_milliseconds": "processor time of a step (ms)",
    }
    measures = [name for name in titles if name != "variant"]
    points = []
    for num_codes in sorted(rows.num_codes.unique()):
        few = f"K {num_codes:,}, SAMP on {smallest:.0%}"
        every = f"K {num_codes:,}, SAMP on 100%"
        points.append(f"- {_compared(rows, few, every)}.")
    return _paragraphs(
        f"{_runs(rows)}. The margin loss was computed on a random share of the codes, drawn anew "
        "in each step, or on all of them.",
        markdown(cells(summary(rows, measures), titles)),
        "\n".join(points),
    )


def ablations(rows: pd.DataFrame) -> str:
    """How much each setting of SAMP matters, and whether the paper's own ablations come out."""
    found = effects(rows)
    lines = []
    for axis, line in found.sort_values("difference", ascending=False).iterrows():
        lines.append(
            {
                "setting": ABLATION_AXES[axis][0],
                "best": line["largest at"],
                "worst": line["smallest at"],
                "difference (dB)": f"{line['difference']:.2f}",
                "intervals": "apart" if line["apart"] else "overlap",
            }
        )
    reported = []
    for _, line in claims(rows).iterrows():
        reported.append(
            {
                "reported in the paper": line["claim"],
                "difference here (dB)": f"{line['difference']:+.2f}",
                "in standard errors": f"{line['standard errors']:+.1f}",
                "outcome": line["here"],
            }
        )
    return _paragraphs(
        f"{_runs(rows)}. One setting was changed at a time. "
        f"{_ratios(rows[rows.variant == 'both halves'])}",
        markdown(pd.DataFrame(lines)),
        "*Best* and *worst* are the extremes of up to six values. Where five or six values all do "
        "the same, these two are apart by chance in more than a third of cases.",
        "The paper's own ablations, repeated here. *Met* and *reversed*: the intervals do not "
        "overlap. *Within the intervals*: they do, so that neither is shown. *No difference*: each "
        "seed gave the same result with and without, so these runs do not test the claim. *In "
        "standard errors*: the same difference divided by its standard error, from a spread over "
        "seeds that is pooled over all variants. Less than two says little, even where the outcome "
        'is "met".',
        markdown(pd.DataFrame(reported)),
    )


def schedules(rows: pd.DataFrame) -> str:
    """The schedules of both halves, those that need no retuning for another length first."""
    lengths = sorted(rows.steps.unique())
    tables = []
    for half in ("radius", "weight"):
        lines = []
        for name, line in steadiness(rows, half).iterrows():
            lines.append(
                {
                    f"schedule of the {half}": name,
                    "at most below the best (dB)": f"{line.behind:.2f}",
                    "lengths level with the best": f"{line.level:.0f} of {len(lengths)}",
                }
            )
        tables.append(markdown(pd.DataFrame(lines)))
    note = regime_note(rows[rows.half == "weight"])
    regime = f"Where the weight is varied, the ratios are: {note}. Each radius has its own rate."
    names = (
        "*Linear* and *cosine* (here a shape, half a wave, and not the quantizer) take the radius "
        "from 1 to 8 over the run, and the weight from 1 to 0. *Exponential scaled* is that of "
        "`SAMP.for_run(steps)`, and *exponential per step* has the paper's rate of each step. "
        "*Oscillating* swings with a period of a quarter of the run, and *adaptive* follows the "
        "share of codes in use."
    )
    return _paragraphs(
        f"Runs of {_listed([f'{steps:,}' for steps in lengths])} steps on {data_title(rows)}, with "
        f"{rows.num_codes.iloc[0]} codes of {rows.dim.iloc[0]} dimensions and {_seeds(rows)}. "
        f"{regime}",
        f"{names} For each schedule: how far its mean PSNR falls below that of the "
        "best schedule at the same length, where it does worst, and at how many lengths its "
        "interval overlaps with that of the best.",
        *tables,
    )


def gradients(rows: pd.DataFrame) -> str:
    """How strong the margin loss is beside the reconstruction, and whether long codes win."""
    samp = rows[rows.variant == "SAMP"]
    ratio = samp.margin_at_latents / samp.reconstruction_at_latents
    ratio = ratio.groupby(samp.step).mean()
    leading = ratio.index[ratio > 1]
    until = f"above 1 until step {leading.max()}" if len(leading) else "never above 1"

    held = while_held(rows).groupby(["variant", "seed"], as_index=False)
    measure = "growth_usage_correlation"
    growth = held[measure].mean()
    plain = verdict(growth, "plain VQ", "SAMP", measure, unit="")
    return _paragraphs(
        f"- **Strength.** At the latents, the gradient of the margin loss is {ratio.iloc[0]:.1f} "
        f"times as long as that of the reconstruction at step {ratio.index[0]} of "
        f"{samp.steps.iloc[0]}; the ratio is {until}. The angle between the two averages "
        f"{samp.angle_reconstruction_margin.mean():.1f} degrees. Vectors of so many numbers that "
        "have nothing to do with each other are at a right angle, too, so this says only that the "
        "two neither help nor hinder each other.\n"
        "- **The ball.** The paper explains collapse by a loop: codes that are chosen often grow "
        "longer, and longer codes are chosen more often. The first half can be measured, as the "
        "rank correlation between how often a fixed batch chooses a code and how much the code has "
        "grown since the last measurement, over the codes that the batch uses. It was averaged "
        "over the steps in which a narrow ball, of a radius from 1 to "
        f"{NARROW:g}, holds more than half of these codes. "
        f"{verdict(growth, HELD, 'SAMP', measure, unit='')}. For comparison, {plain}. Plain VQ "
        "uses too few codes for the measure to decide, so these runs show what a ball does to the "
        "loop, and not that the loop is the cause of the collapse."
    )


def photographs(rows: pd.DataFrame) -> str:
    """What the quantizer and the further losses of a VQGAN do to photographs."""
    return _paragraphs(
        f"Small VQGANs, trained for {rows.steps.iloc[0]:,} steps of {rows.batch_size.iloc[0]} "
        f"patches of photographs ({_seeds(rows)}, {rows.num_codes.iloc[0]} codes, commitment "
        f"weight {rows.beta.iloc[0]:g}) and measured on patches of photographs that they had not "
        "seen. A smaller perceptual distance is better; the photographs themselves have a "
        "sharpness of 1. "
        '"Without discriminator" has no adversarial loss, and "on pixels alone" no perceptual loss '
        "either.",
        markdown(EXPERIMENTS["natural_images"].table(rows)),
    )


def samples(rows: pd.DataFrame) -> str:
    """What the same priors make of the tokens of each quantizer."""
    real = rows[rows.prior == REAL].iloc[0]
    tokenizers = [*rows.variant.unique()]
    columns = {"tokenizer": tokenizers}
    outcomes = []
    for source, title in SAMPLED.items():
        measured = rows[rows.prior == source]
        intervals = {name: variant_interval(measured, name, "frechet") for name in tokenizers}
        columns[title] = [cell("frechet", *found) for found in intervals.values()]
        outcomes.append(f"- {capitalized(title)}: {_place_of_samp(intervals)}.")
    return _paragraphs(
        f"{_runs(rows)}. A class-conditional PixelCNN and a transformer learned the tokens of each "
        f"tokenizer in {LONGEST_FIT:,} steps and drew {SAMPLES:,} images. These are compared with "
        "as many test images by the Frechet distance of features of a classifier of digits, so the "
        "numbers compare only with each other; smaller is better. Other test images have a "
        f"distance of {real.frechet:.2f}, and their reconstructions show what a perfect prior "
        "would reach.",
        markdown(pd.DataFrame(columns)),
        "\n".join(outcomes),
    )


def _place_of_samp(intervals: dict[str, Interval]) -> str:
    """Where the interval of SAMP lies among those of the others, in words."""
    places: dict[str, list[str]] = {}
    mean, *_ = intervals["SAMP"]
    for name, other in intervals.items():
        if name == "SAMP":
            continue
        place = "lies below" if mean < other[0] else "lies above"
        if intervals_overlap(intervals["SAMP"], other):
            place = "overlaps"
        places.setdefault(place, []).append(name)
    parts = []
    for place, names in places.items():
        that = "that" if len(names) == 1 else "those"
        parts.append(f"{place} {that} of {' and '.join(names)}")
    *others, last = parts
    if others:
        last = f"{', '.join(others)}, and {last}"
    return f"the interval of SAMP {last}"


def meanings(rows: pd.DataFrame) -> str:
    """What codes tell about their images, by quantizer."""
    shown = (
        "position_information",
        "edge_information",
        "class_information",
        "probe_pixels",
        "probe_bag_of_codes",
        "probe_codes",
        "adjusted_mutual_information",
    )
    texts = EXPERIMENTS["semantics"].table(rows)
    chosen = texts[texts.measure.isin([MEANING_TITLES[name] for name in shown])]
    return _paragraphs(
        f"{_runs(rows)}. Information is what a token tells, in bits, beyond chance. The probes "
        f"learn from {PROBE_IMAGES:,} images to classify others from their pixels, from counts of "
        "their codes, or from the codes in their places. The last line compares the tokens of two "
        "seeds.",
        markdown(chosen),
    )


def _runs(rows: pd.DataFrame) -> str:
    """On what data runs were made, and how long, how large and how many they are."""
    sizes = rows.num_codes.unique()
    codes = f"{sizes[0]} codes, " if len(sizes) == 1 else ""
    return f"On {data_title(rows)}: {rows.steps.iloc[0]:,} steps, {codes}{_seeds(rows)}"


def _seeds(rows: pd.DataFrame) -> str:
    """How many seeds each variant has, and what that says of the intervals."""
    count = _seed_count(rows)
    if count == "1":
        return "one seed, so without intervals"
    if count == "2":  # 2 of the 6 orders of 2 + 2 values have the ranges apart
        return "2 seeds (two equal settings have separate intervals one time in three)"
    return f"{count} seeds"


def _network(rows: pd.DataFrame) -> str:
    """A sentence on the sizes of the network and on how many images it learns from."""
    limit = rows.train_images.iloc[0]
    images = "all training images" if pd.isna(limit) else f"{limit:,.0f} training images"
    return (
        f"The network has {rows.hidden.iloc[0]} channels, {rows.residual_hidden.iloc[0]} in the "
        f"residual layers, and learns from {images}."
    )


def _seed_count(rows: pd.DataFrame) -> str:
    """How many seeds each variant has: "3", or "2 to 3"."""
    return span(rows.groupby("variant").seed.nunique())


def _ratios(rows: pd.DataFrame) -> str:
    """A sentence on the ratios of the runs; empty where the rows do not tell."""
    note = regime_note(rows)
    return f"The ratios of SAMP: {note}." if note else ""


def _own_table(rows: pd.DataFrame, titles: Sequence[str]) -> str:
    """Columns of the table that the experiment itself makes, the best PSNR first.

    Args:
        rows: The rows of an experiment whose table has a line for each variant.
        titles: The columns to show after that of the variants, as far as the table has them.
    """
    texts = EXPERIMENTS[rows.experiment.iloc[0]].table(rows)
    variant = texts.columns[0]
    best_first = rows.groupby("variant").psnr.mean().sort_values(ascending=False).index
    ordered = texts.set_index(variant).loc[best_first].rename_axis(variant).reset_index()
    known = [title for title in titles if title in ordered]
    return markdown(ordered[[variant, *known]])


def _place(rows: pd.DataFrame, quantizers: Sequence[str] = QUANTIZERS) -> str:
    """Where SAMP stands among the quantizers by PSNR, and from which it cannot be told apart."""
    known = rows[rows.variant.isin(quantizers)]
    means = known.groupby("variant").psnr.mean().sort_values(ascending=False)
    place = means.index.get_loc("SAMP") + 1
    ordinal = {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")
    overlaps = _overlaps(rows, means.index.drop("SAMP"))
    return f"By PSNR, SAMP ranks {ordinal} of {len(means)} quantizers. {overlaps}".strip()


def _overlaps(rows: pd.DataFrame, others: Sequence[str]) -> str:
    """A sentence that names the variants whose intervals overlap with that of SAMP.

    Empty where no two intervals are known, as with a single seed.
    """
    samp = variant_interval(rows, "SAMP")
    outcomes = {name: intervals_overlap(samp, variant_interval(rows, name)) for name in others}
    if all(outcome is None for outcome in outcomes.values()):
        return ""
    level = [_quoted(name) for name, overlap in outcomes.items() if overlap]
    if not level:
        return "Its interval overlaps with none of the others."
    which = "that" if len(level) == 1 else "those"
    return f"Its interval overlaps with {which} of {_listed(level)}."


def _gain(rows: pd.DataFrame, other: str) -> str:
    """How far SAMP's mean PSNR is above another's; in bold where the intervals are apart."""
    if other not in {*rows.variant}:
        return ""
    samp = variant_interval(rows, "SAMP")
    theirs = variant_interval(rows, other)
    gain = f"{samp[0] - theirs[0]:+.2f}"
    return gain if intervals_overlap(samp, theirs) is not False else f"**{gain}**"


def _compared(rows: pd.DataFrame, one: str, other: str) -> str:
    """How far one variant's mean PSNR is above another's, and whether the intervals overlap."""
    ours = variant_interval(rows, one)
    theirs = variant_interval(rows, other)
    difference = ours[0] - theirs[0]
    side = "above" if difference >= 0 else "below"
    outcomes = {
        True: "the intervals overlap",
        False: "the intervals do not overlap",
        None: "one seed has no interval",
    }
    outcome = outcomes[intervals_overlap(ours, theirs)]
    return f"{_quoted(one)} is {abs(difference):.2f} dB {side} {_quoted(other)}; {outcome}"


def _quoted(name: str) -> str:
    """The name of a variant; in quotes where it would read as a part of the sentence."""
    return f'"{name}"' if len(name.split()) > 2 else name


def _cvq_as_published(rows: pd.DataFrame) -> str:
    """What remains of the published lead of SAMP over CVQ when both weigh the loss alike."""
    dataset = rows.dataset.iloc[0].removesuffix(FULL)
    published = f"{PUBLISHED[dataset, 'CVQ']} dB of CVQ and {PUBLISHED[dataset, 'SAMP']} dB of SAMP"
    return (
        "CVQ's authors take the closest latents as anchors, and their code gives the "
        f"reconstruction {RECONSTRUCTION_WEIGHT} times the weight that it has in the code of "
        f"SAMP's authors. So the published {published} compare two weights as well. Here, "
        f"{_compared(rows, AUTHORS_CVQ, CLOSEST)}. {_compared(rows, 'SAMP', AUTHORS_CVQ)}. "
        f"{_compared(rows, 'SAMP', CLOSEST)}."
    )


def _usage(rows: pd.DataFrame) -> str:
    """Whether a quantizer that uses more codes reconstructs better."""
    known = rows[rows.variant.isin(QUANTIZERS)]
    means = known.groupby("variant")[["psnr", "codes_used"]].mean()
    correlation = means.psnr.corr(means.codes_used, method="spearman")
    return (
        f"Over the {len(means)} quantizers, the number of codes used and the PSNR have a rank "
        f"correlation of {correlation:.2f}; 1 would mean that more codes are always better."
    )


def _at_the_edge(rows: pd.DataFrame) -> str:
    """What the search cannot tell where most quantizers chose the largest learning rate."""
    fastest = max(RATES)
    chosen = rows.groupby("variant", sort=False).lr.first()
    others = chosen.index[chosen != fastest]
    if 2 * len(others) >= len(chosen):
        return ""
    named = [f"the {name}" if name == "rotation trick" else name for name in others]
    who = f"All but {_listed(named)}" if named else "All"
    pairs = []
    for candidate in candidates(RunSettings()):
        tried = candidate.settings
        if tried.quantizer == "plain" and tried.lr == fastest:
            pairs.append(f"{tried.beta:g} with {tried.dim}")
    return (
        f"{who} chose a learning rate of {fastest:g}, the largest tried, so a larger one may be "
        "better still. At that rate, commitment weights and dimensions were tried in three pairs "
        f"only ({', '.join(pairs)}), so the effects of the two cannot be separated."
    )


def differences(rows: pd.DataFrame) -> str:
    """What differs between the runs of the quantizers and the paper's."""
    paper = RunSettings.for_profile("paper")
    titles = {
        "steps": "steps",
        "batch_size": "images per step",
        "hidden": "channels",
        "residual_hidden": "channels in the residual layers",
        "num_codes": "codes",
        "dim": "components",
    }
    found = []
    for name, title in titles.items():
        ours = rows[name].iloc[0]
        theirs = getattr(paper, name)
        if ours != theirs:
            found.append(f"{ours:,} {title} instead of {theirs:,}")
    if rows.lr.iloc[0] != paper.lr:
        found.append(f"a learning rate of {rows.lr.iloc[0]:g} instead of {paper.lr:g}")
    train_images = rows.train_images.iloc[0]
    if pd.notna(train_images):
        found.append(f"only the first {train_images:,.0f} training images")
    return _listed(found)


def mismatches(rows: pd.DataFrame) -> str:
    """Which quantizers differ in size from a codebook of K x D; empty where none does."""
    return "; ".join(rows.mismatch.dropna().unique())


def _listed(words: Sequence[str]) -> str:
    """Words in a row, with "and" before the last one."""
    *others, final = words
    return f"{', '.join(others)} and {final}" if others else final


def _paragraphs(*texts: str) -> str:
    """Paragraphs and tables with an empty line between them; empty ones are left out."""
    return "\n\n".join(text.strip() for text in texts if text.strip())
