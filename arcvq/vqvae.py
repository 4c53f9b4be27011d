"""The paper's autoencoder around any quantizer: encode, decode, reconstruct, save, load."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn.functional import relu

from arcvq.quantizers import Quantized, Quantizer, SphericalQuantizer, check_finite

MODEL_FORMAT = 1  # of saved models; raised when an older reader would misread them


class VQVAEOutput(NamedTuple):
    """reconstruction (B, C, H, W) in about [-1, 1], latents (B, D, h, w) and what the quantizer returned."""

    reconstruction: Float[Tensor, "B C H W"]
    latents: Float[Tensor, "B D h w"]
    quantized: Quantized


class Residual(nn.Module):
    """relu(x) + conv1x1(relu(conv3x3(relu(x)))): the skip carries relu(x), as in the authors' code."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        x = relu(x)
        return x + self.mix(relu(self.conv(x)))


def _widths(hidden: int, downsample: int) -> list[int]:
    """Channels after each stride-2 convolution: C for 2, C/2 C for 4, C/4 C/2 C for 8."""
    halvings = downsample.bit_length() - 1
    return [hidden >> (halvings - 1 - i) for i in range(halvings)]


def _encoder(image_channels, dim, hidden, residual_hidden, residual_layers, downsample) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = image_channels
    for width in _widths(hidden, downsample):
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
        channels = width
    layers += [nn.Conv2d(hidden, hidden, 3, padding=1)]
    layers += [Residual(hidden, residual_hidden) for _ in range(residual_layers)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(hidden, dim, 1))


def _decoder(image_channels, dim, hidden, residual_hidden, residual_layers, downsample) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(dim, hidden, 3, padding=1)]
    layers += [Residual(hidden, residual_hidden) for _ in range(residual_layers)]
    layers += [nn.ReLU()]
    channels = hidden
    for width in _widths(hidden, downsample)[-2::-1]:
        layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, image_channels, 4, stride=2, padding=1))


class VQVAE(
    nn.Module,
    PyTorchModelHubMixin,
    coders={Quantizer: (lambda quantizer: quantizer.config(), Quantizer.from_config)},
    library_name="arcvq",
    license="mit",
):
    """Encoder, quantizer, decoder (van den Oord et al. 2017; sizes of arXiv 2605.13517).

    image_channels: C of the images. quantizer: any `Quantizer`. hidden: channels inside the network. residual_hidden:
    channels inside a residual layer. downsample: image size over latent grid size: 2, 4 or 8.
    """

    def __init__(
        self,
        image_channels: int,
        quantizer: Quantizer,
        hidden: int = 128,
        residual_hidden: int = 32,
        residual_layers: int = 2,
        downsample: int = 4,
    ):
        super().__init__()
        if downsample not in (2, 4, 8):
            raise ValueError(f"downsample is {downsample}; it must be 2, 4 or 8")
        for name, number, least in (
            ("image_channels", image_channels, 1), ("hidden", hidden, downsample),
            ("residual_hidden", residual_hidden, 1), ("residual_layers", residual_layers, 0),
        ):
            if number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        self.image_channels, self.downsample = image_channels, downsample
        self.hidden, self.residual_hidden, self.residual_layers = hidden, residual_hidden, residual_layers
        sizes = (image_channels, quantizer.dim, hidden, residual_hidden, residual_layers, downsample)
        self.encoder, self.quantizer, self.decoder = _encoder(*sizes), quantizer, _decoder(*sizes)

    def forward(self, images: Float[Tensor, "B C H W"]) -> VQVAEOutput:
        """Images in [-1, 1] through encoder, quantizer and decoder. Raises ValueError for a wrong shape."""
        self.check(images)
        latents = self.encoder(images)
        quantized = self.quantizer(latents)
        return VQVAEOutput(self.decoder(quantized.codes), latents, quantized)

    @torch.no_grad()
    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The encoder's output, before quantization. Raises ValueError for a wrong shape or for NaN."""
        self.check(images)
        check_finite(images, "images")
        return self.encoder(images)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        """Images in [-1, 1] to indices; the usage counts stay as they are."""
        return self.quantizer.encode(self.latents(images))

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """Indices to images, held within [-1, 1]. Raises ValueError for an index out of range."""
        return self.decoder(self.quantizer.lookup(indices)).clamp(-1, 1)

    def reconstruct(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """decode(encode(images))."""
        return self.decode(self.encode(images))

    def check(self, images: Tensor) -> None:
        """Raise ValueError for images of a shape that the network cannot take."""
        shape, factor = tuple(images.shape), self.downsample
        if images.ndim != 4 or shape[1] != self.image_channels:
            raise ValueError(f"images have shape {shape}; they must be (B, {self.image_channels}, H, W)")
        if shape[2] % factor or shape[3] % factor or 0 in shape[2:]:
            raise ValueError(f"images are {shape[2]}x{shape[3]} pixels; both must be multiples of {factor}")
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; they must be floating point in [-1, 1]")

    def config(self) -> dict:
        """What builds this model again, without its weights."""
        names = ("image_channels", "hidden", "residual_hidden", "residual_layers", "downsample")
        return {"format": MODEL_FORMAT, "quantizer": self.quantizer.config(), **{n: getattr(self, n) for n in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VQVAE":
        """Build the model that `config` describes, with new weights.

        Args:
            config: What `config()` of a model returned.

        Raises:
            ValueError: For a config of another format or an unknown quantizer.
        """
        fields = dict(config)
        if fields.pop("format", None) != MODEL_FORMAT:
            raise ValueError(f"it is not of format {MODEL_FORMAT}, the one that this arcvq reads")
        return cls(quantizer=Quantizer.from_config(fields.pop("quantizer")), **fields)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> str | None:
        """Write model.safetensors, config.json and a model card into a folder, each file whole or not at all."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            result = super().save_pretrained(draft, config=self.config(), **kwargs)
            for file in Path(draft).iterdir():
                os.replace(file, folder / file.name)
        return result

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "VQVAE":
        """The model in a folder that `save_pretrained` wrote, or on the Hugging Face hub; in evaluation mode.

        Raises FileNotFoundError when a folder lacks a file, ValueError when a file is damaged or of another version.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            return super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no {name}; a model is config.json and model.safetensors")
        try:
            config = json.loads((folder / "config.json").read_text())
            with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are not kept
                model = cls.from_config(config)
            load_model(model, str(folder / "model.safetensors"))
            return model.eval()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the model in {folder} cannot be opened: {reason}") from error

    @classmethod
    def from_official(cls, path: str | os.PathLike) -> "VQVAE":
        """The model in a checkpoint of the authors' code (a plain state dict), in evaluation mode.

        Sizes are read off the weights. Raises ValueError that names what is missing or unknown in the file.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a checkpoint of the authors' code: {error}") from error
        try:
            width, channels = state["_encoder._conv_1.weight"].shape[:2]
            layers = sum(name.startswith("_encoder._residual") and name.endswith("1.weight") for name in state)
            residual = state["_encoder._residual_stack._layers.0._block.1.weight"].shape[0]
            quantizer = SphericalQuantizer(*state["_vq_vae.embedding.weight"].shape)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no checkpoint of the authors' code: {error} is missing") from error
        model = cls(channels, quantizer, hidden=2 * width, residual_hidden=residual, residual_layers=layers)
        names = model.official_names()
        strange = sorted(set(names.values()) ^ set(state))
        if strange:
            raise ValueError(f"{path} is no checkpoint of the authors' code: missing or unknown {', '.join(strange)}")
        model.load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, strict=False)
        return model.eval()

    def official_names(self) -> dict[str, str]:
        """Our parameter names to those of the authors' state dicts (downsample 4)."""
        modules = {"encoder.0": "_encoder._conv_1", "encoder.2": "_encoder._conv_2", "encoder.4": "_encoder._conv_3"}
        modules[f"encoder.{self.residual_layers + 6}"] = "_pre_vq_conv"
        modules["decoder.0"] = "_decoder._conv_1"
        for half, first in (("encoder", 5), ("decoder", 1)):
            for layer in range(self.residual_layers):
                ours, theirs = f"{half}.{first + layer}", f"_{half}._residual_stack._layers.{layer}._block"
                modules |= {f"{ours}.conv": f"{theirs}.1", f"{ours}.mix": f"{theirs}.3"}
        modules[f"decoder.{self.residual_layers + 2}"] = "_decoder._conv_trans_1"
        modules[f"decoder.{self.residual_layers + 4}"] = "_decoder._conv_trans_2"
        names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in modules.items() for kind in ("weight", "bias")}
        return {**names, "quantizer.codebook": "_vq_vae.embedding.weight"}
