import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.priors import (
    FreeTokens,
    PixelCNN,
    TiedTokens,
    TransformerPrior,
    match_parameters,
    parameter_count,
)


@settings(max_examples=20, deadline=None)
@given(
    codes=st.integers(1, 6),
    dim=st.integers(1, 4),
    width=st.integers(1, 5),
    scale=st.floats(0.5, 50),
)
def test_tied_logits_are_scaled_cosines_with_the_codes(codes, dim, width, scale):
    codebook = torch.randn(codes, dim)
    features = torch.randn(2, 3, width)
    tokens = TiedTokens(codebook, width)
    with torch.no_grad():
        tokens.log_scale.fill_(math.log(scale))
        found = tokens.logits(features).double()

    outward = tokens.outward.double().requires_grad_(False)
    prediction = outward(features.double())[..., None, :]
    cosines = torch.cosine_similarity(prediction, codebook.double(), dim=-1)
    torch.testing.assert_close(found, scale * cosines, atol=scale * 1e-5, rtol=0)


def test_tied_embedding_is_one_linear_map_of_directions_so_norms_do_not_matter():
    codebook = torch.randn(6, 3)
    indices = torch.tensor([[4, 0], [5, 4]])
    tokens = TiedTokens(codebook, 7)
    directions = codebook / codebook.norm(dim=1, keepdim=True)
    torch.testing.assert_close(tokens.embed(indices), tokens.inward(directions[indices] * 3**0.5))
    scaled = TiedTokens(codebook * torch.rand(6, 1) * 9, 7)
    torch.testing.assert_close(scaled.directions, tokens.directions)


def test_neighbouring_codes_get_similar_logits():
    codebook = torch.randn(8, 4)
    codebook[1] = codebook[0] + 1e-3
    logits = TiedTokens(codebook, 5).logits(torch.randn(100, 5))
    to_neighbor = (logits[:, 0] - logits[:, 1]).abs().max()
    to_another = (logits[:, 0] - logits[:, 2]).abs().max()
    assert to_neighbor < 0.02 < to_another


def test_the_codebook_is_copied_and_frozen():
    codebook = torch.randn(6, 3, requires_grad=True)
    tokens = TiedTokens(codebook, 4)
    before = tokens.directions.clone()
    tokens.logits(tokens.embed(torch.arange(6))).square().sum().backward()
    with torch.no_grad():
        codebook.zero_()
    assert torch.equal(tokens.directions, before)
    assert codebook.grad is None
    assert all(parameter.grad is not None for parameter in tokens.parameters())


def test_a_codebook_of_zeros_or_of_nan():
    assert TiedTokens(torch.zeros(3, 2), 4).logits(torch.randn(5, 4)).isfinite().all()
    with pytest.raises(ValueError, match="1 of 6 values of the codebook are NaN or infinite"):
        TiedTokens(torch.tensor([[1.0, 2], [3, 4], [5, float("nan")]]), 4)


@pytest.mark.parametrize(("cls", "multiple"), [(PixelCNN, 1), (TransformerPrior, 4)])
def test_matched_priors_have_the_nearest_parameter_count(cls, multiple):
    codebook = torch.randn(256, 8)

    def build(width):
        return cls(256, (2, 2), codebook=codebook, width=width, layers=2)

    target = parameter_count(cls(256, (2, 2), width=32, layers=2))
    matched = match_parameters(build, target, multiple)
    distance = abs(parameter_count(matched) - target)
    assert matched.width > 32
    assert distance < 0.1 * target
    for width in (matched.width - multiple, matched.width + multiple):
        assert distance <= abs(parameter_count(build(width)) - target)


def test_the_search_for_a_width_draws_no_random_numbers():
    torch.manual_seed(1)
    found = match_parameters(lambda width: PixelCNN(8, (2, 2), width=width, layers=1), 2000)
    torch.manual_seed(1)
    same = PixelCNN(8, (2, 2), width=found.width, layers=1)
    assert all(
        torch.equal(a, b) for a, b in zip(found.parameters(), same.parameters(), strict=True)
    )


def test_parameter_count_is_that_of_what_learns():
    assert parameter_count(FreeTokens(10, 4)) == 10 * 4 + 4 * 10 + 10
    assert parameter_count(TiedTokens(torch.randn(10, 3), 4)) == (3 * 4 + 4) + (4 * 3 + 3) + 1
