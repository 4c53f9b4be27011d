"""The zoom explorer: one window for all panels, always inside the photograph."""

import base64
import io

import pytest
import torch
from PIL import Image

from arcvq.explorers import ZoomExplorer

HIGH = 40
WIDE = 60


def picture(channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(1, channels, HIGH, WIDE, generator=generator) - 1


def explorer(count=4, **settings):
    rebuilt = {f"model {number}": picture(seed=number) for number in range(1, count + 1)}
    return ZoomExplorer(picture(), rebuilt, **settings)


def ranges(shown):
    """The ranges of all panels: of columns from the left, and of rows from the top."""
    layout = shown.figure.layout
    names = ["", *map(str, range(2, len(shown.images) + 1))]
    return [(layout[f"xaxis{name}"].range, layout[f"yaxis{name}"].range) for name in names]


def test_at_first_each_panel_shows_its_whole_image():
    shown = explorer()
    assert set(ranges(shown)) == {((-0.5, WIDE - 0.5), (HIGH - 0.5, -0.5))}
    assert len(shown.figure.data) == 5
    names = [shown.figure.layout[f"xaxis{number}"].ticktext for number in ("", 2, 3, 4, 5)]
    assert names == [("photograph",), ("model 1",), ("model 2",), ("model 3",), ("model 4",)]


def test_no_panel_can_be_moved_alone():
    shown = explorer()
    assert shown.figure.layout.dragmode is False
    for number in ("", 2, 3, 4, 5):
        assert shown.figure.layout[f"xaxis{number}"].fixedrange
        assert shown.figure.layout[f"yaxis{number}"].fixedrange


def test_the_panels_hold_the_images_pixel_for_pixel_but_for_jpeg():
    flat = torch.full((1, 3, HIGH, WIDE), 0.5)
    shown = ZoomExplorer(flat, {"SAMP": -flat})
    means = []
    for trace in shown.figure.data:
        file = io.BytesIO(base64.b64decode(trace.source.partition(",")[2]))
        image = Image.open(file)
        assert image.size == (WIDE, HIGH)
        means.append(image.convert("L").getpixel((30, 20)))
    assert means == pytest.approx([191, 64], abs=2)


def test_zoom_and_place_move_all_panels_to_the_same_window():
    shown = explorer()
    shown.zoom = 4.0
    assert set(ranges(shown)) == {((22.0, 37.0), (24.5, 14.5))}
    assert shown.figure.layout.title.text == "Rows 15 to 25, columns 22 to 38"
    shown.across = 0.25
    assert set(ranges(shown)) == {((7.0, 22.0), (24.5, 14.5))}
    shown.down = 0.75
    assert set(ranges(shown)) == {((7.0, 22.0), (34.5, 24.5))}


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_the_window_stays_inside_the_photograph(across, down):
    shown = explorer(zoom=3.0, across=across, down=down)
    (left, right), (bottom, top) = ranges(shown)[0]
    assert left >= -0.5
    assert right <= WIDE - 0.5
    assert top >= -0.5
    assert bottom <= HIGH - 0.5
    assert right - left == pytest.approx(WIDE / 3)
    assert bottom - top == pytest.approx(HIGH / 3)


def test_a_move_of_a_slider_sends_no_image():
    shown = explorer()
    sent = []
    shown.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    shown.zoom = 2.0
    assert len(sent) == 1
    assert not sent[0]["style_data"]


def test_gray_photographs_are_shown_as_well():
    shown = ZoomExplorer(picture(1), {"SAMP": picture(1, seed=1)})
    assert len(shown.figure.data) == 2


def test_names_stand_in_the_middle_of_their_panels():
    shown = explorer(zoom=2.0, across=0.0)
    (left, right), _ = ranges(shown)[0]
    assert shown.figure.layout.xaxis.tickvals == ((left + right) / 2,)


def test_reset_goes_back_to_the_settings_at_the_start():
    shown = explorer(zoom=2.0, across=0.3)
    before = ranges(shown)
    shown.zoom = 8.0
    shown.down = 0.9
    shown.reset()
    assert ranges(shown) == before


def test_code_makes_the_same_explorer():
    shown = explorer(zoom=3.0, across=0.2)
    names = {"photograph": picture(), "rebuilt": {"SAMP": picture()}, "ZoomExplorer": ZoomExplorer}
    assert eval(shown.code(), names).settings() == shown.settings()


@pytest.mark.parametrize(
    ("photograph", "rebuilt", "words"),
    [
        (picture(), {"SAMP": torch.zeros(1, 3, 8, 8)}, r"SAMP has the shape \(1, 3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), {"SAMP": torch.zeros(2, 3, 8, 8)}, r"photograph has the shape"),
        (picture(), {}, "there is nothing to draw"),
        (picture()[0], {"SAMP": picture()}, "photograph must have the shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(photograph, rebuilt, words, unchecked):
    with pytest.raises(ValueError, match=words):
        ZoomExplorer(photograph, rebuilt)
