import math
import os
import shutil
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from arcvq import image_folders
from arcvq.image_folders import (
    BESIDE,
    DANGLING,
    NO_IMAGE,
    PART_NAMES,
    REPEATED,
    Reading,
    inspect_files,
    read_images,
    scan_folder,
)
from arcvq.images import load_images


def save(path, color=(9, 8, 7), size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)


def touch(folder, *names):
    """Files of these names, with nothing in them: a scan looks at names alone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder):
    """The part and class of each file, by its name."""
    scan = scan_folder(folder)
    rows = zip(scan.files, scan.parts, scan.labels, strict=True)
    return {str(file): (part, label) for file, part, label in rows}


# Parts and classes


def test_folders_are_classes_and_loose_files_are_all(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/deep/2.jpg", "3.bmp")
    assert found(tmp_path) == {
        "cat/1.png": ("train", "cat"),
        "dog/deep/2.jpg": ("train", "dog"),
        "3.bmp": ("train", "all"),
    }


def test_the_home_folder_is_found_in_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "pictures/1.png")
    assert found("~/pictures") == {"1.png": ("train", "all")}


@pytest.mark.parametrize("name", PART_NAMES)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_every_name_of_a_part_is_known_in_any_case(tmp_path, name, spell):
    other = "test" if PART_NAMES[name] == "train" else "train"
    touch(tmp_path, f"{spell(name)}/cat/1.png", f"{other}/cat/2.png")
    parts = {label: part for file, (part, label) in found(tmp_path).items()}
    assert set(parts) == {"cat"}
    scan = scan_folder(tmp_path)
    assert set(scan.parts) == {PART_NAMES[name], other}


@pytest.mark.parametrize("wrapper", ["pets", "pets/images", "a/b/c"])
def test_a_divided_data_set_is_found_inside_folders_that_wrap_it(tmp_path, wrapper):
    touch(tmp_path, f"{wrapper}/train/cat/1.png", f"{wrapper}/valid/cat/2.png")
    assert list(found(tmp_path).values()) == [("train", "cat"), ("validation", "cat")]


def test_a_single_class_is_no_wrapper(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/2.png")
    assert set(found(tmp_path).values()) == {("train", "cat")}


def test_what_lies_beside_the_parts_is_left_out_and_said(tmp_path):
    touch(tmp_path, "Train/cat/1.png", "Test/cat/2.png", "samples/3.png", "overview.png")
    scan = scan_folder(tmp_path)
    assert set(scan.parts) == {"train", "test"}
    assert set(scan.labels) == {"cat"}
    assert scan.left_out == {BESIDE: [Path("overview.png"), Path("samples/3.png")]}
    assert "2 images in 1 class (test 1, train 1); 2 left out: beside" in scan.summary()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["val", "test"], "holds test, val, but no folder train"),
        (["test"], "holds test, but no folder train"),
        (["test", "cat", "dog"], "holds cat, dog, test, but no folder train"),
        (["train", "car"], "train may be a part or a class"),
        (["train", "Train"], "two folders for the same part: Train, train"),
        (["train", "val", "valid"], "two folders for the same part: train, val, valid"),
    ],
)
def test_what_cannot_be_decided_is_refused(tmp_path, folders, message):
    touch(tmp_path, *(f"{folder}/{number}.png" for number, folder in enumerate(folders)))
    with pytest.raises(ValueError, match=message):
        scan_folder(tmp_path)


names = st.sampled_from([*PART_NAMES, "Train", "TEST", "cat", "dog", "x"])


@settings(max_examples=60, deadline=None)
@given(tree=st.lists(st.tuples(names, names), min_size=1, max_size=6, unique=True))
def test_no_part_ever_becomes_a_class(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    touch(folder, *(f"{top}/{inner}/1.png" for top, inner in tree))
    try:
        scan = scan_folder(folder)
    except ValueError:
        return  # refused in one sentence
    left_out = sum(len(files) for files in scan.left_out.values())
    assert len(scan.files) + left_out == len(tree)
    for file, part, label in zip(scan.files, scan.parts, scan.labels, strict=True):
        named = [PART_NAMES[name.lower()] for name in file.parts if name.lower() in PART_NAMES]
        if label.lower() in PART_NAMES:  # a class, as in CIFAR-100, that others stand beside
            assert len(set(scan.labels)) > 1
        else:
            assert named in ([part], [])


@pytest.mark.parametrize(
    "files",
    [
        ["cat/train/1.png", "cat/val/2.png", "dog/train/3.png", "dog/val/4.png"],
        ["images/train/1.png", "images/val/2.png", "masks/train/3.png", "masks/val/4.png"],
        ["bottle/train/good/1.png", "bottle/test/bad/2.png", "bottle/truth/3.png", "cup/4.png"],
        ["a/train/1.png", "b/train/2.png"],
        ["train/train/cat/1.png", "train/test/cat/2.png"],
    ],
)
def test_parts_inside_several_folders_are_refused_and_never_mixed(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match="parts inside other folders would be mixed"):
        scan_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/train/1.png", "train/car/2.png", "test/train/3.png", "test/car/4.png")
    scan = scan_folder(tmp_path)
    assert set(scan.labels) == {"car", "train"}
    assert set(scan.parts) == {"train", "test"}


def test_the_copies_that_macos_adds_to_a_zip_file_are_passed_over(tmp_path):
    touch(tmp_path, "pets/train/1.png", "pets/val/2.png", "__MACOSX/pets/train/1.png")
    assert scan_folder(tmp_path).parts == ["train", "validation"]


def test_one_class_in_two_spellings_of_unicode_is_one_class(tmp_path):
    touch(tmp_path, "train/caf\u00e9/1.png", "test/cafe\u0301/2.png")
    assert set(scan_folder(tmp_path).labels) == {"caf\u00e9"}


# What is left out


def test_a_link_back_to_the_folder_gives_no_file_twice(tmp_path):
    touch(tmp_path, *(f"cat/{number}.png" for number in range(10)))
    (tmp_path / "cat" / "up").symlink_to("..")
    scan = scan_folder(tmp_path)
    assert len(scan.files) == 10
    assert scan.left_out == {REPEATED: [Path("cat/up")]}


def test_a_folder_keeps_its_own_name_where_a_link_comes_first(tmp_path):
    touch(tmp_path, "dog/1.png")
    (tmp_path / "a").symlink_to("dog")
    assert set(scan_folder(tmp_path).labels) == {"dog"}


def test_a_linked_class_works_and_a_link_that_leads_nowhere_is_counted(tmp_path):
    touch(tmp_path, "elsewhere/1.png")
    here = tmp_path / "here"
    here.mkdir()
    (here / "cat").symlink_to(tmp_path / "elsewhere")
    (here / "gone.png").symlink_to(tmp_path / "nothing.png")
    scan = scan_folder(here)
    assert scan.labels == ["cat"]
    assert scan.left_out == {DANGLING: [Path("gone.png")]}
    assert "1 left out: links that lead nowhere" in scan.summary()


def test_links_that_lead_back_to_themselves_are_counted(tmp_path):
    touch(tmp_path, "1.png")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "there.png").symlink_to("back.png")
    (tmp_path / "back.png").symlink_to("there.png")
    scan = scan_folder(tmp_path)
    assert scan.files == [Path("1.png")]
    assert scan.left_out == {DANGLING: [Path("back.png"), Path("itself"), Path("there.png")]}


def test_files_that_are_no_images_are_named_by_their_suffix(tmp_path):
    touch(tmp_path, "1.png", "a.heic", "b.HEIC", "notes.txt", "README")
    scan = scan_folder(tmp_path)
    assert len(scan.left_out[NO_IMAGE]) == 4
    assert (
        "4 left out: no image format that Pillow reads (.heic 2, no suffix 1, .txt 1)"
        in scan.summary()
    )


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    save(tmp_path / "1.png")
    with pytest.raises(NotADirectoryError, match="is a file; name the folder"):
        scan_folder(tmp_path / "1.png")


@pytest.mark.parametrize("name", ["folder:", "folder:  "])
def test_a_data_set_without_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="names no folder; write folder:PATH"):
        load_images(name, device="cpu")


# Pixels


def read(folder, **options):
    return read_images(scan_folder(folder), Reading(**{"size": 8} | options), "test")[0]


READABLE = [
    suffix
    for suffix, feature in {
        ".gif": None,
        ".jfif": "jpg",
        ".jpe": "jpg",
        ".avif": "avif",
        ".tga": None,
        ".jp2": "jpg_2000",
        ".pcx": None,
        ".ppm": None,
        ".webp": "webp",
    }.items()
    if feature is None or features.check(feature)
]


@pytest.mark.parametrize("suffix", READABLE)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    save(tmp_path / f"1{suffix}", (250, 20, 30))
    red, green, blue = read(tmp_path)[0, :, 4, 4].tolist()
    assert red > 200
    assert green < 60
    assert blue < 70


def transparent(mode):
    """A black square on a transparent ground."""
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (8, 8), 0)
        image.paste((0, 0, 0, 255) if mode == "RGBA" else (0, 255), (2, 2, 6, 6))
        return image, {}
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.paste(0, (2, 2, 6, 6))
        return image, {"transparency": 1}
    ground = (10, 10, 10) if mode == "RGB" else 10
    image = Image.new(mode, (8, 8), ground)
    image.paste(0, (2, 2, 6, 6))
    return image, {"transparency": ground}


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0), ("#808080", 128)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparency_shows_the_background(tmp_path, mode, background, value):
    image, options = transparent(mode)
    image.save(tmp_path / "1.png", **options)
    pixels = read(tmp_path, background=background)
    assert (pixels[0, :, 0, 0] == value).all()
    assert (pixels[0, :, 4, 4] == 0).all()


def deep(mode):
    values = np.linspace(1000, 9000, 64).reshape(8, 8)
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    return Image.fromarray(values.astype(kind))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pixels_of_more_than_8_bits_are_refused_or_scaled_and_never_clipped(tmp_path, mode):
    deep(mode).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match=r"1\.tif .* only 8 bits a channel are read; levels="):
        read(tmp_path)
    stretched = read(tmp_path, levels="minmax")
    assert (int(stretched.min()), int(stretched.max())) == (0, 255)
    scaled = read(tmp_path, levels=(0.0, 10_000.0))
    assert (int(scaled.min()), int(scaled.max())) == (26, 230)  # 255 x 0.1 and 255 x 0.9, rounded
    with pytest.raises(ValueError, match="reach from 1000 to 9000, beyond the levels 0 to 5000"):
        read(tmp_path, levels=(0.0, 5000.0))


PNG_COLORS = {"RGB": 2, "LA": 4, "RGBA": 6}  # what the header of a PNG file calls them


def png_of_16_bits(values, mode):
    """The bytes of a PNG file of values (H, W, C), which Pillow does not write."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLORS[mode], 0, 0, 0)
    rows = [b"\0" + row.astype(">u2").tobytes() for row in values]
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(b"".join(rows))),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_2000_of_16_bits(codestream_alone):
    """The bytes of a JPEG 2000 file whose header says that each of three channels has 16 bits."""
    content = BytesIO()
    Image.new("RGB", (32, 32), (9, 8, 7)).save(content, "JPEG2000", no_jp2=codestream_alone)
    found = bytearray(content.getvalue())
    start = found.index(b"\xff\x4f\xff\x51")
    for channel in range(3):
        found[start + 42 + 3 * channel] = 16 - 1
    return bytes(found)


def dds_of_floats():
    """The bytes of a DDS file of a block of 4 x 4 black pixels with floats of 16 bits."""
    sizes = struct.pack("<7I", 124, 0, 4, 4, 16, 0, 0).ljust(72, b"\0")
    layout = struct.pack("<2I4s5I", 32, 4, b"DX10", 0, 0, 0, 0, 0).ljust(52, b"\0")
    extension = struct.pack("<5I", 95, 3, 0, 1, 0)
    return b"DDS " + sizes + layout + extension + bytes(16)


DEEP_FILES = {
    "PPM": ("ppm", b"P6 8 8 65535\n" + bytes(8 * 8 * 6)),
    "PPM of 12 bits": ("ppm", b"P6 8 8 4095\n" + bytes(8 * 8 * 6)),
    "PPM as text": ("ppm", b"P3 8 8 65535\n" + 64 * b"4095 2000 10\n"),
    "PNM with CMYK": ("pnm", b"P0CMYK 8 8 65535\n" + bytes(8 * 8 * 8)),
    "DDS": ("dds", dds_of_floats()),
}
if features.check("jpg_2000"):
    DEEP_FILES["JPEG 2000"] = ("jp2", jpeg_2000_of_16_bits(codestream_alone=False))
    DEEP_FILES["codestream"] = ("j2k", jpeg_2000_of_16_bits(codestream_alone=True))


def write_deep_color(folder, kind):
    """Write a file with more than 8 bits a channel and return its path."""
    values = np.full((8, 8, 3), (4095, 2000, 10), dtype=np.uint16)
    if kind in DEEP_FILES:
        suffix, content = DEEP_FILES[kind]
        path = folder / f"1.{suffix}"
        path.write_bytes(content)
    elif kind in PNG_COLORS:
        path = folder / "1.png"
        path.write_bytes(png_of_16_bits(np.resize(values, (8, 8, len(kind))), kind))
    elif kind == "SGI":
        path = folder / "1.sgi"
        header = struct.pack(">hBBHHHHii", 474, 0, 2, 3, 8, 8, 3, 0, 65535).ljust(512, b"\0")
        path.write_bytes(header + values.transpose(2, 0, 1).astype(">u2").tobytes())
    else:
        path = folder / "1.tif"
        tifffile.imwrite(path, values, photometric="rgb")
    return path


@pytest.mark.parametrize("kind", [*PNG_COLORS, "SGI", "TIFF", *DEEP_FILES])
@pytest.mark.parametrize("levels", [None, "minmax", (0.0, 4095.0)])
def test_color_of_more_than_8_bits_is_refused_with_any_levels(tmp_path, kind, levels):
    path = write_deep_color(tmp_path, kind)
    with Image.open(path) as image:  # Pillow reads it without a word
        image.load()
    message = r"cannot be read as an image: it has more than 8 bits a channel, .* 8 only"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, levels=levels)


@pytest.mark.parametrize("levels", [None, "minmax", (0.0, 65535.0)])
def test_gray_of_16_bits_with_a_transparent_value_is_refused(tmp_path, levels):
    gray = np.full((8, 8), 700, dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / "1.png", transparency=700)
    with pytest.raises(ValueError, match="or as gray without transparency for levels"):
        read(tmp_path, levels=levels)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_color_of_more_than_8_bits_is_refused_in_every_tiff(tmp_path, compression, order, planes):
    """In bytes of either order, with the channels together or each on its own."""
    values = np.full((8, 8, 3), 4095, dtype=np.uint16)
    if planes == "separate":
        values = values.transpose(2, 0, 1)
    options = {"photometric": "rgb", "compression": compression, "planarconfig": planes}
    tifffile.imwrite(tmp_path / "1.tif", values, byteorder=order, **options)
    with pytest.raises(ValueError, match="it has more than 8 bits a channel"):
        read(tmp_path)


NUMBERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def write_gray_tiff(path, dtype, **options):
    """A gray ramp over the range of a dtype, from black to white; the numbers as they are stored."""
    if dtype.startswith("float"):
        lowest, highest = -100.0, 900.0
    else:
        lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    numbers = np.linspace(lowest, highest, 64).reshape(8, 8).astype(dtype)
    tifffile.imwrite(path, numbers, **options)
    return numbers.astype(np.float64)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_gray_tiff_is_read_right_or_refused(tmp_path, dtype, photometric, byteorder, compression):
    options = {"byteorder": byteorder, "compression": compression}
    numbers = write_gray_tiff(tmp_path / "1.tif", dtype, photometric=photometric, **options)
    if photometric == "miniswhite":
        numbers = -numbers
    span = numbers.max() - numbers.min()
    expected = torch.from_numpy(np.round((numbers - numbers.min()) / span * 255))
    try:
        pixels = read(tmp_path, levels="minmax")
    except ValueError as error:
        assert "1.tif cannot be read as an image: " in str(error)
        return
    assert (pixels[0, 0] - expected).abs().max() <= 1


MISREAD = {
    "signed 8 bits": ("int8", {}, "signed numbers of 8 bits"),
    "16 bits with white as 0": (
        "uint16",
        {"photometric": "miniswhite", "byteorder": "<"},
        "more than 8 bits with white as 0",
    ),
    "floats with white as 0": (
        "float32",
        {"photometric": "miniswhite"},
        "more than 8 bits with white as 0",
    ),
}


@pytest.mark.parametrize(("dtype", "options", "found"), MISREAD.values(), ids=MISREAD)
@pytest.mark.parametrize("levels", [None, "minmax", (-1e10, 1e10)])
def test_a_gray_tiff_that_pillow_misreads_is_refused_with_any_levels(
    tmp_path, dtype, options, found, levels
):
    write_gray_tiff(tmp_path / "1.tif", dtype, **options)
    message = rf"1\.tif cannot be read as an image: it has {found}, which Pillow takes for other"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, levels=levels)


def test_unsigned_numbers_of_32_bits_are_scaled_over_their_whole_range(tmp_path):
    numbers = write_gray_tiff(tmp_path / "1.tif", "uint32", byteorder="<")
    pixels = read(tmp_path, levels=(0.0, 2.0**32 - 1))[0, 0]
    assert np.array_equal(pixels.numpy(), np.round(numbers / (2**32 - 1) * 255))
    with pytest.raises(
        ValueError, match=r"reach from 0 to 4\.29497e\+09, beyond the levels 0 to 10"
    ):
        read(tmp_path, levels=(0.0, 10.0))


def test_a_fits_file_of_signed_numbers_of_16_bits_is_refused(tmp_path):
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 8", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    numbers = np.arange(-32, 32, dtype=">i2")
    (tmp_path / "1.fits").write_bytes(header + numbers.tobytes().ljust(2880, b"\0"))
    with pytest.raises(ValueError, match="it has signed numbers of 16 bits in FITS"):
        read(tmp_path, levels="minmax")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_tiff_of_8_bits_is_read(tmp_path, mode):
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / "1.tif")
    assert (read(tmp_path) > 250).all()


@pytest.mark.parametrize("header", [b"P3 8 8 255", b"P3 8 8 15", b"P6 8 8 255", b"P6 8 8 15"])
def test_a_ppm_of_8_bits_is_read_with_its_own_largest_value(tmp_path, header):
    largest = header.split()[-1]
    pixels = 192 * (largest + b" ") if header.startswith(b"P3") else 192 * bytes([int(largest)])
    (tmp_path / "1.ppm").write_bytes(header + b"\n" + pixels)
    assert (read(tmp_path) == 255).all()


ORIENTATION = 274  # a tag of EXIF data
DAMAGED_EXIF = {
    "text": b"garbage",
    "XML": b"<?xml version='1.0'?>",
    "odd bytes": bytes(range(200, 232)),
    "4 bytes": b"Exif",
    "a cut header": b"Exif\0\0II*",
}


@pytest.mark.parametrize("exif", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_sound_image_with_damaged_exif_data_is_read_as_it_is(tmp_path, suffix, exif):
    save(tmp_path / f"1.{suffix}", (250, 20, 30), (16, 8))
    plain = read(tmp_path)
    save(tmp_path / f"1.{suffix}", (250, 20, 30), (16, 8), exif=exif)
    assert read(tmp_path).equal(plain)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_its_exif_data_say(tmp_path, suffix, orientation):
    values = np.arange(64 * 3, dtype=np.uint8).reshape(8, 8, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"1.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(values).save(path, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read(tmp_path)[0].permute(1, 2, 0).numpy(), expected)
    is_turned = orientation in range(2, 9)
    assert is_turned != np.array_equal(expected, values)


def test_a_cut_image_with_damaged_exif_data_is_broken_all_the_same(tmp_path):
    noise = Image.effect_noise((64, 64), 50).convert("RGB")
    noise.save(tmp_path / "1.png", exif=b"garbage")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read(tmp_path)


def test_images_are_gray_until_one_has_color_and_keep_their_pixels(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", 10 * number, mode="L")
    gray = read(tmp_path)
    assert gray.shape == (5, 1, 8, 8)
    assert gray[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    save(tmp_path / "9.png", (1, 2, 3))
    colors = read(tmp_path)
    assert colors.shape == (6, 3, 8, 8)
    assert torch.equal(colors[:5], gray.expand(-1, 3, -1, -1))
    assert colors[5, :, 0, 0].tolist() == [1, 2, 3]


def test_reading_takes_little_more_memory_than_the_pixels(tmp_path):
    save(tmp_path / "0.png", 7, (128, 128), "L")
    save(tmp_path / "1.png", (7, 8, 9), (128, 128))
    files = [Path("0.png")] * 1500 + [Path("1.png")] * 500
    scan = image_folders.FolderScan(tmp_path, files, ["train"] * 2000, ["all"] * 2000)
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not say how much memory a process has")
    before = memory(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    pixels, _ = read_images(scan, Reading(128), "test")
    assert pixels.shape == (2000, 3, 128, 128)
    assert memory(status, "VmHWM") - before < 1.3 * pixels.numel()


def memory(status, name):
    """Memory of this process in RAM, in bytes: VmRSS now, VmHWM at the most."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


# Broken files


def break_some(folder, count, files=6):
    for number in range(files):
        save(folder / f"{number}.png", (number, 0, 0))
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"no image")


def test_all_broken_files_are_named_at_once(tmp_path):
    break_some(tmp_path, 3)
    with pytest.raises(ValueError, match=r"3 files in .*0\.png.*1\.png.*2\.png"):
        read(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("skips", [False, True])
def test_skip_broken_is_advised_only_where_it_would_leave_something(tmp_path, count, skips):
    break_some(tmp_path, count, files=count)
    with pytest.raises(ValueError, match="cannot identify") as nothing_left:
        read(tmp_path, skip_broken=skips)
    assert "skip_broken=True" not in str(nothing_left.value)
    save(tmp_path / "sound.png")
    them = "it" if count == 1 else "them"
    if not skips:
        with pytest.raises(ValueError, match=f"skip_broken=True leaves {them} out"):
            read(tmp_path)


def test_broken_files_are_left_out_when_asked(tmp_path):
    break_some(tmp_path, 2, files=30)
    message = r"^2 files are left out of .*: 0\.png \(cannot identify .*\); 1\.png \("
    with pytest.warns(UserWarning, match=message):
        data = load_images(f"folder:{tmp_path}", size=8, skip_broken=True, device="cpu")
    images = torch.cat([data.train.images, data.validation.images, data.test.images])
    reds = images[:, 0, 0, 0].tolist()
    assert sorted(reds) == list(range(2, 30))


def test_a_sound_file_is_not_left_out_for_want_of_memory(tmp_path, monkeypatch):
    def out_of_memory(*given):
        raise MemoryError

    for number in range(30):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    monkeypatch.setattr(ImageOps, "fit", out_of_memory)
    for stream in (False, True):
        with pytest.raises(MemoryError):
            load_images(f"folder:{tmp_path}", skip_broken=True, stream=stream, device="cpu")


@pytest.mark.parametrize(
    ("folder", "part"), [("train", "train"), ("val", "validation"), ("test", "test")]
)
def test_a_part_that_broken_files_leave_empty_is_named(tmp_path, folder, part):
    for name in ("train", "val", "test"):
        for number in range(4):
            save(tmp_path / name / f"{number}.png", (number, 0, 0))
    for number in range(4):
        (tmp_path / folder / f"{number}.png").write_bytes(b"no image")
    message = f"has no image for {part} that can be read, of 4"
    with pytest.raises(ValueError, match=message):
        load_images(f"folder:{tmp_path}", size=8, skip_broken=True, stream=False, device="cpu")


def test_a_folder_of_broken_files_alone_is_refused_even_then(tmp_path):
    break_some(tmp_path, 6)
    with pytest.raises(ValueError, match="6 files in"):
        read(tmp_path, skip_broken=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "greenish"}, "background is 'greenish'"),
        ({"levels": "best"}, "levels are 'best'"),
        ({"levels": (5.0, 5.0)}, r"levels are \(5.0, 5.0\)"),
        ({"levels": 5}, "levels are 5; use 'minmax' or a range"),
        ({"levels": (0, math.inf)}, r"levels are \(0, inf\)"),
        ({"levels": (math.nan, 1)}, r"levels are \(nan, 1\)"),
        ({"levels": ("low", "high")}, r"levels are \('low', 'high'\)"),
        ({"background": 3}, "background is 3; use the name of a color"),
        ({"grey": "yes"}, "grey is 'yes'; it must be True, False or None"),
        ({"grey": 0}, "grey is 0; it must be True, False or None"),
        ({"grey": 1.0}, "grey is 1.0; it must be True, False or None"),
        ({"stream": np.int64(1)}, "stream is 1; it must be True, False or None"),
        ({"skip_broken": "no"}, "skip_broken is 'no'; it must be True or False"),
        ({"size": 16.0}, "size is 16.0; it must be a whole number from 8"),
        ({"size": 12}, "size is 12; it must be a multiple of 8"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Reading(**options)


# Reports


def test_a_report_tells_sizes_broken_animated_and_repeated_files(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", size=(20, 10))
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "train" / "a" / "2.png")
    (tmp_path / "test" / "a").mkdir(parents=True)
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "test" / "a" / "3.png")
    (tmp_path / "train" / "a" / "4.png").write_bytes(b"no image")
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(tmp_path / "train" / "a" / "5.gif", save_all=True, append_images=frames[1:])

    report = inspect_files(scan_folder(tmp_path), Reading())
    assert report.sizes.count((20, 10)) == 3
    assert list(report.broken) == [Path("train/a/4.png")]
    assert report.animated == [Path("train/a/5.gif")]
    assert [len(group) for group in report.repeated] == [3]


@pytest.mark.parametrize(
    ("first", "second", "others", "where"),
    [
        ("a/1", "a/2", [], "in train, from which images for validation and test are drawn"),
        ("train/1", "train/2", ["test/3"], "in train, from which images for validation are drawn"),
        ("train/1", "train/2", ["val/3", "test/4"], "in one part"),
        ("test/1", "test/2", ["train/3"], "in one part"),
        ("train/1", "test/2", [], "across parts"),
    ],
)
def test_a_report_says_whether_copies_may_come_into_several_parts(
    tmp_path, first, second, others, where
):
    for value, name in enumerate([first, *others]):
        save(tmp_path / f"{name}.png", (value, 0, 0))
    copy = tmp_path / f"{second}.png"
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / f"{first}.png", copy)
    scan = scan_folder(tmp_path)
    lines = list(inspect_files(scan, Reading()).lines(scan))
    names = ", ".join(sorted([f"{first}.png", f"{second}.png"]))
    assert f"the same file 2 times, {where}: {names}" in lines


def test_copies_are_divided_where_a_report_says_that_they_may_be(tmp_path):
    for number in range(40):
        save(tmp_path / f"{number}.png")
    scan = scan_folder(tmp_path)
    assert "in train, from which" in "".join(inspect_files(scan, Reading()).lines(scan))
    data = load_images(f"folder:{tmp_path}", size=8, device="cpu")
    assert torch.equal(data.train.images[0], data.test.images[0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("side", [40, 400])  # a JPEG of the larger one is decoded at a fraction
def test_a_report_has_the_width_and_height_of_images_that_are_turned(tmp_path, suffix, side):
    sizes = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        name = Path(f"{orientation}.{suffix}")
        save(tmp_path / name, size=(side + 1, side), exif=exif)
        sizes[name] = (side, side + 1) if orientation > 4 else (side + 1, side)
    scan = scan_folder(tmp_path)
    report = inspect_files(scan, Reading(8))
    assert dict(zip(scan.files, report.sizes, strict=True)) == sizes
    assert f"width {side} to {side + 1} pixels" in "\n".join(report.lines(scan))


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_animation_that_is_cut_short_is_reported_and_ends_nothing(tmp_path, ending, share):
    frames = [Image.effect_noise((64, 64), 50).convert("RGB") for _ in range(3)]
    file = tmp_path / f"1.{ending}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    save(tmp_path / "2.png")
    report = inspect_files(scan_folder(tmp_path), Reading())
    told = {*report.broken, *report.animated}
    assert told == {Path(f"1.{ending}")}


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_images_of_each_split_are_of_all_classes(tmp_path, stream):
    for part in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(20):
                save(tmp_path / part / label / f"{number}.png")
    data = load_images(f"folder:{tmp_path}", size=8, stream=stream)
    for split in (data.train, data.validation, data.test):
        assert len(split) == 40
        assert len(split.first(10).labels.unique()) == 2


def test_names_of_any_length_and_script_are_read(tmp_path):
    name = "\u732b" * 60  # 180 bytes
    save(tmp_path / name / "1.png")
    assert scan_folder(tmp_path).labels == [name]
    assert len(os.fsencode(name)) == 180
