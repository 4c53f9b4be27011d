"""The inspector shows what the model decodes, counts and places.

The oracles are plain loops and the model itself.
"""

import base64
import dataclasses
import io
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from arcvq import (
    VQVAE,
    CosineQuantizer,
    EuclideanQuantizer,
    ImageData,
    ImageSplit,
    ResidualQuantizer,
)
from arcvq.analysis import projections
from arcvq.explorers import CodeInspector, CodeMap
from arcvq.explorers.inspector_figure import FRAMES, PICTURE, TILES, UNIT, inspector_picture


def make_parts(codes=30, dim=8, channels=1, size=(16, 16), quantizer=CosineQuantizer):
    pixels = torch.randint(0, 256, (12, channels, *size), dtype=torch.uint8)
    labels = torch.arange(12) % 3
    split = ImageSplit(pixels, labels)
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


def test_a_model_with_several_codebooks_is_refused_by_what_shows_codes(parts):
    _, data = parts
    quantizer = ResidualQuantizer([CosineQuantizer(8, 4) for _ in range(2)])
    model = VQVAE(data.channels, quantizer, hidden=8, residual_hidden=4)
    for explorer in (CodeInspector, CodeMap):
        with pytest.raises(
            ValueError, match="the quantizer is a ResidualQuantizer; an explorer takes"
        ):
            explorer(model, data)


@pytest.fixture
def inspector(parts):
    return CodeInspector(*parts)


def source(inspector, strip):
    """The picture of a strip as the browser gets it, in base64."""
    return inspector.figure.data[PICTURE[strip]].source


def sheet(inspector, strip):
    """The picture of a strip, all tiles side by side."""
    encoded = source(inspector, strip).partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def tile(inspector, strip, place, size):
    """One tile of a strip, (size, size, 3) of 0 to 255, read at the middle of each pixel."""
    pixels = np.asarray(sheet(inspector, strip))
    tiles = 3 if strip == "swap" else 7
    wide = pixels.shape[1] / tiles  # a tile and the gap after it
    pixel = wide * UNIT / size
    middles = ((np.arange(size) + 0.5) * pixel).astype(int)
    left = int(place * wide)
    return pixels[middles[:, None], left + middles]


def titles(inspector, strip):
    axis = inspector.figure.layout[f"xaxis{PICTURE[strip] - 2}"]
    return [text for text in axis.ticktext if text]


def bytes_of(image):
    """An image (C, H, W) in [-1, 1] as (H, W, 3) of 0 to 255."""
    channels_last = image.permute(1, 2, 0).expand(-1, -1, 3)
    return ((channels_last + 1) * 127.5).detach().numpy()


def patch_of(model, code):
    """What the model decodes where the code is all around."""
    indices = torch.full((1, 3, 3), int(code))
    return model.decode(indices)[0]


def counted(model, images, code):
    """How often each test image uses a code, by the model itself."""
    everything = images.test.batch(torch.arange(len(images.test)))
    indices = model.encode(everything)
    return [grid.flatten().tolist().count(code) for grid in indices]


def by_count(counts):
    """The images from the largest count down, the first of equal ones first."""
    return sorted(range(len(counts)), key=lambda image: -counts[image])


def used_and_unused(inspector):
    usage = inspector.subject.usage
    unused = (usage == 0).nonzero()
    return int(usage.argmax()), int(unused[0])


def summary(inspector):
    return inspector.figure.layout.meta["summary"]


def test_images_that_are_cropped_are_shown_as_they_were_encoded(parts):
    model, data = parts
    larger = torch.nn.functional.pad(data.test.images, (4, 4, 4, 4))
    split = ImageSplit(larger, data.test.labels, crop=data.size[0])
    cropped = dataclasses.replace(data, train=split, validation=split, test=split)
    shown = CodeInspector(model, cropped)
    assert source(shown, "images") == source(CodeInspector(model, data), "images")


def test_the_nearest_codes_by_angle_stand_in_order_with_their_patches(inspector, parts):
    inspector.chosen = 17
    model = parts[0]
    codebook = model.quantizer.codebook.detach().double().numpy()
    units = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)
    cosines = np.clip(units @ units[17], -1, 1)
    angles = np.degrees(np.arccos(cosines))
    others = [code for code in np.argsort(angles) if code != 17]
    nearest = others[:6]
    said = [f"{code}<br>{angles[code]:.0f}°" for code in nearest]
    assert titles(inspector, "nearest") == ["<b>17</b>", *said]
    for place, code in enumerate([17, *nearest]):
        drawn = tile(inspector, "nearest", place, 12)
        patch = patch_of(model, code)
        assert np.allclose(drawn, bytes_of(patch), atol=0.51)
    first = nearest[0]
    assert f"The code nearest to it is {first}, at {angles[first]:.0f}°." in summary(inspector)


def test_the_ways_are_decoded_with_their_true_norms(inspector, parts):
    inspector.chosen = 3
    inspector.other = 9
    model = parts[0]
    a, b = model.quantizer.codebook.detach().double()[[3, 9]]
    unit_a = a / a.norm()
    unit_b = b / b.norm()
    angle = math.acos(float(unit_a @ unit_b))
    for place in range(TILES):
        t = place / (TILES - 1)
        straight = (1 - t) * a + t * b
        turn = math.sin((1 - t) * angle) * unit_a + math.sin(t * angle) * unit_b
        norm = (1 - t) * a.norm() + t * b.norm()
        curved = norm * turn / math.sin(angle)
        for strip, code in (("lerp", straight), ("slerp", curved)):
            everywhere = code.float().view(1, -1, 1, 1).expand(1, -1, 3, 3)
            patch = model.decoder(everywhere)[0].clamp(-1, 1)
            drawn = tile(inspector, strip, place, 12)
            assert np.allclose(drawn, bytes_of(patch), atol=0.75)
            assert titles(inspector, strip)[place].endswith(f"norm {code.norm():.2g}")
    turned = [text.split("<")[0] for text in titles(inspector, "slerp")]
    assert turned == [f"{math.degrees(angle) * place / 6:.0f}°" for place in range(7)]


def test_the_images_that_use_the_code_most_come_first_with_its_places_framed(inspector, parts):
    model, images = parts
    code, _ = used_and_unused(inspector)
    inspector.chosen = code
    counts = counted(model, images, code)
    order = [image for image in by_count(counts)[:7] if counts[image]]

    said = [re.sub("</?b>", "", text) for text in titles(inspector, "images")]
    wanted = []
    for image in order:
        places = "1 place" if counts[image] == 1 else f"{counts[image]} places"
        wanted.append(f"image {image}<br>{places}")
    assert said == wanted

    first = images.test.images[order[0]].permute(1, 2, 0)
    assert np.allclose(tile(inspector, "images", 0, 16), first, atol=0.51)

    shown = images.test.batch(torch.tensor(order))
    uses = model.encode(shown) == code
    drawn = framed_edges(inspector, grid_size=uses.shape[1])
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == outline(uses.numpy())


def framed_edges(inspector, grid_size):
    """The edges around places of the images' strip: their ends as (image, row, column)."""
    trace = inspector.figure.data[FRAMES["images"]]
    points = np.array([trace.x, trace.y], float).T
    lines = points.reshape(-1, 3, 2)[:, :2]  # the third is the gap before the next line
    cell = UNIT / grid_size
    edges = []
    for line in lines:
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
    inspector.chosen = code
    inspector.other = other
    inspector.rank = 2
    counts = counted(model, images, code)
    image = by_count(counts)[1]
    grid = model.encode(images.test.batch(torch.tensor([image])))
    swapped = torch.where(grid == code, other, grid)
    before = model.decode(grid)[0]
    after = model.decode(swapped)[0]
    assert np.allclose(tile(inspector, "swap", 0, 16), bytes_of(before), atol=0.51)
    assert np.allclose(tile(inspector, "swap", 1, 16), bytes_of(after), atol=0.51)

    change = (after - before).abs()
    mean = float(change.mean())
    assert mean > 0
    assert titles(inspector, "swap") == [
        f"image {image},<br>decoded",
        f"code {other} in<br>{counts[image]} places",
        f"difference,<br>mean {mean:.3f}",
    ]
    assert f"Put into {counts[image]} places of image {image}, it changes the pixels" in summary(
        inspector
    )

    brightness = tile(inspector, "swap", 2, 16).sum(axis=2)
    change_of_pixel = change.mean(dim=0)
    assert brightness.max() > brightness.min()
    at_the_brightest = change_of_pixel.flatten()[brightness.argmax()]
    assert at_the_brightest > change_of_pixel.max() - 1 / 63


@pytest.mark.parametrize(
    ("name", "value"),
    [("chosen", 0), ("chosen", 29), ("other", 0), ("other", 29), ("rank", 1), ("rank", 7)],
)
def test_each_slider_to_its_ends_and_back(inspector, name, value):
    used, _ = used_and_unused(inspector)
    inspector.chosen = used
    inspector.other = 5
    inspector.rank = 3
    inspector._start = inspector.settings()
    before = [source(inspector, strip) for strip in PICTURE]

    inspector.controls[name].value = value
    assert getattr(inspector, name) == value
    fresh = inspector_picture(inspector.subject, **inspector.settings())
    for strip, trace in PICTURE.items():
        assert source(inspector, strip) == fresh.data[trace].source
    assert summary(inspector) == fresh.layout.meta["summary"]
    assert inspector.code() == (
        f"CodeInspector(model, images, chosen={inspector.chosen}, other={inspector.other}, "
        f"rank={inspector.rank}, method='PCA')"
    )

    inspector.reset()
    assert [source(inspector, strip) for strip in PICTURE] == before


def test_a_change_is_one_message(inspector):
    sent = []
    inspector.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    inspector.chosen = (inspector.chosen + 1) % 30
    assert len(sent) == 1


def test_codes_are_marked_on_the_map_and_the_map_can_be_another(inspector, monkeypatch):
    monkeypatch.setattr("arcvq.analysis.projections.umap_angles", projections.stereographic)
    inspector.chosen = 4
    inspector.other = 6
    for method, project in (("PCA", projections.pca), ("UMAP", projections.stereographic)):
        inspector.method = method
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
    assert titles(inspector, "images") == ["none"]
    frames = inspector.figure.data[FRAMES["images"]]
    assert not len(frames.x)
    assert titles(inspector, "swap")[2] == "difference,<br>mean 0.000"
    before = tile(inspector, "swap", 0, 16)
    after = tile(inspector, "swap", 1, 16)
    assert np.array_equal(before, after)


def test_fewer_users_than_the_rank_show_the_last_of_them(inspector, parts):
    for code in range(30):
        counts = counted(*parts, code)
        users = [image for image in by_count(counts) if counts[image]]
        if 0 < len(users) < 7:
            break
    assert 0 < len(users) < 7
    inspector.chosen = code
    inspector.rank = 7
    last = users[-1]
    assert titles(inspector, "swap")[0] == f"image {last},<br>decoded"


def test_one_code_is_its_own_other():
    inspector = CodeInspector(*make_parts(codes=1))
    assert inspector.chosen == 0
    assert inspector.other == 0
    assert "It is the only code." in summary(inspector)
    assert titles(inspector, "nearest") == ["<b>0</b>"]
    slider = inspector.controls["chosen"]
    assert slider.disabled
    assert slider.max == 1


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions_and_colour_are_shown(dim):
    model, images = make_parts(codes=4, dim=dim, channels=3, quantizer=EuclideanQuantizer)
    inspector = CodeInspector(model, images)
    code = int(inspector.subject.usage.argmax())
    inspector.chosen = code
    inspector.method = "UMAP"
    patch = patch_of(model, code)
    assert np.allclose(tile(inspector, "nearest", 0, 12), bytes_of(patch), atol=0.51)
    assert "Principal axes instead of UMAP" in summary(inspector)


@pytest.mark.parametrize(("size", "high"), [((8, 16), 56), ((256, 256), 112)])
def test_wide_and_large_images_keep_their_aspect_and_stay_small(size, high):
    inspector = CodeInspector(*make_parts(size=size))
    assert sheet(inspector, "images").size == (7 * 116, high)
    axis = inspector.figure.layout[f"yaxis{PICTURE['images'] - 2}"]
    lowest = high / 116  # in tiles with their gap, downward
    assert axis.range[0] == pytest.approx(lowest)
    frames = inspector.figure.data[FRAMES["images"]]
    ends = [y for y in frames.y if y is not None]
    assert max(ends) <= lowest + 1e-6


def test_the_way_between_opposite_codes_keeps_its_norm():
    model, images = make_parts(codes=4, dim=3)
    codebook = model.quantizer.codebook.data
    codebook[1] = -codebook[0]
    inspector = CodeInspector(model, images, chosen=0, other=1)
    norm = codebook[0].norm()
    assert titles(inspector, "slerp") == [f"{30 * place}°<br>norm {norm:.2g}" for place in range(7)]
    assert titles(inspector, "lerp")[3].startswith("90°<br>norm")
    assert "180° away" in summary(inspector)


def test_bad_input_is_named(parts, unchecked):
    model, images = parts
    with pytest.raises(ValueError, match="chosen is 30; it must be a code, 0 to 29"):
        CodeInspector(model, images, chosen=30)
    with pytest.raises(ValueError, match="other is 99; it must be a code, 0 to 29"):
        CodeInspector(model, images).other = 99
    empty = ImageSplit(images.test.images[:0], images.test.labels[:0])
    without_test = ImageData("toy", images.train, images.train, empty, images.classes)
    with pytest.raises(ValueError, match="toy has no test images"):
        CodeInspector(model, without_test)
    _, in_color = make_parts(channels=3)
    shapes = r"images have shape \(12, 3, 16, 16\); they must be \(B, 1, H, W\)"
    with pytest.raises(ValueError, match=shapes):
        CodeInspector(model, in_color)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_the_gpu_is_shown(parts):
    model, images = parts
    on_cpu = CodeInspector(model, images)
    wanted = titles(on_cpu, "slerp")
    inspector = CodeInspector(model.cuda(), images)
    assert titles(inspector, "slerp") == wanted

    inspector.chosen = 3
    images_on_gpu = CodeInspector(model, images.to("cuda"), chosen=3)
    assert titles(images_on_gpu, "images") == titles(inspector, "images")
