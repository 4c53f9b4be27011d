"""Train a VQGAN: `fit_vqgan` adds a perceptual and an adversarial loss to the shared session."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData, to_uint8
from arcvq.runtime.checks import (
    check_not_negative,
    check_range,
    check_whole,
    use_python_numbers,
)
from arcvq.runtime.distributed import average_gradients_, mean_, own_share, rank
from arcvq.runtime.extras import extra_import
from arcvq.runtime.files import delete, reason_of, write_whole
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.run_record import Row
from arcvq.training import (
    Compute,
    Optimization,
    Recording,
    Run,
    VQVAESession,
)
from arcvq.vqgan.discriminator import PatchDiscriminator, hinge_loss, smallest_side
from arcvq.vqgan.network import VQGAN
from arcvq.vqgan.perceptual import (
    SMALLEST_SIDE,
    PerceptualDistance,
    check_features,
    mean_distance,
)

GRID_IMAGES = 8  # validation images in a logged grid, above their reconstructions
OLD_SHARE = 0.2  # that the first step has in the averaged weights at the end, at most
GRIDS = "reconstructions"  # the folder of these grids in that of a run
GRID_DIGITS = 7  # of the step in the name of a grid
BETAS = (0.5, 0.9)  # of Adam, as in the public VQGAN code
LARGEST_WEIGHT = 1e4  # of the adversarial loss
GRADIENT_FLOOR = 1e-4  # keeps that weight finite where the discriminator is flat


@dataclass(frozen=True)
class VQGANLosses:
    """What a VQGAN is trained on besides the absolute error and the loss of its quantizer.

    Attributes:
        features: The network of `PerceptualDistance`; None for no perceptual loss.
        perceptual: Weight of the perceptual loss.
        adversarial: Weight of the adversarial loss, 0 for none. It multiplies a weight that is
            found at each step, by which this loss and the others have equally large gradients at
            the last layer of the decoder.
        start: At which share of the run the discriminator begins to count, from 0 to 1; 1 is never.
            Before that an untrained decoder would learn from its noise.
        channels: See `PatchDiscriminator`.
        halvings: See `PatchDiscriminator`.
    """

    features: str | None = "efficientnet_lite0"
    perceptual: float = 1.0
    adversarial: float = 0.8
    start: float = 0.5
    channels: int = 64
    halvings: int = 3

    def __post_init__(self):
        use_python_numbers(self)
        check_not_negative(perceptual=self.perceptual, adversarial=self.adversarial)
        check_range(0, 1, start=self.start)
        check_whole(1, channels=self.channels, halvings=self.halvings)
        if self.features:
            check_features(self.features)


def check_losses(losses: VQGANLosses, data: ImageData) -> None:
    """Raise ValueError for images that a loss cannot judge: without color, or too small."""
    if losses.features and data.channels != 3:
        raise ValueError(
            f"{data.name} has {data.channels} channels, but perceptual features need RGB; "
            "VQGANLosses(features=None) goes without them, and grey=False reads a folder as RGB"
        )
    needed = SMALLEST_SIDE[losses.features] if losses.features else 1
    if min(data.size) < needed:
        height, width = data.size
        raise ValueError(
            f"images have {height} x {width} pixels, but features={losses.features!r} needs "
            f"{needed} x {needed}"
        )
    needed = smallest_side(losses.halvings)
    if losses.adversarial > 0 and min(data.size) < needed:
        height, width = data.size
        raise ValueError(
            f"images have {height} x {width} pixels, but a discriminator with "
            f"halvings={losses.halvings} needs {needed} x {needed}; take fewer halvings"
        )


def check_averaging(averaging: float) -> None:
    """Raise ValueError unless averaged weights can keep this share of themselves at each step."""
    if not 0 <= averaging < 1:
        raise ValueError(f"averaging is {averaging}; it must be from 0 to below 1")


def _warn_of_old_weights(averaging: float, steps: int) -> None:
    """Warn where the averaged weights of a short run are largely those of its first step."""
    later_steps = steps - 1
    if later_steps == 0:
        return
    old_share = averaging**later_steps
    if old_share > OLD_SHARE:
        fitting = math.floor(1000 * OLD_SHARE ** (1 / later_steps)) / 1000
        warnings.warn(
            f"averaging is {averaging:g}, with which the first of {steps:,} steps makes up "
            f"{old_share:.0%} of the averaged weights; averaging={fitting:g} lowers that to "
            f"{OLD_SHARE:.0%}",
            stacklevel=5,  # at the call of fit_vqgan
        )


def fit_vqgan(  # noqa: PLR0913  (as `fit`)
    model: VQGAN,
    data: ImageData,
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1e-4,
    seed: int = 0,
    losses: VQGANLosses = VQGANLosses(),
    averaging: float = 0.999,
    compute: Compute = Compute(),
    recording: Recording = Recording(),
) -> Run:
    """Train a VQGAN with perceptual and adversarial losses and return the run.

    The loss is the mean absolute error, the perceptual distance, the adversarial loss and the loss
    of the quantizer (Esser et al. 2021, equations 4 to 7). Every image is mirrored half of the
    time. The model that is validated and handed over has weights averaged over the last steps.
    (The callback `on_log` gets the model as it is in training.) With `Recording(folder)` each
    validation writes a grid of validation images above their reconstructions into its folder
    `reconstructions`. Several processes share the work as in `fit`.

    The public VQGAN code weighs the codebook term instead of the commitment term by 0.25. Its
    codebook learns from that term alone, and Adam does not see the size of a gradient, so that
    `beta=1` of our quantizers is the same.

    Args:
        model: The model, which is trained in place.
        data: The data set; RGB for perceptual features.
        steps: Number of optimizer steps, at least 1.
        batch_size: Images a step, at most the training images.
        lr: Learning rate of the model and of the discriminator, above 0.
        seed: Seed of the order of the images, of their mirroring, of the discriminator's weights
            and of what the quantizer draws.
        losses: The further losses.
        averaging: What the averaged weights keep of themselves at each step, from 0 (no averaging)
            to below 1. The usual 0.999 is for runs of thousands of steps.
        compute: Device and precision.
        recording: What is logged, how often, and where it is written.

    Returns:
        The run, with the model in evaluation mode. Its history has the columns of `fit`, of which
        "reconstruction" is the mean absolute error, and "perceptual", "adversarial",
        "adversarial_weight" and "discriminator", the loss of the discriminator.

    Raises:
        ValueError: If an argument is out of range, gray images are to have perceptual features, or
            the images are too small for the discriminator.
        FloatingPointError: If a loss is not finite; says at which step.
        OSError, KeyboardInterrupt: As `fit`.
    """
    optimization = Optimization(steps, batch_size, lr, seed)
    return VQGANSession.fit(model, data, optimization, losses, averaging, compute, recording)


class VQGANSession(VQVAESession):
    """The training run of a VQGAN: the part of `fit_vqgan` that differs from `fit`.

    Args:
        model: The model, which is trained in place.
        data: The data set.
        optimization: Steps, batch size, learning rate and seed.
        losses: The further losses.
        averaging: What the averaged weights keep of themselves at each step.
        compute: Device and precision.
        recording: Logging, checkpoints and callback.
    """

    def __init__(
        self,
        model: VQGAN,
        data: ImageData,
        optimization: Optimization,
        losses: VQGANLosses,
        averaging: float,
        compute: Compute,
        recording: Recording,
    ):
        if compute.cuda_graph:
            raise ValueError("cuda_graph is True; fit_vqgan takes steps of two kinds, so no graph")
        check_averaging(averaging)
        check_losses(losses, data)
        _warn_of_old_weights(averaging, optimization.steps)
        if losses.adversarial > 0 and not hasattr(model.decoder, "last_layer"):
            raise ValueError(
                f"the decoder of a {model.kind} has no last_layer, where the adversarial loss is "
                "weighed; take a VQGAN, or VQGANLosses(adversarial=0)"
            )
        if losses.adversarial > 0 and not model.decoder.last_layer.requires_grad:
            raise ValueError(
                "the last layer of the decoder is frozen, and the adversarial loss is weighed "
                "there; VQGANLosses(adversarial=0) goes without"
            )
        if recording.folder:  # where grids of reconstructions are drawn
            extra_import("torchvision")
            extra_import("PIL.Image")
        super().__init__(model, data, optimization, compute, recording)
        self.weights = losses
        self.settings |= {"losses": vars(losses), "averaging": float(averaging)}
        self.first_adversarial_step = math.ceil(losses.start * optimization.steps)
        self.perceptual = PerceptualDistance(losses.features) if losses.features else None
        if self.perceptual:
            self.perceptual.to(self.device)
        with isolated_rng(optimization.seed):
            discriminator = PatchDiscriminator(data.channels, losses.channels, losses.halvings)
        self.discriminator = discriminator.to(self.device)
        self.discriminator.to(memory_format=torch.channels_last)
        self.first_divergence: dict[str, Tensor] = {}
        self.opponent = self.make_optimizer(self.discriminator.parameters())
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(averaging), use_buffers=False
        )

    @property
    def threads(self) -> int | None:
        # This network has far more to do for each pixel, so that even small batches can be shared.
        return None

    def make_optimizer(self, parameters, **options):
        return super().make_optimizer(parameters, betas=BETAS, **options)

    def advance(self) -> None:
        super().advance()
        self.averaged.update_parameters(self.model)

    def _learn(self, images: Float[Tensor, "B C H W"]) -> None:
        """A step of the model, and one of the discriminator once it counts."""
        images = self._mirrored(images)
        is_adversarial = self.step >= self.first_adversarial_step and self.weights.adversarial > 0
        with self.autocast:
            output = self.parallel_model(images)
        reconstruction = output.reconstruction.float()
        self.terms = self._terms(images, reconstruction)
        self.error = mse_loss(reconstruction.detach(), images)  # for PSNR
        self.loss = self.terms["reconstruction"] + output.quantized.loss
        if "perceptual" in self.terms:
            self.loss = self.loss + self.weights.perceptual * self.terms["perceptual"]
        if is_adversarial:
            self._add_adversarial_loss(reconstruction)
        self.losses = output.quantized.losses
        self._note_divergence()
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()
        self.model.quantizer.after_step()
        if is_adversarial:
            self._train_discriminator(images, reconstruction.detach())

    def _mirrored(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Mirror each image with a chance of one half."""
        # Drawn for the whole batch, so that an image is mirrored alike for any number of processes.
        chances = torch.rand(self.optimization.batch_size, 1, 1, 1, device=images.device)
        chosen = own_share(chances) < 0.5
        return images.flip(3).where(chosen, images)

    def _terms(
        self, images: Float[Tensor, "B C H W"], reconstruction: Float[Tensor, "B C H W"]
    ) -> dict[str, Tensor]:
        """The absolute error and the perceptual distance of a batch."""
        terms = {"reconstruction": l1_loss(reconstruction, images)}
        if self.perceptual and self.weights.perceptual > 0:
            with self.autocast:
                distances = self.perceptual(reconstruction, images)
            terms["perceptual"] = distances.float().mean()
        return terms

    def _add_adversarial_loss(self, reconstruction: Float[Tensor, "B C H W"]) -> None:
        """Add what the discriminator finds wrong, as strong as the rest at the last layer."""
        with _frozen(self.discriminator), self.autocast:
            verdict = self.discriminator(reconstruction)
        adversarial = -verdict.float().mean()
        last = self.model.decoder.last_layer
        of_rest = _gradient(self.loss, last)
        of_adversarial = _gradient(adversarial, last)
        weight = of_rest.norm() / (of_adversarial.norm() + GRADIENT_FLOOR)
        weight = self.weights.adversarial * weight.clamp(max=LARGEST_WEIGHT)
        self.loss = self.loss + weight * adversarial
        self.terms |= {"adversarial": adversarial, "adversarial_weight": weight}

    def _train_discriminator(
        self, images: Float[Tensor, "B C H W"], reconstruction: Float[Tensor, "B C H W"]
    ) -> None:
        """A step of the discriminator on the same batch."""
        with self.autocast:
            real = self.discriminator(images)
            fake = self.discriminator(reconstruction)
        loss = hinge_loss(real.float(), fake.float())
        self.opponent.zero_grad()
        loss.backward()
        average_gradients_(self.discriminator)
        self.opponent.step()
        self.terms["discriminator"] = loss
        self._note_divergence()

    def measure(self, validating: bool) -> Row:
        row = super().measure(validating)
        if validating and self.perceptual:
            distance = mean_distance(self.perceptual, self.measured, self.validation)
            row["validation_perceptual"] = distance
        return row

    def show_validation(self) -> None:
        """Write a grid of images; a warning says why if that fails, and the training goes on."""
        if self.recording.folder and rank() == 0:
            try:
                self._write_grid(Path(self.recording.folder))
            except OSError as error:
                warnings.warn(
                    f"at step {self.step} no grid of reconstructions was written: "
                    f"{reason_of(error)}",
                    stacklevel=2,
                )

    def learned(self) -> list[Tensor]:
        return [
            *super().learned(),
            *self.averaged.parameters(),
            *self.discriminator.parameters(),
        ]

    @property
    def measured(self) -> Autoencoder:
        return cast(Autoencoder, self.averaged.module)

    def _losses_of_step(self) -> Row:
        """Adds the terms of this loss; names all that are not finite."""
        values = mean_(torch.stack([term.detach() for term in self.terms.values()]))
        terms = dict(zip(self.terms, values.tolist(), strict=True))
        if not all(map(math.isfinite, terms.values())):
            raise FloatingPointError(self._divergence())
        return super()._losses_of_step() | terms

    def _note_divergence(self) -> None:
        """Keep, on the device, the first step at which each term was not finite."""
        for name, term in self.terms.items():
            now = torch.where(term.detach().isfinite(), math.inf, self.step + 1.0)
            self.first_divergence[name] = torch.minimum(now, self.first_divergence.get(name, now))

    def _divergence(self) -> str:
        """A sentence on the terms that were the first not to be finite."""
        steps = {name: step.item() for name, step in self.first_divergence.items()}
        first = min(steps.values())
        if math.isinf(first):  # all is finite in this process, and not in another
            return f"at step {self.step} the loss is not finite in another process"
        named = [name for name, step in steps.items() if step == first]
        terms = f"the {named[0]} loss is" if len(named) == 1 else f"{' and '.join(named)} are"
        return (
            f"at step {first:.0f} {terms} not finite; "
            "until then all was finite, and a smaller lr may help"
        )

    def drop_replaced(self) -> None:
        super().drop_replaced()
        if self.recording.folder and rank() == 0:
            # Also where the run that they belong to is gone already.
            grids = Path(self.recording.folder) / GRIDS
            for file in grids.glob(f"{'[0-9]' * GRID_DIGITS}.png"):
                delete(file)

    def _write_grid(self, folder: Path) -> None:
        """Write validation images above their reconstructions, as a PNG file of this step."""
        images = self.validation.first(GRID_IMAGES)
        originals = images.batch(torch.arange(len(images)))
        both = torch.cat([originals, self.measured.reconstruct(originals)])
        # Pictures have one channel or three.
        both = both[:, :3] if both.shape[1] > 2 else both[:, :1]
        make_grid = extra_import("torchvision").utils.make_grid
        grid = to_uint8(make_grid(both, nrow=len(images))).permute(1, 2, 0).cpu().numpy()
        picture = extra_import("PIL.Image").fromarray(grid)
        file = folder / GRIDS / f"{self.step:0{GRID_DIGITS}d}.png"
        write_whole(file, lambda draft: picture.save(draft, "PNG"))

    def settle(self) -> None:
        # The model of the caller gets the averaged weights.
        self.model.load_state_dict(self.averaged.module.state_dict())
        super().settle()

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "averaged": self.averaged.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "opponent": self.opponent.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.averaged.load_state_dict(state["averaged"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.opponent.load_state_dict(state["opponent"])


def _gradient(loss: Float[Tensor, ""], weight: Tensor) -> Tensor:
    """The gradient of a loss in a weight, its mean over all processes."""
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    return mean_(gradient)


@contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """A context in which gradients go through a module, but not to its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
