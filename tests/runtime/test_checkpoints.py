import json

import pytest
import torch

from arcvq.runtime.checkpoints import load_checkpoint, save_checkpoint


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "checkpoint.pt", {"settings": {}})


def test_checkpoint_round_trip_and_refusals(tmp_path):
    path, settings = tmp_path / "checkpoint.pt", {"lr": 0.1, "steps": 5}
    save_checkpoint(path, {"settings": settings, "weights": torch.arange(100.0)})
    assert torch.equal(load_checkpoint(path, settings)["weights"], torch.arange(100.0))
    with pytest.raises(ValueError, match=r"other settings \(lr was 0\.1 and is now 0\.2\)"):
        load_checkpoint(path, {**settings, "lr": 0.2})
    save_checkpoint(path, {"settings": settings, "format": 99})
    with pytest.raises(ValueError, match="has format 99"):
        load_checkpoint(path, settings)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"checkpoint .*checkpoint\.pt is damaged"):
        load_checkpoint(path, settings)


def test_settings_that_earlier_versions_wrote_as_json_texts_are_the_same(tmp_path):
    samp = {"margin": 0.1, "radius": None}
    save_checkpoint(tmp_path / "c.pt", {"settings": {"model": {"samp": json.dumps(samp)}}})
    load_checkpoint(tmp_path / "c.pt", {"model": {"samp": samp}})
    with pytest.raises(ValueError, match="belongs to other settings"):
        load_checkpoint(tmp_path / "c.pt", {"model": {"samp": {**samp, "margin": 0.2}}})
