"""What individual codes stand for.

The measures fall into four groups: how much a code tells about its image and its patch (mutual
information, purity), what a linear classifier can read from codes (probes), what changes in a
decoded image when one code is replaced, and whether a second training run finds the same codes.

A token is one index of an encoded image. Mutual information and purity grow with the number of
codes by chance alone, so both come with a chance level: the same measure for shuffled values.
All functions raise a ValueError when there are no tokens.
"""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize, pad

from arcvq.analysis.sample_quality import ImageClassifier
from arcvq.autoencoder import Autoencoder
from arcvq.geometry import usage_counts
from arcvq.images import ImageData, ImageSplit
from arcvq.runtime.checks import as_integers, check_finite
from arcvq.runtime.precision import at_least_float32
from arcvq.training import Run, check_single

Codes = Integer[Tensor, "N *tokens"]  # one token a row, or all tokens of an image in a row
Values = Integer[Tensor, " N"]  # that all tokens of a row share, such as a class
Images = Float[Tensor, "B C H W"]

BINS = 8  # of the quantile bins that turn a continuous attribute into classes
SHUFFLES = 5  # that a chance level averages over
MIN_ANISOTROPY = 1e-3  # below this difference of the structure tensor's eigenvalues: no direction
PROBE_IMAGES = 4000  # training images that the linear probes learn from
RIDGE_ALPHA = 100.0  # of the linear probes
REPLACEMENT_IMAGES = 500  # test images in which codes are replaced
REPLACED_CODES = 32  # at most, the most used ones
BATCH_SIZE = 500

MEASURES = {
    "class_information": "information on the class (bits per token)",
    "stroke_width_information": "information on the stroke width (bits per token)",
    "slant_information": "information on the slant (bits per token)",
    "grey_information": "information on the patch's gray (bits per token)",
    "edge_information": "information on the patch's edge direction (bits per token)",
    "position_information": "information on the position (bits per token)",
    "purity": "purity (share of tokens)",
    "purity_chance": "purity by chance (share of tokens)",
    "probe_pixels": "linear probe on pixels (accuracy)",
    "probe_latents": "linear probe on latents (accuracy)",
    "probe_bag_of_codes": "linear probe on counts of codes (accuracy)",
    "probe_codes": "linear probe on codes in place (accuracy)",
    "replacement_mean": (
        f"readings changed by replacing one of the {REPLACED_CODES} most used codes "
        "(share of images)"
    ),
    "replacement_max": (
        f"readings changed by replacing the most telling of the {REPLACED_CODES} most used codes "
        "(share of images)"
    ),
}


def mutual_information(codes: Codes, values: Values) -> float:
    """Mutual information I(code; value) in bits per token.

    This is the plug-in estimate from the table of counts. It lies between 0 and the smaller of the
    two entropies.
    """
    from sklearn.metrics import mutual_info_score

    # scikit-learn gives nats.
    nats = mutual_info_score(*_tokens_and_values(codes, values))
    return float(nats) / math.log(2)


def excess_information(codes: Codes, values: Values) -> float:
    """Mutual information minus its chance level, in bits per token.

    About 0 for values that are independent of the codes. For values that the codes determine
    completely it is the entropy of the values minus the chance level.
    """
    return mutual_information(codes, values) - chance(mutual_information, codes, values)


def purity(codes: Codes, labels: Values) -> float:
    """The share of tokens that belong to the most frequent class of their code.

    It lies between the share of the largest class and 1 (Manning et al. 2008, section 16.3). A code
    that occurs once is pure by definition, so compare with `chance(purity, codes, labels)`.
    """
    table = _contingency_table(codes, labels)
    return float(table.max(axis=1).sum() / table.sum())


def agreement(codes: Integer[Tensor, " N"], others: Integer[Tensor, " N"]) -> float:
    """The share of tokens whose two codes are matched with each other.

    The matching is one to one and is chosen to make this share as large as possible.
    """
    from scipy.optimize import linear_sum_assignment

    # The Hungarian method on the table of counts.
    table = _contingency_table(codes, others)
    matching = linear_sum_assignment(table, maximize=True)
    return float(table[matching].sum() / table.sum())


def chance(
    measure: Callable[[Tensor, Tensor], float],
    codes: Codes,
    values: Values,
) -> float:
    """The chance level of a measure: its mean over 5 random shuffles of the values.

    Only whole rows are shuffled, because the tokens of one image are not independent. The shuffles
    are the same each time.
    """
    generator = torch.Generator().manual_seed(0)
    values = as_integers(values, "values")
    levels = []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(values), generator=generator)
        levels.append(measure(codes, values[order]))
    return statistics.fmean(levels)


def _tokens_and_values(codes: Tensor, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The code of each token and the value of its row, as two flat arrays."""
    if not codes.numel():
        shape = tuple(codes.shape)
        raise ValueError(f"codes have the shape {shape}; at least one token is needed")
    codes = as_integers(codes, "codes").cpu()
    values = as_integers(values, "values").cpu()
    # All tokens of a row have the value of the row.
    repeated = values.repeat_interleave(codes[0].numel())
    return codes.flatten().numpy(), repeated.numpy()


def _contingency_table(codes: Tensor, values: Tensor) -> np.ndarray:
    """How many tokens have each code (row) and each value (column), of those that occur."""
    from sklearn.metrics.cluster import contingency_matrix

    return contingency_matrix(*_tokens_and_values(codes, values))


def stroke_width(images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Estimate the stroke width of bright ink on black, in pixels: 2 area / perimeter.

    This is the width of a stroke that is much longer than wide, and 0 for an image without ink. The
    area is the sum of the ink, (x + 1) / 2. The perimeter is the sum of the length of its gradient
    (central differences, black around the image), which for sharp edges is the length of the
    outline. A stroke of one pixel comes out as two.
    """
    # A black border of two pixels, so that differences see the outline of ink at the edge.
    ink = pad((images[:, 0] + 1) / 2, (2, 2, 2, 2))
    down, right = torch.gradient(ink, dim=(1, 2))
    area = ink.sum((1, 2))
    perimeter = torch.hypot(down, right).sum((1, 2))
    return 2 * area / perimeter.clamp_min(1e-6)


def slant(images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Estimate how far bright ink leans to the right, in degrees from -90 to 90.

    The angle is atan(-mu11 / mu02), where mu are the central moments of the ink, (x + 1) / 2, and y
    points downward. It is exact for an upright figure that was sheared, and 0 for ink without
    height.
    """
    ink = (images[:, 0] + 1) / 2
    height, width = ink.shape[1:]
    mass = ink.sum((1, 2), keepdim=True).clamp_min(1e-6)

    def from_center(places: Tensor) -> Tensor:
        return places - (ink * places).sum((1, 2), keepdim=True) / mass

    y = from_center(torch.arange(float(height), device=ink.device)[:, None])
    x = from_center(torch.arange(float(width), device=ink.device))
    # The central moments, up to a common factor.
    mu11 = (ink * x * y).sum((1, 2))
    mu02 = (ink * y * y).sum((1, 2))
    return torch.rad2deg(torch.atan(-mu11 / mu02.clamp_min(1e-6)))


def patch_gray(images: Images, grid: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """The mean over all pixels and channels of each patch, the part of the image under one token.

    Args:
        images: Images whose height and width are multiples of the grid's.
        grid: (h, w), how many tokens an image has down and across.
    """
    return adaptive_avg_pool2d(images.mean(dim=1), grid)


def edge_direction(images: Images, grid: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """The direction of the edges in each patch, in degrees from 0 (level) to 180.

    45 rises to the right. The direction is perpendicular to the principal axis of J, the structure
    tensor of the gray values averaged over the patch (Bigun and Granlund 1987):
    90 + atan2(2 Jxy, Jxx - Jyy) / 2, with y pointing upward and differences taken inside the patch
    only. It is NaN where the eigenvalues of J differ by less than 0.001, as in flat patches and
    round dots.

    Args:
        images: Images whose height and width are multiples of the grid's.
        grid: (h, w), how many tokens an image has down and across.

    Raises:
        ValueError: If the patches are not of whole pixels, at least 2 x 2.
    """
    rows, columns = grid
    height, width = images.shape[2:]
    if height % rows or width % columns or height < 2 * rows or width < 2 * columns:
        raise ValueError(
            f"images of {height} x {width} pixels with {rows} x {columns} tokens have no edges to "
            "measure; each token needs a patch of whole pixels, at least 2 x 2"
        )
    # (B, h, rows of a patch, w, columns of a patch)
    patches = images.mean(dim=1).unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
    down, right = torch.gradient(patches, dim=(2, 4))
    # Jxx - Jyy and 2 Jxy; the minus sign turns y upward.
    difference = (right.square() - down.square()).mean((2, 4))
    mixed = (-2 * right * down).mean((2, 4))

    direction = (90 + torch.rad2deg(torch.atan2(mixed, difference)) / 2) % 180
    # The difference of the eigenvalues of J: without it there is no direction.
    anisotropy = torch.hypot(mixed, difference)
    return direction.where(anisotropy >= MIN_ANISOTROPY, math.nan)


def windows(
    images: Images, indices: Integer[Tensor, "_B h w"], code: int
) -> Float[Tensor, "n C height width"]:
    """Cut out of images what surrounds each token of a code.

    A window is three patches high and three wide, with the patch of the token in its middle. Beyond
    the border of an image, the pixels of the border are repeated.

    Args:
        images: Images whose height and width are multiples of the grid's.
        indices: Their tokens.
        code: The code.

    Returns:
        A window for each token of the code, in the order of the tokens; on the device of the
        images.

    Raises:
        ValueError: If images and tokens do not fit each other.
    """
    return _windows_of(code, _all_windows(images, indices), indices)


def _all_windows(
    images: Images, indices: Integer[Tensor, "_B h w"]
) -> Float[Tensor, "B C h w height width"]:
    """The window around each token, as a view of the images with their border repeated."""
    count, _, height, width = images.shape
    rows, columns = indices.shape[1:]
    if len(indices) != count or height % rows or width % columns:
        raise ValueError(
            f"tokens of shape {tuple(indices.shape)} do not fit images of shape "
            f"{tuple(images.shape)}; each token needs a patch of whole pixels"
        )
    down = height // rows
    across = width // columns
    padded = pad(images, (across, across, down, down), mode="replicate")
    return padded.unfold(2, 3 * down, down).unfold(3, 3 * across, across)


def _windows_of(
    code: int, cut: Float[Tensor, "B C h w height width"], indices: Integer[Tensor, "B h w"]
) -> Float[Tensor, "n C height width"]:
    """The windows around the tokens of a code."""
    image, row, column = (indices == code).to(cut.device).nonzero(as_tuple=True)
    return cut[image, :, row, column]


def mean_windows(
    images: Images, indices: Integer[Tensor, "_B h w"], codes: Integer[Tensor, " n"]
) -> Float[Tensor, "n C height width"]:
    """Average the `windows` of each code: what the images look like where a code was chosen.

    Args:
        images: As for `windows`.
        indices: As for `windows`.
        codes: Codes that have tokens.

    Raises:
        ValueError: If images and tokens do not fit each other, or a code has no tokens.
    """
    cut = _all_windows(images, indices)
    means = []
    for code in codes.tolist():
        found = _windows_of(code, cut, indices)
        if len(found) == 0:
            raise ValueError(f"code {code} has no tokens, so it has no mean window")
        means.append(found.mean(dim=0))
    return torch.stack(means)


def quantile_bins(values: Float[Tensor, " N"]) -> Values:
    """Sort values into 8 bins, 0 to 7, at their quantiles.

    Equal values share a bin, so some bins may stay empty.

    Raises:
        ValueError: For no values, and for NaN or infinity.
    """
    if not values.numel():
        raise ValueError(f"values have the shape {tuple(values.shape)}; at least one is needed")
    check_finite(values, "attribute")
    values = values.cpu().double()
    # NumPy, since torch.quantile takes at most 16 million values.
    edges = np.quantile(values.numpy(), np.linspace(0, 1, BINS + 1)[1:-1])
    return torch.bucketize(values, torch.from_numpy(edges))


def linear_probe(
    train_features: Float[Tensor, "N F"],
    train_labels: Values,
    test_features: Float[Tensor, "M F"],
    test_labels: Integer[Tensor, " M"],
) -> float:
    """The test accuracy, 0 to 1, of a linear classifier trained on features.

    This is scikit-learn's RidgeClassifier on features scaled to mean 0 and variance 1. Its alpha is
    100 for all features: it was chosen once on the validation digits, where 30 and 300 give the
    same accuracy to within 0.01.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE_ALPHA))
    probe.fit(_numbers(train_features), _numbers(train_labels))
    return float(probe.score(_numbers(test_features), _numbers(test_labels)))


def _numbers(tensor: Tensor) -> np.ndarray:
    """The tensor for scikit-learn; NumPy has no bfloat16."""
    if tensor.is_floating_point():
        tensor = at_least_float32(tensor)
    return tensor.detach().cpu().numpy()


class Replacement(NamedTuple):
    """The share of images whose predicted class changes when a code is replaced.

    Attributes:
        mean: The mean over the 32 most used codes, or over all in use if they are fewer.
        largest: The largest share of one of these codes.
        code: The one that has it.
    """

    mean: float
    largest: float
    code: int


@torch.no_grad()
def replacement_effect(
    model: Autoencoder, images: Images, classifier: ImageClassifier
) -> Replacement:
    """Measure how often the predicted class changes when a code is replaced by its neighbor.

    This is done for each of the 32 most used codes in turn. Everywhere it occurs, the code is
    replaced by the code in use at the smallest angle to it. The prediction for the decoded image is
    then compared with that for the ordinary reconstruction.

    Args:
        model: The model that encodes and decodes.
        images: Images in [-1, 1] on the model's device.
        classifier: What predicts the class of a decoded image.

    Returns:
        Shares over the images that contain the code; NaN if only one code is in use.

    Raises:
        ValueError: For no images, and for a quantizer with several codebooks.
    """
    check_single(model.quantizer, "replacement_effect")
    if not len(images):
        raise ValueError(f"images have the shape {tuple(images.shape)}; at least one is needed")
    indices = _in_batches(model.encode, images)
    counts = usage_counts(indices, model.quantizer.num_codes)
    # The codes in use, the most frequent first.
    num_used = int((counts > 0).sum())
    used = counts.argsort(descending=True, stable=True)[:num_used]
    if num_used < 2:
        return Replacement(math.nan, math.nan, int(used[0]))

    replaced_codes = used[:REPLACED_CODES]
    units = normalize(model.quantizer.codebook[used], dim=1)
    # The replaced codes come first in `used`; none is its own neighbor.
    cosines = (units[: len(replaced_codes)] @ units.T).fill_diagonal_(-math.inf)
    neighbors = used[cosines.argmax(dim=1)]

    def predict(indices: Tensor) -> Tensor:
        return classifier.predict(model.decode(indices)).to(indices.device)

    predictions = _in_batches(predict, indices)
    shares = []
    for code, neighbor in zip(replaced_codes, neighbors, strict=True):
        # Only images that contain the code are decoded again.
        containing = (indices == code).flatten(1).any(dim=1)
        original = indices[containing]
        replaced = original.where(original != code, neighbor)
        changed = _in_batches(predict, replaced) != predictions[containing]
        shares.append(changed.double().mean().item())
    largest = max(shares)
    return Replacement(statistics.fmean(shares), largest, int(used[shares.index(largest)]))


def stability(model: Autoencoder, other: Autoencoder, images: Images) -> dict[str, float]:
    """Measure how far two models give the same images the same codes, up to renumbering.

    Typically these are two runs with different seeds.

    Returns:
        - agreement: see `agreement`, for tokens at the same place of the same image.
        - agreement_chance: its chance level, with the tokens of one model shuffled.
        - adjusted_mutual_information: 1 for the same codes, 0 by chance (Vinh et al. 2010).

    Raises:
        ValueError: If the latent grids of the two models differ in size, and for a quantizer with
            several codebooks.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    check_single(model.quantizer, "stability")
    check_single(other.quantizer, "stability")
    tokens = _in_batches(model.encode, images)
    others = _in_batches(other.encode, images)
    if tokens.shape != others.shape:
        raise ValueError(
            f"the models have latent grids {tuple(tokens.shape[1:])} and "
            f"{tuple(others.shape[1:])}; they must be equal"
        )
    codes = tokens.flatten()
    partners = others.flatten()
    adjusted = adjusted_mutual_info_score(*_tokens_and_values(codes, partners))
    return {
        "agreement": agreement(codes, partners),
        "agreement_chance": chance(agreement, codes, partners),
        "adjusted_mutual_information": float(adjusted),
    }


class _Encoded(NamedTuple):
    """Images of a split and what a model makes of them."""

    pixels: Images
    latents: Float[Tensor, "B D h w"]
    tokens: Int64[Tensor, "B h w"]


def describe_codes(
    run: Run, data: ImageData, classifier: ImageClassifier | None
) -> dict[str, float]:
    """Measure on the test images what the codes of a run stand for.

    Each information is the excess over its chance level; attributes other than class and position
    are cut into 8 quantile bins. The linear probes learn from the first 4,000 training images, and
    codes are replaced in the first 500 test images.

    Args:
        run: The trained model.
        data: The images that it was trained on.
        classifier: What predicts classes for `replacement_effect`.

    Returns:
        A number for each key of `MEASURES`. NaN marks what cannot be measured: all that needs
        classes for images of one class, replacement without a classifier, stroke width and slant
        for images of several channels, the edge direction where no patch has one.

    Raises:
        ValueError: For no test images, and for a quantizer with several codebooks.
    """
    check_single(run.model.quantizer, "describe_codes")
    if not len(data.test):
        raise ValueError(f"{data.name} has no test images; at least one is needed")
    data = data.to(run.model.quantizer.codebook.device)
    labels = data.test.labels
    test = _encode_split(run.model, data.test)

    found = dict.fromkeys(MEASURES, math.nan)
    found |= _patch_information(test)
    if data.channels == 1:
        width = quantile_bins(stroke_width(test.pixels))
        lean = quantile_bins(slant(test.pixels))
        found["stroke_width_information"] = excess_information(test.tokens, width)
        found["slant_information"] = excess_information(test.tokens, lean)
    # With a single class there is nothing to tell and nothing to learn.
    if len(labels.unique()) > 1 and len(data.train.labels.unique()) > 1:
        found["class_information"] = excess_information(test.tokens, labels)
        found["purity"] = purity(test.tokens, labels)
        found["purity_chance"] = chance(purity, test.tokens, labels)
        found |= _probe_accuracies(run.model, data, test)
    if classifier is not None:
        effect = replacement_effect(run.model, test.pixels[:REPLACEMENT_IMAGES], classifier)
        found["replacement_mean"] = effect.mean
        found["replacement_max"] = effect.largest
    return found


def _encode_split(model: Autoencoder, split: ImageSplit) -> _Encoded:
    """Encode all images of a split."""
    pixels = split.batch(torch.arange(len(split)))
    latents = _in_batches(model.latents, pixels)
    return _Encoded(pixels, latents, _in_batches(model.quantizer.encode, latents))


def _in_batches(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """The joined results of a function on batches of rows."""
    return torch.cat([function(batch) for batch in rows.split(BATCH_SIZE)])


def _patch_information(encoded: _Encoded) -> dict[str, float]:
    """What a token tells about its own patch and place."""
    count, height, width = encoded.tokens.shape
    grid = (height, width)
    # Each token has a patch of its own, so here a row is a token and not an image.
    codes = encoded.tokens.flatten()
    gray = patch_gray(encoded.pixels, grid).flatten()
    position = torch.arange(height * width).repeat(count)
    found = {
        "grey_information": excess_information(codes, quantile_bins(gray)),
        "position_information": excess_information(codes, position),
    }
    if encoded.pixels.shape[2] < 2 * height or encoded.pixels.shape[3] < 2 * width:
        return found  # patches of a single pixel have no edges
    direction = edge_direction(encoded.pixels, grid).flatten()
    # Patches without a direction are left out.
    has_edge = ~direction.isnan()
    if has_edge.any():
        bins = quantile_bins(direction[has_edge])
        found["edge_information"] = excess_information(codes[has_edge], bins)
    return found


def _probe_accuracies(model: Autoencoder, data: ImageData, test: _Encoded) -> dict[str, float]:
    """The accuracy of linear probes on pixels and on what the model makes of them."""
    train = data.train.first(PROBE_IMAGES)
    train_features = _probe_features(model, _encode_split(model, train))
    test_features = _probe_features(model, test)
    found = {}
    for name, features in train_features.items():
        accuracy = linear_probe(features, train.labels, test_features[name], data.test.labels)
        found[f"probe_{name}"] = accuracy
    return found


def _probe_features(model: Autoencoder, encoded: _Encoded) -> dict[str, Tensor]:
    """The features of each probe, one row an image."""
    tokens = encoded.tokens.flatten(1)
    counts = encoded.pixels.new_zeros(len(tokens), model.quantizer.num_codes)
    codes = _in_batches(model.quantizer.lookup, encoded.tokens)
    return {
        "pixels": encoded.pixels.flatten(1),
        "latents": encoded.latents.flatten(1),
        "bag_of_codes": counts.scatter_add(1, tokens, torch.ones_like(tokens, dtype=counts.dtype)),
        "codes": codes.flatten(1),
    }
