import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

import arcvq
from arcvq.experiments import base as base_module
from arcvq.experiments.base import Experiment, Variant, run_experiment
from arcvq.image_folders import Reading
from arcvq.images import ImageData
from arcvq.runs import parallel, settings
from arcvq.runs.settings import train
from arcvq.runtime.checks import LARGEST_SEED
from arcvq.samp import SAMP
from arcvq.training import evaluate
from arcvq.vqgan import VQGANLosses, VQGANSettings
from tests.strokes import IMAGES, write_folder
from tests.strokes import SMALL as BASE

PIXELS_ONLY = VQGANLosses(features=None, adversarial=0.0)
CHECKOUT = str(Path(__file__).parents[2])


def psnr(run, settings, data, root):
    return [{"psnr": evaluate(run.model, data.test)["psnr"]}]


def rates(base):
    variants = []
    for lr in (1e-3, 3e-3):
        settings = dataclasses.replace(base, lr=lr)
        variants.append(Variant(f"lr {lr}", settings, {"axis": "lr", "value": lr}))
    return variants


def codebook_distance(run, first, data):
    moved = run.model.quantizer.codebook - first.model.quantizer.codebook
    return {"distance": moved.norm().item()}


class Counting:
    """Measures, and remembers the seeds that it measured."""

    def __init__(self):
        self.seeds = []

    def __call__(self, run, settings, data, root):
        self.seeds.append(settings.seed)
        return psnr(run, settings, data, root)


RATES = Experiment("rates", "Which rate?", rates, psnr, table=lambda rows: rows)


def run(out, experiment=RATES, base=BASE, data=IMAGES, **options):
    usual = {
        "seeds": 2,
        "out": out,
        "root": out and out / "data",
        "device": "cpu",
        "workers": 1,
        "progress": False,
    }
    return run_experiment(experiment, base, data, **usual | options)


def test_every_variant_and_seed_has_a_row_that_says_all_about_it(tmp_path):
    rows = run(tmp_path)
    assert [*zip(rows.variant, rows.seed, strict=True)] == [
        ("lr 0.001", 0),
        ("lr 0.001", 1),
        ("lr 0.003", 0),
        ("lr 0.003", 1),
    ]
    assert set(rows.value) == set(rows.lr) == {1e-3, 3e-3}
    assert rows.psnr.nunique() == 4
    first = rows.iloc[0]
    assert (first.experiment, first.data, first.device.split()[0]) == ("rates", "strokes", "cpu")
    assert (first.torch, first.precision, first.steps) == (torch.__version__, "float32", BASE.steps)
    assert first.images == IMAGES.fingerprint
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rates.parquet"), rows)


def test_a_folder_of_images_is_read_as_the_settings_say(tmp_path):
    dataset = write_folder(tmp_path / "pictures")
    base = dataclasses.replace(BASE, dataset=dataset, reading=Reading(size=16, grey=True))

    def shape(run, settings, data, root):
        return [{"psnr": 1.0, "channels": data.channels, "size": str(data.size)}]

    experiment = dataclasses.replace(RATES, measure=shape)
    options = {"seeds": 1, "device": "cpu", "workers": 1, "progress": False}
    rows = run_experiment(experiment, base, out=tmp_path / "out", root=tmp_path, **options)
    assert set(rows.channels) == {1}
    assert set(rows["size"]) == {"(16, 16)"}


def test_what_was_measured_is_only_read_and_more_seeds_are_added(tmp_path):
    first = run(tmp_path, seeds=1)
    counting = Counting()
    experiment = dataclasses.replace(RATES, measure=counting)
    again = run(tmp_path, experiment, seeds=1)
    pd.testing.assert_frame_equal(first, again)
    assert counting.seeds == []
    more = run(tmp_path, experiment, seeds=3)
    assert sorted(counting.seeds) == [1, 1, 2, 2]
    assert len(more) == 6


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: pd.read_parquet(path).drop(columns="run").to_parquet(path),
        lambda path: pd.read_parquet(path).iloc[:0].to_parquet(path),
    ],
    ids=["cut", "no name", "no row"],
)
def test_a_damaged_row_is_measured_again_and_said(tmp_path, damage):
    first = run(tmp_path)
    path = tmp_path / "rows" / "lr-0.001-seed-1.parquet"
    damage(path)
    message = "lr-0.001-seed-1.parquet is damaged; its run is measured again"
    with pytest.warns(UserWarning, match=message):
        again = run(tmp_path)
    pd.testing.assert_frame_equal(first, again)


def test_a_run_that_fails_says_so_in_its_row_the_grid_goes_on_and_it_is_tried_again(tmp_path):
    memory = tmp_path / "memory"

    def measure(run, settings, data, root):
        if settings.lr == 3e-3 and settings.seed == 0 and not memory.exists():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return psnr(run, settings, data, root)

    experiment = dataclasses.replace(RATES, measure=measure)
    rows = run(tmp_path, experiment)
    assert rows.error.isna().tolist() == [True, True, False, True]
    assert rows.error[2] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert rows.psnr.isna().tolist() == [False, False, True, False]
    memory.touch()
    rows = run(tmp_path, experiment)
    assert rows.psnr.notna().all()
    assert "error" not in rows or rows.error.isna().all()


@pytest.mark.parametrize("trained", [True, False])
def test_a_variant_whose_own_batch_is_too_large_has_its_reason_in_its_row(tmp_path, trained):
    def variants(base):
        too_large = dataclasses.replace(base, batch_size=999)
        return [Variant("good", base), Variant("too large", too_large)]

    def measure(*_):
        return [{"psnr": 10.0}]

    experiment = dataclasses.replace(RATES, variants=variants, measure=measure, trained=trained)
    rows = run(tmp_path, experiment, seeds=1)
    assert rows.variant.tolist() == ["good", "too large"]
    reason = "ValueError: batch_size is 999; it must be at most 32, the training images"
    assert rows.error[1] == reason


def test_runs_are_compared_with_the_run_of_the_first_seed(tmp_path):
    comparing = dataclasses.replace(RATES, compare=codebook_distance)
    rows = run(tmp_path, comparing, seeds=3)
    assert rows.distance.isna().tolist() == [True, False, False] * 2
    assert (rows.distance.dropna() > 0).all()
    (tmp_path / "rows" / "lr-0.001-seed-2.parquet").unlink()
    again = run(tmp_path, comparing, seeds=3)
    pd.testing.assert_frame_equal(rows, again)  # also where the first seed's row is only read


def test_equal_settings_are_measured_once_and_stand_in_each_line(tmp_path):
    def variants(base):
        return [Variant("one", base), Variant("other", base)]

    counting = Counting()
    twice = dataclasses.replace(RATES, variants=variants, measure=counting)
    rows = run(tmp_path, twice, seeds=1)
    assert rows.variant.tolist() == ["one", "other"]
    assert rows.psnr.nunique() == 1
    assert counting.seeds == [0]


def test_a_row_of_a_variant_that_meant_something_else_is_measured_again(tmp_path):
    def longer_rates(base):
        return rates(dataclasses.replace(base, steps=8))

    run(tmp_path, seeds=1)
    longer = dataclasses.replace(RATES, variants=longer_rates)
    assert run(tmp_path, longer, seeds=1).steps.tolist() == [8, 8]


def test_rows_of_runs_that_an_older_package_trained_are_measured_again(tmp_path, monkeypatch):
    run(tmp_path, seeds=1)
    monkeypatch.setattr("arcvq.runs.settings.RUN_FORMAT", arcvq.runs.settings.RUN_FORMAT + 1)
    counting = Counting()
    run(tmp_path, dataclasses.replace(RATES, measure=counting), seeds=1)
    assert counting.seeds == [0, 0]


def test_a_run_whose_folder_is_damaged_says_so_in_its_row(tmp_path):
    name = run(tmp_path, seeds=1).run[0]
    cut(tmp_path / "data" / "runs" / name / "model.safetensors")
    (tmp_path / "rows" / "lr-0.001-seed-0.parquet").unlink()
    rows = run(tmp_path)
    assert rows.error.notna().tolist() == [True, False, False, False]
    assert "cannot be opened" in rows.error[0]


def test_where_the_first_seed_failed_the_others_wait_for_it(tmp_path):
    comparing = dataclasses.replace(RATES, compare=codebook_distance)
    earlier = tmp_path / "earlier" / "data"
    name = run(tmp_path / "earlier", seeds=1).run[0]
    model = earlier / "runs" / name / "model.safetensors"
    whole = model.read_bytes()
    cut(model)
    rows = run(tmp_path / "now", comparing, root=earlier)
    assert rows.error.notna().tolist() == [True, True, False, False]
    assert rows.error[1].startswith(
        "RuntimeError: the run of seed 0, to compare with, failed: the run in"
    )
    model.write_bytes(whole)
    rows = run(tmp_path / "now", comparing, root=earlier)
    assert rows.distance.isna().tolist() == [True, False] * 2


def test_an_experiment_may_train_itself_and_give_a_course_of_rows(tmp_path):
    def course(run, settings, data, root):
        assert run is None
        return [{"step": step, "value_there": settings.lr * step} for step in range(3)]

    rows = run(tmp_path, dataclasses.replace(RATES, measure=course, trained=False), seeds=1)
    assert rows.step.tolist() == [0, 1, 2] * 2
    assert not (tmp_path / "data").exists()


def quantizers(base):
    names = ("cosine", "lfq", "bsq")
    return [Variant(name, dataclasses.replace(base, quantizer=name)) for name in names]


def test_variants_that_cannot_be_trained_are_told_before_the_others_are(tmp_path):
    experiment = dataclasses.replace(RATES, variants=quantizers)
    base = dataclasses.replace(BASE, num_codes=7)
    with pytest.warns(UserWarning, match="cannot be trained here: .* power of two") as told:
        rows = run(tmp_path, experiment, base=base, seeds=1)
    assert [str(one.message).split()[0] for one in told] == ["lfq", "bsq"]
    assert rows.error.notna().tolist() == [False, True, True]


@pytest.mark.parametrize("side", [1, 6])
def test_images_that_no_variant_can_take_are_refused(tmp_path, side):
    splits = []
    for split in (IMAGES.train, IMAGES.validation, IMAGES.test):
        splits.append(dataclasses.replace(split, images=split.images[..., :side, :side]))
    data = ImageData("small", *splits, IMAGES.classes)
    with pytest.raises(ValueError, match=f"images are {side}x{side} pixels; both must be mult"):
        run(tmp_path, data=data)
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_data_without_images_to_measure_is_refused(tmp_path, part):
    data = dataclasses.replace(IMAGES, **{part: IMAGES.test.first(0)})
    with pytest.raises(ValueError, match=f"strokes has no {part} images"):
        run(tmp_path, data=data)
    assert not [*tmp_path.iterdir()]


def test_a_first_run_that_failed_is_not_trained_again_for_each_seed_that_waits_for_it(
    tmp_path, monkeypatch
):
    trained = []

    def failing(settings, *arguments, **options):
        trained.append(settings.seed)
        if settings.seed == 0:
            raise FloatingPointError("the loss is nan")
        return train(settings, *arguments, **options)

    monkeypatch.setattr(parallel, "train", failing)
    monkeypatch.setattr(base_module, "train", failing)
    one = dataclasses.replace(
        RATES, variants=lambda base: rates(base)[:1], compare=codebook_distance
    )
    rows = run(tmp_path, one, seeds=3)
    assert rows.error.notna().tolist() == [True, True, True]
    assert trained.count(0) == 1


def test_results_of_other_settings_keep_their_folder(tmp_path):
    run(tmp_path, seeds=1)
    before = (tmp_path / "rates.parquet").read_bytes()
    message = r"holds results of other settings \(steps was 6 and is now 7\); name another"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, base=dataclasses.replace(BASE, steps=7))
    with pytest.raises(ValueError, match="experiment was 'rates' and is now 'others'"):
        run(tmp_path, dataclasses.replace(RATES, name="others"))
    assert (tmp_path / "rates.parquet").read_bytes() == before
    assert json.loads((tmp_path / "experiment.json").read_text())["steps"] == 6
    run(tmp_path, base=dataclasses.replace(BASE, dataset="folder:/another/path/of/them"), seeds=1)


@pytest.mark.parametrize(
    "change",
    [
        {"reading": Reading(size=16, levels=(0.0, 4095.0))},
        {"vqgan": VQGANSettings(channels=8, multipliers=(1, 2), losses=PIXELS_ONLY)},
        {"quantizer": "rotation", "commitment": 0.5},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_folder_goes_on_with_its_own_settings_and_not_with_the_usual_ones(tmp_path, change):
    def fixed(run, settings, data, root):
        return [{"psnr": 20.0}]

    quick = dataclasses.replace(RATES, measure=fixed, trained=False)
    base = dataclasses.replace(BASE, **change)
    first = run(tmp_path, quick, base=base, seeds=1)
    again = run(tmp_path, quick, base=base, seeds=1)
    pd.testing.assert_frame_equal(again, first)
    with pytest.raises(ValueError, match=r"other settings .* is now (None|'samp')"):
        run(tmp_path, quick, seeds=1)


@pytest.mark.parametrize("form", [dict, json.dumps], ids=["nested", "earlier text"])
def test_a_folder_goes_on_whose_description_holds_the_settings_of_samp_in_either_form(
    tmp_path, form
):
    base = dataclasses.replace(BASE, samp=SAMP.for_run(BASE.steps))
    first = run(tmp_path, base=base, seeds=1)
    path = tmp_path / "experiment.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"samp": form(base.samp.config())}))
    pd.testing.assert_frame_equal(run(tmp_path, base=base, seeds=1), first)
    with pytest.raises(ValueError, match=r"samp was .* and is now None"):
        run(tmp_path, seeds=1)


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_a_folder_whose_description_is_damaged_is_left_alone(tmp_path, text):
    run(tmp_path, seeds=1)
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(ValueError, match=r"experiment\.json is damaged; name another folder"):
        run(tmp_path, seeds=1)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("a report")
    message = "holds files, but none of an experiment; name another folder"
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_folder_with_nothing_but_the_draft_of_a_killed_call_is_free_to_use(tmp_path):
    (tmp_path / ".experiment.json.7.draft").touch()
    assert len(run(tmp_path, seeds=1)) == 2


def test_wrong_requests_are_told_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="seeds is 0; it must be a whole number from 1"):
        run(tmp_path, seeds=0)
    last = dataclasses.replace(BASE, seed=LARGEST_SEED)
    for experiment, seeds in ((RATES, 2), (dataclasses.replace(RATES, search=RATES), 1)):
        with pytest.raises(ValueError, match="seed is 4294967296; it must be a whole number from"):
            run(tmp_path, experiment, base=last, seeds=seeds)
    message = r"variant 'lr 5' is unknown; rates has 'lr 0\.001', 'lr 0\.003'"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, only=["lr 5"])
    with pytest.raises(ValueError, match="workers is 0; it must be a whole number from 1"):
        run(tmp_path, workers=0)
    with pytest.raises(ValueError, match="workers is 2 and ray is 'local'"):
        run(tmp_path, workers=2, ray="local")

    with pytest.raises(ValueError, match="batch_size is 33; it must be at most 32, the training"):
        run(tmp_path, base=dataclasses.replace(BASE, batch_size=33))
    with pytest.raises(ValueError, match="train_images is 33; it must be a whole number from 1 to"):
        run(tmp_path, base=dataclasses.replace(BASE, train_images=33))

    def check(data):
        raise ValueError(f"{data.name} cannot be measured")

    with pytest.raises(ValueError, match="strokes cannot be measured"):
        run(tmp_path, dataclasses.replace(RATES, check=check))
    assert not [*tmp_path.iterdir()]


def test_without_a_folder_other_settings_have_another_one(tmp_path):
    for base in (BASE, dataclasses.replace(BASE, steps=7), BASE):
        run(None, base=base, root=tmp_path, seeds=1)
    assert len([*(tmp_path / "experiments").glob("rates-*/rates.parquet")]) == 2


def test_one_variant_can_be_asked_for(tmp_path):
    for only in (["lr 0.003"], "lr 0.003"):
        assert run(tmp_path, only=only, seeds=1).variant.tolist() == ["lr 0.003"]


def alone(*names, measure=lambda run, settings, data, root: [{"psnr": 10.0}]):
    """An experiment whose variants are measured without any training."""

    def variants(base):
        return [Variant(name, base, {"place": name}) for name in names]

    return Experiment("alone", "?", variants, measure, table=lambda rows: rows, trained=False)


def kept_rows(folder):
    rows = pd.read_parquet(folder / "alone.parquet")
    return sorted(zip(rows.variant, rows.seed, strict=True))


def test_no_call_cuts_the_table_of_earlier_calls(tmp_path):
    run(tmp_path, alone("a", "b"), seeds=2)
    everything = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert run(tmp_path, alone("b"), seeds=1).variant.tolist() == ["b"]
    assert kept_rows(tmp_path) == everything
    shutil.rmtree(tmp_path / "rows")
    run(tmp_path, alone("a", "b"), seeds=1, only=["a"])
    assert kept_rows(tmp_path) == everything
    (tmp_path / "alone.parquet").write_bytes(b"damaged")
    run(tmp_path, alone("c"), seeds=1)
    assert kept_rows(tmp_path) == [("a", 0), ("c", 0)], "what the rows still hold"


def test_a_failure_does_not_take_the_place_of_what_was_measured(tmp_path, monkeypatch):
    run(tmp_path, alone("a"), seeds=1)
    monkeypatch.setattr(settings, "RUN_FORMAT", 99)  # its run has another name from now on
    failed = run(tmp_path, alone("a", measure=lambda *run: 1 / 0), seeds=1)
    assert failed.error.tolist() == ["ZeroDivisionError: division by zero"]
    (file,) = (tmp_path / "rows").iterdir()
    assert pd.read_parquet(file).psnr.tolist() == [10.0]
    assert run(tmp_path, alone("a"), seeds=1).psnr.tolist() == [10.0]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@settings_of_hypothesis(max_examples=20, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
@example(["a b", "a-b", "A B", "猫", "犬", "x" * 300, "é" * 200])
def test_variants_of_any_names_have_rows_of_their_own(names):
    with TemporaryDirectory() as folder:
        rows = run(Path(folder) / "out", alone(*names), seeds=1)
        assert rows.variant.tolist() == rows.place.tolist() == names
        failing = alone(*names, measure=lambda *run: 1 / 0)
        again = run(Path(folder) / "out", failing, seeds=1)
        pd.testing.assert_frame_equal(again, rows)


SCRIPT = """
import dataclasses, sys
sys.path.insert(0, {checkout!r})
from pathlib import Path
import torch
from tests.experiments.test_base import BASE, run
torch.set_num_threads(1)  # as the tests do: another number of threads rounds otherwise
if __name__ == "__main__":
    run(Path({out!r}), base=dataclasses.replace(BASE, steps=100), seeds=2, workers=2)
"""


def test_killed_at_some_moment_and_started_again_it_ends_with_the_same_table(tmp_path):
    """The process is killed without warning once a row stands, in the middle of the next runs."""
    script = tmp_path / "script.py"
    killed = tmp_path / "killed"
    script.write_text(SCRIPT.format(checkout=CHECKOUT, out=str(killed)))
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    deadline = time.monotonic() + 300
    while not [*killed.glob("rows/*.parquet")]:
        running = process.poll() is None and time.monotonic() < deadline
        assert running, "it ended or stood still before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "rates.parquet").exists()
    assert len([*killed.glob("data/runs/*/run.json")]) < 4
    longer = dataclasses.replace(BASE, steps=100)
    whole = run(tmp_path / "whole", base=longer)
    pd.testing.assert_frame_equal(run(killed, base=longer), whole)


ENDLESS = """
import dataclasses, sys, time
sys.path.insert(0, {checkout!r})
from pathlib import Path
from arcvq.experiments import Variant
from tests.experiments.test_base import BASE, RATES, run

def variants(base):
    long = [Variant(f"long {{n}}", dataclasses.replace(base, steps=10**6 + n)) for n in (1, 2)]
    return [Variant("short", base), *long]

def measure(*_):
    Path({out!r}, "measuring").touch()
    time.sleep(300)

if __name__ == "__main__":
    experiment = dataclasses.replace(RATES, variants=variants, measure=measure)
    run(Path({out!r}), experiment, seeds=1, workers=2)
"""


def test_ctrl_c_while_a_run_is_measured_ends_the_runs_that_train_meanwhile(tmp_path):
    script = tmp_path / "script.py"
    out = tmp_path / "out"
    script.write_text(ENDLESS.format(checkout=CHECKOUT, out=str(out)))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "measuring").exists() or len([*out.glob("data/runs/*/checkpoint.pt")]) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
