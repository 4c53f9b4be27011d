"""Maps of a codebook in two or three dimensions, each with a measure of how far to trust it.

All methods place the directions of codes, not their norms. Codes (K, D) may be a tensor on any
device or an array. Empty input, NaN and infinity raise a ValueError. UMAP needs 5 different
directions; with fewer, principal axes take its place and the projection says so.
"""

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from tqdm.auto import tqdm

from arcvq.runtime.checks import (
    as_indices,
    as_integers,
    as_seed,
    check_finite,
    check_whole,
    is_whole,
)
from arcvq.runtime.devices import threads_kept
from arcvq.runtime.extras import extra_folder, extra_import
from arcvq.runtime.files import write_whole
from arcvq.runtime.store import kept_path
from arcvq.runtime.wording import capitalized, counted

if TYPE_CHECKING:
    import pandas

Codes = Float[Tensor, "_K _D"] | Float[np.ndarray, "_K _D"]

PROJECTION_FORMAT = 1  # of kept coordinates; bump it when the code would compute others
MIN_UMAP_CODES = 5  # with fewer, umap-learn raises
MAX_PAIRS = 50_000  # pairs of codes whose angles are compared
MAX_CODES = 512  # codes whose neighbors are compared
NEIGHBORS = 5
TIE = 1e-9  # distances that differ by less, as a share of the longest row, are rounding errors
MAX_RADIUS = 10  # of a stereographic map
TINY = 1e-300  # a divisor in place of 0

# What a rank correlation of true and drawn angles allows to read, from each value on.
VERDICTS = {
    0.9: "Codes drawn farther apart nearly always are farther apart; distances are only rough.",
    0.7: "Near and far are mostly right; do not rely on a single angle.",
    0.4: "Only the rough grouping is right; do not rely on angles or gaps.",
    -math.inf: "Angles cannot be read off this picture.",
}


@dataclass(frozen=True)
class Projection:
    """Where codes are drawn, and how far that can be trusted.

    Attributes:
        points: The coordinates of each code, in 2 or 3 dimensions.
        method: The name of the method.
        sphere: Whether the points lie on the unit sphere.
        axes_share: The share of the directions' squared length, 0 to 1, that lies along the drawn
            axes, of a method that has such axes.
        angle_correlation: Spearman's rank correlation of true angles with drawn angles (sphere) or
            distances (plane), over at most 50,000 pairs of codes; None where it is undefined.
        neighbors_kept: The share, 0 to 1, of each code's 5 nearest codes by angle that are among
            the 5 nearest in the picture. Up to 10 codes it is that of fewer, at most half of the
            others, since among all others everything is kept. Any of several codes at the same
            angle may be the nearest, and a code counts only if its angles to others differ. NaN
            where none counts, and for fewer than 3 codes.
        words: What that means, in a sentence.
    """

    points: Float[np.ndarray, "_K _d"]
    method: str
    sphere: bool
    axes_share: float | None
    angle_correlation: float | None
    neighbors_kept: float
    words: str

    @property
    def kept(self) -> str:
        """How many of the nearest codes are kept, in words."""
        if math.isnan(self.neighbors_kept):
            return "no nearest codes to compare"
        return f"nearest codes kept {self.neighbors_kept:.0%}"

    @property
    def trust(self) -> str:
        """All that is known about the projection in one line, for a caption."""
        facts = []
        if self.axes_share is not None:
            facts.append(f"{self.axes_share:.0%} of the squared length")
        if self.angle_correlation is not None:
            facts.append(f"rank correlation of angles {self.angle_correlation:.2f}")
        facts.append(self.kept)
        name = capitalized(self.method)
        return f"{name}: {', '.join(facts)}. {self.words}"


def directions(codes: Codes) -> Float[np.ndarray, "_K _D"]:
    """Scale codes to norm 1 in float64; a zero code stays zero."""
    rows = _finite_rows(codes, "codes")
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"codes have the shape {rows.shape}; they must be (K, D), both from 1")
    # The largest entry becomes 1 first, so that the squares of tiny norms do not underflow.
    return _unit_rows(rows / np.abs(rows).max(axis=1, keepdims=True).clip(TINY))


def exact(codes: Codes) -> Projection:
    """Draw the directions of codes in up to 3 dimensions as they are, on the unit sphere."""
    units = directions(codes)
    dim = units.shape[1]
    if dim > 3:
        raise ValueError(
            f"codes have {dim} dimensions; a picture is exact up to 3, so choose a projection"
        )
    projection = _assess(units, _pad_columns(units, 3), "exact", sphere=True)
    return replace(projection, words="This picture is exact.")


def pca(codes: Codes, dim: int = 2, sphere: bool = False) -> Projection:
    """Project directions onto their principal axes through the origin, which stays the origin.

    Args:
        codes: The codebook.
        dim: The number of axes, 2 or 3.
        sphere: Take 3 axes and scale the points back to the unit sphere.

    Returns:
        A projection in which the signs of the axes are fixed: the same codes give the same picture.
    """
    units = directions(codes)
    points, share = _principal_axes(units, 3 if sphere else _check_dim(dim))
    if sphere:
        points = _unit_rows(points)
    return _assess(units, points, "PCA", sphere, share)


def stereographic(codes: Codes) -> Projection:
    """Project directions onto a plane from the pole opposite their mean, which becomes the center.

    A code at the angle t to the mean direction lies at tan(t / 2) from the center, at most 10
    (t = 169 degrees). That distance is exact. So is the bearing for D = 3; for larger D it follows
    two principal axes.
    """
    units = directions(codes)
    total = units.sum(axis=0)
    length = np.linalg.norm(total)
    center = total / length if length > 1e-9 else np.eye(units.shape[1])[0]
    height = (units @ center).clip(-1, 1)
    angle = np.arccos(height).clip(max=2 * np.arctan(MAX_RADIUS))
    # A zero code has no direction and is drawn at the center.
    angle[~units.any(axis=1)] = 0

    # The bearing is that of the part across the mean direction, seen along two principal axes.
    shadow, _ = _principal_axes(units - height[:, None] * center, 2)
    length = np.linalg.norm(shadow, axis=1, keepdims=True)
    # Codes at the center, or opposite to it, have none of their own.
    bearing = np.tile([1.0, 0.0], (len(units), 1))
    np.divide(shadow, length, out=bearing, where=length > 1e-12)
    points = np.tan(angle / 2)[:, None] * bearing

    words = "The angle to the mean direction is exact."
    if units.shape[1] > 3:
        words += " The bearing shows only two principal axes."
    return _assess(units, points, "stereographic", False, words=words)


def umap_angles(
    codes: Codes,
    dim: int = 2,
    *,
    sphere: bool = False,
    seed: int = 0,
    neighbors: int = 15,
    root: str | Path | None = None,
    progress: bool = True,
) -> Projection:
    """Project directions with UMAP on the angles between them (McInnes et al. 2018, metric cosine).

    Args:
        codes: The codebook.
        dim: The number of dimensions, 2 or 3.
        sphere: Project onto the unit sphere instead (output metric haversine).
        seed: From 0 to 2^32 - 1; the same seed gives the same coordinates, bit for bit.
        neighbors: How many nearest codes each code is tied to, from 2.
        root: See `data_root`. Coordinates are kept in its folder projections, so that the same
            call computes nothing the second time.
        progress: Whether to show a progress bar.
    """
    units = directions(codes)
    check_whole(2, neighbors=neighbors)
    seed = as_seed(seed)
    dim = 3 if sphere else _check_dim(dim)
    # Equal directions count once: UMAP cannot tell them apart.
    different = len(np.unique(units.round(6), axis=0))
    if different < MIN_UMAP_CODES:
        instead = pca(units, dim, sphere)
        found = counted(different, "different direction")
        reason = f"UMAP needs {MIN_UMAP_CODES}, and there are {found}"
        return replace(instead, words=f"Principal axes instead of UMAP: {reason}. {instead.words}")

    sphere = bool(sphere)
    neighbors = min(int(neighbors), len(units) - 1)
    told = {"dim": dim, "sphere": sphere, "seed": seed, "neighbors": neighbors}
    facts = units.astype(np.float32).tobytes() + json.dumps([PROJECTION_FORMAT, told]).encode()
    digest = hashlib.sha256(facts).hexdigest()[:16]
    path = kept_path(root, "projections", f"umap-{digest}.npy")
    points = _read_points(path, (len(units), dim))
    if points is None:
        points = _run_umap(units, dim, sphere, seed, neighbors, progress)
        _write_points(path, points)
    words = "UMAP keeps near codes near; the gaps between groups and their sizes mean little."
    return _assess(units, points.astype(np.float64), "UMAP", sphere, words=words)


def assess(
    codes: Codes,
    points: Codes,
    method: str = "own",
    sphere: bool = True,
    axes_share: float | None = None,
) -> Projection:
    """Measure how far to trust coordinates that were chosen in another way.

    Args:
        codes: The codebook.
        points: The coordinates of each code, (K, 2) or (K, 3).
        method: The name of the method, for the caption.
        sphere: Scale the points to the unit sphere.
        axes_share: See `Projection`.

    Raises:
        ValueError: For another number of points than codes, and for points that are not finite.
    """
    units = directions(codes)
    if len(points) != len(units):
        raise ValueError(f"there are {len(points)} points for {len(units)} codes")
    places = _finite_rows(points, "points")
    if sphere:
        places = directions(places)
    return _assess(units, places, method, sphere, axes_share)


def trust_table(projections: Mapping[str, Projection]) -> "pandas.DataFrame":
    """The measures of trust of several projections as a table, a row for each name."""
    import pandas

    rows = {}
    for name, projection in projections.items():
        rows[name] = {
            "share along axes": projection.axes_share,
            "rank correlation": projection.angle_correlation,
            "nearest codes kept": projection.neighbors_kept,
        }
    return pandas.DataFrame.from_dict(rows, orient="index").astype(float)


def nearest_in_group(points: Codes, groups: Integer[np.ndarray, " _K"]) -> float:
    """The share of points, 0 to 1, whose nearest other point is in the same group.

    Where several are equally near, it is the share of these. Groups that form regions of a map have
    a share near 1. By chance it is about the sum of the squared shares of the groups.

    Args:
        points: The coordinates of each code, as drawn.
        groups: The group of each code, such as its cluster or its class.

    Raises:
        ValueError: For fewer than two points, points that are not finite, or another number of
            groups than points.
    """
    places = _finite_rows(points, "points")
    if len(places) < 2 or len(groups) != len(places):
        raise ValueError(
            f"there are {len(places)} points and {len(groups)} groups; "
            "both must be the same number, from 2"
        )
    shares = []
    for block, distances in _distances(places, np.arange(len(places))):
        is_same = groups == groups[block][:, None]
        nearest = _nearest(distances, 1, places).shares()
        shares.append((nearest * is_same).sum(axis=1))
    return float(np.concatenate(shares).mean())


def clusters(codes: Codes, count: int = 8, seed: int = 0) -> Int[np.ndarray, " _K"]:
    """Group the directions of codes by k-means.

    Args:
        codes: The codebook.
        count: The number of clusters; fewer if there are fewer different directions.
        seed: The seed of the random initialization, from 0 to 2^32 - 1.

    Returns:
        The cluster of each code, by size: 0 is the largest.
    """
    units = directions(codes)
    check_whole(1, count=count)
    seed = as_seed(seed)
    count = min(int(count), len(np.unique(units, axis=0)))
    means = extra_import("sklearn.cluster").KMeans(count, n_init=4, random_state=seed)
    labels = means.fit_predict(units)
    # The place of each cluster in the order of sizes is its new number.
    by_size = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(by_size)[labels].astype(np.int64)


def dominant_classes(
    indices: Integer[Tensor, "B h w"], labels: Integer[Tensor, " B"], num_codes: int
) -> Int[np.ndarray, " _K"]:
    """Find the class that uses each code most, relative to all that the class uses.

    Being relative keeps a class with more images from owning all codes.

    Args:
        indices: The tokens of each image.
        labels: The class of each image, from 0.
        num_codes: The size of the codebook.

    Returns:
        The class of each code, -1 for unused codes.

    Raises:
        ValueError: For no images, another number of labels than images, an index that is not in
            the codebook, and a label below 0.
    """
    if len(indices) == 0 or len(labels) != len(indices):
        raise ValueError(
            f"there are {len(indices)} images and {len(labels)} labels; both must be the same "
            "number, from 1"
        )
    indices = as_indices(indices, num_codes).cpu()
    labels = as_integers(labels, "labels").cpu()
    classes = int(labels.max()) + 1
    labels = as_indices(labels, classes, "labels")
    counts = np.zeros((classes, num_codes), np.int64)
    # Row by class, column by code; all tokens of an image have its class.
    np.add.at(counts, (labels[:, None], indices.flatten(1)), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    return np.where(counts.any(axis=0), shares.argmax(axis=0), -1)


def _check_dim(dim: int) -> int:
    """The number of dimensions of a picture, if it is one."""
    if not is_whole(dim) or dim not in (2, 3):
        raise ValueError(f"dim is {dim}; a picture has 2 or 3 dimensions")
    return int(dim)


def _finite_rows(rows: Codes, name: str) -> np.ndarray:
    """A tensor on any device, or an array, as an array in float64, if all values are finite."""
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().double().numpy()
    rows = np.asarray(rows, np.float64)
    check_finite(torch.from_numpy(rows), name)
    return rows


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1; zero rows stay zero."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(TINY)


def _pad_columns(rows: np.ndarray, dim: int) -> np.ndarray:
    """Rows with zeros added until they have `dim` columns."""
    return np.pad(rows, ((0, 0), (0, max(0, dim - rows.shape[1]))))


def _principal_axes(rows: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    """Coordinates along the first principal axes, and their share of the squared norms."""
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    # The sign of an axis is arbitrary: its largest entry becomes positive.
    places = np.abs(axes).argmax(axis=1)[:, None]
    axes = axes * np.sign(np.take_along_axis(axes, places, axis=1))
    squares = np.square(values)
    total = squares.sum()
    share = float(squares[:dim].sum() / total) if total > 0 else 1.0
    return _pad_columns(rows @ axes[:dim].T, dim), share


def _assess(
    units: np.ndarray,
    points: np.ndarray,
    method: str,
    sphere: bool,
    axes_share: float | None = None,
    words: str = "",
) -> Projection:
    """The projection with what was measured on it, and with the verdict added to the words."""
    correlation = _angle_correlation(units, points)
    verdict = "No angles to compare."
    if correlation is not None:
        verdict = next(text for least, text in VERDICTS.items() if correlation >= least)
    words = f"{words} {verdict}".strip()
    kept = _neighbors_kept(units, points)
    return Projection(points, method, sphere, axes_share, correlation, kept, words)


def _angle_correlation(units: np.ndarray, points: np.ndarray) -> float | None:
    """Spearman's rank correlation of true angles with drawn ones, None where it is undefined."""
    from scipy.stats import spearmanr

    rows, columns = _pairs(len(units))
    # Chords grow with angles, so distances between unit vectors have the ranks of their angles.
    true = np.linalg.norm(units[rows] - units[columns], axis=1).round(9)
    drawn = np.linalg.norm(points[rows] - points[columns], axis=1).round(9)
    if len(rows) < 2 or np.ptp(true) == 0 or np.ptp(drawn) == 0:
        return None
    return float(spearmanr(true, drawn).statistic)


def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of different codes, or some that are drawn with a fixed seed."""
    if count * (count - 1) // 2 <= MAX_PAIRS:
        return np.triu_indices(count, 1)
    random = np.random.default_rng(0)
    rows = random.integers(count, size=MAX_PAIRS)
    steps = random.integers(1, count, size=MAX_PAIRS)
    return rows, (rows + steps) % count


def _neighbors_kept(units: np.ndarray, points: np.ndarray) -> float:
    """The share of the nearest codes that stay nearest, NaN where it is undefined."""
    others = len(units) - 1
    count = min(NEIGHBORS, others // 2)
    if count == 0:
        return math.nan
    chosen = np.random.default_rng(0).choice(len(units), min(len(units), MAX_CODES), replace=False)
    kept = []
    blocks = zip(_distances(units, chosen), _distances(points, chosen), strict=True)
    for (_, angles), (_, distances) in blocks:
        true = _nearest(angles, count, units)
        drawn = _nearest(distances, count, points).shares()
        # Whichever of the tied codes are drawn near, they are right, up to the places left.
        tied = np.minimum((drawn * true.tied).sum(axis=1), true.left)
        right = (drawn * true.certain).sum(axis=1) + tied
        # Where all others are at the same angle, nothing can be wrong.
        kept.append(right[true.tied.sum(axis=1) < others])
    shares = np.concatenate(kept) / count
    return float(shares.mean()) if len(shares) else math.nan


def _distances(rows: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows, a few at a time, and their distances to all; infinite to themselves."""
    from scipy.spatial.distance import cdist

    for block in np.array_split(chosen, math.ceil(len(chosen) / 16)):
        distances = cdist(rows[block], rows)
        distances[np.arange(len(block)), block] = np.inf
        yield block, distances


class _Nearest(NamedTuple):
    """The nearest of all rows to some of them.

    Attributes:
        certain: Which rows are among the nearest.
        tied: Which rows are equally far and share the places that are left.
        left: The number of these places.
    """

    certain: Bool[np.ndarray, "_n _K"]
    tied: Bool[np.ndarray, "_n _K"]
    left: Int[np.ndarray, " _n"]

    def shares(self) -> Float[np.ndarray, "_n _K"]:
        """How much of each row is among the nearest, where tied rows get equal shares."""
        share = self.left / self.tied.sum(axis=1)
        return self.certain + self.tied * share[:, None]


def _nearest(distances: np.ndarray, count: int, rows: np.ndarray) -> _Nearest:
    """The `count` nearest of all rows by their distances from some of them."""
    tolerance = TIE * np.linalg.norm(rows, axis=1).max()
    farthest = np.partition(distances, count - 1, axis=1)[:, count - 1, None]
    certain = distances < farthest - tolerance
    tied = np.abs(distances - farthest) <= tolerance
    return _Nearest(certain, tied, count - certain.sum(axis=1))


def _read_points(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The coordinates in a file, or None if it is missing, damaged or of another shape."""
    try:
        points = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    if points.shape != shape or not np.isfinite(points).all():
        return None
    return points


def _write_points(path: Path, points: np.ndarray) -> None:
    """Keep coordinates; where that fails, the next visit takes longer, and a warning says why."""

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.save(file, points)

    try:
        write_whole(path, write)
    except OSError as error:
        warnings.warn(str(error), stacklevel=3)


def import_umap() -> ModuleType:
    """Import UMAP where its compiler can keep what it compiles.

    By default that is beside the package, which cannot be written in many containers and shared
    installations; then it is a temporary folder.
    """
    package = extra_folder("umap")
    if "NUMBA_CACHE_DIR" not in os.environ and not os.access(package, os.W_OK):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="numba-")
    return extra_import("umap")


def _run_umap(
    units: np.ndarray, dim: int, sphere: bool, seed: int, neighbors: int, progress: bool
) -> np.ndarray:
    """The coordinates that UMAP finds, in float32."""
    text = f"UMAP of {len(units):,} codes (the first in a process takes 5 to 15 s to compile)"
    bar = tqdm(total=1, desc=text, leave=False, disable=not progress)
    with warnings.catch_warnings(), bar, threads_kept():
        warnings.simplefilter("ignore")  # about transforms that nobody asks for
        sklearn = extra_import("sklearn.neighbors")
        umap = import_umap()
        # Neighbors from scikit-learn halve the compiling, and are much faster from 4,096 codes on.
        search = sklearn.NearestNeighbors(n_neighbors=neighbors, metric="cosine").fit(units)
        distances, nearest = search.kneighbors(units)
        model = umap.UMAP(
            n_neighbors=neighbors,
            n_components=2 if sphere else dim,
            # An epoch on the sphere is slow, and 200 suffice.
            n_epochs=200 if sphere else None,
            metric="cosine",
            output_metric="haversine" if sphere else "euclidean",
            random_state=seed,
            precomputed_knn=(nearest, distances.astype(np.float32)),
        )
        points = model.fit_transform(units.astype(np.float32))
        bar.update()
    if sphere:
        # The output metric haversine gives angles, which become vectors.
        polar, around = points.T.astype(np.float64)
        level = np.sin(polar)
        points = np.stack([level * np.cos(around), level * np.sin(around), np.cos(polar)], axis=1)
    return points.astype(np.float32)
