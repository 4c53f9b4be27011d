"""A whole photograph through plain VQ and through SAMP, both trained on 32x32 patches of its left part.

    python -m benchmarks.photograph --seed 0 --steps 400

The network is convolutional, so it takes any size. Uses the runs of `benchmarks.compare`. Writes photograph.jpg.
"""

import argparse

import torch
from PIL import Image, ImageDraw, ImageFont

from arcvq import RunSettings, load_images, train
from arcvq.images import PHOTO_COLUMNS, photograph, to_float, to_uint8
from arcvq.metrics import psnr
from arcvq.runtime.files import write_whole
from benchmarks import RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="china", help="china or flower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    images, original = load_images("photos", device="cpu"), to_float(photograph(options.name))
    panels = [("original", original)]
    for method, title in (("plain", "plain VQ"), ("samp", "SAMP")):
        settings = RunSettings(dataset="photos", quantizer=method, seed=options.seed, steps=options.steps)
        model = train(settings, images, device="cpu").model
        rebuilt, codes = model.reconstruct(original), len(model.encode(original).unique())
        left = PHOTO_COLUMNS["test"][0]
        unseen = psnr(rebuilt[..., left:], original[..., left:])
        whole = psnr(rebuilt, original)
        caption = f"{title}: {whole:.2f} dB ({unseen:.2f} dB on the unseen right fifth), {codes} codes"
        print(caption)
        panels.append((caption, rebuilt))
    picture = sheet(panels)
    write_whole(RESULTS / "photograph.jpg", lambda path: picture.save(path, "JPEG", quality=88))


def sheet(panels: list[tuple[str, torch.Tensor]]) -> Image.Image:
    """The pictures side by side, each under its caption."""
    height, width, band = *panels[0][1].shape[2:], 24
    picture = Image.new("RGB", (len(panels) * (width + 8) - 8, height + band), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for place, (caption, pixels) in enumerate(panels):
        pen.text((place * (width + 8) + 2, 3), caption, "black", font)
        picture.paste(Image.fromarray(to_uint8(pixels)[0].permute(1, 2, 0).numpy()), (place * (width + 8), band))
    return picture


if __name__ == "__main__":
    main()
