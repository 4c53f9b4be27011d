"""What single codes stand for, by quantizer: information, probes, replacement, and agreement between seeds."""

from pathlib import Path

import pandas as pd
import torch

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.probing import MEASURES, describe_codes, stability
from arcvq.experiments import paper_table
from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.tables import cells, summary
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.training import Run, evaluate

COMPARED = ("plain VQ", "cosine", "CVQ", "SAMP")
COMPARED_IMAGES = 2_000  # of the test images, for the agreement of two seeds
AGREEMENT = {"agreement": "tokens that match another seed's (share)", "agreement_chance": "the same by chance",
             "adjusted_mutual_information": "adjusted mutual information with another seed"}
TITLES = {"psnr": "PSNR (dB)", "codes_used": "codes used", **MEASURES, **AGREEMENT}


def variants(base: RunSettings) -> list[Variant]:
    """The runs of the paper's table."""
    return [variant for variant in paper_table.variants(base) if variant.name in COMPARED]


def measure(run: Run, settings: RunSettings, images: ImageData, root: Path) -> Rows:
    """`describe_codes`, with the PSNR and the codes used on the test images."""
    several = len(images.train.labels.unique()) > 1
    classifier = train_classifier(images, root=root, device=images.device, progress=False) if several else None
    found = evaluate(run.model, images.test)
    return [{"psnr": found["psnr"], "codes_used": found["codes_used"], **describe_codes(run, images, classifier)}]


def compare(run: Run, first: Run, images: ImageData) -> dict[str, float]:
    """How far two seeds agree on the tokens of the test images."""
    some = images.test.first(COMPARED_IMAGES)
    return stability(run.model, first.model, some.batch(torch.arange(len(some))))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each measure and a column for each quantizer, as texts."""
    shown = {name: title for name, title in TITLES.items() if name in rows}
    texts = cells(summary(rows, [*shown]), {"variant": "measure", **shown})
    return texts.set_index("measure").T.rename_axis("measure", axis=0).rename_axis(None, axis=1).reset_index()


SEMANTICS = Experiment(
    name="semantics",
    question="What do single codes stand for, and does it depend on how they were learned?",
    variants=variants,
    measure=measure,
    table=table,
    compare=compare,
)
