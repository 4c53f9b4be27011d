"""The ball and the clock of SAMP: through training, loading, further runs, and `fit`."""

import copy
import math
import re

import pytest
import torch
from torch.nn.functional import normalize

from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import QUANTIZERS, CosineQuantizer, Quantizer, SphericalQuantizer
from arcvq.samp import SAMP, arc_margin_loss, project_to_ball_
from arcvq.schedules import Adaptive, Constant, Exponential, Oscillating, WarmUp
from arcvq.training import Compute, Recording, evaluate, fit
from arcvq.vqvae import VQVAE
from tests.kinds import KINDS, assert_same_state, state_of

RADII = {
    "paper": SAMP.paper().radius,
    "for_run": SAMP.for_run(25).radius,
    "unit sphere": Constant(1.0),
    "small": Constant(0.4),
    "down": WarmUp(3.0, 0.5, 20),
    "oscillating": Oscillating(0.5, 3.0, 8),
    "adaptive": Adaptive(0.5, 3.0),
}
every_radius = pytest.mark.parametrize("radius", RADII.values(), ids=RADII)


def train(quantizer, steps, seed=0, after_each=lambda step: None):
    """Steps of Adam in which latents and codes learn; quick, so that the ball binds."""
    torch.manual_seed(seed)
    latents = torch.nn.Parameter(2 * torch.randn(40, 4))
    optimizer = torch.optim.Adam([latents, quantizer.codebook], lr=0.1)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        quantizer(latents).loss.backward()
        optimizer.step()
        quantizer.after_step()
        after_each(step)


def norms(quantizer):
    return quantizer.codebook.detach().norm(dim=1)


@every_radius
def test_training_is_bit_for_bit_the_rule_of_the_paper(radius):
    """The cosine quantizer, the margin loss beside it, and the ball M(t) after each step."""
    samp = SAMP(radius=radius, weight=Exponential(-0.05))
    quantizer = SphericalQuantizer(8, 4, samp)
    plain = CosineQuantizer(8, 4)
    plain.load_state_dict({"codebook": quantizer.codebook})
    train(quantizer, 20)

    torch.manual_seed(0)
    latents = torch.nn.Parameter(2 * torch.randn(40, 4))
    optimizer = torch.optim.Adam([latents, plain.codebook], lr=0.1)
    for step in range(1, 21):
        optimizer.zero_grad()
        quantized = plain(latents)
        margin = arc_margin_loss(latents, plain.codebook, margin=0.1, scale=5.0, top_k=3)
        weight = math.exp(-0.05 * (step - 1))
        (quantized.loss + weight * margin).backward()
        optimizer.step()
        usage = len(quantized.indices.unique()) / 8
        project_to_ball_(plain.codebook, torch.tensor(radius.value(step, usage)))
        plain.after_step()
    assert torch.equal(quantizer.codebook, plain.codebook)


@every_radius
def test_a_ball_that_shrinks_takes_its_codes_along(radius):
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=radius))

    def check(step):
        bound = radius.value(step, float(quantizer.batch_usage()))
        assert norms(quantizer).max() <= bound * (1 + 1e-6)
        assert float(quantizer.radius) == pytest.approx(bound)

    train(quantizer, 20, after_each=check)


def test_a_quantizer_that_an_earlier_version_pickled_trains_on():
    quantizer = SphericalQuantizer(8, 4)
    state = quantizer.__getstate__()
    state["_buffers"] = dict(state["_buffers"])
    del state["_buffers"]["samp_steps"]  # which it did not have
    earlier = SphericalQuantizer.__new__(SphericalQuantizer)
    earlier.__setstate__(state)
    earlier.load_state_dict(quantizer.state_dict())
    earlier.begin_run(100)
    assert earlier.samp == SAMP.for_run(100)


@pytest.mark.parametrize("other", [Constant(0.5), WarmUp(2.0, 0.3, 30), None])
def test_settings_that_are_replaced_in_a_run_act_at_once(other):
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=Constant(3.0)))
    train(quantizer, 10)
    assert norms(quantizer).max() > 1.5
    quantizer.samp = SAMP(radius=other)
    train(quantizer, 5)
    if other is None:
        assert norms(quantizer).max() > 1.5
    else:
        assert norms(quantizer).max() <= other.value(15) * (1 + 1e-6)


# Codes from outside


def trained_codes(longest=30.0):
    lengths = torch.linspace(0.3, longest, 8)[:, None]
    return lengths * normalize(torch.randn(8, 4), dim=1)


def load_own(quantizer, codes):
    """The state of a quantizer that was trained long, with other settings."""
    trained = SphericalQuantizer(8, 4, SAMP.for_run(100))
    trained.codebook.data.copy_(codes)
    trained.step.fill_(100)
    quantizer.load_state_dict(trained.state_dict())


def load_after_training_without_a_ball(quantizer, codes):
    trained = SphericalQuantizer(8, 4, SAMP(radius=None))
    train(trained, 3)
    trained.codebook.data.copy_(codes)
    quantizer.load_state_dict(trained.state_dict())


WAYS_IN = {
    "copy": lambda quantizer, codes: quantizer.codebook.data.copy_(codes),
    "set_codebook": lambda quantizer, codes: quantizer.set_codebook(codes),
    "load codes": lambda quantizer, codes: quantizer.load_state_dict({"codebook": codes}),
    "load another kind": lambda quantizer, codes: quantizer.load_state_dict(
        {"codebook": codes, "shares": torch.zeros(8), "counts": torch.ones(8).long()}, strict=False
    ),
    "load own": load_own,
    "load without a ball": load_after_training_without_a_ball,
}
every_way_in = pytest.mark.parametrize("put", WAYS_IN.values(), ids=WAYS_IN)


@every_way_in
@pytest.mark.parametrize(
    ("kind", "steps_before"), [("paper", 0), ("oscillating", 6), ("adaptive", 3)]
)
def test_no_code_from_outside_is_ever_shortened(put, kind, steps_before):
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=RADII[kind]))
    train(quantizer, steps_before)
    codes = trained_codes()
    put(quantizer, codes)
    for _ in range(10):
        quantizer(torch.randn(40, 4))
        quantizer.after_step()
        assert torch.allclose(quantizer.codebook, codes, rtol=1e-6)


def test_the_clock_of_another_kind_does_not_make_its_codes_ones_of_the_ball():
    """After 8 steps the ball has radius 3, but it is not this ball in which the codes grew."""
    trained = CosineQuantizer(8, 4)
    trained.codebook.data.copy_(trained_codes(2.9))
    trained.step.fill_(8)
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=Oscillating(0.5, 3.0, 8)))
    quantizer.load_state_dict(trained.state_dict(), strict=False)
    for _ in range(8):
        quantizer(torch.randn(40, 4))
        quantizer.after_step()
    assert torch.allclose(quantizer.codebook, trained.codebook)


def test_weights_without_a_codebook_leave_the_ball_as_it_is():
    model = torch.nn.ModuleDict({"quantizer": SphericalQuantizer(8, 4, SAMP(radius=Constant(3.0)))})
    train(model["quantizer"], 10)
    before = state_of(model["quantizer"])
    model.load_state_dict({}, strict=False)
    assert_same_state(state_of(model["quantizer"]), before)


@every_way_in
def test_the_ball_holds_codes_at_the_longest_from_outside_until_it_is_larger(put):
    quantizer = SphericalQuantizer(8, 4, SAMP.for_run(20))
    put(quantizer, trained_codes(5.0))
    quantizer.begin_run(20)
    for step in range(1, 21):
        quantizer(torch.randn(40, 4))
        quantizer.codebook.data.mul_(1e9)  # whatever the optimizer did
        quantizer.after_step()
        expected = max(5.0, math.exp(8.85 / 20 * step))
        assert torch.allclose(norms(quantizer), torch.full((8,), expected), rtol=1e-5)


def test_a_shorter_codebook_closes_the_ball_again():
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=Constant(1.0)))
    for codes in (trained_codes(30.0), trained_codes(2.0), trained_codes(0.9)):
        quantizer.set_codebook(codes)
        quantizer(torch.randn(40, 4))
        quantizer.codebook.data.mul_(100)
        quantizer.after_step()
        longest = max(1.0, float(codes.norm(dim=1).max()))
        assert torch.allclose(norms(quantizer), torch.full((8,), longest), rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_codebook_that_was_not_finite_once_does_not_leave_the_ball_open(bad):
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=Constant(1.0)))
    good = quantizer.codebook.detach().clone()
    quantizer.codebook.data[0] = bad
    quantizer(torch.randn(40, 4))
    quantizer.after_step()
    quantizer.codebook.data.copy_(good)
    quantizer(torch.randn(40, 4))
    quantizer.codebook.data.mul_(100)
    quantizer.after_step()
    assert torch.allclose(norms(quantizer), torch.ones(8))


@every_radius
def test_the_own_state_goes_on_bit_for_bit(radius):
    """With the same settings the saved codes have seen this very ball, which may shrink."""
    samp = SAMP(radius=radius)
    quantizer = SphericalQuantizer(8, 4, samp)
    train(quantizer, 10)
    resumed = SphericalQuantizer(8, 4, samp)
    resumed.load_state_dict(quantizer.state_dict())
    for one in (quantizer, resumed):
        train(one, 10, seed=1)
    assert_same_state(state_of(quantizer), state_of(resumed))


def test_precision_does_not_make_a_code_one_from_outside():
    for convert in ("bfloat16", "half", "double"):
        quantizer = SphericalQuantizer(64, 16, SAMP(radius=Constant(1.0)))
        getattr(quantizer, convert)()
        for _ in range(3):
            quantizer(torch.randn(40, 16))
            quantizer.codebook.data.mul_(3)
            quantizer.after_step()
        assert quantizer.min_radius == 0


def test_revived_codes_keep_to_the_ball():
    quantizer = SphericalQuantizer(8, 4, SAMP(radius=Constant(1.0)), revive_after=1)
    for _ in range(3):
        quantizer(30 * normalize(torch.randn(1, 4), dim=1))
        quantizer.after_step()
        assert norms(quantizer).max() <= 1 + 1e-6


# Runs


def margin_weight(quantizer):
    """The weight that the next forward pass gives the margin loss."""
    quantized = quantizer(torch.randn(40, 4))
    losses = quantized.losses
    rest = losses["codebook"] + 0.25 * losses["commitment"]
    return float((quantized.loss.detach() - rest) / losses["margin"])


def test_a_run_begins_with_the_full_weight_and_never_shortens_what_it_finds():
    quantizer = SphericalQuantizer(8, 4)
    quantizer.begin_run(20)
    assert quantizer.samp == SAMP.for_run(20)
    train(quantizer, 20)
    assert margin_weight(quantizer) == pytest.approx(math.exp(-14.75), abs=1e-6)
    before = quantizer.codebook.detach().clone()
    assert norms(quantizer).max() > 1.5

    quantizer.begin_run(50)
    assert quantizer.samp == SAMP.for_run(50)
    assert quantizer.step == 0
    assert margin_weight(quantizer) == pytest.approx(1, rel=1e-4)
    quantizer.after_step()
    assert torch.equal(quantizer.codebook, before)


def test_a_run_that_continues_keeps_clock_weight_and_ball():
    quantizer = SphericalQuantizer(8, 4)
    quantizer.begin_run(20)
    train(quantizer, 20)
    before = state_of(quantizer)
    quantizer.begin_run(50, schedule="continue")
    assert quantizer.samp == SAMP.for_run(20)
    assert_same_state(state_of(quantizer), before, but=["counts"])
    assert margin_weight(quantizer) == pytest.approx(math.exp(-14.75), abs=1e-6)


def test_a_run_that_continues_a_loop_with_the_settings_of_the_paper_keeps_them():
    """In those of a short run, the clock of a long one would be far beyond the end."""
    quantizer = SphericalQuantizer(8, 4)
    train(quantizer, 60)
    quantizer.begin_run(20, schedule="continue")
    assert quantizer.active_samp() == SAMP.paper()
    assert margin_weight(quantizer) == pytest.approx(math.exp(-5e-4 * 60), rel=1e-4)


@pytest.mark.parametrize("done", [0, 5, 40, 60])
def test_settings_made_for_a_run_go_with_it_however_far_it_came(done):
    quantizer = SphericalQuantizer(8, 4)
    quantizer.begin_run(40)
    train(quantizer, done)
    quantizer.begin_run(20)
    assert quantizer.samp == SAMP.for_run(20)
    train(quantizer, 3)
    quantizer.begin_run(6, schedule="continue")
    train(quantizer, 6)
    assert quantizer.samp == SAMP.for_run(20)
    quantizer.begin_run(7)
    assert quantizer.samp == SAMP.for_run(7)


GIVEN = [SAMP.paper(), SAMP(0.2, radius=None), SAMP(weight=Constant(0.1)), SAMP.for_run(5)]


@pytest.mark.parametrize("samp", GIVEN)
def test_settings_of_the_caller_outlive_every_run(samp):
    """Also where they are those that a run would have set by itself."""
    quantizer = SphericalQuantizer(8, 4, samp)
    for steps in (5, 7):
        quantizer.begin_run(steps)
        train(quantizer, steps)
        assert quantizer.samp == samp


def opened(quantizer, lacking=()):
    """The quantizer as it was saved, without the buffers that earlier versions lacked."""
    state = {name: value for name, value in quantizer.state_dict().items() if name not in lacking}
    copy = Quantizer.from_config(quantizer.config())
    copy.load_state_dict(state)
    return copy


@pytest.mark.parametrize("done", [2, 5, 9])
@pytest.mark.parametrize("given", [None, SAMP.for_run(5)])
def test_a_saved_quantizer_knows_whether_its_settings_were_given(given, done):
    quantizer = SphericalQuantizer(8, 4, given)
    quantizer.begin_run(5)
    train(quantizer, done)
    quantizer = opened(quantizer)
    assert quantizer.samp == SAMP.for_run(5)
    quantizer.begin_run(7)
    assert quantizer.samp == (given or SAMP.for_run(7))


@pytest.mark.parametrize(("done", "expected"), [(5, SAMP.for_run(7)), (2, SAMP.for_run(5))])
def test_in_one_of_an_earlier_version_those_of_a_whole_run_are_taken_as_not_given(done, expected):
    quantizer = SphericalQuantizer(8, 4)
    quantizer.begin_run(5)
    train(quantizer, done)
    quantizer = opened(quantizer, lacking=["samp_steps"])
    quantizer.begin_run(7)
    assert quantizer.samp == expected
    train(quantizer, 7)
    quantizer.begin_run(9)
    assert quantizer.samp == (expected if done == 2 else SAMP.for_run(9))


@pytest.mark.parametrize("given", [None, SAMP.for_run(5)])
def test_other_codes_do_not_change_whether_settings_were_given(given):
    quantizer = SphericalQuantizer(8, 4, given)
    quantizer.begin_run(5)
    train(quantizer, 5)
    quantizer.load_state_dict({"codebook": torch.randn(8, 4)})
    quantizer.begin_run(7)
    assert quantizer.samp == (given or SAMP.for_run(7))


BAD_RUNS = [
    ((0,), "steps is 0; it must be a whole number from 1"),
    ((10, "resume"), "schedule is 'resume'; it must be 'restart' or 'continue'"),
]


@pytest.mark.parametrize("kind", QUANTIZERS)
@pytest.mark.parametrize(("arguments", "message"), BAD_RUNS)
def test_a_run_that_cannot_be_is_refused_and_changes_nothing(kind, arguments, message):
    quantizer = QUANTIZERS[kind](8, 4)
    before = state_of(quantizer)
    with pytest.raises(ValueError, match=message):
        quantizer.begin_run(*arguments)
    assert_same_state(state_of(quantizer), before)
    assert quantizer.config() == QUANTIZERS[kind](8, 4).config()


# Through `fit`


def stripes(count, seed):
    """8x8 images of stripes of random width."""
    generator = torch.Generator().manual_seed(seed)
    phase, width = torch.rand(2, count, 1, 1, 1, generator=generator)
    across = torch.arange(8.0) + 8 * phase
    waves = (across * (0.2 + 0.4 * width)).sin().expand(count, 1, 8, 8)
    pixels = ((waves + 1) * 127.5).to(torch.uint8)
    return ImageSplit(pixels, torch.zeros(count, dtype=torch.int64))


IMAGES = ImageData("stripes", stripes(64, 0), stripes(16, 1), stripes(32, 2), ("all",))
QUIET = Recording(progress=False)


def trained_by_fit(model, **options):
    usual = {"steps": 60, "batch_size": 16, "lr": 1e-2, "recording": QUIET}
    return fit(model, IMAGES, compute=Compute("cpu", "float32"), **usual | options)


def autoencoder(quantizer):
    return VQVAE(1, quantizer, hidden=8, residual_hidden=4)


def psnr(model):
    return evaluate(model, IMAGES.test)["psnr"]


@pytest.fixture(scope="module")
def trained():
    """The state of a model whose codes are well beyond the unit sphere."""
    torch.manual_seed(3)
    model = autoencoder(SphericalQuantizer(16, 4))
    trained_by_fit(model)
    # Ten times as long, latents and codes mean the same to the rest of the network.
    with torch.no_grad():
        for parameter in (*model.encoder[-1].parameters(), model.quantizer.codebook):
            parameter.mul_(10)
        model.decoder[0].weight.div_(10)
    assert norms(model.quantizer).max() > 10
    return model.state_dict()


def untrained_with(quantizer, state):
    model = autoencoder(quantizer)
    model.load_state_dict(state)
    return model


def without_counts(state):
    """As in a checkpoint of the authors, with the weights alone."""
    parameters = dict(autoencoder(SphericalQuantizer(16, 4)).named_parameters())
    return {name: value for name, value in state.items() if name in parameters}


@pytest.mark.parametrize(
    ("schedule", "samp", "take"),
    [
        ("restart", None, dict),
        ("restart", None, without_counts),
        ("restart", SAMP(radius=Constant(1.0)), dict),
        ("continue", None, dict),
        ("continue", SAMP.paper(), without_counts),
    ],
)
def test_fit_with_no_learning_rate_to_speak_of_keeps_the_quality(trained, schedule, samp, take):
    model = untrained_with(SphericalQuantizer(16, 4, samp), take(trained))
    before = psnr(model)
    trained_by_fit(model, steps=10, lr=1e-9, schedule=schedule)
    assert psnr(model) == pytest.approx(before, abs=0.01)


def test_a_forward_pass_in_training_before_fit_does_not_matter(trained):
    model = untrained_with(SphericalQuantizer(16, 4), trained)
    before = psnr(model)
    model.train()
    model(IMAGES.train.batch(torch.arange(8)))
    trained_by_fit(model, steps=5, lr=1e-9)
    assert psnr(model) == pytest.approx(before, abs=0.01)


def test_a_second_fit_starts_the_schedule_anew_or_continues(trained):
    model = untrained_with(SphericalQuantizer(16, 4), trained)
    run = trained_by_fit(model, steps=30)
    weights = run.history["weight"]
    assert weights.iloc[0] == 1
    assert weights.iloc[-1] == pytest.approx(math.exp(-14.75 * 29 / 30), rel=1e-5)
    assert model.quantizer.step == 30

    run = trained_by_fit(model, steps=10, schedule="continue")
    assert run.history["weight"].iloc[0] == pytest.approx(math.exp(-14.75), rel=1e-5)
    assert model.quantizer.step == 40
    assert run.settings["schedule"] == "continue"


@pytest.mark.parametrize("weight", [Exponential(-0.5), Adaptive(0.1, 2.0), Constant(0.3)])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_weight_in_the_history_is_the_one_that_the_loss_of_the_row_had(weight, frozen):
    model = autoencoder(SphericalQuantizer(16, 4, SAMP(weight=weight)))
    if frozen:
        model.quantizer.freeze()
    recording = Recording(log_every=1, progress=False)
    history = trained_by_fit(model, steps=5, recording=recording).history
    loss = history["reconstruction"] + history["codebook"] + 0.25 * history["commitment"]
    loss += history["weight"] * history["margin"]
    torch.testing.assert_close(torch.tensor(history["loss"]), torch.tensor(loss), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_keeps_a_frozen_codebook_and_trains_the_rest(kind):
    model = autoencoder(KINDS[kind](16, 4))
    model.quantizer.freeze()
    codebook = model.quantizer.codebook.detach().clone()
    weight = model.encoder[0].weight.detach().clone()
    trained_by_fit(model, steps=5)
    assert torch.equal(model.quantizer.codebook, codebook)
    assert not torch.equal(model.encoder[0].weight, weight)
    assert model.quantizer.step == 5


@pytest.mark.parametrize("schedule", [None, "continue"])
def test_a_run_begun_in_a_loop_continues_from_its_state_dict(schedule):
    """The state dict holds for how many steps `begin_run` has made the settings."""
    torch.manual_seed(0)
    whole = SphericalQuantizer(12, 4)
    whole.begin_run(20)
    states = []
    train(whole, 20, after_each=lambda step: states.append(copy.deepcopy(whole.state_dict())))

    resumed = SphericalQuantizer(12, 4)
    resumed.load_state_dict(states[9])
    if schedule:
        resumed.begin_run(20, schedule)
    assert resumed.samp == SAMP.for_run(20)
    assert resumed.radius == pytest.approx(SAMP.for_run(20).radius.value(10))
    begun = SphericalQuantizer(12, 4)
    begun.begin_run(50)
    begun.load_state_dict(states[9])
    assert begun.samp == SAMP.for_run(20), "the length of the run that is loaded counts"
    own = SphericalQuantizer(12, 4, samp=SAMP(margin=0.3))
    own.load_state_dict(states[9])
    assert own.samp == SAMP(margin=0.3), "what was given stays"


@pytest.mark.parametrize("samp", [0.25, 0.0, "paper"])
def test_settings_of_another_type_are_refused(samp, unchecked):
    """As where the line of another quantizer, whose third argument is beta, is changed."""
    with pytest.raises(ValueError, match=re.escape(f"samp is {samp!r}; it must be a SAMP or None")):
        SphericalQuantizer(8, 4, samp)


def test_settings_given_between_two_runs_are_given_also_where_they_are_those_of_the_first():
    quantizer = SphericalQuantizer(4, 2)
    quantizer.begin_run(10)
    quantizer.samp = SAMP(margin=0.3)
    quantizer.begin_run(20)
    quantizer.samp = SAMP.for_run(10)
    quantizer.begin_run(30)
    assert quantizer.samp == SAMP.for_run(10)


def test_a_first_run_that_continues_nothing_gets_settings_of_its_length():
    quantizer = SphericalQuantizer(4, 2)
    quantizer.begin_run(100, "continue")
    assert quantizer.samp == SAMP.for_run(100)


def test_codes_of_a_ball_that_grows_with_the_usage_are_not_from_outside_once_loaded():
    samp = SAMP(radius=Adaptive(3.0, 1.0))
    quantizer = SphericalQuantizer(4, 2, samp)
    quantizer.set_codebook(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    latents = quantizer.codebook.detach().clone()
    quantizer(latents)
    with torch.no_grad():
        quantizer.codebook.mul_(2.5)  # as an optimizer step may
    quantizer.after_step()
    loaded = SphericalQuantizer(4, 2, samp)
    loaded.load_state_dict(quantizer.state_dict())
    loaded(latents)
    assert loaded.min_radius == 0


def test_a_ball_smaller_than_1_takes_the_codes_of_the_start_along():
    quantizer = SphericalQuantizer(8, 3, SAMP(radius=Constant(0.5)))
    for _ in range(2):
        quantizer(torch.randn(20, 3))
        quantizer.after_step()
    quantizer.load_state_dict(
        quantizer.state_dict() | {"codebook": SphericalQuantizer(8, 3).codebook.detach()}
    )
    quantizer(torch.randn(20, 3))
    quantizer.after_step()
    assert quantizer.codebook.norm(dim=1).max() <= 0.5 + 1e-6


def test_codes_saved_before_the_first_step_are_no_codes_of_the_ball():
    samp = SAMP(radius=Exponential(-1.0, start=4.0))
    quantizer = SphericalQuantizer(4, 2, samp)
    quantizer.set_codebook(3 * quantizer.codebook.detach())
    loaded = SphericalQuantizer(4, 2, samp)
    loaded.load_state_dict(quantizer.state_dict())
    loaded(torch.randn(20, 2))
    loaded.after_step()
    torch.testing.assert_close(loaded.codebook.detach(), quantizer.codebook.detach())
