"""Fit a prior to the tokens of a trained VQ-VAE: the loop, its history, the best weights, exact resume."""

import copy
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from arcvq.images import ImageData, ImageSplit
from arcvq.ops.blockwise import BLOCK
from arcvq.priors.base import Prior, check_whole, fingerprint
from arcvq.runtime.checkpoints import HeldInterrupt, load_checkpoint, save_checkpoint
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import write_whole
from arcvq.schedules import Cosine, WarmUp
from arcvq.training import batch_indices
from arcvq.vqvae import VQVAE


class TokenSplit(NamedTuple):
    """Tokens (n, h, w) int64 and labels (n,) int64 of one part of a data set."""

    tokens: Int[Tensor, "n h w"]
    labels: Int[Tensor, " n"]


@dataclasses.dataclass
class PriorRun:
    """A fitted prior and how it came about.

    prior: with the weights that were best on the validation tokens. history: one row for each validation, with
    bits_per_token of training since the row before, validation_bits_per_token and lr. settings: what `fit_prior` was
    told. seconds: fitting time, all sessions together.
    """

    prior: Prior
    history: pd.DataFrame
    settings: dict[str, Any]
    seconds: float

    def save(self, folder: Path) -> None:
        """Write the prior, history.csv and, last, run.json into a folder."""
        self.prior.save_pretrained(folder)
        write_whole(folder / "history.csv", lambda path: self.history.to_csv(path, index=False))
        facts = {"settings": self.settings, "seconds": self.seconds}
        write_whole(folder / "run.json", lambda path: path.write_text(json.dumps(facts, indent=2)))

    @classmethod
    def load(cls, folder: str | Path) -> "PriorRun":
        """The run in a folder that `save` wrote. Raises FileNotFoundError or ValueError as `Prior.from_pretrained`."""
        folder = Path(folder)
        facts = json.loads((folder / "run.json").read_text())
        return cls(Prior.from_pretrained(folder), pd.read_csv(folder / "history.csv"), **facts)


def encode_split(model: VQVAE, split: ImageSplit, batch_size: int = 256) -> TokenSplit:
    """The tokens of all images of a split, on the model's device. Raises ValueError for images it cannot take."""
    device = next(model.parameters()).device
    batches = torch.arange(len(split)).split(batch_size)
    return TokenSplit(torch.cat([model.encode(split.batch(some).to(device)) for some in batches]),
                      split.labels.to(device))


@torch.no_grad()
def bits_per_token(prior: Prior, tokens: Int[Tensor, "n h w"], labels: Int[Tensor, " n"] | None = None) -> float:
    """The prior's mean cost of one token in bits, -log2 p: from 0; log2 K for a prior that knows nothing.

    Works in batches, so that the logits never exist whole. Raises ValueError as `Prior.forward` does, and for no grid.
    """
    if len(tokens) == 0:
        raise ValueError("there are no tokens; at least one grid is needed")
    size = max(1, BLOCK // (prior.num_codes * prior.grid[0] * prior.grid[1]))
    nats = sum(prior.log_likelihood(tokens[some].to(prior.device), None if labels is None else
                                    labels[some].to(prior.device)).double().sum().item()
               for some in torch.arange(len(tokens)).split(size))
    return -nats / math.log(2) / tokens.numel()


def bits_per_image(prior: Prior, tokens: Int[Tensor, "n h w"], labels: Int[Tensor, " n"] | None = None) -> float:
    """The prior's mean cost of one grid in bits: h * w times `bits_per_token`."""
    return bits_per_token(prior, tokens, labels) * prior.grid[0] * prior.grid[1]


def fit_prior(prior: Prior, model: VQVAE, images: ImageData, **options: Any) -> PriorRun:
    """Encode the training and validation images once and fit the prior to their tokens; the model stays as it is.

    options: those of `fit_tokens`, of which `steps` must be given. Raises what `fit_tokens` raises, and ValueError
    for a prior of another codebook, number of codes or grid than the model's.
    """
    prior.check_model(model)
    device = choose_device(options.get("device", "auto"))
    grid = tuple(side // model.downsample for side in images.size)
    if grid != prior.grid:
        raise ValueError(f"the prior's grid is {prior.grid} and the tokens of {images.name} have {grid}; "
                         "they must be the same")
    model.to(device)
    train, validation = (encode_split(model, split) for split in (images.train, images.validation))
    prior.codebook_fingerprint = fingerprint(model.quantizer.codebook)
    return fit_tokens(prior, train, validation, **options)


def fit_tokens(
    prior: Prior,
    train: TokenSplit,
    validation: TokenSplit,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    precision: str = "auto",
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    validate_every: int | None = None,
    progress: bool = True,
) -> PriorRun:
    """Fit a network prior to tokens with AdamW on the cross-entropy; lr warms up over a tenth, then falls as a cosine.

    steps, batch_size: from 1, batch_size at most the training grids. lr: the highest, above 0. seed: of the order of
    the grids. precision: auto, float32 or bfloat16 (autocast; the loss stays float32). out: folder for checkpoints and
    the finished run. resume: go on from the checkpoint in `out`, if there is one, to the same final weights (bit for
    bit on a CPU). validate_every: in steps; by default 10 times a run. The prior ends with the weights of the
    validation that was best. A prior with classes is fitted with the labels.

    Raises ValueError for settings or tokens out of range, FloatingPointError when the loss is not finite (checked when
    validating), OSError when `out` cannot be written. Ctrl-C ends the step, saves the state if there is `out`, and is
    raised.
    """
    validate_every = validate_every or max(1, steps // 10)
    check_whole(1, steps=steps, batch_size=batch_size, validate_every=validate_every)
    _check(prior, train, validation, batch_size, lr, resume and out is None)
    device = choose_device(device)
    dtype = choose_precision(precision, device)
    settings = {"prior": prior.config(), "tokens": fingerprint(*train, *validation), "steps": steps,
                "batch_size": batch_size, "lr": lr, "seed": seed, "validate_every": validate_every,
                "precision": str(dtype).removeprefix("torch.")}
    train, validation = (TokenSplit(*(tensor.to(device) for tensor in split)) for split in (train, validation))
    trainer = _Trainer(prior.to(device), train, validation, settings, dtype, Path(out) if out else None)
    with HeldInterrupt() as interrupt:
        trainer.start(resume)
        bar = tqdm(total=steps, initial=trainer.step, desc="fit", unit="step", mininterval=0.5, disable=not progress)
        with bar:
            while trainer.step < steps:
                trainer.advance()
                validating = trainer.step % validate_every == 0 or trainer.step == steps
                if validating:
                    bar.set_postfix(trainer.validate(), refresh=False)
                if validating or interrupt.asked:
                    trainer.save()
                bar.update()
                if interrupt.asked:
                    raise KeyboardInterrupt(trainer.farewell())
    run = trainer.finished()
    if out:
        run.save(Path(out))
    return run


def _check(prior, train, validation, batch_size, lr, resume_nowhere) -> None:
    """Raise ValueError for settings or tokens that cannot work."""
    if not any(parameter.requires_grad for parameter in prior.parameters()):
        raise ValueError(f"{type(prior).__name__} has nothing to learn by steps; fit it with its method count")
    for name, split in (("training", train), ("validation", validation)):
        if len(split.tokens) == 0:
            raise ValueError(f"there are no {name} tokens; at least one grid is needed")
        prior.check(split.tokens, split.labels if prior.classes else None)
    if batch_size > len(train.tokens):
        raise ValueError(f"batch_size is {batch_size}; it must be at most {len(train.tokens)}, the training grids")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}; it must be a finite number above 0")
    if resume_nowhere:
        raise ValueError("resume is True but out is None; name the folder of the run to go on with")


class _Trainer:
    """The state of a run and what one step does to it. Nothing in it is random but the start, which the caller made."""

    def __init__(self, prior, train, validation, settings, dtype, out):
        self.prior, self.train, self.validation = prior, train, validation
        self.settings, self.dtype, self.out = settings, dtype, out
        self.checkpoint = out / "checkpoint.pt" if out else None
        learned = [parameter for parameter in prior.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, fused=prior.device.type in ("cpu", "cuda"))
        steps, lr = settings["steps"], settings["lr"]
        self.warm_up, self.decay = WarmUp(0.0, 1.0, max(1, steps // 10)), Cosine(lr, 0.0, steps)
        self.step, self.seconds, self.history = 0, 0.0, []
        self.nats, self.summed = torch.zeros((), device=prior.device), 0
        self.best, self.best_bits = None, math.inf
        self.began = time.perf_counter()

    def start(self, resume: bool) -> None:
        """Begin at step 0, or where the checkpoint stands."""
        if resume and self.checkpoint and self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint, self.settings)
            self.prior.load_state_dict(state["prior"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in ("step", "seconds", "history", "summed", "best", "best_bits"):
                setattr(self, name, state[name])
            self.nats.copy_(state["nats"])
        else:
            self.save()  # an unwritable folder is found before the work, not after it

    def advance(self) -> None:
        """One optimiser step. Nothing here waits for the device."""
        self.prior.train()
        chosen = batch_indices(len(self.train.tokens), self.settings["batch_size"], self.settings["seed"], self.step)
        tokens, labels = (tensor[chosen.to(tensor.device)] for tensor in self.train)
        for group in self.optimizer.param_groups:
            group["lr"] = self.warm_up.value(self.step + 1) * self.decay.value(self.step)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.prior.predict(tokens, labels if self.prior.classes else None)
        loss = cross_entropy(logits.float().flatten(0, 2), tokens.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.prior.parameters(), 1.0)
        self.optimizer.step()
        self.nats += loss.detach()
        self.summed += 1
        self.step += 1

    def validate(self) -> dict[str, str]:
        """Add a row to the history and keep the weights if they are the best; returns what the bar shows."""
        self.prior.eval()
        bits = self.nats.item() / self.summed / math.log(2)
        validation = bits_per_token(self.prior, self.validation.tokens,
                                    self.validation.labels if self.prior.classes else None)
        if not math.isfinite(bits + validation):
            raise FloatingPointError(f"at step {self.step} the loss is not finite; a smaller lr may help")
        self.history.append({"step": self.step, "bits_per_token": bits, "validation_bits_per_token": validation,
                             "lr": self.optimizer.param_groups[0]["lr"]})
        self.nats.zero_()
        self.summed = 0
        if validation < self.best_bits:
            self.best, self.best_bits = copy.deepcopy(self.prior.state_dict()), validation
        return {"bits/token": f"{bits:.3f}", "validation": f"{validation:.3f}"}

    def save(self) -> None:
        """Write the checkpoint if there is a folder for it."""
        if not self.checkpoint:
            return
        names = ("settings", "step", "history", "summed", "best", "best_bits", "nats")
        save_checkpoint(self.checkpoint, {name: getattr(self, name) for name in names} | {
            "seconds": self.elapsed(), "prior": self.prior.state_dict(), "optimizer": self.optimizer.state_dict()})

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.began

    def farewell(self) -> str:
        where = f"saved in {self.out}; resume=True goes on" if self.out else "not saved, since out is None"
        return f"stopped at step {self.step} of {self.settings['steps']}, {where}"

    def finished(self) -> PriorRun:
        self.prior.load_state_dict(self.best)
        return PriorRun(self.prior.eval(), pd.DataFrame(self.history), self.settings, self.elapsed())
