"""The paper's table: every quantizer on the same network, data and training, beside the published figures."""

import dataclasses
from pathlib import Path

import pandas as pd

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MEASURES, reconstruction
from arcvq.experiments.tables import cells, summary, with_gap
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.training import Run

KINDS = {
    "continuous": "continuous", "plain VQ": "plain", "EMA": "ema", "cosine": "cosine", "CVQ": "cvq",
    "BBNR alone": "samp", "margin alone": "samp", "SAMP": "samp", "SAMP without stop-gradient": "samp_undetached",
    "FSQ": "fsq", "LFQ": "lfq", "BSQ": "bsq", "SimVQ": "simvq", "rotation trick": "rotation",
}
PUBLISHED = {  # PSNR (dB) of arXiv 2605.13517: K 512, D 64, 500 epochs, through JPEG files
    ("mnist", "plain VQ"): "26.48", ("mnist", "CVQ"): "27.87", ("mnist", "SAMP"): "28.01",
    ("cifar10", "plain VQ"): "23.32", ("cifar10", "CVQ"): "24.72", ("cifar10", "SAMP"): "24.78",
}
SHOWN = ("psnr", "gap_closed", "ssim", "lpips", "rfid", "classifier_frechet", "codes_used", "perplexity")
TITLES = {"variant": "quantizer", **MEASURES, "gap_closed": "gap closed", "published": "published PSNR (dB)"}


def variants(base: RunSettings) -> list[Variant]:
    """All quantizers with the sizes of the base; a base with settings of SAMP gives them to its variants."""
    return [Variant(name, dataclasses.replace(base, quantizer=kind, samp=_samp(name, base)))
            for name, kind in KINDS.items()]


def _samp(name: str, base: RunSettings) -> SAMP | None:
    samp = base.samp or SAMP.for_run(base.steps)
    return halves(samp).get(name, samp) if KINDS[name].startswith("samp") else None


def halves(samp: SAMP) -> dict[str, SAMP]:
    """Each half of SAMP without the other: the ball that bounds norms (BBNR), and the margin loss."""
    return {"BBNR alone": dataclasses.replace(samp, weight=None),
            "margin alone": dataclasses.replace(samp, radius=None)}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The lines of the table as texts: SHOWN, with the paper's own figures beside them."""
    lines = summary(with_gap(rows), SHOWN)
    data = rows.dataset.iloc[0]
    lines["published"] = [PUBLISHED.get((data, name), "") for name in lines.variant]
    shown = "variant", *SHOWN, *(["published"] if lines.published.any() else [])
    return cells(lines, {name: TITLES[name] for name in shown})


def differences(rows: pd.DataFrame) -> str:
    """What differs from the published runs, in a sentence."""
    paper = RunSettings.for_profile("paper")
    names = {"steps": "steps", "batch_size": "images a step", "hidden": "channels", "lr": "learning rate",
             "num_codes": "codes", "dim": "components"}
    found = [f"{rows[name].iloc[0]:,} {title} instead of {getattr(paper, name):,}" for name, title in names.items()
             if rows[name].iloc[0] != getattr(paper, name)]
    if pd.notna(images := rows.train_images.iloc[0]):
        found.append(f"the first {images:,.0f} training images alone")
    return ", ".join([*found, "figures straight from tensors, not through JPEG files"])


def measure(run: Run, settings: RunSettings, images: ImageData, root: Path) -> Rows:
    """`reconstruction`, and in what a quantizer of another package differs from a free codebook of K x D."""
    (row,) = reconstruction(run, settings, images, root)
    return [row | {"mismatch": getattr(run.model.quantizer, "mismatch", None)}]


def mismatches(rows: pd.DataFrame) -> str:
    """What could not be matched in size, in a sentence; empty where everything is."""
    return "; ".join(rows.mismatch.dropna().unique())


PAPER_TABLE = Experiment(
    name="paper",
    question="What does SAMP gain over other quantizers when everything else is equal?",
    variants=variants,
    measure=measure,
    table=table,
)
