import math

import pytest
import torch

from arcvq.priors import (
    BigramPrior,
    HistogramPrior,
    TokenData,
    TokenSplit,
    bits_per_token,
    fit_tokens,
)
from arcvq.priors.counting import witten_bell
from tests.priors.markov import markov_grids


def plain_witten_bell(counts, shorter):
    kinds = max(1, sum(count > 0 for count in counts))
    return [(count + kinds * q) / (sum(counts) + kinds) for count, q in zip(counts, shorter, strict=True)]


def test_smoothing_is_witten_and_bells_formula():
    counts, shorter = [3, 0, 1, 0], [0.1, 0.2, 0.3, 0.4]
    expected = plain_witten_bell(counts, shorter)
    found = witten_bell(torch.tensor([counts, [0] * 4]), torch.tensor(shorter))
    assert found[0].tolist() == pytest.approx(expected) and sum(expected) == pytest.approx(1)
    assert found[1].tolist() == pytest.approx(shorter), "a context never seen falls back on the shorter one"


@pytest.mark.parametrize("cls, context", [
    (HistogramPrior, lambda grid, place: place), (BigramPrior, lambda grid, place: grid[place - 1] if place else None),
])
def test_bits_are_those_of_counting_by_hand(cls, context):
    tokens, others = (torch.randint(4, (n, 2, 3), generator=torch.Generator().manual_seed(n)) for n in (9, 3))
    grids = tokens.flatten(1).tolist()
    total = [sum(token == code for grid in grids for token in grid) for code in range(4)]
    alone, bits = plain_witten_bell(total, [0.25] * 4), 0.0
    for other in others.flatten(1).tolist():
        for place, token in enumerate(other):
            after = [grid[i] for grid in grids for i in range(6) if context(grid, i) == context(other, place)]
            bits -= math.log2(plain_witten_bell([after.count(code) for code in range(4)], alone)[token])
    prior = cls(4, (2, 3))
    assert bits_per_token(prior, others) == pytest.approx(2), "uniform before counting"
    assert bits_per_token(prior.count(tokens), others) == pytest.approx(bits / 18, abs=1e-5)


def test_a_token_never_seen_costs_a_finite_number_of_bits():
    seen = torch.zeros(10, 2, 2, dtype=torch.int64)
    for cls in (HistogramPrior, BigramPrior):
        assert 1 < bits_per_token(cls(64, (2, 2)).count(seen), seen + 63) < 20


def test_the_truth_beats_both_on_grids_with_memory():
    grids, truth = markov_grids(1000)
    for cls in (HistogramPrior, BigramPrior):
        assert bits_per_token(cls(3, (4, 4)).count(grids), grids) > truth + 0.05


def test_baselines_are_counted_and_not_fitted_by_steps():
    split = TokenSplit(torch.zeros(4, 2, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="HistogramPrior has nothing to learn by steps; fit it with its method count"):
        fit_tokens(HistogramPrior(4, (2, 2)), TokenData(split, split), steps=1)
