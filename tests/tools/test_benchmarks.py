"""The measurements of benchmarks/: what they compare, and the call for a GPU."""

import sys

import torch

from arcvq import SAMP, SphericalQuantizer
from arcvq.experiments.paper_table import PAPER_QUANTIZERS
from benchmarks import gpu, speed
from benchmarks.steps import PublishedForm


def test_the_published_form_has_the_same_loss_and_gradients_as_ours():
    torch.manual_seed(0)
    ours = SphericalQuantizer(32, 8, samp=SAMP.for_run(100)).double()
    theirs = PublishedForm(32, 8, samp=SAMP.for_run(100)).double()
    theirs.load_state_dict(ours.state_dict())
    vectors = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    found = []
    for quantizer in (ours, theirs):
        latents = vectors.clone().requires_grad_()
        output = quantizer.train()(latents)
        (output.loss + output.codes.square().sum()).backward()
        found.append((output.loss, output.indices, latents.grad, quantizer.codebook.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_the_call_for_a_gpu_says_how_each_command_ended(tmp_path):
    python = [sys.executable, "-c"]
    planned = {
        "good": [*python, "import benchmarks; benchmarks.write_report('good.md', 'a table')"],
        "bad": [*python, "raise SystemExit(3)"],
    }
    assert gpu.measure(planned, tmp_path, seconds=300) == {"good": "passed", "bad": "failed"}
    assert (tmp_path / "good.md").read_text() == "a table", "it goes to the folder of the call"

    planned = {"long": [*python, "import time; time.sleep(300)"], "late": [*python, "pass"]}
    endings = {"long": "stopped", "late": "not begun"}
    assert gpu.measure(planned, tmp_path, seconds=2) == endings
    report = (tmp_path / "report.md").read_text()
    for name, ending in endings.items():
        assert f"| {name} | {ending} |" in report


def test_the_call_for_a_gpu_trains_quantizers_of_the_papers_table():
    assert set(gpu.QUANTIZERS) <= set(PAPER_QUANTIZERS)


def test_the_report_on_speed_holds_what_has_been_measured():
    assert speed.markdown({"machine": "a processor"}) == "Medians. a processor.\n"
    found = {"many": {"settings": 64, "alone": 4.0, "together": 100.0}, "machine": "a processor"}
    assert (
        "64 settings of the quick profile take 100 s together, 25 times as long"
        in speed.markdown(found)
    )
