"""Make the models in data/checkpoints again: digits and, where its files are, MNIST.

    python tools/make_pretrained.py digits mnist --root FOLDER_WITH_MNIST

A run that was begun before goes on; its card leaves out the device, which a run does not keep. The
figures are those of the test images, straight from tensors.
"""

import argparse
import json
import math
from pathlib import Path

import arcvq
from arcvq.geometry import describe
from arcvq.runs.pretrained import FOLDER, write_pretrained
from arcvq.runs.settings import run_folder
from arcvq.runtime.devices import choose_device, device_name

STEPS = {"digits": 3160, "mnist": 6320}  # 40 and 15 passes over the training images


def figures(model: arcvq.VQVAE, data: arcvq.ImageData) -> dict[str, float]:
    """What the card says of a model: measures of the test images and of the codebook."""
    measured = arcvq.evaluate(model, data.test, ssim=True)
    geometry = describe(model.quantizer.codebook.detach().cpu())
    rounded = {name: round(float(value), 4) for name, value in measured.items()}
    rounded["min_angle_degrees"] = round(math.degrees(geometry.min_angle), 2)
    rounded["norm_mean"] = round(geometry.norm_mean, 3)
    return rounded


def make(name: str, root: Path | None) -> None:
    """Train one model, or open it if it was trained before, and write it with its card."""
    steps = STEPS[name]
    samp = arcvq.SAMP.for_run(steps)
    settings = arcvq.RunSettings(
        dataset=name, steps=steps, hidden=64, residual_hidden=16, samp=samp
    )
    data = arcvq.load_images(name, root=root)
    device = choose_device()
    begun = run_folder(settings, data, root, device).exists()
    run = arcvq.train(settings, data, root=root)

    machine = [] if begun else [device_name(device)]
    machine += [run.settings["precision"], f"{run.seconds:.0f} s of training"]
    card = {
        "command": f"python tools/make_pretrained.py {name}",
        "data": f"{data.name}, {len(data.train):,} training images",
        "machine": ", ".join(machine),
        "settings": settings.config() | {"samp": json.dumps(samp.config())},
        "figures": figures(run.model, data),
    }
    write_pretrained(FOLDER / name, run.model, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=STEPS)
    parser.add_argument("--root", type=Path, help="where data sets and runs are kept")
    options = parser.parse_args()
    for name in options.names:
        make(name, options.root)
