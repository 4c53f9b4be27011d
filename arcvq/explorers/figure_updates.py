"""Figures that move: their values by path, so that a live figure takes only what changed.

A path is "TRACE/property" or "layout/property" in plotly's notation: "0/marker.size",
"layout/title.text". Also here: what the figures of several explorers have in common.
"""

from typing import Any

import numpy as np
from plotly.basedatatypes import BaseFigure, Undefined
from plotly.graph_objects import Figure

from arcvq.figures.theme import caption_lines, finish

Values = dict[str, Any]


def flat(figure: BaseFigure) -> Values:
    """Return every property of a figure by its path.

    What the reader owns is left out: the camera, and what uirevision keeps.
    """
    parts = {str(place): trace.to_plotly_json() for place, trace in enumerate(figure.data)}
    parts["layout"] = figure.layout.to_plotly_json()
    parts["layout"].pop("template", None)
    found: Values = {}
    for part, properties in parts.items():
        for key, value in properties.items():
            found |= _leaves(value, f"{part}/{key}")
    return found


def _leaves(value: Any, path: str) -> Values:
    """A property by its path, or if it has properties itself, all of these."""
    if isinstance(value, dict) and value and not path.endswith("/meta"):
        found: Values = {}
        for key, inner in value.items():
            found |= _leaves(inner, f"{path}.{key}")
        return found
    is_readers = path.endswith("uirevision") or ".camera." in path
    if is_readers or path.endswith("/type"):
        return {}
    return {path: value}


def assign(figure: BaseFigure, values: Values) -> BaseFigure:
    """Set each value at its path."""
    for path, value in values.items():
        part, _, key = path.partition("/")
        target = figure.layout if part == "layout" else figure.data[int(part)]
        target[key] = value
    return figure


def send(figure: BaseFigure, values: Values, shown: Values) -> None:
    """Set each value at its path in a live figure that shows `shown`, all of them in one message.

    In a message each property stands for all of its traces. A trace of it that leaves one out loses
    its array in the browser's memory, and plotly's Python half then fails on the answer; so what a
    trace does not change goes along.
    """
    whole = shown | values
    paths = [path.split("/", 1) for path in values]
    traces = sorted({int(part) for part, _ in paths if part != "layout"})
    restyle: dict[str, list[Any]] = {}
    relayout: Values = {}
    for part, key in paths:
        if part == "layout":
            relayout[key] = _sendable(values[f"layout/{key}"])
        else:
            kept = (whole.get(f"{trace}/{key}", Undefined) for trace in traces)
            restyle[key] = [_sendable(value) for value in kept]
    figure.plotly_update(restyle, relayout, traces)


def changed(values: Values, shown: Values) -> Values:
    """Return those of `values` that differ from what is `shown`."""
    return {
        path: value
        for path, value in values.items()
        if path not in shown or not _same(value, shown[path])
    }


def points(trace: int, rows: np.ndarray) -> Values:
    """Return the coordinates of a trace from rows (n, 2) or (n, 3)."""
    columns = zip("xyz", rows.astype(np.float32).T, strict=False)
    return {f"{trace}/{axis}": column for axis, column in columns}


def words(title: str, summary: str, width: int) -> Values:
    """Return title, summary and caption of a figure that `finish` made, `width` pixels wide."""
    return {
        "layout/title.text": title,
        "layout/meta": {"summary": summary},
        "layout/annotations[0].text": "<br>".join(caption_lines(summary, width)),
    }


def finish_moving(figure: Figure, values: Values, head: int, height: int, **layout: Any) -> None:
    """Call `finish` with the title and the summary that `words` put among the values.

    Args:
        figure: The figure, with all its traces.
        values: What moves in it, by path.
        head: Pixels above the plots, for the title and the longest caption.
        height: Pixels of all that is below.
        **layout: As for `finish`.
    """
    title = values["layout/title.text"]
    summary = values["layout/meta"]["summary"]
    finish(figure, {}, title, summary, **layout)
    # The caption begins below the title, however long it is.
    figure.layout.annotations[0].update(yanchor="top", yshift=head - 44)
    figure.update_layout(margin_t=head, height=head + height)


def _sendable(value: Any) -> Any:
    """Only a contiguous array can be sent as it lies in memory."""
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one = np.asarray(one)
        other = np.asarray(other)
        floats = one.dtype.kind == other.dtype.kind == "f"
        return np.array_equal(one, other, equal_nan=floats)
    return one == other
