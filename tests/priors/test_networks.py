"""What both networks, free and tied, must do: look only back, at everything there, and the same with a cache."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from arcvq.priors import PixelCNN, Prior, TransformerPrior, influence
from arcvq.priors.pixelcnn import gate


@pytest.mark.parametrize("classes", [0, 2])
def test_logits_depend_on_every_token_before_and_on_no_other_exactly(make, kind, classes):
    prior = make(classes=classes, **kind)
    tokens, labels = torch.randint(5, (1, 3, 4)), torch.tensor([1]) if classes else None
    for position in range(12):
        found = influence(prior, tokens, divmod(position, 4), labels).flatten()
        assert (found[position:] == 0).all(), f"position {position} sees itself or what comes after"
        assert (found[:position] > 0).all(), f"position {position} has a blind spot"


@pytest.mark.parametrize("layers, seen", [(1, 2), (2, 3), (3, 4)])
def test_each_layer_of_the_pixelcnn_widens_the_view_by_a_column(layers, seen):
    prior = PixelCNN(5, (2, 4), width=8, layers=layers)
    embedded = torch.randn(1, 2, 4, 8, requires_grad=True)
    prior.features(embedded, None)[0, 1, 0].sum().backward()
    assert (embedded.grad[0, 0].abs().sum(-1) > 0).sum() == seen


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_first_layer_is_the_papers_pair_of_masked_convolutions(kernel):
    prior = PixelCNN(5, (4, 5), width=6, layers=1, kernel=kernel).double()
    layer, reach = prior.layers[0], kernel // 2
    torch.nn.init.normal_(layer.biases.weight)
    embedded = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    x = embedded.permute(0, 3, 1, 2)
    vertical, horizontal = layer.biases.weight[0, :, None, None].chunk(2)
    masked = torch.zeros(12, 6, 2 * reach + 3, kernel, dtype=torch.float64)  # its rows above the middle are open
    masked[:, :, : reach + 1] = layer.vertical.weight
    above = conv2d(x, masked, padding=(reach + 1, reach)) + vertical
    masked = torch.zeros(12, 6, 1, 2 * reach + 3, dtype=torch.float64)  # its columns left of the middle are open
    masked[..., : reach + 1] = layer.horizontal.weight
    maps = conv2d(x, masked, padding=(0, reach + 1)) + layer.across(above) + horizontal
    left = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], dim=3)
    expected = prior.head(left + layer.mix(gate(maps))).permute(0, 2, 3, 1)
    torch.testing.assert_close(prior.features(embedded, None), expected)


@pytest.mark.parametrize("classes", [0, 3])
def test_logits_with_and_without_a_cache_are_the_same(make, kind, classes):
    prior = make(classes=classes, **kind)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens, labels = torch.randint(5, (6, 3, 4)), torch.arange(6) % 3 if classes else None
    whole = prior(tokens, labels)
    cached, anew = prior.start(6, labels), Prior.start(prior, 6, labels)
    for position in range(12):
        expected = whole.flatten(1, 2)[:, position]
        for logits in (prior.next_logits(cached), prior.next_logits(cached), Prior.next_logits(prior, anew)):
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        for state in (cached, anew):
            prior.append(state, tokens.flatten(1)[:, position])
    assert torch.equal(cached.tokens, tokens) and cached.position == 12


def test_work_for_a_token_of_the_pixelcnn_does_not_grow():
    prior = PixelCNN(5, (3, 6), width=8)
    state, work = prior.start(2), []
    for _ in range(18):
        with FlopCounterMode(display=False) as counter:
            prior.next_logits(state)
        prior.append(state, torch.tensor([1, 4]))
        work.append(counter.get_total_flops())
    assert len({work[0], work[6], work[12]}) == 1, "at the start of a row, with the vertical stack"
    assert len({*work[1:6], *work[7:12], *work[13:]}) == 1 and work[1] < work[0]


def test_a_label_changes_what_is_likely(make):
    prior = make(classes=2)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randint(5, (1, 3, 4))
    assert not torch.allclose(prior(tokens, torch.tensor([0])), prior(tokens, torch.tensor([1])))


def test_one_token_alone(make):
    prior = make(grid=(1, 1))
    assert prior(torch.tensor([[[3]]])).shape == (1, 1, 1, 5)
    torch.testing.assert_close(prior.next_logits(prior.start(1)), prior(torch.tensor([[[2]]]))[:, 0, 0])


@pytest.mark.parametrize("change, message", [
    ({"num_codes": 0}, "num_codes is 0; it must be a whole number from 1"), ({"grid": (3, 0)}, "grid_width is 0"),
    ({"classes": -1}, "classes is -1; it must be a whole number from 0"), ({"width": 0}, "width is 0"),
    ({"layers": 0}, "layers is 0"),
    ({"codebook": torch.randn(4, 3)}, r"codebook has shape \(4, 3\); it must be \(5, D\)"),
])
def test_sizes_out_of_range_are_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_sizes_of_one_kind_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kernel is 4; it must be an odd number from 3"):
        PixelCNN(5, (3, 3), kernel=4)
    with pytest.raises(ValueError, match="heads is 3; it must divide the width, 8"):
        TransformerPrior(5, (3, 3), width=8, heads=3)
