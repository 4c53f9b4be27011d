import dataclasses
import os
import signal

import pytest
import torch

from arcvq.priors import (
    PRIORS,
    PriorSettings,
    TiedTokens,
    parameter_count,
    settings,
    train_prior,
)
from arcvq.priors.fitting import PriorSession
from arcvq.training import Run
from tests.test_training import images, model  # noqa: F401  (the fixture)

TINY = PriorSettings(width=8, layers=1, steps=4, batch_size=8, precision="float32")


@pytest.fixture
def run():
    return Run(model(), [], {}, {}, 0.0)


@pytest.fixture
def fits(monkeypatch):
    """One entry for each call of fit_prior."""
    calls = []
    monkeypatch.setattr(settings, "fit_prior", lambda *a, fit=settings.fit_prior, **k: calls.append(1) or fit(*a, **k))
    return calls


def test_the_same_settings_are_fitted_once_and_others_anew(run, images, tmp_path, fits):  # noqa: F811
    options = {"root": tmp_path, "device": "cpu", "progress": False}
    first, again = (train_prior(TINY, run, images, **options) for _ in range(2))
    assert len(fits) == 1 and again.prior.codebook_fingerprint == first.prior.codebook_fingerprint
    assert all(torch.equal(a, b) for a, b in zip(first.prior.parameters(), again.prior.parameters(), strict=True))
    changes = [{"lr": 2e-3}, {"seed": 1}, {"kind": "transformer"}, {"tied": True}, {"conditional": True}, {"width": 12}]
    for count, change in enumerate(changes, start=2):
        train_prior(dataclasses.replace(TINY, **change), run, images, **options)
        assert len(fits) == count, change
    for name in ("quantizer.codebook", "encoder.0.weight"):
        run.model.state_dict()[name].mul_(1.5)
        count += 1
        train_prior(TINY, run, images, **options)
        assert len(fits) == count, f"another {name} gives other tokens"


def test_a_fit_that_was_stopped_goes_on(run, images, tmp_path, monkeypatch):  # noqa: F811
    options = {"device": "cpu", "progress": False}
    whole = train_prior(TINY, run, images, root=tmp_path / "whole", **options)
    monkeypatch.setattr(PriorSession, "advance", lambda trainer, advance=PriorSession.advance: (
        advance(trainer), os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt, match="stopped at step 1 of 4, saved in"):
        train_prior(TINY, run, images, root=tmp_path, **options)
    monkeypatch.undo()
    resumed = train_prior(TINY, run, images, root=tmp_path, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.prior.parameters(), resumed.prior.parameters(), strict=True))


@pytest.mark.parametrize("kind", PRIORS)
def test_the_tied_prior_has_about_as_many_parameters_as_the_free_one(kind, run, images):  # noqa: F811
    free, tied = (PriorSettings(kind, tied=tied, width=32, layers=2).prior(run.model, images) for tied in (False, True))
    assert isinstance(tied.tokens, TiedTokens) and free.width == 32
    assert parameter_count(tied) == pytest.approx(parameter_count(free), rel=0.15)


def test_the_seed_alone_decides_the_prior(run, images):  # noqa: F811
    state = torch.get_rng_state()
    first = TINY.prior(run.model, images)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = TINY.prior(run.model, images)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.grid == (2, 2) and first.classes == 0
    assert dataclasses.replace(TINY, conditional=True).prior(run.model, images).classes == 2


def test_profiles_change_the_size_alone():
    assert PriorSettings.for_profile("quick", steps=7, tied=True).steps == 7
    paper = PriorSettings.for_profile("paper", kind="transformer")
    assert paper.width > PriorSettings.for_profile("standard", kind="transformer").width and not paper.tied
    assert PriorSettings.for_profile("paper", width=20).width == 20
    with pytest.raises(ValueError, match="profile 'huge' is unknown; known are quick, standard, paper"):
        PriorSettings.for_profile("huge")
    with pytest.raises(ValueError, match="prior 'oracle' is unknown; known are pixelcnn, transformer"):
        PriorSettings("oracle")
