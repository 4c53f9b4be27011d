"""Numbers in captions have few digits, and nouns the ending that fits."""

import pytest

from arcvq.runtime.wording import capitalized, counted, short, span


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "code", "0 codes"),
        (1, "code", "1 code"),
        (1_200, "code", "1,200 codes"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
    ],
)
def test_a_noun_follows_its_number(count, noun, text):
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (4, "4"),
        (22.8349, "22.8"),
        (23.04, "23.0"),
        (23, "23"),
        (3.93e-7, "3.93e-07"),
        (-0.5, "-0.5"),
        (6974.39, "6,974"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_has_three_digits_or_those_before_the_point(number, text):
    assert short(number) == text


def test_a_span_whose_ends_read_the_same_is_one_number():
    assert span([2.0, 0.5, 1.0]) == "0.5 to 2"
    assert span(iter([1.0001, 1.0])) == "1"
    assert span([0.00604, 0.0159], digits=2) == "0.006 to 0.016"


def test_the_first_letter_alone_is_capitalized():
    assert capitalized("codes used of K") == "Codes used of K"
    assert capitalized("PSNR (dB)") == "PSNR (dB)"
    assert capitalized("") == ""
