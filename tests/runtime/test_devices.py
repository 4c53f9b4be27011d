import pytest
import torch

from arcvq.runtime.devices import (
    choose_device,
    choose_precision,
    dtype_name,
    has_fast_bfloat16,
    threads_kept,
)

CPU = torch.device("cpu")


def test_auto_takes_an_accelerator_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_with_those_that_can(name):
    message = f"device '{name}' cannot be used here; use 'auto', or one of 'cpu'"
    with pytest.raises(ValueError, match=message):
        choose_device(name)


@pytest.mark.parametrize(("amx", "avx512"), [(True, False), (False, True), (False, False)])
def test_precision_follows_the_processor(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    fast = amx or avx512
    assert has_fast_bfloat16(CPU) == fast
    assert choose_precision("auto", CPU) == (torch.bfloat16 if fast else torch.float32)


def test_a_precision_may_be_named():
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    assert dtype_name(torch.bfloat16) == "bfloat16"
    with pytest.raises(ValueError, match="precision 'float8' is unknown"):
        choose_precision("float8", CPU)


def test_threads_are_as_before_at_the_end_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads_kept(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
