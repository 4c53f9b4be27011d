"""The command: what it prints, its exit codes, and one sentence instead of a traceback."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from arcvq import __version__, cli, experiments
from arcvq.figures import experiment_results
from arcvq.reports import notebooks
from arcvq.reports.parameters import plan_parameters
from arcvq.runs.settings import ALL_QUANTIZERS
from tests.reports.made import write_notebook

# Arguments: a package to hide, then those of the command.
WITHOUT_A_PACKAGE = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
runpy.run_module("arcvq", run_name="__main__")
"""


def invoke(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty folder of data and kept runs."""
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    return tmp_path


def test_the_module_runs_as_the_command():
    shown = python("-m", "arcvq", "--version")
    assert shown.returncode == 0
    assert shown.stdout.strip().endswith(__version__)


def test_one_sentence_says_how_to_install_what_is_missing():
    shown = python("-c", WITHOUT_A_PACKAGE, "plotly", "export-explorers")
    assert shown.returncode == 2
    answer = "Error: plotly is not installed; it comes with pip install 'arcvq[kit]'\n"
    assert shown.stderr == answer


def test_reports_load_the_tools_of_notebooks_only_where_they_are_used():
    loaded = set(python("-c", "import sys, arcvq.reports; print(*sys.modules)").stdout.split())
    assert "arcvq.reports.key_figures" in loaded
    assert not {"papermill", "nbconvert", "plotly"} & loaded


def test_notebooks_that_are_run_keep_data_and_results_where_the_caller_keeps_them(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCVQ_DATA", "here")
    (tmp_path / "package").mkdir()
    checked = f"import os\nassert os.environ['ARCVQ_DATA'] == {str(tmp_path / 'here')!r}"
    path = write_notebook(tmp_path / "package" / "0.ipynb", checked)
    assert invoke("run", path, "--out", "out").exit_code == 0


def test_run_prints_a_line_a_notebook_and_the_report_and_ends_with_1_where_one_failed(tmp_path):
    good = write_notebook(tmp_path / "good.ipynb", "x = 1")
    bad = write_notebook(tmp_path / "bad.ipynb", "1 / 0")
    shown = invoke("run", good, bad, "-p", "seed=5", "--out", tmp_path / "out")
    assert shown.exit_code == 1, shown.output
    *lines, last = shown.output.strip().splitlines()
    first, second = sorted(lines)  # they may run at the same time
    assert first.startswith("[1/2] good  passed in")
    assert second.startswith("[2/2] bad   failed in")
    assert "ZeroDivisionError" in second
    assert last.startswith("1 of 2 notebooks passed")
    assert last.endswith(f"Report: {tmp_path / 'out' / 'index.html'}")


def test_run_ends_with_0_where_all_passed(tmp_path):
    notebook = write_notebook(tmp_path / "good.ipynb")
    shown = invoke("run", notebook, "--seed", 3, "--out", tmp_path / "out")
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("is_terminal", [True, False])
def test_run_says_in_a_terminal_how_far_it_is(monkeypatch, is_terminal):
    def two_cells(*_, echo, watch, **__):
        watch("[1/1] a  running, cell 1 of 2")
        watch("[1/1] a  running, cell 2 of 2")
        echo("[1/1] a  passed")
        return []

    stderr = SimpleNamespace(isatty=lambda: is_terminal)
    monkeypatch.setattr(cli, "sys", SimpleNamespace(stderr=stderr))
    monkeypatch.setattr(notebooks, "run_notebooks", two_cells)
    shown = invoke("run")
    assert shown.exit_code == 0, shown.output
    lines = shown.stderr.split("\r")
    said = ["", "[1/1] a  running, cell 1 of 2", "[1/1] a  running, cell 2 of 2", ""]
    assert lines == (said if is_terminal else [""])
    assert shown.stdout.startswith("[1/1] a  passed\n")


def test_run_hands_on_how_a_folder_is_read(tmp_path):
    parameters = 'dataset = "digits"\nreading = {}'
    path = write_notebook(tmp_path / "a.ipynb", "print(reading)", parameters=parameters)
    words = ["--size", 40, "--grey", "--levels", "0:4095", "--background", "black"]
    words += ["--dataset", f"folder:{tmp_path}", "--skip-broken", "--out", tmp_path / "out"]
    words += ["--crop", 32, "--stream"]
    shown = invoke("run", path, *words)
    assert shown.exit_code == 0, shown.output
    executed = nbformat.read(tmp_path / "out" / "a.ipynb", as_version=4)
    assert ast.literal_eval(executed.cells[-1].outputs[0].text) == {
        "size": 40,
        "grey": True,
        "background": "black",
        "levels": [0.0, 4095.0],
        "skip_broken": True,
        "crop": 32,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--size", 32], {"size": 32}),
        (["--background", "white"], {"background": "white"}),
        (["--color", "--crop", 48], {"grey": False, "crop": 48}),
    ],
)
def test_run_changes_only_what_was_given_of_how_a_notebook_reads(
    monkeypatch, tmp_path, words, changes
):
    own = {"size": 64, "background": "black"}
    parameters = f'dataset = "folder:{tmp_path}"\nreading = {own}'
    path = write_notebook(tmp_path / "a.ipynb", parameters=parameters)
    plans = []

    def plan_only(paths, parameters, **_):
        plans.append(plan_parameters([path], parameters)[path])
        return []

    monkeypatch.setattr(notebooks, "run_notebooks", plan_only)
    invoke("run", path, *words, "--out", tmp_path / "out")
    assert plans == [{"reading": own | changes}]


def test_run_ends_with_1_where_a_cell_ran_out_of_time(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "import time\ntime.sleep(60)")
    shown = invoke("run", path, "--timeout", 1, "--out", tmp_path / "out")
    assert shown.exit_code == 1, shown.output
    assert "stopped in" in shown.output
    assert "a larger --timeout allows more" in shown.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--timeout", "0"], "Error: timeout is 0; it must be a whole number from 1"),
        (["--size", "16"], "Error: a.ipynb has no parameter 'reading'"),
        (["-p", "nonsense=1"], "Error: no chosen notebook has a parameter 'nonsense'"),
        (["-p", "nonsense"], "Error: -p takes NAME=VALUE, not 'nonsense'"),
        (["--profile", "huge"], "Error: profile 'huge' is unknown"),
        (["--device", "abacus"], "Error: device 'abacus' cannot be used here"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    notebook = write_notebook(tmp_path / "a.ipynb")
    shown = invoke("run", notebook, "--out", tmp_path / "out", *arguments)
    assert shown.exit_code == 2
    assert shown.stderr.startswith(sentence)
    assert len(shown.stderr.splitlines()) == 1
    assert not shown.stdout


def test_an_output_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").touch()
    notebook = write_notebook(tmp_path / "a.ipynb")
    shown = invoke("run", notebook, "--out", tmp_path / "taken")
    assert shown.exit_code == 2
    assert str(tmp_path / "taken") in shown.stderr


@pytest.mark.parametrize(
    "command",
    ["run", "sweep", "experiment paper", "export-explorers", "sample"],
)
def test_an_output_without_a_name_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shown = invoke(*command.split(), "--out", "")
    assert shown.exit_code == 2
    assert "Invalid value for '--out': the name is empty; use . for the working" in shown.stderr
    assert not [*tmp_path.iterdir()]


def test_a_closed_pipe_ends_a_command_without_a_word(tmp_path):
    out, into = os.pipe()
    os.close(out)
    words = [sys.executable, "-m", "arcvq", "notebooks", tmp_path / "mine"]
    ended = subprocess.run(words, stdout=into, stderr=subprocess.PIPE, text=True)
    os.close(into)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_debug_shows_the_traceback():
    arguments = ["--debug", "run", "no/such.ipynb"]
    with pytest.raises(FileNotFoundError, match="no/such"):
        CliRunner().invoke(cli.main, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "said"), [((), "Stopped"), (("saved at step 7",), "saved at step 7")]
)
def test_ctrl_c_ends_in_a_sentence_and_exit_code_130(monkeypatch, words, said):
    def interrupted(*_, **__):
        raise KeyboardInterrupt(*words)

    monkeypatch.setattr(notebooks, "run_notebooks", interrupted)
    shown = invoke("run")
    assert shown.exit_code == 130
    assert said in shown.stderr
    assert "Traceback" not in shown.output


def test_train_prints_the_validation_figures_and_opens_the_stored_run_next_time(data_folder):
    model = ("--num-codes", 16, "--dim", 4, "--hidden", 8, "--residual-hidden", 4)
    training = ("--steps", 2, "--batch-size", 8, "--train-images", 64, "--device", "cpu")
    command = ("train", "--quantizer", "cosine", *model, *training)
    first = invoke(*command)
    assert first.exit_code == 0, first.stderr
    *lines, last = first.stdout.splitlines()
    figures = dict(line.split(maxsplit=1) for line in lines)
    assert {"psnr", "usage", "perplexity", "codes_used"} <= set(figures)
    assert float(figures["psnr"]) > 0
    (folder,) = (data_folder / "runs").iterdir()
    assert last.endswith(str(folder))

    again = invoke(*command)
    assert again.stdout == first.stdout
    assert "step" not in again.stderr


def test_train_names_a_damaged_run_and_heals_it_when_asked(data_folder):
    model = ("--num-codes", 16, "--dim", 4, "--hidden", 8, "--residual-hidden", 4)
    training = ("--steps", 2, "--batch-size", 8, "--train-images", 64, "--device", "cpu")
    command = ("train", "--quantizer", "cosine", *model, *training)
    assert invoke(*command).exit_code == 0
    (facts,) = data_folder.glob("runs/*/run.json")
    facts.write_text("[]")
    damaged = invoke(*command)
    assert damaged.exit_code == 2
    assert damaged.stderr.endswith("with arcvq.autoencoder.Autoencoder.from_pretrained\n")
    assert f"Error: the run in {facts.parent} is damaged (run.json: " in damaged.stderr
    assert invoke(*command, "--overwrite").exit_code == 0
    assert invoke(*command).exit_code == 0


def test_the_home_folder_is_found_in_a_path():
    assert cli.FOLDER.convert("~/results", None, None) == Path.home() / "results"


@pytest.mark.parametrize(
    ("program", "own", "policy"),
    [
        ("-m", None, "PASSIVE"),
        ("/usr/bin/arcvq", None, "PASSIVE"),
        ("arcvq.exe", "ACTIVE", "ACTIVE"),
        ("script.py", None, "None"),
        ("-c", None, "None"),
    ],
)
def test_waiting_threads_of_the_command_sleep_unless_the_user_decides(program, own, policy):
    code = f"""
import os, sys
sys.argv = [{program!r}]
sys.modules["torch"] = None  # what is set before PyTorch is loaded
try:
    import arcvq
except ImportError:
    print(os.environ.get("OMP_WAIT_POLICY"))
"""
    environment = {**os.environ, "OMP_WAIT_POLICY": own or ""}
    if own is None:
        del environment["OMP_WAIT_POLICY"]
    call = [sys.executable, "-c", code]
    shown = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert shown.stdout == f"{policy}\n"


def test_train_prints_no_codes_where_there_are_none(data_folder):
    small = ("--dataset", "plain_digits", "--steps", 2, "--hidden", 8, "--batch-size", 8)
    for quantizer, names in (("continuous", {"psnr", "l1"}), ("plain", {"psnr", "codes_used"})):
        shown = invoke("train", *small, "--quantizer", quantizer, "--device", "cpu")
        assert shown.exit_code == 0, shown.stderr
        printed = {line.split()[0] for line in shown.stdout.splitlines()[:-1]}
        assert names <= printed
        assert len(printed) == (2 if quantizer == "continuous" else 7)


def test_the_help_of_train_names_every_quantizer():
    shown = invoke("train", "--help")
    named = re.search(r"--quantizer TEXT(.*?)--seed", shown.output, re.DOTALL)[1]
    assert named.replace(",", " ").split() == [*ALL_QUANTIZERS]


def test_train_refuses_what_it_does_not_know():
    shown = invoke("train", "--quantizer", "magic")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("Error: quantizer 'magic' is unknown")


def test_doctor_lists_versions_device_precision_notebooks_and_models():
    shown = invoke("doctor")
    assert shown.exit_code == 0, shown.output
    words = shown.output.split()
    assert {"torch", "papermill", "plotly", "device", "precision", "kernel"} <= set(words)
    assert not {"missing", "old"} & set(words)
    assert re.search(r"^ok +notebooks +17; from the checkout, ", shown.output, re.MULTILINE)
    assert re.search(
        r"^ok +models +digits, .*mnist, .*photos_samp_pixels; from the checkout",
        shown.output,
        re.MULTILINE,
    )
    assert shown.output.endswith("Everything is in place.\n")


@pytest.fixture
def installed(monkeypatch):
    """Makes `arcvq doctor` find these versions, and no package where the version is None."""
    real_version = cli.version

    def change(**versions):
        def version(name):
            found = versions[name] if name in versions else real_version(name)
            if found is None:
                raise cli.PackageNotFoundError
            return found

        monkeypatch.setattr(cli, "version", version)

    return change


def packages(extra):
    """The names of the packages that an extra adds."""
    return [requirement.name for requirement in cli._requirements(extra)]


@pytest.mark.parametrize("name", ["torch", "plotly"])
@pytest.mark.parametrize(("found", "state"), [("0.1", "too old"), (None, "missing")])
def test_doctor_names_what_is_missing_or_old_and_its_fix(installed, name, found, state):
    installed(**{name: found})
    shown = invoke("doctor")
    assert shown.exit_code == 1, shown.stderr
    assert re.search(f"^{state} +{name} ", shown.output, re.MULTILINE)
    assert f'-m pip install "{name}>=' in shown.output


@pytest.mark.parametrize("own", [(), ("pandas", "pillow", "scikit-learn")])
def test_doctor_takes_a_core_without_extras_for_a_small_installation(installed, own):
    extras = packages("kit") + packages("baselines") + packages("ray")
    installed(**{name: None for name in extras if name not in own})
    shown = invoke("doctor")
    assert shown.exit_code == 0, shown.output
    for extra in ("kit", "baselines", "ray"):
        line = rf"^without +extra {extra} +not installed; .* pip install 'arcvq\[{extra}\]'$"
        assert re.search(line, shown.output, re.MULTILINE)
    assert shown.output.endswith("Everything is in place.\n")


def test_doctor_takes_a_kit_without_some_of_its_packages_for_broken(installed):
    installed(anywidget=None, papermill=None)
    shown = invoke("doctor")
    assert shown.exit_code == 1, shown.output
    assert len(re.findall("^missing", shown.output, re.MULTILINE)) == 2
    assert shown.output.count("To fix: ") == 2


def test_notebooks_copies_what_came_with_arcvq_and_says_how_to_start(tmp_path):
    shown = invoke("notebooks", tmp_path / "my course")
    assert shown.exit_code == 0, shown.stderr
    first, second = shown.stdout.splitlines()
    assert first == f"17 notebooks are in {tmp_path / 'my course'}"
    assert second == f"To start: jupyter lab '{tmp_path}/my course/00_start_here.ipynb'"
    (tmp_path / "my course" / "00_start_here.ipynb").write_text("{}")
    again = invoke("notebooks", tmp_path / "my course")
    assert again.exit_code == 2
    assert "00_start_here.ipynb is there and differs" in again.stderr


def test_doctor_warns_where_jupyterlab_would_start_another_python(monkeypatch, tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python"], "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    shown = invoke("doctor")
    assert shown.exit_code == 1, shown.output
    (line,) = [line for line in shown.output.splitlines() if line.startswith("wrong")]
    assert "kernel python3" in line
    assert line.endswith(f"/nowhere/python (by {folder / 'kernel.json'}) is not this Python")
    assert f"To fix: remove or rename the folder {folder}" in shown.output
    assert shown.output.endswith("Not everything is in place.\n")


def test_sweep_writes_a_table_and_a_page_of_maps(data_folder):
    out = data_folder / "swept"
    axes = ("--margin", "0,0.3", "--radius", "2:8:2")
    small = ("--steps", 2, "--num-codes", 16, "--batch-size", 8, "--lr", 1e-3, "--dim", 4)
    shown = invoke("sweep", *axes, *small, "--workers", 1, "--device", "cpu", "--out", out)
    assert shown.exit_code == 0, shown.stderr
    rows = pd.read_parquet(out / "sweep.parquet")
    assert len(rows) == 4
    assert {*rows.batch_size} == {8}
    assert {*rows.lr} == {1e-3}
    assert {*rows.dim} == {4}
    page = (out / "index.html").read_text()
    assert "<h1>How do the settings of SAMP act together?</h1>" in page
    assert page.count("plotly-graph-div") == 2
    assert "4 runs" in page
    titles = "| margin m (rad) | radius: exponent alpha T at the end of the run | PSNR (dB) |"
    assert titles in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("Wrote 4 rows to ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--margin", "0:1:0"), "--margin is '0:1:0'; it must be as in 1:5:3"),
        (("--margin", "0,2"), "margin is 2.0 rad; it must be at least 0"),
        (("--margin", "0,1", "--workers", 0), "workers is 0; it must be a whole number from 1"),
        (("--margin", "0,1", "--seeds", 0), "seeds is 0; it must be a whole number from 1"),
        (("--margin", "0.1"), "nothing varies; give an axis with two values or more"),
    ],
)
def test_sweep_refuses_what_cannot_be_before_it_trains(data_folder, words, sentence):
    shown = invoke("sweep", *words, "--out", data_folder / "swept")
    assert shown.exit_code == 2
    assert sentence in shown.stderr
    assert not (data_folder / "swept").exists()
    assert not (data_folder / "runs").exists()


def test_experiment_writes_rows_a_table_and_a_page(data_folder):
    out = data_folder / "found"
    small = ("--dataset", "plain_digits", "--steps", 2, "--num-codes", 16, "--seeds", 1)
    only = ("--only", "SAMP", "--only", "plain VQ")
    machine = ("--workers", 1, "--device", "cpu")
    shown = invoke("experiment", "paper", *small, *only, *machine, "--out", out)
    assert shown.exit_code == 0, shown.stderr
    rows = pd.read_parquet(out / "paper.parquet")
    assert rows.variant.tolist() == ["plain VQ", "SAMP"]
    table = (out / "paper.md").read_text()
    assert f"| SAMP | {rows.psnr[1]:.2f} |" in table
    assert table in shown.stdout
    page = (out / "index.html").read_text()
    assert page.count("plotly-graph-div") == 1
    assert f"<td>{rows.psnr[1]:.2f}</td>" in page


def test_an_experiment_can_hold_the_papers_rate_of_the_ball(data_folder):
    out = data_folder / "found"
    small = ("--dataset", "plain_digits", "--steps", 2, "--num-codes", 16, "--seeds", 1)
    machine = ("--workers", 1, "--device", "cpu", "--only", "SAMP")
    shown = invoke("experiment", "paper", *small, *machine, "--paper-rate", "--out", out)
    assert shown.exit_code == 0, shown.stderr
    (rate,) = pd.read_parquet(out / "paper.parquet").ball_rate
    assert rate == pytest.approx(3e-4 / (3e-4 * 8), rel=0.01)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("papers",), "experiment 'papers' is unknown; known are paper, best, best_search"),
        (("paper", "--seeds", 0), "seeds is 0; it must be a whole number from 1"),
        (("paper", "--only", "VQ"), "variant 'VQ' is unknown; paper has 'continuous', 'plain VQ'"),
        (("paper", "--dataset", "faces"), "faces"),
        (("paper", "--search-steps", 5), "search_steps is 5; paper has no search"),
        (("best", "--search-steps", 0), "search_steps is 0; it must be a whole number from 1"),
        (
            ("paper", "--dataset", "plain_digits", "--batch-size", 1438),
            "batch_size is 1438; it must be at most 1437, the training images",
        ),
        (
            ("gradients", "--dataset", "plain_digits", "--train-images", 1438),
            "train_images is 1438; it must be a whole number from 1 to 1,437",
        ),
    ],
)
def test_experiment_refuses_what_cannot_be_before_it_trains(data_folder, words, sentence):
    shown = invoke("experiment", *words, "--out", data_folder / "found")
    assert shown.exit_code == 2
    assert sentence in shown.stderr
    assert not (data_folder / "found").exists()


def test_experiment_says_which_options_have_no_effect(data_folder, monkeypatch):
    def nothing(*arguments, **options):
        raise RuntimeError("nothing was run")

    monkeypatch.setattr(experiments, "run_experiment", nothing)
    shown = invoke("experiment", "codes_per_step", "--num-codes", 64, "--dim", 8)
    assert "Note: --num-codes has no effect in codes_per_step, which has values" in shown.stderr
    assert "--dim" not in shown.stderr
    alone = invoke("experiment", "gradients", "--workers", 7)
    assert "Note: --workers has no effect in gradients, whose runs go one after" in alone.stderr
    with_own = invoke("experiment", "regime", "--num-codes", 64, "--workers", 7)
    assert "has no effect" not in with_own.stderr


@pytest.mark.parametrize("rows_of_a_run", [1, 40])
def test_experiment_ends_with_1_where_some_runs_failed(data_folder, monkeypatch, rows_of_a_run):
    good = pd.DataFrame({"variant": "a", "seed": [0] * rows_of_a_run, "error": None})
    failed = pd.DataFrame({"variant": ["a"], "seed": 1, "error": "out of memory"})
    rows = pd.concat([good, failed], ignore_index=True)
    earlier = pd.DataFrame({"variant": ["b", "b"], "seed": [0, 1], "error": "diverged"})
    everything = pd.concat([rows, earlier], ignore_index=True)
    experiment = dataclasses.replace(
        experiments.EXPERIMENTS["paper"], table=lambda rows: pd.DataFrame({"a": ["1"]})
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "paper", experiment)

    def run_experiment(*args, out, **options):
        out.mkdir(parents=True)
        everything.to_parquet(out / "paper.parquet")
        return rows

    monkeypatch.setattr(experiments, "run_experiment", run_experiment)
    monkeypatch.setattr(experiment_results, "pictures", lambda rows: [])
    shown = invoke("experiment", "paper", "--out", data_folder / "found")
    assert shown.exit_code == 1, shown.stderr
    assert "1 of 2 runs failed; the first: out of memory" in shown.stderr
    assert f"Wrote {rows_of_a_run + 3} rows, 3 of them of failed runs, to " in shown.stdout


def test_a_page_of_somebody_else_is_not_replaced_by_that_of_an_experiment(data_folder):
    page = data_folder / "index.html"
    page.write_text("mine")
    rows = data_folder / "paper.parquet"
    for words in (("experiment", "paper"), ("sweep", "--margin", "0,0.3")):
        for is_again in (False, True):  # an experiment that goes on is no reason to replace it
            if is_again:
                rows.touch()
                rows.with_name("sweep.parquet").touch()
            shown = invoke(*words, "--out", data_folder)
            assert shown.exit_code == 2
            assert "was not written by arcvq" in shown.stderr
            assert page.read_text() == "mine"


@pytest.fixture
def pictures(tmp_path):
    """A divided folder: 18 images for training and 2 for test, one broken file and one text."""
    folder = tmp_path / "pictures"
    for number in range(20):
        part = "test" if number > 17 else "train"
        path = folder / part / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (10 * number, 99, 0)).save(path)
    shutil.copy(folder / "train" / "a" / "0.png", folder / "test" / "a" / "again.png")
    (folder / "train" / "a" / "broken.png").write_text("no image")
    (folder / "notes.txt").touch()
    return folder


def test_images_says_what_a_folder_holds_and_ends_with_1_where_files_are_broken(pictures):
    result = invoke("images", pictures)
    assert result.exit_code == 1
    assert "22 images in 2 classes (test 3, train 19); 1 left out" in result.output
    assert "the same file 2 times, across parts: test/a/again.png, train/a/0.png" in result.output
    assert "cannot be read: 1\n  train/a/broken.png: " in result.output
    (pictures / "train" / "a" / "broken.png").unlink()
    assert invoke("images", pictures).exit_code == 0


def test_train_checks_the_settings_before_it_reads_images(pictures):
    shown = invoke("train", "--dataset", f"folder:{pictures}", "--lr", -1)  # a file is broken
    assert shown.exit_code == 2
    assert shown.stderr == "Error: lr is -1.0; it must be a finite number above 0\n"
    assert shown.stdout == ""


def test_sweep_lowers_the_batch_of_the_profile_but_not_one_that_is_given(
    pictures, data_folder, monkeypatch
):
    def nothing(experiment, base, data, **options):
        raise RuntimeError(f"a batch of {base.batch_size} of {len(data.train)} images")

    folder = ("--dataset", f"folder:{pictures}", "--size", 16, "--skip-broken")
    out = ("--out", data_folder / "swept")
    with monkeypatch.context() as patches:
        patches.setattr(experiments, "run_experiment", nothing)
        lowered = invoke("sweep", "--margin", "0,1", *folder, *out)
    assert "Note: the batch of the profile quick, 32 images, is lowered to 16" in lowered.stderr
    assert "a batch of 16 of 16 images" in lowered.stderr
    shown = invoke("sweep", "--margin", "0,1", *folder, "--batch-size", 32, *out)
    assert shown.exit_code == 2
    assert "Error: batch_size is 32; it must be at most 16, the training images" in shown.stderr
    assert not (data_folder / "swept").exists()


def test_train_says_what_it_reads_and_lowers_the_batch_of_the_profile(pictures, data_folder):
    words = ["train", "--dataset", f"folder:{pictures}", "--size", 16, "--skip-broken"]
    words += ["--steps", 2, "--hidden", 8, "--num-codes", 8, "--dim", 4, "--device", "cpu"]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "22 images in 2 classes" in result.output
    assert "Note: the batch of the profile quick, 32 images, is lowered to 16" in result.output
    (folder,) = (data_folder / "runs").iterdir()
    assert f"the run is kept in {folder}" in result.output
    refused = invoke(*words, "--batch-size", 32)
    assert refused.exit_code == 2
    assert "batch_size is 32; it must be at most 16" in refused.output
