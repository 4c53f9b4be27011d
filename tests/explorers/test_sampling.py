"""The sampling explorer shows what the prior gives.

The oracles are the formulas in float64 and the model itself.
"""

import base64
import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from arcvq import VQVAE, CosineQuantizer, ImageData, ImageSplit
from arcvq.analysis import projections
from arcvq.explorers import SamplingExplorer
from arcvq.explorers.sampling_figure import (
    BARS,
    COMING,
    COMPLETE,
    CUT,
    FINISHED,
    FRAME,
    LEFT,
    MAKING,
    NEXT,
    PATCHES,
    PLACES,
    RINGS,
    TOKENS,
    sampling_picture,
)
from arcvq.figures.parts import PAPER_PIXEL
from arcvq.figures.theme import BLUE, VERMILLION
from arcvq.priors import PixelCNN, TransformerPrior, complete, fingerprint, sample


def make_parts(codes=20, channels=1, size=(16, 16), classes=3, count=12, prior=PixelCNN):
    images = torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8)
    split = ImageSplit(images, torch.arange(count) % 3)
    model = VQVAE(channels, CosineQuantizer(codes, 6), hidden=8, residual_hidden=4).eval()
    made = prior(codes, (size[0] // 4, size[1] // 4), classes, width=8, layers=2).eval()
    with torch.no_grad():  # untrained, the encoder gives one code, and the prior is nearly uniform
        for layer in (
            layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.Conv2d)
        ):
            layer.bias.zero_()
        for parameter in made.parameters():
            parameter.mul_(2.0)
    made.codebook_fingerprint = fingerprint(model.quantizer.codebook)
    return model, made, ImageData("toy", split, split, split, ("a", "b", "c"))


@pytest.fixture
def parts():
    return make_parts()


@pytest.fixture
def explorer(parts):
    return SamplingExplorer(*parts)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(explorer, trace):
    source = explorer.figure.data[trace].source
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))), float)


def tiles(explorer, trace=FINISHED, columns=4):
    """The images of a sheet without the pixel around each, (n, H, W, 3)."""
    sheet = picture(explorer, trace)
    rows = 4 if trace == FINISHED else 1
    side = sheet.shape[1] // columns
    high = sheet.shape[0] // rows
    cells = sheet.reshape(rows, high, columns, side, 3).swapaxes(1, 2).reshape(-1, high, side, 3)
    return cells[:, 1:-1, 1:-1]


def bytes_of(images):
    return ((images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3) + 1) * 127.5).detach().numpy()


def shown(explorer):
    """The probability of each code as the map says it."""
    rows = np.concatenate(
        [np.asarray(explorer.figure.data[trace].customdata) for trace in (CUT, LEFT)]
    )
    return rows[rows[:, 0].argsort(), 1]


def expected(explorer, parts, tokens, position):
    """softmax(logits / temperature), its top_k likeliest, the fewest that reach top_p: float64."""
    row, column = divmod(position, tokens.shape[1])
    labels = torch.tensor([explorer.label]) if parts[1].classes else None
    logits = (
        parts[1](tokens[None], labels)[0, row, column].detach().double().numpy()
        / explorer.temperature
    )
    order = np.argsort(-logits, kind="stable")[: explorer.top_k]
    chances = np.zeros(len(logits))
    chances[order] = np.exp(logits[order] - logits.max())
    chances /= chances.sum()
    before = np.concatenate([[0], chances[order].cumsum()[:-1]])
    chances[order[before >= explorer.top_p]] = 0
    return chances / chances.sum()


def colours(explorer):
    """Of the grid of tokens, cell by cell; None where no token is drawn."""
    rows = explorer.figure.data[TOKENS].z
    return [*itertools.chain.from_iterable(rows)]


def drawn(explorer):
    settings = explorer.settings()
    return explorer.sampler.drawn(
        **{
            name: settings[name]
            for name in ("task", "label", "seed", "temperature", "top_k", "top_p")
        }
    ).tokens


def state(explorer):
    return [explorer.figure.data[trace].source for trace in (FINISHED, MAKING, PATCHES)], shown(
        explorer
    ).tolist()


def summary(explorer):
    return explorer.figure.layout.meta["summary"]


@pytest.mark.parametrize("prior", [PixelCNN, TransformerPrior])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 4.0},
        {"top_k": 5},
        {"top_p": 0.6},
        {"label": 2},
        {"seed": 7},
        {"temperature": 0.7, "top_k": 7, "top_p": 0.8, "label": 1, "seed": 3, "position": 11},
    ],
)
def test_the_map_shows_the_next_probabilities_and_the_bars_the_likeliest(prior, changes):
    parts = make_parts(prior=prior)
    explorer = SamplingExplorer(*parts)
    for name, value in changes.items():
        setattr(explorer, name, value)
    tokens = drawn(explorer)
    chances = expected(explorer, parts, tokens, explorer.position)
    assert np.allclose(shown(explorer), chances, atol=1e-5)
    left = np.asarray(explorer.figure.data[LEFT].customdata)
    assert len(left) == np.count_nonzero(chances)
    assert np.allclose(
        explorer.figure.data[LEFT].marker.color, np.log10(np.maximum(left[:, 1], 1e-4)), atol=1e-4
    )
    bars = explorer.figure.data[BARS]
    following = int(tokens.flatten()[explorer.position])
    named = [int(name) for name in explorer.figure.layout.xaxis6.ticktext if name]
    assert len(named) == min(10, len(left))
    assert np.all(np.diff(bars.y) <= 0)
    assert np.allclose(bars.y, chances[named], atol=1e-5)
    assert np.isclose(bars.y[0], chances.max(), atol=1e-5)
    assert list(bars.marker.color) == [VERMILLION if code == following else BLUE for code in named]
    assert int(explorer.figure.data[NEXT].customdata[0][0]) == following
    entropy = -sum(chance * math.log2(chance) for chance in chances if chance)
    assert f"an entropy of {entropy:.2f} bits" in summary(explorer)
    likeliest = f"Code {named[0]} is the likeliest ({chances[named[0]]:.1%})"
    if following == named[0]:
        assert f"{likeliest} and will be drawn." in summary(explorer)
    else:
        told = f"{likeliest}; code {following} ({chances[following]:.1%}) will be drawn."
        assert told in summary(explorer)
    patches = parts[0].decode(torch.tensor(named)[:, None, None].expand(-1, 3, 3))
    assert np.allclose(tiles(explorer, PATCHES, 10)[: len(named)], bytes_of(patches), atol=0.51)


def test_finished_images_are_those_that_the_prior_samples(explorer, parts):
    explorer.temperature = 0.8
    explorer.top_k = 9
    explorer.top_p = 0.9
    explorer.label = 2
    explorer.seed = 5
    images = sample(parts[0], parts[1], 16, 0.8, 9, 0.9, torch.full((16,), 2), seeded(5))
    assert np.allclose(tiles(explorer), bytes_of(images), atol=0.51)
    assert explorer.figure.layout.xaxis.title.text == "16 samples of class c"
    assert list(explorer.figure.data[FRAME].x[:2]) == [-0.5, 17.5]


def test_lower_halves_are_completed_beside_the_test_images_of_the_class(explorer, parts):
    explorer.task = COMPLETE
    explorer.label = 1
    explorer.seed = 4
    model, prior, images = parts
    originals = images.test.batch(torch.tensor([1, 4, 7, 10]))
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    made = complete(
        model,
        prior,
        originals.repeat_interleave(3, 0),
        mask,
        torch.full((12,), 1),
        seeded(4),
        temperature=1.0,
    )
    seen = tiles(explorer).reshape(4, 4, 16, 16, 3)
    assert np.allclose(seen[:, 0], bytes_of(originals), atol=0.51)
    assert np.allclose(seen[:, 1:].reshape(12, 16, 16, 3), bytes_of(made), atol=0.51)
    tokens = drawn(explorer)
    encoded = model.encode(originals[:1])[0]
    assert torch.equal(tokens[:2], encoded[:2])
    assert list(explorer.figure.data[FRAME].x[:2]) == [
        17.5,
        35.5,
    ]
    explorer.position = 0
    assert "8 of 16 tokens are set" in explorer.figure.layout.title.text
    assert np.array_equal(explorer.figure.data[PLACES].z, np.repeat([1, 1, 0, 0], 4).reshape(4, 4))
    assert explorer.figure.data[PLACES].text[0] == [*map(str, encoded[0].tolist())]
    assert colours(explorer) == [None] * 16


def test_position_brings_the_tokens_out_one_by_one_without_sampling_again(
    explorer, parts, monkeypatch
):
    model = parts[0]
    tokens = drawn(explorer)
    monkeypatch.setattr("arcvq.explorers.sampling_figure.sampling_steps", None)
    for position in (0, 1, 6, 15, 16):
        explorer.position = position
        known = (torch.arange(16) < position).view(4, 4)
        text = np.array(explorer.figure.data[TOKENS].text)
        assert np.array_equal(text, np.where(known, tokens.numpy().astype(str), ""))
        logs = [
            math.log10(max(1e-4, expected(explorer, parts, tokens, place)[tokens.flatten()[place]]))
            for place in range(position)
        ]
        assert np.allclose(colours(explorer)[:position], logs, atol=1e-4)
        assert colours(explorer)[position:] == [None] * (16 - position)
        codes = model.quantizer.codebook[tokens].movedim(2, 0) * known
        with torch.no_grad():
            image = model.decoder(codes[None])[0].clamp(-1, 1)
        image = image.where(known.kron(torch.ones(4, 4, dtype=torch.bool)), COMING)
        assert np.allclose(picture(explorer, MAKING), bytes_of(image[None])[0], atol=0.51)
    assert explorer.figure.layout.title.text == "All 16 tokens are set"
    assert not shown(explorer).any()
    assert not len(explorer.figure.data[BARS].y)
    assert not len(explorer.figure.data[NEXT].x)
    # The whole image is the first that is finished.
    assert np.allclose(picture(explorer, MAKING), tiles(explorer)[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.1),
        ("temperature", 10.0),
        ("top_k", 1),
        ("top_k", 20),
        ("top_p", 0.01),
        ("top_p", 1.0),
        ("label", 0),
        ("label", 2),
        ("seed", 999),
        ("position", 0),
        ("position", 16),
        ("task", COMPLETE),
    ],
)
def test_each_control_to_its_ends_and_back(parts, name, value):
    explorer = SamplingExplorer(
        *parts, temperature=0.9, top_k=15, top_p=0.95, label=1, seed=2, position=7
    )
    before = state(explorer)
    explorer.controls[name].value = value
    assert getattr(explorer, name) == pytest.approx(value)
    fresh = sampling_picture(explorer.sampler, **explorer.settings())
    assert [trace.source for trace in fresh.data[:3]] == state(explorer)[0]
    assert summary(explorer) == fresh.layout.meta["summary"]
    explorer.reset()
    assert state(explorer) == before


def test_one_code_left_is_certain(explorer):
    for name, value in (("top_k", 1), ("top_p", 0.01)):
        explorer.reset()
        setattr(explorer, name, value)
        assert shown(explorer).max() == 1
        assert np.count_nonzero(shown(explorer)) == 1
        assert "1 code can come next" in explorer.figure.layout.title.text
        assert "an entropy of 0.00 bits" in summary(explorer)
        assert np.allclose(tiles(explorer)[0], tiles(explorer)[1:])  # nothing is left to chance


def test_the_same_settings_give_the_same_picture_and_draw_again_another(explorer, parts):
    before = state(explorer)
    torch.manual_seed(99)
    assert state(SamplingExplorer(*parts)) == before
    explorer.draw_again()
    assert explorer.seed == 1
    assert state(explorer)[0][0] != before[0][0]
    explorer.seed = 999
    explorer.draw_again()
    assert explorer.seed == 0
    assert state(explorer) == before


def test_a_change_is_one_message_that_json_can_carry(explorer):
    json.dumps(
        explorer.figure.to_plotly_json(), default=lambda array: array.tolist(), allow_nan=False
    )
    sent = []
    explorer.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    for name, value in (("temperature", 0.5), ("position", 3), ("task", COMPLETE)):
        setattr(explorer, name, value)
    assert len(sent) == 3


def test_codes_stand_where_the_projection_puts_them(explorer, monkeypatch):
    monkeypatch.setattr("arcvq.analysis.projections.umap_angles", projections.stereographic)
    for method, project in (("PCA", projections.pca), ("UMAP", projections.stereographic)):
        explorer.method = method
        explorer.top_k = 6
        seen = project(explorer.sampler.model.quantizer.codebook)
        traces = [explorer.figure.data[trace] for trace in (CUT, LEFT, RINGS, NEXT)]
        assert [len(trace.x) for trace in traces] == [14, 6, 6, 1]
        assert seen.trust in summary(explorer)
        for trace in traces:
            rows = np.asarray(trace.customdata)[:, 0].astype(int)
            assert np.allclose(np.stack([trace.x, trace.y], axis=1), seen.points[rows], atol=1e-6)


def test_of_very_many_codes_the_most_used_are_on_the_map(explorer, monkeypatch):
    monkeypatch.setattr("arcvq.analysis.projections.umap_angles", projections.stereographic)
    monkeypatch.setattr("arcvq.explorers.placing.PLACED", 10)
    explorer.method = "UMAP"
    cut, left = (explorer.figure.data[trace] for trace in (CUT, LEFT))
    assert len(cut.x) + len(left.x) == 10
    assert np.isfinite([*cut.x, *left.x]).all()
    assert "10 of 20 codes are placed" in summary(explorer)


def test_of_very_many_codes_the_likeliest_are_drawn(explorer, monkeypatch):
    monkeypatch.setattr("arcvq.explorers.sampling_figure.DRAWN", 5)
    explorer.top_k = 9
    drawn = np.asarray(explorer.figure.data[LEFT].customdata)
    rings = np.asarray(explorer.figure.data[RINGS].customdata)
    assert set(drawn[:, 0]) == set(rings[:5, 0])
    assert "The map shows the 5 likeliest." in summary(explorer)


def test_a_prior_without_classes_has_no_label_and_completes_the_first_images():
    model, prior, images = make_parts(classes=0)
    explorer = SamplingExplorer(model, prior, images, task=COMPLETE)
    assert explorer.controls["label"].disabled
    assert "class" not in explorer.figure.layout.xaxis.title.text
    assert np.allclose(
        tiles(explorer)[::4], bytes_of(images.test.batch(torch.arange(4))), atol=0.51
    )


def test_places_without_a_test_image_stay_blank():
    explorer = SamplingExplorer(*make_parts(count=3), task=COMPLETE)
    assert (tiles(explorer)[12:] == PAPER_PIXEL).all()


@pytest.mark.parametrize(
    ("codes", "size", "channels"), [(1, (4, 4), 1), (3, (8, 16), 3), (20, (4, 132), 1)]
)
def test_few_codes_flat_grids_wide_and_large_images_are_drawn(codes, size, channels):
    explorer = SamplingExplorer(*make_parts(codes=codes, size=size, channels=channels))
    for task in (COMPLETE, "sample"):
        explorer.task = task
        for position in (0, size[0] * size[1] // 16):
            explorer.position = position
    stride = max(1, size[1] // 64)
    assert tiles(explorer).shape == (16, -(-size[0] // stride), -(-size[1] // stride), 3)
    assert explorer.controls["top_k"].disabled == (codes == 1)


def test_the_code_makes_the_same_explorer(explorer, parts):
    explorer.temperature = 0.5
    explorer.position = 3
    model, prior, images = parts
    names = {"SamplingExplorer": SamplingExplorer, "model": model, "prior": prior, "images": images}
    again = eval(explorer.code(), names)
    assert again.settings() == explorer.settings()
    assert state(again) == state(explorer)


def test_bad_input_is_named(parts, unchecked):
    model, prior, images = parts
    for name, value, most in (("top_k", 21, 20), ("label", 3, 2), ("position", 17, 16)):
        with pytest.raises(
            ValueError, match=rf"{name} is {value}; here it must be from \d to {most}"
        ):
            SamplingExplorer(model, prior, images, **{name: value})
    with pytest.raises(ValueError, match="the prior has 20 codes and the model 30"):
        SamplingExplorer(make_parts(codes=30)[0], prior, images)
    with pytest.raises(ValueError, match="the prior belongs to another codebook"):
        SamplingExplorer(make_parts()[0], prior, images)
    with pytest.raises(
        ValueError, match=r"images have shape \(1, 3, 16, 16\); they must be \(B, 1, H, W\)"
    ):
        SamplingExplorer(model, prior, make_parts(channels=3)[2])
    with pytest.raises(
        ValueError, match=r"the prior's grid is \(4, 4\) and the tokens of toy have \(2, 4\)"
    ):
        SamplingExplorer(model, prior, make_parts(size=(8, 16))[2])
    with pytest.raises(ValueError, match="the prior has 3 classes and toy has 2"):
        few = images.test.select(images.test.labels < 2)
        SamplingExplorer(model, prior, ImageData("toy", few, few, few, ("a", "b")))
    empty = ImageSplit(images.test.images[:0], images.test.labels[:0])
    with pytest.raises(ValueError, match="toy has no test images"):
        SamplingExplorer(
            model, prior, ImageData("toy", images.train, images.train, empty, images.classes)
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_and_a_prior_on_the_gpu_are_shown(parts):
    model, prior, images = parts
    wanted = shown(SamplingExplorer(model, prior, images))
    explorer = SamplingExplorer(model.cuda(), prior.cuda(), images)
    assert np.allclose(shown(explorer), wanted, atol=1e-4)
    explorer.task = COMPLETE
    explorer.position = 12
