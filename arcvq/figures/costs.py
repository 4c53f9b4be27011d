"""What the margin loss costs: time and memory over the number of latents and of codes, beside the floor."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from arcvq.figures.theme import BLACK, GRAY, LOG, METHOD_COLORS, finish

AXES = {"count": "latents N", "num_codes": "codes K"}
STYLES = {"plain": ("whole matrix", {"color": BLACK}), "loss": ("streaming", {"color": METHOD_COLORS["samp"]}),
          "floor": ("floor: two matrix products", {"color": GRAY, "dash": "dash"})}


def cost_picture(table: pd.DataFrame, **look) -> go.Figure:
    """Time (ms) above and memory beyond inputs and gradient (MiB) below, over N and over K, all axes logarithmic.

    table: of `arcvq.analysis.profiling.margin_costs`. Over N the rows with the commonest K are drawn, over K those with the
    commonest N. Raises ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("the table of costs is empty; there is nothing to draw")
    figure = make_subplots(2, 2, horizontal_spacing=0.12, vertical_spacing=0.16)
    for column, (moving, fixed) in enumerate((("count", "num_codes"), ("num_codes", "count")), start=1):
        level = table[fixed].mode().iloc[0]
        rows = table[table[fixed] == level].sort_values(moving)
        for name, (label, line) in STYLES.items():
            shown = {"name": label, "legendgroup": label, "mode": "lines+markers", "line": line, "col": column}
            figure.add_scatter(x=rows[moving], y=1e3 * rows[name], row=1, showlegend=column == 1, **shown)
            memory = {"plain": "plain_memory", "loss": "memory"}.get(name)
            if memory:
                figure.add_scatter(x=rows[moving], y=rows[memory], row=2, showlegend=False, **shown)
        figure.update_xaxes(title_text=f"{AXES[moving]} ({AXES[fixed]} = {level:,})", col=column)
    figure.update_yaxes(title_text="time (ms)", row=1, col=1).update_yaxes(title_text="memory (MiB)", row=2, col=1)
    figure.update_yaxes(**LOG)
    figure.update_xaxes(**LOG | {"dtick": 1, "tickformat": "~s"})  # powers of ten: more would overlap
    ratio = table.loss / table.floor
    text = (f"The streaming loss takes {ratio.min():.2f} to {ratio.max():.2f} times its floor, and holds at most "
            f"{table.memory.max():,.0f} MiB beside inputs and gradient; the whole matrix, where it was tried, holds up "
            f"to {table.plain_memory.max():,.0f} MiB and takes up to {(table.plain / table.loss).max():.1f} times as "
            "long as the streaming loss.")
    return finish(figure, look, "What the margin loss costs", text, height=640)
