"""The table of docs/speed.md: plain VQ, cosine, CVQ and SAMP on the built-in data, several seeds, measured on test images.

    python -m benchmarks.compare --datasets digits photos --seeds 3 --steps 400
    python -m benchmarks.compare --datasets plain_digits --codes 256 --dim 32 --steps 1440 --out few_images

K 512, D 64 unless told, hidden 48, batch 128, Adam 1e-3. Every run is kept under data/runs: a stopped command goes on.
"""

import argparse

import pandas as pd

from arcvq import RunSettings, evaluate, load_images, train
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine

METHODS = {"plain": "plain VQ", "cosine": "cosine", "cvq": "CVQ", "samp": "SAMP"}
MEASURES = {"codes_used": ("codes used", 0), "perplexity": ("perplexity", 1), "psnr": ("PSNR (dB)", 2)}


def measure(dataset: str, options: argparse.Namespace) -> list[dict]:
    """One row for each method and seed."""
    images = load_images(dataset, device=options.device)
    sizes = {"steps": options.steps, "num_codes": options.codes, "dim": options.dim}
    rows = []
    for seed in range(options.seeds):
        for method in METHODS:
            settings = RunSettings(dataset=dataset, quantizer=method, seed=seed, **sizes)
            run = train(settings, images, device=options.device)
            row = {"dataset": dataset, "method": method, "seed": seed, **sizes, "seconds": run.seconds}
            rows.append(row | evaluate(run.model, images.test))
    return rows


def markdown(table: pd.DataFrame) -> str:
    """Mean and standard deviation over the seeds, a line for each data set and method."""
    lines = ["| data | quantizer | " + " | ".join(title for title, _ in MEASURES.values()) + " |", "|---" * 5 + "|"]
    for (dataset, method), rows in table.groupby(["dataset", "method"], sort=False):
        cells = [f"{rows[name].mean():.{digits}f} ± {rows[name].std():.{digits}f}"
                 for name, (_, digits) in MEASURES.items()]
        lines.append(f"| {dataset} | {METHODS[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datasets", nargs="+", default=["digits", "photos"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="compare", help="name of the files in benchmarks/results")
    options = parser.parse_args()
    table = pd.DataFrame([row for name in options.datasets for row in measure(name, options)])
    note = (f"K {options.codes}, D {options.dim}, {options.steps} steps, {options.seeds} seeds, "
            f"mean ± standard deviation, test images; {machine()}")
    text = f"{markdown(table)}\n\n{note}\n"
    write_whole(RESULTS / f"{options.out}.csv", lambda path: table.to_csv(path, index=False))
    write_whole(RESULTS / f"{options.out}.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
