"""How fast SAMP is: its loss and lookup over their floors, whole training steps, many settings.

    python -m benchmarks
    python -m benchmarks --only step many

Each part runs in a process of its own, in which all that it compares takes turns after a warm-up.
Medians and their spread (half the distance between the quartiles) go to speed.json in
benchmarks/results, the tables to speed.md, the curves to speed.png. On CUDA, `paper` also trains
MNIST for 500 epochs, twice.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pandas as pd
import torch

from arcvq import (
    SAMP,
    VQVAE,
    Compute,
    CosineQuantizer,
    Recording,
    RunSettings,
    SphericalQuantizer,
    evaluate,
    fit,
    load_images,
    train,
    train_many,
)
from arcvq.analysis.profiling import fitted_step, margin_costs, plain_step, side_by_side
from arcvq.baselines.reference import PlainSphericalQuantizer
from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.figures import cost_picture
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import write_text, write_whole
from benchmarks import RESULTS, machine, markdown_table, write_report

# Pairs (K, N) for the table.
TARGETS = {
    "cpu": [(512, 50_176), (4_096, 65_536), (16_384, 65_536)],
    "cuda": [(512, 50_176), (4_096, 65_536), (16_384, 262_144), (65_536, 1_048_576)],
}
# Pairs (K, N) for the curves: first over N, then over K.
CURVES = {
    "cpu": [
        *((512, 2**n) for n in range(10, 19, 2)),
        *((2**k, 16_384) for k in range(6, 15, 2)),
    ],
    "cuda": [
        *((512, 2**n) for n in range(10, 21, 2)),
        *((2**k, 65_536) for k in range(6, 17, 2)),
    ],
}
BATCH = 1024
CODES = 512
DIM = 64
SETTINGS = 64  # that are trained together


def loss(device: torch.device) -> dict[str, Any]:
    """Time and memory of the margin loss and the lookup, at the targets and along the curves."""
    targets = margin_costs(TARGETS[device.type], DIM, device, repeats=9)
    curves = margin_costs(CURVES[device.type], DIM, device, repeats=5)
    return {"targets": targets.to_dict("records"), "curves": curves.to_dict("records")}


def step(device: torch.device) -> dict[str, Any]:
    """Seconds of one training step: batch 1,024 of 28x28, C 128, K 512, D 64."""
    data = load_images("digits", device=device)
    fastest = choose_precision("auto", device)
    samp = SphericalQuantizer
    vector_quantize_pytorch = BASELINES["cosine_ema"]

    def fitted(kind: Callable, dtype: torch.dtype = fastest, **options: bool) -> Callable:
        return fitted_step(kind(CODES, DIM), data, BATCH, dtype, **options)

    actions = {
        "SAMP, first draft": plain_step(PlainSphericalQuantizer(CODES, DIM), data, BATCH),
        "SAMP, float32": fitted(samp, torch.float32),
        "SAMP": fitted(samp),
        "cosine": fitted(CosineQuantizer),
        "cosine EMA of vector-quantize-pytorch": fitted(vector_quantize_pytorch),
    }
    if device.type == "cuda":
        actions["SAMP, CUDA graph"] = fitted(samp, cuda_graph=True)
    times = side_by_side(actions, repeats=9)
    spread = (times.quantile(0.75) - times.quantile(0.25)) / 2
    return {
        "seconds": times.median().to_dict(),
        "spread": spread.to_dict(),
        "precision": str(fastest),
    }


def many(device: torch.device) -> dict[str, Any]:
    """Seconds of 64 settings by `train_many`, and of one of them alone by `train`."""
    data = load_images("digits", device=device)
    samp = SAMP.for_run(160)
    settings = [RunSettings.for_profile("quick", seed=seed, samp=samp) for seed in range(SETTINGS)]
    alone = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train(settings[0], data, root=folder, device=device, progress=False)
            alone.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train_many(settings, data, root=folder, device=device)
        together = time.perf_counter() - began
    return {"settings": SETTINGS, "alone": statistics.median(alone), "together": together}


def paper(device: torch.device) -> dict[str, Any]:
    """Seconds and test PSNR of MNIST for 500 epochs with SAMP and its first draft; CUDA only."""
    if device.type != "cuda":
        return {}
    data = load_images("mnist", device=device)
    steps = 500 * (len(data.train) // BATCH)
    compared = {
        "SAMP": (SphericalQuantizer, Compute(device, cuda_graph=True)),
        "SAMP, first draft": (PlainSphericalQuantizer, Compute(device, "float32")),
    }
    found = {}
    for name, (kind, compute) in compared.items():
        torch.manual_seed(0)
        run = fit(
            VQVAE(1, kind(CODES, DIM)),
            data,
            steps=steps,
            batch_size=BATCH,
            lr=3e-4,
            compute=compute,
            recording=Recording(validate_every=steps, snapshots=1),
        )
        psnr = evaluate(run.model, data.test)["psnr"]
        found[name] = {"steps": steps, "seconds": run.seconds, "psnr": psnr}
    return found


PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "loss": loss,
    "step": step,
    "many": many,
    "paper": paper,
}


def loss_table(rows: list[dict[str, float]]) -> str:
    """The margin loss and the lookup beside their floors."""
    titles = ["K", "N", "floor (ms)", "loss (ms)", "over the floor", "memory (MiB)"]
    titles += ["first draft (ms)", "its memory (MiB)", "lookup over one product"]
    lines = []
    for row in rows:
        line = [
            f"{row['num_codes']:,}",
            f"{row['count']:,}",
            f"{1e3 * row['floor']:,.1f}",
            f"{1e3 * row['loss']:,.1f}",
            f"{row['loss'] / row['floor']:.2f}",
            f"{row['memory']:.0f}",
            _known(1e3 * row["plain"]),
            _known(row["plain_memory"]),
            f"{row['lookup'] / row['lookup_floor']:.2f}",
        ]
        lines.append(line)
    return markdown_table(titles, lines)


def _known(value: float) -> str:
    """A number without decimals; empty where it was not measured."""
    return "" if math.isnan(value) else f"{value:,.0f}"


def step_table(found: dict[str, Any]) -> str:
    """Whole training steps beside that of SAMP."""
    lines = []
    for name, value in found["seconds"].items():
        ratio = value / found["seconds"]["SAMP"]
        spread = found["spread"][name]
        lines.append([name, f"{1e3 * value:,.0f}", f"{1e3 * spread:,.1f}", f"{ratio:.2f}"])
    return markdown_table(["training step", "ms", "spread (ms)", "over SAMP's"], lines)


def markdown(found: dict[str, Any]) -> str:
    """The tables and numbers of speed.md, of the parts that have been measured."""
    paragraphs = []
    if "loss" in found:
        paragraphs.append(loss_table(found["loss"]["targets"]))
    if "step" in found:
        precision = found["step"]["precision"]
        paragraphs.append(step_table(found["step"]))
        paragraphs.append(f"Steps in {precision}, unless their name says otherwise.")
    if "many" in found:
        paragraphs.append(many_sentence(found["many"]))
    for name, run in found.get("paper", {}).items():
        measured = f"{run['seconds']:.0f} s, {run['psnr']:.2f} dB"
        paragraphs.append(f"MNIST, {name}, {run['steps']:,} steps: {measured}.")
    paragraphs.append(f"Medians. {found['machine']}.\n")
    return "\n\n".join(paragraphs)


def many_sentence(found: dict[str, Any]) -> str:
    """How long many settings take together, beside one alone."""
    together = found["together"]
    alone = found["alone"]
    return (
        f"{found['settings']} settings of the quick profile take {together:.0f} s together, "
        f"{together / alone:.0f} times as long as one alone ({alone:.1f} s)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=[*PARTS],
        help="measure these, keep the others",
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)

    file = RESULTS / "speed.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part in options.only:
        # A fresh process, so that nothing that an earlier part left behind slows this one down.
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
            found[part] = process.submit(PARTS[part], device).result()
    found["machine"] = machine()
    write_text(file, json.dumps(found, indent=1))
    if "loss" in found:
        picture = cost_picture(pd.DataFrame(found["loss"]["curves"]))
        write_whole(RESULTS / "speed.png", lambda draft: picture.write_image(draft, format="png"))
    write_report("speed.md", markdown(found))
