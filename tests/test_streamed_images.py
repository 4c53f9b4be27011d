import gc
import itertools
import multiprocessing
import os
import pickle
import shutil
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import arcvq
from arcvq import images, streamed_images
from arcvq.image_folders import Reading
from arcvq.images import ImageSplit, crop_images, load_images
from arcvq.streamed_images import StreamedImages, UnreadableImage
from arcvq.training import batch_indices

QUIET = arcvq.Recording(progress=False)


def fill(folder, count=40, size=(20, 24), mode="RGB"):
    """Pictures of noise, half of them in each of two classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        picture = Image.fromarray(generator.integers(256, size=shape, dtype=np.uint8))
        file = folder / ("cat" if number < count // 2 else "dog") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "pics")
    return tmp_path / "pics"


def load(folder, **options):
    options = {"size": 16, "device": "cpu"} | options
    return load_images(f"folder:{folder}", **options)


def splits_of(data):
    return data.train, data.validation, data.test


def file_of(split, row):
    images = split.images
    return images.folder / images.files[images.rows[row]]


def model():
    torch.manual_seed(0)
    return arcvq.VQVAE(3, arcvq.CosineQuantizer(8, 4), hidden=4, residual_hidden=2)


def same_bits(one, other):
    """Whether two models have the same weights."""
    weights = other.state_dict()
    return all(torch.equal(weights[name], value) for name, value in one.state_dict().items())


# The same images


@pytest.mark.parametrize("options", [{}, {"grey": True}, {"grey": False}, {"crop": 8}])
def test_streamed_images_are_those_that_memory_would_hold(folder, options):
    held = load(folder, stream=False, **options)
    streamed = load(folder, stream=True, **options)
    assert streamed.train.is_streamed
    assert not held.train.is_streamed
    assert "streamed" in repr(streamed.train)
    assert (streamed.size, streamed.channels) == (held.size, held.channels)
    for one, other in zip(splits_of(streamed), splits_of(held), strict=True):
        assert torch.equal(one.images[:], other.images)
        assert torch.equal(one.labels, other.labels)
        rows = torch.tensor([2, 0, 2])
        assert torch.equal(one.batch(rows, 5), other.batch(rows, 5))
    assert streamed.variance == held.variance  # there are fewer images than the sample


def test_gray_files_are_found_to_be_gray_and_become_rgb_when_asked(tmp_path):
    fill(tmp_path, mode="L")
    assert load(tmp_path, stream=True).channels == 1
    colors = load(tmp_path, stream=True, grey=False)
    assert colors.channels == 3
    pixels = colors.train.images[:]
    assert torch.equal(pixels[:, 0], pixels[:, 2])


@pytest.mark.parametrize(
    "rows",
    [slice(3), slice(1, None, 4), torch.tensor([5, 1]), torch.arange(32) % 3 == 0],
    ids=["first", "every fourth", "indices", "mask"],
)
def test_rows_are_chosen_as_from_a_tensor(folder, rows):
    held = load(folder, stream=False).train
    streamed = load(folder, stream=True).train
    assert torch.equal(streamed.images[rows], held.images[rows])
    assert torch.equal(streamed.select(rows).images[:], held.select(rows).images)
    assert torch.equal(streamed.select(rows).labels, held.select(rows).labels)
    assert torch.equal(streamed.images[3], held.images[3])


def test_only_the_asked_files_are_decoded(folder, monkeypatch):
    train = load(folder, stream=True).train
    read = []
    pixels = Reading.pixels
    monkeypatch.setattr(
        Reading, "pixels", lambda self, file: read.append(file) or pixels(self, file)
    )
    train.first(10).select(torch.tensor([4, 7])).batch(torch.tensor([1]))
    assert read == [file_of(train, 7)]


def test_prefetched_images_are_decoded_once_and_in_the_asked_order(folder, monkeypatch):
    train = load(folder, stream=True).train
    expected = train.batch(torch.tensor([3, 1, 3]))
    read = []
    pixels = Reading.pixels
    monkeypatch.setattr(
        Reading, "pixels", lambda self, file: read.append(file) or pixels(self, file)
    )
    train.prefetch(torch.tensor([1, 3]))
    assert torch.equal(train.batch(torch.tensor([3, 1])), expected[:2])
    assert len(read) == 2


def test_what_is_sent_to_another_process_gives_the_same_images(folder):
    train = load(folder, stream=True).train
    train.prefetch(torch.arange(4))
    sent = pickle.loads(pickle.dumps(train))
    assert torch.equal(sent.images[:], train.images[:])


def check_batch(train, rows, expected):
    assert torch.equal(train.batch(rows), expected)


def check_in_a_fork(*arguments):
    """Run `check_batch` in a forked process, which must end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks, from Python 3.12
        worker = multiprocessing.get_context("fork").Process(target=check_batch, args=arguments)
        worker.start()
    worker.join(30)
    is_stuck = worker.is_alive()
    worker.kill()
    worker.join()
    assert not is_stuck
    assert worker.exitcode == 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_forked_process_decodes_with_threads_of_its_own(folder):
    train = load(folder, stream=True).train
    rows = torch.arange(6)
    expected = train.batch(rows)
    time.sleep(0.2)  # until the threads wait for work, which a fork would take for its own
    check_in_a_fork(train, rows, expected)
    check_batch(train, rows, expected)


@needs_fork
def test_a_forked_process_does_not_wait_for_what_was_announced_before(folder, monkeypatch):
    train = load(folder, stream=True).train
    rows = torch.arange(6)
    expected = train.batch(rows)
    parent = os.getpid()
    is_forked = threading.Event()
    pixels = Reading.pixels

    def late(self, file):
        if os.getpid() == parent:
            is_forked.wait()
        return pixels(self, file)

    monkeypatch.setattr(Reading, "pixels", late)
    train.prefetch(rows)
    try:
        check_in_a_fork(train, rows, expected)
    finally:
        is_forked.set()
    check_batch(train, rows, expected)


# When


def test_images_are_streamed_where_they_need_more_than_a_quarter_of_the_memory(folder, monkeypatch):
    needed = 40 * 3 * 16 * 16
    monkeypatch.setattr(images, "total_memory", lambda device: 4 * needed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load(folder).train.is_streamed
    monkeypatch.setattr(images, "total_memory", lambda device: 4 * needed - 1)
    message = r"40 images of .* GB as RGB, .* decoded anew for each batch; stream="
    with pytest.warns(UserWarning, match=message):
        assert load(folder).train.is_streamed
    assert not load(folder, stream=False).train.is_streamed
    # Gray images take a third.
    assert not load(folder, grey=True).train.is_streamed


# Random crops


def test_a_crop_is_the_window_that_begins_at_its_place():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 2, 9, 7), generator=generator, dtype=torch.uint8)
    places = torch.tensor([[0, 0], [5, 3], [2, 1]])
    windows = [image[:, r : r + 4, c : c + 4] for image, (r, c) in zip(pixels, places, strict=True)]
    assert torch.equal(crop_images(pixels, places, 4), torch.stack(windows))


def test_training_crops_are_new_in_each_epoch_and_the_same_in_each_run(folder):
    train = load(folder, crop=8).train
    rows = torch.arange(len(train))
    first = train.batch(rows, 1)
    assert first.shape == (32, 3, 8, 8)
    assert torch.equal(first, train.batch(rows, 1))
    # An image has the same crop whatever batch it is in.
    assert torch.equal(first[[4, 9]], train.batch(torch.tensor([4, 9]), 1))
    assert not torch.equal(first, train.batch(rows, 2))


def test_crops_begin_at_every_place_and_end_at_the_edge():
    count = 400
    positions = torch.arange(12, dtype=torch.uint8)
    pixels = (16 * positions[:, None] + positions).expand(count, 1, 12, 12)
    split = ImageSplit(pixels, torch.zeros(count, dtype=torch.int64), crop=8)
    corners = images.to_uint8(split.batch(torch.arange(count), 0))[:, 0, 0, 0]
    places = itertools.product(range(5), repeat=2)
    assert set(corners.tolist()) == {16 * row + column for row, column in places}


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (8, 9)])
def test_crops_of_images_that_are_not_square_begin_at_every_place(shape):
    height, width = shape
    rows = torch.arange(height, dtype=torch.uint8)
    columns = torch.arange(width, dtype=torch.uint8)
    pixels = (16 * rows[:, None] + columns).expand(400, 1, height, width)
    split = ImageSplit(pixels, torch.zeros(400, dtype=torch.int64), crop=8)
    corners = images.to_uint8(split.batch(torch.arange(400), 0))[:, 0, 0, 0]
    places = itertools.product(range(height - 7), range(width - 7))
    assert set(corners.tolist()) == {16 * row + column for row, column in places}


@pytest.mark.parametrize("crop", [48, 33, 0, -8, 8.0])
@pytest.mark.parametrize("shape", [(32, 32), (32, 64), (64, 32)])
def test_a_crop_that_does_not_fit_into_the_images_is_refused(crop, shape, unchecked):
    pixels = torch.zeros(2, 3, *shape, dtype=torch.uint8)
    message = f"crop is {crop}; it must be a whole number from 1 to 32"
    with pytest.raises(ValueError, match=message):
        ImageSplit(pixels, torch.zeros(2, dtype=torch.int64), crop=crop)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_training_is_cropped_to_the_center(folder, stream):
    whole = load(folder, stream=False)
    data = load(folder, crop=8, stream=stream)
    assert data.size == (8, 8)
    rows = torch.arange(4)
    for one, other in zip(splits_of(data), splits_of(whole), strict=True):
        assert torch.equal(one.batch(rows), other.batch(rows)[..., 4:12, 4:12])
    assert data.test.images.shape[2:] == (8, 8)


def test_an_image_smaller_than_the_crop_is_named_or_left_out(folder):
    Image.new("RGB", (30, 12)).save(folder / "cat" / "small.png")
    assert sum(map(len, splits_of(load(folder, crop=8)))) == 41
    message = r"small\.png .*its shorter side has 12 pixels, fewer than the crop, 16"
    with pytest.raises(ValueError, match=message):
        load(folder, crop=16, stream=False)
    with pytest.raises(UnreadableImage, match=message):
        load(folder, crop=16, stream=True)
    with pytest.warns(UserWarning, match=rf"^1 file is left out of .*{message}"):
        data = load(folder, crop=16, stream=False, skip_broken=True)
    assert sum(map(len, splits_of(data))) == 40


@pytest.mark.parametrize("crop", [12, 24, 0, 8.0])
def test_a_crop_that_cannot_be_is_refused(crop, unchecked):
    with pytest.raises(ValueError, match=f"crop is {crop}; it must be a"):
        Reading(size=16, crop=crop)


# Fingerprints


def test_the_fingerprint_changes_with_a_file_and_with_how_it_is_read(folder):
    def fingerprint(**options):
        return load(folder, stream=True, **options).fingerprint

    usual = fingerprint()
    assert usual == fingerprint() == fingerprint(skip_broken=True)
    crops = [fingerprint(crop=8), load(folder, stream=False, crop=8).fingerprint]
    held = load(folder, stream=False).fingerprint
    readings = [fingerprint(size=8), fingerprint(grey=True), fingerprint(background="red")]
    assert len({usual, held, *crops, *readings}) == 7
    file = folder / "cat" / "01.png"
    os.utime(file, ns=(0, 0))
    touched = fingerprint()
    file.rename(folder / "cat" / "1.png")
    assert len({usual, touched, fingerprint()}) == 3


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"size": np.int64(16)}, {"size": 16}),
        ({"size": torch.tensor(16)}, {"size": 16}),
        ({"crop": np.int32(8)}, {"crop": 8}),
        ({"grey": np.True_}, {"grey": True}),
        ({"levels": (np.float32(0), np.int64(9))}, {"levels": (0.0, 9)}),
        ({"levels": [0, 9]}, {"levels": (0, 9)}),
    ],
)
def test_numbers_of_numpy_read_as_those_of_python_do(folder, given, same, unchecked):
    one = load(folder, stream=True, **given)
    other = load(folder, stream=True, **same)
    assert one.fingerprint == other.fingerprint
    assert one.train.images.reading == other.train.images.reading


# Training


@pytest.mark.parametrize("crop", [None, 8])
def test_streamed_training_is_that_from_memory(folder, crop):
    held, streamed = (
        arcvq.fit(
            model(),
            load(folder, crop=crop, stream=stream),
            steps=6,
            batch_size=8,
            recording=QUIET,
        )
        for stream in (False, True)
    )
    assert same_bits(held.model, streamed.model)
    assert held.rows[-1]["validation_psnr"] == streamed.rows[-1]["validation_psnr"]


def test_a_run_that_meets_a_missing_file_is_saved_and_goes_on_to_the_same_bits(
    folder, tmp_path, monkeypatch
):
    """The file is gone in the middle of an epoch, and then put back."""
    monkeypatch.setattr(images, "SAMPLE", 4)  # else all files are read for the variance

    def fit(data, run_folder, **options):
        recording = arcvq.Recording(tmp_path / run_folder, progress=False, **options)
        return arcvq.fit(model(), data, steps=8, batch_size=8, recording=recording)

    data = load(folder, stream=True, crop=8)
    whole = fit(data, "whole")
    row = int(batch_indices(32, 8, seed=0, step=2).max())
    file = file_of(data.train, row)
    file.rename(tmp_path / "away.png")
    with pytest.raises(UnreadableImage) as stop:
        fit(data, "broken")
    assert str(stop.value) == (
        f"{file} is gone; it was there when the folder was opened; "
        "a copy that is put back needs the old date (cp -p); "
        f"stopped at step 2 of 8, saved in {tmp_path / 'broken'}; "
        "resume=True goes on with it"
    )
    (tmp_path / "away.png").rename(file)
    resumed = fit(load(folder, stream=True, crop=8), "broken", resume=True)
    assert same_bits(whole.model, resumed.model)


def broken_run(folder, tmp_path, monkeypatch):
    """A run that has stopped at a broken file: the training, the file and its old bytes."""
    monkeypatch.setattr(images, "SAMPLE", 4)  # else all files are read for the variance

    def fit(resume=False, **options):
        data = load(folder, stream=True, **options)
        recording = arcvq.Recording(tmp_path / "run", progress=False, resume=resume)
        return arcvq.fit(model(), data, steps=8, batch_size=8, recording=recording)

    monkeypatch.setattr(streamed_images, "SAMPLE", 4)  # nor for their channels
    train = load(folder, stream=True).train
    file = file_of(train, int(batch_indices(32, 8, seed=0, step=2).max()))
    whole = file.read_bytes()
    truncate(file)
    with pytest.raises(UnreadableImage, match="cannot be read as an image"):
        fit()
    return fit, file, whole


def test_a_run_that_met_a_broken_file_goes_on_without_it(folder, tmp_path, monkeypatch):
    fit, _, _ = broken_run(folder, tmp_path, monkeypatch)
    with pytest.raises(UnreadableImage, match="; skip_broken=True puts another file of its class"):
        fit(resume=True)
    with pytest.warns(UserWarning, match="cannot be read as an image.* takes its place"):
        run = fit(resume=True, skip_broken=True)
    assert run.rows[-1]["step"] == 8


@pytest.mark.parametrize("keeps_date", [True, False])
def test_a_run_goes_on_with_a_restored_file_only_if_its_date_is_the_old_one(
    folder, tmp_path, monkeypatch, keeps_date
):
    fit, file, whole = broken_run(folder, tmp_path, monkeypatch)
    status = file.stat()
    file.write_bytes(whole)
    date = status.st_mtime_ns if keeps_date else status.st_mtime_ns + 1_000_000_000
    os.utime(file, ns=(date, date))
    if keeps_date:
        assert fit(resume=True).rows[-1]["step"] == 8
    else:
        with pytest.raises(ValueError, match=r"images was .* and is now"):
            fit(resume=True)


@pytest.mark.parametrize("fault", ["remove", "change"])
def test_a_file_that_is_not_as_a_run_knows_it_gives_no_advice_that_the_run_refuses(
    folder, tmp_path, monkeypatch, fault
):
    monkeypatch.setattr(images, "SAMPLE", 4)  # else all files are read for the variance
    recording = arcvq.Recording(tmp_path / "run", progress=False)
    options = {"steps": 4, "batch_size": 8, "recording": recording}
    data = load(folder, stream=True)
    file = file_of(data.train, int(batch_indices(32, 8, seed=0, step=2).max()))
    kept = file.rename(tmp_path / "kept.png")
    if fault == "change":
        change(file)
    with pytest.raises(UnreadableImage, match=r"old date \(cp -p\)") as stop:
        arcvq.fit(model(), data, **options)
    assert "skip_broken" not in str(stop.value)

    resuming = arcvq.Recording(tmp_path / "run", progress=False, resume=True)
    anew = load(folder, stream=True, skip_broken=True)
    with pytest.raises(ValueError, match=r"images was .* and is now"):
        arcvq.fit(model(), anew, **options | {"recording": resuming})
    shutil.copy2(kept, file)  # as cp -p does
    old = load(folder, stream=True)
    assert arcvq.fit(model(), old, **options | {"recording": resuming}).rows[-1]["step"] == 4


# Files that are gone, changed or broken


def remove(file):
    file.unlink()


def change(file):
    Image.new("RGB", (64, 64)).save(file)


def truncate(file):
    """A file that was broken from the beginning, as far as its size and date can tell."""
    status = file.stat()
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


FAULTS = pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (remove, "is gone; it was there when the folder was opened"),
        (change, "has changed since the folder was opened; put the old file back"),
        (truncate, "cannot be read as an image: cannot identify image file"),
    ],
)


@FAULTS
def test_a_file_that_fails_is_named(folder, fault, reason):
    train = load(folder, stream=True).train
    fault(file_of(train, 5))
    train.batch(torch.arange(5))
    with pytest.raises(UnreadableImage, match=f"{train.images.files[5]} {reason}") as stop:
        train.batch(torch.arange(8))
    advises = "skip_broken=True puts another file of its class in its place" in str(stop.value)
    assert advises == (fault is truncate)


@FAULTS
@pytest.mark.parametrize("last", [False, True], ids=["first of its class", "last of its class"])
def test_when_told_the_next_image_of_the_class_takes_its_place(folder, fault, reason, last):
    train = load(folder, stream=True, skip_broken=True).train
    expected = train.images[:].clone()
    rows = [row for row, label in enumerate(train.labels.tolist()) if label == 1]
    if last:  # then the search goes on at the first one
        rows = [*rows[-2:], *rows[:-2]]
    *broken, substitute = rows[:3]
    for row in broken:
        expected[row] = expected[substitute]
        fault(file_of(train, row))
    message = f"{reason}.*; {train.images.files[substitute]} takes its place"
    with pytest.warns(UserWarning, match=message):
        assert torch.equal(train.images[:], expected)


def test_a_substitute_is_of_the_same_part_and_class_wherever_rows_are_chosen(folder):
    """Each class has a shade of its own, so that the pixels tell it."""
    for file in sorted(folder.rglob("*.png")):
        shade = 10 if file.parent.name == "cat" else 200
        Image.new("RGB", (20, 24), (shade, shade, 0)).save(file)
    data = load(folder, stream=True, skip_broken=True)
    for row in range(0, len(data.train), 3):
        remove(file_of(data.train, row))
    generator = torch.Generator().manual_seed(1)
    some = data.train.select(torch.randperm(len(data.train), generator=generator)[:20])
    for split in (data.train, some):
        with pytest.warns(UserWarning, match="takes its place"):
            shades = split.images[:][:, 0, 0, 0]
        assert torch.equal(shades, torch.tensor([10, 200], dtype=torch.uint8)[split.labels])


@FAULTS
@pytest.mark.parametrize(
    "select",
    [
        lambda split, row: split.select(slice(row, row + 1)),
        lambda split, row: split.select(torch.tensor([row, row])).first(1),
        lambda split, row: split.select(slice(row, None)).in_steps(1),
    ],
    ids=["alone", "twice", "in steps"],
)
def test_a_broken_image_has_the_same_substitute_in_a_selection_as_in_the_split(
    folder, fault, reason, select
):
    """Of a selection that has no other image of the class, as a sample of few images."""
    data = load(folder, stream=True, skip_broken=True)
    for split in splits_of(data):
        fault(file_of(split, 1))
        with pytest.warns(UserWarning, match=reason):
            expected = split.images[:][1:2]
        with pytest.warns(UserWarning, match=f"{reason}.* takes its place"):
            assert torch.equal(select(split, 1).images[:], expected)


def test_a_class_with_one_image_in_the_sample_is_opened_without_its_broken_file(
    folder, monkeypatch
):
    """Whether they are gray is found out from a sample, and the variance too."""
    monkeypatch.setattr(streamed_images, "SAMPLE", 1)
    monkeypatch.setattr(images, "SAMPLE", 1)
    first = file_of(load(folder, stream=True).train, 0)
    first.write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"cannot be read as an image.* takes its place"):
        data = load(folder, stream=True, skip_broken=True)
    assert data.channels == 3
    with pytest.warns(UserWarning, match=f"{first.name} cannot be read .* takes its place"):
        assert data.variance > 0


def test_without_another_file_of_its_class_a_broken_file_is_an_error_even_then(folder):
    data = load(folder, stream=True, skip_broken=True)
    cats = data.validation.select(data.validation.labels == 0)
    count = len(cats) - 1
    for row in range(len(cats)):
        remove(file_of(cats, row))
    message = f"is gone; .*{count} other files of its class were tried, and none can be used"
    with pytest.raises(UnreadableImage, match=message):
        data.validation.batch(torch.arange(len(data.validation)))


def test_a_folder_that_is_gone_altogether_is_an_error_even_then(folder):
    train = load(folder, stream=True, skip_broken=True).train
    folder.rename(folder.with_name("elsewhere"))
    message = r"is gone; .*15 other files of its class were tried, and none can be used"
    with pytest.raises(UnreadableImage, match=message):
        train.batch(torch.arange(4))


def test_color_among_images_taken_for_gray_is_an_error_even_then(folder, monkeypatch):
    """The file is sound, so nothing takes its place."""
    for file in folder.rglob("*.png"):
        Image.new("L", (20, 24), 90).save(file)
    monkeypatch.setattr(streamed_images, "SAMPLE", 0)  # so that none is found to have color
    data = load(folder, stream=True, skip_broken=True)
    assert data.channels == 1
    Image.new("RGB", (20, 24), (90, 0, 0)).save(file_of(data.train, 3))
    data = load(folder, stream=True, skip_broken=True)
    with pytest.raises(UnreadableImage, match=r"has color, but .* grey=True or grey=False decides"):
        data.train.batch(torch.arange(8))
    assert load(folder, stream=True, grey=False).channels == 3


def test_opening_and_variance_hold_few_images_at_a_time(folder, monkeypatch):
    held = load(folder, stream=False)
    asked = []
    get = StreamedImages.__getitem__

    def get_and_note(images, rows):
        pixels = get(images, rows)
        asked.append(pixels.shape[0])
        return pixels

    monkeypatch.setattr(StreamedImages, "__getitem__", get_and_note)
    monkeypatch.setattr(streamed_images, "AT_ONCE", 3)
    monkeypatch.setattr(images, "BATCH_VALUES", 3 * held.train.images[0].numel())
    data = load(folder, stream=True)
    assert data.variance == held.variance
    assert max(asked) == 3
    assert sum(asked) == sum(map(len, splits_of(data))) + len(data.train)


def test_a_broken_validation_image_is_found_before_the_run(folder, tmp_path):
    data = load(folder, stream=True)
    remove(file_of(data.validation, 1))
    recording = arcvq.Recording(tmp_path / "run", progress=False)
    with pytest.raises(UnreadableImage, match="is gone"):
        arcvq.fit(model(), data, steps=2, batch_size=8, recording=recording)
    assert not (tmp_path / "run").exists()


def test_a_color_image_behind_the_sample_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_images, "SAMPLE", 4)
    fill(tmp_path, count=40, mode="L")
    train = load(tmp_path, stream=True).train
    file = file_of(train, 9)
    Image.new("RGB", (20, 24), (9, 0, 0)).save(file)
    data = load(tmp_path, stream=True)
    with pytest.raises(UnreadableImage, match=r"has color, but .* grey=True or grey=False"):
        data.train.batch(torch.arange(12))
    assert load(tmp_path, stream=True, grey=False).train.batch(torch.arange(12)).shape[1] == 3


# Memory


def test_decoding_in_batches_takes_no_more_memory_than_a_few_batches(tmp_path):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not say how much memory a process has")
    size = 256
    fill(tmp_path / "one", count=1, size=(size, size))
    (original,) = (tmp_path / "one").rglob("*.png")
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2500):
        os.link(original, many / f"{number:04}.png")
    data = load(many, size=size, stream=True, grey=False)
    data.train.batch(torch.arange(8))  # the threads begin

    def memory(name):
        (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024

    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for rows in torch.arange(len(data.train)).split(8):
        data.train.batch(rows)
    # Far above what a few batches and the threads' own buffers take, far below all images.
    whole = 3 * size * size * len(data.train)
    assert memory("VmHWM") - before < whole / 4
