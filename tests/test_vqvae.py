import json

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, normalize, relu

from arcvq.quantizers import QUANTIZERS, CosineQuantizer, SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.vqvae import VQVAE


def small(channels=1, kind="samp", **sizes):
    quantizer = QUANTIZERS[kind](16, 8)
    return VQVAE(channels, quantizer, **{"hidden": 16, "residual_hidden": 4, **sizes})


def random_images(*shape):
    return torch.rand(*shape) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("downsample", [2, 4, 8])
def test_shapes_for_any_channel_count_and_downsampling(channels, downsample):
    images = random_images(2, channels, 32, 16)
    output = small(channels, downsample=downsample)(images)
    assert output.reconstruction.shape == images.shape
    assert output.latents.shape == (2, 8, 32 // downsample, 16 // downsample)
    assert output.quantized.codes.shape == output.latents.shape


def test_default_size_is_the_papers():
    model = VQVAE(1, SphericalQuantizer(512, 64))
    weights = {name: tensor for name, tensor in model.named_parameters() if "weight" in name}
    shapes = [tuple(weight.shape) for weight in weights.values()]
    residual = [(32, 128, 3, 3), (128, 32, 1, 1)] * 2
    encoder = [(64, 1, 4, 4), (128, 64, 4, 4), (128, 128, 3, 3), *residual, (64, 128, 1, 1)]
    decoder = [(128, 64, 3, 3), *residual, (128, 64, 4, 4), (64, 1, 4, 4)]
    assert shapes == encoder + decoder
    assert model.latents(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "continuous"])
def test_encode_decode_is_reconstruct_is_forward_in_evaluation(kind):
    model = small(kind=kind).eval()
    images = random_images(3, 1, 28, 28)
    indices = model.encode(images)
    output = model(images)
    assert torch.equal(indices, output.quantized.indices)
    assert torch.equal(model.decode(indices), output.reconstruction.clamp(-1, 1))
    assert torch.equal(model.reconstruct(images), model.decode(indices))


def test_encode_counts_nothing_in_training():
    model = small().train()
    model.encode(torch.zeros(1, 1, 28, 28))
    assert not model.quantizer.counts.any()
    assert model.training


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_saved_model_opens_again_with_its_settings(kind, tmp_path):
    model = small(kind=kind)
    images = random_images(2, 1, 28, 28)
    if kind == "samp":
        model.quantizer.samp = SAMP.for_run(123)
    model.save_pretrained(tmp_path)
    copy = VQVAE.from_pretrained(tmp_path)
    assert copy.config() == model.config()
    assert not copy.training
    assert torch.equal(copy(images).reconstruction, model.eval()(images).reconstruction)
    saved = {file.name for file in tmp_path.iterdir()}
    assert saved == {"config.json", "model.safetensors", "README.md"}


def test_a_config_goes_through_json_and_back():
    model = small(channels=3, downsample=2)
    copy = VQVAE.from_config(json.loads(json.dumps(model.config())))
    assert copy.config() == model.config()
    with pytest.raises(ValueError, match="not of format 1"):
        VQVAE.from_config({**model.config(), "format": None})


def test_damaged_and_foreign_saved_models_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        VQVAE.from_pretrained(tmp_path)
    weights.write_bytes(whole)

    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "hidden": 32}))
    with pytest.raises(ValueError, match=r"cannot be opened.*size mismatch"):
        VQVAE.from_pretrained(tmp_path)
    config.write_text(json.dumps({**fields, "format": 99}))
    with pytest.raises(ValueError, match="not of format 1"):
        VQVAE.from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        VQVAE.from_pretrained(tmp_path)


def official_state(hidden=16, residual=4, num_codes=32, dim=8, channels=3, layers=2):
    """Random weights under the names of the authors' code."""
    half = hidden // 2
    shapes = {
        "_encoder._conv_1": (half, channels, 4, 4),
        "_encoder._conv_2": (hidden, half, 4, 4),
        "_encoder._conv_3": (hidden, hidden, 3, 3),
        "_pre_vq_conv": (dim, hidden, 1, 1),
        "_decoder._conv_1": (hidden, dim, 3, 3),
        "_decoder._conv_trans_1": (hidden, half, 4, 4),
        "_decoder._conv_trans_2": (half, channels, 4, 4),
    }
    for part in ("_encoder", "_decoder"):
        for layer in range(layers):
            block = f"{part}._residual_stack._layers.{layer}._block"
            shapes[f"{block}.1"] = (residual, hidden, 3, 3)
            shapes[f"{block}.3"] = (hidden, residual, 1, 1)
    state = {"_vq_vae.embedding.weight": torch.randn(num_codes, dim)}
    for name, shape in shapes.items():
        outputs = shape[1] if "trans" in name else shape[0]
        state[f"{name}.weight"] = torch.randn(shape) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1
    return state


def authors_forward(state, images, layers=2):
    """The authors' network in functions: in-place ReLU on the skip, ReLU after the stack."""

    def conv(x, name, **options):
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def residual_stack(x, part):
        for layer in range(layers):
            block = f"{part}._residual_stack._layers.{layer}._block"
            x = relu(x)
            inner = relu(conv(x, f"{block}.1", padding=1))
            x = x + conv(inner, f"{block}.3")
        return relu(x)

    def enlarge(x, name):
        weight = state[f"{name}.weight"]
        return conv_transpose2d(x, weight, state[f"{name}.bias"], stride=2, padding=1)

    x = relu(conv(images, "_encoder._conv_1", stride=2, padding=1))
    x = relu(conv(x, "_encoder._conv_2", stride=2, padding=1))
    x = residual_stack(conv(x, "_encoder._conv_3", padding=1), "_encoder")
    latents = conv(x, "_pre_vq_conv").movedim(1, -1)

    codes = state["_vq_vae.embedding.weight"]
    cosines = normalize(latents, dim=-1) @ normalize(codes, dim=1).T
    chosen = codes[cosines.argmax(-1)].movedim(-1, 1)

    x = residual_stack(conv(chosen, "_decoder._conv_1", padding=1), "_decoder")
    x = relu(enlarge(x, "_decoder._conv_trans_1"))
    return enlarge(x, "_decoder._conv_trans_2")


@pytest.mark.parametrize("channels, layers", [(1, 2), (3, 2), (1, 1), (1, 3)])
def test_the_authors_checkpoint_opens_and_computes_what_their_network_does(
    channels, layers, tmp_path
):
    state = official_state(channels=channels, layers=layers)
    images = random_images(2, channels, 32, 32)
    torch.save(state, tmp_path / "official.pt")
    model = VQVAE.from_official(tmp_path / "official.pt")
    expected = authors_forward(state, images, layers)
    assert torch.allclose(model(images).reconstruction, expected, atol=1e-5)
    assert model.reconstruct(images).shape == images.shape
    assert isinstance(model.quantizer, SphericalQuantizer)


def test_other_files_are_refused_as_the_authors_checkpoints(tmp_path):
    path = tmp_path / "official.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"_encoder\._conv_1\.weight' is missing"):
        VQVAE.from_official(path)
    torch.save({**official_state(), "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="missing or unknown extra"):
        VQVAE.from_official(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        VQVAE.from_official(path)
    with pytest.raises(FileNotFoundError):
        VQVAE.from_official(tmp_path / "absent.pt")


BAD_IMAGES = [
    (torch.zeros(1, 3, 28, 28), r"shape \(1, 3, 28, 28\); they must be \(B, 1, H, W\)"),
    (torch.zeros(1, 1, 30, 28), "30x28 pixels; both must be multiples of 4"),
    (torch.zeros(1, 28, 28), "images have shape"),
    (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), "images are torch.uint8"),
    (torch.full((1, 1, 28, 28), float("nan")), "784 of 784 values of the images are NaN"),
]


@pytest.mark.parametrize("images, message", BAD_IMAGES)
def test_images_that_the_network_cannot_take_are_refused(images, message, unchecked):
    with pytest.raises(ValueError, match=message):
        small().encode(images)


BAD_SIZES = [
    (lambda: small(downsample=3), "downsample is 3; it must be 2, 4 or 8"),
    (lambda: VQVAE(0, CosineQuantizer(4, 2)), "image_channels is 0"),
    (lambda: small(hidden=3), "hidden is 3"),
]


@pytest.mark.parametrize("make, message", BAD_SIZES)
def test_sizes_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_opening_a_model_leaves_the_callers_random_numbers_alone(tmp_path):
    small().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    VQVAE.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
