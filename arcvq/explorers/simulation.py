"""Codes that learn on the sphere in three dimensions: SAMP and plain VQ from one start.

Latents are a mixture of von Mises-Fisher clusters on the sphere of radius `REACH`. There is no
network: a spring holds each latent at its place in the data. It stands in for the reconstruction
loss, which keeps an encoder's latents where the decoder needs them. All else is the method itself:
the quantizers of `arcvq`, their losses and the ball.

The playground runs it in the browser, as web/simulation.js. This is what that is held against, in
float64.
"""

import collections
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import mse_loss, normalize, one_hot

from arcvq import geometry
from arcvq.figures.theme import Number
from arcvq.quantizers import EuclideanQuantizer, Quantizer, SphericalQuantizer, nearest_code
from arcvq.runtime.checks import as_seed, check_not_negative, check_whole
from arcvq.samp import SAMP
from arcvq.schedules import MAX_EXPONENT, Constant

REACH = 2.0  # norm of the data: above the ball's first radius, 1, so that the ball holds codes back
SPRING = 4.0  # weight of the spring: it gives way to the margin loss at weight 1, and yet holds
WINDOW = 300  # steps that the running curves remember
MOST_CLUSTERS = 20
CURVES = ["step", "codes_used", "perplexity", "min_angle"]


class Draws(NamedTuple):
    """All that is random in a simulation, in float64.

    Attributes:
        uniform: In [0, 1), how far each latent lies from the mean of its cluster.
        turn: In [0, 1), the direction in which it lies.
        normals: The means of the clusters before they are normalized.
        codes: In [-1, 1), the codes before each method starts with them in its way.
    """

    uniform: Float[Tensor, " N"]
    turn: Float[Tensor, " N"]
    normals: Float[Tensor, "clusters 3"]
    codes: Float[Tensor, "K 3"]

    @classmethod
    def of_seed(cls, seed: int, num_latents: int, num_codes: int = 1) -> "Draws":
        """Draw for so many latents and codes, each from 1."""
        check_whole(1, num_latents=num_latents, num_codes=num_codes)
        generator = Generator().manual_seed(as_seed(seed))
        kind: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        uniform, turn = torch.rand(2, num_latents, **kind)
        normals = torch.randn(MOST_CLUSTERS, 3, **kind)
        codes = torch.rand(num_codes, 3, **kind) * 2 - 1
        return cls(uniform, turn, normals, codes)


def vmf_mixture(draws: Draws, clusters: int, concentration: Number) -> Float[Tensor, "N 3"]:
    """Place unit vectors in von Mises-Fisher clusters of equal weight.

    In three dimensions the cosine w to the mean has a closed inverse CDF: 1 - w = -log(1 - u (1 -
    exp(-2 kappa))) / kappa for u uniform in [0, 1) (Jakob 2012, with log1p and expm1). So with the
    same draws a larger concentration places the same points closer.

    Args:
        draws: What is random.
        clusters: From 1 to 20.
        concentration: Kappa, 0 (uniform on the sphere) to 1e4; the mean resultant length of a
            cluster is coth(kappa) - 1/kappa.

    Raises:
        ValueError: For numbers out of range.
    """
    check_clusters(clusters, concentration)
    uniform, turn, normals, _ = draws
    means = normalize(normals[:clusters], dim=1)
    mean = means[torch.arange(len(uniform)) % clusters]
    kappa = max(float(concentration), 1e-12)
    short = -torch.log1p(uniform * math.expm1(-2 * kappa)) / kappa  # 1 - w, exact where w is near 1
    short = short.clamp(0, 2)
    across = (short * (2 - short)).sqrt()

    # Two directions at right angles to the mean, from the axis that is farthest from it
    least = one_hot(mean.abs().argmin(1), 3).double()
    right = normalize(torch.linalg.cross(mean, least), dim=1)
    up = torch.linalg.cross(mean, right)
    angle = (2 * math.pi * turn)[:, None]
    ring = angle.cos() * right + angle.sin() * up
    return normalize((1 - short)[:, None] * mean + across[:, None] * ring, dim=1)


def check_clusters(clusters: int, concentration: Number) -> None:
    """Raise ValueError for numbers of a mixture that are out of range."""
    check_whole(1, clusters=clusters)
    if clusters > MOST_CLUSTERS:
        raise ValueError(f"clusters is {clusters}; it must be at most {MOST_CLUSTERS}")
    if not 0 <= concentration <= 1e4:
        raise ValueError(f"concentration is {concentration}; it must be from 0 to 10,000")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may change between two steps; every value is checked (ValueError).

    Attributes:
        clusters: Of the data, from 1 to 20.
        concentration: Kappa of the clusters, 0 to 1e4.
        margin: Radians, 0 to below pi/2.
        scale: Above 0.
        top_k: From 1.
        growth: Of the ball's radius per step, M <- M exp(growth), from 0.
        weight: Of the margin loss, from 0.
        learning_rate: Of Adam, above 0, at most 1.
    """

    clusters: int = 6
    concentration: Number = 20.0
    margin: Number = 0.1
    scale: Number = 5.0
    top_k: int = 3
    growth: Number = 0.005
    weight: Number = 0.3
    learning_rate: Number = 0.02

    def __post_init__(self):
        check_clusters(self.clusters, self.concentration)
        check_not_negative(growth=self.growth, weight=self.weight)
        if not 0 < self.learning_rate <= 1:
            raise ValueError(
                f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1"
            )
        self.samp(1.0)

    def samp(self, radius: float) -> SAMP:
        """Return a SAMP with these settings and a ball of this radius."""
        return SAMP(self.margin, self.scale, self.top_k, Constant(radius), Constant(self.weight))


class Learner:
    """A quantizer and the latents that it quantizes, both free to move.

    Attributes:
        quantizer: With its codebook.
        points: The latents.
        counts: How many latents chose each code in the last step (before the first step: now).
        history: A tuple of `CURVES` for each of the last `WINDOW` steps.
    """

    def __init__(
        self, quantizer: Quantizer, codes: Float[Tensor, "K 3"], data: Float[Tensor, "N 3"]
    ):
        self.quantizer = quantizer.double()
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
        """Return the sum of the quantizer's loss and the spring's."""
        quantized = self.quantizer(self.points[:, :, None, None])
        return quantized.loss + SPRING * mse_loss(self.points, data)

    def measure(self, step: int) -> None:
        """Append step, codes used, perplexity and the smallest angle (degrees) to the history."""
        angle = math.nan
        if len(self.codes) > 1:
            angle = math.degrees(geometry.min_angle(self.codes))
        used = int(self.counts.count_nonzero())
        self.history.append((step, used, geometry.perplexity(self.counts), angle))

    def table(self) -> pd.DataFrame:
        """Return the history: step, codes_used, perplexity, min_angle (degrees)."""
        return pd.DataFrame(self.history, columns=CURVES)


class Simulation:
    """SAMP (`samp`) and plain Euclidean VQ (`plain`) learning side by side from the same data.

    Each has latents of its own. Both start from one draw U(-1, 1)^3, each as its method does: SAMP
    normalizes it, plain VQ divides it by K. The same seed and the same changes give the same run.

    Args:
        settings: At the start.
        num_latents: From 1.
        num_codes: K, from 1.
        seed: Of data and codes.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        num_latents: int = 256,
        num_codes: int = 64,
        seed: int = 0,
    ):
        self.settings = settings or Settings()
        self.num_codes = num_codes
        self.draws = Draws.of_seed(seed, num_latents, num_codes)
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
        """Go back to step 0, with the present settings."""
        self.steps = 0
        self.log_radius = 0.0
        self.data = self._data()
        count = self.num_codes
        codes = self.draws.codes
        self.prior = SphericalQuantizer(count, 3)
        self.samp = Learner(self.prior, normalize(codes, dim=1), self.data)
        self.plain = Learner(EuclideanQuantizer(count, 3), codes / count, self.data)
        free = []
        for learner in self.learners.values():
            free += [learner.points, learner.quantizer.codebook]
        self.optimizer = torch.optim.Adam(free, fused=True)
        for tensor in free:
            # What Adam would make at its first step, so that a state can be resumed before it
            moments = {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
            self.optimizer.state[tensor] = {"step": torch.zeros(())} | moments

    def change(self, settings: Settings) -> None:
        """Go on with other settings; the springs draw the latents to their new places, if any."""
        self.settings = settings
        self.data = self._data()

    def step(self, count: int = 1) -> None:
        """Learn for `count` steps, from 0."""
        check_whole(0, count=count)
        for _ in range(count):
            self._step()

    def _step(self) -> None:
        self.steps += 1
        self.log_radius = min(self.log_radius + self.settings.growth, MAX_EXPONENT)
        self.prior.samp = self.settings.samp(self.radius)
        # So that the ball takes back a code that was dragged out of it (see SphericalQuantizer).
        self.prior.radius.fill_(math.inf)
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate
        self.optimizer.zero_grad()
        loss = self.samp.loss(self.data) + self.plain.loss(self.data)  # they share no tensor
        loss.backward()
        self.optimizer.step()
        for learner in self.learners.values():
            learner.quantizer.after_step()
            learner.counts = learner.quantizer.batch_counts.clone()
            learner.measure(self.steps)

    @property
    def state(self) -> np.ndarray:
        """All that the next steps follow from, in one array of float64.

        In this order: steps and log M(t); of SAMP and then of plain VQ the codes, the two moments
        of Adam for them, the latents and theirs, and the counts; and the two histories.
        """
        parts = [np.array([self.steps, self.log_radius])]
        parts += [tensor.numpy().ravel() for tensor in self._memory()]
        parts += [np.array(learner.history).ravel() for learner in self.learners.values()]
        return np.concatenate(parts)

    def resume(self, state: np.ndarray) -> None:
        """Go on from a state of a simulation with the same seed and sizes."""
        tensors = self._memory()
        sizes = [tensor.numel() for tensor in tensors]
        start, *parts, histories = np.split(state, np.cumsum([2, *sizes]))
        self.steps = int(start[0])
        self.log_radius = float(start[1])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(torch.tensor(part).view_as(tensor))
        for memory in self.optimizer.state.values():
            memory["step"].fill_(self.steps)
        tables = histories.reshape(2, -1, len(CURVES))
        for learner, table in zip(self.learners.values(), tables, strict=True):
            learner.history = collections.deque(map(tuple, table), maxlen=WINDOW)

    def _memory(self) -> list[Tensor]:
        """The tensors that the next steps follow from."""
        found = []
        for learner in self.learners.values():
            for tensor in (learner.quantizer.codebook, learner.points):
                memory = self.optimizer.state[tensor]
                found += [tensor.detach(), memory["exp_avg"], memory["exp_avg_sq"]]
            found.append(learner.counts)
        return found

    def summary(self) -> str:
        """Describe the present state in one line."""
        parts = []
        for name, learner in (("SAMP", self.samp), ("plain VQ", self.plain)):
            _, used, perplexity, angle = learner.history[-1]
            parts.append(
                f"{name} uses {used:.0f} of {self.num_codes} codes, perplexity {perplexity:.1f}, "
                f"smallest angle {angle:.3g} degrees"
            )
        return f"Step {self.steps:,}: {'; '.join(parts)}; the ball's radius is {self.radius:.3g}."

    def _data(self) -> Tensor:
        now = self.settings
        return REACH * vmf_mixture(self.draws, now.clusters, now.concentration)
