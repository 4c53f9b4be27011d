"""Codes as the sphere in the browser takes them (web/codes.js): where they lie, what they draw."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8, UInt16
from numpy import pi

from arcvq.analysis import projections
from arcvq.images import to_uint8
from arcvq.quantizers import ContinuousQuantizer
from arcvq.vqvae import VQVAE

LIMIT = 4096  # codes that are drawn at most
MOST = 2**16 - 1
FLOOR = 1e-6  # of the longest norm; a code below it is drawn at the center
SIDE = 8  # pixels of a decoded patch, at most


def code_axes(codes: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "D 3"]:
    """Return three axes to draw codes along: exact up to D = 3, else their principal axes.

    These go through the origin, which stays the origin.
    """
    dim = codes.shape[1]
    if dim <= 3:
        return np.eye(dim, 3)
    # The squares of D x D are enough, however many codes there are.
    axes = np.linalg.eigh(codes.T @ codes)[1]
    return axes[:, ::-1][:, :3]


def trust(
    codes: Float[np.ndarray, "K D"], axes: Float[np.ndarray, "D 3"]
) -> projections.Projection | None:
    """Measure how far directions along the axes can be trusted; None where they are exact."""
    if len(axes) <= 3:
        return None
    flat = codes @ axes
    share = float(np.square(flat).sum() / max(np.square(codes).sum(), 1e-300))
    return projections.assess(codes, flat, "PCA", variance_share=share)


def pack(
    codes: Float[np.ndarray, "n D"], axes: Float[np.ndarray, "D 3"], extent: float
) -> UInt16[np.ndarray, "n 3"]:
    """Write codes in 6 bytes each: the direction along the axes to 0.003 degrees, and the norm.

    Args:
        codes: The codes.
        axes: As `code_axes` gives them.
        extent: The largest norm that can be written.

    Returns:
        Azimuth, elevation and logarithm of the norm, each on a scale from 0 to 65,535. The norm is
        true to 4 digits, and 0 below `FLOOR` of the extent.
    """
    x, y, z = projections.directions(codes @ axes).T
    norms = np.linalg.norm(codes, axis=1) / max(extent, 1e-300)
    scales = [
        np.arctan2(y, x) / (2 * pi) + 0.5,
        np.arcsin(z.clip(-1, 1)) / pi + 0.5,
        1 - np.log(norms.clip(FLOOR, 1)) / math.log(FLOOR),
    ]
    return (MOST * np.stack(scales, axis=1)).round().astype(np.uint16)


def patches(model: VQVAE, codes: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n p p C"]:
    """Decode each code: the part of the image that a token draws amid others like it.

    Large patches are shown by every so many-th pixel. A model without codes has no patches: n is 0.
    """
    if isinstance(model.quantizer, ContinuousQuantizer):
        codes = codes[:0]
    device = model.quantizer.codebook.device
    grids = torch.from_numpy(codes)[:, None, None].expand(-1, 3, 3)
    images = torch.cat([model.decode(part.to(device)).cpu() for part in grids.split(512)])
    side = model.downsample
    middle = slice(side, 2 * side, math.ceil(side / SIDE))
    return to_uint8(images[:, :, middle, middle]).movedim(1, -1).numpy()
