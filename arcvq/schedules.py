"""Schedules: numbers that change during training, as functions of the optimizer step.

The radius of the ball and the weight of the margin loss (see `arcvq.samp`) follow schedules.
Every schedule is a frozen dataclass with a method `value(step, usage=None)`. Given a Python number
it returns a float; given a tensor it returns a float64 tensor on the same device, so that a
training step never has to wait for a GPU. (On MPS, which has no float64, it is float32.)

To add a schedule, derive a frozen dataclass from `Schedule` and define `value`. The class
is found by its name when a saved config is opened, and its fields are what the config holds.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arcvq.runtime.checks import check_finite_numbers, is_number, use_python_numbers
from arcvq.runtime.kinds import Kinds
from arcvq.runtime.precision import widest_float

Number = int | float | Tensor

# exp(80) = 5.5e34 is finite in float32, and so are its products with ordinary norms.
MAX_EXPONENT = 80.0

# Fields that are values of the schedule. All others are rates, lengths or targets.
VALUE_FIELDS = ("level", "start", "end", "low", "high")


def exact(number: Number, name: str = "step") -> Number:
    """Return a tensor in float64, or in float32 on MPS, and a Python number as it is.

    Args:
        number: A Python number or a tensor.
        name: What it is called, for the message.

    Raises:
        ValueError: For anything else, such as text.
    """
    if isinstance(number, Tensor):
        return number.to(widest_float(number.device))
    if not is_number(number):
        raise ValueError(f"{name} is {number!r}; it must be a number or a tensor")
    return number


def bounded_exp(exponent: Number) -> float | Tensor:
    """Return exp(exponent), with the exponent clipped to +-80 so that float32 can hold the result.

    Args:
        exponent: A Python number or a tensor.

    Returns:
        A float for a number, a tensor of the same type for a tensor.
    """
    if isinstance(exponent, Tensor):
        return exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT).exp()
    return math.exp(min(max(exponent, -MAX_EXPONENT), MAX_EXPONENT))


def _clip(share):
    """Hold a share within [0, 1]."""
    if isinstance(share, Tensor):
        return share.clamp(0.0, 1.0)
    return min(max(share, 0.0), 1.0)


def _cos(angle):
    """Cosine of a number or a tensor."""
    return angle.cos() if isinstance(angle, Tensor) else math.cos(angle)


@dataclass(frozen=True)
class Schedule(Kinds):
    """Base class of all schedules; a subclass defines `value`.

    Every field must be a finite number, and fields named `steps` or `period` must be above 0;
    otherwise the constructor raises ValueError. A schedule prints as the code that makes it.
    """

    def __post_init__(self):
        use_python_numbers(self)
        name = type(self).__name__
        for field, number in asdict(self).items():
            check_finite_numbers(**{f"{field} of {name}": number})
            if field in ("steps", "period") and number <= 0:
                raise ValueError(f"{field} of {name} is {number}; it must be above 0")

    def value(self, step: Number, usage: Number | None = None) -> float | Tensor:
        """Return the value of the schedule.

        Args:
            step: Number of optimizer steps done.
            usage: Share of the codes that the last batch used, in [0, 1]. Only `Adaptive` reads it.

        Returns:
            A float for a Python number, a float64 tensor on the same device for a tensor.

        Raises:
            ValueError: For a step or usage that is no number.
        """
        raise NotImplementedError

    @property
    def lowest(self) -> float:
        """The smallest of the values that the schedule is given; infinity where it has none."""
        fields = asdict(self)
        return min((fields[name] for name in VALUE_FIELDS if name in fields), default=math.inf)

    def times(self, factor: float) -> "Schedule":
        """Return the schedule whose value is `factor` times this one's at every step.

        Raises:
            ValueError: For a factor that is no finite number, or that makes a value infinite.
        """
        check_finite_numbers(factor=factor)
        fields = asdict(self)
        scaled = {name: factor * fields[name] for name in VALUE_FIELDS if name in fields}
        return replace(self, **scaled)

    def config(self) -> dict[str, Any]:
        """Return class name ("kind") and fields as a plain dict for `from_config`."""
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Schedule":
        """Build the schedule that `config` describes.

        Args:
            config: What `config()` of a schedule returned.

        Raises:
            ValueError: For an unknown kind, or fields that this kind does not have.
        """
        fields = dict(config)
        kind = fields.pop("kind", None)
        schedule_class = Schedule.of_kind(kind, "schedule kind")
        try:
            return schedule_class(**fields)
        except TypeError as error:
            raise ValueError(f"schedule {kind} cannot be made from {fields}: {error}") from None


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Args:
        level: That value.
    """

    level: float

    def value(self, step, usage=None):
        step = exact(step)
        return torch.full_like(step, self.level) if isinstance(step, Tensor) else self.level


@dataclass(frozen=True)
class Exponential(Schedule):
    """Exponential growth or decay: start * exp(rate * step).

    The paper's choice for both halves of SAMP: the radius grows at the rate alpha, and the weight
    decays at the rate -lambda.

    Args:
        rate: Growth per step; negative for decay.
        start: Value at step 0.
    """

    rate: float
    start: float = 1.0

    @classmethod
    def through(cls, step: int, value: float, rate: float) -> "Exponential":
        """Return the exponential of a given rate that passes through a value at a step.

        With it the rate can change in the middle of a run without a jump of the value.

        Args:
            step: Step at which the value is taken.
            value: The value there.
            rate: Growth per step.

        Raises:
            ValueError: If an argument is no finite number, and if |rate * step| is above 80, beyond
                which it saturates.
        """
        check_finite_numbers(step=step, value=value, rate=rate)
        if not abs(rate * step) <= MAX_EXPONENT:
            raise ValueError(
                f"rate is {rate} at step {step}; |rate * step| must be at most {MAX_EXPONENT:g}"
            )
        return cls(rate, value / math.exp(rate * step))

    def value(self, step, usage=None):
        return self.start * bounded_exp(self.rate * exact(step))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear warm-up: a straight line from `start` to `end`, then constant.

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Length of the line, above 0.
    """

    start: float
    end: float
    steps: int

    def value(self, step, usage=None):
        return self.start + (self.end - self.start) * _clip(exact(step) / self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine annealing: half a cosine wave from `start` to `end`, then constant.

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Length of the half wave, above 0.
    """

    start: float
    end: float
    steps: int

    def value(self, step, usage=None):
        angle = math.pi * _clip(exact(step) / self.steps)
        return self.end + (self.start - self.end) * (1 + _cos(angle)) / 2


@dataclass(frozen=True)
class Oscillating(Schedule):
    """Cosine wave between two values, which starts at the higher one.

    Args:
        low: Smallest value.
        high: Largest value, at step 0.
        period: Steps from one maximum to the next, above 0.
    """

    low: float
    high: float
    period: int

    def value(self, step, usage=None):
        angle = 2 * math.pi * exact(step) / self.period
        return self.low + (self.high - self.low) * (1 + _cos(angle)) / 2


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Feedback from usage: `high` while no code is used, `low` once enough are, linear in between.

    `SphericalQuantizer` passes the usage of the last batch. Without a usage the value is `high`.

    Args:
        low: Value once the usage has reached `target`.
        high: Value at usage 0.
        target: Share of codes in (0, 1].
    """

    low: float
    high: float
    target: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.target <= 1:
            raise ValueError(f"target of Adaptive is {self.target}; it must be in (0, 1]")

    def value(self, step, usage=None):
        if usage is None:
            return Constant(self.high).value(step)
        return self.high + (self.low - self.high) * _clip(exact(usage, "usage") / self.target)
