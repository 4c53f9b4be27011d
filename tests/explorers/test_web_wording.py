"""web/wording.js: how numbers are written in words and captions."""

import math

import pytest

from tests.explorers.javascript import modules


@pytest.fixture(scope="module")
def javascript():
    with modules("wording") as call:
        yield call


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (-2.5, "-2.5"),
        (999.6, "1,000"),
        (123456, "123,000"),
        (1.234e-9, "1.23e-9"),
        (1.234e30, "1.23e+30"),
    ],
)
def test_a_short_number_has_three_digits_and_commas(javascript, value, written):
    assert javascript("short(value)", value=value) == written


def test_a_number_that_is_not_there_is_unknown(javascript):
    assert javascript("[undefined, NaN, Infinity].map(short)") == ["unknown"] * 3


@pytest.mark.parametrize(
    ("value", "written"),
    [(29500, "29,500"), (6974.3894, "6,974.389"), (1.00009, "1"), (1.26e9, "1.3e+9")],
)
def test_a_number_in_full_has_at_most_three_digits_behind_the_point(javascript, value, written):
    assert javascript("inFull(value)", value=value) == written


def test_things_are_counted_and_angles_are_in_degrees(javascript):
    assert javascript("plural(1, 'latent')") == "1 latent"
    assert javascript("plural(1200, 'push', 'es')") == "1,200 pushes"
    assert javascript("degrees(angle)", angle=math.pi / 3) == "60.0°"
