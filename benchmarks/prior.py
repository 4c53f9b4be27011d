"""What a tokenizer is worth to a prior: plain VQ, cosine, CVQ and SAMP on MNIST, the same prior.

    python -m benchmarks.prior --data FOLDER_WITH_MNIST --seeds 3

Every tokenizer is trained in the same way (K 512, D 64, hidden 48, batch 128, Adam 1e-3), and so is
every class-conditional prior. Samples are compared with test images in the features of a
classifier. The last row has validation images in place of samples: the mark to meet. Runs and
priors are kept, so that a stopped command goes on.
"""

import argparse

import pandas as pd
import torch

from arcvq import ImageData, RunSettings, evaluate, load_images, sample, train
from arcvq.analysis.classifier import Classifier, train_classifier
from arcvq.analysis.sample_quality import describe_samples, usage_distance
from arcvq.priors import PriorSettings, bits_per_token, encode_split, train_prior
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine, markdown_table, write_report

TRAINING_IMAGES = 10_000  # that samples are compared with: the first ones, of 54,000
METHODS = {"plain": "plain VQ", "cosine": "cosine", "cvq": "CVQ", "samp": "SAMP"}
TITLES = {
    "psnr": "PSNR of the tokenizer (dB)",
    "codes_used": "codes used",
    "bits": "bits per token",
    "bits_per_image": "bits per image",
    "frechet_distance": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
    "label_agreement": "label agreement",
    "near_copies": "near copies",
    "usage_distance": "usage distance",
}
DECIMALS = {"psnr": 2, "codes_used": 0, "bits": 2, "bits_per_image": 0, "frechet_distance": 1}


def describe(
    data: ImageData, classifier: Classifier, generated: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """The measures of images that were made for these labels."""
    measures = describe_samples(
        classifier,
        real=data.test.batch(torch.arange(len(generated))),
        generated=generated,
        train=data.train.batch(torch.arange(TRAINING_IMAGES)),
        labels=labels,
    )
    return measures.to_dict()


def measure(
    method: str, seed: int, data: ImageData, classifier: Classifier, options: argparse.Namespace
) -> dict[str, float | str]:
    """Train one tokenizer and its prior, and measure both and the samples."""
    settings = RunSettings("mnist", method, seed=seed, steps=options.steps)
    run = train(settings, data, device=options.device)
    prior_settings = PriorSettings.for_profile(
        "quick",
        kind=options.kind,
        conditional=True,
        seed=seed,
        steps=options.prior_steps,
        batch_size=64,
    )
    prior = train_prior(prior_settings, run.model, data, device=options.device).prior

    labels = torch.arange(options.samples, device=prior.device) % len(data.classes)
    generator = torch.Generator().manual_seed(seed)
    generated = sample(run.model, prior, options.samples, labels=labels, generator=generator)
    test = encode_split(run.model, data.test)
    known = encode_split(run.model, data.train.first(TRAINING_IMAGES))
    tokens = run.model.encode(generated)

    row = {"method": method, "seed": seed}
    row |= evaluate(run.model, data.test)
    row |= describe(data, classifier, generated, labels)
    row["bits"] = bits_per_token(prior, test.tokens, test.labels)
    row["bits_per_image"] = row["bits"] * test.tokens[0].numel()
    row["usage_distance"] = usage_distance(tokens, known.tokens, run.model.quantizer.num_codes)
    return row


def markdown(rows: pd.DataFrame, mark: dict[str, float]) -> str:
    """Mean and standard deviation over the seeds, a line for each tokenizer, and the mark."""
    lines = []
    for method, group in rows.groupby("method", sort=False):
        cells = [METHODS[method]]
        for name in TITLES:
            decimals = DECIMALS.get(name, 3)
            cells.append(f"{group[name].mean():.{decimals}f} ± {group[name].std():.{decimals}f}")
        lines.append(cells)
    last = [f"{mark[name]:.{DECIMALS.get(name, 3)}f}" if name in mark else "" for name in TITLES]
    return markdown_table(["tokenizer", *TITLES.values()], [*lines, ["validation images", *last]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800, help="of each tokenizer")
    parser.add_argument("--prior-steps", type=int, default=800)
    parser.add_argument("--kind", default="transformer", help="pixelcnn or transformer")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    data = load_images("mnist", options.data, options.device)
    classifier = train_classifier(data, device=options.device)
    rows = []
    for seed in range(options.seeds):
        for method in METHODS:
            rows.append(measure(method, seed, data, classifier, options))
            print(rows[-1], flush=True)

    held_out = data.validation.first(options.samples)
    images = held_out.batch(torch.arange(len(held_out)))
    mark = describe(data, classifier, images, held_out.labels)
    table = pd.DataFrame(rows)
    write_whole(RESULTS / "prior.csv", lambda draft: table.to_csv(draft, index=False))
    note = (
        f"MNIST, {options.steps} steps of the tokenizer, {options.prior_steps} of a "
        f"class-conditional {options.kind}, {options.samples} samples, {options.seeds} seeds, "
        f"mean ± standard deviation; classifier features (accuracy {classifier.accuracy:.1%}); "
        f"{machine()}"
    )
    write_report("prior.md", f"{markdown(table, mark)}\n\n{note}\n")


if __name__ == "__main__":
    main()
