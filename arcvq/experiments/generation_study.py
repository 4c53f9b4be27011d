"""Generated images by quantizer: the same priors on the tokens of each, measured alike."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from arcvq.analysis.classifier import check_classes, train_classifier
from arcvq.analysis.sample_quality import frechet_distance, label_agreement, precision_recall
from arcvq.experiments import paper_table
from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.tables import cells, summary
from arcvq.images import ImageData
from arcvq.priors import PriorSettings, bits_per_token, encode_split, sample, train_prior
from arcvq.priors.settings import PRIORS
from arcvq.runs.settings import RunSettings
from arcvq.training import Run, evaluate

COMPARED = ("plain VQ", "cosine", "CVQ", "SAMP")
# In the place of a prior: other images of the test set, which not even a perfect prior can beat
# except by chance, and their reconstructions, which a prior that knew the tokens would equal.
REAL = "none: other real images"
RECONSTRUCTED = "none: their reconstructions"
LONGEST_FIT = 3000  # steps of a prior; a shorter run of the tokenizer has priors as short
SAMPLES = 2000  # at most, and at most half of the test images; the other half is compared with
NEIGHBORS = 3  # of precision and recall
SHOWN = {
    "frechet": "Frechet distance of classifier features",
    "sample_precision": "precision",  # of the images; a row also says in which floats it trained
    "sample_recall": "recall",
    "label_agreement": "label agreement",
    "bits_per_image": "bits per image",
    "psnr": MEASURE_TITLES["psnr"],
    "codes_used": MEASURE_TITLES["codes_used"],
}


def variants(base: RunSettings) -> list[Variant]:
    """The tokenizers: runs of the paper's table."""
    return [variant for variant in paper_table.variants(base) if variant.name in COMPARED]


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Fit class-conditional priors to a tokenizer and measure their samples.

    Each sample has the label of a test image, and the samples are compared with these images, in
    the features of `train_classifier`. As many other test images, and their reconstructions, are
    compared in the same way: a prior that knew the distribution of the tokens would do about as
    well as these reconstructions do.
    """
    classifier = train_classifier(data, root=root, device=data.device, progress=False)
    count = min(SAMPLES, len(data.test) // 2)
    # In turn, since the images of some test sets become harder from the first to the last.
    real = data.test.select(slice(0, 2 * count, 2))
    others = data.test.select(slice(1, 2 * count, 2))
    features = classifier.features(real.batch(torch.arange(count)))

    def measured(generated: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        own = classifier.features(generated)
        precision, recall = precision_recall(features, own, NEIGHBORS)
        return {
            "frechet": frechet_distance(features, own),
            "sample_precision": precision,
            "sample_recall": recall,
            "label_agreement": label_agreement(classifier, generated, labels),
        }

    found = evaluate(run.model, data.test)
    of_tokenizer = {"psnr": found["psnr"], "codes_used": found["codes_used"]}
    other_images = others.batch(torch.arange(count))
    rebuilt = torch.cat([run.model.reconstruct(some) for some in other_images.split(500)])
    rows: Rows = []
    for name, images in ((REAL, other_images), (RECONSTRUCTED, rebuilt)):
        rows.append({"prior": name, **of_tokenizer, **measured(images, others.labels)})
    seen = settings.subset(data)
    for kind in PRIORS:
        prior_settings = settings_of_prior(kind, settings)
        fitted = train_prior(
            prior_settings, run.model, seen, root=root, device=data.device, progress=False
        )
        row: dict[str, Any] = {"prior": kind, **of_tokenizer}
        row["bits_per_image"] = bits_per_image(fitted.prior, run, data)
        generator = torch.Generator().manual_seed(settings.seed)
        samples = sample(run.model, fitted.prior, count, labels=real.labels, generator=generator)
        rows.append(row | measured(samples, real.labels))
    return rows


def check(data: ImageData) -> None:
    """Raise ValueError for data without classes, or with too few test images to compare with."""
    check_classes(data)
    needed = 2 * (NEIGHBORS + 1)
    if len(data.test) < needed:
        raise ValueError(
            f"{data.name} has {len(data.test)} test images; {needed} are needed, half of them to "
            "compare the other half with"
        )


def settings_of_prior(kind: str, settings: RunSettings) -> PriorSettings:
    """A prior of the size "standard", the same for every tokenizer."""
    steps = min(settings.steps, LONGEST_FIT)
    return PriorSettings.for_profile(
        "standard",
        kind=kind,
        conditional=True,
        steps=steps,
        batch_size=min(64, settings.batch_size),
        seed=settings.seed,
    )


def bits_per_image(prior: Any, run: Run, data: ImageData) -> float:
    """What the tokens of a test image cost under the prior, in bits."""
    tokens = encode_split(run.model, data.test)
    bits = bits_per_token(prior, tokens.tokens, tokens.labels)
    return bits * tokens.tokens[0].numel()


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each tokenizer and prior."""
    lines = summary(rows, [*SHOWN], ("prior", "variant"))
    lines = lines.sort_values("prior", kind="stable")
    return cells(lines, {"prior": "prior", "variant": "tokenizer", **SHOWN})


GENERATION = Experiment(
    name="generation",
    question="Do the tokens of SAMP make better samples than those of other quantizers?",
    variants=variants,
    measure=measure,
    table=table,
    check=check,
)
