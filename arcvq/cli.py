"""The command `arcvq`: run the notebooks, train a model, see whether everything is in place."""

import math
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import click


class _Sentences(click.Group):
    """Ends in one sentence on stderr instead of a traceback: exit code 2 for an error, 130 for Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            click.echo(f"\n{stop}" if str(stop) else "\nStopped; what was finished is kept.", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            expected = isinstance(error, ValueError | OSError | RuntimeError)
            kind = "" if expected and str(error) else f"{type(error).__name__} "
            click.echo(f"Error: {kind}{' '.join(str(error).split())}", err=True)
            ctx.exit(2)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="arcvq")
def main(debug: bool) -> None:
    """Spherical vector quantization with SAMP: notebooks, training and a check of the installation."""


_device = click.option("--device", help="auto, cpu, cuda, cuda:1, mps  [default: auto]")
_dataset = click.option("--dataset", help="digits, photos, mnist, ..., or folder:PATH")
_profile = click.option("--profile", help="quick, standard or paper: how long and how large")
_seed = click.option("--seed", type=int)
_folder = click.Path(exists=True, file_okay=False)


@main.command()
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@_dataset
@_profile
@_device
@_seed
@click.option("-p", "assignments", multiple=True, metavar="NAME=VALUE", help="Another parameter; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default="output", help="Folder for the report.")
@click.pass_context
def run(ctx: click.Context, notebooks: tuple, assignments: tuple, out: Path, **shared: Any) -> None:
    """Run notebooks and write a report page.

    A NOTEBOOK is a file, a name (02_codebook_geometry) or a number (2); none means all of them. Without an
    option each notebook keeps its own default. The exit code is 1 where a notebook failed.
    """
    from arcvq.reports.notebooks import run_notebooks
    from arcvq.reports.pages import outcome

    for assignment in assignments:
        if "=" not in assignment:
            raise ValueError(f"-p takes NAME=VALUE, not {assignment!r}")
    parameters = dict(assignment.split("=", 1) for assignment in assignments)
    results = run_notebooks(notebooks, parameters, **shared, out=out, echo=click.echo)
    click.echo(f"{outcome(results)}. Report: {out.resolve() / 'index.html'}")
    ctx.exit(1 if any(result.status == "failed" for result in results) else 0)


@main.command("train")
@_dataset
@_profile
@_device
@_seed
@click.option("--quantizer", help="plain, ema, cosine, cvq or samp")
@click.option("--num-codes", type=int, help="K, codes in the codebook")
@click.option("--dim", type=int, help="D, components of a code")
@click.option("--hidden", type=int, help="channels of the network")
@click.option("--residual-hidden", type=int, help="channels inside a residual layer")
@click.option("--steps", type=int, help="optimiser steps")
@click.option("--batch-size", type=int, help="images a step")
@click.option("--lr", type=float, help="learning rate of Adam")
@click.option("--precision", help="auto, float32 or bfloat16")
@click.option("--train-images", type=int, help="use only so many training images")
def train_one(profile: str | None, device: str | None, **changes: Any) -> None:
    """Train a VQ-VAE, or open the stored run with the same settings, and print its validation figures.

    An option that is not given has the value of the profile. On several GPUs: torchrun --nproc-per-node 2 -m arcvq
    train ...; --batch-size is then that of all together.
    """
    from arcvq.images import load_images
    from arcvq.runs.settings import RunSettings, train
    from arcvq.runtime.devices import choose_device
    from arcvq.runtime.distributed import first_rank_first, process_group, rank
    from arcvq.runtime.files import data_root
    from arcvq.training import evaluate

    given = {name: value for name, value in changes.items() if value is not None}
    settings, root = RunSettings.for_profile(profile or "quick", **given), data_root()
    with process_group(choose_device(device or "auto")) as chosen:
        with first_rank_first():
            images = load_images(settings.dataset, root, chosen)
        finished = train(settings, images, root=root, device=chosen)
        if rank() > 0:
            return
    for name, value in evaluate(finished.model, images.validation).items():
        click.echo(f"{name:20} {value:.4g}")
    click.echo(f"{finished.seconds:.0f} s of training; the run is kept in {root / 'runs'}")


@main.command("sweep")
@click.option("--margin", help="margin m in rad, as 0:0.5:8 (start, end, how many) or 0,0.1,0.3")
@click.option("--scale", help="scale s")
@click.option("--top-k", help="latents pulled by each code, whole numbers")
@click.option("--radius", help="exponent alpha T of the ball at the end of the run; the paper's is 8.85")
@click.option("--weight", help="weight gamma of the margin loss at the start")
@click.option("--seeds", type=int, default=1, help="Seeds at every point.")
@_dataset
@_profile
@_device
@click.option("--steps", type=int, help="optimiser steps")
@click.option("--num-codes", type=int, help="K, codes in the codebook")
@click.option("--workers", type=int, help="Processes; by default one for each core, or four for each GPU.")
@click.option("--ray", metavar="ADDRESS", help="Hand the runs to this Ray cluster (auto: the one at hand).")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="sweep", help="Folder.")
def sweep_settings(margin: str | None, scale: str | None, top_k: str | None, radius: str | None, weight: str | None,
                   seeds: int, dataset: str | None, profile: str | None, steps: int | None, num_codes: int | None,
                   device: str | None, workers: int | None, ray: str | None, out: Path) -> None:
    """Train SAMP at every point of a grid and draw maps of PSNR and usage.

    Writes a row for each run to table.parquet, the maps and the table to index.html. A sweep that was stopped goes on.
    """
    from arcvq.experiments import parse_axis, sweep
    from arcvq.figures import sweep_map, sweep_table
    from arcvq.reports.pages import write_page
    from arcvq.runs.settings import RunSettings

    texts = {"margin": margin, "scale": scale, "top_k": top_k, "radius": radius, "weight": weight}
    axes = {name: parse_axis(name, text) for name, text in texts.items() if text is not None}
    if not any(len(values) > 1 for values in axes.values()):
        raise ValueError("nothing varies; give an axis with two values or more, for example --margin 0:0.5:6")
    given = {"dataset": dataset, "steps": steps, "num_codes": num_codes}
    base = RunSettings.for_profile(profile or "quick", **{name: value for name, value in given.items()
                                                          if value is not None})
    table = sweep(axes, base, seeds=seeds, out=out / "table.parquet", device=device or "auto", workers=workers, ray=ray)
    maps = [(name, "Validation images; the mean over seeds and over what is not drawn.", sweep_map(table, measure))
            for name, measure in (("Reconstruction", "psnr"), ("Codes used", "codes_used"))]
    rows = ("Table", "Every run; table.parquet holds all columns.", sweep_table(table))
    page = write_page(out / "index.html", [*maps, rows], "arcvq sweep")
    click.echo(table.groupby(list(axes))[["psnr", "codes_used", "perplexity"]].mean().round(2).to_string())
    click.echo(f"{len(table)} runs: {out.resolve() / 'table.parquet'}; maps: {page.resolve()}")


@main.command("experiment")
@click.argument("name")
@_dataset
@_profile
@_device
@click.option("--seeds", type=int, default=3, help="Runs of each variant.")
@click.option("--only", "chosen", multiple=True, metavar="VARIANT", help="Run this variant alone; repeatable.")
@click.option("--steps", type=int, help="optimiser steps")
@click.option("--train-images", type=int, help="use only so many training images")
@click.option("--num-codes", type=int, help="K, codes in the codebook")
@click.option("--workers", type=int, help="Processes; by default one for each core, or four for each GPU.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: NAME-DATASET]")
def experiment(name: str, profile: str | None, device: str | None, seeds: int, chosen: tuple, workers: int | None,
               out: Path | None, **changes: Any) -> None:
    """Run an experiment: paper, ablations, schedules, semantics or gradients.

    Writes a Parquet row for each run, a table with means and 95% intervals, and pictures. One that was stopped goes on.
    """
    from arcvq.experiments import EXPERIMENTS, run_experiment
    from arcvq.experiments.tables import finished, markdown
    from arcvq.figures.experiment_results import pictures
    from arcvq.reports.pages import write_page
    from arcvq.runs.settings import RunSettings
    from arcvq.runtime.files import safe_name, write_text

    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {name!r} is unknown; known are {', '.join(EXPERIMENTS)}")
    given = {key: value for key, value in changes.items() if value is not None}
    base, asked = RunSettings.for_profile(profile or "quick", **given), EXPERIMENTS[name]
    out = out or Path(f"{name}-{safe_name(base.dataset)}")
    rows = run_experiment(asked, base, seeds=seeds, out=out, only=chosen, device=device or "auto", workers=workers)
    failed = len(rows) - len(finished(rows))
    if failed == len(rows):
        raise RuntimeError(f"all {failed} runs failed; the first: {rows.error.iloc[0]}")
    text = asked.table(rows)
    write_text(out / f"{name}.md", markdown(text))
    page = write_page(out / "index.html", pictures(rows), asked.question, text)
    click.echo(markdown(text))
    click.echo(f"{len(rows)} rows, {failed} of failed runs: {out.resolve() / name}.parquet; pictures: {page.resolve()}")


@main.command()
@click.option("--model", "model_folder", required=True, type=_folder, help="Folder of a trained VQ-VAE.")
@click.option("--prior", "prior_folder", required=True, type=_folder, help="Folder of a prior over its tokens.")
@click.option("-n", "count", type=int, default=64, help="Images to draw.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="samples.png", help="The PNG.")
@click.option("--temperature", type=float, default=1.0, help="Above 0; below 1 draws likelier tokens.")
@click.option("--top-k", type=int, help="Draw only among the k likeliest codes.")
@click.option("--top-p", type=float, help="Draw only among the likeliest codes that reach this probability.")
@click.option("--label", type=int, help="Class of all images, for a prior with classes.")
@click.option("--seed", type=int, default=0)
@_device
def sample(model_folder: str, prior_folder: str, count: int, out: Path, label: int | None, seed: int,
           device: str | None, **choice: Any) -> None:
    """Draw images from a prior and write them as one PNG, in rows."""
    import torch
    from PIL import Image
    from torchvision.utils import make_grid

    from arcvq.images import to_uint8
    from arcvq.priors import Prior
    from arcvq.priors import sample as draw
    from arcvq.runtime.devices import choose_device
    from arcvq.runtime.files import write_whole
    from arcvq.vqvae import VQVAE

    chosen = choose_device(device or "auto")
    model, prior = VQVAE.from_pretrained(model_folder).to(chosen), Prior.from_pretrained(prior_folder).to(chosen)
    images = draw(model, prior, count, **choice, labels=label, generator=torch.Generator().manual_seed(seed))
    grid = make_grid(to_uint8(images.cpu()), nrow=math.ceil(math.sqrt(count)), padding=2, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
    write_whole(out, lambda path: picture.save(path, format="PNG"))
    click.echo(f"{out.resolve()}: {count} images")


@main.command("export-explorers")
@_device
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="explorers.html", help="The page.")
def export(device: str | None, out: Path) -> None:
    """Write the margin, radius and replay pictures as one HTML page with sliders, for readers without Python.

    The page needs no network. The runs that it shows are trained once, in seconds, and kept.
    """
    from arcvq.explorers.export import export_explorers

    path = export_explorers(out, device=device or "auto")
    click.echo(f"{path.resolve()}: {path.stat().st_size / 1e6:.1f} MB")


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what is installed, which device and precision are used, what is missing and how to get it."""
    fixes = []
    for name, found, fix in _checks():
        click.echo(f"{'missing' if fix else 'ok':8} {name:20} {found}")
        fixes += [fix] if fix else []
    for fix in dict.fromkeys(fixes):
        click.echo(f"To fix: {fix}")
    click.echo("Something is missing." if fixes else "Everything is in place.")
    ctx.exit(1 if fixes else 0)


def _checks() -> Iterator[tuple[str, str, str]]:
    # (what, what was found, the command that fixes it or an empty text)
    from packaging.requirements import Requirement

    ready = sys.version_info >= (3, 11)
    yield "python", platform.python_version(), "" if ready else "install Python 3.11 or later"
    for line in requires("arcvq") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": "notebooks"}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "not installed"
        wanted = requirement.specifier.contains(found, prereleases=True) if found[0].isdigit() else False
        fix = "" if wanted else f'{sys.executable} -m pip install "{requirement.name}{requirement.specifier}"'
        yield requirement.name, found, fix
    yield from _machine()


def _machine() -> Iterator[tuple[str, str, str]]:
    from arcvq.reports.notebooks import notebooks_folder
    from arcvq.runtime.devices import choose_device, choose_precision, device_name

    device = choose_device()
    yield "device", device_name(str(device)), ""
    yield "precision", str(choose_precision("auto", device)).removeprefix("torch."), ""
    try:
        yield "notebooks", str(notebooks_folder()), ""
    except FileNotFoundError as error:
        yield "notebooks", str(error), "call arcvq from a checkout of the project"
