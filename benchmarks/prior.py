"""What a tokenizer is worth to a prior: plain VQ, cosine, CVQ and SAMP on MNIST, the same class-conditional prior.

    python -m benchmarks.prior --data FOLDER_WITH_MNIST --seeds 3

Every tokenizer trains alike (K 512, D 64, hidden 48, batch 128, Adam 1e-3), and so does every prior. Samples are
measured in the features of a classifier of our own against test images; the last row puts validation images in place
of samples, the mark to meet. Runs and priors are kept under data/: a stopped command goes on.
"""

import argparse

import pandas as pd
import torch

from arcvq import ImageData, RunSettings, evaluate, load_images, sample, train
from arcvq.analysis.classifier import Classifier, train_classifier
from arcvq.analysis.sample_quality import describe_samples, usage_distance
from arcvq.priors import PriorSettings, bits_per_token, encode_split, train_prior
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine
from benchmarks.compare import METHODS

TRAINING = 10_000  # training images that samples are held against, the first so many
MEASURES = {"psnr": ("PSNR of the tokenizer (dB)", 2), "codes_used": ("codes used", 0),
            "bits": ("bits per token", 2), "bits_per_image": ("bits per image", 0),
            "frechet_distance": ("Frechet distance", 1), "precision": ("precision", 3), "recall": ("recall", 3),
            "label_agreement": ("label agreement", 3), "near_copies": ("near copies", 3),
            "usage_distance": ("usage distance", 3)}


def describe(images: ImageData, classifier: Classifier, generated: torch.Tensor, labels: torch.Tensor) -> dict:
    """The figures of merit of images made for these labels."""
    first = torch.arange(TRAINING)
    return dict(describe_samples(classifier, real=images.test.batch(torch.arange(len(generated))), generated=generated,
                                 train=images.train.batch(first), labels=labels))


def measure(method: str, seed: int, images: ImageData, classifier: Classifier, options: argparse.Namespace
            ) -> dict:
    """One tokenizer, its prior and its samples."""
    run = train(RunSettings(dataset="mnist", quantizer=method, seed=seed, steps=options.steps), images,
                device=options.device)
    settings = PriorSettings.for_profile("quick", kind=options.kind, conditional=True, seed=seed,
                                         steps=options.prior_steps, batch_size=64)
    prior = train_prior(settings, run, images, device=options.device).prior
    test, known = (encode_split(run.model, part) for part in (images.test, images.train.first(TRAINING)))
    labels = torch.arange(options.samples, device=prior.device) % len(images.classes)
    generated = sample(run.model, prior, options.samples, labels=labels,
                       generator=torch.Generator().manual_seed(seed))
    bits = bits_per_token(prior, test.tokens, test.labels)
    distance = usage_distance(run.model.encode(generated), known.tokens, run.model.quantizer.num_codes)
    return {"method": method, "seed": seed, **evaluate(run.model, images.test), "bits": bits,
            "bits_per_image": bits * test.tokens[0].numel(), **describe(images, classifier, generated, labels),
            "usage_distance": distance}


def markdown(table: pd.DataFrame, mark: dict) -> str:
    """Mean and standard deviation over the seeds, a line for each tokenizer, and the mark."""
    lines = ["| tokenizer | " + " | ".join(title for title, _ in MEASURES.values()) + " |",
             "|---" * (1 + len(MEASURES)) + "|"]
    for method, rows in table.groupby("method", sort=False):
        cells = [f"{rows[name].mean():.{digits}f} ± {rows[name].std():.{digits}f}"
                 for name, (_, digits) in MEASURES.items()]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    cells = [f"{mark[name]:.{digits}f}" if name in mark else "" for name, (_, digits) in MEASURES.items()]
    return "\n".join([*lines, f"| validation images | {' | '.join(cells)} |"])


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
    images = load_images("mnist", options.data, options.device)
    classifier = train_classifier(images, device=options.device)
    rows = []
    for seed in range(options.seeds):
        for method in METHODS:
            rows.append(measure(method, seed, images, classifier, options))
            print({name: round(float(rows[-1][name]), 3) for name in MEASURES}, method, seed, flush=True)
    held = images.validation.first(options.samples)
    mark = describe(images, classifier, held.batch(torch.arange(len(held))), held.labels)
    table = pd.DataFrame(rows)
    note = (f"MNIST, {options.steps} steps of the tokenizer, {options.prior_steps} of a class-conditional "
            f"{options.kind}, {options.samples} samples, {options.seeds} seeds, mean ± standard deviation; classifier "
            f"features (accuracy {classifier.accuracy:.1%}); {machine()}")
    text = f"{markdown(table, mark)}\n\n{note}\n"
    write_whole(RESULTS / "prior.csv", lambda path: table.to_csv(path, index=False))
    write_whole(RESULTS / "prior.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
