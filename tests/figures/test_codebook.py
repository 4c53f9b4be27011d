import math

import numpy as np
import pytest
import torch

from arcvq import geometry
from arcvq.figures import (
    METHOD_COLORS,
    angle_histogram,
    norm_against_usage,
    norm_histogram,
    summary,
    usage_bars,
)
from tests.memory import LargestTensor


def staircase(trace):
    """Edges and heights of a drawn histogram."""
    return np.asarray(trace.x, float)[1:], np.asarray(trace.y, float)[1:-1]


def test_the_angles_of_a_square_are_90_and_180_degrees():
    figure = angle_histogram(torch.tensor([[1.0, 0], [0, 2], [-3, 0], [0, -4]]))
    edges, heights = staircase(figure.data[0])
    assert sum(heights * np.diff(edges)) == pytest.approx(100)
    found = {(edges[i], round(h * 2, 3)) for i, h in enumerate(heights) if h}
    assert found == {(90, 66.667), (178, 33.333)}
    dashed, dotted = figure.layout.shapes
    assert dashed.x0 == pytest.approx(90)
    assert dotted.x0 == pytest.approx(90)
    assert summary(figure) == "Smallest angle: codes 90.0° (bound 90.0°)."
    assert "degrees" in figure.layout.xaxis.title.text
    assert tuple(figure.layout.xaxis.range) == (
        0,
        180,
    )


def test_random_directions_follow_the_density_that_is_drawn():
    figure = angle_histogram({"random": torch.randn(600, 16)})
    histogram, density = figure.data
    edges, heights = staircase(histogram)
    middles = np.interp((edges[1:] + edges[:-1]) / 2, density.x, density.y)
    assert np.abs(heights - middles).max() < 0.1 * max(density.y)
    assert sum(density.y) == pytest.approx(100, abs=0.1)  # % per degree, once a degree
    assert histogram.line.color == METHOD_COLORS["random"]


def test_every_codebook_has_its_smallest_angle_and_every_size_its_bound():
    books = {"plain": torch.randn(20, 3), "samp": torch.randn(30, 3), "wide": torch.randn(20, 8)}
    figure = angle_histogram(books)
    dashed = [shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dash"]
    dotted = [shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dot"]
    assert np.allclose(dashed, [math.degrees(geometry.min_angle(book)) for book in books.values()])
    sizes = ((20, 3), (30, 3), (20, 8))
    bounds = [math.degrees(geometry.best_min_angle_bound(*size)) for size in sizes]
    assert np.allclose(dotted, bounds)
    names = [shape.name for shape in figure.layout.shapes if shape.line.dash == "dot"]
    assert names == ["bound, K = 20, D = 3", "bound, K = 30, D = 3", "bound, K = 20, D = 8"]
    assert [trace.name for trace in figure.data[3:]] == ["random, D = 3", "random, D = 8"]


def test_random_directions_of_another_dimension_leave_the_bound_as_it_is():
    figure = angle_histogram(torch.randn(20, 8), dim=3)
    (bound,) = [shape for shape in figure.layout.shapes if shape.line.dash == "dot"]
    assert bound.x0 == pytest.approx(math.degrees(geometry.best_min_angle_bound(20, 8)))
    assert bound.name == "bound, K = 20, D = 8"
    assert figure.data[-1].name == "random, D = 3"


def test_large_codebooks_are_thinned_but_their_smallest_angle_is_exact():
    codes = torch.randn(3000, 8)
    codes[2999] = codes[0] * 2
    figure = angle_histogram(codes)
    assert "codes 0.0° (bound" in summary(figure)
    assert "2,048 of 3,000 codes are drawn" in summary(figure)
    assert len(figure.to_json()) < 30_000


def test_codes_of_norm_zero_have_no_angle():
    codes = torch.cat([torch.eye(4), torch.zeros(3, 4)])
    assert staircase(angle_histogram(codes).data[0])[1].tolist() == [50]
    with pytest.raises(ValueError, match="'codes' has 1 codes with a direction"):
        angle_histogram(torch.tensor([[0.0, 0], [1, 0]]))


def test_norms_are_counted():
    codes = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 5.0]])
    figure = norm_histogram({"samp": codes})
    edges, heights = staircase(figure.data[0])
    assert heights.sum() == 3
    assert heights[0] == 2
    assert edges[0] <= 5 <= edges[1]
    assert edges[-2] <= 10 <= edges[-1]
    assert summary(figure) == "Norms: samp 5 to 10."


@pytest.mark.parametrize(("count", "shown"), [(5, [1, 0]), (0, [0, 1])])
def test_the_norm_of_a_single_code_can_be_drawn_over_its_usage(count, shown):
    figure = norm_against_usage(torch.ones(1, 2), torch.tensor([count]))
    assert [len(trace.x) for trace in figure.data] == shown
    assert f"over the {shown[0]} used" in summary(figure)


def test_norms_of_a_codebook_of_zeros_can_be_drawn():
    assert staircase(norm_histogram(torch.zeros(4, 2)).data[0])[1].tolist() == [4]


def test_usage_is_sorted_and_ends_where_the_unused_codes_begin():
    figure = usage_bars({"plain": torch.tensor([0, 8, 0, 0]), "samp": np.array([1, 4, 2, 1])})
    plain, samp = figure.data
    assert staircase(samp)[1].tolist() == [4, 2, 1, 1]
    assert staircase(samp)[0].tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert staircase(plain)[1].tolist() == [8]
    assert figure.layout.yaxis.type == "log"
    assert tuple(figure.layout.xaxis.range) == (0, 4)
    assert plain.name == "plain: 1 of 4 used"
    perplexity = math.exp(-sum(p * math.log(p) for p in (0.5, 0.25, 0.125, 0.125)))
    assert (
        summary(figure) == f"Perplexity: plain 1.0 (at most 4); samp {perplexity:.1f} (at most 4)."
    )


def test_the_ceiling_of_perplexity_is_the_tokens_where_they_are_few():
    assert "2.0 (at most 2)" in summary(usage_bars(torch.tensor([1, 0, 0, 1])))


@pytest.mark.parametrize("counts", [torch.zeros(4, dtype=torch.int64), torch.tensor([5, -1])])
def test_usage_without_tokens_or_below_zero_is_refused(counts):
    with pytest.raises(ValueError, match="usage of 'codes' sums to"):
        usage_bars(counts)


def test_norm_against_usage_shows_unused_codes_apart_and_names_the_correlation():
    codes = torch.eye(5) * torch.tensor([1.0, 2, 3, 4, 5])
    counts = torch.tensor([0, 1, 10, 100, 1000])
    figure = norm_against_usage(codes, counts)
    used, unused = figure.data
    assert list(used.x) == [1, 10, 100, 1000]
    assert list(used.y) == [2, 3, 4, 5]
    assert list(unused.x) == [0.5]
    assert list(unused.y) == [1]
    assert unused.marker.symbol == "circle-open"
    ticks = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    assert ticks[0.5] == "0"
    assert ticks[1000] == "1,000"
    assert "correlation of norm and usage: 1.00" in summary(figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: angle_histogram(torch.zeros(0, 3)), "codebook 'codes' must be rows"),
        (
            lambda: norm_histogram({"samp": torch.full((2, 3), torch.nan)}),
            "'samp' has NaN or infinity in 2 of",
        ),
        (lambda: norm_histogram({}), "nothing to draw"),
        (lambda: norm_against_usage(torch.ones(3, 2), torch.ones(2, dtype=torch.int64)), "counts"),
    ],
)
def test_bad_codebooks_get_one_clear_sentence(call, words, unchecked):
    with pytest.raises(ValueError, match=words):
        call()


def test_angles_of_many_codes_are_drawn_in_small_blocks(monkeypatch):
    """A codebook of 5,000 codes: no tensor comes near the 25 million cosines of all pairs."""
    codes = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        drawn = angle_histogram(codes)
    assert largest.entries < 2**21
    smallest = math.degrees(geometry.min_angle(codes))
    assert f"codes {smallest:.1f}°" in summary(drawn)
    assert "2,048 of 5,000 codes are drawn" in summary(drawn)
