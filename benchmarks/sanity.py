"""A small MNIST run against figures that were seen before: does training still give what it gave?

    python -m benchmarks.sanity --data FOLDER_WITH_MNIST --precision float32

The first 10,000 training images, the first 2,000 test images, K 512, D 64, hidden 48, batch 128, Adam 1e-3, 3,160
steps, seed 0. A row is met within 0.3 dB and 15% of the codes used. A stopped command goes on.
"""

import argparse

import torch

from arcvq import QUANTIZERS, SAMP, VQVAE, Exponential, ImageData, ImageSplit, Run, evaluate, fit
from arcvq.checkpoints import write_whole
from arcvq.runs import data_root
from benchmarks import RESULTS, machine


def prior(weight: float) -> SAMP:
    """The settings of the SAMP rows; `weight` is gamma0."""
    return SAMP(margin=0.1, scale=5.0, top_k=3, radius=Exponential(0.0028), weight=Exponential(-0.00467, weight))


ROWS = {  # name: quantizer, settings, PSNR (dB) and codes used as seen once before
    "plain VQ": ("plain", None, 22.88, 96),
    "cosine": ("cosine", None, 23.34, 69),
    "SAMP, gamma0 1": ("samp", prior(1.0), 23.90, 192),
    "SAMP, gamma0 0.2": ("samp", prior(0.2), 23.51, 102),
}


def first_images(root: str) -> ImageData:
    """MNIST's first 10,000 training and 2,000 test images; the next 1,000 training images are for validation."""
    from torchvision.datasets import MNIST

    train, test = MNIST(root, train=True), MNIST(root, train=False)
    parts = [(train, 0, 10_000), (train, 10_000, 11_000), (test, 0, 2_000)]
    splits = [ImageSplit(part.data[a:b, None].contiguous(), part.targets[a:b]) for part, a, b in parts]
    return ImageData("mnist-first", *splits, classes=tuple("0123456789"))


def train_row(kind: str, samp: SAMP | None, images: ImageData, steps: int, seed: int, precision: str, name: str) -> Run:
    torch.manual_seed(seed)
    quantizer = QUANTIZERS[kind](512, 64)
    if samp:
        quantizer.samp = samp
    model = VQVAE(1, quantizer, hidden=48, residual_hidden=12)
    folder = data_root() / "runs" / f"sanity-{name.replace(' ', '-').replace(',', '')}-{precision}-{steps}-{seed}"
    return fit(model, images, steps=steps, seed=seed, precision=precision, out=folder, resume=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16")
    parser.add_argument("--steps", type=int, default=3160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images = first_images(options.data)
    lines = ["| quantizer | PSNR (dB) | seen before | codes used | seen before | perplexity | met |", "|---" * 7 + "|"]
    for name, (kind, samp, psnr, codes) in ROWS.items():
        run = train_row(kind, samp, images, options.steps, options.seed, options.precision, name)
        got = evaluate(run.model, images.test)
        met = abs(got["psnr"] - psnr) <= 0.3 and abs(got["codes_used"] / codes - 1) <= 0.15
        lines.append(f"| {name} | {got['psnr']:.2f} | {psnr} | {got['codes_used']} | {codes} | "
                     f"{got['perplexity']:.0f} | {'yes' if met else 'no'} |")
        print(lines[-1])
    text = "\n".join(lines) + f"\n\n{options.steps} steps, seed {options.seed}, {options.precision}; {machine()}\n"
    write_whole(RESULTS / f"sanity-{options.precision}.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
