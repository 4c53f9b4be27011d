from types import SimpleNamespace

import numpy as np
import pytest
import torch
from plotly.callbacks import Points

from arcvq import VQVAE, CosineQuantizer, ImageData, ImageSplit
from arcvq.analysis import projections
from arcvq.analysis.projections import pca
from arcvq.explorers import CodeMap
from arcvq.explorers.code_map_figure import with_patch
from arcvq.explorers.figure_updates import changed, flat
from arcvq.figures import code_map


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCVQ_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def parts():
    split = ImageSplit(
        torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8), torch.arange(12) % 3
    )
    images = ImageData("toy", split, split, split, ("a", "b", "c"))
    return VQVAE(1, CosineQuantizer(30, 8), hidden=8, residual_hidden=4).eval(), images


@pytest.fixture
def explorer(parts):
    return CodeMap(*parts)


def shown(explorer):
    codes, hollow = explorer.figure.data[:2]
    rows = [*codes.customdata, *hollow.customdata]
    return sorted(int(row[0]) for row in rows)


def test_it_starts_with_the_used_codes_of_the_test_images(explorer, parts):
    model, images = parts
    used = model.encode(images.test.batch(torch.arange(12))).unique().tolist()
    assert shown(explorer) == used
    assert explorer.chosen in used
    explorer.used_only = False
    assert shown(explorer) == list(range(30))


def test_the_chosen_code_is_ringed_and_decoded(explorer, parts):
    model, _ = parts
    explorer.used_only = False
    explorer.chosen = 17
    ring, image = explorer.figure.data[2:]
    assert int(ring.customdata[0][0]) == 17
    assert explorer.figure.layout.xaxis9.title.text == "code 17, decoded"
    wanted = (model.decode(torch.full((1, 3, 3), 17))[0, 0] + 1) * 127.5
    assert np.allclose(np.asarray(image.z)[..., 0], wanted, atol=0.51)


@pytest.mark.parametrize("dim", [2, 3])
def test_from_code_to_code_the_figure_is_as_one_that_is_drawn_whole(parts, dim, monkeypatch):
    monkeypatch.setattr(projections, "umap_angles", lambda codes, dim, **_: pca(codes, dim))
    explorer = CodeMap(*parts, dim)
    in_use = int(explorer.usage.argmax())
    unused = int(explorer.usage.argmin())
    for settings in (
        {"chosen": unused},
        {"used_only": False},
        {"chosen": in_use},
        {"color": "norm"},
    ):
        for name, value in settings.items():
            setattr(explorer, name, value)
        whole = flat(explorer.picture())
        assert changed(whole, flat(explorer.figure)) == {}


@pytest.mark.parametrize("dim", [2, 3])
def test_a_patch_stands_beside_a_map_of_two_or_three_axes(dim):
    patch = torch.linspace(-1, 1, 16).reshape(1, 4, 4)
    figure = with_patch(code_map(pca(torch.randn(6, 5), dim)), patch, "code 3")
    image = figure.data[3]
    assert image.type == "image"
    assert np.asarray(image.z).shape == (4, 4, 3)
    assert np.asarray(image.z)[0, 0, 0] == 0
    assert np.asarray(image.z)[3, 3, 0] == 255
    assert figure.layout.xaxis9.title.text == "code 3"


def test_a_click_chooses_the_code_under_it(explorer):
    trace = explorer.figure.data[0]
    explorer.choose_by_click(trace, SimpleNamespace(point_inds=[1]), None)
    assert explorer.chosen == int(trace.customdata[1][0])
    explorer.choose_by_click(trace, SimpleNamespace(point_inds=[]), None)


@pytest.mark.parametrize(
    ("color", "label"),
    [
        ("usage", "usage (tokens)"),
        ("norm", "norm of the code"),
        ("class", "class that uses it most"),
        ("cluster", "cluster"),
    ],
)
def test_each_coloring_names_itself_on_the_bar(explorer, color, label):
    explorer.color = "norm" if color == "usage" else "usage"
    explorer.color = color
    bar = explorer.figure.data[0].marker.colorbar
    assert bar.title.text == label
    assert color != "class" or list(bar.ticktext) == ["a", "b", "c"]


@pytest.mark.parametrize("color", ["usage", "norm", "class", "cluster"])
def test_the_tooltip_tells_each_number_once(explorer, color):
    explorer.color = color
    lines = explorer.figure.data[0].hovertemplate.removesuffix("<extra></extra>").split("<br>")
    names = [line.split(":")[0] for line in lines]
    assert sorted(names) == ["code", "norm of the code", "usage (tokens)"]


@pytest.mark.parametrize(("name", "value"), [("seed", 3), ("neighbors", 5)])
def test_seed_and_neighbors_move_the_codes_and_reset_brings_them_back(explorer, name, value):
    explorer.used_only = False
    start = np.array(explorer.figure.data[0].x)
    setattr(explorer, name, value)
    assert not np.allclose(np.array(explorer.figure.data[0].x), start)
    setattr(explorer, name, explorer._start[name])
    assert np.array_equal(np.array(explorer.figure.data[0].x), start)


def test_three_dimensions_work_and_the_code_says_so(parts):
    explorer = CodeMap(*parts, 3, color="norm", chosen=4)
    assert explorer.figure.data[0].type == "scatter3d"
    assert explorer.code().startswith("CodeMap(model, images, 3, color='norm'")
    assert "chosen=4" in explorer.code()


@pytest.mark.parametrize("chosen", [30, 2000])
def test_a_code_that_does_not_exist_is_refused(explorer, chosen):
    with pytest.raises(ValueError, match=rf"the chosen code is {chosen}; it must be from 0 to 29"):
        explorer.chosen = chosen


def test_the_code_under_the_pointer_is_decoded_and_the_chosen_one_comes_back(explorer):
    def drawn():
        return explorer.figure.layout.xaxis9.title.text, np.array(explorer.figure.data[3].z)

    explorer.chosen = 4
    trace = explorer.figure.data[0]
    title, patch = drawn()
    place = next(n for n, row in enumerate(trace.customdata) if row[0] != 4)
    explorer._point(trace, Points(point_inds=[place]), None)
    assert drawn()[0] == f"code {int(trace.customdata[place][0])}, decoded"
    assert not np.array_equal(drawn()[1], patch)
    assert explorer.chosen == 4
    assert title == "code 4, decoded"
    explorer._point()
    assert drawn()[0] == title
    assert np.array_equal(drawn()[1], patch)


def test_of_more_codes_than_umap_places_in_seconds_a_sample_is_shown_and_named(parts, monkeypatch):
    monkeypatch.setattr("arcvq.explorers.code_map.PLACED", 10)
    explorer = CodeMap(*parts, used_only=False)
    drawn = shown(explorer)
    assert len(drawn) == 10
    assert "10 of 30 codes are drawn" in explorer.figure.layout.meta["summary"]
    explorer.color = "norm"
    assert shown(explorer) == drawn
