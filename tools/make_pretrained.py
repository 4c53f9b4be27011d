"""Make the models in data/checkpoints again: digits and, where its files are, MNIST.

    python tools/make_pretrained.py digits mnist --root FOLDER_WITH_MNIST

A run that was begun before goes on; its card leaves out the device, which a run does not keep. The figures are those of
the test images, straight from tensors.
"""

import argparse
import math
from pathlib import Path

import arcvq
from arcvq.geometry import describe
from arcvq.runs.pretrained import FOLDER, write_pretrained
from arcvq.runs.settings import run_folder
from arcvq.runtime.devices import choose_device, device_name
from arcvq.runtime.files import data_root

LENGTHS = {"digits": 3160, "mnist": 6320}  # steps: 40 and 15 passes over the training images


def make(name: str, root: Path) -> None:
    """Train one model, or open it if it was trained before, and write it with its card."""
    steps = LENGTHS[name]
    samp = arcvq.SAMP.for_run(steps)
    settings = arcvq.RunSettings(dataset=name, steps=steps, hidden=64, residual_hidden=16, samp=samp)
    images = arcvq.load_images(name, root=root)
    device = choose_device()
    known = [] if run_folder(settings, images, root, device).exists() else [device_name(device)]
    run = arcvq.train(settings, images, root=root)
    measured = arcvq.evaluate(run.model, images.test, ssim=True)
    shape = describe(run.model.quantizer.codebook.detach().cpu())
    figures = {key: round(float(value), 4) for key, value in measured.items()}
    figures |= {"min_angle_degrees": round(math.degrees(shape.min_angle), 2), "norm_mean": round(shape.norm_mean, 3)}
    write_pretrained(FOLDER / name, run.model, {
        "command": f"python tools/make_pretrained.py {name}",
        "data": f"{images.name}, {len(images.train):,} training images",
        "machine": ", ".join([*known, run.settings["precision"], f"{run.seconds:.0f} s of training"]),
        "settings": settings.plain(), "figures": figures})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=LENGTHS)
    parser.add_argument("--root", type=Path, default=data_root(), help="where data sets and runs are kept")
    options = parser.parse_args()
    for name in options.names:
        make(name, options.root)
