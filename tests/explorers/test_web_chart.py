"""web/chart.js: the numbers at the ticks of an axis."""

import pytest

from tests.explorers.javascript import modules


@pytest.fixture(scope="module")
def javascript():
    with modules("chart") as call:
        yield call


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.30000000000000004, "0.3"),
        (50_000, "50000"),
        (100_000, "1e5"),
        (150_000, "1.5e5"),
        (-250_000, "-2.5e5"),
        (2_500_000, "2.5e6"),
        (1e-7, "1e-7"),
    ],
)
def test_a_tick_has_the_digits_of_its_number(javascript, value, written):
    assert javascript("tickText(value)", value=value) == written
