"""Codes as the sphere in the browser takes them (web/codes.js): where they lie, what they draw."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8, UInt16
from numpy import pi

from arcvq.analysis import projections
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.encoding import decode_codes
from arcvq.images import to_uint8
from arcvq.quantizers import ContinuousQuantizer

LIMIT = 4096  # codes that are drawn at most
MOST = 2**16 - 1
FLOOR = 1e-6  # of the longest norm; a code below it is drawn at the center
SIDE = 8  # pixels of a decoded patch, at most

Codes = Float[np.ndarray, "K D"]
Axes = Float[np.ndarray, "D 3"]


def code_axes(codes: Codes) -> Axes:
    """Return three axes to draw codes along: exact up to D = 3, else their principal axes.

    These go through the origin, which stays the origin.
    """
    dim = codes.shape[1]
    if dim <= 3:
        return np.eye(dim, 3)
    # D x D numbers are enough, however many codes there are.
    _, axes = np.linalg.eigh(codes.T @ codes)
    principal_first = axes[:, ::-1]
    return principal_first[:, :3]


def trust(codes: Codes, axes: Axes) -> projections.Projection | None:
    """Measure how far directions along the axes can be trusted; None where they are exact."""
    if len(axes) <= 3:
        return None
    points = codes @ axes
    share = axes_share(codes, axes)
    return projections.assess(codes, points, "PCA", axes_share=share)


def axes_share(codes: Codes, axes: Axes) -> float:
    """Return the share of the squared norms that lies along the axes."""
    points = codes @ axes
    kept = np.square(points).sum()
    whole = np.square(codes).sum()
    return float(kept / max(whole, projections.TINY))


def pack(codes: Float[np.ndarray, "n D"], axes: Axes, extent: float) -> UInt16[np.ndarray, "n 3"]:
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
    turn = np.arctan2(y, x) / (2 * pi)
    rise = np.arcsin(z.clip(-1, 1)) / pi
    norms = np.linalg.norm(codes, axis=1)
    shares = norms / max(extent, projections.TINY)
    depth = np.log(shares.clip(FLOOR, 1)) / math.log(FLOOR)
    scales = np.stack([0.5 + turn, 0.5 + rise, 1 - depth], axis=1)
    numbers = MOST * scales
    return numbers.round().astype(np.uint16)


def patches(model: Autoencoder, codes: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "_ p p C"]:
    """Decode each code: the part of the image that a token draws amid others like it.

    Large patches are shown by every so many-th pixel. A model without codes has no patches: n is 0.
    """
    if isinstance(model.quantizer, ContinuousQuantizer):
        return np.zeros((0, 1, 1, 1), np.uint8)
    side = model.downsample
    stride = math.ceil(side / SIDE)
    middle = slice(side, 2 * side, stride)
    images = decode_codes(model, torch.from_numpy(codes))
    pixels = to_uint8(images[:, :, middle, middle])
    return pixels.movedim(1, -1).numpy()
