import dataclasses
import math
import os
import signal

import pandas as pd
import pytest
import torch

from arcvq.priors import (
    PriorRun,
    TokenSplit,
    bits_per_image,
    bits_per_token,
    encode_split,
    fingerprint,
    fit_prior,
    fit_tokens,
    fitting,
)
from tests.priors.markov import markov_grids
from tests.test_training import images, model  # noqa: F401  (the fixture)

OPTIONS = {"steps": 12, "batch_size": 8, "validate_every": 4, "progress": False, "precision": "float32",
           "device": "cpu"}


def split(n, seed, size=4):
    grids = markov_grids(n, size, seed=seed)[0]
    return TokenSplit(grids, torch.arange(n) % 2)


@pytest.fixture(scope="module")
def splits():
    return split(64, 1), split(32, 2)


@pytest.fixture
def small(make):
    """Makes a small prior over the grids of `splits`, the same each time."""
    def made(**changes):
        torch.manual_seed(3)
        return make(**{"num_codes": 3, "grid": (4, 4), **changes})

    return made


def test_on_a_known_process_the_prior_comes_within_2_percent_of_its_entropy_rate(small):
    held_out, truth = markov_grids(2000, size=3, seed=3)
    prior = small(grid=(3, 3), width=16, layers=2)
    fit_tokens(prior, split(6000, 1, size=3), split(200, 2, size=3),
               **OPTIONS | {"steps": 500, "batch_size": 64, "lr": 2e-2, "validate_every": 250})
    assert truth * 0.995 < bits_per_token(prior, held_out) < truth * 1.02


def test_the_history_says_what_was_measured_and_the_best_weights_are_kept(small, splits, monkeypatch):
    train, validation = splits
    monkeypatch.setattr(fitting._Trainer, "advance", lambda trainer, advance=fitting._Trainer.advance: (
        advance(trainer), trainer.step > 8 and [p.data.add_(1) for p in trainer.prior.parameters()]))  # gets worse
    prior = small()
    run = fit_tokens(prior, train, validation, **OPTIONS)
    history = run.history
    assert history["step"].tolist() == [4, 8, 12] and run.prior is prior and not prior.training
    assert history["lr"].iloc[-1] < history["lr"].iloc[0] < 3e-3
    best = history["validation_bits_per_token"].min()
    assert best == history["validation_bits_per_token"][1] < history["validation_bits_per_token"][2]
    assert bits_per_token(prior, validation.tokens) == pytest.approx(best, abs=1e-6)
    assert history["bits_per_token"][0] == pytest.approx(math.log2(3), rel=0.3)
    assert run.seconds > 0 and run.settings["steps"] == 12


@pytest.mark.parametrize("codebook", [None, torch.eye(3)])
def test_a_resumed_fit_ends_with_the_same_bits(small, splits, codebook, tmp_path, monkeypatch):
    whole = fit_tokens(small(codebook=codebook), *splits, **OPTIONS)
    advance = fitting._Trainer.advance

    def interrupted(trainer):
        advance(trainer)
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fitting._Trainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12, saved in"):
        fit_tokens(small(codebook=codebook), *splits, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    other = small(codebook=codebook)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    resumed = fit_tokens(other, *splits, out=tmp_path, resume=True, **OPTIONS)
    for name, tensor in whole.prior.state_dict().items():
        assert torch.equal(tensor, resumed.prior.state_dict()[name]), name
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    copy = PriorRun.load(tmp_path)
    pd.testing.assert_frame_equal(copy.history, whole.history)
    assert copy.settings == resumed.settings and copy.seconds == resumed.seconds
    assert bits_per_token(copy.prior, splits[1].tokens) == bits_per_token(whole.prior, splits[1].tokens)


def test_fitting_draws_no_random_numbers_and_the_seed_orders_the_grids(small, splits):
    state = torch.get_rng_state()
    priors = [small() for _ in range(3)]
    torch.set_rng_state(state)
    one, two, other = (fit_tokens(prior, *splits, seed=seed, **OPTIONS).prior.state_dict()
                       for prior, seed in zip(priors, (1, 1, 2), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_labels_are_learned_where_the_prior_has_classes(small):
    tokens = torch.randint(3, (200, 4, 4))
    labels = torch.arange(200) % 2
    tokens[labels == 1] = 2
    both = TokenSplit(tokens, labels)
    options = OPTIONS | {"steps": 60, "batch_size": 32, "lr": 1e-2}
    prior = fit_tokens(small(classes=2), both, both, **options).prior
    assert bits_per_token(prior, tokens[labels == 1], labels[labels == 1]) < 0.2
    assert bits_per_token(prior, tokens[labels == 1], 1 - labels[labels == 1]) > 1.2


def test_bits_are_the_likelihood_in_base_two_however_it_is_split(small, splits, monkeypatch):
    prior, tokens = small(), splits[0].tokens
    expected = -prior.log_likelihood(tokens).double().mean().item() / 16 / math.log(2)
    assert bits_per_token(prior, tokens) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(fitting, "BLOCK", 5 * 3 * 16)
    assert bits_per_token(prior, tokens) == pytest.approx(expected, abs=1e-6)
    assert bits_per_image(prior, tokens) == pytest.approx(16 * expected, abs=1e-5)
    with pytest.raises(ValueError, match="there are no tokens; at least one grid is needed"):
        bits_per_token(prior, tokens[:0])


def test_bfloat16_keeps_the_loss_in_float32(small, splits, monkeypatch):
    seen = []
    monkeypatch.setattr(fitting, "cross_entropy", lambda logits, tokens, loss=fitting.cross_entropy: (
        seen.append(logits.dtype), loss(logits, tokens))[1])
    run = fit_tokens(small(), *splits, **OPTIONS | {"precision": "bfloat16"})
    assert run.settings["precision"] == "bfloat16" and set(seen) == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in run.prior.parameters())


@pytest.mark.parametrize("change, message", [
    ({"steps": 0}, "steps is 0"), ({"batch_size": 0}, "batch_size is 0"), ({"validate_every": -1}, "validate_every is"),
    ({"batch_size": 65}, "batch_size is 65; it must be at most 64"), ({"lr": 0.0}, "lr is 0.0"),
    ({"lr": math.nan}, "lr is nan"), ({"precision": "half"}, "precision 'half'"),
    ({"device": "abacus"}, "device 'abacus'"), ({"resume": True}, "resume is True but out is None"),
])
def test_bad_settings_are_refused_before_anything_is_fitted(change, message, small, splits):
    with pytest.raises(ValueError, match=message):
        fit_tokens(small(), *splits, **OPTIONS | change)


def test_tokens_and_labels_that_do_not_fit_are_refused(small, splits):
    train, validation = splits
    nothing = TokenSplit(validation.tokens[:0], validation.labels[:0])
    for bad, message in [((train, nothing), "there are no validation tokens"),
                         ((TokenSplit(train.tokens + 1, train.labels), validation), "tokens reach from 1 to 3")]:
        with pytest.raises(ValueError, match=message):
            fit_tokens(small(), *bad, **OPTIONS)
    with pytest.raises(ValueError, match="labels reach from 0 to 1; they must be from 0 to 0"):
        fit_tokens(small(classes=1), *splits, **OPTIONS)


def test_a_loss_that_is_not_finite_ends_the_fit_and_the_checkpoint_survives(small, splits, tmp_path, monkeypatch):
    advance = fitting._Trainer.advance

    def diverging(trainer):
        if trainer.step == 6:
            next(trainer.prior.parameters()).data.fill_(math.nan)
        advance(trainer)

    monkeypatch.setattr(fitting._Trainer, "advance", diverging)
    with pytest.raises(FloatingPointError, match="at step 8 the loss is not finite; a smaller lr may help"):
        fit_tokens(small(), *splits, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    run = fit_tokens(small(), *splits, out=tmp_path, resume=True, **OPTIONS)
    assert run.history["validation_bits_per_token"].notna().all()


def test_resuming_with_other_settings_or_tokens_is_refused(small, splits, tmp_path):
    fit_tokens(small(), *splits, out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"lr was 0\.003 and is now 0\.5"):
        fit_tokens(small(), *splits, out=tmp_path, resume=True, lr=0.5, **OPTIONS)
    with pytest.raises(ValueError, match="tokens was"):
        fit_tokens(small(), splits[0], splits[0], out=tmp_path, resume=True, **OPTIONS)


def test_images_are_encoded_once_and_the_model_and_test_images_play_no_part(make, images, monkeypatch):  # noqa: F811
    net, encoded = model(), []
    encode = net.encode
    monkeypatch.setattr(net, "encode", lambda batch: (encoded.append(len(batch)), encode(batch))[1])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    results = []
    for data in (images, dataclasses.replace(images, test=images.train)):
        torch.manual_seed(1)
        prior = make(num_codes=16, grid=(2, 2))
        results.append(fit_prior(prior, net, data, **OPTIONS).prior)
    assert encoded == [64, 16] * 2
    assert all(torch.equal(a, b) for a, b in zip(results[0].parameters(), results[1].parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert prior.codebook_fingerprint == fingerprint(net.quantizer.codebook)
    tokens, labels = encode_split(net, images.train, batch_size=7)
    assert torch.equal(tokens, net.encode(images.train.batch(torch.arange(64))))
    assert torch.equal(labels, images.train.labels)


def test_a_prior_for_another_model_or_grid_is_refused(make, images):  # noqa: F811
    net = model()
    with pytest.raises(ValueError, match=r"the prior's grid is \(3, 4\) and the tokens of stripes have \(2, 2\)"):
        fit_prior(make(num_codes=16), net, images, **OPTIONS)
    with pytest.raises(ValueError, match="the prior has 5 codes and the model 16"):
        fit_prior(make(), net, images, **OPTIONS)
    with pytest.raises(ValueError, match="belongs to another codebook"):
        fit_prior(make(num_codes=16, codebook=torch.randn(16, 4)), net, images, **OPTIONS)
