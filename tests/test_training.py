import math
import os
import signal

import pandas as pd
import pytest
import torch

from arcvq import training
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import QUANTIZERS
from arcvq.samp import SAMP
from arcvq.training import Run, batch_indices, evaluate, fit
from arcvq.vqvae import VQVAE

KINDS = [kind for kind in QUANTIZERS if kind != "continuous"]


def stripes(count, seed):
    """8x8 images of stripes, of random width and direction."""
    generator = torch.Generator().manual_seed(seed)
    phase, width = torch.rand(2, count, 1, 1, 1, generator=generator)
    across = torch.arange(8.0).reshape(1, 1, 1, 8) + phase * 8
    waves = (across * (0.2 + 0.4 * width)).sin().expand(count, 1, 8, 8).contiguous()
    waves[::2] = waves[::2].transpose(2, 3).clone()
    return ImageSplit(((waves + 1) * 127.5).to(torch.uint8), torch.arange(count) % 2)


@pytest.fixture(scope="module")
def images():
    return ImageData("stripes", stripes(64, 0), stripes(16, 1), stripes(16, 2), ("across", "down"))


def model(kind="samp"):
    torch.manual_seed(3)
    return VQVAE(1, QUANTIZERS[kind](16, 4), hidden=8, residual_hidden=4)


OPTIONS = {"steps": 12, "batch_size": 8, "log_every": 2, "validate_every": 4, "snapshots": 3, "progress": False,
           "precision": "float32", "device": "cpu"}


def test_training_improves_and_reports_what_it_measured(images):
    run = fit(model(), images, **{**OPTIONS, "steps": 60, "lr": 1e-2})
    history = run.history
    assert list(history["step"]) == list(range(2, 61, 2)) and list(run.snapshots) == [0, 20, 40, 60]
    assert history["psnr"].tail(3).mean() > history["psnr"].head(3).mean() + 1
    assert history["validation_psnr"].notna().sum() == 15
    row = history.iloc[-1]
    assert row["validation_psnr"] == pytest.approx(evaluate(run.model, images.validation)["psnr"], abs=1e-4)
    assert row["loss"] == pytest.approx(
        row["reconstruction"] + row["codebook"] + 0.25 * row["commitment"] + row["weight"] * row["margin"], rel=0.3
    )
    assert row["radius"] == pytest.approx(math.exp(8.85), rel=1e-3)
    assert run.model.quantizer.samp == SAMP.for_run(60) and not run.model.training
    assert torch.equal(run.snapshots[60].codebook, run.model.quantizer.codebook)
    assert all(snapshot.counts.any() for step, snapshot in run.snapshots.items() if step), "also where a row is logged"


def test_validation_keeps_its_own_interval_and_is_logged(images):
    options = OPTIONS | {"log_every": 5, "validate_every": 4}
    history = fit(model(), images, **options).history
    assert history["step"].tolist() == [4, 5, 8, 10, 12]
    assert history["step"][history["validation_psnr"].notna()].tolist() == [4, 8, 12]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_bits(kind, images, tmp_path, monkeypatch):
    whole = fit(model(kind), images, **OPTIONS)
    advance = training.Trainer.advance

    def interrupted(trainer):
        advance(trainer)
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training.Trainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12, saved in"):
        fit(model(kind), images, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = fit(model(kind), images, out=tmp_path, resume=True, **OPTIONS)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert all(torch.equal(a, b) for step in whole.snapshots
               for a, b in zip(whole.snapshots[step], resumed.snapshots[step], strict=True))


def test_the_callers_generator_is_left_alone_and_the_seed_decides(images):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = fit(VQVAE(1, QUANTIZERS["samp"](16, 4), hidden=8), images, **OPTIONS) and torch.get_rng_state()
    torch.manual_seed(5)
    VQVAE(1, QUANTIZERS["samp"](16, 4), hidden=8)
    assert torch.equal(first, torch.get_rng_state()) and expected.numel() == 3
    one, two, other = (fit(model(), images, seed=seed, **OPTIONS).model.quantizer.codebook for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_each_epoch_sees_each_image_once():
    epoch = torch.cat([batch_indices(20, 4, seed=0, step=step) for step in range(5, 10)])
    assert sorted(epoch.tolist()) == list(range(20))
    first = torch.cat([batch_indices(20, 4, seed=0, step=step) for step in range(5)])
    assert not torch.equal(first, epoch)
    assert len(batch_indices(10, 4, seed=0, step=2)) == 4, "the incomplete batch at the end of an epoch is dropped"


def test_saved_run_opens_again(images, tmp_path):
    run = fit(model(), images, out=tmp_path, **OPTIONS)
    copy = Run.load(tmp_path)
    pd.testing.assert_frame_equal(copy.history, run.history)
    assert copy.settings == run.settings and copy.seconds == run.seconds
    assert torch.equal(copy.model.quantizer.codebook, run.model.quantizer.codebook)
    assert list(copy.snapshots) == list(run.snapshots)
    assert torch.equal(copy.snapshots[4].counts, run.snapshots[4].counts)


def test_evaluation_is_the_formula_over_all_pixels(images):
    net = model().train()
    measures = evaluate(net, images.test, batch_size=5, ssim=False)
    pixels = images.test.batch(torch.arange(16))
    error = (net.reconstruct(pixels).double() - pixels).square().mean().item()
    indices = net.encode(pixels)
    assert measures["psnr"] == pytest.approx(10 * math.log10(4 / error), abs=1e-5)
    assert measures["tokens"] == 64 == indices.numel() and measures["perplexity_ceiling"] == 16
    assert measures["codes_used"] == len(indices.unique()) and net.training
    empty = ImageSplit(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(net, empty)


def test_values_that_are_not_finite_are_named_with_the_step_and_the_checkpoint_survives(images, tmp_path, monkeypatch):
    advance = training.Trainer.advance

    def diverging(trainer):
        if trainer.step == 6:
            trainer.model.encoder[0].weight.data.fill_(math.nan)
        advance(trainer)

    monkeypatch.setattr(training.Trainer, "advance", diverging)
    with pytest.raises(FloatingPointError, match=r"at step 8 the loss is nan: 128 of 128 values of the latents"):
        fit(model(), images, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    assert fit(model(), images, out=tmp_path, resume=True, **OPTIONS).model.encoder[0].weight.isfinite().all()


def test_a_full_disk_keeps_the_earlier_checkpoint(images, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full(state, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left.*the earlier file is kept"):
        fit(model(), images, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    whole = fit(model(), images, **OPTIONS).model.quantizer.codebook
    assert torch.equal(fit(model(), images, out=tmp_path, resume=True, **OPTIONS).model.quantizer.codebook, whole)


def test_resuming_with_other_settings_is_refused(images, tmp_path):
    fit(model(), images, out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"lr was 0\.001 and is now 0\.5"):
        fit(model(), images, out=tmp_path, resume=True, lr=0.5, **OPTIONS)


def test_bfloat16_training_keeps_the_quantizer_in_float32(images):
    run = fit(model(), images, **{**OPTIONS, "precision": "bfloat16"})
    assert run.settings["precision"] == "bfloat16" and run.history["loss"].notna().all()
    assert run.model.quantizer.codebook.dtype == torch.float32


@pytest.mark.parametrize("change, message", [
    ({"steps": 0}, "steps is 0"), ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 65}, "batch_size is 65; it must be at most 64"), ({"lr": 0.0}, "lr is 0.0"),
    ({"lr": math.nan}, "lr is nan"), ({"precision": "half"}, "precision 'half'"),
    ({"device": "abacus"}, "device 'abacus'"),
    ({"resume": True}, "resume is True but out is None"), ({"snapshots": 0}, "snapshots is 0"),
])
def test_bad_input_is_refused_before_anything_is_trained(change, message, images):
    with pytest.raises(ValueError, match=message):
        fit(model(), images, **{**OPTIONS, **change})


def test_images_of_another_kind_are_refused(images, unchecked):
    with pytest.raises(ValueError, match=r"they must be \(B, 3, H, W\)"):
        fit(VQVAE(3, QUANTIZERS["samp"](4, 2), hidden=8), images, **OPTIONS)


def test_each_row_is_told_of_with_the_run_so_far(images):
    seen = []
    run = fit(model(), images, on_log=lambda run: seen.append(run), **OPTIONS)
    assert [len(one.history) for one in seen] == list(range(1, len(run.history) + 1))
    for one in seen:
        same = run.history.loc[: len(one.history) - 1, one.history.columns]
        pd.testing.assert_frame_equal(one.history, same, check_dtype=False)
        assert one.model is run.model and one.settings == run.settings
        assert list(one.snapshots) == [step for step in (0, 4, 8, 12) if step <= one.history["step"].iloc[-1]]


def test_a_run_that_is_ended_is_resumed_to_the_same_bits_and_never_opened_as_finished(images, tmp_path):
    whole = fit(model(), images, **OPTIONS)
    stopped = fit(model(), images, out=tmp_path, on_log=lambda run: len(run.history) == 3, **OPTIONS)
    assert stopped.history["step"].tolist() == [2, 4, 6] and not stopped.model.training
    assert not (tmp_path / "run.json").exists() and (tmp_path / "checkpoint.pt").exists()
    resumed = fit(model(), images, out=tmp_path, resume=True, **OPTIONS)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert Run.load(tmp_path).history["step"].tolist() == whole.history["step"].tolist()


def test_a_run_that_is_ended_at_its_last_row_is_finished(images, tmp_path):
    fit(model(), images, out=tmp_path, on_log=lambda run: run.history["step"].iloc[-1] == 12, **OPTIONS)
    assert (tmp_path / "run.json").exists()


def test_an_error_of_the_listener_is_raised(images):
    with pytest.raises(ZeroDivisionError):
        fit(model(), images, on_log=lambda run: 1 / 0, **OPTIONS)


def test_a_step_reads_no_value_of_the_device(images):
    """Each reading would make a GPU wait for the host; only logging reads."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function is not torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    for kind in QUANTIZERS:
        trainer = training.Trainer(model(kind), images, {}, 8, 1e-3, 0, torch.float32)
        with Watch():
            trainer.advance()
            trainer.advance()


def test_recording_a_step_needs_cuda(images):
    with pytest.raises(ValueError, match="capture is True on cpu with 1 processes; it needs CUDA and one process"):
        fit(model(), images, **OPTIONS, capture=True)
