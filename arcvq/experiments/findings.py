"""What we found, in ten sentences that are computed from the stored tables."""

import pandas as pd

from arcvq.experiments.stored import stored
from arcvq.experiments.tables import apart, cell, summary, verdict, with_gap

MNIST = "--dataset mnist --profile standard --steps 3160 --train-images 10000"
COMMANDS = {
    "paper-mnist": f"arcvq experiment paper {MNIST}",
    "ablations-digits": "arcvq experiment ablations --steps 400",
    "schedules-digits": "arcvq experiment schedules --steps 400 --seeds 2",
    "semantics-mnist": f"arcvq experiment semantics {MNIST}",
    "gradients-digits": "arcvq experiment gradients --steps 400",
}
QUANTIZERS = "plain VQ", "EMA", "cosine", "CVQ", "SAMP", "FSQ", "LFQ", "BSQ", "SimVQ", "rotation trick"


def findings() -> list[tuple[str, str]]:
    """Sentences, each with the name of the stored table that it comes from."""
    mnist, ablations, schedules, semantics, gradients = (stored(name) for name in COMMANDS)
    found = [("paper-mnist", one(mnist)) for one in (_against_peers, _best, _usage, _halves)]
    found += [("ablations-digits", one(ablations)) for one in (_settings, _claims)]
    found += [("schedules-digits", _schedules(schedules, half)) for half in ("radius", "weight")]
    return [*found, ("gradients-digits", _gradients(gradients)), ("semantics-mnist", _semantics(semantics))]


def _told(rows: pd.DataFrame, variant: str, measure: str) -> str:
    line = summary(rows[rows.variant == variant], [measure]).iloc[0]
    return cell(measure, line[measure], line[f"{measure}_low"], line[f"{measure}_high"])


def _against_peers(rows: pd.DataFrame) -> str:
    return (f"On MNIST at equal training: {verdict(rows, 'SAMP', 'plain VQ')}; "
            f"{verdict(rows, 'SAMP', 'cosine')}.")


def _best(rows: pd.DataFrame) -> str:
    rows = with_gap(rows)
    means = rows[rows.variant.isin(QUANTIZERS)].groupby("variant").psnr.mean().sort_values(ascending=False)
    place = [*means.index].index("SAMP") + 1
    level = [name for name in means.index if name != "SAMP" and not apart(rows, "SAMP", name)]
    return (f"Of {len(means)} quantizers {means.index[0]} reconstructs best: {_told(rows, means.index[0], 'psnr')} dB, "
            f"which closes {_told(rows, means.index[0], 'gap_closed')} of the gap between plain VQ and no quantization "
            f"at all. SAMP comes {_ordinal(place)} and closes {_told(rows, 'SAMP', 'gap_closed')}; its interval "
            f"overlaps those of {', '.join(level) or 'no other'}.")


def _ordinal(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"in place {place}")


def _usage(rows: pd.DataFrame) -> str:
    means = rows[rows.variant.isin(QUANTIZERS)].groupby("variant")[["psnr", "codes_used"]].mean()
    rank, most = means.rank().corr().loc["psnr", "codes_used"], means.codes_used.idxmax()
    others = ", ".join(f"{name} {means.codes_used[name]:.0f}" for name in ("SAMP", "cosine", "plain VQ"))
    return (f"More codes do not always mean better images: the rank correlation of codes used and PSNR over quantizers "
            f"is {rank:.2f}. {most} uses {means.codes_used[most]:.0f} codes at {means.psnr[most]:.2f} dB; {others}.")


def _halves(rows: pd.DataFrame) -> str:
    return ("The halves of SAMP, the ball that bounds norms (BBNR) and the margin loss: "
            f"{verdict(rows, 'BBNR alone', 'cosine')}; {verdict(rows, 'SAMP', 'margin alone')}.")


def _settings(rows: pd.DataFrame) -> str:
    means = rows[rows.axis != "part"].groupby(["axis", "value"]).psnr.mean()
    spans = (means.groupby("axis").max() - means.groupby("axis").min()).sort_values(ascending=False)
    told = ", ".join(f"{axis} {span:.2f}" for axis, span in spans.items())
    return f"How far the mean PSNR (dB) moves over the values that we tried, one setting at a time: {told}."


def _claims(rows: pd.DataFrame) -> str:
    """The paper's own ablations, repeated."""
    sentences = []
    for axis, values, own in (("margin", (0.0, 0.1, 0.3), 0.1), ("top_k", (1, 3, 5), 3)):
        part = rows[(rows.axis == axis) & rows.value.isin(values)]
        best = part.groupby("value").psnr.mean().idxmax()
        name = f"{axis} {best:g}"
        sentences.append(f"of {axis} {', '.join(f'{value:g}' for value in values)} the best is {best:g} here"
                         + ("" if best == own else f" ({verdict(rows, name, f'{axis} {own:g}')})"))
    return (f"The paper's choices on digits in short runs: {'; '.join(sentences)}; "
            f"{verdict(rows, 'both halves', 'without stop-gradient')}.")


def _schedules(rows: pd.DataFrame, half: str) -> str:
    means = rows[rows.half == half].pivot_table("psnr", "schedule", "steps", aggfunc="mean")
    behind = (means.max() - means).max(axis=1).sort_values()
    lengths, none = ", ".join(f"{steps:,}" for steps in means), "no ball" if half == "radius" else "no margin loss"
    told = ", ".join(f"{name} {behind[name]:.2f}" for name in ("exponential per step", "exponential scaled", none))
    steadiest = " and ".join(behind.index[behind == behind.iloc[0]])
    return (f"Schedules of the {half}: over runs of {lengths} steps, {steadiest} is never more than "
            f"{behind.iloc[0]:.2f} dB below the best of its length. Others are, at most: {told}.")


def _gradients(rows: pd.DataFrame) -> str:
    rows = rows[rows.variant == "SAMP"]
    ratio = (rows.margin_at_latents / rows.reconstruction_at_latents).groupby(rows.step).mean()
    last = ratio[ratio > 1].index.max()
    return (f"The margin loss acts early: at the first look (step {ratio.index[0]}) its gradient at the latents is "
            f"{ratio.iloc[0]:.1f} times that of the reconstruction, and it is the larger one until step {last} of "
            f"{rows.steps.iloc[0]}. The two stand at {rows.angle_reconstruction_margin.mean():.1f} degrees on average. "
            f"Codes get longer the more they are used (rank correlation {rows.growth_usage_correlation.mean():.2f}).")


def _semantics(rows: pd.DataFrame) -> str:
    told = {measure: ", ".join(f"{name} {rows[rows.variant == name][measure].mean():.2f}"
                               for name in rows.variant.unique())
            for measure in ("position_information", "edge_information", "class_information",
                            "adjusted_mutual_information")}
    samp = rows[rows.variant == "SAMP"].mean(numeric_only=True)
    place, edge, label, agreed = told.values()
    probes = (f"{samp.probe_bag_of_codes:.0%} of the images rightly, on its codes in their places "
              f"{samp.probe_codes:.0%}, on pixels {samp.probe_pixels:.0%}")
    return (f"Codes are words for strokes, not for digits. Bits per token on the place: {place}; on the direction of "
            f"the edge: {edge}; on the class: {label}. A linear probe on counts of SAMP's codes reads {probes}. Two "
            f"seeds agree on the tokens with an adjusted mutual information of: {agreed}.")
