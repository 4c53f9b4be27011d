"""Explorers as one page without kernel and network: plotly frames, each moved by one slider."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Frame, Layout

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
    """Write the margin, radius and replay pictures as one HTML page below 8 MB.

    The replay shows quick runs (plain and SAMP, 128 codes in 3 dimensions), which are trained and
    kept under data/runs if they are not there yet.

    Returns:
        The path of the page.

    Raises:
        OSError: if the page cannot be written; an earlier page is then kept.
    """
    runs = {}
    for name in ("plain", "samp"):
        settings = RunSettings.for_profile("quick", quantizer=name, num_codes=128, dim=3)
        runs[name] = train(settings, device=device, progress=progress)
    replay = TrainingReplay(runs)
    ball = RadiusExplorer()
    margins = np.arange(0, 1.51, 0.05).round(2).tolist()
    growths = np.geomspace(1e-5, 1e-2, 25).round(7).tolist()
    sections = [
        (
            "Margin",
            "How the margin loss moves latents around one code, as the margin grows.",
            moved(MarginExplorer(), "margin", margins, "rad"),
        ),
        (
            "Radius",
            f"The growing ball after {ball.step:,} of {ball.run_length:,} steps: which codes it "
            "clips, as it grows faster.",
            moved(ball, "growth", growths, "per step"),
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


def moved(explorer: Explorer, setting: str, values: Sequence[Any], unit: str = "") -> Figure:
    """Draw an explorer's picture with a slider: a frame and a stop for each value of one setting.

    The slider stands at the present value, and the explorer stays as it is.
    """
    start = getattr(explorer, setting)
    shots = []
    for value in values:
        setattr(explorer, setting, value)
        shots.append(flat(explorer.picture()))
    setattr(explorer, setting, start)

    figure = explorer.picture()
    first = flat(figure)
    moving: set[str] = set()
    for shot in shots:
        moving.update(changed(shot, first))
    frames = []
    stops = []
    for value, shot in zip(values, shots, strict=True):
        label = f"{value:.3g}"
        frames.append(_frame(label, {path: shot[path] for path in sorted(moving)}, figure))
        stops.append({"method": "animate", "label": label, "args": [[label], AT_ONCE]})
    figure.frames = frames
    text = {"prefix": f"{setting}: ", "suffix": f" {unit}".rstrip(), "font": {"size": 14}}
    nearest = min(range(len(values)), key=lambda place: abs(values[place] - start))
    bottom = figure.layout.margin.b
    slider = {
        "active": nearest,
        "steps": stops,
        "currentvalue": text,
        "pad": {"t": bottom + 10},
        "len": 0.9,
    }
    height = figure.layout.height + 90
    figure.update_layout(sliders=[slider], uirevision="kept", height=height, margin_b=bottom + 90)
    return figure


def _frame(name: str, values: Values, figure: Figure) -> Frame:
    """What moves, as plotly's frames want it: whole lists, else only the properties that move."""
    layout = Layout()
    traces: dict[int, Any] = {}
    for path, value in values.items():
        part, key = path.split("/")
        target = layout
        if part != "layout":
            number = int(part)
            target = traces.setdefault(number, type(figure.data[number])())
        target[key] = value
    places = sorted(traces)
    return Frame(name=name, data=[traces[place] for place in places], traces=places, layout=layout)
