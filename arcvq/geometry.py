"""Measures of a codebook, of the latents it quantizes and of the indices it gave them.

Functions take tensors and return numbers or detached float64 tensors. Angles are in radians.
A zero vector has no direction: measures that summarize directions leave it out; where every
pair or row has a value of its own, its angle counts as pi/2. NaN, infinity and tensors without
any vector raise ValueError. Indices may have any integer dtype.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer, Real
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from tqdm.auto import tqdm

from arcvq.runtime.checks import as_indices, as_seed, check_finite, check_whole
from arcvq.runtime.extras import extra_import
from arcvq.runtime.precision import as_float64
from arcvq.runtime.wording import short

if TYPE_CHECKING:
    import pandas as pd

SIDE = 512  # rows and columns of a block of cosines: 2 MiB in float64
ROUGH = 0.02  # largest error of a difference of cosines in any reduced precision of products
MOMENT = 1  # seconds without a progress bar
MAX_PAIRS = 2**29  # of `pairwise_angles`: 4 GiB
TINY = 1e-300  # the least divisor in float64: zero stays zero


def check_vectors(vectors: Float[Tensor, "N D"], at_least: int = 1) -> None:
    """Check that a tensor holds vectors as rows, finite and enough of them.

    Raises:
        ValueError: For another shape, fewer than `at_least` rows, NaN or infinity.
    """
    if vectors.ndim != 2 or len(vectors) < at_least or vectors.shape[1] < 1:
        raise ValueError(
            f"need {at_least} or more nonzero vectors as rows, got shape {tuple(vectors.shape)}"
        )
    bad = int((~vectors.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(vectors)} vectors hold NaN or infinity; every entry must be finite"
        )


def _check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError, naming them, for two tensors of different shapes, which would broadcast."""
    (name, tensor), (other_name, other) = tensors.items()
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)} and {other_name} {tuple(other.shape)}; "
            "the shapes must be the same"
        )


def _to_float64(vectors: Tensor, at_least: int = 1) -> Tensor:
    """Checked and detached."""
    check_vectors(vectors, at_least)
    return as_float64(vectors)


def _directions(vectors: Tensor, at_least: int = 1) -> Tensor:
    """Unit vectors in float64; zero vectors stay zero."""
    return normalize(_to_float64(vectors, at_least), dim=1, eps=TINY)


# Norms and angles


def norms(codebook: Float[Tensor, "K D"]) -> Float64[Tensor, " K"]:
    """Return the Euclidean norm of each code."""
    return _to_float64(codebook).norm(dim=1)


def _angle(difference: Tensor, total: Tensor) -> Tensor:
    """Angles of unit vectors x and y from |x - y| and |x + y|; pi/2 where both vectors are zero."""
    # Kahan's formula keeps the digits near 0 and pi that arccos loses.
    angle = 2 * torch.atan2(difference, total)
    return torch.where(difference + total > 0, angle, math.pi / 2)


def _angles_between(units: Tensor, others: Tensor) -> Tensor:
    """Angles of unit vectors, row by row."""
    return _angle((units - others).norm(dim=-1), (units + others).norm(dim=-1))


def angles_to(
    points: Float[Tensor, "N D"], direction: Float[Tensor, " D"]
) -> Float64[Tensor, " N"]:
    """Return the angle in [0, pi] from each row to one vector, exact near 0 and pi.

    Raises:
        ValueError: For a vector of another dimension than the rows.
    """
    units = _directions(points)
    _check_same_shape(point=units[0], direction=direction)
    return _angles_between(units, _directions(direction[None]))


def pairwise_angles(codebook: Float[Tensor, "K D"]) -> Float64[Tensor, " pairs"]:
    """Return the angles in [0, pi] of all K(K-1)/2 pairs of codes, exact near 0 and pi.

    The pairs come in the order (0, 1), (0, 2), ..., (1, 2), ...

    Raises:
        ValueError: For more than 32,768 codes, whose pairs take more than 4 GiB.
    """
    units = _directions(codebook, at_least=2)
    count = len(units)
    pairs = count * (count - 1) // 2
    if pairs > MAX_PAIRS:
        raise ValueError(
            f"{count:,} codes have {pairs:,} pairs, whose angles take {8 * pairs / 2**30:.0f} GiB; "
            "pass a sample of at most 32,768 codes, or ask for nearest_angles"
        )
    angles = units.new_empty(pairs)
    done = 0
    # The form of cdist that multiplies matrices loses small distances.
    exact = "donot_use_mm_for_euclid_dist"
    rows = max(1, SIDE**2 // count)
    for start in _with_bar(range(0, count, rows), count):
        block = units[start : start + rows]
        others = units[start:]
        difference = torch.cdist(block, others, compute_mode=exact)
        total = torch.cdist(block, -others, compute_mode=exact)
        later = torch.ones_like(difference, dtype=torch.bool).triu(diagonal=1)
        found = _angle(difference[later], total[later])
        angles[done : done + len(found)] = found
        done += len(found)
    return angles


def nearest_angles(codebook: Float[Tensor, "K D"]) -> Float64[Tensor, " K"]:
    """Return each code's angle to the nearest other code, within 1e-7 radians.

    Works in blocks, so that the K x K cosines are never held whole.
    """
    units = _directions(codebook, at_least=2)
    largest = units.new_full((len(units),), -math.inf)
    nearest = torch.zeros(len(units), dtype=torch.int64, device=units.device)
    for first, second, cosines in _cosine_blocks(units, _corners(units)):
        for rows, columns, block in ((first, second, cosines), (second, first, cosines.T)):
            found = block.amax(dim=1)
            # Most codes met a nearer one before; where it stands is asked for the others alone.
            nearer = found > largest[rows]
            largest[rows] = found.maximum(largest[rows])
            nearest[rows][nearer] = columns.start + block[nearer].argmax(dim=1)
    return _angles_between(units, units[nearest])


Corner = tuple[int, int]  # the first row and the first column of a block


def _corners(units: Tensor) -> list[Corner]:
    """The blocks that hold each pair of vectors once."""
    return list(combinations_with_replacement(range(0, len(units), SIDE), 2))


def _cosine_blocks(
    units: Tensor, corners: Sequence[Corner]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the rows and columns of blocks, and their cosines.

    Each pair of different vectors stands in one place of one block; all other places hold -inf.
    """
    for row, column in _with_bar(corners, len(units)):
        rows = slice(row, row + SIDE)
        columns = slice(column, column + SIDE)
        cosines = units[rows] @ units[columns].T
        if row == column:
            seen = torch.ones_like(cosines, dtype=torch.bool).tril()
            cosines.masked_fill_(seen, -math.inf)
        yield rows, columns, cosines


def _with_bar(blocks: Sequence[Any], num_codes: int) -> Iterator[Any]:
    """The blocks, with a progress bar where they take longer than a moment."""
    # A few blocks take no time, but in a notebook even a bar that is not shown costs some.
    few = num_codes <= 16 * SIDE
    text = f"pairs of {num_codes:,} codes"
    yield from tqdm(blocks, desc=text, delay=MOMENT, leave=False, disable=few)


def min_angle(codebook: Float[Tensor, "K D"]) -> float:
    """Return the smallest angle between two codes that are not zero, within 1e-7 radians."""
    units = _directions(codebook[norms(codebook) > 0], at_least=2)
    corners = _corners(units)
    # float32 takes half the time of float64, and leaves few blocks that can hold the nearest pair.
    rough = [cosines.max() for _, _, cosines in _cosine_blocks(units.float(), corners)]
    largest = torch.stack(rough)
    near = (largest >= largest.max() - ROUGH).nonzero().flatten().tolist()
    smallest = math.pi
    for rows, columns, cosines in _cosine_blocks(units, [corners[place] for place in near]):
        row, column = divmod(int(cosines.argmax()), cosines.shape[1])
        angle = _angles_between(units[rows][row], units[columns][column])
        smallest = min(smallest, angle.item())
    return smallest


def slerp(
    start: Float[Tensor, " D"], end: Float[Tensor, " D"], shares: Float[Tensor, " n"]
) -> Float64[Tensor, "n D"]:
    """Interpolate between two vectors along the sphere (Shoemake 1985).

    The direction moves along the great circle and the norm changes linearly.

    - Between opposite vectors every great circle is equally short; the path then leads over the
      coordinate axis that `start` is least along. With D = 1 there is no path, and the direction
      flips after the half.
    - A zero vector takes the direction of the other one.

    Args:
        start: The vector at share 0.
        end: The vector at share 1.
        shares: How far along the way each result lies, from 0 to 1.

    Returns:
        One vector for each share.

    Raises:
        ValueError: For vectors of different dimensions.
    """
    _check_same_shape(start=start, end=end)
    ends = _to_float64(torch.stack([start, end]))
    lengths = ends.norm(dim=1)
    check_finite(shares, "shares")
    shares = shares.to(ends)
    first, last = _directions(ends)
    if not first.any():
        first = last
    if not last.any():
        last = first

    turns = (shares * _angles_between(first, last))[:, None]
    directions = turns.cos() * first + turns.sin() * _tangent(first, last)
    path_norms = torch.lerp(lengths[0], lengths[1], shares)
    return normalize(directions, dim=1, eps=TINY) * path_norms[:, None]


def _tangent(first: Tensor, last: Tensor) -> Tensor:
    """Unit vector at right angles to `first`, along the great circle from there to `last`."""
    aside = last - (last @ first) * first
    if aside.norm() < 1e-12:  # the vectors are equal or opposite
        axis = one_hot(first.abs().argmin(), len(first)).to(first)
        aside = axis - (axis @ first) * first
    return normalize(aside, dim=0)


# How large the smallest angle can be, and how large it is by chance


def best_min_angle_bound(num_codes: int, dim: int) -> float:
    """Bound the minimum angle of K codes in D dimensions from above.

    The bound is reached for K <= 2 D and for D <= 2; elsewhere it is the tightest of several.

    Raises:
        ValueError: For fewer than two codes or no dimension.
    """
    check_whole(2, num_codes=num_codes)
    check_whole(1, dim=dim)
    if num_codes <= dim + 1:  # the regular simplex
        return math.acos(-1 / (num_codes - 1))
    if dim == 1:  # two of three codes on a line share a direction
        return 0.0
    if dim == 2:  # the regular polygon
        return 2 * math.pi / num_codes
    if num_codes <= 2 * dim:  # the cross-polytope (Rankin 1955)
        return math.pi / 2

    bounds = [_levenshtein_bound(num_codes, dim), _cap_bound(num_codes, dim)]
    if dim == 3:
        bounds.append(_fejes_toth_bound(num_codes))
    return min(bounds)


def _levenshtein_bound(num_codes: int, dim: int) -> float:
    """Levenshtein's third bound (1979): K (1 - D s^2) <= D (1 - s) (2 + (D+1) s), s the cosine."""
    # It is proven up to K = D (D+3) / 2; more codes cannot be farther apart than that many.
    count = min(num_codes, dim * (dim + 3) // 2)
    # The largest cosine s solves a s^2 + b s + c = 0.
    a = dim * (count - dim - 1)
    b = dim * (dim - 1)
    c = 2 * dim - count
    root = math.sqrt(b * b - 4 * a * c)
    return math.acos((root - b) / (2 * a))


def _cap_bound(num_codes: int, dim: int) -> float:
    """The angle whose half is the radius of K caps that together have the area of the sphere."""
    from scipy.special import betaincinv

    # A cap of angle phi covers half of I(sin^2 phi; (D-1)/2, 1/2), the incomplete beta function.
    sine_squared = betaincinv((dim - 1) / 2, 0.5, 2 / num_codes)
    return 2 * math.asin(math.sqrt(sine_squared))


def _fejes_toth_bound(num_codes: int) -> float:
    """Fejes Toth's bound on the sphere in three dimensions (1943)."""
    tangent = math.tan(math.pi * num_codes / (6 * num_codes - 12))
    return math.acos((tangent**-2 - 1) / 2)


def median_random_min_angle(num_codes: int, dim: int) -> float:
    """Return the median of the minimum angle of K codes drawn uniformly on the sphere, in radians.

    In one and two dimensions it is exact. In more, the angles of all K (K-1) / 2 pairs are taken as
    independent, which makes it at most 3% too large: 2.5% for 3 codes in 3 dimensions, below 1.5%
    in 4 dimensions or more, and below 0.5% in 8 or more.

    Args:
        num_codes: Number of codes K, at least 2.
        dim: Dimension D, at least 1.

    Raises:
        ValueError: For fewer than two codes or no dimension.
    """
    check_whole(2, num_codes=num_codes)
    check_whole(1, dim=dim)
    if num_codes == 2:
        return math.pi / 2
    if dim == 1:  # two of three codes on a line share a direction
        return 0.0
    if dim == 2:  # all K gaps are above the angle a with the probability (1 - K a / 2 pi)^(K-1)
        return 2 * math.pi / num_codes * -math.expm1(-math.log(2) / (num_codes - 1))
    pairs = num_codes * (num_codes - 1) // 2
    return random_nearest_angle(pairs, dim)


def random_min_angle(num_codes: int, dim: int, seed: int = 0) -> float:
    """Return the minimum angle of K codes drawn uniformly on the sphere, of a single draw.

    It differs from draw to draw; `median_random_min_angle` says what is usual.
    """
    generator = torch.Generator().manual_seed(as_seed(seed))
    return min_angle(torch.randn(num_codes, dim, generator=generator, dtype=torch.float64))


def random_angle_density(
    angles: Float[Tensor, "*shape"], dim: int, nearest_of: int = 1
) -> Float64[Tensor, "*shape"]:
    """Return the density, per radian, of the angle between two random directions.

    It is proportional to sin(angle)^(D-2) on [0, pi] and 0 elsewhere. With `nearest_of`, it is the
    density of the smallest of so many independent angles, as from a random latent to the nearest
    of K random codes: K f (1 - F)^(K-1), where f is the density of one angle and F its
    distribution function.

    Args:
        angles: Where the density is wanted, in radians.
        dim: Dimension D, at least 2.
        nearest_of: Number of codes K, at least 1.

    Raises:
        ValueError: For one dimension, where the angle has no density, for no code, and for NaN or
            infinity.
    """
    check_finite(angles, "angles")
    check_whole(1, nearest_of=nearest_of)
    check_whole(2, dim=dim)
    from scipy.special import beta

    # In the dtype of the angles, in which pi may be rounded up.
    inside = (angles >= 0) & (angles <= math.pi)
    angles = as_float64(angles)
    constant = 1 / beta((dim - 1) / 2, 0.5)
    density = constant * angles.sin().clamp(min=0) ** (dim - 2)
    density = density.where(inside.to(angles.device), 0.0)
    if nearest_of == 1:
        return density
    farther = 1 - _cap_share(angles.clamp(0, math.pi), dim)
    return nearest_of * density * farther ** (nearest_of - 1)


def _cap_share(angles: Tensor, dim: int) -> Tensor:
    """The share of the sphere that lies within these angles, from 0 to pi, of a direction."""
    from scipy.special import betainc

    sine_squared = angles.sin().square().cpu().numpy()
    # I(sin^2; (D-1)/2, 1/2), the incomplete beta function, is the share of two opposite caps.
    half = torch.as_tensor(betainc((dim - 1) / 2, 0.5, sine_squared) / 2).to(angles)
    return half.where(angles <= math.pi / 2, 1 - half)


def random_nearest_angle(num_codes: int, dim: int) -> float:
    """Return the median angle from a vector to the nearest of K random codes, in radians.

    The codes are drawn uniformly on the sphere. The nearest one lies beyond an angle with the
    probability (1 - s)^K, where s is the share of the sphere within that angle.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D, at least 2.

    Raises:
        ValueError: For no code, and for fewer than two dimensions.
    """
    check_whole(1, num_codes=num_codes)
    check_whole(2, dim=dim)
    from scipy.special import betaincinv

    share = -math.expm1(-math.log(2) / num_codes)  # 1 - 2^(-1/K), exact for many codes
    sine_squared = betaincinv((dim - 1) / 2, 0.5, 2 * share)
    return math.asin(math.sqrt(sine_squared))


# Spread of directions


def uniformity(points: Float[Tensor, "N D"]) -> float:
    """Return log mean exp(-2 |x - y|^2) over all pairs of directions; lower is more uniform.

    This is equation 3 of Wang and Isola (2020).
    """
    units = _directions(points[norms(points) > 0], at_least=2)
    pairs = len(units) * (len(units) - 1) // 2
    # For unit vectors |x - y|^2 is 2 - 2 cos.
    total = 0.0
    for _, _, cosines in _cosine_blocks(units, _corners(units)):
        total += cosines.mul_(4).sub_(4).exp_().sum().item()
    return math.log(total / pairs)


def alignment(latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]) -> float:
    """Return the mean |x - y|^2 of the directions of latents and their own codes.

    It is 0 where the directions agree, 2 for right angles and 4 for opposite directions.

    Raises:
        ValueError: For latents and codes of different shapes.
    """
    _check_same_shape(latents=latents, codes=codes)
    cosines = (_directions(latents) * _directions(codes)).sum(dim=1)
    return (2 - 2 * cosines).mean().item()


def effective_rank(points: Float[Tensor, "N D"]) -> float:
    """Return exp of the entropy of the singular values' shares (Roy and Vetterli 2007).

    It lies between 1 and min(N, D); 0 if all points are zero.
    """
    return _exp_entropy(torch.linalg.svdvals(_to_float64(points)))


def mean_resultant_length(points: Float[Tensor, "N D"]) -> float:
    """Return the norm of the mean direction.

    It is 1 when all directions agree, and 0 when they cancel or there are none.
    """
    units = _directions(points)
    count = units.any(dim=1).sum().clamp(min=1)
    return (units.sum(dim=0).norm() / count).item()


# Usage


def usage_counts(indices: Integer[Tensor, "..."], num_codes: int) -> Int64[Tensor, " K"]:
    """Count how many tokens chose each code.

    Raises:
        ValueError: For an index outside 0 to `num_codes` - 1.
    """
    indices = as_indices(indices, num_codes)
    return torch.bincount(indices.flatten(), minlength=num_codes)


def perplexity(counts: Real[Tensor, " K"]) -> float:
    """Return exp of the entropy of the usage shares.

    It lies between 1, for one code in use, and `perplexity_ceiling`; 0 without any token.

    Raises:
        ValueError: For counts that are negative, NaN or infinite.
    """
    return _exp_entropy(_checked_counts(counts))


def perplexity_ceiling(num_codes: int, tokens: int) -> int:
    """Return the largest perplexity that this many tokens can show: min(K, tokens)."""
    return min(num_codes, tokens)


def _exp_entropy(weights: Tensor) -> float:
    if not weights.any():
        return 0.0
    return torch.special.entr(weights / weights.sum()).sum().exp().item()


def norm_usage_correlation(codebook: Float[Tensor, "K D"], counts: Real[Tensor, " K"]) -> float:
    """Return Spearman's rank correlation of norm and usage.

    Near 1 the long codes are chosen most: winner takes all. Unused codes count as well; where
    most codes are unused, the correlation mainly tells whether these are the short ones.

    Returns:
        A number from -1 to 1; 0 where the correlation is undefined: for one code, equal usage,
        or norms that are equal up to a millionth of the largest.
    """
    lengths = norms(codebook).cpu()
    counts = _checked_counts(counts, len(lengths))
    return _rank_correlation(lengths, lengths.max(), counts)


def growth_usage_correlation(
    before: Float[Tensor, " K"], after: Float[Tensor, " K"], counts: Real[Tensor, " K"]
) -> float:
    """Return Spearman's rank correlation of usage and growth, over the codes in use.

    Near 1 the codes that are chosen most grow most. Unused codes are left out: most of them do
    not grow either, and after a collapse they are so many that they would decide the result.

    Args:
        before: The norm of each code before training on the counted tokens.
        after: The norm of each code afterwards.
        counts: How many tokens chose each code.

    Returns:
        A number from -1 to 1; NaN for fewer than three codes in use; 0 where the correlation is
        undefined, as in `norm_usage_correlation`.

    Raises:
        ValueError: For norms or counts of different numbers of codes, for norms that are not
            finite, and for counts as in `perplexity`.
    """
    _check_same_shape(before=before, after=after)
    check_finite(before, "norms before")
    check_finite(after, "norms after")
    counts = _checked_counts(counts, len(after))
    used = counts > 0
    if used.sum() < 3:
        return math.nan
    after = after.detach().cpu().double()
    growth = after - before.detach().cpu().double()
    return _rank_correlation(growth[used], after.max(), counts[used])


def _checked_counts(counts: Tensor, num_codes: int | None = None) -> Tensor:
    """Counts of `num_codes` codes (of any number, if it is None) in float64, on the CPU."""
    if num_codes is not None and len(counts) != num_codes:
        raise ValueError(
            f"counts must hold one number for each of {num_codes} codes, got {len(counts)}"
        )
    check_finite(counts, "counts")
    counts = counts.detach().cpu().double()
    if (counts < 0).any():
        raise ValueError(f"counts reach down to {counts.min():g}; they must be at least 0")
    return counts


def _rank_correlation(values: Tensor, largest: Tensor, counts: Tensor) -> float:
    """Spearman's correlation; differences below a millionth of `largest` are rounding errors."""
    from scipy.stats import spearmanr

    values = (values / largest.clamp(min=TINY) * 1e6).round()
    if values.min() == values.max() or counts.min() == counts.max():
        return 0.0
    return float(spearmanr(values.numpy(), counts.numpy()).statistic)


# Errors of the latents


class QuantizationError(NamedTuple):
    """Error of latents against their own codes.

    Attributes:
        squared: The mean squared error over all entries, as in the VQ loss.
        relative: The squared error as a share of the latents' variance; inf for equal latents.
        angle: The mean angle between a latent and its code, in radians.
    """

    squared: float
    relative: float
    angle: float


def quantization_error(
    latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]
) -> QuantizationError:
    """Measure how far latents are from their own codes.

    Raises:
        ValueError: For latents and codes of different shapes.
    """
    _check_same_shape(latents=latents, codes=codes)
    angle = _angles_between(_directions(latents), _directions(codes)).mean().item()
    latents = _to_float64(latents)
    codes = _to_float64(codes)
    squared = (latents - codes).square().mean().item()
    variance = (latents - latents.mean(dim=0)).square().mean().item()
    relative = squared / variance if variance else math.inf
    return QuantizationError(squared, relative, angle)


# All of it

# None where a measure needs indices, latents or a second code and there are none
Count = int | None
Measure = float | None
UNITS = {
    "num_codes": "codes",
    "zero_codes": "codes",
    "codes_used": "codes",
    "dead_codes": "codes",
    "perplexity": "codes",
    "perplexity_ceiling": "codes",
    "min_angle": "degrees",
    "min_angle_bound": "degrees",
    "min_angle_random": "degrees",
    "mean_nearest_angle": "degrees",
    "angular_error": "degrees",
}


@dataclass(frozen=True)
class CodebookGeometry:
    """What `describe` measured.

    Beside the minimum angle of the codes, `min_angle_bound` is the largest that is possible for as
    many (`best_min_angle_bound`), and `min_angle_random` the median of as many random directions
    (`median_random_min_angle`).
    Angles are in radians here, and in degrees in the table and the printed text.
    """

    num_codes: int
    dim: int
    zero_codes: int  # of norm 0, without a direction
    norm_min: float
    norm_mean: float
    norm_max: float
    effective_rank: float
    mean_resultant_length: float
    min_angle: Measure = None
    min_angle_bound: Measure = None
    min_angle_random: Measure = None
    mean_nearest_angle: Measure = None
    uniformity: Measure = None
    tokens: Count = None
    codes_used: Count = None
    dead_codes: Count = None
    usage: Measure = None
    perplexity: Measure = None
    perplexity_ceiling: Count = None
    norm_usage_correlation: Measure = None
    quantization_error: Measure = None
    relative_error: Measure = None
    angular_error: Measure = None
    alignment: Measure = None

    def table(self) -> "pd.DataFrame":
        """Return a table with the columns name, value and unit."""
        pandas = extra_import("pandas")
        return pandas.DataFrame(self._rows(), columns=["name", "value", "unit"], dtype=object)

    def _rows(self) -> Iterator[tuple]:
        for name, value in asdict(self).items():
            unit = UNITS.get(name, "")
            if unit == "degrees" and value is not None:
                value = math.degrees(value)
            yield name, value, unit

    def __str__(self) -> str:
        lines = []
        for name, value, unit in self._rows():
            unit = "" if unit == "codes" else unit  # the names say so
            shown = "-" if value is None else f"{short(value)} {unit}".rstrip()
            lines.append(f"{name:<24}{shown}")
        return "\n".join(lines)


def describe(
    codebook: Float[Tensor, "K D"],
    indices: Integer[Tensor, "..."] | None = None,
    latents: Float[Tensor, "N D"] | None = None,
) -> CodebookGeometry:
    """Measure a codebook, its usage and its errors.

    Every pair of codes counts. Up to 16,384 codes that takes a few seconds, with 65,536 codes in 64
    dimensions half a minute on two cores, under a progress bar.

    Args:
        codebook: The codes as rows.
        indices: Which code each token chose, in any shape, for measures of usage.
        latents: The flat latents of the indices, row by row, for measures of error.

    Raises:
        ValueError: For latents without indices, for latents of another shape than the indices
            ask for, and for an index that is not in the codebook.
    """
    lengths = norms(codebook)
    directed = codebook[lengths > 0]
    found: dict[str, Any] = {
        "num_codes": codebook.shape[0],
        "dim": codebook.shape[1],
        "zero_codes": len(codebook) - len(directed),
        "norm_min": lengths.min().item(),
        "norm_mean": lengths.mean().item(),
        "norm_max": lengths.max().item(),
        "effective_rank": effective_rank(codebook),
        "mean_resultant_length": mean_resultant_length(codebook),
    }
    if len(directed) > 1:
        found |= _angle_measures(directed)
    if indices is None and latents is not None:
        raise ValueError("latents are there but indices are None; errors need the code of each one")
    if indices is not None:
        indices = as_indices(indices, len(codebook)).flatten()
        found |= _usage_measures(codebook, indices)
    if indices is not None and latents is not None:
        found |= _error_measures(codebook, indices, latents)
    return CodebookGeometry(**found)


def _angle_measures(codebook: Tensor) -> dict:
    nearest = nearest_angles(codebook)
    return {
        "min_angle": nearest.min().item(),
        "min_angle_bound": best_min_angle_bound(*codebook.shape),
        "min_angle_random": median_random_min_angle(*codebook.shape),
        "mean_nearest_angle": nearest.mean().item(),
        "uniformity": uniformity(codebook),
    }


def _usage_measures(codebook: Tensor, indices: Tensor) -> dict:
    num_codes = len(codebook)
    counts = usage_counts(indices, num_codes)
    used = int((counts > 0).sum())
    return {
        "tokens": indices.numel(),
        "codes_used": used,
        "dead_codes": num_codes - used,
        "usage": used / num_codes,
        "perplexity": perplexity(counts),
        "perplexity_ceiling": perplexity_ceiling(num_codes, indices.numel()),
        "norm_usage_correlation": norm_usage_correlation(codebook, counts),
    }


def _error_measures(codebook: Tensor, indices: Tensor, latents: Tensor) -> dict:
    expected = (len(indices), codebook.shape[1])
    if latents.shape != expected:
        raise ValueError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
    codes = codebook[indices.to(codebook.device)].to(latents.device)
    error = quantization_error(latents, codes)
    return {
        "quantization_error": error.squared,
        "relative_error": error.relative,
        "angular_error": error.angle,
        "alignment": alignment(latents, codes),
    }
