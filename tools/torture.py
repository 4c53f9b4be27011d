"""End commands at random moments, start them again, and compare with an undisturbed run.

    .venv/bin/python tools/torture.py --kills 200

Each command is killed, told to end (SIGTERM), and given a disk that gets full, and is then started
again. It survives if it ends as the undisturbed run did: the same files, the same weights, tables
and outputs. It also runs two and eight times at once on one data folder. At the end a table says
what survived, what was lost and what was left behind: drafts, and processes.

The commands run in forks of this process, which has loaded PyTorch already, so that a moment lies
in the work and not in the imports. Moments are spread evenly from the first file that a command
writes to its end. In a sweep every other kill hits one of the workers, as when memory runs out.
Needs Linux. A full disk is a small tmpfs, which only root can mount; for others it is a limit of
the size of files.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
import nbformat
import pandas as pd
import psutil
import torch
import torch._dynamo  # else each optimizer would load it
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

import arcvq
import arcvq.__main__
import arcvq.cli
import arcvq.experiments
import arcvq.figures.experiment_results
import arcvq.reports.notebooks
import arcvq.runs.parallel
from arcvq.experiments.tables import markdown
from arcvq.priors.settings import PriorSettings, train_prior

IMAGES = 60  # of 16x16 pixels, in two classes
SIZES = {"num_codes": 8, "dim": 4, "hidden": 8, "residual_hidden": 4, "batch_size": 8}
SMALL = ["--num-codes", "8", "--steps", "10", "--device", "cpu"]
SMALLEST = ["--dim", "4", "--hidden", "8", "--residual-hidden", "4", "--batch-size", "8"]
SAVES = 10  # one alone would be over before a kill arrives
WEIGHTS = {"sweep": 3, "experiment": 4, "run": 4}  # of commands that take long; 10 for others
AT_ONCE = (2, 8)
TIMES = ["seconds", "step_milliseconds"]  # columns that no two runs share
FULL_DISK = "full disk"
COLUMNS = ["SIGKILL", "SIGTERM", FULL_DISK, *(f"{count} at once" for count in AT_ONCE)]
COLUMNS += ["survived", "lost", "left behind"]
PATIENCE = 900  # seconds, for a command to end
LINGERING = 120  # seconds, for what it started; a worker that is being loaded ends after that
# In the environment of the commands: the data set, and what tells their processes from others.
DATASET = "TORTURE_DATASET"
PROCESS = "TORTURE_PROCESS"


def make_pictures(folder: Path) -> None:
    """Write the images that all commands train on."""
    generator = torch.Generator().manual_seed(0)
    for number in range(IMAGES):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (16, 16), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)


def command(*words: str) -> None:
    """Run the command `arcvq`."""
    arcvq.cli.main([*words], prog_name="arcvq")


def pictures() -> arcvq.ImageData:
    """The images."""
    return arcvq.load_images(os.environ[DATASET], device="cpu")


def train() -> None:
    """The command `arcvq train`."""
    command("train", "--dataset", os.environ[DATASET], *SMALL, *SMALLEST)


def fit() -> None:
    """A script with a training of its own."""
    data = pictures()
    model = arcvq.RunSettings(**SIZES).model(data)
    recording = arcvq.Recording("fit", resume=True, progress=False)
    arcvq.fit(model, data, steps=30, batch_size=8, recording=recording)


def prior() -> None:
    """A script that fits a prior to the tokens of a run."""
    data = pictures()
    run = arcvq.train(arcvq.RunSettings(steps=5, **SIZES), data, device="cpu", progress=False)
    settings = PriorSettings(width=8, layers=1, steps=20, batch_size=8)
    train_prior(settings, run.model, data, device="cpu", progress=False)


def sweep() -> None:
    """The command `arcvq sweep` with two workers."""
    grid = ["--margin", "0,0.2,0.4", "--workers", "2"]
    command("sweep", *grid, "--dataset", os.environ[DATASET], *SMALL, "--out", "sweep")


def experiment() -> None:
    """The command `arcvq experiment` in one process."""
    variants = ["--only", "plain VQ", "--only", "cosine", "--seeds", "1"]
    command("experiment", "gradients", *variants, "--dataset", os.environ[DATASET], *SMALL)


def run() -> None:
    """The command `arcvq run` with two notebooks of two cells at the same time."""
    cells = [nbformat.v4.new_code_cell(code) for code in ("sum(range(10))", "print('done')")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    Path("notebook").mkdir(exist_ok=True)
    files = ("notebook/first.ipynb", "notebook/second.ipynb")
    for file in files:
        Path(file).write_text(nbformat.writes(notebook))
    command("run", *files, "--jobs", "2", "--out", "report")


def save_pretrained() -> None:
    """A script that saves a model again and again."""
    model = arcvq.RunSettings(**SIZES).model(pictures())
    for _ in range(SAVES):
        model.save_pretrained("model")


COMMANDS: dict[str, Callable[[], None]] = {
    "train": train,
    "fit": fit,
    "train_prior": prior,
    "sweep": sweep,
    "experiment": experiment,
    "run": run,
    "save_pretrained": save_pretrained,
}


class Program:
    """A command that runs in a process of its own, in a folder.

    Args:
        name: A name in `COMMANDS`.
        folder: The working directory, and the place of its data folder.
        largest_file: No file may get larger than this, in bytes.
    """

    def __init__(self, name: str, folder: Path, largest_file: int | None = None):
        self.mark = f"{time.monotonic_ns()}"
        self.log = folder.with_suffix(".log")
        work = (name, folder, self.log, self.mark, largest_file)
        self.process = multiprocessing.get_context("fork").Process(target=_work, args=work)
        self.process.start()

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code, or None if the command is still running after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def workers(self) -> list[psutil.Process]:
        """The processes that processes of this command have started."""
        family = self.family()
        numbers = {member.pid for member in family}
        return [member for member in family if member.ppid() in numbers]

    def family(self) -> list[psutil.Process]:
        """All processes that the command has started, whatever has become of it."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(PROCESS) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # it has ended, or is not ours to look at
                continue
        return found

    def survivors(self) -> list[psutil.Process]:
        """The processes that are still there some time after the command has ended."""
        deadline = time.monotonic() + LINGERING
        while (family := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return family


def _work(name: str, folder: Path, log: Path, mark: str, largest_file: int | None) -> None:
    """Run a command in this process, with what it says in a file."""
    os.chdir(folder)
    os.environ.update({"ARCVQ_DATA": str(folder / "data"), PROCESS: mark})
    with log.open("a") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    # Its workers start from the command's own module, which is small, and not from this one.
    sys.modules["__main__"] = arcvq.__main__
    COMMANDS[name]()


def contents(folder: Path) -> dict[str, str]:
    """What each file of a folder says, by its path: a digest of what no two runs may differ in."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    drafts = [path for path in folder.rglob("*.draft") if path.is_dir()]
    return {str(path.relative_to(folder)): _content(path) for path in files + drafts}


def _content(path: Path) -> str:
    """A digest of a file without times and dates; empty for one that consists of them."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        data = table.drop(columns=TIMES, errors="ignore").to_csv().encode()
    elif path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        data = json.dumps([cell.get("outputs") for cell in cells], default=str).encode()
    elif path.name == "run.json":
        data = json.dumps(json.loads(path.read_text())["settings"]).encode()
    elif path.suffix in (".safetensors", ".csv", ".json", ".md"):
        data = path.read_bytes()
    else:
        return ""
    return hashlib.sha256(data).hexdigest()[:12]


def broken_files(folder: Path) -> list[str]:
    """The files that are there under their own names, but not whole."""
    readers: dict[str, Callable[[Path], object]] = {
        ".parquet": pd.read_parquet,
        ".safetensors": load_file,
        ".json": lambda path: json.loads(path.read_text()),
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".ipynb": lambda path: nbformat.read(path, as_version=4),
    }
    broken = []
    for path in folder.rglob("[!.]*"):
        reader = readers.get(path.suffix)
        is_inside_draft = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if reader is None or is_inside_draft or path.parent.name == "notebook":
            continue
        try:
            reader(path)
        except Exception:
            broken.append(f"{path.relative_to(folder)} is broken")
    return broken


class Torture:
    """All trials of one command.

    Args:
        name: A name in `COMMANDS`.
        place: The folder in which each trial gets one of its own.
        seed: The seed of the moments.
    """

    def __init__(self, name: str, place: Path, seed: int):
        self.name = name
        self.place = place
        self.random = random.Random(f"{name} {seed}")
        self.trials = 0
        self.counts: Counter[str] = Counter()
        folder = self._new_folder()
        program, before = self._start(folder)
        if program.wait() != 0:
            raise RuntimeError(f"{name} fails undisturbed: {program.log.read_text()}")
        self.span = time.monotonic() - before
        self.expected = contents(folder)
        self.bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._remove(folder)

    def _new_folder(self) -> Path:
        self.trials += 1
        folder = self.place / f"{self.name}-{self.trials}"
        folder.mkdir()
        return folder

    def _remove(self, folder: Path) -> None:
        if folder.is_mount():
            subprocess.run(
                ["umount", "--lazy", folder], check=True
            )  # a process may still be exiting
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()

    def _start(self, folder: Path) -> tuple[Program, float]:
        """Start the command, and tell when it wrote its first file."""
        program = Program(self.name, folder)
        while program.process.is_alive() and not any(folder.iterdir()):
            time.sleep(0.002)
        return program, time.monotonic()

    def end(self, number: signal.Signals) -> None:
        """Send a signal at a random moment, and start the command again."""
        folder = self._new_folder()
        program, _ = self._start(folder)
        time.sleep(self.random.uniform(0, self.span))
        hits_worker = number == signal.SIGKILL and self.random.random() < 0.5
        workers = program.workers() if hits_worker and self.name == "sweep" else []
        if workers:
            with suppress(psutil.NoSuchProcess):  # it ended just now
                self.random.choice(workers).kill()
        else:
            os.kill(program.process.pid, number)
        if program.wait() == 0 and not workers:  # it was at its end already
            self._remove(folder)
            self.end(number)
        else:
            self._start_again(folder, program, number.name)

    def fill_disk(self) -> None:
        """Run the command on a disk that is too small, and again with space."""
        folder = self._new_folder()
        space = self.random.randrange(4096, self.bytes)
        mounted = _mount(folder, space)
        program = Program(self.name, folder, None if mounted else space // 4)
        program.wait()
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64M", folder], check=True)
        self._start_again(folder, program, FULL_DISK)

    def at_once(self, count: int) -> None:
        """Run the command several times at the same moment in one folder."""
        folder = self._new_folder()
        programs = [Program(self.name, folder) for _ in range(count)]
        codes = [program.wait() for program in programs]
        problems = [f"exit code {code}" for code in codes if code != 0]
        self._compare(folder, f"{count} at once", programs, problems)

    def _start_again(self, folder: Path, disturbed: Program, kind: str) -> None:
        """Start a command again that was disturbed, and compare."""
        problems = broken_files(folder)
        again = Program(self.name, folder)
        code = again.wait()
        if code != 0:
            problems.append(f"exit code {code} when started again")
        self._compare(folder, kind, [disturbed, again], problems)

    def _compare(
        self, folder: Path, kind: str, programs: list[Program], problems: list[str]
    ) -> None:
        """Count a trial as survived or lost, and what it left behind; tell what went wrong."""
        found = contents(folder)
        for path, digest in self.expected.items():
            if path not in found:
                problems.append(f"{path} is missing")
            elif found[path] != digest:
                problems.append(f"{path} differs")
        left = [f"{path} is left behind" for path in sorted(found.keys() - self.expected.keys())]
        for program in programs:
            for process in program.survivors():
                left.append(f"process {process.pid} is left behind: {' '.join(process.cmdline())}")
                process.kill()
        self.counts[kind] += 1
        self.counts["lost" if problems else "survived"] += 1
        self.counts["left behind"] += len(left)
        for problem in problems + left:
            tqdm.write(f"{folder.name}, {kind}: {problem}")
        if problems:
            tqdm.write(programs[0].log.read_text()[-3000:])
        self._remove(folder)


def _mount(folder: Path, space: int) -> bool:
    """Mount a file system of so many bytes in memory; False where this is not allowed."""
    order = ["mount", "-t", "tmpfs", "-o", f"size={space}", "tmpfs", str(folder)]
    return subprocess.run(order, capture_output=True).returncode == 0


def shares(total: int, names: Sequence[str]) -> list[int]:
    """Divide trials among commands, more to those that take less time."""
    weights = [WEIGHTS.get(name, 10) for name in names]
    bounds = [round(total * sum(weights[:end]) / sum(weights)) for end in range(len(names) + 1)]
    return [high - low for low, high in itertools.pairwise(bounds)]


@click.command()
@click.option("--kills", default=200, show_default=True, help="Kills of all commands together.")
@click.option("--commands", default=",".join(COMMANDS), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, commands: str, seed: int) -> None:
    """End commands at random moments and say what survived."""
    torch.set_num_threads(1)  # a fork does not take a pool of threads along, and would wait for it
    names = commands.split(",")
    others = shares(kills // 4, names)
    lines = []
    with tempfile.TemporaryDirectory() as place:
        make_pictures(Path(place) / "pictures")
        os.environ[DATASET] = f"folder:{place}/pictures"
        # What the system or Jupyter keeps for the length of a process, which a kill leaves there.
        own = Path(place) / "tmp"
        own.mkdir()
        os.environ |= {"TMPDIR": str(own), "JUPYTER_RUNTIME_DIR": str(own)}
        bar = tqdm(total=kills + 2 * (kills // 4) + len(AT_ONCE) * len(names), unit="trial")
        for name, count, other in zip(names, shares(kills, names), others, strict=True):
            bar.set_description(name)
            torture = Torture(name, Path(place), seed)
            plan: list[Callable[[], None]] = []
            plan += [partial(torture.end, signal.SIGKILL)] * count
            plan += [partial(torture.end, signal.SIGTERM)] * other
            plan += [torture.fill_disk] * other
            if name != "run":  # a report folder takes one run at a time, and says so
                plan += [partial(torture.at_once, number) for number in AT_ONCE]
            for trial in plan:
                trial()
                bar.update()
            lines.append({"command": name} | {column: torture.counts[column] for column in COLUMNS})
        bar.close()
    table = pd.DataFrame(lines)
    total = pd.DataFrame([{"command": "all", **table[COLUMNS].sum()}])
    click.echo(markdown(pd.concat([table, total]).astype(str)))
    sys.exit(int(total[["lost", "left behind"]].sum(axis=None) > 0))


if __name__ == "__main__":
    main()
