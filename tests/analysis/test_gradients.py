import copy
import dataclasses
import math

import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import mse_loss, normalize

from arcvq.analysis import gradients
from arcvq.analysis.gradients import (
    COLUMNS,
    SUPPORTED_QUANTIZERS,
    binding_until,
    gradient_history,
    term_gradients,
)
from arcvq.ops import reference
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import Compute, Recording, fit
from arcvq.vqgan import VQGANSettings
from tests.strokes import IMAGES, SMALL

OPTIONS = {"device": "cpu", "progress": False}
STEADY = SAMP(radius=Exponential(0.0, 0.5), weight=Exponential(0.0, 2.0))
NO_MARGIN = dataclasses.replace(STEADY, weight=None)
NO_BALL = dataclasses.replace(STEADY, radius=None)
CASES = [(kind, STEADY) for kind in SUPPORTED_QUANTIZERS]
CASES += [("samp", NO_MARGIN), ("samp", NO_BALL)]
IMAGE_BATCH = IMAGES.train.batch(torch.arange(16))


def settings_of(kind, samp=STEADY):
    own_samp = samp if kind.startswith("samp") else None
    return dataclasses.replace(SMALL, quantizer=kind, samp=own_samp)


def history_of(settings, probe_images, points=6):
    return gradient_history(settings, IMAGES, probe_images=probe_images, points=points, **OPTIONS)


def rows_of(grid):
    """Latents (B, D, h, w), or their gradient, one a row."""
    return grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1])


def trained(settings, on_log=None):
    """The run of `gradient_history`, looked at six times."""
    steps = settings.steps
    recording = Recording(log_every=steps // 6, validate_every=steps, progress=False, on_log=on_log)
    return fit(
        settings.model(IMAGES),
        IMAGES,
        steps=steps,
        batch_size=8,
        lr=settings.lr,
        compute=Compute("cpu", "float32"),
        recording=recording,
    )


def in_float64(kind, samp=STEADY):
    model = trained(settings_of(kind, samp)).model.double()
    return model, term_gradients(model, IMAGE_BATCH.double(), IMAGES.variance)


@pytest.mark.parametrize(("kind", "samp"), CASES)
def test_the_terms_together_are_the_gradient_of_the_training_loss(kind, samp):
    model, found = in_float64(kind, samp)
    model = copy.deepcopy(model).train()
    latents = model.encoder(IMAGE_BATCH.double()).detach().requires_grad_()
    quantized = model.quantizer(latents)
    error = mse_loss(model.decoder(quantized.codes), IMAGE_BATCH.double())
    (error / IMAGES.variance + quantized.loss).backward()

    close = {"rtol": 1e-9, "atol": 1e-15}
    at_latents = sum(found.at_latents.values())
    torch.testing.assert_close(at_latents, rows_of(latents.grad), **close)
    if kind == "ema":
        assert not found.at_codes
    else:
        at_codes = sum(found.at_codes.values())
        torch.testing.assert_close(at_codes, model.quantizer.codebook.grad, **close)
    settings = getattr(model.quantizer, "samp", None)
    assert ("margin" in found.at_latents) == bool(settings and settings.weight)
    assert all(gradient.norm() > 1e-4 for gradient in found.at_latents.values())
    assert torch.equal(found.indices, quantized.indices.flatten())


@pytest.mark.parametrize("kind", ["plain", "samp"])
def test_commitment_and_codebook_gradients_are_those_written_out(kind):
    model, found = in_float64(kind)
    codebook = model.quantizer.codebook.detach()
    apart = found.latents - codebook[found.indices]
    torch.testing.assert_close(found.at_latents["commitment"], 2 * 0.25 * apart / apart.numel())
    pulls = torch.zeros_like(codebook).index_add_(0, found.indices, -2 * apart / apart.numel())
    torch.testing.assert_close(found.at_codes["codebook"], pulls)


def test_the_reconstruction_gradient_is_that_at_the_codes_passed_straight_through():
    model, found = in_float64("plain")
    codes = model.quantizer.lookup(found.indices.reshape(16, 2, 2)).requires_grad_()
    (mse_loss(model.decoder(codes), IMAGE_BATCH.double()) / IMAGES.variance).backward()
    torch.testing.assert_close(found.at_latents["reconstruction"], rows_of(codes.grad))


@pytest.mark.parametrize("kind", ["samp", "samp_undetached"])
def test_the_margin_gradient_is_that_of_the_whole_matrix_and_has_no_radial_part(kind):
    model, found = in_float64(kind)
    latents = found.latents.clone().requires_grad_()
    codebook = model.quantizer.codebook.detach().clone().requires_grad_()
    (2.0 * reference.margin_loss(latents, codebook, 0.1, 5.0, 3)).backward()
    torch.testing.assert_close(found.at_latents["margin"], latents.grad, rtol=1e-6, atol=1e-12)
    if kind == "samp_undetached":
        torch.testing.assert_close(found.at_codes["margin"], codebook.grad, rtol=1e-6, atol=1e-12)
    else:
        assert set(found.at_codes) == {"codebook"}
    radial = (found.at_latents["margin"] * normalize(latents.detach())).sum(1)
    assert radial.abs().max() < 1e-6 * latents.grad.norm()


@pytest.mark.parametrize(("kind", "samp"), CASES)
def test_a_look_changes_nothing_of_the_run(kind, samp, monkeypatch):
    runs = []

    def kept_fit(*given, **told):
        runs.append(fit(*given, **told))
        return runs[-1]

    monkeypatch.setattr(gradients, "fit", kept_fit)
    history = history_of(settings_of(kind, samp), probe_images=16)
    alone = trained(settings_of(kind, samp))
    looked_at = runs[0].model.state_dict()
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(looked_at[name], tensor), name
    pd.testing.assert_frame_equal(runs[0].history, alone.history)
    assert list(history.step) == [1, 2, 3, 4, 5, 6]
    for column in ("psnr", "perplexity"):
        assert list(history[column]) == list(alone.history[column])


def test_a_look_leaves_buffers_grads_mode_and_the_random_state():
    def everything(model):
        grads = [x.grad for x in model.parameters() if x.grad is not None]
        tensors = [*model.parameters(), *model.buffers(), *grads, torch.get_rng_state()]
        return [tensor.detach().clone() for tensor in tensors]

    def look(run):
        mode = len(looks) % 2 == 0
        run.model.train(mode)
        before = everything(run.model)
        term_gradients(run.model, IMAGE_BATCH, IMAGES.variance)
        after = everything(run.model)
        assert run.model.training == mode
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one, other)
        looks.append(len(before))

    looks = []
    trained(SMALL, look)
    assert len(looks) == 6


def test_a_row_holds_what_the_float64_formulas_give():
    seen = []
    settings = dataclasses.replace(SMALL, samp=STEADY, steps=60, lr=1e-2)
    trained(settings, lambda run: seen.append(copy.deepcopy(run.model)))
    row = history_of(settings, probe_images=16).iloc[3]
    model = seen[3].double()
    found = term_gradients(model, IMAGE_BATCH.double(), IMAGES.variance)

    reconstruction = found.at_latents["reconstruction"]
    size = {name: gradient.norm().item() for name, gradient in found.at_latents.items()}
    for name, gradient in found.at_latents.items():
        assert row[f"{name}_at_latents"] == pytest.approx(size[name], rel=1e-3)
        along = (gradient * found.latents).sum(1).square() / found.latents.square().sum(1)
        share = along.sum().item() / size[name] ** 2
        assert row[f"{name}_share_radial"] == pytest.approx(share, rel=1e-2, abs=1e-6)
        if name != "reconstruction":
            inner = (gradient * reconstruction).sum().item()
            angle = math.degrees(math.acos(inner / size[name] / size["reconstruction"]))
            assert row[f"angle_reconstruction_{name}"] == pytest.approx(angle, abs=0.05)
    at_codes = found.at_codes["codebook"].norm().item()
    assert row["codebook_at_codes"] == pytest.approx(at_codes, rel=1e-3)
    assert row["margin_share_radial"] < 1e-6 < 0.01 < row["commitment_share_radial"]

    cosines = normalize(model.quantizer.codebook.detach()) @ normalize(found.latents).T
    pulled = cosines.argsort(1, descending=True)[:, :3].unique()
    assert row["margin_pull"] == len(pulled) / 64
    assert row["codes_with_gradient"] == len(set(found.indices.tolist()))
    assert row["num_codes"] == 8

    before, norms = (
        one.quantizer.codebook.detach().double().norm(dim=1).round(decimals=6) for one in seen[2:4]
    )
    latent_norm = found.latents.norm(dim=1).mean().item()
    assert row["code_norm_mean"] == pytest.approx(norms.mean().item(), rel=1e-5)
    assert row["latent_norm_mean"] == pytest.approx(latent_norm, rel=1e-4)
    counts = torch.bincount(found.indices, minlength=8)
    used = counts > 0
    assert 2 < used.sum() < 8
    lengths = norms[used]
    growth = (norms - before)[used]
    of_norm = spearmanr(lengths, counts[used]).statistic
    of_growth = spearmanr(growth, counts[used]).statistic
    assert row["norm_usage_correlation"] == pytest.approx(of_norm, abs=1e-6)
    assert row["growth_usage_correlation"] == pytest.approx(of_growth, abs=1e-6)
    assert row["radius"] == pytest.approx(0.5)
    assert 0 < row["codes_on_ball"] == (lengths > 0.5 * 0.9999).double().mean()


def test_terms_that_a_run_does_not_have_are_missing():
    def missing(kind, samp=STEADY):
        history = history_of(settings_of(kind, samp), probe_images=8, points=3)
        assert list(history) == list(COLUMNS)
        assert list(history.step) == [2, 4, 6]
        assert math.isnan(history.growth_usage_correlation[0])
        # The correlation with growth is also NaN for two codes in use.
        return set(history.columns[history.isna().all()]) - {"growth_usage_correlation"}

    margin = {
        "margin_at_latents",
        "angle_reconstruction_margin",
        "margin_share_radial",
        "margin_pull",
    }
    ball = {"codes_on_ball", "radius"}
    assert missing("samp_undetached") == set()
    assert missing("samp") == {"margin_at_codes"}
    assert missing("samp", NO_BALL) == {"margin_at_codes"} | ball
    assert missing("samp", NO_MARGIN) == {"margin_at_codes"} | margin
    for kind in ("plain", "cosine", "cvq"):
        assert missing(kind) == {"margin_at_codes"} | margin | ball
    assert missing("ema") == {"margin_at_codes", "codebook_at_codes"} | margin | ball


def test_without_the_stop_gradient_every_code_is_moved():
    undetached = history_of(settings_of("samp_undetached"), probe_images=1)
    assert (undetached.codes_with_gradient == 8).all()
    detached = history_of(SMALL, probe_images=1)
    assert (detached.codes_with_gradient <= 4).all()  # one image has 4 latents


def test_codes_on_the_ball_are_counted_until_it_no_longer_binds():
    # Shorter than all latents, so that codes push outward.
    narrow = dataclasses.replace(STEADY, radius=Exponential(0.0, 0.05))
    history = history_of(settings_of("samp", narrow), probe_images=8)
    assert (history.codes_on_ball.iloc[2:] == 1).all()
    assert binding_until(history) == 6
    free = history_of(SMALL, probe_images=8)
    assert binding_until(free) is None  # the ball grows faster than any code can
    table = pd.DataFrame({"step": [10, 20, 30], "codes_on_ball": [0.5, 0.01, 0.009]})
    assert binding_until(table) == 20
    assert binding_until(table.assign(codes_on_ball=math.nan)) is None


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("continuous", {}, "quantizer is 'continuous'; the terms of the loss are known for plain,"),
        ("plain", {"probe_images": 0}, "probe_images is 0; it must be a whole number from 1 to 32"),
        ("plain", {"probe_images": 33}, "probe_images is 33; it must be a whole number from 1 to"),
        ("plain", {"probe_images": 8, "points": 0}, "points is 0; it must be a whole number"),
    ],
)
def test_what_cannot_be_looked_at_is_told(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        gradient_history(settings_of(kind), IMAGES, **OPTIONS, **options)


def test_a_vqgan_has_other_terms_and_is_refused():
    settings = dataclasses.replace(SMALL, vqgan=VQGANSettings())
    with pytest.raises(ValueError, match="the settings have a vqgan; the terms of the loss are"):
        gradient_history(settings, IMAGES, **OPTIONS)
