"""The logic of recording and replaying, on a stand-in for CUDA graphs that runs the work again."""

import contextlib

import pytest
import torch

import arcvq
from arcvq.runtime.cuda_graph import WARM_UP, CapturedStep


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def graphs(monkeypatch):
    """`torch.cuda` with streams that do nothing; gives the graphs that were recorded.

    As a CUDA graph, one of these does nothing while it is recorded and the same work on the same
    memory at each replay.
    """
    recorded = []

    class Graph:
        def __init__(self):
            recorded.append(self)

        def replay(self):
            self.work()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    return recorded


class Counter:
    """A step that adds to `total`; while it is recorded, its work is handed to the graph."""

    def __init__(self, graphs):
        self.graphs = graphs
        self.known_graphs = 0
        self.total = torch.zeros(())
        self.factor = 1.0

    def __call__(self, batch):
        factor = self.factor

        def work():
            self.total += factor * batch.sum()

        if len(self.graphs) == self.known_graphs:
            work()
        else:
            self.known_graphs = len(self.graphs)
            self.graphs[-1].work = work


def batch(value=1.0):
    return torch.full((2, 1, 1, 1), value)


def test_every_call_is_one_step_on_its_own_batch(graphs):
    step = Counter(graphs)
    captured = CapturedStep(step, lambda: None)
    for value in range(1, 9):
        captured(batch(float(value)))
        assert step.total == value * (value + 1)
    assert len(graphs) == 1


def test_nothing_is_recorded_in_the_warm_up(graphs):
    captured = CapturedStep(Counter(graphs), lambda: None)
    for _ in range(WARM_UP):
        captured(batch())
    assert not graphs
    captured(batch())
    assert len(graphs) == 1


def test_a_new_signature_is_recorded_anew_and_an_old_one_is_not(graphs):
    step = Counter(graphs)
    captured = CapturedStep(step, lambda: step.factor)
    for _ in range(5):
        captured(batch())
    step.factor = 10.0
    for _ in range(3):
        captured(batch())
    assert step.total == 2 * (5 + 30)
    assert len(graphs) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_run_on_a_gpu_ends_like_an_eager_one():
    images = arcvq.load_images("digits", device="cuda")
    losses = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = arcvq.VQVAE(1, arcvq.SphericalQuantizer(64, 8), hidden=16, residual_hidden=4)
        compute = arcvq.Compute("cuda", "float32", cuda_graph=recorded)
        recording = arcvq.Recording(progress=False)
        run = arcvq.fit(model, images, steps=30, compute=compute, recording=recording)
        losses.append(run.history["loss"].iloc[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
