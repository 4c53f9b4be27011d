"""A grid over the settings of SAMP: one training run for each point and seed, one row of a table for each run."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from arcvq.experiments.measures import facts
from arcvq.geometry import describe
from arcvq.images import ImageData, load_images
from arcvq.runs.parallel import train_as_completed, without_failures
from arcvq.runs.settings import RunSettings, run_name
from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import write_whole
from arcvq.runtime.store import digest_in
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from arcvq.training import Run, evaluate

AXES = {"margin": "margin m (rad)", "scale": "scale s", "top_k": "top-k (latents)",
        "radius": "radius: exponent alpha T at the end of the run", "weight": "weight gamma at the start"}
MEASURES = ("psnr", "codes_used", "usage", "perplexity", "perplexity_ceiling")


def parse_axis(name: str, text: str) -> list[float | int]:
    """The values of an axis from "0:0.5:6" (start, end, how many, evenly apart) or "0,0.1,0.3", each once.

    Raises ValueError for other texts, no values, or numbers that are not finite; top_k takes whole numbers.
    """
    try:
        if ":" in text:
            start, end, count = text.split(":")
            values = np.linspace(float(start), float(end), int(count)).round(12).tolist()
        else:
            values = [float(part) for part in text.split(",")]
        if not values or not all(map(math.isfinite, values)):
            raise ValueError
        if name == "top_k" and not all(value.is_integer() for value in values):
            raise ValueError
    except ValueError:
        whole = "whole numbers " if name == "top_k" else ""
        raise ValueError(f"--{name.replace('_', '-')} is {text!r}; it must be {whole}as in 1:5:3 (start, end, how "
                         "many) or 1,3,5") from None
    return [*dict.fromkeys(map(int, values) if name == "top_k" else values)]


def grid(axes: Mapping[str, Sequence[float | int]], base: RunSettings, seeds: int = 1) -> list[RunSettings]:
    """The settings at every point of the grid, for seeds from `base.seed` on; the last axis moves first.

    axes: values by the names in `AXES`. radius is alpha T, what the exponent of the ball's radius reaches at the end
    of the run (the paper's: 8.85; 0: the ball stays at 1). weight is gamma at the start. Raises ValueError for an
    unknown axis, one without values, a setting out of range or no seeds, before anything is trained.
    """
    if unknown := [name for name in axes if name not in AXES]:
        raise ValueError(f"axis {unknown[0]!r} is unknown; known are {', '.join(AXES)}")
    if empty := [name for name, values in axes.items() if not len(values)]:
        raise ValueError(f"axis {empty[0]!r} has no values; it needs at least one")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1")
    if axes and base.quantizer != "samp":
        raise ValueError(f"quantizer is {base.quantizer!r}; the axes {', '.join(axes)} are settings of 'samp'")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [dataclasses.replace(base, seed=base.seed + seed, samp=_samp(base, point))
            for point in points for seed in range(seeds)]


def _samp(base: RunSettings, point: dict[str, Any]) -> SAMP | None:
    if base.quantizer != "samp":
        return None
    samp, changes = base.samp or SAMP.for_run(base.steps), dict(point)
    for name in ("radius", "weight"):
        if changes.get(name, 0) < 0:
            raise ValueError(f"{name} is {changes[name]}; it must be at least 0")
    if "radius" in changes:
        changes["radius"] = Exponential(changes["radius"] / base.steps)
    if "weight" in changes:
        if samp.weight is None or not samp.weight.value(0):
            raise ValueError("the weight of the base is 0 at the start; it has no schedule that an axis could scale")
        changes["weight"] = samp.weight.times(changes["weight"] / samp.weight.value(0))
    return dataclasses.replace(samp, **changes)


def coordinates(settings: RunSettings) -> dict[str, float | int]:
    """Where settings stand on each axis; NaN where they have no such setting."""
    samp = _samp(settings, {})
    if samp is None:
        return dict.fromkeys(AXES, math.nan)
    radius = samp.radius.rate * settings.steps if isinstance(samp.radius, Exponential) else math.nan
    weight = float(samp.weight.value(0)) if samp.weight else 0.0
    return {"margin": samp.margin, "scale": samp.scale, "top_k": samp.top_k, "radius": round(radius, 9),
            "weight": round(weight, 9)}


def row(settings: RunSettings, run: Run, images: ImageData) -> dict[str, Any]:
    """What a run was told and what it gave: measures of the validation images, and of the codebook's geometry."""
    device = run.model.quantizer.codebook.device
    measured = evaluate(run.model, images.validation)
    shape = describe(run.model.quantizer.codebook.detach().cpu())
    return coordinates(settings) | facts(settings, images, device) | {name: measured[name] for name in MEASURES} | {
        "min_angle": math.degrees(shape.min_angle) if shape.min_angle is not None else math.nan,
        "seconds": run.seconds}


def sweep(
    axes: Mapping[str, Sequence[float | int]],
    base: RunSettings,
    images: ImageData | None = None,
    *,
    seeds: int = 1,
    out: str | Path | None = None,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every point of the grid (see `grid` and `train_many`): a row for each run, in the order of the grid.

    The columns are the axes, the other settings, psnr (dB), codes_used, usage, perplexity and its ceiling on the
    validation images, min_angle (degrees) of the codebook, seconds, data, device and versions. out: a Parquet
    file, written whole after every run. A sweep that was stopped goes on: finished runs are only opened.

    Raises ValueError where out holds runs that this grid does not have, and what `grid` raises.
    """
    settings, device = grid(axes, base, seeds), choose_device(device)
    images = images or load_images(base.dataset, root, device)
    if out is not None and Path(out).is_file():
        _check_within(Path(out), {run_name(one, images, device) for one in settings})
    rows: dict[RunSettings, dict[str, Any]] = {}
    options: dict[str, Any] = {"root": root, "device": device, "workers": workers, "ray": ray, "progress": progress}
    with closing(without_failures(train_as_completed(settings, images, **options), settings)) as runs:
        for one, run in runs:
            rows[one] = row(one, run, images)
            table = pd.DataFrame([rows[other] for other in settings if other in rows])
            if out is not None:
                write_whole(Path(out), table.to_parquet)
    return table


def _check_within(out: Path, runs: set[str]) -> None:
    """Raise ValueError where the table has other runs, which a new one would lose."""
    try:
        theirs = {digest_in(name) for name in pd.read_parquet(out, columns=["run"])["run"]}
    except Exception:
        raise ValueError(f"{out} is not the table of a sweep, or of an older one; name another file") from None
    if theirs - {digest_in(name) for name in runs}:
        raise ValueError(f"{out} holds runs that this sweep does not have; name another file")
