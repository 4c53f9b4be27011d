import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arcvq import images as image_data
from arcvq import training
from arcvq.images import ImageData, ImageSplit
from arcvq.metrics import authors_measures
from arcvq.quantizers import QUANTIZERS
from arcvq.runtime.devices import threads_kept
from arcvq.runtime.interrupt import SIGNALS
from arcvq.samp import SAMP
from arcvq.training import (
    Compute,
    Optimization,
    Recording,
    Run,
    VQVAESession,
    batch_indices,
    evaluate,
    fit,
)
from arcvq.vqvae import VQVAE

TRAINED = [kind for kind in QUANTIZERS if kind != "continuous"]
CPU = Compute("cpu", "float32")


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
    splits = stripes(64, 0), stripes(16, 1), stripes(16, 2)
    return ImageData("stripes", *splits, ("across", "down"))


def model(kind="samp"):
    torch.manual_seed(3)
    return VQVAE(1, QUANTIZERS[kind](16, 4), hidden=8, residual_hidden=4)


def recording(folder=None, **changes):
    """A row each 2 steps, a validation each 4."""
    usual = {"log_every": 2, "validate_every": 4, "snapshots": 3, "progress": False}
    return Recording(folder, **usual | changes)


def short(images, kind="samp", *, network=None, folder=None, record=None, compute=CPU, **changes):
    """A run of 12 steps, or as `changes` have it; `record` changes what is recorded."""
    options = {"steps": 12, "batch_size": 8} | changes
    record = recording(folder, **record or {})
    return fit(network or model(kind), images, compute=compute, recording=record, **options)


def assert_same_weights(one, other):
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def assert_same_run(one, other):
    assert_same_weights(one.model, other.model)
    pd.testing.assert_frame_equal(one.history, other.history)
    assert one.snapshots.keys() == other.snapshots.keys()
    for step, snapshot in one.snapshots.items():
        assert torch.equal(snapshot.codebook, other.snapshots[step].codebook)
        assert torch.equal(snapshot.counts, other.snapshots[step].counts)


def interrupt_at(step, monkeypatch, number=signal.SIGINT):
    """Ctrl-C, or another signal, in a step of a VQ-VAE."""
    advance = VQVAESession.advance

    def interrupted(session):
        advance(session)
        if session.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(VQVAESession, "advance", interrupted)


def diverge_at(step, monkeypatch):
    """NaN in the codebook after a step of a VQ-VAE."""
    advance = VQVAESession.advance

    def diverging(session):
        advance(session)
        if session.step == step:
            with torch.no_grad():
                session.model.quantizer.codebook.fill_(math.nan)

    monkeypatch.setattr(VQVAESession, "advance", diverging)


def test_training_improves_and_reports_what_it_measured(images):
    run = short(images, steps=60, lr=1e-2)
    history = run.history
    assert list(history["step"]) == list(range(2, 61, 2))
    assert history["psnr"].tail(3).mean() > history["psnr"].head(3).mean() + 1
    assert history["validation_psnr"].notna().sum() == 15
    assert run.model.quantizer.samp == SAMP.for_run(60)
    assert not run.model.training

    row = history.iloc[-1]
    measured = evaluate(run.model, images.validation)["psnr"]
    assert row["validation_psnr"] == pytest.approx(measured, abs=1e-4)
    loss = row["reconstruction"] + row["codebook"] + 0.25 * row["commitment"]
    assert row["loss"] == pytest.approx(loss + row["weight"] * row["margin"], rel=1e-5)
    assert row["radius"] == pytest.approx(math.exp(8.85), rel=1e-3)


@pytest.mark.parametrize(("batch_size", "threads"), [(16, 1), (32, 2)])
def test_small_batches_are_trained_by_one_thread(batch_size, threads, images, monkeypatch):
    monkeypatch.setattr(training, "SMALLEST_SHARED_STEP", 17 * 8 * 8)
    used = set()
    with threads_kept(2):
        record = {"on_log": lambda run: used.add(torch.get_num_threads())}
        short(images, batch_size=batch_size, record=record)
        assert torch.get_num_threads() == 2
    assert used == {threads}


def test_snapshots_are_spread_over_the_run(images):
    run = short(images, steps=60)
    assert list(run.snapshots) == [0, 20, 40, 60]
    assert torch.equal(run.snapshots[60].codebook, run.model.quantizer.codebook)
    for step in (20, 40, 60):
        assert run.snapshots[step].counts.any(), "although a row is logged at the same step"


def test_validation_keeps_its_own_interval_and_is_logged(images):
    history = short(images, record={"log_every": 5}).history
    assert history["step"].tolist() == [4, 5, 8, 10, 12]
    assert history["step"][history["validation_psnr"].notna()].tolist() == [4, 8, 12]


@pytest.mark.parametrize(("steps", "rows", "validations"), [(9, 9, 5), (99, 50, 5), (6, 6, 3)])
def test_by_default_there_are_at_most_50_rows_and_5_validations(images, steps, rows, validations):
    history = short(images, steps=steps, record={"log_every": None, "validate_every": None}).history
    assert len(history) == rows
    assert history["validation_psnr"].notna().sum() == validations


@pytest.mark.parametrize("kind", TRAINED)
def test_a_resumed_run_ends_with_the_same_bits(kind, images, tmp_path, monkeypatch):
    whole = short(images, kind)
    with monkeypatch.context() as patches:
        interrupt_at(7, patches)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12, saved in"):
            short(images, kind, folder=tmp_path)
    torch.manual_seed(99)
    resumed = short(images, kind, folder=tmp_path, record={"resume": True})
    assert_same_run(whole, resumed)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_told_to_end_saves_first(number, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        interrupt_at(5, patches, number)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 5 of 12, saved in"):
            short(images, folder=tmp_path)
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert_same_run(short(images), resumed)


def test_a_model_that_cannot_be_copied_trains_and_resumes(images, tmp_path, monkeypatch):
    def uncopyable():
        network = model()
        torch.nn.utils.weight_norm(network.decoder[0])  # as torch says, not to be deep-copied
        lock = threading.Lock()
        network.quantizer.register_forward_hook(lambda *_, held=lock: None)
        return network

    whole = fit(uncopyable(), images, steps=8, batch_size=8, compute=CPU, recording=recording())
    options = {"steps": 8, "batch_size": 8, "compute": CPU}
    asked = recording(tmp_path, on_log=lambda run: run.rows[-1]["step"] >= 4)
    fit(uncopyable(), images, recording=asked, **options)
    resumed = fit(uncopyable(), images, recording=recording(tmp_path, resume=True), **options)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_is_opened_whatever_checkpoint_lies_beside_it(images, tmp_path):
    options = {"steps": 4, "batch_size": 8, "compute": CPU}
    fit(model(), images, recording=recording(tmp_path), **options)
    (tmp_path / "checkpoint.pt").write_bytes(b"cut")
    opened = fit(model(), images, recording=recording(tmp_path, resume=True), **options)
    assert opened.rows[-1]["step"] == 4


def test_checkpoints_are_written_by_time_as_well(images, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    advance = VQVAESession.advance

    def killed(session):
        if session.step == 3:
            raise MemoryError
        advance(session)

    with monkeypatch.context() as patches:
        patches.setattr(VQVAESession, "advance", killed)
        with pytest.raises(MemoryError):
            short(images, folder=tmp_path, record={"log_every": 12, "validate_every": 12})
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 3


def test_a_run_is_never_overwritten_by_accident(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        interrupt_at(5, patches)
        with pytest.raises(KeyboardInterrupt):
            short(images, folder=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    message = "holds a run already .*resume=True goes on with it, and overwrite=True replaces it"
    with pytest.raises(FileExistsError, match=message):
        short(images, folder=tmp_path, lr=1e-4)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before

    finished = short(images, folder=tmp_path, record={"resume": True})
    with pytest.raises(FileExistsError, match=r"holds a run already \(run\.json\)"):
        short(images, folder=tmp_path)
    assert_same_run(Run.load(tmp_path), finished)


@pytest.mark.parametrize("by", ["fit", "an earlier version"])
def test_a_finished_run_is_opened_into_the_model_when_it_is_to_go_on(
    by, images, tmp_path, monkeypatch
):
    with monkeypatch.context() as patches:
        if by == "an earlier version":  # which kept the checkpoint
            patches.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        whole = short(images, folder=tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() == (by == "an earlier version")
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}

    monkeypatch.setattr(VQVAESession, "advance", lambda session: pytest.fail("it trains"))
    network = VQVAE(1, QUANTIZERS["samp"](16, 4), hidden=8, residual_hidden=4)
    again = short(images, network=network, folder=tmp_path, record={"resume": True})
    assert again.model is network
    assert_same_run(again, whole)
    assert not network.training
    assert network.quantizer.samp == SAMP.for_run(12)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files


def test_a_run_that_is_finished_by_another_process_meanwhile_is_opened(
    images, tmp_path, monkeypatch
):
    with monkeypatch.context() as patches:
        interrupt_at(7, patches)
        with pytest.raises(KeyboardInterrupt):
            short(images, folder=tmp_path)
    load = training.load_checkpoint

    def too_late(path, settings):
        monkeypatch.setattr(training, "load_checkpoint", load)
        short(images, folder=tmp_path, record={"resume": True})
        return load(path, settings)

    monkeypatch.setattr(training, "load_checkpoint", too_late)
    assert_same_run(short(images, folder=tmp_path, record={"resume": True}), short(images))


def test_a_run_that_replaces_another_is_unfinished_until_it_ends(images, tmp_path, monkeypatch):
    short(images, folder=tmp_path)
    with monkeypatch.context() as patches:
        interrupt_at(5, patches)
        with pytest.raises(KeyboardInterrupt):
            short(images, seed=1, folder=tmp_path, record={"overwrite": True})
    assert not (tmp_path / "run.json").exists()
    short(images, seed=1, folder=tmp_path, record={"resume": True})
    assert_same_run(Run.load(tmp_path), short(images, seed=1))


def test_a_run_of_other_settings_that_was_finished_meanwhile_is_not_taken_for_this_one(
    images, tmp_path, monkeypatch
):
    settle = VQVAESession.settle

    def too_late(session):
        monkeypatch.setattr(VQVAESession, "settle", settle)
        short(images, seed=1, folder=tmp_path, record={"overwrite": True})
        settle(session)

    monkeypatch.setattr(VQVAESession, "settle", too_late)
    with pytest.raises(ValueError, match=r"belongs to other settings .seed was 1 and is now 0"):
        short(images, folder=tmp_path, record={"overwrite": True})
    assert_same_run(Run.load(tmp_path), short(images, seed=1))


def test_a_model_in_the_folder_is_not_replaced_by_accident(images, tmp_path):
    model().save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    message = r"holds a model already .config\.json and model\.safetensors.; overwrite=True"
    with pytest.raises(FileExistsError, match=message):
        short(images, folder=tmp_path, record={"resume": True})
    with pytest.raises(FileExistsError, match=message):
        short(images, folder=tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    run = short(images, folder=tmp_path, record={"overwrite": True})
    assert_same_run(Run.load(tmp_path), run)


def test_the_same_images_under_another_name_are_those_of_the_run(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        interrupt_at(5, patches)
        with pytest.raises(KeyboardInterrupt):
            short(dataclasses.replace(images, name="folder:a"), folder=tmp_path)
    moved = dataclasses.replace(images, name="folder:/elsewhere/a")
    run = short(moved, folder=tmp_path, record={"resume": True})
    assert_same_weights(run.model, short(images).model)
    again = short(images, folder=tmp_path, record={"resume": True})
    assert_same_weights(again.model, run.model)


def test_validation_takes_images_from_all_over_the_split(images):
    dark = torch.zeros(300, 1, 8, 8, dtype=torch.uint8)
    light = torch.randint(0, 256, dark.shape, dtype=torch.uint8)
    sorted_by_class = ImageSplit(torch.cat([dark, light]), torch.arange(600) // 300)
    data = dataclasses.replace(images, validation=sorted_by_class)
    run = short(data)
    some = sorted_by_class.select(slice(None, None, 3))
    assert run.history.validation_psnr.iloc[-1] == evaluate(run.model, some)["psnr"]


def test_the_home_folder_is_found_in_the_name_of_a_folder(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    short(images, folder="~/runs/one")
    assert (tmp_path / "runs" / "one" / "run.json").is_file()


def test_a_signal_during_the_last_checkpoint_is_not_lost(images, tmp_path, monkeypatch):
    save = training.save_checkpoint

    def save_and_signal(path, state):
        save(path, state)
        if state["step"] == 12:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training, "save_checkpoint", save_and_signal)
    with pytest.raises(KeyboardInterrupt, match="asked to end; the run is saved in"):
        short(images, folder=tmp_path)
    monkeypatch.undo()
    assert_same_run(Run.load(tmp_path), short(images))


def test_without_quantization_a_model_that_was_frozen_and_unfrozen_is_trained(images):
    network = model("continuous")
    network.requires_grad_(False)
    network.requires_grad_(True)
    assert_same_run(short(images, network=network), short(images, "continuous"))


@pytest.mark.parametrize("kind", ["samp", "ema", "continuous"])
def test_a_run_goes_on_only_with_the_same_parts_frozen(kind, images, tmp_path, monkeypatch):
    def part_of(frozen):
        net = model(kind)
        if frozen:
            net.quantizer.freeze()
            net.encoder.requires_grad_(False)
        return net

    def go(frozen, **record):
        return short(images, network=part_of(frozen), folder=tmp_path, record=record)

    with monkeypatch.context() as patches:
        interrupt_at(7, patches)
        with pytest.raises(KeyboardInterrupt):
            go(frozen=True)
    for _ in ("from the checkpoint", "as a finished run"):
        with pytest.raises(ValueError, match=r"belongs to other settings .*frozen"):
            go(frozen=False, resume=True)
        resumed = go(frozen=True, resume=True)
    assert_same_weights(resumed.model.encoder, model(kind).encoder)


def test_a_model_with_nothing_for_the_optimizer_is_refused(images, tmp_path):
    net = model("ema")
    net.encoder.requires_grad_(False)
    net.decoder.requires_grad_(False)
    for _ in range(2):
        with pytest.raises(ValueError, match="no parameter of the VQVAE is left to the optimizer"):
            short(images, network=net, folder=tmp_path)
        net.quantizer.freeze()


@pytest.mark.parametrize("kind", ["samp", "ema"])
def test_no_checkpoint_has_weights_that_are_not_finite(kind, images, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    record = {"log_every": 12, "validate_every": 12}
    whole = short(images, kind, record=record)
    with monkeypatch.context() as patches:
        diverge_at(6, patches)
        with pytest.raises(FloatingPointError):
            short(images, kind, folder=tmp_path, record=record)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 5
    assert_same_run(whole, short(images, kind, folder=tmp_path, record={**record, "resume": True}))


def test_an_interrupted_run_that_diverged_says_where_it_goes_back_to(images, tmp_path, monkeypatch):
    diverge_at(7, monkeypatch)
    interrupt_at(7, monkeypatch)
    message = "stopped at step 7 of 12, where weights are .* goes back to step 4, which is saved in"
    with pytest.raises(KeyboardInterrupt, match=message):
        short(images, folder=tmp_path, record={"log_every": 4})


def test_ctrl_c_without_a_folder_says_that_nothing_is_kept(images, monkeypatch):
    interrupt_at(3, monkeypatch)
    message = "stopped at step 3 of 12, not saved without a folder"
    with pytest.raises(KeyboardInterrupt, match=message):
        short(images)


def test_the_callers_generator_is_left_alone_and_the_seed_decides(images):
    untrained = model()
    state = torch.get_rng_state()
    fit(untrained, images, steps=12, batch_size=8, compute=CPU, recording=recording())
    assert torch.equal(state, torch.get_rng_state())
    one, two, other = [short(images, seed=seed).model.quantizer.codebook for seed in (1, 1, 2)]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_each_epoch_sees_each_image_once():
    epochs = torch.stack([batch_indices(20, 4, seed=0, step=step) for step in range(10)])
    first, second = epochs.reshape(2, 20)
    assert sorted(second.tolist()) == list(range(20))
    assert not torch.equal(first, second)
    assert len(batch_indices(10, 4, seed=0, step=2)) == 4, "the incomplete batch is dropped"


def test_saved_run_opens_again(images, tmp_path):
    run = short(images, folder=tmp_path)
    opened = Run.load(tmp_path)
    assert_same_run(opened, run)
    assert opened.settings == run.settings
    assert opened.seconds == run.seconds
    assert len({run, run, opened}) == 2


def test_the_history_in_a_folder_is_what_pandas_reads_there(images, tmp_path):
    short(images, folder=tmp_path)
    read = pd.read_csv(tmp_path / "history.csv")
    pd.testing.assert_frame_equal(Run.load(tmp_path).history, read)
    assert read["codes_used"].dtype == "int64"
    assert list(read)[:3] == ["step", "loss", "reconstruction"]


def test_training_and_saving_work_without_pandas(tmp_path):
    script = f"""
import sys
sys.modules["pandas"] = None
from arcvq.training import Compute, Recording, Run, fit
from tests.strokes import IMAGES, SMALL
recording = Recording({str(tmp_path)!r}, progress=False)
fit(SMALL.model(IMAGES), IMAGES, steps=4, batch_size=8, compute=Compute("cpu"), recording=recording)
Run.load({str(tmp_path)!r}).history
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pandas is not installed; it comes with pip install 'arcvq[kit]'" in done.stderr
    assert len(Run.load(tmp_path).history) == 4


def test_evaluation_is_the_formula_over_all_pixels(images):
    net = model().train()
    measures = evaluate(net, images.test, batch_size=5, ssim=False)
    pixels = images.test.batch(torch.arange(16))
    error = (net.reconstruct(pixels).double() - pixels).square().mean().item()
    indices = net.encode(pixels)
    assert measures["psnr"] == pytest.approx(10 * math.log10(4 / error), abs=1e-5)
    assert measures["tokens"] == indices.numel() == 64
    assert measures["perplexity_ceiling"] == 16
    assert measures["codes_used"] == len(indices.unique())
    assert net.training
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(net, images.test.first(0))
    with pytest.raises(ValueError, match="batch_size is 0; it must be a whole number from 1"):
        evaluate(net, images.test, batch_size=0)


def test_evaluation_takes_a_batch_size_of_numpy(images, unchecked):
    net = model()
    by_python = evaluate(net, images.test, batch_size=5)
    assert evaluate(net, images.test, batch_size=np.int64(5)) == by_python


def test_a_loss_that_is_not_finite_is_explained_and_the_checkpoint_survives(
    images, tmp_path, monkeypatch
):
    advance = VQVAESession.advance

    def diverging(session):
        if session.step == 6:
            session.model.encoder[0].weight.data.fill_(math.nan)
        advance(session)

    message = "at step 8 the loss is nan: 128 of 128 values of the latents"
    with monkeypatch.context() as patches, pytest.raises(FloatingPointError, match=message):
        patches.setattr(VQVAESession, "advance", diverging)
        short(images, folder=tmp_path)
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert resumed.model.encoder[0].weight.isfinite().all()


def test_a_step_that_spoils_the_weights_is_found_by_the_validation_after_it(
    images, tmp_path, monkeypatch
):
    advance = VQVAESession.advance

    def diverging(session):
        advance(session)
        if session.step == 8:
            session.model.decoder[-1].bias.data.fill_(math.nan)

    message = "in the validation at step 8, 1024 of 1024 values of the reconstruction are NaN"
    with monkeypatch.context() as patches, pytest.raises(FloatingPointError, match=message):
        patches.setattr(VQVAESession, "advance", diverging)
        short(images, folder=tmp_path)
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert_same_weights(resumed.model, short(images).model)


@pytest.mark.parametrize("protocol", ["tensors", "authors"])
def test_a_model_that_computes_nan_gets_no_psnr(images, protocol):
    net = model()
    net.decoder[-1].bias.data.fill_(math.nan)
    message = "1024 of 1024 values of the reconstruction are NaN or infinite; all must be finite"
    with pytest.raises(ValueError, match=message):
        evaluate(net, images.test, protocol=protocol)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_every_part_that_training_reads_is_checked_before_the_run(images, part, tmp_path):
    colored = ImageSplit(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), torch.zeros(16).long())
    for split, message in (
        (images.test.first(0), f"stripes has no images for {part}; it needs at least one"),
        (colored, r"images have shape \(1, 3, 8, 8\); they must be \(B, 1, H, W\)"),
    ):
        with pytest.raises(ValueError, match=message):
            short(dataclasses.replace(images, **{part: split}), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_a_single_value_are_refused_before_the_run(images, tmp_path):
    black = ImageSplit(torch.zeros(16, 1, 8, 8, dtype=torch.uint8), torch.zeros(16).long())
    with pytest.raises(ValueError, match="every pixel of 16 training images of stripes is 0, so"):
        short(dataclasses.replace(images, train=black), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_the_earlier_checkpoint(images, tmp_path, monkeypatch):
    save = torch.save
    calls = []

    def full(state, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    with monkeypatch.context() as patches:
        patches.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"No space left.*the earlier file is kept"):
            short(images, folder=tmp_path)
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert_same_weights(resumed.model, short(images).model)


def test_resuming_with_other_settings_is_refused(images, tmp_path):
    short(images, folder=tmp_path)
    with pytest.raises(ValueError, match=r"lr was 0\.001 and is now 0\.5"):
        short(images, folder=tmp_path, record={"resume": True}, lr=0.5)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_a_run_in_any_precision_is_saved_as_it_is_handed_over(images, tmp_path, precision):
    network = model().to(precision)
    run = short(images, network=network, folder=tmp_path)
    assert {weight.dtype for weight in network.parameters()} == {precision}
    resumed = short(images, network=model().to(precision), folder=tmp_path, record={"resume": True})
    assert_same_weights(resumed.model, run.model)
    saved = Run.load(tmp_path).model.state_dict()
    for name, weight in run.model.state_dict().items():
        assert torch.equal(saved[name], weight.to(saved[name].dtype)), name


def test_a_model_is_measured_in_its_own_precision(images):
    network = model().bfloat16().eval()
    batch = images.test.batch(torch.arange(len(images.test)))
    error = (network.reconstruct(batch).double() - batch.double()).abs().mean().item()
    assert evaluate(network, images.test)["l1"] == pytest.approx(error, rel=1e-6)
    assert evaluate(network.float(), images.test)["l1"] != pytest.approx(error, rel=1e-6)


def test_bfloat16_training_keeps_the_quantizer_in_float32(images):
    run = short(images, compute=Compute("cpu", "bfloat16"))
    assert run.settings["precision"] == "bfloat16"
    assert run.history["loss"].notna().all()
    assert run.model.quantizer.codebook.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 65}, "batch_size is 65; it must be at most 64, the training images"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"compute": Compute("cpu", "half")}, "precision 'half'"),
        ({"compute": Compute("abacus")}, "device 'abacus'"),
        ({"record": {"resume": True}}, "resume is True but folder is None"),
        ({"record": {"snapshots": 0}}, "snapshots is 0"),
        ({"record": {"log_every": -1}}, "log_every is -1"),
        ({"record": {"log_every": 0}}, "log_every is 0; it must be a whole number from 1"),
        ({"record": {"validate_every": 0}}, "validate_every is 0"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number from 0 to 4,294,967,295"),
        ({"seed": 2**62}, "seed is 4611686018427387904; it must be a whole number from 0"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        (
            {"compute": Compute("cpu", cuda_graph=True)},
            "cuda_graph is True on cpu with 1 processes; it needs CUDA and one process",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(change, message, images, unchecked):
    untrained = model()
    before = all_of(untrained)
    with pytest.raises(ValueError, match=message):
        short(images, network=untrained, **change)
    assert_unchanged(untrained, before)


def all_of(module):
    """Copies of all that a model or a prior holds, also of what is not saved, and its config."""
    tensors = module.state_dict() | dict(module.named_buffers())
    return {name: tensor.clone() for name, tensor in tensors.items()}, module.config()


def assert_unchanged(module, before):
    tensors, config = all_of(module)
    assert config == before[1]
    assert tensors.keys() == before[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[0][name]), name


def stop_at_once(folder, images, **changes):
    """A run of another model, of which only a checkpoint is left."""
    short(images, folder=folder, record={"on_log": lambda run: True}, **changes)


def damage(folder, change):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "checkpoint.pt")


def lose_the_optimizer(state):
    del state["optimizer"]


def lose_a_weight(state):
    del state["model"]["decoder.0.weight"]


def hold_a_finished_run(folder, images):
    short(images, folder=folder)


def hold_a_checkpoint(folder, images):
    stop_at_once(folder, images)


def hold_a_checkpoint_without_optimizer(folder, images):
    stop_at_once(folder, images)
    damage(folder, lose_the_optimizer)


def hold_a_checkpoint_without_a_weight(folder, images):
    stop_at_once(folder, images)
    damage(folder, lose_a_weight)


def hold_half_a_checkpoint(folder, images):
    stop_at_once(folder, images)
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])


def be_a_file(folder, images):
    folder.write_text("")


REFUSALS = [
    (hold_a_finished_run, {}, {}, "holds a run already"),
    (hold_a_checkpoint, {}, {}, "holds a run already"),
    (hold_a_finished_run, {"resume": True}, {"lr": 0.5}, "lr was 0.001 and is now 0.5"),
    (hold_a_checkpoint, {"resume": True}, {"lr": 0.5}, "lr was 0.001 and is now 0.5"),
    (hold_a_checkpoint, {"resume": True}, {"steps": 7}, "steps was 12 and is now 7"),
    (hold_half_a_checkpoint, {"resume": True}, {}, "is damaged"),
    (hold_a_checkpoint_without_optimizer, {"resume": True}, {}, "is damaged"),
    (hold_a_checkpoint_without_a_weight, {"resume": True}, {}, "is damaged"),
    (be_a_file, {}, {}, "cannot be written"),
    (be_a_file, {"overwrite": True}, {}, "cannot be written"),
    (lambda folder, images: None, {}, {"schedule": "resume"}, "schedule is 'resume'"),
]


@pytest.mark.parametrize(("prepare", "record", "changes", "message"), REFUSALS)
def test_a_run_that_is_refused_leaves_the_model_as_it_was(
    prepare, record, changes, message, images, tmp_path
):
    folder = tmp_path / "run"
    prepare(folder, images)
    trained = short(images, steps=8).model.train()
    trained(images.train.batch(torch.arange(8)))  # not yet followed by `after_step`
    before = all_of(trained)
    with pytest.raises((ValueError, OSError), match=message):
        short(images, network=trained, folder=folder, record=record, **changes)
    assert_unchanged(trained, before)
    assert trained.training
    assert trained.quantizer.pending


def test_images_of_another_kind_are_refused(images, unchecked):
    colored = VQVAE(3, QUANTIZERS["samp"](4, 2), hidden=8)
    with pytest.raises(ValueError, match=r"they must be \(B, 3, H, W\)"):
        fit(colored, images, steps=1, batch_size=8, compute=CPU)


def test_the_listener_gets_the_run_so_far_after_each_row(images):
    seen = []
    run = short(images, record={"on_log": seen.append})
    assert [len(one.history) for one in seen] == list(range(1, len(run.history) + 1))
    for one in seen:
        same = run.history.loc[: len(one.history) - 1, one.history.columns]
        pd.testing.assert_frame_equal(one.history, same, check_dtype=False)
        assert one.model is run.model
        assert one.settings == run.settings
        last = one.history["step"].iloc[-1]
        assert list(one.snapshots) == [step for step in (0, 4, 8, 12) if step <= last]


def test_a_run_that_the_listener_ends_is_a_checkpoint_and_resumes_to_the_same_bits(
    images, tmp_path
):
    third_row = {"on_log": lambda run: len(run.history) == 3}
    stopped = short(images, folder=tmp_path, record=third_row)
    assert stopped.history["step"].tolist() == [2, 4, 6]
    assert not stopped.model.training
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "run.json").exists()
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert_same_run(short(images), resumed)
    assert len(Run.load(tmp_path).history) == len(resumed.history)


def ended_at_the_third_row(images, folder):
    third_row = {"on_log": lambda run: len(run.history) == 3}
    return short(images, folder=folder, record=third_row)


def test_a_run_that_the_listener_ends_goes_on_although_it_was_saved_in_its_folder(
    images, tmp_path, monkeypatch
):
    ended_at_the_third_row(images, tmp_path).save(tmp_path)
    assert Run.load(tmp_path).history["step"].tolist() == [2, 4, 6]
    with monkeypatch.context() as patches:  # it is left as it is until the run ends
        interrupt_at(7, patches)
        with pytest.raises(KeyboardInterrupt):
            short(images, folder=tmp_path, record={"resume": True})
    assert Run.load(tmp_path).history["step"].tolist() == [2, 4, 6]
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert_same_run(resumed, short(images))
    assert_same_run(Run.load(tmp_path), resumed)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_that_was_saved_before_its_end_elsewhere_is_refused_and_kept(images, tmp_path):
    ended = ended_at_the_third_row(images, tmp_path / "run")
    ended.save(tmp_path / "kept")
    message = "holds a run that was saved before its end, without the checkpoint to go on from; ov"
    with pytest.raises(FileExistsError, match=message):
        short(images, folder=tmp_path / "kept", record={"resume": True})
    assert_same_run(Run.load(tmp_path / "kept"), ended)
    anew = short(images, folder=tmp_path / "kept", record={"overwrite": True})
    assert_same_run(anew, short(images))


def test_a_run_that_is_ended_at_its_last_row_is_finished(images, tmp_path):
    at_the_end = {"on_log": lambda run: run.history["step"].iloc[-1] == 12}
    short(images, folder=tmp_path, record=at_the_end)
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize("kind", ["samp", "ema", "cvq"])
def test_what_a_listener_looks_at_and_draws_changes_no_training(kind, images):
    def look(run):
        assert not run.model.training
        run.model(images.test.batch(torch.arange(16)))
        torch.rand(3)

    watched = short(images, kind, record={"on_log": look})
    assert_same_run(watched, short(images, kind))


def test_an_error_of_the_listener_is_raised(images):
    with pytest.raises(ZeroDivisionError):
        short(images, record={"on_log": lambda run: 1 / 0})


class NoReading(TorchDispatchMode):
    """Fails where a value of a tensor is read, for which a GPU would make the host wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_a_step_reads_no_value_of_the_device(kind, images):
    optimization = Optimization(steps=12, batch_size=8, lr=1e-3, seed=0)
    session = VQVAESession(model(kind), images, optimization, CPU, recording())
    with NoReading():
        session.advance()
        session.advance()


def test_large_images_are_evaluated_a_few_at_a_time_with_the_same_result(images, monkeypatch):
    split = images.test
    net = model("samp")
    whole = evaluate(net, split, batch_size=len(split))
    monkeypatch.setattr(image_data, "BATCH_VALUES", 3 * split.images[0].numel())
    batches = []
    net.encoder.register_forward_hook(lambda module, given, output: batches.append(len(given[0])))
    assert evaluate(net, split) == pytest.approx(whole)
    assert max(batches) == 3
    assert sum(batches) == len(split)


def test_evaluation_by_the_authors_protocol_has_their_measures_of_all_images():
    pixels = torch.randint(0, 256, (9, 1, 12, 12), dtype=torch.uint8)
    split = ImageSplit(pixels, torch.zeros(9, dtype=torch.int64))
    model = VQVAE(1, QUANTIZERS["cosine"](8, 4), hidden=8, residual_hidden=4).eval()
    images = split.batch(torch.arange(9))
    expected = authors_measures(model.reconstruct(images), images)
    found = evaluate(model, split, batch_size=4, protocol="authors")
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-4)
    assert found["ssim"] == pytest.approx(expected["ssim"], abs=1e-4)
    assert found["l1"] == evaluate(model, split, batch_size=4)["l1"]
    with pytest.raises(ValueError, match="protocol is 'jpeg'; it must be 'tensors' or 'authors'"):
        evaluate(model, split, protocol="jpeg")


def test_evaluation_leaves_every_module_in_the_mode_in_which_it_came(images):
    trained = model().train()
    trained.encoder.eval()
    before = [part.training for part in trained.modules()]
    evaluate(trained, images.validation)
    assert [part.training for part in trained.modules()] == before
    broken = ImageSplit(images.validation.images[:, :, :5], images.validation.labels)
    with pytest.raises(ValueError):
        evaluate(trained, broken)
    assert [part.training for part in trained.modules()] == before


def test_a_run_that_another_process_has_finished_meanwhile_is_left_as_it_is(
    images, tmp_path, monkeypatch
):
    """Its files may be being opened."""
    settle = VQVAESession.settle
    times = []

    def finished_meanwhile(session):
        settle(session)
        session.run().save(tmp_path)
        times.append((tmp_path / "run.json").stat().st_mtime_ns)

    monkeypatch.setattr(VQVAESession, "settle", finished_meanwhile)
    short(images, folder=tmp_path)
    assert times == [(tmp_path / "run.json").stat().st_mtime_ns]


def test_the_epochs_of_one_seed_are_not_those_of_the_next():
    second_epoch = batch_indices(64, 64, seed=0, step=1)
    assert not torch.equal(second_epoch, batch_indices(64, 64, seed=1, step=0))


def test_a_batch_may_be_all_images(images):
    assert len(short(images, steps=2, batch_size=64).history) == 1


def test_the_seconds_of_a_run_are_those_of_all_sessions(images, tmp_path):
    def wait_and_end(run):
        time.sleep(0.5)
        return True

    short(images, folder=tmp_path, record={"on_log": wait_and_end})
    began = time.perf_counter()
    resumed = short(images, folder=tmp_path, record={"resume": True})
    assert resumed.seconds > 0.5
    assert resumed.seconds > time.perf_counter() - began


def test_a_run_that_the_listener_ends_loses_no_step(images, tmp_path):
    short(images, folder=tmp_path, record={"on_log": lambda run: len(run.rows) == 3})
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=False)["step"] == 6


def test_codes_are_counted_since_the_row_before(images):
    run = short(images)  # two steps of eight images with four latents each a row
    assert [int(run.snapshots[step].counts.sum()) for step in (4, 8, 12)] == [64, 64, 64]


def test_errors_are_those_of_images_that_are_clipped(images):
    net = model().eval()
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.mul_(5)
        pixels = images.test.batch(torch.arange(16))
        rebuilt = net(pixels).reconstruction
    assert rebuilt.abs().max() > 1
    error = (rebuilt.clamp(-1, 1).double() - pixels).square().mean().item()
    found = evaluate(net, images.test)["psnr"]
    assert found == pytest.approx(10 * math.log10(4 / error), abs=1e-4)


def test_the_seed_decides_what_is_drawn_while_training(images):
    drawn = []
    for seed in (1, 1, 2):
        short(images, seed=seed, record={"on_log": lambda run: drawn.append(torch.rand(()).item())})
    one, two, other = drawn[:6], drawn[6:12], drawn[12:]
    assert one == two
    assert not set(one) & set(other)


def test_evaluation_of_a_model_in_training_counts_nothing(images):
    net = model().train()
    evaluate(net, images.test)
    assert not net.quantizer.counts.any()
    assert not net.quantizer.pending
