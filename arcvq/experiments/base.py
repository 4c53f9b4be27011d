"""What an experiment is, and how it is run: one row of a table for each run, kept as soon as it is there."""

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from arcvq.experiments.measures import facts
from arcvq.experiments.tables import finished
from arcvq.images import ImageData, load_images
from arcvq.runs.parallel import train_as_completed
from arcvq.runs.settings import RunSettings, run_name, train
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import data_root, write_whole
from arcvq.runtime.store import digest_in
from arcvq.training import Run

FORMAT = 2  # of results folders; raised when rows of before would not fit
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of an experiment's table.

    name: its own within the experiment. settings: all but the seed. facts: columns that say where it stands, such as
    {"axis": "margin", "value": 0.3}.
    """

    name: str
    settings: RunSettings
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named grid of settings with what is measured of each run.

    question: what it asks, a sentence. variants: the lines of the table for a base of settings. measure: from a run,
    its settings, the data and the root of the stored runs to one row or, for a course over time, several. compare: adds
    columns from a run and the run of the first seed; it waits until all are trained. table: what a reader gets of the
    rows, as texts. trained: False where `measure` trains itself.
    """

    name: str
    question: str
    variants: Callable[[RunSettings], list[Variant]]
    measure: Callable[[Any, RunSettings, ImageData, Path], Rows]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    compare: Callable[[Run, Run, ImageData], dict[str, float]] | None = None
    trained: bool = True


def run_experiment(
    experiment: Experiment,
    base: RunSettings,
    images: ImageData | None = None,
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    only: Sequence[str] = (),
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and measure every variant with seeds base.seed, base.seed + 1, ...; the rows in the order of the variants.

    out: a folder; `rows/` in it gets a Parquet file for each run as soon as it is measured, NAME.parquet all that this
    call asked for. None names one for these settings under `root`/experiments. A stopped experiment goes on there;
    rows that are there are not measured again, so another `measure` needs another name or folder. A run that fails has
    its reason in the column `error`, and is tried again the next time. only: names of variants to run; none means all.
    workers: see `train_many`.

    Raises ValueError for no seeds, an unknown variant, or a folder with results of other settings or other files.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1")
    root, device = data_root(root), choose_device(device)
    variants = experiment.variants(base)
    names = [variant.name for variant in variants]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"variant {unknown[0]!r} is unknown; {experiment.name} has {', '.join(names)}")
    images = images or load_images(base.dataset, root, device)
    digest = base.digest(images, choose_precision(base.precision, device))
    out = Path(out) if out is not None else root / "experiments" / f"{experiment.name}-{digest}-{FORMAT}"
    _claim(out, experiment, base, images)
    runs = {(variant.name, base.seed + seed): (variant, dataclasses.replace(variant.settings, seed=base.seed + seed))
            for seed in range(seeds) for variant in variants if not only or variant.name in only}
    kept = {key: _read(_file(out, *key), run_name(settings, images, device))
            for key, (_, settings) in runs.items()}
    waiting = [key for key in runs if kept[key] is None]
    asked = [*dict.fromkeys(runs[key][1] for key in waiting)]
    options = {"root": root, "device": device, "progress": progress}
    with closing(_measured(experiment, asked, images, base.seed, workers, options)) as measured:
        for settings, rows in measured:
            about = facts(settings, images, device)
            for key in (key for key in waiting if runs[key][1] == settings):
                known = {"experiment": experiment.name, "variant": key[0], **runs[key][0].facts}
                kept[key] = table = pd.DataFrame([known | about | row for row in rows])
                write_whole(_file(out, *key), table.to_parquet)
    order = {name: place for place, name in enumerate(names)}
    found = [kept[key] for key in sorted(runs, key=lambda key: (order[key[0]], key[1]))]
    table = pd.concat([rows for rows in found if rows is not None], ignore_index=True)
    write_whole(out / f"{experiment.name}.parquet", table.to_parquet)
    return table


def _measured(experiment, settings, images, seed, workers, options) -> Generator[tuple[RunSettings, Rows]]:
    """The rows of each run; of one that failed, a row that says why."""
    outcomes: Generator[tuple[RunSettings, Run | Exception | None]]
    if experiment.trained:
        outcomes = train_as_completed(settings, images, workers=workers, **options)
    else:
        outcomes = ((one, None) for one in tqdm(settings, desc="runs", unit="run", disable=not options["progress"]))
    with closing(outcomes):  # so that no worker trains on where this ends early
        trained = dict(outcomes) if experiment.compare else {}
        for one, run in trained.items() or outcomes:
            try:
                if isinstance(run, Exception):
                    raise run
                rows = experiment.measure(run, one, images, options["root"])
                if experiment.compare and one.seed != seed:
                    first = dataclasses.replace(one, seed=seed)
                    other = trained[first] if first in trained else train(first, images, **options)
                    if isinstance(other, Exception):
                        raise RuntimeError(f"the run of seed {seed}, to compare with, failed: {other}")
                    rows = [row | experiment.compare(run, other, images) for row in rows]
            except Exception as error:
                rows = [{"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}]
            yield one, rows


def _claim(out: Path, experiment: Experiment, base: RunSettings, images: ImageData) -> None:
    """Write down whose results the folder holds; raise ValueError where they are others'."""
    mine = {"format": FORMAT, "experiment": experiment.name, "images": images.fingerprint, **base.plain()}
    path = out / "experiment.json"
    if path.is_file():
        try:
            theirs = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged; name another folder") from None
        apart = [f"{name} was {theirs.get(name)!r} and is now {value!r}" for name, value in mine.items()
                 if theirs.get(name) != value]
        if apart:
            raise ValueError(f"{out} holds results of other settings ({'; '.join(apart)}); name another folder")
    elif out.is_dir() and any(not file.name.startswith(".") for file in out.iterdir()):  # but a draft of a killed call
        raise ValueError(f"{out} holds files, but none of an experiment; name another folder")
    write_whole(path, lambda draft: draft.write_text(json.dumps(mine, indent=2)))


def _file(out: Path, name: str, seed: int) -> Path:
    return out / "rows" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}-seed-{seed}.parquet"


def _read(path: Path, run: str) -> pd.DataFrame | None:
    """The rows of this run that were measured before; None where they are missing, damaged, others' or of an error."""
    if not path.is_file():
        return None
    try:
        rows = pd.read_parquet(path)
        theirs = digest_in(rows["run"].iloc[0])
    except Exception:
        warnings.warn(f"{path} is damaged; its run is measured again", stacklevel=3)
        return None
    return rows if theirs == digest_in(run) and len(finished(rows)) == len(rows) else None
