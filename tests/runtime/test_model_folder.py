import copy
import json
from pathlib import Path

import pytest
import torch

from arcvq.autoencoder import Autoencoder
from arcvq.priors import BigramPrior, PixelCNN, Prior
from arcvq.quantizers import EMAQuantizer
from arcvq.runtime import model_folder
from arcvq.vqvae import VQVAE

MAKERS = {
    "model": lambda: VQVAE(1, EMAQuantizer(7, 4), hidden=8, residual_hidden=4),
    "network prior": lambda: PixelCNN(5, (3, 4), codebook=torch.eye(5), width=8, layers=1),
    "counting prior": lambda: BigramPrior(5, (3, 4)),
}


@pytest.fixture(params=MAKERS)
def module(request):
    """Anything that is saved as weights and config."""
    torch.manual_seed(0)
    return MAKERS[request.param]()


def opened(module, folder):
    base = Prior if isinstance(module, Prior) else Autoencoder
    return base.from_pretrained(folder)


def change_config(folder, change):
    """Apply `change` to the dict in config.json."""
    file = folder / "config.json"
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


def test_what_was_saved_opens_in_evaluation_mode_with_its_weights(module, tmp_path):
    module.save_pretrained(tmp_path)
    copy = opened(module, tmp_path)
    assert type(copy) is type(module)
    assert not copy.training
    state = copy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_opening_raises_half_precision_to_float32_and_loses_no_digit(module, tmp_path, precision):
    module.to(precision)
    for weight in module.state_dict().values():
        if weight.is_floating_point():
            weight.copy_(torch.rand_like(weight))
    module.save_pretrained(tmp_path)
    copy = opened(module, tmp_path).state_dict()
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            assert copy[name].dtype == torch.promote_types(value.dtype, torch.float32), name
        assert torch.equal(copy[name], value.to(copy[name].dtype)), name


def test_opening_leaves_the_callers_random_numbers_alone(module, tmp_path):
    module.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    opened(module, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_or_tables_with_nan_are_named_and_not_opened(module, tmp_path):
    floats = [name for name, value in module.state_dict().items() if value.is_floating_point()]
    for name in floats:
        state = {key: value.clone() for key, value in module.state_dict().items()}
        state[name].view(-1)[0] = torch.nan
        damaged = copy.deepcopy(module)
        damaged.load_state_dict(state)
        damaged.save_pretrained(tmp_path)
        message = f"in {tmp_path} cannot be used: {name} holds NaN or infinity"
        with pytest.raises(ValueError, match=message):
            opened(module, tmp_path)


def test_a_buffer_may_hold_infinity_and_a_parameter_may_not():
    network = torch.nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    model_folder.check_weights(network, "the network")
    network.bias.data[1] = torch.inf
    with pytest.raises(ValueError, match="the network cannot be used: bias holds NaN or infinity"):
        model_folder.check_weights(network, "the network")


def test_a_buffer_that_two_layers_share_is_a_buffer_under_both_names():
    mask = torch.full((2, 2), -torch.inf)
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    for layer in layers:
        layer.register_buffer("mask", mask)
    model_folder.check_weights(layers, "the model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(module, missing, tmp_path):
    module.save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {missing}; a (model|prior) is config"):
        opened(module, tmp_path)


def test_a_config_that_lacks_a_field_is_told_apart_from_one_that_names_it(module, tmp_path):
    field = "grid" if isinstance(module, Prior) else "quantizer"
    message = "KeyError 'grid'" if isinstance(module, Prior) else "it is no model of format 1"
    module.save_pretrained(tmp_path)
    change_config(tmp_path, lambda fields: fields.pop(field))
    with pytest.raises(ValueError, match=f"cannot be opened: {message}"):
        opened(module, tmp_path)


@pytest.mark.parametrize("config", [[], [1], "text", 3, None])
def test_a_config_that_is_no_json_object_is_refused_with_a_sentence(module, config, tmp_path):
    module.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot be opened: config\.json holds no JSON object"):
        opened(module, tmp_path)


@pytest.mark.parametrize("quantizer", ["text", [1], None])
def test_a_quantizer_that_is_no_json_object_is_refused_with_a_sentence(quantizer, tmp_path):
    MAKERS["model"]().save_pretrained(tmp_path)
    change_config(tmp_path, lambda fields: fields.update(quantizer=quantizer))
    with pytest.raises(ValueError, match="cannot be opened: it is no model of format 1"):
        VQVAE.from_pretrained(tmp_path)


def test_where_one_file_cannot_be_written_both_stay_as_they_were(module, tmp_path, monkeypatch):
    def full_disk(file, *arguments, **options):
        raise OSError(28, "No space left on device")

    module.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with torch.no_grad():
        next(iter(module.state_dict().values())).add_(1)
    monkeypatch.setattr(Path, "write_text", full_disk)  # weights are written by other means
    with pytest.raises(OSError, match="No space left"):
        module.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_folders_below_the_home_folder_open(module, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    module.save_pretrained("~/saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    opened(module, "~/saved")
