"""The margin loss and the lookup of `arcvq.ops.blockwise` as Triton kernels for CUDA: exact, in float32.

The K x N matrix of cosines is made tile by tile and never kept. Codes pass in groups. First each chunk of latents
leaves its largest logit and its sum of exponentials: enough to find the nearest latents and to sum over all others.
Then the tiles are made once more for the gradient. Up to `blockwise.SAFE_SCALE` the exponentials need no shift.
Nothing waits for the device, so a CUDA graph can hold it all, after one call outside in which Triton compiles.
"""

from __future__ import annotations

import math
from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops.blockwise import TINY, inverse_norms, pull_nearest

try:
    import triton.language as tl
    from triton import jit
except ImportError:  # Triton is not made for macOS and Windows: `usable` says no, and nobody calls a kernel.
    tl = None

    def jit(function):
        return function


LATENTS, CODES = 64, 64  # Rows of a tile
CHUNK = 128  # Latents that leave one largest logit and one sum
GROUP = 1 << 27  # Bytes for what is held of a group of codes
WIDEST = 256  # The largest D with which a tile of the gradient fits in the registers


def usable(latents: Tensor, codebook: Tensor) -> bool:
    """Whether the kernels can take these rows: float32, on one NVIDIA GPU from Ampere on, 1 <= D <= 256, none empty."""
    return (
        tl is not None
        and latents.is_cuda
        and latents.device == codebook.device
        and latents.dtype == codebook.dtype == torch.float32
        and 1 <= latents.shape[1] <= WIDEST
        and len(latents) > 0
        and len(codebook) > 0
        and torch.version.hip is None
        and torch.cuda.get_device_capability(latents.device) >= (8, 0)  # tensor cores that take float32
    )


def margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
    with_gradient: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "N D"] | None]:
    """The same as `arcvq.ops.blockwise.margin_loss`, for rows that are `usable`, a scale up to 32 and 1 <= top_k <= N.

    Memory besides the gradient: the unit codes, three numbers per latent, and `GROUP` bytes, or what one code needs.
    """
    latents = latents.contiguous()
    count, dim = latents.shape
    inverse, codes = inverse_norms(latents), normalize(codebook.contiguous(), dim=1, eps=TINY)
    gradient = torch.zeros_like(latents) if with_gradient else None
    total = latents.new_zeros(())
    with torch.cuda.device_of(latents):
        for group in codes.split(group_rows(len(codes), count, dim, top_k)):
            total += _group_loss(latents, inverse, group, margin, scale, top_k, gradient)
        if gradient is not None:
            _launch(_tangent, math.ceil(count / LATENTS), latents, inverse, gradient, len(codes))
    return total / len(codes), gradient


@torch.no_grad()
def nearest_code(
    latents: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"], metric: str = "cosine"
) -> Int[Tensor, " N"]:
    """The same as `arcvq.ops.blockwise.nearest_code`, for rows that are `usable`."""
    latents, codes = latents.contiguous(), codebook.contiguous()
    if metric == "cosine":
        codes, bias = normalize(codes, dim=1, eps=TINY), codes.new_zeros(len(codes))
    else:  # |z - e|^2 is least where <z, e> - |e|^2 / 2 is greatest.
        bias = codes.square().sum(1) / -2
    chosen = torch.empty(len(latents), dtype=torch.int64, device=latents.device)
    with torch.cuda.device_of(latents):
        _launch(_nearest, math.ceil(len(latents) / LATENTS), latents, codes, bias, chosen, len(codes), CODES=CODES)
    return chosen


def group_rows(num_codes: int, count: int, dim: int, top_k: int) -> int:
    """Codes in a group: groups of equal size that take at most `GROUP` bytes, if one code does not take more."""
    most = max(1, GROUP // bytes_per_code(count, dim, top_k))
    return math.ceil(num_codes / math.ceil(num_codes / most))


def bytes_per_code(count: int, dim: int, top_k: int) -> int:
    """Bytes held at once for each code of a group, with N = `count`."""
    chunks = math.ceil(count / CHUNK)
    chosen = min(top_k, chunks)
    scanned = 8 * chunks + 12 * chosen  # the largest logit and the sum of each chunk; which chunks were chosen
    looked_at = 8 * chosen * CHUNK  # logits, and as much for topk to work in
    pulled = top_k * (16 * dim + 64)  # rows of the nearest latents and what is made of them
    return scanned + looked_at + pulled + 4 * math.ceil(count / 32)  # a bit for each latent


def _group_loss(latents, inverse, codes, margin, scale, top_k, gradient):
    """The sum of the loss over a group of codes; adds its gradient to the unit latents to `gradient`, if not None."""
    steep = inverse * scale  # makes a product a logit
    nearest, total = _nearest_and_others(latents, steep, codes, top_k)
    loss, share = pull_nearest(latents, inverse, codes, nearest, total, 0.0, margin, scale, gradient)
    if gradient is not None:
        bits = _bits(nearest, len(latents))
        programs = math.ceil(len(latents) / LATENTS)
        # Two products take more registers: half a tile.
        _launch(_push, programs, latents, steep, codes, share, bits, gradient, len(codes), CODES=CODES // 2)
    return loss


def _nearest_and_others(latents, steep, codes, top_k):
    """The places (group, k) of the latents nearest to each code, and the sum (group,) of exp(logit) over all others.

    The nearest lie in the k chunks with the largest peaks. No sum is made by subtraction, so none cancels.
    """
    chunks = math.ceil(len(latents) / CHUNK)
    peaks, sums = codes.new_empty(2, len(codes), chunks)
    programs = math.ceil(len(codes) / CODES) * chunks
    _launch(_scan, programs, latents, steep, codes, peaks, sums, chunks, len(codes), CODES=CODES, CHUNK=CHUNK)
    chosen = peaks.topk(min(top_k, chunks), dim=1, sorted=False).indices
    logits = codes.new_empty(len(codes), chosen.shape[1] * CHUNK)
    _launch(_look, chosen.numel(), latents, steep, codes, chosen, logits, chosen.shape[1], CHUNK=CHUNK)
    places = logits.topk(top_k, dim=1, sorted=False).indices
    total = logits.scatter_(1, places, -math.inf).exp_().sum(1) + sums.scatter_(1, chosen, 0.0).sum(1)
    return chosen.gather(1, places // CHUNK) * CHUNK + places % CHUNK, total


def _bits(nearest, count):
    """(N / 32, group) integers of 32 bits, one for each latent, set where it is among a code's nearest."""
    group = torch.arange(len(nearest), device=nearest.device)
    bits = torch.zeros(math.ceil(count / 32), len(nearest), dtype=torch.int32, device=nearest.device)
    marks = torch.ones_like(nearest, dtype=torch.int32) << (nearest % 32).int()  # no bit twice, so a sum is a union
    bits.view(-1).index_add_(0, (nearest // 32 * len(nearest) + group[:, None]).flatten(), marks.flatten())
    return bits


def _launch(kernel, programs, latents, *arguments, **sizes):
    """Run `programs` programs of a kernel, which takes the latents first and their number last."""
    count, dim = latents.shape
    width = max(16, 1 << (dim - 1).bit_length())  # a tile has a power of two of columns, and a tensor core takes 16
    sizes |= {"DIM": dim, "WIDTH": width, "LATENTS": LATENTS, "num_warps": 4 if width <= 128 else 8}
    kernel[(programs,)](latents, *arguments, count, **sizes, enable_fp_fusion=True)


# no_type_check keeps the tests' shape checks from wrapping what Triton wants to read.


@jit
@no_type_check
def _cells(rows, count, columns, DIM: tl.constexpr):
    """The places of rows and columns in a matrix (count, DIM), and which lie inside it."""
    return rows.to(tl.int64)[:, None] * DIM + columns[None, :], (rows < count)[:, None] & (columns < DIM)[None, :]


@jit
@no_type_check
def _load(matrix, rows, count, columns, DIM: tl.constexpr):
    """Rows and columns of a matrix (count, DIM), zero outside it."""
    places, inside = _cells(rows, count, columns, DIM)
    return tl.load(matrix + places, mask=inside, other=0.0)


@jit
@no_type_check
def _products(
    left, left_rows, left_count, right, right_rows, right_count, DIM: tl.constexpr, WIDTH: tl.constexpr
):
    """The inner products of rows of two matrices; tf32x3 is tensor cores on parts of the numbers, nearly float32."""
    SLICE: tl.constexpr = min(WIDTH, 32)  # whole rows would not fit in the registers
    products = tl.zeros((left_rows.shape[0], right_rows.shape[0]), tl.float32)
    for start in range(0, WIDTH, SLICE):
        columns = start + tl.arange(0, SLICE)
        one = _load(left, left_rows, left_count, columns, DIM)
        other = _load(right, right_rows, right_count, columns, DIM)
        products = tl.dot(one, tl.trans(other), products, input_precision="tf32x3")
    return products


@jit
@no_type_check
def _scan(
    latents, steep, codes, peaks, sums, chunks, num_codes, count,
    DIM: tl.constexpr, WIDTH: tl.constexpr, LATENTS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr,
):
    """The largest logit and the sum of exp(logit), (num_codes, chunks), of a tile of codes and a chunk of latents."""
    tiles = tl.cdiv(num_codes, CODES)  # neighbours share a chunk of latents: there are many more of these than codes
    chunk = tl.program_id(0) // tiles
    code = tl.program_id(0) % tiles * CODES + tl.arange(0, CODES)
    peak = tl.full((CODES,), -float("inf"), tl.float32)
    total = tl.zeros((CODES,), tl.float32)
    for start in range(0, CHUNK, LATENTS):
        rows = chunk.to(tl.int64) * CHUNK + start + tl.arange(0, LATENTS)
        logits = _products(codes, code, num_codes, latents, rows, count, DIM, WIDTH)
        logits *= tl.load(steep + rows, mask=rows < count, other=0.0)[None, :]
        logits = tl.where((rows < count)[None, :], logits, -float("inf"))
        peak = tl.maximum(peak, tl.max(logits, 1))
        total += tl.sum(tl.exp(logits), 1)
    place = code.to(tl.int64) * chunks + chunk
    tl.store(peaks + place, peak, mask=code < num_codes)
    tl.store(sums + place, total, mask=code < num_codes)


@jit
@no_type_check
def _look(
    latents, steep, codes, chosen, logits, per_code, count,
    DIM: tl.constexpr, WIDTH: tl.constexpr, LATENTS: tl.constexpr, CHUNK: tl.constexpr,
):
    """The logits, (num_codes, per_code * CHUNK), of one code and one of its chosen chunks; -inf beyond the latents."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    code = tl.load(codes + program // per_code * DIM + columns, mask=columns < DIM, other=0.0)
    chunk = tl.load(chosen + program)
    for start in range(0, CHUNK, LATENTS):
        rows = chunk * CHUNK + start + tl.arange(0, LATENTS)
        product = tl.sum(_load(latents, rows, count, columns, DIM) * code[None, :], 1)
        logit = product * tl.load(steep + rows, mask=rows < count, other=0.0)
        place = logits + program * CHUNK + start + tl.arange(0, LATENTS)
        tl.store(place, tl.where(rows < count, logit, -float("inf")))


@jit
@no_type_check
def _push(
    latents, steep, codes, share, bits, gradient, num_codes, count,
    DIM: tl.constexpr, WIDTH: tl.constexpr, LATENTS: tl.constexpr, CODES: tl.constexpr,
):
    """Adds to the gradient of a tile of latents: the codes whose nearest they are not, by exp(logit) * share."""
    rows = tl.program_id(0).to(tl.int64) * LATENTS + tl.arange(0, LATENTS)
    columns = tl.arange(0, WIDTH)
    factor = tl.load(steep + rows, mask=rows < count, other=0.0)[:, None]
    push = tl.zeros((LATENTS, WIDTH), tl.float32)
    for first in range(0, num_codes, CODES):
        code = first + tl.arange(0, CODES)
        logits = _products(latents, rows, count, codes, code, num_codes, DIM, WIDTH) * factor
        weight = tl.exp(logits) * tl.load(share + code, mask=code < num_codes, other=0.0)[None, :]
        inside = (rows < count)[:, None] & (code < num_codes)[None, :]
        word = tl.load(bits + (rows // 32)[:, None] * num_codes + code[None, :], mask=inside, other=0)
        among = (word >> (rows % 32).to(tl.int32)[:, None]) & 1
        directions = _load(codes, code, num_codes, columns, DIM)
        push = tl.dot(tl.where(among == 0, weight, 0.0), directions, push, input_precision="tf32x3")
    places, inside = _cells(rows, count, columns, DIM)
    tl.store(gradient + places, tl.load(gradient + places, mask=inside) + push, mask=inside)


@jit
@no_type_check
def _tangent(
    latents, inverse, gradient, num_codes, count,
    DIM: tl.constexpr, WIDTH: tl.constexpr, LATENTS: tl.constexpr,
):
    """A sum of gradients to unit latents made the mean gradient to the latents: its tangent part over the norm."""
    rows = tl.program_id(0).to(tl.int64) * LATENTS + tl.arange(0, LATENTS)
    places, inside = _cells(rows, count, tl.arange(0, WIDTH), DIM)
    tile = tl.load(latents + places, mask=inside, other=0.0)
    slope = tl.load(gradient + places, mask=inside, other=0.0)
    factor = tl.load(inverse + rows, mask=rows < count, other=0.0)
    along = tl.sum(tile * slope, 1) * factor * factor
    tl.store(gradient + places, (slope - along[:, None] * tile) * (factor / num_codes)[:, None], mask=inside)


@jit
@no_type_check
def _nearest(
    latents, codes, bias, chosen, num_codes, count,
    DIM: tl.constexpr, WIDTH: tl.constexpr, LATENTS: tl.constexpr, CODES: tl.constexpr,
):
    """The index of the code with the largest score for each of a tile of latents, the lowest of equal ones."""
    rows = tl.program_id(0).to(tl.int64) * LATENTS + tl.arange(0, LATENTS)
    best = tl.full((LATENTS,), -float("inf"), tl.float32)
    index = tl.zeros((LATENTS,), tl.int64)
    for first in range(0, num_codes, CODES):
        code = first + tl.arange(0, CODES)
        scores = _products(latents, rows, count, codes, code, num_codes, DIM, WIDTH)
        scores += tl.load(bias + code, mask=code < num_codes, other=-float("inf"))[None, :]
        score, place = tl.max(scores, 1, return_indices=True)
        index = tl.where(score > best, first + place, index)
        best = tl.maximum(best, score)
    tl.store(chosen + rows, index, mask=rows < count)
