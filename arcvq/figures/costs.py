"""What the margin loss costs: time and memory over the number of latents and of codes."""

from typing import Any

import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.figures.parts import name_once
from arcvq.figures.theme import BLACK, GRAY, LOG, METHOD_COLORS, finish
from arcvq.runtime.wording import short, span

# Columns of the table, in the order in which they are drawn: time, memory, name and line.
CURVES = (
    ("plain", "plain_memory", "whole matrix", {"color": BLACK}),
    ("loss", "memory", "in blocks", {"color": METHOD_COLORS["samp"]}),
    ("floor", None, "floor: two matrix products", {"color": GRAY, "dash": "dash"}),
)


def cost_picture(table: pd.DataFrame, **look: Any) -> Figure:
    """Draw time and memory of the margin loss over latents and over codes, on log scales.

    Args:
        table: Rows of `arcvq.analysis.profiling.margin_costs`. Over the latents N, those with the
            commonest number of codes K are drawn, over K those with the commonest N.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure: time (ms) above, and below it the memory beyond inputs and gradient (MiB).

    Raises:
        ValueError: For an empty table.
    """
    if table.empty:
        raise ValueError("the table of costs is empty; there is nothing to draw")
    figure = make_subplots(2, 2, horizontal_spacing=0.12, vertical_spacing=0.16)
    latents = "count", "latents", "N"
    codes = "num_codes", "codes", "K"
    _add_costs(figure, table, latents, codes, col=1)
    _add_costs(figure, table, codes, latents, col=2)
    name_once(figure)
    figure.update_yaxes(LOG)
    figure.update_yaxes(title_text="time (ms)", row=1, col=1)
    figure.update_yaxes(title_text="memory (MiB)", row=2, col=1)
    figure.update_xaxes(LOG, dtick=1, tickformat="~s")  # powers of ten: more would overlap

    ratio = table.loss / table.floor
    memory = table.memory.max()
    text = (
        f"The loss in blocks takes {span(ratio)} times as long as its floor, and holds at most "
        f"{memory:,.0f} MiB beyond inputs and gradient."
    )
    if table.plain.notna().any():
        slower = (table.plain / table.loss).max()
        whole = table.plain_memory.max()
        text += (
            f" The whole matrix, where it was tried, holds up to {whole:,.0f} MiB and takes up to "
            f"{short(slower)} times as long as the loss in blocks."
        )
    return finish(figure, look, "What the margin loss costs", text, height=640)


def _add_costs(figure: Figure, table: pd.DataFrame, moving: tuple, fixed: tuple, col: int) -> None:
    """Draw a column of the figure: costs over one size, where the other has its commonest value."""
    x, things, letter = moving
    other, _, other_letter = fixed
    level = table[other].mode().iloc[0]
    rows = table[table[other] == level].sort_values(x)
    for time, memory, name, line in CURVES:
        if table[time].isna().all():
            continue
        style = {"name": name, "legendgroup": name, "mode": "lines+markers", "line": line}
        figure.add_scatter(x=rows[x], y=1e3 * rows[time], row=1, col=col, **style)
        if memory:
            figure.add_scatter(x=rows[x], y=rows[memory], row=2, col=col, **style)
    title = f"number of {things} {letter} ({other_letter} = {level:,})"
    figure.update_xaxes(title_text=title, col=col)
