"""How fast SAMP is: loss and lookup over their floors, whole training steps, many settings at once, side by side.

    python -m benchmarks
    python -m benchmarks --only step many

Each part runs in a process of its own, in which all that it compares take turns after a warm-up; medians and their
spread (half the distance between the quartiles) go to benchmarks/results/speed.json, the tables to speed.md, the
curves to speed.png. On a CUDA device `paper` also trains MNIST for 500 epochs, twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
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
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS, machine

TARGETS = {"cpu": [(512, 50_176), (4_096, 65_536), (16_384, 65_536)],
           "cuda": [(512, 50_176), (4_096, 65_536), (16_384, 262_144), (65_536, 1_048_576)]}
CURVES = {"cpu": [(512, 2**n) for n in range(10, 19, 2)] + [(2**k, 16_384) for k in range(6, 15, 2)],
          "cuda": [(512, 2**n) for n in range(10, 21, 2)] + [(2**k, 65_536) for k in range(6, 17, 2)]}
BATCH, CODES, DIM = 1024, 512, 64
STEPS = {"SAMP, float32": (SphericalQuantizer, torch.float32), "SAMP": (SphericalQuantizer, None),
         "cosine": (CosineQuantizer, None),
         "cosine EMA of vector-quantize-pytorch": (BASELINES["cosine_ema"], None)}  # None: the fastest precision


def loss(device: torch.device) -> dict[str, Any]:
    """Time and memory of the margin loss and the lookup at the target sizes and along the curves."""
    targets = margin_costs(TARGETS[device.type], DIM, device, repeats=9)
    curves = margin_costs(CURVES[device.type], DIM, device, repeats=5)
    return {"targets": targets.to_dict("records"), "curves": curves.to_dict("records")}


def step(device: torch.device) -> dict[str, Any]:
    """Seconds of one training step: batch 1,024 of 28x28, C 128, K 512, D 64."""
    images = load_images("digits", device=device)
    precision = choose_precision("auto", device)
    actions = {"plain": plain_step(PlainSphericalQuantizer(CODES, DIM), images, BATCH)}
    for name, (kind, dtype) in STEPS.items():
        actions[name] = fitted_step(kind(CODES, DIM), images, BATCH, dtype or precision)
    if device.type == "cuda":
        quantizer = SphericalQuantizer(CODES, DIM)
        actions["SAMP, CUDA graph"] = fitted_step(quantizer, images, BATCH, precision, cuda_graph=True)
    times = side_by_side(actions, repeats=9)
    spread = (times.quantile(0.75) - times.quantile(0.25)) / 2
    return {"seconds": times.median().to_dict(), "spread": spread.to_dict(), "precision": str(precision)}


def many(device: torch.device) -> dict[str, Any]:
    """Seconds of 64 settings of the quick profile by `train_many`, and of one of them alone by `train`."""
    images = load_images("digits", device=device)
    settings = [RunSettings.for_profile("quick", seed=seed, samp=SAMP.for_run(160)) for seed in range(64)]
    alone = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train(settings[0], images, root=folder, device=device, progress=False)
            alone.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train_many(settings, images, root=folder, device=device)
        together = time.perf_counter() - began
    return {"settings": len(settings), "alone": sorted(alone)[1], "together": together}


def paper(device: torch.device) -> dict[str, Any]:
    """MNIST for 500 epochs by `fit` with SAMP and with plain SAMP: seconds, PSNR (dB) on test images; CUDA only."""
    if device.type != "cuda":
        return {}
    images, found = load_images("mnist", device=device), {}
    steps = 500 * (len(images.train) // BATCH)
    for name, kind, compute in (
        ("SAMP", SphericalQuantizer, Compute(device, cuda_graph=True)),
        ("plain", PlainSphericalQuantizer, Compute(device, "float32")),
    ):
        torch.manual_seed(0)
        model = VQVAE(1, kind(CODES, DIM))
        recording = Recording(validate_every=steps, snapshots=1)
        run = fit(
            model,
            images,
            steps=steps,
            batch_size=BATCH,
            lr=3e-4,
            compute=compute,
            recording=recording,
        )
        found[name] = {"steps": steps, "seconds": run.seconds, "psnr": evaluate(run.model, images.test)["psnr"]}
    return found


PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {"loss": loss, "step": step, "many": many, "paper": paper}


def in_its_own_process(part: str, device: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "benchmarks", "--part", part, "--device", device, "--into", file.name]
        subprocess.run(command, check=True)
        return json.loads(Path(file.name).read_text())


def loss_table(rows: list[dict]) -> list[str]:
    lines = ["| K | N | floor (ms) | loss (ms) | over the floor | memory (MiB) | lookup over one product |",
             "|---" * 7 + "|"]
    for row in rows:
        times = f"{1e3 * row['floor']:,.1f} | {1e3 * row['loss']:,.1f} | {row['loss'] / row['floor']:.2f}"
        lines.append(f"| {row['num_codes']:,} | {row['count']:,} | {times} | {row['memory']:.0f} "
                     f"| {row['lookup'] / row['lookup_floor']:.2f} |")
    return lines


def step_table(found: dict) -> list[str]:
    seconds, samp = found["seconds"], found["seconds"]["SAMP"]
    lines = ["| training step | ms | spread (ms) | over SAMP's |", "|---" * 4 + "|"]
    return lines + [f"| {name} | {1e3 * value:,.0f} | {1e3 * found['spread'][name]:,.1f} | {value / samp:.2f} |"
                    for name, value in seconds.items()]


def markdown(found: dict[str, Any]) -> str:
    """The tables of docs/speed.md."""
    many = found["many"]
    ratio = many["together"] / many["alone"]
    sentence = (f"{many['settings']} settings of the quick profile together: {many['together']:.0f} s, one alone: "
                f"{many['alone']:.1f} s, {ratio:.0f} times.")
    lines = [*loss_table(found["loss"]["targets"]), "", *step_table(found["step"]), "", sentence]
    for name, run in found["paper"].items():
        lines += ["", f"MNIST, {name}, {run['steps']:,} steps: {run['seconds']:.0f} s, {run['psnr']:.2f} dB."]
    return "\n".join(lines) + f"\n\nMedians. {found['machine']}; step in {found['step']['precision']}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="measure these, keep the others")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        options.into.write_text(json.dumps(PARTS[options.part](choose_device(options.device))))
        return
    file = RESULTS / "speed.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part in options.only:
        found[part] = in_its_own_process(part, options.device)
    found["machine"] = machine()
    write_whole(file, lambda path: path.write_text(json.dumps(found, indent=1)))
    write_whole(RESULTS / "speed.md", lambda path: path.write_text(markdown(found)))
    picture = cost_picture(pd.DataFrame(found["loss"]["curves"]))
    write_whole(RESULTS / "speed.png", lambda path: picture.write_image(path, format="png"))
    print(markdown(found))
