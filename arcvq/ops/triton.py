"""The margin loss and the lookup of `arcvq.ops.blockwise` as Triton kernels for NVIDIA GPUs, exact.

The K x N matrix of cosines is made tile by tile and never kept. The codes are worked on in groups.
For each group, the first pass over the latents leaves the largest logit and the sum of exponentials
of each chunk of latents; this is enough to find the nearest latents and to sum over all others. The
second pass makes the tiles once more for the gradient.

All is float32. Up to `blockwise.SAFE_SCALE` exponentials need no shift. Nothing waits for the
device, so a CUDA graph can hold the whole, after one call outside of it in which Triton compiles.
"""

from __future__ import annotations

import math
from typing import no_type_check

import torch
from torch import Tensor

from arcvq.ops.blockwise import pull_nearest

try:
    import triton.language as tl
    from triton import jit
    from triton.language import constexpr
except (
    ImportError
):  # there is no Triton for macOS and Windows: `usable` says no, no kernel is called
    tl = None

    def jit(function):
        return function


# Rows of a tile.
LATENTS = 64
CODES = 64

# Latents that leave one largest logit and one sum.
CHUNK = 128

# Bytes for what is held of a group of codes.
GROUP = 1 << 27

# The largest D for which a tile of the gradient fits in the registers.
WIDEST = 256


def usable(latents: Tensor, codebook: Tensor) -> bool:
    """Whether the kernels can take these rows.

    They take float32 rows, at least one of each, with D from 1 to 256, on one NVIDIA GPU whose
    tensor cores take float32 (from Ampere on). The wrapped tensors of torch.func have no memory of
    their own to read.
    """
    if tl is None or torch.version.hip is not None or not latents.is_cuda:
        return False
    if latents.device != codebook.device:
        return False
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, (latents, codebook))):
        return False
    if not latents.dtype == codebook.dtype == torch.float32:
        return False
    if latents.shape[1] > WIDEST or latents.numel() == 0 or codebook.numel() == 0:
        return False
    return torch.cuda.get_device_capability(latents.device) >= (8, 0)


def sum_losses(latents, inverse, codes, margin, scale, top_k, gradient):
    """As `arcvq.ops.blockwise.sum_losses`, for rows that are `usable` and a scale up to 32.

    Beside its arguments it holds `GROUP` bytes, or what a single code needs.
    """
    count, dim = latents.shape
    groups = codes.split(group_rows(len(codes), count, dim, top_k))
    return sum(
        _group_loss(latents, inverse, group, margin, scale, top_k, gradient) for group in groups
    )


def through_normalization_(gradient, latents, inverse, num_codes):
    """As `arcvq.ops.blockwise.through_normalization_`."""
    _launch(tangent_kernel, latents, inverse, gradient, num_codes)


def best_scores(latents, codes, center, bias):
    """As `arcvq.ops.blockwise.best_scores`, for rows that are `usable`."""
    latents = latents.contiguous()
    codes = codes.contiguous()
    if center is None:
        center = codes.new_zeros(codes.shape[1])
    if bias is None:
        bias = codes.new_zeros(len(codes))
    best = latents.new_empty(len(latents), dtype=torch.int64)
    _launch(best_kernel, latents, codes, center, bias, best, len(codes), CODES=CODES)
    return best


def group_rows(num_codes, count, dim, top_k):
    """Codes in a group: groups of equal size that take at most `GROUP` bytes, if one code can."""
    most = max(1, GROUP // bytes_per_code(count, dim, top_k))
    groups = math.ceil(num_codes / most)
    return math.ceil(num_codes / groups)


def bytes_per_code(count, dim, top_k):
    """Bytes held at once for each code of a group, where there are `count` latents."""
    chunks = math.ceil(count / CHUNK)
    chosen = min(top_k, chunks)
    scanned = 8 * chunks + 12 * chosen  # largest logit and sum of each chunk; the chosen chunks
    looked_at = 8 * chosen * CHUNK  # logits, and as much for topk to work in
    pulled = top_k * (16 * dim + 64)  # rows of the nearest latents and what is made of them
    bits = 4 * math.ceil(count / 32)  # one for each latent
    return scanned + looked_at + pulled + bits


def _group_loss(latents, inverse, codes, margin, scale, top_k, gradient):
    """Sum of the loss over a group of codes.

    Adds to `gradient`, unless it is None, the gradient to the normalized latents.
    """
    steep = inverse * scale  # makes an inner product a logit
    nearest, others = _nearest_and_others(latents, steep, codes, top_k)
    loss, lost = pull_nearest(
        latents, inverse, codes, nearest, others.log(), margin, scale, gradient
    )
    if gradient is not None:
        push = scale * lost / others.clamp_min(torch.finfo(others.dtype).tiny)
        bits = _bits(nearest, len(latents))
        half = CODES // 2  # two products take more registers than one
        _launch(push_kernel, latents, steep, codes, push, bits, gradient, len(codes), CODES=half)
    return loss


def _nearest_and_others(latents, steep, codes, top_k):
    """Places (group, k) of the latents nearest to each code, and the sum (group,) over all others.

    The nearest lie in the k chunks with the largest logits. No sum of exp(logit) is made by
    subtraction, so none cancels.
    """
    chunks = math.ceil(len(latents) / CHUNK)
    peaks, sums = codes.new_empty(2, len(codes), chunks)
    _launch(
        scan_kernel,
        latents,
        steep,
        codes,
        peaks,
        sums,
        chunks,
        len(codes),
        programs=math.ceil(len(codes) / CODES) * chunks,
        CODES=CODES,
        CHUNK=CHUNK,
    )

    chosen = peaks.topk(min(top_k, chunks), dim=1, sorted=False).indices
    per_code = chosen.shape[1]
    logits = codes.new_empty(len(codes), per_code * CHUNK)
    _launch(
        logits_kernel,
        latents,
        steep,
        codes,
        chosen,
        logits,
        per_code,
        programs=chosen.numel(),
        CHUNK=CHUNK,
    )

    places = logits.topk(top_k, dim=1, sorted=False).indices
    first = chosen.gather(1, places // CHUNK) * CHUNK
    nearest = first + places % CHUNK
    others_in_chosen = logits.scatter_(1, places, -math.inf).exp_().sum(1)
    others_elsewhere = sums.scatter_(1, chosen, 0.0).sum(1)
    return nearest, others_in_chosen + others_elsewhere


def _bits(nearest, count):
    """Bits (N / 32, group) in int32, one for each latent: set where it is a nearest of the code."""
    codes = len(nearest)
    code = torch.arange(codes, device=nearest.device)
    words = nearest // 32 * codes + code[:, None]
    marks = 1 << (nearest % 32).int()
    bits = nearest.new_zeros(math.ceil(count / 32), codes, dtype=torch.int32)
    bits.view(-1).index_add_(0, words.flatten(), marks.flatten())  # no bit twice: a sum is a union
    return bits


def _launch(kernel, latents, *arguments, programs=None, **sizes):
    """Run a kernel, which takes the latents first and their number last.

    There are as many programs as tiles of latents, unless their number is given.
    """
    count, dim = latents.shape
    programs = programs or math.ceil(count / LATENTS)
    # A tile has a power of two of columns, and a tensor core takes at least 16.
    width = max(16, 1 << (dim - 1).bit_length())
    sizes |= {"DIM": dim, "WIDTH": width, "LATENTS": LATENTS, "num_warps": 4 if width <= 128 else 8}
    with torch.cuda.device_of(latents):
        kernel[(programs,)](latents, *arguments, count, **sizes, enable_fp_fusion=True)


# The kernels. no_type_check keeps the tests' check of shapes from wrapping what Triton reads.
# ruff: noqa: PLR0913


@jit
@no_type_check
def _tile_rows(LATENTS: constexpr):
    """Numbers of the latents in this program's tile."""
    return tl.program_id(0).to(tl.int64) * LATENTS + tl.arange(0, LATENTS)


@jit
@no_type_check
def _entries(vector, places, count):
    """Entries of a vector, zero beyond its end."""
    return tl.load(vector + places, mask=places < count, other=0.0)


@jit
@no_type_check
def _cells(rows, count, columns, DIM: constexpr):
    """Places of rows and columns in a matrix (count, DIM), and which of them lie inside it."""
    places = rows.to(tl.int64)[:, None] * DIM + columns[None, :]
    inside = (rows < count)[:, None] & (columns < DIM)[None, :]
    return places, inside


@jit
@no_type_check
def _load(matrix, rows, count, columns, DIM: constexpr):
    """Rows and columns of a matrix (count, DIM), zero outside it."""
    places, inside = _cells(rows, count, columns, DIM)
    return tl.load(matrix + places, mask=inside, other=0.0)


@jit
@no_type_check
def _products(
    left,
    left_rows,
    left_count,
    right,
    right_rows,
    right_count,
    DIM: constexpr,
    WIDTH: constexpr,
    center=None,
):
    """Inner products of rows of two matrices, nearly in float32; the left ones minus `center`.

    tf32x3 runs on tensor cores, with three products of parts of the numbers.
    """
    SLICE: constexpr = min(WIDTH, 32)  # whole rows would not fit in the registers
    products = tl.zeros((left_rows.shape[0], right_rows.shape[0]), tl.float32)
    for start in range(0, WIDTH, SLICE):
        columns = start + tl.arange(0, SLICE)
        one = _load(left, left_rows, left_count, columns, DIM)
        if center is not None:
            one -= _entries(center, columns, DIM)[None, :]
        other = _load(right, right_rows, right_count, columns, DIM)
        products = tl.dot(one, tl.trans(other), products, input_precision="tf32x3")
    return products


@jit
@no_type_check
def scan_kernel(
    latents,
    steep,
    codes,
    peaks,
    sums,
    chunks,
    num_codes,
    count,
    DIM: constexpr,
    WIDTH: constexpr,
    LATENTS: constexpr,
    CODES: constexpr,
    CHUNK: constexpr,
):
    """Largest logit and sum of exp(logit) of a chunk of latents for a tile of codes.

    Writes `peaks` and `sums`, (num_codes, chunks).
    """
    # Neighboring programs share a chunk of latents: there are many more of these than codes.
    tiles = tl.cdiv(num_codes, CODES)
    chunk = tl.program_id(0) // tiles
    code = tl.program_id(0) % tiles * CODES + tl.arange(0, CODES)
    peak = tl.full((CODES,), -float("inf"), tl.float32)
    total = tl.zeros((CODES,), tl.float32)
    for start in range(0, CHUNK, LATENTS):
        rows = chunk.to(tl.int64) * CHUNK + start + tl.arange(0, LATENTS)
        inside = rows < count
        logits = _products(codes, code, num_codes, latents, rows, count, DIM, WIDTH)
        logits *= _entries(steep, rows, count)[None, :]
        logits = tl.where(inside[None, :], logits, -float("inf"))
        peak = tl.maximum(peak, tl.max(logits, 1))
        total += tl.sum(tl.exp(logits), 1)
    place = code.to(tl.int64) * chunks + chunk
    exists = code < num_codes
    tl.store(peaks + place, peak, mask=exists)
    tl.store(sums + place, total, mask=exists)


@jit
@no_type_check
def logits_kernel(
    latents,
    steep,
    codes,
    chosen,
    logits,
    per_code,
    count,
    DIM: constexpr,
    WIDTH: constexpr,
    LATENTS: constexpr,
    CHUNK: constexpr,
):
    """Logits of one code and one of the chunks that were chosen for it.

    Writes `logits`, (num_codes, per_code * CHUNK), with -inf beyond the latents.
    """
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    code = _entries(codes + program // per_code * DIM, columns, DIM)
    chunk = tl.load(chosen + program)
    for start in range(0, CHUNK, LATENTS):
        offsets = start + tl.arange(0, LATENTS)
        rows = chunk * CHUNK + offsets
        tile = _load(latents, rows, count, columns, DIM)
        found = tl.sum(tile * code[None, :], 1)
        found *= _entries(steep, rows, count)
        found = tl.where(rows < count, found, -float("inf"))
        tl.store(logits + program * CHUNK + offsets, found)


@jit
@no_type_check
def push_kernel(
    latents,
    steep,
    codes,
    push,
    bits,
    gradient,
    num_codes,
    count,
    DIM: constexpr,
    WIDTH: constexpr,
    LATENTS: constexpr,
    CODES: constexpr,
):
    """Push of all codes on a tile of latents, but of those codes whose nearest latents they are.

    Adds exp(logit) * push along each code to `gradient`.
    """
    rows = _tile_rows(LATENTS)
    columns = tl.arange(0, WIDTH)
    factor = _entries(steep, rows, count)[:, None]
    total = tl.zeros((LATENTS, WIDTH), tl.float32)
    for first in range(0, num_codes, CODES):
        code = first + tl.arange(0, CODES)
        logits = _products(latents, rows, count, codes, code, num_codes, DIM, WIDTH) * factor
        weights = tl.exp(logits)
        weights *= _entries(push, code, num_codes)[None, :]

        # Leave out the nearest latents, whose bits are set.
        words = bits + (rows // 32)[:, None] * num_codes + code[None, :]
        inside = (rows < count)[:, None] & (code < num_codes)[None, :]
        word = tl.load(words, mask=inside, other=0)
        bit = (rows % 32).to(tl.int32)
        among = (word >> bit[:, None]) & 1
        weights = tl.where(among == 0, weights, 0.0)

        directions = _load(codes, code, num_codes, columns, DIM)
        total = tl.dot(weights, directions, total, input_precision="tf32x3")
    places, inside = _cells(rows, count, columns, DIM)
    total += tl.load(gradient + places, mask=inside)
    tl.store(gradient + places, total, mask=inside)


@jit
@no_type_check
def tangent_kernel(
    latents,
    inverse,
    gradient,
    num_codes,
    count,
    DIM: constexpr,
    WIDTH: constexpr,
    LATENTS: constexpr,
):
    """The work of `through_normalization_` for a tile of latents."""
    rows = _tile_rows(LATENTS)
    columns = tl.arange(0, WIDTH)
    tile = _load(latents, rows, count, columns, DIM)
    places, inside = _cells(rows, count, columns, DIM)
    slope = tl.load(gradient + places, mask=inside, other=0.0)
    factor = _entries(inverse, rows, count)
    along = tl.sum(tile * slope, 1) * factor * factor
    tangent = slope - along[:, None] * tile
    tl.store(gradient + places, tangent * (factor / num_codes)[:, None], mask=inside)


@jit
@no_type_check
def best_kernel(
    latents,
    codes,
    center,
    bias,
    chosen,
    num_codes,
    count,
    DIM: constexpr,
    WIDTH: constexpr,
    LATENTS: constexpr,
    CODES: constexpr,
):
    """The code with the largest score for each of a tile of latents; of equal ones the lowest."""
    rows = _tile_rows(LATENTS)
    best = tl.full((LATENTS,), -float("inf"), tl.float32)
    index = tl.zeros((LATENTS,), tl.int64)
    for first in range(0, num_codes, CODES):
        code = first + tl.arange(0, CODES)
        offset = tl.load(bias + code, mask=code < num_codes, other=-float("inf"))
        scores = _products(latents, rows, count, codes, code, num_codes, DIM, WIDTH, center)
        scores += offset[None, :]
        score, place = tl.max(scores, 1, return_indices=True)
        index = tl.where(score > best, first + place, index)
        best = tl.maximum(best, score)
    tl.store(chosen + rows, index, mask=rows < count)
