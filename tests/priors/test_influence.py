import itertools
import math

import pytest
import torch

from arcvq.priors import PixelCNN, influence


def test_influence_is_the_mean_length_of_the_gradient_as_finite_differences_find_it(make, kind):
    prior = make(**kind).double()
    tokens = torch.randint(5, (2, 3, 4))
    place = (1, 2)
    embedded = prior.tokens.embed(tokens).detach()

    def log_probabilities(embedded):
        """Of the token at the place, one for each of the two grids."""
        features = prior.features(embedded, None)
        logits = prior.tokens.logits(features)[:, *place]
        chosen = tokens[:, *place, None]
        return logits.log_softmax(-1).gather(1, chosen)[:, 0].detach()

    # Central differences along each of the 8 components of each of the 3 x 4 tokens.
    step = 1e-6
    slopes = torch.zeros(2, 3, 4, 8, dtype=torch.float64)
    for row, column, component in itertools.product(range(3), range(4), range(8)):
        nudge = torch.zeros(3, 4, 8, dtype=torch.float64)
        nudge[row, column, component] = step
        above = log_probabilities(embedded + nudge)
        below = log_probabilities(embedded - nudge)
        slopes[:, row, column, component] = (above - below) / (2 * step)
    expected = slopes.norm(dim=-1).mean(0)

    torch.testing.assert_close(influence(prior, tokens, place), expected, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_wrong_places_tokens_and_labels_are_refused(make):
    prior = make(classes=2)
    tokens = torch.zeros(1, 3, 4, dtype=torch.int64)
    labels = torch.tensor([1])
    for place in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(ValueError, match="it must lie in the grid, 3 rows by 4 columns"):
            influence(prior, tokens, place, labels)
    with pytest.raises(ValueError, match="labels are missing"):
        influence(prior, tokens, (0, 0))
    with pytest.raises(ValueError, match="tokens reach from 5 to 5"):
        influence(prior, tokens + 5, (0, 0), labels)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 4), (9, 2), (6, 1)])
def test_the_layers_that_the_pixelcnn_names_see_the_whole_grid_and_fewer_do_not(grid, kernel):
    height, width = grid
    needed = max(1, math.ceil(max(width - 1, height - 2) / (kernel // 2)))
    torch.manual_seed(0)
    tokens = torch.randint(5, (4, *grid))
    # The farthest to see: the right end of the row above, and the first row from the last.
    ends = ((height - 1, 0), (height - 1, width - 1))
    for layers in {needed, max(1, needed - 1)}:
        prior = PixelCNN(5, grid, width=8, layers=layers, kernel=kernel).double()
        seen = 0
        for row, column in ends:
            places = influence(prior, tokens, (row, column)) > 0
            seen += int(places.sum())
        all_before = sum(row * width + column for row, column in ends)
        assert (seen == all_before) == (layers == needed)
