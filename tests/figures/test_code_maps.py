import re

import numpy as np
import pytest
import torch

from arcvq.analysis.projections import pca
from arcvq.figures import code_map, code_maps, summary, token_map

CODES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
USAGE = torch.tensor([1, 0, 100, 1000, 0, 10])


def rows(trace):
    return np.stack(
        [trace[axis] for axis in ("xyz" if trace.type == "scatter3d" else "xy")], axis=1
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_codes_are_drawn_where_the_projection_puts_them_with_its_trust(dim):
    seen = pca(CODES, dim)
    figure = code_map(seen)
    assert np.allclose(rows(figure.data[0]), seen.points, atol=1e-6)
    assert seen.trust in summary(figure)
    assert [trace.type for trace in figure.data] == ["scatter" if dim == 2 else "scatter3d"] * 3


def test_a_code_without_a_place_is_left_out():
    seen = pca(CODES)
    seen.points[[1, 3]] = np.nan
    solid, hollow, ring = code_map(seen, USAGE, log=True, chosen=3).data
    assert [row[0] for row in solid.customdata] == [0, 2, 5]
    assert [row[0] for row in hollow.customdata] == [4]
    assert len(ring.x) == 0


def test_axes_have_one_scale():
    assert code_map(pca(CODES)).layout.yaxis.scaleanchor == "x"
    assert code_map(pca(CODES, 3)).layout.scene.aspectmode == "data"


def test_usage_is_logarithmic_and_unused_codes_are_hollow():
    solid, hollow, _ = code_map(pca(CODES), USAGE, log=True).data
    assert np.allclose(solid.marker.color, [0, 2, 3, 1])
    assert solid.marker.cmax == 3
    assert list(solid.marker.colorbar.ticktext) == ["1", "10", "100", "1,000"]
    assert hollow.marker.symbol == "circle-open"
    assert hollow.name == "unused codes"
    assert [table[0] for table in hollow.customdata] == [1, 4]


def test_the_pointer_shows_index_and_numbers():
    figure = code_map(
        pca(CODES[2:]),
        USAGE[2:],
        log=True,
        hover={"norm": CODES[2:].norm(dim=1)},
        indices=np.arange(2, 6),
    )
    table = np.asarray(figure.data[0].customdata)
    assert np.allclose(table[:, 0], [2, 3, 5])
    assert np.allclose(table[:, 1], [100, 1000, 10])
    assert np.allclose(table[:, 2], CODES.norm(dim=1)[[2, 3, 5]])
    template = figure.data[0].hovertemplate
    # Four digits, as of the norm, would be 1.235e+4 for code 12345 or 12,345 tokens.
    code, usage, norm, _ = re.split("<br>|<extra>", template)
    assert code == "code: %{customdata[0]:.0f}"
    assert usage == "usage (tokens): %{customdata[1]:,.0f}"
    assert norm == "norm: %{customdata[2]:,.4~g}"


def test_the_pointer_also_shows_a_number_that_could_have_been_the_color():
    usage = torch.arange(len(CODES))
    codes = code_map(pca(CODES), hover={"usage (tokens)": usage}).data[0]
    assert "usage (tokens)" in codes.hovertemplate
    assert np.array_equal(codes.customdata[:, 1], usage)


def test_classes_have_a_color_each_and_codes_without_one_are_hollow():
    owners = np.array([0, 1, 9, -1, 0, 2])
    names = [f"class {n}" for n in range(10)]
    solid, hollow, _ = code_map(pca(CODES), owners, label="class", classes=names).data
    assert list(solid.marker.color) == [0, 1, 9, 0, 2]
    assert len(hollow.x) == 1
    scale = dict((round(edge, 3), color) for edge, color in solid.marker.colorscale[::2])
    assert len(set(scale.values())) == 10
    assert list(solid.marker.colorbar.ticktext) == names
    more = code_map(
        pca(CODES), np.array([0, 10, 11, 20, 1, 2]), classes=[str(n) for n in range(30)]
    ).data[0]
    assert list(more.marker.symbol) == [
        "circle",
        "diamond",
        "diamond",
        "square",
        "circle",
        "circle",
    ]


def test_the_chosen_code_is_ringed_by_its_index():
    figure = code_map(pca(CODES[2:]), indices=np.arange(2, 6), chosen=5)
    assert np.allclose(rows(figure.data[2])[0], rows(figure.data[0])[3])
    assert len(code_map(pca(CODES), chosen=None).data[2].x) == 0


def test_every_coloring_sets_the_same_properties_so_that_a_live_figure_can_change():
    def keys(figure):
        marker = figure.data[0].marker.to_plotly_json()
        return set(marker), set(marker["colorbar"]) - {"tickvals", "ticktext"}

    usage = code_map(pca(CODES), USAGE, log=True)
    norm = code_map(pca(CODES), CODES.norm(dim=1), label="norm")
    group = code_map(pca(CODES), np.zeros(6, np.int64), label="cluster", classes=["0"])
    assert keys(usage) == keys(norm) == keys(group)
    assert norm.data[0].marker.colorbar.tickmode == "auto"


def test_at_most_20000_codes_are_drawn_and_it_says_so():
    figure = code_map(pca(torch.randn(20_100, 2)))
    assert len(figure.data[0].x) == 20_000
    assert "20,000 of 20,100 codes are drawn." in summary(figure)


def test_a_map_of_512_codes_is_small():
    assert (
        len(code_map(pca(torch.randn(512, 8), 3), torch.arange(512), log=True).to_json()) < 60_000
    )


def test_maps_side_by_side_share_one_scale_of_usage():
    seen = {"a": pca(CODES), "b": pca(CODES[:3])}
    figure = code_maps(seen, {"a": USAGE, "b": USAGE[:3]})
    solid = [trace for trace in figure.data if trace.name == "codes"]
    assert [trace.marker.cmax for trace in solid] == [3, 3]
    assert [len(trace.x) for trace in solid] == [4, 2]
    assert "a: 6 codes" in summary(figure)
    assert "b: 3 codes" in summary(figure)


def test_token_maps_show_each_index_in_its_place():
    indices = torch.randint(0, 9, (10, 3, 4))
    figure = token_map(torch.zeros(10, 1, 12, 16), indices, torch.arange(9) * 10.0, label="norm")
    cells = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(cells) == 8
    assert "8 of 10 images" in summary(figure)
    assert np.array_equal(np.asarray(cells[2].customdata), indices[2])
    assert np.array_equal(np.asarray(cells[2].z), indices[2] * 10)
    assert figure.layout.coloraxis.colorbar.title.text == "norm"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: code_map(pca(CODES), USAGE[:3]),
            r"6 codes need as many numbers of 'usage \(tokens\)', not \(3,\)",
        ),
        (
            lambda: code_map(pca(CODES), USAGE, classes=["a"]),
            "classes reach from 0 to 1000; they must be from 0 to 0",
        ),
        (
            lambda: code_maps({"a": pca(CODES)}, {"b": USAGE}),
            "projections of a need the usage of the same, not b",
        ),
        (
            lambda: token_map(torch.zeros(2, 1, 4, 4), torch.zeros(1, 2, 2, dtype=torch.int64)),
            "2 images need as many",
        ),
        (
            lambda: token_map(torch.zeros(1, 1, 4, 4), torch.full((1, 2, 2), 7), torch.ones(3)),
            "reach from 7 to 7",
        ),
    ],
)
def test_what_does_not_fit_gets_one_clear_sentence(call, words, unchecked):
    with pytest.raises(ValueError, match=words):
        call()
