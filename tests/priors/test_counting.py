import math
from collections import Counter, defaultdict
from itertools import chain, product

import pytest
import torch

from arcvq.priors import (
    BigramPrior,
    HistogramPrior,
    NeighborPrior,
    Prior,
    TokenData,
    TokenSplit,
    bits_per_token,
    fit_tokens,
)
from arcvq.priors.counting import witten_bell
from tests.priors.markov import markov_grids


def plain_witten_bell(counts, shorter):
    different = max(1, sum(count > 0 for count in counts))
    total = sum(counts) + different
    return [(count + different * q) / total for count, q in zip(counts, shorter, strict=True)]


def test_smoothing_is_witten_and_bells_formula():
    counts = [3, 0, 1, 0]
    shorter = [0.1, 0.2, 0.3, 0.4]
    expected = plain_witten_bell(counts, shorter)
    found = witten_bell(torch.tensor([counts, [0] * 4]), torch.tensor(shorter))
    assert found[0].tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1)
    assert found[1].tolist() == pytest.approx(shorter), "a context never seen falls back"


def place_in_grid(grid, place):
    return place


def token_before(grid, place):
    return grid[place - 1] if place else None


def plain_bits(grids, others, context, codes=4):
    """Bits of other grids when counting is done by hand."""
    total = Counter(chain(*grids))
    after = defaultdict(Counter)
    for grid in grids:
        for place, token in enumerate(grid):
            after[context(grid, place)][token] += 1

    alone = plain_witten_bell([total[code] for code in range(codes)], [1 / codes] * codes)
    bits = 0.0
    for other in others:
        for place, token in enumerate(other):
            counts = after[context(other, place)]
            chances = plain_witten_bell([counts[code] for code in range(codes)], alone)
            bits -= math.log2(chances[token])
    return bits


@pytest.mark.parametrize(
    ("cls", "context"), [(HistogramPrior, place_in_grid), (BigramPrior, token_before)]
)
def test_bits_are_those_of_counting_by_hand(cls, context):
    tokens = torch.randint(4, (9, 2, 3), generator=torch.Generator().manual_seed(9))
    others = torch.randint(4, (3, 2, 3), generator=torch.Generator().manual_seed(3))
    bits = plain_bits(tokens.flatten(1).tolist(), others.flatten(1).tolist(), context)
    prior = cls(4, (2, 3))
    assert bits_per_token(prior, others) == pytest.approx(2), "uniform before counting"
    assert bits_per_token(prior.count(tokens), others) == pytest.approx(bits / 18, abs=1e-5)


def test_a_token_never_seen_costs_a_finite_number_of_bits():
    seen = torch.zeros(10, 2, 2, dtype=torch.int64)
    for cls in (HistogramPrior, BigramPrior, NeighborPrior):
        assert 1 < bits_per_token(cls(64, (2, 2)).count(seen), seen + 63) < 20


def neighbors(grid, row, column):
    """The left and the upper neighbor; None beyond the border."""
    left = grid[row][column - 1] if column else None
    upper = grid[row - 1][column] if row else None
    return left, upper


def plain_neighbor_bits(grids, others, codes):
    """Bits of other grids with a pair of neighbors for a context, counted by hand."""
    places = list(product(range(2), range(3)))
    total = Counter()
    after_left = defaultdict(Counter)
    after_pair = defaultdict(Counter)
    for grid in grids:
        for row, column in places:
            token = grid[row][column]
            pair = neighbors(grid, row, column)
            total[token] += 1
            after_left[pair[0]][token] += 1
            after_pair[pair][token] += 1

    def smoothed(counts, shorter):
        return plain_witten_bell([counts[code] for code in range(codes)], shorter)

    alone = smoothed(total, [1 / codes] * codes)
    bits = 0.0
    for grid in others:
        for row, column in places:
            pair = neighbors(grid, row, column)
            chances = smoothed(after_left[pair[0]], alone)
            if pair in after_pair:
                chances = smoothed(after_pair[pair], chances)
            bits -= math.log2(chances[grid[row][column]])
    return bits


def test_bits_given_both_neighbors_are_those_of_counting_by_hand():
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(4, (9, 2, 3), generator=generator)
    others = torch.randint(5, (6, 2, 3), generator=generator)  # one code was never seen
    bits = plain_neighbor_bits(tokens.tolist(), others.tolist(), codes=5)
    prior = NeighborPrior(5, (2, 3))
    assert bits_per_token(prior, others) == pytest.approx(math.log2(5)), "uniform before counting"
    assert bits_per_token(prior.count(tokens), others) == pytest.approx(bits / 36, abs=1e-5)


def test_a_token_that_its_upper_neighbor_decides_is_cheap_only_given_both_neighbors():
    first = torch.randint(8, (500, 1, 6), generator=torch.Generator().manual_seed(0))
    grids = first.repeat(1, 6, 1)  # each column holds one token
    bits = {}
    for cls in (HistogramPrior, BigramPrior, NeighborPrior):
        bits[cls] = bits_per_token(cls(8, (6, 6)).count(grids), grids)
    assert bits[NeighborPrior] < 0.8 < 2.5 < min(bits[HistogramPrior], bits[BigramPrior])


def test_a_prior_of_pairs_is_the_same_after_saving_and_counts_again_after_counting(tmp_path):
    tokens = torch.randint(4, (9, 2, 3), generator=torch.Generator().manual_seed(9))
    prior = NeighborPrior(4, (2, 3)).count(tokens)
    prior.save_pretrained(tmp_path)
    again = Prior.from_pretrained(tmp_path)
    assert torch.equal(again(tokens), prior(tokens))
    other = NeighborPrior(4, (2, 3)).count(tokens[:2])
    assert torch.equal(prior.count(tokens[:2])(tokens), other(tokens))


def test_the_truth_beats_a_shorter_memory_and_both_neighbors_reach_it():
    grids, truth = markov_grids(1000)  # each token depends on its two neighbors
    for cls in (HistogramPrior, BigramPrior):
        assert bits_per_token(cls(3, (4, 4)).count(grids), grids) > truth + 0.05
    both = NeighborPrior(3, (4, 4)).count(grids)
    assert bits_per_token(both, grids) == pytest.approx(truth, abs=0.01)


def test_baselines_are_counted_and_not_fitted_by_steps():
    split = TokenSplit(torch.zeros(4, 2, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(
        ValueError,
        match="HistogramPrior has nothing to learn by steps; fit it with its method count",
    ):
        fit_tokens(HistogramPrior(4, (2, 2)), TokenData(split, split), steps=1)
