import math

import numpy as np
import pytest
import torch

from arcvq.priors import (
    HistogramPrior,
    Prior,
    complete,
    complete_tokens,
    fingerprint,
    next_probabilities,
    sample,
    sample_tokens,
    sampling,
    sampling_steps,
)
from arcvq.quantizers import SphericalQuantizer
from arcvq.vqvae import VQVAE
from tests.dtypes import INTEGER_DTYPES

EMPTY = torch.zeros(3, 4, dtype=torch.bool)
FULL = torch.ones(3, 4, dtype=torch.bool)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def prior(make):
    """A small prior whose probabilities are far from uniform."""
    made = make()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def model():
    torch.manual_seed(4)
    return VQVAE(1, SphericalQuantizer(5, 3), hidden=8, residual_hidden=4).eval()


def test_the_likelihood_of_a_sampling_pass_is_that_of_one_forward_pass(prior):
    expected = torch.zeros(7)
    nothing = torch.zeros(7, 3, 4, dtype=torch.int64)
    for step in sampling_steps(prior, nothing, EMPTY, generator=seeded()):
        token = step.tokens[:, *step.position]
        expected += step.probabilities.gather(1, token[:, None])[:, 0].log()
    found = prior.log_likelihood(step.tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(step.tokens, sample_tokens(prior, 7, generator=seeded()))


def test_the_cache_changes_no_sample(prior, monkeypatch):
    cached = sample_tokens(prior, 20, generator=seeded())
    for name in ("start", "next_logits"):
        monkeypatch.setattr(type(prior), name, getattr(Prior, name))
    assert torch.equal(sample_tokens(prior, 20, generator=seeded()), cached)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_same_seed_gives_the_same_tokens_however_they_are_split(prior, batch_size):
    tokens = sample_tokens(prior, 7, generator=seeded())
    split = sample_tokens(prior, 7, generator=seeded(), batch_size=batch_size)
    assert torch.equal(split, tokens)
    assert not torch.equal(sample_tokens(prior, 7, generator=seeded(1)), tokens)


def test_images_are_decoded_tokens_and_depend_on_the_seed(prior, model, monkeypatch):
    images = sample(model, prior, 7, generator=seeded())
    assert images.shape == (7, 1, 12, 16)
    assert images.abs().max() <= 1
    tokens = sample_tokens(prior, 7, generator=seeded())
    torch.testing.assert_close(images, model.decode(tokens))
    torch.manual_seed(0)
    torch.testing.assert_close(sample(model, prior, 7), images)
    monkeypatch.setattr(sampling, "BATCH", 3)
    torch.testing.assert_close(sample(model, prior, 7, generator=seeded()), images)


def test_batches_are_no_larger_than_asked(prior, monkeypatch):
    sizes = []
    start = type(prior).start

    def recorded(self, batch, labels=None):
        sizes.append(batch)
        return start(self, batch, labels)

    monkeypatch.setattr(type(prior), "start", recorded)
    assert len(sample_tokens(prior, 8, batch_size=3)) == 8
    assert sizes == [3, 3, 2]


def test_each_token_costs_one_pass_at_most(prior, monkeypatch):
    positions = []
    next_logits = type(prior).next_logits

    def recorded(self, state):
        positions.append(state.position)
        return next_logits(self, state)

    monkeypatch.setattr(type(prior), "next_logits", recorded)
    sample_tokens(prior, 5)
    assert positions == list(range(12))
    positions.clear()
    mask = FULL.clone()
    mask[1, 1] = False
    complete_tokens(prior, torch.zeros(5, 3, 4, dtype=torch.int64), mask)
    assert positions == list(range(6)), "nothing is computed after the last open place"


def test_samples_have_the_priors_distribution():
    tokens = torch.randint(3, (500, 1, 2), generator=seeded()).clamp_max(1)
    prior = HistogramPrior(3, (1, 2)).count(tokens)
    drawn = sample_tokens(prior, 20_000, generator=seeded(1), batch_size=20_000)
    for place in range(2):
        shares = torch.bincount(drawn[:, 0, place], minlength=3) / 20_000
        torch.testing.assert_close(
            shares, prior.table[place].exp(), atol=0.011, rtol=0
        )  # 3 standard deviations


CHOICES = [  # options, and the codes that they keep, of shares .455, .167, .062, .023 and .276
    ({}, range(5)),
    ({"temperature": 0.3}, range(5)),
    ({"temperature": 1e-30}, [0]),
    ({"top_k": 2}, [0, 4]),
    ({"top_k": 5, "top_p": 1.0}, range(5)),
    ({"top_p": 1e-9}, [0]),
    ({"top_p": 0.40}, [0]),
    ({"top_p": 0.75}, [0, 4, 1]),
    ({"top_k": 3, "top_p": 0.8, "temperature": 2.0}, [0, 4, 1]),
]


@pytest.mark.parametrize(("options", "kept"), CHOICES)
def test_the_probabilities_are_the_formula_of_temperature_top_k_and_top_p(options, kept):
    logits = [2.0, 1.0, 0.0, -1.0, 1.5]
    weights = torch.zeros(1, 5, dtype=torch.float64)
    for code in kept:
        weights[0, code] = math.exp((logits[code] - 2) / options.get("temperature", 1.0))
    expected = (weights / weights.sum()).float()
    found = next_probabilities(torch.tensor([logits]), **options)
    torch.testing.assert_close(found, expected)


def test_top_p_of_1_keeps_codes_however_unlikely():
    logits = torch.tensor([[20.0, 0.0, -3.0]])
    assert torch.equal(next_probabilities(logits, top_p=1.0), logits.softmax(1))


def test_top_k_keeps_exactly_k_of_equal_codes():
    assert (next_probabilities(torch.zeros(3, 9), top_k=4) > 0).sum(1).tolist() == [4, 4, 4]


def test_a_code_of_chance_zero_is_never_drawn_and_the_others_in_proportion():
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0, 0.0])
    uniform = torch.cat([torch.arange(1000) / 1000, torch.tensor([0.0, 1 - 2**-24])])
    drawn = sampling.draw(probabilities.expand(1002, 6), uniform)
    counts = torch.bincount(drawn[:1000], minlength=6)
    assert counts.tolist() == pytest.approx([0, 250, 0, 750, 0, 0], abs=1)
    assert drawn[-2:].tolist() == [1, 3]


def test_the_largest_uniform_number_draws_the_last_possible_code():
    probabilities = torch.cat([torch.full((1, 512), 1e-9), torch.zeros(1, 9)], dim=1)
    assert sampling.draw(probabilities, torch.tensor([1 - 2**-24])).item() == 511


def test_a_low_temperature_takes_the_likeliest_token_each_time(prior):
    tokens = sample_tokens(prior, 3, temperature=1e-6)
    assert torch.equal(tokens, prior(tokens).argmax(-1))
    assert torch.equal(tokens, sample_tokens(prior, 3, top_k=1))


def test_given_tokens_stay_and_the_rest_follow_them(prior):
    given = torch.randint(5, (40, 3, 4))
    mask = torch.rand(40, 3, 4) < 0.5
    drawn = complete_tokens(prior, given, mask, generator=seeded())
    assert torch.equal(drawn[mask], given[mask])
    assert not torch.equal(drawn, given)
    likeliest = complete_tokens(prior, given, mask, top_k=1)
    expected = torch.where(mask, given, prior(likeliest).argmax(-1))
    assert torch.equal(likeliest, expected)


def test_nothing_given_samples_and_everything_given_reconstructs(prior, model):
    images = torch.rand(5, 1, 12, 16) * 2 - 1
    torch.testing.assert_close(complete(model, prior, images, FULL), model.reconstruct(images))
    sampled = sample(model, prior, 5, generator=seeded())
    redrawn = complete(model, prior, images, EMPTY, generator=seeded())
    torch.testing.assert_close(redrawn, sampled)
    one_each = torch.stack([FULL, EMPTY, EMPTY, EMPTY, FULL])
    mixed = complete(model, prior, images, one_each, generator=seeded())
    torch.testing.assert_close(mixed[[0, 4]], model.reconstruct(images)[[0, 4]])
    torch.testing.assert_close(mixed[1:4], sampled[1:4])


def test_labels_reach_the_prior_one_each_or_one_for_all(make):
    prior = make(classes=3)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    options = {"temperature": 1e-6, "batch_size": 2}
    each = [sample_tokens(prior, 1, labels=label, **options)[0] for label in range(3)]
    assert len({tuple(tokens.flatten().tolist()) for tokens in each}) > 1
    together = sample_tokens(prior, 5, labels=torch.tensor([0, 1, 2, 1, 0]), **options)
    assert torch.equal(together, torch.stack([each[0], each[1], each[2], each[1], each[0]]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels are missing"),
        (3, "labels reach from 3 to 3; they must be from 0 to 2"),
        (torch.tensor([0, 1]), r"labels have shape \(2,\); they must be \(5,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make, unchecked, labels, message):
    with pytest.raises(ValueError, match=message):
        sample_tokens(make(classes=3), 5, labels=labels)


@pytest.mark.parametrize("integer", INTEGER_DTYPES)
def test_given_tokens_and_labels_may_be_of_any_integer_type(make, integer):
    prior = make(classes=3)
    tokens = torch.randint(5, (4, 3, 4))
    labels = torch.tensor([0, 1, 2, 1])
    mask = torch.rand(4, 3, 4) < 0.5
    expected = complete_tokens(prior, tokens, mask, labels, seeded())
    found = complete_tokens(prior, tokens.to(integer), mask, labels.to(integer), seeded())
    assert torch.equal(found, expected)
    (*_, last) = sampling_steps(prior, tokens.to(integer), mask, labels.to(integer), seeded())
    assert torch.equal(last.tokens, expected)


def test_one_label_for_all_may_be_a_number_of_numpy(make, unchecked):
    prior = make(classes=3)
    expected = sample_tokens(prior, 4, labels=2, generator=seeded())
    found = sample_tokens(prior, np.int64(4), labels=np.uint8(2), generator=seeded())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("label", [True, 1.0, torch.tensor([0.0, 1.0])])
def test_labels_that_are_no_integers_are_refused(make, unchecked, label):
    with pytest.raises(ValueError, match=r"labels .* integer"):
        sample_tokens(make(classes=3), 2, labels=label)


def test_labels_for_a_prior_without_classes_are_refused(make, model):
    message = "labels were given, and this prior was made without classes"
    with pytest.raises(ValueError, match=message):
        sample(model, make(), 2, labels=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n is 0; it must be a whole number from 1"),
        ({"n": -3}, "n is -3"),
        (
            {"temperature": 0.0},
            "temperature is 0.0; it must be above 0 and in the range of float32",
        ),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": 1e-46}, r"temperature is 1e-46; .* float32, 1\.2e-38 to 3\.4e\+38"),
        ({"temperature": 1e-40}, "temperature is 1e-40"),
        ({"temperature": 1e39}, r"temperature is 1e\+39"),
        ({"top_k": 0}, "top_k is 0; it must be a whole number from 1 to 5"),
        ({"top_k": 6}, "top_k is 6; it must be a whole number from 1 to 5"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0, at least 1.2e-38, and at most 1"),
        ({"top_p": 1e-46}, "top_p is 1e-46"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_choices_out_of_range_are_refused_before_anything_is_drawn(prior, model, change, message):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        sample(model, prior, **{"n": 2, **change})
    assert torch.equal(state, torch.get_rng_state())
    if "n" not in change:
        with pytest.raises(ValueError, match=message):
            next_probabilities(torch.zeros(2, 5), **change)


@pytest.mark.parametrize("logits", [[0.0, 2.0, 1.0], [0.0, 2.0, -math.inf]])
def test_the_lowest_and_the_highest_temperature_and_the_least_top_p_give_probabilities(logits):
    logits = torch.tensor([logits])
    likeliest = torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.equal(next_probabilities(logits, temperature=1.2e-38), likeliest)
    assert torch.equal(next_probabilities(logits, top_p=1.2e-38), likeliest)
    possible = logits.isfinite().float()
    expected = possible / possible.sum()
    assert torch.allclose(next_probabilities(logits, temperature=3.4e38), expected)


@pytest.mark.parametrize("label", [10**20, -(10**20), 2**63, [0, 10**20], ["a", "b"]])
def test_labels_that_no_tensor_holds_are_refused_with_what_is_allowed(make, unchecked, label):
    with pytest.raises(ValueError, match=r"labels are .*; they must be whole numbers from 0 to 2$"):
        sample_tokens(make(classes=3), 2, labels=label)
    with pytest.raises(ValueError, match=r"labels are .*; they must be left out, since this prior"):
        sample_tokens(make(), 2, labels=label)


@pytest.mark.parametrize("top_k", [2.5, 2.0, True])
def test_top_k_is_a_whole_number(prior, model, top_k, unchecked):
    message = f"top_k is {top_k}; it must be a whole number from 1 to 5"
    with pytest.raises(ValueError, match=message):
        sample(model, prior, 2, top_k=top_k)
    with pytest.raises(ValueError, match=message):
        next_probabilities(torch.zeros(2, 5), top_k=top_k)


def test_a_batch_of_no_grid_is_refused(prior):
    with pytest.raises(ValueError, match="batch_size is 0; it must be a whole number from 1"):
        sample_tokens(prior, 2, batch_size=0)


@pytest.mark.parametrize("mask", [EMPTY[:2], EMPTY.float(), EMPTY.expand(3, 3, 4)])
def test_masks_that_do_not_fit_are_refused(prior, model, unchecked, mask):
    message = r"mask is torch\.\w+ \(.*\); it must be torch\.bool \(3, 4\)"
    with pytest.raises(ValueError, match=message):
        complete(model, prior, torch.zeros(2, 1, 12, 16), mask)


def test_images_that_do_not_fit_are_refused(prior, model, unchecked):
    images = torch.zeros(2, 1, 12, 16)
    message = r"tokens have shape \(2, 3, 3\); this prior takes \(B, 3, 4\)"
    with pytest.raises(ValueError, match=message):
        complete(model, prior, images[..., :12], EMPTY)
    with pytest.raises(ValueError, match="n is 0"):
        complete(model, prior, images[:0], EMPTY)


def test_given_tokens_that_do_not_fit_are_refused(prior):
    with pytest.raises(ValueError, match="tokens reach from 5 to 5; they must be from 0 to 4"):
        complete_tokens(prior, torch.full((2, 3, 4), 5), FULL)


@pytest.mark.parametrize("unknown", [-1, 5, 2**40])
def test_open_places_may_hold_what_is_no_token(prior, unknown):
    given = torch.randint(5, (6, 3, 4))
    mask = torch.rand(6, 3, 4) < 0.5
    expected = complete_tokens(prior, given, mask, generator=seeded())
    found = complete_tokens(prior, given.where(mask, unknown), mask, generator=seeded())
    assert torch.equal(found, expected)


def test_a_prior_of_another_model_is_refused(prior, model):
    prior.codebook_fingerprint = fingerprint(model.quantizer.codebook)
    sample(model, prior, 1)
    with torch.no_grad():
        model.quantizer.codebook[0] += 0.1
    with pytest.raises(ValueError, match="the prior belongs to another codebook"):
        sample(model, prior, 1)
    with pytest.raises(ValueError, match="the prior belongs to another codebook"):
        complete(model, prior, torch.zeros(1, 1, 12, 16), EMPTY)


@pytest.mark.parametrize("kind", [list, tuple, np.array, np.int64, int])
def test_labels_may_be_lists_arrays_and_numbers(make, kind):
    prior = make(classes=3)
    one_for_all = kind in (np.int64, int)
    labels = kind(1) if one_for_all else kind([0, 1, 2])
    expected = torch.tensor([1, 1, 1] if one_for_all else [0, 1, 2])
    found = sample_tokens(prior, 3, labels=labels, generator=seeded())
    assert torch.equal(found, sample_tokens(prior, 3, labels=expected, generator=seeded()))


def test_a_prior_that_gives_nan_is_named_instead_of_drawing_token_0(prior):
    if not list(prior.parameters()):
        pytest.skip("a prior that counts has no weights")
    for parameter in prior.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="probabilities at row 0, column 0 are NaN"):
        sample_tokens(prior, 2)


def test_no_temperature_overflows():
    logits = torch.tensor([[10.0, 20.0]])
    found = next_probabilities(logits, temperature=sampling.FLOAT32.tiny)
    assert found.tolist() == [[0.0, 1.0]]


def test_codes_that_reach_the_probability_exactly_are_enough():
    assert (next_probabilities(torch.zeros(1, 4), top_p=0.5) > 0).sum() == 2


def test_given_tokens_behind_the_last_open_place_stay():
    prior = HistogramPrior(5, (3, 4))
    given = torch.randint(1, 5, (6, 3, 4))
    mask = FULL.clone()
    mask[1, 1] = False
    drawn = complete_tokens(prior, given, mask)
    assert torch.equal(drawn[:, mask], given[:, mask])


def test_a_step_keeps_its_tokens_while_later_ones_are_drawn():
    prior = HistogramPrior(5, (3, 4))
    given = torch.full((2, 3, 4), -1)
    steps = list(sampling_steps(prior, given, EMPTY))
    for place, step in enumerate(steps):
        assert not step.tokens.flatten(1)[:, place + 1 :].any()


def test_rounding_is_avoided_without_a_bias():
    uniform = torch.tensor([1 - 2**-13])
    assert sampling.draw(torch.tensor([[1 - 2**-12, 2**-12]]), uniform).item() == 1
