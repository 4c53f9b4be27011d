import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch

from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.composites import ResidualQuantizer
from arcvq.priors import PRIORS, PriorSettings, TiedTokens, parameter_count, settings, train_prior
from arcvq.priors.fitting import PriorSession
from arcvq.quantizers import SphericalQuantizer
from arcvq.training import Run
from arcvq.vqvae import VQVAE
from tests.strokes import IMAGES
from tests.test_training import assert_same_weights, images, model  # noqa: F401  (the fixture)

TINY = PriorSettings(width=8, layers=1, steps=4, batch_size=8, precision="float32")
OPTIONS = {"device": "cpu", "progress": False}


@pytest.fixture
def run():
    return Run(model(), [], {}, {}, 0.0)


@pytest.fixture
def fits(monkeypatch):
    """One entry for each call of `fit_prior`."""
    calls = []
    fit_prior = settings.fit_prior

    def counted(*args, **options):
        calls.append(1)
        return fit_prior(*args, **options)

    monkeypatch.setattr(settings, "fit_prior", counted)
    return calls


def test_the_same_settings_are_fitted_once(run, images, tmp_path, fits):  # noqa: F811
    first = train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    again = train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    assert len(fits) == 1
    assert again.prior.codebook_fingerprint == first.prior.codebook_fingerprint
    assert_same_weights(first.prior, again.prior)


def test_other_settings_are_fitted_anew(run, images, tmp_path, fits):  # noqa: F811
    changes = [
        {},
        {"lr": 2e-3},
        {"seed": 1},
        {"kind": "transformer"},
        {"tied": True},
        {"conditional": True},
        {"width": 12},
    ]
    for change in changes:
        train_prior(
            dataclasses.replace(TINY, **change), run.model, images, root=tmp_path, **OPTIONS
        )
    assert len(fits) == len(changes)


@pytest.mark.parametrize("name", ["quantizer.codebook", "encoder.0.weight"])
def test_other_tokens_are_fitted_anew(name, run, images, tmp_path, fits):  # noqa: F811
    train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    run.model.state_dict()[name].mul_(1.5)
    train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    assert len(fits) == 2


@pytest.mark.parametrize("other", ["cosine", "samp", "cvq"])
def test_another_choice_of_codes_is_fitted_anew(other, images, tmp_path, fits):  # noqa: F811
    plain = model("plain")
    by_angle = model(other)
    by_angle.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(by_angle.quantizer.codebook, plain.quantizer.codebook)
    for one in (plain, by_angle, plain, by_angle):
        train_prior(TINY, one, images, root=tmp_path, **OPTIONS)
    assert len(fits) == 2


def test_buffers_of_the_encoder_decide_the_tokens_as_well(run, images, tmp_path, fits):  # noqa: F811
    norm = torch.nn.BatchNorm2d(4)
    run.model.encoder.append(norm)
    run.model.eval()
    train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    norm.running_mean.fill_(2.0)
    train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    assert len(fits) == 2


def test_layers_before_an_implicit_codebook_decide_the_tokens_as_well(images):  # noqa: F811
    pytest.importorskip("vector_quantize_pytorch")
    network = VQVAE(1, BASELINES["fsq"](16, 4), hidden=8, residual_hidden=4)
    codebook = network.quantizer.codebook.clone()
    before = TINY.digest(network, images, torch.float32)
    with torch.no_grad():
        network.quantizer.method.project_in.weight.mul_(-1)
    assert torch.equal(network.quantizer.codebook, codebook)
    assert TINY.digest(network, images, torch.float32) != before


def test_usage_counts_do_not_decide_the_tokens(images):  # noqa: F811
    for kind in ("plain", "samp"):
        network = model(kind)
        before = TINY.digest(network, images, torch.float32)
        network.quantizer.counts.add_(1)
        assert TINY.digest(network, images, torch.float32) == before


def test_a_fit_that_was_stopped_goes_on(run, images, tmp_path, monkeypatch):  # noqa: F811
    advance = PriorSession.advance

    def interrupted(session):
        advance(session)
        os.kill(os.getpid(), signal.SIGINT)

    whole = train_prior(TINY, run.model, images, root=tmp_path / "whole", **OPTIONS)
    with monkeypatch.context() as patches:
        patches.setattr(PriorSession, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 1 of 4, saved in"):
            train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    resumed = train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    assert_same_weights(whole.prior, resumed.prior)


def test_settings_come_back_from_json():
    told = dataclasses.replace(TINY, kind="transformer", tied=True)
    assert PriorSettings.from_config(json.loads(json.dumps(told.config()))) == told


def test_settings_may_be_numbers_of_numpy(unchecked):
    numbers = PriorSettings(
        tied=np.bool_(True),
        width=np.int64(8),
        layers=np.uint8(1),
        steps=np.int32(4),
        lr=np.float64(5e-3),
    )
    plain = PriorSettings(tied=True, width=8, layers=1, steps=4, lr=5e-3)
    assert numbers == plain
    assert json.dumps(numbers.config()) == json.dumps(plain.config())


@pytest.mark.parametrize("kind", PRIORS)
def test_the_tied_prior_has_about_as_many_parameters_as_the_free_one(
    kind,
    run,
    images,  # noqa: F811
):
    free = PriorSettings(kind, width=32, layers=2).prior(run.model, images)
    tied = PriorSettings(kind, tied=True, width=32, layers=2).prior(run.model, images)
    assert free.width == 32
    assert isinstance(tied.tokens, TiedTokens)
    assert parameter_count(tied) == pytest.approx(parameter_count(free), rel=0.15)


def test_the_seed_alone_decides_the_prior(run, images):  # noqa: F811
    state = torch.get_rng_state()
    first = TINY.prior(run.model, images)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert_same_weights(first, TINY.prior(run.model, images))


def test_the_prior_has_the_grid_of_the_model_and_the_classes_of_the_data(run, images):  # noqa: F811
    free = TINY.prior(run.model, images)
    assert (free.grid, free.classes) == ((2, 2), 0)
    conditional = dataclasses.replace(TINY, conditional=True)
    assert conditional.prior(run.model, images).classes == 2


def test_few_images_lower_the_batch_of_the_profile_but_not_one_that_is_given():
    with pytest.warns(UserWarning, match="the profile quick, 32 images, is lowered to 9, the"):
        few = PriorSettings.for_profile("quick", IMAGES.subset(9))
    assert few == PriorSettings(batch_size=9)
    given = PriorSettings.for_profile("quick", IMAGES.subset(9), batch_size=32)
    assert given.batch_size == 32
    assert PriorSettings.for_profile("quick", IMAGES) == PriorSettings()


def test_profiles_change_the_size_alone():
    assert PriorSettings.for_profile("quick", steps=7, tied=True).steps == 7
    standard = PriorSettings.for_profile("standard", kind="transformer")
    paper = PriorSettings.for_profile("paper", kind="transformer")
    assert paper.width > standard.width
    assert not paper.tied
    assert PriorSettings.for_profile("paper", width=20).width == 20
    with pytest.raises(
        ValueError,
        match="profile 'huge' is unknown; known are quick, standard, full, full_small, paper",
    ):
        PriorSettings.for_profile("huge")
    with pytest.raises(
        ValueError, match="prior 'oracle' is unknown; known are pixelcnn, transformer"
    ):
        PriorSettings("oracle")


def test_a_damaged_prior_is_named_and_fitted_again_when_asked(run, images, tmp_path, fits):  # noqa: F811
    first = train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
    for name in ("model.safetensors", "config.json", "history.csv", "run.json"):
        (file,) = tmp_path.glob(f"priors/*/{name}")
        file.write_bytes(file.read_bytes()[:40])
        message = r"^the prior in .* is damaged \(.+\); train it again with overwrite=True"
        with pytest.raises(ValueError, match=message):
            train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
        file.unlink()
        file.mkdir()
        with pytest.raises(ValueError, match=message):
            train_prior(TINY, run.model, images, root=tmp_path, **OPTIONS)
        healed = train_prior(TINY, run.model, images, root=tmp_path, overwrite=True, **OPTIONS)
        assert_same_weights(first.prior, healed.prior)
    assert len(fits) == 5


def test_a_model_with_several_tokens_a_place_is_refused(images, tmp_path):  # noqa: F811
    stages = [SphericalQuantizer(16, 8), SphericalQuantizer(16, 8)]
    residual = VQVAE(1, ResidualQuantizer(stages), hidden=8)
    with pytest.raises(ValueError, match="ResidualQuantizer; a prior takes one with"):
        TINY.prior(residual, images)
    with pytest.raises(ValueError, match="ResidualQuantizer; a prior takes one with"):
        train_prior(TINY, residual, images, root=tmp_path, device="cpu")
