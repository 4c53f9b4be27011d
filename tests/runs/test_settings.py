import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from itertools import product

import pytest
import torch

from arcvq import training
from arcvq.image_folders import Reading
from arcvq.images import ImageData, ImageSplit
from arcvq.runs import settings
from arcvq.runs.settings import RunSettings, run_folder, run_name, train
from arcvq.samp import SAMP
from arcvq.training import Run
from arcvq.vqvae import VQVAE
from tests.strokes import IMAGES, SMALL

OPTIONS = {"device": "cpu", "progress": False}
CPU = torch.device("cpu")


@pytest.fixture
def fits(monkeypatch):
    """One entry for each call of `fit`."""
    calls = []
    fit = settings.fit

    def counted(*args, **options):
        calls.append(1)
        return fit(*args, **options)

    monkeypatch.setattr(settings, "fit", counted)
    return calls


def test_the_same_settings_are_trained_once(tmp_path, fits):
    first = train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    again = train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    assert len(fits) == 1
    assert torch.equal(first.model.quantizer.codebook, again.model.quantizer.codebook)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"quantizer": "plain", "samp": None},
        {"samp": SAMP(margin=0.2)},
        {"train_images": 16},
    ],
)
def test_other_settings_are_trained_anew(change, tmp_path, fits):
    train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    train(dataclasses.replace(SMALL, **change), IMAGES, root=tmp_path, **OPTIONS)
    assert len(fits) == 2


def test_other_pixels_are_another_run():
    pixels = IMAGES.train.images.clone()
    pixels[0, 0, 0, 0] += 1
    changed = dataclasses.replace(IMAGES.train, images=pixels)
    other = dataclasses.replace(IMAGES, train=changed)
    assert run_name(SMALL, other, CPU) != run_name(SMALL, IMAGES, CPU)


def test_the_names_of_runs_are_those_that_earlier_versions_gave():
    assert run_name(SMALL, IMAGES, CPU) == "strokes-samp-66694b94f043"
    with_samp = dataclasses.replace(SMALL, samp=SAMP.for_run(6))
    assert run_name(with_samp, IMAGES, CPU) == "strokes-samp-137c19e9951d"


@pytest.mark.parametrize("samp", [None, SAMP.for_run(6), SAMP(radius=None)])
def test_settings_come_back_from_json(samp):
    told = dataclasses.replace(SMALL, samp=samp)
    assert RunSettings.from_config(json.loads(json.dumps(told.config()))) == told


def test_the_seed_alone_decides_the_model():
    torch.manual_seed(1)
    first = SMALL.model(IMAGES)
    torch.manual_seed(2)
    second = SMALL.model(IMAGES)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_profiles_change_the_size_alone():
    paper = RunSettings.for_profile("paper")
    assert (paper.steps, paper.hidden) == (29_500, 128)
    assert RunSettings.for_profile("quick", steps=7, quantizer="ema").steps == 7
    with pytest.raises(
        ValueError,
        match="profile 'huge' is unknown; known are quick, standard, full, full_small, paper",
    ):
        RunSettings.for_profile("huge")
    with pytest.raises(ValueError, match="quantizer 'cubic' is unknown; known are plain"):
        RunSettings(quantizer="cubic")


def test_the_regime_is_that_of_samp_with_the_latents_of_a_batch():
    # Images of 8 x 8 pixels have 2 x 2 latents.
    sizes = {"num_codes": 8, "dim": 4, "latents": 8 * 4, "lr": SMALL.lr, "steps": 6}
    assert SMALL.regime(IMAGES) == SAMP.for_run(6).regime(**sizes)
    alone = dataclasses.replace(SMALL, samp=SAMP(radius=None))
    assert alone.regime(IMAGES) == SAMP(radius=None).regime(**sizes)
    assert dataclasses.replace(SMALL, quantizer="cosine").regime(IMAGES) is None


def test_the_regime_counts_the_latents_that_the_model_makes():
    latents = SMALL.model(IMAGES).latents(IMAGES.train.batch(torch.arange(8)))
    positives = SMALL.regime(IMAGES).positives_per_latent
    assert positives == SMALL.num_codes * 3 / latents[:, 0].numel()


@pytest.mark.parametrize(
    "name", ["steps", "batch_size", "num_codes", "dim", "residual_hidden", "train_images"]
)
def test_sizes_of_a_run_are_checked_before_data_are_loaded(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be a whole number from 1"):
        dataclasses.replace(SMALL, **{name: 0})


def test_a_network_needs_four_channels_that_can_be_halved_twice():
    with pytest.raises(ValueError, match="hidden is 3; it must be a whole number from 4"):
        dataclasses.replace(SMALL, hidden=3)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"seed": -1},
        {"beta": -1.0},
        {"beta": float("nan")},
        {"commitment": -1.0, "quantizer": "rotation"},
    ],
)
def test_numbers_of_a_run_are_checked_before_data_are_loaded(change):
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"reading": {"size": 64}}, "Reading"),
        ({"reading": None}, "Reading"),
        ({"samp": {"margin": 0.3}}, "SAMP"),
        ({"samp": 0.3}, "SAMP"),
        ({"vqgan": {}}, "VQGANSettings"),
        ({"vqgan": True}, "VQGANSettings"),
    ],
)
def test_a_dict_in_the_place_of_settings_is_named(change, kind, unchecked):
    (name,) = change
    message = re.escape(f"{name} is {change[name]!r}; it must be a {kind}")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("precision", ["half", "float16", ""])
def test_an_unknown_precision_is_refused_before_data_are_loaded(precision):
    with pytest.raises(ValueError, match=f"precision {precision!r} is unknown"):
        dataclasses.replace(SMALL, precision=precision)


@pytest.mark.parametrize("quantizer", ["plain", "cosine", "ema", "fsq"])
def test_settings_of_samp_are_refused_for_a_quantizer_without_it(quantizer):
    with pytest.raises(ValueError, match=f"quantizer '{quantizer}' has no use for it"):
        dataclasses.replace(SMALL, quantizer=quantizer, samp=SAMP())


def test_equal_settings_have_one_digest(unchecked):
    whole = dataclasses.replace(SMALL, beta=1, samp=SAMP(scale=5))
    decimal = dataclasses.replace(SMALL, beta=1.0, samp=SAMP(scale=5.0))
    assert run_name(whole, IMAGES, CPU) == run_name(decimal, IMAGES, CPU)


def test_beta_goes_to_our_quantizers_and_is_refused_for_baselines():
    assert dataclasses.replace(SMALL, beta=0.5).model(IMAGES).quantizer.beta == 0.5
    with pytest.raises(ValueError, match=r"beta is 0\.5; 'fsq' has a commitment weight of its own"):
        dataclasses.replace(SMALL, quantizer="fsq", beta=0.5)


def test_commitment_goes_to_baselines_that_have_it_and_is_refused_for_others():
    weighted = dataclasses.replace(SMALL, quantizer="rotation", commitment=0.5)
    assert weighted.model(IMAGES).quantizer.commitment == 0.5
    usual = dataclasses.replace(weighted, commitment=None)
    assert usual.model(IMAGES).quantizer.commitment == 1
    assert "commitment" not in usual.config()  # the name of its run stays that of earlier versions
    assert RunSettings.from_config(weighted.config()) == weighted
    for quantizer in ("plain", "fsq", "bsq"):
        with pytest.raises(ValueError, match=r"commitment is 0\.5, which is for lfq, simvq, rota"):
            dataclasses.replace(SMALL, quantizer=quantizer, commitment=0.5)


def test_the_small_profile_of_full_length_has_both_ratios_of_the_paper():
    mnist = torch.zeros(128, 1, 28, 28, dtype=torch.uint8)
    images = ImageSplit(mnist, torch.zeros(128, dtype=torch.int64))
    data = ImageData("mnist", images, images, images, ("0",))
    regime = RunSettings.for_profile("full_small").regime(data)
    theirs = SAMP.paper().regime(num_codes=512, dim=64, latents=1024 * 49, lr=3e-4, steps=29_500)
    assert regime.positives_per_latent == theirs.positives_per_latent
    assert regime.ball_rate == pytest.approx(theirs.ball_rate, rel=1e-3)


def test_importing_arcvq_brings_nothing_heavy():
    heavy = "umap torchmetrics plotly ipywidgets papermill nbconvert sklearn torchvision numba"
    code = f"import sys, arcvq; print([name for name in '{heavy}'.split() if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_a_folder_deep_in_the_disk_gets_a_short_name(tmp_path):
    deep = dataclasses.replace(IMAGES, name="folder:/" + "long/" * 60 + "x" * 200)
    folder = run_folder(SMALL, deep, tmp_path, CPU)
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith("folder-xxx")
    assert len(folder.name) < 120


def test_the_batch_of_a_profile_is_lowered_to_few_images_and_one_given_by_hand_is_not():
    few = IMAGES.subset(train=20)
    with pytest.warns(UserWarning, match="batch of the profile quick, 32 images, is lowered to 20"):
        lowered = RunSettings.for_profile("quick", few)
    assert lowered.batch_size == 20
    assert RunSettings.for_profile("quick", few, batch_size=32).batch_size == 32
    assert RunSettings.for_profile("quick").batch_size == 32


def test_how_files_are_read_goes_through_json_and_is_left_out_where_it_is_as_usual():
    usual = RunSettings()
    assert "reading" not in usual.config()
    other = RunSettings(dataset="folder:pics", reading=Reading(size=64, levels=(0.0, 9.0)))
    config = json.loads(json.dumps(other.config()))
    assert RunSettings.from_config(config) == other
    assert RunSettings.from_config(usual.config()) == usual


def test_a_student_opens_the_run_of_the_teacher_and_trains_new_ones_in_a_folder_of_their_own(
    tmp_path, monkeypatch, fits
):
    teacher = train(SMALL, IMAGES, root=tmp_path / "shared", **OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")}
    monkeypatch.setenv("ARCVQ_SHARED", str(tmp_path / "shared"))
    student = train(SMALL, IMAGES, root=tmp_path / "own", **OPTIONS)
    assert len(fits) == 1
    assert torch.equal(student.model.quantizer.codebook, teacher.model.quantizer.codebook)
    train(dataclasses.replace(SMALL, seed=1), IMAGES, root=tmp_path / "own", **OPTIONS)
    assert len(list((tmp_path / "own" / "runs").iterdir())) == 1
    train(SMALL, IMAGES, root=tmp_path / "own", overwrite=True, **OPTIONS)
    assert len(fits) == 3
    assert len(list((tmp_path / "own" / "runs").iterdir())) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A root folder with a finished run."""
    root = tmp_path_factory.mktemp("finished")
    train(SMALL, IMAGES, root=root, **OPTIONS)
    return root


@pytest.fixture
def kept(finished, tmp_path):
    """The folder of a finished run that a test may damage; its root is `tmp_path`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return run_folder(SMALL, IMAGES, tmp_path, CPU)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def put_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "a folder": put_folder,
    "noise": lambda file: file.write_bytes(bytes(range(256))),
    "a list": lambda file: file.write_text("[1, 2]"),
    "without keys": lambda file: file.write_text("{}"),
    "null": lambda file: file.write_text("null"),
    "cut by a line": lambda file: file.write_text("".join(file.open().readlines()[:-1])),
    "cut by a digit": lambda file: file.write_text(file.read_text()[:-2]),
}
TEXTS = ["a list", "without keys", "null"]
DAMAGED_FILES = [
    *product(["model.safetensors", "snapshots.safetensors"], ["empty", "cut", "a folder", "noise"]),
    *product(["config.json", "run.json"], ["empty", "cut", "a folder", "noise", *TEXTS]),
    *product(["history.csv"], [name for name in DAMAGES if name not in TEXTS]),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED_FILES)
def test_a_damaged_run_is_named_with_the_way_to_heal_it(kept, tmp_path, unchecked, name, damage):
    DAMAGES[damage](kept / name)
    message = (
        rf"^the run in {re.escape(str(kept))} is damaged \(.+\); train it again with overwrite"
    )
    with pytest.raises(ValueError, match=message) as caught:
        train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    assert "\n" not in str(caught.value)
    if name in ("run.json", "history.csv", "snapshots.safetensors"):
        assert VQVAE.from_pretrained(kept).quantizer.num_codes == SMALL.num_codes


@pytest.mark.parametrize(
    "facts",
    [
        {"settings": [], "seconds": None},
        {"settings": {}, "seconds": "long"},
        {"settings": 3, "seconds": 1.0},
        {"settings": {}, "seconds": 1.0, "rows": 7},
    ],
)
def test_facts_of_a_run_of_wrong_types_are_named(kept, tmp_path, unchecked, facts):
    (kept / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"is damaged \((run\.json|history\.csv): "):
        train(SMALL, IMAGES, root=tmp_path, **OPTIONS)


def test_a_damaged_run_is_healed_when_asked_and_ends_with_the_same_weights(
    kept, tmp_path, finished
):
    whole = train(SMALL, IMAGES, root=finished, **OPTIONS)
    put_folder(kept / "run.json")
    (kept / "checkpoint.pt").write_bytes(b"half")
    healed = train(SMALL, IMAGES, root=tmp_path, overwrite=True, **OPTIONS)
    assert torch.equal(healed.model.quantizer.codebook, whole.model.quantizer.codebook)
    opened = train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    assert torch.equal(opened.model.quantizer.codebook, whole.model.quantizer.codebook)


@pytest.mark.parametrize("path", ["pictures", "pictures/", "./pictures", "/elsewhere/pictures"])
def test_a_folder_with_the_same_images_gives_the_same_run_wherever_it_is(path, tmp_path):
    here = dataclasses.replace(SMALL, dataset="folder:/my/pictures")
    there = dataclasses.replace(SMALL, dataset=f"folder:{path}")
    same = dataclasses.replace(IMAGES, name=f"folder:{path}")
    named = dataclasses.replace(IMAGES, name="folder:/my/pictures")
    assert run_name(there, same, CPU) == run_name(here, named, CPU)


def test_an_overwriting_that_fails_before_its_first_step_leaves_the_kept_run(
    kept, tmp_path, monkeypatch
):
    def full(path, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        train(SMALL, IMAGES, root=tmp_path, overwrite=True, **OPTIONS)
    monkeypatch.undo()
    assert Run.load(kept).rows[-1]["step"] == SMALL.steps


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A root folder with a run that was stopped after its last step."""
    root = tmp_path_factory.mktemp("stopped")

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Run, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, IMAGES, root=root, **OPTIONS)
    return root


def without(name):
    def change(state):
        del state[name]

    return change


def with_other_shape(state):
    name = next(iter(state["model"]))
    state["model"][name] = torch.zeros(2, 3)


def with_other_moments(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2, 3)


def with_words_for_steps(state):
    state["step"] = "three"


KEYS = ["format", "settings", "step", "seconds", "history", "model", "optimizer", "snapshots"]
CHANGES = {f"without {name}": without(name) for name in [*KEYS, "generator"]}
CHANGES |= {
    "a weight of another shape": with_other_shape,
    "a moment of another shape": with_other_moments,
    "a step that is no number": with_words_for_steps,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_damaged_checkpoint_is_named_in_one_sentence(stopped, tmp_path, change):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    checkpoint = run_folder(SMALL, IMAGES, tmp_path, CPU) / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    change(state)
    torch.save(state, checkpoint)
    message = r"^checkpoint .*checkpoint\.pt is damaged \(.+\); delete it to start this run again$"
    with pytest.raises(ValueError, match=message) as caught:
        train(SMALL, IMAGES, root=tmp_path, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_classes_and_runs_have_one_name_however_their_accents_are_spelled():
    composed, decomposed = (
        dataclasses.replace(IMAGES, name=unicodedata.normalize(form, "folder:bilder/Žluťoučký"))
        for form in ("NFC", "NFD")
    )
    assert run_name(SMALL, composed, CPU) == run_name(SMALL, decomposed, CPU)
    assert run_name(SMALL, composed, CPU).startswith("folder-Žluťoučký-samp-")
