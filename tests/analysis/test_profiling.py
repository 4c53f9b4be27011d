import pytest
import torch

from arcvq.analysis import profiling
from arcvq.analysis.profiling import MIB, margin_costs, peak_memory, side_by_side
from arcvq.figures import cost_picture, summary


def test_side_by_side_gives_a_positive_time_for_each_action_in_each_round():
    calls = []
    times = side_by_side(
        {"one": lambda: calls.append(1), "two": lambda: calls.append(2)}, repeats=3
    )
    assert calls == [1, 2] * 4
    assert times.shape == (3, 2)
    assert (times > 0).all(axis=None)


def test_peak_memory_counts_what_lives_at_once_and_not_what_was_there():
    given = torch.ones(MIB)  # 4 MiB

    def action():
        first = given + 1
        second = first * 2
        del first
        return second.view(-1)[1:] + 1

    assert peak_memory(action, given) == pytest.approx(8 * MIB, abs=8)
    assert peak_memory(lambda: given.view(-1, 2).T.add_(1), given) == 0


def test_the_streaming_loss_holds_less_than_the_plain_one_and_costs_are_positive():
    table = margin_costs([(64, 20_000), (128, 300)], dim=8, repeats=1)
    assert list(table.num_codes) == [64, 128]
    assert (table[["floor", "loss", "plain", "lookup"]] > 0).all(axis=None)
    assert 0 < table.memory[0] < table.plain_memory[0] / 3


def test_a_plain_loss_that_was_not_tried_is_missing_and_the_rest_can_be_drawn(monkeypatch):
    monkeypatch.setattr(profiling, "PLAIN_ENTRIES", 100)
    table = margin_costs([(64, 300)], dim=2, repeats=1)
    assert table[["plain", "plain_memory"]].isna().all(axis=None)
    assert "whole matrix" not in summary(cost_picture(table))
