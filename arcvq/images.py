"""Image data sets, held whole on the device as uint8 tensors.

Batches are gathered and scaled there, so training needs neither data loaders nor workers. Only a
folder of images that does not fit into memory is streamed from its files (see
`arcvq.streamed_images`).
"""

import math
import socket
import tempfile
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64, Integer, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from arcvq.image_folders import (
    PARTS,
    Reading,
    central,
    check_folder,
    folder_of,
    read_images,
    scan_folder,
)
from arcvq.runtime.checks import as_indices, as_integers, check_whole
from arcvq.runtime.devices import choose_device, total_memory
from arcvq.runtime.extras import extra_folder, extra_import
from arcvq.runtime.files import data_root, exclusive, shared_root
from arcvq.runtime.fingerprint import fingerprint
from arcvq.streamed_images import SAMPLE, StreamedImages, stream_images

SEED = 2605  # fixes every split, warp and patch position
# Pixel values in a batch that is measured: 42 RGB images of 256x256. The feature maps of more would
# take gigabytes.
BATCH_VALUES = 2**23
USUAL_READING = Reading()
DIGITS = tuple("0123456789")
PHOTOGRAPHS = ("china", "flower")  # of the data set `photos`
# Where each photograph lies: the package that ships it, and its file there.
PHOTOGRAPH_FILES = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
# Each part of `photos` is cut from columns of its own: from, to in pixels.
PHOTO_COLUMNS = {"train": (0, 448), "validation": (448, 512), "test": (512, 640)}
# Larger patches by the name of their data set; each part has photographs of its own.
LARGE_PATCHES = {"photos_64": 64, "photos_128": 128}
LARGE_PHOTOGRAPHS = {
    "train": ("china", "flower", "astronaut", "rocket"),
    "validation": ("chelsea",),
    "test": ("coffee", "motorcycle"),
}
LARGE_COUNTS = {"train": 4_000, "validation": 500, "test": 500}
TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
}
DOWNLOAD_LOCK = ".download.lock"  # in the folder of the data sets, while one is downloaded
FULL = "_full"  # at the end of a name: all training images of the files are trained on
DATASETS = (
    "digits",
    "plain_digits",
    "photos",
    *LARGE_PATCHES,
    *TORCHVISION_CLASSES,
    *(name + FULL for name in TORCHVISION_CLASSES),
)


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert pixels from 0..255 to float32 in [-1, 1]; `to_uint8` reverses it exactly."""
    return images.float() / 127.5 - 1


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Convert images in [-1, 1] to pixels 0..255, rounded and clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


# Cached, so that the places of an epoch go to the device once.
@lru_cache(maxsize=2)
def _crop_places(
    count: int, margins: tuple[int, int], seed: int, device: torch.device
) -> Int64[Tensor, "count 2"]:
    """Row and column, each from 0 to its margin, at which the crop of each image begins."""
    generator = torch.Generator().manual_seed(SEED + seed)
    down, across = margins
    if down == across:  # drawn together, as for the runs that are stored
        return torch.randint(down + 1, (count, 2), generator=generator).to(device)
    rows = torch.randint(down + 1, (count,), generator=generator)
    columns = torch.randint(across + 1, (count,), generator=generator)
    return torch.stack([rows, columns], dim=1).to(device)


def crop_images(
    images: UInt8[Tensor, "b C H W"], places: Int64[Tensor, "b 2"], side: int
) -> UInt8[Tensor, "b C side side"]:
    """Cut a square out of each image.

    Args:
        images: The images.
        places: The row and the column at which each square begins.
        side: Its height and width in pixels.
    """
    image = torch.arange(len(images), device=images.device)[:, None, None]
    steps = torch.arange(side, device=images.device)
    rows = places[:, 0, None, None] + steps[:, None]
    columns = places[:, 1, None, None] + steps
    # Indices on both sides of the slice put the channels last.
    return images[image, :, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """The images and labels of one part of a data set.

    Attributes:
        images: Pixels from 0 to 255; `images[rows]` is a tensor even where they are streamed.
        labels: The class of each image, as an index of `ImageData.classes`; int64, which other
            integer dtypes become.
        crop: Batches have squares of this many pixels, at most the shorter side; None for whole
            images.

    Raises:
        ValueError: If the images are not uint8 (n, C, H, W), the labels are not n whole numbers, or
            the crop does not fit into the images.
    """

    images: UInt8[Tensor, "n C H W"] | StreamedImages
    labels: Integer[Tensor, " n"]
    crop: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor | StreamedImages):
            raise ValueError(
                f"images are a {type(self.images).__name__}; they must be a tensor, which "
                "torch.from_numpy makes of an array"
            )
        if not isinstance(self.labels, Tensor):
            raise ValueError(
                f"labels are a {type(self.labels).__name__}; they must be a tensor, which "
                "torch.as_tensor makes of a list or an array"
            )
        shape = tuple(self.images.shape)
        labels = tuple(self.labels.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or labels != shape[:1]:
            raise ValueError(
                "a split needs uint8 images (n, C, H, W) and n labels, "
                f"not {self.images.dtype} {shape} and labels {labels}"
            )
        object.__setattr__(self, "labels", as_integers(self.labels, "labels"))
        if self.crop is not None:
            check_whole(1, min(shape[2:]), crop=self.crop)

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        text = f"{len(self):,} images of {channels} x {height} x {width}"
        if self.is_streamed:
            text += ", streamed"
        if self.crop is not None:
            text += f", crop {self.crop}"
        return f"{type(self).__name__}({text})"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_streamed(self) -> bool:
        """Whether the images stay in their files and are decoded for each batch."""
        return isinstance(self.images, StreamedImages)

    def batch(
        self, indices: Int[Tensor, " b"], crop_seed: int | None = None
    ) -> Float[Tensor, "b C H W"]:
        """Gather images as float32 in [-1, 1], on the device of the split.

        Args:
            indices: Which images.
            crop_seed: Decides at which places the images of a split with `crop` are cropped, one
                for each image. None for the center.

        Raises:
            UnreadableImage: If the images are streamed and a file cannot be used; names it.
        """
        if not self.is_streamed:  # files are chosen on the CPU
            indices = indices.to(self.labels.device)
        images = self.images[indices]
        if self.crop is None:
            return to_float(images)
        if crop_seed is None:
            return to_float(central(images, self.crop))
        height, width = images.shape[2:]
        margins = height - self.crop, width - self.crop
        places = _crop_places(len(self), margins, int(crop_seed), self.labels.device)
        return to_float(crop_images(images, places[indices.to(places.device)], self.crop))

    def batches(
        self, size: int | None, device: str | torch.device
    ) -> Iterator[Float[Tensor, "b C H W"]]:
        """Yield all images in order, as `batch` gathers them.

        Args:
            size: Images at a time; None for 256, or fewer where they are large.
            device: Where the batches go.

        Raises:
            ValueError: If the size is no whole number from 1.
        """
        if size is None:
            size = self._size_of_batch()
        check_whole(1, batch_size=size)
        for indices in torch.arange(len(self)).split(int(size)):
            yield self.batch(indices).to(device)

    def _size_of_batch(self) -> int:
        """As many images as can be measured at a time."""
        values = math.prod(self.images.shape[1:])
        return max(1, min(256, BATCH_VALUES // values))

    def pixel_counts(self) -> Int64[Tensor, "256"]:
        """How often each value occurs in the pixels of all images, in all channels."""
        counts = torch.zeros(256, dtype=torch.int64, device=self.images.device)
        # Few images at a time: they may be streamed, and bincount makes a copy in int64.
        size = self._size_of_batch()
        for start in range(0, len(self), size):
            pixels = self.images[start : start + size].flatten()
            counts += torch.bincount(pixels, minlength=256)
        return counts

    def prefetch(self, indices: Int[Tensor, " b"]) -> None:
        """Begin to decode the images of the next batch, where they are streamed."""
        if isinstance(self.images, StreamedImages):
            self.images.prefetch(indices)

    def select(self, rows: Tensor | slice) -> "ImageSplit":
        """Return the split of some images, given by their indices, a mask or a slice."""
        images = self.images
        chosen = images.select(rows) if isinstance(images, StreamedImages) else images[rows]
        return replace(self, images=chosen, labels=self.labels[rows])

    def first(self, count: int) -> "ImageSplit":
        """Return the first `count` images, or all if there are fewer."""
        return self.select(slice(count))

    def in_steps(self, count: int) -> "ImageSplit":
        """Return at most `count` images in equal steps, so that images in order do no harm."""
        return self.select(slice(None, None, max(1, math.ceil(len(self) / count))))

    def loaded(self) -> "ImageSplit":
        """Return the same split with its pixels in memory, for a few images that are used often."""
        return replace(self, images=self.images[:])

    def to(self, device: str | torch.device) -> "ImageSplit":
        """Return the same split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in three splits that share no image, unless a folder of files has copies.

    Attributes:
        name: The name that `load_images` takes.
        train: In random order, so that its first n images are a fair sample.
        validation: For choices made during training.
        test: For final numbers only.
        classes: The names of the classes.

    Raises:
        ValueError: If a label is no index of `classes`.
    """

    name: str
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in PARTS:
            labels = getattr(self, part).labels
            as_indices(labels, len(self.classes), f"labels for {part}")  # checks them

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for RGB."""
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, after cropping."""
        if self.train.crop is not None:
            return self.train.crop, self.train.crop
        height, width = self.train.images.shape[2:]
        return height, width

    @property
    def device(self) -> torch.device:
        """The device that holds the pixels."""
        return self.train.images.device

    @cached_property
    def variance(self) -> float:
        """Variance of all training pixels in [-1, 1]; the reconstruction loss is divided by it.

        Of streamed images, it is that of the first 500.

        Raises:
            ValueError: If all these pixels are alike, so that there is nothing to divide by.
        """
        train = self.train.first(SAMPLE) if self.train.is_streamed else self.train
        # Counting the 256 values avoids a copy of all pixels as floats.
        counts = train.pixel_counts().cpu().numpy()
        if np.count_nonzero(counts) == 1:
            raise ValueError(
                f"every pixel of {len(train):,} training images of {self.name} is "
                f"{counts.argmax()}, so there is no variance to divide the reconstruction loss by"
            )
        values = np.arange(256) / 127.5 - 1
        return float(np.cov(values, fweights=counts, bias=True))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any pixel, label or split.

        Of streamed images, with the name, size or date of a file instead of the pixels.
        """
        tensors = []
        for split in (self.train, self.validation, self.test):
            images = split.images
            pixels = images.identity() if isinstance(images, StreamedImages) else images
            tensors += [pixels, split.labels]
        if self.train.crop is not None:
            tensors.append(torch.tensor([self.train.crop]))
        return fingerprint(*tensors)

    def subset(self, train: int) -> "ImageData":
        """Return the same data with only the first `train` training images.

        Raises:
            ValueError: If there are fewer, or `train` is no whole number from 1.
        """
        check_whole(1, len(self.train), train=train)
        return replace(self, train=self.train.first(train))

    def to(self, device: str | torch.device) -> "ImageData":
        """Return the same data on another device."""
        splits = {part: getattr(self, part).to(device) for part in PARTS}
        return replace(self, **splits)


def load_images(  # noqa: PLR0913  (all after `device` are the fields of Reading)
    name: str = "digits",
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    size: int = 32,
    grey: bool | None = None,
    background: str = "white",
    levels: str | tuple[float, float] | None = None,
    skip_broken: bool = False,
    crop: int | None = None,
    stream: bool | None = None,
) -> ImageData:
    """Open a data set; a name stands for the same pixels and splits on every machine.

    - `digits`, 28x28 gray: scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged and
      warped at random (see `random_warp`). 10,000 images of 1,437 originals for training, 1,000
      of 180 others for validation, 1,000 of the last 180 for test.
    - `plain_digits`, 16x16 gray: the same originals, enlarged and not warped; 1,437 / 180 / 180.
    - `photos`, 32x32 RGB: 10,000 / 1,000 / 1,000 patches of two photographs, each split from
      columns of its own (`PHOTO_COLUMNS`).
    - `photos_64`, `photos_128`, 64x64 and 128x128 RGB: 4,000 / 500 / 500 patches of seven
      photographs, so that a test shows photographs that training never saw.
    - `mnist`, `fashion_mnist`, `kmnist`, `cifar10`: torchvision's data sets, downloaded if they
      are missing. A tenth of the training set is held out for validation.
    - `mnist_full` and so on: the same files, with all images of the training set for training, as
      the paper has it. One half of the test set, drawn at random, is for validation, and the other
      for test.
    - `folder:PATH`: image files, loose or in a folder for each class, all of them together or
      divided into the folders `train`, `val` and `test` (see `arcvq.image_folders.scan_folder`). A
      tenth of `train` stands in for a missing `val` or `test`. Files with the same picture are
      not kept together; the command `arcvq images` finds those with the same bytes.

    Args:
        name: One of the names above.
        root: Folder of downloaded data sets; by default `arcvq.runtime.files.data_root()`.
        device: Where the pixels are kept; "auto" takes a GPU if there is one.
        size: For `folder:PATH` only, as all that follow: the shorter side is resized to this many
            pixels, a multiple of 8, and the center is kept.
        grey: Whether to make them gray; by default they are gray if no image has color.
        background: The color that is seen through transparent pixels.
        levels: How to read gray pixels of more than 8 bits, which are refused by default: "minmax"
            stretches each image from its smallest to its largest value, and (low, high) takes the
            same range for all. Color and transparency of 16 bits a channel are always refused.
        skip_broken: Whether to leave out files that cannot be read. Where images are streamed, the
            next file of the same class takes the place of each.
        crop: Train on squares of this many pixels at random places, new in each epoch; validation
            and test images are cut to their center.
        stream: Whether to leave the images in their files and decode each batch anew. By default
            they are if their pixels would take more than a quarter of the memory of the machine or
            of the GPU, and a warning says so. Three channels are counted unless `grey` is True.

    Raises:
        ValueError: For an unknown name, a wrong size or device, a file that is no image, or a part
            of a folder without any file that can be read.
        FileNotFoundError: For a folder or data set that is not there.
    """
    device = choose_device(device)
    reading = Reading(size, grey, background, levels, skip_broken, crop, stream)
    check_dataset(name, reading)
    if name.startswith("folder:"):
        return _load_folder(name, reading, device).to(device)

    if name == "digits":
        data = _load_digits()
    elif name == "plain_digits":
        data = _load_plain_digits()
    elif name == "photos":
        data = _load_photos()
    elif name in LARGE_PATCHES:
        data = _load_large_photos(name)
    else:
        data = _load_torchvision(name, data_root(root))
    return data.to(device)


def check_dataset(name: Any, reading: Reading = USUAL_READING) -> None:
    """Check the name of a data set, and how its files are to be read, before it is loaded.

    Raises:
        ValueError: For a name that `load_images` does not know, or for a way of reading other
            than the usual one when the images are not in a folder.
        FileNotFoundError: For a folder that is not there.
        NotADirectoryError: For a file in the place of a folder.
    """
    if name in DATASETS:
        usual = vars(USUAL_READING)
        other = [field for field, value in vars(reading).items() if value != usual[field]]
        if other:
            raise ValueError(f"{', '.join(other)}: for folder:PATH only, not for {name}")
        return
    if not isinstance(name, str) or not name.startswith("folder:"):
        raise ValueError(
            f"data set {name!r} is unknown; use one of {', '.join(DATASETS)}, or folder:PATH"
        )
    check_folder(folder_of(name))


def hold_out(split: ImageSplit, tenths: int) -> list[ImageSplit]:
    """Hold out tenths of a split, chosen at random, but always alike.

    Args:
        split: The images to divide.
        tenths: How many tenths to hold out.

    Returns:
        The rest, followed by each tenth. All are in random order, and every tenth has its share
        of each class.
    """
    return [split.select(rows) for rows in held_out_rows(split.labels, tenths)]


def held_out_rows(labels: Int64[Tensor, " n"], tenths: int) -> list[Int64[Tensor, " m"]]:
    """Choose the rows of `hold_out` for images with these labels."""
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    by_class = order[labels[order].argsort(stable=True)]
    # Class after class, the images are dealt in turn to ten hands.
    hands = torch.empty_like(order)
    hands[by_class] = torch.arange(count) % 10
    hands = hands[order]
    rest = order[hands >= tenths]
    return [rest, *(order[hands == hand] for hand in range(tenths))]


# Handwritten digits


def handwritten_digits() -> ImageSplit:
    """Read scikit-learn's 1,797 handwritten digits: 8x8 pixels, here from 0 to 16."""
    file = extra_folder("sklearn") / "datasets/data/digits.csv.gz"
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return ImageSplit(rows[:, :-1].view(-1, 1, 8, 8), rows[:, -1].long())


def _load_digits() -> ImageData:
    generator = torch.Generator().manual_seed(SEED)
    splits = []
    counts = (10_000, 1_000, 1_000)
    for originals, count in zip(hold_out(handwritten_digits(), 2), counts, strict=True):
        enlarged = _enlarge(originals.images[:], 28)
        repeated = torch.arange(count) % len(originals)
        # The size of the blocks decides which random numbers an image gets.
        blocks = [random_warp(enlarged[rows], generator) for rows in repeated.split(1_000)]
        splits.append(ImageSplit(_to_pixels(torch.cat(blocks)), originals.labels[repeated]))
    train, validation, test = splits
    return ImageData("digits", train, validation, test, DIGITS)


def _load_plain_digits() -> ImageData:
    digits = handwritten_digits()
    enlarged = ImageSplit(_to_pixels(_enlarge(digits.images[:], 16)), digits.labels)
    train, validation, test = hold_out(enlarged, 2)
    return ImageData("plain_digits", train, validation, test, DIGITS)


def _enlarge(images: Tensor, size: int) -> Tensor:
    """Pixels from 0 to 16 as numbers in [0, 1]; in float64, so that they are alike everywhere."""
    enlarged = interpolate(images.double() / 16, size=(size, size), mode="bicubic")
    return enlarged.clamp(0, 1)


def _to_pixels(images: Tensor) -> Tensor:
    """Numbers in [0, 1] as pixels."""
    return (images * 255).round().to(torch.uint8)


def random_warp(
    images: Float64[Tensor, "n C H W"], generator: torch.Generator
) -> Float64[Tensor, "n C H W"]:
    """Shear, rotate, scale and shift each image at random.

    Rotation and shear are up to 12 degrees, the scale 0.8 to 1.1, the shift up to a tenth of the
    image in each direction.
    """
    draws = 2 * torch.rand(5, len(images), generator=generator, dtype=torch.float64) - 1
    angle, shear = draws[:2] * math.pi / 15  # 12 degrees
    scale = 0.95 + 0.15 * draws[2]
    shift = 0.2 * draws[3:].T[..., None]  # positions run from -1 to 1: 0.2 is a tenth of the width

    # `affine_grid` takes the inverse map, from a position in the result to the one it is read at.
    cos = angle.cos() / scale
    sin = angle.sin() / scale
    slope = shear.tan()
    rows = [cos - slope * sin, sin + slope * cos, -sin, cos]
    inverse = torch.stack(rows, dim=1).view(-1, 2, 2)
    inverse = torch.cat([inverse, -inverse @ shift], dim=2)
    grid = affine_grid(inverse, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


# Photographs


def photograph(name: str) -> UInt8[Tensor, "1 3 H W"]:
    """Read a photograph that scikit-learn or scikit-image ships.

    Args:
        name: A name in `PHOTOGRAPH_FILES`, such as "china".

    Returns:
        Its pixels, without the last ones below and on the right, so that height and width are
        multiples of 8.

    Raises:
        ValueError: For another name.
    """
    if name not in PHOTOGRAPH_FILES:
        known = ", ".join(PHOTOGRAPH_FILES)
        raise ValueError(f"photograph {name!r} is unknown; use one of {known}")
    package, file = PHOTOGRAPH_FILES[name]
    with extra_import("PIL.Image").open(extra_folder(package) / file) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    return pixels[None, :, : height // 8 * 8, : width // 8 * 8].contiguous()


def _load_photos() -> ImageData:
    photographs = torch.cat([photograph(name) for name in PHOTOGRAPHS])
    generator = torch.Generator().manual_seed(SEED)
    splits = []
    for (left, right), count in zip(PHOTO_COLUMNS.values(), (5_000, 500, 500), strict=True):
        # All windows of 32x32 pixels, as a view: (2, 3, rows, columns, 32, 32)
        windows = photographs[..., left:right].unfold(2, 32, 1).unfold(3, 32, 1)
        places = windows.shape[2:4]
        chosen = torch.randperm(places.numel(), generator=generator)[:count]
        rows, columns = torch.unravel_index(chosen, places)
        patches = windows[:, :, rows, columns]
        # The two photographs take turns.
        images = patches.permute(2, 0, 1, 3, 4).flatten(0, 1)
        splits.append(ImageSplit(images, torch.arange(len(images)) % 2))
    train, validation, test = splits
    return ImageData("photos", train, validation, test, PHOTOGRAPHS)


def _load_large_photos(name: str) -> ImageData:
    side = LARGE_PATCHES[name]
    generator = torch.Generator().manual_seed(SEED)
    classes = tuple(chain.from_iterable(LARGE_PHOTOGRAPHS.values()))
    splits = {}
    for part, names in LARGE_PHOTOGRAPHS.items():
        count = LARGE_COUNTS[part] // len(names)
        patches = [_random_patches(photograph(own), side, count, generator) for own in names]
        labels = torch.tensor([classes.index(own) for own in names]).repeat_interleave(count)
        order = torch.randperm(len(labels), generator=generator)
        splits[part] = ImageSplit(torch.cat(patches)[order], labels[order])
    return ImageData(name, classes=classes, **splits)


def _random_patches(
    picture: UInt8[Tensor, "1 3 H W"], side: int, count: int, generator: torch.Generator
) -> UInt8[Tensor, "count 3 side side"]:
    """Square windows at places that are all different."""
    windows = picture[0].unfold(1, side, 1).unfold(2, side, 1)
    places = windows.shape[1:3]
    chosen = torch.randperm(places.numel(), generator=generator)[:count]
    rows, columns = torch.unravel_index(chosen, places)
    return windows[:, rows, columns].transpose(0, 1)


# Data sets of torchvision


def _load_torchvision(name: str, root: Path) -> ImageData:
    files = name.removesuffix(FULL)
    dataset = getattr(extra_import("torchvision").datasets, TORCHVISION_CLASSES[files])
    opened = _opened(dataset, root)
    shared = shared_root()
    if opened is None and shared is not None:
        opened = _opened(dataset, shared)
    known, unseen = opened or _download(files, dataset, root)
    train = _torchvision_split(known)
    test = _torchvision_split(unseen)
    if name.endswith(FULL):
        (train,) = hold_out(train, 0)  # in random order
        test, validation = _halves(test)
    else:
        train, validation = hold_out(train, 1)
    classes = tuple(label.split(" - ")[0] for label in known.classes)  # MNIST has "0 - zero"
    return ImageData(name, train, validation, test, classes)


def _halves(split: ImageSplit) -> tuple[ImageSplit, ImageSplit]:
    """Two halves, drawn at random: of MNIST's test files the first half is the easier one."""
    half, *tenths = held_out_rows(split.labels, 5)
    return split.select(half), split.select(torch.cat(tenths))


def _opened(dataset: Any, root: Path) -> tuple[Any, Any] | None:
    """Training and test images; None if files are missing or broken."""
    with suppress(Exception):  # torchvision raises many types for such files
        return dataset(root, train=True), dataset(root, train=False)
    return None


def _torchvision_split(opened: Any) -> ImageSplit:
    pixels = torch.as_tensor(opened.data)  # (n, H, W) or (n, H, W, C)
    images = pixels.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2).contiguous()
    return ImageSplit(images, torch.as_tensor(opened.targets))


def _download(name: str, dataset: Any, root: Path) -> tuple[Any, Any]:
    """Download the files, unless they have come in the meantime, and open them.

    Of several processes that start together, one downloads and the others wait for its files.
    """
    resources = getattr(dataset, "resources", [])
    archives = [f"{dataset.__name__}/raw/{file}" for file, _ in resources]
    archives = archives or [dataset.filename]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / DOWNLOAD_LOCK):
            opened = _opened(dataset, root)
            if opened is None:
                _fill(root, dataset, archives)
                opened = dataset(root, train=True), dataset(root, train=False)
            return opened
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is missing or broken and could not be downloaded: "
            f"put {', '.join(archives)} (packed or unpacked) into {root}"
        ) from error


def _fill(root: Path, dataset: Any, archives: list[str]) -> None:
    """Unpack the archives if the user put all of them there; otherwise download them.

    Whole files are moved out of a scratch folder. A download that breaks off leaves nothing behind.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds; torchvision alone would wait for an answer for ever
    try:
        if all((root / archive).exists() for archive in archives):
            dataset(root, download=True)
            return
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
            dataset(scratch, download=True)
            _move_files(Path(scratch), root)
    finally:
        socket.setdefaulttimeout(timeout)


def _move_files(source: Path, target: Path) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file():
            moved = target / file.relative_to(source)
            moved.parent.mkdir(parents=True, exist_ok=True)
            file.replace(moved)


# Folders of image files


def _load_folder(name: str, reading: Reading, device: torch.device) -> ImageData:
    scan = scan_folder(folder_of(name))
    classes, numbers = np.unique(scan.labels, return_inverse=True)
    labels = torch.from_numpy(numbers)
    rows = _divide(name, labels, np.array(scan.parts))

    # The files are read in the order of the splits, so that each split is a slice of the whole.
    order = torch.cat(list(rows.values()))
    ordered = scan.select(order.tolist())
    images: Tensor | StreamedImages
    places: list[int]
    if _is_to_stream(name, len(order), reading, device):
        images = stream_images(ordered, reading)
        places = list(range(len(order)))
    else:
        images, places = read_images(ordered, reading, name)
    whole = ImageSplit(images, labels[order[places]])
    splits = {}
    end = 0
    for part, part_rows in rows.items():
        start = end
        end += len(part_rows)
        # Files that could not be read have no place, so that a split may be shorter than its rows.
        split = whole.select(slice(bisect_left(places, start), bisect_left(places, end)))
        if not len(split):
            raise ValueError(f"{name} has no image for {part} that can be read, of {end - start}")
        if isinstance(split.images, StreamedImages):
            split = replace(split, images=split.images.alone())  # no part shows images of another
        if reading.crop is not None:
            is_random = part == "train"
            split = replace(split, crop=reading.crop) if is_random else _cut(split, reading.crop)
        splits[part] = split
    return ImageData(name, classes=tuple(classes.tolist()), **splits)


def _is_to_stream(name: str, count: int, reading: Reading, device: torch.device) -> bool:
    """Whether the images stay in their files: as `reading` says, or where they are too large."""
    if reading.stream is not None:
        return reading.stream
    channels = 1 if reading.grey else 3
    needed = count * channels * reading.size**2
    # Of the whole memory, not of what is free now, so that a run is resumed in the same way.
    memory = total_memory(device)
    is_large = needed > memory / 4
    if is_large:
        color = "gray" if reading.grey else "RGB"
        warnings.warn(
            f"{count:,} images of {name} would take {needed / 1e9:.1f} GB as {color}, more than a "
            f"quarter of the memory ({memory / 1e9:.1f} GB), so they are decoded anew for each "
            "batch; stream=False holds them in memory",
            stacklevel=4,  # at the call of load_images
        )
    return is_large


def _cut(split: ImageSplit, side: int) -> ImageSplit:
    """The split with the center of each image alone."""
    images = split.images
    if isinstance(images, StreamedImages):
        return replace(split, images=replace(images, side=side))
    return replace(split, images=central(images, side))


def _divide(
    name: str, labels: Int64[Tensor, " n"], parts: np.ndarray
) -> dict[str, Int64[Tensor, " m"]]:
    """The rows of each split; tenths of the part `train` stand in for those that are missing.

    Each split is in random order: its files come class by class, and whoever takes the first few
    images wants all classes.
    """
    rows = {}
    for part in PARTS:
        found = torch.from_numpy(np.flatnonzero(parts == part))
        (order,) = held_out_rows(labels[found], 0)
        rows[part] = found[order]
    missing = [part for part in PARTS if not len(rows[part])]
    train = rows["train"].sort().values
    if len(train) <= len(missing):
        needed = ", ".join(["train", *missing])
        raise ValueError(f"{name} has {len(train)} images to divide into {needed}, too few")
    divided = [train[held] for held in held_out_rows(labels[train], len(missing))]
    rows |= zip(["train", *missing], divided, strict=True)
    return rows
