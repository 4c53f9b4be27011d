import pytest
import torch

from arcvq.runtime.devices import choose_device, choose_precision, has_fast_bfloat16


def test_auto_takes_an_accelerator_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_with_those_that_can(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here; use 'auto', or one of 'cpu'"):
        choose_device(name)


def test_precision_follows_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    for amx, avx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        assert has_fast_bfloat16(cpu) == (amx or avx)
        assert choose_precision("auto", cpu) == (torch.bfloat16 if amx or avx else torch.float32)
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match="precision 'float8' is unknown"):
        choose_precision("float8", cpu)
