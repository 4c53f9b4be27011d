import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d, conv_transpose2d, normalize, relu

from arcvq.autoencoder import Autoencoder
from arcvq.quantizers import QUANTIZERS, CosineQuantizer, SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.vqgan import VQGAN
from arcvq.vqvae import VQVAE
from tests.dtypes import INTEGER_DTYPES


def small(channels=1, kind="samp", **sizes):
    quantizer = QUANTIZERS[kind](16, 8)
    return VQVAE(channels, quantizer, **{"hidden": 16, "residual_hidden": 4, **sizes})


def random_images(*shape):
    return torch.rand(*shape) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("downsample", [2, 4, 8])
def test_shapes_for_any_channel_count_and_downsampling(channels, downsample):
    images = random_images(2, channels, 32, 16)
    output = small(channels, downsample=downsample)(images)
    assert output.reconstruction.shape == images.shape
    assert output.latents.shape == (2, 8, 32 // downsample, 16 // downsample)
    assert output.quantized.codes.shape == output.latents.shape


def test_default_size_is_the_papers():
    model = VQVAE(1, SphericalQuantizer(512, 64))
    weights = {name: tensor for name, tensor in model.named_parameters() if "weight" in name}
    shapes = [tuple(weight.shape) for weight in weights.values()]
    residual = [(32, 128, 3, 3), (128, 32, 1, 1)] * 2
    encoder = [(64, 1, 4, 4), (128, 64, 4, 4), (128, 128, 3, 3), *residual, (64, 128, 1, 1)]
    decoder = [(128, 64, 3, 3), *residual, (128, 64, 4, 4), (64, 1, 4, 4)]
    assert shapes == encoder + decoder
    assert model.latents(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "continuous"])
def test_encode_decode_is_reconstruct_is_forward_in_evaluation(kind):
    model = small(kind=kind).eval()
    images = random_images(3, 1, 28, 28)
    indices = model.encode(images)
    output = model(images)
    assert torch.equal(indices, output.quantized.indices)
    assert torch.equal(model.decode(indices), output.reconstruction.clamp(-1, 1))
    assert torch.equal(model.reconstruct(images), model.decode(indices))


PRECISIONS = [torch.bfloat16, torch.float16, torch.float64]
HALF = PRECISIONS[:2]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "continuous"])
def test_a_model_in_any_precision_encodes_decodes_and_reconstructs(kind, precision):
    model = small(kind=kind).to(precision).eval()
    images = random_images(3, 1, 28, 28).to(precision)
    output = model(images)
    latents = output.latents.double().movedim(1, -1)
    codebook = model.quantizer.codebook.double()
    if model.quantizer.metric == "cosine":
        latents = normalize(latents, dim=-1)
        codebook = normalize(codebook, dim=-1)
    distances = torch.cdist(latents.flatten(0, 2), codebook)
    chosen = distances.gather(1, output.quantized.indices.view(-1, 1))[:, 0]
    assert torch.allclose(chosen, distances.amin(1), atol=1e-6), "the nearest of the rounded codes"

    assert output.latents.dtype == output.reconstruction.dtype == precision
    assert torch.equal(model.encode(images), output.quantized.indices)
    decoded = model.decode(output.quantized.indices)
    assert torch.equal(decoded, output.reconstruction.clamp(-1, 1))
    assert torch.equal(model.reconstruct(images), decoded)


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_reconstructs_nearly_what_float32_does(precision):
    model = small().eval()
    images = random_images(3, 1, 28, 28)
    indices = model.encode(images)
    expected = model.decode(indices)
    model.to(precision)
    assert (model.encode(images) == indices).double().mean() > 0.8
    assert torch.allclose(model.decode(indices).float(), expected, atol=0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_in_any_precision_learns(precision):
    model = small().to(precision)
    images = random_images(3, 1, 28, 28).to(precision)
    output = model(images)
    (output.reconstruction.float().square().mean() + output.quantized.loss).backward()
    model.quantizer.after_step()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    assert model.encoder[0].weight.grad.any()


@pytest.mark.parametrize(
    ("weights", "given"), list(product([torch.float32, *PRECISIONS], repeat=2))
)
def test_images_are_cast_to_the_precision_of_the_weights(weights, given):
    model = small().to(weights).eval()
    images = random_images(2, 1, 28, 28).to(given)
    cast = images.to(weights)
    assert torch.equal(model(images).reconstruction, model(cast).reconstruction)
    assert torch.equal(model.latents(images), model.latents(cast))
    assert torch.equal(model.encode(images), model.encode(cast))
    assert torch.equal(model.reconstruct(images), model.reconstruct(cast))


@pytest.mark.parametrize("given", [torch.float32, *PRECISIONS])
def test_under_autocast_the_network_runs_in_its_precision(given):
    model = small().eval()
    images = random_images(2, 1, 28, 28).to(given)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        expected = model.decoder(model.quantizer(model.encoder(images.float())).codes)
        assert output.latents.dtype == output.reconstruction.dtype == torch.bfloat16
        assert torch.equal(output.reconstruction, expected)
        assert torch.equal(model.reconstruct(images), expected.clamp(-1, 1))


def test_a_quantizer_in_float32_works_in_a_model_in_half_precision():
    model = small().eval().bfloat16()
    model.quantizer.float()
    images = random_images(2, 1, 28, 28)
    output = model(images)
    assert output.reconstruction.dtype == torch.bfloat16
    assert torch.equal(model.encode(images), output.quantized.indices)
    assert torch.equal(model.reconstruct(images), output.reconstruction.clamp(-1, 1))


@pytest.mark.parametrize("integer", INTEGER_DTYPES)
def test_indices_of_any_integer_type_are_decoded(integer):
    model = small().eval()
    indices = torch.randint(16, (2, 7, 7))
    assert torch.equal(model.decode(indices.to(integer)), model.decode(indices))


BAD_INDICES = [
    (torch.zeros(2, 7, 7), "indices have dtype torch.float32"),
    (torch.zeros(2, 7, 7, dtype=torch.bool), "indices have dtype torch.bool"),
    (torch.zeros(7, 7, dtype=torch.int64), r"shape \(7, 7\); they must be \(B, h, w\)"),
    (torch.zeros(2, 0, 7, dtype=torch.int64), r"shape \(2, 0, 7\); they must be \(B, h, w\)"),
    (torch.zeros(2, 1, 7, 7, dtype=torch.int64), r"shape \(2, 1, 7, 7\); they must be \(B, h, w\)"),
    (torch.full((2, 7, 7), 16), "indices reach from 16 to 16; they must be from 0 to 15"),
    (torch.full((2, 7, 7), -1), "indices reach from -1 to -1; they must be from 0 to 15"),
]


@pytest.mark.parametrize(("indices", "message"), BAD_INDICES)
def test_indices_that_cannot_be_decoded_are_refused(indices, message, unchecked):
    with pytest.raises(ValueError, match=message) as caught:
        small().decode(indices)
    assert len(str(caught.value).splitlines()) == 1


def test_encode_counts_nothing_in_training():
    model = small().train()
    model.encode(torch.zeros(1, 1, 28, 28))
    assert not model.quantizer.counts.any()
    assert model.training


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_saved_model_opens_again_with_its_settings(kind, tmp_path):
    model = small(kind=kind)
    images = random_images(2, 1, 28, 28)
    if kind == "samp":
        model.quantizer.samp = SAMP.for_run(123)
    model.save_pretrained(tmp_path)
    copy = VQVAE.from_pretrained(tmp_path)
    assert copy.config() == model.config()
    assert not copy.training
    assert torch.equal(copy(images).reconstruction, model.eval()(images).reconstruction)
    saved = {file.name for file in tmp_path.iterdir()}
    assert saved == {"config.json", "model.safetensors", "README.md"}


def test_a_new_model_card_claims_nothing_that_nobody_said(tmp_path):
    small().save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "arcvq"
    assert card.data.license is None
    assert "Autoencoder.from_pretrained" in card.text
    for claim in ("pushed", "license", "More Information Needed"):
        assert claim not in card.content


def test_a_model_card_that_somebody_wrote_is_kept(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    card.write_text("Trained on my own photographs.")
    with torch.no_grad():
        model.quantizer.codebook.fill_(0.5)
    model.save_pretrained(tmp_path)
    assert card.read_text() == "Trained on my own photographs."
    assert torch.equal(VQVAE.from_pretrained(tmp_path).quantizer.codebook, model.quantizer.codebook)


@pytest.mark.parametrize(("told", "repository"), [(None, "my-model"), ("me/model", "me/model")])
def test_a_model_is_pushed_to_the_repository_of_its_folder_unless_told_otherwise(
    told, repository, tmp_path, monkeypatch
):
    pushed = []

    def push(model, repo_id, **_):
        pushed.append(repo_id)
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(VQVAE, "push_to_hub", push)
    url = small().save_pretrained(tmp_path / "my-model", push_to_hub=True, repo_id=told)
    assert pushed == [repository]
    assert url.endswith(repository)


def test_a_push_that_fails_says_why_and_leaves_a_saved_model(tmp_path, monkeypatch):
    def push(model, repo_id, **_):
        raise OSError("401 Client Error: you are not logged in")

    monkeypatch.setattr(VQVAE, "push_to_hub", push)
    model = small()
    with pytest.raises(OSError, match=r"^401 Client Error: you are not logged in$"):
        model.save_pretrained(tmp_path, push_to_hub=True)
    assert VQVAE.from_pretrained(tmp_path).config() == model.config()


@pytest.fixture
def repositories(monkeypatch):
    """A stand-in for the hub: its repositories, each the files of its branches by name."""
    held = {}

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            name = repo_id if "/" in repo_id else f"me/{repo_id}"
            held.setdefault(name, {"main": {}})
            return SimpleNamespace(repo_id=name)

        def file_exists(self, repo_id, filename, revision=None):
            return filename in held[repo_id].get(revision or "main", {})

        def upload_folder(self, repo_id, folder_path, revision, ignore_patterns, **options):
            files = held[repo_id].setdefault(revision or "main", {})
            files["message"] = options["commit_message"]
            for file in Path(folder_path).iterdir():
                if file.name not in (ignore_patterns or []):
                    files[file.name] = file.read_bytes()
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    return held


def test_what_is_pushed_is_a_saved_model(tmp_path, repositories):
    model = small()
    options = {"repo_id": "me/model", "commit_message": "the first one"}
    url = model.save_pretrained(tmp_path / "here", push_to_hub=True, **options)
    assert url == "https://huggingface.co/me/model"
    files = repositories["me/model"]["main"]
    assert files.pop("message") == "the first one"
    assert "README.md" in files
    there = tmp_path / "there"
    there.mkdir()
    for name, content in files.items():
        (there / name).write_bytes(content)
    assert VQVAE.from_pretrained(there).config() == model.config()


@pytest.mark.parametrize("repository", ["me/model", "model"])
@pytest.mark.parametrize("ignored", [None, "other.txt", ["other.txt"]])
def test_a_push_keeps_the_model_card_that_the_repository_has(repositories, repository, ignored):
    model = small()
    model.push_to_hub(repository)
    files = repositories["me/model"]["main"]
    before = files["model.safetensors"]
    files["README.md"] = b"Trained on my own photographs."
    with torch.no_grad():
        model.quantizer.codebook.fill_(0.5)
    model.push_to_hub(repository, ignore_patterns=ignored)
    assert files["README.md"] == b"Trained on my own photographs."
    assert files["model.safetensors"] != before


def test_a_push_to_another_branch_asks_that_branch_for_its_card(repositories):
    model = small()
    model.push_to_hub("me/model")
    model.push_to_hub("me/model", branch="later")
    assert "README.md" in repositories["me/model"]["later"]


def test_an_option_that_a_push_has_not_is_refused_before_anything_is_made(repositories):
    with pytest.raises(TypeError, match="there is no option 'brnch'"):
        small().push_to_hub("me/model", brnch="later")
    assert repositories == {}


def test_sizes_may_be_numbers_of_numpy(unchecked):
    sizes = {"hidden": 16, "residual_hidden": 4, "residual_layers": 1, "downsample": 2}
    for kind in (np.int64, np.int32, np.uint8):
        numbers = {name: kind(size) for name, size in sizes.items()}
        model = VQVAE(kind(1), CosineQuantizer(kind(16), kind(8)), **numbers)
        plain = VQVAE(1, CosineQuantizer(16, 8), **sizes)
        assert json.dumps(model.config()) == json.dumps(plain.config())
        assert model(random_images(1, 1, 8, 8)).latents.shape == (1, 8, 4, 4)


def test_a_config_goes_through_json_and_back():
    model = small(channels=3, downsample=2)
    copy = VQVAE.from_config(json.loads(json.dumps(model.config())))
    assert copy.config() == model.config()
    with pytest.raises(ValueError, match="it is no model of format 1"):
        VQVAE.from_config({**model.config(), "format": None})


class Inverted(VQVAE):
    """A model of a user's own, which encodes the negative."""

    def latents(self, images):
        return super().latents(-images)


def test_a_model_of_a_class_of_your_own_opens_as_that_class(tmp_path, monkeypatch):
    model = Inverted(1, SphericalQuantizer(8, 4), hidden=16, residual_hidden=4).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 1, 8, 8)
    for opened in (Inverted.from_pretrained(tmp_path), Autoencoder.from_pretrained(tmp_path)):
        assert type(opened) is Inverted
        assert torch.equal(opened.encode(images), model.encode(images))

    monkeypatch.delitem(Autoencoder.kinds, "Inverted")
    with pytest.raises(ValueError, match=r"model 'Inverted' is unknown; known are .*VQVAE"):
        Autoencoder.from_pretrained(tmp_path)


def test_damaged_and_foreign_saved_models_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        VQVAE.from_pretrained(tmp_path)
    weights.write_bytes(whole)

    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "hidden": 32}))
    with pytest.raises(ValueError, match=r"cannot be opened.*size mismatch"):
        VQVAE.from_pretrained(tmp_path)
    config.write_text(json.dumps({"format": 1, "image_channels": 1}))
    with pytest.raises(ValueError, match="cannot be opened: it is no model of format 1"):
        VQVAE.from_pretrained(tmp_path)
    config.write_text(json.dumps({**fields, "format": 99}))
    with pytest.raises(ValueError, match="it is no model of format 1"):
        VQVAE.from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        VQVAE.from_pretrained(tmp_path)


def official_state(hidden=16, residual=4, num_codes=32, dim=8, channels=3, layers=2):
    """Random weights under the names of the authors' code."""
    half = hidden // 2
    shapes = {
        "_encoder._conv_1": (half, channels, 4, 4),
        "_encoder._conv_2": (hidden, half, 4, 4),
        "_encoder._conv_3": (hidden, hidden, 3, 3),
        "_pre_vq_conv": (dim, hidden, 1, 1),
        "_decoder._conv_1": (hidden, dim, 3, 3),
        "_decoder._conv_trans_1": (hidden, half, 4, 4),
        "_decoder._conv_trans_2": (half, channels, 4, 4),
    }
    for part in ("_encoder", "_decoder"):
        for layer in range(layers):
            block = f"{part}._residual_stack._layers.{layer}._block"
            shapes[f"{block}.1"] = (residual, hidden, 3, 3)
            shapes[f"{block}.3"] = (hidden, residual, 1, 1)
    state = {"_vq_vae.embedding.weight": torch.randn(num_codes, dim)}
    for name, shape in shapes.items():
        outputs = shape[1] if "trans" in name else shape[0]
        state[f"{name}.weight"] = torch.randn(shape) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1
    return state


def authors_forward(state, images, layers=2):
    """The authors' network in functions: in-place ReLU on the skip, ReLU after the stack."""

    def conv(x, name, **options):
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def residual_stack(x, part):
        for layer in range(layers):
            block = f"{part}._residual_stack._layers.{layer}._block"
            x = relu(x)
            inner = relu(conv(x, f"{block}.1", padding=1))
            x = x + conv(inner, f"{block}.3")
        return relu(x)

    def enlarge(x, name):
        weight = state[f"{name}.weight"]
        return conv_transpose2d(x, weight, state[f"{name}.bias"], stride=2, padding=1)

    x = relu(conv(images, "_encoder._conv_1", stride=2, padding=1))
    x = relu(conv(x, "_encoder._conv_2", stride=2, padding=1))
    x = residual_stack(conv(x, "_encoder._conv_3", padding=1), "_encoder")
    latents = conv(x, "_pre_vq_conv").movedim(1, -1)

    codes = state["_vq_vae.embedding.weight"]
    cosines = normalize(latents, dim=-1) @ normalize(codes, dim=1).T
    chosen = codes[cosines.argmax(-1)].movedim(-1, 1)

    x = residual_stack(conv(chosen, "_decoder._conv_1", padding=1), "_decoder")
    x = relu(enlarge(x, "_decoder._conv_trans_1"))
    return enlarge(x, "_decoder._conv_trans_2")


@pytest.mark.parametrize(("channels", "layers"), [(1, 2), (3, 2), (1, 1), (1, 3)])
def test_the_authors_checkpoint_opens_and_computes_what_their_network_does(
    channels, layers, tmp_path
):
    state = official_state(channels=channels, layers=layers)
    images = random_images(2, channels, 32, 32)
    torch.save(state, tmp_path / "official.pt")
    model = VQVAE.from_official(tmp_path / "official.pt")
    expected = authors_forward(state, images, layers)
    assert torch.allclose(model(images).reconstruction, expected, atol=1e-5)
    assert model.reconstruct(images).shape == images.shape
    assert isinstance(model.quantizer, SphericalQuantizer)


WRAPPERS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 500},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "DataParallel": lambda state: {f"module.{name}": weight for name, weight in state.items()},
    "both": lambda state: {"model": WRAPPERS["DataParallel"](state)},
    "half precision": lambda state: {name: weight.half() for name, weight in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_authors_weights_are_found_inside_larger_checkpoints(wrap, tmp_path):
    state = official_state()
    torch.save(wrap(state), tmp_path / "official.pt")
    model = VQVAE.from_official(tmp_path / "official.pt")
    images = random_images(2, 3, 32, 32)
    expected = authors_forward(state, images)
    assert torch.allclose(model(images).reconstruction, expected, atol=0.02)
    assert not model.training


def test_opening_the_authors_checkpoint_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.save(official_state(), tmp_path / "official.pt")
    before = torch.get_rng_state()
    VQVAE.from_official(tmp_path / "official.pt")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub with one checkpoint; returns the weights and what was asked for."""
    state = official_state()
    file = tmp_path / "cache" / "official.pt"
    file.parent.mkdir()
    torch.save(state, file)
    asked = []

    def download(repo_id, filename, *, revision=None):
        asked.append((repo_id, filename, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return state, asked


def test_the_authors_checkpoint_comes_from_the_hub(hub):
    state, asked = hub
    model = VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/official.pt")
    VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/official.pt", revision="v1")
    file = ("goals4292/ArcVQ-VAE", "MNIST/official.pt")
    assert asked == [(*file, None), (*file, "v1")]
    images = random_images(2, 3, 32, 32)
    assert torch.allclose(model(images).reconstruction, authors_forward(state, images), atol=1e-5)


def test_a_checkpoint_in_a_folder_here_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch):
    _, asked = hub
    folder = tmp_path / "goals4292" / "ArcVQ-VAE" / "MNIST"
    folder.mkdir(parents=True)
    torch.save(official_state(dim=4), folder / "official.pt")
    monkeypatch.chdir(tmp_path)
    model = VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/official.pt")
    assert model.quantizer.dim == 4
    with pytest.raises(FileNotFoundError, match=r"ArcVQ-VAE holds no MNIST/other\.pt"):
        VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/other.pt")
    assert not asked


def test_a_repository_without_the_name_of_a_file_is_told(hub):
    _, asked = hub
    with pytest.raises(FileNotFoundError, match="goals4292/ArcVQ-VAE is no file; a checkpoint on"):
        VQVAE.from_official("goals4292/ArcVQ-VAE")
    assert not asked


def test_a_file_on_the_hub_that_is_not_the_authors_is_refused(hub, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "cache" / "official.pt")
    message = r"official\.pt is no checkpoint of the authors' code: '_encoder\._conv_1\.weight' is"
    with pytest.raises(ValueError, match=message):
        VQVAE.from_official("someone/else", "official.pt")


def test_without_a_network_one_sentence_says_so(monkeypatch):
    def download(**_):
        raise errors.LocalEntryNotFoundError("An error happened.\nCheck your connection.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        VQVAE.from_official("goals4292/ArcVQ-VAE", "MNIST/official.pt")
    assert str(caught.value) == (
        "MNIST/official.pt of goals4292/ArcVQ-VAE cannot be downloaded from the Hugging Face hub: "
        "the hub cannot be reached, and its cache lacks the file"
    )


DAMAGES = [
    ({"_vq_vae.embedding.weight": torch.zeros(32)}, "not enough values to unpack"),
    ({"_encoder._conv_2.weight": torch.zeros(3, 3)}, "size mismatch for encoder.2.weight"),
    ({"_encoder._conv_1.weight": "none"}, r"'_encoder\._conv_1\.weight' is missing"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_checkpoints_of_the_authors_are_refused_in_one_sentence(damage, message, tmp_path):
    path = tmp_path / "official.pt"
    torch.save(official_state() | damage, path)
    with pytest.raises(
        ValueError, match=f"no checkpoint of the authors' code: .*{message}"
    ) as caught:
        VQVAE.from_official(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [VQVAE, VQGAN])
def test_a_quantizer_with_channels_at_the_end_is_refused(kind):
    quantizer = CosineQuantizer(8, 4, channel_last=True)
    with pytest.raises(ValueError, match=r"the quantizer has channel_last=True, .* must be False"):
        kind(1, quantizer)


def test_a_checkpoint_of_the_authors_with_nan_is_refused(tmp_path):
    state = official_state()
    state["_decoder._conv_1.bias"][0] = torch.nan
    torch.save(state, tmp_path / "official.pt")
    with pytest.raises(ValueError, match=r"official\.pt cannot be used: decoder\.\S+ holds NaN"):
        VQVAE.from_official(tmp_path / "official.pt")


def test_a_checkpoint_of_the_authors_opens_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # on Windows
    torch.save(official_state(), tmp_path / "official.pt")
    assert VQVAE.from_official("~/official.pt").kind == "VQVAE"
    assert VQVAE.from_official("~", "official.pt").kind == "VQVAE"


def test_the_base_class_says_which_models_open_checkpoints_of_the_authors(tmp_path):
    torch.save(official_state(), tmp_path / "official.pt")
    with pytest.raises(NotImplementedError, match="VQVAE and VQGAN have"):
        Autoencoder.from_official(tmp_path / "official.pt")


def test_other_files_are_refused_as_the_authors_checkpoints(tmp_path):
    path = tmp_path / "official.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"_encoder\._conv_1\.weight' is missing"):
        VQVAE.from_official(path)
    torch.save({**official_state(), "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="unknown extra"):
        VQVAE.from_official(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        VQVAE.from_official(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        VQVAE.from_official(path)
    with pytest.raises(FileNotFoundError):
        VQVAE.from_official(tmp_path / "absent.pt")


BAD_IMAGES = [
    (torch.zeros(1, 3, 28, 28), r"shape \(1, 3, 28, 28\); they must be \(B, 1, H, W\)"),
    (torch.zeros(1, 1, 30, 28), "30x28 pixels; both must be multiples of 4"),
    (torch.zeros(1, 28, 28), "images have shape"),
    (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), "images are torch.uint8"),
    (torch.zeros(1, 1, 28, 28, dtype=torch.complex64), "images are torch.complex64"),
    (torch.full((1, 1, 28, 28), float("nan")), "784 of 784 values of the images are NaN"),
]


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES)
def test_images_that_the_network_cannot_take_are_refused(images, message, unchecked):
    with pytest.raises(ValueError, match=message):
        small().encode(images)


BAD_SIZES = [
    (lambda: small(downsample=1), "downsample is 1; it must be 2, 4 or 8"),
    (lambda: small(downsample=3), "downsample is 3; it must be 2, 4 or 8"),
    (lambda: small(downsample=4.0), "downsample is 4.0; it must be 2, 4 or 8"),
    (lambda: small(downsample="4"), "downsample is 4; it must be 2, 4 or 8"),
    (lambda: VQVAE(0, CosineQuantizer(4, 2)), "image_channels is 0"),
    (lambda: small(hidden=3), "hidden is 3"),
]


@pytest.mark.parametrize(("make", "message"), BAD_SIZES)
def test_sizes_out_of_range_are_refused(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


ANY_BATCH = ({0: torch.export.Dim.DYNAMIC},)  # what `torch.export` is told of images or indices


class Encode(torch.nn.Module):
    """`VQVAE.encode` as a module of its own, which is what `torch.export` takes."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, images):
        return self.model.encode(images)


class Decode(Encode):
    """`VQVAE.decode` as a module of its own."""

    def forward(self, indices):
        return self.model.decode(indices)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["plain", "samp"])
def test_the_model_compiles_into_one_graph(kind, training, unchecked):
    torch._dynamo.reset()
    model = small(kind=kind).train(training)
    images = random_images(2, 1, 8, 8)
    expected = model(images)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(images)
    assert torch.equal(found.quantized.indices, expected.quantized.indices)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    torch.testing.assert_close(found.quantized.loss, expected.quantized.loss)


@pytest.mark.parametrize("kind", ["plain", "ema", "samp"])
def test_encode_and_decode_are_exported_for_any_batch(kind, unchecked):
    model = small(kind=kind).eval()
    images = random_images(3, 1, 8, 8)
    indices = model.encode(images)
    encode = torch.export.export(Encode(model), (images,), dynamic_shapes=ANY_BATCH).module()
    decode = torch.export.export(Decode(model), (indices,), dynamic_shapes=ANY_BATCH).module()
    for count in (1, 5):
        other = random_images(count, 1, 8, 8)
        indices = model.encode(other)
        assert torch.equal(encode(other), indices)
        torch.testing.assert_close(decode(indices), model.decode(indices))


@pytest.mark.parametrize("kind", ["plain", "ema", "samp", "continuous"])
def test_forward_is_exported_for_any_batch(kind, unchecked):
    model = small(kind=kind).eval()
    images = random_images(3, 1, 8, 8)
    exported = torch.export.export(model, (images,), dynamic_shapes=ANY_BATCH).module()
    for count in (1, 5):
        other = random_images(count, 1, 8, 8)
        expected = model(other)
        found = exported(other)
        assert torch.equal(found.quantized.indices, expected.quantized.indices)
        torch.testing.assert_close(found.reconstruction, expected.reconstruction)


def test_onnx_encodes_and_decodes_as_torch_does(unchecked, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small().eval()
    images = random_images(3, 1, 8, 8)
    sessions = []
    for module, example in ((Encode(model), images), (Decode(model), model.encode(images))):
        file = tmp_path / f"{type(module).__name__}.onnx"
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=ANY_BATCH, verbose=False
        )
        program.save(file)
        sessions.append(onnxruntime.InferenceSession(file))

    def run(session, given):
        (argument,) = session.get_inputs()
        (result,) = session.run(None, {argument.name: given.numpy()})
        return torch.from_numpy(result)

    encode, decode = sessions
    for count in (1, 5):
        other = random_images(count, 1, 8, 8)
        indices = run(encode, other)
        assert torch.equal(indices, model.encode(other))
        torch.testing.assert_close(run(decode, indices), model.decode(indices), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["./nope/model", "/nope/model", "../nope", "a/b/c", "~/nope/model", "my_run"]
)
def test_a_path_without_a_model_is_never_looked_for_on_the_hub(name, monkeypatch):
    def download(*arguments, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        VQVAE.from_pretrained(name)


@pytest.fixture
def model_on_hub(tmp_path, monkeypatch):
    """A model that a stand-in for the hub has as me/model, its folder, and what was asked for."""
    model = small().eval()
    model.save_pretrained(tmp_path)
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        if not (tmp_path / filename).exists():
            raise errors.EntryNotFoundError("404")
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return model, tmp_path, asked


@pytest.mark.parametrize("opener", [VQVAE, Autoencoder])
def test_a_model_on_the_hub_opens_as_one_in_a_folder_does(opener, model_on_hub):
    model, _, asked = model_on_hub
    before = torch.get_rng_state()
    opened = opener.from_pretrained("me/model", revision="v1", token="secret")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(opened) is VQVAE
    assert opened.config() == model.config()
    assert not opened.training
    images = random_images(2, 1, 28, 28)
    assert torch.equal(opened(images).reconstruction, model(images).reconstruction)
    options = {"revision": "v1", "token": "secret"}
    assert asked == [
        ("me/model", "config.json", options),
        ("me/model", "model.safetensors", options),
    ]


@pytest.mark.parametrize("option", ["map_location", "hidden", "tokn"])
def test_a_model_is_opened_with_no_option_but_those_of_a_download(option, model_on_hub):
    _, folder, asked = model_on_hub
    for place in (folder, "me/model"):
        with pytest.raises(TypeError, match=f"there is no option '{option}'"):
            VQVAE.from_pretrained(place, **{option: "cpu"})
    assert asked == []
    assert VQVAE.from_pretrained(folder, token="secret").config() == small().config()


def test_a_model_is_saved_with_no_option_but_those_of_pushing(tmp_path):
    with pytest.raises(TypeError, match="there is no option 'privat'; for the hub there are"):
        small().save_pretrained(tmp_path, privat=True)
    assert not any(tmp_path.iterdir())
    small().save_pretrained(tmp_path, private=True)


def test_a_model_on_the_hub_that_is_damaged_or_of_another_version_is_refused(model_on_hub):
    _, folder, _ = model_on_hub
    weights = load_file(folder / "model.safetensors")
    first = weights.pop("encoder.0.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"cannot be opened: .*encoder\.0\.weight"):
        VQVAE.from_pretrained("me/model")
    weights["encoder.0.weight"] = torch.full_like(first, torch.nan)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.0\.weight holds NaN"):
        VQVAE.from_pretrained("me/model")

    config = folder / "config.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="it is no model of format 1"):
        VQVAE.from_pretrained("me/model")
    config.unlink()
    message = r"there is no folder me/model, and config\.json of me/model cannot be downloaded"
    with pytest.raises(FileNotFoundError, match=message):
        VQVAE.from_pretrained("me/model")
