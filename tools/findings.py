"""What the experiments found, in sentences that are computed from the stored tables."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from arcvq.experiments.ablations import ABLATION_AXES
from arcvq.experiments.best_study import RATES, candidates
from arcvq.experiments.gradient_study import HELD, NARROW, while_held
from arcvq.experiments.regime_study import AXES, OWN_VALUES, spans
from arcvq.experiments.schedule_study import steadiness
from arcvq.experiments.share_study import SHARES
from arcvq.experiments.stored_results import stored
from arcvq.experiments.tables import (
    cell,
    data_title,
    intervals_overlap,
    regime_note,
    variant_interval,
    verdict,
    with_gap,
)
from arcvq.runs.settings import RunSettings

MNIST = "--dataset mnist --profile standard --steps 3160 --train-images 10000"
CIFAR = "--dataset cifar10 --profile standard --steps 1000"
FEW = "--only continuous --only 'plain VQ' --only cosine --only CVQ --only SAMP --only FSQ"
LONG = (
    "--dataset mnist_full --profile full_small --only 'plain VQ' --only EMA --only cosine "
    "--only CVQ --only 'margin alone' --only SAMP"
)
SHORT = "--steps 1000 --batch-size 64 --lr 1e-3"
LARGER = "--dataset mnist --profile quick --steps 3160 --batch-size 128"
WIDE = "--steps 400 --num-codes 512 --dim 64"
RATIOS = "--dataset mnist --profile full_small --paper-rate"
VQGAN = "--steps 2000 --batch-size 8 --lr 1e-3 --num-codes 256 --dim 16"
COMMANDS = {  # by the stored table that it makes
    "paper-mnist": f"arcvq experiment paper {MNIST}",
    "paper-cifar10-jpeg": f"arcvq experiment paper {CIFAR} {FEW}",
    "paper-mnist_full_small": f"arcvq experiment paper {LONG}",
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
    "gradients-digits": f"arcvq experiment gradients {WIDE}",
}
AUTHORS = "the measures of the authors"
NOTES = {  # by the table: how what the command makes today differs from it
    "paper-mnist": f"since then: two more kinds of CVQ, {AUTHORS}",
    "paper-cifar10-jpeg": f"our images had been through JPEG; since then: {AUTHORS}",
    "ablations-digits": f'since then: "scale and alpha of the text", {AUTHORS}',
    "ablations-mnist": "with --only for each variant but those of codes, dim and beta",
    "schedules-digits": f"since then: {AUTHORS}",
}
PEERS = ("plain VQ", "cosine", "CVQ")
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


class Finding(NamedTuple):
    """The stored table that a finding comes from, its topic, and what the table shows."""

    table: str
    topic: str
    text: str


def commands() -> list[str]:
    """The commands, each with its note as a comment."""
    lines = []
    for name, command in COMMANDS.items():
        lines.append(f"{command}  # {NOTES[name]}" if name in NOTES else command)
    return lines


def findings() -> list[Finding]:
    """All findings, in the order in which they are read."""
    mnist = stored("paper-mnist")
    cifar = stored("paper-cifar10-jpeg")
    long = stored("paper-mnist_full_small")
    ablations = stored("ablations-digits")
    ratios = stored("ablations-mnist")
    schedules = stored("schedules-digits")
    at_ratios = stored("schedules-mnist")
    gradients = stored("gradients-digits")
    semantics = stored("semantics-mnist")
    best = stored("best-digits")
    best_on_mnist = stored("best-mnist")
    moved = stored("regime-digits")
    shares = stored("codes_per_step-digits")
    photos = stored("natural_images-photos_64")
    return [
        Finding("paper-mnist", "SAMP and its peers", peers(mnist)),
        Finding("paper-cifar10-jpeg", "Other data", peers(cifar)),
        Finding("paper-mnist", "All quantizers", ranking(mnist)),
        Finding("paper-mnist", "Usage", usage(mnist)),
        Finding("paper-mnist", "The halves of SAMP", halves(mnist)),
        Finding("paper-mnist_full_small", "At the paper's length", full_length(long)),
        Finding("best-digits", "Each at its best", at_their_best(best)),
        Finding("best-mnist", "Each at its best, on MNIST", at_their_best_again(best_on_mnist)),
        Finding("regime-digits", "What the ratios decide", regime(moved)),
        Finding("codes_per_step-digits", "A random share of the codes", random_share(shares)),
        Finding("ablations-digits", "Settings", ranges(ablations)),
        Finding("ablations-digits", "The paper's choices", repeated_ablations(ablations)),
        Finding("ablations-mnist", "The same with its ratios", repeated_ablations(ratios)),
        Finding("schedules-digits", "Schedules of the radius", steadiest(schedules, "radius")),
        Finding("schedules-digits", "Schedules of the weight", steadiest(schedules, "weight")),
        Finding("schedules-mnist", "Radius, with its ratios", steadiest(at_ratios, "radius")),
        Finding("schedules-mnist", "Weight, with its ratios", steadiest(at_ratios, "weight")),
        Finding("gradients-digits", "Gradients", gradient_course(gradients)),
        Finding("natural_images-photos_64", "Photographs", photographs(photos)),
        Finding("semantics-mnist", "What codes mean", meanings(semantics)),
    ]


def peers(rows: pd.DataFrame) -> str:
    """The PSNR of SAMP and of the quantizers that the paper compares it with."""
    others = ", ".join(f"{name} {_measured(rows, name)}" for name in PEERS)
    return (
        f"After {rows.steps.iloc[0]:,} steps on {data_title(rows)}, SAMP reaches a PSNR of "
        f"{_measured(rows, 'SAMP')} dB; the others: {others}. {_overlaps(rows, PEERS)}."
    )


def ranking(rows: pd.DataFrame) -> str:
    """The best quantizer, and where SAMP stands."""
    rows = with_gap(rows)
    means = _quantizer_means(rows).psnr.sort_values(ascending=False)
    best = means.index[0]
    place = means.index.get_loc("SAMP") + 1
    others = means.index.drop("SAMP")
    return (
        f"Of {len(means)} quantizers, {best} reconstructs best, with a PSNR of "
        f"{_measured(rows, best)} dB; this closes {_measured(rows, best, 'gap_closed')} of the gap "
        f"between plain VQ and no quantization at all. SAMP ranks {place} of {len(means)} and "
        f"closes {_measured(rows, 'SAMP', 'gap_closed')}. {_overlaps(rows, others)}."
    )


def at_their_best(rows: pd.DataFrame) -> str:
    """How quantizers compare when the same effort has been made to tune each."""
    return (
        "Nine settings (commitment weight, dimension, learning rate) were tried for each quantizer "
        f"in runs of {rows.steps.iloc[0]:,} steps on {data_title(rows)}, and one was chosen on "
        "validation images. They are all that FSQ has, which has no commitment weight; of the "
        "others' settings they are 9 of 27, and of SAMP's 9 of 81, since three weights of its "
        f"margin loss were tried as well. {_tuned(rows)}"
    )


def at_their_best_again(rows: pd.DataFrame) -> str:
    """The same search on other data or at another length."""
    return (
        f"The same search in runs of {rows.steps.iloc[0]:,} steps on {data_title(rows)}. "
        f"{_tuned(rows)}"
    )


def _tuned(rows: pd.DataFrame) -> str:
    """What the quantizers reach with the settings that were chosen, and in which regime."""
    means = rows.groupby("variant")[["psnr", "codes_used"]].mean()
    by_psnr = means.sort_values("psnr", ascending=False)
    listed = ", ".join(
        f"{name} {_measured(rows, name)} dB with {line.codes_used:.0f} codes"
        for name, line in by_psnr.iterrows()
    )
    place = by_psnr.index.get_loc("SAMP") + 1
    return (
        f"On test images, with fresh seeds: {listed}. SAMP ranks {place} of {len(means)}. "
        f"{_overlaps(rows, means.index.drop('SAMP'))}. "
        f"{_regime_of_samp(rows)}{_at_the_edge(rows)}"
    ).strip()


def _regime_of_samp(rows: pd.DataFrame) -> str:
    """In which regime SAMP was tuned; empty where the rows do not tell."""
    note = regime_note(rows)
    return f"SAMP's schedules were scaled to the run; its regime: {note}. " if note else ""


def _at_the_edge(rows: pd.DataFrame) -> str:
    """What the search cannot tell where most quantizers chose the largest learning rate."""
    fastest = max(RATES)
    chosen = rows.groupby("variant", sort=False).lr.first()
    others = chosen.index[chosen != fastest]
    if 2 * len(others) >= len(chosen):
        return ""
    who = f"All but {_listed(others)}" if len(others) else "All"
    pairs = []
    for candidate in candidates(RunSettings()):
        settings = candidate.settings
        if settings.quantizer == "plain" and settings.lr == fastest:
            pairs.append(f"{settings.beta:g} with {settings.dim}")
    return (
        f"{who} chose the learning rate {fastest:g}, the largest tried, so a larger one may be "
        "better still; at that rate commitment weights and dimensions were tried in three pairs "
        f"only ({', '.join(pairs)}), so what one of them does cannot be told from what the other "
        "does."
    )


def regime(rows: pd.DataFrame) -> str:
    """What moves PSNR and usage: the ratios of the regime, or what else changes with them?"""
    decibels = spans(rows, "psnr")
    points = 100 * spans(rows, "usage")

    def moves(axis: str, line: str) -> str:
        return f"{decibels[line][axis]:.2f} dB and {points[line][axis]:.0f} points"

    listed = []
    for axis in decibels.index:
        title, _ = AXES[axis]
        values = rows.value[rows["axis"] == axis]
        text = f"{title}, {values.min():g} to {values.max():g}: {moves(axis, 'SAMP')}"
        if not math.isnan(decibels.cosine[axis]):
            text += f" (cosine {moves(axis, 'cosine')})"
        listed.append(text)

    ratios_alone = decibels.index.difference([*OWN_VALUES])
    most_decibels = decibels.SAMP[ratios_alone].max()
    most_points = points.SAMP[ratios_alone].max()
    return (
        f"In runs on {data_title(rows)} one thing at a time was changed, with the ball at the "
        "paper's rate. How far that moved SAMP's mean PSNR and the share of the codes used: "
        f"{'; '.join(listed)}. Settings that change a ratio, but neither codes nor batch nor "
        f"dimension, moved the PSNR by at most {most_decibels:.2f} dB and the share of the codes "
        f"used by at most {most_points:.0f} points."
    )


def random_share(rows: pd.DataFrame) -> str:
    """Whether the margin loss on a few codes a step is as good as on all, and what it saves."""
    smallest = min(SHARES)
    means = rows.groupby("variant")[["codes_used", "processor_milliseconds"]].mean()
    used = means.codes_used
    times = means.processor_milliseconds
    lines = []
    for num_codes in sorted(rows.num_codes.unique()):
        few = f"K {num_codes:,}, SAMP on {smallest:.0%}"
        every = f"K {num_codes:,}, SAMP on 100%"
        cosine = f"K {num_codes:,}, cosine"
        lines.append(
            f"{verdict(rows, few, every)}; codes used {used[few]:,.0f} and {used[every]:,.0f}; "
            f"processor time of a step {times[few]:.0f} and {times[every]:.0f} ms, "
            f"{times[cosine]:.0f} ms without the margin loss"
        )
    return (
        f"The margin loss on a random {smallest:.0%} of the codes, drawn anew each step, in runs "
        f"of {rows.steps.iloc[0]:,} steps on {data_title(rows)}. {'. '.join(lines)}."
    )


def full_length(rows: pd.DataFrame) -> str:
    """How quantizers compare after as many steps as the paper's runs had."""
    by_psnr = rows.groupby("variant").psnr.mean().sort_values(ascending=False).index
    listed = []
    for name in by_psnr:
        codes = _measured(rows, name, "codes_used")
        perplexity = _measured(rows, name, "perplexity")
        listed.append(f"{name} {_measured(rows, name)} dB, {codes} codes, perplexity {perplexity}")
    place = by_psnr.get_loc("SAMP") + 1
    return (
        f"After as many steps as in the paper, {rows.steps.iloc[0]:,}, on {data_title(rows)}, with "
        f"{rows.num_codes.iloc[0]} codes ({_seeds(rows)}). The regime of SAMP: "
        f"{regime_note(rows)}. PSNR, codes used and their perplexity: {'; '.join(listed)}. SAMP "
        f"ranks {place} of {len(by_psnr)}. {_overlaps(rows, by_psnr.drop('SAMP'))}. Adding the "
        f"ball to the margin loss: {verdict(rows, 'SAMP', 'margin alone')}."
    )


def usage(rows: pd.DataFrame) -> str:
    """Whether a quantizer that uses more codes reconstructs better."""
    means = _quantizer_means(rows)
    correlation = means.psnr.corr(means.codes_used, method="spearman")
    by_usage = means.sort_values("codes_used", ascending=False)
    listed = ", ".join(
        f"{name} {line.codes_used:.0f} ({line.psnr:.2f} dB)" for name, line in by_usage.iterrows()
    )
    return (
        "Over the same quantizers, the number of codes used and the PSNR have a rank correlation "
        f"of {correlation:.2f}; 1 would mean that more codes are always better. Codes used, with "
        f"the PSNR: {listed}."
    )


def halves(rows: pd.DataFrame) -> str:
    """What the ball and the stop-gradient contribute."""
    ball = verdict(rows, "BBNR alone", "cosine")
    ball_and_margin = verdict(rows, "SAMP", "margin alone")
    stop_gradient = verdict(rows, "SAMP", "SAMP without stop-gradient")
    return (
        f"Adding the ball that bounds norms (BBNR) without the margin loss: {ball}; with the "
        f"margin loss: {ball_and_margin}. Adding the stop-gradient to the margin loss: "
        f"{stop_gradient}."
    )


def ranges(rows: pd.DataFrame) -> str:
    """How much each setting of SAMP matters."""
    means = rows[rows.axis != "part"].groupby(["axis", "value"]).psnr.mean().groupby("axis")
    spans = (means.max() - means.min()).sort_values(ascending=False)
    listed = [f"{ABLATION_AXES[axis][0]}, {span:.2f} dB" for axis, span in spans.items()]
    return (
        "Range of the mean PSNR over the values that we tried, changing one setting at a time: "
        f"{'; '.join(listed)}."
    )


def repeated_ablations(rows: pd.DataFrame) -> str:
    """The paper's own ablations, repeated, and in which regime."""
    regime_of_runs = regime_note(rows[rows.variant == "both halves"])
    return (
        f"The paper's own ablations, repeated in runs of {rows.steps.iloc[0]:,} steps on "
        f"{data_title(rows)} ({regime_of_runs}): "
        f"{_best_value(rows, 'margin', (0.0, 0.1, 0.3), 0.1)}; "
        f"{_best_value(rows, 'top_k', (1, 3, 5), 3)}; "
        f"{verdict(rows, 'both halves', 'margin alone')}; "
        f"{verdict(rows, 'both halves', 'without stop-gradient')}."
    )


def _best_value(rows: pd.DataFrame, axis: str, values: Sequence[float], paper: float) -> str:
    """The best of an axis' values, compared with the paper's choice where that is another one."""
    tried = rows[(rows.axis == axis) & rows.value.isin(values)]
    best = tried.groupby("value").psnr.mean().idxmax()
    text = f"of {axis} {', '.join(f'{value:g}' for value in values)}, the best here is {best:g}"
    if best == paper:
        return text
    return f"{text} ({verdict(rows, f'{axis} {best:g}', f'{axis} {paper:g}')})"


def steadiest(rows: pd.DataFrame, half: str) -> str:
    """The schedules of one half that need no retuning when the run gets shorter or longer."""
    steady = steadiness(rows, half)
    behind = steady.behind
    best = behind.index[behind == behind.iloc[0]]
    lengths = sorted(rows.steps.unique())
    none = {"radius": "no ball", "weight": "no margin loss"}[half]
    worst = behind.dropna().index[-1]
    named = dict.fromkeys(("exponential scaled", "exponential per step", none, worst))
    others = [
        f"{name} {behind[name]:.2f} dB below ({steady.level[name]})"
        for name in named
        if name not in best
    ]
    return (
        f"In runs of {_listed([f'{steps:,}' for steps in lengths])} steps on {data_title(rows)}, "
        f"the mean of {_listed(best, 'or')} is never more than {behind.iloc[0]:.2f} dB below the "
        f"best of the same length. Others, where they do worst: {_listed(others)}. In parentheses: "
        f"at how many of the {len(lengths)} lengths the interval overlaps with that of the best."
    )


def gradient_course(rows: pd.DataFrame) -> str:
    """How strong the margin loss is beside the reconstruction, and whether long codes win."""
    samp = rows[rows.variant == "SAMP"]
    ratio = samp.margin_at_latents / samp.reconstruction_at_latents
    ratio = ratio.groupby(samp.step).mean()
    leading = ratio.index[ratio > 1]
    until = f"above 1 until step {leading.max()}" if len(leading) else "never above 1"

    held = while_held(rows).groupby(["variant", "seed"], as_index=False)
    growth = held.growth_usage_correlation.mean()
    return (
        "At the latents, the gradient norm of the margin loss over that of the reconstruction is "
        f"{ratio.iloc[0]:.1f} at step {ratio.index[0]} of {samp.steps.iloc[0]}, {until}; the angle "
        f"between the two gradients averages {samp.angle_reconstruction_margin.mean():.1f} "
        "degrees. Rank correlation of a code's growth since the last measurement and of how often "
        "a fixed batch chooses it, over the codes that this batch uses, while a narrow ball, which "
        f"opens from 1 to {NARROW:g}, holds more than half of them: "
        f"{verdict(growth, HELD, 'SAMP', 'growth_usage_correlation', '')}."
    )


def meanings(rows: pd.DataFrame) -> str:
    """What codes tell about their images, by quantizer."""
    samp = rows[rows.variant == "SAMP"].mean(numeric_only=True)
    position = _variant_means(rows, "position_information")
    edge = _variant_means(rows, "edge_information")
    label = _variant_means(rows, "class_information")
    agreement = _variant_means(rows, "adjusted_mutual_information")
    return (
        f"Information that a token carries, in bits above chance: on its position, {position}; on "
        f"the direction of its edge, {edge}; on the class of its image, {label}. A linear probe "
        f"classifies {samp.probe_bag_of_codes:.0%} of the test images correctly from counts of "
        f"SAMP's codes, {samp.probe_codes:.0%} from the codes in their places, and "
        f"{samp.probe_pixels:.0%} from the pixels. Adjusted mutual information of the tokens of "
        f"two seeds: {agreement}."
    )


def photographs(rows: pd.DataFrame) -> str:
    """What the quantizer and the further losses of a VQGAN do to photographs."""
    lines = []
    for name in (*PEERS, "SAMP"):
        distance = _measured(rows, name, "perceptual")
        used = _measured(rows, name, "codes_used")
        lines.append(f"{name} {distance} with {used} of {rows.num_codes.iloc[0]} codes")
    sharpness = []
    for name in ("SAMP", "SAMP without discriminator", "SAMP on pixels alone"):
        sharpness.append(f"{name} {_measured(rows, name, 'sharpness')}")
    return (
        f"In small VQGANs, trained for {rows.steps.iloc[0]:,} steps of {rows.batch_size.iloc[0]} "
        f"patches of photographs with {_seeds(rows)}, the perceptual distance of reconstructed "
        f"test images is: {'; '.join(lines)}. Their sharpness, of which the photographs have 1: "
        f"{', '.join(sharpness)}."
    )


def _seeds(rows: pd.DataFrame) -> str:
    """How many seeds there are, in words; of one there are no intervals."""
    count = rows.seed.nunique()
    return "one seed, so without intervals" if count == 1 else f"{count} seeds"


def differences(rows: pd.DataFrame) -> str:
    """What differs between the runs of the quantizers and the paper's."""
    paper = RunSettings.for_profile("paper")
    titles = {
        "steps": "steps",
        "batch_size": "images a step",
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
    return f"{', '.join(found)}; they were measured straight from tensors, not through JPEG files"


def mismatches(rows: pd.DataFrame) -> str:
    """Which quantizers differ in size from a codebook of K x D; empty where none does."""
    return "; ".join(rows.mismatch.dropna().unique())


def _measured(rows: pd.DataFrame, variant: str, measure: str = "psnr") -> str:
    """A variant's mean with its interval."""
    return cell(measure, *variant_interval(rows, variant, measure))


def _quantizer_means(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean PSNR and codes used of each quantizer; variants of SAMP are left out."""
    quantizers = rows[rows.variant.isin(QUANTIZERS)]
    return quantizers.groupby("variant")[["psnr", "codes_used"]].mean()


def _overlaps(rows: pd.DataFrame, others: Sequence[str]) -> str:
    """A sentence that names the variants whose intervals overlap with that of SAMP."""
    samp = variant_interval(rows, "SAMP")
    level = [name for name in others if intervals_overlap(samp, variant_interval(rows, name))]
    if not level:
        return "The interval of SAMP overlaps with none of theirs"
    others = "that" if len(level) == 1 else "those"
    return f"The interval of SAMP overlaps with {others} of {_listed(level)}"


def _listed(words: Sequence[str], last: str = "and") -> str:
    """Words in a row, with "and" or another word before the last one."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def _variant_means(rows: pd.DataFrame, measure: str) -> str:
    """The mean of a measure for each variant."""
    means = rows.groupby("variant", sort=False)[measure].mean()
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
