"""Fitted priors by name of their settings: fitted once, opened ever after."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from arcvq.images import ImageData
from arcvq.priors.base import NetworkPrior, fingerprint
from arcvq.priors.fitting import PriorRun, fit_prior
from arcvq.priors.pixelcnn import PixelCNN
from arcvq.priors.tokens import match_parameters, parameter_count
from arcvq.priors.transformer import TransformerPrior
from arcvq.runs.settings import PROFILES
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import safe_name
from arcvq.runtime.store import digest_of, kept_path
from arcvq.training import Compute, Recording, Run
from arcvq.vqvae import VQVAE

FORMAT = 1  # raised when a change of the code changes what fitting gives
PRIORS: dict[str, type[PixelCNN] | type[TransformerPrior]] = {"pixelcnn": PixelCNN, "transformer": TransformerPrior}
SIZES = {  # width and layers; a PixelCNN sees a grid of 7 columns whole from 6 layers on
    "pixelcnn": {"quick": (48, 6), "standard": (64, 8), "paper": (128, 15)},
    "transformer": {"quick": (64, 3), "standard": (128, 4), "paper": (256, 8)},
}


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """Everything that decides what fitting gives, but the model, the images and the machine.

    kind: a name in `PRIORS`. tied: tie the tokens to the codebook; the network is then widened until it has as many
    parameters as the free one of this width, as nearly as it goes. conditional: give the prior the images' labels.
    The other fields are those of the prior and of `fit_tokens`.
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

    @classmethod
    def for_profile(cls, profile: str, **changes: Any) -> "PriorSettings":
        """Settings of a size: "quick" (seconds on two cores), "standard" (minutes), "paper" (a GPU's)."""
        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r} is unknown; known are {', '.join(PROFILES)}")
        fields: dict[str, dict[str, Any]] = {
            "quick": {},
            "standard": {"steps": 3000, "batch_size": 64, "lr": 3e-3},
            "paper": {"steps": 30_000, "batch_size": 256, "lr": 1e-3},
        }
        settings = cls(**{**fields[profile], **changes})
        width, layers = SIZES[settings.kind][profile]
        return dataclasses.replace(settings, width=changes.get("width", width), layers=changes.get("layers", layers))

    def prior(self, model: VQVAE, images: ImageData) -> NetworkPrior:
        """The prior before fitting, drawn from the seed; the caller's generator stays put."""
        height, width = images.size
        grid = (height // model.downsample, width // model.downsample)
        classes = len(images.classes) if self.conditional else 0
        codebook = model.quantizer.codebook.detach().cpu()

        def build(width: int, tied: bool = False) -> NetworkPrior:
            return PRIORS[self.kind](len(codebook), grid, classes, codebook if tied else None, width=width,
                                     layers=self.layers)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if not self.tied:
                return build(self.width)
            with torch.device("meta"):
                parameters = parameter_count(build(self.width))
            return match_parameters(lambda width: build(width, tied=True), parameters, multiple=4)

    def digest(self, model: VQVAE, images: ImageData, dtype: torch.dtype) -> str:
        """A short name for these settings on the tokens of this model; another name for any other."""
        tokens = fingerprint(*model.encoder.parameters(), model.quantizer.codebook) + images.fingerprint
        fields = {**dataclasses.asdict(self), "precision": str(dtype), "tokens": tokens, "format": FORMAT}
        return digest_of(fields)


def train_prior(
    settings: PriorSettings,
    run: Run,
    images: ImageData,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> PriorRun:
    """The prior of these settings over the run's tokens: opened from `root`/priors if fitted before, else fitted there.

    images: those that the run was trained on, or others of their size. A fit that was stopped goes on. Raises what
    `fit_prior` raises.
    """
    device = choose_device(device)
    digest = settings.digest(run.model, images, choose_precision(settings.precision, device))
    folder = kept_path(root, "priors", f"{safe_name(images.name)}-{settings.kind}-{digest}")
    if (folder / "run.json").is_file():
        fitted = PriorRun.load(folder)
        fitted.prior.to(device)
        return fitted
    return fit_prior(
        settings.prior(run.model, images),
        run.model,
        images,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        compute=Compute(device, settings.precision),
        recording=Recording(folder, resume=True, progress=progress),
    )
