"""What single codes stand for, by quantizer: information, probes, replacement and agreement."""

from pathlib import Path

import pandas as pd
import torch

from arcvq.analysis.classifier import train_classifier
from arcvq.analysis.probing import MEASURES, describe_codes, stability
from arcvq.experiments import paper_table
from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.tables import cells, finished, summary
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.training import Run, evaluate

COMPARED = ("plain VQ", "cosine", "CVQ", "SAMP")
COMPARED_IMAGES = 2_000  # of the test images, for the agreement of two seeds
AGREEMENT = {
    "agreement": "tokens that match another seed's (share)",
    "agreement_chance": "the same by chance",
    "adjusted_mutual_information": "adjusted mutual information with another seed",
}
TITLES = {
    "psnr": MEASURE_TITLES["psnr"],
    "codes_used": MEASURE_TITLES["codes_used"],
    **MEASURES,
    **AGREEMENT,
}


def variants(base: RunSettings) -> list[Variant]:
    """The runs of the paper's table that are compared."""
    return [variant for variant in paper_table.variants(base) if variant.name in COMPARED]


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Describe the codes on the test images (see `describe_codes`), with the PSNR and usage."""
    classifier = None
    if len(data.train.labels.unique()) > 1:
        classifier = train_classifier(data, root=root, device=data.device, progress=False)
    found = evaluate(run.model, data.test)
    row = {"psnr": found["psnr"], "codes_used": found["codes_used"]}
    return [row | describe_codes(run, settings.subset(data), classifier)]


def compare(run: Run, first: Run, data: ImageData) -> dict[str, float]:
    """How far two seeds agree on the tokens of the test images."""
    some = data.test.first(COMPARED_IMAGES)
    return stability(run.model, first.model, some.batch(torch.arange(len(some))))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each measure, with a column for each quantizer."""
    titles = {name: title for name, title in TITLES.items() if name in rows}
    texts = cells(summary(rows, [*titles]), {"variant": "quantizer", **titles})
    turned = texts.set_index("quantizer").T.rename_axis(columns=None)
    return turned.rename_axis("measure").reset_index()


def with_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to finished rows what lies above chance, and what each stage of a model loses.

    `purity_excess` is the purity above its chance level; `agreement_excess` is the agreement above
    chance, as a share of what is possible. `lost_by_quantization` and `lost_by_places` are the
    accuracies that linear probes lose from latents to codes, and from codes to their counts. They
    are NaN where the rows lack the measures, as those of a single seed lack the agreement.
    """
    columns = rows.columns.union([*MEASURES, *AGREEMENT], sort=False)
    rows = finished(rows).reindex(columns=columns)
    possible = 1 - rows.agreement_chance
    return rows.assign(
        purity_excess=rows.purity - rows.purity_chance,
        agreement_excess=(rows.agreement - rows.agreement_chance) / possible,
        lost_by_quantization=rows.probe_latents - rows.probe_codes,
        lost_by_places=rows.probe_codes - rows.probe_bag_of_codes,
    )


SEMANTICS = Experiment(
    name="semantics",
    question="What do single codes stand for, and does it depend on how they were learned?",
    variants=variants,
    measure=measure,
    table=table,
    compare=compare,
)
