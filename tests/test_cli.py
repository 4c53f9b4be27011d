"""The command: what it prints, its exit codes, and one sentence instead of a traceback."""

import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner

from arcvq import __version__, cli
from arcvq.reports import notebooks
from tests.reports.test_notebooks import write_notebook


def invoke(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_the_module_runs_as_the_command():
    shown = subprocess.run([sys.executable, "-m", "arcvq", "--version"], capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.strip().endswith(__version__)


def test_run_prints_a_line_a_notebook_and_the_report_and_ends_with_1_where_one_failed(tmp_path):
    good, bad = write_notebook(tmp_path / "good.ipynb", "x = 1"), write_notebook(tmp_path / "bad.ipynb", "1 / 0")
    shown = invoke("run", good, bad, "-p", "seed=5", "--out", tmp_path / "out")
    assert shown.exit_code == 1, shown.output
    first, second, last = shown.output.strip().splitlines()
    assert first.startswith("[1/2] good  passed in")
    assert second.startswith("[2/2] bad   failed in") and "ZeroDivisionError" in second
    assert last.startswith("1 of 2 notebooks passed") and last.endswith(f"Report: {tmp_path / 'out' / 'index.html'}")


def test_run_ends_with_0_where_all_passed(tmp_path):
    shown = invoke("run", write_notebook(tmp_path / "good.ipynb"), "--seed", 3, "--out", tmp_path / "out")
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "nonsense=1"], "Error: no chosen notebook has a parameter 'nonsense'"),
        (["-p", "nonsense"], "Error: -p takes NAME=VALUE, not 'nonsense'"),
        (["--profile", "huge"], "Error: profile 'huge' is unknown"),
        (["--device", "abacus"], "Error: device 'abacus' cannot be used here"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    shown = invoke("run", write_notebook(tmp_path / "a.ipynb"), "--out", tmp_path / "out", *arguments)
    assert shown.exit_code == 2
    assert shown.stderr.startswith(sentence) and len(shown.stderr.splitlines()) == 1 and not shown.stdout


def test_an_output_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").touch()
    shown = invoke("run", write_notebook(tmp_path / "a.ipynb"), "--out", tmp_path / "taken")
    assert shown.exit_code == 2 and str(tmp_path / "taken") in shown.stderr


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError, match="no/such"):
        CliRunner().invoke(cli.main, ["--debug", "run", "no/such.ipynb"], catch_exceptions=False)


@pytest.mark.parametrize(("words", "said"), [((), "Stopped"), (("saved at step 7",), "saved at step 7")])
def test_ctrl_c_ends_in_a_sentence_and_exit_code_130(monkeypatch, words, said):
    def interrupted(*_, **__):
        raise KeyboardInterrupt(*words)

    monkeypatch.setattr(notebooks, "run_notebooks", interrupted)
    shown = invoke("run")
    assert shown.exit_code == 130 and said in shown.stderr and "Traceback" not in shown.output


SMALL = ["--steps", 2, "--num-codes", 16, "--dim", 4, "--hidden", 8, "--residual-hidden", 4, "--batch-size", 8]


def test_train_prints_the_validation_figures_and_opens_the_stored_run_next_time(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    first = invoke("train", "--quantizer", "cosine", "--device", "cpu", "--train-images", 64, *SMALL)
    assert first.exit_code == 0, first.stderr
    figures = dict(line.split(maxsplit=1) for line in first.stdout.splitlines()[:-1])
    assert {"psnr", "usage", "perplexity", "codes_used"} <= set(figures) and float(figures["psnr"]) > 0
    assert first.stdout.splitlines()[-1].endswith(str(tmp_path / "runs"))
    again = invoke("train", "--quantizer", "cosine", "--device", "cpu", "--train-images", 64, *SMALL)
    assert again.stdout == first.stdout and "step" not in again.stderr


def test_train_refuses_what_it_does_not_know():
    shown = invoke("train", "--quantizer", "magic")
    assert shown.exit_code == 2 and shown.stderr.startswith("Error: quantizer 'magic' is unknown")


def test_doctor_lists_versions_device_and_precision(monkeypatch, tmp_path):
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    shown = invoke("doctor")
    assert shown.exit_code == 0, shown.output
    words = shown.output.split()
    assert {"torch", "papermill", "plotly", "device", "precision"} <= set(words) and "missing" not in words
    assert shown.output.endswith("Everything is in place.\n")


@pytest.mark.parametrize("found", ["2.0.0", None])
def test_doctor_names_what_is_missing_or_old_and_the_command_that_fixes_it(monkeypatch, tmp_path, found):
    def version(name):
        if name == "torch" and found is None:
            raise cli.PackageNotFoundError
        return found if name == "torch" else original(name)

    original = cli.version
    monkeypatch.setattr(cli, "version", version)
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    shown = invoke("doctor")
    assert shown.exit_code == 1
    assert "missing  torch" in shown.output and '-m pip install "torch>=2.11"' in shown.output


def test_sweep_writes_a_table_and_a_page_of_maps(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    shown = invoke("sweep", "--margin", "0,0.3", "--radius", "2:8:2", "--steps", 2, "--num-codes", 16, "--workers", 1,
                   "--device", "cpu", "--out", tmp_path / "swept")
    assert shown.exit_code == 0, shown.stderr
    assert len(pd.read_parquet(tmp_path / "swept" / "table.parquet")) == 4
    page = (tmp_path / "swept" / "index.html").read_text()
    assert "arcvq sweep" in page and page.count("plotly-graph-div") == 3 and "4 runs" in page
    assert shown.stdout.splitlines()[-1].startswith("4 runs: ")


@pytest.mark.parametrize("words, sentence", [
    (("--margin", "0:1:0"), "--margin is '0:1:0'; it must be as in 1:5:3"),
    (("--margin", "0,2"), "margin is 2.0 rad; it must be at least 0"),
    (("--margin", "0,1", "--workers", 0), "workers is 0; it must be at least 1"),
    (("--margin", "0,1", "--seeds", 0), "seeds is 0; it must be at least 1"),
    (("--margin", "0.1"), "nothing varies; give an axis with two values or more"),
])
def test_sweep_refuses_what_cannot_be_before_it_trains(tmp_path, monkeypatch, words, sentence):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    shown = invoke("sweep", *words, "--out", tmp_path / "swept")
    assert shown.exit_code == 2 and sentence in shown.stderr and not (tmp_path / "runs").exists()


def test_experiment_writes_rows_a_table_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    small = ("--dataset", "plain_digits", "--steps", 2, "--num-codes", 16, "--workers", 1, "--seeds", 1)
    shown = invoke("experiment", "paper", *small, "--only", "SAMP", "--only", "plain VQ", "--device", "cpu",
                   "--out", tmp_path / "found")
    assert shown.exit_code == 0, shown.stderr
    rows = pd.read_parquet(tmp_path / "found" / "paper.parquet")
    assert rows.variant.tolist() == ["plain VQ", "SAMP"]
    table, page = (tmp_path / "found" / "paper.md").read_text(), (tmp_path / "found" / "index.html").read_text()
    assert f"| SAMP | {rows.psnr[1]:.2f} |" in table and table in shown.stdout
    assert page.count("plotly-graph-div") == 1 and f"<td>{rows.psnr[1]:.2f}</td>" in page


@pytest.mark.parametrize("words, sentence", [
    (("papers",), "experiment 'papers' is unknown; known are paper, ablations, schedules"),
    (("paper", "--seeds", 0), "seeds is 0; it must be at least 1"),
    (("paper", "--only", "VQ"), "variant 'VQ' is unknown; paper has continuous, plain VQ"),
    (("paper", "--dataset", "faces"), "faces"),
])
def test_experiment_refuses_what_cannot_be_before_it_trains(tmp_path, monkeypatch, words, sentence):
    monkeypatch.setenv("ARCVQ_DATA", str(tmp_path))
    shown = invoke("experiment", *words, "--out", tmp_path / "found")
    assert shown.exit_code == 2 and sentence in shown.stderr and not (tmp_path / "found").exists()
