"""Fit a prior to the tokens of a trained VQ-VAE, and measure it in bits."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor
from torch.nn.functional import cross_entropy

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData, ImageSplit
from arcvq.ops.blockwise import BLOCK
from arcvq.priors.base import Prior
from arcvq.runtime.fingerprint import fingerprint
from arcvq.runtime.modes import evaluation_mode
from arcvq.runtime.precision import at_least_float32
from arcvq.runtime.run_record import Row, RunRecord
from arcvq.schedules import Cosine, WarmUp
from arcvq.training import (
    Compute,
    Optimization,
    Recording,
    TrainingSession,
)


class TokenSplit(NamedTuple):
    """Grids of tokens of one part of a data set.

    Attributes:
        tokens: One grid for each image.
        labels: The labels of the images; None will do for a prior without classes.
    """

    tokens: Integer[Tensor, "n h w"]
    labels: Integer[Tensor, " n"] | None = None


class TokenData(NamedTuple):
    """The tokens that a prior is fitted to.

    Attributes:
        train: The tokens that it learns.
        validation: The tokens that decide which of its weights are kept.
    """

    train: TokenSplit
    validation: TokenSplit


@dataclasses.dataclass(repr=False, eq=False)
class PriorRun(RunRecord):
    """A fitted prior and how it came about.

    Attributes:
        prior: The prior, with the weights that were best on the validation tokens.
        rows: One dict for each row of `history`.
        settings: What `fit_tokens` was told.
        seconds: Fitting time, all sessions together.
        history: A pandas table with a row for each validation: bits_per_token of training since
            the row before, validation_bits_per_token, and lr.
    """

    WHAT = "prior"
    OPENER = "Prior.from_pretrained"

    prior: Prior
    rows: list[Row]
    settings: dict[str, Any]
    seconds: float

    def subject(self) -> str:
        return self.prior.kind

    def write_model(self, folder: Path) -> None:
        self.prior.save_pretrained(folder)

    @staticmethod
    def read_model(folder: Path) -> dict[str, Any]:
        return {"prior": Prior.from_pretrained(folder)}


def encode_split(
    model: Autoencoder, split: ImageSplit, batch_size: int | None = None
) -> TokenSplit:
    """The tokens of all images of a split, on the model's device.

    Args:
        model: The model.
        split: The images.
        batch_size: Images at a time; by default 256, or fewer where they are large.

    Raises:
        ValueError: If the model cannot take the images.
    """
    grids = [model.encode(images) for images in split.batches(batch_size, model.device)]
    return TokenSplit(torch.cat(grids), split.labels.to(model.device))


@torch.no_grad()
def bits_per_token(
    prior: Prior, tokens: Integer[Tensor, "n h w"], labels: Integer[Tensor, " n"] | None = None
) -> float:
    """The prior's mean cost of a token in bits, -log2 p; log2 K for a prior that knows nothing.

    Args:
        prior: The prior.
        tokens: At least one grid.
        labels: The label of each grid, for a prior with classes.

    Raises:
        ValueError: If there is no grid, or as `Prior.forward` does.
    """
    if len(tokens) == 0:
        raise ValueError("there are no tokens; at least one grid is needed")
    # So many grids at a time that their logits stay small.
    height, width = prior.grid
    batch_size = max(1, BLOCK // (prior.num_codes * height * width))
    nats = 0.0
    for start in range(0, len(tokens), batch_size):
        some = slice(start, start + batch_size)
        some_labels = None if labels is None else labels[some].to(prior.device)
        # ln p of each grid, in nats.
        logs = prior.log_likelihood(tokens[some].to(prior.device), some_labels)
        nats -= logs.double().sum().item()
    return nats / math.log(2) / tokens.numel()


def fit_prior(  # noqa: PLR0913  (as `fit`)
    prior: Prior,
    model: Autoencoder,
    data: ImageData,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    compute: Compute = Compute(),
    recording: Recording = Recording(),
) -> PriorRun:
    """Fit a prior to the tokens of a model's training images; the model stays as it is.

    Args:
        prior: The prior, which is fitted in place.
        model: The model. The training and validation images are encoded once, after the arguments
            have been checked.
        data: The data set.
        steps: Number of optimizer steps, at least 1.
        batch_size: Grids a step; at most the training images.
        lr: See `fit_tokens`.
        seed: See `fit_tokens`.
        compute: See `fit_tokens`.
        recording: See `fit_tokens`.

    Raises:
        ValueError: If the prior is one for another codebook, number of codes or grid, and as
            `fit_tokens` does.
    """
    prior.check_model(model)
    prior.check_grid(model, data)
    optimization = Optimization(steps, batch_size, lr, seed)
    return PriorSession.fit(prior, data, model, optimization, compute, recording)


def fit_tokens(
    prior: Prior,
    tokens: TokenData,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    compute: Compute = Compute(),
    recording: Recording = Recording(),
) -> PriorRun:
    """Fit a network prior to tokens with AdamW on the cross-entropy.

    The learning rate warms up over the first tenth of the steps and then falls to 0 as a cosine.
    A prior with classes is fitted with the labels. The prior ends with the weights of its best
    validation, in evaluation mode. One in half precision is fitted and validated in float32; at the
    end it is rounded, and saved as it is then.

    Args:
        prior: The prior, which is fitted in place.
        tokens: The tokens to learn, and those to validate with.
        steps: Number of optimizer steps, at least 1.
        batch_size: Grids a step; at most the training grids.
        lr: The highest learning rate, above 0.
        seed: Seed of the order of the grids.
        compute: Device and precision; a CUDA graph cannot be recorded here.
        recording: What is logged, how often, and where it is written. Each row of the history is a
            validation, so that `log_every` is refused; so is `snapshots`, those of a codebook.

    Raises:
        ValueError: If an argument is out of range.
        FloatingPointError: If the loss is not finite. This is checked at each validation.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: After Ctrl-C, once the step under way is done and the state is saved.
    """
    optimization = Optimization(steps, batch_size, lr, seed)
    return PriorSession.fit(prior, tokens, None, optimization, compute, recording)


def _check_before_encoding(prior: Prior, data: TokenData | ImageData) -> None:
    """Raise ValueError for a prior that cannot be fitted by steps, or not with these labels."""
    if not any(parameter.requires_grad for parameter in prior.parameters()):
        raise ValueError(
            f"{prior.kind} has nothing to learn by steps; fit it with its method count"
        )
    for name, split in (("training", data.train), ("validation", data.validation)):
        count = _count(split)
        if count == 0:
            raise ValueError(f"there are no {name} tokens; at least one grid is needed")
        if prior.classes:
            labels = split.labels
            prior.as_labels(labels, count if labels is None else len(labels))


def _count(split: TokenSplit | ImageSplit) -> int:
    """How many images, or grids of their tokens, there are."""
    return len(split.tokens) if isinstance(split, TokenSplit) else len(split)


def _check_recording(recording: Recording) -> None:
    """Raise ValueError for what a prior has no use for."""
    if recording.log_every is not None:
        raise ValueError(
            f"log_every is {recording.log_every}; each row of a prior's history is a validation, "
            "so give validate_every instead"
        )
    if recording.snapshots != Recording.snapshots:
        raise ValueError(
            f"snapshots is {recording.snapshots}; they are of a codebook, which a prior has not, "
            "so leave it out"
        )


class PriorSession(TrainingSession):
    """The fitting of a prior: what is its own of `fit_prior` and `fit_tokens`.

    Nothing in it is random but the weights at the start, which the caller has drawn.

    Args:
        prior: The prior, which is fitted in place.
        data: The tokens, or the images that give them.
        autoencoder: Encodes images, once the arguments have been checked; None for tokens.
        optimization: Steps, batch size, learning rate and seed.
        compute: Device and precision.
        recording: Logging, checkpoints and callback.
    """

    RUN = PriorRun
    MODEL = "prior"
    EXAMPLES = "grids"
    SHOWN = ("bits_per_token", "validation_bits_per_token")

    def __init__(
        self,
        prior: Prior,
        data: TokenData | ImageData,
        autoencoder: Autoencoder | None,
        optimization: Optimization,
        compute: Compute,
        recording: Recording,
    ):
        _check_before_encoding(prior, data)
        _check_recording(recording)
        if compute.cuda_graph:
            raise ValueError("cuda_graph is True; only fit can record its step")
        if recording.validate_every is None:
            # Rounded down for good: validations decide which weights are kept.
            tenth = max(1, optimization.steps // 10)
            recording = dataclasses.replace(recording, validate_every=tenth)
        super().__init__(prior, _count(data.train), optimization, compute, recording)
        # A row of the history is always a validation.
        self.log_every = self.validate_every
        self.autoencoder = autoencoder
        self.tokens, self.labels = self._tokens_of(data.train)
        self.validation_tokens, self.validation_labels = self._tokens_of(data.validation)
        self.settings |= {
            "prior": prior.config(),
            "tokens": fingerprint(
                self.tokens, self.labels, self.validation_tokens, self.validation_labels
            ),
            "validate_every": self.validate_every,
        }
        self.warm_up = WarmUp(0.0, 1.0, max(1, self.steps // 10))
        self.decay = Cosine(optimization.lr, 0.0, self.steps)
        # Of training since the last row: the sum of the loss over steps, and their number.
        self.nats = torch.zeros((), device=self.device)
        self.summed = 0
        self.best: dict[str, Any] = {}  # weights
        self.best_bits = math.inf

    def _tokens_of(self, split: Any) -> tuple[Tensor, Tensor]:
        """Tokens and labels as int64 on the device; refuses those that do not fit."""
        if self.autoencoder is not None:
            split = encode_split(self.autoencoder.to(self.device), split)
        tokens, labels = split
        if labels is None:
            labels = torch.zeros(len(tokens), dtype=torch.int64)
        if len(tokens) != len(labels):
            raise ValueError(
                f"there are {len(tokens)} grids of tokens and {len(labels)} labels; each grid has "
                "one label"
            )
        tokens, of_classes = self.model.as_tokens(tokens, labels if self.model.classes else None)
        labels = labels.long() if of_classes is None else of_classes
        return tokens.to(self.device), labels.to(self.device)

    def begin(self) -> None:
        # From now on the prior is one for these codes; tokens alone do not tell whose they are.
        if self.autoencoder is None:
            self.model.forget_codebook()
        else:
            self.model.remember(self.autoencoder.quantizer.codebook)

    def _given(self, labels: Tensor) -> Tensor | None:
        """The labels that the prior is given: none if it has no classes."""
        return labels if self.model.classes else None

    def make_optimizer(self, parameters, **options):
        return torch.optim.AdamW(parameters, lr=self.optimization.lr, **options)

    def advance(self) -> None:
        self.model.train()
        indices = self.indices_of(self.step, len(self.tokens))
        tokens = self.tokens[indices]
        labels = self._given(self.labels[indices])
        lr = self.warm_up.value(self.step + 1) * self.decay.value(self.step)
        self.optimizer.param_groups[0]["lr"] = lr
        with self.autocast:
            logits = self.model.predict(tokens, labels)
        loss = cross_entropy(at_least_float32(logits).flatten(0, 2), tokens.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        # As usual for transformers, whose gradients can be large at first.
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        # Summed on the device; `measure` reads it.
        self.nats += loss.detach()
        self.summed += 1
        self.step += 1

    def measure(self, validating: bool) -> Row:
        """A row of the history; keeps the weights if they are the best so far."""
        bits = self.nats.item() / self.summed / math.log(2)
        with evaluation_mode(self.model):
            validation_bits = bits_per_token(
                self.model, self.validation_tokens, self._given(self.validation_labels)
            )
        if not math.isfinite(bits + validation_bits):
            raise FloatingPointError(
                f"at step {self.step} the loss is not finite; a smaller lr may help"
            )
        self.nats.zero_()
        self.summed = 0
        if validation_bits < self.best_bits:
            self.best = copy.deepcopy(self.model.state_dict())
            self.best_bits = validation_bits
        return {
            "bits_per_token": bits,
            "validation_bits_per_token": validation_bits,
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def state(self) -> dict[str, Any]:
        return {
            "nats": self.nats,
            "summed": self.summed,
            "best": self.best,
            "best_bits": self.best_bits,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.nats.copy_(state["nats"])
        self.summed = state["summed"]
        self.best = state["best"]
        self.best_bits = state["best_bits"]

    def settle(self) -> None:
        self.model.load_state_dict(self.best)
        super().settle()

    def run(self) -> PriorRun:
        return PriorRun(self.model, list(self.rows), self.settings, self.elapsed())
