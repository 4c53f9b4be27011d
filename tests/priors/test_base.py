import json

import numpy as np
import pytest
import torch

from arcvq.composites import ResidualQuantizer
from arcvq.priors import (
    BigramPrior,
    HistogramPrior,
    NeighborPrior,
    PixelCNN,
    Prior,
    TransformerPrior,
    bits_per_token,
    fingerprint,
    influence,
)
from arcvq.quantizers import SphericalQuantizer
from arcvq.vqvae import VQVAE
from tests.dtypes import INTEGER_DTYPES

TOKENS = torch.randint(5, (6, 3, 4), generator=torch.Generator().manual_seed(1))


def test_log_likelihood_is_the_sum_of_the_tokens_log_probabilities(make, kind):
    prior = make(**kind)
    logits = prior(TOKENS).detach().double().flatten(1, 2)
    expected = torch.zeros(6, dtype=torch.float64)
    for image, grid in enumerate(TOKENS.flatten(1)):
        for place, token in enumerate(grid):
            at = logits[image, place]
            expected[image] += at[token] - at.exp().sum().log()
    found = prior.log_likelihood(TOKENS).double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_probabilities_of_all_grids_sum_to_one(make, kind):
    codebook = None if kind["codebook"] is None else kind["codebook"][:2]
    prior = make(num_codes=2, grid=(2, 3), codebook=codebook)
    grids = torch.cartesian_prod(*[torch.arange(2)] * 6).view(64, 2, 3)
    assert prior.log_likelihood(grids).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_saved_prior_opens_again_with_its_kind_and_fingerprint(make, kind, classes, tmp_path):
    prior = make(classes=classes, **kind)
    prior.codebook_fingerprint = prior.codebook_fingerprint or "0123456789abcdef"
    prior.save_pretrained(tmp_path)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["config.json", "model.safetensors"]

    opened = Prior.from_pretrained(tmp_path)
    assert type(opened) is type(prior)
    assert not opened.training
    assert opened.config() == prior.config()
    assert opened.codebook_fingerprint == prior.codebook_fingerprint
    labels = torch.arange(6) % 2 if classes else None
    assert torch.equal(opened(TOKENS, labels), prior(TOKENS, labels))


@pytest.mark.parametrize("cls", [HistogramPrior, BigramPrior])
def test_a_saved_baseline_opens_again(cls, tmp_path):
    prior = cls(5, (3, 4)).count(TOKENS)
    prior.save_pretrained(tmp_path)
    assert torch.equal(Prior.from_pretrained(tmp_path)(TOKENS), prior(TOKENS))


def test_a_folder_without_a_prior_is_named(tmp_path):
    message = r"holds no config\.json; a prior is config\.json and model\.safetensors"
    with pytest.raises(FileNotFoundError, match=message):
        Prior.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "it is no prior of format 1"),
        ({"kind": "Oracle"}, "'Oracle' is unknown"),
        ({"width": 16}, "size mismatch"),
        ({"color": 1}, "unexpected keyword argument"),
    ],
)
def test_a_prior_with_another_config_is_not_opened(make, tmp_path, change, message):
    make().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=f"the prior in .* cannot be opened: .*{message}"):
        Prior.from_pretrained(tmp_path)


def test_a_prior_with_broken_weights_is_not_opened(make, tmp_path):
    make().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = file.read_bytes()
    file.write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        Prior.from_pretrained(tmp_path)


def test_a_vqvae_is_not_taken_for_a_prior(tmp_path):
    VQVAE(1, SphericalQuantizer(5, 3), hidden=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is no prior of format 1"):
        Prior.from_pretrained(tmp_path)


@pytest.mark.parametrize("integer", INTEGER_DTYPES)
def test_tokens_and_labels_may_be_of_any_integer_type(make, integer):
    prior = make(classes=2)
    labels = torch.arange(6) % 2
    short = TOKENS.to(integer)
    short_labels = labels.to(integer)
    assert torch.equal(prior(short, short_labels), prior(TOKENS, labels))
    likelihood = prior.log_likelihood(TOKENS, labels)
    assert torch.equal(prior.log_likelihood(short, short_labels), likelihood)
    assert bits_per_token(prior, short, short_labels) == bits_per_token(prior, TOKENS, labels)
    expected = influence(prior, TOKENS, (1, 1), labels)
    assert torch.equal(influence(prior, short, (1, 1), short_labels), expected)
    state = prior.start(6, short_labels)
    prior.append(state, short[:, 0, 0])
    assert torch.equal(state.tokens[:, 0, 0], TOKENS[:, 0, 0])


@pytest.mark.parametrize("integer", INTEGER_DTYPES)
@pytest.mark.parametrize("cls", [HistogramPrior, BigramPrior])
def test_tokens_of_any_integer_type_are_counted(cls, integer):
    expected = cls(200, (3, 4)).count(TOKENS * 25)
    found = cls(200, (3, 4)).count((TOKENS * 25).to(integer))
    assert torch.equal(found.table, expected.table)


@pytest.mark.parametrize("wrong", [torch.bool, torch.float32, torch.bfloat16])
def test_tokens_and_labels_of_other_types_are_refused(make, wrong, unchecked):
    prior = make(classes=2)
    labels = torch.arange(6) % 2
    zeros = torch.zeros_like(TOKENS)
    for use in (prior, prior.log_likelihood):
        with pytest.raises(ValueError, match=f"tokens have dtype {wrong}"):
            use(zeros.to(wrong), labels)
        with pytest.raises(ValueError, match=f"labels have dtype {wrong}"):
            use(zeros, labels.to(wrong))
    with pytest.raises(ValueError, match=f"tokens have dtype {wrong}"):
        prior.append(prior.start(6, labels), labels.to(wrong))
    with pytest.raises(ValueError, match=f"tokens have dtype {wrong}"):
        HistogramPrior(5, (3, 4)).count(zeros.to(wrong))


def test_sizes_may_be_numbers_of_numpy(unchecked):
    for number in (np.int64, np.uint8):
        grid = (number(3), number(4))
        sizes = {"classes": number(2), "width": number(8), "layers": number(1)}
        networks = [
            PixelCNN(number(5), grid, **sizes, kernel=number(3)),
            TransformerPrior(number(5), grid, **sizes, heads=number(2)),
        ]
        plain = {"classes": 2, "width": 8, "layers": 1}
        expected = [
            PixelCNN(5, (3, 4), **plain, kernel=3),
            TransformerPrior(5, (3, 4), **plain, heads=2),
        ]
        for prior, same in zip(networks, expected, strict=True):
            assert json.dumps(prior.config()) == json.dumps(same.config())
            assert prior(TOKENS, torch.arange(6) % 2).shape == (6, 3, 4, 5)
        counting = HistogramPrior(number(5), grid).count(TOKENS)
        assert json.dumps(counting.config()) == json.dumps(HistogramPrior(5, (3, 4)).config())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            torch.zeros(6, 3, 5, dtype=torch.int64),
            r"tokens have shape \(6, 3, 5\); this prior takes \(B, 3, 4\)",
        ),
        (TOKENS - 1, "tokens reach from -1 to 3; they must be from 0 to 4"),
        (TOKENS + 1, "tokens reach from 1 to 5; they must be from 0 to 4"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(make, tokens, message):
    with pytest.raises(ValueError, match=message):
        make()(tokens)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (2, None, "labels are missing; this prior has 2 classes"),
        (
            0,
            torch.zeros(6, dtype=torch.int64),
            "labels were given, and this prior was made without",
        ),
        (2, torch.tensor([0, 1, 2, 0, 1, 0]), "labels reach from 0 to 2; they must be from 0 to 1"),
        (2, torch.tensor([0, 1, -1, 0, 1, 0]), "labels reach from -1 to 1; they must be from 0"),
        (2, torch.tensor([0, 1]), r"labels have shape \(2,\); they must be \(6,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make, classes, labels, message, unchecked):
    prior = make(classes=classes)
    with pytest.raises(ValueError, match=message):
        prior(TOKENS, labels)
    with pytest.raises(ValueError, match=message):
        prior.start(6, labels)


def test_appending_a_token_out_of_range_is_refused_and_changes_nothing(make):
    prior = make()
    state = prior.start(2)
    with pytest.raises(ValueError, match="tokens reach from 0 to 5; they must be from 0 to 4"):
        prior.append(state, torch.tensor([0, 5]))
    assert state.position == 0


def model_of(codes):
    return VQVAE(1, SphericalQuantizer(codes, 3), hidden=8)


def test_a_prior_knows_the_model_that_it_belongs_to(make):
    model = model_of(5)
    make().check_model(model)
    tied = make(codebook=model.quantizer.codebook)
    tied.check_model(model)
    assert tied.codebook_fingerprint == fingerprint(model.quantizer.codebook)

    message = r"belongs to another codebook \(fingerprint [0-9a-f]{16}\) than the model's"
    with pytest.raises(ValueError, match=message):
        tied.check_model(model_of(5))
    message = "the prior has 5 codes and the model 6; they must be the same"
    with pytest.raises(ValueError, match=message):
        make().check_model(model_of(6))


def test_a_prior_is_built_again_from_its_config(make, kind):
    prior = make(**kind)
    again = Prior.from_config(prior.config(), kind["codebook"])
    again.load_state_dict(prior.state_dict())
    assert again.codebook_fingerprint == prior.codebook_fingerprint
    assert torch.equal(again(TOKENS), prior(TOKENS))


def test_tied_priors_are_not_built_without_their_codebook_nor_free_ones_with_one(make):
    codebook = torch.randn(5, 3)
    tied = make(codebook=codebook).config()
    with pytest.raises(ValueError, match=r"codebook has shape None; the config asks for \(5, 3\)"):
        Prior.from_config(tied)
    with pytest.raises(ValueError, match=r"shape \(5, 4\); the config asks for \(5, 3\)"):
        Prior.from_config(tied, torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"shape \(5, 3\); the config asks for None"):
        Prior.from_config(make().config(), codebook)


def test_a_prior_over_several_tokens_a_place_is_refused(make):
    stages = [SphericalQuantizer(5, 3), SphericalQuantizer(5, 3)]
    model = VQVAE(1, ResidualQuantizer(stages), hidden=8)
    with pytest.raises(ValueError, match="ResidualQuantizer; a prior takes one with"):
        make().check_model(model)


@pytest.mark.parametrize("cls", [HistogramPrior, BigramPrior, NeighborPrior])
def test_tokens_that_are_counted_do_not_tell_their_codebook(cls):
    prior = cls(5, (3, 4))
    prior.remember(torch.randn(5, 3))
    prior.count(TOKENS)
    prior.check_model(model_of(5))
    prior.remember(torch.randn(5, 3))
    with pytest.raises(ValueError, match="belongs to another codebook"):
        prior.check_model(model_of(5))
