"""Reconstruction in strips, beside the reconstruction of the whole image."""

import pytest
import torch
from torch.nn.functional import pad

import arcvq.autoencoder
from arcvq.composites import GroupedQuantizer, ResidualQuantizer
from arcvq.quantizers import QUANTIZERS, SphericalQuantizer
from arcvq.vqgan import VQGAN
from arcvq.vqvae import VQVAE
from tests.memory import LargestTensor


def vqvae(quantizer=None, downsample=4):
    quantizer = quantizer or SphericalQuantizer(32, 8)
    return VQVAE(3, quantizer, hidden=16, residual_hidden=4, downsample=downsample)


def vqgan(quantizer=None, **changes):
    sizes = {"channels": 8, "multipliers": (1, 2, 3), "blocks": 1} | changes
    return VQGAN(3, quantizer or SphericalQuantizer(32, 8), **sizes)


MODELS = {
    "VQVAE": vqvae,
    "VQVAE by 2": lambda: vqvae(downsample=2),
    "VQVAE by 8": lambda: vqvae(downsample=8),
    "VQGAN": vqgan,
    "VQGAN with two blocks": lambda: vqgan(blocks=2),
    "VQGAN without attention": lambda: vqgan(attention=False),
    "VQGAN at one resolution": lambda: vqgan(multipliers=(2,)),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


QUANTIZERS_OF_DIM_8 = {
    **{name: lambda kind=kind: kind(32, 8) for name, kind in QUANTIZERS.items()},
    "grouped": lambda: GroupedQuantizer([SphericalQuantizer(16, 4) for _ in range(2)]),
    "residual": lambda: ResidualQuantizer([SphericalQuantizer(16, 8) for _ in range(2)]),
}


def random_images(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(*shape, generator=generator, dtype=dtype) - 1


@pytest.mark.parametrize("rows", [1, 3, 8, 1000])
@every_model
def test_in_strips_of_any_height_it_is_the_reconstruction_of_the_whole_image(make, rows):
    model = make().double().eval()
    images = random_images(2, 3, 40, 24)
    result = model.reconstruct_large(images, rows)
    torch.testing.assert_close(result, model.reconstruct(images), rtol=0, atol=1e-12)


@every_model
def test_in_float32_no_pixel_differs_by_1e_4(make):
    model = make().eval()
    images = random_images(1, 3, 64, 48, dtype=torch.float32)
    result = model.reconstruct_large(images, rows=8)
    torch.testing.assert_close(result, model.reconstruct(images), rtol=0, atol=1e-4)


@every_model
def test_autocast_changes_neither_the_result_nor_the_memory(make):
    model = make().eval()
    images = random_images(1, 3, 64, 48, dtype=torch.float32)
    with LargestTensor() as usual:
        expected = model.reconstruct_large(images, rows=8)
    with LargestTensor() as largest, torch.autocast("cpu", torch.bfloat16):
        result = model.reconstruct_large(images, rows=8)
    assert result.equal(expected)
    assert largest.entries == usual.entries


@pytest.mark.parametrize("make", QUANTIZERS_OF_DIM_8.values(), ids=QUANTIZERS_OF_DIM_8)
def test_nor_does_it_change_what_a_quantizer_chooses(make):
    model = vqvae(make()).eval()
    images = random_images(1, 3, 24, 16, dtype=torch.float32)
    expected = model.reconstruct_large(images, rows=5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.reconstruct_large(images, rows=5).equal(expected)


@every_model
def test_no_images_give_no_images(make):
    assert make().reconstruct_large(torch.zeros(0, 3, 21, 16)).shape == (0, 3, 21, 16)


@pytest.mark.parametrize("make", QUANTIZERS_OF_DIM_8.values(), ids=QUANTIZERS_OF_DIM_8)
@pytest.mark.parametrize("model_of", [vqvae, vqgan])
def test_any_quantizer_may_stand_in_between(model_of, make):
    model = model_of(make()).double().eval()
    images = random_images(1, 3, 24, 16)
    result = model.reconstruct_large(images, rows=5)
    torch.testing.assert_close(result, model.reconstruct(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(37, 25), (40, 23), (4, 7)])
@pytest.mark.parametrize("make", [vqvae, vqgan])
def test_a_side_that_is_no_multiple_is_extended_by_reflection_and_cropped(make, size):
    model = make().double().eval()
    height, width = size
    images = random_images(1, 3, height, width)
    extended = pad(images, (0, -width % 4, 0, -height % 4), mode="reflect")
    result = model.reconstruct_large(images, rows=6)
    assert result.shape == images.shape
    expected = model.reconstruct(extended)[:, :, :height, :width]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_neither_images_nor_model_change():
    model = vqgan()  # in training
    images = random_images(1, 3, 16, 16, dtype=torch.float32)
    before = images.clone()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = model.reconstruct_large(images, rows=4)
    assert not result.requires_grad
    assert images.equal(before)
    for name, tensor in model.state_dict().items():
        assert tensor.equal(state[name]), name


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that are made."""
    made = []

    class Bar(arcvq.autoencoder.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options | {"delay": 0})
            made.append(self)

    monkeypatch.setattr(arcvq.autoencoder, "tqdm", Bar)
    return made


@pytest.mark.parametrize("rows", [1, 3, 8, None])
def test_the_progress_bar_ends_at_its_total(bars, rows):
    vqgan().reconstruct_large(random_images(1, 3, 40, 24, dtype=torch.float32), rows)
    (bar,) = bars
    assert bar.n == bar.total > 10


@pytest.mark.parametrize("make", [vqvae, vqgan])
def test_with_strips_of_the_usual_size_a_wide_image_gives_the_same(make):
    model = make().double().eval()
    images = random_images(1, 3, 16, 1600)  # ten rows are 16,000 pixels
    result = model.reconstruct_large(images)
    torch.testing.assert_close(result, model.reconstruct(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "rows"), [(320, 50), (1000, 16), (2000, 8), (4000, 8)])
def test_a_strip_has_16_000_pixels_but_at_least_8_rows(bars, width, rows):
    model = vqvae()
    images = torch.zeros(1, 3, 128, width)
    for choice in (None, rows, 2 * rows):
        model.reconstruct_large(images, choice)
    usual, same, higher = [bar.total for bar in bars]
    assert usual == same > higher


def test_no_map_of_many_channels_is_held_at_the_resolution_of_the_image():
    model = VQVAE(3, SphericalQuantizer(8, 4), hidden=64, downsample=2)
    images = random_images(1, 3, 256, 16, dtype=torch.float32)
    with LargestTensor() as largest:
        model.reconstruct_large(images, rows=4)
    assert largest.entries <= 64 * 128 * 8  # the sums, at half the resolution


def test_attention_builds_no_matrix_of_all_pairs_of_places():
    model = vqgan(multipliers=(1,), blocks=1)
    images = random_images(1, 3, 48, 48, dtype=torch.float32)
    places = 48 * 48
    with LargestTensor() as largest:
        model.reconstruct(images)
        model.reconstruct_large(images, rows=8)
    assert largest.entries < places**2 / 4


WRONG = {
    "gray": (
        (1, 1, 16, 16),
        {},
        r"images have shape \(1, 1, 16, 16\); they must be \(B, 3, H, W\)",
    ),
    "no batch": ((3, 16, 16), {}, r"images have shape \(3, 16, 16\); they must be \(B, 3, H, W\)"),
    "too small": ((1, 3, 3, 16), {}, r"images are 3x16 pixels; both must be 4 or more"),
    "no rows": ((1, 3, 16, 16), {"rows": 0}, r"rows is 0; it must be a whole number from 1"),
    "half a row": ((1, 3, 16, 16), {"rows": 2.5}, r"rows is 2\.5; it must be a whole number"),
}


@pytest.mark.parametrize(("shape", "options", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("make", [vqvae, vqgan])
def test_what_cannot_be_reconstructed_is_refused_in_a_sentence(
    make, shape, options, message, unchecked
):
    with pytest.raises(ValueError, match=message):
        make().reconstruct_large(torch.zeros(shape), **options)


def test_bytes_and_nan_are_refused(unchecked):
    model = vqgan()
    with pytest.raises(ValueError, match=r"images are torch\.uint8; they must be floating point"):
        model.reconstruct_large(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="of 768 values of the images are NaN or infinite"):
        model.reconstruct_large(torch.full((1, 3, 16, 16), float("nan")))
