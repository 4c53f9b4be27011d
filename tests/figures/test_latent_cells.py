import numpy as np
import pytest
import torch

import arcvq
from arcvq.figures import latent_cells, summary

CORNERS = torch.tensor([[1.1, 1], [-1, 1.2], [-1, -1], [5, -5]])
LATENTS = torch.tensor([[0.9, 1.2], [1.1, 0.7], [-0.8, 1.0], [-1.2, 0.9]])


def quantizer(kind=arcvq.EuclideanQuantizer):
    made = kind(4, 2)
    made.set_codebook(CORNERS)
    return made


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_every_point_of_the_plane_has_the_index_of_its_code():
    plain = quantizer()
    cells = latent_cells({"plain": plain}, LATENTS).data[0]
    assert cells.type == "heatmap"
    across, up = np.meshgrid(cells.x, cells.y)
    points = torch.tensor(np.stack([across, up], axis=-1)).reshape(-1, 2)
    expected = torch.cdist(points.double(), CORNERS.double()).argmin(dim=1)
    assert np.array_equal(cells.z.ravel(), expected.numpy())


def test_codes_that_latents_chose_are_filled_and_others_open():
    figure = latent_cells({"plain": quantizer()}, LATENTS)
    (used,) = traces(figure, "codes in use")
    (unused,) = traces(figure, "codes not in use")
    assert np.allclose([used.x, used.y], CORNERS[:2].T)
    assert np.allclose([unused.x, unused.y], CORNERS[2:].T)
    assert "plain 2 of 4" in summary(figure)


def test_each_quantizer_has_a_panel_with_its_own_latents():
    both = {"plain": quantizer(), "cosine": quantizer(arcvq.CosineQuantizer)}
    figure = latent_cells(both, {"plain": LATENTS, "cosine": -LATENTS})
    first, second = traces(figure, "latents")
    assert np.allclose(first.x, -second.x)
    assert first.xaxis != second.xaxis
    assert "plain 2 of 4, cosine 2 of 4" in summary(figure)
    names = [note.text for note in figure.layout.annotations]
    assert names[:2] == ["plain", "cosine"]


def test_a_panel_reaches_to_the_farthest_code_and_is_a_square():
    layout = latent_cells({"plain": quantizer()}, LATENTS).layout
    assert layout.xaxis.range[1] >= 5
    assert layout.xaxis.range == layout.yaxis.range
    assert layout.yaxis.scaleanchor == "x"
    assert layout.xaxis.constrain == layout.yaxis.constrain == "domain"


def test_a_row_has_no_more_places_than_quantizers_and_a_picture_of_few_is_narrower():
    one = {"plain": quantizer()}
    layout = latent_cells(one, LATENTS).layout
    assert list(layout.xaxis.domain) == [0, 1]
    many = {str(number): quantizer() for number in range(5)}
    assert layout.width < latent_cells(many, LATENTS).layout.width


def test_one_latent_far_away_does_not_shrink_the_picture():
    far = torch.cat([LATENTS.repeat(100, 1), torch.tensor([[1000.0, 0]])])
    assert latent_cells({"plain": quantizer()}, far).layout.xaxis.range[1] < 10


def test_the_legend_names_everything_once_and_no_cells():
    both = {"plain": quantizer(), "cosine": quantizer(arcvq.CosineQuantizer)}
    shown = [trace.name for trace in latent_cells(both, LATENTS).data if trace.showlegend]
    assert sorted(shown) == ["codes in use", "codes not in use", "latents"]


def test_nothing_is_counted_while_drawing():
    plain = quantizer()
    latent_cells({"plain": plain}, LATENTS)
    assert plain.counts.sum() == 0
    assert plain.training


@pytest.mark.parametrize(
    ("quantizers", "latents", "columns", "words"),
    [
        ({}, LATENTS, 5, "nothing to draw"),
        ({"plain": arcvq.EuclideanQuantizer(4, 3)}, LATENTS, 5, "plain has 3 dimensions"),
        ({"plain": quantizer()}, {"samp": LATENTS}, 5, "plain has no latents; there are those of"),
        ({"plain": quantizer()}, torch.zeros(3, 3), 5, "latents of plain must be rows"),
        ({"plain": quantizer()}, LATENTS, 0, "columns is 0"),
    ],
)
def test_what_cannot_be_drawn_is_told(quantizers, latents, columns, words):
    with pytest.raises(ValueError, match=words):
        latent_cells(quantizers, latents, columns)
