"""The paper's autoencoder around any quantizer: encode, decode, reconstruct, save and load."""

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn.functional import relu

# Imported so that a saved model with one of these quantizers can be opened.
from arcvq.baselines import reference, vector_quantize_pytorch  # noqa: F401
from arcvq.quantizers import Quantized, Quantizer, SphericalQuantizer
from arcvq.runtime.checks import check_finite, check_whole

# Format of saved models; bump it when older versions would misread them.
MODEL_FORMAT = 1


def official_layers(residual_layers: int) -> list[str]:
    """Return the layers of the authors' network, in the order of those of a `VQVAE`."""

    def residual_stack(part: str) -> list[str]:
        names = []
        for number in range(residual_layers):
            block = f"{part}._residual_stack._layers.{number}._block"
            names += [f"{block}.1", f"{block}.3"]  # the 3x3 and the 1x1 convolution
        return names

    return [
        "_encoder._conv_1",
        "_encoder._conv_2",
        "_encoder._conv_3",
        *residual_stack("_encoder"),
        "_pre_vq_conv",
        "_vq_vae.embedding",
        "_decoder._conv_1",
        *residual_stack("_decoder"),
        "_decoder._conv_trans_1",
        "_decoder._conv_trans_2",
    ]


class VQVAEOutput(NamedTuple):
    """What the forward pass of a `VQVAE` returns.

    Attributes:
        reconstruction: The decoder's output, nominally in [-1, 1], not clipped.
        latents: The encoder's output, before quantization.
        quantized: The quantizer's output.
    """

    reconstruction: Float[Tensor, "B C H W"]
    latents: Float[Tensor, "B D h w"]
    quantized: Quantized


class Residual(nn.Module):
    """Residual layer: a 3x3 convolution to few channels and a 1x1 convolution back.

    As in the authors' code, whose first ReLU works in place, the skip path carries relu(x).
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        x = relu(x)
        return x + self.mix(relu(self.conv(x)))


def _widths(hidden, downsample):
    """Channels at each halving of the image: [C] for 2, [C/2, C] for 4, [C/4, C/2, C] for 8."""
    halvings = downsample.bit_length() - 1
    return [hidden >> place for place in reversed(range(halvings))]


class VQVAE(
    nn.Module,
    PyTorchModelHubMixin,
    coders={Quantizer: (lambda quantizer: quantizer.config(), Quantizer.from_config)},
    library_name="arcvq",
    license="mit",
):
    """VQ-VAE: encoder, quantizer and decoder (van den Oord et al. 2017; sizes of arXiv 2605.13517).

    Args:
        image_channels: Channels C of the images.
        quantizer: Any `Quantizer`; its `dim` is the number of channels D of the latents.
        hidden: Channels of the convolutions, from `downsample`.
        residual_hidden: Channels inside a residual layer.
        residual_layers: Residual layers in the encoder and as many in the decoder.
        downsample: Height of the images over height of the latent grid: 2, 4 or 8.

    Attributes:
        encoder, quantizer, decoder: The three parts, modules.
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
        check_whole(1, image_channels=image_channels, residual_hidden=residual_hidden)
        check_whole(downsample, hidden=hidden)
        check_whole(0, residual_layers=residual_layers)
        self.image_channels = image_channels
        self.hidden = hidden
        self.residual_hidden = residual_hidden
        self.residual_layers = residual_layers
        self.downsample = downsample
        self.encoder = self._build_encoder(quantizer.dim)
        self.quantizer = quantizer
        self.decoder = self._build_decoder(quantizer.dim)

    def _build_encoder(self, dim):
        """(B, C, H, W) to (B, D, h, w)."""
        network = nn.Sequential()
        channels = self.image_channels
        for width in _widths(self.hidden, self.downsample):
            network.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
            network.append(nn.ReLU())
            channels = width
        network.append(nn.Conv2d(channels, channels, 3, padding=1))
        network.extend(self._residual_stack())
        network.append(nn.Conv2d(channels, dim, 1))
        return network

    def _build_decoder(self, dim):
        """(B, D, h, w) to (B, C, H, W): the encoder in reverse."""
        *widths, channels = _widths(self.hidden, self.downsample)
        network = nn.Sequential(nn.Conv2d(dim, channels, 3, padding=1))
        network.extend(self._residual_stack())
        for width in reversed(widths):
            network.append(nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1))
            network.append(nn.ReLU())
            channels = width
        network.append(nn.ConvTranspose2d(channels, self.image_channels, 4, stride=2, padding=1))
        return network

    def _residual_stack(self):
        """Residual layers and a last ReLU."""
        layers = (Residual(self.hidden, self.residual_hidden) for _ in range(self.residual_layers))
        return [*layers, nn.ReLU()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> VQVAEOutput:
        """Pass images through encoder, quantizer and decoder, as training does.

        Args:
            images: Images in [-1, 1].

        Raises:
            ValueError: For images of a wrong shape or type.
        """
        self.check_images(images)
        latents = self.encoder(images)
        quantized = self.quantizer(latents)
        return VQVAEOutput(self.decoder(quantized.codes), latents, quantized)

    @torch.no_grad()
    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Encode images in [-1, 1] to latents, before quantization.

        Raises:
            ValueError: For images of a wrong shape or type, and for NaN or infinite values.
        """
        self.check_images(images)
        check_finite(images, "images")
        return self.encoder(images)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        """Encode images in [-1, 1] to indices; the usage counts stay as they are.

        Raises:
            ValueError: As `latents` does.
        """
        return self.quantizer.encode(self.latents(images))

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """Decode indices to images, clipped to [-1, 1].

        Raises:
            ValueError: For an index out of range.
        """
        return self.decoder(self.quantizer.lookup(indices)).clamp(-1, 1)

    def reconstruct(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Encode images and decode them again."""
        return self.decode(self.encode(images))

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError for images of a shape or type that the network cannot take."""
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != self.image_channels:
            raise ValueError(
                f"images have shape {shape}; they must be (B, {self.image_channels}, H, W)"
            )
        height, width = shape[2:]
        factor = self.downsample
        if height % factor or width % factor or height * width == 0:
            raise ValueError(
                f"images are {height}x{width} pixels; both must be multiples of {factor}"
            )
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; they must be floating point in [-1, 1]")

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build this model again, without its weights."""
        return {
            "format": MODEL_FORMAT,
            "quantizer": self.quantizer.config(),
            "image_channels": self.image_channels,
            "hidden": self.hidden,
            "residual_hidden": self.residual_hidden,
            "residual_layers": self.residual_layers,
            "downsample": self.downsample,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VQVAE":
        """Build the model that `config` describes, with new weights.

        Args:
            config: What `config()` of a model returned.

        Raises:
            ValueError: For a config of another format, or an unknown quantizer.
        """
        fields = dict(config)
        if fields.pop("format", None) != MODEL_FORMAT:
            raise ValueError(
                f"the config is not of format {MODEL_FORMAT}, the one that this arcvq reads"
            )
        return cls(quantizer=Quantizer.from_config(fields.pop("quantizer")), **fields)

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> str | None:
        """Save the model as model.safetensors, config.json and a model card (README.md).

        Each file is written whole or not at all. Other arguments are those of
        `huggingface_hub.PyTorchModelHubMixin.save_pretrained`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            result = super().save_pretrained(draft, **kwargs | {"config": self.config()})
            for file in Path(draft).iterdir():
                file.replace(folder / file.name)
        return result

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "VQVAE":
        """Load a model that `save_pretrained` saved, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a model on the Hugging Face hub.
            **kwargs: For a model on the hub, the arguments of
                `huggingface_hub.PyTorchModelHubMixin.from_pretrained`.

        Raises:
            FileNotFoundError: If the folder lacks a file.
            ValueError: If a file is damaged or of another version.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            return super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)

        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} holds no {name}; a model is config.json and model.safetensors"
                )
        try:
            with torch.random.fork_rng(devices=[]):  # the new weights are not kept
                model = cls.from_config(json.loads((folder / "config.json").read_text()))
            load_model(model, str(folder / "model.safetensors"))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the model in {folder} cannot be opened: {reason}") from error
        return model.eval()

    @classmethod
    def from_official(cls, path: str | Path) -> "VQVAE":
        """Load a checkpoint of the authors' code (a plain state dict), in evaluation mode.

        The sizes of the model are read off the weights.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no such checkpoint; names what is missing or unknown in it.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read as a checkpoint of the authors' code: {error}"
            ) from error

        problem = f"{path} is no checkpoint of the authors' code"
        try:
            width, channels = state["_encoder._conv_1.weight"].shape[:2]
            residual_hidden = len(state["_encoder._residual_stack._layers.0._block.1.weight"])
            convolutions = [name for name in state if name.endswith("_block.1.weight")]
            residual_layers = sum(name.startswith("_encoder.") for name in convolutions)
            quantizer = SphericalQuantizer(*state["_vq_vae.embedding.weight"].shape)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{problem}: {error} is missing") from error
        model = cls(channels, quantizer, 2 * width, residual_hidden, residual_layers)

        # Their parameters and ours are paired by their order.
        layers = official_layers(residual_layers)
        theirs = [f"{layer}.{kind}" for layer, kind in product(layers, ("weight", "bias"))]
        theirs.remove("_vq_vae.embedding.bias")  # a codebook has none
        strange = sorted(set(theirs) ^ set(state))
        if strange:
            raise ValueError(f"{problem}: missing or unknown {', '.join(strange)}")
        parameters = dict(model.named_parameters())
        weights = {ours: state[name] for ours, name in zip(parameters, theirs, strict=True)}
        model.load_state_dict(weights, strict=False)  # usage counts are not among them
        return model.eval()
