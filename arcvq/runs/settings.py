"""Settings of a training run, and `train`, which trains each run once and opens it from then on."""

import dataclasses
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from arcvq.autoencoder import Autoencoder
from arcvq.baselines.reference import UndetachedQuantizer, UnitStartQuantizer
from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.image_folders import Reading
from arcvq.images import USUAL_READING, ImageData, load_images
from arcvq.quantizers import QUANTIZERS, OnlineClusteredQuantizer, SphericalQuantizer
from arcvq.runtime.checks import check_not_negative, check_whole, use_python_numbers
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.distributed import first_rank_first, from_first
from arcvq.runtime.files import safe_name
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.store import digest_of, find_result, kept_path
from arcvq.samp import SAMP, Regime
from arcvq.training import Compute, Optimization, Recording, Run, check_batch, fit
from arcvq.vqgan import VQGAN, VQGANSettings, fit_vqgan
from arcvq.vqgan.fitting import check_losses
from arcvq.vqvae import DOWNSAMPLE, VQVAE

RUN_FORMAT = 4  # bump it when the same settings no longer train the same model
ALL_QUANTIZERS: dict[str, Any] = {
    **QUANTIZERS,
    "plain_unit_start": UnitStartQuantizer,
    "cvq_closest": partial(OnlineClusteredQuantizer, anchor="closest"),
    "samp_undetached": UndetachedQuantizer,
    **BASELINES,
}
COMMITTED = [name for name, kind in BASELINES.items() if getattr(kind, "commitment", 0)]
RECORDS = {"samp": SAMP, "reading": Reading, "vqgan": VQGANSettings}  # fields of `RunSettings`
PROFILES: dict[str, dict[str, Any]] = {
    # Small in K and D, where a run of seconds already shows what the quantizers do differently.
    "quick": {
        "num_codes": 128,
        "dim": 16,
        "hidden": 32,
        "residual_hidden": 8,
        "steps": 300,
        "batch_size": 32,
        "lr": 3e-3,
    },
    "standard": {"steps": 3000},
    "full": {"steps": 29_500, "lr": 3e-4},
    # Both ratios of `Regime` as in the paper, so that twice its learning rate goes with D 16.
    "full_small": {
        "num_codes": 64,
        "dim": 16,
        "hidden": 32,
        "residual_hidden": 8,
        "steps": 29_500,
        "lr": 6e-4,
    },
    "paper": {
        "hidden": 128,
        "residual_hidden": 32,
        "steps": 29_500,
        "batch_size": 1024,
        "lr": 3e-4,
    },
}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a training run, except for the machine.

    Args:
        dataset: Name of the data set, for `load_images`.
        quantizer: A name in `ALL_QUANTIZERS`: one of ours, a baseline, "plain_unit_start", which is
            plain VQ with codes that start on the unit sphere, "cvq_closest", which is CVQ with the
            anchors of its authors' command, or "samp_undetached", which is SAMP without its
            stop-gradient.
        samp: Settings of SAMP, for the two quantizers that have it. None for those of the paper,
            scaled to the length of the run.
        num_codes: Number of codes, K.
        dim: Dimensions of a code, D.
        hidden: See `VQVAE`.
        residual_hidden: See `VQVAE`.
        steps: Number of optimizer steps.
        batch_size: Images a step.
        lr: Learning rate.
        seed: Seed of the weights, of the batches and of what the quantizer draws.
        precision: "auto", "float32" or "bfloat16"; see `Compute`.
        train_images: Train on only so many of the training images; None for all.
        beta: Weight of the commitment loss. Baselines have their own, `commitment`.
        commitment: Weight of the commitment loss of a baseline that has one; None for its usual.
        reading: How the files of a folder become pixels, for a data set "folder:PATH".
        vqgan: A VQGAN to train in place of a VQVAE; it has no use for `hidden` and
            `residual_hidden`, which are then the usual ones. None for a VQVAE.
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
    commitment: float | None = None
    reading: Reading = USUAL_READING
    vqgan: VQGANSettings | None = None

    def __post_init__(self):
        use_python_numbers(self)
        for name, kind in RECORDS.items():
            record = getattr(self, name)
            if not isinstance(record, kind) and record is not getattr(RunSettings, name):
                raise ValueError(f"{name} is {record!r}; it must be a {kind.__name__}")
        Optimization(self.steps, self.batch_size, self.lr, self.seed)  # checks them
        check_whole(1, num_codes=self.num_codes, dim=self.dim, residual_hidden=self.residual_hidden)
        check_whole(DOWNSAMPLE, hidden=self.hidden)
        if self.train_images is not None:
            check_whole(1, train_images=self.train_images)
        if self.quantizer not in ALL_QUANTIZERS:
            known = ", ".join(ALL_QUANTIZERS)
            raise ValueError(f"quantizer {self.quantizer!r} is unknown; known are {known}")
        choose_precision(self.precision, torch.device("cpu"))  # checks it
        check_not_negative(beta=self.beta)
        if self.commitment is not None:
            check_not_negative(commitment=self.commitment)
        if self.samp is not None and not self.quantizer.startswith("samp"):
            raise ValueError(f"samp is {self.samp}; quantizer {self.quantizer!r} has no use for it")
        if self.quantizer in BASELINES and self.beta != RunSettings.beta:
            own = f"{self.quantizer!r} has a commitment weight of its own"
            raise ValueError(f"beta is {self.beta}; {own}")
        if self.commitment is not None and self.quantizer not in COMMITTED:
            raise ValueError(
                f"commitment is {self.commitment}, which is for {', '.join(COMMITTED)}; "
                f"{self.quantizer!r} has none but beta"
            )
        if self.vqgan is not None:  # otherwise the same run would have many names
            object.__setattr__(self, "hidden", RunSettings.hidden)
            object.__setattr__(self, "residual_hidden", RunSettings.residual_hidden)

    @classmethod
    def for_profile(
        cls, profile: str, data: ImageData | None = None, **changes: Any
    ) -> "RunSettings":
        """Settings of a certain size.

        Args:
            profile: "quick" (128 codes of 16 dimensions, about 5 s on two cores), "standard" (a
                minute or more), "full" (the paper's steps and learning rate on a smaller network
                and batch, an hour or two), "full_small" (the paper's steps and both ratios of its
                regime with 64 codes of 16 dimensions, half an hour) or "paper" (the sizes and
                steps of the paper's runs on MNIST, for a GPU).
            data: The data set, if it may be small: where it has fewer training images than the
                batch of the profile, the batch is lowered to them, with a warning.
            **changes: Fields that differ from the profile.
        """
        check_profile(profile)
        settings = cls(**PROFILES[profile] | changes)
        if data is None or "batch_size" in changes:
            return settings
        return with_batch_for(settings, settings.subset(data), profile)

    def with_quantizer(self, quantizer: str) -> "RunSettings":
        """The same settings for another quantizer, without those that it has no use for."""
        changes: dict[str, Any] = {}
        if not quantizer.startswith("samp"):
            changes["samp"] = None
        if quantizer in BASELINES:
            changes["beta"] = RunSettings.beta
        if quantizer not in COMMITTED:
            changes["commitment"] = None
        return dataclasses.replace(self, quantizer=quantizer, **changes)

    def config(self) -> dict[str, Any]:
        """The settings as a plain dict, for `from_config` and JSON."""
        config = vars(self) | {"samp": self.samp.config() if self.samp else None}
        # Left out where they are the usual ones, as in the settings that earlier versions kept.
        if self.commitment is None:
            del config["commitment"]
        del config["reading"], config["vqgan"]
        if self.reading != USUAL_READING:
            config["reading"] = vars(self.reading)
        if self.vqgan is not None:
            config["vqgan"] = self.vqgan.config()
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RunSettings":
        """Build the settings that `config` describes."""
        samp = config["samp"]
        vqgan = config.get("vqgan")
        records = {
            "samp": SAMP.from_config(samp) if samp else None,
            "reading": Reading(**config.get("reading", {})),
            "vqgan": VQGANSettings.from_config(vqgan) if vqgan else None,
        }
        return cls(**config | records)

    def model(self, data: ImageData) -> Autoencoder:
        """The untrained model, drawn from the seed; the caller's generator stays as it is."""
        with isolated_rng(self.seed):
            weight: dict[str, Any] = {"beta": self.beta}
            if self.quantizer in BASELINES:
                weight = {} if self.commitment is None else {"commitment": self.commitment}
            quantizer = ALL_QUANTIZERS[self.quantizer](self.num_codes, self.dim, **weight)
            if isinstance(quantizer, SphericalQuantizer):
                quantizer.samp = self.samp
            if self.vqgan is not None:
                return self.vqgan.model(data.channels, quantizer)
            return VQVAE(
                data.channels,
                quantizer,
                hidden=self.hidden,
                residual_hidden=self.residual_hidden,
            )

    def regime(self, data: ImageData) -> Regime | None:
        """What these settings have in common with the paper's run; None without SAMP."""
        if not self.quantizer.startswith("samp"):
            return None
        samp = self.samp or SAMP.for_run(self.steps)
        height, width = data.size
        downsample = DOWNSAMPLE if self.vqgan is None else self.vqgan.downsample
        latents_per_image = (height // downsample) * (width // downsample)
        return samp.regime(
            num_codes=self.num_codes,
            dim=self.dim,
            latents=self.batch_size * latents_per_image,
            lr=self.lr,
            steps=self.steps,
        )

    def samp_at(self, lr: float, dim: int) -> SAMP:
        """The settings of SAMP for a run with another learning rate and dimension of the codes.

        A ball that grows at the paper's rate beside the steps of Adam does so there as well. All
        else stays.
        """
        samp = self.samp or SAMP.for_run(self.steps)
        at_paper_rate = SAMP.for_run(self.steps, lr=self.lr, dim=self.dim).radius
        if samp.radius != at_paper_rate:
            return samp
        return dataclasses.replace(samp, radius=SAMP.for_run(self.steps, lr=lr, dim=dim).radius)

    def load_data(self, root: str | Path | None, device: str | torch.device) -> ImageData:
        """Load the data set with all its images, read as `reading` says.

        Args:
            root: Where data sets are kept; see `data_root`.
            device: Where the pixels go.
        """
        return load_images(self.dataset, root, device, **vars(self.reading))

    def subset(self, data: ImageData) -> ImageData:
        """The data that the run sees, with `train_images` training images if that is a number.

        Raises:
            ValueError: If there are fewer.
        """
        if self.train_images is None:
            return data
        check_whole(1, len(data.train), train_images=self.train_images)
        return data.subset(train=self.train_images)

    def check_data(self, data: ImageData) -> None:
        """Raise ValueError for data with too few training images for `train_images` or a batch."""
        check_batch(self.batch_size, len(self.subset(data).train))

    def check_images(self, data: ImageData) -> None:
        """Raise ValueError for images that the model or its losses cannot take, or for no model."""
        images = torch.zeros(1, data.channels, *data.size)
        self.model(data).check_images(images)
        if self.vqgan is not None:
            check_losses(self.vqgan.losses, data)

    def digest(self, data: ImageData, dtype: torch.dtype) -> str:
        """A short name for the run of these settings on these images in this precision."""
        # SAMP is hashed as the JSON text that earlier versions wrote, so that their runs are found.
        facts = {
            **self.config(),
            "samp": json.dumps(self.samp.config()) if self.samp else None,
            "precision": str(dtype),
            "pixels": data.fingerprint,
            "format": RUN_FORMAT,
        }
        facts.pop("reading", None)  # its effect is in the pixels
        if self.dataset.startswith("folder:"):
            facts["dataset"] = "folder"  # wherever it is, and however its path is written
        return digest_of(facts)


def with_batch_for(settings: Any, data: ImageData, profile: str) -> Any:
    """Settings whose batch is at most the training images, with a warning where it is lowered.

    Args:
        settings: Settings of a profile, with a `batch_size`.
        data: The data set.
        profile: The name of the profile, for the warning.
    """
    images = len(data.train)
    if settings.batch_size <= images:
        return settings
    warnings.warn(
        f"the batch of the profile {profile}, {settings.batch_size} images, is lowered to "
        f"{images}, the training images of {data.name}",
        stacklevel=3,  # at the call of for_profile
    )
    return dataclasses.replace(settings, batch_size=images)


def check_profile(profile: str) -> None:
    """Raise ValueError for a profile that is not one of `PROFILES`."""
    if profile not in list(PROFILES):  # a list, so that it may be of any type
        raise ValueError(f"profile {profile!r} is unknown; known are {', '.join(PROFILES)}")


def run_name(settings: RunSettings, data: ImageData, device: torch.device) -> str:
    """What a run is called in tables, and as a folder: DATA-QUANTIZER-DIGEST."""
    data = settings.subset(data)
    digest = settings.digest(data, choose_precision(settings.precision, device))
    return f"{safe_name(data.name)}-{settings.quantizer}-{digest}"


def run_folder(
    settings: RunSettings, data: ImageData, root: str | Path | None, device: torch.device
) -> Path:
    """Where a run is kept (see `kept_path`). It holds run.json once the run is finished."""
    return kept_path(root, "runs", run_name(settings, data, device))


def train(
    settings: RunSettings,
    data: ImageData | None = None,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> Run:
    """Train the run of these settings, or open it if it was trained before.

    Args:
        settings: The settings.
        data: The data set, if it is loaded already; else `settings.dataset` is loaded.
        root: Where data sets and runs are kept; see `data_root`. The run is kept below runs. One
            that was stopped goes on from its checkpoint.
        device: The device; see `Compute`.
        progress: Whether to show a progress bar.
        overwrite: Train it again in any case, as where a file of the kept run is damaged.

    Returns:
        The run, with its model on the device. Raises what `load_images`, `Run.load` and `fit`
        raise.
    """
    device = choose_device(device)
    if data is None:
        with first_rank_first():
            data = settings.load_data(root, device)
    data = settings.subset(data)
    name = run_name(settings, data, device)
    with first_rank_first():
        folder, is_there = find_result(root, "runs", name, shared=not overwrite)
    is_there = from_first(is_there)
    if is_there and not overwrite:
        run = Run.load(folder)
        run.model.to(device)
        return run
    recording = Recording(folder, resume=not overwrite, overwrite=overwrite, progress=progress)
    options: dict[str, Any] = {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "seed": settings.seed,
        "compute": Compute(device, settings.precision),
        "recording": recording,
    }
    model = settings.model(data)
    vqgan = settings.vqgan
    if vqgan is None:
        return fit(model, data, **options)
    options |= {"losses": vqgan.losses, "averaging": vqgan.averaging}
    return fit_vqgan(cast(VQGAN, model), data, **options)
