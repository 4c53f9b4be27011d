"""Train a VQ-VAE: `fit` takes a model and data and returns a `Run`; `evaluate` measures a model.

`TrainingSession` holds what every training run needs, whatever the model: the loop, the progress
bar, checkpoints, resuming and Ctrl-C. `VQVAESession` adds the step and the history of a VQ-VAE;
that of a prior is in arcvq.priors.fitting.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm.auto import tqdm

from arcvq import metrics
from arcvq.autoencoder import Autoencoder
from arcvq.geometry import perplexity, perplexity_ceiling
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import ContinuousQuantizer, Quantizer, SphericalQuantizer
from arcvq.runtime.checkpoints import (
    check_optimizer,
    check_parameters,
    check_settings,
    load_checkpoint,
    reading_checkpoint,
    save_checkpoint,
)
from arcvq.runtime.checks import (
    NotFinite,
    as_seed,
    check_finite,
    check_positive,
    check_whole,
    use_python_numbers,
)
from arcvq.runtime.cuda_graph import CapturedStep
from arcvq.runtime.devices import choose_device, choose_precision, dtype_name, threads_kept
from arcvq.runtime.distributed import (
    any_rank,
    barrier,
    from_first,
    mean_,
    own_share,
    parallel,
    rank,
    world_size,
)
from arcvq.runtime.files import delete, write_folder, write_whole
from arcvq.runtime.interrupt import HeldInterrupt
from arcvq.runtime.modes import evaluation_mode
from arcvq.runtime.precision import as_float64, float32_weights
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.run_record import (
    Row,
    RunRecord,
    is_ended_early,
    naming_file,
    saved_settings,
)
from arcvq.streamed_images import UnreadableImage

RUN_FILES = (  # of a finished run, without its card; run.json says that it is finished
    "run.json",
    "history.csv",
    "config.json",
    "model.safetensors",
    "snapshots.safetensors",
)
CHECKPOINT_SECONDS = 300  # at most so long from one checkpoint to the next

# Below this number of pixel values in a batch (83 images of 28x28), one thread is as fast as two.
# Beside another training on the same two cores it is 40 times as fast: threads that share a small
# operation keep waiting for each other's turn on the processor.
SMALLEST_SHARED_STEP = 2**16

# Images of a validation during training. All 1,000 digits would take a third of a quick run.
VALIDATION_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class Compute:
    """Device and numerical precision of a training run.

    Attributes:
        device: The device. `"auto"` takes CUDA, then MPS, then the CPU.
        precision: `"float32"`, or `"bfloat16"` for autocast of the networks, among them the
            perceptual network and the discriminator of `fit_vqgan`; the quantizer and the other
            losses stay float32. `"auto"` takes bfloat16 where the device is faster with it.
        cuda_graph: Record the training step once as a CUDA graph and replay it, which avoids
            the overhead of launching each kernel. Needs CUDA and one process; not yet tried on a
            GPU.
    """

    device: str | torch.device = "auto"
    precision: str = "auto"
    cuda_graph: bool = False


@dataclasses.dataclass(frozen=True)
class Recording:
    """Logging, checkpoints and callback of a training run.

    Attributes:
        folder: Where the checkpoint and, in its place, the finished run are written; None to write
            nothing.
        resume: Go on from the checkpoint in `folder`, if there is one. The final weights are those
            of a run without the interruption, bit for bit on a CPU. A run that is finished is
            opened instead.
        overwrite: Replace the run that `folder` holds. Otherwise it is refused, so that no training
            is lost by accident.
        log_every: Steps from one row of the history to the next; by default a fiftieth of the run,
            rounded up.
        validate_every: Steps from one validation to the next; by default a fifth of the run,
            rounded up, and for a prior a tenth, rounded down. Each validation adds a row to the
            history and writes the checkpoint, which is also written every five minutes.
        snapshots: How many codebooks to keep, evenly over the run, besides the one at the start.
        progress: Whether to show a progress bar.
        on_log: Called after each new row of the history with the run so far. If it returns True,
            the run ends there; `folder` then holds a checkpoint to resume from, also where the
            run is saved beside it. The model is in
            evaluation mode meanwhile, and random numbers that are drawn leave those of the run
            alone.
    """

    folder: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    log_every: int | None = None
    validate_every: int | None = None
    snapshots: int = 24
    progress: bool = True
    on_log: Callable[[Any], bool | None] | None = None

    def __post_init__(self):
        if self.resume and self.folder is None:
            raise ValueError(
                "resume is True but folder is None; name the folder of the run to go on with"
            )
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite are both True; at most one of them can be")
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder).expanduser())


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Optimization hyperparameters.

    Attributes:
        steps: Number of optimizer steps, at least 1.
        batch_size: Training examples a step, at least 1.
        lr: Learning rate, above 0.
        seed: Seed of the order of the examples and of what is drawn while training, from 0.
        schedule: `"restart"` or `"continue"`: at which step the schedules of the quantizer begin.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    schedule: str = "restart"

    def __post_init__(self):
        use_python_numbers(self)
        check_whole(1, steps=self.steps, batch_size=self.batch_size)
        as_seed(self.seed)  # checks it
        check_positive(lr=self.lr)


class Snapshot(NamedTuple):
    """The codebook at one step of a run.

    Attributes:
        codebook: The codes.
        counts: How often training chose each code since the last row of the history.
    """

    codebook: Float[Tensor, "K D"]
    counts: Int[Tensor, " K"]


@dataclasses.dataclass(repr=False, eq=False)
class Run(RunRecord):
    """A trained model with the record of its training.

    Attributes:
        model: The model.
        rows: One dict for each row of `history`.
        snapshots: Snapshots of the codebook by step, the first at step 0.
        settings: What `fit` was told.
        seconds: Training time, all sessions together.
        history: A pandas table with a row for each logged step: the losses, PSNR (dB), codes used
            and perplexity of training, radius and weight of SAMP (the ball after the step, and the
            weight that its loss had), and validation_psnr, validation_codes_used and
            validation_perplexity where they were measured. Losses and PSNR of training are those
            of one batch; codes are counted since the row before. Validation takes at most 256
            images, in equal steps; `evaluate` measures all.
    """

    WHAT = "run"
    OPENER = "arcvq.autoencoder.Autoencoder.from_pretrained"

    model: Autoencoder
    rows: list[Row]
    snapshots: dict[int, Snapshot]
    settings: dict[str, Any]
    seconds: float

    def subject(self) -> str:
        return f"{self.model.kind} with {self.model.quantizer.kind}"

    def write_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        tensors = {}
        for step, snapshot in self.snapshots.items():
            tensors[f"{step}.codebook"] = snapshot.codebook.contiguous()
            tensors[f"{step}.counts"] = snapshot.counts
        write_whole(folder / "snapshots.safetensors", lambda path: save_file(tensors, path))

    @staticmethod
    def read_model(folder: Path) -> dict[str, Any]:
        model = Autoencoder.from_pretrained(folder)
        file = folder / "snapshots.safetensors"
        with naming_file(file):
            return {"model": model, "snapshots": _read_snapshots(file)}


def _read_snapshots(file: Path) -> dict[int, Snapshot]:
    """The snapshots in a file that `Run.write_model` wrote."""
    tensors = load_file(file)
    steps = {int(name.partition(".")[0]) for name in tensors}
    return {
        step: Snapshot(tensors[f"{step}.codebook"], tensors[f"{step}.counts"])
        for step in sorted(steps)
    }


def fit(  # noqa: PLR0913  (the ninth argument is an exception, and should stay the only one)
    model: Autoencoder,
    data: ImageData,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    schedule: str = "restart",
    compute: Compute = Compute(),
    recording: Recording = Recording(),
) -> Run:
    """Train a VQ-VAE with Adam and return the run.

    The loss is the mean squared error of the reconstruction, divided by the variance of the
    training images, plus the loss of the quantizer. Each epoch goes through the images in a new
    order and leaves out the last, incomplete batch. The caller's random generators are left as
    they were. A `SphericalQuantizer` without settings gets `SAMP.for_run(steps)`. A frozen codebook
    (`quantizer.freeze()`) stays as it is. A model in half precision is trained and validated in
    float32; at the end it is rounded, and saved as it is then.

    With several processes (see arcvq.runtime.distributed), each calls `fit` with the same model and
    settings. They divide each batch among them, and the first one writes the files.

    Args:
        model: The model, which is trained in place.
        data: The data set.
        steps: Number of optimizer steps, at least 1.
        batch_size: Images a step, of all processes together; at most the training images.
        lr: Learning rate, above 0.
        seed: Seed of the order of the images and of what the quantizer draws.
        schedule: "restart" begins the schedules of SAMP at step 0, whatever training the model has
            behind it; "continue" goes on where they stopped. (To go on with a run that was
            interrupted, use `Recording(resume=True)`.)
        compute: Device and precision.
        recording: What is logged, how often, and where it is written.

    Returns:
        The run, with the model in evaluation mode.

    Raises:
        ValueError: If an argument is out of range.
        FloatingPointError: If the loss is not finite, or what the model computes of validation
            images. This is checked for each row of the history.
        UnreadableImage: If images are streamed and a file cannot be used. The state is saved.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: After Ctrl-C, once the step under way is done and the state is saved.
            Several processes go on until the next logged step; torchrun waits for them no longer
            than its --shutdown-timeout (30 s).
    """
    optimization = Optimization(steps, batch_size, lr, seed, schedule)
    return VQVAESession.fit(model, data, optimization, compute, recording)


def _seed_of_epoch(seed: int, epoch: int) -> int:
    # A large prime keeps the epochs of one seed apart from those of the next.
    return seed * 1_000_003 + epoch


# Cached, so that the order of an epoch goes to the device once: of this run, and of another.
@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int, device: str | torch.device) -> Tensor:
    """All numbers below `count` in the order of this epoch."""
    generator = torch.Generator().manual_seed(_seed_of_epoch(seed, epoch))
    return torch.randperm(count, generator=generator).to(device)


def batch_indices(
    count: int, batch_size: int, seed: int, step: int, device: str | torch.device = "cpu"
) -> Int[Tensor, " batch_size"]:
    """Which examples a step sees: each epoch has a new order and drops its last, incomplete batch.

    A function of its arguments alone, so that a resumed run needs no state for it.
    """
    epoch, batch = divmod(step, count // batch_size)
    order = _epoch_order(count, as_seed(seed), epoch, device)
    return order[batch * batch_size : (batch + 1) * batch_size]


def check_batch(batch_size: int, examples: int, kind: str = "images") -> None:
    """Raise ValueError for a batch that is larger than the training data.

    Args:
        batch_size: Examples of a batch.
        examples: Examples to train on.
        kind: What they are, for the message.
    """
    if batch_size > examples:
        raise ValueError(
            f"batch_size is {batch_size}; it must be at most {examples}, the training {kind}"
        )


def _interval(name: str, told: int | None, steps: int, parts: int) -> int:
    """Steps from one time to the next: what the user said, or the run in so many equal parts."""
    if told is None:
        return math.ceil(steps / parts)
    check_whole(1, **{name: told})
    return int(told)


class TrainingSession:
    """A training run, from its start or from a checkpoint to its end.

    The subclasses `VQVAESession` and `PriorSession` define what differs: `advance` takes a step,
    `measure` gives a row of the history, `state` and `restore` say what a checkpoint holds besides
    the model and its optimizer, and `run` gives the result. The methods here call them in turn.

    Args:
        model: The model, which is trained in place.
        examples: Number of training examples.
        optimization: Steps, batch size, learning rate and seed.
        compute: Device and precision.
        recording: Logging, checkpoints and callback.

    Attributes:
        model: The model, on the device.
        optimizer: Its optimizer.
        settings: What the result depends on; a run resumes only from a checkpoint with the same
            settings. Subclasses add to it.
        device: The device.
        step: Optimizer steps done.
        rows: The rows of the history so far.
    """

    RUN: Any  # the class of what `train` returns
    MODEL = "model"  # what checkpoints and runs call it
    EXAMPLES = "images"  # what a batch consists of
    SHOWN: tuple[str, ...]  # columns of the history that the progress bar shows

    def __init__(
        self,
        model: Any,
        examples: int,
        optimization: Optimization,
        compute: Compute,
        recording: Recording,
    ):
        check_batch(optimization.batch_size, examples, self.EXAMPLES)
        steps = optimization.steps
        self.steps = steps
        self.log_every = _interval("log_every", recording.log_every, steps, 50)
        self.validate_every = _interval("validate_every", recording.validate_every, steps, 5)
        check_whole(1, snapshots=recording.snapshots)
        self.optimization = optimization
        self.recording = recording
        folder = Path(recording.folder or "")
        self.checkpoint = folder / "checkpoint.pt"
        self.finished = folder / "run.json"  # written last
        self._check_folder()
        self.device = choose_device(compute.device)
        dtype = choose_precision(compute.precision, self.device)
        in_bfloat16 = dtype == torch.bfloat16
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16)
        # What decides the result. Device and recording may change when a run goes on.
        self.settings: dict[str, Any] = {**vars(optimization), "precision": dtype_name(dtype)}
        if optimization.schedule == "restart":
            del self.settings["schedule"]  # checkpoints of earlier versions do not name it
        self.model = model.to(self.device)
        frozen = self.frozen()
        if frozen:
            self.settings["frozen"] = frozen
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not learned:
            raise ValueError(
                f"no parameter of the {model.kind} is left to the optimizer, since all are frozen "
                "or follow moving averages; unfreeze one, or write a loop of your own"
            )
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = self.make_optimizer(learned, fused=fused)
        self.step = 0
        self.rows: list[Row] = []
        self.began = time.perf_counter()
        self.saved = self.began  # when the last checkpoint was due
        self.saved_step = 0  # that of the last checkpoint
        self.interrupted = False  # by Ctrl-C after the last step was recorded

    @classmethod
    def fit(cls, model: Any, *arguments: Any) -> Any:
        """Train a model in at least float32, write the run where there is a folder, and return it.

        Args:
            model: The model, which is trained in place and gets its own precision back before it is
                written.
            *arguments: The other arguments of the session.
        """
        with float32_weights(model):
            session = cls(model, *arguments)
            run = session.train()
        session.finish(run)
        return run

    @property
    def threads(self) -> int | None:
        """How many threads of the processor are used for training; None for torch's own number."""
        return None

    def parameters(self) -> list[Tensor]:
        """What the optimizer moves, unless it is frozen."""
        return list(self.model.parameters())

    def frozen(self) -> list[str]:
        """The names of what stays as it is although it could be trained."""
        return [name for name, weight in self.model.named_parameters() if not weight.requires_grad]

    def make_optimizer(self, parameters: Iterable[Tensor], **options: Any) -> torch.optim.Optimizer:
        """Make the optimizer that moves these parameters."""
        return torch.optim.Adam(parameters, lr=self.optimization.lr, **options)

    def advance(self) -> None:
        """Take one optimizer step. Nothing in it may wait for the device."""
        raise NotImplementedError

    def measure(self, validating: bool) -> Row:
        """A row of the history, with measures of validation data if `validating`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides what all sessions have in common."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        raise NotImplementedError

    def run(self) -> Any:
        """The run so far."""
        raise NotImplementedError

    def begin(self) -> None:
        """Prepare the model for the first step, once nothing refuses the run."""

    def snapshot(self) -> None:
        """Keep a part of the model as it is now."""

    def settle(self) -> None:
        """Bring the model into the state in which it is handed over."""
        self.model.eval()

    def indices_of(
        self, step: int, count: int, device: str | torch.device | None = None
    ) -> Int[Tensor, " batch_size"]:
        """Which of `count` training examples a step sees, on the device of the run or another."""
        optimization = self.optimization
        return batch_indices(
            count, optimization.batch_size, optimization.seed, step, device or self.device
        )

    def train(self) -> Any:
        """Go through the steps that are left and return the run; one that is finished is opened.

        What it returns is not written yet; `finish` does that.
        """
        if self._is_finished():
            return self._opened()
        state = self._saved_state()
        if state is None and self._is_finished():  # another process did, this very moment
            return self._opened()
        with (
            # Quantizers may draw numbers; a checkpoint overwrites this state with its own.
            isolated_rng(self.optimization.seed),
            threads_kept(self.threads),
            HeldInterrupt() as interrupt,
        ):
            self.start(state)
            with self._progress_bar() as bar:
                for _ in range(self.step, self.steps):
                    self.advance()
                    bar.update()
                    if self._record(bar, interrupt):
                        break
        self.interrupted = interrupt.asked
        self.settle()
        return self.run()

    def finish(self, run: Any) -> None:
        """Write the run that `train` returned, if it is complete and there is a folder for it.

        Raises:
            KeyboardInterrupt: After Ctrl-C during the end of `train`.
        """
        folder = self.recording.folder
        if folder and self.step == self.steps and rank() == 0:
            self._keep(run)
        barrier()  # so that every process finds the files
        if folder and any_rank(self.interrupted):
            raise KeyboardInterrupt(f"asked to end; the run is saved in {folder}")

    def start(self, state: dict[str, Any] | None) -> None:
        """Begin at step 0, or where a checkpoint stands.

        Whatever refuses the run does so before the model changes.

        Args:
            state: What the checkpoint holds; None to begin at step 0.
        """
        if state is not None:
            self._go_on(state)
        else:
            self._check_folder()  # once more, as another process may have begun meanwhile
            self._probe_folder()
            self.begin()
            self.snapshot()
            self.save()
            self.drop_replaced()

    def _is_finished(self) -> bool:
        """Whether there is a finished run to open."""
        return self.recording.resume and from_first(self._holds_finished())

    def _holds_finished(self) -> bool:
        """Whether the folder holds a run that is not one that was saved before its end."""
        return self.finished.exists() and not is_ended_early(self.finished.parent)

    def _saved_state(self) -> dict[str, Any] | None:
        """What the checkpoint holds, if there is one to go on from.

        Raises FileNotFoundError in all processes where some do not find it.
        """
        if not self.recording.resume or not from_first(self.checkpoint.exists()):
            return None
        try:
            state = load_checkpoint(self.checkpoint, self.settings)
        except FileNotFoundError:
            state = None
        # A checkpoint that is gone again belonged to a run that another process has finished.
        if any_rank(state is None) and not self._is_finished():
            raise FileNotFoundError(
                f"checkpoint {self.checkpoint} is not there for every process; all of them need "
                "the same folder"
            )
        return state

    def _opened(self) -> Any:
        """The finished run in the folder, with its weights in the model."""
        # Before it is opened, since a run of another kind would seem to be damaged.
        self._check_finished()
        run = self.RUN.load(self.recording.folder)
        self.begin()
        self.model.load_state_dict(getattr(run, self.MODEL).state_dict())
        self.model.eval()
        return dataclasses.replace(run, **{self.MODEL: self.model})

    def _keep(self, run: Any) -> None:
        """Write the finished run, which no longer needs its checkpoint.

        Raises:
            ValueError: Where a run of other settings was finished in the folder meanwhile.
        """
        if self._holds_finished():
            # The files of the same run stay as they are, since a third process may be opening them.
            self._check_finished()
        else:
            run.save(self.recording.folder)
        self.checkpoint.unlink(missing_ok=True)

    def _check_finished(self) -> None:
        """Raise ValueError where the finished run in the folder has other settings than this."""
        folder = self.finished.parent
        check_settings(f"the run in {folder}", saved_settings(folder), self.settings)

    def _go_on(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        with reading_checkpoint(self.checkpoint):
            check_whole(0, step=state["step"])
            self.step = self.saved_step = state["step"]
            self.rows = state["history"]
            # As if this session had begun so much earlier.
            self.began -= state["seconds"]
            self.optimizer.load_state_dict(state["optimizer"])
            check_optimizer(self.optimizer)
            self.restore(state)
            check_parameters(self.model, state[self.MODEL])
        self.begin()
        self.model.load_state_dict(state[self.MODEL])

    def _probe_folder(self) -> None:
        """Raise OSError for a folder that cannot be written, before the work is done."""
        if self.recording.folder and rank() == 0:
            write_folder(Path(self.recording.folder), lambda draft: None)

    def drop_replaced(self) -> None:
        """Give up the run that this one overwrites, once the folder holds a checkpoint of this."""
        if self.recording.overwrite and self.recording.folder and rank() == 0:
            for name in RUN_FILES:
                delete(Path(self.recording.folder) / name)

    def _check_folder(self) -> None:
        """Raise FileExistsError for a run or a model that may not be overwritten."""
        recording = self.recording
        if recording.folder is None or recording.overwrite:
            return
        folder = Path(recording.folder)
        held = [file.name for file in (self.finished, self.checkpoint) if file.exists()]
        if from_first(bool(held)):
            if recording.resume:
                self._check_goes_on()
                return
            raise FileExistsError(
                f"{folder} holds a run already ({' and '.join(held)}); resume=True goes on with "
                "it, and overwrite=True replaces it"
            )
        model = [name for name in RUN_FILES if (folder / name).exists()]
        if from_first(bool(model)):
            raise FileExistsError(
                f"{folder} holds a model already ({' and '.join(model)}); overwrite=True replaces "
                "it, and another folder keeps it"
            )

    def _check_goes_on(self) -> None:
        """Raise FileExistsError for a run that was saved before its end, without a checkpoint."""
        # In this order, since a process that finishes the run drops its checkpoint last.
        if from_first(not self.checkpoint.exists() and not self._holds_finished()):
            raise FileExistsError(
                f"{self.finished.parent} holds a run that was saved before its end, without the "
                "checkpoint to go on from; overwrite=True trains it anew, and another folder "
                "keeps it"
            )

    def _progress_bar(self) -> tqdm:
        """A bar of all steps, shown by the first process alone."""
        return tqdm(
            total=self.steps,
            initial=self.step,
            desc="train",
            unit="step",
            mininterval=0.5,
            disable=not self.recording.progress or rank() > 0,
        )

    def _record(self, bar: tqdm, interrupt: HeldInterrupt) -> bool:
        """Do what is due after a step; True if `on_log` asks to end the run.

        Raises KeyboardInterrupt after Ctrl-C.
        """
        # True so many times in a run, at even distances.
        snapshots = self.recording.snapshots
        if self.step * snapshots % self.steps < snapshots:
            # Before the row, which starts the counts of the codes anew.
            self.snapshot()
        validating = self.step % self.validate_every == 0 or self.step == self.steps
        logging = validating or self.step % self.log_every == 0
        ending = False
        if logging:
            row = {"step": self.step, **self.measure(validating)}
            self.rows.append(row)
            bar.set_postfix({name: row[name] for name in self.SHOWN}, refresh=False)
            ending = any_rank(self._is_ended_by_listener())
        # Several processes agree on Ctrl-C only where they wait for each other anyway.
        interrupted = (logging or world_size() == 1) and any_rank(interrupt.asked)
        due = time.perf_counter() - self.saved > CHECKPOINT_SECONDS
        if validating or ending or interrupted or due:
            self.save()
        if validating:
            self.show_validation()
        if interrupted:
            raise KeyboardInterrupt(self._farewell())
        return ending

    def _is_ended_by_listener(self) -> bool:
        """Call `on_log`. It may look at images, and nothing of that counts as training."""
        on_log = self.recording.on_log
        if on_log is None:
            return False
        with evaluation_mode(self.model), isolated_rng():
            return bool(on_log(self.run()))

    def show_validation(self) -> None:
        """Write what a validation has for people to look at, once its state is saved."""

    def save(self) -> None:
        """Write the checkpoint, where there is a folder for it; the first process does.

        A run that has diverged keeps the checkpoint before it, if there is one; its next row tells
        what happened.
        """
        self.saved = time.perf_counter()
        if not self.recording.folder or rank() > 0:
            return
        if self.step > 0 and not self._is_finite():
            return
        self.saved_step = self.step
        common = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.elapsed(),
            "history": self.rows,
            self.MODEL: self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.checkpoint, common | self.state())

    def learned(self) -> list[Tensor]:
        """All that this run changes, whether an optimizer moves it or not."""
        return list(self.model.parameters())

    def _is_finite(self) -> bool:
        """Whether nothing that was learned is NaN or infinite."""
        return all(bool(values.isfinite().all()) for values in self.learned())

    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return time.perf_counter() - self.began

    def _farewell(self) -> str:
        """Where the run stops and whether it is kept, for the message of what stops it."""
        recording = self.recording
        stopped = f"stopped at step {self.step} of {self.steps}"
        if not recording.folder:
            return f"{stopped}, not saved without a folder"
        if recording.resume:
            how = "the same command"
        elif recording.overwrite:
            how = "the same command without overwrite (with resume=True for a fit function)"
        else:
            how = "resume=True"
        if rank() == 0 and self.saved_step != self.step:
            return (
                f"{stopped}, where weights are NaN or infinite; {how} goes back to step "
                f"{self.saved_step}, which is saved in {recording.folder}"
            )
        return f"{stopped}, saved in {recording.folder}; {how} goes on with it"


class VQVAESession(TrainingSession):
    """The training run of a VQ-VAE: the part of `fit` that is specific to it.

    Args:
        model: The model, which is trained in place.
        data: The data set.
        optimization: Steps, batch size, learning rate and seed.
        compute: Device and precision.
        recording: Logging, checkpoints and callback.

    Attributes:
        model: The model.
        snapshots: Snapshots of the codebook by step.
    """

    RUN = Run
    SHOWN = ("loss", "psnr", "codes_used", "perplexity")

    def __init__(
        self,
        model: Autoencoder,
        data: ImageData,
        optimization: Optimization,
        compute: Compute,
        recording: Recording,
    ):
        check_single(model.quantizer, "fit")
        for part in ("train", "validation"):
            split = getattr(data, part)
            if len(split) == 0:
                raise ValueError(f"{data.name} has no images for {part}; it needs at least one")
            model.check_images(split.batch(torch.zeros(1, dtype=torch.int64)))
        super().__init__(model, len(data.train), optimization, compute, recording)
        processes = world_size()
        if optimization.batch_size % processes:
            raise ValueError(
                f"batch_size is {optimization.batch_size}; it must be divisible by {processes}, "
                "the number of processes"
            )
        self.cuda_graph = compute.cuda_graph
        if self.cuda_graph and (self.device.type != "cuda" or processes > 1):
            raise ValueError(
                f"cuda_graph is True on {self.device} with {processes} processes; "
                "it needs CUDA and one process"
            )

        quantizer = model.quantizer.config_in_run(self.steps, optimization.schedule)
        self.settings |= {
            "model": model.config() | {"quantizer": quantizer},
            "data": data.name,
            "images": data.fingerprint,
        }
        self.data = data.to(self.device)
        # Held in memory, so that a file that cannot be read is found before the run.
        self.validation = self.data.validation.in_steps(VALIDATION_IMAGES).loaded()
        self.variance = self.data.variance  # refuses images that are all of one value
        # The layout in which convolutions are fastest.
        self.model.to(memory_format=torch.channels_last)
        self.parallel_model = parallel(self.model)
        self.snapshots: dict[int, Snapshot] = {}
        self.learn: Callable[[Tensor], None] = self._learn
        if self.cuda_graph:
            self.optimizer.param_groups[0]["capturable"] = True
            # The settings of SAMP are constants in the recording.
            self.learn = CapturedStep(self._learn, lambda: getattr(model.quantizer, "samp", None))

    @property
    def threads(self) -> int | None:
        height, width = self.data.size
        values = self.optimization.batch_size * self.data.channels * height * width
        return 1 if values < SMALLEST_SHARED_STEP else None

    def parameters(self) -> list[Tensor]:
        quantizer = self.model.quantizer
        if quantizer.trainable:
            return super().parameters()
        # Codebooks of moving averages are moved by the quantizer, not by the optimizer.
        codebook = quantizer.codebook
        return [parameter for parameter in self.model.parameters() if parameter is not codebook]

    def frozen(self) -> list[str]:
        names = super().frozen()
        codebook = "quantizer.codebook"
        quantizer = self.model.quantizer
        if isinstance(quantizer, ContinuousQuantizer):
            names = [name for name in names if name != codebook]  # it plays no part
        elif quantizer.frozen and codebook not in names:
            names.append(codebook)  # of a library's quantizer, whose codes are no parameter
        return names

    def learned(self) -> list[Tensor]:
        return [*super().learned(), self.model.quantizer.codebook]

    def begin(self) -> None:
        self.model.quantizer.begin_run(self.steps, self.optimization.schedule)

    def advance(self) -> None:
        self.model.train()
        images = self._images_of_step()
        self.batch = images.contiguous(memory_format=torch.channels_last)
        self.learn(self.batch)
        self.step += 1

    def _images_of_step(self) -> Float[Tensor, "b C H W"]:
        """The images that this process learns from next; those of the step after are prefetched."""
        train = self.data.train
        epoch = self.step // (len(train) // self.optimization.batch_size)
        crop_seed = _seed_of_epoch(self.optimization.seed, epoch)
        try:
            images = train.batch(self._own_indices(self.step), crop_seed)
        except UnreadableImage as error:
            # Nothing of this step is done yet: a run that goes on begins with it.
            self.save()
            ending = self._farewell()
            if rank() > 0:  # the first process saves, and it may have got all of its images
                ending = f"stopped at step {self.step} of {self.steps}"
            raise UnreadableImage(f"{error}; {ending}") from error
        if train.is_streamed and self.step + 1 < self.steps:
            train.prefetch(self._own_indices(self.step + 1))
        return images

    def _own_indices(self, step: int) -> Int[Tensor, " b"]:
        """Which images of a step this process takes; with several, each takes its share."""
        train = self.data.train
        # Files are chosen on the CPU, which would wait for indices on a GPU.
        device = "cpu" if train.is_streamed else self.device
        indices = self.indices_of(step, len(train), device)
        return own_share(indices)

    def _learn(self, images: Float[Tensor, "B C H W"]) -> None:
        """Forward pass, backward pass and update; all on the device, so that it can be recorded."""
        with self.autocast:
            output = self.parallel_model(images)
        # Divided by the variance, the error does not depend on the contrast of the images.
        self.error = mse_loss(output.reconstruction.float(), images)
        self.loss = self.error / self.variance + output.quantized.loss
        self.losses = output.quantized.losses
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()
        # Here the ball holds the codes, and moving averages follow their latents.
        self.model.quantizer.after_step()

    @property
    def measured(self) -> Autoencoder:
        """The model that is validated."""
        return self.model

    def measure(self, validating: bool) -> Row:
        quantizer = self.model.quantizer
        row = self._losses_of_step()
        row["codes_used"] = int((quantizer.counts > 0).sum())
        row["perplexity"] = float(perplexity(quantizer.counts))
        row |= self._schedule_values()
        quantizer.reset_usage()
        if validating:
            measures = self._validation_measures()
            for name in ("psnr", "codes_used", "perplexity"):
                row[f"validation_{name}"] = measures[name]
        return row

    def _validation_measures(self) -> dict[str, float]:
        """What `evaluate` finds; FloatingPointError if the model computes NaN or infinity."""
        try:
            return evaluate(self.measured, self.validation)
        except NotFinite as error:
            raise FloatingPointError(
                f"in the validation at step {self.step}, {error}; the loss was finite until then, "
                "and a smaller lr may help"
            ) from error

    def _losses_of_step(self) -> Row:
        """The loss of this step and its terms; FloatingPointError if the loss is not finite."""
        # One transfer from the device for all of them.
        values = torch.stack([self.loss.detach(), self.error.detach(), *self.losses.values()])
        loss, error, *terms = mean_(values).tolist()
        if not math.isfinite(loss + error):
            raise FloatingPointError(self._diagnosis(loss))
        return {
            "loss": loss,
            "reconstruction": error / self.variance,
            **dict(zip(self.losses, terms, strict=True)),
            "psnr": metrics.decibels(error),
        }

    @property
    def finite_until(self) -> int:
        """The last step that was found to have finite losses."""
        return self.rows[-1]["step"] if self.rows else 0

    def _schedule_values(self) -> Row:
        """Radius and weight of SAMP in this step, of a quantizer that has them."""
        quantizer = self.model.quantizer
        if not isinstance(quantizer, SphericalQuantizer):
            return {}
        samp = quantizer.active_samp()
        values = {}
        if samp.radius is not None:
            values["radius"] = float(quantizer.radius)
        if samp.weight is not None:
            # `after_step` has counted the step since its loss was computed.
            weight = samp.weight.value(quantizer.step - 1, quantizer.batch_usage())
            values["weight"] = float(weight)
        return values

    def _diagnosis(self, loss: float) -> str:
        """A sentence on which values are not finite."""
        tensors = {
            "images": self.batch,
            "latents": self.model.encoder(self.batch),
            "codebook": self.model.quantizer.codebook,
        }
        found = []
        for name, tensor in tensors.items():
            bad = int((~tensor.isfinite()).sum())
            if bad:
                found.append(f"{bad} of {tensor.numel()} values of the {name}")
        return (
            f"at step {self.step} the loss is {loss}: "
            f"{', '.join(found) or 'no value of the batch'} NaN or infinite; "
            f"all was finite at step {self.finite_until}, and a smaller lr may help"
        )

    def snapshot(self) -> None:
        quantizer = self.model.quantizer
        self.snapshots[self.step] = Snapshot(
            quantizer.codebook.detach().to("cpu", copy=True),
            quantizer.counts.to("cpu", copy=True),
        )

    def state(self) -> dict[str, Any]:
        state = {
            "snapshots": {step: tuple(snapshot) for step, snapshot in self.snapshots.items()},
            "generator": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self.snapshots = {step: Snapshot(*kept) for step, kept in state["snapshots"].items()}
        # The run may have begun on a CPU, or without a CUDA graph.
        self.optimizer.param_groups[0]["capturable"] = self.cuda_graph
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)

    def run(self) -> Run:
        return Run(self.model, list(self.rows), dict(self.snapshots), self.settings, self.elapsed())


def check_single(quantizer: Quantizer, caller: str) -> None:
    """Raise ValueError for a quantizer with several codebooks, and so several tokens a place."""
    if quantizer.index_shape:
        raise ValueError(
            f"the quantizer is a {quantizer.kind}; {caller} takes one with a single codebook"
        )


@torch.no_grad()
def evaluate(
    model: Autoencoder,
    split: ImageSplit,
    batch_size: int | None = None,
    ssim: bool = False,
    protocol: str = "tensors",
) -> dict[str, float]:
    """Measure a model on one part of a data set, in the precision of its weights.

    That is float32 unless you have cast the model. Reconstructions are clipped to [-1, 1], and the
    errors are summed in float64.

    Args:
        model: The model. Each of its modules is left in the mode that it was in, training or
            evaluation.
        split: The images.
        batch_size: Images at a time; by default 256, or fewer where they are large.
        ssim: Whether to measure SSIM as well, which takes longer.
        protocol: "tensors" takes PSNR and SSIM straight from the reconstructions, and "authors"
            through JPEG files, image by image, as published figures are; see
            `arcvq.metrics.authors_measures`.

    Returns:
        psnr: PSNR in dB over all pixels at once; with "authors" its mean over images.
        l1: Mean absolute error of images in [-1, 1].
        codes_used, usage: Number of codes that were chosen, and their share of all.
        perplexity, perplexity_ceiling: Perplexity of the codes, and the largest possible one.
        tokens: Number of indices that were counted.
        ssim: Structural similarity, if asked for.

    Raises:
        ValueError: If the split is empty, for another protocol, a batch size below 1, or where the
            model computes NaN or infinity. The protocol "authors" takes gray and RGB images of at
            least 11x11 pixels.
    """
    if protocol not in ("tensors", "authors"):
        raise ValueError(f"protocol is {protocol!r}; it must be 'tensors' or 'authors'")
    if len(split) == 0:
        raise ValueError("the split is empty; there is nothing to evaluate")
    check_single(model.quantizer, "evaluate")
    num_codes = model.quantizer.num_codes
    counts = torch.zeros(num_codes, dtype=torch.int64, device=model.device)
    squared_error = absolute_error = 0.0
    pixels = 0
    means: dict[str, float] = {}  # over images

    with evaluation_mode(model):
        for images in split.batches(batch_size, model.device):
            images = images.contiguous(memory_format=torch.channels_last)
            output = model(images)
            check_finite(output.reconstruction, "reconstruction")
            reconstruction = output.reconstruction.clamp(-1, 1)
            pixels += images.numel()
            # Sums over millions of pixels would lose digits in float32.
            difference = as_float64(reconstruction - images)
            squared_error += difference.square().sum().item()
            absolute_error += difference.abs().sum().item()
            counts += torch.bincount(output.quantized.indices.flatten(), minlength=num_codes)
            for name, mean in _means_over_images(reconstruction, images, ssim, protocol).items():
                means[name] = means.get(name, 0.0) + mean * len(images) / len(split)

    tokens = int(counts.sum())
    codes_used = int((counts > 0).sum())
    measures = {
        "psnr": metrics.decibels(squared_error / pixels),
        "l1": absolute_error / pixels,
        "codes_used": codes_used,
        "usage": codes_used / num_codes,
        "perplexity": float(perplexity(counts)),
        "perplexity_ceiling": perplexity_ceiling(num_codes, tokens),
        "tokens": tokens,
    }
    return measures | means


def _means_over_images(
    reconstruction: Tensor, images: Tensor, ssim: bool, protocol: str
) -> dict[str, float]:
    """The measures of a batch that `evaluate` averages over images."""
    if protocol == "authors":
        return metrics.authors_measures(reconstruction, images)
    return {"ssim": metrics.ssim(reconstruction, images)} if ssim else {}
