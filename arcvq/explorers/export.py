"""Explorers as one page that needs neither kernel nor network: plotly frames, each moved by one slider."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from arcvq.explorers import Explorer, MarginExplorer, RadiusExplorer, TrainingReplay
from arcvq.explorers.figure_updates import Values, changed, flat
from arcvq.reports.pages import write_figures_page
from arcvq.runs.settings import RunSettings, train

AT_ONCE: dict[str, Any] = {
    "mode": "immediate",
    "frame": {"duration": 0, "redraw": True},
    "transition": {"duration": 0},
}


def export_explorers(path: str | Path, *, device: str = "auto", progress: bool = True) -> Path:
    """Writes the margin, radius and replay pictures as one HTML page below 8 MB, and returns its path.

    The replay shows quick runs (plain and SAMP, 128 codes in 3 dimensions), trained and kept under data/runs if they
    are not there yet. Raises OSError where the page cannot be written, and then an earlier page survives.
    """
    runs = {
        name: train(
            RunSettings.for_profile("quick", quantizer=name, num_codes=128, dim=3),
            device=device,
            progress=progress,
        )
        for name in ("plain", "samp")
    }
    replay, ball = TrainingReplay(runs), RadiusExplorer()
    sections = [
        (
            "Margin",
            "How the margin loss moves latents around one code, as the margin grows.",
            moved(
                MarginExplorer(),
                "margin",
                [round(value, 2) for value in np.arange(0, 1.51, 0.05).tolist()],
                "rad",
            ),
        ),
        (
            "Radius",
            f"The growing ball after {ball.step:,} of {ball.run_length:,} steps: which codes it clips, as it "
            "grows faster.",
            moved(ball, "growth", np.geomspace(1e-5, 1e-2, 25).round(7).tolist(), "per step"),
        ),
        (
            "A training run",
            "Plain VQ and SAMP from the same start, step by step.",
            moved(replay, "step", replay.steps),
        ),
    ]
    path = Path(path)
    write_figures_page(path, "arcvq explorers", sections)
    return path


def moved(explorer: Explorer, setting: str, values: Sequence[Any], unit: str = "") -> go.Figure:
    """The explorer's picture with a frame and a slider's stop for each value of one setting, at its present value."""
    start, shots = getattr(explorer, setting), []
    for value in values:
        setattr(explorer, setting, value)
        shots.append(flat(explorer.picture()))
    setattr(explorer, setting, start)
    figure, labels = explorer.picture(), [f"{value:.3g}" for value in values]
    first: Values = flat(figure)
    moving = sorted({path for shot in shots for path in changed(shot, first)})
    kinds = [trace.type for trace in figure.data]
    figure.frames = [
        _frame(label, shot, moving, kinds) for label, shot in zip(labels, shots, strict=True)
    ]
    nearest = min(range(len(values)), key=lambda place: abs(values[place] - start))
    steps = [{"method": "animate", "label": label, "args": [[label], AT_ONCE]} for label in labels]
    text = {"prefix": f"{setting}: ", "suffix": f" {unit}".rstrip(), "font": {"size": 14}}
    bottom = figure.layout.margin.b or 0
    height = (figure.layout.height or 450) + 90
    slider = {
        "active": nearest,
        "steps": steps,
        "currentvalue": text,
        "pad": {"t": bottom + 10},
        "len": 0.9,
    }
    figure.update_layout(sliders=[slider], uirevision="kept", height=height, margin_b=bottom + 90)
    return figure


def _frame(name: str, shot: Values, moving: Sequence[str], kinds: Sequence[str]) -> go.Frame:
    """What moves, as plotly's frames want it: whole lists, and otherwise only the properties that move."""
    layout: dict[str, Any] = {}
    traces: dict[int, dict[str, Any]] = {}
    for path in moving:
        part, _, key = path.partition("/")
        if path in shot:
            trace = part != "layout" and traces.setdefault(int(part), {"type": kinds[int(part)]})
            _put(trace or layout, key, shot[path])
    places = sorted(traces)
    return go.Frame(
        name=name, data=[traces[place] for place in places], traces=places, layout=layout
    )


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value
