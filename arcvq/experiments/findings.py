"""What we found, in sentences that are computed from the stored tables."""

from collections.abc import Sequence

import pandas as pd

from arcvq.experiments.gradient_study import HELD, while_held
from arcvq.experiments.schedule_study import steadiness
from arcvq.experiments.stored_results import stored
from arcvq.experiments.tables import apart, cell, data_title, finished, interval, verdict, with_gap

MNIST = "--dataset mnist --profile standard --steps 3160 --train-images 10000"
CIFAR = "--only continuous --only 'plain VQ' --only cosine --only CVQ --only SAMP --only FSQ"
COMMANDS = {
    "paper-mnist": f"arcvq experiment paper {MNIST}",
    "paper-cifar10-jpeg": f"arcvq experiment paper --dataset cifar10 --profile standard --steps 1000 {CIFAR}",
    "ablations-digits": "arcvq experiment ablations --steps 400",
    "schedules-digits": "arcvq experiment schedules --steps 400",
    "semantics-mnist": f"arcvq experiment semantics {MNIST}",
    "gradients-digits": "arcvq experiment gradients --steps 400",
}
QUANTIZERS = "plain VQ", "EMA", "cosine", "CVQ", "SAMP", "FSQ", "LFQ", "BSQ", "SimVQ", "rotation trick"


def findings() -> list[tuple[str, str, str]]:
    """Of each: the name of the stored table that it comes from, what it is about, and the sentences."""
    mnist, cifar, ablations, schedules, semantics, gradients = (stored(name) for name in COMMANDS)
    return [
        ("paper-mnist", "SAMP and its peers", _peers(mnist)),
        ("paper-cifar10-jpeg", "Other data", _peers(cifar)),
        ("paper-mnist", "All quantizers", _best(mnist)),
        ("paper-mnist", "Usage", _usage(mnist)),
        ("paper-mnist", "The halves of SAMP", _halves(mnist)),
        ("ablations-digits", "Settings", _settings(ablations)),
        ("ablations-digits", "The paper's choices", _claims(ablations)),
        ("schedules-digits", "Schedules of the radius", _schedules(schedules, "radius")),
        ("schedules-digits", "Schedules of the weight", _schedules(schedules, "weight")),
        ("gradients-digits", "Gradients", _gradients(gradients)),
        ("semantics-mnist", "What codes mean", _semantics(semantics)),
    ]


def _told(rows: pd.DataFrame, variant: str, measure: str = "psnr") -> str:
    return cell(measure, *interval(finished(rows)[measure][finished(rows).variant == variant]))


def _peers(rows: pd.DataFrame) -> str:
    others = "plain VQ", "cosine", "CVQ"
    told = ", ".join(f"{name} {_told(rows, name)}" for name in others)
    return (f"On {data_title(rows)} after {rows.steps.iloc[0]:,} steps SAMP reaches {_told(rows, 'SAMP')} dB, {told}; "
            f"{_overlap(rows, others)}.")


def _overlap(rows: pd.DataFrame, others: Sequence[str]) -> str:
    level = [name for name in others if apart(rows, "SAMP", name) is False]
    return f"its interval overlaps with {', '.join(level) or 'none of theirs'}"


def _best(rows: pd.DataFrame) -> str:
    rows = with_gap(rows)
    means = rows[rows.variant.isin(QUANTIZERS)].groupby("variant").psnr.mean().sort_values(ascending=False)
    first, place = means.index[0], [*means.index].index("SAMP") + 1
    return (f"Of {len(means)} quantizers {first} reconstructs best: {_told(rows, first)} dB, which closes "
            f"{_told(rows, first, 'gap_closed')} of the gap between plain VQ and no quantization at all. SAMP comes "
            f"{_ordinal(place)} and closes {_told(rows, 'SAMP', 'gap_closed')}; "
            f"{_overlap(rows, [*means.index.drop('SAMP')])}.")


def _ordinal(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"in place {place}")


def _usage(rows: pd.DataFrame) -> str:
    means = rows[rows.variant.isin(QUANTIZERS)].groupby("variant")[["psnr", "codes_used"]].mean()
    rank, told = means.rank().corr().loc["psnr", "codes_used"], means.sort_values("codes_used", ascending=False)
    used = ", ".join(f"{name} {line.codes_used:.0f} ({line.psnr:.2f})" for name, line in told.iterrows())
    return (f"Over these quantizers codes used and PSNR have a rank correlation of {rank:.2f}; 1 would mean that more "
            f"codes are always better. Codes used, and dB: {used}.")


def _halves(rows: pd.DataFrame) -> str:
    detached = verdict(rows, "SAMP", "SAMP without stop-gradient")
    return ("What the ball that bounds norms (BBNR) adds, without and with the margin loss: "
            f"{verdict(rows, 'BBNR alone', 'cosine')}; {verdict(rows, 'SAMP', 'margin alone')}. "
            f"What the stop-gradient of the margin loss adds: {detached}.")


def _settings(rows: pd.DataFrame) -> str:
    means = rows[rows.axis != "part"].groupby(["axis", "value"]).psnr.mean()
    spans = (means.groupby("axis").max() - means.groupby("axis").min()).sort_values(ascending=False)
    told = ", ".join(f"{axis} {span:.2f}" for axis, span in spans.items())
    return f"How far the mean PSNR moves over the values that we tried, one setting at a time, in dB: {told}."


def _claims(rows: pd.DataFrame) -> str:
    """The paper's own ablations, repeated."""
    sentences = []
    for axis, values, own in (("margin", (0.0, 0.1, 0.3), 0.1), ("top_k", (1, 3, 5), 3)):
        part = rows[(rows.axis == axis) & rows.value.isin(values)]
        best = part.groupby("value").psnr.mean().idxmax()
        name = f"{axis} {best:g}"
        sentences.append(f"of {axis} {', '.join(f'{value:g}' for value in values)} the best is {best:g} here"
                         + ("" if best == own else f" ({verdict(rows, name, f'{axis} {own:g}')})"))
    return (f"Repeated on digits in short runs: {'; '.join(sentences)}; "
            f"{verdict(rows, 'both halves', 'without stop-gradient')}.")


def _schedules(rows: pd.DataFrame, half: str) -> str:
    behind, none = steadiness(rows, half).behind, "no ball" if half == "radius" else "no margin loss"
    steadiest, lengths = [*behind.index[behind == behind.iloc[0]]], ", ".join(f"{n:,}" for n in sorted(set(rows.steps)))
    others = ", ".join(f"{name} {behind[name]:.2f}" for name in ("exponential scaled", "exponential per step", none)
                       if name not in steadiest)
    return (f"Over runs of {lengths} steps the steadiest ({', '.join(steadiest)}) is at most {behind.iloc[0]:.2f} dB "
            f"below the best of its length. Others, in dB: {others}.")


def _gradients(rows: pd.DataFrame) -> str:
    samp = rows[rows.variant == "SAMP"]
    ratio = (samp.margin_at_latents / samp.reconstruction_at_latents).groupby(samp.step).mean()
    until = f"above 1 until step {ratio[ratio > 1].index.max()}" if (ratio > 1).any() else "never above 1"
    held = while_held(rows).groupby(["variant", "seed"], as_index=False).growth_usage_correlation.mean()
    return (f"At the latents the gradient of the margin loss over that of the reconstruction is {ratio.iloc[0]:.1f} at "
            f"step {ratio.index[0]} of {samp.steps.iloc[0]}, {until}, and the angle of the two is "
            f"{samp.angle_reconstruction_margin.mean():.1f} degrees on average. Growth and "
            f"usage of the codes in use, while a narrow ball holds most of them: "
            f"{verdict(held, HELD, 'SAMP', 'growth_usage_correlation', 'rank correlation')}.")


def _semantics(rows: pd.DataFrame) -> str:
    told = {measure: ", ".join(f"{name} {rows[rows.variant == name][measure].mean():.2f}"
                               for name in rows.variant.unique())
            for measure in ("position_information", "edge_information", "class_information",
                            "adjusted_mutual_information")}
    samp = rows[rows.variant == "SAMP"].mean(numeric_only=True)
    place, edge, label, agreed = told.values()
    probes = (f"{samp.probe_bag_of_codes:.0%} of the images rightly, on its codes in their places "
              f"{samp.probe_codes:.0%}, on pixels {samp.probe_pixels:.0%}")
    return (f"A code tells, in bits, of its place: {place}; of the direction of its edge: {edge}; of the class of its "
            f"image: {label}. A linear probe on counts of SAMP's codes reads {probes}. Two "
            f"seeds agree on the tokens with an adjusted mutual information of: {agreed}.")
