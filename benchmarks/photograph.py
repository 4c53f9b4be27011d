"""A whole photograph through three quantizers, trained on 32x32 patches of its left part.

    python -m benchmarks.photograph --seed 0 --steps 400

The network is convolutional, so it takes any size. Trained runs are kept. Writes photograph.jpg.
"""

import argparse
import math

import torch
from PIL import Image, ImageDraw, ImageFont

from arcvq import ImageData, RunSettings, load_images, train
from arcvq.images import PHOTO_COLUMNS, photograph, to_float, to_uint8
from arcvq.metrics import psnr
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS

METHODS = {"plain": "plain VQ", "cosine": "cosine", "samp": "SAMP"}
GAP = 8  # pixels between two pictures
BAND = 24  # height of the captions in pixels


def reconstruct(
    settings: RunSettings, data: ImageData, original: torch.Tensor
) -> tuple[str, torch.Tensor]:
    """Train on patches and reconstruct the photograph; returns a caption and the picture."""
    model = train(settings, data, device="cpu").model
    rebuilt = model.reconstruct(original)
    codes = len(model.encode(original).unique())
    left, _ = PHOTO_COLUMNS["test"]
    whole = psnr(rebuilt, original)
    unseen = psnr(rebuilt[..., left:], original[..., left:])
    facts = f"{whole:.2f} dB ({unseen:.2f} dB on the unseen right fifth), {codes} codes"
    return f"{METHODS[settings.quantizer]}: {facts}", rebuilt


def draw(panels: list[tuple[str, torch.Tensor]]) -> Image.Image:
    """The pictures in two columns, each under its caption."""
    height, width = panels[0][1].shape[2:]
    rows = math.ceil(len(panels) / 2)
    size = (2 * width + GAP, rows * (height + BAND))
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(14)
    for place, (caption, image) in enumerate(panels):
        row, column = divmod(place, 2)
        left = column * (width + GAP)
        top = row * (height + BAND)
        pixels = to_uint8(image)[0].permute(1, 2, 0).numpy()
        pen.text((left + 2, top + 3), caption, "black", font)
        picture.paste(Image.fromarray(pixels), (left, top + BAND))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="china", help="china or flower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()

    data = load_images("photos", device="cpu")
    original = to_float(photograph(options.name))
    panels = [("original", original)]
    for method in METHODS:
        settings = RunSettings("photos", method, seed=options.seed, steps=options.steps)
        panels.append(reconstruct(settings, data, original))
        print(panels[-1][0])
    picture = draw(panels)
    write_whole(RESULTS / "photograph.jpg", lambda draft: picture.save(draft, "JPEG", quality=88))


if __name__ == "__main__":
    main()
