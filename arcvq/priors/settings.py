"""Settings of a prior, and `train_prior`, which fits each prior once and opens it from then on."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData
from arcvq.priors.base import NetworkPrior
from arcvq.priors.fitting import PriorRun, fit_prior
from arcvq.priors.pixelcnn import PixelCNN
from arcvq.priors.tokens import match_parameters, parameter_count
from arcvq.priors.transformer import TransformerPrior
from arcvq.quantizers import SphericalQuantizer
from arcvq.runs.settings import check_profile, with_batch_for
from arcvq.runtime.checks import check_whole, use_python_numbers
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import safe_name
from arcvq.runtime.fingerprint import fingerprint
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.store import digest_of, find_result
from arcvq.training import Compute, Optimization, Recording, check_single

PRIOR_FIT_VERSION = 1  # bump it when the same settings no longer fit the same prior
PRIORS: dict[str, type[PixelCNN] | type[TransformerPrior]] = {
    "pixelcnn": PixelCNN,
    "transformer": TransformerPrior,
}
# Width and layers. A PixelCNN sees a whole grid of 7 x 7 from 6 layers on.
SIZES = {
    "pixelcnn": {
        "quick": (48, 6),
        "standard": (64, 8),
        "full": (128, 15),
        "full_small": (64, 8),
        "paper": (128, 15),
    },
    "transformer": {
        "quick": (64, 3),
        "standard": (128, 4),
        "full": (256, 8),
        "full_small": (128, 4),
        "paper": (256, 8),
    },
}
FITTING: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {"steps": 3000, "batch_size": 64, "lr": 3e-3},
    "full": {"steps": 30_000, "batch_size": 64, "lr": 1e-3},
    "full_small": {"steps": 30_000, "batch_size": 64, "lr": 1e-3},
    "paper": {"steps": 30_000, "batch_size": 256, "lr": 1e-3},
}


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """Everything that decides the result of fitting, except for the model, data and machine.

    Args:
        kind: A name in `PRIORS`.
        tied: Tie the tokens to the codebook (see `TiedTokens`). The network is then widened until
            it has about as many parameters as the free one of this width.
        conditional: Give the prior the labels of the images.
        width: Channels of the network.
        layers: Layers of the network.
        steps: Number of optimizer steps.
        batch_size: Grids a step.
        lr: The highest learning rate.
        seed: Seed of the weights and of the order of the grids.
        precision: "auto", "float32" or "bfloat16"; see `Compute`.
    """

    kind: str = "pixelcnn"
    tied: bool = False
    conditional: bool = False
    width: int = 48
    layers: int = 6
    steps: int = 300
    batch_size: int = 32
    lr: float = 5e-3
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self):
        if self.kind not in PRIORS:
            raise ValueError(f"prior {self.kind!r} is unknown; known are {', '.join(PRIORS)}")
        use_python_numbers(self)
        Optimization(self.steps, self.batch_size, self.lr, self.seed)  # checks them
        check_whole(1, width=self.width, layers=self.layers)

    @classmethod
    def for_profile(
        cls, profile: str, data: ImageData | None = None, **changes: Any
    ) -> "PriorSettings":
        """Settings of a certain size.

        Args:
            profile: "quick" (seconds on two cores), "standard" (minutes), "full", "full_small"
                (hours) or "paper" (for a GPU).
            data: The data set, if it may be small; see `RunSettings.for_profile`.
            **changes: Fields that differ from the profile.
        """
        check_profile(profile)
        kind = cls(**changes).kind
        width, layers = SIZES[kind][profile]
        settings = cls(**{"width": width, "layers": layers} | FITTING[profile] | changes)
        if data is None or "batch_size" in changes:
            return settings
        return with_batch_for(settings, data, profile)

    def config(self) -> dict[str, Any]:
        """The settings as a plain dict, for `from_config` and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PriorSettings":
        """Build the settings that `config` describes."""
        return cls(**config)

    def prior(self, model: Autoencoder, data: ImageData) -> NetworkPrior:
        """The prior before fitting, drawn from the seed; the caller's generator stays as it is.

        Raises:
            ValueError: For a model with several tokens for each place.
        """
        check_single(model.quantizer, "a prior")
        height, width = data.size
        grid = (height // model.downsample, width // model.downsample)
        classes = len(data.classes) if self.conditional else 0
        codebook = model.quantizer.codebook.detach().cpu()

        def build(width: int, codes: torch.Tensor | None = None) -> NetworkPrior:
            network = PRIORS[self.kind]
            return network(len(codebook), grid, classes, codes, width=width, layers=self.layers)

        with isolated_rng(self.seed):
            if not self.tied:
                return build(self.width)
            with torch.device("meta"):  # nothing is allocated and nothing drawn
                free = parameter_count(build(self.width))
            return match_parameters(lambda width: build(width, codebook), free, multiple=4)

    def digest(self, model: Autoencoder, data: ImageData, dtype: torch.dtype) -> str:
        """A short name for the prior of these settings over these tokens in this precision."""
        encoder = model.encoder
        quantizer = model.quantizer
        tokenizer = fingerprint(*encoder.parameters(), *encoder.buffers(), quantizer.codebook)
        facts: dict[str, Any] = {
            "precision": str(dtype),
            "tokens": tokenizer + data.fingerprint,
            "format": PRIOR_FIT_VERSION,
        }
        # SAMP's codebook says all; without more, priors that earlier versions kept are found.
        if quantizer.kind != SphericalQuantizer.kind:
            facts["quantizer"] = quantizer.config()
            facts["quantizer_weights"] = fingerprint(*quantizer.parameters())
        return digest_of(self.config() | facts)


def train_prior(
    settings: PriorSettings,
    model: Autoencoder,
    data: ImageData,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> PriorRun:
    """Fit the prior of these settings to a model's tokens, or open it if it was fitted before.

    Args:
        settings: The settings.
        model: The trained model.
        data: The data set that the model was trained on, or another of its image size.
        root: Where priors are kept, below priors; see `data_root`. A fit that was stopped goes on
            from its checkpoint.
        device: The device; see `Compute`.
        progress: Whether to show a progress bar.
        overwrite: Fit it again in any case, as where a file of the kept one is damaged.

    Returns:
        The run of the prior, with the prior on the device. Raises what `fit_prior` raises.
    """
    check_single(model.quantizer, "a prior")
    device = choose_device(device)
    digest = settings.digest(model, data, choose_precision(settings.precision, device))
    name = f"{safe_name(data.name)}-{settings.kind}-{digest}"
    folder, is_there = find_result(root, "priors", name, shared=not overwrite)
    if is_there and not overwrite:
        fitted = PriorRun.load(folder)
        fitted.prior.to(device)
        return fitted
    return fit_prior(
        settings.prior(model, data),
        model,
        data,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        compute=Compute(device, settings.precision),
        recording=Recording(folder, resume=not overwrite, overwrite=overwrite, progress=progress),
    )
