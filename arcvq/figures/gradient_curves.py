"""Gradients of the terms of the loss over training: their sizes, their angles, and the feedback of norm and usage."""

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from arcvq.figures.curves import history_curves
from arcvq.figures.theme import DOTTED, LOG, colors, finish, named

TERMS = ("reconstruction", "commitment", "margin")


def gradient_norms(histories: Mapping[str, pd.DataFrame] | pd.DataFrame, **look: Any) -> go.Figure:
    """The norm of each term's gradient at the latents over steps, on a log scale: a panel for each history.

    histories: of `arcvq.analysis.gradients.gradient_history`, by name.
    """
    histories, chosen, text = named(histories, "run"), colors(TERMS), []
    figure = make_subplots(1, len(histories), shared_yaxes=True, horizontal_spacing=0.03)
    for panel, (name, history) in enumerate(histories.items(), start=1):
        first = []
        for term in TERMS:
            seen = history[["step", f"{term}_at_latents"]].dropna().to_numpy(float)
            if len(seen):
                new = all(trace.name != term for trace in figure.data)
                figure.add_scatter(x=seen[:, 0], y=seen[:, 1], name=term, line_color=chosen[term], mode="lines",
                                   legendgroup=term, showlegend=new, row=1, col=panel)
                first.append(f"{term} {seen[0, 1]:.2g} to {seen[-1, 1]:.2g}")
        figure.update_xaxes(title_text="<br>".join(["step", *textwrap.wrap(name, 16)]), col=panel)
        text.append(f"{name}: {', '.join(first)}")
    figure.update_yaxes(**LOG | {"tickformat": ".0e"}).update_yaxes(title_text="gradient at the latents (norm)", col=1)
    summary = f"From the first look to the last, {'; '.join(text)}."
    return finish(figure, look, "How hard each term of the loss pulls the latents", summary, height=440,
                  bottom=90, width=max(900, 170 * len(histories)))


def gradient_angles(histories: Mapping[str, pd.DataFrame] | pd.DataFrame, **look: Any) -> go.Figure:
    """The angles of the reconstruction's gradient to the other two at the latents (degrees) over steps.

    The dotted line is 90 degrees, where unrelated gradients are too: below it two terms help each other, above it they
    are opposed. A term that no history has gets no panel.
    """
    histories = named(histories, "run")
    columns = {f"angle_reconstruction_{term}": f"reconstruction to {term} (°)" for term in TERMS[1:]}
    text = {"title": "Do the terms of the loss agree at the latents?",
            "summary": _means(histories, columns, "°") + " Below 90° (dotted) they agree, above it they are opposed."}
    figure = _panels(histories, columns, **text | look)
    return figure.update_yaxes(matches="y").add_hline(y=90, line=DOTTED)


def feedback_picture(histories: Mapping[str, pd.DataFrame] | pd.DataFrame, **look: Any) -> go.Figure:
    """The rank correlation of norm and usage over the codes in use, and how many codes get a gradient, over steps."""
    histories = named(histories, "run")
    columns = {"norm_usage_correlation": "rank correlation of norm and usage",
               "codes_with_gradient": "codes with a gradient (codes)"}
    text = {"title": "Do the long codes win, and who learns?", "summary": _means(histories, columns)}
    return _panels(histories, columns, **text | look).update_yaxes(rangemode="tozero", col=2)


def _panels(histories: dict[str, pd.DataFrame], columns: dict[str, str], **look: Any) -> go.Figure:
    """`history_curves` of the columns that a history has values of, with these titles of their axes."""
    seen = [column for column in columns if any(history[column].notna().any() for history in histories.values())]
    figure = history_curves(histories, seen, **look)
    for panel, column in enumerate(seen, start=1):
        figure.update_yaxes(title_text=columns[column], col=panel)
    return figure


def _means(histories: dict[str, pd.DataFrame], columns: dict[str, str], unit: str = "") -> str:
    """The mean of each column over all looks, in a sentence."""
    found = [f"{title.split(' (')[0]}: " + ", ".join(f"{name} {mean:.3g}{unit}" for name, mean in means.items())
             for column, title in columns.items()
             if (means := {name: history[column].mean() for name, history in histories.items()
                           if history[column].notna().any()})]
    return f"Means over the run, {'; '.join(found)}."
