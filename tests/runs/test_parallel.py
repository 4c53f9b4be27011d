import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from arcvq.runs import parallel, settings
from arcvq.runs.parallel import train_as_completed, train_many
from arcvq.runs.settings import train
from arcvq.samp import SAMP
from tests.strokes import IMAGES, SMALL

SETTINGS = [SMALL, dataclasses.replace(SMALL, seed=1), dataclasses.replace(SMALL, quantizer="cosine"),
            dataclasses.replace(SMALL, samp=SAMP(margin=0.3))]


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def equal(one, other):
    return torch.allclose(weights(one), weights(other), rtol=1e-5, atol=1e-6)


def test_each_run_is_what_it_is_alone_in_the_order_of_the_settings(tmp_path):
    found = train_many(SETTINGS, IMAGES, root=tmp_path / "many", device="cpu", workers=2, progress=False)
    assert [run.settings["model"]["quantizer"]["kind"] for run in found] == [
        "SphericalQuantizer", "SphericalQuantizer", "CosineQuantizer", "SphericalQuantizer"]
    for one, run in zip(SETTINGS, found, strict=True):
        assert equal(run, train(one, IMAGES, root=tmp_path / "alone", device="cpu", progress=False))
    assert not equal(found[0], found[1])


def test_what_was_trained_is_opened_and_no_process_started(tmp_path, monkeypatch):
    first = train_many(SETTINGS[:2], IMAGES, root=tmp_path, device="cpu", workers=1, progress=False)
    monkeypatch.setattr(settings, "fit", None)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)
    again = train_many(SETTINGS[:2], IMAGES, root=tmp_path, device="cpu", workers=2, progress=False)
    assert all(map(equal, first, again))


def test_settings_given_twice_are_trained_once(tmp_path):
    first, second = train_many([SMALL, SMALL], IMAGES, root=tmp_path, device="cpu", progress=False)
    assert first is second and len([*(tmp_path / "runs").iterdir()]) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_named_after_the_others_have_finished(tmp_path, workers):
    wrong = dataclasses.replace(SMALL, batch_size=999)
    with pytest.raises(RuntimeError, match="1 of 3 runs failed, the others are kept; the run with batch_size=999, "
                                           "seed=0: batch_size is 999; it must be at most 32"):
        train_many([SMALL, wrong, SETTINGS[1]], IMAGES, root=tmp_path, device="cpu", workers=workers, progress=False)
    assert len([*(tmp_path / "runs").glob("*/run.json")]) == 2


def test_no_workers_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        train_many([SMALL], IMAGES, root=tmp_path, workers=0)
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_runs_come_train_as_completed_beside_one_thread_and_an_early_end_stops_the_rest(tmp_path, two_threads):
    long = [dataclasses.replace(SMALL, steps=100_000, seed=seed) for seed in (1, 2)]
    finished = train_as_completed([SMALL, *long], IMAGES, root=tmp_path, device="cpu", workers=2, progress=False)
    first, _ = next(finished)
    began = time.monotonic()
    assert torch.get_num_threads() == 1
    finished.close()
    assert first == SMALL and time.monotonic() - began < 30 and torch.get_num_threads() == 2
    assert len([*(tmp_path / "runs").glob("*/run.json")]) == 1


SCRIPT = """
import dataclasses, sys
sys.path.insert(0, {checkout!r})
from pathlib import Path
from arcvq.runs.parallel import train_many
from tests.strokes import IMAGES, SMALL

if __name__ == "__main__":
    long = [dataclasses.replace(SMALL, steps=1_000_000, seed=seed) for seed in range(1, 4)]
    train_many([SMALL, *long], IMAGES, root=Path({root!r}), device="cpu", workers=2, progress=False)
"""


def processes(folder):
    # The workers' command lines hold the search path of modules, and so the folder of the script.
    return subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_no_worker_outlives_the_program_and_what_was_finished_is_kept(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(checkout=str(Path(__file__).parents[2]), root=str(tmp_path)))
    command = [sys.executable, str(script)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not [*(tmp_path / "runs").glob("*/run.json")] or len([*(tmp_path / "runs").glob("*/checkpoint.pt")]) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    assert len(processes(tmp_path)) >= 3  # the program and two workers
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    deadline = time.monotonic() + 10
    while alive := processes(tmp_path):
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
    assert len([*(tmp_path / "runs").glob("*/run.json")]) == 1


def test_ray_gives_the_runs_that_this_machine_gives(tmp_path):
    pytest.importorskip("ray")
    found = train_many(SETTINGS[:2], IMAGES, root=tmp_path / "ray", device="cpu", ray="local", progress=False)
    for one, run in zip(SETTINGS, found, strict=False):
        assert equal(run, train(one, IMAGES, root=tmp_path / "alone", device="cpu", progress=False))
    assert len([*(tmp_path / "ray" / "runs").glob("*/run.json")]) == 2
    import ray

    assert not ray.is_initialized()


def test_a_missing_ray_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"ray is not installed; it comes with pip install 'arcvq\[ray\]'"):
        train_many([SMALL], IMAGES, root=tmp_path, device="cpu", ray="local", progress=False)


def test_every_gpu_gets_several_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    places = [str(place) for place in parallel.places_of(torch.device("cuda"))]
    assert places[:2] == ["cuda:0", "cuda:1"] and len(places) == 2 * parallel.RUNS_PER_GPU
    assert {str(place) for place in parallel.places_of(torch.device("cuda", 1))} == {"cuda:1"}
