"""Trained runs by name of their settings: trained once, opened ever after."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from arcvq.baselines.reference import UndetachedQuantizer
from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.images import ImageData, load_images
from arcvq.quantizers import QUANTIZERS, SphericalQuantizer
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.distributed import first_rank_first, from_first
from arcvq.runtime.files import safe_name
from arcvq.runtime.store import digest_of, kept_path
from arcvq.samp import SAMP
from arcvq.training import Compute, Recording, Run, fit
from arcvq.vqvae import VQVAE

FORMAT = 4  # raised when a change of the code changes what training gives
KINDS = QUANTIZERS | {"samp_undetached": UndetachedQuantizer} | BASELINES
PROFILES = ("quick", "standard", "paper")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a training run gives, but the machine.

    quantizer: a name in `QUANTIZERS` or `BASELINES`, or "samp_undetached" (SAMP without stop-gradient). samp: settings
    of the prior for those two; None scales the paper's to the run. beta: the weight of the commitment loss; baselines
    have their own. train_images: use the first so many training images; None for all. The other fields are those of
    `VQVAE` and `fit`.
    """

    dataset: str = "digits"
    quantizer: str = "samp"
    samp: SAMP | None = None
    num_codes: int = 512
    dim: int = 64
    hidden: int = 48
    residual_hidden: int = 12
    steps: int = 400
    batch_size: int = 128
    lr: float = 1e-3
    seed: int = 0
    precision: str = "auto"
    train_images: int | None = None
    beta: float = 0.25

    def __post_init__(self):
        if self.quantizer not in KINDS:
            raise ValueError(f"quantizer {self.quantizer!r} is unknown; known are {', '.join(KINDS)}")
        if self.quantizer in BASELINES and self.beta != 0.25:
            raise ValueError(f"beta is {self.beta}; {self.quantizer!r} has a commitment weight of its own")

    @classmethod
    def for_profile(cls, profile: str, **changes: Any) -> "RunSettings":
        """Settings of a size: "quick" (about 5 s on two cores), "standard" (a minute or more), "paper" (a GPU's)."""
        sizes: dict[str, dict[str, Any]] = {
            "quick": {"hidden": 32, "residual_hidden": 8, "steps": 160, "batch_size": 32, "lr": 3e-3},
            "standard": {"steps": 3000},
            "paper": {"hidden": 128, "residual_hidden": 32, "steps": 29_500, "batch_size": 1024, "lr": 3e-4},
        }
        if profile not in sizes:
            raise ValueError(f"profile {profile!r} is unknown; known are {', '.join(PROFILES)}")
        return cls(**{**sizes[profile], **changes})

    def model(self, images: ImageData) -> VQVAE:
        """The untrained model, drawn from the seed; the caller's generator stays put."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            own = {} if self.quantizer in BASELINES else {"beta": self.beta}
            quantizer = KINDS[self.quantizer](self.num_codes, self.dim, **own)
            if isinstance(quantizer, SphericalQuantizer):
                quantizer.samp = self.samp
            return VQVAE(images.channels, quantizer, hidden=self.hidden, residual_hidden=self.residual_hidden)

    def subset(self, images: ImageData) -> ImageData:
        """The images that the run sees: the first `train_images` for training, where that is a number."""
        return images if self.train_images is None else images.subset(train=self.train_images)

    def plain(self) -> dict[str, Any]:
        """The settings as numbers and texts, samp as JSON."""
        return {**dataclasses.asdict(self), "samp": json.dumps(self.samp.config()) if self.samp else None}

    def digest(self, images: ImageData, dtype: torch.dtype) -> str:
        """A short name for these settings on these pixels in this precision; another name for any other."""
        fields = self.plain() | {"precision": str(dtype), "pixels": images.fingerprint, "format": FORMAT}
        return digest_of(fields)


def run_name(settings: RunSettings, images: ImageData, device: torch.device) -> str:
    """What the run of these settings is called in tables and as a folder: DATA-QUANTIZER-DIGEST."""
    images = settings.subset(images)
    digest = settings.digest(images, choose_precision(settings.precision, device))
    return f"{safe_name(images.name)}-{settings.quantizer}-{digest}"


def run_folder(
    settings: RunSettings, images: ImageData, root: str | Path | None, device: torch.device
) -> Path:
    """Where the run of these settings is kept; it holds run.json once it is finished."""
    return kept_path(root, "runs", run_name(settings, images, device))


def train(
    settings: RunSettings,
    images: ImageData | None = None,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Run:
    """The run of these settings: opened from `root`/runs if it was trained before, else trained and kept there.

    images: the data, when it is loaded already; else `settings.dataset` is. A run that was stopped goes on. Raises
    what `load_images` and `fit` raise.
    """
    device = choose_device(device)
    with first_rank_first():
        images = images or load_images(settings.dataset, root=root, device=device)
    images, folder = settings.subset(images), run_folder(settings, images, root, device)
    if from_first((folder / "run.json").is_file()):
        run = Run.load(folder)
        run.model.to(device)
        return run
    return fit(
        settings.model(images),
        images,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        compute=Compute(device, settings.precision),
        recording=Recording(folder, resume=True, progress=progress),
    )
