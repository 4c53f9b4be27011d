"""Which Python JupyterLab would start is found out, whatever kernels are installed."""

import json
import sys

import pytest

from arcvq.reports.kernels import kernel_of_jupyterlab


@pytest.fixture(params=["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def folder(request, tmp_path, monkeypatch):
    """An empty kernel "python3" where the user or an environment variable puts it."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    monkeypatch.setenv(request.param, str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    return folder


def write_kernel(folder, *command):
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))


def test_without_other_kernels_it_is_this_python(monkeypatch, tmp_path):
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    found, remedy = kernel_of_jupyterlab()
    assert found.startswith(sys.executable)
    assert remedy == ""


@pytest.mark.parametrize("name", ["python", "python3", sys.executable])
def test_a_kernel_of_the_user_that_is_this_python_is_fine(folder, name):
    write_kernel(folder, name, "-m", "ipykernel_launcher")
    found, remedy = kernel_of_jupyterlab()
    assert found == f"{sys.executable} (by {folder / 'kernel.json'})"
    assert remedy == ""


def test_another_python_is_named_with_the_remedy(folder):
    other = folder / "python"
    other.write_text("#!/bin/sh\necho /opt/conda")
    other.chmod(0o755)
    write_kernel(folder, str(other), "-m", "ipykernel_launcher")
    found, remedy = kernel_of_jupyterlab()
    assert found == f"{other} (by {folder / 'kernel.json'}) is not this Python"
    assert remedy == f"remove or rename the folder {folder}, which JupyterLab finds first"


@pytest.mark.parametrize("command", ["/nowhere/python", "bash", "/"])
def test_what_is_no_python_is_named(folder, command):
    write_kernel(folder, command, "-l")
    found, remedy = kernel_of_jupyterlab()
    assert found.endswith("is not this Python")
    assert str(folder) in remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"argv": []}', '{"argv": null}'])
def test_a_damaged_kernel_is_named(folder, text):
    (folder / "kernel.json").write_text(text)
    found, remedy = kernel_of_jupyterlab()
    assert found.startswith(f"{folder / 'kernel.json'} cannot be read (")
    assert str(folder) in remedy
