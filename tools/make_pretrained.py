"""Make the models in data/checkpoints again: digits and, where its files are, those of MNIST.

    python tools/make_pretrained.py digits mnist page/samp page/plain --root FOLDER_WITH_MNIST
    python tools/make_pretrained.py digits_plain digits_cosine digits_cvq digits_samp prior
    python tools/make_pretrained.py photos_plain photos_cosine photos_cvq photos_samp
    python tools/make_pretrained.py photos_samp_pixels

A run that was begun before goes on; its card leaves out the device, which a run does not keep. The
figures are those of the test images, straight from tensors.

The four of the second line differ in their quantizer alone; they and the prior of the last one's
tokens come in half precision. So do the VQGANs of photographs, which are the runs of the first seed
in the experiment `natural_images`.

The two runs of `arcvq export-explorers` come in half precision, with the snapshots of their
training, and with ten test images beside them.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import arcvq
from arcvq import priors
from arcvq.experiments import natural_study
from arcvq.geometry import describe
from arcvq.images import to_uint8
from arcvq.priors.shipped import FOLDER_NAME
from arcvq.runs.pretrained import FOLDER, write_pretrained
from arcvq.runs.settings import run_folder
from arcvq.runtime.devices import choose_device, device_name

NETWORK = {"hidden": 64, "residual_hidden": 16}
COMPARED = {
    "dataset": "digits",
    "num_codes": 256,
    "dim": 16,
    "steps": 3000,
    "batch_size": 64,
    **NETWORK,
}
ON_PAGE = {"dataset": "mnist", "num_codes": 128, "dim": 3, "steps": 2000, "lr": 2e-3}
SETTINGS: dict[str, dict[str, Any]] = {  # of RunSettings
    "digits": {"dataset": "digits", "steps": 3160, **NETWORK},  # 40 passes over the training images
    "mnist": {"dataset": "mnist", "steps": 6320, **NETWORK},  # 15 passes
    "digits_plain": {"quantizer": "plain", **COMPARED},
    "digits_cosine": {"quantizer": "cosine", **COMPARED},
    "digits_cvq": {"quantizer": "cvq", **COMPARED},
    "digits_samp": {"quantizer": "samp", **COMPARED},
    "page/samp": {"quantizer": "samp", **ON_PAGE},
    "page/plain": {"quantizer": "plain", **ON_PAGE},
}
ON_PHOTOS = {
    "dataset": "photos_64",
    "num_codes": 256,
    "dim": 16,
    "steps": 2000,
    "batch_size": 8,
    "lr": 1e-3,
}
VARIANTS = {  # of the experiment `natural_images`
    "photos_plain": "plain VQ",
    "photos_cosine": "cosine",
    "photos_cvq": "CVQ",
    "photos_samp": "SAMP",
    "photos_samp_pixels": "SAMP on pixels alone",
}
IN_FULL = ("digits", "mnist")  # that are stored in full precision
TOKENIZER = "digits_samp"  # whose tokens get a prior
PRIOR = "prior"  # its name on the command line
IMAGES_OF_PAGE = FOLDER / "page" / "images.png"


def figures(run: arcvq.Run, settings: arcvq.RunSettings, data: arcvq.ImageData) -> dict[str, float]:
    """What the card says of a model: measures of the test images and of the codebook."""
    model = run.model
    measured = arcvq.evaluate(model, data.test, ssim=True)
    if settings.vqgan:
        (row,) = natural_study.measure(run, settings, data, Path())
        measured |= {name: row[name] for name in ("perceptual", "sharpness")}
    geometry = describe(model.quantizer.codebook.detach().cpu())
    rounded = {name: round(float(value), 4) for name, value in measured.items()}
    rounded["min_angle_degrees"] = round(math.degrees(geometry.min_angle), 2)
    rounded["norm_mean"] = round(geometry.norm_mean, 3)
    return rounded


def settings_of(name: str) -> arcvq.RunSettings:
    """How a model is trained."""
    if name in VARIANTS:
        variants = natural_study.variants(arcvq.RunSettings.for_profile("quick", **ON_PHOTOS))
        (chosen,) = [one for one in variants if one.name == VARIANTS[name]]
        return chosen.settings
    settings = arcvq.RunSettings(**SETTINGS[name])
    if name in IN_FULL:
        # Written out, as when they were first trained: a run is found again by its settings.
        samp = arcvq.SAMP.for_run(settings.steps)
        settings = dataclasses.replace(settings, samp=samp)
    return settings


def make(name: str, root: Path | None) -> None:
    """Train one model, or open it if it was trained before, and write it with its card."""
    settings = settings_of(name)
    data = arcvq.load_images(settings.dataset, root=root)
    device = choose_device()
    begun = run_folder(settings, data, root, device).exists()
    run = arcvq.train(settings, data, root=root)
    in_half = name not in IN_FULL
    is_of_page = name.startswith("page/")
    if in_half:
        run.model.half().float()  # as it is stored
    if is_of_page:
        write_images(data)

    machine = [] if begun else [device_name(device)]
    machine += [run.settings["precision"], f"{run.seconds:.0f} s of training"]
    card = {
        "command": f"python tools/make_pretrained.py {name}",
        "data": f"{data.name}, {len(data.train):,} training images",
        "machine": ", ".join(machine),
        "settings": settings.config(),
        "figures": figures(run, settings, data),
    }
    for record in ("samp", "vqgan"):
        if card["settings"].get(record):
            card["settings"][record] = json.dumps(card["settings"][record])
    if in_half:
        run.model.half()
    if is_of_page:
        run.save(FOLDER / name)
    write_pretrained(FOLDER / name, run.model, card)


def make_prior(root: Path | None) -> None:
    """Fit a prior to the labeled tokens of digits_samp, or open it, and write it with its card."""
    model = arcvq.pretrained.load(TOKENIZER)
    data = arcvq.load_images("digits", root=root)
    settings = priors.PriorSettings(
        kind="transformer",
        conditional=True,
        width=96,
        layers=4,
        steps=4000,
        batch_size=64,
        lr=2e-3,
    )
    fitted = priors.train_prior(settings, model, data, root=root)
    prior = fitted.prior.half().float()  # as it is stored
    tokens = priors.encode_split(model, data.test)
    bits = priors.bits_per_token(prior, tokens.tokens, tokens.labels)
    card = {
        "command": "python tools/make_pretrained.py prior",
        "data": f"tokens of {TOKENIZER} for {data.name}, {len(data.train):,} training images",
        "machine": f"{fitted.settings['precision']}, {fitted.seconds:.0f} s of fitting",
        "settings": settings.config(),
        "figures": {"bits_per_token": round(bits, 4), "tokens": tokens.tokens.numel()},
    }
    write_pretrained(FOLDER / TOKENIZER / FOLDER_NAME, prior.half(), card)


def write_images(data: arcvq.ImageData) -> None:
    """Write a test image of each digit in a row: the fourth of its kind, as it comes."""
    chosen = [int((data.test.labels == label).nonzero()[3]) for label in range(10)]
    digits = to_uint8(data.test.batch(torch.tensor(chosen)).cpu())
    row = torch.cat(list(digits[:, 0]), dim=1)
    IMAGES_OF_PAGE.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(row.numpy()).save(IMAGES_OF_PAGE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=[*SETTINGS, *VARIANTS, PRIOR])
    parser.add_argument("--root", type=Path, help="where data sets and runs are kept")
    options = parser.parse_args()
    for name in options.names:
        if name == PRIOR:
            make_prior(options.root)
        else:
            make(name, options.root)
