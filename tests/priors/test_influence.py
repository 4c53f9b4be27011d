import pytest
import torch

from arcvq.priors import influence


def test_influence_is_the_mean_length_of_the_gradient_as_finite_differences_find_it(make, kind):
    prior, width, place = make(**kind).double(), 8, (1, 2)
    tokens = torch.randint(5, (2, 3, 4))
    embedded = prior.tokens.embed(tokens).detach()

    def logs(embedded):
        chances = prior.tokens.logits(prior.features(embedded, None))[:, *place].softmax(-1)
        return chances.gather(1, tokens[:, *place, None])[:, 0].log()

    slopes = torch.zeros(2, 3, 4, width, dtype=torch.float64)
    for index in range(3 * 4 * width):
        nudge = torch.zeros(3 * 4 * width, dtype=torch.float64).index_fill(0, torch.tensor(index), 1e-6)
        nudge = nudge.view(3, 4, width)
        slopes.view(2, -1)[:, index] = (logs(embedded + nudge) - logs(embedded - nudge)).detach() / 2e-6
    found = influence(prior, tokens, place)
    torch.testing.assert_close(found, slopes.square().sum(-1).sqrt().mean(0), rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_wrong_places_tokens_and_labels_are_refused(make):
    prior = make(classes=2)
    tokens, labels = torch.zeros(1, 3, 4, dtype=torch.int64), torch.tensor([1])
    for place in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(ValueError, match="it must lie in the grid, 3 rows by 4 columns"):
            influence(prior, tokens, place, labels)
    with pytest.raises(ValueError, match="labels are missing"):
        influence(prior, tokens, (0, 0))
    with pytest.raises(ValueError, match="tokens reach from 5 to 5"):
        influence(prior, tokens + 5, (0, 0), labels)
