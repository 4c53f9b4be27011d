"""Figures of an experiment: means over seeds with their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import wrap

import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.experiments.ablations import ABLATION_AXES
from arcvq.experiments.best_study import SETTINGS
from arcvq.experiments.generation_study import REAL, RECONSTRUCTED
from arcvq.experiments.generation_study import SHOWN as SAMPLE_TITLES
from arcvq.experiments.measures import MEASURE_TITLES
from arcvq.experiments.natural_study import SHOWN as PHOTO_TITLES
from arcvq.experiments.regime_study import AXES
from arcvq.experiments.schedule_study import steadiness
from arcvq.experiments.semantics_study import TITLES
from arcvq.experiments.tables import (
    cell,
    data_title,
    finished,
    regime_note,
    summary,
)
from arcvq.figures.axis_panels import axis_panels
from arcvq.figures.gradient_curves import feedback_picture, gradient_angles, gradient_norms
from arcvq.figures.parts import error_bars, means_of_runs, means_with_intervals
from arcvq.figures.sweep_map import sweep_map, value_map
from arcvq.figures.theme import (
    BLACK,
    BLUE,
    DOTTED,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    finish,
    method_color,
)
from arcvq.runtime.wording import capitalized, short

MEANINGS = (  # measures of the semantics study that are drawn
    "class_information",
    "edge_information",
    "probe_bag_of_codes",
    "probe_codes",
    "agreement",
)
LOWER_IS_BETTER = ("frechet", "perceptual")  # of the measures that come first in a figure
SAMPLE_MEASURES = ("frechet", "sample_precision", "sample_recall", "label_agreement")
SAMPLE_SOURCES = {  # by the prior, or what stands in its place
    "pixelcnn": ("samples of the PixelCNN", PURPLE),
    "transformer": ("samples of the transformer", ORANGE),
    RECONSTRUCTED: ("reconstructions of real images", GREEN),
}
AXIS_MEASURES = ("psnr", "codes_used")
TITLE_WIDTH = 36  # characters in a line of the title of a panel
NAME_WIDTH = 5  # characters in a line of the name of a part, for each column of its panel
AXIS_TITLES = {  # of the experiments that `axis_panels` draws
    "best_search": SETTINGS,
    "regime": {axis: title for axis, (title, _) in AXES.items()},
    "codes_per_step": {"share": "share of the codes in the margin loss (0: cosine)"},
}


def pictures(rows: pd.DataFrame) -> list[tuple[str, str, Figure]]:
    """Draw the figures of an experiment, for a page.

    Args:
        rows: Rows of one of the `EXPERIMENTS`; those of runs that failed are left out.

    Returns:
        Heading, text and figure of each; none that no run is there for.
    """
    experiment = rows.experiment.iloc[0]
    good = finished(rows)
    if good.empty or experiment not in DRAWN:
        return []
    # The maps of a sweep have a gap where a run failed.
    drawn = rows if experiment == "sweep" else good
    note = regime_note(good)
    return [(heading, note, figure) for heading, figure in DRAWN[experiment](drawn).items()]


def _axis_pictures(rows: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, Figure]:
    """PSNR and usage over each axis of an experiment."""
    table = by_axis(rows)
    return {MEASURE_TITLES[name]: axis_panels(table, titles, name) for name in AXIS_MEASURES}


def _ablation_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """PSNR and usage, one setting at a time."""
    return {MEASURE_TITLES[name]: ablation_panels(rows, name) for name in AXIS_MEASURES}


def _schedule_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """The schedules of each half of SAMP."""
    halves = sorted(rows.half.unique())
    return {f"The {half}": schedule_map(rows, half) for half in halves}


def _meaning_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """What codes tell, as far as it was measured."""
    known = rows.dropna(axis="columns", how="all")
    titles = {name: TITLES[name] for name in MEANINGS if name in known}
    if not titles:
        return {}
    return {"What codes tell": measure_panels(rows, titles, title="What codes tell")}


def _sweep_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """PSNR and usage over the axes of a sweep."""
    return {"Reconstruction": sweep_map(rows), "Codes used": sweep_map(rows, "codes_used")}


def _photograph_panels(rows: pd.DataFrame) -> dict[str, Figure]:
    """Quantizers and losses on photographs."""
    names = ("perceptual", "sharpness", "psnr", "codes_used")
    measures = {name: PHOTO_TITLES[name] for name in names}
    return {"Photographs": measure_panels(rows, measures, title="Reconstructed photographs")}


def _gradient_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """The courses of the first seeds."""
    first_seeds = rows.groupby("variant").seed.transform("min")
    courses = rows[rows.seed == first_seeds].groupby("variant", sort=False)
    histories = dict([*courses])
    found = {
        "Sizes": gradient_norms(histories),
        "Angles": gradient_angles(histories),
        "Norms and usage": feedback_picture(histories),
    }
    seeds = rows.seed.nunique()
    if seeds > 1:
        for figure in found.values():
            figure.layout.title.text += f" (the first of {seeds} seeds)"
    return found


def by_axis(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns axis, value and line, for `axis_panels`.

    Those of a search, whose candidates differ in several settings at once, are repeated for each.
    """
    if "axis" in rows:
        return rows
    tables = []
    for setting in SETTINGS:
        if setting in rows:
            found = rows.dropna(subset=setting)
            tables.append(found.assign(axis=setting, value=found[setting], line=rows.candidate_for))
    return pd.concat(tables, ignore_index=True)


def _quantizer_panels(rows: pd.DataFrame) -> dict[str, Figure]:
    """Without the continuous autoencoder, whose PSNR would press the others together."""
    continuous = rows[rows.variant == "continuous"]
    quantizers = rows[rows.variant != "continuous"]
    if quantizers.empty:
        return {}
    title = f"Quantizers on {data_title(rows)}"
    if len(continuous):
        title += f"; without any: {continuous.psnr.mean():.1f} dB"
    panels = ("psnr", "codes_used", "perplexity")
    return {"Quantizers": measure_panels(quantizers, panels, title=title)}


def _sample_pictures(rows: pd.DataFrame) -> dict[str, Figure]:
    """The samples of all priors."""
    return {"Samples": sample_panels(rows)}


def measure_panels(
    rows: pd.DataFrame,
    measures: Mapping[str, str] | Sequence[str] = ("psnr", "codes_used"),
    **look,
) -> Figure:
    """Draw a panel for each measure, with a line for each variant.

    Every run is a faint dot, the mean of a variant a large one with its interval.

    Args:
        rows: Rows of an experiment; those of runs that failed are left out.
        measures: Columns, or columns with their titles.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with the variants in the order of the rows, the first on top.

    Raises:
        ValueError: If no run finished, or a column is not there.
    """
    if not isinstance(measures, Mapping):
        measures = {name: MEASURE_TITLES.get(name, name) for name in measures}
    table = summary(rows, [*measures])
    rows = finished(rows)
    names = [*table.variant]
    shades = [method_color(name) or GRAY for name in names]
    figure = make_subplots(1, len(measures), shared_yaxes=True, horizontal_spacing=0.03)
    for panel, (name, title) in enumerate(measures.items(), start=1):
        place = {"mode": "markers", "row": 1, "col": panel}
        faint = {"color": GRAY, "size": 5, "opacity": 0.5}
        figure.add_scatter(x=rows[name], y=rows.variant, marker=faint, **place)
        bars = error_bars(table[name], table[f"{name}_low"], table[f"{name}_high"])
        strong = {"color": shades, "size": 9}
        figure.add_scatter(x=table[name], y=names, marker=strong, error_x=bars, **place)
        lines = wrap(title, TITLE_WIDTH)
        figure.update_xaxes(title_text="<br>".join(lines), nticks=5, col=panel)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")

    text = "Each dot is a single run."
    if table.runs.max() > 1:
        text = f"Large dots are {means_with_intervals(table)}, small ones single runs."
    first, title = next(iter(measures.items()))
    if table[first].notna().any():
        lower_is_better = first in LOWER_IS_BETTER
        place_of_best = table[first].idxmin() if lower_is_better else table[first].idxmax()
        best = table.loc[place_of_best]
        number = cell(first, best[first], math.nan, math.nan)
        side = "lowest" if lower_is_better else "highest"
        text = f"{capitalized(title)}: {side} for {best.variant}, {number}. {text}"
    return finish(
        figure,
        look,
        "Variants side by side",
        text,
        left=20 + 7 * max(map(len, names)),
        height=190 + 26 * len(names),
        width=max(700, 300 * len(measures)),
        bottom=70,
        showlegend=False,
    )


def sample_panels(rows: pd.DataFrame, **look) -> Figure:
    """Draw how good the samples of each tokenizer's priors are, with a panel for each measure.

    Beside them are reconstructions of real images, which a perfect prior would equal. A dotted
    line marks these images themselves.

    Args:
        rows: Rows of the generation study; those of runs that failed are left out.
        **look: Title, summary, width, height, or properties of the layout.

    Raises:
        ValueError: If no run finished.
    """
    table = summary(rows, SAMPLE_MEASURES, ("variant", "prior"))
    real = table[table.prior == REAL]
    names = table.variant.unique()
    panels = len(SAMPLE_MEASURES)
    figure = make_subplots(1, panels, shared_yaxes=True, horizontal_spacing=0.03)
    for panel, name in enumerate(SAMPLE_MEASURES, start=1):
        for source, (title, color) in SAMPLE_SOURCES.items():
            line = table[table.prior == source]
            figure.add_scatter(
                x=line[name],
                y=line.variant,
                error_x=error_bars(line[name], line[f"{name}_low"], line[f"{name}_high"]),
                mode="markers",
                marker={"color": color, "size": 9},
                name=title,
                legendgroup=title,
                offsetgroup=title,
                orientation="h",
                showlegend=panel == 1,
                row=1,
                col=panel,
            )
        figure.add_vline(real[name].mean(), line=DOTTED, row=1, col=panel)
        # Plotly would begin at 0, and press shares that are all near 1 together.
        shown = table[[name, f"{name}_low", f"{name}_high"]]
        low = shown.min(axis=None)
        high = shown.max(axis=None)
        space = max(0.01, 0.06 * (high - low))
        limits = [low - space, high + space]
        figure.update_xaxes(title_text=SAMPLE_TITLES[name], nticks=5, range=limits, col=panel)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")

    samples = table[~table.prior.isin([REAL, RECONSTRUCTED])]
    best = samples.loc[samples.frechet.idxmin()]
    distance = cell("frechet", best.frechet, math.nan, math.nan)
    text = (
        f"The Frechet distance is lowest for {best.variant} with the {best.prior}, {distance}. "
        f"Dots are {means_with_intervals(table)}. Dotted: real images, compared with others."
    )
    return finish(
        figure,
        look,
        "Samples of the priors",
        text,
        left=20 + 7 * max(map(len, names)),
        height=200 + 44 * len(names),
        width=300 * panels,
        scattermode="group",
    )


def ablation_panels(rows: pd.DataFrame, measure: str = "psnr", **look) -> Figure:
    """Draw a panel for each axis of the ablations: a measure over the values of the axis.

    Args:
        rows: Rows of the ablations; those of runs that failed are left out.
        measure: A column of the rows.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure; its caption names the axes over which the means differ most.

    Raises:
        ValueError: If no run finished, or a column is not there.
    """
    title = MEASURE_TITLES.get(measure, measure)
    rows = rows.assign(value=rows.get("value", math.nan))  # parts of SAMP have none
    table = summary(rows, [measure], ("axis", "value", "variant"))
    # The parts, which have no values, stay in the order of the rows.
    table = table.sort_values("value", kind="stable")
    tried = set(table.axis)
    axes = [axis for axis in (*ABLATION_AXES, "part") if axis in tried]
    columns = min(3, len(axes))
    rows_of_panels = math.ceil(len(axes) / columns)
    # The last panel, that of the parts with their long names, takes what its row has left.
    last_row, last_column = divmod(len(axes) - 1, columns)
    free = columns - last_column
    specs: list[list[dict[str, int] | None]] = [[{}] * columns for _ in range(rows_of_panels)]
    specs[last_row][last_column:] = [{"colspan": free}] + [None] * (free - 1)
    figure = make_subplots(
        rows_of_panels,
        columns,
        specs=specs,
        shared_yaxes="all",
        vertical_spacing=0.09,
        horizontal_spacing=0.04,
    )
    for place, axis in enumerate(axes):
        row, column = divmod(place, columns)
        where = {"row": row + 1, "col": column + 1}
        _add_axis(figure, axis, table[table.axis == axis], measure, NAME_WIDTH * free, **where)
    figure.update_yaxes(title_text=title, col=1)

    groups = table.groupby("axis", sort=False)[measure]
    spans = (groups.max() - groups.min())[groups.size() > 1].nlargest(3)
    text = f"Points are {means_with_intervals(table)}."
    if len(spans):
        listed = ", ".join(f"{axis} (by {short(span)})" for axis, span in spans.items())
        text = f"The means of {title} vary most with {listed}. {text}"
    size = {"width": 960, "height": 170 + 200 * rows_of_panels, "bottom": 90}
    return finish(figure, look, "One setting at a time", text, **size, showlegend=False)


def _add_axis(
    figure: Figure, axis: str, line: pd.DataFrame, measure: str, name_width: int, **place: int
) -> None:
    """Draw the panel of one axis; the parts of SAMP are points that no line connects.

    A line of the name of a part has about `name_width` characters.
    """
    if axis == "part":
        x = ["<br>".join(wrap(name, name_width, break_long_words=False)) for name in line.variant]
        title = "parts of SAMP"
    else:
        x = [f"{value:g}" for value in line.value]
        title, _ = ABLATION_AXES[axis]
    figure.add_scatter(
        x=x,
        y=line[measure],
        error_y=error_bars(line[measure], line[f"{measure}_low"], line[f"{measure}_high"]),
        mode="markers" if axis == "part" else "lines+markers",
        line_color=BLUE,
        marker_color=BLACK,
        **place,
    )
    figure.update_xaxes(title_text=title, type="category", tickangle=0, **place)


def schedule_map(rows: pd.DataFrame, half: str, measure: str = "psnr", **look) -> Figure:
    """Draw the mean of a measure for each schedule and length of the run.

    A cell is colored by its distance to the best of its length. Schedules that are never far from
    the best come first.

    Args:
        rows: Rows of the schedule study; those of runs that failed are left out.
        half: "radius" or "weight".
        measure: A column of the rows.
        **look: Title, summary, width, height, or properties of the layout.

    Raises:
        ValueError: If no run of this half finished, or a column is not there.
    """
    title = MEASURE_TITLES.get(measure, measure)
    table = summary(rows[rows.half == half], [measure], ("schedule", "steps"))
    means = table.pivot(index="schedule", columns="steps", values=measure)
    behind = steadiness(rows, half, measure).behind
    means = means.loc[behind.index[::-1]]  # the last line is drawn on top
    means = means.rename(columns="{:,} steps".format)
    label = f"{title} below the best of the column"
    below = means.max() - means
    figure = value_map(means, "{:.2f}", label, z=below.to_numpy(), reversescale=True)

    text = f"{title}, {means_of_runs(table)}."
    behind = behind.dropna()
    if len(behind):
        steadiest = ", ".join(behind.index[behind == behind.min()])
        text += (
            f" Closest to the best of each column: {steadiest}, never more than "
            f"{behind.min():.2f} below it. Farthest: {behind.idxmax()}, up to {behind.max():.2f} "
            "below."
        )
    height = max(420, 180 + 32 * len(means))  # room for the title of the colors
    return finish(
        figure, look, f"Schedules of the {half}", text, left=170, width=760, height=height
    )


DRAWN: dict[str, Callable[[pd.DataFrame], dict[str, Figure]]] = {  # by the name of the experiment
    "paper": _quantizer_panels,
    "best": _quantizer_panels,
    "ablations": _ablation_pictures,
    "schedules": _schedule_pictures,
    "semantics": _meaning_pictures,
    "generation": _sample_pictures,
    "natural_images": _photograph_panels,
    "sweep": _sweep_pictures,
    "gradients": _gradient_pictures,
    **{name: partial(_axis_pictures, titles=titles) for name, titles in AXIS_TITLES.items()},
}
