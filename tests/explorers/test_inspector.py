"""The inspector shows what the model decodes, counts and places.

The oracles are plain loops and the model itself.
"""

import base64
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from arcvq import VQVAE, CosineQuantizer, EuclideanQuantizer, ImageData, ImageSplit
from arcvq.analysis import projections
from arcvq.explorers import CodeInspector
from arcvq.explorers.inspector_figure import FRAMES, PICTURE, TILES, UNIT, inspector_picture


def make_parts(codes=30, dim=8, channels=1, size=(16, 16), quantizer=CosineQuantizer):
    split = ImageSplit(
        torch.randint(0, 256, (12, channels, *size), dtype=torch.uint8), torch.arange(12) % 3
    )
    images = ImageData("toy", split, split, split, ("a", "b", "c"))
    model = VQVAE(channels, quantizer(codes, dim), hidden=8, residual_hidden=4).eval()
    # Untrained, it would give nearly all places one code, and all codes nearly one patch.
    with torch.no_grad():
        for layer in model.encoder.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.bias.zero_()
        for parameter in model.decoder.parameters():
            parameter.mul_(1.5)
    return model, images


@pytest.fixture
def parts():
    return make_parts()


@pytest.fixture
def inspector(parts):
    return CodeInspector(*parts)


def tile(inspector, strip, place, size):
    """One tile of a strip, (size, size, 3) of 0 to 255, read at the middle of each pixel."""
    source = inspector.figure.data[PICTURE[strip]].source
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    wide = sheet.shape[1] / (7 if strip != "swap" else 3)
    middles = ((np.arange(size) + 0.5) * wide * UNIT / size).astype(int)
    return sheet[middles[:, None], int(place * wide) + middles]


def titles(inspector, strip):
    return [text for text in inspector.figure.layout[f"xaxis{PICTURE[strip] - 2}"].ticktext if text]


def bytes_of(image):
    return ((image.permute(1, 2, 0).expand(-1, -1, 3) + 1) * 127.5).detach().numpy()


def counted(model, images, code):
    """How often each test image uses a code, by the model itself."""
    indices = model.encode(images.test.batch(torch.arange(len(images.test))))
    return [grid.flatten().tolist().count(code) for grid in indices]


def used_and_unused(inspector):
    usage = inspector.subject.usage
    return int(usage.argmax()), int((usage == 0).nonzero()[0])


def summary(inspector):
    return inspector.figure.layout.meta["summary"]


def test_the_nearest_codes_by_angle_stand_in_order_with_their_patches(inspector, parts):
    inspector.chosen = 17
    codebook = parts[0].quantizer.codebook.detach().double().numpy()
    units = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(units @ units[17], -1, 1)))
    wanted = [17, *[code for code in np.argsort(angles) if code != 17][:6]]
    assert titles(inspector, "nearest") == [
        "<b>17</b>",
        *(f"{code}<br>{angles[code]:.0f}°" for code in wanted[1:]),
    ]
    for place, code in enumerate(wanted):
        patch = parts[0].decode(torch.full((1, 3, 3), int(code)))[0]
        assert np.allclose(tile(inspector, "nearest", place, 12), bytes_of(patch), atol=0.51)
    assert f"Its nearest is code {wanted[1]}, at {angles[wanted[1]]:.0f}°." in summary(inspector)


def test_the_ways_are_decoded_with_their_true_norms(inspector, parts):
    inspector.chosen, inspector.other = 3, 9
    model = parts[0]
    a, b = model.quantizer.codebook.detach().double()[[3, 9]]
    angle = math.acos(float(a @ b / a.norm() / b.norm()))
    for place in range(TILES):
        t = place / (TILES - 1)
        straight = (1 - t) * a + t * b
        turn = math.sin((1 - t) * angle) * a / a.norm() + math.sin(t * angle) * b / b.norm()
        curved = turn / math.sin(angle) * ((1 - t) * a.norm() + t * b.norm())
        for strip, code in (("lerp", straight), ("slerp", curved)):
            with torch.no_grad():
                patch = model.decoder(code.float()[None, :, None, None].expand(1, -1, 3, 3))[
                    0
                ].clamp(-1, 1)
            assert np.allclose(tile(inspector, strip, place, 12), bytes_of(patch), atol=0.75)
            assert titles(inspector, strip)[place].endswith(f"norm {code.norm():.2g}")
    assert [text.split("<")[0] for text in titles(inspector, "slerp")] == [
        f"{math.degrees(angle) * place / 6:.0f}°" for place in range(7)
    ]


def test_the_images_that_use_the_code_most_come_first_with_its_places_framed(inspector, parts):
    model, images = parts
    code, _ = used_and_unused(inspector)
    inspector.chosen = code
    counts = counted(model, images, code)
    by_count = sorted(range(12), key=lambda image: -counts[image])
    order = [image for image in by_count[:7] if counts[image]]
    said = [text.replace("<b>", "").replace("</b>", "") for text in titles(inspector, "images")]
    assert said == [
        f"image {image}<br>{counts[image]} place{'s' * (counts[image] != 1)}" for image in order
    ]
    assert np.allclose(
        tile(inspector, "images", 0, 16), images.test.images[order[0]].permute(1, 2, 0), atol=0.51
    )
    grids = model.encode(images.test.batch(torch.tensor(order))) == code
    drawn = framed_edges(inspector, grid_size=grids.shape[1])
    assert len(drawn) == len(set(drawn)) and set(drawn) == outline(grids.numpy())


def framed_edges(inspector, grid_size):
    """The edges around places of the images' strip: their ends as (image, row, column)."""
    lines = inspector.figure.data[FRAMES["images"]]
    points = np.array([lines.x, lines.y], float).T.reshape(-1, 3, 2)[:, :2]
    cell = UNIT / grid_size
    edges = []
    for line in points:
        ends = []
        for x, y in line:
            image = int(x)
            ends.append((image, round(y / cell), round((x - image) / cell)))
        edges.append(tuple(ends))
    return edges


def outline(grids):
    """The edges that belong to one place only, since a side that two places share cancels."""
    edges = set()
    for image, row, column in np.argwhere(grids):
        top_left = (image, row, column)
        top_right = (image, row, column + 1)
        bottom_left = (image, row + 1, column)
        bottom_right = (image, row + 1, column + 1)
        edges ^= {(top_left, top_right)}
        edges ^= {(bottom_left, bottom_right)}
        edges ^= {(top_left, bottom_left)}
        edges ^= {(top_right, bottom_right)}
    return edges


def test_the_swap_decodes_the_image_with_the_other_code_in_all_places(inspector, parts):
    model, images = parts
    code, other = used_and_unused(inspector)
    inspector.chosen, inspector.other, inspector.rank = code, other, 2
    counts = counted(model, images, code)
    image = sorted(range(12), key=lambda image: -counts[image])[1]
    grid = model.encode(images.test.batch(torch.tensor([image])))
    swapped = grid.clone()
    swapped[swapped == code] = other
    before, after = model.decode(grid)[0], model.decode(swapped)[0]
    assert np.allclose(tile(inspector, "swap", 0, 16), bytes_of(before), atol=0.51)
    assert np.allclose(tile(inspector, "swap", 1, 16), bytes_of(after), atol=0.51)
    mean = float((after - before).abs().mean())
    assert titles(inspector, "swap") == [
        f"image {image},<br>decoded",
        f"code {other} in<br>{counts[image]} places",
        f"difference,<br>mean {mean:.3f}",
    ]
    assert (
        f"In {counts[image]} places of image {image} it changes pixels" in summary(inspector)
        and mean > 0
    )
    brightness = tile(inspector, "swap", 2, 16).sum(axis=2)
    change = (after - before).abs().mean(dim=0)
    assert (
        brightness.max() > brightness.min()
        and change.flatten()[brightness.argmax()] > change.max() - 1 / 63
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("chosen", 0), ("chosen", 29), ("other", 0), ("other", 29), ("rank", 1), ("rank", 7)],
)
def test_each_slider_to_its_ends_and_back(inspector, name, value):
    inspector.chosen, inspector.other, inspector.rank = used_and_unused(inspector)[0], 5, 3
    inspector._start = inspector.settings()
    before = {strip: inspector.figure.data[PICTURE[strip]].source for strip in PICTURE}
    inspector.controls[name].value = value
    assert getattr(inspector, name) == value
    fresh = inspector_picture(inspector.subject, **inspector.settings())
    assert [inspector.figure.data[PICTURE[strip]].source for strip in PICTURE] == [
        fresh.data[PICTURE[strip]].source for strip in PICTURE
    ]
    assert summary(inspector) == fresh.layout.meta["summary"] and inspector.code() == (
        f"CodeInspector(model, images, chosen={inspector.chosen}, other={inspector.other}, "
        f"rank={inspector.rank}, "
        "method='PCA')"
    )
    inspector.reset()
    assert {strip: inspector.figure.data[PICTURE[strip]].source for strip in PICTURE} == before


def test_a_change_is_one_message(inspector):
    sent = []
    inspector.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    inspector.chosen = (inspector.chosen + 1) % 30
    assert len(sent) == 1


def test_codes_are_marked_on_the_map_and_the_map_can_be_another(inspector, monkeypatch):
    monkeypatch.setattr("arcvq.analysis.projections.umap_angles", projections.stereographic)
    for method, project in (("PCA", projections.pca), ("UMAP", projections.stereographic)):
        inspector.method, inspector.chosen, inspector.other = method, 4, 6
        seen = project(inspector.subject.codebook)
        marks = [(trace.x[0], trace.y[0]) for trace in inspector.figure.data[2:4]]
        assert np.allclose(marks, seen.points[[4, 6]], atol=1e-6)
        assert seen.trust in summary(inspector)
        shown = {}
        for trace in inspector.figure.data[:2]:
            for row, x, y in zip(trace.customdata, trace.x, trace.y, strict=True):
                shown[int(row[0])] = (x, y)
        assert np.allclose([shown[code] for code in range(30)], seen.points, atol=1e-6)


def test_of_very_many_codes_the_most_used_are_on_the_map_and_any_can_be_chosen(
    inspector, monkeypatch
):
    monkeypatch.setattr("arcvq.analysis.projections.umap_angles", projections.stereographic)
    monkeypatch.setattr("arcvq.explorers.placing.PLACED", 10)
    inspector.method = "UMAP"
    shown = set()
    for trace in inspector.figure.data[:2]:
        shown |= {int(row[0]) for row in trace.customdata}
    usage = inspector.subject.usage
    hidden = [code for code in range(30) if code not in shown]
    assert len(shown) == 10
    assert usage[sorted(shown)].min() >= usage[hidden].max()
    assert "10 of 30 codes are placed" in summary(inspector)
    inspector.chosen = hidden[0]
    inspector.other = min(shown)
    assert f"Not on the map: {hidden[0]}." in summary(inspector)
    assert np.isnan(inspector.figure.data[2].x).all()
    assert np.isfinite(inspector.figure.data[3].x).all()


def test_a_click_chooses_the_code_under_it(inspector):
    for trace in inspector.figure.data[:2]:
        inspector.choose_by_click(trace, SimpleNamespace(point_inds=[1]), None)
        assert inspector.chosen == int(trace.customdata[1][0])
    inspector.choose_by_click(trace, SimpleNamespace(point_inds=[]), None)


def test_an_unused_code_is_said_to_be_and_changes_nothing(inspector):
    inspector.chosen = used_and_unused(inspector)[1]
    assert f"None of 12 test images uses code {inspector.chosen}." in summary(inspector)
    assert (
        titles(inspector, "images") == ["none"]
        and titles(inspector, "swap")[2] == "difference,<br>mean 0.000"
    )
    assert not len(inspector.figure.data[FRAMES["images"]].x)
    assert np.array_equal(tile(inspector, "swap", 0, 16), tile(inspector, "swap", 1, 16))


def test_fewer_users_than_the_rank_show_the_last_of_them(inspector, parts):
    counts = [[counted(*parts, code), code] for code in range(30)]
    users, code = next(one for one in counts if 0 < np.count_nonzero(one[0]) < 7)
    inspector.chosen, inspector.rank = code, 7
    last = min(
        (image for image in range(12) if users[image]), key=lambda image: (users[image], -image)
    )
    assert titles(inspector, "swap")[0] == f"image {last},<br>decoded"


def test_one_code_is_its_own_other():
    inspector = CodeInspector(*make_parts(codes=1))
    assert (inspector.chosen, inspector.other) == (0, 0) and "It is the only code." in summary(
        inspector
    )
    assert titles(inspector, "nearest") == ["<b>0</b>"]
    assert inspector.controls["chosen"].disabled and inspector.controls["chosen"].max == 1


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions_and_colour_are_shown(dim):
    inspector = CodeInspector(
        *make_parts(codes=4, dim=dim, channels=3, quantizer=EuclideanQuantizer)
    )
    code = int(inspector.subject.usage.argmax())
    inspector.chosen, inspector.method = code, "UMAP"
    patch = inspector.subject.model.decode(torch.full((1, 3, 3), code))[0]
    assert np.allclose(tile(inspector, "nearest", 0, 12), bytes_of(patch), atol=0.51)
    assert "principal axes instead" in summary(inspector)


@pytest.mark.parametrize(("size", "high"), [((8, 16), 56), ((256, 256), 112)])
def test_wide_and_large_images_keep_their_aspect_and_stay_small(size, high):
    inspector = CodeInspector(*make_parts(size=size))
    sheet = Image.open(
        io.BytesIO(base64.b64decode(inspector.figure.data[PICTURE["images"]].source.split(",")[1]))
    )
    assert sheet.size == (7 * 116, high)
    axis, lines = (
        inspector.figure.layout[f"yaxis{PICTURE['images'] - 2}"],
        inspector.figure.data[FRAMES["images"]],
    )
    assert (
        axis.range[0] == pytest.approx(high / 116)
        and max(y for y in lines.y if y is not None) <= high / 116 + 1e-6
    )


def test_the_way_between_opposite_codes_keeps_its_norm():
    model, images = make_parts(codes=4, dim=3)
    model.quantizer.codebook.data[1] = -model.quantizer.codebook.data[0]
    inspector = CodeInspector(model, images, chosen=0, other=1)
    norm = model.quantizer.codebook[0].norm()
    assert titles(inspector, "slerp") == [f"{30 * place}°<br>norm {norm:.2g}" for place in range(7)]
    assert titles(inspector, "lerp")[3].startswith("90°<br>norm") and "180° away" in summary(
        inspector
    )


def test_bad_input_is_named(parts, unchecked):
    model, images = parts
    with pytest.raises(ValueError, match="chosen is 30; it must be a code, 0 to 29"):
        CodeInspector(model, images, chosen=30)
    with pytest.raises(ValueError, match="other is 99; it must be a code, 0 to 29"):
        CodeInspector(model, images).other = 99
    empty = ImageSplit(images.test.images[:0], images.test.labels[:0])
    with pytest.raises(ValueError, match="toy has no test images"):
        CodeInspector(model, ImageData("toy", images.train, images.train, empty, images.classes))
    with pytest.raises(
        ValueError, match=r"images have shape \(12, 3, 16, 16\); they must be \(B, 1, H, W\)"
    ):
        CodeInspector(model, make_parts(channels=3)[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_the_gpu_is_shown(parts):
    model, images = parts
    wanted = titles(CodeInspector(model, images), "slerp")
    inspector = CodeInspector(model.cuda(), images)
    assert titles(inspector, "slerp") == wanted
    inspector.chosen = 3
    assert titles(CodeInspector(model, images.to("cuda"), chosen=3), "images") == titles(
        inspector, "images"
    )
