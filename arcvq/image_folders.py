"""Folders of image files: what is in them, and how a file becomes pixels.

`scan_folder` looks at names alone and says which files would be read, as which part and class, and
which are left out and why. `inspect_files` opens each of them as well. `read_images` decodes them
into one tensor.
"""

import errno
import hashlib
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from arcvq.runtime.checks import check_flag, check_whole, use_python_numbers
from arcvq.runtime.extras import extra_import
from arcvq.runtime.wording import counted

PARTS = ("train", "validation", "test")
# Names of the folders of a data set that comes divided, in any case, and the parts that they are.
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Formats that Pillow can name but not decode by itself.
UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
# Tags of TIFF files, with two of their values.
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
WHITE_IS_ZERO = 0
SAMPLE_FORMAT = 339
SIGNED = 2
ORIENTATION = 274  # a tag of EXIF data
TURNS = {  # what makes an image upright, by its orientation, in Pillow's words
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
JPEG_2000_SIZES = b"\xff\x4f\xff\x51"  # what stands before the sizes in a JPEG 2000 file
# In Pillow's names for how pixels of more than 8 bits lie in a file: PNG has "RGB;16B", SGI a
# decoder of its own, and DDS floats of 16 bits.
DEEP_LAYOUTS = (";16B", "SGI16", "BC6H")
MACOS_COPIES = "__MACOSX"  # what macOS adds to ZIP files, beside the files themselves
BESIDE = "beside the folders train, val and test"
DANGLING = "links that lead nowhere"
REPEATED = "links to folders that are read already"
NO_IMAGE = "no image format that Pillow reads"


@dataclass(frozen=True)
class FolderScan:
    """What a folder of images holds, by the names of its files.

    Attributes:
        folder: The folder.
        files: The image files, as paths from the folder, in sorted order.
        parts: "train", "validation" or "test" for each file. In a folder that is not divided, all
            files are "train".
        labels: The class of each file: the name of its folder, or "all".
        left_out: Files and links that are not read, by the reason.
    """

    folder: Path
    files: list[Path]
    parts: list[str]
    labels: list[str]
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def select(self, rows: Sequence[int]) -> "FolderScan":
        """Return some of the files, given by their places, in that order."""
        return replace(
            self,
            files=[self.files[row] for row in rows],
            parts=[self.parts[row] for row in rows],
            labels=[self.labels[row] for row in rows],
        )

    @property
    def missing(self) -> list[str]:
        """The parts that the folder lacks, for which a tenth of `train` each is held out."""
        return [part for part in PARTS if part not in self.parts]

    def summary(self) -> str:
        """Say in a sentence what is read and what is not."""
        classes = len(set(self.labels))
        sentence = f"{counted(len(self.files), 'image')} in {counted(classes, 'class')}"
        if set(self.parts) != {"train"}:
            counts = Counter(self.parts)
            sentence += " (" + ", ".join(f"{part} {counts[part]:,}" for part in counts) + ")"
        for reason, paths in self.left_out.items():
            sentence += f"; {len(paths):,} left out: {reason}"
            if reason == NO_IMAGE:
                suffixes = Counter(path.suffix.lower() or "no suffix" for path in paths)
                most = [f"{suffix} {count}" for suffix, count in suffixes.most_common(5)]
                sentence += f" ({', '.join(most)})"
        return sentence


@dataclass(frozen=True)
class FolderReport:
    """What `inspect_files` found in the files of a scan.

    Attributes:
        sizes: Width and height in pixels of each file that can be read, upright.
        broken: Files that cannot be read, with the reason.
        animated: Files with several frames, of which the first is read.
        repeated: Groups of files with the same bytes.
    """

    sizes: list[tuple[int, int]]
    broken: dict[Path, str]
    animated: list[Path]
    repeated: list[list[Path]]

    def lines(self, scan: FolderScan) -> Iterator[str]:
        """Say what was found, in lines of text.

        Args:
            scan: The scan that was inspected.
        """
        yield scan.summary()
        counts = Counter(zip(scan.parts, scan.labels, strict=True))
        for (part, label), count in sorted(counts.items()):
            yield f"{part:12} {label:24} {count:8,}"
        if self.sizes:
            widths, heights = zip(*self.sizes, strict=True)
            yield (
                f"width {min(widths)} to {max(widths)} pixels, "
                f"height {min(heights)} to {max(heights)} pixels"
            )
        for reason, paths in scan.left_out.items():
            yield from _listed(f"left out, {reason}", [str(path) for path in paths])
        yield from _listed("several frames, the first is read", map(str, self.animated))
        part_of = dict(zip(scan.files, scan.parts, strict=True))
        for group in self.repeated:
            parts = {part_of[file] for file in group}
            if len(parts) > 1:
                where = "across parts"
            elif parts == {"train"} and scan.missing:
                where = f"in train, from which images for {' and '.join(scan.missing)} are drawn"
            else:
                where = "in one part"
            yield f"the same file {len(group)} times, {where}: {', '.join(map(str, group))}"
        broken = [f"{file}: {reason}" for file, reason in self.broken.items()]
        yield from _listed("cannot be read", broken)


def _listed(title: str, entries: Iterable[str]) -> Iterator[str]:
    """A title with the number of entries, and each of them on a line of its own."""
    entries = list(entries)
    if entries:
        yield f"{title}: {len(entries):,}"
        yield from (f"  {entry}" for entry in entries)


def folder_of(name: str) -> Path:
    """Return the folder of a data set "folder:PATH".

    Raises:
        ValueError: If no folder is named.
    """
    path = name.removeprefix("folder:")
    if not path.strip():
        raise ValueError(f"data set {name!r} names no folder; write folder:PATH")
    return Path(path).expanduser()


def check_folder(folder: Path) -> None:
    """Raise FileNotFoundError if there is no such folder, or NotADirectoryError if it is a file."""
    if not folder.exists():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; name the folder that it is in")


def scan_folder(folder: str | Path) -> FolderScan:
    """Find the image files in a folder, and their parts and classes.

    The classes are the folders in it, and files that lie loose are of the class "all". A folder
    that holds `train`, and besides it `val` or `test` (or another name in `PART_NAMES`, in any
    case), is a divided data set, whose classes are the folders in the parts. Such a data set may
    lie in one more folder, as it comes out of a ZIP file.

    Links are followed, but each folder is read only once. Hidden files are passed over.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        NotADirectoryError: If it is a file.
        ValueError: If the names of the folders do not tell whether the data set is divided.
    """
    folder = Path(folder).expanduser()
    check_folder(folder)
    left_out: dict[str, list[Path]] = {}
    files = []
    suffixes = image_suffixes()
    for file in sorted(_walk(folder, left_out)):
        if file.suffix.lower() in suffixes:
            files.append(file)
        else:
            left_out.setdefault(NO_IMAGE, []).append(file)
    if not files:
        raise FileNotFoundError(f"the folder {str(folder)!r} has no images ({_read_formats()})")

    wrapper = _wrapper(files)
    part_of = _part_folders(folder, [_below(file, wrapper) for file in files])
    kept = []
    parts = []
    labels = []
    for file in files:
        steps = _below(file, wrapper).parts[:-1]
        if part_of:
            if not steps or steps[0] not in part_of:
                left_out.setdefault(BESIDE, []).append(file)
                continue
            parts.append(part_of[steps[0]])
            steps = steps[1:]
        else:
            parts.append("train")
        kept.append(file)
        # A name may be composed or decomposed, as on macOS; it is the same class.
        labels.append(unicodedata.normalize("NFC", steps[0]) if steps else "all")
    _refuse_parts_further_down(folder, [_below(file, wrapper) for file in kept])
    return FolderScan(folder, kept, parts, labels, left_out)


def _refuse_parts_further_down(folder: Path, files: Sequence[Path]) -> None:
    """Raise ValueError where parts lie inside several folders, so that they would be mixed.

    A class may well be called "train", as in CIFAR-100, beside classes with other names.
    """
    names_in: dict[Path, set[str]] = {}
    for file in files:
        for place in file.parents[:-2]:  # without the folder that holds it all, and its folders
            names_in.setdefault(place.parent, set()).add(place.name)
    for place, names in names_in.items():
        parts = {_part(name) for name in names} - {None}
        if len(parts) > 1 or all(map(_part, names)):
            found = ", ".join(str(place / name) for name in sorted(names))
            raise ValueError(
                f"{folder} holds {found}: parts inside other folders would be mixed; "
                "name a folder that holds train itself"
            )


def image_suffixes() -> set[str]:
    """Return the suffixes, in lower case, of the formats that Pillow reads."""
    image_module = extra_import("PIL.Image")
    known = image_module.registered_extensions()  # imports the plugins
    readable = image_module.OPEN.keys() - UNDECODABLE
    return {suffix for suffix, image_format in known.items() if image_format in readable}


def _read_formats() -> str:
    return ".jpg, .png and the other formats that Pillow reads"


def _walk(folder: Path, left_out: dict[str, list[Path]]) -> Iterator[Path]:
    """All files that are not hidden, as paths from the folder; each folder once.

    Links to folders come after the folders themselves, so that these keep their own names.
    """
    seen = set()
    links = [Path()]
    while links:
        tree = links.pop(0)
        folders = [tree]
        while folders:
            place = folders.pop(0)
            status = os.stat(folder / place)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                if place == tree:
                    left_out.setdefault(REPEATED, []).append(place)
                continue
            seen.add(identity)
            for entry in sorted(os.scandir(folder / place), key=lambda entry: entry.name):
                path = place / entry.name
                if entry.name.startswith(".") or entry.name == MACOS_COPIES:
                    continue
                if _leads_nowhere(entry):
                    left_out.setdefault(DANGLING, []).append(path)
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_file():
                    yield path


def _leads_nowhere(entry: os.DirEntry) -> bool:
    """Whether it is a link to what is not there, or one that leads back to itself."""
    try:
        return entry.is_symlink() and not (entry.is_dir() or entry.is_file())
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise


def _wrapper(files: Sequence[Path]) -> Path:
    """The one folder that everything lies in, where it holds a divided data set."""
    wrapper = Path()
    while True:
        inside = [_below(file, wrapper).parts for file in files]
        top = {parts[0] for parts in inside if len(parts) > 1}
        if any(_part(name) == "train" for name in top):
            return wrapper
        loose = any(len(parts) == 1 for parts in inside)
        if loose or len(top) > 1 or any(_part(name) for name in top):
            return Path()
        wrapper = wrapper / top.pop()


def _below(file: Path, wrapper: Path) -> Path:
    # `relative_to` is slow for many files, so it is left out where it changes nothing.
    return file.relative_to(wrapper) if wrapper.parts else file


def _part(name: str) -> str | None:
    """The part that a folder of this name is, if any."""
    return PART_NAMES.get(name.lower())


def _part_folders(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The parts of a divided data set by the names of their folders; empty if it is not divided."""
    names = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    part_of = {name: part for name in names if (part := _part(name))}
    others = [name for name in names if name not in part_of]
    if not part_of:
        return {}
    found = ", ".join(names)
    found_parts = list(part_of.values())
    if len(set(found_parts)) < len(found_parts):
        raise ValueError(f"{folder} has two folders for the same part: {found}; leave one of them")
    if "train" not in found_parts:
        raise ValueError(
            f"{folder} holds {found}, but no folder train; "
            "a divided data set needs one, and classes need other names"
        )
    if others and len(part_of) == 1:
        raise ValueError(
            f"{folder} holds {found}: train may be a part or a class; "
            "put the classes into a folder train, or give this one another name"
        )
    return part_of


def check_levels(levels: Any) -> None:
    """Raise ValueError unless levels are None, "minmax" or a range (low, high)."""
    if levels is None or levels == "minmax":
        return
    is_pair = isinstance(levels, tuple) and len(levels) == 2
    are_numbers = is_pair and all(
        isinstance(level, Real) and math.isfinite(level) for level in levels
    )
    if not (are_numbers and levels[0] < levels[1]):
        raise ValueError(f"levels are {levels!r}; use 'minmax' or a range (low, high)")


def check_color(background: str) -> None:
    """Raise ValueError for a color that Pillow does not know."""
    try:
        extra_import("PIL.ImageColor").getrgb(background)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"background is {background!r}; use the name of a color, or #rrggbb"
        ) from None


@dataclass(frozen=True)
class Reading:
    """How an image file becomes pixels.

    Args:
        size: The shorter side is resized to this many pixels, a multiple of 8, and the center is
            kept.
        grey: Whether to make the images gray; None for gray if no image has color.
        background: What is seen through transparent pixels: a color by name or "#rrggbb".
        levels: How to read gray pixels of more than 8 bits: "minmax" stretches each image from its
            smallest to its largest value, and (low, high) takes the same range for all. None
            refuses them. Color and transparency of 16 bits a channel are refused in any case.
        skip_broken: Whether to leave out files that cannot be read instead of refusing the folder.
            Where images are streamed, the next readable one of the same class takes the place of
            each.
        crop: Train on squares of this many pixels, a multiple of 8, cut out of the images of
            `size` at random places that are new in each epoch; validation and test images are cut
            to their center. Images whose shorter side is smaller are refused. None for whole
            images.
        stream: Whether to leave the images in their files and decode each batch anew instead of
            holding all pixels in memory; None to decide by the memory of the machine, counting
            three channels unless `grey` is True.
    """

    size: int = 32
    grey: bool | None = None
    background: str = "white"
    levels: str | Sequence[float] | None = None
    skip_broken: bool = False
    crop: int | None = None
    stream: bool | None = None

    def __post_init__(self):
        use_python_numbers(self)
        if isinstance(self.levels, list | tuple):  # a list, as it comes out of JSON
            levels = tuple(
                level.item() if isinstance(level, np.generic) else level for level in self.levels
            )
            object.__setattr__(self, "levels", levels)
        check_whole(8, size=self.size)
        object.__setattr__(self, "size", int(self.size))  # of PyTorch's numbers too
        if self.size % 8:
            raise ValueError(f"size is {self.size}; it must be a multiple of 8 pixels")
        if self.crop is not None:
            check_whole(8, crop=self.crop)
            object.__setattr__(self, "crop", int(self.crop))
            if self.crop % 8 or self.crop > self.size:
                raise ValueError(
                    f"crop is {self.crop}; it must be a multiple of 8 pixels, "
                    f"at most the size, {self.size}"
                )
        check_levels(self.levels)
        check_flag(skip_broken=self.skip_broken)
        for name in ("grey", "stream"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):  # 0 is equal to False
                raise ValueError(f"{name} is {value!r}; it must be True, False or None")
        if self.background != "white":
            check_color(self.background)

    def pixels(self, file: Path) -> UInt8[np.ndarray, "3 size size"]:
        """Read a file: upright, the shorter side resized, the center kept.

        Raises:
            ValueError: If it cannot be read; the message does not name the file.
        """
        return self.pixels_and_size(file)[0]

    def pixels_and_size(
        self, file: Path
    ) -> tuple[UInt8[np.ndarray, "3 size size"], tuple[int, int]]:
        """Read a file as `pixels` does; also return its width and height in pixels, upright."""
        image_module = extra_import("PIL.Image")
        image_ops = extra_import("PIL.ImageOps")
        try:
            with image_module.open(file) as image:
                size = image.size
                shorter = min(size)
                if self.crop is not None and shorter < self.crop:
                    raise ValueError(
                        f"its shorter side has {shorter} pixels, fewer than the crop, {self.crop}"
                    )
                _refuse_deep_color(image)
                _refuse_misread(image)
                # A large JPEG is decoded at a fraction of its size.
                image.draft(None, (4 * self.size, 4 * self.size))
                as_held = image.size
                upright = _upright(image)
                if upright.size == as_held[::-1]:
                    size = size[::-1]
                colors = self._colors(upright)
                if self.grey:
                    colors = colors.convert("L").convert("RGB")
                fitted = image_ops.fit(colors, (self.size, self.size))
                return np.asarray(fitted).transpose(2, 0, 1), size
        except MemoryError:  # the file may be sound
            raise
        except Exception as error:  # Pillow's decoders raise many types
            raise ValueError(str(error) or type(error).__name__) from error

    def _colors(self, image: Any) -> Any:
        """The image in RGB with 8 bits a channel, without transparency."""
        if image.mode[0] in "IF":
            return self._stretched(image)
        if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "RGBa"):
            return image.convert("RGB")
        layer = image.convert("RGBA")
        ground = extra_import("PIL.Image").new("RGBA", layer.size, self.background)
        ground.alpha_composite(layer)
        return ground.convert("RGB")

    def _stretched(self, image: Any) -> Any:
        """The image of more than 8 bits, scaled by `levels`."""
        if self.levels is None:
            raise ValueError(
                f"it has {image.mode} pixels, and only 8 bits a channel are read; "
                "levels='minmax' or a range (low, high) scales them"
            )
        values = _numbers(image)
        lowest = values.min()
        highest = values.max()
        if not np.isfinite([lowest, highest]).all():
            raise ValueError("it has pixels that are not finite")
        low, high = (lowest, highest) if isinstance(self.levels, str) else self.levels
        if lowest < low or highest > high:
            raise ValueError(
                f"its pixels reach from {lowest:g} to {highest:g}, beyond the levels "
                f"{low:g} to {high:g}"
            )
        span = high - low if high > low else 1.0  # an image of one value becomes black
        scaled = np.round((values - low) / span * 255).astype(np.uint8)
        return extra_import("PIL.Image").fromarray(scaled).convert("RGB")


def _upright(image: Any) -> Any:
    """The image as its EXIF data say that it was held; as it is if these are damaged or missing."""
    image.load()  # where this fails, it is not for the EXIF data; a TIFF is turned here already
    try:
        orientation = image.getexif().get(ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # of many types
        return image
    if orientation not in TURNS:
        return image
    transpose = extra_import("PIL.Image").Transpose
    return image.transpose(getattr(transpose, TURNS[orientation]))


def _refuse_deep_color(image: Any) -> None:
    """Raise ValueError for color or transparency of more than 8 bits, which Pillow cuts to 8.

    Args:
        image: An image that is open and not yet decoded.
    """
    if image.mode[0] in "IF" and "transparency" not in image.info:  # gray with all its bits
        return
    if _has_deep_channels(image):
        raise ValueError(
            "it has more than 8 bits a channel, and color and transparency are read with 8 only; "
            "save it with 8 bits a channel, or as gray without transparency for levels"
        )


def _has_deep_channels(image: Any) -> bool:
    """Whether an image that is not yet decoded has channels of more than 8 bits in its file."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    if image.format == "JPEG2000":
        return _bits_of_jpeg_2000(image) > 8
    layouts = [tile[3] for tile in image.tile]
    if image.format == "PPM":  # with the largest value beside the layout, where that is not usual
        return any(isinstance(layout, tuple) and layout[-1] > 255 for layout in layouts)
    return any(name in str(tile) for tile in image.tile for name in DEEP_LAYOUTS)


def _refuse_misread(image: Any) -> None:
    """Raise ValueError for gray pixels that Pillow takes for other numbers than the file says.

    Args:
        image: An image that is open and not yet decoded.
    """
    found = None
    if image.format == "TIFF":
        found = _misread_tiff(image)
    elif image.format == "FITS" and image.mode == "I;16":
        found = "signed numbers of 16 bits in FITS"
    if found:
        raise ValueError(
            f"it has {found}, which Pillow takes for other numbers; save it as TIFF or PNG with "
            "unsigned numbers of 8 or 16 bits, black as 0"
        )


def _misread_tiff(image: Any) -> str | None:
    """What a gray TIFF file has that Pillow misreads, if anything."""
    bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if bits == 8 and SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ()):
        return "signed numbers of 8 bits"
    if bits > 8 and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return "more than 8 bits with white as 0"
    # libtiff gives the bytes in the order of the machine, and Pillow may turn them once more.
    decoder, _, _, (layout, *_) = image.tile[0]
    is_turned = decoder == "libtiff" and "B" in layout.partition(";")[2]
    return "compressed numbers with the high byte first" if is_turned else None


def _numbers(image: Any) -> Float64[np.ndarray, "H W"]:
    """The pixels of a gray image of more than 8 bits."""
    values = np.asarray(image)
    is_tiff = image.format == "TIFF"
    if is_tiff and values.dtype == np.int32 and SIGNED not in image.tag_v2.get(SAMPLE_FORMAT, ()):
        values = values.view(np.uint32)  # Pillow knows no unsigned numbers of 32 bits
    return values.astype(np.float64)


def _bits_of_jpeg_2000(image: Any) -> int:
    """The most bits that a channel of a JPEG 2000 file has."""
    image.fp.seek(0)
    _, _, header = image.fp.read().partition(JPEG_2000_SIZES)
    channels = int.from_bytes(header[36:38], "big")
    depths = header[38 : 38 + 3 * channels : 3]  # a byte for each channel: its sign and bits - 1
    return 1 + max(depth & 0x7F for depth in depths)


def central(images: Any, side: int) -> Any:
    """Cut a square of this many pixels out of the middle of images (..., H, W), without a copy."""
    top = (images.shape[-2] - side) // 2
    left = (images.shape[-1] - side) // 2
    return images[..., top : top + side, left : left + side]


def read_images(
    scan: FolderScan, reading: Reading, description: str
) -> tuple[UInt8[Tensor, "n C size size"], list[int]]:
    """Decode the files of a scan into one tensor.

    Args:
        scan: The scan.
        reading: How to read them.
        description: What the progress bar says; it appears after two seconds.

    Returns:
        The pixels, with one channel if all images are gray; and the places in `scan.files` of the
        files that were read, all but broken ones.

    Raises:
        ValueError: If files cannot be read and `reading.skip_broken` is False, or if none can;
            names up to 10 of them. With `skip_broken` a warning does.
    """
    from tqdm.auto import tqdm

    canvas = _Canvas(len(scan.files), reading.size)
    broken: dict[Path, str] = {}
    places = []
    for place, file in enumerate(tqdm(scan.files, desc=description, delay=2, leave=False)):
        try:
            canvas.add(reading.pixels(scan.folder / file))
        except ValueError as error:
            broken[file] = str(error)
            continue
        places.append(place)
    if broken and not (reading.skip_broken and places):
        raise ValueError(_broken_files(scan.folder, broken, are_all=not places))
    if broken:
        files = "1 file is" if len(broken) == 1 else f"{len(broken):,} files are"
        warnings.warn(
            f"{files} left out of {scan.folder}: {_named_with_reasons(broken)}", stacklevel=2
        )
    return canvas.images(keep_gray=reading.grey is not False), places


def _broken_files(folder: Path, broken: dict[Path, str], are_all: bool) -> str:
    """A sentence that names the files that cannot be read, and what to do if there are others."""
    if len(broken) == 1:
        file, reason = next(iter(broken.items()))
        advice = "" if are_all else "; skip_broken=True leaves it out"
        return f"{folder / file} cannot be read as an image: {reason}{advice}"
    advice = "" if are_all else "; skip_broken=True leaves them out"
    return (
        f"{len(broken)} files in {folder} cannot be read as images{advice}: "
        f"{_named_with_reasons(broken)}"
    )


def _named_with_reasons(broken: dict[Path, str], at_most: int = 10) -> str:
    """The first of these files, each with what is wrong with it, and how many more there are."""
    named = [f"{file} ({reason})" for file, reason in sorted(broken.items())[:at_most]]
    more = f"; and {len(broken) - at_most} more" if len(broken) > at_most else ""
    return "; ".join(named) + more


class _Canvas:
    """Memory for images that are gray until one has color: one byte a pixel, then three.

    Memory that is not written to is not taken from the machine, so gray images cost a third.
    """

    def __init__(self, count: int, size: int):
        self.buffer = np.empty(count * 3 * size * size, dtype=np.uint8)
        self.size = size
        self.count = 0
        self.gray = True

    def _view(self, channels: int) -> np.ndarray:
        used = self.count * channels * self.size**2
        return self.buffer[:used].reshape(self.count, channels, self.size, self.size)

    def add(self, pixels: np.ndarray) -> None:
        """Append an image (3, size, size)."""
        if self.gray and (pixels != pixels[:1]).any():
            gray = self._view(1)
            colors = self._view(3)
            # From the last one backwards, so that no image is overwritten before it is moved.
            for place in reversed(range(self.count)):
                colors[place] = gray[place].copy()
            self.gray = False
        self.count += 1
        if self.gray:
            self._view(1)[-1] = pixels[:1]
        else:
            self._view(3)[-1] = pixels

    def images(self, keep_gray: bool) -> Tensor:
        """All images, (n, 1 or 3, size, size)."""
        if self.gray and keep_gray:
            return torch.from_numpy(self._view(1))
        if self.gray:
            return torch.from_numpy(self._view(1)).expand(-1, 3, -1, -1).contiguous()
        return torch.from_numpy(self._view(3))


def inspect_files(scan: FolderScan, reading: Reading) -> FolderReport:
    """Open every file of a scan and say which are broken, animated or there twice."""
    from tqdm.auto import tqdm

    image_module = extra_import("PIL.Image")
    sizes = []
    broken = {}
    animated = []
    by_content: dict[bytes, list[Path]] = {}
    for file in tqdm(scan.files, desc="open the files", delay=2, leave=False):
        path = scan.folder / file
        try:
            _, size = reading.pixels_and_size(path)
            sizes.append(size)
            with image_module.open(path) as image:
                if _has_frames(image):
                    animated.append(file)
        except ValueError as error:
            broken[file] = str(error)
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        by_content.setdefault(digest, []).append(file)
    repeated = [files for files in by_content.values() if len(files) > 1]
    return FolderReport(sizes, broken, animated, repeated)


def _has_frames(image: Any) -> bool:
    """Whether an image file has frames after the first, even if these are damaged."""
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # the decoder stumbled over a later frame
        return True
