"""The command `arcvq`: run the notebooks, train models, run experiments, check the installation."""

import dataclasses
import math
import platform
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:  # a command imports what it needs when it runs
    from packaging.requirements import Requirement

    from arcvq.experiments import Experiment
    from arcvq.image_folders import Reading
    from arcvq.images import ImageData
    from arcvq.runs.settings import RunSettings


class OneSentenceErrors(click.Group):
    """Command group that ends in one sentence on stderr instead of a traceback.

    The exit code is 2 after an error and 130 after Ctrl-C.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        warnings.showwarning = _note
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            farewell = str(stop) or "Stopped; what was finished is kept."
            click.echo(f"\n{farewell}", err=True)
            ctx.exit(130)
        # A closed pipe, as after `| head`: click ends without a word.
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"Error: {_sentence(error)}", err=True)
            ctx.exit(2)


def _note(message: Any, *place: Any, **more_of_it: Any) -> None:
    """Print a warning as a sentence, without the line of code that gave it."""
    click.echo(f"Note: {message}", err=True)


def _sentence(error: Exception) -> str:
    """The message of an error in one line, with its type where the message may not explain it."""
    message = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and "pip install" not in message:
        package = str(error.name).partition(".")[0]
        return f"{package} is not installed; it comes with pip install 'arcvq[kit]'"
    if message and isinstance(error, (ValueError, OSError, RuntimeError, ModuleNotFoundError)):
        return message
    return f"{type(error).__name__} {message}"


@click.group(
    cls=OneSentenceErrors,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="arcvq")
def main(debug: bool) -> None:
    """Spherical vector quantization with SAMP: notebooks, training, a check of the installation."""


class HomePath(click.Path):
    """A path in which ~ is the home folder, which shells leave as it is in --out=~/folder.

    An empty name is refused: it would stand for the working directory.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Check the path, with the home folder in it."""
        if value == "":
            self.fail("the name is empty; use . for the working directory", param, ctx)
        return super().convert(str(Path(value).expanduser()), param, ctx)


FILE = HomePath(path_type=Path, dir_okay=False)
FOLDER = HomePath(path_type=Path, file_okay=False)
ANY_PATH = HomePath(path_type=Path)
EXISTING_FOLDER = HomePath(exists=True, file_okay=False)

dataset_option = click.option("--dataset", help="digits, photos, mnist, ..., or folder:PATH")
seed_option = click.option("--seed", type=int)

# Options of a data set that is a folder; see arcvq.image_folders.Reading.
READING_OPTIONS = (
    click.option("--size", type=int, help="pixels of the shorter side, a multiple of 8"),
    click.option("--grey/--color", default=None, help="gray or RGB; by default as the files are"),
    click.option("--background", help="color seen through transparent pixels, white by default"),
    click.option("--levels", help="pixels of more than 8 bits: minmax, or LOW:HIGH"),
    click.option("--skip-broken", is_flag=True, default=None, help="leave out unreadable files"),
    click.option("--crop", type=int, help="train on random squares of this many pixels"),
    click.option(
        "--stream/--in-memory",
        default=None,
        help="read each batch from its files, or hold all images in memory",
    ),
)

# Options that are settings of a run; one that is not given has the value of the profile.
SETTINGS_OPTIONS = (
    dataset_option,
    click.option(
        "--profile",
        default="quick",
        help="quick, standard, full, full_small or paper: how long and how large",
    ),
    click.option("--num-codes", type=int, help="K, codes in the codebook"),
    click.option("--dim", type=int, help="D, components of a code"),
    click.option("--hidden", type=int, help="channels of the network"),
    click.option("--residual-hidden", type=int, help="channels inside a residual layer"),
    click.option("--steps", type=int, help="optimizer steps"),
    click.option("--batch-size", type=int, help="images per step"),
    click.option("--lr", type=float, help="learning rate of Adam"),
    click.option("--precision", help="auto, float32 or bfloat16"),
    click.option("--train-images", type=int, help="use only this many training images"),
    *READING_OPTIONS,
)


def reading_options(command: Any) -> Any:
    """Add the options of a folder of images to a command."""
    return _with_options(command, READING_OPTIONS)


def settings_options(command: Any) -> Any:
    """Add the options that are settings of a run to a command."""
    return _with_options(command, SETTINGS_OPTIONS)


def _with_options(command: Any, options: Sequence[Any]) -> Any:
    """Add options to a command, whose help lists them in their order."""
    for option in reversed(options):
        command = option(command)
    return command


class QuantizerOption(click.Option):
    """An option whose help names all quantizers, which are imported only for that."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Name and help of the option."""
        from arcvq.runs.settings import ALL_QUANTIZERS

        self.help = ", ".join(ALL_QUANTIZERS)
        return super().get_help_record(ctx)


# Options that say where and how to work.
device_option = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
workers_option = click.option(
    "--workers", type=int, help="Processes; by default one for each core, or four for each GPU."
)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _reading(options: dict[str, Any]) -> "Reading":
    """Take out of `options` how the files of a folder are read."""
    from arcvq.image_folders import Reading

    return Reading(**_reading_fields(options))


def _reading_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of `Reading` that were given out of `options`."""
    from arcvq.image_folders import Reading

    fields = [field.name for field in dataclasses.fields(Reading)]
    given = _given({name: options.pop(name, None) for name in fields})
    levels = given.get("levels")
    if levels is not None and levels != "minmax":
        try:
            low, high = map(float, levels.split(":"))
        except ValueError:
            raise ValueError(f"--levels is {levels!r}; use minmax, or LOW:HIGH") from None
        given["levels"] = (low, high)
    return given


def _settings(options: dict[str, Any], data: "ImageData | None" = None) -> "RunSettings":
    """Take the settings of a run out of `options`: those of the profile, changed by those given."""
    from arcvq.runs.settings import RunSettings

    reading = _reading(options)
    fields = {field.name for field in dataclasses.fields(RunSettings)}
    changes = {name: options.pop(name) for name in fields & options.keys()}
    profile = options.pop("profile")
    return RunSettings.for_profile(profile, data, reading=reading, **_given(changes))


MOST_JOBS = 4  # notebooks at the same time: each takes a gigabyte or two


@main.command()
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@dataset_option
@click.option("--profile", help="quick, standard, full, full_small or paper: length and sizes")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps")
@seed_option
@click.option(
    "-p",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another parameter; repeatable.",
)
@reading_options
@click.option("--timeout", type=int, help="Seconds that one cell may take; no limit by default.")
@click.option(
    "--jobs",
    type=int,
    help="Notebooks that run at the same time; by default one for each core, at most four.",
)
@click.option("--out", type=FOLDER, default="output", help="Folder for the report.")
@click.pass_context
def run(
    ctx: click.Context,
    notebooks: tuple[str, ...],
    assignments: tuple[str, ...],
    timeout: int | None,
    jobs: int | None,
    out: Path,
    **shared: Any,
) -> None:
    """Run notebooks and write a report page.

    A NOTEBOOK is a file, or the name (02_codebook_geometry) or number (2) of one that comes with
    arcvq; none means all of these.
    Without an option each notebook keeps its own default. The exit code is 1 if a notebook failed
    or was stopped by its timeout or the end of its kernel, and 130 if you stop the run; the report
    holds what has run.
    """
    from arcvq.reports.notebooks import run_notebooks
    from arcvq.reports.pages import outcome
    from arcvq.runtime.devices import usable_cores

    reading = _reading_fields(shared)
    parameters = _given(shared)
    if reading:
        parameters["reading"] = reading
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"-p takes NAME=VALUE, not {assignment!r}")
        parameters[name] = value
    if jobs is None:
        jobs = min(usable_cores(), MOST_JOBS)
    line = _StatusLine()
    results = run_notebooks(
        notebooks,
        parameters,
        out=out,
        timeout=timeout,
        jobs=jobs,
        echo=line.end_with,
        watch=line.show,
    )
    click.echo(f"{outcome(results)}. Report: {out.resolve() / 'index.html'}")
    ctx.exit(0 if all(result.status == "passed" for result in results) else 1)


class _StatusLine:
    """The last line of a terminal, written over while something runs. A file gets none."""

    def __init__(self):
        self.is_shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Write over what the line said."""
        if self.is_shown:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{text[:width]}", nl=False, err=True)

    def end_with(self, text: str) -> None:
        """Write a line that stays."""
        self.show("")
        click.echo(text)


@main.command("train")
@settings_options
@click.option("--quantizer", cls=QuantizerOption)
@seed_option
@device_option
@click.option(
    "--overwrite", is_flag=True, help="Train again, for example if the kept run is damaged."
)
def train_model(device: str, overwrite: bool, **options: Any) -> None:
    """Train a VQ-VAE and print its validation figures, or open the stored run of these settings.

    An option that is not given has the value of the profile. On several GPUs: torchrun
    --nproc-per-node 2 -m arcvq train ...; --batch-size is then that of all together.
    """
    from arcvq.image_folders import folder_of, scan_folder
    from arcvq.quantizers import ContinuousQuantizer
    from arcvq.runs.settings import run_folder, train
    from arcvq.runtime.devices import choose_device
    from arcvq.runtime.distributed import first_rank_first, process_group, rank
    from arcvq.runtime.wording import short
    from arcvq.training import evaluate

    told = _settings(dict(options))  # which refuses wrong ones before images are read
    with process_group(choose_device(device)) as chosen:
        if told.dataset.startswith("folder:") and rank() == 0:
            click.echo(scan_folder(folder_of(told.dataset)).summary())
        with first_rank_first():
            data = told.load_data(None, chosen)
        settings = _settings(options, data)
        regime = settings.regime(data)
        if regime is not None and rank() == 0:
            click.echo(regime.beside_the_paper())
        finished = train(settings, data, device=chosen, overwrite=overwrite)
        if rank() > 0:
            return
    measures = evaluate(finished.model, data.validation)
    if isinstance(finished.model.quantizer, ContinuousQuantizer):  # which has no codes
        measures = {name: measures[name] for name in ("psnr", "l1")}
    for name, value in measures.items():
        click.echo(f"{name:20} {short(value)}")
    folder = run_folder(settings, data, None, chosen)
    click.echo(f"{finished.seconds:.0f} s of training; the run is kept in {folder}")


@main.command("images")
@click.argument("folder", type=click.Path(path_type=Path))
@reading_options
@click.pass_context
def inspect_folder(ctx: click.Context, folder: Path, **options: Any) -> None:
    """Say what a FOLDER of images holds, and what of it cannot be used as a data set.

    Prints the images of each part and class, their sizes, what is left out and why, broken files,
    and files that occur more than once. The exit code is 1 if files are broken.
    """
    from arcvq.image_folders import inspect_files, scan_folder

    scan = scan_folder(folder)
    report = inspect_files(scan, _reading(options))
    for line in report.lines(scan):
        click.echo(line)
    ctx.exit(1 if report.broken else 0)


@main.command("sweep")
@click.option("--margin", help="margin m in rad, as 0:0.5:8 (start, end, how many) or 0,0.1,0.3")
@click.option("--scale", help="scale s")
@click.option("--top-k", help="latents pulled by each code, whole numbers")
@click.option(
    "--radius", help="exponent alpha T of the ball at the end of the run; the paper's is 8.85"
)
@click.option("--weight", help="weight gamma of the margin loss at the start")
@click.option(
    "--seeds", type=int, default=1, help="Runs at every point, each with a seed of its own."
)
@settings_options
@device_option
@workers_option
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster (auto: the one at hand).")
@click.option("--out", type=FOLDER, default="sweep", help="Folder for the results.")
@click.pass_context
def sweep_samp(ctx: click.Context, out: Path, **options: Any) -> None:
    """Train SAMP at every point of a grid and draw maps of PSNR and usage.

    Writes a Parquet row for each run, a table with means and bootstrap intervals, and the maps. A
    sweep that was stopped goes on where it was. The exit code is 1 if a run failed.
    """
    from arcvq.experiments import SWEEP_AXES, parse_axis, sweep

    texts = _given({name: options.pop(name) for name in SWEEP_AXES})
    axes = {name: parse_axis(name, text) for name, text in texts.items()}
    if not any(len(values) > 1 for values in axes.values()):
        raise ValueError(
            "nothing varies; give an axis with two values or more, for example --margin 0:0.5:6"
        )
    ctx.exit(1 if _run_and_report(sweep(axes), out, options) else 0)


@main.command("experiment")
@click.argument("name")
@click.option("--seeds", type=int, default=3, help="Runs of each variant.")
@click.option(
    "--only", multiple=True, metavar="VARIANT", help="Run this variant alone; repeatable."
)
@settings_options
@click.option(
    "--paper-rate",
    is_flag=True,
    help="Let SAMP's ball grow at the paper's rate, alpha / (lr sqrt(D)) = 0.125, instead of "
    "fitting its whole schedule into the run.",
)
@click.option(
    "--search-steps",
    type=int,
    metavar="N",
    help="Optimizer steps of each run in the search of best.  [default: as in its other runs]",
)
@device_option
@workers_option
@click.option("--out", type=FOLDER, help="Folder.  [default: NAME-DATASET]")
@click.pass_context
def experiment_of_name(ctx: click.Context, name: str, out: Path | None, **options: Any) -> None:
    """Run an experiment: paper, best, ablations, regime, codes_per_step, schedules, semantics, ...

    Writes a Parquet row for each run, a table with means and bootstrap intervals, and pictures.
    An experiment that was stopped goes on where it was. The exit code is 1 if a run failed.
    """
    from arcvq.experiments import EXPERIMENTS

    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {name!r} is unknown; known are {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    search_steps = options.pop("search_steps")
    if search_steps is not None:
        experiment = dataclasses.replace(experiment, search_steps=search_steps)
    ctx.exit(1 if _run_and_report(experiment, out, options) else 0)


def _run_and_report(experiment: "Experiment", out: Path | None, options: dict[str, Any]) -> int:
    """Run an experiment, write its table and a page of its pictures, and print the table.

    Returns the number of runs that failed.
    """
    from arcvq.experiments import run_experiment
    from arcvq.experiments.base import results_file
    from arcvq.experiments.tables import finished
    from arcvq.reports.pages import check_page_is_ours
    from arcvq.runtime.files import safe_name

    base, data = _base_settings(experiment, options)
    for name in ("workers", "ray"):
        if options.get(name) is not None and not experiment.trained:
            warnings.warn(
                f"--{name} has no effect in {experiment.name}, whose runs go one after the other",
                stacklevel=2,
            )
    out = out or Path(f"{experiment.name}-{safe_name(base.dataset)}")
    file = results_file(experiment.name, out)
    check_page_is_ours(out / "index.html")
    rows = run_experiment(experiment, base, data, out=out, **options)
    runs = len(rows[["variant", "seed"]].drop_duplicates())  # each has one row or several
    failed = len(rows) - len(finished(rows))  # which have one
    first_error = next(iter(rows.error.dropna()), "") if failed else ""
    if failed == len(rows):
        raise RuntimeError(f"all {failed} runs failed; the first: {first_error}")

    _write_results(experiment, file)
    if failed:
        click.echo(f"{failed} of {runs} runs failed; the first: {first_error}", err=True)
    return failed


def _base_settings(
    experiment: "Experiment", options: dict[str, Any]
) -> tuple["RunSettings", "ImageData"]:
    """The settings that an experiment starts from, and its data; takes them out of the options.

    Warns of each given option that has no effect in this experiment.
    """
    from arcvq.experiments.base import without_effect
    from arcvq.runtime.devices import choose_device
    from arcvq.samp import SAMP

    at_paper_rate = options.pop("paper_rate", False)
    given = _given(options)
    told = _settings(dict(options))  # which refuses wrong ones before images are read
    data = told.load_data(None, choose_device(options["device"]))
    base = _settings(options, data)
    if at_paper_rate:
        samp = SAMP.for_run(base.steps, lr=base.lr, dim=base.dim)
        base = dataclasses.replace(base, samp=samp)
    for name in without_effect(experiment, base):
        if name in given:
            option = "--" + name.replace("_", "-")
            warnings.warn(
                f"{option} has no effect in {experiment.name}, which has values of its own",
                stacklevel=3,
            )
    return base, data


def _write_results(experiment: "Experiment", file: Path) -> None:
    """Write the table and the page of pictures beside the rows in a file, and print the table."""
    import pandas as pd

    from arcvq.experiments.tables import finished, markdown, regime_note
    from arcvq.figures.experiment_results import pictures
    from arcvq.reports.pages import write_figures_page
    from arcvq.runtime.files import write_text
    from arcvq.runtime.wording import counted

    rows = pd.read_parquet(file)
    failed = len(rows) - len(finished(rows))
    table = experiment.table(rows)
    text = f"{markdown(table)}\n{regime_note(rows)}\n"
    write_text(file.with_suffix(".md"), text)
    page = file.with_name("index.html")
    write_figures_page(page, experiment.question, pictures(rows), table)
    click.echo(text)
    note = f", {failed} of them of failed runs," if failed else ""
    kept = f"{counted(len(rows), 'row')}{note}"
    click.echo(f"Wrote {kept} to {file.resolve()}, and pictures to {page.resolve()}")


@main.command("sample")
@click.option(
    "--model", "model_folder", required=True, type=EXISTING_FOLDER, help="Folder of the model."
)
@click.option(
    "--prior",
    "prior_folder",
    required=True,
    type=EXISTING_FOLDER,
    help="Folder of a prior over its tokens.",
)
@click.option("-n", type=int, default=64, help="How many images to draw.")
@click.option("--out", type=FILE, default="samples.png", help="PNG file to write.")
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    help="Above 0; below 1, likely codes are drawn even more often.",
)
@click.option("--top-k", type=int, help="Draw only among the k likeliest codes.")
@click.option(
    "--top-p",
    type=float,
    help="Draw only among the likeliest codes whose probabilities add up to this.",
)
@click.option("--label", "labels", type=int, help="Class of all images, for a prior with classes.")
@click.option("--seed", type=int, default=0)
@device_option
def draw_samples(
    model_folder: str,
    prior_folder: str,
    n: int,
    out: Path,
    seed: int,
    device: str,
    **drawing: Any,
) -> None:
    """Draw images from a prior and write them as one PNG, in rows."""
    import torch
    from torchvision.utils import save_image

    from arcvq.autoencoder import Autoencoder
    from arcvq.priors import Prior, sample
    from arcvq.runtime.checks import as_seed
    from arcvq.runtime.devices import choose_device
    from arcvq.runtime.files import write_whole
    from arcvq.runtime.wording import counted

    seed = as_seed(seed)
    chosen = choose_device(device)
    model = Autoencoder.from_pretrained(model_folder).to(chosen)
    prior = Prior.from_pretrained(prior_folder).to(chosen)
    generator = torch.Generator().manual_seed(seed)
    images = sample(model, prior, n, generator=generator, **drawing)

    columns = math.ceil(math.sqrt(n))
    write_whole(
        out,
        lambda path: save_image(
            images,
            path,
            "PNG",
            nrow=columns,
            pad_value=1.0,
            normalize=True,
            value_range=(-1, 1),
        ),
    )
    click.echo(f"{out.resolve()}: {counted(n, 'image')}")


@main.command("export-explorers")
@click.option(
    "--out", type=ANY_PATH, default="explorers", help="Folder, or file NAME.html, to write."
)
def export(out: Path) -> None:
    """Write the explorers and a trained model as one page, for readers without Python.

    The page, index.html, is a single file that needs no network and no server.
    """
    from arcvq.explorers.export import export_explorers

    path = export_explorers(out)
    click.echo(f"{path.resolve()}: {path.stat().st_size / 1e6:.1f} MB")


@main.command("notebooks")
@click.argument("folder", type=FOLDER, metavar="DIR")
def copy_the_notebooks(folder: Path) -> None:
    """Copy the notebooks that come with arcvq into DIR, to work on them.

    Nothing is replaced: if DIR holds another file of the name of a notebook, nothing is copied.
    """
    from arcvq.reports.notebook_files import copy_notebooks

    copies = copy_notebooks(folder)
    click.echo(f"{len(copies)} notebooks are in {folder.resolve()}")
    click.echo(f"To start: jupyter lab {shlex.quote(str(copies[0]))}")


class Check(NamedTuple):
    """What `arcvq doctor` found of one thing, and what mends it (empty: it is fine)."""

    name: str
    found: str
    fix: str = ""
    state: str = "ok"


# What a reader may do without, and what for.
EXTRAS = {
    "kit": "the notebooks, figures, explorers, experiments and most data sets",
    "baselines": "quantizers of vector-quantize-pytorch",
    "perceptual": "perceptual losses without a network",
    "ray": "runs on a cluster",
}


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what is installed, which device and precision are used, and how to fix what is missing.

    An extra counts as installed if most of its packages are there. The exit code is 1 if a package
    of the core, or of an installed extra, is missing or too old, if the notebooks or models that
    come with arcvq are missing, or if JupyterLab would start another Python.
    """
    fixes = []
    for check in (*_package_checks(), *_machine_checks()):
        click.echo(f"{check.state:8} {check.name:20} {check.found}")
        if check.fix:
            fixes.append(check.fix)
    for fix in fixes:
        click.echo(f"To fix: {fix}")
    click.echo("Not everything is in place." if fixes else "Everything is in place.")
    ctx.exit(1 if fixes else 0)


def _package_checks() -> Iterator[Check]:
    """Python, the packages of the core, and those of the extras that are installed."""
    yield Check("python", platform.python_version())
    yield from map(_package_check, _requirements())
    for extra, purpose in EXTRAS.items():
        checks = [_package_check(requirement) for requirement in _requirements(extra)]
        missing = [check for check in checks if check.state == "missing"]
        if 2 * len(missing) < len(checks):
            yield from checks
        else:
            found = f"not installed; {purpose} need it: pip install 'arcvq[{extra}]'"
            yield Check(f"extra {extra}", found, state="without")


def _requirements(extra: str = "") -> list["Requirement"]:
    """What arcvq requires itself, or what an extra adds to that."""
    from packaging.requirements import Requirement

    every = [Requirement(line) for line in requires("arcvq") or []]
    core = [requirement for requirement in every if _holds(requirement, "")]
    if not extra:
        return core
    return [
        requirement
        for requirement in every
        if requirement not in core and _holds(requirement, extra)
    ]


def _holds(requirement: "Requirement", extra: str) -> bool:
    """Whether a requirement counts on this machine when an extra is asked for."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package_check(requirement: "Requirement") -> Check:
    """Whether a package is there, in a version that arcvq works with."""
    fix = f'{sys.executable} -m pip install "{requirement.name}{requirement.specifier}"'
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(requirement.name, "not installed", fix, "missing")
    if requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, found)
    return Check(requirement.name, f"{found}, not {requirement.specifier}", fix, "too old")


def _machine_checks() -> Iterator[Check]:
    """Device and precision that "auto" means here, what came with arcvq, JupyterLab's Python."""
    from arcvq.runs import pretrained
    from arcvq.runtime.devices import choose_device, choose_precision, device_name, dtype_name
    from arcvq.runtime.files import IS_CHECKOUT, SHIPPED

    device = choose_device()
    precision = choose_precision("auto", device)
    yield Check("device", device_name(device))
    yield Check("precision", dtype_name(precision))

    place = "the checkout" if IS_CHECKOUT else "the wheel"
    notebooks = list((SHIPPED / "notebooks").glob("*.ipynb"))
    counts = {
        "notebooks": str(len(notebooks)) if notebooks else "",
        "models": ", ".join(pretrained.names()),
    }
    for name, found in counts.items():
        if found:
            yield Check(name, f"{found}; from {place}, {SHIPPED}")
        else:
            yield Check(name, f"none in {SHIPPED}", "install arcvq again", "missing")

    with suppress(ModuleNotFoundError):  # without the kit there is no JupyterLab
        from arcvq.reports.kernels import kernel_of_jupyterlab

        found, fix = kernel_of_jupyterlab()
        yield Check("kernel python3", found, fix, "wrong" if fix else "ok")
