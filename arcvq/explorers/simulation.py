"""Codes that learn on the sphere in three dimensions, small enough to watch: SAMP and plain VQ from one start.

Latents are a mixture of von Mises-Fisher clusters on the sphere of radius `REACH`. There is no network: a spring
holds each latent at its place in the data, standing in for the reconstruction loss, which keeps an encoder's latents
where the decoder needs them. All else is the method itself: the quantizers of `arcvq`, their losses and the ball.
"""

import collections
import dataclasses
import math

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from arcvq import geometry
from arcvq.quantizers import EuclideanQuantizer, Quantizer, SphericalQuantizer, nearest_code
from arcvq.samp import SAMP
from arcvq.schedules import MAX_EXPONENT, Constant

REACH = 2.0  # the norm of the data: above the ball's first radius, 1, so that the ball has something to hold back
SPRING = 4.0  # the weight of the spring, for one that gives way to the margin loss at weight 1 and yet holds
WINDOW = 300  # steps that the running curves remember


def vmf_mixture(
    count: int, clusters: int, concentration: float | int, generator: torch.Generator
) -> Float[Tensor, "count 3"]:
    """Unit vectors (float64) from a mixture of von Mises-Fisher clusters of equal weight, their means drawn evenly.

    concentration: kappa, 0 (even on the sphere) to 1e4; the mean resultant length of a cluster is coth(kappa) -
    1/kappa. In three dimensions the cosine w to the mean has a closed inverse CDF: 1 - w = -log(1 - u (1 - exp(-2
    kappa))) / kappa for u uniform in [0, 1) (Jakob 2012, with log1p and expm1). The same seed draws the same u, so a
    larger concentration draws the same points closer. Raises ValueError for numbers out of range.
    """
    for name, number in (("count", count), ("clusters", clusters)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be a whole number from 1")
    if not 0 <= concentration <= 1e4:
        raise ValueError(f"concentration is {concentration}; it must be from 0 to 10,000")
    uniform, turn = torch.rand(2, count, generator=generator, dtype=torch.float64)
    means = normalize(torch.randn(clusters, 3, generator=generator, dtype=torch.float64), dim=1)
    kappa = max(float(concentration), 1e-12)
    short = (-torch.log1p(uniform * math.expm1(-2 * kappa)) / kappa).clamp(
        0, 2
    )  # 1 - w, exact where w is near 1
    across = (short * (2 - short)).sqrt()
    mean = means[torch.arange(count) % clusters]
    least = torch.nn.functional.one_hot(mean.abs().argmin(1), 3).double()
    right = normalize(torch.linalg.cross(mean, least), dim=1)
    up = torch.linalg.cross(mean, right)
    ring = (2 * math.pi * turn).cos()[:, None] * right + (2 * math.pi * turn).sin()[:, None] * up
    return normalize((1 - short)[:, None] * mean + across[:, None] * ring, dim=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may change between two steps; every value is checked (ValueError).

    clusters: from 1. concentration: kappa, 0 to 1e4. margin: radians, 0 to below pi/2. scale: above 0. top_k: from 1.
    growth: of the ball's radius per step, M <- M exp(growth), from 0. weight: of the margin loss, from 0.
    learning_rate: of Adam, above 0, at most 1.
    """

    clusters: int = 6
    concentration: float | int = 20.0
    margin: float | int = 0.1
    scale: float | int = 5.0
    top_k: int = 3
    growth: float | int = 0.005
    weight: float | int = 0.3
    learning_rate: float | int = 0.02

    def __post_init__(self):
        for name in ("growth", "weight"):
            if not 0 <= (number := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} is {number}; it must be a finite number from 0")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(
                f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1"
            )
        self.samp(1.0)

    def samp(self, radius: float) -> SAMP:
        """The prior with these settings and a ball of this radius."""
        return SAMP(self.margin, self.scale, self.top_k, Constant(radius), Constant(self.weight))


class Learner:
    """A quantizer and the latents that it quantizes, both free to move.

    `counts` (K,) int64: how many latents chose each code in the last step (before the first step: now).
    """

    def __init__(
        self, quantizer: Quantizer, codes: Float[Tensor, "K 3"], data: Float[Tensor, "N 3"]
    ):
        self.quantizer = quantizer
        with torch.no_grad():
            quantizer.codebook.copy_(codes)
        self.points = torch.nn.Parameter(data.clone())
        self.history: collections.deque[tuple[float, ...]] = collections.deque(maxlen=WINDOW)
        self.counts = geometry.usage_counts(self.indices, len(codes))
        self.measure(0)

    @property
    def latents(self) -> Float[Tensor, "N 3"]:
        return self.points.detach()

    @property
    def codes(self) -> Float[Tensor, "K 3"]:
        return self.quantizer.codebook.detach()

    @property
    def indices(self) -> Int[Tensor, " N"]:
        return nearest_code(self.latents, self.codes, self.quantizer.metric)

    def loss(self, data: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
        """The quantizer's loss and the spring's."""
        return self.quantizer(self.points[:, :, None, None]).loss + SPRING * mse_loss(
            self.points, data
        )

    def measure(self, step: int) -> None:
        """Append step, codes used, perplexity and the smallest angle (degrees) to the history."""
        angle = math.degrees(geometry.min_angle(self.codes)) if len(self.codes) > 1 else math.nan
        self.history.append(
            (step, int(self.counts.count_nonzero()), geometry.perplexity(self.counts), angle)
        )

    def table(self) -> pd.DataFrame:
        """The last `WINDOW` steps: step, codes_used, perplexity, min_angle (degrees)."""
        return pd.DataFrame(self.history, columns=["step", "codes_used", "perplexity", "min_angle"])


class Simulation:
    """SAMP (`samp`) and plain Euclidean VQ (`plain`) learning side by side, each in its own latents of one data set.

    Both start from one draw U(-1, 1)^3, each as its method does: SAMP normalises it, plain VQ divides it by K. The
    same seed and the same changes give the same run. num_latents, num_codes: from 1.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        num_latents: int = 256,
        num_codes: int = 64,
        seed: int = 0,
    ):
        if num_codes < 1:
            raise ValueError(f"num_codes is {num_codes}; it must be a whole number from 1")
        self.settings, self.seed = settings or Settings(), seed
        self.num_latents, self.num_codes = num_latents, num_codes
        self.reset()

    @property
    def learners(self) -> dict[str, Learner]:
        """Both learners by name."""
        return {"samp": self.samp, "plain": self.plain}

    @property
    def radius(self) -> float:
        """M(t), the radius of the ball; finite for any step."""
        return math.exp(self.log_radius)

    def reset(self) -> None:
        """Back to step 0, with the present settings."""
        self.steps, self.log_radius = 0, 0.0
        self.held: tuple[str, int, tuple[float, float, float]] | None = None
        self.data = self._data()
        draw = (
            torch.rand(self.num_codes, 3, generator=torch.Generator().manual_seed(self.seed)) * 2
            - 1
        )
        self.prior = SphericalQuantizer(self.num_codes, 3)
        self.samp = Learner(self.prior, normalize(draw, dim=1), self.data)
        self.plain = Learner(
            EuclideanQuantizer(self.num_codes, 3), draw / self.num_codes, self.data
        )
        free = [
            tensor
            for learner in self.learners.values()
            for tensor in (learner.points, learner.quantizer.codebook)
        ]
        self.optimizer = torch.optim.Adam(free, fused=True)

    def change(self, settings: Settings) -> None:
        """Go on with other settings. With other clusters the springs draw the latents to their new places."""
        old, self.settings = self.settings, settings
        if (old.clusters, old.concentration) != (settings.clusters, settings.concentration):
            self.data = self._data()

    def step(self, count: int = 1) -> None:
        """Learn for `count` steps, from 0."""
        if count < 0:
            raise ValueError(f"count is {count}; it must be a whole number from 0")
        for _ in range(count):
            self._step()

    def _step(self) -> None:
        self.steps += 1
        self.log_radius = min(self.log_radius + self.settings.growth, MAX_EXPONENT)
        self.prior.samp = self.settings.samp(self.radius)
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate
        self.optimizer.zero_grad()
        (
            self.samp.loss(self.data) + self.plain.loss(self.data)
        ).backward()  # two losses that share no tensor
        self.optimizer.step()
        for learner in self.learners.values():
            learner.quantizer.after_step()
            learner.counts = learner.quantizer.batch_counts
        self._hold()
        for learner in self.learners.values():
            learner.measure(self.steps)

    def hold(self, name: str, code: int, position: tuple[float, float, float]) -> None:
        """Put a code of "samp" or "plain" somewhere, and keep it there until `release`. Raises ValueError."""
        if name not in self.learners or not 0 <= code < self.num_codes:
            raise ValueError(
                f"there is no code {code} of {name!r}; 'samp' and 'plain' have 0 to {self.num_codes - 1}"
            )
        if not all(map(math.isfinite, position)) or not any(position):
            raise ValueError(
                f"a code cannot be put at {position}; it needs three finite numbers, not all 0"
            )
        self.held = name, code, position
        self._hold()
        learner = self.learners[name]
        learner.counts = geometry.usage_counts(learner.indices, self.num_codes)
        learner.history.pop()
        learner.measure(self.steps)

    def release(self) -> None:
        """Let the code that is held learn again."""
        self.held = None

    def summary(self) -> str:
        """What is to be seen, in one line."""
        parts = [
            f"{name} uses {used} of {self.num_codes} codes, perplexity {perplexity:.1f}, "
            f"smallest angle {angle:.2g} degrees"
            for name, learner in (("SAMP", self.samp), ("plain VQ", self.plain))
            for _, used, perplexity, angle in [learner.history[-1]]
        ]
        return f"Step {self.steps}: {'; '.join(parts)}; the ball's radius is {self.radius:.3g}."

    def _data(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        points = vmf_mixture(
            self.num_latents, self.settings.clusters, self.settings.concentration, generator
        )
        return REACH * points.float()

    @torch.no_grad()
    def _hold(self) -> None:
        if self.held:
            name, code, position = self.held
            self.learners[name].quantizer.codebook[code] = torch.tensor(position)
