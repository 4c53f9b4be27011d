"""What autoencoders around a quantizer have in common: encode, decode, save and load."""

import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm.auto import tqdm

# Imported so that a saved model with one of these quantizers can be opened.
from arcvq.baselines import reference, vector_quantize_pytorch  # noqa: F401
from arcvq.quantizers import Quantized, Quantizer
from arcvq.runtime.checks import check_finite, check_whole
from arcvq.runtime.files import reason_of, write_folder
from arcvq.runtime.hub import (
    DOWNLOAD,
    PUSH,
    check_options,
    download,
    holds_file,
    make_repository,
    official_file,
    official_weights,
)
from arcvq.runtime.kinds import Kinds
from arcvq.runtime.model_folder import CONFIG, WEIGHTS, check_weights, open_folder
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.strips import in_strips

# Format of saved models; bump it when older versions would misread them.
MODEL_FORMAT = 1

Model = TypeVar("Model", bound="Autoencoder")

CARD = "README.md"  # the model card
# Says what holds for every model. Its owner adds the rest, the license as well.
CARD_TEMPLATE = """---
{{ card_data }}
---

A model of the Python package arcvq: config.json says how it is built, and model.safetensors holds
its weights. `arcvq.autoencoder.Autoencoder.from_pretrained` opens it.
"""

# Of a strip in `reconstruct_large`, unless the caller says how many rows.
STRIP_PIXELS = 16_000
LEAST_ROWS = 8  # with fewer, the rows beside a strip, which are computed again, cost too much

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # of a model on the Hugging Face hub


class VQVAEOutput(NamedTuple):
    """What the forward pass of an `Autoencoder` returns.

    Attributes:
        reconstruction: The decoder's output, nominally in [-1, 1], not clipped.
        latents: The encoder's output, before quantization.
        quantized: The quantizer's output.
    """

    reconstruction: Float[Tensor, "B C H W"]
    latents: Float[Tensor, "B D h w"]
    quantized: Quantized


def _in_precision_of(network: nn.Module, tensor: Tensor) -> Tensor:
    """Cast a tensor to the precision of a network's weights."""
    weights = next(network.parameters(), tensor)  # a replica of DataParallel has no parameters
    return tensor.to(weights.dtype)


class Autoencoder(
    nn.Module,
    Kinds,
    PyTorchModelHubMixin,
    library_name="arcvq",
    model_card_template=CARD_TEMPLATE,
):
    """An encoder, a quantizer and a decoder: the base class of `VQVAE` and `VQGAN`.

    Args:
        image_channels: Channels C of the images.
        downsample: Height of the images over height of the latent grid.
        encoder: Maps images (B, C, H, W) to latents (B, D, h, w).
        quantizer: Any `Quantizer` but one with `channel_last`; its `dim` is the number of channels
            D of the latents.
        decoder: Maps codes (B, D, h, w) to images (B, C, H, W).
    """

    kind_modules = ("arcvq.vqvae", "arcvq.vqgan")

    def __init__(
        self,
        image_channels: int,
        downsample: int,
        encoder: nn.Module,
        quantizer: Quantizer,
        decoder: nn.Module,
    ):
        super().__init__()
        if quantizer.channel_last:  # it would take the width of the grid for D where they agree
            raise ValueError(
                "the quantizer has channel_last=True, and the latents of an autoencoder are "
                "(B, D, h, w); it must be False"
            )
        self.image_channels = int(image_channels)
        self.downsample = int(downsample)
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    def sizes(self) -> dict[str, Any]:
        """Return the arguments of this model besides its quantizer, as plain numbers and lists."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

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

    @torch.no_grad()
    def reconstruct_large(
        self, images: Float[Tensor, "B C H W"], rows: int | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Do what `reconstruct` does in less memory, for photographs of millions of pixels.

        Each feature map is computed in strips, a few rows at a time. Every layer gets what it would
        get from the whole image, so that there are no seams and the result is the same but for
        rounding. A latent that lies within rounding of the border between two codes may get the
        other code. It is computed in the precision of the weights: autocast is off.

        The largest map that is held has the size of the images times the channels that a residual
        block has at that resolution; what is within a block has the height of a strip. The layers
        before a group normalization are computed twice or more. The time that attention takes grows
        with the square of the number of tokens. A progress bar appears after two seconds.

        Args:
            images: Images of any size from `downsample` pixels. A side that is no multiple of
                `downsample` is extended by reflection, and the result is cropped.
            rows: Rows of a strip at the resolution of the images. At a lower resolution, a strip
                has more rows and as many pixels. More rows take more memory and a little less time.
                By default as many as give a strip 16,000 pixels, so that wide images take no more
                memory for strips than narrow ones; but at least 8.

        Raises:
            ValueError: For images of a wrong shape or type, and for NaN or infinite values.
        """
        if rows is not None:
            check_whole(1, rows=rows)
        self._check_kind(images)
        height, width = images.shape[2:]
        factor = self.downsample
        if min(height, width) < factor:
            raise ValueError(f"images are {height}x{width} pixels; both must be {factor} or more")
        if len(images) == 0:
            return images.clone()
        images = pad(images, (0, -width % factor, 0, -height % factor), mode="reflect")
        self.check_images(images)
        check_finite(images, "images")
        images = _in_precision_of(self.encoder, images)
        if rows is None:
            rows = max(STRIP_PIXELS // images.shape[3], LEAST_ROWS)

        def through_strips(images, quantize, on_strip):
            pixels = rows * images.shape[3]
            latents = in_strips(self.encoder, images, pixels, on_strip)
            codes = _in_precision_of(self.decoder, quantize(latents))
            return in_strips(self.decoder, codes, pixels, on_strip)

        # A column that is one token wide is cut into as many strips as the whole image.
        strips: list[None] = []
        column = images[:1, :, :, :factor]
        through_strips(column, lambda latents: latents, lambda: strips.append(None))
        with tqdm(desc="strips", total=len(strips), delay=2, leave=False) as bar:
            outputs = through_strips(images, self.quantizer.replace, bar.update)
        return outputs[:, :, :height, :width].clamp(-1, 1)

    def _decode_codes(self, codes: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        """Decode codes to images, clipped to [-1, 1]."""
        return self.decoder(_in_precision_of(self.decoder, codes)).clamp(-1, 1)

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError for images of a shape or type that the network cannot take."""
        self._check_kind(images)
        height, width = images.shape[2:]
        factor = self.downsample
        if height % factor or width % factor or height * width == 0:
            raise ValueError(
                f"images are {height}x{width} pixels; both must be multiples of {factor}"
            )

    def _check_kind(self, images: Tensor) -> None:
        """Raise ValueError for images of a wrong number of axes or channels, or a wrong type."""
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != self.image_channels:
            raise ValueError(
                f"images have shape {shape}; they must be (B, {self.image_channels}, H, W)"
            )
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; they must be floating point in [-1, 1]")

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build this model again, without its weights."""
        config = {"format": MODEL_FORMAT, "quantizer": self.quantizer.config(), **self.sizes()}
        # Earlier versions had only this kind and did not name it; their checkpoints still fit.
        return config if self.kind == "VQVAE" else {"model": self.kind, **config}

    @classmethod
    def from_config(cls: type[Model], config: dict[str, Any]) -> Model:
        """Build the model that `config` describes, with new weights.

        Args:
            config: What `config()` of a model returned. Its "model" is the `kind` of any subclass
                that has been imported, so your own works as well.

        Raises:
            ValueError: For a config of another format or of another kind of model, or an unknown
                quantizer.
        """
        fields = dict(config)
        is_model = isinstance(fields.get("quantizer"), dict)  # a prior's config has none
        if fields.pop("format", None) != MODEL_FORMAT or not is_model:
            raise ValueError(
                f"it is no model of format {MODEL_FORMAT}, the one that this arcvq reads"
            )
        kind = fields.pop("model", "VQVAE")
        model_class = Autoencoder.of_kind(kind, "model")
        if not issubclass(model_class, cls):
            raise ValueError(
                f"it is a {kind}, no {cls.kind}; Autoencoder.from_pretrained opens any model"
            )
        return model_class(quantizer=Quantizer.from_config(fields.pop("quantizer")), **fields)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the model as model.safetensors, config.json and a model card (README.md).

        Each file is written whole or not at all. A README.md that is there already is kept. A new
        one says how the model is opened; what it was trained on and its license are yours to add.

        Args:
            save_directory: The folder, which is made if need be.
            push_to_hub: Whether to push the model to the Hugging Face hub as well, once it is
                saved; see the method `push_to_hub`.
            repo_id: The repository on the hub; by default it has the name of the folder.
            **kwargs: Other arguments of `huggingface_hub.PyTorchModelHubMixin.push_to_hub`.

        Returns:
            The address of the commit on the hub; None if nothing is pushed.

        Raises:
            TypeError: For an option that there is not.
            OSError: If the folder cannot be written or the disk is full.
        """
        check_options(kwargs, PUSH)
        folder = Path(save_directory).expanduser()
        save = super().save_pretrained
        card = kwargs.get("model_card_kwargs")

        def write(draft: Path) -> None:
            save(draft, config=self.config(), model_card_kwargs=card)
            if (folder / CARD).exists():
                (draft / CARD).unlink()

        write_folder(folder, write)
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, **kwargs)
        return None

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Push the model to the Hugging Face hub.

        A README.md that the repository has is kept, since you may have edited it there. Otherwise
        a new one is pushed with the model.

        Args:
            repo_id: The repository on the hub, which is made if need be.
            **kwargs: Other arguments of `huggingface_hub.PyTorchModelHubMixin.push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            TypeError: For an option that there is not.
        """
        check_options(kwargs, PUSH)
        token = kwargs.get("token")
        repo_id = make_repository(repo_id, kwargs.get("private"), token)
        if holds_file(repo_id, CARD, kwargs.get("branch"), token):
            ignored = kwargs.get("ignore_patterns") or []
            ignored = [ignored] if isinstance(ignored, str) else ignored
            kwargs["ignore_patterns"] = [*ignored, CARD]
        return super().push_to_hub(repo_id, **kwargs)

    @classmethod
    def from_pretrained(
        cls: type[Model], pretrained_model_name_or_path: str | Path, **kwargs
    ) -> Model:
        """Load a model that `save_pretrained` saved, in evaluation mode.

        `Autoencoder.from_pretrained` opens any kind of model. Weights in half precision open in
        float32, and those in float64 stay so.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a model on the Hugging Face hub.
            **kwargs: For a model on the hub, options of `huggingface_hub.hf_hub_download`, such as
                `revision` or `token`. They change nothing for a folder.

        Raises:
            TypeError: For an option that there is not.
            FileNotFoundError: If the folder or the model on the hub lacks a file, or it cannot be
                downloaded; says why.
            ValueError: If a file is damaged or of another version.
        """
        check_options(kwargs, DOWNLOAD)
        folder = Path(pretrained_model_name_or_path).expanduser()
        if not folder.is_dir():
            name = str(pretrained_model_name_or_path)
            if not HUB_NAME.fullmatch(name):
                raise FileNotFoundError(
                    f"there is no folder {folder}, and a model on the hub "
                    "has a name like owner/model"
                )
            try:
                folder = download(name, CONFIG, **kwargs).parent
                download(name, WEIGHTS, **kwargs)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"there is no folder {folder}, and {error}") from error
        return open_folder(folder, cls.from_config, "model")

    @classmethod
    def from_official(
        cls: type[Model],
        path: str | Path,
        filename: str | None = None,
        *,
        revision: str | None = None,
    ) -> Model:
        """Load a checkpoint of the authors' code (a state dict), in evaluation mode.

        The sizes of the model are read off the weights::

            model = VQVAE.from_official("best.pt")
            model = VQGAN.from_official("OWNER/NAME", "last.ckpt")  # on the hub

        Args:
            path: The file; or, with `filename`, its folder or a repository on the Hugging Face hub.
            filename: The file in the folder or repository.
            revision: The branch, tag or commit of the repository; None for the latest.

        Raises:
            FileNotFoundError: If there is no such file, or it cannot be downloaded; says why.
            ValueError: If the file is no such checkpoint, naming what is missing or unknown in it,
                or if a weight holds NaN or infinity.
        """
        file = official_file(path, filename, revision)
        weights = official_weights(file)
        problem = f"{file} is no checkpoint of the authors' code"
        try:
            with isolated_rng():  # the new weights are not kept
                model = cls.from_official_weights(weights)
        except NotImplementedError:
            raise
        except KeyError as error:
            raise ValueError(f"{problem}: {error} is missing") from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{problem}: {reason_of(error)}") from error
        check_weights(model, f"the checkpoint {file}")
        return model.eval()

    @classmethod
    def from_official_weights(cls: type[Model], state: dict[str, Tensor]) -> Model:
        """Build the model whose weights have these names in the authors' code.

        Raises:
            KeyError: If a weight is missing that tells a size.
            ValueError: If names are missing or unknown.
        """
        raise NotImplementedError(
            f"{cls.__name__} has no names for the weights of the authors' code; "
            "VQVAE and VQGAN have"
        )
