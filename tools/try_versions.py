"""Run the tests with the lowest or the newest versions of all packages that pyproject.toml allows.

    python tools/try_versions.py lowest
    python tools/try_versions.py newest --python 3.13 tests/figures tests/test_samp.py

Needs uv (pip install uv) and the network. With UV_TORCH_BACKEND=cpu in the environment, PyTorch is
the small CPU build of its own index.
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# "lowest-direct": packages that arcvq does not name itself are the newest that fit, as on a machine
# where pip keeps an old version of one package.
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
TESTS = ["tests", "--ignore=tests/browser", "--ignore=tests/docs"]


def install(versions: str, python: str) -> Path:
    """Make a virtual environment below build/, and return its Python.

    Args:
        versions: "lowest" or "newest".
        python: Version of Python, or path of an interpreter.
    """
    folder = ROOT / "build" / "versions" / f"{versions}-{Path(python).name}"
    interpreter = folder / "bin" / "python"
    listed = folder / "requirements.txt"
    wanted = ("--all-extras", "--resolution", RESOLUTIONS[versions], "--python", interpreter)
    uv("venv", "--clear", "--seed", "--python", python, folder)
    uv("pip", "compile", "pyproject.toml", *wanted, "--output-file", listed)
    uv("pip", "install", "--python", interpreter, "--requirement", listed)
    uv("pip", "install", "--python", interpreter, "--no-deps", "--editable", ROOT)
    return interpreter


def uv(*arguments: str | Path) -> None:
    """Run uv without its list of packages."""
    subprocess.run(["uv", *arguments, "--quiet"], cwd=ROOT, check=True)


def main() -> int:
    """Install, say which versions there are, run the tests, and return their exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", choices=RESOLUTIONS)
    parser.add_argument("--python", default="3.11", help="version of Python, or an interpreter")
    parser.epilog = "All other arguments are those of pytest; by default the whole suite is run."
    chosen, tests = parser.parse_known_args()
    if shutil.which("uv") is None:
        parser.error("uv is not installed; pip install uv")

    interpreter = install(chosen.versions, chosen.python)
    subprocess.run([interpreter, "-m", "arcvq", "doctor"], check=True)
    run_tests = [interpreter, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*run_tests, *(tests or TESTS)], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
