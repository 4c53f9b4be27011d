"""k-means: a codebook that starts where the latents are."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops import TINY
from arcvq.runtime.checks import as_seed, check_finite, check_whole
from arcvq.runtime.extras import extra_import
from arcvq.runtime.precision import at_least_float32


@torch.no_grad()
def kmeans(
    latents: Float[Tensor, "N D"],
    num_codes: int,
    *,
    metric: str = "euclidean",
    seed: int = 0,
) -> Float[Tensor, "K D"]:
    """Find codes for latents by k-means, to start a codebook from::

        quantizer.set_codebook(arcvq.kmeans(latents, 512))

    The work is done by `sklearn.cluster.KMeans`, in float64 on the CPU. It grows with N x K x D; a
    few hundred latents for each code are enough. A start from random latents needs no function:
    `latents[torch.randperm(len(latents))[:512]]`.

    Args:
        latents: Latents, at least as many different ones as codes. A grid (B, D, *grid) is made
            flat by `latents.movedim(1, -1).flatten(0, -2)`.
        num_codes: Number of codes K, at least 1.
        metric: "euclidean" for the means of clusters; "cosine" to cluster directions, with codes on
            the unit sphere, as quantizers that look codes up by angle start. Latents of norm 0,
            which have no direction, are then left out.
        seed: Seed of the start, from 0 to 2^32 - 1.

    Returns:
        The codes, on the device of the latents and in their dtype, for half precision in float32.

    Raises:
        ValueError: If the latents have a wrong shape or type or are not finite, if too few of them
            differ, and if another argument is out of range.
        ModuleNotFoundError: If scikit-learn is missing; says how to install it.
    """
    check_whole(1, num_codes=num_codes)
    seed = as_seed(seed)
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric {metric!r} is unknown; use 'euclidean' or 'cosine'")
    if latents.ndim != 2 or latents.shape[1] == 0:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; they must be (N, D)")
    if not latents.is_floating_point():
        raise ValueError(f"latents are {latents.dtype}; they must be floating point")
    check_finite(latents, "latents")

    points = latents.cpu().double()
    if metric == "cosine":
        norms = torch.linalg.vector_norm(points, dim=1)
        points = normalize(points[norms > TINY], dim=1)
    if len(points) < num_codes:
        raise ValueError(_too_few(len(points), num_codes, metric))

    means = extra_import("sklearn.cluster").KMeans(int(num_codes), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that too few latents differ, which is an error here
        means.fit(points.numpy())
    found, members = np.unique(means.labels_, return_index=True)
    if len(found) < num_codes:
        raise ValueError(_too_few(len(found), num_codes, metric))

    codebook = torch.from_numpy(means.cluster_centers_)
    if metric == "cosine":
        # Opposite directions may cancel out. One of them then stands for their cluster.
        norms = torch.linalg.vector_norm(codebook, dim=1, keepdim=True)
        codebook = torch.where(norms > TINY, codebook, points[members])
        codebook = normalize(codebook, dim=1)
    return codebook.to(latents.device, at_least_float32(latents).dtype)


def _too_few(found: int, num_codes: int, metric: str) -> str:
    what = "directions" if metric == "cosine" else "latents"
    return f"there are {found} different {what}; for {num_codes} codes there must be as many"
