"""Gradients of the terms of the loss over training: sizes, angles, and how norm feeds usage."""

import textwrap
from collections.abc import Mapping
from typing import Any, TypeAlias

import pandas as pd
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.figures.curves import history_curves
from arcvq.figures.parts import measured, name_once
from arcvq.figures.theme import DOTTED, LOG, colors, finish, named
from arcvq.runtime.wording import short, span

TERMS = ("reconstruction", "commitment", "margin")
Histories: TypeAlias = Mapping[str, pd.DataFrame] | pd.DataFrame  # of `gradient_history`, by name


def gradient_norms(histories: Histories, **look: Any) -> Figure:
    """Draw the norm of each term's gradient at the latents over the steps, on a log scale.

    Args:
        histories: What `arcvq.analysis.gradients.gradient_history` returned, by name; each has a
            panel.
        **look: Title, summary, width, height, or properties of the layout.

    Raises:
        ValueError: For no histories.
    """
    histories = named(histories, "run")
    shades = colors(TERMS)
    figure = make_subplots(1, len(histories), shared_yaxes=True, horizontal_spacing=0.03)
    first: dict[str, list[float]] = {term: [] for term in TERMS}
    last: dict[str, list[float]] = {term: [] for term in TERMS}
    for panel, (name, history) in enumerate(histories.items(), start=1):
        for term in TERMS:
            x, y = measured(history, f"{term}_at_latents")
            if len(x):
                style = {"mode": "lines", "line_color": shades[term], "legendgroup": term}
                figure.add_scatter(x=x, y=y, name=term, row=1, col=panel, **style)
                first[term].append(y[0])
                last[term].append(y[-1])
        title = ["step", *textwrap.wrap(name, 16)]
        figure.update_xaxes(title_text="<br>".join(title), col=panel)
    name_once(figure)
    text = []
    for term in TERMS:
        if first[term]:
            start = span(first[term], digits=2)
            end = span(last[term], digits=2)
            text.append(f"{term} {start} at first, {end} at the end")
    figure.update_yaxes(**LOG | {"tickformat": ".0e"})
    figure.update_yaxes(title_text="norm of the gradient at the latents", col=1)
    return finish(
        figure,
        look,
        "How hard each term of the loss pulls on the latents",
        f"Norms: {'; '.join(text)}.",
        height=440,
        bottom=90,
        width=max(900, 170 * len(histories)),
    )


def gradient_angles(histories: Histories, **look: Any) -> Figure:
    """Draw the angles between the reconstruction's gradient and the other two at the latents.

    A dotted line marks 90 degrees, the angle of unrelated gradients: below it two terms help each
    other, above it they are opposed. A term that no history has gets no panel.

    Args:
        histories: What `arcvq.analysis.gradients.gradient_history` returned, by name.
        **look: Title, summary, width, height, or properties of the layout.

    Raises:
        ValueError: For no histories.
    """
    columns = {
        "angle_reconstruction_commitment": "reconstruction and commitment (°)",
        "angle_reconstruction_margin": "reconstruction and margin (°)",
    }
    look = {"title": "Do the terms of the loss agree at the latents?"} | look
    note = " Below 90° (dotted) they agree, above it they are opposed."
    figure = _mean_panels(histories, columns, "°", note, look)
    return figure.update_yaxes(matches="y").add_hline(y=90, line=DOTTED)


def feedback_picture(histories: Histories, **look: Any) -> Figure:
    """Draw the rank correlation of norm and usage, and how many codes get a gradient.

    The correlation is over the codes in use.

    Args:
        histories: What `arcvq.analysis.gradients.gradient_history` returned, by name.
        **look: Title, summary, width, height, or properties of the layout.

    Raises:
        ValueError: For no histories.
    """
    columns = {
        "norm_usage_correlation": "norm-usage correlation",
        "codes_with_gradient": "codes with a gradient",
    }
    look = {"title": "Do long codes win, and how many codes learn?"} | look
    return _mean_panels(histories, columns, "", "", look).update_yaxes(rangemode="tozero", col=2)


def _mean_panels(
    histories: Histories, columns: dict[str, str], unit: str, note: str, look: dict[str, Any]
) -> Figure:
    """`history_curves` of the columns that some history has, with their means in the caption."""
    histories = named(histories, "run")
    means = pd.DataFrame(
        {name: history.mean(numeric_only=True) for name, history in histories.items()}
    )
    means = means.reindex([*columns]).dropna(how="all")
    text = []
    for column, line in means.iterrows():
        listed = [f"{name} {short(mean)}{unit}" for name, mean in line.dropna().items()]
        text.append(f"{columns[column].split(' (')[0]}: {', '.join(listed)}")

    caption = f"Means over the run, {'; '.join(text)}.{note}"
    defaults: dict[str, Any] = {"summary": caption, "height": 480}
    figure = history_curves(histories, [*means.index], **defaults | look)
    for panel, column in enumerate(means.index, start=1):
        figure.update_yaxes(title_text=columns[column], col=panel)
    return figure
