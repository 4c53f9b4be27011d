"""What both networks must do: look back only, see all that is there, and the same with a cache."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from arcvq.priors import PixelCNN, Prior, TransformerPrior, influence
from arcvq.priors.pixelcnn import gate


@pytest.mark.parametrize("classes", [0, 2])
def test_logits_depend_on_every_token_before_and_on_no_other_exactly(make, kind, classes):
    prior = make(classes=classes, **kind)
    tokens = torch.randint(5, (1, 3, 4))
    labels = torch.tensor([1]) if classes else None
    for position in range(12):
        found = influence(prior, tokens, divmod(position, 4), labels).flatten()
        assert (found[position:] == 0).all(), f"position {position} sees itself or what comes after"
        assert (found[:position] > 0).all(), f"position {position} has a blind spot"


@pytest.mark.parametrize(("layers", "seen"), [(1, 2), (2, 3), (3, 4)])
def test_each_layer_of_the_pixelcnn_widens_the_view_by_a_column(layers, seen):
    prior = PixelCNN(5, (2, 4), width=8, layers=layers)
    embedded = torch.randn(1, 2, 4, 8, requires_grad=True)
    prior.features(embedded, None)[0, 1, 0].sum().backward()
    assert (embedded.grad[0, 0].abs().sum(-1) > 0).sum() == seen


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_first_layer_is_the_papers_pair_of_masked_convolutions(kernel):
    prior = PixelCNN(5, (4, 5), width=6, layers=1, kernel=kernel).double()
    layer = prior.layers[0]
    reach = kernel // 2
    torch.nn.init.normal_(layer.biases.weight)
    embedded = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    x = embedded.permute(0, 3, 1, 2)
    vertical_bias, horizontal_bias = layer.biases.weight[0, :, None, None].chunk(2)

    # Of a masked kernel over all rows, those above the middle are open.
    vertical = torch.zeros(12, 6, 2 * reach + 3, kernel, dtype=torch.float64)
    vertical[:, :, : reach + 1] = layer.vertical.weight
    above = conv2d(x, vertical, padding=(reach + 1, reach)) + vertical_bias

    # Of one along a row, the columns left of the middle are open.
    horizontal = torch.zeros(12, 6, 1, 2 * reach + 3, dtype=torch.float64)
    horizontal[..., : reach + 1] = layer.horizontal.weight
    left = conv2d(x, horizontal, padding=(0, reach + 1)) + horizontal_bias

    shifted = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], dim=3)
    expected = prior.head(shifted + layer.mix(gate(left + layer.across(above))))
    found = prior.features(embedded, None)
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("classes", [0, 3])
def test_logits_with_and_without_a_cache_are_the_same(make, kind, classes):
    prior = make(classes=classes, **kind)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randint(5, (6, 3, 4))
    labels = torch.arange(6) % 3 if classes else None
    whole = prior(tokens, labels).flatten(1, 2)
    cached = prior.start(6, labels)
    anew = Prior.start(prior, 6, labels)
    for position, column in enumerate(tokens.flatten(1).T):
        first = prior.next_logits(cached)
        assert torch.equal(prior.next_logits(cached), first), "asking changes nothing"
        for logits in (first, Prior.next_logits(prior, anew)):
            torch.testing.assert_close(logits, whole[:, position], atol=1e-5, rtol=1e-5)
        prior.append(cached, column)
        prior.append(anew, column)
    assert torch.equal(cached.tokens, tokens)
    assert cached.position == 12


def test_work_for_a_token_of_the_pixelcnn_does_not_grow():
    prior = PixelCNN(5, (3, 6), width=8)
    state = prior.start(2)
    work = []
    for _ in range(18):
        with FlopCounterMode(display=False) as counter:
            prior.next_logits(state)
        prior.append(state, torch.tensor([1, 4]))
        work.append(counter.get_total_flops())
    with_vertical_stack = {work.pop(position) for position in (12, 6, 0)}
    assert len(with_vertical_stack) == len(set(work)) == 1
    assert work[0] < with_vertical_stack.pop()


def test_a_label_changes_what_is_likely(make):
    prior = make(classes=2)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randint(5, (1, 3, 4))
    assert not torch.allclose(prior(tokens, torch.tensor([0])), prior(tokens, torch.tensor([1])))


def test_one_token_alone(make):
    prior = make(grid=(1, 1))
    assert prior(torch.tensor([[[3]]])).shape == (1, 1, 1, 5)
    expected = prior(torch.tensor([[[2]]]))[:, 0, 0]
    torch.testing.assert_close(prior.next_logits(prior.start(1)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codes": 0}, "num_codes is 0; it must be a whole number from 1"),
        ({"grid": (3, 0)}, "grid_width is 0"),
        ({"classes": -1}, "classes is -1; it must be a whole number from 0"),
        ({"width": 0}, "width is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"codebook": torch.randn(4, 3)}, r"codebook has shape \(4, 3\); it must be \(5, D\)"),
    ],
)
def test_sizes_out_of_range_are_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_sizes_of_one_kind_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kernel is 4; it must be an odd number from 3"):
        PixelCNN(5, (3, 3), kernel=4)
    with pytest.raises(ValueError, match="heads is 3; it must divide the width, 8"):
        TransformerPrior(5, (3, 3), width=8, heads=3)
