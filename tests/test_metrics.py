import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arcvq.metrics import authors_measures, lpips, psnr, sharpness, ssim

SPAN = 2  # pixels reach from -1 to 1


def images(count=3, channels=1, height=16, width=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, channels, height, width, generator=generator)
    return 2 * values - 1


def inner_windows(height, width, size=11):
    """All windows of `size` x `size` pixels that lie inside an image, as pairs of slices."""
    for top in range(height - size + 1):
        for left in range(width - size + 1):
            yield slice(top, top + size), slice(left, left + size)


def plain_ssim(a, b):
    """SSIM of one channel in [0, 1] by plain loops over the 11 x 11 windows inside the image."""
    offsets = np.arange(11) - 5
    sigma = 1.5
    line = np.exp(-(offsets**2) / (2 * sigma**2))
    line = line / line.sum()
    window = np.outer(line, line)
    c1 = 0.01**2
    c2 = 0.03**2
    values = []
    for rows, columns in inner_windows(*a.shape):
        x = a[rows, columns]
        y = b[rows, columns]
        mean_x = (window * x).sum()
        mean_y = (window * y).sum()
        variance_x = (window * x**2).sum() - mean_x**2
        variance_y = (window * y**2).sum() - mean_y**2
        covariance = (window * x * y).sum() - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        values.append(luminance * structure)
    return np.mean(values)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_psnr_equals_a_plain_sum_over_all_pixels(count, channels, size):
    a = images(count, channels, size, size + 1, seed=1)
    b = images(count, channels, size, size + 1, seed=2)
    pixels_of_a = a.double().flatten().tolist()
    pixels_of_b = b.double().flatten().tolist()
    total = 0.0
    for x, y in zip(pixels_of_a, pixels_of_b, strict=True):
        total += (x - y) ** 2
    mean_squared_error = total / len(pixels_of_a)
    expected = 10 * math.log10(SPAN**2 / mean_squared_error)
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9)


def test_psnr_is_taken_over_all_pixels_not_image_by_image():
    reference = torch.zeros(2, 1, 4, 4)
    result = reference.clone()
    result[1] = 0.2
    mean_squared_error = (0 + 0.2**2) / 2
    expected = 10 * math.log10(SPAN**2 / mean_squared_error)
    assert psnr(result, reference) == pytest.approx(expected)


def test_equal_images_give_infinite_psnr_and_full_ssim():
    a = images()
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_equals_a_plain_loop_over_windows():
    a = images(1, 2, 12, 14, seed=1)
    noise = images(1, 2, 12, 14, seed=2)
    b = (a + 0.3 * noise).clamp(-1, 1)
    of_a = (a[0].double().numpy() + 1) / 2
    of_b = (b[0].double().numpy() + 1) / 2
    first = plain_ssim(of_a[0], of_b[0])
    second = plain_ssim(of_a[1], of_b[1])
    assert ssim(a, b) == pytest.approx((first + second) / 2, abs=1e-6)


def test_ssim_of_dark_images_that_differ_in_nothing_but_gray_has_its_sign():
    """Taken on [-1, 1], where one mean would be negative, it would be -0.85."""
    darker = torch.full((1, 1, 11, 11), -0.05)
    mean_x, mean_y = 0.475, 0.525  # from 0 to 1
    expected = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    assert ssim(darker, -darker) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_batch_is_the_mean_of_its_images():
    a = images(5, 3)
    noise = images(5, 3, seed=2)
    amounts = torch.linspace(0, 1, 5).view(5, 1, 1, 1)
    b = a + amounts * noise
    pairs = zip(a.split(1), b.split(1), strict=True)
    single = [ssim(one, other) for one, other in pairs]
    assert max(single) - min(single) > 0.2
    assert ssim(a, b) == pytest.approx(np.mean(single), abs=1e-12)


@pytest.mark.parametrize("level", [0.0, -1.0, 0.7])
def test_ssim_is_finite_on_flat_images(level):
    flat = torch.full((2, 1, 11, 11), level)
    noise = images(2, 1, 11, 11)
    assert ssim(flat, flat) == pytest.approx(1)
    assert math.isfinite(ssim(flat, noise))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_measured_in_float64(metric, dtype):
    a = images(seed=1).to(dtype)
    b = images(seed=2).to(dtype)
    assert metric(a, b) == metric(a.double(), b.double())
    assert metric(a, b.double()) == metric(a.double(), b)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_no_gradient_is_asked_for(metric):
    a = images(seed=1).requires_grad_()
    b = images(seed=2)
    assert isinstance(metric(a, b), float)


@pytest.fixture
def untrained_vgg(monkeypatch, tmp_path):
    """VGG-16 with random weights: LPIPS is then a distance still, though not the published one."""
    import torchvision
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs["D"]).eval()
    vgg = SimpleNamespace(features=layers)
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: vgg)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()


def test_lpips_is_the_mean_over_images_of_a_distance_that_grows_with_the_change(untrained_vgg):
    a = images(66, 1, 16, 16, seed=1).clamp(-0.5, 0.5)
    noise = images(66, 1, 16, 16, seed=2)
    changed = a + 0.5 * noise
    small = lpips(a + 0.1 * noise, a)
    large = lpips(changed, a)
    assert lpips(a, a) == 0 < small < large

    first = lpips(changed[:6], a[:6])
    rest = lpips(changed[6:], a[6:])
    assert large == pytest.approx((6 * first + 60 * rest) / 66, rel=1e-4)


def test_lpips_takes_gray_as_equal_rgb_and_clips(untrained_vgg):
    a = images(6, 1, 16, 16, seed=1)
    b = images(6, 1, 16, 16, seed=2)
    colored_a = a.repeat(1, 3, 1, 1)
    colored_b = b.repeat(1, 3, 1, 1)
    assert lpips(colored_a, colored_b) == pytest.approx(lpips(a, b), rel=1e-5)
    beyond = 9 * a
    clipped = beyond.clamp(-1, 1)
    assert lpips(beyond, b) == pytest.approx(lpips(clipped, b), rel=1e-6)


def test_lpips_says_at_once_which_weights_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = f"LPIPS needs weights that are not here: curl .*{tmp_path}.*vgg16"
    with pytest.raises(FileNotFoundError, match=message):
        lpips(images(), images())


@pytest.mark.parametrize(("height", "width"), [(10, 20), (20, 8), (1, 1)])
def test_images_smaller_than_the_window_are_refused(height, width):
    small = images(2, 1, height, width)
    with pytest.raises(ValueError, match=f"at least 11 x 11 pixels, got {height} x {width}"):
        ssim(small, small)


@pytest.mark.parametrize("metric", [psnr, ssim, lpips])
def test_images_of_different_shapes_are_refused(metric, unchecked):
    with pytest.raises(ValueError, match=r"same shape, got \(3, 1, 16, 20\) and \(1, 1, 16, 20\)"):
        metric(images(3), images(1))


@pytest.mark.parametrize("metric", [psnr, ssim, lpips])
def test_an_empty_batch_is_refused(metric):
    with pytest.raises(ValueError, match=r"not empty, got \(0, 1, 16, 20\)"):
        metric(images(0), images(0))


@pytest.mark.parametrize("metric", [psnr, ssim, authors_measures, lpips])
def test_stored_pixels_are_refused(metric, unchecked):
    """They reach from 0 to 255, and a PSNR of them would be wrong by 42 dB."""
    pixels = torch.zeros(1, 1, 16, 20, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images are torch\.uint8; they must be floating point"):
        metric(pixels, pixels)


def jpeg(image, path):
    """An image (C, H, W) in [-1, 1] through a file, as the authors' scripts write and read it."""
    values = np.clip((image.numpy() + 1) / 2, 0, 1)
    if len(values) == 1:
        values = np.tile(values, (3, 1, 1))
    pixels = (values.transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    read = Image.open(path).convert("RGB")
    return np.array(read) / 255


def uniform_ssim(a, b):
    """SSIM of one channel by plain loops: windows of 11 x 11 that lie inside the image."""
    c1 = 0.01**2
    c2 = 0.03**2
    values = []
    for rows, columns in inner_windows(*a.shape):
        x = a[rows, columns].ravel()
        y = b[rows, columns].ravel()
        mean_x = x.mean()
        mean_y = y.mean()
        (variance_x, covariance), (_, variance_y) = np.cov(x, y)
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        values.append(luminance * structure)
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_authors_measures_are_those_of_files_one_by_one(channels, tmp_path):
    originals = images(3, channels, seed=1)
    noise = images(3, channels, seed=2)
    found = 1.05 * (originals + 0.2 * noise)
    decibels = []
    similarities = []
    for one, other in zip(found, originals, strict=True):
        one = jpeg(one, tmp_path / "one.jpg")
        other = jpeg(other, tmp_path / "other.jpg")
        mean_squared_error = ((one - other) ** 2).mean()
        decibels.append(-10 * np.log10(mean_squared_error))
        for channel in range(3):
            similarity = uniform_ssim(one[..., channel], other[..., channel])
            similarities.append(similarity)
    measured = authors_measures(found, originals)
    assert measured["psnr"] == pytest.approx(np.mean(decibels), abs=1e-9)
    assert measured["ssim"] == pytest.approx(np.mean(similarities), abs=1e-9)


def test_the_authors_measures_need_11_pixels():
    small = images(height=10)
    with pytest.raises(ValueError, match="SSIM needs images of at least 11 x 11 pixels"):
        authors_measures(small, small)


def test_a_file_with_the_pixels_of_its_original_makes_the_authors_mean_infinite():
    originals = images(2)
    found = originals.clone()
    found[1] *= 0.5
    assert authors_measures(found, originals)["psnr"] == math.inf


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("metric", [authors_measures, lpips])
def test_what_is_measured_in_rgb_refuses_images_that_are_neither_gray_nor_rgb(metric, channels):
    strange = images(channels=channels)
    with pytest.raises(
        ValueError, match=rf"images have {channels} channels; they must have 1 .* 3"
    ):
        metric(strange, strange)


@pytest.mark.parametrize("metric", [psnr, ssim, lpips, authors_measures])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_figure_is_given_for_images_that_are_not_finite(metric, value):
    whole = images()
    broken = images()
    broken[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match="1 of 960 values of the images are NaN or infinite"):
        metric(broken, whole)
    with pytest.raises(ValueError, match="1 of 960 values of the reference are NaN or infinite"):
        metric(whole, broken)


def test_sharpness_is_the_variance_of_the_laplacian():
    photos = images(count=2, channels=3, height=5, width=6)
    gray = photos.double().mean(dim=1).numpy()
    values = []
    for picture in gray:
        for row in range(1, 4):
            for column in range(1, 5):
                above_and_below = picture[row - 1, column] + picture[row + 1, column]
                left_and_right = picture[row, column - 1] + picture[row, column + 1]
                laplacian = above_and_below + left_and_right - 4 * picture[row, column]
                values.append(laplacian)
    assert sharpness(photos) == pytest.approx(np.var(values), rel=1e-9)


def test_blur_lowers_the_sharpness_and_a_shift_of_all_pixels_does_not_change_it():
    photos = images(count=2, channels=3)
    blurred = torch.nn.functional.avg_pool2d(photos, 3, stride=1, padding=1)
    assert sharpness(blurred) < 0.2 * sharpness(photos)
    assert sharpness(photos + 0.5) == pytest.approx(sharpness(photos), rel=1e-5)


def test_sharpness_refuses_images_without_an_inner_pixel():
    with pytest.raises(ValueError, match="at least 3 x 3 pixels, got 2 x 20"):
        sharpness(images(height=2))


def test_sharpness_refuses_no_images_and_values_that_are_not_finite():
    with pytest.raises(ValueError, match=r"not empty, got \(0, 1, 16, 20\)"):
        sharpness(images(0))
    broken = images()
    broken[0, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 960 values of the images are NaN or infinite"):
        sharpness(broken)
