import json

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, relu

from arcvq.quantizers import QUANTIZERS, CosineQuantizer, SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.vqvae import VQVAE


def small(channels=1, kind="samp", **sizes):
    return VQVAE(channels, QUANTIZERS[kind](16, 8), **{"hidden": 16, "residual_hidden": 4, **sizes})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("downsample", [2, 4, 8])
def test_shapes_for_any_channel_count_and_downsampling(channels, downsample):
    model, images = small(channels, downsample=downsample), torch.rand(2, channels, 32, 16) * 2 - 1
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert output.latents.shape == output.quantized.codes.shape == (2, 8, 32 // downsample, 16 // downsample)


def test_default_size_is_the_papers():
    model = VQVAE(1, SphericalQuantizer(512, 64))
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")]
    residual = [(32, 128, 3, 3), (128, 32, 1, 1)] * 2
    encoder = [(64, 1, 4, 4), (128, 64, 4, 4), (128, 128, 3, 3), *residual, (64, 128, 1, 1)]
    decoder = [(128, 64, 3, 3), *residual, (128, 64, 4, 4), (64, 1, 4, 4)]
    assert shapes == encoder + decoder
    assert model.latents(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "continuous"])
def test_encode_decode_is_reconstruct_is_forward_in_evaluation(kind):
    model, images = small(kind=kind).eval(), torch.rand(3, 1, 28, 28) * 2 - 1
    indices, output = model.encode(images), model(images)
    assert torch.equal(indices, output.quantized.indices)
    assert torch.equal(model.decode(indices), output.reconstruction.clamp(-1, 1))
    assert torch.equal(model.reconstruct(images), model.decode(indices))


def test_encode_counts_nothing_in_training():
    model = small().train()
    model.encode(torch.zeros(1, 1, 28, 28))
    assert not model.quantizer.counts.any() and model.training


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_saved_model_opens_again_with_its_settings(kind, tmp_path):
    model, images = small(kind=kind), torch.rand(2, 1, 28, 28) * 2 - 1
    if kind == "samp":
        model.quantizer.samp = SAMP.for_run(123)
    model.save_pretrained(tmp_path)
    copy = VQVAE.from_pretrained(tmp_path)
    assert copy.config() == model.config() and not copy.training
    assert torch.equal(copy(images).reconstruction, model.eval()(images).reconstruction)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_damaged_and_foreign_saved_models_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        VQVAE.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(json.dumps({**json.loads(text), "hidden": 32}))
    with pytest.raises(ValueError, match=r"cannot be opened.*size mismatch"):
        VQVAE.from_pretrained(tmp_path)
    config.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(ValueError, match="not of format 1"):
        VQVAE.from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        VQVAE.from_pretrained(tmp_path)


def official_state(hidden=16, residual=4, num_codes=32, dim=8, channels=3):
    """Random weights under the names of the authors' code."""
    half, shapes = hidden // 2, {}
    for part, first in (("_encoder", "_conv_1"), ("_decoder", "_conv_1")):
        shapes[f"{part}.{first}"] = (half, channels, 4, 4) if part == "_encoder" else (hidden, dim, 3, 3)
        for layer in (0, 1):
            block = f"{part}._residual_stack._layers.{layer}._block"
            shapes[f"{block}.1"], shapes[f"{block}.3"] = (residual, hidden, 3, 3), (hidden, residual, 1, 1)
    shapes |= {"_encoder._conv_2": (hidden, half, 4, 4), "_encoder._conv_3": (hidden, hidden, 3, 3),
               "_pre_vq_conv": (dim, hidden, 1, 1), "_decoder._conv_trans_1": (hidden, half, 4, 4),
               "_decoder._conv_trans_2": (half, channels, 4, 4)}
    state = {"_vq_vae.embedding.weight": torch.randn(num_codes, dim)}
    for name, shape in shapes.items():
        out = shape[1] if "trans" in name else shape[0]
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape) * 0.1, torch.randn(out) * 0.1
    return state


def authors_forward(state, images):
    """The authors' network written with functions alone: in-place ReLU on the skip, ReLU after the stack."""
    def conv(x, name, **options):
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def stack(x, part):
        for layer in (0, 1):
            block = f"{part}._residual_stack._layers.{layer}._block"
            x = relu(x)
            x = x + conv(relu(conv(x, f"{block}.1", padding=1)), f"{block}.3")
        return relu(x)

    def grow(x, name):
        return conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)

    x = relu(conv(images, "_encoder._conv_1", stride=2, padding=1))
    x = relu(conv(x, "_encoder._conv_2", stride=2, padding=1))
    latents = conv(stack(conv(x, "_encoder._conv_3", padding=1), "_encoder"), "_pre_vq_conv")
    directions, codes = latents.movedim(1, -1), state["_vq_vae.embedding.weight"]
    scores = directions / directions.norm(dim=-1, keepdim=True) @ (codes / codes.norm(dim=1, keepdim=True)).T
    chosen = codes[scores.argmax(-1)].movedim(-1, 1)
    x = stack(conv(chosen, "_decoder._conv_1", padding=1), "_decoder")
    return grow(relu(grow(x, "_decoder._conv_trans_1")), "_decoder._conv_trans_2")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_authors_checkpoint_opens_and_computes_what_their_network_does(channels, tmp_path):
    state, images = official_state(channels=channels), torch.rand(2, channels, 32, 32) * 2 - 1
    torch.save(state, tmp_path / "official.pt")
    model = VQVAE.from_official(tmp_path / "official.pt")
    assert torch.allclose(model(images).reconstruction, authors_forward(state, images), atol=1e-5)
    assert model.reconstruct(images).shape == images.shape and isinstance(model.quantizer, SphericalQuantizer)


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


@pytest.mark.parametrize("call, message", [
    (lambda m: m(torch.zeros(1, 3, 28, 28)), r"shape \(1, 3, 28, 28\); they must be \(B, 1, H, W\)"),
    (lambda m: m(torch.zeros(1, 1, 30, 28)), "30x28 pixels; both must be multiples of 4"),
    (lambda m: m(torch.zeros(1, 28, 28)), "images have shape"),
    (lambda m: m.encode(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)), "images are torch.uint8"),
    (lambda m: m.encode(torch.full((1, 1, 28, 28), float("nan"))), "784 of 784 values of the images are NaN"),
    (lambda m: small(downsample=3), "downsample is 3; it must be 2, 4 or 8"),
    (lambda m: VQVAE(0, CosineQuantizer(4, 2)), "image_channels is 0"),
])
def test_bad_input_is_refused_in_one_sentence(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(small())


def test_opening_a_model_leaves_the_callers_random_numbers_alone(tmp_path):
    VQVAE(1, CosineQuantizer(4, 2), hidden=4, residual_hidden=2).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    VQVAE.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
