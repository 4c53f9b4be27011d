"""Train many runs at once: one on each core, several on each GPU, or on a Ray cluster.

`train_as_completed` gives each run when it is finished, `train_many` all of them in their order.
Each run is what `train` would give alone; where several go on at once, each has one thread. How the
runs are spread is in `_one_by_one`, `_in_processes` and `_on_ray`, which train and keep each run
and tell its error, if there was one.
"""

import dataclasses
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from tqdm.auto import tqdm

from arcvq.image_folders import Reading
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings, run_folder, train
from arcvq.runtime.checks import check_whole
from arcvq.runtime.devices import (
    choose_device,
    choose_precision,
    dtype_name,
    threads_kept,
    usable_cores,
)
from arcvq.runtime.extras import extra_import
from arcvq.runtime.files import data_root
from arcvq.runtime.interrupt import signals_interrupt
from arcvq.runtime.store import is_finished
from arcvq.training import Run

RUNS_PER_GPU = 4  # a small model leaves most of a GPU idle; not yet measured
WAIT_POLICY = "OMP_WAIT_POLICY"
KILLED = (
    "its process was ended twice from outside, as the system does when memory runs out; "
    "fewer workers need less"
)
Outcome = tuple[RunSettings, Exception | None]


def train_many(
    settings: Sequence[RunSettings], data: ImageData | None = None, **options: Any
) -> list[Run]:
    """Train several runs at a time.

    When runs fail, the others still finish. After Ctrl-C all workers stop; what they have done is
    kept. As with all processes of Python, a script calls this under `if __name__ == "__main__":`.

    Args:
        settings: The settings of each run.
        data: The data set of all of them; see `train_as_completed`.
        **options: The keyword arguments of `train_as_completed`.

    Returns:
        The runs in the order of their settings.

    Raises:
        ValueError: As `train_as_completed` does.
        RuntimeError: If runs failed; names the first one.
    """
    outcomes = train_as_completed(settings, data, **options)
    runs = dict(without_failures(outcomes, settings))
    return [runs[one] for one in settings]


def train_as_completed(
    settings: Sequence[RunSettings],
    data: ImageData | None = None,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> Generator[tuple[RunSettings, Run | Exception]]:
    """Train several runs at a time and yield each as soon as it is finished.

    Runs that were trained before come first. While other processes train, this one computes with
    one thread. Closing the generator stops the training.

    Args:
        settings: The settings of each run; equal ones are trained once.
        data: The data set of all of them. If None, each `dataset` is loaded, once for each
            `reading`.
        root: Where data sets and runs are kept; see `train`.
        device: The device. `"cuda"` stands for all GPUs.
        workers: Number of processes; by default one for each core, or four for each GPU.
        ray: Address of a Ray cluster, "auto" for the one at hand, "local" to start one here. Its
            machines need arcvq, but no common disk. It takes as many runs at a time as it has room
            for, so that `workers` is refused beside it.
        progress: Whether to show a progress bar.

    Yields:
        The settings with their run, or with the reason why it failed.

    Raises:
        ValueError: Before anything is trained: if there are no workers, or both workers and Ray, or
            too few training images for one of the runs.
        ModuleNotFoundError: If Ray is asked for and is not installed.
    """
    check_workers(workers, ray)
    unique = dict.fromkeys(settings)
    device = choose_device(device)
    loaded: dict[_DataKey, ImageData] = {}
    for one in unique:
        key = _data_key(one)
        if key not in loaded:
            # Loaded for the device that trains: whether images are streamed depends on its memory.
            found = data or one.load_data(root, device)
            loaded[key] = found.to("cpu")
        one.check_data(loaded[key])
    batch = _Batch(loaded, data_root(root), device)
    waiting = [one for one in unique if not is_finished(batch.folder(one))]
    finished = ((one, None) for one in unique if one not in waiting)
    # Closed where this ends early: a generator that a traceback still holds would train on.
    with (
        closing(_train_all(batch, waiting, workers, ray)) as trained,
        tqdm(total=len(unique), desc="runs", unit="run", disable=not progress) as bar,
    ):
        for one, error in chain(finished, trained):
            yield one, error or batch.try_to_train(one)
            bar.update()


def check_workers(workers: Any, ray: str | None) -> None:
    """Raise ValueError for a number of processes that is out of range, or given beside Ray."""
    if workers is None:
        return
    check_whole(1, workers=workers)
    if ray is not None:
        raise ValueError(
            f"workers is {workers} and ray is {ray!r}; a Ray cluster takes as many runs at a time "
            "as it has room for, so give one of the two"
        )


def without_failures(
    outcomes: Generator[tuple[RunSettings, Run | Exception]], settings: Sequence[RunSettings]
) -> Generator[tuple[RunSettings, Run]]:
    """Yield the runs among outcomes of `train_as_completed`, and then raise if some failed.

    Args:
        outcomes: The outcomes.
        settings: The settings of all runs, from which the message tells the failed one apart.

    Raises:
        RuntimeError: Names the first run that failed.
    """
    failures = []
    with closing(outcomes):
        for one, run in outcomes:
            if isinstance(run, Exception):
                failures.append((one, run))
            else:
                yield one, run
    if failures:
        one, error = failures[0]
        raise RuntimeError(
            f"{len(failures)} of {len(set(settings))} runs failed, the others are kept; "
            f"the run with {_differences(one, settings)}: {error}"
        ) from error


def _differences(one: RunSettings, settings: Sequence[RunSettings]) -> str:
    """The fields in which a run differs from others."""
    fields = vars(one)
    apart = set()
    for other in settings:
        apart |= {name for name, value in vars(other).items() if value != fields[name]}
    names = [name for name in fields if name in apart] or ["quantizer", "seed"]
    return ", ".join(f"{name}={getattr(one, name)!r}" for name in names)


_DataKey = tuple[str, Reading]


def _data_key(settings: RunSettings) -> _DataKey:
    """What decides the pixels of a run: settings of one key share their data."""
    return settings.dataset, settings.reading


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What the runs of one call have in common: data by its key, root folder and device."""

    data: dict[_DataKey, ImageData]
    root: Path
    device: torch.device

    def folder(self, settings: RunSettings) -> Path:
        data = self.data[_data_key(settings)]
        return run_folder(settings, data, self.root, self.device)

    def train(self, settings: RunSettings) -> Run:
        """Train a run here, or open it."""
        data = self.data[_data_key(settings)]
        return train(settings, data, root=self.root, device=self.device, progress=False)

    def try_to_train(self, settings: RunSettings) -> Run | Exception:
        """The run, or why it cannot be trained or opened."""
        try:
            return self.train(settings)
        except Exception as error:
            return error


def _train_all(
    batch: _Batch, settings: list[RunSettings], workers: int | None, ray: str | None
) -> Generator[Outcome]:
    """Train each run in the way that fits."""
    places = places_of(batch.device)
    workers = min(workers or len(places), len(settings))
    if ray is not None and settings:
        return _on_ray(batch, settings, ray)
    if workers > 1:
        return _in_processes(batch, settings, places, workers)
    return _one_by_one(batch, settings)


def places_of(device: torch.device) -> list[torch.device]:
    """A device for each run that may go on at the same time: of each core, or each GPU's four."""
    if device.type == "cuda":
        numbers = range(torch.cuda.device_count()) if device.index is None else [device.index]
        return [torch.device("cuda", number) for number in numbers] * RUNS_PER_GPU
    if device.type != "cpu":
        return [device]
    return [device] * usable_cores()


def _one_by_one(batch: _Batch, settings: list[RunSettings]) -> Generator[Outcome]:
    for one in settings:
        run = batch.try_to_train(one)
        yield one, run if isinstance(run, Exception) else None


def _in_processes(
    batch: _Batch, settings: list[RunSettings], places: list[torch.device], workers: int
) -> Generator[Outcome]:
    """Train in processes of one thread each: threads of several mostly wait for each other.

    A run whose process was killed, as the system does when memory runs out, is trained once more,
    after the others.
    """
    # A plain fork would copy this process with the threads of torch, and may hang.
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload(["arcvq.runs.parallel"])
    stop = context.Event()
    workers_here = []
    for number in range(workers):
        # One GPU for each worker: a process holds memory on all that it touches.
        own = dataclasses.replace(batch, device=places[number % len(places)])
        workers_here.append(_Worker(context, own, stop))
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers_here:
        idle.put(worker)

    def train_somewhere(one: RunSettings) -> None:
        worker = idle.get()
        try:
            worker.train(one)
        finally:
            idle.put(worker)

    killed = set()
    # Threads hand out the runs, so that no worker waits while the caller measures one.
    with (
        signals_interrupt(),  # a signal to end has the workers save, as Ctrl-C has
        threads_kept(1),
        _waiting_threads_sleep(),
        ThreadPoolExecutor(workers) as threads,
    ):
        running = {threads.submit(train_somewhere, one): one for one in settings}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    one = running.pop(future)
                    error = future.exception()
                    # A process that was asked to end by others gives a KeyboardInterrupt.
                    was_killed = isinstance(error, BrokenProcessPool | KeyboardInterrupt)
                    if was_killed and one not in killed:
                        killed.add(one)
                        running[threads.submit(train_somewhere, one)] = one
                        continue
                    if was_killed:
                        error = RuntimeError(KILLED)
                    yield one, error if isinstance(error, Exception) else None
        except BaseException:
            stop.set()
            raise
        finally:
            threads.shutdown(cancel_futures=True)
            for worker in workers_here:
                worker.pool.shutdown()


@contextmanager
def _waiting_threads_sleep() -> Iterator[None]:
    """Have threads of new processes sleep while they wait for work, unless the user decided.

    OpenMP reads this when a process loads PyTorch. Waiting threads that do not sleep take the cores
    from other processes.
    """
    if WAIT_POLICY in os.environ:
        yield
        return
    os.environ[WAIT_POLICY] = "PASSIVE"
    try:
        yield
    finally:
        os.environ.pop(WAIT_POLICY, None)


class _Worker:
    """A process that trains one run at a time, and is started again if it was killed.

    It is a pool of one, since a pool is lost as a whole with any of its processes.
    """

    def __init__(self, context: Any, batch: _Batch, stop: Any):
        self.make_pool = partial(
            ProcessPoolExecutor, 1, context, initializer=_begin_worker, initargs=(batch, stop)
        )
        self.pool = self.make_pool()

    def train(self, settings: RunSettings) -> None:
        """Train a run; BrokenProcessPool if the process is killed meanwhile."""
        try:
            future = self.pool.submit(_train_in_worker, settings)
        except BrokenProcessPool:
            self.pool = self.make_pool()
            future = self.pool.submit(_train_in_worker, settings)
        future.result()


_worker: dict[str, Any] = {}  # of a worker process: its batch, and the event that stops it


def _begin_worker(batch: _Batch, stop: Any) -> None:
    """Begin a worker process, out of the terminal's reach: Ctrl-C comes from the parent alone."""
    if hasattr(os, "setsid"):
        os.setsid()
    # Outside of `fit`, which listens to it, Ctrl-C does nothing here. (A signal that is ignored
    # altogether would be ignored by `fit` as well.)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    _worker.update(batch=batch, stop=stop)
    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this worker with its parent, even if that was killed, or when the parent says so."""
    parent = multiprocessing.parent_process()
    while not stop.wait(1):
        if parent and not parent.is_alive():
            os._exit(1)
    # `fit` ends its step and saves. Once is not enough where it has not begun to listen.
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def _train_in_worker(settings: RunSettings) -> None:
    if not _worker["stop"].is_set():
        _worker["batch"].train(settings)


def _on_ray(batch: _Batch, settings: list[RunSettings], address: str) -> Generator[Outcome]:
    """Train on the machines of a Ray cluster, and save each run here."""
    ray = extra_import("ray", extra="ray")
    on_gpu = batch.device.type == "cuda"
    starting = not ray.is_initialized()
    if starting:
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    tasks: dict[Any, RunSettings] = {}
    try:
        remote = ray.remote(num_cpus=1, num_gpus=1 / RUNS_PER_GPU if on_gpu else 0)
        train_there = remote(_train_away)
        shared = {key: ray.put(data) for key, data in batch.data.items()}
        for one in settings:
            # A run elsewhere has the precision of this machine, so that its name fits.
            dtype = choose_precision(one.precision, batch.device)
            there = dataclasses.replace(one, precision=dtype_name(dtype))
            data = shared[_data_key(one)]
            tasks[train_there.remote(there, data, batch.device.type)] = one
        with threads_kept(1):
            while tasks:
                (done,), _ = ray.wait(list(tasks))
                one = tasks.pop(done)
                try:
                    ray.get(done).save(batch.folder(one))
                    yield one, None
                except Exception as error:
                    yield one, error
    finally:
        for task in tasks:
            ray.cancel(task)
        if starting:
            ray.shutdown()


def _train_away(settings: RunSettings, data: ImageData, device: str) -> Run:
    """A run that is trained on another machine, with its model on the CPU for the way back."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        run = train(settings, data, root=root, device=device, progress=False)
    run.model.cpu()
    return run
