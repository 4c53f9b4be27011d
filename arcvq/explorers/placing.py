"""Codes on the map of an explorer, however many there are."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from arcvq.analysis import projections
from arcvq.analysis.projections import Projection

PLACED = 4096  # codes that UMAP places, at most: it takes seconds for these


def place_codes(
    codebook: Float[Tensor, "K D"], method: str, count_usage: Callable[[], Int[Tensor, " K"]]
) -> Projection:
    """Place codes on a map of two axes.

    Args:
        codebook: The codes.
        method: "PCA", or "UMAP" of the angles. UMAP places 4,096 codes at most, the most used
            first, and says so; the others are at NaN.
        count_usage: Counts the tokens of each code, where not all are placed.
    """
    if method == "PCA":
        return projections.pca(codebook)
    count = len(codebook)
    if count <= PLACED:
        return projections.umap_angles(codebook)
    most_used = count_usage().argsort(descending=True, stable=True)
    rows = most_used[:PLACED].sort().values
    seen = projections.umap_angles(codebook[rows.to(codebook.device)])
    points = np.full((count, 2), np.nan)
    points[rows] = seen.points
    words = f"{PLACED:,} of {count:,} codes are placed, the most used first. {seen.words}"
    return replace(seen, points=points, words=words)
