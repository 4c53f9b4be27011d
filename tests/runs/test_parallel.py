import dataclasses
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from arcvq.image_folders import Reading
from arcvq.runs import parallel, settings
from arcvq.runs.parallel import RUNS_PER_GPU, places_of, train_as_completed, train_many
from arcvq.runs.settings import train
from arcvq.samp import SAMP
from tests.runs.deadly import Deadly
from tests.strokes import IMAGES, SMALL, write_folder

SETTINGS = [
    SMALL,
    dataclasses.replace(SMALL, seed=1),
    dataclasses.replace(SMALL, quantizer="cosine"),
    dataclasses.replace(SMALL, samp=SAMP(margin=0.3)),
]
OPTIONS = {"device": "cpu", "progress": False}


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def assert_equal(one, other):
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-5, atol=1e-6)


def finished(root):
    return list((root / "runs").glob("*/run.json"))


def test_each_run_is_what_it_is_alone_in_the_order_of_the_settings(tmp_path):
    runs = train_many(SETTINGS, IMAGES, root=tmp_path / "many", workers=2, **OPTIONS)
    kinds = [run.settings["model"]["quantizer"]["kind"] for run in runs]
    assert kinds == [*["SphericalQuantizer"] * 2, "CosineQuantizer", "SphericalQuantizer"]
    for one, run in zip(SETTINGS, runs, strict=True):
        assert_equal(run, train(one, IMAGES, root=tmp_path / "alone", **OPTIONS))
    assert not torch.allclose(weights(runs[0]), weights(runs[1]))


def test_what_was_trained_is_opened_and_no_process_started(tmp_path, monkeypatch):
    runs = train_many(SETTINGS[:2], IMAGES, root=tmp_path, workers=1, **OPTIONS)
    monkeypatch.setattr(settings, "fit", None)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)
    opened = train_many(SETTINGS[:2], IMAGES, root=tmp_path, workers=2, **OPTIONS)
    for one, other in zip(runs, opened, strict=True):
        assert_equal(one, other)


def test_settings_given_twice_are_trained_once(tmp_path):
    first, second = train_many([SMALL, SMALL], IMAGES, root=tmp_path, **OPTIONS)
    assert first is second
    assert len(finished(tmp_path)) == 1


def test_each_run_trains_on_its_folder_as_its_own_reading_says(tmp_path):
    dataset = write_folder(tmp_path / "pictures")
    one = dataclasses.replace(SMALL, dataset=dataset, reading=Reading(size=8))
    other = dataclasses.replace(one, reading=Reading(size=16, grey=True))
    runs = train_many([one, other], root=tmp_path / "many", workers=1, **OPTIONS)
    assert [run.model.image_channels for run in runs] == [3, 1]
    for settings_of_run, run in zip([one, other], runs, strict=True):
        assert_equal(run, train(settings_of_run, root=tmp_path / "alone", **OPTIONS))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_named_after_the_others_have_finished(tmp_path, workers):
    wild = dataclasses.replace(SMALL, lr=1e30)
    message = (
        r"1 of 3 runs failed, the others are kept; the run with lr=1e\+30, seed=0: "
        "at step 2 .* NaN or infinite"
    )
    three = [SMALL, wild, SETTINGS[1]]
    with pytest.raises(RuntimeError, match=message):
        train_many(three, IMAGES, root=tmp_path, workers=workers, **OPTIONS)
    assert len(finished(tmp_path)) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes")
def test_a_killed_worker_fails_its_own_run_alone_after_a_second_try(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    forkserver._forkserver._stop()  # one that is there already has the environment of its start
    once = Deadly(**vars(SMALL) | {"seed": 2}, kills=1, scars=tmp_path / "once")
    always = Deadly(**vars(SMALL) | {"seed": 3}, kills=9, scars=tmp_path / "always")
    four = [always, once, *SETTINGS[:2]]
    outcomes = dict(train_as_completed(four, IMAGES, root=tmp_path, workers=2, **OPTIONS))
    assert len(finished(tmp_path)) == 3
    assert "its process was ended twice from outside" in str(outcomes[always])
    policies = [scar.read_text() for scar in always.scars.iterdir()]
    assert policies == ["PASSIVE", "PASSIVE"], "it was tried twice, and its threads sleep"
    assert "OMP_WAIT_POLICY" not in os.environ
    assert_equal(outcomes[once], train(once, IMAGES, root=tmp_path / "alone", **OPTIONS))
    assert_equal(outcomes[SMALL], train(SMALL, IMAGES, root=tmp_path / "alone", **OPTIONS))


def test_no_workers_and_workers_beside_ray_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="workers is 0; it must be a whole number from 1"):
        train_many([SMALL], IMAGES, root=tmp_path, workers=0)
    message = "workers is 2 and ray is 'local'; .* so give one of the two"
    with pytest.raises(ValueError, match=message):
        train_many([SMALL], IMAGES, root=tmp_path, workers=2, ray="local")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 33}, "batch_size is 33; it must be at most 32, the training images"),
        ({"train_images": 7}, "batch_size is 8; it must be at most 7, the training images"),
        ({"train_images": 33}, "train_images is 33; it must be a whole number from 1 to 32"),
    ],
)
def test_too_few_images_for_a_run_are_told_before_any_run_is_trained(tmp_path, change, message):
    greedy = dataclasses.replace(SMALL, **change)
    with pytest.raises(ValueError, match=message):
        train_many([SMALL, greedy], IMAGES, root=tmp_path, workers=1, **OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_runs_come_as_they_are_finished_and_closing_stops_the_rest(tmp_path, two_threads):
    long = [dataclasses.replace(SMALL, steps=100_000, seed=seed) for seed in (1, 2)]
    runs = train_as_completed([SMALL, *long], IMAGES, root=tmp_path, workers=2, **OPTIONS)
    first, _ = next(runs)
    assert first == SMALL
    assert torch.get_num_threads() == 1, "beside the workers this process takes one core"
    began = time.monotonic()
    runs.close()
    assert time.monotonic() - began < 30
    assert torch.get_num_threads() == 2
    assert len(finished(tmp_path)) == 1


SCRIPT = """
import dataclasses, sys
sys.path.insert(0, {checkout!r})
from pathlib import Path
from arcvq.runs.parallel import train_many
from tests.strokes import IMAGES, SMALL

if __name__ == "__main__":
    long = [dataclasses.replace(SMALL, steps=1_000_000, seed=seed) for seed in range(1, 4)]
    train_many(
        [SMALL, *long], IMAGES, root=Path({root!r}), device="cpu", workers=2, progress=False
    )
"""


def processes(folder):
    # The workers' command lines hold the search path of modules, and so the folder of the script.
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True)
    return found.stdout.split()


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends signals")
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
    ids=lambda number: number.name,
)
def test_no_worker_outlives_the_program_and_what_was_finished_is_kept(tmp_path, number):
    def one_run_is_finished_and_two_go_on():
        assert program.poll() is None
        checkpoints = list((tmp_path / "runs").glob("*/checkpoint.pt"))
        return len(finished(tmp_path)) == 1 and len(checkpoints) == 2

    script = tmp_path / "script.py"
    checkout = Path(__file__).parents[2]
    script.write_text(SCRIPT.format(checkout=str(checkout), root=str(tmp_path)))
    command = [sys.executable, str(script)]
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(one_run_is_finished_and_two_go_on, seconds=60)
    assert len(processes(tmp_path)) >= 3, "the program and two workers"
    time.sleep(2)  # the two take some steps after their first checkpoint
    program.send_signal(number)
    assert program.wait(timeout=30) != 0
    wait_until(lambda: not processes(tmp_path), seconds=10)
    assert len(finished(tmp_path)) == 1
    for file in (tmp_path / "runs").glob("*/checkpoint.pt"):
        step = torch.load(file, weights_only=False)["step"]
        assert (step > 0) == (number != signal.SIGKILL), "a signal to end saves the steps"


def test_ray_gives_the_runs_that_this_machine_gives(tmp_path):
    ray = pytest.importorskip("ray")
    two = SETTINGS[:2]
    runs = train_many(two, IMAGES, root=tmp_path / "ray", ray="local", **OPTIONS)
    for one, run in zip(two, runs, strict=True):
        assert_equal(run, train(one, IMAGES, root=tmp_path / "alone", **OPTIONS))
    assert len(finished(tmp_path / "ray")) == 2
    assert not ray.is_initialized()


def test_a_missing_ray_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"ray is not installed; it comes with pip install 'arcvq\[ray\]'"
    with pytest.raises(ImportError, match=message):
        train_many([SMALL], IMAGES, root=tmp_path, ray="local", **OPTIONS)


def test_every_gpu_gets_several_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert places_of(torch.device("cuda")) == both * RUNS_PER_GPU
    assert places_of(both[1]) == [both[1]] * RUNS_PER_GPU
