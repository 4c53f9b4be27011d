import itertools

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from arcvq.figures import METHOD_COLORS, PALETTE, TEMPLATE, colors, finish, summary
from arcvq.figures.theme import as_vectors, named


def luminance(color):
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_method_has_its_own_color_of_the_palette():
    assert {"plain", "ema", "cosine", "cvq", "samp"} <= set(METHOD_COLORS)
    assert len(set(METHOD_COLORS.values())) == len(METHOD_COLORS)
    assert set(METHOD_COLORS.values()) - set(PALETTE) == {METHOD_COLORS["random"]}


def test_a_method_keeps_its_color_beside_any_others():
    for names in itertools.permutations(["samp", "plain", "something", "cvq"]):
        chosen = colors(names)
        assert all(chosen[name] == METHOD_COLORS[name] for name in ("samp", "plain", "cvq"))
        assert len(set(chosen.values())) == 4


def test_variants_of_a_method_are_told_apart_and_the_first_has_its_color():
    chosen = colors(["SAMP, per step", "SAMP scaled", "Plain"])
    assert chosen["SAMP, per step"] == METHOD_COLORS["samp"] != chosen["SAMP scaled"]
    assert chosen["Plain"] == METHOD_COLORS["plain"]
    assert list(chosen) == ["SAMP, per step", "SAMP scaled", "Plain"]


def test_more_names_than_colors_still_get_one_each():
    assert len(colors([f"run {n}" for n in range(20)])) == 20


def test_the_paper_is_opaque_and_light_and_the_text_dark():
    layout = TEMPLATE.layout
    for background in (layout.paper_bgcolor, layout.plot_bgcolor):
        assert luminance(background) > 0.9
    assert luminance(layout.font.color) < 0.2


def test_finish_sets_template_title_summary_and_a_caption_that_escapes_markup():
    figure = finish(go.Figure(), {}, "Title", "K < N & more.")
    assert figure.layout.title.text == "Title"
    assert summary(figure) == "K < N & more."
    (caption,) = figure.layout.annotations
    assert caption.text == "K &lt; N &amp; more."
    assert figure.layout.paper_bgcolor is None
    assert figure.layout.template.layout.paper_bgcolor


def test_look_goes_before_what_the_figure_chose():
    look = {"title": "Mine", "summary": "Own words.", "width": 500, "xaxis_title": "x"}
    figure = finish(go.Figure(), look, "Title", "Text", height=300)
    assert (figure.layout.title.text, summary(figure)) == ("Mine", "Own words.")
    assert (figure.layout.width, figure.layout.height, figure.layout.xaxis.title.text) == (
        500,
        300,
        "x",
    )


def test_long_captions_and_legends_push_the_plot_down_so_that_nothing_overlaps():
    short, long = (finish(go.Figure(), {}, "T", "word " * n) for n in (3, 100))
    lines = long.layout.annotations[0].text.count("<br>")
    assert long.layout.margin.t - short.layout.margin.t == 17 * lines > 0
    traces = [go.Scatter(y=[1], name=f"a long name {i}") for i in range(30)]
    few, many = (finish(go.Figure(traces[:n]), {}, "T", "t") for n in (2, 30))
    assert (
        many.layout.margin.t
        > few.layout.margin.t
        > finish(go.Figure(), {}, "T", "t").layout.margin.t
    )


def test_summary_of_a_foreign_figure_is_empty():
    assert summary(go.Figure()) == ""


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2]],
        np.ones((1, 2), np.float32),
        torch.ones(1, 2, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(1, 2)),
    ],
)
def test_vectors_become_float64_rows(values, unchecked):
    rows = as_vectors(values, "codes")
    assert rows.dtype == np.float64
    assert rows.shape == (1, 2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.ones(3), r"codes must be rows of shape \(3,\), at least one; it is \(3,\)"),
        (torch.ones(4, 2), r"it is \(4, 2\)"),
        (torch.ones(0, 3), r"it is \(0, 3\)"),
        (
            torch.tensor([[0, 0, 0], [1, torch.nan, 1], [torch.inf, 0, 0]]),
            "NaN or infinity in 2 of its 3 rows",
        ),
    ],
)
def test_vectors_refuse_what_cannot_be_drawn(values, words, unchecked):
    with pytest.raises(ValueError, match=words):
        as_vectors(values, "codes", 3)


def test_named_refuses_an_empty_dictionary():
    assert named(3, "three") == {"three": 3}
    assert named({1: "a"}) == {"1": "a"}
    with pytest.raises(ValueError, match="nothing to draw"):
        named({})
