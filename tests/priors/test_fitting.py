import dataclasses
import math
import os
import signal

import pandas as pd
import pytest
import torch

from arcvq.priors import (
    HistogramPrior,
    Prior,
    PriorRun,
    TokenData,
    TokenSplit,
    bits_per_token,
    encode_split,
    fit_prior,
    fit_tokens,
    fitting,
)
from arcvq.priors.fitting import PriorSession
from arcvq.runtime.fingerprint import fingerprint
from arcvq.training import Compute, Recording, Run, fit
from tests.dtypes import INTEGER_DTYPES
from tests.priors.markov import markov_grids
from tests.test_training import (
    all_of,
    assert_same_weights,
    assert_unchanged,
    images,  # noqa: F401  (the fixture)
    model,
)

CPU = Compute("cpu", "float32")
OPTIONS = {"steps": 12, "batch_size": 8, "compute": CPU}


def split(n, seed, size=4):
    grids = markov_grids(n, size, seed=seed)[0]
    return TokenSplit(grids, torch.arange(n) % 2)


@pytest.fixture(scope="module")
def tokens():
    return TokenData(split(64, 1), split(32, 2))


@pytest.fixture
def small(make):
    """Makes a small prior over the grids of `tokens`, the same each time."""

    def made(**changes):
        torch.manual_seed(3)
        return make(**{"num_codes": 3, "grid": (4, 4), **changes})

    return made


def recording(folder=None, **changes):
    """A validation each 4 steps."""
    return Recording(folder, **{"validate_every": 4, "progress": False} | changes)


def short(prior, tokens, folder=None, record=None, **changes):
    """A fit of 12 steps, or as `changes` have it; `record` changes what is recorded."""
    options = OPTIONS | changes
    return fit_tokens(prior, tokens, recording=recording(folder, **record or {}), **options)


def after_each_step(action, monkeypatch):
    """Calls `action(session)` after each step of a prior."""
    advance = PriorSession.advance

    def changed(session):
        advance(session)
        action(session)

    monkeypatch.setattr(PriorSession, "advance", changed)


def test_on_a_known_process_the_prior_comes_within_2_percent_of_its_entropy_rate(small):
    held_out, truth = markov_grids(2000, size=3, seed=3)
    tokens = TokenData(split(6000, 1, size=3), split(200, 2, size=3))
    prior = small(grid=(3, 3), width=16, layers=2)
    short(prior, tokens, record={"validate_every": 250}, steps=500, batch_size=64, lr=2e-2)
    assert truth * 0.995 < bits_per_token(prior, held_out) < truth * 1.02


def test_the_history_says_what_was_measured_and_the_best_weights_are_kept(
    small, tokens, monkeypatch
):
    def spoil(session):
        if session.step > 8:
            for parameter in session.model.parameters():
                parameter.data.add_(1)

    after_each_step(spoil, monkeypatch)
    prior = small()
    run = short(prior, tokens)
    assert run.prior is prior
    assert not prior.training
    assert run.seconds > 0
    assert run.settings["steps"] == 12
    assert repr(run) == f"PriorRun({type(prior).__name__}, 12 steps in {run.seconds:.1f} s)"

    history = run.history
    assert history["step"].tolist() == [4, 8, 12]
    assert history["lr"].iloc[-1] < history["lr"].iloc[0] < 3e-3
    validation = history["validation_bits_per_token"]
    assert validation.idxmin() == 1
    measured = bits_per_token(prior, tokens.validation.tokens)
    assert measured == pytest.approx(validation.min(), abs=1e-6)
    assert history["bits_per_token"][0] == pytest.approx(math.log2(3), rel=0.3)


def test_by_default_a_prior_is_validated_as_often_as_in_earlier_versions(small, tokens):
    """Validations decide which weights it gets."""
    for steps, every in ((3, 1), (10, 1), (25, 2)):
        run = short(small(), tokens, record={"validate_every": None}, steps=steps)
        assert run.settings["validate_every"] == every


def test_a_fit_that_the_listener_ends_goes_on_although_it_was_saved_in_its_folder(
    small, tokens, tmp_path
):
    first_row = {"on_log": lambda run: len(run.history) == 1}
    short(small(), tokens, tmp_path, first_row).save(tmp_path)
    resumed = short(small(), tokens, tmp_path, {"resume": True})
    assert_same_weights(resumed.prior, short(small(), tokens).prior)
    assert PriorRun.load(tmp_path).history["step"].iloc[-1] == 12


@pytest.mark.parametrize("codebook", [None, torch.eye(3)])
def test_a_resumed_fit_ends_with_the_same_bits(small, tokens, codebook, tmp_path, monkeypatch):
    def interrupt(session):
        if session.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    whole = short(small(codebook=codebook), tokens)
    with monkeypatch.context() as patches:
        after_each_step(interrupt, patches)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12, saved in"):
            short(small(codebook=codebook), tokens, tmp_path)
    other = small(codebook=codebook)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    resumed = short(other, tokens, tmp_path, {"resume": True})
    assert_same_weights(whole.prior, resumed.prior)
    pd.testing.assert_frame_equal(whole.history, resumed.history)

    assert not (tmp_path / "checkpoint.pt").exists()
    again = short(small(codebook=codebook), tokens, tmp_path, {"resume": True})
    assert_same_weights(again.prior, resumed.prior)
    opened = PriorRun.load(tmp_path)
    assert_same_weights(opened.prior, resumed.prior)
    pd.testing.assert_frame_equal(opened.history, whole.history)
    assert opened.settings == resumed.settings
    assert opened.seconds == resumed.seconds


def test_fitting_draws_no_random_numbers_and_the_seed_orders_the_grids(small, tokens):
    weights = []
    for seed in (1, 1, 2):
        prior = small()
        state = torch.get_rng_state()
        short(prior, tokens, seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        weights.append(torch.nn.utils.parameters_to_vector(prior.parameters()))
    one, two, other = weights
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_labels_are_learned_where_the_prior_has_classes(small):
    tokens = torch.randint(3, (200, 4, 4))
    labels = torch.arange(200) % 2
    tokens[labels == 1] = 2
    both = TokenSplit(tokens, labels)
    prior = small(classes=2)
    short(prior, TokenData(both, both), steps=60, batch_size=32, lr=1e-2)
    ones = tokens[labels == 1]
    assert bits_per_token(prior, ones, torch.ones(100, dtype=torch.int64)) < 0.2
    assert bits_per_token(prior, ones, torch.zeros(100, dtype=torch.int64)) > 1.2


def test_bits_are_the_likelihood_in_base_two_however_it_is_split(small, tokens, monkeypatch):
    prior = small()
    grids = tokens.train.tokens
    nats = -prior.log_likelihood(grids).double().mean().item()
    expected = nats / 16 / math.log(2)
    assert bits_per_token(prior, grids) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(fitting, "BLOCK", 5 * 3 * 16)
    assert bits_per_token(prior, grids) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="there are no tokens; at least one grid is needed"):
        bits_per_token(prior, grids[:0])


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_a_prior_in_any_precision_is_saved_as_it_is_handed_over(small, tokens, tmp_path, precision):
    prior = small().to(precision)
    short(prior, tokens, folder=tmp_path)
    assert prior.dtype == precision
    saved = Prior.from_pretrained(tmp_path).state_dict()
    for name, weight in prior.state_dict().items():
        assert torch.equal(saved[name], weight.to(saved[name].dtype)), name


def test_bfloat16_keeps_the_loss_in_float32(small, tokens, monkeypatch):
    cross_entropy = fitting.cross_entropy
    seen = set()

    def watched(logits, tokens):
        seen.add(logits.dtype)
        return cross_entropy(logits, tokens)

    monkeypatch.setattr(fitting, "cross_entropy", watched)
    run = short(small(), tokens, compute=Compute("cpu", "bfloat16"))
    assert run.settings["precision"] == "bfloat16"
    assert seen == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in run.prior.parameters())


REFUSED = [
    ({"steps": 0}, "steps is 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 65}, "batch_size is 65; it must be at most 64, the training grids"),
    ({"lr": 0.0}, "lr is 0.0"),
    ({"lr": math.nan}, "lr is nan"),
    ({"seed": -1}, "seed is -1"),
    ({"recording": Recording(validate_every=-1)}, "validate_every is"),
    ({"recording": Recording(log_every=5)}, "log_every is 5; .* so give validate_every instead"),
    ({"recording": Recording(snapshots=3)}, "snapshots is 3; .* so leave it out"),
    ({"compute": Compute("cpu", "half")}, "precision 'half'"),
    ({"compute": Compute("abacus")}, "device 'abacus'"),
    ({"compute": Compute("cpu", cuda_graph=True)}, "cuda_graph is True; only fit can record"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_settings_are_refused_before_anything_is_fitted(change, message, small, tokens):
    with pytest.raises(ValueError, match=message):
        fit_tokens(small(), tokens, **OPTIONS | change)


@pytest.fixture
def uncoded(monkeypatch):
    """A model that must not be asked for tokens."""
    net = model()
    monkeypatch.setattr(net, "encode", lambda batch: pytest.fail("images were encoded"))
    return net


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_settings_are_refused_before_anything_is_encoded(
    change,
    message,
    make,
    images,  # noqa: F811
    uncoded,
):
    prior = make(num_codes=16, grid=(2, 2))
    with pytest.raises(ValueError, match=message):
        fit_prior(prior, uncoded, images, **OPTIONS | change)
    assert prior.codebook_fingerprint is None, "it may be fitted to another model"


def test_what_cannot_be_fitted_is_refused_before_anything_is_encoded(
    make,
    images,  # noqa: F811
    uncoded,
    tmp_path,
):
    prior = make(num_codes=16, grid=(2, 2))
    with pytest.raises(TypeError, match=r"missing .*'steps'"):
        fit_prior(prior, uncoded, images)
    with pytest.raises(ValueError, match="labels reach from 0 to 1; they must be from 0 to 0"):
        fit_prior(make(num_codes=16, grid=(2, 2), classes=1), uncoded, images, **OPTIONS)
    with pytest.raises(ValueError, match="HistogramPrior has nothing to learn by steps"):
        fit_prior(HistogramPrior(16, (2, 2)), uncoded, images, **OPTIONS)
    (tmp_path / "run.json").touch()
    with pytest.raises(FileExistsError, match="holds a run already"):
        fit_prior(prior, uncoded, images, **OPTIONS, recording=recording(tmp_path))
    empty = dataclasses.replace(images, validation=images.validation.first(0))
    with pytest.raises(ValueError, match="there are no validation tokens"):
        fit_prior(prior, uncoded, empty, **OPTIONS)


def test_a_prior_whose_checkpoint_is_refused_is_still_free_for_any_model(make, images, tmp_path):  # noqa: F811
    prior = make(num_codes=16, grid=(2, 2))
    fit_prior(prior, model(), images, **OPTIONS, recording=recording(tmp_path))
    other = make(num_codes=16, grid=(2, 2))
    again = recording(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"lr was 0\.003 and is now 0\.5"):
        fit_prior(other, model(), images, **OPTIONS, lr=0.5, recording=again)
    assert other.codebook_fingerprint is None


def test_tokens_and_labels_that_do_not_fit_are_refused(small, tokens):
    train, validation = tokens
    nothing = TokenSplit(validation.tokens[:0], validation.labels[:0])
    with pytest.raises(ValueError, match="there are no validation tokens"):
        short(small(), TokenData(train, nothing))
    higher = TokenSplit(train.tokens + 1, train.labels)
    with pytest.raises(ValueError, match="tokens reach from 1 to 3"):
        short(small(), TokenData(higher, validation))
    with pytest.raises(ValueError, match="labels reach from 0 to 1; they must be from 0 to 0"):
        short(small(classes=1), tokens)
    fewer = TokenSplit(train.tokens, train.labels[:60])
    with pytest.raises(ValueError, match="there are 64 grids of tokens and 60 labels"):
        short(small(), TokenData(fewer, validation))


def test_tokens_without_labels_do_for_a_prior_without_classes(small, tokens):
    train, validation = tokens
    data = TokenData(TokenSplit(train.tokens), TokenSplit(validation.tokens))
    assert_same_weights(short(small(), data).prior, short(small(), tokens).prior)
    with pytest.raises(ValueError, match="labels are missing"):
        short(small(classes=2), data)
    nothing = TokenData(TokenSplit(train.tokens[:0]), TokenSplit(validation.tokens))
    with pytest.raises(ValueError, match="there are no training tokens"):
        short(small(), nothing)


def test_a_prior_fitted_to_tokens_is_no_longer_one_for_the_codebook_before(small, tokens):
    codebook = torch.randn(3, 2)
    free = small()
    free.remember(codebook)
    assert short(free, tokens).prior.codebook_fingerprint is None
    assert free.rounded_fingerprints == []
    tied = short(small(codebook=codebook), tokens).prior
    assert tied.codebook_fingerprint == fingerprint(codebook)


@pytest.mark.parametrize("integer", INTEGER_DTYPES)
@pytest.mark.parametrize("classes", [0, 2])
def test_a_fit_to_tokens_of_any_integer_type_is_the_same(small, tokens, integer, classes):
    train, validation = tokens

    def converted(split):
        return TokenSplit(split.tokens.to(integer), split.labels.to(integer))

    data = TokenData(converted(train), converted(validation))
    run = short(small(classes=classes), data)
    expected = short(small(classes=classes), tokens)
    assert_same_weights(run.prior, expected.prior)
    assert run.settings == expected.settings


@pytest.mark.parametrize("wrong", [torch.bool, torch.float32])
def test_tokens_and_labels_that_are_no_integers_are_refused(small, tokens, wrong):
    train, validation = tokens
    with pytest.raises(ValueError, match=f"tokens have dtype {wrong}"):
        short(small(), TokenData(TokenSplit(train.tokens.to(wrong), train.labels), validation))
    labels = train.labels.to(wrong)
    with pytest.raises(ValueError, match=f"labels have dtype {wrong}"):
        short(small(classes=2), TokenData(TokenSplit(train.tokens, labels), validation))


def test_a_validation_gives_each_part_its_own_mode_back(small, tokens, monkeypatch):
    modes = []
    measure = PriorSession.measure

    def measured(session, validating):
        row = measure(session, validating)
        modes.append((session.model.training, session.model.tokens.training))
        return row

    monkeypatch.setattr(PriorSession, "measure", measured)
    after_each_step(lambda session: session.model.tokens.eval(), monkeypatch)
    short(small(), tokens)
    assert modes == [(True, False)] * 3


def test_a_loss_that_is_not_finite_ends_the_fit_and_the_checkpoint_survives(
    small, tokens, tmp_path, monkeypatch
):
    def diverge(session):
        if session.step == 6:
            next(session.model.parameters()).data.fill_(math.nan)

    message = "at step 8 the loss is not finite; a smaller lr may help"
    with monkeypatch.context() as patches:
        after_each_step(diverge, patches)
        with pytest.raises(FloatingPointError, match=message):
            short(small(), tokens, tmp_path)
    run = short(small(), tokens, tmp_path, {"resume": True})
    assert run.history["validation_bits_per_token"].notna().all()


def test_resuming_with_other_settings_or_tokens_is_refused(small, tokens, tmp_path):
    short(small(), tokens, tmp_path)
    with pytest.raises(ValueError, match=r"lr was 0\.003 and is now 0\.5"):
        short(small(), tokens, tmp_path, {"resume": True}, lr=0.5)
    with pytest.raises(ValueError, match="tokens was"):
        short(small(), TokenData(tokens.train, tokens.train), tmp_path, {"resume": True})


@pytest.mark.parametrize(
    ("changes", "record", "message"),
    [
        ({"steps": 0}, {}, "steps is 0"),
        ({}, {}, "holds a run already"),
        ({"lr": 0.5}, {"resume": True}, "lr was 0.003 and is now 0.5"),
    ],
)
def test_a_fit_that_is_refused_leaves_the_prior_as_it_was(
    make,
    images,  # noqa: F811
    tmp_path,
    changes,
    record,
    message,
):
    net = model()
    stop = {"on_log": lambda run: True}
    fit_prior(
        make(num_codes=16, grid=(2, 2)),
        net,
        images,
        **OPTIONS,
        recording=recording(tmp_path, **stop),
    )
    prior = make(num_codes=16, grid=(2, 2))
    before = all_of(prior)
    known = prior.codebook_fingerprint
    with pytest.raises((ValueError, OSError), match=message):
        fit_prior(prior, net, images, recording=recording(tmp_path, **record), **OPTIONS | changes)
    assert_unchanged(prior, before)
    assert prior.codebook_fingerprint == known


def test_images_are_encoded_once_and_model_and_test_images_play_no_part(
    make,
    images,  # noqa: F811
    monkeypatch,
):
    net = model()
    encode = net.encode
    encoded = []

    def counting(batch):
        encoded.append(len(batch))
        return encode(batch)

    monkeypatch.setattr(net, "encode", counting)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    priors = []
    for data in (images, dataclasses.replace(images, test=images.train)):
        torch.manual_seed(1)
        prior = make(num_codes=16, grid=(2, 2))
        priors.append(fit_prior(prior, net, data, **OPTIONS, recording=recording()).prior)
    assert encoded == [64, 16] * 2
    assert_same_weights(*priors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert prior.codebook_fingerprint == fingerprint(net.quantizer.codebook)


def test_a_split_is_encoded_batch_by_batch(images):  # noqa: F811
    net = model()
    tokens, labels = encode_split(net, images.train, batch_size=7)
    assert torch.equal(tokens, net.encode(images.train.batch(torch.arange(64))))
    assert torch.equal(labels, images.train.labels)


def test_a_prior_for_another_model_or_grid_is_refused(make, images):  # noqa: F811
    net = model()
    grids = r"the prior's grid is \(3, 4\) and the tokens of stripes have \(2, 2\)"
    with pytest.raises(ValueError, match=grids):
        fit_prior(make(num_codes=16), net, images, **OPTIONS)
    with pytest.raises(ValueError, match="the prior has 5 codes and the model 16"):
        fit_prior(make(), net, images, **OPTIONS)
    other = make(num_codes=16, codebook=torch.randn(16, 4))
    with pytest.raises(ValueError, match="belongs to another codebook"):
        fit_prior(other, net, images, **OPTIONS)


def test_the_learning_rate_is_a_warm_up_times_a_cosine(small, tokens):
    run = short(small(), tokens, steps=20, record={"validate_every": 1})
    found = [row["lr"] for row in run.rows]
    expected = []
    for step in range(20):
        cosine = (1 + math.cos(math.pi * step / 20)) / 2
        expected.append(3e-3 * min((step + 1) / 2, 1) * cosine)
    assert found == pytest.approx(expected)


def test_no_step_has_a_gradient_longer_than_1(small, tokens, monkeypatch):
    prior = small()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    lengths = []

    def note(session):
        gradients = [weight.grad.norm() for weight in prior.parameters() if weight.grad is not None]
        lengths.append(torch.stack(gradients).norm().item())

    after_each_step(note, monkeypatch)
    short(prior, tokens)
    assert max(lengths) == pytest.approx(1.0, rel=1e-3)


def test_the_bits_of_training_are_those_since_the_row_before(small, tokens):
    run = short(small(), tokens, lr=1e-9)  # which changes nothing to speak of
    found = [row["bits_per_token"] for row in run.rows]
    assert len(found) == 3
    assert found == pytest.approx([found[0]] * 3, rel=0.1)


def test_validations_are_in_evaluation_mode(small, tokens, monkeypatch):
    prior = small()
    log_likelihood = type(prior).log_likelihood
    modes = []

    def noted(self, *arguments):
        modes.append(self.training)
        return log_likelihood(self, *arguments)

    monkeypatch.setattr(type(prior), "log_likelihood", noted)
    short(prior, tokens)
    assert modes == [False] * 3


def test_weights_that_were_best_before_an_interruption_are_kept(
    small, tokens, tmp_path, monkeypatch
):
    def stop(run):
        return run.rows[-1]["step"] == 8

    def spoil(session):
        for parameter in session.model.parameters():
            parameter.data.add_(1)

    short(small(), tokens, tmp_path, {"on_log": stop})
    after_each_step(spoil, monkeypatch)
    prior = small()
    run = short(prior, tokens, tmp_path, {"resume": True})
    validation = run.history["validation_bits_per_token"]
    assert validation.idxmin() == 1
    measured = bits_per_token(prior, tokens.validation.tokens)
    assert measured == pytest.approx(validation.min(), abs=1e-6)


def test_weights_decay_as_adamw_has_it(small, tokens, monkeypatch):
    optimizers = set()
    after_each_step(lambda session: optimizers.add(type(session.optimizer)), monkeypatch)
    short(small(), tokens)
    assert optimizers == {torch.optim.AdamW}


def test_a_run_of_another_kind_is_not_called_damaged(small, tokens, images, tmp_path):  # noqa: F811
    fit(model("plain"), images, steps=2, batch_size=8, recording=recording(tmp_path))
    with pytest.raises(ValueError, match="belongs to other settings"):
        short(small(), tokens, tmp_path, {"resume": True})
    assert (tmp_path / "model.safetensors").exists()
    assert Run.load(tmp_path).history["step"].iloc[-1] == 2
    with pytest.raises(ValueError, match="holds a run and no prior"):
        PriorRun.load(tmp_path)

    short(small(), tokens, tmp_path / "prior")
    with pytest.raises(ValueError, match="holds a prior and no run"):
        Run.load(tmp_path / "prior")
