import numpy as np
import pandas as pd
import pytest
import torch

from arcvq.figures import METHOD_COLORS, bars, history_curves, lines, schedule_curves, summary
from arcvq.schedules import Adaptive, Exponential, WarmUp


def history(psnr, steps=50):
    step = np.arange(steps)
    validation = np.where(step % 10 == 9, psnr + 1, np.nan)
    return pd.DataFrame(
        {
            "step": step,
            "loss": 1.0,
            "psnr": psnr + step / 100,
            "codes_used": step,
            "perplexity": step / 2,
            "validation_psnr": validation,
        }
    )


RUNS = {"plain": history(20.0), "samp": history(22.0)}


def test_lines_hold_the_data_names_and_titles():
    ys = {"samp": torch.tensor([1.0, 2, 3]), "target": 2, "other": [3, np.nan, 1]}
    figure = lines([1, 2, 3], ys, "x (m)", "y (dB)", "T", "Text.")
    samp, other = figure.data
    assert list(samp.x) == [1, 2, 3]
    assert list(samp.y) == [1, 2, 3]
    assert np.isnan(other.y[1])
    assert samp.line.color == METHOD_COLORS["samp"] != other.line.color
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("x (m)", "y (dB)")
    (level,) = figure.layout.shapes
    assert (level.y0, level.y1, level.name) == (2, 2, "target")
    assert summary(figure) == "Text."


def test_lines_draw_log_axes_and_markers_where_asked():
    figure = lines([1, 10], {"a": [1, 100]}, "x", "y", "T", "t", log="xy", markers=True)
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert figure.data[0].mode == "lines+markers"
    assert lines([1, 10], {"a": [1, 100]}, "x", "y", "T", "t").layout.xaxis.type is None


def test_long_lines_are_thinned_in_order_and_say_so():
    figure = lines(np.arange(30_000), {"a": np.arange(30_000)}, "x", "y", "T", "Text.")
    assert len(figure.data[0].x) == 20_000
    assert (np.diff(figure.data[0].x) > 0).all()
    assert "20,000 of 30,000" in summary(figure)


def test_lines_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"'a' has the shape \(2,\), x has \(3,\)"):
        lines([1, 2, 3], {"a": [1, 2]}, "x", "y", "T", "t")


def test_bars_stand_on_zero_with_their_numbers_above():
    figure = bars({"plain": 2, "samp": torch.tensor(3.5)}, "PSNR (dB)", "T", "Text.")
    bar, text = figure.data
    assert list(bar.x) == ["plain", "samp"]
    assert list(bar.y) == list(text.y) == [2, 3.5]
    assert list(bar.marker.color) == [METHOD_COLORS["plain"], METHOD_COLORS["samp"]]
    assert list(text.text) == ["2", "3.5"]
    assert summary(figure) == "Text."
    assert figure.layout.yaxis.rangemode == "tozero"
    assert figure.layout.yaxis.title.text == "PSNR (dB)"


def test_history_has_a_panel_a_column_with_units_and_one_legend():
    figure = history_curves(RUNS, ceiling=64)
    layout = figure.layout
    assert [axis.title.text for axis in (layout.yaxis, layout.yaxis2, layout.yaxis3)] == [
        "PSNR (dB)",
        "codes used",
        "perplexity",
    ]
    assert [axis.title.text for axis in (layout.xaxis, layout.xaxis2, layout.xaxis3)] == [
        "step"
    ] * 3
    assert [trace.name for trace in figure.data if trace.showlegend] == ["plain", "samp"]
    assert {trace.line.color for trace in figure.data if trace.name == "samp"} == {
        METHOD_COLORS["samp"]
    }
    assert list(figure.data[0].y) == list(RUNS["plain"]["psnr"])
    lines_at_k = [shape for shape in layout.shapes if shape.y0 == 64]
    assert {shape.yref for shape in lines_at_k} == {"y2", "y3"}
    assert lines_at_k[0].label.text == "K = 64"
    assert "At the end, PSNR (dB): plain 20.5, samp 22.5;" in summary(figure)


def test_history_skips_what_was_not_measured_and_marks_the_few_points():
    figure = history_curves(RUNS["samp"], ("validation_psnr",))
    (trace,) = figure.data
    assert list(trace.x) == [9, 19, 29, 39, 49]
    assert not np.isnan(trace.y).any()
    assert trace.mode == "lines+markers"
    assert figure.layout.yaxis.title.text == "validation PSNR (dB)"


def test_history_without_the_column_names_those_there_are():
    with pytest.raises(
        ValueError, match="no history has values of 'radius'; the columns are step, loss"
    ):
        history_curves(RUNS, ("radius",))
    with pytest.raises(ValueError, match="nothing to draw"):
        history_curves({})


def test_a_run_without_a_column_leaves_the_others():
    runs = {"plain": history(20.0), "samp": history(22.0).assign(radius=1.5)}
    (trace,) = history_curves(runs, ("radius",)).data
    assert trace.name == "samp"
    assert set(trace.y) == {1.5}
    shown = [
        trace.name for trace in history_curves(runs, ("radius", "psnr")).data if trace.showlegend
    ]
    assert shown == ["samp", "plain"]  # each once, though plain begins in the second panel


def test_schedules_are_evaluated_over_the_whole_run():
    schedules = {"paper": Exponential(3e-4), "warm-up": WarmUp(1.0, 4.0, 500)}
    figure = schedule_curves(schedules, 1000, log="y")
    paper, warm_up = figure.data
    assert paper.x[0] == 0
    assert paper.x[-1] == 1000
    assert np.allclose(paper.y, np.exp(3e-4 * np.asarray(paper.x)))
    assert warm_up.y[-1] == 4
    assert figure.layout.yaxis.type == "log"
    assert "paper from 1 to 1.35" in summary(figure)


def test_a_single_schedule_and_one_that_follows_usage_can_be_drawn():
    figure = schedule_curves(Adaptive(0.1, 1.0), 10, y_title="weight")
    assert set(figure.data[0].y) == {1.0}
    assert figure.layout.yaxis.title.text == "weight"
    with pytest.raises(ValueError, match="steps is 0"):
        schedule_curves(Exponential(1.0), 0)
