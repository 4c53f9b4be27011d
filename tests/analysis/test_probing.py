import copy
import dataclasses
import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from arcvq.analysis.probing import (
    MEASURES,
    agreement,
    chance,
    describe_codes,
    edge_direction,
    excess_information,
    linear_probe,
    mean_windows,
    mutual_information,
    patch_gray,
    purity,
    quantile_bins,
    replacement_effect,
    slant,
    stability,
    stroke_width,
    windows,
)
from arcvq.composites import ResidualQuantizer
from arcvq.images import ImageData, ImageSplit
from arcvq.quantizers import EuclideanQuantizer
from arcvq.training import Run
from arcvq.vqvae import VQVAE
from tests.dtypes import INTEGER_DTYPES

QUICK = settings(max_examples=40, deadline=None)  # the first example imports scikit-learn
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=40)


def columns(pairs):
    return torch.tensor(pairs).unbind(1)


def entropy(values):
    counts = Counter(values.tolist()).values()
    shares = [count / len(values) for count in counts]
    return -sum(share * math.log2(share) for share in shares)


@QUICK
@given(PAIRS)
def test_mutual_information_is_the_sum_over_the_table_of_counts(pairs):
    codes, values = columns(pairs)
    of_code = Counter(codes.tolist())
    of_value = Counter(values.tolist())
    wanted = 0.0
    for (code, value), count in Counter(pairs).items():
        share = count / len(pairs)
        by_chance = of_code[code] * of_value[value] / len(pairs)
        wanted += share * math.log2(count / by_chance)
    assert mutual_information(codes, values) == pytest.approx(wanted, abs=1e-12)


@QUICK
@given(PAIRS)
def test_information_and_purity_and_agreement_stay_in_their_ranges(pairs):
    codes, values = columns(pairs)
    most = min(entropy(codes), entropy(values))
    assert 0 <= mutual_information(codes, values) <= most + 1e-12
    counts = Counter(values.tolist()).values()
    largest_share = max(counts) / len(pairs)
    assert largest_share - 1e-12 <= purity(codes, values) <= 1
    assert 1 / len(pairs) <= agreement(codes, values) <= 1


def test_equal_values_give_the_entropy_under_any_numbers_and_crossed_ones_nothing():
    codes = torch.tensor([0, 0, 1, 5, 5, 5, 9, 9])
    assert mutual_information(codes, 100 - codes) == pytest.approx(entropy(codes))
    crossed = torch.cartesian_prod(torch.arange(7), torch.arange(3))
    assert mutual_information(*crossed.unbind(1)) == pytest.approx(0, abs=1e-12)


def test_the_chance_level_takes_off_what_many_codes_seem_to_tell_of_independent_values():
    codes = torch.randint(500, (4000,))
    values = torch.randint(10, (4000,))
    assert mutual_information(codes, values) > 0.5
    assert excess_information(codes, values) == pytest.approx(0, abs=0.03)


def test_the_chance_level_of_information_is_the_known_bias_of_the_plug_in_estimate():
    tokens = 20_000
    codes = torch.randint(100, (tokens,))
    values = torch.randint(10, (tokens,))
    bias = (100 - 1) * (10 - 1) / (2 * tokens * math.log(2))  # Miller 1955
    assert chance(mutual_information, codes, values) == pytest.approx(bias, rel=0.05)
    told = codes // 10
    wanted = entropy(told) - bias
    assert excess_information(codes, told) == pytest.approx(wanted, abs=0.05 * bias)


def test_chance_is_the_same_for_a_seed_and_leaves_the_generator_of_the_caller_alone():
    codes = torch.randint(50, (300,))
    values = torch.randint(10, (300,))
    state = torch.get_rng_state()
    assert excess_information(codes, values) == excess_information(codes, values)
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_of_one_image_share_its_value_and_stay_together_when_values_are_shuffled():
    codes = torch.arange(4)[:, None, None].expand(4, 10, 10)
    values = torch.arange(4)
    assert mutual_information(codes, values) == pytest.approx(2)
    # 4 images cannot show more than chance.
    assert excess_information(codes, values) == pytest.approx(0)


def test_purity_is_1_for_codes_of_one_class_and_the_share_of_the_largest_class_else():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    of_one_class_each = torch.tensor([3, 3, 4, 7, 7, 9])
    assert purity(of_one_class_each, labels) == 1
    all_equal = torch.zeros(6, dtype=torch.int64)
    assert purity(all_equal, labels) == 0.5
    mixed = torch.tensor([0, 0, 1, 1, 1, 1])
    assert purity(mixed, labels) == pytest.approx((2 + 2) / 6)
    all_different = torch.arange(6)
    assert chance(purity, all_different, labels) == 1, "a code for each token is pure by chance"


@QUICK
@given(PAIRS)
def test_agreement_is_that_of_the_best_of_all_matchings(pairs):
    codes, others = columns(pairs)
    shares = []
    for names in itertools.permutations(range(6)):
        renamed = torch.tensor(names)[codes]
        equal = renamed == others
        shares.append(equal.double().mean().item())
    assert agreement(codes, others) == pytest.approx(max(shares))


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_codes_and_values_may_have_any_integer_dtype(dtype):
    codes = torch.randint(0, 5, (40, 3))
    values = torch.randint(0, 4, (40,))
    for measure in (mutual_information, excess_information, purity):
        assert measure(codes.to(dtype), values.to(dtype)) == measure(codes, values)
    flat = codes.flatten()
    others = flat.flip(0)
    assert agreement(flat.to(dtype), others.to(dtype)) == agreement(flat, others)


def test_no_tokens_are_refused():
    codes = torch.zeros(0, 7, 7, dtype=torch.int64)
    values = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shape \(0, 7, 7\); at least one token"):
        mutual_information(codes, values)


def bar(width, length=40, lean=0.0, size=64):
    """A white upright bar on black, sheared to the right by `lean` pixels a row."""
    x = torch.arange(float(size)) - (size - 1) / 2
    y = x[:, None]
    from_the_middle = (x + lean * y).abs()
    across = (width / 2 - from_the_middle + 0.5).clamp(0, 1)
    along = y.abs() < length / 2
    image = 2 * across * along - 1
    return image[None, None]


@pytest.mark.parametrize("width", [2, 4, 6])
@pytest.mark.parametrize("turned", [False, True])
def test_stroke_width_of_a_bar_is_area_over_half_its_outline(width, turned):
    length = 40
    image = bar(width, length)
    if turned:
        image = image.transpose(2, 3)
    half_outline = width + length
    wanted = width * length / half_outline
    assert stroke_width(image).item() == pytest.approx(wanted, rel=0.03)


def test_stroke_width_is_that_across_a_leaning_stroke_and_at_the_border_of_the_image():
    across = 6 * math.cos(math.atan(1))  # of a bar that is 6 wide in each row
    leaning = bar(6, length=44, lean=1.0, size=72)
    assert stroke_width(leaning).item() == pytest.approx(across, rel=0.1)
    white = torch.ones(1, 1, 30, 30)
    assert stroke_width(white).item() == pytest.approx(15, rel=0.03)
    assert stroke_width(-white).item() == 0


@pytest.mark.parametrize("degrees", [-30, 0, 10, 40])
def test_slant_of_a_sheared_bar_is_its_angle_and_a_mirror_turns_it(degrees):
    lean = math.tan(math.radians(degrees))
    image = bar(4, length=30, lean=lean)
    assert slant(image).item() == pytest.approx(degrees, abs=0.2)
    assert slant(image.flip(3)).item() == pytest.approx(-degrees, abs=0.2)


def test_slant_is_0_where_there_is_no_height():
    level = -torch.ones(2, 1, 9, 9)
    level[1, 0, 4] = 1
    assert slant(level).tolist() == [0, 0]


def test_patch_gray_is_the_mean_of_the_pixels_of_a_token():
    images = torch.rand(2, 3, 8, 12) * 2 - 1
    found = patch_gray(images, (2, 3))
    for image, row, column in itertools.product(range(2), range(2), range(3)):
        top = 4 * row
        left = 4 * column
        patch = images[image, :, top : top + 4, left : left + 4]
        wanted = patch.double().mean().item()
        assert found[image, row, column].item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_edge_direction_is_the_way_along_which_gray_stays_equal(degrees):
    right = torch.arange(24.0)
    down = right[:, None]
    angle = math.radians(degrees)
    # At right angles to (cos, sin) with y upward.
    across = right * math.sin(angle) + down * math.cos(angle)
    ramp = 0.1 * across
    wave = (0.5 * across).sin()  # which is not resolved as well
    for gray, tolerance in ((ramp, 0.01), (wave, 12)):
        images = gray.expand(1, 3, 24, 24)
        found = edge_direction(images, (3, 6))
        assert found.shape == (1, 3, 6)
        assert (found >= 0).all()
        assert (found < 180).all()
        # 179 degrees and 1 degree are 2 apart.
        off = (found - degrees + 90) % 180 - 90
        assert off.abs().max() < tolerance


def test_an_edge_between_two_patches_belongs_to_neither():
    halves = torch.ones(1, 1, 8, 8)
    halves[..., 4:] = -1
    assert edge_direction(halves, (2, 2)).isnan().all()
    assert (edge_direction(halves, (2, 1)) == 90).all()


@pytest.mark.parametrize("grid", [(8, 8), (4, 8), (3, 4)])
def test_patches_without_room_for_an_edge_are_refused(grid):
    with pytest.raises(ValueError, match="each token needs a patch of whole pixels, at least 2 x"):
        edge_direction(torch.zeros(1, 1, 8, 8), grid)


def test_flat_and_dotted_patches_have_no_edge_direction():
    squares = (torch.arange(9.0) - 4).square()
    dot = torch.exp(-(squares[:, None] + squares) / 4)
    flat = torch.zeros_like(dot)
    images = torch.stack([dot, flat])[:, None]
    assert edge_direction(images, (1, 1)).isnan().all()


def test_quantile_bins_are_eighths_and_equal_values_share_one():
    values = torch.randperm(800).float()
    assert torch.equal(quantile_bins(values), values.long() // 100)
    mostly_zero = torch.cat([torch.zeros(600), torch.arange(1.0, 201)])
    bins = quantile_bins(mostly_zero)
    assert len(bins[:600].unique()) == 1
    assert len(bins.unique()) == 3


def test_values_without_quantiles_have_no_bins():
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="1 of 3 values of the attribute are NaN or infinite"):
            quantile_bins(torch.tensor([1.0, bad, 3.0]))
    with pytest.raises(ValueError, match=r"shape \(0,\); at least one is needed"):
        quantile_bins(torch.zeros(0))


def test_a_linear_probe_reads_what_is_linear_on_any_scale_and_nothing_else():
    labels = torch.arange(600) % 3

    def accuracy(features):
        return linear_probe(features[:400], labels[:400], features[400:], labels[400:])

    features = torch.randn(600, 5)
    assert accuracy(features) < 0.5
    features[:, 0] += 1000 + 6 * labels.eq(1)
    features[:, 1] += 6 * labels.eq(2)
    scales = torch.tensor([1e3, 1e-3, 1, 1, 0])  # a component that is always 0 does no harm
    assert accuracy(features * scales) > 0.95


class Levels(nn.Module):
    """Latents (B, 1, h, w) of the mean gray of each patch."""

    def forward(self, images):
        gray = images.mean(1, keepdim=True)
        return nn.functional.avg_pool2d(gray, 4)


def gray_model(levels, channels=1):
    """A model whose codes are gray levels and whose decoder paints them."""
    quantizer = EuclideanQuantizer(len(levels), 1)
    quantizer.codebook.data = torch.tensor(levels)[:, None]
    model = VQVAE(channels, quantizer, hidden=4, residual_hidden=1)
    model.encoder = Levels()
    model.decoder = nn.Upsample(scale_factor=4)
    return model.eval()


class Brightness:
    """Reads images as bright (1) or dark (0)."""

    accuracy = 1.0

    def features(self, images):
        return images.flatten(1)

    def predict(self, images):
        means = images.flatten(1).mean(1)
        return (means > 0).long()


def plain(*grays):
    """Images of 8 x 8 pixels, each of one gray."""
    return torch.tensor(grays).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_replacing_a_code_puts_the_nearest_code_in_use_in_its_place():
    # Codes of one component have the angles 0 and pi. Code 2 is not used, so 0 and 1 are nearest
    # to each other.
    model = gray_model([-0.9, -0.5, -0.7, 0.5])
    effect = replacement_effect(model, plain(-0.9, -0.5, -0.5, 0.5), Brightness())
    # dark stays dark under 0 <-> 1, and the bright code gives way to a dark one
    assert effect.mean == pytest.approx(1 / 3)
    assert effect.largest == 1
    assert effect.code == 3


def test_near_is_meant_by_angle():
    quantizer = EuclideanQuantizer(3, 2)
    # The long one is far in angle.
    quantizer.codebook.data = torch.tensor([[0.1, 1], [-0.1, 0.6], [3, 1.5]])
    model = VQVAE(1, quantizer, hidden=4, residual_hidden=1)
    # The latent of a patch of mean gray g is (3 g, 1).
    to_latents = nn.Conv2d(1, 2, 1)
    to_latents.weight.data = torch.tensor([3.0, 0]).view(2, 1, 1, 1)
    to_latents.bias.data = torch.tensor([0.0, 1])
    model.encoder = nn.Sequential(Levels(), to_latents)
    model.decoder = nn.Upsample(scale_factor=4)

    class FirstChannel(Brightness):
        def predict(self, images):
            return super().predict(images[:, :1])

    effect = replacement_effect(model, plain(0.03, -0.2, 1.0), FirstChannel())
    assert effect.mean == pytest.approx(2 / 3)


def test_only_images_that_hold_the_code_are_counted_and_all_places_of_it_change():
    model = gray_model([0.2, -0.4])
    images = plain(0.2, -0.4, -0.4, -0.4).clone()
    images[1, :, :, :4] = 0.2  # half bright: reads as dark
    effect = replacement_effect(model, images, Brightness())
    # code 0 in images 0 and 1: the first turns dark. code 1 in images 1 to 3: all turn bright.
    assert effect.mean == pytest.approx((1 / 2 + 1) / 2)
    assert effect.largest == 1
    assert effect.code == 1


def test_replacing_changes_nothing_for_a_decoder_that_ignores_codes_and_is_undefined_for_one_code():
    model = gray_model([-0.5, 0.5])
    images = plain(-0.5, 0.5, 0.5)
    effect = replacement_effect(model, images, Brightness())
    assert effect.largest == 1

    alone = replacement_effect(model, plain(0.5), Brightness())
    assert math.isnan(alone.mean)
    assert math.isnan(alone.largest)
    assert alone.code == 1

    always_white = nn.Threshold(10, 1)
    model.decoder = nn.Sequential(nn.Upsample(scale_factor=4), always_white)
    effect = replacement_effect(model, images, Brightness())
    assert effect.mean == 0
    assert effect.largest == 0


def test_the_titles_name_how_many_codes_are_replaced():
    # 33 codes in use: the last one, which alone is bright, is used least and is not replaced.
    grays = torch.linspace(-0.9, -0.1, 32).tolist()
    model = gray_model([*grays, 0.5])
    effect = replacement_effect(model, plain(*grays, *grays, 0.5), Brightness())
    assert effect.mean == effect.largest == 0
    for name in ("replacement_mean", "replacement_max"):
        assert "of the 32 most used codes" in MEASURES[name]


def test_models_with_several_codebooks_are_refused():
    stages = [EuclideanQuantizer(4, 2), EuclideanQuantizer(4, 2)]
    model = VQVAE(1, ResidualQuantizer(stages), hidden=4, residual_hidden=1)
    described = Run(model, rows=[], snapshots={}, settings={}, seconds=0.0)
    calls = {
        "replacement_effect": lambda: replacement_effect(model, plain(0.5), Brightness()),
        "describe_codes": lambda: describe_codes(described, data(), Brightness()),
        "stability": lambda: stability(gray_model([0.5]), model, plain(0.5)),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} takes one with a single codebook"):
            call()


def test_no_images_are_refused():
    with pytest.raises(ValueError, match=r"shape \(0, 1, 8, 8\); at least one is needed"):
        replacement_effect(gray_model([0.5, 0.7]), plain(0.5)[:0], Brightness())
    images = data()
    empty = dataclasses.replace(images, test=images.test.first(0))
    with pytest.raises(ValueError, match="has no test images; at least one is needed"):
        describe_codes(run(), empty, Brightness())


def test_a_model_with_its_own_codes_in_another_order_is_stable_and_one_with_other_codes_is_not():
    # In float64, because two of these codes are nearly equidistant from a latent.
    model = VQVAE(1, EuclideanQuantizer(16, 4), hidden=8, residual_hidden=2).double()
    images = torch.rand(20, 1, 8, 8).double() * 2 - 1
    latents = model.latents(images).transpose(0, 1).flatten(1).T
    codebook = latents[:16].clone()
    model.quantizer.codebook.data = codebook
    other = copy.deepcopy(model)
    other.quantizer.codebook.data = codebook[torch.randperm(16)]
    same = stability(model, other, images)
    assert same["agreement"] == 1
    assert same["adjusted_mutual_information"] == pytest.approx(1)
    assert 1 / 16 < same["agreement_chance"] < 0.6

    other.quantizer.codebook.data = torch.randn(16, 4).double()
    different = stability(model, other, images)
    assert different["agreement"] < 0.8

    finer = VQVAE(1, EuclideanQuantizer(16, 4), hidden=8, residual_hidden=2, downsample=2)
    with pytest.raises(ValueError, match=r"latent grids \(2, 2\) and \(4, 4\); they must be equal"):
        stability(model, finer.double(), images)


def split(count, channels, classes):
    """Dark noise; images of class 1 are bright on the right."""
    images = torch.randint(0, 90, (count, channels, 8, 8))
    labels = torch.arange(count) % classes
    images[labels == 1, :, :, 4:] += 150
    return ImageSplit(images.to(torch.uint8), labels)


def data(channels=1, classes=2):
    train = split(120, channels, classes)
    validation = split(10, channels, classes)
    test = split(80, channels, classes)
    names = ("a", "b")[:classes]
    return ImageData("bars", train, validation, test, names)


def run(channels=1):
    levels = torch.linspace(-1, 1, 16).tolist()
    model = gray_model(levels, channels)
    return Run(model, rows=[], snapshots={}, settings={}, seconds=0.0)


def test_describing_a_run_gives_a_number_for_each_measure():
    found = describe_codes(run(), data(), Brightness())
    assert list(found) == list(MEASURES)
    assert all(math.isfinite(value) for value in found.values())
    assert found["grey_information"] > 1.5 > found["edge_information"]
    for name in ("pixels", "latents", "bag_of_codes", "codes"):
        assert found[f"probe_{name}"] > 0.95
    assert found["class_information"] > 0.2
    assert found["purity"] > found["purity_chance"] + 0.1
    assert 0 <= found["replacement_mean"] <= found["replacement_max"] <= 1


def fixed(grays, labels):
    """Images of 2 x 2 patches with these grays (n, 2, 2) and some noise, in all three parts."""
    patches = grays.repeat_interleave(4, 1).repeat_interleave(4, 2)
    noise = 0.1 * torch.randn(len(grays), 8, 8)
    images = (patches + noise).clamp(-1, 1)
    pixels = 127.5 * (images + 1)
    part = ImageSplit(pixels[:, None].to(torch.uint8), labels)
    return ImageData("fixed", part, part, part, ("a", "b"))


def test_codes_of_one_place_each_tell_the_position_and_nothing_of_the_class():
    grays = torch.tensor([[-0.8, -0.26], [0.26, 0.8]]).expand(200, 2, 2)
    labels = torch.randint(2, (200,))
    images = fixed(grays, labels)
    found = describe_codes(run(), images, None)
    assert found["position_information"] == pytest.approx(2, abs=0.1)
    assert found["class_information"] == pytest.approx(0, abs=0.01)
    pixels = images.test.batch(torch.arange(200))
    codes = run().model.encode(pixels)
    slants = quantile_bins(slant(pixels))
    assert found["slant_information"] == excess_information(codes, slants)


def test_counts_of_codes_do_not_know_where_they_stand():
    labels = torch.arange(200) % 2
    left = torch.tensor([[0.5, -0.5], [0.5, -0.5]])
    right = -left
    grays = torch.where(labels[:, None, None] == 0, left, right)
    images = fixed(grays, labels)
    found = describe_codes(run(), images, None)
    assert found["probe_bag_of_codes"] < 0.8
    assert found["probe_pixels"] == found["probe_latents"] == 1
    assert found["probe_codes"] == 1
    assert found["purity"] < 0.7


def test_measures_that_images_do_not_have_are_missing():
    def missing(found):
        return {name for name, value in found.items() if math.isnan(value)}

    strokes = {"stroke_width_information", "slant_information"}
    replacement = {"replacement_mean", "replacement_max"}
    of_class = {name for name in MEASURES if name.startswith(("class", "purity", "probe"))}
    of_one_class = describe_codes(run(), data(classes=1), None)
    assert missing(of_one_class) == of_class | replacement
    in_color = describe_codes(run(channels=3), data(channels=3), Brightness())
    assert missing(in_color) == strokes


def test_images_without_an_edge_lack_the_information_on_edges_alone():
    def flat(count):
        labels = torch.arange(count) % 2
        dark = torch.randint(0, 120, (count,))
        bright = torch.randint(130, 256, (count,))
        grays = torch.where(labels == 0, dark, bright).to(torch.uint8)
        images = grays.view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
        return ImageSplit(images, labels)

    images = ImageData("flat", flat(120), flat(10), flat(80), ("a", "b"))
    found = describe_codes(run(), images, Brightness())
    missing = [name for name, value in found.items() if math.isnan(value)]
    assert missing == ["edge_information"]
    assert found["class_information"] > 0.5


def test_a_window_is_the_patch_of_a_token_and_its_eight_neighbors():
    images = torch.arange(2 * 12 * 9.0).reshape(2, 1, 12, 9)
    indices = torch.zeros(2, 4, 3, dtype=torch.int64)
    indices[1, 2, 1] = 7
    (window,) = windows(images, indices, 7)
    # Patches are 3 x 3 pixels; that of row 2 and column 1 begins at pixel (6, 3).
    assert torch.equal(window, images[1, :, 3:12, 0:9])


def test_windows_repeat_the_border_of_the_image():
    images = torch.randn(1, 3, 4, 4)
    indices = torch.tensor([[[5, 0], [0, 0]]])
    (window,) = windows(images, indices, 5)
    rows = torch.tensor([0, 0, 0, 1, 2, 3])
    columns = rows
    expected = images[0][:, rows][:, :, columns]
    assert torch.equal(window, expected)


def test_the_mean_window_is_the_mean_over_the_tokens_of_each_code():
    images = torch.randn(6, 1, 8, 8)
    indices = torch.randint(3, (6, 2, 2), generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([2, 0])
    found = mean_windows(images, indices, codes)
    for code, window in zip(codes.tolist(), found, strict=True):
        tokens = (indices == code).sum()
        expected = sum(windows(images, indices, code)) / tokens
        assert torch.allclose(window, expected, atol=1e-6)


def test_a_code_without_tokens_has_no_mean_window():
    images = torch.randn(1, 1, 4, 4)
    indices = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="code 4 has no tokens"):
        mean_windows(images, indices, torch.tensor([4]))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 3, 2)])
def test_windows_of_tokens_that_do_not_fit_the_images_are_refused(shape):
    images = torch.randn(1, 1, 4, 4)
    indices = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not fit images of shape"):
        windows(images, indices, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_of_any_precision_are_probed(dtype):
    labels = torch.arange(40) % 2
    features = torch.stack([labels.double(), torch.randn(40).double()], dim=1).to(dtype)
    assert linear_probe(features, labels, features, labels) == 1.0
