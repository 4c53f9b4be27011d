import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.schedules import (
    Adaptive,
    Constant,
    Cosine,
    Exponential,
    Oscillating,
    Schedule,
    WarmUp,
    bounded_exp,
)

ALL = [
    Constant(2.0),
    Exponential(3e-4),
    Exponential(-5e-4, start=0.2),
    WarmUp(0.0, 1.0, 100),
    Cosine(1.0, 0.1, 200),
    Oscillating(0.5, 2.0, 50),
    Adaptive(0.1, 1.0, 0.8),
]
every_schedule = pytest.mark.parametrize(
    "schedule", ALL, ids=lambda schedule: type(schedule).__name__
)


@every_schedule
@settings(max_examples=20)
@given(step=st.integers(0, 10_000_000), usage=st.floats(0, 1))
def test_a_number_and_a_tensor_give_the_same_value(schedule, step, usage):
    expected = schedule.value(step, usage)
    assert isinstance(expected, float)
    assert math.isfinite(expected)
    got = schedule.value(torch.tensor(step), torch.tensor(usage, dtype=torch.float64))
    assert got.dtype == torch.float64
    assert got.shape == ()
    assert float(got) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def by_hand(schedule, step, usage):
    """The formulas with the functions of `math`, which work in float64."""
    match schedule:
        case Constant(level):
            return level
        case Exponential(rate, start):
            return start * math.exp(rate * step)
        case WarmUp(start, end, steps):
            return start + (end - start) * min(step / steps, 1)
        case Cosine(start, end, steps):
            return end + (start - end) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
        case Oscillating(low, high, period):
            return low + (high - low) * (1 + math.cos(2 * math.pi * step / period)) / 2
        case Adaptive(low, high, target):
            return high + (low - high) * min(usage / target, 1)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_values_of_tensors_are_exact_to_the_last_digits_of_float64(schedule, dtype):
    """In float32 they were off by 1e-7, which was enough to part from the authors' training."""
    usage = torch.tensor(1 / 3, dtype=torch.float64)
    for step in (0, 1, 107, 295, 29_500):
        value = schedule.value(torch.tensor(step, dtype=dtype), usage)
        expected = by_hand(schedule, step, float(usage))
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(expected, rel=1e-14, abs=1e-14)
        assert schedule.value(step, float(usage)) == pytest.approx(expected, rel=1e-14)


@every_schedule
def test_a_config_goes_through_json_and_back(schedule):
    config = json.loads(json.dumps(schedule.config()))
    assert Schedule.from_config(config) == schedule
    assert config["kind"] == type(schedule).__name__


@every_schedule
def test_a_schedule_prints_as_code(schedule):
    assert eval(repr(schedule)) == schedule


def test_exponential_warm_up_and_cosine_follow_their_formulas():
    assert Exponential(3e-4).value(1000) == pytest.approx(math.exp(0.3))
    assert WarmUp(1.0, 3.0, 100).value(25) == 1.5
    assert WarmUp(1.0, 3.0, 100).value(500) == 3.0
    assert Cosine(1.0, 0.0, 100).value(50) == pytest.approx(0.5)
    assert Cosine(1.0, 0.0, 100).value(300) == 0.0


def test_oscillating_and_adaptive_follow_their_formulas():
    assert Oscillating(1.0, 3.0, 40).value(0) == 3.0
    assert Oscillating(1.0, 3.0, 40).value(20) == pytest.approx(1.0)
    assert Adaptive(0.0, 1.0, 0.5).value(7, usage=0.25) == pytest.approx(0.5)
    assert Adaptive(0.0, 1.0, 0.5).value(7, usage=0.9) == 0.0
    assert Adaptive(0.0, 1.0, 0.5).value(7) == 1.0
    assert Adaptive(0.0, 1.0, 1.0).value(7, usage=0.5) == 0.5


def test_exponential_stays_finite_past_the_overflow_of_float32():
    for step in (295_800, 10_000_000, 10**12):
        assert math.isfinite(Exponential(3e-4).value(step))
        assert torch.isfinite(Exponential(3e-4).value(torch.tensor(step)))
    assert bounded_exp(-1e9) > 0
    assert bounded_exp(torch.tensor(-1e9)) > 0


BAD = [
    (lambda: Constant(math.nan), "level of Constant is nan"),
    (lambda: Constant("4"), "level of Constant is '4'; it must be a finite number"),
    (lambda: WarmUp(0.0, None, 5), "of WarmUp is None; it must be a finite number"),
    (lambda: WarmUp(0.0, 1.0, 0), "steps of WarmUp is 0"),
    (lambda: Oscillating(0.0, 1.0, -5), "period of Oscillating is -5"),
    (lambda: Adaptive(0.0, 1.0, 1.5), "target of Adaptive is 1.5"),
    (lambda: Schedule.from_config({"kind": "Zigzag"}), "schedule kind 'Zigzag' is unknown"),
    (lambda: Schedule.from_config({"kind": "Constant", "height": 1}), "cannot be made from"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_refused_in_one_sentence(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


@every_schedule
@pytest.mark.parametrize("factor", [0.0, 0.3, 10.0])
def test_times_multiplies_every_value(schedule, factor):
    product = schedule.times(factor)
    for step in (0, 7, 60, 5000):
        for usage in (None, 0.0, 0.5, 1.0):
            expected = factor * schedule.value(step, usage)
            assert product.value(step, usage) == pytest.approx(expected, rel=1e-12, abs=1e-15)


NO_NUMBERS = ["5", None, [5], True, 1j]
every_no_number = pytest.mark.parametrize("number", NO_NUMBERS, ids=repr)


@every_schedule
@pytest.mark.parametrize("factor", [*NO_NUMBERS, math.nan, math.inf], ids=repr)
def test_a_factor_that_is_no_finite_number_is_refused(schedule, factor, unchecked):
    with pytest.raises(ValueError, match=r"^factor is .*; it must be a finite number$"):
        schedule.times(factor)


@every_schedule
@every_no_number
def test_a_step_that_is_no_number_is_refused(schedule, number, unchecked):
    with pytest.raises(ValueError, match=r"^step is .*; it must be a number or a tensor$"):
        schedule.value(number)


def test_a_usage_that_is_no_number_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"^usage is 'all'; it must be a number or a tensor$"):
        Adaptive(0.1, 1.0).value(7, "all")


@every_no_number
@pytest.mark.parametrize("name", ["step", "value", "rate"])
def test_an_exponential_goes_through_numbers_alone(name, number, unchecked):
    numbers = {"step": 3, "value": 2.0, "rate": 0.1, name: number}
    with pytest.raises(ValueError, match=rf"^{name} is .*; it must be a finite number$"):
        Exponential.through(**numbers)


@given(
    step=st.integers(0, 1000),
    value=st.floats(1e-6, 1e6),
    rate=st.floats(-0.08, 0.08),
    later=st.integers(0, 100),
)
def test_an_exponential_goes_through_a_value_and_on_at_its_rate(step, value, rate, later):
    schedule = Exponential.through(step, value, rate)
    assert schedule.rate == rate
    assert schedule.value(step) == pytest.approx(value, rel=1e-12)
    if abs(rate * (step + later)) <= 80:
        expected = value * math.exp(rate * later)
        assert schedule.value(step + later) == pytest.approx(expected, rel=1e-9)


def test_an_exponential_that_would_stand_still_at_once_is_refused():
    Exponential.through(100, 1.0, 0.8)
    message = r"rate is 0\.81 at step 100; \|rate \* step\| must be at most 80"
    with pytest.raises(ValueError, match=message):
        Exponential.through(100, 1.0, 0.81)
    with pytest.raises(ValueError, match=r"rate is -0\.81 at step 100; \|rate \* step\| must be"):
        Exponential.through(100, 1.0, -0.81)


@pytest.mark.parametrize("schedule", [Constant(0.5), Cosine(1.0, 0.0, 9), Adaptive(0.0, 1.0)])
def test_without_a_usage_a_tensor_gives_a_tensor_as_well(schedule):
    value = schedule.value(torch.tensor(7))
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(schedule.value(7))
