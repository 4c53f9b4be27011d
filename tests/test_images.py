import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import socket
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torchvision import datasets

import arcvq
from arcvq import images
from arcvq.images import (
    LARGE_COUNTS,
    LARGE_PATCHES,
    LARGE_PHOTOGRAPHS,
    PARTS,
    PHOTO_COLUMNS,
    PHOTOGRAPHS,
    ImageData,
    ImageSplit,
    handwritten_digits,
    hold_out,
    load_images,
    photograph,
    random_warp,
    to_float,
    to_uint8,
)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", device="cpu")


@pytest.fixture(scope="module")
def photos():
    return load_images("photos", device="cpu")


def split_of(n, seed=0, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    return ImageSplit(pixels, torch.arange(n) % 3)


def tiny():
    return ImageData("tiny", split_of(9), split_of(2, 1), split_of(3, 2), ("a", "b", "c"))


def splits_of(data):
    return [data.train, data.validation, data.test]


def distinct(split):
    """The different images of a split."""
    return {image.numpy().tobytes() for image in split.images}


# Pixels and splits


def test_every_pixel_value_survives_the_way_to_float_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).view(2, 2, 8, 8)
    floats = to_float(pixels)
    assert floats.dtype == torch.float32
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_uint8(floats), pixels)


def test_to_uint8_rounds_to_the_nearest_and_clips():
    values = torch.tensor([-7.0, -1.0, 0.0039, 0.0041 + 1 / 127.5, 1.0, 1.0001, 30.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 129, 255, 255, 255]


def test_a_data_set_is_shown_by_its_sizes_and_not_pixel_by_pixel():
    assert repr(tiny()) == (
        "ImageData(name='tiny', train=ImageSplit(9 images of 1 x 4 x 4), "
        "validation=ImageSplit(2 images of 1 x 4 x 4), test=ImageSplit(3 images of 1 x 4 x 4), "
        "classes=('a', 'b', 'c'))"
    )
    cropped = dataclasses.replace(split_of(9), crop=2)
    assert repr(cropped) == "ImageSplit(9 images of 1 x 4 x 4, crop 2)"


def test_a_batch_holds_the_asked_images_between_minus_one_and_one():
    split = split_of(6)
    batch = split.batch(torch.tensor([4, 1, 4]))
    expected = split.images.numpy()[[4, 1, 4]].astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(batch.numpy(), expected, atol=1e-6)
    assert len(split) == 6


def test_selected_images_keep_their_labels_and_the_order_of_the_rows():
    split = split_of(6)
    chosen = split.select(torch.tensor([4, 1]))
    assert torch.equal(chosen.images, split.images[[4, 1]])
    assert chosen.labels.tolist() == [1, 1]
    assert torch.equal(split.select(split.labels == 2).images, split.images[[2, 5]])
    assert torch.equal(split.first(2).images, split.images[:2])
    assert len(split.first(99)) == 6


@pytest.mark.parametrize(("count", "rows"), [(1, [0]), (2, [0, 3]), (4, [0, 2, 4]), (9, range(6))])
def test_images_in_steps_come_from_all_over_the_split(count, rows):
    split = split_of(6)
    assert torch.equal(split.in_steps(count).images, split.images[[*rows]])
    assert len(split.first(0).in_steps(count)) == 0


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), 2),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), 2),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 3),
    ],
)
def test_a_split_refuses_pixels_and_labels_that_do_not_fit(unchecked, pixels, labels):
    message = r"needs uint8 images \(n, C, H, W\) and n labels, not"
    with pytest.raises(ValueError, match=message):
        ImageSplit(pixels, torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), ()])
def test_labels_are_one_number_for_each_image(shape, unchecked):
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"n labels, not torch.uint8 \(2, 1, 4, 4\) and labels \("):
        ImageSplit(pixels, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_labels_that_are_no_integers_are_refused(dtype, unchecked):
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"labels have dtype {dtype}; it must be an integer dtype"):
        ImageSplit(pixels, torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("labels", [[0, 1], (0, 1), np.zeros(2, np.int64), None])
def test_labels_that_are_no_tensor_are_named_and_how_to_make_one(labels, unchecked):
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"labels are a .*; they must be a tensor, which"):
        ImageSplit(pixels, labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16])
def test_labels_of_any_integer_dtype_become_int64(dtype):
    split = split_of(9)
    same = ImageSplit(split.images, split.labels.to(dtype))
    assert same.labels.dtype == torch.int64
    assert torch.equal(same.labels, split.labels)
    assert torch.equal(same.select(same.labels == 2).images, split.images[[2, 5, 8]])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_that_names_no_class_is_refused(part, label):
    data = tiny()
    wrong = getattr(data, part).labels.clone()
    wrong[1] = label
    split = dataclasses.replace(getattr(data, part), labels=wrong)
    message = rf"labels for {part} reach from .*{label}.*; they must be from 0 to 2"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(data, **{part: split})


def test_an_array_is_named_and_how_to_make_a_tensor_of_it(unchecked):
    pixels = np.zeros((2, 1, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="images are a ndarray; they must be a tensor, which"):
        ImageSplit(pixels, torch.zeros(2, dtype=torch.int64))


def test_variance_is_that_of_all_training_pixels():
    data = tiny()
    assert data.variance == pytest.approx(np.var(data.train.images.numpy() / 127.5 - 1), rel=1e-12)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_images_of_one_value_have_no_variance_to_train_with(value):
    train = ImageSplit(torch.full((9, 1, 8, 8), value, dtype=torch.uint8), torch.arange(9) % 3)
    data = ImageData("even", train, train, train, ("a", "b", "c"))
    model = arcvq.VQVAE(1, arcvq.CosineQuantizer(8, 4), hidden=4, residual_hidden=2)
    message = f"every pixel of 9 training images of even is {value}, so there is no variance"
    with pytest.raises(ValueError, match=message):
        arcvq.fit(model, data, steps=2, batch_size=4, recording=arcvq.Recording(progress=False))
    train.images[4, 0, 3, 3] ^= 1
    assert ImageData("nearly even", train, train, train, ("a", "b", "c")).variance > 0


def test_fingerprint_changes_with_a_pixel_a_label_and_a_split():
    data = tiny()
    pixel = tiny()
    pixel.test.images[2, 0, 3, 3] ^= 1
    label = tiny()
    label.validation.labels[0] += 1
    swapped = ImageData("tiny", data.train, data.test, data.validation, data.classes)
    fingerprints = {each.fingerprint for each in (data, pixel, label, swapped)}
    assert len(fingerprints) == 4


def test_fingerprint_depends_on_pixels_and_labels_alone():
    data = tiny()
    renamed = ImageData("other name", data.train, data.validation, data.test, ("x", "y", "z"))
    assert renamed.fingerprint == data.fingerprint == "d512f3a10851f4ea"


@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_the_batches_of_a_split_are_its_images_in_order(size):
    split = dataclasses.replace(tiny().train, crop=2)
    batches = [*split.batches(size, "cpu")]
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert torch.equal(torch.cat(batches), split.batch(torch.arange(9)))


def test_batches_of_no_given_size_have_fewer_images_where_these_are_large(monkeypatch):
    split = tiny().train
    assert [len(batch) for batch in split.batches(None, "cpu")] == [9]
    values = split.images[0].numel()
    for limit, sizes in ((4 * values, [4, 4, 1]), (values // 2, [1] * 9)):
        monkeypatch.setattr(images, "BATCH_VALUES", limit)
        batches = [*split.batches(None, "cpu")]
        assert [len(batch) for batch in batches] == sizes
        assert torch.equal(torch.cat(batches), split.batch(torch.arange(9)))


def test_an_empty_split_has_no_image_in_its_batches():
    assert sum(map(len, tiny().train.first(0).batches(4, "cpu"))) == 0


def test_a_subset_keeps_the_first_training_images_and_all_others():
    data = tiny()
    data.variance, data.fingerprint  # noqa: B018 - cached values must not travel along
    small = data.subset(train=4)
    assert torch.equal(small.train.images, data.train.images[:4])
    assert small.test is data.test
    assert torch.equal(small.train.labels, data.train.labels[:4])
    assert small.variance != data.variance
    assert small.fingerprint != data.fingerprint


def test_data_and_splits_can_be_compared_and_kept_in_sets():
    data = tiny()
    same_pixels = data.subset(train=len(data.train))
    assert data == data
    assert data != same_pixels
    assert data.train != data.test
    assert {data, data, same_pixels, data.train, data.test} >= {data.test, same_pixels}


@pytest.mark.parametrize("n", [0, -1, 10, 2.5])
def test_a_subset_of_another_number_is_refused(n, unchecked):
    with pytest.raises(ValueError, match=f"train is {n}; it must be a whole number from 1 to 9"):
        tiny().subset(train=n)


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=3, max_size=60),
    tenths=st.integers(0, 2),
)
def test_held_out_tenths_are_disjoint_and_fair_to_every_class(labels, tenths):
    numbered = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    rest, *held_out = hold_out(ImageSplit(numbered, torch.tensor(labels)), tenths)
    assert len(held_out) == tenths
    numbers = torch.cat([split.images.flatten() for split in (rest, *held_out)])
    assert sorted(numbers.tolist()) == list(range(len(labels)))
    for split in held_out:
        assert 1 <= len(split) <= len(labels) / 10 + 1
        assert split.labels.tolist() == [labels[i] for i in split.images.flatten()]
        for label in set(labels):
            share = (split.labels == label).sum().item()
            assert abs(share - labels.count(label) / 10) < 1


# Built-in data


def test_digits_are_the_same_on_every_machine(digits):
    assert digits.fingerprint == "2934bd7680d02b94"


def test_photos_are_the_same_on_every_machine(photos):
    assert photos.fingerprint == "8e22b20c32732243"


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes"), [("digits", 1, 28, 10), ("photos", 3, 32, 2)]
)
def test_built_in_data_have_the_promised_shapes(request, name, channels, size, classes):
    data = request.getfixturevalue(name)
    assert [len(split) for split in splits_of(data)] == [10_000, 1_000, 1_000]
    assert (data.channels, data.size, len(data.classes)) == (channels, (size, size), classes)
    assert data.device == torch.device("cpu")
    assert data.name == name
    for split in splits_of(data):
        shares = torch.bincount(split.labels, minlength=classes) / len(split)
        assert (shares - 1 / classes).abs().max() < 0.01


def test_plain_digits_are_the_same_on_every_machine_and_share_no_image():
    data = load_images("plain_digits", device="cpu")
    assert data.fingerprint == "fa183a5d4a5147f2"
    assert [len(split) for split in splits_of(data)] == [1437, 180, 180]
    assert (data.channels, data.size, len(data.classes)) == (1, (16, 16), 10)
    assert len(set.union(*(distinct(split) for split in splits_of(data)))) == 1797


def test_the_built_in_files_are_those_of_scikit_learns_loaders():
    expected = load_digits()
    digits = handwritten_digits()
    assert np.array_equal(digits.images[:, 0].numpy(), expected.images)
    assert np.array_equal(digits.labels.numpy(), expected.target)
    flower = load_sample_image("flower.jpg")
    assert np.array_equal(photograph("flower")[0].permute(1, 2, 0).numpy(), flower[:424])


def test_no_original_digit_is_in_two_parts(monkeypatch):
    monkeypatch.setattr(images, "random_warp", lambda originals, generator: originals)
    data = load_images("digits", device="cpu")
    originals = [distinct(split) for split in splits_of(data)]
    assert [len(found) for found in originals] == [1437, 180, 180]
    assert len(set.union(*originals)) == 1797


def warp_parameters(image):
    """Scale, rotation, shear (degrees) and shift of a warp, from an image of coordinates.

    Pixels of such an image hold their own position, so after the warp they tell where each was
    read: an affine map, found by least squares.
    """
    axis = (np.arange(28) + 0.5) / 14 - 1
    y, x = np.meshgrid(axis[10:18], axis[10:18], indexing="ij")
    positions = np.stack([x.flatten(), y.flatten(), np.ones(64)], axis=1)
    read = image[:, 10:18, 10:18].reshape(2, 64).T
    solution = np.linalg.lstsq(positions, read, rcond=None)[0]
    forward = np.linalg.inv(solution[:2].T)  # scale * rotation @ shear
    shift = -forward @ solution[2]

    scale = np.hypot(*forward[:, 0])
    angle = np.arctan2(forward[1, 0], forward[0, 0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = rotation.T @ forward / scale
    np.testing.assert_allclose(shear[:, 0], [1, 0], atol=1e-9)
    assert shear[1, 1] == pytest.approx(1)
    return [scale, np.degrees(angle), np.degrees(np.arctan(shear[0, 1])), *shift / 2]


def test_warps_stay_within_the_stated_ranges_and_fill_them():
    axis = (torch.arange(28, dtype=torch.float64) + 0.5) / 14 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    coordinates = torch.stack([x, y]).expand(400, 2, 28, 28)
    warped = random_warp(coordinates, torch.Generator().manual_seed(1))
    found = [warp_parameters(image) for image in warped.numpy()]
    lowest = np.min(found, axis=0)
    highest = np.max(found, axis=0)
    limits = np.array([[0.8, 1.1], [-12, 12], [-12, 12], [-0.1, 0.1], [-0.1, 0.1]])
    assert (lowest >= limits[:, 0] - 1e-9).all()
    assert (highest <= limits[:, 1] + 1e-9).all()
    filled = (highest - lowest) / (limits[:, 1] - limits[:, 0])
    np.testing.assert_allclose(filled, 1, atol=0.05)


def test_photo_patches_are_windows_of_their_own_columns(monkeypatch):
    row, column = torch.meshgrid(torch.arange(424), torch.arange(640), indexing="ij")
    numbered = torch.stack([column % 256, column // 256, row % 256]).to(torch.uint8)[None]
    monkeypatch.setattr(images, "photograph", lambda name: numbered)
    data = load_images("photos", device="cpu")
    for part, (left, right) in PHOTO_COLUMNS.items():
        pixels = getattr(data, part).images.long()
        columns = pixels[:, 0] + 256 * pixels[:, 1]
        assert columns.min() >= left
        assert columns.max() < right
        assert (columns.diff(dim=2) == 1).all()
        assert (pixels[:, 2].diff(dim=1) % 256 == 1).all()
        corners = {tuple(x.tolist()) for x in pixels[::2, :, 0, 0]}
        assert len(corners) > 0.9 * len(pixels) / 2


def test_the_columns_of_the_parts_do_not_overlap():
    ranges = [PHOTO_COLUMNS[part] for part in PARTS]
    assert ranges[0][1] <= ranges[1][0] < ranges[1][1] <= ranges[2][0]


@pytest.mark.parametrize(("name", "side"), LARGE_PATCHES.items())
def test_large_patches_of_each_part_come_from_photographs_of_its_own(name, side):
    data = load_images(name, device="cpu")
    assert data.size == (side, side)
    seen = []
    for part, names in LARGE_PHOTOGRAPHS.items():
        split = getattr(data, part)
        assert len(split) == LARGE_COUNTS[part]
        assert {data.classes[label] for label in split.labels.tolist()} == set(names)
        seen += names
        picture = photograph(data.classes[split.labels[0]])[0]
        windows = picture.unfold(1, side, 1).unfold(2, side, 1)
        corners = (windows[..., 0, 0] == split.images[0, :, :1, :1]).all(dim=0).nonzero()
        assert any(torch.equal(windows[:, r, c], split.images[0]) for r, c in corners)
    assert sorted(seen) == sorted(data.classes)


def test_large_patches_are_the_same_on_every_machine():
    data = load_images("photos_64", device="cpu")
    assert data.fingerprint == "4e25aaf4e4e539ce"


@pytest.mark.parametrize(("label", "name"), list(enumerate(PHOTOGRAPHS)))
def test_a_photograph_is_whole_and_holds_the_patches_with_its_label(photos, label, name):
    picture = photograph(name)
    assert picture.shape == (1, 3, 424, 640)
    assert picture.dtype == torch.uint8
    patch = photos.test.images[photos.test.labels == label][0]
    windows = picture[0].unfold(1, 32, 1).unfold(2, 32, 1)
    candidates = (windows[..., 0, 0] == patch[:, :1, :1]).all(dim=0).nonzero()
    assert any(torch.equal(windows[:, r, c], patch) for r, c in candidates)


# Names and options


@pytest.mark.parametrize("name", ["digit", "", "folder", "MNIST"])
def test_an_unknown_data_set_is_answered_with_the_valid_names(name):
    listed = "use one of digits, plain_digits, photos, photos_64, photos_128, mnist"
    with pytest.raises(ValueError, match=f"data set '{name}' is unknown; {listed}"):
        load_images(name)


def test_an_unknown_photograph_is_answered_with_the_valid_names():
    with pytest.raises(ValueError, match="photograph 'tower' is unknown; use one of china, flower"):
        photograph("tower")


@pytest.mark.parametrize("option", [{"size": 64}, {"grey": True}, {"crop": 8, "stream": True}])
def test_options_of_folders_are_refused_elsewhere(option):
    names = ", ".join(option)
    with pytest.raises(ValueError, match=f"^{names}: for folder:PATH only, not for photos"):
        load_images("photos", **option)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="abacus"):
        load_images("digits", device="abacus")


# Files of torchvision, and their download


def idx_header(*shape):
    """The header of a file of unsigned bytes in MNIST's format."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()


def idx_files():
    """The four files of MNIST, small: every image has one value in all its pixels."""
    files = {}
    for prefix, count, first in (("train", 40, 0), ("t10k", 10, 100)):
        pixels = np.repeat(np.arange(first, first + count, dtype=np.uint8), 28 * 28)
        labels = np.arange(count, dtype=np.uint8) % 10
        files[f"{prefix}-images-idx3-ubyte"] = idx_header(count, 28, 28) + pixels.tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = idx_header(count) + labels.tobytes()
    return files


@pytest.fixture
def archives(monkeypatch):
    """The same files packed, as a server would send them; torchvision knows their checksums."""
    packed = {}
    for name, content in idx_files().items():
        packed[f"{name}.gz"] = gzip.compress(content, mtime=0)
    checksums = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", checksums)
    return packed


@pytest.fixture
def server(monkeypatch):
    """A stand-in for the network: answers with the files it was given, and refuses all others."""
    files = {}
    asked = []

    def urlopen(request):
        assert socket.getdefaulttimeout() == 10
        asked.append(request.full_url)
        time.sleep(0.01)  # long enough for another thread to ask, too
        content = files.get(request.full_url.rsplit("/", 1)[1])
        if content is None:
            raise urllib.error.URLError("no route to host")
        response = io.BytesIO(content)
        response.url = request.full_url
        response.length = len(content)
        return response

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return files, asked


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check_mnist(data):
    numbers = [split.images[:, 0, 0, 0].tolist() for split in splits_of(data)]
    train, validation, test = numbers
    assert test == list(range(100, 110))
    assert sorted(train + validation) == list(range(40))
    assert len(validation) == 4
    for split, own in zip(splits_of(data), numbers, strict=True):
        assert split.labels.tolist() == [number % 10 for number in own]
        assert split.images.shape[1:] == (1, 28, 28)
    assert data.classes == tuple("0123456789")


def test_mnist_opens_from_its_files_without_a_download(tmp_path, server):
    put(tmp_path / "MNIST" / "raw", idx_files())
    before = sorted(tmp_path.rglob("*"))
    check_mnist(load_images("mnist", root=tmp_path, device="cpu"))
    assert server[1] == []
    assert sorted(tmp_path.rglob("*")) == before


def test_data_sets_are_kept_in_the_folder_that_the_environment_names(tmp_path, server, monkeypatch):
    put(tmp_path / "MNIST" / "raw", idx_files())
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    check_mnist(load_images("mnist", device="cpu"))


def test_the_full_mnist_trains_on_all_training_images_and_halves_the_test_images(tmp_path, server):
    put(tmp_path / "MNIST" / "raw", idx_files())
    data = load_images("mnist_full", root=tmp_path, device="cpu")
    train, validation, test = [split.images[:, 0, 0, 0].tolist() for split in splits_of(data)]
    assert data.name == "mnist_full"
    assert sorted(train) == list(range(40))
    assert train != sorted(train), "in random order"
    assert sorted(validation + test) == list(range(100, 110))
    assert len(validation) == 5


def test_mnist_is_downloaded_when_it_is_missing(tmp_path, server, archives):
    server[0].update(archives)
    check_mnist(load_images("mnist", root=tmp_path / "new", device="cpu"))
    server[0].clear()
    check_mnist(load_images("mnist", root=tmp_path / "new", device="cpu"))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"MNIST"}


def test_those_who_ask_for_mnist_at_once_wait_for_one_download(tmp_path, server, archives):
    files, asked = server
    files.update(archives)
    load_images("mnist", tmp_path / "one", device="cpu")
    one_download = sorted(asked)
    asked.clear()

    root = tmp_path / "four"
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load_images, "mnist", root, device="cpu") for _ in range(4)]
    for load in loads:
        check_mnist(load.result())
    assert sorted(asked) == one_download
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"])
def test_a_broken_file_is_replaced_by_a_download(tmp_path, server, archives, file):
    files = idx_files()
    files[file] = files[file][:999]
    put(tmp_path / "MNIST" / "raw", files)
    with pytest.raises(FileNotFoundError, match="mnist is missing or broken"):
        load_images("mnist", root=tmp_path, device="cpu")
    server[0].update(archives)
    check_mnist(load_images("mnist", root=tmp_path, device="cpu"))


def test_packed_files_put_there_by_hand_are_unpacked(tmp_path, server, archives):
    put(tmp_path / "MNIST" / "raw", archives)
    check_mnist(load_images("mnist", root=tmp_path, device="cpu"))
    assert server[1] == []


MNIST_ARCHIVES = ", ".join(
    [
        "MNIST/raw/train-images-idx3-ubyte.gz",
        "MNIST/raw/train-labels-idx1-ubyte.gz",
        "MNIST/raw/t10k-images-idx3-ubyte.gz",
        "MNIST/raw/t10k-labels-idx1-ubyte.gz",
    ]
)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", MNIST_ARCHIVES),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz, "),
        ("kmnist", "KMNIST/raw/train-images-idx3-ubyte.gz, "),
        ("cifar10", "cifar-10-python.tar.gz"),
    ],
)
def test_without_a_network_the_error_says_which_file_goes_where(tmp_path, server, name, files):
    folder = tmp_path / "data"
    with pytest.raises(FileNotFoundError) as caught:
        load_images(name, root=folder, device="cpu")
    message = str(caught.value)
    beginning = f"{name} is missing or broken and could not be downloaded: put {files}"
    assert message.startswith(beginning)
    assert message.endswith(f"(packed or unpacked) into {folder}")
    assert "\n" not in message
    assert server[1]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("damage", ["second file missing", "second file cut short"])
def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path, server, archives, damage):
    first, second, *_ = archives
    server[0][first] = archives[first]
    if damage == "second file cut short":
        server[0][second] = archives[second][:-9]
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        load_images("mnist", root=tmp_path, device="cpu")
    assert any(url.endswith(second) for url in server[1])
    assert list(tmp_path.iterdir()) == []


def test_cifar_images_keep_their_channels_and_rows(tmp_path, server, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    classes = [str(i) * 2 for i in range(10)]
    labels = [i % 10 for i in range(60)]
    contents = {
        "data_batch_1": {"data": pixels[:50].reshape(50, 3072), "labels": labels[:50]},
        "test_batch": {"data": pixels[50:].reshape(10, 3072), "labels": labels[50:]},
        "batches.meta": {"label_names": classes},
    }
    files = {name: pickle.dumps(content) for name, content in contents.items()}
    put(tmp_path / "cifar-10-batches-py", files)
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    for attribute, name in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        monkeypatch.setattr(datasets.CIFAR10, attribute, [[name, checksums[name]]])
    meta = datasets.CIFAR10.meta | {"md5": checksums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)

    data = load_images("cifar10", root=str(tmp_path), device="cpu")
    assert torch.equal(data.test.images, torch.from_numpy(pixels[50:]))
    assert data.classes == tuple(classes)
    assert len(data.validation) == 5
    known = distinct(data.train) | distinct(data.validation)
    assert known == {image.tobytes() for image in pixels[:50]}


# Folders of image files


def save(path, colour, size=(32, 32), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def load_folder(path, **options):
    return load_images(f"folder:{path}", device="cpu", **options)


def reds(split):
    assert (split.images == split.images[:, :, :1, :1]).all()  # one colour an image
    return split.images[:, 0, 0, 0].tolist()


def test_class_folders_are_divided_without_overlap(tmp_path):
    for i in range(40):
        save(tmp_path / ("cat" if i < 20 else "bird") / f"{i:02}.png", (i, 255, 9))
    data = load_folder(tmp_path)
    assert (data.classes, data.channels, data.size) == (("bird", "cat"), 3, (32, 32))
    found = [reds(split) for split in splits_of(data)]
    assert [len(numbers) for numbers in found] == [32, 4, 4]
    assert sorted(chain(*found)) == list(range(40))
    assert found[0] != sorted(found[0])
    for split, numbers in zip(splits_of(data), found, strict=True):
        labels = split.labels.tolist()
        assert labels == [int(i < 20) for i in numbers]
        assert 2 * sum(labels) == len(labels)
    assert data.test.images[0, :, 5, 6].tolist() == [found[2][0], 255, 9]


def test_a_folder_gives_the_same_data_in_whatever_order_the_system_lists_its_files(
    tmp_path, monkeypatch
):
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", (i, 0, 99))
    first = load_folder(tmp_path).fingerprint
    listing = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(listing(path))))
    assert load_folder(tmp_path).fingerprint == first


def test_folders_behind_links_are_followed(tmp_path):
    for i in range(3):
        save(tmp_path / "elsewhere" / f"{i}.png", (i, 0, 99))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cat").symlink_to(tmp_path / "elsewhere")
    assert load_folder(tmp_path / "here").classes == ("cat",)


def test_three_loose_files_are_enough_and_two_are_not(tmp_path):
    save(tmp_path / "a.PNG", (0, 0, 99))
    save(tmp_path / "b.bmp", (1, 0, 99))
    message = "has 2 images to divide into train, validation, test, too few"
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)
    save(tmp_path / "c.webp", (2, 0, 99), lossless=True)
    data = load_folder(tmp_path)
    assert [len(split) for split in splits_of(data)] == [1, 1, 1]
    assert data.classes == ("all",)


@pytest.mark.parametrize("held", [{"test", "val"}, {"test", "validation"}, {"test"}, {"val"}])
def test_parts_that_a_folder_has_are_kept_and_the_others_come_from_train(tmp_path, held):
    for i in range(20):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", (i, 0, 99))
    for i, part in enumerate(sorted(held)):
        save(tmp_path / part / "b" / "0.png", (100 + i, 0, 99))
    save(tmp_path / "overview.png", (255, 0, 0))
    data = load_folder(tmp_path)
    assert data.classes == ("a", "b")
    numbers = {part: reds(getattr(data, part)) for part in PARTS}
    if "test" in held:
        assert numbers["test"] == [100]
        assert data.test.labels.tolist() == [1]
    if held - {"test"}:
        assert numbers["validation"] == [100 + len(held) - 1]
    # A tenth of the 20 images of `train` for each part that is missing, and no loose image
    missing = 2 - len(held)
    assert len(numbers["train"]) == 20 - 2 * missing
    expected = {*range(20), *range(100, 100 + len(held))}
    assert set(chain(*numbers.values())) == expected


def test_hidden_files_are_passed_over(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", (i, 0, 99))
    (tmp_path / "._0.png").write_bytes(b"not an image")
    save(tmp_path / ".checkpoints" / "3.png", (3, 0, 99))
    assert load_folder(tmp_path).classes == ("all",)


def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path):
    for i in range(3):
        wide = Image.new("RGB", (200, 40), (255, 0, 0))
        wide.paste((0, i, 255), (80, 0, 120, 40))
        wide.save(tmp_path / f"{i}.png")
    data = load_folder(tmp_path, size=16)
    assert data.size == (16, 16)
    # The outermost columns take in a little of what was cut away.
    image = data.train.images[0, :, :, 1:-1]
    assert (image[2] == 255).all()
    assert (image[0] == 0).all()


def test_a_photo_taken_with_a_turned_camera_stands_upright(tmp_path):
    picture = Image.new("RGB", (32, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 16, 32))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    for i in range(3):
        picture.save(tmp_path / f"{i}.png", exif=exif)
    image = load_folder(tmp_path).test.images[0]
    assert (image[2, :16] == 255).all()
    assert (image[2, 16:] == 0).all()


@pytest.mark.parametrize(
    ("modes", "grey", "channels"),
    [
        (["L", "1", "L"], None, 1),
        (["L", "RGB", "L"], None, 3),
        (["L", "L", "L"], False, 3),
        (["RGB", "RGB", "RGB"], True, 1),
    ],
)
def test_grey_is_found_out_or_forced(tmp_path, modes, grey, channels):
    for i, mode in enumerate(modes):
        save(tmp_path / f"{i}.png", (200, 100, 50) if mode == "RGB" else 255, mode=mode)
    data = load_folder(tmp_path, grey=grey)
    assert data.channels == channels
    if grey:
        assert reds(data.test) == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


def save_broken(path, fault):
    if fault == "16 bits":
        save(path, 1000, (64, 64), "I;16")
    elif fault == "cut short":
        save(path, (9, 9, 9), (64, 64))
        path.write_bytes(path.read_bytes()[:90])
    else:
        path.write_bytes(b"no image")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("no image", "."), ("cut short", "."), ("16 bits", ".*only 8 bits a channel")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, fault, reason):
    for i in range(4):
        save(tmp_path / f"{i}.png", (i, 0, 99), size=(64, 64))
    save_broken(tmp_path / "broken.png", fault)
    message = rf"broken\.png cannot be read as an image: {reason}"
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)


def test_a_missing_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="none' does not exist"):
        load_folder(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(FileNotFoundError, match=r"has no images \(\.jpg, "):
        load_folder(tmp_path)


@pytest.mark.parametrize("size", [0, -8, 30])
def test_a_size_that_is_no_multiple_of_eight_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=rf"size is {size}; it must be a"):
        load_folder(tmp_path, size=size)
