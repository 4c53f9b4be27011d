import dataclasses
import json

import numpy as np
import pytest
import torch

from arcvq.runs.settings import RunSettings, run_name, train
from arcvq.samp import PAPER_BALL_RATE, SAMP
from arcvq.vqgan import VQGAN, VQGANLosses, VQGANSettings
from tests.strokes import IMAGES
from tests.strokes import SMALL as VQVAE_SETTINGS

CPU = torch.device("cpu")
TINY = VQGANSettings(
    channels=8,
    multipliers=(1, 2, 2),
    blocks=1,
    attention=False,
    losses=VQGANLosses(features=None, adversarial=0.0),
)
SMALL = dataclasses.replace(VQVAE_SETTINGS, vqgan=TINY)


def test_settings_come_back_from_json():
    assert RunSettings.from_config(json.loads(json.dumps(SMALL.config()))) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": 2}, "multipliers is 2; it must hold one number for each resolution"),
        ({"multipliers": ()}, r"multipliers is \(\); it must hold one number for each resolution"),
        ({"multipliers": (1, 2.5)}, "multipliers is 2.5; it must be a whole number from 1"),
        ({"multipliers": (1, 0)}, "multipliers is 0; it must be a whole number from 1"),
        ({"channels": 10}, "channels is 10; it must be a multiple of 4"),
        ({"blocks": 0}, "blocks is 0; it must be a whole number from 1"),
        ({"normalized": "False"}, "normalized is 'False'; it must be True or False"),
        ({"attention": 1}, "attention is 1; it must be True or False"),
        ({"losses": None}, "losses is None; it must be a VQGANLosses"),
        ({"losses": {"adversarial": 0.0}}, "losses is {'adversarial': 0.0}; it must be a VQGANL"),
        ({"averaging": 1.0}, "averaging is 1.0; it must be from 0 to below 1"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_where_they_are_made(
    change, message, unchecked
):
    with pytest.raises(ValueError, match=message):
        VQGANSettings(**change)


def test_a_list_and_numbers_of_numpy_are_as_good_as_plain_ones(unchecked):
    losses = VQGANLosses(features=None, adversarial=np.float32(0), channels=np.int64(64))
    told = VQGANSettings(
        channels=np.int64(8),
        multipliers=[1, np.int64(2), 2],
        blocks=np.int64(1),
        attention=False,
        losses=losses,
    )
    assert told == TINY
    assert hash(told) == hash(TINY)
    settings = dataclasses.replace(SMALL, vqgan=told)
    assert RunSettings.from_config(json.loads(json.dumps(settings.config()))) == SMALL


def test_the_model_has_the_sizes_of_the_settings():
    model = SMALL.model(IMAGES)
    assert isinstance(model, VQGAN)
    sizes = model.sizes()
    assert sizes["channels"] == 8
    assert sizes["multipliers"] == [1, 2, 2]
    assert sizes["blocks"] == 1
    assert sizes["attention"] is False
    assert model.quantizer.num_codes == SMALL.num_codes
    assert model.downsample == TINY.downsample == 4


def test_a_vqgan_is_trained_once_with_its_own_losses(tmp_path):
    options = {"root": tmp_path, "device": "cpu", "progress": False}
    run = train(SMALL, IMAGES, **options)
    assert isinstance(run.model, VQGAN)
    assert run.settings["losses"]["adversarial"] == 0.0
    again = train(SMALL, IMAGES, **options)
    assert again.history.equals(run.history)
    for name, weight in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)


def test_sizes_that_only_a_vqvae_has_make_no_other_run():
    """`quick` has others than the usual ones, which runs kept until now have in their names."""
    usual = dataclasses.replace(SMALL, hidden=48, residual_hidden=12)
    for sizes in ({"hidden": 32, "residual_hidden": 8}, {"hidden": 4}):
        other = dataclasses.replace(SMALL, **sizes)
        assert other == usual
        assert run_name(other, IMAGES, CPU) == run_name(usual, IMAGES, CPU)
    assert usual.config()["hidden"] == 48
    with pytest.raises(ValueError, match="hidden is 3; it must be a whole number from 4"):
        dataclasses.replace(SMALL, hidden=3)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 4},
        {"averaging": 0.9},
        {"losses": VQGANLosses(features=None, adversarial=0.0, channels=32)},
    ],
)
def test_other_settings_are_another_run(change):
    other = dataclasses.replace(SMALL, vqgan=dataclasses.replace(TINY, **change))
    assert run_name(other, IMAGES, CPU) != run_name(SMALL, IMAGES, CPU)
    assert run_name(VQVAE_SETTINGS, IMAGES, CPU) != run_name(SMALL, IMAGES, CPU)


def test_the_regime_counts_the_tokens_of_the_vqgan():
    halved_once = dataclasses.replace(TINY, multipliers=(1, 2))
    samp = SAMP.for_run(SMALL.steps, lr=SMALL.lr, dim=SMALL.dim)
    settings = dataclasses.replace(SMALL, samp=samp, vqgan=halved_once)
    regime = settings.regime(IMAGES)
    tokens = SMALL.batch_size * 4 * 4  # of images of 8 x 8 pixels
    assert regime.positives_per_latent == SMALL.num_codes * samp.top_k / tokens
    assert regime.ball_rate == pytest.approx(PAPER_BALL_RATE, rel=0.01)
