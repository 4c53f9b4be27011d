import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from arcvq.figures import image_grid, reconstruction_grid, summary


def pixels(figure):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", figure.data[0].source).groups()
    return kind, torch.tensor(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))).movedim(
        2, 0
    )


def test_a_grid_is_one_png_with_every_pixel_enlarged_by_a_whole_number():
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    figure = image_grid(images, columns=3)
    kind, sheet = pixels(figure)
    scale = 14  # 112 // 8
    assert kind == "png"
    assert tuple(sheet.shape) == (3, 2 * 112 + 4, 3 * 112 + 8)
    expected = ((images + 1) * 127.5).round()
    for n in range(5):
        top = n // 3 * 116
        left = n % 3 * 116
        tile = sheet[0, top : top + 112, left : left + 112]
        assert (
            tile == expected[n, 0].repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        ).all()
    gap = sheet[:, 113, 0]
    assert gap.min() > 240
    assert (sheet[:, 116:, 2 * 116 :] == gap[:, None, None]).all(), "the sixth is blank"


def test_pixels_are_not_blurred_and_square_on_the_screen():
    figure = image_grid(torch.zeros(3, 3, 28, 28), columns=2)
    assert figure.data[0].zsmooth is False
    layout = figure.layout
    assert layout.xaxis.range[1] == layout.width - layout.margin.l - layout.margin.r
    assert layout.yaxis.range[0] == layout.height - layout.margin.t - layout.margin.b
    assert layout.yaxis.range[1] == 0  # rows from the top


def test_colors_and_values_outside_the_range_are_kept_and_clipped():
    image = torch.tensor([-5.0, 0.0, 5.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    _, sheet = pixels(image_grid(image.numpy()))
    assert sheet[:, 0, 0].tolist() == [0, 128, 255]


def test_a_title_for_each_column_stands_above_the_first_row():
    images = torch.zeros(5, 1, 28, 28)
    by_column = image_grid(images, columns=2, titles=["a", "b"])
    by_image = image_grid(images, columns=2, titles=["a", "b", "", "", ""])
    for name in ("a", "b"):
        (above,) = by_column.select_annotations({"text": name})
        (expected,) = by_image.select_annotations({"text": name})
        assert (above.x, above.y) == (expected.x, expected.y)
    _, sheet = pixels(by_column)
    _, with_room_above_each = pixels(by_image)
    room = with_room_above_each.shape[1] - sheet.shape[1]
    assert room == 2 * 18, "only the first of three rows has room for titles"
    assert torch.equal(sheet[:, :130], with_room_above_each[:, :130])


def test_titles_stand_above_their_tiles():
    figure = image_grid(torch.zeros(3, 1, 28, 28), columns=2, titles=["a", "b", "c"])
    a, b, c = (one for one in figure.layout.annotations if one.name != "summary")
    assert [a.text, b.text, c.text] == ["a", "b", "c"]
    assert a.x < b.x
    assert a.y == b.y < c.y
    assert a.x == c.x == 56


def test_a_photograph_is_made_smaller_and_the_summary_says_so():
    figure = image_grid(torch.rand(2, 3, 400, 600) * 2 - 1, columns=2, width=600)
    kind, sheet = pixels(figure)
    assert kind == "jpeg"
    assert sheet.shape[2] <= 552
    assert figure.layout.width <= 600
    assert "Shown at 45% of the size" in summary(figure)
    assert "2 images of 400 x 600 pixels" in summary(figure)


def test_a_grid_of_digits_is_a_few_kilobytes():
    blob = (
        torch.exp(
            -torch.cdist(
                torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0)),
                torch.full((1, 2), 14.0),
            ).reshape(28, 28)
            / 5
        )
        * 2
        - 1
    )
    assert len(image_grid(blob.expand(16, 1, 28, 28)).to_json()) < 15_000


def test_reconstructions_stand_below_the_originals_with_psnr_and_errors():
    images = torch.rand(10, 1, 8, 8) * 2 - 1
    figure = reconstruction_grid(images, {"plain": images + 0.2, "samp": images.clone()}, columns=4)
    labels = figure.layout.yaxis.ticktext
    assert labels[0] == "original"
    assert labels[2] == labels[4] == "error"
    assert labels[1] == f"<b>plain</b><br>{10 * math.log10(4 / 0.04):.1f} dB"
    assert "inf dB" in labels[3]
    assert "PSNR over 10 images: " in summary(figure)
    assert "plain 20.0 dB" in summary(figure)
    _, sheet = pixels(figure)
    assert sheet.shape[1] == 5 * 112 + 4 * 4
    assert sheet.shape[2] == 4 * 112 + 3 * 4
    rows = [sheet[:, r * 116 : r * 116 + 112] for r in range(5)]
    assert (rows[0] == rows[3]).all()
    assert not (rows[0] == rows[1]).all()
    assert rows[4][0, 5, 5] < 5  # no error is the dark end of the scale
    middles = figure.layout.yaxis.tickvals
    assert np.allclose(middles, [56 + 116 * r for r in range(5)])


def test_the_scale_of_the_errors_is_labelled_and_covers_them():
    images = torch.zeros(2, 3, 8, 8)
    figure = reconstruction_grid(images, {"plain": images + 0.73})
    marker = figure.data[1].marker
    assert (marker.cmin, marker.cmax) == (0, 0.8)
    assert "absolute error" in marker.colorbar.title.text
    _, sheet = pixels(figure)
    red, green, _ = sheet[:, 116 * 2 + 5, 5].tolist()
    assert red > 200
    assert green > 150
    assert "brightest" not in summary(figure)


def test_a_caption_tells_of_errors_beyond_the_scale():
    images = torch.zeros(8, 1, 28, 28)
    others = images + 0.1
    others[0, 0, 0, 0] = 0.9
    figure = reconstruction_grid(images, {"plain": others})
    assert figure.data[1].marker.cmax == 0.1
    assert "Errors above 0.1 have the brightest color." in summary(figure)


def test_one_photograph_keeps_a_moderate_size():
    photo = torch.rand(1, 3, 427, 640) * 2 - 1
    figure = reconstruction_grid(photo, {"plain": photo * 0.9, "samp": photo * 0.8})
    assert figure.layout.height < 1100
    assert len(figure.to_json()) < 250_000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: image_grid(torch.zeros(0, 1, 8, 8)),
            r"images must have the shape .* not \(0, 1, 8, 8\)",
        ),
        (lambda: image_grid(torch.zeros(8, 8)), r"not \(8, 8\)"),
        (lambda: image_grid(torch.zeros(2, 2, 8, 8)), "1 or 3"),
        (
            lambda: image_grid(torch.full((1, 1, 2, 2), torch.nan)),
            "4 of 4 values of the images are NaN",
        ),
        (lambda: image_grid(torch.zeros(2, 1, 8, 8), columns=0), "columns is 0"),
        (
            lambda: reconstruction_grid(
                torch.zeros(2, 1, 8, 8), {"plain": torch.zeros(2, 1, 8, 8)}, columns=0
            ),
            "columns is 0",
        ),
        (
            lambda: image_grid(torch.zeros(300, 1, 8, 8), columns=300),
            "columns is 300; this width has room for at most 170",
        ),
        (
            lambda: image_grid(torch.zeros(2, 1, 8, 8), titles=["one"]),
            "1 titles do not fit 2 images in 2 columns",
        ),
        (lambda: reconstruction_grid(torch.zeros(2, 1, 8, 8), {}), "nothing to draw"),
        (
            lambda: reconstruction_grid(
                torch.zeros(2, 1, 8, 8), {"plain": torch.zeros(3, 1, 8, 8)}
            ),
            "shape",
        ),
    ],
)
def test_bad_images_get_one_clear_sentence(call, words, unchecked):
    with pytest.raises(ValueError, match=words):
        call()
