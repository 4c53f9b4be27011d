"""The paper's autoencoder around any quantizer: encode, decode, reconstruct, save and load."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int, Integer
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn.functional import relu

# Imported so that a saved model with one of these quantizers can be opened.
from arcvq.baselines import reference, vector_quantize_pytorch  # noqa: F401
from arcvq.quantizers import Quantized, Quantizer, SphericalQuantizer
from arcvq.runtime.checks import check_finite, check_whole
from arcvq.runtime.files import write_folder
from arcvq.runtime.hub import download

# Format of saved models; bump it when older versions would misread them.
MODEL_FORMAT = 1
DOWNSAMPLE = 4  # of the paper's network: images of 28 x 28 pixels have 7 x 7 latents

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # of a model on the Hugging Face hub


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


def _official_file(path: str | Path, filename: str | None, revision: str | None) -> Path:
    """Return the path of a checkpoint, after its download where it is not on this machine.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded.
    """
    file = Path(path, filename or "")
    if file.is_file():
        return file
    if filename is None:
        raise FileNotFoundError(
            f"{path} is no file; a checkpoint on the Hugging Face hub is given by the name of its "
            "repository and that of the file in it"
        )
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} holds no {filename}")
    return download(str(path), filename, revision)


def _official_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint by their names in the authors' code.

    Raises:
        ValueError: If the file is no checkpoint.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        for field in ("state_dict", "model"):
            state = state.get(field, state)
        # DataParallel adds a prefix.
        named = {name.removeprefix("module."): weight for name, weight in state.items()}
    except Exception as error:
        raise ValueError(
            f"{file} cannot be read as a checkpoint of the authors' code, "
            "a state dict that torch.save wrote"
        ) from error
    return {name: weight for name, weight in named.items() if isinstance(weight, Tensor)}


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


def _in_precision_of(network: nn.Module, tensor: Tensor) -> Tensor:
    """Cast a tensor to the precision of a network's weights."""
    weights = next(network.parameters(), tensor)  # a replica of DataParallel has no parameters
    return tensor.to(weights.dtype)


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
        downsample: int = DOWNSAMPLE,
    ):
        super().__init__()
        check_whole(2, downsample=downsample)
        if downsample not in (2, 4, 8):
            raise ValueError(f"downsample is {downsample}; it must be 2, 4 or 8")
        check_whole(1, image_channels=image_channels, residual_hidden=residual_hidden)
        check_whole(downsample, hidden=hidden)
        check_whole(0, residual_layers=residual_layers)
        # Plain numbers, since those of NumPy cannot be written as JSON.
        self.image_channels = int(image_channels)
        self.hidden = int(hidden)
        self.residual_hidden = int(residual_hidden)
        self.residual_layers = int(residual_layers)
        self.downsample = int(downsample)
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
            images: Images in [-1, 1]; they are cast to the precision of the weights.

        Raises:
            ValueError: For images of a wrong shape or type.
        """
        self.check_images(images)
        latents = self.encoder(_in_precision_of(self.encoder, images))
        quantized = self.quantizer(latents)
        codes = _in_precision_of(self.decoder, quantized.codes)
        return VQVAEOutput(self.decoder(codes), latents, quantized)

    @torch.no_grad()
    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Encode images, as `forward` takes them, to latents before quantization.

        Raises:
            ValueError: For images of a wrong shape or type, and for NaN or infinite values.
        """
        self.check_images(images)
        check_finite(images, "images")
        return self.encoder(_in_precision_of(self.encoder, images))

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w *parts"]:
        """Encode images, as `forward` takes them, to indices; the usage counts stay as they are.

        Raises:
            ValueError: As `latents` does.
        """
        return self.quantizer.encode(self.latents(images))

    @torch.no_grad()
    def decode(self, indices: Integer[Tensor, "B h w *parts"]) -> Float[Tensor, "B C H W"]:
        """Decode indices to images, clipped to [-1, 1].

        Args:
            indices: Indices of any integer type.

        Raises:
            ValueError: For indices of a wrong shape or type, and for an index out of range.
        """
        axes = 3 + len(self.quantizer.index_shape)
        if indices.ndim != axes or 0 in indices.shape[1:3]:
            needed = ", ".join(["B", "h", "w", *map(str, self.quantizer.index_shape)])
            raise ValueError(
                f"indices have shape {tuple(indices.shape)}; they must be ({needed}), "
                "h and w from 1"
            )
        return self._decode_codes(self.quantizer.lookup(indices))

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Encode images and decode them again, without counting usage."""
        return self._decode_codes(self.quantizer.replace(self.latents(images)))

    def _decode_codes(self, codes: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        """Decode codes to images, clipped to [-1, 1]."""
        return self.decoder(_in_precision_of(self.decoder, codes)).clamp(-1, 1)

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
        save = super().save_pretrained
        return write_folder(
            Path(save_directory).expanduser(),
            lambda draft: save(draft, **kwargs | {"config": self.config()}),
        )

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
        folder = Path(pretrained_model_name_or_path).expanduser()
        if not folder.is_dir():
            name = str(pretrained_model_name_or_path)
            if not HUB_NAME.fullmatch(name):
                raise FileNotFoundError(
                    f"there is no folder {folder}, and a model on the hub "
                    "has a name like owner/model"
                )
            return super().from_pretrained(name, **kwargs)

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
        for parameter_name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(
                    f"the model in {folder} cannot be used: {parameter_name} holds NaN or infinity"
                )
        return model.eval()

    @classmethod
    def from_official(
        cls, path: str | Path, filename: str | None = None, *, revision: str | None = None
    ) -> "VQVAE":
        """Load a checkpoint of the authors' code (a state dict), in evaluation mode.

        The sizes of the model are read off the weights::

            model = VQVAE.from_official("checkpoint.pt")
            model = VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/checkpoint.pt")

        Args:
            path: The file; or, with `filename`, its folder or a repository on the Hugging Face hub.
            filename: The file in the folder or repository.
            revision: The branch, tag or commit of the repository; None for the latest.

        Raises:
            FileNotFoundError: If there is no such file, or it cannot be downloaded; says why.
            ValueError: If the file is no such checkpoint; names what is missing or unknown in it.
        """
        file = _official_file(path, filename, revision)
        weights = _official_weights(file)
        problem = f"{file} is no checkpoint of the authors' code"
        try:
            with torch.random.fork_rng(devices=[]):  # the new weights are not kept
                return cls._from_official_weights(weights).eval()
        except KeyError as error:
            raise ValueError(f"{problem}: {error} is missing") from error
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{problem}: {reason}") from error

    @classmethod
    def _from_official_weights(cls, state: dict[str, Tensor]) -> "VQVAE":
        """Build the model whose weights have these names in the authors' code."""
        width, channels = state["_encoder._conv_1.weight"].shape[:2]
        residual_hidden = len(state["_encoder._residual_stack._layers.0._block.1.weight"])
        convolutions = [name for name in state if name.endswith("_block.1.weight")]
        residual_layers = sum(name.startswith("_encoder.") for name in convolutions)
        num_codes, dim = state["_vq_vae.embedding.weight"].shape
        quantizer = SphericalQuantizer(num_codes, dim)
        model = cls(channels, quantizer, 2 * width, residual_hidden, residual_layers)

        # Their parameters and ours are paired by their order.
        layers = official_layers(residual_layers)
        theirs = [f"{layer}.{kind}" for layer, kind in product(layers, ("weight", "bias"))]
        theirs.remove("_vq_vae.embedding.bias")  # a codebook has none
        strange = sorted(set(theirs) ^ set(state))
        if strange:
            raise ValueError(f"missing or unknown {', '.join(strange)}")
        parameters = dict(model.named_parameters())
        weights = {ours: state[name] for ours, name in zip(parameters, theirs, strict=True)}
        model.load_state_dict(weights, strict=False)  # usage counts are not among them
        return model
