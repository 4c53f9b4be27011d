"""Measure on a GPU what this project has measured on CPUs only, in one call of a few minutes.

    python -m benchmarks.gpu --out gpu_results --minutes 10

The commands run one after the other. One that is not done when the time is over is stopped, and
those after it are not begun; the next call with the same folder goes on with the trainings. The
folder holds the tables, what each command printed, and report.md, which says how long each took and
how it ended.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import write_text
from benchmarks import RESULTS_VARIABLE, machine, markdown_table

QUANTIZERS = ("SAMP", "plain VQ", "CVQ")  # that are trained at the paper's sizes
SECONDS_TO_END = 60  # in which a command that is stopped saves its state


def commands(out: Path, device: str) -> dict[str, list[str]]:
    """The commands by name, the most important first."""
    python = [sys.executable, "-m"]
    where = ["--device", device]
    training = [*python, "arcvq", "experiment", "paper", *where, "--out", str(out / "paper")]
    training += ["--dataset", "mnist_full", "--profile", "paper", "--seeds", "1", "--workers", "1"]
    for name in QUANTIZERS:
        training += ["--only", name]
    return {
        "speed": [*python, "benchmarks", "--only", "loss", "step", *where],
        "steps": [*python, "benchmarks.steps", *where],
        "paper": training,
        "many": [*python, "benchmarks", "--only", "many", *where],
    }


def measure(planned: Mapping[str, Sequence[str]], out: Path, seconds: float) -> dict[str, str]:
    """Run commands until they are done or the time is over, and write the report.

    Args:
        planned: The commands by name.
        out: The folder of the results.
        seconds: How long all of them may take together.

    Returns:
        How each command ended: "passed", "failed", "stopped" or "not begun".
    """
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {RESULTS_VARIABLE: str(out.resolve())}
    end = time.monotonic() + seconds
    endings = {}
    rows = []
    for name, command in planned.items():
        began = time.monotonic()
        left = end - began
        endings[name] = "not begun"
        if left > 0:
            endings[name] = run(command, out / f"{name}.log", environment, left)
        took = time.monotonic() - began
        rows.append([name, endings[name], f"{took:.0f}"])
        table = markdown_table(["command", "ended", "seconds"], rows)
        write_text(out / "report.md", f"{machine()}\n\n{table}\n")
        print(f"{name}: {endings[name]}, {took:.0f} s", flush=True)
    return endings


def run(command: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float) -> str:
    """Run a command, with what it prints in a file, and say how it ended.

    One that takes longer is stopped by the signal of Ctrl-C, and a training then saves its state.
    """
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            return "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return "stopped"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    choose_device(options.device)  # one that is not there is told now
    measure(commands(options.out, options.device), options.out, 60 * options.minutes)


if __name__ == "__main__":
    main()
