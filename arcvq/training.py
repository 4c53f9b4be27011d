"""Train a VQ-VAE: the loop, its history, snapshots of the codebook, checkpoints and exact resume."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm.auto import tqdm

from arcvq.geometry import perplexity
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import SphericalQuantizer
from arcvq.runtime.checkpoints import HeldInterrupt, load_checkpoint, save_checkpoint
from arcvq.runtime.cuda_graph import CapturedStep
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.distributed import (
    any_rank,
    barrier,
    from_first,
    parallel,
    rank,
    sum_,
    world_size,
)
from arcvq.runtime.files import write_whole
from arcvq.samp import SAMP
from arcvq.vqvae import VQVAE

VALIDATION_IMAGES = 256  # during training, at most: all 1,000 digits would take a third of a quick run


class Snapshot(NamedTuple):
    """The codebook (K, D) at one step and how often each code was chosen (K,) since the last line of the history."""

    codebook: Float[Tensor, "K D"]
    counts: Int[Tensor, " K"]


@dataclasses.dataclass
class Run:
    """A trained model and how it came about.

    history: one row for each logged step; losses, PSNR (dB), codes_used and perplexity of training since the row
    before, radius and weight of SAMP, and validation_psnr etc. where measured. snapshots: by step. settings: what
    `fit` was told. seconds: training time, all sessions together.
    """

    model: VQVAE
    history: pd.DataFrame
    snapshots: dict[int, Snapshot]
    settings: dict[str, Any]
    seconds: float

    def save(self, folder: Path) -> None:
        """Write the model, history.csv, snapshots.safetensors and, last, run.json into a folder."""
        self.model.save_pretrained(folder)
        write_whole(folder / "history.csv", lambda path: self.history.to_csv(path, index=False))
        tensors = {f"{step}.{name}": tensor.contiguous() for step, snapshot in self.snapshots.items()
                   for name, tensor in snapshot._asdict().items()}
        write_whole(folder / "snapshots.safetensors", lambda path: save_file(tensors, path))
        facts = {"settings": self.settings, "seconds": self.seconds}
        write_whole(folder / "run.json", lambda path: path.write_text(json.dumps(facts, indent=2)))

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """The run in a folder that `save` wrote. Raises FileNotFoundError or ValueError as `VQVAE.from_pretrained`."""
        folder = Path(folder)
        model = VQVAE.from_pretrained(folder)
        tensors = load_file(folder / "snapshots.safetensors")
        steps = sorted({int(name.split(".")[0]) for name in tensors})
        snapshots = {step: Snapshot(tensors[f"{step}.codebook"], tensors[f"{step}.counts"]) for step in steps}
        facts = json.loads((folder / "run.json").read_text())
        return cls(model, pd.read_csv(folder / "history.csv"), snapshots, **facts)


def fit(
    model: VQVAE,
    images: ImageData,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    precision: str = "auto",
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    log_every: int | None = None,
    validate_every: int | None = None,
    snapshots: int = 24,
    progress: bool = True,
    on_log: Callable[[Run], bool | None] | None = None,
    capture: bool = False,
) -> Run:
    """Train with Adam on reconstruction / Var(train images) + the quantizer's loss; the caller's generators stay put.

    steps, batch_size: from 1, batch_size at most the training images. lr: above 0. precision: auto, float32 or
    bfloat16 (autocast; the quantizer and the losses stay float32). out: folder for checkpoints and the finished run.
    resume: go on from the checkpoint in `out`, if there is one, to the same final weights (bit for bit on a CPU).
    log_every, validate_every: in steps (defaults: 50 and 5 times a run). Validating looks at the first 256 validation
    images, and writes the checkpoint.
    snapshots: how many codebooks to keep. A spherical quantizer without settings gets `SAMP.for_run(steps)`.
    on_log: called by the training thread after each new row of the history with the run so far; True ends the run
    there. A run that ends early is returned like a finished one, but in `out` it is a checkpoint to resume from.
    capture: on CUDA, record the step once as a CUDA graph and replay it (arcvq.runtime.cuda_graph). Not yet tried on a GPU.
    Where many processes train together (arcvq.runtime.distributed), each calls this with an equal model and the same settings:
    they divide each batch, which must come out even, and rank 0 writes. Ctrl-C then waits for the next logged step;
    torchrun ends processes that take longer than its --shutdown-timeout (30 s).

    Raises ValueError for settings out of range, FloatingPointError when values are not finite (checked when logging),
    OSError when `out` cannot be written. Ctrl-C ends the step, saves the state if there is `out`, and is raised.
    """
    log_every, validate_every = log_every or max(1, steps // 50), validate_every or max(1, steps // 5)
    _check(model, images, steps, batch_size, lr, snapshots, resume and out is None)
    device = choose_device(device)
    dtype = choose_precision(precision, device)
    if capture and (device.type != "cuda" or world_size() > 1):
        raise ValueError(f"capture is True on {device} with {world_size()} processes; it needs CUDA and one process")
    if isinstance(model.quantizer, SphericalQuantizer) and model.quantizer.samp is None:
        model.quantizer.samp = SAMP.for_run(steps)
    settings = {"model": model.config(), "data": images.name, "images": images.fingerprint, "steps": steps,
                "batch_size": batch_size, "lr": lr, "seed": seed, "precision": str(dtype).removeprefix("torch.")}
    images = images.to(device)
    model.to(device).to(memory_format=torch.channels_last)
    trainer = Trainer(model, images, settings, batch_size, lr, seed, dtype, Path(out) if out else None, capture)
    with _own_randomness(device, seed), HeldInterrupt() as interrupt:
        trainer.start(resume)
        bar = tqdm(total=steps, initial=trainer.step, desc="train", unit="step", mininterval=0.5,
                   disable=not progress or rank() > 0)
        with bar:
            stopped = asked = False
            while trainer.step < steps and not stopped:
                trainer.advance()
                if trainer.step * snapshots // steps > (trainer.step - 1) * snapshots // steps:
                    trainer.snapshot()  # before logging, which starts the usage counts anew
                validating = trainer.step % validate_every == 0 or trainer.step == steps
                logging = validating or trainer.step % log_every == 0
                if logging:
                    bar.set_postfix(trainer.log(validating), refresh=False)
                    stopped = any_rank(bool(on_log and on_log(trainer.run())))
                if logging or world_size() == 1:  # ranks wait for each other here anyway
                    asked = any_rank(interrupt.asked)
                if validating or asked or stopped:
                    trainer.save()
                bar.update()
                if asked:
                    raise KeyboardInterrupt(trainer.farewell())
    model.eval()
    run = trainer.run()
    if out and trainer.step == steps and rank() == 0:  # run.json, which `save` writes, says that a run is finished
        run.save(Path(out))
    barrier()  # so that every rank finds the files
    return run


def _check(model, images, steps, batch_size, lr, snapshots, resume_nowhere) -> None:
    """Raise ValueError for settings that cannot work."""
    for name, number in (("steps", steps), ("batch_size", batch_size), ("snapshots", snapshots)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number}; it must be a whole number from 1")
    if batch_size > len(images.train):
        raise ValueError(f"batch_size is {batch_size}; it must be at most {len(images.train)}, the training images")
    if batch_size % world_size():
        raise ValueError(f"batch_size is {batch_size}; it must be divisible by {world_size()}, the number of processes")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}; it must be a finite number above 0")
    if resume_nowhere:
        raise ValueError("resume is True but out is None; name the folder of the run to go on with")
    model.check_images(images.train.batch(torch.zeros(1, dtype=torch.int64)))


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seeded generators inside, the caller's generators as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).to(device)


def batch_indices(
    count: int, batch_size: int, seed: int, step: int, device: torch.device = torch.device("cpu")  # noqa: B008
) -> Int[Tensor, " batch_size"]:
    """Which images step `step` sees: a fresh order for each epoch, the last incomplete batch dropped.

    A pure function of its arguments, so that a resumed run needs no state for it. An order goes to the device once.
    """
    epoch, place = divmod(step, count // batch_size)
    return _order(count, seed, epoch, device)[place * batch_size : (place + 1) * batch_size]


class Trainer:
    """The state of a run and what one step does to it."""

    def __init__(self, model, images, settings, batch_size, lr, seed, dtype, out=None, capture=False):
        self.model, self.images, self.settings = model, images, settings
        self.parallel = parallel(model)
        self.batch_size, self.seed, self.dtype, self.out = batch_size, seed, dtype, out
        self.checkpoint = out / "checkpoint.pt" if out else None
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        fused = images.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(learned, lr=lr, fused=fused, capturable=capture)
        self.capture = capture
        # The settings of SAMP stand in a recording as constants.
        self.take = CapturedStep(self.learn, lambda: getattr(model.quantizer, "samp", None)) if capture else self.learn
        self.step, self.seconds, self.history, self.snapshots = 0, 0.0, [], {}
        self.began = time.perf_counter()

    def start(self, resume: bool) -> None:
        """Begin at step 0, or where the checkpoint stands."""
        if resume and self.checkpoint and from_first(self.checkpoint.exists()):
            state = load_checkpoint(self.checkpoint, self.settings)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:  # the run may have begun elsewhere
                group["capturable"] = self.capture
            self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
            self.snapshots = {step: Snapshot(*tensors) for step, tensors in state["snapshots"].items()}
            torch.set_rng_state(state["generator"])
            if self.images.device.type == "cuda" and "cuda_generator" in state:  # not of a run that began on a CPU
                torch.cuda.set_rng_state(state["cuda_generator"], self.images.device)
        else:
            self.model.quantizer.reset_usage()
            self.snapshot()
            self.save()  # an unwritable folder is found before the work, not after it

    def advance(self) -> None:
        """One optimiser step on the next batch. Nothing here waits for the device."""
        self.model.train()
        chosen = batch_indices(len(self.images.train), self.batch_size, self.seed, self.step, self.images.device)
        own = chosen.chunk(world_size())[rank()]
        self.batch = self.images.train.batch(own).contiguous(memory_format=torch.channels_last)
        self.take(self.batch)
        self.step += 1

    def learn(self, batch: Float[Tensor, "B C H W"]) -> None:
        """Forward and backward pass, and what follows; all of it on the device, so that it can be recorded."""
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.parallel(batch)
        self.error = mse_loss(output.reconstruction.float(), batch)
        self.loss = self.error / self.images.variance + output.quantized.loss
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()
        self.model.quantizer.after_step()
        self.losses = output.quantized.losses

    def log(self, validating: bool) -> dict[str, str]:
        """Add a row to the history; returns what the progress bar shows."""
        values = torch.stack([self.loss.detach(), self.error.detach(), *self.losses.values()])
        loss, error, *terms = (sum_(values) / world_size()).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(self.diagnosis(loss))
        quantizer = self.model.quantizer
        row = {"step": self.step, "loss": loss, "reconstruction": error / self.images.variance}
        row |= dict(zip(self.losses, terms, strict=True))
        row["psnr"] = _decibels(error)
        row["codes_used"] = int((quantizer.counts > 0).sum())
        row["perplexity"] = float(perplexity(quantizer.counts))
        if isinstance(quantizer, SphericalQuantizer):
            samp, usage = quantizer.active_samp(), quantizer.batch_usage()
            row |= {name: float(schedule.value(quantizer.step, usage))
                    for name, schedule in (("radius", samp.radius), ("weight", samp.weight)) if schedule is not None}
        quantizer.reset_usage()
        if validating:
            measures = evaluate(self.model, self.images.validation.first(VALIDATION_IMAGES))
            row |= {f"validation_{name}": measures[name] for name in ("psnr", "codes_used", "perplexity")}
        self.history.append(row)
        return {"loss": f"{row['loss']:.3f}", "PSNR": f"{row['psnr']:.1f} dB", "codes": f"{row['codes_used']}",
                "perplexity": f"{row['perplexity']:.0f}"}

    def diagnosis(self, loss: float) -> str:
        """Which values are not finite, in one sentence."""
        latents = self.model.encoder(self.batch)
        names = {"images": self.batch, "latents": latents, "codebook": self.model.quantizer.codebook}
        bad = {name: (int((~tensor.isfinite()).sum()), tensor.numel()) for name, tensor in names.items()}
        found = ", ".join(f"{count} of {total} values of the {name}" for name, (count, total) in bad.items() if count)
        last = self.history[-1]["step"] if self.history else 0
        return (f"at step {self.step} the loss is {loss}: {found or 'no value of the batch'} NaN or "
                f"infinite; all was finite at step {last}, and a smaller lr may help")

    def snapshot(self) -> None:
        quantizer = self.model.quantizer
        codebook = quantizer.codebook.detach().to("cpu", copy=True)
        self.snapshots[self.step] = Snapshot(codebook, quantizer.counts.to("cpu", copy=True))

    def save(self) -> None:
        """Write the checkpoint if there is a folder for it; rank 0 does."""
        if not self.checkpoint or rank() > 0:
            return
        state = {"settings": self.settings, "step": self.step, "seconds": self.elapsed(), "history": self.history,
                 "snapshots": {step: tuple(snapshot) for step, snapshot in self.snapshots.items()},
                 "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "generator": torch.get_rng_state()}
        if self.images.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.images.device)
        save_checkpoint(self.checkpoint, state)

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.began

    def farewell(self) -> str:
        where = f"saved in {self.out}; resume=True goes on" if self.out else "not saved, since out is None"
        return f"stopped at step {self.step} of {self.settings['steps']}, {where}"

    def run(self) -> Run:
        """The run so far."""
        return Run(self.model, pd.DataFrame(self.history), dict(self.snapshots), self.settings, self.elapsed())


def _decibels(error: float) -> float:
    """PSNR in dB for a mean squared error of images in [-1, 1]."""
    return 10 * math.log10(4 / error) if error > 0 else math.inf


@torch.no_grad()
def evaluate(model: VQVAE, split: ImageSplit, batch_size: int = 256, ssim: bool = False) -> dict[str, float]:
    """Measures of a model on one part of a data set, in float32; the model ends in the mode that it came in.

    psnr: dB over all pixels at once, straight from tensors, reconstructions held within [-1, 1]. l1: mean absolute
    error, images in [-1, 1]. ssim: on request. codes_used and usage (share of codes), perplexity, its ceiling
    min(K, tokens), and tokens, the number of indices counted.
    """
    if len(split) == 0:
        raise ValueError("the split is empty; there is nothing to evaluate")

    training, device = model.training, next(model.parameters()).device
    model.eval()
    counts = torch.zeros(model.quantizer.num_codes, dtype=torch.int64, device=device)
    squared = absolute = similarity = 0.0
    for indices in torch.arange(len(split)).split(batch_size):
        images = split.batch(indices).to(device).contiguous(memory_format=torch.channels_last)
        output = model(images)
        reconstruction = output.reconstruction.clamp(-1, 1)
        counts += torch.bincount(output.quantized.indices.flatten(), minlength=len(counts))
        squared += (reconstruction - images).double().square().sum().item()
        absolute += (reconstruction - images).double().abs().sum().item()
        if ssim:
            from arcvq.metrics import ssim as structural_similarity

            similarity += float(structural_similarity(reconstruction, images)) * len(images)
    model.train(training)
    values, tokens = split.images.numel(), int(counts.sum())
    used = int((counts > 0).sum())
    measures = {"psnr": _decibels(squared / values), "l1": absolute / values, "codes_used": used,
                "usage": used / len(counts), "perplexity": float(perplexity(counts)),
                "perplexity_ceiling": min(len(counts), tokens), "tokens": tokens}
    return measures | ({"ssim": similarity / len(split)} if ssim else {})
