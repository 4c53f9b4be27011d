"""The replay of a training run in JupyterLab."""

import numpy as np

from tests.browser.lab import pixels

RUNS = """
import pandas as pd, torch, arcvq
from arcvq.training import Run, Snapshot

def make_run(quantizer):
    shots = {step: Snapshot(torch.randn(64, 3, generator=torch.Generator().manual_seed(step)) * (1 + step / 10),
                            torch.arange(64) * (step > 0)) for step in (0, 10, 20)}
    history = pd.DataFrame({"step": [5, 10, 15, 20], "codes_used": [3, 6, 9, 12], "perplexity": [2.0, 3, 4, 5],
                            "psnr": [10.0, 12, 13, 14]})
    return Run(arcvq.VQVAE(1, quantizer, hidden=4, residual_hidden=2), history.to_dict("records"), shots, {}, 1.0)

samp = arcvq.SAMP(radius=arcvq.schedules.Exponential(0.05), weight=None)
runs = {"plain": make_run(arcvq.EuclideanQuantizer(64, 3)), "samp": make_run(arcvq.SphericalQuantizer(64, 3, samp))}
"""
REPLAY = "from arcvq.explorers import TrainingReplay\nreplay = TrainingReplay(runs, step=0)\nreplay"


def test_a_key_moves_codes_cursor_and_pixels(open_notebook):
    notebook = open_notebook(RUNS, REPLAY)
    figure, before = notebook.figure(), notebook.data()
    picture = pixels(figure)
    notebook.press("arcvq-step")
    after = notebook.data()
    used = [
        [len(trace.get("x", [])) for trace in data if trace["name"] == "used codes"]
        for data in (before, after)
    ]
    assert used == [[0, 0], [63, 63]]
    assert [trace["x"] for trace in after if trace["name"] == "this step"] == [[10, 10]] * 3
    assert (np.abs(pixels(figure) - picture).max(axis=2) > 40).mean() > 0.005
    notebook.press("arcvq-step", "ArrowLeft")
    assert notebook.data() == before


def test_both_scenes_turn_together(open_notebook):
    notebook = open_notebook(RUNS, REPLAY)
    figure = notebook.figure()
    box = figure.locator("#scene canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    eyes = "gd => ['scene', 'scene2'].map(name => JSON.stringify(gd._fullLayout[name]._scene.getCamera().eye))"
    before = figure.evaluate(eyes)
    notebook.page.mouse.move(x, y)
    notebook.page.mouse.down()
    notebook.page.mouse.move(x + 80, y + 20, steps=5)
    notebook.page.mouse.up()

    def both_turned():
        now = figure.evaluate(eyes)
        return len(set(now)) == 1 and now[0] != before[0]

    notebook.wait(both_turned, "the second scene did not follow")
    turned = figure.evaluate(eyes)
    notebook.press("arcvq-step", times=2)
    assert figure.evaluate(eyes) == turned
