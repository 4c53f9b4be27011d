"""The paper's table: every quantizer with the same network, data and training."""

import dataclasses
from pathlib import Path

import pandas as pd

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MEASURE_TITLES, reconstruction
from arcvq.experiments.tables import cells, summary, with_gap
from arcvq.images import FULL, ImageData
from arcvq.runs.settings import RunSettings
from arcvq.samp import SAMP
from arcvq.training import Run

PAPER_QUANTIZERS = {  # the quantizer of each variant, as in RunSettings
    "continuous": "continuous",
    "plain VQ": "plain",
    "plain VQ, unit start": "plain_unit_start",
    "EMA": "ema",
    "cosine": "cosine",
    "CVQ": "cvq",
    "CVQ, closest anchors": "cvq_closest",
    "CVQ as its authors run it": "cvq_closest",
    "BBNR alone": "samp",
    "margin alone": "samp",
    "SAMP": "samp",
    "SAMP without stop-gradient": "samp_undetached",
    "FSQ": "fsq",
    "LFQ": "lfq",
    "BSQ": "bsq",
    "SimVQ": "simvq",
    "rotation trick": "rotation",
}
AUTHORS_CVQ = "CVQ as its authors run it"
# The authors of CVQ-VAE divide the error of images in [-1, 1] by the variance of images in [0, 1],
# so that the reconstruction weighs four times as much as in ArcVQ-VAE's code. Encoder, codebook and
# decoder each learn at a rate that Adam makes independent of the size of their gradients, so this
# is the same as a fourth of the commitment loss.
RECONSTRUCTION_WEIGHT = 4
PUBLISHED_SIZE = (512, 64)  # K and D of what is published
PUBLISHED = {  # PSNR (dB) of arXiv 2605.13517: 500 epochs, through JPEG files
    ("mnist", "plain VQ"): "26.48",
    ("mnist", "CVQ"): "27.87",
    ("mnist", "SAMP"): "28.01",
    ("cifar10", "plain VQ"): "23.32",
    ("cifar10", "CVQ"): "24.72",
    ("cifar10", "SAMP"): "24.78",
}
SHOWN = {  # titles of the columns; "gap_closed" is that of `with_gap`
    name: MEASURE_TITLES.get(name, "gap closed")
    for name in (
        "psnr",
        "gap_closed",
        "ssim",
        "authors_psnr",
        "lpips",
        "rfid",
        "classifier_frechet",
        "codes_used",
        "perplexity",
    )
}


def variants(base: RunSettings) -> list[Variant]:
    """Every quantizer with the settings of `base` that it has a use for."""
    samp = base.samp or SAMP.for_run(base.steps)
    parts = halves(samp)
    found = []
    for name, quantizer in PAPER_QUANTIZERS.items():
        settings = base.with_quantizer(quantizer)
        if quantizer.startswith("samp"):
            settings = dataclasses.replace(settings, samp=parts.get(name, samp))
        if name == AUTHORS_CVQ:
            settings = dataclasses.replace(settings, beta=base.beta / RECONSTRUCTION_WEIGHT)
        found.append(Variant(name, settings))
    return found


def halves(samp: SAMP) -> dict[str, SAMP]:
    """Each half of SAMP alone: the ball that bounds norms (BBNR), and the margin loss."""
    return {
        "BBNR alone": dataclasses.replace(samp, weight=None),
        "margin alone": dataclasses.replace(samp, radius=None),
    }


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the reconstruction, and note how a quantizer's size differs from a K x D codebook."""
    (row,) = reconstruction(run, settings, data, root)
    row["mismatch"] = getattr(run.model.quantizer, "mismatch", None)
    return [row]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each quantizer, with the published PSNR beside it where there is one."""
    rows = with_gap(rows)
    # Rows that an earlier version measured lack some columns.
    lines = summary(rows, [name for name in SHOWN if name in rows])
    dataset = rows.dataset.iloc[0].removesuffix(FULL)
    sizes = {*zip(rows.num_codes, rows.dim, strict=True)}
    # What is published was measured through JPEG files, and stands beside the same measure only.
    comparable = sizes == {PUBLISHED_SIZE} and "authors_psnr" in rows
    published = PUBLISHED if comparable else {}
    lines["published"] = [published.get((dataset, name), "") for name in lines.variant]
    titles = {"variant": "quantizer"}
    titles |= {name: title for name, title in SHOWN.items() if name in lines}
    if lines.published.any():
        titles["published"] = "published PSNR (dB)"
    return cells(lines, titles)


PAPER_TABLE = Experiment(
    name="paper",
    question="What does SAMP gain over other quantizers when everything else is equal?",
    variants=variants,
    measure=measure,
    table=table,
)
