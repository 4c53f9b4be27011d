import pytest
import torch

from arcvq.runtime.checks import check_range, check_whole


@pytest.mark.parametrize("number", [0, -3, 1.0, True, None, "1"])
def test_a_number_that_is_not_whole_or_too_small_is_named(number):
    with pytest.raises(ValueError, match=f"^steps is {number}; it must be a whole number from 1$"):
        check_whole(1, batch_size=4, steps=number)


def test_whole_numbers_from_the_minimum_on_pass():
    check_whole(0, classes=0, width=7)


@pytest.mark.parametrize("values, lowest, highest", [([0, 4], 0, 4), ([[-1, 2]], -1, 2)])
def test_values_out_of_range_are_answered_with_their_range(values, lowest, highest):
    message = f"^tokens reach from {lowest} to {highest}; they must be from 0 to 3$"
    with pytest.raises(ValueError, match=message):
        check_range(torch.tensor(values), 4, "tokens")


def test_all_indices_in_range_and_no_index_at_all_pass():
    check_range(torch.arange(4), 4)
    check_range(torch.zeros(0, 7, 7, dtype=torch.int64), 4)
