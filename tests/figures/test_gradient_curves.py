import itertools

import numpy as np
import pandas as pd
import pytest

from arcvq.figures import METHOD_COLORS, summary
from arcvq.figures.gradient_curves import feedback_picture, gradient_angles, gradient_norms


def history(margin):
    step = np.arange(10, 50, 10)
    return pd.DataFrame(
        {
            "step": step,
            "reconstruction_at_latents": 1 / step,
            "commitment_at_latents": 0.1 / step,
            "margin_at_latents": 10.0**-step if margin else np.nan,
            "angle_reconstruction_commitment": 100.0,
            "angle_reconstruction_margin": 90.5 if margin else np.nan,
            "norm_usage_correlation": 0.5,
            "codes_with_gradient": step,
        }
    )


HISTORIES = {"plain": history(False), "samp": history(True)}


def test_norms_have_a_panel_for_each_history_with_the_terms_it_has_on_one_log_scale():
    figure = gradient_norms(HISTORIES)
    drawn = [(trace.xaxis, trace.name) for trace in figure.data]
    assert drawn == [
        ("x", "reconstruction"),
        ("x", "commitment"),
        ("x2", "reconstruction"),
        ("x2", "commitment"),
        ("x2", "margin"),
    ]
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "reconstruction",
        "commitment",
        "margin",
    ]
    assert list(figure.data[4].y) == list(HISTORIES["samp"].margin_at_latents)
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    assert figure.layout.yaxis.type == figure.layout.yaxis2.type == "log"
    assert figure.layout.yaxis2.matches == "y"
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text) == (
        "step<br>plain",
        "step<br>samp",
    )
    text = "reconstruction 0.1 at first, 0.025 at the end; commitment 0.01 at first"
    assert text in summary(figure)
    assert "margin 1e-10 at first, 1e-40 at the end" in summary(figure)


def test_norms_that_differ_between_the_histories_are_told_as_a_range():
    weaker = HISTORIES["plain"] / 2
    figure = gradient_norms({"plain": HISTORIES["plain"], "weaker": weaker})
    assert "reconstruction 0.05 to 0.1 at first, 0.013 to 0.025" in summary(figure)


def test_angles_are_in_degrees_on_one_scale_with_a_line_at_90():
    figure = gradient_angles(HISTORIES)
    drawn = [(trace.xaxis, trace.name, trace.y[0]) for trace in figure.data]
    assert drawn == [("x", "plain", 100), ("x", "samp", 100), ("x2", "samp", 90.5)]
    levels = [(line.yref, line.y0, line.y1) for line in figure.layout.shapes]
    assert levels == [("y", 90, 90), ("y2", 90, 90)]
    assert figure.layout.yaxis2.matches == "y"
    assert figure.layout.yaxis2.title.text == "reconstruction and margin (°)"
    text = "and commitment: plain 100°, samp 100°; reconstruction and margin: samp 90.5°"
    assert text in summary(figure)


def test_an_angle_that_no_history_has_gets_no_panel():
    figure = gradient_angles(HISTORIES["plain"], title="Another title")
    assert len(figure.data) == len(figure.layout.shapes) == 1
    assert figure.layout.title.text == "Another title"
    assert "margin" not in summary(figure)


def test_the_feedback_has_a_color_for_each_history_in_both_panels():
    figure = feedback_picture(HISTORIES)
    shades = [METHOD_COLORS["plain"], METHOD_COLORS["samp"]]
    drawn = [(trace.xaxis, trace.line.color) for trace in figure.data]
    assert drawn == [*itertools.product(("x", "x2"), shades)]
    assert list(figure.data[3].y) == [10, 20, 30, 40]
    assert set(figure.data[0].y) == {0.5}
    assert figure.layout.yaxis.title.text == "norm-usage correlation"
    assert figure.layout.yaxis2.title.text == "codes with a gradient"
    text = "norm-usage correlation: plain 0.5, samp 0.5; codes with a gradient: plain 25, samp 25"
    assert text in summary(figure)


@pytest.mark.parametrize("figure", [gradient_norms, gradient_angles, feedback_picture])
def test_no_histories_are_refused(figure):
    with pytest.raises(ValueError, match="nothing to draw"):
        figure({})
