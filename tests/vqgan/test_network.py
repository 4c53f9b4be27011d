import json
import math
import os
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, group_norm, interpolate, normalize, pad, silu

from arcvq.autoencoder import Autoencoder
from arcvq.quantizers import CosineQuantizer, EuclideanQuantizer, SphericalQuantizer
from arcvq.vqgan import VQGAN
from arcvq.vqvae import VQVAE

SIZES = {"channels": 8, "multipliers": (1, 2), "blocks": 1}


def small_model(quantizer=None, **changes):
    return VQGAN(3, quantizer or SphericalQuantizer(16, 6), **SIZES | changes)


def random_images(count=2, channels=3, size=16):
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(count, channels, size, size, generator=generator) - 1


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2), (1, 2, 2, 4)])
def test_every_multiplier_but_the_first_halves_the_image(multipliers):
    model = small_model(multipliers=multipliers)
    factor = 2 ** (len(multipliers) - 1)
    images = random_images(size=16)
    indices = model.encode(images)
    assert model.downsample == factor
    assert indices.shape == (2, 16 // factor, 16 // factor)
    assert model.decode(indices).shape == images.shape
    assert model(images).reconstruction.shape == images.shape


def test_the_papers_model_has_the_papers_sizes():
    with torch.device("meta"):
        model = VQGAN(3, SphericalQuantizer(1024, 16))
    assert model.downsample == 8
    assert model.encoder.mid.attn_1.q.weight.shape == (512, 512, 1, 1)
    # Attention in the two blocks of the lowest resolution, three in the decoder, and in the middle.
    names = [name for name, _ in model.named_modules() if name.endswith(".q")]
    assert len(names) == 2 + 3 + 2


@pytest.mark.parametrize("method", ["__call__", "encode", "reconstruct", "reconstruct_large"])
def test_images_that_would_all_get_the_same_token_are_refused(method):
    sizes = {"channels": 8, "multipliers": (1, 2, 2, 4)}
    with pytest.raises(ValueError, match="images of 8x8 pixels become one token"):
        getattr(small_model(**sizes), method)(random_images(size=8))
    for changes in ({"channels": 16}, {"normalized": False}):
        network = small_model(**sizes | changes)
        first, second = network.latents(random_images(size=8))
        assert not torch.allclose(first, second, atol=1e-6)
    first, second = small_model(**sizes).latents(random_images(size=16))
    assert not torch.allclose(first, second, atol=1e-6)


# The public code


class PublicWeights(dict):
    """Random weights, named and shaped as a small network of the public code names them."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.generator = torch.Generator().manual_seed(0)
        self._encoder()
        self._decoder()
        self["quantize.embedding.weight"] = self._draw(20, 6)
        self._conv("quant_conv", 6, 12, 1)
        self._conv("post_quant_conv", 12, 6, 1)
        # What a checkpoint holds of the losses
        self["loss.discriminator.main.0.weight"] = self._draw(4, 3, 4, 4)
        self["loss.perceptual_loss.lin0.model.1.weight"] = self._draw(1, 8, 1, 1)

    def _encoder(self):
        self._conv("encoder.conv_in", 32, 3, 3)
        self._resnet("encoder.down.0.block.0", 32, 32)
        self._conv("encoder.down.0.downsample.conv", 32, 32, 3)
        self._resnet("encoder.down.1.block.0", 32, 64)
        self._attn("encoder.down.1.attn.0")
        self._middle("encoder.mid")
        self._norm("encoder.norm_out", 64)
        self._conv("encoder.conv_out", 12, 64, 3)

    def _decoder(self):
        self._conv("decoder.conv_in", 64, 12, 3)
        self._middle("decoder.mid")
        for block, channels in enumerate((64, 32)):
            self._resnet(f"decoder.up.0.block.{block}", channels, 32)
            self._resnet(f"decoder.up.1.block.{block}", 64, 64)
            self._attn(f"decoder.up.1.attn.{block}")
        self._conv("decoder.up.1.upsample.conv", 64, 64, 3)
        self._norm("decoder.norm_out", 32)
        self._conv("decoder.conv_out", 3, 32, 3)

    def _middle(self, name):
        self._resnet(f"{name}.block_1", 64, 64)
        self._attn(f"{name}.attn_1", always=True)
        self._resnet(f"{name}.block_2", 64, 64)

    def _resnet(self, name, channels, width):
        self._norm(f"{name}.norm1", channels)
        self._conv(f"{name}.conv1", width, channels, 3)
        self._norm(f"{name}.norm2", width)
        self._conv(f"{name}.conv2", width, width, 3)
        if channels != width:
            self._conv(f"{name}.nin_shortcut", width, channels, 1)

    def _attn(self, name, always=False):
        if self.attention or always:
            self._norm(f"{name}.norm", 64)
            for part in ("q", "k", "v", "proj_out"):
                self._conv(f"{name}.{part}", 64, 64, 1)

    def _conv(self, name, width, channels, kernel):
        weight = self._draw(width, channels, kernel, kernel)
        self[f"{name}.weight"] = weight / math.sqrt(channels * kernel**2)
        self[f"{name}.bias"] = 0.1 * self._draw(width)

    def _norm(self, name, channels):
        self[f"{name}.weight"] = 1 + 0.1 * self._draw(channels)
        self[f"{name}.bias"] = 0.1 * self._draw(channels)

    def _draw(self, *shape):
        return torch.randn(*shape, generator=self.generator)


class PublicNetwork:
    """The public code, written out."""

    def __init__(self, state):
        self.state = state

    def encode(self, images):
        x = self.resnet(self.conv(images, "encoder.conv_in", padding=1), "encoder.down.0.block.0")
        x = self.conv(pad(x, (0, 1, 0, 1)), "encoder.down.0.downsample.conv", stride=2)
        x = self.attn(self.resnet(x, "encoder.down.1.block.0"), "encoder.down.1.attn.0")
        x = silu(self.norm(self.middle(x, "encoder.mid"), "encoder.norm_out"))
        return self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv")

    def quantize(self, latents):
        codes = self.state["quantize.embedding.weight"]
        cosines = normalize(latents.movedim(1, -1), dim=-1) @ normalize(codes, dim=1).T
        return codes[cosines.argmax(-1)].movedim(-1, 1)

    def decode(self, codes):
        x = self.conv(self.conv(codes, "post_quant_conv"), "decoder.conv_in", padding=1)
        x = self.middle(x, "decoder.mid")
        for block in range(2):
            x = self.resnet(x, f"decoder.up.1.block.{block}")
            x = self.attn(x, f"decoder.up.1.attn.{block}")
        x = self.conv(interpolate(x, scale_factor=2.0), "decoder.up.1.upsample.conv", padding=1)
        for block in range(2):
            x = self.resnet(x, f"decoder.up.0.block.{block}")
        return self.conv(silu(self.norm(x, "decoder.norm_out")), "decoder.conv_out", padding=1)

    def middle(self, x, name):
        x = self.attn(self.resnet(x, f"{name}.block_1"), f"{name}.attn_1")
        return self.resnet(x, f"{name}.block_2")

    def resnet(self, x, name):
        inner = self.conv(silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        inner = self.conv(silu(self.norm(inner, f"{name}.norm2")), f"{name}.conv2", padding=1)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = self.conv(x, f"{name}.nin_shortcut")
        return x + inner

    def attn(self, x, name):
        if f"{name}.norm.weight" not in self.state:
            return x
        normed = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(normed, f"{name}.{part}").flatten(2) for part in "qkv")
        weights = (q.mT @ k / math.sqrt(x.shape[1])).softmax(dim=2)
        return x + self.conv((v @ weights.mT).reshape(x.shape), f"{name}.proj_out")

    def norm(self, x, name):
        return group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def conv(self, x, name, **options):
        return conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)


@pytest.mark.parametrize("attention", [True, False])
def test_a_checkpoint_of_the_public_code_opens_and_computes_what_its_network_does(
    attention, tmp_path
):
    state = dict(PublicWeights(attention))
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "last.ckpt")
    model = VQGAN.from_official(tmp_path / "last.ckpt")
    images = random_images()
    public = PublicNetwork(state)
    latents = public.encode(images)
    output = model(images)
    assert torch.allclose(output.latents, latents, atol=1e-5)
    expected = public.decode(public.quantize(latents))
    assert torch.allclose(output.reconstruction, expected, atol=1e-4)
    assert isinstance(model.quantizer, SphericalQuantizer)
    assert not model.training


class Callback:
    """Stands for a class of PyTorch Lightning, by which a checkpoint keeps the state of callbacks.

    Opening the checkpoint must not run it.
    """

    def __init__(self):
        self.best = 1.0

    def __setstate__(self, state):
        raise AssertionError("code from the checkpoint was run")


class Settings(dict):
    """Stands for the dictionary in which Lightning keeps hyperparameters."""


class Names(list):
    """A list of another kind."""


class Command:
    """Runs a command where it is unpickled without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_checkpoint_of_lightning_opens_without_running_what_else_it_holds(is_zip, tmp_path):
    state = dict(PublicWeights(attention=False))
    beside = {
        "callbacks": {Callback: {"best": 1.0}, "names": Names("ab")},
        "hyper_parameters": Settings(lr=1e-4, steps=np.int64(7), first=Callback()),
        "command": Command(tmp_path / "was_run"),
    }
    torch.save(
        {"state_dict": state, "global_step": 7, **beside},
        tmp_path / "last.ckpt",
        _use_new_zipfile_serialization=is_zip,
    )
    model = VQGAN.from_official(tmp_path / "last.ckpt")
    assert torch.equal(model.quantizer.codebook, state["quantize.embedding.weight"])
    assert not (tmp_path / "was_run").exists()


def test_a_file_that_is_no_checkpoint_is_refused_with_the_reason(tmp_path):
    (tmp_path / "last.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint .* \(.+\)"):
        VQGAN.from_official(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder.conv_in.weight": None}, "encoder.conv_in.weight"),
        ({"decoder.mid.block_1.norm1.weight": None}, "decoder.mid.block_1.norm1.weight"),
        ({"encoder.extra.weight": torch.ones(1)}, "encoder.extra.weight"),
        ({"quantize.embedding.weight": None}, "'quantize.embedding.weight' is missing"),
        ({"quant_conv.bias": None}, "missing quant_conv.bias"),
        ({"post_quant_conv.weight": None}, "missing post_quant_conv.weight"),
        (
            {"quant_conv.bias": None, "quant.bias": torch.ones(1)},
            "missing quant_conv.bias; unknown quant.bias",
        ),
        ({"decoder.conv_out.bias": torch.ones(4)}, "decoder.conv_out.bias"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused_with_the_names_that_do_not_fit(
    change, named, tmp_path
):
    state = PublicWeights(attention=True) | change
    state = {name: weight for name, weight in state.items() if weight is not None}
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=re.escape(named)):
        VQGAN.from_official(tmp_path / "last.ckpt")


# Saving


@pytest.mark.parametrize("quantizer", [SphericalQuantizer, CosineQuantizer, EuclideanQuantizer])
def test_a_saved_model_is_the_same_model_whichever_class_opens_it(quantizer, tmp_path):
    model = small_model(quantizer(16, 6), attention=False, bottleneck=10).eval()
    model.save_pretrained(tmp_path)
    images = random_images()
    for opened in (VQGAN.from_pretrained(tmp_path), Autoencoder.from_pretrained(tmp_path)):
        assert isinstance(opened, VQGAN)
        assert opened.config() == model.config()
        assert torch.equal(opened.reconstruct(images), model.reconstruct(images))


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_sizes_may_be_numbers_of_numpy(unchecked, kind):
    quantizer = SphericalQuantizer(16, 6)
    sizes = {"channels": 128, "multipliers": (1, 4), "blocks": 1, "bottleneck": 10}
    numbers = {name: kind(size) for name, size in sizes.items() if name != "multipliers"}
    with torch.device("meta"):
        plain = VQGAN(3, quantizer, **sizes)
        model = VQGAN(kind(3), quantizer, multipliers=[kind(1), kind(4)], **numbers)
    assert json.dumps(model.config()) == json.dumps(plain.config())


def test_a_class_refuses_a_model_of_another_kind_and_names_the_one_that_opens_it(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"it is a VQGAN, no VQVAE; Autoencoder\.from_p"):
        VQVAE.from_pretrained(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 10}, "channels is 10; it must be a multiple of 4"),
        ({"channels": 0}, "channels is 0"),
        ({"multipliers": ()}, r"multipliers is \(\)"),
        ({"multipliers": (1, 0)}, "multipliers is 0"),
        ({"blocks": 0}, "blocks is 0"),
        ({"bottleneck": 0}, "bottleneck is 0"),
        ({"attention": "no"}, "attention is 'no'; it must be True or False"),
        ({"normalized": None}, "normalized is None; it must be True or False"),
    ],
)
def test_sizes_out_of_range_are_refused_with_the_value(changes, message, unchecked):
    with pytest.raises(ValueError, match=message):
        small_model(**changes)


def test_images_that_cannot_be_halved_so_often_are_refused():
    with pytest.raises(ValueError, match="images are 15x15 pixels; both must be multiples of 2"):
        small_model().encode(random_images(size=15))


def test_without_normalization_no_feature_map_is_normalized_and_the_model_is_saved_so(tmp_path):
    torch.manual_seed(0)
    model = VQGAN(3, SphericalQuantizer(16, 4), channels=8, multipliers=(1, 2), normalized=False)
    assert not [module for module in model.modules() if isinstance(module, torch.nn.GroupNorm)]
    model.eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    model.save_pretrained(tmp_path)
    opened = VQGAN.from_pretrained(tmp_path)
    assert torch.equal(opened.reconstruct(images), model.reconstruct(images))
    large = model.reconstruct_large(images)
    assert torch.allclose(large, model.reconstruct(images), atol=1e-5)


def test_without_normalization_contrast_reaches_the_latents():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    ratios = {}
    for normalized in (True, False):
        quantizer = SphericalQuantizer(16, 4)
        sizes = {"channels": 8, "multipliers": (1, 2), "attention": False}
        model = VQGAN(3, quantizer, normalized=normalized, **sizes)
        with torch.no_grad():
            for name, parameter in model.encoder.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
        strong = model.latents(images).std(dim=(2, 3)).mean()
        weak = model.latents(0.1 * images).std(dim=(2, 3)).mean()
        ratios[normalized] = (weak / strong).item()
    assert ratios[True] > 0.8
    assert ratios[False] < 0.5
