"""What single codes stand for: what they tell of images and patches, what they change, if another seed finds them.

Tokens are the indices that a model gives to images. Information and purity grow with the number of codes by chance
alone, so both have a chance level: the same for shuffled values. Where there are no tokens, all raise a ValueError.
"""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize, pad

from arcvq.analysis.sample_quality import Reader
from arcvq.geometry import usage_counts
from arcvq.images import ImageData, ImageSplit, to_float
from arcvq.training import Run
from arcvq.vqvae import VQVAE

BINS, SHUFFLES = 8, 5
FLAT = 1e-3  # squared change of grey from pixel to pixel, below which a patch has no direction
PROBE_IMAGES, REPLACEMENT_IMAGES, BATCH = 4000, 500, 500
ALPHA = 100.0  # of the probes

MEASURES = {
    "class_information": "information on the class (bits per token)",
    "stroke_width_information": "information on the stroke width (bits per token)",
    "slant_information": "information on the slant (bits per token)",
    "grey_information": "information on the patch's grey (bits per token)",
    "edge_information": "information on the patch's edge direction (bits per token)",
    "position_information": "information on the position (bits per token)",
    "purity": "purity (share of tokens)",
    "purity_chance": "purity by chance (share of tokens)",
    "probe_pixels": "linear probe on pixels (accuracy)",
    "probe_latents": "linear probe on latents (accuracy)",
    "probe_bag_of_codes": "linear probe on counts of codes (accuracy)",
    "probe_codes": "linear probe on codes in place (accuracy)",
    "replacement_mean": "readings changed by replacing a code (share of images)",
    "replacement_max": "readings changed by replacing the most telling code (share of images)",
}


def mutual_information(codes: Int[Tensor, "N *tokens"], values: Int[Tensor, " N"]) -> float:
    """I(code; value) in bits per token, from 0 to the smaller entropy: the plug-in estimate from the table of counts.

    A row of codes, one token or all tokens of an image, has one value.
    """
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(*_paired(codes, values))) / math.log(2)


def excess_information(codes: Int[Tensor, "N *tokens"], values: Int[Tensor, " N"], seed: int = 0) -> float:
    """`mutual_information` less its `chance` level, in bits per token: about 0 for values that codes do not tell.

    For values that codes tell in full it is their entropy less that level.
    """
    return mutual_information(codes, values) - chance(mutual_information, codes, values, seed)


def purity(codes: Int[Tensor, "N *tokens"], labels: Int[Tensor, " N"]) -> float:
    """The share of tokens whose class is the most frequent class of their code (Manning et al. 2008, section 16.3).

    From the share of the largest class to 1. A code of one token is pure: compare with `chance(purity, ...)`.
    """
    table = _counts(codes, labels)
    return float(table.max(axis=1).sum() / table.sum())


def agreement(codes: Int[Tensor, " N"], others: Int[Tensor, " N"]) -> float:
    """The share of tokens whose two codes are partners, in the one-to-one matching that makes this share largest."""
    from scipy.optimize import linear_sum_assignment

    table = _counts(codes, others)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def chance(measure: Callable[[Tensor, Tensor], float], codes: Int[Tensor, "N *tokens"], values: Int[Tensor, " N"],
           seed: int = 0) -> float:
    """What a measure of codes and values gives for shuffled values: the mean of 5 shuffles, the same for a seed.

    Rows of codes stay whole, since the tokens of one image are not independent.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(values), generator=generator).to(values.device) for _ in range(SHUFFLES)]
    return statistics.fmean(measure(codes, values[order]) for order in orders)


def _paired(codes: Tensor, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Code and value of each token."""
    if not codes.numel():
        raise ValueError(f"codes have the shape {tuple(codes.shape)}; at least one token is needed")
    rows = codes.reshape(len(codes), -1)
    return rows.flatten().cpu().numpy(), values.cpu().repeat_interleave(rows.shape[1]).numpy()


def _counts(codes: Tensor, values: Tensor) -> np.ndarray:
    """How many tokens have each code (row) and each value (column), of those that occur."""
    from sklearn.metrics.cluster import contingency_matrix

    return contingency_matrix(*_paired(codes, values))


def stroke_width(images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """2 area / perimeter in pixels: the width of a long stroke of bright ink on black; 0 without ink.

    Area is the sum of ink, (x + 1) / 2; perimeter the sum of its gradient's length (central differences, black around
    the image), which for sharp edges is the length of the outline. A stroke of one pixel reads as two.
    """
    ink = pad((images[:, 0] + 1) / 2, (2, 2, 2, 2))
    perimeter = torch.hypot(*torch.gradient(ink, dim=(1, 2))).sum((1, 2))
    return 2 * ink.sum((1, 2)) / perimeter.clamp_min(1e-6)


def slant(images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """How far bright ink leans to the right, -90 to 90 degrees: atan(-mu11 / mu02); 0 where ink has no height.

    mu are the central moments of ink, (x + 1) / 2, with y downwards: exact for an upright figure that was sheared.
    """
    ink = (images[:, 0] + 1) / 2
    mass = ink.sum((1, 2), keepdim=True).clamp_min(1e-6)
    axes = torch.meshgrid(*(torch.arange(float(size), device=ink.device) for size in ink.shape[1:]), indexing="ij")
    y, x = (axis - (ink * axis).sum((1, 2), keepdim=True) / mass for axis in axes)
    across, height = (ink * x * y).sum((1, 2)), (ink * y * y).sum((1, 2))
    return torch.rad2deg(torch.atan(-across / height.clamp_min(1e-6)))


def patch_grey(images: Float[Tensor, "B C H W"], grid: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """The mean of all pixels and channels in each patch, the pixels that belong to one token of the grid (h, w)."""
    return adaptive_avg_pool2d(images.mean(dim=1), grid)


def edge_direction(images: Float[Tensor, "B C H W"], grid: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """Along which way each patch has its edges: 0 (level) to 180 degrees, 45 rises to the right; NaN where undefined.

    At right angles to the main axis of the mean structure tensor J of the grey (Bigun and Granlund 1987):
    90 + atan2(2 Jxy, Jxx - Jyy) / 2, with y upwards and differences inside the patch only. Undefined where the
    eigenvalues of J differ by less than 0.001, as in flat patches and round dots. Patches are at least 2 x 2 pixels.
    """
    patches = images.mean(dim=1).unflatten(1, (grid[0], -1)).unflatten(3, (grid[1], -1))
    down, right = torch.gradient(patches, dim=(2, 4))
    difference, mixed = (right.square() - down.square()).mean((2, 4)), (-2 * right * down).mean((2, 4))
    along = (90 + torch.rad2deg(torch.atan2(mixed, difference)) / 2) % 180
    return along.where(torch.hypot(mixed, difference) >= FLAT, math.nan)


def quantile_bins(values: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The eighth, 0 to 7, that each value lies in; equal values share one, so that some may stay empty."""
    values = values.cpu().double()
    inner = np.quantile(values.numpy(), np.linspace(0, 1, BINS + 1)[1:-1])
    return torch.bucketize(values, torch.from_numpy(inner))


def linear_probe(train_features: Float[Tensor, "N F"], train_labels: Int[Tensor, " N"],
                 test_features: Float[Tensor, "M F"], test_labels: Int[Tensor, " M"]) -> float:
    """The share of test rows whose label a linear classifier reads rightly, 0 to 1.

    scikit-learn's RidgeClassifier on features of mean 0 and variance 1. alpha is 100 for all features, chosen once on
    the validation digits, where 30 and 300 give the same accuracy to 0.01.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=ALPHA))
    probe.fit(train_features.cpu().numpy(), train_labels.cpu().numpy())
    return float(probe.score(test_features.cpu().numpy(), test_labels.cpu().numpy()))


class Replacement(NamedTuple):
    """Shares of images whose reading changed: the mean over codes, and the largest with its code."""

    mean: float
    largest: float
    code: int


@torch.no_grad()
def replacement_effect(model: VQVAE, images: Float[Tensor, "B C H W"], classifier: Reader,
                       codes: int = 32) -> Replacement:
    """How often the reading of an image changes when one code of it gives way to its nearest neighbour.

    For each of the most used codes: wherever it stands, the other code in use at the smallest angle takes its place;
    the reading of the decoded image is compared with that of the reconstruction. codes: how many, from 1; fewer if
    fewer are used. NaN where only one is used. Raises ValueError for codes below 1.
    """
    if codes < 1:
        raise ValueError(f"codes is {codes}; it must be at least 1")
    indices = torch.cat([model.encode(block) for block in images.split(BATCH)])
    counts = usage_counts(indices, model.quantizer.num_codes)
    used = counts.argsort(descending=True, stable=True)[:int((counts > 0).sum())]
    if len(used) < 2:
        return Replacement(math.nan, math.nan, int(used[0]))
    units = normalize(model.quantizer.codebook[used], dim=1)
    neighbors = used[(units @ units.T).fill_diagonal_(-math.inf).argmax(dim=1)]
    readings = _readings(model, indices, classifier)
    shares = []
    for code, neighbor in zip(used[:codes], neighbors, strict=False):
        holding = (indices == code).flatten(1).any(dim=1)
        replaced = indices[holding].where(indices[holding] != code, neighbor)
        shares.append((_readings(model, replaced, classifier) != readings[holding]).double().mean().item())
    largest = max(shares)
    return Replacement(statistics.fmean(shares), largest, int(used[shares.index(largest)]))


def _readings(model: VQVAE, indices: Tensor, classifier: Reader) -> Int[Tensor, " B"]:
    return torch.cat([classifier.predict(model.decode(block)) for block in indices.split(BATCH)]).to(indices.device)


def stability(model: VQVAE, other: VQVAE, images: Float[Tensor, "B C H W"]) -> dict[str, float]:
    """How far two models, such as runs of two seeds, cut the same images into the same codes under other numbers.

    agreement: see `agreement`, for the tokens at the same places. agreement_chance: the same when the tokens of one
    model are shuffled. adjusted_mutual_information: 1 when the codes are the same, 0 by chance (Vinh et al. 2010).
    Raises ValueError for latent grids of two sizes.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    tokens, others = (torch.cat([one.encode(block) for block in images.split(BATCH)]) for one in (model, other))
    if tokens.shape != others.shape:
        raise ValueError(f"the models have latent grids {tuple(tokens.shape[1:])} and {tuple(others.shape[1:])}; they "
                         "must be equal")
    codes, partners = tokens.flatten(), others.flatten()
    return {"agreement": agreement(codes, partners), "agreement_chance": chance(agreement, codes, partners),
            "adjusted_mutual_information": float(adjusted_mutual_info_score(*_paired(codes, partners)))}


def describe_codes(run: Run, images: ImageData, classifier: Reader | None) -> dict[str, float]:
    """What the codes of one run stand for, on the test images: a number for each key of `MEASURES`.

    Information has its chance level taken off; attributes other than the position are cut into 8 quantile bins. The
    first 4,000 training images teach the probes; the first 500 test images show replacement. Class measures are NaN
    for images of one class, replacement without a classifier of these images, stroke width and slant for images of
    more than one channel, and the edge direction where no patch has one (`edge_direction`).
    """
    latents, tokens = _encoded(run.model, images.test)
    pixels, labels = to_float(images.test.images).cpu(), images.test.labels.cpu()
    found = dict.fromkeys(MEASURES, math.nan) | _patch_information(tokens, pixels)
    if images.channels == 1:
        found["stroke_width_information"] = excess_information(tokens, quantile_bins(stroke_width(pixels)))
        found["slant_information"] = excess_information(tokens, quantile_bins(slant(pixels)))
    if min(len(split.labels.unique()) for split in (images.train, images.test)) > 1:
        found["class_information"] = excess_information(tokens, labels)
        found["purity"], found["purity_chance"] = purity(tokens, labels), chance(purity, tokens, labels)
        found |= _probes(run.model, images, latents, tokens)
    if classifier is not None:
        some = pixels[:REPLACEMENT_IMAGES].to(run.model.quantizer.codebook.device)
        found["replacement_mean"], found["replacement_max"], _ = replacement_effect(run.model, some, classifier)
    return found


def _encoded(model: VQVAE, split: ImageSplit) -> tuple[Tensor, Tensor]:
    """Latents (B, D, h, w) and indices (B, h, w), on the CPU."""
    device = model.quantizer.codebook.device
    latents = [model.latents(split.batch(rows).to(device)) for rows in torch.arange(len(split)).split(BATCH)]
    return torch.cat(latents).cpu(), torch.cat([model.quantizer.encode(block) for block in latents]).cpu()


def _patch_information(tokens: Tensor, pixels: Tensor) -> dict[str, float]:
    """Information on each token's own place and patch; that on edges is of the tokens with a direction, NaN without."""
    count, height, width = tokens.shape
    grey, direction = (measure(pixels, (height, width)) for measure in (patch_grey, edge_direction))
    edged, position = ~direction.isnan(), torch.arange(height * width).repeat(count)
    edges = excess_information(tokens[edged], quantile_bins(direction[edged])) if edged.any() else math.nan
    return {"grey_information": excess_information(tokens.flatten(), quantile_bins(grey.flatten())),
            "edge_information": edges,
            "position_information": excess_information(tokens.flatten(), position)}


def _probes(model: VQVAE, images: ImageData, latents: Tensor, tokens: Tensor) -> dict[str, float]:
    """The accuracy of linear probes on what an image becomes on its way through the model."""
    train = images.train.first(PROBE_IMAGES)
    taught = _features(model, train, *_encoded(model, train))
    tested = _features(model, images.test, latents, tokens)
    return {f"probe_{name}": linear_probe(taught[name], train.labels, tested[name], images.test.labels)
            for name in taught}


def _features(model: VQVAE, split: ImageSplit, latents: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """One row for each image."""
    device, flat = model.quantizer.codebook.device, tokens.flatten(1)
    codes = torch.cat([model.quantizer.lookup(block.to(device)).cpu() for block in tokens.split(BATCH)])
    counts = torch.zeros(len(flat), model.quantizer.num_codes).scatter_add_(1, flat, torch.ones(flat.shape))
    return {"pixels": to_float(split.images).flatten(1), "latents": latents.flatten(1), "bag_of_codes": counts,
            "codes": codes.flatten(1)}
