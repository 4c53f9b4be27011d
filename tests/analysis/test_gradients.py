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
    SUPPORTED_QUANTIZERS,
    binding_until,
    gradient_history,
    term_gradients,
)
from arcvq.ops import reference
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import Compute, Recording, fit
from tests.strokes import IMAGES, SMALL

OPTIONS = {"device": "cpu", "progress": False}
STEADY = SAMP(radius=Exponential(0.0, 0.5), weight=Exponential(0.0, 2.0))
NO_MARGIN, NO_BALL = (
    dataclasses.replace(STEADY, weight=None),
    dataclasses.replace(STEADY, radius=None),
)
CASES = [(kind, STEADY) for kind in SUPPORTED_QUANTIZERS] + [("samp", NO_MARGIN), ("samp", NO_BALL)]
IMAGE_BATCH = IMAGES.train.batch(torch.arange(16))


def settings_of(kind, samp=STEADY):
    return dataclasses.replace(SMALL, quantizer=kind, samp=samp)


def trained(settings, on_log=None):
    """The run of `gradient_history`, looked at six times."""
    steps = settings.steps
    recording = Recording(
        log_every=steps // 6, validate_every=steps, progress=False, on_log=on_log
    )
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


@pytest.mark.parametrize("kind, samp", CASES)
def test_the_terms_together_are_the_gradient_of_the_training_loss(kind, samp):
    model, found = in_float64(kind, samp)
    model = copy.deepcopy(model).train()
    latents = model.encoder(IMAGE_BATCH.double()).detach().requires_grad_()
    quantized = model.quantizer(latents)
    loss = (
        mse_loss(model.decoder(quantized.codes), IMAGE_BATCH.double()) / IMAGES.variance
        + quantized.loss
    )
    loss.backward()
    close = {"rtol": 1e-9, "atol": 1e-15}
    torch.testing.assert_close(
        sum(found.at_latents.values()), latents.grad.permute(0, 2, 3, 1).reshape(-1, 4), **close
    )
    if kind == "ema":
        assert not found.at_codes
    else:
        torch.testing.assert_close(
            sum(found.at_codes.values()), model.quantizer.codebook.grad, **close
        )
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
    torch.testing.assert_close(
        found.at_latents["reconstruction"], codes.grad.permute(0, 2, 3, 1).reshape(-1, 4)
    )


@pytest.mark.parametrize("kind", ["samp", "samp_undetached"])
def test_the_margin_gradient_is_that_of_the_whole_matrix_and_has_no_radial_part(kind):
    model, found = in_float64(kind)
    latents, codebook = (
        x.detach().clone().requires_grad_() for x in (found.latents, model.quantizer.codebook)
    )
    (2.0 * reference.margin_loss(latents, codebook, 0.1, 5.0, 3)).backward()
    torch.testing.assert_close(found.at_latents["margin"], latents.grad, rtol=1e-6, atol=1e-12)
    if kind == "samp_undetached":
        torch.testing.assert_close(found.at_codes["margin"], codebook.grad, rtol=1e-6, atol=1e-12)
    else:
        assert set(found.at_codes) == {"codebook"}
    assert (found.at_latents["margin"] * normalize(latents.detach())).sum(
        1
    ).abs().max() < 1e-6 * latents.grad.norm()


@pytest.mark.parametrize("kind, samp", CASES)
def test_a_look_changes_nothing_of_the_run(kind, samp, monkeypatch):
    runs = []

    def kept_fit(*given, **told):
        runs.append(fit(*given, **told))
        return runs[-1]

    monkeypatch.setattr(gradients, "fit", kept_fit)
    history = gradient_history(
        settings_of(kind, samp), IMAGES, probe_images=16, points=6, **OPTIONS
    )
    alone = trained(settings_of(kind, samp))
    states = runs[0].model.state_dict(), alone.model.state_dict()
    assert all(
        torch.equal(one, other)
        for one, other in zip(*(state.values() for state in states), strict=True)
    )
    pd.testing.assert_frame_equal(runs[0].history, alone.history)
    assert list(history.step) == [1, 2, 3, 4, 5, 6]
    for column in ("psnr", "perplexity"):
        assert list(history[column]) == list(alone.history[column])


def test_a_look_leaves_buffers_grads_mode_and_the_random_state():
    def everything(model):
        tensors = [
            *model.parameters(),
            *model.buffers(),
            *(p.grad for p in model.parameters() if p.grad is not None),
        ]
        return [tensor.detach().clone() for tensor in tensors] + [
            torch.get_rng_state()
        ], model.training

    def look(run):
        (before, mode), _ = (
            everything(run.model),
            term_gradients(run.model, IMAGE_BATCH, IMAGES.variance),
        )
        after, mode_after = everything(run.model)
        assert mode is mode_after is True and len(before) == len(after)
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        looks.append(len(before))

    looks = []
    trained(SMALL, look)
    assert len(looks) == 6


def test_a_row_holds_what_the_float64_formulas_give():
    seen, settings = [], dataclasses.replace(SMALL, samp=STEADY, steps=60, lr=1e-2)
    trained(settings, lambda run: seen.append(copy.deepcopy(run.model)))
    row = gradient_history(settings, IMAGES, probe_images=16, points=6, **OPTIONS).iloc[3]
    model = seen[3].double()
    found = term_gradients(model, IMAGE_BATCH.double(), IMAGES.variance)
    size = {
        name: gradient.square().sum().sqrt().item() for name, gradient in found.at_latents.items()
    }
    for name, gradient in found.at_latents.items():
        assert row[f"{name}_at_latents"] == pytest.approx(size[name], rel=1e-3)
        along = (gradient * found.latents).sum(1).square() / found.latents.square().sum(1)
        assert row[f"{name}_share_radial"] == pytest.approx(
            along.sum().item() / size[name] ** 2, rel=1e-2, abs=1e-6
        )
        inner = (
            (gradient * found.at_latents["reconstruction"]).sum().item()
            / size[name]
            / size["reconstruction"]
        )
        if name != "reconstruction":
            assert row[f"angle_reconstruction_{name}"] == pytest.approx(
                math.degrees(math.acos(inner)), abs=0.05
            )
    assert row["codebook_at_codes"] == pytest.approx(
        found.at_codes["codebook"].norm().item(), rel=1e-3
    )
    assert row["margin_share_radial"] < 1e-6 < 0.01 < row["commitment_share_radial"]
    cosines = normalize(model.quantizer.codebook.detach()) @ normalize(found.latents).T
    pulled = {
        latent
        for nearest in cosines.argsort(1, descending=True)[:, :3].tolist()
        for latent in nearest
    }
    assert row["margin_pull"] == len(pulled) / 64
    assert row["codes_with_gradient"] == len(set(found.indices.tolist())) and row["num_codes"] == 8
    norms = [
        one.quantizer.codebook.detach().double().norm(dim=1).round(decimals=6) for one in seen[2:4]
    ]
    assert row["code_norm_mean"] == pytest.approx(norms[1].mean().item(), rel=1e-5)
    assert row["latent_norm_mean"] == pytest.approx(
        found.latents.norm(dim=1).mean().item(), rel=1e-4
    )
    counts = torch.bincount(found.indices, minlength=8)
    used = counts > 0
    assert 2 < used.sum() < 8
    lengths, growth = norms[1][used], (norms[1] - norms[0])[used]
    assert row["norm_usage_correlation"] == pytest.approx(
        spearmanr(lengths, counts[used]).statistic, abs=1e-6
    )
    assert row["growth_usage_correlation"] == pytest.approx(
        spearmanr(growth, counts[used]).statistic, abs=1e-6
    )
    assert row["radius"] == pytest.approx(0.5)
    assert 0 < row["codes_on_ball"] == (lengths > 0.5 * 0.9999).double().mean()


def test_terms_that_a_run_does_not_have_are_missing():
    def missing(kind, samp=STEADY):
        history = gradient_history(
            settings_of(kind, samp), IMAGES, probe_images=8, points=3, **OPTIONS
        )
        assert list(history.step) == [2, 4, 6] and math.isnan(history.growth_usage_correlation[0])
        return set(history.columns[history.isna().all()]) - {
            "growth_usage_correlation"
        }  # NaN for two codes in use too

    margin = {
        "margin_at_latents",
        "angle_reconstruction_margin",
        "margin_share_radial",
        "margin_pull",
    }
    ball = {"codes_on_ball", "radius"}
    assert missing("samp_undetached") == set() and missing("samp") == {"margin_at_codes"}
    assert missing("samp", NO_BALL) == {"margin_at_codes"} | ball
    assert missing("samp", NO_MARGIN) == {"margin_at_codes"} | margin
    for kind in ("plain", "cosine", "cvq"):
        assert missing(kind) == {"margin_at_codes"} | margin | ball
    assert missing("ema") == {"margin_at_codes", "codebook_at_codes"} | margin | ball


def test_without_the_stop_gradient_every_code_is_moved():
    options = {"probe_images": 1, "points": 6, **OPTIONS}
    assert (
        gradient_history(settings_of("samp_undetached"), IMAGES, **options)["codes_with_gradient"]
        == 8
    ).all()
    assert (
        gradient_history(SMALL, IMAGES, **options)["codes_with_gradient"] <= 4
    ).all()  # one image has 4 latents


def test_codes_on_the_ball_are_counted_until_it_no_longer_binds():
    narrow = dataclasses.replace(
        STEADY, radius=Exponential(0.0, 0.05)
    )  # shorter than all latents: codes push outwards
    history = gradient_history(
        settings_of("samp", narrow), IMAGES, probe_images=8, points=6, **OPTIONS
    )
    assert (history.codes_on_ball.iloc[2:] == 1).all() and binding_until(history) == 6
    free = gradient_history(SMALL, IMAGES, probe_images=8, points=6, **OPTIONS)
    assert binding_until(free) is None  # the ball grows faster than any code can
    table = pd.DataFrame({"step": [10, 20, 30], "codes_on_ball": [0.5, 0.01, 0.009]})
    assert binding_until(table) == 20
    assert binding_until(table.assign(codes_on_ball=math.nan)) is None


@pytest.mark.parametrize(
    "kind, options, sentence",
    [
        (
            "continuous",
            {},
            "quantizer is 'continuous'; the terms of the loss are known for plain, ema",
        ),
        ("plain", {"probe_images": 0}, "probe_images is 0; it must be 1 to 32"),
        ("plain", {"probe_images": 33}, "probe_images is 33; it must be 1 to 32"),
        (
            "plain",
            {"probe_images": 8, "points": 0},
            "points is 0; it must be a whole number from 1",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_told(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        gradient_history(settings_of(kind), IMAGES, **OPTIONS, **options)
