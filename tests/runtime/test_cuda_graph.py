"""The logic of recording and replaying, on a stand-in for CUDA graphs that runs what was recorded again."""

import contextlib

import pytest
import torch

from arcvq.runtime.cuda_graph import WARM_UP, CapturedStep


class Graph:
    """As a CUDA graph does, it does nothing while recording and the same work on the same memory at each replay."""

    def replay(self):
        self.work()


@pytest.fixture
def cuda(monkeypatch):
    """`torch.cuda` with streams that do nothing and graphs that replay; yields the graphs that were recorded."""
    graphs = []

    class Recorder:
        def __init__(self):
            graphs.append(Graph())

        def __getattr__(self, name):
            return getattr(graphs[-1], name)

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    return graphs


class Counter:
    """A step whose only effect is on tensors; while it is recorded its work is handed to the graph."""

    def __init__(self, graphs):
        self.graphs, self.total, self.factor, self.recorded_at = graphs, torch.zeros(()), 1.0, 0

    def __call__(self, batch):
        factor = self.factor

        def work():
            self.total += factor * batch.sum()

        if len(self.graphs) > self.recorded_at:
            self.recorded_at = len(self.graphs)
            self.graphs[-1].work = work
        else:
            work()


def test_every_call_is_one_step_on_its_own_batch(cuda):
    step = Counter(cuda)
    captured = CapturedStep(step, lambda: None)
    for value in range(1, 9):
        captured(torch.full((2, 1, 1, 1), float(value)))
        assert step.total == value * (value + 1)
    assert len(cuda) == 1


def test_nothing_is_recorded_in_the_warm_up(cuda):
    captured = CapturedStep(Counter(cuda), lambda: None)
    for _ in range(WARM_UP):
        captured(torch.ones(1, 1, 1, 1))
    assert not cuda
    captured(torch.ones(1, 1, 1, 1))
    assert len(cuda) == 1


def test_a_new_signature_is_recorded_anew_and_an_old_one_is_not(cuda):
    step = Counter(cuda)
    captured = CapturedStep(step, lambda: step.factor)
    for _ in range(5):
        captured(torch.ones(1, 1, 1, 1))
    step.factor = 10.0
    for _ in range(3):
        captured(torch.ones(1, 1, 1, 1))
    assert step.total == 35 and len(cuda) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_run_on_a_gpu_ends_like_an_eager_one():
    import arcvq

    images = arcvq.load_images("digits", device="cuda")
    ends = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = arcvq.VQVAE(1, arcvq.SphericalQuantizer(64, 8), hidden=16, residual_hidden=4)
        compute = arcvq.Compute("cuda", "float32", cuda_graph=recorded)
        recording = arcvq.Recording(progress=False)
        run = arcvq.fit(model, images, steps=30, compute=compute, recording=recording)
        ends.append(run.history.loss.iloc[-1])
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
