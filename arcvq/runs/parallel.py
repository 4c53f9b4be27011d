"""Many training runs at once: a run on each core, some on each GPU, or on a Ray cluster."""

import dataclasses
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from arcvq.images import ImageData, load_images
from arcvq.runs.settings import RunSettings, run_folder, train
from arcvq.runtime.devices import choose_device, choose_precision, threads_kept
from arcvq.runtime.files import data_root, write_whole
from arcvq.training import Run

RUNS_PER_GPU = 4  # a small model leaves most of a GPU idle; not yet measured
Outcome = tuple[RunSettings, Exception | None]


def train_many(
    settings: Sequence[RunSettings],
    images: ImageData | None = None,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> list[Run]:
    """The runs of these settings, in their order, as `train` gives each alone with one thread, several at a time.

    images: the data of all of them; else each setting's `dataset` is loaded, once. Finished runs are kept under
    `root`/runs and only opened the next time. workers: processes, from 1; by default one for each core, or four for
    each GPU, over all GPUs. ray: the address of a Ray cluster, "auto", or "local" to start one here; its machines
    need arcvq but no common disk.

    When runs fail, the others still finish, and RuntimeError names the first that failed. Ctrl-C stops all workers;
    what they have done is kept. Raises ValueError for no workers, ImportError without ray where it is asked for. As
    with all processes of Python, a script calls this under `if __name__ == "__main__":`.
    """
    outcomes = train_as_completed(settings, images, root=root, device=device, workers=workers, ray=ray, progress=progress)
    runs = dict(without_failures(outcomes, settings))
    return [runs[one] for one in settings]


def train_as_completed(
    settings: Sequence[RunSettings],
    images: ImageData | None = None,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> Generator[tuple[RunSettings, Run | Exception]]:
    """What `train_many` gives, each run as soon as it is there, or why it failed; those trained before come first.

    While other processes train, this one computes with one thread.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    root, device = data_root(root), choose_device(device)
    names = {one.dataset for one in settings}
    data = {name: images.to("cpu") if images else load_images(name, root, "cpu") for name in names}
    unique = dict.fromkeys(settings)
    waiting = [one for one in unique if not (run_folder(one, data[one.dataset], root, device) / "run.json").is_file()]
    there = ((one, None) for one in unique if one not in waiting)
    # Closed at once where this ends early: a generator that an exception's traceback still holds would train on.
    with (closing(_outcomes(waiting, data, root, device, workers, ray)) as trained,
          tqdm(total=len(unique), desc="runs", unit="run", disable=not progress) as bar):
        for one, error in chain(there, trained):
            yield one, error or _opened(one, data[one.dataset], root, device)
            bar.update()


def _opened(settings: RunSettings, images: ImageData, root: Path, device: torch.device) -> Run | Exception:
    """The finished run, or why it cannot be opened."""
    try:
        return train(settings, images, root=root, device=device, progress=False)
    except Exception as error:
        return error


def without_failures(
    outcomes: Generator[tuple[RunSettings, Run | Exception]], settings: Sequence[RunSettings]
) -> Generator[tuple[RunSettings, Run]]:
    """The runs among these outcomes; then RuntimeError that names the first that failed, if one did."""
    failed, unique = [], set(settings)
    with closing(outcomes):
        for one, run in outcomes:
            if isinstance(run, Exception):
                failed.append((one, run))
            else:
                yield one, run
    if failed:
        one, error = failed[0]
        raise RuntimeError(f"{len(failed)} of {len(unique)} runs failed, the others are kept; the run with "
                           f"{_differences(one, settings)}: {error}") from error


def _outcomes(settings, data, root, device, workers, address) -> Generator[Outcome]:
    """Trains each setting; gives it back with its error, if there was one."""
    places = _places(device)
    workers = min(workers or len(places), len(settings))
    if address is not None and settings:
        return _on_ray(settings, data, root, device, address)
    if workers > 1:
        return _in_processes(settings, data, root, [str(place) for place in places], workers)
    return _one_by_one(settings, data, root, device)


def _places(device: torch.device) -> list[torch.device]:
    """A device for each run that goes on at the same time."""
    if device.type == "cuda":
        count = torch.cuda.device_count() if device.index is None else 1
        return [torch.device("cuda", device.index or number) for _ in range(RUNS_PER_GPU) for number in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [device] * (cores if device.type == "cpu" else 1)


def _differences(one: RunSettings, settings: Sequence[RunSettings]) -> str:
    """What sets a run apart from the others."""
    fields = [field.name for field in dataclasses.fields(one)]
    apart = [name for name in fields if any(getattr(other, name) != getattr(one, name) for other in settings)]
    return ", ".join(f"{name}={getattr(one, name)!r}" for name in apart or ["quantizer", "seed"])


@contextmanager
def _one_thread() -> Iterator[None]:
    """What the caller does with finished runs must not take the cores of those that go on."""
    with threads_kept():
        torch.set_num_threads(1)
        yield


def _one_by_one(settings, data, root, device) -> Generator[Outcome]:
    for one in settings:
        try:
            train(one, data[one.dataset], root=root, device=device, progress=False)
            yield one, None
        except Exception as error:
            yield one, error


def _in_processes(settings, data, root, places, workers) -> Generator[Outcome]:
    """Each process has one thread: on few cores, threads of several processes mostly wait for each other."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload(["arcvq.runs.parallel"])
    stop, free = context.Event(), context.SimpleQueue()
    for number in range(workers):
        free.put(places[number % len(places)])
    with _one_thread(), ProcessPoolExecutor(workers, context, _prepare, (data, stop, free)) as pool:
        try:
            runs = {pool.submit(_train, one, root): one for one in settings}
            for run in as_completed(runs):
                error = run.exception()
                yield runs[run], error if isinstance(error, Exception) else None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_worker: dict[str, Any] = {}  # of a worker process: its data, its device, and the event that stops it


def _prepare(data: dict[str, ImageData], stop: Any, free: Any) -> None:
    """Begin a worker: out of the terminal's reach, so that Ctrl-C comes from the parent alone."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # but while `fit` listens
    _worker.update(data=data, stop=stop, place=free.get())  # one GPU each: a process holds memory on all it touches
    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End with the parent, even if it was killed, or when it says so."""
    parent = multiprocessing.parent_process()
    while not stop.wait(1):
        if parent and not parent.is_alive():
            os._exit(1)
    while True:
        os.kill(os.getpid(), signal.SIGINT)  # `fit` ends its step and saves
        time.sleep(5)


def _train(settings: RunSettings, root: Path) -> None:
    if not _worker["stop"].is_set():
        train(settings, _worker["data"][settings.dataset], root=root, device=_worker["place"], progress=False)


def _on_ray(settings, data, root, device, address) -> Generator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise ImportError("ray is not installed: pip install ray") from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    runs: dict[Any, RunSettings] = {}
    try:
        train_there = ray.remote(num_cpus=1, num_gpus=1 / RUNS_PER_GPU if device.type == "cuda" else 0)(_train_away)
        shared = {name: ray.put(images) for name, images in data.items()}
        for one in settings:
            runs[train_there.remote(one, shared[one.dataset], device.type, _precision(one, device))] = one
        with _one_thread():
            while runs:
                (done,), _ = ray.wait(list(runs))
                one = runs.pop(done)
                try:
                    _keep(ray.get(done), run_folder(one, data[one.dataset], root, device))
                    yield one, None
                except Exception as error:
                    yield one, error
    finally:
        for run in runs:
            ray.cancel(run)
        if started:
            ray.shutdown()


def _precision(settings: RunSettings, device: torch.device) -> str:
    """The precision by name, so that a run elsewhere has that of this machine."""
    return str(choose_precision(settings.precision, device)).removeprefix("torch.")


def _train_away(settings: RunSettings, images: ImageData, device: str, precision: str) -> dict[str, bytes]:
    """The files of a finished run."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        train(dataclasses.replace(settings, precision=precision), images, root=root, device=device, progress=False)
        (folder,) = (Path(root) / "runs").iterdir()
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def _keep(files: dict[str, bytes], folder: Path) -> None:
    for name in sorted(files, key=lambda name: name == "run.json"):  # last, as it says that the run is finished
        write_whole(folder / name, partial(_write, content=files[name]))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
