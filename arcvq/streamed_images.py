"""Images that stay in their files and are decoded, batch by batch, whenever they are asked for.

For folders that do not fit into memory. `StreamedImages` stands in an `ImageSplit` where a tensor
of pixels stands otherwise, and gives such tensors when it is indexed.
"""

import json
import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, Shaped, UInt8
from torch import Tensor

from arcvq.image_folders import FolderScan, Reading, central
from arcvq.runtime.files import reason_of

SAMPLE = 500  # images that stand for all where reading every file would take too long
AT_ONCE = 64  # files that are handed to the threads at a time
SUBSTITUTES = 20  # files that are tried in the place of a broken one
CPU = torch.device("cpu")
GONE = (-1, -1)  # the stamp of a file that is not there


class UnreadableImage(ValueError):
    """A file that turned out to be no usable image while batches were read."""


class UnexpectedColor(UnreadableImage):
    """A file that is sound, but has color among images that were taken to be gray."""


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """The pixels of image files (n, C, side, side), decoded by threads whenever they are indexed.

    A file must stay as it was when the folder was opened, its date included. One that is gone, has
    changed or is broken is named in an error. With `reading.skip_broken` a warning names it, and
    the next file of the same class that can be read takes its place, so that the label stays true.
    If there is none among the `SUBSTITUTES` next ones of the class, it is an error even then. So is
    color among images that are taken to be gray.

    Some images that are selected keep the files of all others, so that the same file takes the
    place of a broken one whether it is asked for among many or alone.

    Attributes:
        folder: The folder.
        files: The files of the part of the data set, as paths from the folder.
        labels: The class of each file.
        stamps: The size of each file in bytes and the time of its last change in ns.
        rows: Which of the files are the images.
        reading: How a file becomes pixels.
        channels: 1 for gray images, 3 for RGB.
        side: Height and width in pixels of the center that is kept.
        device: Where the decoded pixels go.
    """

    folder: Path
    files: Shaped[np.ndarray, " files"]
    labels: Shaped[np.ndarray, " files"]
    stamps: Int64[np.ndarray, "files 2"]
    rows: Int64[np.ndarray, " n"]
    reading: Reading
    channels: int
    side: int
    device: torch.device = CPU
    # What is being decoded, by process and file: a forked process inherits entries, but no threads.
    _ahead: dict[tuple[int, int], Future] = field(default_factory=dict, init=False, repr=False)

    dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """The shape of all the pixels, as of a tensor."""
        return torch.Size((len(self), self.channels, self.side, self.side))

    def __getitem__(self, rows: Tensor | slice | int) -> UInt8[Tensor, "*n C side side"]:
        """Decode some images, given by their indices, a mask or a slice.

        Raises:
            UnreadableImage: If a file cannot be used; names it.
        """
        chosen = self._chosen(rows)
        pixels = torch.from_numpy(self._decoded(chosen.flatten().tolist()))
        return pixels.view(*chosen.shape, *self.shape[1:]).to(self.device)

    def select(self, rows: Tensor | slice) -> "StreamedImages":
        """Return some of the images, without decoding them."""
        return replace(self, rows=self._chosen(rows).numpy())

    def alone(self) -> "StreamedImages":
        """Return the same images without the other files, of which none takes a place then."""
        return replace(
            self,
            files=self.files[self.rows],
            labels=self.labels[self.rows],
            stamps=self.stamps[self.rows],
            rows=np.arange(len(self)),
        )

    def to(self, device: str | torch.device) -> "StreamedImages":
        """Return the same images, to be decoded onto another device."""
        return replace(self, device=torch.device(device))

    def prefetch(self, rows: Int[Tensor, " b"]) -> None:
        """Begin to decode images that will be asked for next, in place of those announced before.

        Args:
            rows: Their indices; on the CPU, so that nothing waits for another device.
        """
        self._ahead.clear()
        process = os.getpid()
        for file in self._chosen(rows).tolist():
            self._ahead[process, file] = _threads(process).submit(self._pixels, file)

    def identity(self) -> UInt8[Tensor, " bytes"]:
        """What stands for the pixels in a fingerprint, since reading all of them takes too long.

        It changes with the name, size or date of any file, and with how they are read.
        """
        reading = vars(self.reading) | {"skip_broken": None, "stream": None}
        files = self.files[self.rows].tolist()
        stamps = self.stamps[self.rows].tolist()
        facts = [reading, self.channels, self.side, files, stamps]
        return torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        # What is being decoded stays in this process.
        return vars(self) | {"_ahead": {}}

    def _chosen(self, rows: Tensor | slice | int) -> Int64[Tensor, "*n"]:
        """The places among the files that rows of any kind stand for."""
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return torch.from_numpy(self.rows)[rows]

    def _decoded(self, chosen: list[int]) -> UInt8[np.ndarray, "n C side side"]:
        """Decode files; of more than a batch, a progress bar appears after two seconds."""
        from tqdm.auto import tqdm

        pixels = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        blocks = range(0, len(chosen), AT_ONCE)
        is_one = len(blocks) == 1
        for start in tqdm(blocks, desc="decode images", delay=2, leave=False, disable=is_one):
            block = chosen[start : start + AT_ONCE]
            futures = [self._begun(file) for file in block]
            for place, file in enumerate(block, start):
                try:
                    pixels[place] = futures.pop(0).result()  # nothing else holds this image then
                except UnreadableImage as error:
                    pixels[place] = self._instead_of(file, error)
        return pixels

    def _begun(self, file: int) -> Future:
        """The decoding of an image: under way since it was announced, or begun now."""
        process = os.getpid()
        if (process, file) in self._ahead:
            return self._ahead.pop((process, file))
        return _threads(process).submit(self._pixels, file)

    def _instead_of(self, file: int, error: UnreadableImage) -> UInt8[np.ndarray, "C side side"]:
        """The next image of the same class that can be read, with a warning.

        An error if there is none, if no file is to be skipped, or for a sound file.
        """
        if isinstance(error, UnexpectedColor) or not self.reading.skip_broken:
            raise error
        of_class = np.flatnonzero(self.labels == self.labels[file])
        place = int(np.searchsorted(of_class, file))
        following = np.concatenate([of_class[place + 1 :], of_class[:place]])[:SUBSTITUTES]
        for other in following.tolist():
            try:
                pixels = self._pixels(other)
            except UnreadableImage:
                continue
            warnings.warn(f"{error}; {self.files[other]} takes its place", stacklevel=2)
            return pixels
        raise UnreadableImage(
            f"{error}; {len(following)} other files of its class were tried, and none can be used"
        )

    def _pixels(self, file: int) -> UInt8[np.ndarray, "C side side"]:
        """Decode one file, in a thread."""
        path = self.folder / self.files[file]
        stamp = _stamp(path)
        if stamp == GONE:
            raise UnreadableImage(
                f"{path} is gone; it was there when the folder was opened; "
                "a copy that is put back needs the old date (cp -p)"
            )
        if stamp != tuple(self.stamps[file]):
            raise UnreadableImage(
                f"{path} has changed since the folder was opened; "
                "put the old file back with its old date (cp -p), or open the folder anew, "
                "which is another data set for a run"
            )
        try:
            pixels = self.reading.pixels(path)
        except ValueError as error:
            message = f"{path} cannot be read as an image: {error}"
            if not self.reading.skip_broken:  # with it, a run that this file has ended can go on
                message += "; skip_broken=True puts another file of its class in its place"
            raise UnreadableImage(message) from error
        if self.channels == 1 and (pixels != pixels[:1]).any():
            raise UnexpectedColor(
                f"{path} has color, but the first {SAMPLE} images have none and the others are "
                "taken to be gray too; grey=True or grey=False decides for all"
            )
        return central(pixels[: self.channels], self.side)


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of a process that decode; Pillow lets them work side by side."""
    return ThreadPoolExecutor(thread_name_prefix="decode")


def _stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; `GONE` if the file is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return GONE
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {reason_of(error)}") from error
    return status.st_size, status.st_mtime_ns


def stream_images(scan: FolderScan, reading: Reading) -> StreamedImages:
    """Open the files of a scan for decoding on demand.

    Args:
        scan: The scan, of which the first files are a fair sample of all.
        reading: How to read them. Without `grey` the images are gray if none of the first `SAMPLE`
            has color.

    Raises:
        UnreadableImage: If one of these cannot be read; names it.
    """
    files = np.array([str(file) for file in scan.files], dtype=object)
    stamps = np.array([_stamp(scan.folder / file) for file in scan.files], dtype=np.int64)
    labels = np.array(scan.labels, dtype=object)
    rows = np.arange(len(files))
    images = StreamedImages(
        scan.folder, files, labels, stamps, rows, reading, channels=3, side=reading.size
    )
    if reading.grey is None:
        is_gray = all(_gray_blocks(images.select(slice(SAMPLE))))
    else:
        is_gray = reading.grey
    return replace(images, channels=1) if is_gray else images


def _gray_blocks(images: StreamedImages) -> list[bool]:
    """Whether each block of images is gray; all are read, and few are held at a time."""
    found = []
    for start in range(0, len(images), AT_ONCE):
        pixels = images[start : start + AT_ONCE]
        found.append(bool((pixels == pixels[:, :1]).all()))
    return found
