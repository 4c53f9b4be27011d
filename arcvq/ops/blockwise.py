"""The margin loss and the lookup in blocks: the K x N matrix of cosines never exists whole, and nothing is approximate.

Plain PyTorch operations on any device. The sizes of the blocks are for the caches of a CPU; on CUDA `arcvq.ops.triton`
does the same work.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, softplus

TINY = 1e-12  # The least norm that a division sees: a row of zeros then stays zero.
BLOCK = 1 << 23  # Entries of the largest tensor, 32 MiB in float32
TILE = 1 << 21  # Entries of a matrix product, 8 MiB in float32: what is done to it next finds it in the cache
CHUNK = 128  # At most so many latents of which only the largest cosine is looked at first, to find the nearest of all
SAFE_SCALE = 32.0  # Up to this scale exp(scale * cosine) and its sums stay within float32 without a shift.


def margin_loss(
    latents: Float[Tensor, "N D"],
    codebook: Float[Tensor, "K D"],
    margin: float,
    scale: float,
    top_k: int,
    with_gradient: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "N D"] | None]:
    """`arcvq.samp.arc_margin_loss` and its gradient to the latents, in the dtype of both; 1 <= top_k <= N.

    Two matrix products, as the whole matrix would need, and one pass over each tile while it lies in the cache. A
    block of codes keeps its cosines to all latents until the gradient is added, at most 2^23 of them.
    """
    inverse, codes = inverse_norms(latents), normalize(codebook, dim=1, eps=TINY)
    gradient = torch.zeros_like(latents) if with_gradient else None
    total = latents.new_zeros(())
    rows = _block_rows(len(codes), len(latents), latents.shape[1], top_k)
    memory = latents.new_empty(rows, len(latents))
    for block in codes.split(rows):
        total += _block_loss(latents, inverse, block, memory[: len(block)], margin, scale, top_k, gradient)
    if gradient is not None:
        _through_normalization_(gradient, latents, inverse, len(codes))
    return total / len(codes), gradient


def inverse_norms(latents: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """1 / norm of each row, and 0 for a row of zeros: it has no direction, and none to turn to."""
    norms = torch.linalg.vector_norm(latents, dim=1)
    return torch.where(norms > TINY, 1 / norms, 0.0)


def chunk_size(count: int, top_k: int) -> int:
    """Latents in a chunk: about as many chunks as there are latents in the `top_k` that are looked through."""
    return min(CHUNK, max(16, 1 << round(math.log2(count / top_k) / 2)))


def _block_rows(num_codes: int, count: int, dim: int, top_k: int) -> int:
    """Codes in a block: blocks of equal size whose cosines and whose nearest latents fit in `BLOCK` entries."""
    most = max(1, BLOCK // max(count, 4 * top_k * max(dim, CHUNK)))
    return math.ceil(num_codes / math.ceil(num_codes / most))


def _block_loss(latents, inverse, codes, weights, margin, scale, top_k, gradient):
    """The sum of the loss over a block of codes; adds the gradient to the unit latents to `gradient`, if there is one.

    weights: (block, N) memory for exp(scale * cosine).
    """
    safe, shift = scale <= SAFE_SCALE, codes.new_zeros(())
    chunk = chunk_size(len(latents), top_k)
    peaks = _weigh(latents, inverse, codes * scale, weights, chunk, exponential=safe)
    nearest = _nearest(weights, peaks, chunk, top_k)
    weights.scatter_(1, nearest, 0.0 if safe else -math.inf)  # the sums are over i not in N_j
    if not safe:
        shift = weights.amax(1).clamp_min(torch.finfo(weights.dtype).min)  # -inf if there are no others
        weights.sub_(shift[:, None]).exp_()
    total = weights.sum(1)
    loss, share = pull_nearest(latents, inverse, codes, nearest, total, shift, margin, scale, gradient)
    if gradient is not None:
        gradient.addmm_(weights.T, codes * share[:, None])
    return loss


def pull_nearest(latents, inverse, codes, nearest, total, shift, margin, scale, gradient):
    """The sum of the loss over codes (block, D); adds the pull on their nearest latents (block, k) to `gradient`.

    total * exp(shift) (block,): the sum of exp(logit) over all other latents. Also gives share (block,): the gradient
    pushes another latent by share * weight along the code, where `total` is the sum of these weights.
    """
    directions = latents[nearest] * inverse[nearest][..., None]
    positive, slope = margin_logits(directions, codes[:, None], margin, scale)
    gap = total.log() + shift - positive.logsumexp(1)
    lost = torch.sigmoid(gap)  # the part of the softmax that the nearest latents do not hold
    if gradient is not None:
        pull = -lost[:, None] * positive.softmax(1) * slope
        gradient.index_add_(0, nearest.flatten(), (pull[..., None] * codes[:, None]).flatten(0, 1))
    return softplus(gap).sum(), scale * lost / total.clamp_min(torch.finfo(total.dtype).tiny)


def _weigh(latents, inverse, codes, weights, chunk, exponential):
    """Fill `weights` (block, N) with the logits, or their exponentials; returns the largest logit of each chunk."""
    width = max(chunk, TILE // len(codes) // chunk * chunk)
    peaks = []
    for start in range(0, len(latents), width):
        tile = latents[start : start + width]
        logits = torch.mm(codes, tile.T, out=weights[:, start : start + width]).mul_(inverse[start : start + width])
        whole = logits.shape[1] // chunk * chunk
        peaks.append(logits[:, :whole].unflatten(1, (-1, chunk)).amax(2))
        if whole < logits.shape[1]:
            peaks.append(logits[:, whole:].amax(1, keepdim=True))
        if exponential:
            logits.exp_()
    return torch.cat(peaks, dim=1)


def _nearest(weights, peaks, chunk, top_k):
    """The places (block, k) of the largest weights of each row: they lie in the k chunks with the largest peaks."""
    count = weights.shape[1]
    chunks = peaks.topk(min(top_k, peaks.shape[1]), dim=1, sorted=False).indices
    places = (chunks[..., None] * chunk + torch.arange(chunk, device=chunks.device)).flatten(1)
    if count % chunk == 0:
        found = weights.gather(1, places)
    else:  # the last chunk is not full
        found = weights.gather(1, places.clamp_max(count - 1)).masked_fill_(places >= count, -math.inf)
    return places.gather(1, found.topk(top_k, dim=1, sorted=False).indices)


def margin_logits(latents, codes, margin, scale):
    """scale * cos(theta + margin) for unit vectors (broadcast on the last axis), and its slope by cos(theta).

    Sine and cosine come from |z - e| and |z + e| (Kahan), exact for small angles too, where 1 - cos^2 cancels. A
    floor under the sine keeps the slope finite where latent and code coincide.
    """
    apart = torch.linalg.vector_norm(latents - codes, dim=-1)
    along = torch.linalg.vector_norm(latents + codes, dim=-1)
    cosine = (along.square() - apart.square()) / 4
    sine = apart * along / 2
    floor = torch.finfo(latents.dtype).eps
    logit = cosine * math.cos(margin) - sine * math.sin(margin)
    slope = math.cos(margin) + cosine / sine.clamp_min(floor) * math.sin(margin)
    beyond = cosine < -math.cos(margin)  # theta + margin > pi
    logit = torch.where(beyond, cosine + math.cos(margin) - 1, logit)
    return scale * logit, scale * slope.masked_fill(beyond, 1.0)


def _through_normalization_(gradient, latents, inverse, count):
    """A sum of gradients to unit latents made the mean gradient to the latents: its tangent part over the norm."""
    size = max(1, TILE // 16 // latents.shape[1])
    for part, rows, scale in zip(*(every.split(size) for every in (gradient, latents, inverse)), strict=True):
        along = (part * rows).sum(1).mul_(scale.square())
        part.addcmul_(rows, along[:, None], value=-1).mul_(scale[:, None] / count)


@torch.no_grad()
def nearest_code(
    latents: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"], metric: str = "cosine"
) -> Int[Tensor, " N"]:
    """`arcvq.quantizers.nearest_code`, in the dtype of both."""
    if metric == "cosine":  # the nearest code is the same for every norm of the latent
        codebook, bias = normalize(codebook, dim=1, eps=TINY), None
    else:  # |z - e|^2 is least where <z, e> - |e|^2 / 2 is greatest.
        bias = codebook.square().sum(1) / -2
    blocks = latents.split(max(1, TILE // len(codebook)))
    return torch.cat([_scores(block, codebook, bias).max(1).indices for block in blocks])


def _scores(latents, codes, bias):
    return latents @ codes.T if bias is None else torch.addmm(bias, latents, codes.T)
