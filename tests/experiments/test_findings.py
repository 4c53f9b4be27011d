import itertools

import pandas as pd
import pytest

from arcvq.experiments import findings
from arcvq.experiments.gradient_study import HELD

LEVELS = {"continuous": 30.0, "plain VQ": 20.0, "cosine": 22.9, "CVQ": 20.0, "BBNR alone": 22.0, "margin alone": 23.0,
          "SAMP": 23.0, "SAMP without stop-gradient": 21.0, "FSQ": 25.0}
PAPER = pd.DataFrame([
    {"variant": name, "seed": seed, "psnr": level + 0.1 * seed, "codes_used": 10 * level, "data": "mnist",
     "steps": 1000}
    for (name, level), seed in itertools.product(LEVELS.items(), range(3))])


def test_samp_and_its_peers_are_told_with_whose_intervals_overlap():
    assert findings._peers(PAPER) == (
        "On MNIST after 1,000 steps SAMP reaches 23.10 (23.00 to 23.20) dB, plain VQ 20.10 (20.00 to 20.20), cosine "
        "23.00 (22.90 to 23.10), CVQ 20.10 (20.00 to 20.20); its interval overlaps with cosine.")
    better = PAPER.assign(psnr=PAPER.psnr + (PAPER.variant == "SAMP"))
    assert findings._peers(better).endswith("; its interval overlaps with none of theirs.")


def test_the_best_quantizer_and_the_place_of_samp_are_found():
    told = findings._best(PAPER)
    assert told.startswith("Of 5 quantizers FSQ reconstructs best: 25.10 (25.00 to 25.20) dB, which closes 0.50 (0.50")
    assert "SAMP comes second and closes 0.30" in told and told.endswith("overlaps with cosine.")


def test_usage_is_told_with_its_rank_correlation():
    told = findings._usage(PAPER)
    assert "rank correlation of 1.00" in told and "Codes used, and dB: FSQ 250 (25.10), SAMP 230 (23.10), " in told
    assert "rank correlation of -1.00" in findings._usage(PAPER.assign(codes_used=-PAPER.codes_used))


@pytest.mark.parametrize("worst, sentence", [
    (3.0, "the steadiest (exponential scaled) is at most 1.00 dB below the best of its length. "
          "Others, in dB: exponential per step 3.00, no ball 2.00."),
    (1.0, "the steadiest (exponential per step, exponential scaled) is at most 1.00 dB below the best of its length. "
          "Others, in dB: no ball 2.00."),
])
def test_the_steadiest_schedule_is_the_one_that_is_never_far_below_the_best(worst, sentence):
    psnr = {"exponential scaled": (19.0, 30.0), "exponential per step": (20.0 - worst, 29.5), "no ball": (18.0, 29.0),
            "constant 1": (20.0, 20.0)}
    rows = pd.DataFrame([{"half": "radius", "schedule": name, "steps": steps, "psnr": value, "seed": 0}
                         for name, values in psnr.items() for steps, value in zip((100, 400), values, strict=True)])
    told = findings._schedules(rows, "radius")
    assert told == f"Over runs of 100, 400 steps {sentence}"


@pytest.mark.parametrize("start, until", [(4.0, "above 1 until step 30"), (0.5, "never above 1")])
def test_the_gradients_are_told_until_the_margin_no_longer_leads(start, until):
    rows = pd.DataFrame([
        {"variant": name, "seed": seed, "step": step, "steps": 40, "reconstruction_at_latents": 2.0,
         "margin_at_latents": 2.0 * start / (step / 10), "angle_reconstruction_margin": 90.0,
         "codes_on_ball": 0.6 if name == HELD and step < 30 else 0.1,
         "growth_usage_correlation": {HELD: 0.1, "SAMP": 0.4}[name] + 0.01 * seed + (step > 20)}
        for name, seed, step in itertools.product((HELD, "SAMP"), range(3), (10, 20, 30))])
    told = findings._gradients(rows)
    assert f"is {start:.1f} at step 10 of 40, {until}, and the angle of the two is 90.0 degrees" in told
    assert told.endswith(f"{HELD} 0.110 (0.100 to 0.120) rank correlation, SAMP 0.410 (0.400 to 0.420) rank "
                         "correlation: the intervals do not overlap.")
