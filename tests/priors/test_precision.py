"""Priors and models in half and double precision: they are fitted, measured and drawn from."""

import copy

import pytest
import torch

from arcvq.priors import (
    BigramPrior,
    HistogramPrior,
    PixelCNN,
    Prior,
    PriorSettings,
    TokenData,
    TokenSplit,
    TransformerPrior,
    bits_per_token,
    complete,
    fingerprint,
    fit_prior,
    fit_tokens,
    influence,
    next_probabilities,
    sample,
    sample_tokens,
)
from arcvq.priors.settings import PRIORS
from arcvq.quantizers import SphericalQuantizer
from arcvq.training import Compute, Recording
from arcvq.vqvae import VQVAE
from tests.priors.markov import markov_grids
from tests.test_training import images, model  # noqa: F401  (the fixture)

PRECISIONS = [torch.bfloat16, torch.float16, torch.float64]
CPU = {"compute": Compute("cpu", "float32"), "recording": Recording(progress=False)}
TOKENS = torch.randint(5, (6, 3, 4), generator=torch.Generator().manual_seed(1))
CODEBOOK = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
SMALL = {"num_codes": 5, "grid": (3, 4), "width": 8, "layers": 2}
KINDS = {
    "pixelcnn": lambda: PixelCNN(**SMALL),
    "tied pixelcnn": lambda: PixelCNN(**SMALL, codebook=CODEBOOK),
    "pixelcnn with classes": lambda: PixelCNN(**SMALL, classes=2),
    "transformer": lambda: TransformerPrior(**SMALL),
    "tied transformer": lambda: TransformerPrior(**SMALL, codebook=CODEBOOK),
    "transformer with classes": lambda: TransformerPrior(**SMALL, classes=2),
    "histogram": lambda: HistogramPrior(5, (3, 4)).count(TOKENS),
    "bigram": lambda: BigramPrior(5, (3, 4)).count(TOKENS),
}
every_precision = pytest.mark.parametrize("precision", PRECISIONS, ids=str)
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def labels_for(prior):
    return torch.arange(6) % 2 if prior.classes else None


@every_precision
@every_kind
def test_the_likelihood_is_nearly_that_in_float32(make, precision):
    prior = make()
    labels = labels_for(prior)
    expected = prior.log_likelihood(TOKENS, labels)
    bits = bits_per_token(prior, TOKENS, labels)
    prior.to(precision)
    found = prior.log_likelihood(TOKENS, labels)
    assert found.dtype == torch.promote_types(precision, torch.float32)
    tolerance = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float64: 1e-5}[precision]
    torch.testing.assert_close(found.float(), expected, atol=12 * tolerance, rtol=tolerance)
    found_bits = bits_per_token(prior, TOKENS, labels)
    assert found_bits == pytest.approx(bits, abs=2 * tolerance, rel=tolerance)


@every_precision
@every_kind
def test_it_is_drawn_from_in_float32_at_least(make, precision):
    prior = make().to(precision)
    labels = labels_for(prior)
    state = prior.start(6, labels)
    whole = prior(TOKENS, labels).flatten(1, 2)
    for position, column in enumerate(TOKENS.flatten(1).T):
        logits = prior.next_logits(state)
        rough = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-9}[precision]
        torch.testing.assert_close(logits, whole[:, position], atol=rough, rtol=rough)
        probabilities = next_probabilities(logits, top_k=4, top_p=0.9)
        assert probabilities.dtype == torch.promote_types(precision, torch.float32)
        assert torch.allclose(probabilities.sum(1), torch.ones((), dtype=probabilities.dtype))
        prior.append(state, column)
    drawn = sample_tokens(prior, 6, labels=labels, top_k=3, top_p=0.8, temperature=0.7)
    assert drawn.shape == (6, 3, 4)


@every_precision
@pytest.mark.parametrize("make", [KINDS["pixelcnn"], KINDS["transformer"]])
def test_influence_sees_what_comes_before_and_nothing_else(make, precision):
    found = influence(make().to(precision), TOKENS, (1, 1)).flatten()
    assert (found[:5] > 0).all()
    assert not found[5:].any()


@every_precision
@pytest.mark.parametrize("cls", [HistogramPrior, BigramPrior])
def test_counting_keeps_the_precision(cls, precision):
    prior = cls(5, (3, 4)).to(precision).count(TOKENS)
    assert prior.table.dtype == precision
    expected = cls(5, (3, 4)).double().count(TOKENS).table
    torch.testing.assert_close(prior.table, expected.to(precision), rtol=1e-2, atol=0)


def test_counting_in_float64_is_exact_to_float64():
    prior = HistogramPrior(5, (3, 4)).double().count(TOKENS)
    assert torch.allclose(prior.table.exp().sum(1), torch.ones(12, dtype=torch.float64), atol=1e-14)


@every_precision
@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_fitted_as_in_float32_and_keeps_its_precision(kind, tied, precision):
    torch.manual_seed(3)
    codebook = torch.randn(3, 2) if tied else None
    prior = PRIORS[kind](3, (4, 4), codebook=codebook, width=8, layers=2)
    prior.to(precision).to(torch.promote_types(precision, torch.float32))
    wide = copy.deepcopy(prior)
    before = bits_per_token(prior, markov_grids(32, seed=2)[0])
    train = TokenSplit(markov_grids(64, seed=1)[0], torch.zeros(64, dtype=torch.int64))
    validation = TokenSplit(markov_grids(32, seed=2)[0], torch.zeros(32, dtype=torch.int64))
    options = {"steps": 8, "batch_size": 16, "lr": 2e-2, **CPU}
    expected = fit_tokens(wide, TokenData(train, validation), **options)
    run = fit_tokens(prior.to(precision), TokenData(train, validation), **options)

    assert all(weight.dtype == precision for weight in prior.parameters())
    for name, weight in prior.state_dict().items():
        assert torch.equal(weight, expected.prior.state_dict()[name].to(precision)), name
    assert run.rows == expected.rows
    assert bits_per_token(prior, validation.tokens) < before


def test_a_fit_that_fails_leaves_the_precision():
    prior = PixelCNN(**SMALL).half()
    split = TokenSplit(TOKENS, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch_size is 7"):
        fit_tokens(prior, TokenData(split, split), steps=1, batch_size=7, **CPU)
    assert prior.dtype == torch.float16


def model_of_five(seed=4):
    torch.manual_seed(seed)
    return VQVAE(1, SphericalQuantizer(5, 3), hidden=8, residual_hidden=4).eval()


CASTS = {
    "bfloat16": lambda model: model.bfloat16(),
    "float16": lambda model: model.half(),
    "float64": lambda model: model.double(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "float16 and back": lambda model: model.half().float(),
    "float64 and back": lambda model: model.double().float(),
}
every_cast = pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)


@every_cast
@pytest.mark.parametrize("saved", [False, True])
def test_a_prior_knows_its_model_in_other_precisions(cast, saved, tmp_path):
    model = model_of_five()
    prior = PixelCNN(**SMALL)
    prior.remember(model.quantizer.codebook)
    if saved:
        prior.save_pretrained(tmp_path)
        prior = Prior.from_pretrained(tmp_path)
    cast(model)
    dtype = model.encoder[0].weight.dtype
    assert sample(model, prior, 2).dtype == dtype
    masks = torch.ones(3, 4, dtype=torch.bool)
    given = torch.rand(2, 1, 12, 16) * 2 - 1
    assert torch.equal(complete(model, prior, given, masks), model.reconstruct(given))
    with pytest.raises(ValueError, match="the prior belongs to another codebook"):
        sample(cast(model_of_five(seed=5)), prior, 2)


@every_precision
def test_a_prior_of_a_model_in_another_precision_knows_it_in_float32(precision, images):  # noqa: F811
    net = model().to(precision)
    prior = PixelCNN(16, (2, 2), width=8, layers=1)
    fit_prior(prior, net, images, steps=2, batch_size=8, **CPU)
    sample(net, prior, 1)
    sample(net.float(), prior, 1)
    sample(net.bfloat16(), prior, 1)


def test_a_prior_of_an_earlier_version_takes_a_model_in_half_precision_at_its_word():
    model = model_of_five()
    prior = PixelCNN(**SMALL)
    prior.codebook_fingerprint = fingerprint(model.quantizer.codebook)
    sample(model.half(), prior, 1)
    with pytest.raises(ValueError, match="the prior belongs to another codebook"):
        sample(model.float(), prior, 1)


def test_the_fingerprint_in_float32_is_that_of_earlier_versions():
    model = model_of_five()
    prior = PixelCNN(**SMALL)
    prior.remember(model.quantizer.codebook)
    assert prior.codebook_fingerprint == fingerprint(model.quantizer.codebook)


@every_precision
@pytest.mark.parametrize("tied", [False, True])
def test_settings_build_a_prior_for_a_model_in_any_precision(tied, precision, images):  # noqa: F811
    net = model().to(precision)
    settings = PriorSettings(width=8, layers=1, tied=tied)
    prior = settings.prior(net, images)
    assert sample(net, prior, 2).dtype == precision
    assert settings.digest(net, images, torch.float32) != settings.digest(
        net.float(), images, torch.float32
    )
