import json

import pytest
import torch

from arcvq.runtime.checkpoints import load_checkpoint, save_checkpoint

SETTINGS = {"lr": 0.1, "steps": 5}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "checkpoint.pt", {"settings": {}})


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"settings": SETTINGS, "weights": torch.arange(100.0)})
    assert torch.equal(load_checkpoint(path, SETTINGS)["weights"], torch.arange(100.0))


def test_a_checkpoint_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"settings": SETTINGS})
    with pytest.raises(ValueError, match=r"other settings \(lr was 0\.1 and is now 0\.2\)"):
        load_checkpoint(path, {**SETTINGS, "lr": 0.2})
    with pytest.raises(ValueError, match=r"other settings \(steps was 5 and is now None\)"):
        load_checkpoint(path, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"other settings \(losses was None and is now 'L1'\)"):
        load_checkpoint(path, {**SETTINGS, "losses": "L1"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"checkpoint .*checkpoint\.pt is damaged"):
        load_checkpoint(path, SETTINGS)
    save_checkpoint(path, {"settings": SETTINGS, "format": 99})
    with pytest.raises(ValueError, match="has format 99"):
        load_checkpoint(path, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_told_without_the_advice_of_pytorch(content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged \(.+\); delete it to start .* again$") as told:
        load_checkpoint(path, SETTINGS)
    assert "weights_only" not in str(told.value)


def test_settings_that_earlier_versions_wrote_as_json_texts_are_the_same(tmp_path):
    path = tmp_path / "checkpoint.pt"
    samp = {"margin": 0.1, "radius": None}
    save_checkpoint(path, {"settings": {"model": {"samp": json.dumps(samp)}}})
    load_checkpoint(path, {"model": {"samp": samp}})
    with pytest.raises(ValueError, match="belongs to other settings"):
        load_checkpoint(path, {"model": {"samp": {**samp, "margin": 0.2}}})
