import numpy as np
import pytest
import torch

from arcvq.figures import code_paths, summary

LATENTS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PATH = torch.tensor([[[0.1, 0.0], [0.0, -0.1]], [[0.5, 0.0], [0.0, -0.1]]])


def named(figure):
    return {trace.name: trace for trace in figure.data}


def test_used_codes_are_filled_at_their_last_place_and_unused_ones_are_hollow():
    traces = named(code_paths(LATENTS, PATH, torch.tensor([2, 0])))
    used = traces["used codes"]
    unused = traces["unused codes"]
    assert (used.x, used.y, used.marker.symbol) == ((0.5,), (0.0,), "diamond")
    assert unused.y == pytest.approx([-0.1])
    assert unused.marker.symbol == "diamond-open"


def test_a_line_follows_each_used_code_and_no_other():
    traces = named(code_paths(LATENTS, PATH, torch.tensor([1, 1])))
    across = np.asarray(traces["paths of used codes"].x, float)
    assert np.allclose(across, [0.1, 0.5, np.nan, 0.0, 0.0, np.nan], equal_nan=True)
    assert "paths of used codes" not in named(code_paths(LATENTS, PATH, torch.tensor([0, 0])))


def test_the_caption_counts_the_used_codes_and_both_axes_have_one_scale():
    figure = code_paths(LATENTS, PATH, torch.tensor([2, 0]))
    assert summary(figure) == "Codes used at the end: 1 of 2."
    assert figure.layout.yaxis.scaleanchor == "x"


def test_a_path_with_nan_at_any_step_is_refused():
    broken = PATH.clone()
    broken[0, 1] = torch.nan
    with pytest.raises(ValueError, match="path has NaN or infinity in 1 of its 4 rows"):
        code_paths(LATENTS, broken, torch.tensor([1, 1]))


def test_other_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match="latents must be rows of shape"):
        code_paths(torch.zeros(4, 3), PATH, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="path must have the shape"):
        code_paths(LATENTS, PATH[0], torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="2 codes need as many numbers"):
        code_paths(LATENTS, PATH, torch.tensor([1, 1, 1]))
