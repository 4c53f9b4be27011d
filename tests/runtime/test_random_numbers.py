"""Tests of arcvq.runtime.random_numbers."""

import pytest
import torch

from arcvq.runtime.random_numbers import isolated_rng

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_the_callers_generator_stays_as_it_was(seed):
    before = torch.get_rng_state()
    with isolated_rng(seed):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_generator_stays_as_it_was_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), isolated_rng(5):
        torch.rand(3)
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_what_is_drawn():
    torch.manual_seed(7)
    expected = torch.rand(3)
    with isolated_rng(7):
        assert torch.equal(torch.rand(3), expected)
    with isolated_rng(8):
        assert not torch.equal(torch.rand(3), expected)


def test_without_a_seed_the_numbers_are_those_that_would_have_come_next():
    torch.manual_seed(7)
    with isolated_rng():
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), inside)


def test_cuda_is_not_seeded_as_long_as_it_is_not_in_use(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with isolated_rng(5):
        torch.rand(3)
    assert seeds == []


@on_gpu
@pytest.mark.parametrize("seed", [None, 5])
def test_the_generator_of_the_gpu_stays_as_it_was(seed):
    torch.rand(1, device="cuda")  # from here on CUDA is in use
    before = torch.cuda.get_rng_state()
    with isolated_rng(seed):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


@on_gpu
def test_the_seed_decides_what_is_drawn_on_the_gpu():
    torch.rand(1, device="cuda")
    drawn = []
    for seed in (7, 7, 8):
        with isolated_rng(seed):
            drawn.append(torch.rand(3, device="cuda"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
