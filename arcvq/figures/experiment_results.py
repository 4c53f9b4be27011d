"""What an experiment found: means over seeds with their intervals, for tables of `arcvq.experiments`."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from arcvq.experiments.ablations import ABLATION_AXES
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.schedule_study import steadiness
from arcvq.experiments.semantics_study import TITLES
from arcvq.experiments.tables import MEAN_WITH_INTERVAL, data_title, finished, summary
from arcvq.figures.gradient_curves import feedback_picture, gradient_angles, gradient_norms
from arcvq.figures.sweep_map import sweep_map
from arcvq.figures.theme import BLACK, BLUE, GRAY, METHOD_COLORS, finish

COURSES = {"Sizes": gradient_norms, "Angles": gradient_angles, "Norms and usage": feedback_picture}


def pictures(rows: pd.DataFrame) -> list[tuple[str, str, go.Figure]]:
    """The figures of an experiment's table, each with a heading and a text; without those that no run is there for."""
    kind, rows = rows.experiment.iloc[0], finished(rows)
    shown = {
        "paper": lambda: _quantizers(rows),
        "ablations": lambda: [(MEASURE_TITLES[name], ablation_panels(rows, name)) for name in ("psnr", "codes_used")],
        "schedules": lambda: [(f"The {half}", schedule_map(rows, half)) for half in ("radius", "weight")
                              if (rows.half == half).any()],
        "semantics": lambda: [("What codes tell", measure_panels(rows, _informative(rows)))],
        "sweep": lambda: [("Reconstruction", sweep_map(rows)), ("Codes used", sweep_map(rows, "codes_used"))],
        "gradients": lambda: [(heading, draw(_histories(rows))) for heading, draw in COURSES.items()],
    }
    return [(heading, "", figure) for heading, figure in shown[kind]()] if len(rows) else []


def _quantizers(rows: pd.DataFrame) -> list[tuple[str, go.Figure]]:
    """Without the continuous autoencoder, whose PSNR would press the others together."""
    limit, others = rows[rows.variant == "continuous"].psnr, rows[rows.variant != "continuous"]
    title = f"Quantizers on {data_title(rows)}" + (f"; without any: {limit.mean():.1f} dB" if len(limit) else "")
    panels = "psnr", "codes_used", "perplexity"
    return [("Quantizers", measure_panels(others, panels, title=title))] if len(others) else []


def _informative(rows: pd.DataFrame) -> dict[str, str]:
    names = ("class_information", "edge_information", "probe_bag_of_codes", "probe_codes", "agreement")
    return {name: TITLES[name].split(" (")[0] for name in names if name in rows and rows[name].notna().any()}


def _histories(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The course of each variant's first seed."""
    first = rows[rows.seed == rows.groupby("variant").seed.transform("min")]
    return dict([*first.groupby("variant", sort=False)])


def measure_panels(rows: pd.DataFrame, measures: Mapping[str, str] | Sequence[str] = ("psnr", "codes_used"),
                   **look) -> go.Figure:
    """A panel for each measure, a line for each variant: every seed as a faint dot, the mean with its interval.

    measures: columns, or columns with their titles. Variants stand in the order of the table, the first on top. Raises
    ValueError for a column that is not there.
    """
    titles = measures if isinstance(measures, Mapping) else {name: MEASURE_TITLES.get(name, name) for name in measures}
    table, rows = summary(rows, [*titles]), finished(rows)
    names = [*table.variant]
    figure = make_subplots(1, len(titles), shared_yaxes=True, horizontal_spacing=0.03)
    for panel, (name, title) in enumerate(titles.items(), start=1):
        figure.add_scatter(x=rows[name], y=rows.variant, mode="markers", row=1, col=panel,
                           marker={"color": GRAY, "size": 5, "opacity": 0.5})
        figure.add_scatter(x=table[name], y=names, mode="markers", row=1, col=panel, error_x=_bars(table, name),
                           marker={"color": [_colour(one) for one in names], "size": 9})
        figure.update_xaxes(title_text=title, nticks=5, col=panel)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    figure.update_layout(showlegend=False)
    first, title = next(iter(titles.items()))
    known = table.dropna(subset=first)
    best = known.loc[known[first].idxmax()]
    text = (f"Largest {title}: {best.variant}, {best[first]:.4g}. Each point: {MEAN_WITH_INTERVAL}, up to {table.runs.max()} runs; "
            "small dots are the runs.")
    return finish(figure, look, "Variants side by side", text, left=20 + 7 * max(map(len, names)),
                  height=170 + 26 * len(names), width=max(700, 300 * len(titles)))


def ablation_panels(rows: pd.DataFrame, measure: str = "psnr", **look) -> go.Figure:
    """A panel for each axis of the ablations: the measure over the axis' values, with intervals."""
    title = MEASURE_TITLES.get(measure, measure)
    rows = rows.assign(value=rows.get("value", math.nan))  # parts alone have no values
    table = summary(rows, [measure], ("axis", "value", "variant"))
    axes = [axis for axis in (*ABLATION_AXES, "part") if (table.axis == axis).any()]
    columns = min(3, len(axes))
    figure = make_subplots(-(-len(axes) // columns), columns, shared_yaxes="all", vertical_spacing=0.09,
                           horizontal_spacing=0.04)
    spans = {}
    for place, axis in enumerate(axes):
        line = table[table.axis == axis]
        row, column = place // columns + 1, place % columns + 1
        x = [f"{value:g}" for value in line.value]
        if axis == "part":
            x = ["<br>".join(name.replace("-", "- ").split()) for name in line.variant]
        figure.add_scatter(x=x, y=line[measure], error_y=_bars(line, measure), mode="markers" if axis == "part" else
                           "lines+markers", line_color=BLUE, marker_color=BLACK, row=row, col=column)
        figure.update_xaxes(title_text=ABLATION_AXES[axis][0] if axis in ABLATION_AXES else "parts of SAMP", type="category",
                            tickangle=0, row=row, col=column)
        if len(line) > 1:
            spans[axis] = line[measure].max() - line[measure].min()
    figure.update_yaxes(title_text=title, col=1).update_layout(showlegend=False)
    widest = sorted(spans, key=lambda axis: -spans[axis])[:3]
    told = ", ".join(f"{axis} {spans[axis]:.3g}" for axis in widest)
    text = f"The means of {title} differ most over {told}. " * bool(spans) + f"Each point: {MEAN_WITH_INTERVAL}, {_runs(table)}."
    return finish(figure, look, "One setting at a time", text, width=960, bottom=90,
                  height=170 + 200 * -(-len(axes) // columns))


def schedule_map(rows: pd.DataFrame, half: str, measure: str = "psnr", **look) -> go.Figure:
    """Schedules of the radius or the weight against run lengths: the mean, coloured by its distance to the best there.

    half: "radius" or "weight". Schedules that stand near the best at every length come first.
    """
    title = MEASURE_TITLES.get(measure, measure)
    table = summary(rows[rows.half == half], [measure], ("schedule", "steps"))
    means = table.pivot(index="schedule", columns="steps", values=measure)
    worst = steadiness(rows, half, measure).behind[::-1]  # the last is drawn on top
    means = means.loc[worst.index]
    figure = go.Figure(go.Heatmap(
        x=[f"{steps:,} steps" for steps in means.columns], y=[*means.index], z=(means.max() - means).to_numpy(),
        text=[["" if math.isnan(value) else f"{value:.2f}" for value in line] for line in means.to_numpy()],
        texttemplate="%{text}", colorscale="Cividis", reversescale=True, xgap=2, ygap=2,
        colorbar={"title": {"text": f"{title}: below the best of the column", "side": "right"}}))
    whole, text = worst.dropna(), f"{title}, mean of {_runs(table)}. "
    if len(whole):
        steadiest = ", ".join(whole.index[whole == whole.iloc[-1]])
        text += (f"Never far from the best of its column: {steadiest}, at most {whole.iloc[-1]:.2f} below; farthest: "
                 f"{whole.index[0]}, {whole.iloc[0]:.2f} below.")
    return finish(figure, look, f"Schedules of the {half}", text, left=170, width=760,
                  height=max(420, 180 + 32 * len(means)))  # room for the title of the colors


def _runs(table: pd.DataFrame) -> str:
    """How many runs each mean is of."""
    most = table.runs.max()
    return "up to " * bool(table.runs.min() < most) + f"{most} run{'s' * bool(most > 1)}"


def _bars(table: pd.DataFrame, name: str) -> dict:
    return {"type": "data", "array": (table[f"{name}_high"] - table[name]).fillna(0),
            "arrayminus": (table[name] - table[f"{name}_low"]).fillna(0), "color": BLACK, "thickness": 1.5}


def _colour(name: str) -> str:
    return METHOD_COLORS.get(name.split()[0].lower(), GRAY)
