"""What can be measured on a codebook, on the latents it quantizes and on the indices it gave them.

Tensors in; numbers or detached float64 tensors out, on the CPU for MPS (no float64). Angles are radians. A
zero vector has no direction: numbers that sum up directions leave it out; where each pair or row has a value,
its angle counts as pi/2. Empty, NaN and infinite input raises a ValueError.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from arcvq.runtime.checks import check_range


def norms(codebook: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """The Euclidean norm of each code."""
    return _checked(codebook).norm(dim=1)


def pairwise_angles(codebook: Float[Tensor, "K D"]) -> Float[Tensor, " pairs"]:
    """The angles in [0, pi] of all K(K-1)/2 pairs, in the order (0, 1), (0, 2), ...; exact near 0 and pi."""
    units = _units(codebook, at_least=2)
    exact = "donot_use_mm_for_euclid_dist"  # the matrix-product form of cdist loses small distances
    upper = torch.ones(len(units), len(units), dtype=torch.bool, device=units.device).triu(1)
    apart, opposite = (torch.cdist(units, x, compute_mode=exact)[upper] for x in (units, -units))
    return _angle(apart, opposite)


def nearest_angles(codebook: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """Each code's angle to the nearest other code, within 1e-7 radians; K x K is never held whole."""
    units = _units(codebook, at_least=2)
    neighbours = units[torch.cat([cosines.argmax(dim=1) for cosines in _cosine_blocks(units)])]
    return _angle((units - neighbours).norm(dim=1), (units + neighbours).norm(dim=1))


def angles_to(points: Float[Tensor, "N D"], direction: Float[Tensor, " D"]) -> Float[Tensor, " N"]:
    """Each row's angle in [0, pi] to one vector; exact near 0 and pi."""
    units, unit = _units(points), _units(direction[None])
    return _angle((units - unit).norm(dim=1), (units + unit).norm(dim=1))


def slerp(start: Float[Tensor, " D"], end: Float[Tensor, " D"], shares: Float[Tensor, " n"]) -> Float[Tensor, "n D"]:
    """Vectors between start (share 0) and end (share 1): direction along the great circle (Shoemake 1985), norm linear.

    Between opposite vectors all great circles are equal; here the way leads over the axis that start is least along,
    and with D = 1, where there is no way, the direction flips after the half. A zero vector has the other's direction.
    """
    ends = _checked(torch.stack([start, end]))
    (first, last), lengths, shares = _units(ends), ends.norm(dim=1), shares.to(ends)
    first, last = (a if a.any() else b for a, b in ((first, last), (last, first)))
    angle = _angle((first - last).norm(), (first + last).norm())
    aside = last - first if first @ last > 0 else last + first  # the shorter one keeps its digits
    aside = aside - (aside @ first) * first
    if aside.norm() < 1e-12:
        axis = torch.eye(len(first), dtype=first.dtype, device=first.device)[first.abs().argmin()]
        aside = axis - (axis @ first) * first
    turns = (shares * angle)[:, None]
    path = turns.cos() * first + turns.sin() * torch.nn.functional.normalize(aside, dim=0)
    return torch.nn.functional.normalize(path, dim=1) * torch.lerp(lengths[0], lengths[1], shares)[:, None]


def min_angle(codebook: Float[Tensor, "K D"]) -> float:
    """The smallest angle between two codes."""
    return nearest_angles(codebook[norms(codebook) > 0]).min().item()


def best_min_angle_bound(num_codes: int, dim: int) -> float:
    """An upper bound on the minimum angle of K codes in D dimensions: the tightest of several.

    Exact for K <= D+1 (simplex), K <= 2D (Rankin 1955: pi/2) and D = 2 (2 pi / K). Beyond: Levenshtein's
    L3 (1979), Fejes Toth's bound (1943, D = 3) and the cap bound: K disjoint caps of half the angle must fit.
    """
    if num_codes < 2 or dim < 1:
        raise ValueError(f"the angle bound needs num_codes >= 2 and dim >= 1, got {num_codes} and {dim}")
    if num_codes <= dim + 1:
        return math.acos(-1 / (num_codes - 1))
    if dim <= 2:
        return 2 * math.pi / num_codes if dim == 2 else 0.0
    if num_codes <= 2 * dim:
        return math.pi / 2
    from scipy.special import betaincinv

    # Levenshtein: K (1 - D s^2) <= D (1 - s)(2 + (D+1) s) for the largest cosine s, up to K = D (D+3) / 2
    few = min(num_codes, dim * (dim + 3) // 2)
    a, b, c = dim * (few - dim - 1), dim * (dim - 1), 2 * dim - few
    bounds = [math.acos((math.sqrt(b * b - 4 * a * c) - b) / (2 * a))]
    # a cap of angle phi covers half of I(sin^2 phi; (D-1)/2, 1/2), the regularised incomplete beta function
    bounds.append(2 * math.asin(math.sqrt(betaincinv((dim - 1) / 2, 0.5, 2 / num_codes))))
    if dim == 3:
        bounds.append(math.acos((math.tan(math.pi * num_codes / (6 * num_codes - 12)) ** -2 - 1) / 2))
    return min(bounds)


def random_min_angle(num_codes: int, dim: int, seed: int = 0) -> float:
    """The minimum angle of K codes drawn evenly on the sphere, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return min_angle(torch.randn(num_codes, dim, generator=generator, dtype=torch.float64))


def random_angle_density(angles: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape"]:
    """The density per radian of the angle between two random directions: sin^(D-2), normalised on [0, pi]."""
    if dim < 2:
        raise ValueError(f"the angle between random directions has a density from dim = 2 on, got {dim}")
    constant = math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / math.sqrt(math.pi)
    density = constant * angles.sin().clamp(min=0) ** (dim - 2)
    return density.where((angles >= 0) & (angles <= math.pi), 0.0)


def uniformity(points: Float[Tensor, "N D"]) -> float:
    """log mean exp(-2 |x - y|^2) over pairs of directions (Wang & Isola 2020, eq. 3); lower is more even."""
    units = _units(points[norms(points) > 0], at_least=2)
    total = sum((4 * cosines - 4).exp().sum().item() for cosines in _cosine_blocks(units))
    return math.log(total / len(units) / (len(units) - 1))


def alignment(latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]) -> float:
    """Mean |x - y|^2 of the directions of latents and their own codes: 0 agree, 2 right angle, 4 opposite."""
    return (2 - 2 * (_units(latents) * _units(codes)).sum(dim=1)).mean().item()


def effective_rank(points: Float[Tensor, "N D"]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007): 1 to min(N, D), or 0."""
    return _exp_entropy(torch.linalg.svdvals(_checked(points)))


def mean_resultant_length(points: Float[Tensor, "N D"]) -> float:
    """Norm of the mean direction: 1 when all directions agree, 0 when they cancel or there are none."""
    units = _units(points)
    return (units.sum(dim=0).norm() / units.any(dim=1).sum().clamp(min=1)).item()


def usage_counts(indices: Int[Tensor, "..."], num_codes: int) -> Int[Tensor, " K"]:
    """How many tokens chose each code (int64)."""
    check_range(indices, num_codes)
    return torch.bincount(indices.flatten(), minlength=num_codes)


def perplexity(counts: Real[Tensor, " K"]) -> float:
    """exp of the entropy of the usage shares: 1 (one code) to `perplexity_ceiling`; 0 without any token."""
    return _exp_entropy(counts)


def perplexity_ceiling(num_codes: int, tokens: int) -> int:
    """The largest perplexity that this many tokens can show: min(K, tokens)."""
    return min(num_codes, tokens)


def norm_usage_correlation(codebook: Float[Tensor, "K D"], counts: Real[Tensor, " K"]) -> float:
    """Spearman rank correlation of norm and usage: near 1, the long codes win (winner takes all).

    Unused codes count as well; where most are unused, it tells mainly whether these are the short ones. 0 where
    undefined: one code, equal usage or equal norms (to a millionth of the largest, beyond rounding).
    """
    lengths = norms(codebook)
    _check_counts(counts, len(lengths))
    return _usage_correlation(lengths, lengths.max(), counts)


def growth_usage_correlation(
    before: Float[Tensor, " K"], after: Float[Tensor, " K"], counts: Real[Tensor, " K"]
) -> float:
    """Spearman rank correlation, over the codes in use, of usage and growth: near 1, those that win most grow most.

    Most unused codes do not grow either: over all codes, the many that collapse leaves unused would drown the rest.
    NaN for fewer than three codes in use; 0 where undefined, as in `norm_usage_correlation`.
    """
    _check_counts(counts, len(after))
    used = counts > 0
    if used.sum() < 3:
        return math.nan
    return _usage_correlation((after - before)[used], after.max(), counts[used])


def _check_counts(counts: Tensor, num_codes: int) -> None:
    if len(counts) != num_codes:
        raise ValueError(f"counts must hold one number for each of {num_codes} codes, got {len(counts)}")


def _usage_correlation(values: Tensor, largest: Tensor, counts: Tensor) -> float:
    values = (values / largest.clamp(min=1e-300) * 1e6).round()  # beyond a millionth of the largest is rounding
    table = pd.DataFrame({"value": values.detach().cpu().numpy(), "count": counts.cpu().numpy()})
    ranks = torch.tensor(table.rank().to_numpy().T)
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    return torch.cosine_similarity(ranks[0], ranks[1], dim=0).item()


def quantization_error(latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]) -> tuple[float, ...]:
    """Error of latents against their own codes: mean squared, its share of the latents' variance, mean angle.

    The squared error is a mean over all entries, as in the VQ loss; the share is inf for latents all equal.
    """
    units, own = _units(latents), _units(codes)
    angle = _angle((units - own).norm(dim=1), (units + own).norm(dim=1)).mean().item()
    latents, codes = _checked(latents), _checked(codes)
    squared = (latents - codes).square().mean().item()
    variance = (latents - latents.mean(dim=0)).square().mean().item()
    return squared, squared / variance if variance else math.inf, angle


Number = Annotated[int | float | None, ""]
Codes = Annotated[int | float | None, "codes"]
Angle = Annotated[float | None, "degrees"]


@dataclass(frozen=True)
class CodebookGeometry:
    """What `describe` measured: angles in radians, None if indices, latents or a second code are missing."""

    num_codes: Codes
    dim: Number
    zero_codes: Codes  # of norm 0, without a direction
    norm_min: Number
    norm_mean: Number
    norm_max: Number
    effective_rank: Number
    mean_resultant_length: Number
    min_angle: Angle = None
    min_angle_bound: Angle = None
    min_angle_random: Angle = None
    mean_nearest_angle: Angle = None
    uniformity: Number = None
    tokens: Number = None
    codes_used: Codes = None
    dead_codes: Codes = None
    usage: Number = None
    perplexity: Codes = None
    perplexity_ceiling: Codes = None
    norm_usage_correlation: Number = None
    quantization_error: Number = None
    relative_error: Number = None
    angular_error: Angle = None
    alignment: Number = None

    def table(self) -> "pd.DataFrame":
        """The columns name, value and unit; angles in degrees."""

        rows = [(f.name, getattr(self, f.name), get_args(f.type)[1]) for f in fields(self)]
        rows = [(name, math.degrees(x) if x and unit == "degrees" else x, unit) for name, x, unit in rows]
        return pd.DataFrame(rows, columns=["name", "value", "unit"], dtype=object)

    def __str__(self) -> str:
        lines = self.table().itertuples(index=False)
        return "\n".join(f"{n:<24}" + ("-" if x is None else f"{x:.5g} {u}".rstrip()) for n, x, u in lines)


def describe(codebook: Float[Tensor, "K D"], indices: Int[Tensor, "..."] | None = None,
             latents: Float[Tensor, "N D"] | None = None) -> CodebookGeometry:
    """Measure a codebook; with indices also its usage; with their latents, row by row, also its errors."""
    (num_codes, dim), norm = codebook.shape, norms(codebook)
    directed = codebook[norm > 0]
    found = dict(zero_codes=num_codes - len(directed), mean_resultant_length=mean_resultant_length(codebook),
                 norm_min=norm.min().item(), norm_mean=norm.mean().item(), norm_max=norm.max().item())
    if len(directed) > 1:
        nearest = nearest_angles(directed)
        found |= dict(min_angle=nearest.min().item(), mean_nearest_angle=nearest.mean().item(),
                      min_angle_bound=best_min_angle_bound(len(directed), dim),
                      min_angle_random=random_min_angle(len(directed), dim), uniformity=uniformity(directed))
    if indices is not None:
        counts, tokens = usage_counts(indices, num_codes), indices.numel()
        used = int((counts > 0).sum())
        found |= dict(tokens=tokens, codes_used=used, dead_codes=num_codes - used, usage=used / num_codes,
                      perplexity=perplexity(counts), perplexity_ceiling=perplexity_ceiling(num_codes, tokens),
                      norm_usage_correlation=norm_usage_correlation(codebook, counts))
    if indices is not None and latents is not None:
        if latents.shape != (tokens, dim):
            raise ValueError(f"latents must have shape {(tokens, dim)}, got {tuple(latents.shape)}")
        codes = codebook[indices.flatten().to(codebook.device)].to(latents.device)
        squared, relative, angle = quantization_error(latents, codes)
        found |= dict(quantization_error=squared, relative_error=relative, angular_error=angle,
                      alignment=alignment(latents, codes))
    return CodebookGeometry(num_codes=num_codes, dim=dim, effective_rank=effective_rank(codebook), **found)


def _checked(points: Tensor, at_least: int = 1) -> Tensor:
    if points.ndim != 2 or len(points) < at_least or points.shape[1] < 1:
        raise ValueError(f"need {at_least} or more nonzero vectors as rows, got shape {tuple(points.shape)}")
    if bad := (~points.isfinite()).any(dim=1).sum().item():
        raise ValueError(f"{bad} of {len(points)} vectors hold NaN or infinity; every entry must be finite")
    return (points.cpu() if points.device.type == "mps" else points).detach().double()


def _units(points: Tensor, at_least: int = 1) -> Tensor:
    return torch.nn.functional.normalize(_checked(points, at_least), dim=1, eps=1e-300)


def _angle(apart: Tensor, opposite: Tensor) -> Tensor:
    # Kahan's 2 atan2(|x - y|, |x + y|) for unit vectors: exact where acos loses digits
    return torch.where(apart + opposite > 0, 2 * torch.atan2(apart, opposite), math.pi / 2)


def _cosine_blocks(units: Tensor) -> Iterator[Tensor]:
    rows = max(1, 2**22 // len(units))  # 32 MiB at once
    for start in range(0, len(units), rows):
        block = units[start:start + rows] @ units.T
        block.diagonal(start).fill_(-math.inf)  # a vector is not its own neighbour
        yield block


def _exp_entropy(weights: Tensor) -> float:
    shares = weights.cpu().double() / weights.sum().item()
    return torch.special.entr(shares).sum().exp().item() if weights.any() else 0.0
