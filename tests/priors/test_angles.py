import math
from itertools import combinations

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import normalize

from arcvq.priors import Prior, TransformerPrior, angle_correlation


class GivenLogits(Prior):
    """A prior that predicts the same logits (h, w, K) for every grid."""

    def __init__(self, logits):
        super().__init__(logits.shape[2], tuple(logits.shape[:2]))
        self.register_buffer("given", logits)

    def predict(self, tokens, labels):
        return self.given.expand(len(tokens), -1, -1, -1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_rank_correlation_of_log_probabilities_and_angles_written_out():
    codebook = random(6, 3)
    logits = random(4, 5, 6, seed=1)
    tokens = torch.randint(5, (7, 4, 5), generator=torch.Generator().manual_seed(2))  # not code 5
    over_places = logits.double().log_softmax(-1).flatten(0, 1)
    centered = over_places - over_places.mean(0)
    units = normalize(codebook.double(), dim=1)
    together = []
    nearness = []
    for first, second in combinations(range(5), 2):
        one = centered[:, first]
        other = centered[:, second]
        correlation = one @ other / (one.norm() * other.norm())
        cosine = units[first] @ units[second]
        together.append(correlation.item())
        nearness.append(-cosine.acos().item())
    expected = spearmanr(together, nearness).statistic
    found = angle_correlation(GivenLogits(logits), codebook, tokens)
    assert found == pytest.approx(expected)


def test_a_number_that_is_added_to_all_logits_of_a_place_changes_nothing():
    codebook = random(12, 3)
    predicted = normalize(random(40, 40, 3, seed=1), dim=-1)
    cosines = predicted @ normalize(codebook, dim=1).T
    tokens = torch.arange(1600).view(1, 40, 40) % 12
    moved = cosines + random(40, 40, 1, seed=2)
    usual = angle_correlation(GivenLogits(cosines), codebook, tokens)
    found = angle_correlation(GivenLogits(moved), codebook, tokens)
    assert found == pytest.approx(usual, abs=1e-4)


def test_logits_that_are_cosines_follow_the_angles_and_their_negatives_too():
    codebook = random(400, 3)  # so many that the logits of all places have nearly the same sum
    predicted = normalize(random(40, 40, 3, seed=1), dim=-1)
    cosines = predicted @ normalize(codebook, dim=1).T
    tokens = torch.arange(1600).view(1, 40, 40) % 400
    assert angle_correlation(GivenLogits(cosines), codebook, tokens) > 0.98
    assert angle_correlation(GivenLogits(-cosines), codebook, tokens) > 0.98


def test_unrelated_logits_do_not():
    found = []
    for seed in range(8):
        prior = GivenLogits(random(40, 40, 30, seed=seed))
        tokens = torch.arange(1600).view(1, 40, 40) % 30
        found.append(angle_correlation(prior, random(30, 3, seed=99), tokens))
    assert abs(sum(found) / len(found)) < 0.05


def test_it_takes_labels_and_leaves_the_prior_alone():
    prior = TransformerPrior(5, (3, 4), classes=2, width=8, layers=1, heads=2)
    tokens = torch.randint(5, (4, 3, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1])
    assert -1 <= angle_correlation(prior, random(5, 3), tokens, labels) <= 1
    assert all(parameter.grad is None for parameter in prior.parameters())
    with pytest.raises(ValueError, match="labels are missing"):
        angle_correlation(prior, random(5, 3), tokens)


def test_it_is_undefined_for_two_codes_and_for_logits_that_never_change():
    tokens = torch.arange(20).view(1, 4, 5)
    prior = GivenLogits(random(4, 5, 6))
    assert math.isnan(angle_correlation(prior, random(6, 3), tokens % 2))
    for logits in (torch.zeros(6), random(6)):
        constant = GivenLogits(logits.expand(4, 5, 6))
        assert math.isnan(angle_correlation(constant, random(6, 3), tokens % 6))


def test_another_codebook_is_refused():
    prior = GivenLogits(random(4, 5, 6))
    tokens = torch.arange(20).view(1, 4, 5) % 6
    with pytest.raises(ValueError, match="codebook has 7 codes and the prior 6"):
        angle_correlation(prior, random(7, 3), tokens)
