import json

import pytest
import torch

from arcvq.priors import BigramPrior, HistogramPrior, Prior, fingerprint
from arcvq.quantizers import SphericalQuantizer
from arcvq.vqvae import VQVAE

TOKENS = torch.randint(5, (6, 3, 4), generator=torch.Generator().manual_seed(1))


def test_log_likelihood_is_the_sum_of_the_tokens_log_probabilities(make, kind):
    prior, expected = make(**kind), torch.zeros(6, dtype=torch.float64)
    logits = prior(TOKENS).detach().double()
    for image in range(6):
        for row in range(3):
            for column in range(4):
                at = logits[image, row, column]
                expected[image] += at[TOKENS[image, row, column]] - at.exp().sum().log()
    torch.testing.assert_close(prior.log_likelihood(TOKENS).double(), expected, atol=1e-4, rtol=0)


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
    opened, labels = Prior.from_pretrained(tmp_path), torch.arange(6) % 2 if classes else None
    assert type(opened) is type(prior) and not opened.training and opened.config() == prior.config()
    assert opened.codebook_fingerprint == prior.codebook_fingerprint
    assert torch.equal(opened(TOKENS, labels), prior(TOKENS, labels))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("cls", [HistogramPrior, BigramPrior])
def test_a_saved_baseline_opens_again(cls, tmp_path):
    prior = cls(5, (3, 4)).count(TOKENS)
    prior.save_pretrained(tmp_path)
    assert torch.equal(Prior.from_pretrained(tmp_path)(TOKENS), prior(TOKENS))


def test_a_folder_without_a_prior_or_with_a_broken_one_is_named(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json; a prior is config\.json and model\.safeten"):
        Prior.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [({"format": 9}, "it is no prior of format 1"), ({"kind": "Oracle"}, "'Oracle' is unknown"),
                            ({"width": 16}, "size mismatch"), ({"colour": 1}, "unexpected keyword argument")]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"the prior in .* cannot be opened: .*{message}"):
            Prior.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        Prior.from_pretrained(tmp_path)


def test_a_vqvae_is_not_taken_for_a_prior(tmp_path):
    VQVAE(1, SphericalQuantizer(5, 3), hidden=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is no prior of format 1"):
        Prior.from_pretrained(tmp_path)


@pytest.mark.parametrize("tokens, message", [
    (torch.zeros(6, 3, 5, dtype=torch.int64), r"tokens have shape \(6, 3, 5\); this prior takes \(B, 3, 4\)"),
    (TOKENS - 1, "tokens reach from -1 to 3; they must be from 0 to 4"),
    (TOKENS + 1, "tokens reach from 1 to 5; they must be from 0 to 4"),
])
def test_tokens_that_do_not_fit_are_refused(make, tokens, message):
    with pytest.raises(ValueError, match=message):
        make()(tokens)


@pytest.mark.parametrize("classes, labels, message", [
    (2, None, "labels are missing; this prior has 2 classes"),
    (0, torch.zeros(6, dtype=torch.int64), "labels were given, and this prior was made without classes"),
    (2, torch.tensor([0, 1, 2, 0, 1, 0]), "labels reach from 0 to 2; they must be from 0 to 1"),
    (2, torch.tensor([0, 1, -1, 0, 1, 0]), "labels reach from -1 to 1; they must be from 0 to 1"),
    (2, torch.tensor([0, 1]), r"labels have shape \(2,\); they must be \(6,\)"),
])
def test_labels_that_do_not_fit_are_refused_in_one_pass_and_in_sampling(make, classes, labels, message, unchecked):
    prior = make(classes=classes)
    for call in (lambda: prior(TOKENS, labels), lambda: prior.start(6, labels)):
        with pytest.raises(ValueError, match=message):
            call()


def test_appending_a_token_out_of_range_is_refused_and_changes_nothing(make):
    prior = make()
    state = prior.start(2)
    with pytest.raises(ValueError, match="tokens reach from 0 to 5; they must be from 0 to 4"):
        prior.append(state, torch.tensor([0, 5]))
    assert state.position == 0


def test_a_prior_knows_the_model_that_it_belongs_to(make):
    models = [VQVAE(1, SphericalQuantizer(codes, 3), hidden=8) for codes in (5, 5, 6)]
    codebook = models[0].quantizer.codebook
    make().check_model(models[0])
    tied = make(codebook=codebook)
    tied.check_model(models[0])
    assert tied.codebook_fingerprint == fingerprint(codebook)
    with pytest.raises(ValueError, match=r"belongs to another codebook \(fingerprint [0-9a-f]{16}\) than the model's"):
        tied.check_model(models[1])
    with pytest.raises(ValueError, match="the prior has 5 codes and the model 6; they must be the same"):
        make().check_model(models[2])
