import numpy as np
import plotly.graph_objects as go

from arcvq.explorers.figure_updates import changed, flat, send


def test_a_message_is_one_and_gives_every_array_of_its_traces_whole():
    steps = np.arange(3.0)
    traces = [go.Scatter(x=steps + n, y=steps - n) for n in range(3)]
    figure = go.FigureWidget(traces)
    shown = flat(figure)
    messages = []
    figure._send_update_msg = lambda **message: messages.append(message)

    sevens = np.full(3, 7.0)
    eights = np.full((3, 2), 8.0)[:, 0]  # a column, which is not contiguous
    send(figure, {"0/x": sevens, "1/y": eights, "layout/title.text": "moved"}, shown)

    [message] = messages
    assert message["trace_indexes"] == [0, 1]
    assert message["relayout_data"] == {"title.text": "moved"}
    data = message["restyle_data"]
    assert [list(row) for row in data["x"]] == [[7, 7, 7], [1, 2, 3]]
    assert [list(row) for row in data["y"]] == [[0, 1, 2], [8, 8, 8]]
    for rows in data.values():
        assert all(row.flags.c_contiguous for row in rows)

    assert list(figure.data[0].x) == [7, 7, 7]
    assert list(figure.data[1].y) == [8, 8, 8]
    assert figure.layout.title.text == "moved"


def test_only_what_differs_has_changed_and_nan_is_nan():
    shown = {"0/x": np.array([1.0, np.nan]), "0/name": "a", "layout/title.text": "b"}
    same = {"0/x": np.array([1.0, np.nan], np.float32), "0/name": "a"}
    assert changed(same, shown) == {}
    other = same | {"0/name": "c", "0/y": 1}
    assert list(changed(other, shown)) == ["0/name", "0/y"]
