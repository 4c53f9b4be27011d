"""Tests for the parameters that every notebook has."""

import pytest

from arcvq.reports import check_parameters

USUAL = {"dataset": "digits", "profile": "quick", "device": "cpu", "seed": 0, "reading": {}}


def test_the_usual_parameters_are_taken():
    check_parameters(**USUAL)


def test_a_folder_takes_a_reading(tmp_path):
    folder = {"dataset": f"folder:{tmp_path}", "reading": {"size": 64, "grey": True}}
    check_parameters(**USUAL | folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "letters"}, "data set 'letters' is unknown"),
        ({"profile": "slow"}, "slow"),
        ({"device": "abacus"}, "abacus"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"reading": 3}, "reading is 3"),
        ({"reading": {"sise": 64}}, "sise"),
        ({"reading": {"size": 63}}, "63"),
        ({"reading": {"size": 64}}, "size: for folder:PATH only, not for digits"),
    ],
)
def test_a_wrong_parameter_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(**USUAL | wrong)
