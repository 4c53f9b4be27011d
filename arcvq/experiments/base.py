"""Experiments: named grids of settings, trained and measured, with rows that are kept."""

import dataclasses
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from arcvq.experiments.measures import run_facts
from arcvq.experiments.tables import finished
from arcvq.images import ImageData
from arcvq.runs.parallel import check_workers, train_as_completed
from arcvq.runs.settings import RunSettings, run_name, train
from arcvq.runtime.checkpoints import with_nested_settings
from arcvq.runtime.checks import as_seed, check_whole, differences
from arcvq.runtime.devices import choose_device, choose_precision
from arcvq.runtime.files import data_root, safe_name, write_text, write_whole
from arcvq.runtime.store import digest_in, digest_of
from arcvq.training import Run

LONGEST_NAME = 200  # bytes; most disks allow 255, and the seed is still to come
RESULTS_FORMAT = 2  # of a results folder; bump it when earlier rows no longer fit

Rows = list[dict[str, Any]]
Outcome = Run | Exception | None  # why a run failed, or None where `measure` trains


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of an experiment's table.

    Args:
        name: Unique within the experiment.
        settings: The settings of its runs; only the seed differs between them.
        facts: Columns that place the variant, such as {"axis": "margin", "value": 0.3}.
    """

    name: str
    settings: RunSettings
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def takes_any_data(data: ImageData) -> None:
    """The check of an experiment that can be measured on any data."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named grid of settings, with what is measured of each run.

    Args:
        name: The name of its table.
        question: What it asks, in one sentence.
        variants: Makes the variants for the settings that they start from.
        measure: Measures a run, given its settings, the data and the root of the stored runs. It
            returns one row or, for a course over time, several.
        table: Turns the rows into the table that a reader sees, in text.
        compare: Measures a run beside the run of the first seed, as additional columns. Nothing is
            measured before all runs are trained.
        trained: Whether runs are trained for `measure`; otherwise it is given None and trains.
        search: An experiment that is run first, with one seed, to choose settings. Each of its
            variants names, in the fact `candidate_for`, a variant of this experiment. The candidate
            with the largest `psnr` replaces the settings and facts of that variant, whose seeds are
            fresh ones. The columns `chosen` and `search_steps` hold its name and the length of its
            run. So `search` must measure something else than this experiment reports.
        search_steps: Optimizer steps of a run of the search; None for as many as the others have.
            With fewer, what was best in short runs is trained at length.
        check: Raises ValueError for data that cannot be measured, before anything is trained.
    """

    name: str
    question: str
    variants: Callable[[RunSettings], list[Variant]]
    measure: Callable[[Any, RunSettings, ImageData, Path], Rows]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    compare: Callable[[Run, Run, ImageData], dict[str, float]] | None = None
    trained: bool = True
    search: "Experiment | None" = None
    search_steps: int | None = None
    check: Callable[[ImageData], None] = takes_any_data

    def __post_init__(self):
        if self.search_steps is None:
            return
        if self.search is None:
            raise ValueError(f"search_steps is {self.search_steps}; {self.name} has no search")
        check_whole(1, search_steps=self.search_steps)


def run_experiment(
    experiment: Experiment,
    base: RunSettings,
    data: ImageData | None = None,
    *,
    seeds: int = 3,
    only: str | Sequence[str] = (),
    out: str | Path | None = None,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    **training: Any,
) -> pd.DataFrame:
    """Train and measure every variant of an experiment, or go on with one that was stopped.

    The rows of each run are written to `out`/rows as soon as it is measured, and are not measured
    again: to try another `measure`, name another folder. A run that fails has its reason in the
    column `error`, and is tried again the next time. The results of a search are in `out`/search.

    Args:
        experiment: What to train and measure.
        base: The settings that the variants start from.
        data: The data; None loads the data set of `base`.
        seeds: How many runs each variant gets, with seeds from `base.seed` on. A search has that
            seed itself, and the runs after it the following ones.
        only: Name or names of the variants to run; all if empty.
        out: The folder of the results; by default one for these settings in `root`/experiments.
        root: Where data sets and runs are kept; see `data_root`.
        device: Where the runs are trained; see `choose_device`.
        **training: `workers`, `ray` and `progress` of `train_many`.

    Returns:
        The rows in the order of the variants and seeds. They are also written to
        `out`/NAME.parquet, followed by those of other variants and seeds from earlier calls.

    Raises:
        ValueError: For no seeds or one beyond the largest, an unknown variant, fewer training
            images than `base` needs, no validation or test images, data that the experiment cannot
            measure or no variant can be trained on, or a folder with results of other settings or
            with other files.
    """
    check_whole(1, seeds=seeds)
    first_seed = base.seed if experiment.search is None else base.seed + 1
    as_seed(first_seed + seeds - 1)  # checks the last one
    check_workers(training.get("workers"), training.get("ray"))
    variants = experiment.variants(base)
    chosen = _chosen_names(experiment.name, variants, only)
    root = data_root(root)
    device = choose_device(device)
    data = data or base.load_data(root, device)
    _check_data(experiment, base, data)
    if out is None:
        out = root / "experiments" / _folder_name(experiment, base, data, device)
    folder = Path(out).expanduser()
    claim = {
        "format": RESULTS_FORMAT,
        "experiment": experiment.name,
        "images": data.fingerprint,
        **base.config(),
    }
    _claim(folder, claim)

    training |= {"root": root, "device": device}
    without_best: set[str] = set()
    if experiment.search is not None:
        short = dataclasses.replace(base, steps=experiment.search_steps or base.steps)
        psnr = _run_search(experiment.search, short, data, chosen, folder / "search", training)
        candidates = experiment.search.variants(base)
        without_best = _without_best(candidates, psnr)
        variants = [_at_its_best(one, candidates, psnr, short.steps) for one in variants]

    trials = _plan(experiment.name, variants, range(first_seed, first_seed + seeds), folder)
    trials = [trial for trial in trials if trial.variant in chosen]
    _check_images(trials, data)
    lost = {}
    for trial in trials:
        if trial.variant in without_best:
            lost[trial.file] = _not_chosen(trial, data, device, folder / "search")
    waiting = [
        trial
        for trial in trials
        if trial.file not in lost and not _is_measured(trial, data, device)
    ]
    waiting.sort(key=lambda trial: trial.settings.seed)  # one run of every variant comes first
    failures = lost | _train_and_measure(experiment, waiting, data, first_seed, training)

    tables = []
    for trial in trials:
        failure = failures.get(trial.file)
        tables.append(pd.read_parquet(trial.file) if failure is None else failure)
    rows = pd.concat(tables, ignore_index=True)
    _write_table(results_file(experiment.name, folder), rows, folder / "rows")
    return pd.read_parquet(BytesIO(rows.to_parquet()))  # with the types of columns in files


def _folder_name(
    experiment: Experiment, base: RunSettings, data: ImageData, device: torch.device
) -> str:
    """The default name of the folder of the results, by all that they depend on."""
    digest = base.digest(data, choose_precision(base.precision, device))
    name = f"{safe_name(experiment.name)}-{digest}-{RESULTS_FORMAT}"
    if experiment.search_steps is None:
        return name
    return f"{name}-searched-{experiment.search_steps}"


def without_effect(experiment: Experiment, base: RunSettings) -> list[str]:
    """The sizes in `base` that no run takes over, since the experiment has values of its own."""
    source = experiment.search or experiment
    runs = [variant.settings for variant in source.variants(base)]
    ignored = []
    for name in ("num_codes", "dim", "lr"):
        values = {getattr(settings, name) for settings in runs}
        if getattr(base, name) not in values:
            ignored.append(name)
    if all(settings.precision != base.precision for settings in runs):
        ignored.append("precision")
    if all(settings.vqgan is not None for settings in runs):
        ignored += ["hidden", "residual_hidden"]
    return ignored


def results_file(experiment: str, folder: Path) -> Path:
    """The file with all rows of the experiment of this name in a folder."""
    return folder / f"{safe_name(experiment)}.parquet"


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A run of a variant, the file of its rows, and the columns that say which variant it is."""

    settings: RunSettings
    file: Path
    facts: dict[str, Any]

    @property
    def variant(self) -> str:
        return self.facts["variant"]


def _run_search(
    search: Experiment,
    base: RunSettings,
    data: ImageData,
    chosen: Sequence[str],
    folder: Path,
    training: dict[str, Any],
) -> dict[str, float]:
    """The PSNR of the candidates for the chosen variants, by name; none of those that failed."""
    candidates = [
        variant for variant in search.variants(base) if variant.facts["candidate_for"] in chosen
    ]
    if not candidates:
        return {}
    names = [candidate.name for candidate in candidates]
    rows = run_experiment(search, base, data, seeds=1, only=names, out=folder, **training)
    measured = finished(rows).dropna(subset=rows.columns.intersection(["psnr"]))
    return dict(zip(measured.variant, measured.get("psnr", ()), strict=True))


def _without_best(candidates: Sequence[Variant], psnr: Mapping[str, float]) -> set[str]:
    """The variants that have candidates, all of which failed."""
    wanted = {candidate.facts["candidate_for"] for candidate in candidates}
    found = {one.facts["candidate_for"] for one in candidates if one.name in psnr}
    return wanted - found


def _not_chosen(trial: _Trial, data: ImageData, device: torch.device, search: Path) -> pd.DataFrame:
    """The row of a run that was not made, since all candidates for its variant failed."""
    reason = f"every candidate of the search failed; the reasons are in {search}"
    return pd.DataFrame([trial.facts | run_facts(trial.settings, data, device) | {"error": reason}])


def _at_its_best(
    variant: Variant, candidates: Sequence[Variant], psnr: Mapping[str, float], search_steps: int
) -> Variant:
    """The variant with the settings and facts of its best candidate; as it is if it has none."""
    own = [one for one in candidates if one.facts["candidate_for"] == variant.name]
    measured = [one for one in own if one.name in psnr]
    if not measured:
        return variant
    best = max(measured, key=lambda candidate: psnr[candidate.name])
    facts = {**best.facts, "chosen": best.name, "search_steps": search_steps}
    return Variant(variant.name, best.settings, facts)


def _plan(experiment: str, variants: Sequence[Variant], seeds: range, folder: Path) -> list[_Trial]:
    """The runs of every variant of an experiment, in the order of the table."""
    names = _file_names([variant.name for variant in variants])
    trials = []
    for variant in variants:
        facts = {"experiment": experiment, "variant": variant.name, **variant.facts}
        for seed in seeds:
            settings = dataclasses.replace(variant.settings, seed=seed)
            file = folder / "rows" / f"{names[variant.name]}-seed-{seed}.parquet"
            trials.append(_Trial(settings, file, facts))
    return trials


def _file_names(variants: Sequence[str]) -> dict[str, str]:
    """A name for the files of each variant; it ends in a digest where a plain one will not do."""
    names = {variant: re.sub(r"[^A-Za-z0-9.]+", "-", variant) for variant in variants}
    uses = Counter(name.lower() for name in names.values())
    for variant, name in names.items():
        if uses[name.lower()] > 1 or len(name) > LONGEST_NAME:
            names[variant] = f"{name[:LONGEST_NAME]}-{digest_of(variant)}"
    return names


def _check_data(experiment: Experiment, base: RunSettings, data: ImageData) -> None:
    """Raise ValueError for data that is too small, or that the experiment cannot measure."""
    for part, split in (("validation", data.validation), ("test", data.test)):
        if len(split) == 0:
            raise ValueError(f"{data.name} has no {part} images; an experiment needs some")
    base.check_data(data)
    experiment.check(data)


def _check_images(trials: Sequence[_Trial], data: ImageData) -> None:
    """Warn of variants whose runs will fail; raise ValueError if these are all."""
    reasons = {}
    for variant, settings in {trial.variant: trial.settings for trial in trials}.items():
        try:
            settings.check_images(data)
        except ValueError as error:
            reasons[variant] = error
    if reasons and all(trial.variant in reasons for trial in trials):
        raise next(iter(reasons.values()))
    for variant, reason in reasons.items():
        warnings.warn(f"{variant} cannot be trained here: {reason}", stacklevel=3)


def _chosen_names(
    experiment: str, variants: Sequence[Variant], only: str | Sequence[str]
) -> Sequence[str]:
    """The names of the variants to run: all, or those that are asked for."""
    names = [variant.name for variant in variants]
    only = [only] if isinstance(only, str) else only
    for name in only:
        if name not in names:
            # Names may hold commas, so each is quoted.
            known = ", ".join(map(repr, names))
            raise ValueError(f"variant {name!r} is unknown; {experiment} has {known}")
    return only or names


def _claim(folder: Path, mine: dict[str, Any]) -> None:
    """Note whose results the folder holds; raise ValueError where they are those of others."""
    path = folder / "experiment.json"
    if path.is_file():
        try:
            theirs = dict(with_nested_settings(json.loads(path.read_text())))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged; name another folder") from None
        if theirs.get("images") == mine["images"]:
            theirs["dataset"] = mine["dataset"]  # which may be another path of the same folder
        changes = differences(theirs, mine)
        if changes:
            raise ValueError(
                f"{folder} holds results of other settings ({'; '.join(changes)}); name another "
                "folder"
            )
    # The draft of a call that was killed is no file of others.
    elif folder.is_dir() and not all(file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} holds files, but none of an experiment; name another folder")
    write_text(path, json.dumps(mine, indent=2))


def _is_measured(trial: _Trial, data: ImageData, device: torch.device) -> bool:
    """Whether the file of a trial holds the rows of its run, and the run did not fail."""
    if not trial.file.exists():
        return False
    try:
        rows = pd.read_parquet(trial.file)
        digest = digest_in(rows["run"].iloc[0])
    except Exception:
        warnings.warn(f"{trial.file} is damaged; its run is measured again", stacklevel=3)
        return False
    same = digest == digest_in(run_name(trial.settings, data, device))
    return same and len(finished(rows)) == len(rows)


def _has_results(file: Path) -> bool:
    """Whether a file holds rows of a run that did not fail."""
    try:
        return len(finished(pd.read_parquet(file))) > 0
    except Exception:  # it is not there, or is damaged
        return False


def _write_table(file: Path, rows: pd.DataFrame, folder: Path) -> None:
    """Write the rows of this call, and after them all others that are there already.

    Args:
        file: The table, with the rows of earlier calls.
        rows: The rows of this call.
        folder: The folder with the rows of each run.
    """
    for path in (*sorted(folder.glob("*.parquet")), file):
        try:
            earlier = pd.read_parquet(path)
            keys = [*zip(earlier["variant"], earlier["seed"], strict=True)]
        except Exception:  # it is not there, or is damaged
            continue
        known = {*zip(rows["variant"], rows["seed"], strict=True)}
        new = earlier[[key not in known for key in keys]]
        if len(new):
            rows = pd.concat([rows, new], ignore_index=True)
    write_whole(file, rows.to_parquet)


def _train_and_measure(
    experiment: Experiment,
    trials: Sequence[_Trial],
    data: ImageData,
    first_seed: int,
    training: dict[str, Any],
) -> dict[Path, pd.DataFrame]:
    """Write the rows of each run as soon as it is trained and measured.

    Returns:
        By the file of a trial, the row of a run that failed now and has results of an earlier call
        in that file. They are not replaced.
    """
    failures = {}
    asked = [*dict.fromkeys(trial.settings for trial in trials)]
    with closing(_outcomes(experiment, asked, data, training)) as outcomes:
        found: Iterable[tuple[RunSettings, Outcome]] = outcomes
        firsts: dict[RunSettings, Outcome] = {}
        if experiment.compare:  # runs can be compared once all of them are trained
            found = list(outcomes)
            firsts = {settings: run for settings, run in found if settings.seed == first_seed}
        for settings, run in found:
            rows = _measure(experiment, run, settings, data, training["root"], first_seed, firsts)
            facts = run_facts(settings, data, training["device"])
            for trial in trials:
                if trial.settings != settings:
                    continue
                table = pd.DataFrame([trial.facts | facts | row for row in rows])
                if len(finished(table)) == 0 and _has_results(trial.file):
                    failures[trial.file] = table
                else:
                    write_whole(trial.file, table.to_parquet)
    return failures


def _outcomes(
    experiment: Experiment,
    settings: Sequence[RunSettings],
    data: ImageData,
    training: dict[str, Any],
) -> Generator[tuple[RunSettings, Outcome]]:
    """Yield each run as soon as it is trained; None in place of a run that `measure` trains."""
    possible = []
    for one in settings:
        try:
            one.check_data(data)
        except ValueError as error:  # of a variant with a batch of its own
            yield one, error
        else:
            possible.append(one)
    if experiment.trained:
        yield from train_as_completed(possible, data, **training)
    else:
        hidden = not training.get("progress", True)
        for one in tqdm(possible, desc="runs", unit="run", disable=hidden):
            yield one, None


def _measure(
    experiment: Experiment,
    run: Outcome,
    settings: RunSettings,
    data: ImageData,
    root: Path,
    first_seed: int,
    firsts: Mapping[RunSettings, Outcome],
) -> Rows:
    """The rows of a run; for one that failed, a row with the reason."""
    try:
        if isinstance(run, Exception):
            raise run
        rows = experiment.measure(run, settings, data, root)
        if experiment.compare is None or run is None or settings.seed == first_seed:
            return rows
        first = _first_run(dataclasses.replace(settings, seed=first_seed), firsts, data, root)
        compared = experiment.compare(run, first, data)
        return [row | compared for row in rows]
    except Exception as error:
        reason = " ".join(str(error).split())
        return [{"error": f"{type(error).__name__}: {reason}"}]


def _first_run(
    settings: RunSettings, outcomes: Mapping[RunSettings, Outcome], data: ImageData, root: Path
) -> Run:
    """The run of the first seed, which the others are compared with.

    Args:
        settings: Its settings.
        outcomes: What this call has trained, or failed to train.
        data: The data.
        root: Where a run of an earlier call is kept.
    """
    try:
        outcome = outcomes.get(settings)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or train(settings, data, root=root, device=data.device, progress=False)
    except Exception as error:
        raise RuntimeError(
            f"the run of seed {settings.seed}, to compare with, failed: {error}"
        ) from error
