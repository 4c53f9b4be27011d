"""Codebooks brought to two or three dimensions, always with a word on how far the picture can be trusted.

All methods place the directions of codes; norms are drawn beside them. Codes (K, D) come as a tensor on any device or
as an array. Empty, NaN and infinite input raises a ValueError. Where a method needs more than it gets (UMAP: 5
different directions), principal axes take its place, and `words` says so.
"""

import hashlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from arcvq.runtime.devices import threads_kept
from arcvq.runtime.files import write_whole
from arcvq.runtime.store import kept_path

Codes = Float[Tensor, "_K _D"] | Float[np.ndarray, "_K _D"]
FORMAT = 1  # of kept coordinates; raised when a change of the code changes them
PAIRS, NEAREST, ROWS = 50_000, 5, 512  # pairs, neighbours and codes that trust is measured on, at most
UMAP_LEAST = 5  # codes; with fewer, umap-learn raises
TRUST = ((0.9, "What is drawn farther apart is farther apart, nearly always; sizes are rough."),
         (0.7, "Near and far are mostly right; read no single angle."),
         (0.4, "Only rough groups are right; read no angle and no gap."),
         (-1.0, "Angles cannot be read off this picture."))


@dataclass(frozen=True)
class Projection:
    """Where codes are drawn, and how far that can be trusted.

    points: (K, 2) or (K, 3); on the unit sphere if `sphere`. variance_share: 0 to 1, of the directions, kept by linear
    methods. angle_correlation: Spearman's, of true angles and drawn angles (sphere) or distances, over at most 50,000
    pairs; None where undefined. neighbors_kept: 0 to 1, the share of each code's 5 nearest by angle that are drawn
    among its 5 nearest. words: the same as a sentence.
    """

    points: Float[np.ndarray, "_K _d"]
    method: str
    sphere: bool
    variance_share: float | None
    angle_correlation: float | None
    neighbors_kept: float
    words: str

    @property
    def trust(self) -> str:
        """Figures and words in one line, for a caption."""
        share, rank = self.variance_share, self.angle_correlation
        figures = [f"{share:.0%} of the variance"] if share is not None else []
        figures += [f"rank correlation of angles {rank:.2f}"] if rank is not None else []
        return f"{self.method}: {', '.join([*figures, f'nearest codes kept {self.neighbors_kept:.0%}'])}. {self.words}"


def directions(codes: Codes) -> Float[np.ndarray, "_K _D"]:
    """The codes at norm 1, float64; a zero code stays zero. Raises ValueError for no codes, NaN or infinity."""
    rows = np.asarray(codes.detach().cpu().double() if isinstance(codes, Tensor) else codes, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"codes have the shape {rows.shape}; they must be (K, D), both from 1")
    if bad := np.count_nonzero(~np.isfinite(rows).all(axis=1)):
        raise ValueError(f"codes have NaN or infinity in {bad} of their {len(rows)} rows; all must be finite")
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-300)  # tiny norms do not underflow
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def exact(codes: Codes) -> Projection:
    """Directions in 3 dimensions as they are; fewer dimensions are filled up with 0. Raises ValueError for more."""
    units = directions(codes)
    if units.shape[1] > 3:
        raise ValueError(f"codes have {units.shape[1]} dimensions; a picture is exact up to 3, so choose a projection")
    return _judged(units, _wide(units, 3), "exact", sphere=True, words="This picture is exact.")


def pca(codes: Codes, dim: int = 2, sphere: bool = False) -> Projection:
    """Directions along their `dim` (2 or 3) principal axes through the origin, which so stays the origin.

    sphere: put the points (then of 3 axes) back on the unit sphere. The signs of the axes are fixed, so that the same
    codes give the same picture.
    """
    units, dim = directions(codes), 3 if sphere else _checked_dim(dim)
    flat, share = _principal(units, dim)
    points = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300) if sphere else flat
    return _judged(units, points, "PCA", sphere, share)


def stereographic(codes: Codes, sphere: bool = False) -> Projection:
    """Directions on the plane, seen from the pole opposite to the mean direction, which becomes the map's centre.

    A code at the angle t to the mean lies tan(t / 2) from the centre, exactly, at most 10 (t = 169 degrees); for
    D = 3 the way to it is exact too, else it follows two principal axes. sphere: carry the map back onto the sphere.
    """
    units = directions(codes)
    centre, wide = units.sum(axis=0), _wide(units, 3)
    centre = centre / np.linalg.norm(centre) if np.linalg.norm(centre) > 1e-9 else np.eye(units.shape[1])[0]
    height = np.clip(units @ centre, -1, 1)
    flat, share = _principal(units - height[:, None] * centre, 2)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    angle = np.where(wide.any(axis=1), np.minimum(np.arccos(height), 2 * np.arctan(10)), 0.0)
    way = np.divide(flat, lengths, out=np.tile([1.0, 0.0], (len(flat), 1)), where=lengths > 1e-12)
    points = np.tan(angle / 2)[:, None] * way
    if sphere:
        points = np.column_stack([np.sin(angle)[:, None] * way, np.cos(angle)])
        points[~wide.any(axis=1)] = 0
    words = "The angle to the mean direction is exact." + " The way to it is only a shadow." * (units.shape[1] > 3)
    return _judged(units, points, "stereographic", sphere, share, words)


def umap_angles(codes: Codes, dim: int = 2, *, seed: int = 0, neighbors: int = 15, root: str | Path | None = None,
                progress: bool = True) -> Projection:
    """UMAP (McInnes et al. 2018) of the angles between codes (metric cosine) in `dim` (2 or 3) dimensions.

    neighbors: from 2, how many nearest codes each code is tied to. A seed gives the same bits. Coordinates
    are kept in projections/ under `data_root(root)`, so that the second visit computes nothing.
    """
    return _umap(directions(codes), _checked_dim(dim), False, seed, neighbors, root, progress)


def umap_sphere(codes: Codes, *, seed: int = 0, neighbors: int = 15, root: str | Path | None = None,
                progress: bool = True) -> Projection:
    """`umap_angles` onto the unit sphere (output metric haversine, unwrapped to vectors)."""
    return _umap(directions(codes), 3, True, seed, neighbors, root, progress)


def on_sphere(codes: Codes, method: str = "pca", **umap_settings: Any) -> Projection:
    """Unit vectors for a method, "pca", "stereographic" or "umap"; up to D = 3 the codes' own, which are exact."""
    methods: dict[str, Callable[[], Projection]] = {
        "pca": lambda: pca(codes, sphere=True), "stereographic": lambda: stereographic(codes, sphere=True),
        "umap": lambda: umap_sphere(codes, **umap_settings)}
    if method not in methods:
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(methods)}")
    return exact(codes) if directions(codes).shape[1] <= 3 else methods[method]()


def compare(codes: Codes, points: Codes, method: str = "own", sphere: bool = True) -> Projection:
    """The trust of places (K, 2 or 3) that you chose yourself; with `sphere` they are put on the unit sphere."""
    units, places = directions(codes), directions(points) if sphere else np.asarray(points, np.float64)
    if places.shape not in ((len(units), 2), (len(units), 3)):
        raise ValueError(f"points have the shape {places.shape}; they must be ({len(units)}, 2 or 3)")
    return _judged(units, places, method, sphere)


def clusters(codes: Codes, count: int = 8, seed: int = 0) -> Int[np.ndarray, " _K"]:
    """The cluster (0 the largest) of each code's direction, by k-means; fewer than `count` if codes are fewer."""
    from sklearn.cluster import KMeans

    units = directions(codes)
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    count = min(count, len(np.unique(units, axis=0)))
    labels = KMeans(count, n_init=4, random_state=seed).fit_predict(units)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels].astype(np.int64)


def dominant_classes(indices: Int[Tensor, "B h w"], labels: Int[Tensor, " B"], num_codes: int
                     ) -> Int[np.ndarray, " _K"]:
    """The class (0 ...) whose images use each code most, relative to what that class uses; -1 for unused codes.

    Relative, so that a class with more images does not own all codes. Raises ValueError for an index out of range.
    """
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_codes:
        raise ValueError(f"indices reach from {indices.min()} to {indices.max()}; allowed are 0 to {num_codes - 1}")
    tokens = pd.DataFrame({"code": indices.flatten(1).flatten().cpu().numpy(),
                           "class": labels.cpu().repeat_interleave(indices[0].numel()).numpy()})
    counts = pd.crosstab(tokens["code"], tokens["class"])
    owners = (counts / counts.sum()).idxmax(axis=1)
    return owners.reindex(range(num_codes), fill_value=-1).to_numpy(np.int64)


def _checked_dim(dim: int) -> int:
    if dim not in (2, 3):
        raise ValueError(f"dim is {dim}; a picture has 2 or 3 dimensions")
    return dim


def _wide(rows: np.ndarray, dim: int) -> np.ndarray:
    """Rows with zeros added until they have `dim` columns."""
    return np.pad(rows, ((0, 0), (0, max(0, dim - rows.shape[1]))))


def _principal(rows: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    """Coordinates along the first `dim` principal axes through the origin, and their share of the squared norms."""
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes, total = axes * np.where(largest < 0, -1, 1), np.square(values).sum()
    share = float(np.square(values[:dim]).sum() / total) if total > 0 else 1.0
    return _wide(rows @ axes[:dim].T, dim), share


def _judged(units: np.ndarray, points: np.ndarray, method: str, sphere: bool, share: float | None = None,
            words: str = "") -> Projection:
    """The projection with its trust: figures measured, and a sentence chosen by them."""
    rank = _angle_correlation(units, points, sphere)
    verdict = next(text for least, text in TRUST if rank >= least) if rank is not None else "No angles to compare."
    words = words if method == "exact" else f"{words} {verdict}".strip()
    return Projection(points, method, sphere, share, rank, _neighbors_kept(units, points), words)


def _angle_correlation(units: np.ndarray, points: np.ndarray, sphere: bool) -> float | None:
    rows, columns = _pairs(len(units))
    # Chords grow with angles, so ranks of distances between unit vectors are the ranks of angles.
    chords = [np.linalg.norm(one[rows] - one[columns], axis=1).round(9) for one in (units, points)]
    if len(rows) < 2 or min(map(np.ptp, chords)) == 0:
        return None
    return float(pd.Series(chords[0]).corr(pd.Series(chords[1]), method="spearman"))


def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of different codes, or PAIRS of them drawn by a fixed seed."""
    if count * (count - 1) // 2 <= PAIRS:
        return np.triu_indices(count, 1)
    random = np.random.default_rng(0)
    rows = random.integers(count, size=PAIRS)
    return rows, (rows + random.integers(1, count, size=PAIRS)) % count


def _neighbors_kept(units: np.ndarray, points: np.ndarray) -> float:
    """Over at most ROWS codes by a fixed seed: the share of the nearest codes that stay nearest; 1 for one code."""
    count, nearest = len(units), min(NEAREST, len(units) - 1)
    if nearest < 1:
        return 1.0
    some = np.sort(np.random.default_rng(0).choice(count, min(count, ROWS), replace=False))
    shared = [len(np.intersect1d(*pair)) for pair in zip(_nearest(units, some, nearest),
                                                         _nearest(points, some, nearest), strict=True)]
    return float(np.mean(shared) / nearest)


def _nearest(rows: np.ndarray, some: np.ndarray, count: int) -> np.ndarray:
    apart = np.square(rows).sum(axis=1) - 2 * rows[some] @ rows.T
    apart[np.arange(len(some)), some] = np.inf
    return np.argpartition(apart, count - 1, axis=1)[:, :count]


def _umap(units: np.ndarray, dim: int, sphere: bool, seed: int, neighbors: int, root: str | Path | None,
          progress: bool) -> Projection:
    if neighbors < 2:
        raise ValueError(f"neighbors is {neighbors}; it must be at least 2")
    different = len(np.unique(units.round(6), axis=0))
    if different < UMAP_LEAST or units.shape[1] == 1:
        instead = pca(units, dim, sphere)
        return replace(instead, words=f"UMAP needs {UMAP_LEAST} directions and 2 dimensions, and here are {different} "
                                      f"in {units.shape[1]}: principal axes instead. {instead.words}")
    settings: dict[str, Any] = {"dim": dim, "sphere": sphere, "seed": seed, "neighbors": min(neighbors, len(units) - 1)}
    name = hashlib.sha256(units.astype(np.float32).tobytes() + json.dumps([FORMAT, settings]).encode()).hexdigest()
    path = kept_path(root, "projections", f"umap-{name[:16]}.npy")
    points = _kept(path, (len(units), dim))
    if points is None:
        points = _run_umap(units, progress=progress, **settings)
        try:
            write_whole(path, lambda draft: draft.write_bytes(_npy(points)))
        except OSError as error:  # a full disk costs the next visit some seconds, not this one its picture
            warnings.warn(str(error), stacklevel=3)
    return _judged(units, points.astype(np.float64), "UMAP", sphere,
                   words="UMAP keeps who is near whom; gaps between groups and their sizes mean little.")


def _npy(points: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), points, allow_pickle=False)
    return buffer.getvalue()


def _kept(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The coordinates in a file, or None where it is missing, damaged or of another shape."""
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return points if points.shape == shape and np.isfinite(points).all() else None


def _run_umap(units: np.ndarray, dim: int, sphere: bool, seed: int, neighbors: int, progress: bool) -> np.ndarray:
    shown: dict[str, Any] = {"disable": not progress, "desc": f"UMAP of {len(units):,} codes", "leave": False}
    if "umap" not in sys.modules:
        shown["desc"] += " (the first in a process takes 5 to 15 s to compile)"
    with warnings.catch_warnings(), tqdm(total=1, **shown) as bar:
        warnings.simplefilter("ignore")  # of transforms that nobody asks for
        from sklearn.neighbors import NearestNeighbors
        from umap import UMAP

        # With neighbours from scikit-learn, umap compiles half as long, and from 4,096 codes on runs much faster.
        apart, near = NearestNeighbors(n_neighbors=neighbors, metric="cosine").fit(units).kneighbors(units)
        # A step on the sphere is slow, and 200 of them do.
        output: dict[str, Any] = {"output_metric": "haversine", "n_epochs": 200} if sphere else {}
        model = UMAP(n_neighbors=neighbors, n_components=2 if sphere else dim, metric="cosine", random_state=seed,
                     n_jobs=1, precomputed_knn=(near, apart.astype(np.float32)), **output)
        with threads_kept():  # numba gives the process, and with it torch, a thread for each core
            points = model.fit_transform(units.astype(np.float32))
        bar.update()
    if sphere:
        polar, around = points.T.astype(np.float64)
        points = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=1)
    return points.astype(np.float32)
