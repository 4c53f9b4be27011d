"""A number as a function of progress: how the ball's radius and the margin loss's weight change in training.

Every schedule is a frozen dataclass with `value(step, usage=None)`. It takes a Python number and gives a float, or
takes a tensor and gives a float32 tensor on the same device, so that a training step never waits for the host. It
prints as code, and goes to JSON and back with `to_json` and `from_json`.
"""

import dataclasses
import json
import math

import torch
from torch import Tensor

Number = int | float | Tensor
LEVELS = ("level", "start", "end", "low", "high")  # the fields that are values; the others are rates and lengths
MAX_EXPONENT = 80.0  # exp(80) = 5.5e34 is finite in float32, and so are its products with ordinary norms.


def bounded_exp(exponent: Number) -> float | Tensor:
    """exp(exponent), with the exponent held within +-80, so that the result is finite in float32."""
    if isinstance(exponent, Tensor):
        return exponent.float().clamp(-MAX_EXPONENT, MAX_EXPONENT).exp()
    return math.exp(min(max(exponent, -MAX_EXPONENT), MAX_EXPONENT))


def _clip(value: Number) -> float | Tensor:
    return value.float().clamp(0.0, 1.0) if isinstance(value, Tensor) else min(max(value, 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The base of all schedules."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            number = getattr(self, field.name)
            if not math.isfinite(number):
                raise ValueError(f"{field.name} of {type(self).__name__} is {number}; it must be a finite number")
            if field.name in ("steps", "period") and number <= 0:
                raise ValueError(f"{field.name} of {type(self).__name__} is {number}; it must be above 0")

    def value(self, step: Number, usage: Number | None = None) -> float | Tensor:
        """The value after `step` optimiser steps; `usage` (0 to 1, the share of codes in use) is read by Adaptive."""
        raise NotImplementedError

    def times(self, factor: float) -> "Schedule":
        """The schedule whose value is `factor` times this one's at every step."""
        levels = [field.name for field in dataclasses.fields(self) if field.name in LEVELS]
        return dataclasses.replace(self, **{name: factor * getattr(self, name) for name in levels})

    def to_json(self) -> str:
        """The schedule as a JSON object with its kind."""
        return json.dumps({"kind": type(self).__name__, **dataclasses.asdict(self)})

    @staticmethod
    def from_json(text: str) -> "Schedule":
        """The schedule that `to_json` wrote. Raises ValueError for an unknown kind or unknown fields."""
        fields = dict(json.loads(text))
        kind = fields.pop("kind", None)
        kinds = {cls.__name__: cls for cls in Schedule.__subclasses__()}
        if kind not in kinds:
            raise ValueError(f"schedule kind {kind!r} is unknown; known are {', '.join(kinds)}")
        try:
            return kinds[kind](**fields)
        except TypeError as error:
            raise ValueError(f"schedule {kind} cannot be made from {fields}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Always `level`."""

    level: float

    def value(self, step, usage=None):
        return torch.full_like(step, self.level, dtype=torch.float32) if isinstance(step, Tensor) else self.level


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """start * exp(rate * step): the paper's choice for radius (rate alpha) and weight (rate -lambda)."""

    rate: float
    start: float = 1.0

    @classmethod
    def through(cls, step: int, value: float, rate: float) -> "Exponential":
        """The one of this rate that has this value at `step`: a rate may so change in a run without a jump.

        Raises ValueError where |rate * step| is above 80, beyond which a schedule stands still.
        """
        if not abs(rate * step) <= MAX_EXPONENT:
            raise ValueError(f"rate is {rate} at step {step}; |rate * step| must be at most {MAX_EXPONENT:g}")
        return cls(rate, value / math.exp(rate * step))

    def value(self, step, usage=None):
        return self.start * bounded_exp(self.rate * step)


@dataclasses.dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight line from `start` to `end` over `steps` steps, then `end`."""

    start: float
    end: float
    steps: int

    def value(self, step, usage=None):
        return self.start + (self.end - self.start) * _clip(step / self.steps)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from `start` to `end` over `steps` steps, then `end`."""

    start: float
    end: float
    steps: int

    def value(self, step, usage=None):
        angle = math.pi * _clip(step / self.steps)
        cosine = angle.cos() if isinstance(angle, Tensor) else math.cos(angle)
        return self.end + (self.start - self.end) * (1 + cosine) / 2


@dataclasses.dataclass(frozen=True)
class Oscillating(Schedule):
    """A cosine wave between `high` (at step 0) and `low`, `period` steps long."""

    low: float
    high: float
    period: int

    def value(self, step, usage=None):
        angle = 2 * math.pi * step / self.period
        cosine = angle.float().cos() if isinstance(angle, Tensor) else math.cos(angle)
        return self.low + (self.high - self.low) * (1 + cosine) / 2


@dataclasses.dataclass(frozen=True)
class Adaptive(Schedule):
    """`high` while no code is used, falling in a straight line to `low` once `target` (a share, 0 to 1) is used.

    Needs the measured usage of the last batch, which `SphericalQuantizer` gives it; without it the value is `high`.
    """

    low: float
    high: float
    target: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.target <= 1:
            raise ValueError(f"target of Adaptive is {self.target}; it must be above 0 and at most 1")

    def value(self, step, usage=None):
        if usage is None:
            return Constant(self.high).value(step)
        return self.high + (self.low - self.high) * _clip(usage / self.target)
