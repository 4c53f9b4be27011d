"""Figures that move: their values by path, so that a live figure takes only what changed.

A path is "TRACE/property" or "layout/property" in plotly's own notation: "0/marker.size", "layout/title.text".
"""

from typing import Any

import numpy as np
from plotly.basedatatypes import BaseFigure, Undefined

from arcvq.figures.theme import caption_lines

Values = dict[str, Any]


def flat(figure: BaseFigure) -> Values:
    """Every property of a figure by its path, but what the reader owns: the camera, and what uirevision keeps."""
    found: Values = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value and not path.endswith("/meta"):
            for key, inner in value.items():
                walk(inner, f"{path}{key}" if path.endswith("/") else f"{path}.{key}")
        elif not path.endswith(("/type", "uirevision")) and ".camera." not in path:
            found[path] = value

    for place, trace in enumerate(figure.data):
        walk(trace.to_plotly_json(), f"{place}/")
    walk(
        {key: value for key, value in figure.layout.to_plotly_json().items() if key != "template"},
        "layout/",
    )
    return found


def assign(figure: BaseFigure, values: Values) -> BaseFigure:
    """Sets each value at its path."""
    for path, value in values.items():
        part, _, key = path.partition("/")
        target = figure.layout if part == "layout" else figure.data[int(part)]
        target[key] = value
    return figure


def send(figure: BaseFigure, values: Values, shown: Values) -> None:
    """Sets each value at its path in a live figure that shows `shown`, all of them in one message.

    In a message each property stands for all of its traces. A trace of it that leaves one out loses its array in the
    browser's memory, and plotly's Python half then fails on the answer; so what a trace does not change goes along.
    """
    parts = [path.partition("/")[::2] for path in values]
    traces = sorted({int(part) for part, _ in parts if part != "layout"})
    # Only a contiguous array can be sent as it lies in memory.
    whole = {
        path: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
        for path, value in (shown | values).items()
    }
    figure.plotly_update(
        {
            key: [whole.get(f"{trace}/{key}", Undefined) for trace in traces]
            for key in dict.fromkeys(key for part, key in parts if part != "layout")
        },
        {key: whole[f"layout/{key}"] for part, key in parts if part == "layout"},
        traces,
    )


def changed(values: Values, shown: Values) -> Values:
    """Those of `values` that differ from what is `shown`."""
    return {
        path: value
        for path, value in values.items()
        if path not in shown or not _same(value, shown[path])
    }


def points(trace: int, rows: np.ndarray) -> Values:
    """The coordinates of a trace from rows (n, 2) or (n, 3)."""
    return {
        f"{trace}/{axis}": column
        for axis, column in zip("xyz", rows.astype(np.float32).T, strict=False)
    }


def words(title: str, summary: str, width: int) -> Values:
    """Title, summary and caption of a figure that `finish` made, for a plot `width` pixels wide."""
    caption = "<br>".join(caption_lines(summary, width))
    return {
        "layout/title.text": title,
        "layout/meta": {"summary": summary},
        "layout/annotations[0].text": caption,
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")
    return one == other
