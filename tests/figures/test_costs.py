import pandas as pd
import pytest

from arcvq.figures import cost_picture, summary


def table():
    sizes = [(512, 1_000), (512, 10_000), (512, 100_000), (64, 10_000), (4_096, 10_000)]
    rows = pd.DataFrame(sizes, columns=["num_codes", "count"])
    entries = rows.num_codes * rows["count"]
    whole = entries.where(entries < 1e7)  # NaN above
    return rows.assign(
        floor=1e-9 * entries,
        loss=1.5e-9 * entries,
        memory=20.0,
        plain=6e-9 * whole,
        plain_memory=3e-5 * whole,
    )


def test_time_and_memory_are_drawn_over_latents_and_over_codes():
    figure = cost_picture(table())
    times = {
        trace.xaxis: list(trace.x)
        for trace in figure.data
        if trace.name == "in blocks" and trace.yaxis in "y y2"
    }
    assert times == {"x": [1_000, 10_000, 100_000], "x2": [64, 512, 4_096]}
    over_n = next(trace for trace in figure.data if trace.name == "in blocks")
    assert list(over_n.y) == pytest.approx([0.768, 7.68, 76.8])  # ms
    assert all(figure.layout[axis].type == "log" for axis in ("xaxis", "xaxis4", "yaxis", "yaxis4"))
    assert "takes 1.5 times as long as its floor" in summary(figure)
    assert "up to 4 times" in summary(figure)
    assert [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2", "yaxis", "yaxis3")] == [
        "number of latents N (K = 512)",
        "number of codes K (N = 10,000)",
        "time (ms)",
        "memory (MiB)",
    ]


def test_a_whole_matrix_that_was_not_tried_is_neither_drawn_nor_told():
    figure = cost_picture(table().assign(plain=float("nan"), plain_memory=float("nan")))
    assert summary(figure).endswith("at most 20 MiB beyond inputs and gradient.")
    assert {trace.name for trace in figure.data} == {"in blocks", "floor: two matrix products"}


def test_an_empty_table_is_told():
    with pytest.raises(ValueError, match="table of costs is empty"):
        cost_picture(table()[:0])
