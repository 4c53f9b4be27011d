import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arcvq.metrics import authors_measures, lpips, psnr, sharpness, ssim


def images(count=3, channels=1, height=16, width=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator) * 2 - 1


def plain_ssim(a, b):
    """SSIM of one channel by plain loops: an 11 x 11 Gaussian window, reflected at the edges."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    a = np.pad(a, 5, mode="reflect")
    b = np.pad(b, 5, mode="reflect")
    c1 = (0.01 * 2) ** 2
    c2 = (0.03 * 2) ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x = a[i : i + 11, j : j + 11]
            y = b[i : i + 11, j : j + 11]
            mean_x = (window * x).sum()
            mean_y = (window * y).sum()
            variances = (window * (x * x + y * y)).sum() - mean_x**2 - mean_y**2
            covariance = (window * x * y).sum() - mean_x * mean_y
            luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
            structure = (2 * covariance + c2) / (variances + c2)
            values.append(luminance * structure)
    return np.mean(values)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_psnr_equals_a_plain_sum_over_all_pixels(count, channels, size):
    a = images(count, channels, size, size + 1, seed=1)
    b = images(count, channels, size, size + 1, seed=2)
    pairs = zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True)
    error = sum((x - y) ** 2 for x, y in pairs) / a.numel()
    assert psnr(a, b) == pytest.approx(10 * math.log10(2**2 / error), abs=1e-9)


def test_psnr_is_taken_over_all_pixels_not_image_by_image():
    reference = torch.zeros(2, 1, 4, 4)
    result = reference.clone()
    result[1] = 0.2
    assert psnr(result, reference) == pytest.approx(10 * math.log10(4 / (0.04 / 2)))


def test_equal_images_give_infinite_psnr_and_full_ssim():
    a = images()
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_equals_a_plain_loop_over_windows():
    a = images(1, 2, 12, 14, seed=1)
    b = (a + 0.3 * images(1, 2, 12, 14, seed=2)).clamp(-1, 1)
    x = a.double().numpy()
    y = b.double().numpy()
    channels = [plain_ssim(x[0, channel], y[0, channel]) for channel in range(2)]
    assert ssim(a, b) == pytest.approx(np.mean(channels), abs=1e-6)


def test_ssim_of_a_batch_is_the_mean_of_its_images():
    a = images(5, 3)
    b = a + torch.linspace(0, 1, 5).view(5, 1, 1, 1) * images(5, 3, seed=2)
    single = [ssim(a[i : i + 1], b[i : i + 1]) for i in range(5)]
    assert max(single) - min(single) > 0.2
    assert ssim(a, b) == pytest.approx(np.mean(single), abs=1e-12)


@pytest.mark.parametrize("level", [0.0, -1.0, 0.7])
def test_ssim_is_finite_on_flat_images(level):
    flat = torch.full((2, 1, 11, 11), level)
    assert ssim(flat, flat) == pytest.approx(1)
    assert math.isfinite(ssim(flat, images(2, 1, 11, 11)))


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
    assert isinstance(metric(a, images(seed=2)), float)


@pytest.fixture
def untrained_vgg(monkeypatch, tmp_path):
    """VGG-16 with random weights: LPIPS is then a distance still, though not the published one."""
    import torchvision
    from torchvision.models.vgg import cfgs, make_layers

    vgg = SimpleNamespace(features=make_layers(cfgs["D"]).eval())
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: vgg)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").touch()


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
    colored = lpips(a.expand(-1, 3, -1, -1).contiguous(), b.expand(-1, 3, -1, -1).contiguous())
    assert colored == pytest.approx(lpips(a, b), rel=1e-5)
    assert lpips(9 * a, b) == pytest.approx(lpips((9 * a).clamp(-1, 1), b), rel=1e-6)


def test_lpips_says_at_once_which_weights_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = f"LPIPS needs weights that are not here: curl .*{tmp_path}.*vgg16"
    with pytest.raises(FileNotFoundError, match=message):
        lpips(images(), images())


@pytest.mark.parametrize("height, width", [(10, 20), (20, 8), (1, 1)])
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


def jpeg(image, path):
    """An image (C, H, W) in [-1, 1] through a file, as the authors' scripts write and read it."""
    values = np.clip((image.numpy() + 1) / 2, 0, 1)
    if len(values) == 1:
        values = np.tile(values, (3, 1, 1))
    Image.fromarray((values.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)
    return np.array(Image.open(path).convert("RGB")) / 255


def uniform_ssim(a, b):
    """SSIM of one channel by plain loops: windows of 11 x 11 that lie inside the image."""
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x = a[i : i + 11, j : j + 11].ravel()
            y = b[i : i + 11, j : j + 11].ravel()
            (var_x, covariance), (_, var_y) = np.cov(x, y)
            luminance = (2 * x.mean() * y.mean() + 0.01**2) / (
                x.mean() ** 2 + y.mean() ** 2 + 0.01**2
            )
            values.append(luminance * (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2))
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_authors_measures_are_those_of_files_one_by_one(channels, tmp_path):
    originals = images(3, channels, seed=1)
    found = (originals + 0.2 * images(3, channels, seed=2)) * 1.05
    decibels = []
    similarities = []
    for one, other in zip(found, originals, strict=True):
        one = jpeg(one, tmp_path / "one.jpg")
        other = jpeg(other, tmp_path / "other.jpg")
        decibels.append(-10 * np.log10(((one - other) ** 2).mean()))
        similarities += [uniform_ssim(one[..., c], other[..., c]) for c in range(3)]
    measured = authors_measures(found, originals)
    assert measured["psnr"] == pytest.approx(np.mean(decibels), abs=1e-9)
    assert measured["ssim"] == pytest.approx(np.mean(similarities), abs=1e-9)


def test_the_authors_measures_need_11_pixels():
    with pytest.raises(ValueError, match="SSIM needs images of at least 11 x 11 pixels"):
        authors_measures(images(height=10), images(height=10))


def test_sharpness_is_the_variance_of_the_laplacian():
    photos = images(count=2, channels=3, height=5, width=6)
    gray = photos.double().mean(dim=1)
    values = []
    for picture in gray:
        for i in range(1, 4):
            for j in range(1, 5):
                neighbors = picture[i - 1, j] + picture[i + 1, j]
                neighbors = neighbors + picture[i, j - 1] + picture[i, j + 1]
                values.append(float(neighbors - 4 * picture[i, j]))
    assert sharpness(photos) == pytest.approx(np.var(values), rel=1e-9)


def test_blur_lowers_the_sharpness_and_a_shift_of_all_pixels_does_not_change_it():
    photos = images(count=2, channels=3)
    blurred = torch.nn.functional.avg_pool2d(photos, 3, stride=1, padding=1)
    assert sharpness(blurred) < 0.2 * sharpness(photos)
    assert sharpness(photos + 0.5) == pytest.approx(sharpness(photos), rel=1e-5)


def test_sharpness_refuses_images_without_an_inner_pixel():
    with pytest.raises(ValueError, match="at least 3 x 3 pixels, got 2 x 20"):
        sharpness(images(height=2))
