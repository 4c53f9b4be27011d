"""The tool that runs the tests with the ends of the ranges, up to what uv and pytest do."""

import subprocess
from types import SimpleNamespace

import pytest
import try_versions


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands that the tool calls, none of which is run; pytest ends with 3."""
    called = []

    def record(command, **options):
        called.append([str(word) for word in command])
        return SimpleNamespace(returncode=3 if "pytest" in called[-1] else 0)

    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(try_versions, "ROOT", tmp_path)
    monkeypatch.setattr(try_versions.shutil, "which", lambda name: name)
    return called


@pytest.mark.parametrize(("versions", "rule"), [("lowest", "lowest-direct"), ("newest", "highest")])
def test_the_end_of_the_ranges_is_resolved_for_a_python_and_tested(
    commands, monkeypatch, versions, rule
):
    arguments = [versions, "--python", "3.12", "tests/test_samp.py", "-k", "radius"]
    monkeypatch.setattr("sys.argv", ["try_versions.py", *arguments])
    assert try_versions.main() == 3
    make, resolve, install, ours, doctor, tests = commands
    assert make[:2] == ["uv", "venv"]
    assert "3.12" in make
    assert resolve[resolve.index("--resolution") + 1] == rule
    assert "--all-extras" in resolve
    listed = resolve[resolve.index("--output-file") + 1]
    assert listed in install
    assert "--no-deps" in ours
    assert doctor[1:] == ["-m", "arcvq", "doctor"]
    assert tests[-3:] == ["tests/test_samp.py", "-k", "radius"]


def test_without_arguments_the_whole_suite_is_run(commands, monkeypatch):
    monkeypatch.setattr("sys.argv", ["try_versions.py", "newest"])
    try_versions.main()
    assert "tests" in commands[-1]


def test_a_sentence_says_that_uv_is_missing(commands, monkeypatch, capsys):
    monkeypatch.setattr(try_versions.shutil, "which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["try_versions.py", "newest"])
    with pytest.raises(SystemExit):
        try_versions.main()
    assert capsys.readouterr().err.endswith("uv is not installed; pip install uv\n")
    assert not commands
