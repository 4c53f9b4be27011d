"""The smallest data and settings that train: random 8x8 images, where only the way matters."""

from pathlib import Path

import torch
from PIL import Image

from arcvq.images import ImageData, ImageSplit
from arcvq.runs.settings import RunSettings

SMALL = RunSettings(
    dataset="strokes",
    num_codes=8,
    dim=4,
    hidden=8,
    residual_hidden=4,
    steps=6,
    batch_size=8,
    precision="float32",
)


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator)
    return ImageSplit(pixels.to(torch.uint8), torch.arange(count) % 2)


IMAGES = ImageData("strokes", split(32, 0), split(8, 1), split(8, 2), ("a", "b"))


def write_folder(folder: Path) -> str:
    """Write ten random color images of each of two classes, and return the data set's name."""
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        pixels = torch.randint(0, 256, (24, 24, 3), generator=generator)
        file = folder / f"class {number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.byte().numpy()).save(file)
    return f"folder:{folder}"
