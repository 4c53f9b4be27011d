"""SAMP, the spherical angular-margin prior of ArcVQ-VAE (Kim and Yoo 2026, arXiv 2605.13517).

SAMP has two halves:

- Ball-Bounded Norm Regularization (BBNR) keeps the codes inside a ball whose radius M(t) grows
  with the optimizer step t. Early in training no code can be longer than 1, so that none can win by
  its norm; later the ball opens and norms may differ.
- The ArcCosine Additive Margin (ArcMargin) loss pulls the latents nearest to each code toward that
  code, against all other latents of the batch.

Codes are assigned by angle throughout. SAMP is a regularizer of training; the "priors" of
`arcvq.priors` are something else, models of the token distribution.

The functions here work on plain tensors. `arcvq.quantizers.SphericalQuantizer` applies them
during training, with the settings that a `SAMP` holds.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from arcvq import ops
from arcvq.runtime.checks import (
    as_indices,
    check_finite,
    check_finite_numbers,
    check_positive,
    check_rows,
    check_whole,
    is_number,
    use_python_numbers,
)
from arcvq.runtime.files import reason_of
from arcvq.runtime.precision import at_least_float32
from arcvq.schedules import Exponential, Number, Schedule, bounded_exp, exact

# The rates per step of the authors' code, tuned to runs of about 29,500 steps (on MNIST).
PAPER_RADIUS = Exponential(3e-4)
PAPER_WEIGHT = Exponential(-5e-4)

# alpha / (lr sqrt(D)) of the paper's run on MNIST, with lr 3e-4 and D 64; see `Regime`.
PAPER_BALL_RATE = 0.125

REGIME_TITLES = {
    "positives_per_latent": "positives per latent, K k / N",
    "ball_rate": "rate of the ball, alpha / (lr sqrt(D))",
}

UNREACHABLE = 1e30  # a radius that no code grows to


class Regime(NamedTuple):
    """What a run with SAMP has in common with the paper's: two ratios, and how long the ball holds.

    The first ratio follows from the sizes of batch and codebook, and no schedule changes it, but
    `codes_per_step` does. The second also depends on the learning rate and the dimension, and a
    ball that is made for these, as by `SAMP.for_run` with `lr` and `dim`, keeps it.

    Attributes:
        positives_per_latent: K k / N, how many codes pull a latent on average: each of the K codes
            pulls its k nearest of the N latents of a batch. Some are pulled by several codes, so
            even where it is 1, many latents are not pulled at all. The paper's is 0.031. None
            without the margin loss.
        ball_rate: alpha / (lr sqrt(D)), the growth of the ball in the first step over the most that
            a step of Adam adds to the length of a code that is chosen in every step (about lr to
            each of D components; where a code is chosen rarely, up to 3.16 lr). Exactly, the first
            step adds exp(alpha) - 1, which in very short runs is more than alpha (by 9% where
            `SAMP.for_run` has 50 steps). Above 1 the ball outruns the codes from the start; it is 0
            for a ball that does not grow. The paper's is 0.125. None without a ball.
        last_binding_step: The last step in which the ball grows by less than Adam can lengthen a
            code, so that it can still hold one back; 0 if there is none. The paper's is 6,931 of
            29,500. None without a ball.
    """

    positives_per_latent: float | None
    ball_rate: float | None
    last_binding_step: int | None

    def beside_the_paper(self) -> str:
        """Return a line for each ratio, which also gives the paper's."""
        lines = []
        for ratio, title in REGIME_TITLES.items():
            ours = getattr(self, ratio)
            theirs = getattr(PAPER_REGIME, ratio)
            if ours is not None:
                lines.append(f"{title}: {ours:.3g} (the paper's on MNIST: {theirs:.3g})")
        return "\n".join(lines)


@dataclass(frozen=True)
class SAMP:
    """Settings of the prior. The defaults are the paper's for MNIST and CIFAR-10.

    Args:
        margin: Angular margin m in radians, in [0, pi/2).
        scale: Scale s of the cosines in the softmax, above 0.
        top_k: Number of latents that each code pulls (its positives), at least 1.
        radius: Radius M(t) of the ball as a schedule; None for no ball.
        weight: Weight gamma(t) of the margin loss as a schedule; None for no margin loss.
        codes_per_step: Number of codes that the margin loss is computed for, at least 1; all where
            there are fewer. They are drawn anew at each step, so that the loss is right on average.
            None for all codes, as in the paper.
    """

    margin: float = 0.1
    scale: float = 5.0
    top_k: int = 3
    radius: Schedule | None = PAPER_RADIUS
    weight: Schedule | None = PAPER_WEIGHT
    codes_per_step: int | None = None

    def __post_init__(self):
        use_python_numbers(self)
        check_margin_settings(self.margin, self.scale, self.top_k)
        for name in ("radius", "weight"):
            schedule = getattr(self, name)
            if not (schedule is None or isinstance(schedule, Schedule)):
                raise ValueError(
                    f"{name} is {schedule!r}; it must be a schedule such as Constant(4.0), or None"
                )
        if self.radius is not None and self.radius.lowest <= 0:
            raise ValueError(
                f"radius is {self.radius}; it must stay above 0, where all codes would be alike"
            )
        if self.codes_per_step is not None:
            check_whole(1, codes_per_step=self.codes_per_step)

    @classmethod
    def paper(cls) -> "SAMP":
        """Return the settings of the authors' code; its rates suit runs of about 29,500 steps.

        The text of the paper names others, a scale of 10 and alpha of about 1e-5, with which the
        ball would end at a radius of 1.34.
        """
        return cls()

    @classmethod
    def imagenet(cls) -> "SAMP":
        """Return the authors' settings for ImageNet, with 1,024 codes of 16 dimensions."""
        return cls(scale=10.0, radius=Exponential(5e-5), weight=Exponential(-1e-4))

    @classmethod
    def for_run(
        cls, steps: int, *, lr: float | None = None, dim: int | None = None, **settings: Any
    ) -> "SAMP":
        """Return the paper's settings with its whole schedule compressed into `steps` steps.

        At the paper's rates a short run would end while the ball is still nearly closed. Here the
        exponents reach what they reach at the end of the paper's run: alpha T = 8.85 for the radius
        and lambda T = 14.75 for the weight. So the ball grows faster than in the paper, and may
        outrun the codes (see `Regime`).

        With `lr` and `dim`, the ball keeps the paper's alpha / (lr sqrt(D)) = 0.125 instead. It
        then lets go of the codes where it does in the paper, at a radius of 8, but ends smaller.

        Args:
            steps: Length of the run, at least 1.
            lr: Learning rate of Adam.
            dim: Dimension D of the codes.
            **settings: Settings that differ from the paper's, such as `margin=0.3`.
        """
        check_whole(1, steps=steps)
        steps = int(steps)
        if lr is None and dim is None:
            growth = 8.85 / steps
        elif lr is None or dim is None:
            raise ValueError(f"lr is {lr} and dim is {dim}; give both or neither")
        else:
            check_whole(1, dim=dim)
            growth = PAPER_BALL_RATE * _reach_of_adam(lr, dim)
        schedules = {"radius": Exponential(growth), "weight": Exponential(-14.75 / steps)}
        return cls(**schedules | settings)

    def regime(self, *, num_codes: int, dim: int, latents: int, lr: float, steps: int) -> Regime:
        """Compute what these settings mean in a run of a certain size.

        Args:
            num_codes: Number of codes K.
            dim: Dimension D of the codes.
            latents: Latents N in a batch, of all processes together.
            lr: Learning rate of Adam.
            steps: Length of the run.
        """
        check_whole(1, num_codes=num_codes, dim=dim, latents=latents, steps=steps)
        positives = None
        if self.weight is not None:
            codes = min(self.codes_per_step or num_codes, num_codes)
            positives = codes * min(self.top_k, latents) / latents
        if self.radius is None:
            return Regime(positives, None, None)

        reach = _reach_of_adam(lr, dim)
        radii = torch.as_tensor(self.radius.value(torch.arange(steps + 1)))
        growth = radii.diff()
        # In very long runs the radius is clipped (`bounded_exp`) and stands still, out of reach.
        binding = ((growth < reach) & (radii[1:] < UNREACHABLE)).nonzero()
        last_step = int(binding[-1]) + 1 if len(binding) else 0
        first_growth = max(0.0, growth[0].item())
        return Regime(positives, first_growth / reach, last_step)

    def config(self) -> dict[str, Any]:
        """Return the settings as a plain dict for `from_config`, ready for JSON."""
        config = {
            "margin": self.margin,
            "scale": self.scale,
            "top_k": self.top_k,
            "radius": self.radius.config() if self.radius else None,
            "weight": self.weight.config() if self.weight else None,
        }
        if self.codes_per_step is not None:  # else it reads as in earlier versions
            config["codes_per_step"] = self.codes_per_step
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SAMP":
        """Build the settings that `config` describes. Raises ValueError if they are invalid."""
        fields = dict(config)
        try:
            for name in ("radius", "weight"):
                if fields[name] is not None:
                    fields[name] = Schedule.from_config(fields[name])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"settings of SAMP cannot be made from {config}: {reason_of(error)}"
            ) from None


def _reach_of_adam(lr: float, dim: int) -> float:
    """The most that a step of Adam adds to the length of a code that is chosen in every step.

    That is about lr to each component (Kingma and Ba 2015, section 2.1).
    """
    check_positive(lr=lr)
    return float(lr) * math.sqrt(dim)


def check_margin_settings(margin: float, scale: float, top_k: int) -> None:
    """Raise ValueError where a setting of the margin loss is out of range (see `SAMP`)."""
    if not is_number(margin) or not 0 <= margin < math.pi / 2:
        raise ValueError(f"margin is {margin!r} rad; it must be at least 0 and below pi/2 = 1.5708")
    check_positive(scale=scale)
    check_whole(1, top_k=top_k)


def ball_radius(step: Number, growth: float = 3e-4) -> float | Tensor:
    """Compute the radius of the ball, M(t) = exp(growth * t).

    Args:
        step: Number t of optimizer steps done, a Python number or a tensor.
        growth: Growth per step, alpha in the paper.

    Returns:
        A float for a number, a float64 tensor for a tensor. Finite for any step: the exponent is
        clipped at 80, where the radius is 5.5e34.

    Raises:
        ValueError: For a step that is neither number nor tensor, or a growth that is no finite
            number.
    """
    check_finite_numbers(growth=growth)
    return bounded_exp(growth * exact(step))


@torch.no_grad()
def project_to_ball_(
    codebook: Float[Tensor, "K D"], radius: float | Float[Tensor, ""]
) -> Float[Tensor, "K D"]:
    """Scale every code that is longer than `radius` back to that length, in place (BBNR).

    Shorter codes stay as they are, codes of norm zero stay zero, and an infinite radius changes
    nothing. Call it after the optimizer step, so that the codes that are used and saved lie inside
    the ball.

    Args:
        codebook: The codes, one a row.
        radius: Radius of the ball, above 0.

    Returns:
        The codebook.

    Raises:
        ValueError: If `radius` is a Python number that is NaN or not above 0. A tensor is not
            checked, since reading it would wait for the device.
    """
    _check_length("radius", radius)
    norms = _row_norms(at_least_float32(codebook))
    shrink = (radius / norms).clamp(max=1.0)
    return codebook.mul_(shrink.to(codebook.dtype))


def _check_length(name: str, length: Any) -> None:
    """Raise ValueError for what is neither a tensor nor a number above 0, perhaps infinity."""
    if not isinstance(length, Tensor) and not (is_number(length) and length > 0):
        raise ValueError(f"{name} is {length!r}; it must be a number above 0")


def _row_norms(rows: Tensor) -> Tensor:
    """Norms (K, 1), at least `ops.TINY`, of rows whose squares may be too large for their dtype."""
    largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(ops.TINY)
    unit = torch.exp2(largest.log2().floor() - 1)  # a power of 2, which changes no digit
    norms = unit * torch.linalg.vector_norm(rows / unit, dim=1, keepdim=True)
    return norms.clamp_min(ops.TINY)


def arc_margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    *,
    margin: float = 0.1,
    scale: float = 5.0,
    top_k: int = 3,
) -> Float[Tensor, ""]:
    """Compute the ArcCosine Additive Margin loss L_A of the paper.

    For each code, the `top_k` latents nearest to it by angle are the positives of a softmax over
    all latents of the batch. The margin is added to the angles of the positives, so that they must
    lie closer than they would have to without it. `arcvq.ops.reference` spells the formula out.

    Where an angle plus the margin would pass pi, where the cosine rises again, the logit keeps
    falling along cos(theta) + cos(margin) - 1 instead. The loss is exact, and it needs less than
    64 MiB in float32 beside the gradient: at most 32 MiB of the K x N cosines exist at a time.

    Args:
        latents: Latents of the batch. Half precision is raised to float32; float64 stays. In
            float32, a latent with a norm above 1.8e19, whose square overflows, counts like one of
            zeros: it has no direction, is at right angles to all codes and gets no gradient. The
            same is true of codes.
        codebook: The codes; they get no gradient.
        margin: Angular margin m in radians, in [0, pi/2).
        scale: Scale s of the cosines, above 0. Above 32 the loss is worked out in float64.
        top_k: Number of positives of each code, at least 1; all latents where there are fewer.

    Returns:
        The mean over the codes; 0 where no other latents are left to stand out from. Derivatives
        beyond the first are exact too, but hold the whole K x N matrix.

    Raises:
        ValueError: For settings out of range, or for latents and codes of other shapes.
    """
    check_margin_settings(margin, scale, top_k)
    check_rows(codebook, latents)
    # The paper's stop-gradient: the loss moves the latents only. Without it every batch would drag
    # the codes along (`arcvq.baselines.reference.UndetachedQuantizer` shows that).
    return ops.margin_loss(latents, codebook.detach(), margin, scale, top_k)


@torch.no_grad()
def rescale_codes_(
    codebook: Float[Tensor, "K D"],
    latents: Float[Tensor, "N D"],
    indices: Integer[Tensor, " N"],
    *,
    max_norm: float | None = None,
) -> Float[Tensor, "K D"]:
    """Give each code the norm that fits its latents best and keep its direction, in place.

    The norm is the least-squares one: the mean of <z_i, e_j / |e_j|> over the latents z_i that are
    assigned to code j. Codes without latents, codes of norm zero and codes whose mean is not above
    0 stay as they are. A summary of the paper names such a "norm-based scaling" after training
    without a formula, and the authors' code does not have it: this reading is ours.

    Args:
        codebook: The codes.
        latents: Latents of training images.
        indices: Index of the code that each latent is assigned to.
        max_norm: Upper limit of the norms, above 0; None for no limit.

    Returns:
        The codebook.

    Raises:
        ValueError: For indices that are not in the codebook, for latents that are not finite, for
            other shapes, and for a limit that is NaN or not above 0. A tensor is not checked.
    """
    if max_norm is not None:
        _check_length("max_norm", max_norm)
    check_rows(codebook, latents)
    if indices.shape != latents.shape[:1]:
        raise ValueError(
            f"indices have shape {tuple(indices.shape)}; they must be ({len(latents)},), "
            "one for each latent"
        )
    check_finite(latents, "latents")
    num_codes = codebook.shape[0]
    indices = as_indices(indices, num_codes)
    codes = at_least_float32(codebook)
    directions = codes / _row_norms(codes)
    latents = latents.to(codes.dtype)
    lengths = (latents * directions[indices]).sum(1)  # of the latents along their codes
    sums = directions.new_zeros(num_codes).index_add_(0, indices, lengths)
    norms = sums / torch.bincount(indices, minlength=num_codes).clamp_min(1)
    if max_norm is not None:
        norms = norms.clamp(max=max_norm)
    norms = norms[:, None]
    return codebook.copy_(torch.where(norms > 0, directions * norms, codes))


# The paper's run on MNIST, whose batches are 1,024 images with 7 x 7 latents each.
PAPER_REGIME = SAMP.paper().regime(num_codes=512, dim=64, latents=1024 * 49, lr=3e-4, steps=29_500)
