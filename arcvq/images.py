"""Image data sets as uint8 tensors on the device: batches are gathered and scaled there, without workers."""

import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Int64, UInt8
from torch import Tensor

from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import data_root
from arcvq.runtime.fingerprint import fingerprint

SEED = 2605  # fixes every split, warp and patch position
PHOTOGRAPHS = ("china", "flower")
PHOTO_COLUMNS = {"train": (0, 448), "validation": (448, 512), "test": (512, 640)}  # from, to in pixels
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
_PARTS = ("train", "validation", "test")
DATASETS = ("digits", "plain_digits", "photos", *_TORCHVISION)
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_IMAGE_FILES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Pixels 0..255 as float32 in [-1, 1]; `to_uint8` takes them back exactly."""
    return images.float() / 127.5 - 1


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Floats in [-1, 1] as pixels 0..255, rounded; values outside the range are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class ImageSplit:
    """Images (n, C, H, W) uint8 and labels (n,) int64. Raises ValueError where they do not fit."""

    images: UInt8[Tensor, "n C H W"]
    labels: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != len(self.labels):
            got = f"{self.images.dtype} {tuple(self.images.shape)} and {len(self.labels)} labels"
            raise ValueError(f"a split needs uint8 images (n, C, H, W) and n labels, not {got}")

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b C H W"]:
        """The images at these indices as float32 in [-1, 1], on the device of the split."""
        return to_float(self.images[indices.to(self.images.device)])

    def first(self, count: int) -> "ImageSplit":
        """The first `count` images, or all if there are fewer."""
        return ImageSplit(self.images[:count], self.labels[:count])

    def to(self, device: str | torch.device) -> "ImageSplit":
        """The same split on another device."""
        return ImageSplit(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """Three splits that share no image; train is in random order, so its first n images are a fair sample."""

    name: str
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.train.images.device

    @cached_property
    def variance(self) -> float:
        """Variance of all training pixels, scaled to [-1, 1]: the divisor of the reconstruction loss."""
        counts = torch.bincount(self.train.images.flatten(), minlength=256).cpu().numpy()
        return float(np.cov(np.arange(256) / 127.5 - 1, fweights=counts, bias=True))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any pixel, label or split; the same on every machine."""
        splits = (self.train, self.validation, self.test)
        return fingerprint(*(tensor for split in splits for tensor in (split.images, split.labels)))

    def subset(self, train: int) -> "ImageData":
        """The same data with its first `train` training images. Raises ValueError if there are fewer."""
        if not 1 <= train <= len(self.train):
            raise ValueError(f"train must be 1 to {len(self.train)}, the images of {self.name}, not {train}")
        return replace(self, train=self.train.first(train))

    def to(self, device: str | torch.device) -> "ImageData":
        """The same data on another device."""
        return replace(self, **{part: getattr(self, part).to(device) for part in _PARTS})


def load_images(name: str = "digits", root: str | Path | None = None, device: str | torch.device = "auto", *,
                size: int = 32, grey: bool | None = None) -> ImageData:
    """Opens a data set on the device; a name stands for the same pixels and splits on every machine.

    - `digits`, 28x28 grey: scikit-learn's 1,797 handwritten 8x8 digits, enlarged (bicubic), warped at random
      (rotation and shear up to 12 degrees, shift up to 10% of the width, scale 0.8 to 1.1): 10,000 images of
      1,437 originals for training, 1,000 of 180 others for validation, 1,000 of the last 180 for test.
    - `plain_digits`, 16x16 grey: the same originals, enlarged and not warped: 1,437 / 180 / 180.
    - `photos`, 32x32 RGB: 10,000 / 1,000 / 1,000 patches of two photographs, from the `PHOTO_COLUMNS`.
    - `mnist`, `fashion_mnist`, `kmnist`, `cifar10`: torchvision's files below `data_root(root)`, fetched if
      missing.
      Validation is a tenth of the training set.
    - `folder:PATH`: image files, loose, in a folder per class, or either below `train`, `val`, `test`; a
      missing `val` or `test` is a tenth of `train`. The shorter side becomes `size` pixels (a multiple of
      8), the centre is kept. `grey` None: grey if no image has colour.

    Raises ValueError for a wrong name, size, device or image file, FileNotFoundError for what is not there.
    """
    chosen = choose_device(device)
    if name.startswith("folder:"):
        return _folder(name, size, grey).to(chosen)
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; use one of {', '.join(DATASETS)}, or folder:PATH")
    if size != 32 or grey is not None:
        raise ValueError(f"size and grey are for folder:PATH only; {name} has its own")
    if name in _TORCHVISION:
        return _torchvision(name, data_root(root)).to(chosen)
    return _BUILT_IN[name]().to(chosen)


def photograph(name: str) -> UInt8[Tensor, "1 3 H W"]:
    """The photograph "china" or "flower", 424x640 (a multiple of 8). Raises ValueError for another name."""
    from PIL import Image
    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph {name!r} is unknown; use one of {', '.join(PHOTOGRAPHS)}")
    with Image.open(_scikit_learn(f"images/{name}.jpg")) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return pixels[..., : pixels.shape[2] // 8 * 8, : pixels.shape[3] // 8 * 8].contiguous()


def _scikit_learn(file: str) -> Path:
    """A file of scikit-learn's data sets. Its own loaders would import SciPy first: 1.5 s in every notebook."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("scikit-learn, which brings the built-in images, is not installed")
    return Path(package.origin).parent / "datasets" / file


def _held_out(labels: Int64[Tensor, " n"], parts: int) -> list[Int64[Tensor, " _"]]:
    """Indices of the rest and of `parts` tenths, each fair to every class and in a fixed random order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    turn = torch.empty_like(order)
    turn[order[labels[order].argsort(stable=True)]] = torch.arange(len(labels)) % 10
    return [order[turn[order] >= parts], *(order[turn[order] == part] for part in range(parts))]


def _originals(size: int) -> tuple[Float64[Tensor, "n 1 size size"], Int64[Tensor, " n"]]:
    """The handwritten digits enlarged to size x size pixels in [0, 1], in float64: the same pixels everywhere."""
    rows = torch.from_numpy(np.loadtxt(_scikit_learn("data/digits.csv.gz"), delimiter=","))  # 64 pixels 0..16, label
    enlarged = F.interpolate(rows[:, :-1].view(-1, 1, 8, 8) / 16, size=(size, size), mode="bicubic")
    return enlarged.clamp(0, 1), rows[:, -1].long()


def _digits() -> ImageData:
    originals, labels = _originals(28)
    generator = torch.Generator().manual_seed(SEED)
    splits = {}
    for part, chosen, count in zip(_PARTS, _held_out(labels, 2), (10_000, 1_000, 1_000), strict=True):
        repeated = chosen[torch.arange(count) % len(chosen)]
        warped = torch.cat([_warp(originals[some], generator) for some in repeated.split(1_000)])
        splits[part] = ImageSplit((warped * 255).round().to(torch.uint8), labels[repeated])
    return ImageData("digits", classes=tuple("0123456789"), **splits)


def _plain_digits() -> ImageData:
    originals, labels = _originals(16)
    pixels = (originals * 255).round().to(torch.uint8)
    splits = {part: ImageSplit(pixels[rows], labels[rows])
              for part, rows in zip(_PARTS, _held_out(labels, 2), strict=True)}
    return ImageData("plain_digits", classes=tuple("0123456789"), **splits)


def _warp(images: Float64[Tensor, "n C H W"], generator: torch.Generator) -> Float64[Tensor, "n C H W"]:
    draws = 2 * torch.rand(5, len(images), generator=generator, dtype=torch.float64) - 1
    angle, slope = draws[0] * np.pi / 15, (draws[1] * np.pi / 15).tan()  # 12 degrees
    scale = 0.95 + 0.15 * draws[2]
    shift = 0.2 * draws[3:].T[..., None]  # positions run from -1 to 1, so 0.2 is a tenth of the width
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([cos - slope * sin, sin + slope * cos, -sin, cos], dim=1).view(-1, 2, 2)
    grid = F.affine_grid(torch.cat([linear, -linear @ shift], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _photos() -> ImageData:
    generator = torch.Generator().manual_seed(SEED)
    pictures = torch.cat([photograph(name) for name in PHOTOGRAPHS])
    splits = {}
    for (part, (left, right)), count in zip(PHOTO_COLUMNS.items(), (5_000, 500, 500), strict=True):
        windows = pictures[..., left:right].unfold(2, 32, 1).unfold(3, 32, 1)  # (2, 3, rows, columns, 32, 32)
        rows, columns = windows.shape[2:4]
        places = torch.randperm(rows * columns, generator=generator)[:count]
        chosen = windows[:, :, places // columns, places % columns]  # (2, 3, count, 32, 32)
        images = chosen.permute(2, 0, 1, 3, 4).flatten(0, 1).contiguous()  # the two photographs take turns
        splits[part] = ImageSplit(images, torch.arange(len(images)) % 2)
    return ImageData("photos", classes=PHOTOGRAPHS, **splits)


_BUILT_IN: dict[str, Callable[[], ImageData]] = {"digits": _digits, "plain_digits": _plain_digits, "photos": _photos}


def _torchvision(name: str, root: Path) -> ImageData:
    from torchvision import datasets
    dataset = getattr(datasets, _TORCHVISION[name])
    try:
        opened = [dataset(root, train=True), dataset(root, train=False)]
    except Exception:  # torchvision raises many types for absent and for broken files
        _download(name, dataset, root)
        opened = [dataset(root, train=True), dataset(root, train=False)]
    pixels = [torch.as_tensor(part.data) for part in opened]  # (n, H, W) or (n, H, W, C)
    images = [x.view(*x.shape[:3], -1).permute(0, 3, 1, 2).contiguous() for x in pixels]
    train, test = map(ImageSplit, images, [torch.as_tensor(part.targets) for part in opened])
    classes = tuple(label.split(" - ")[0] for label in opened[0].classes)  # MNIST's are "0 - zero"
    part = [ImageSplit(train.images[rows], train.labels[rows]) for rows in _held_out(train.labels, 1)]
    return ImageData(name, part[0], part[1], test, classes)


def _download(name: str, dataset: Any, root: Path) -> None:
    """Fetches and unpacks in a scratch folder, then moves whole files: a break leaves nothing behind."""
    archives = [f"{dataset.__name__}/raw/{file}" for file, _ in getattr(dataset, "resources", [])]
    archives = archives or [dataset.filename]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds without an answer; torchvision alone would wait for ever
    try:
        if all((root / file).exists() for file in archives):  # put there by hand
            dataset(root, download=True)
            return
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
            dataset(scratch, download=True)
            for file in filter(Path.is_file, sorted(Path(scratch).rglob("*"))):
                target = root / file.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except Exception as error:
        raise FileNotFoundError(f"{name} is missing or broken and could not be downloaded: put "
                                f"{', '.join(archives)} (packed or unpacked) into {root}") from error
    finally:
        socket.setdefaulttimeout(before)


def _folder(name: str, size: int, grey: bool | None) -> ImageData:
    from tqdm.auto import tqdm
    if size < 8 or size % 8:
        raise ValueError(f"size must be a positive multiple of 8 pixels, not {size}")
    listed = _listed(Path(name.removeprefix("folder:")).expanduser())
    rows = {part: torch.tensor([i for i, entry in enumerate(listed) if entry[1] == part]) for part in _PARTS}
    missing = [part for part in _PARTS if not len(rows[part])]
    if len(rows["train"]) <= len(missing):
        needed = ", ".join(["train", *missing])
        raise ValueError(f"{name} has {len(rows['train'])} images to divide into {needed}, too few")
    pixels = [_read(file, size, bool(grey)) for file, _, _ in tqdm(listed, desc=name, delay=2, leave=False)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    if grey or (grey is None and (images == images[:, :1]).all()):
        images = images[:, :1]
    classes, numbers = np.unique([label for _, _, label in listed], return_inverse=True)
    images, labels = images.contiguous(), torch.from_numpy(numbers)
    kept = [rows["train"][chosen] for chosen in _held_out(labels[rows["train"]], len(missing))]
    rows |= zip(["train", *missing], kept, strict=True)
    splits = {part: ImageSplit(images[rows[part]], labels[rows[part]]) for part in _PARTS}
    return ImageData(name, classes=tuple(classes.tolist()), **splits)


def _listed(path: Path) -> list[tuple[Path, str, str]]:
    """Every image file in sorted order with its part ("train" where there are no parts) and its class."""
    walk = [Path(where, name) for where, _, names in os.walk(path, followlinks=True) for name in names]
    files = [file.relative_to(path) for file in sorted(walk) if file.suffix.lower() in _IMAGE_FILES]
    files = [file for file in files if not any(folder.startswith(".") for folder in file.parts)]
    if not files:
        lack = f"has no images ({', '.join(_IMAGE_FILES)})" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"the folder {str(path)!r} {lack}")
    folders = {file.parts[0] for file in files if len(file.parts) > 1}
    deep = "train" in folders and folders <= _SPLIT_FOLDERS.keys()
    files = [file for file in files if not deep or file.parts[0] in folders]
    parts = [_SPLIT_FOLDERS[file.parts[0]] if deep else "train" for file in files]
    classes = [(*file.parts[deep:-1], "all")[0] for file in files]
    return [(path / file, part, label) for file, part, label in zip(files, parts, classes, strict=True)]


def _read(file: Path, size: int, grey: bool) -> UInt8[np.ndarray, "size size 3"]:
    from PIL import Image, ImageOps
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"it has {image.mode} pixels, and only 8 bits a channel are read")
            image.draft(None, (4 * size, 4 * size))  # decodes a large JPEG at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB").convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow's decoders raise many types
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
