"""The margin loss and the lookup in blocks, for every device: exact, in plain PyTorch operations.

At most 32 MiB of the K x N matrix of cosines exist at a time. The sizes of the blocks are chosen
for the caches of a CPU; on NVIDIA GPUs `arcvq.ops.triton` does the same work.
"""

import math

import torch
from torch.nn.functional import softplus

# The smallest norm that anything is divided by: a row of zeros then stays zero.
TINY = 1e-12

# Up to this scale, exp(scale * cosine) and sums of it stay within float32 without a shift.
SAFE_SCALE = 32.0

# Entries of the largest tensor: 32 MiB in float32.
BLOCK = 1 << 23

# Entries of a matrix product, 8 MiB in float32: what is done to it next finds it in the cache.
TILE = 1 << 21

# Codes in a chunk, of which the lookup searches one for each latent.
SEARCHED = 64

# To find the nearest of all latents, only the largest cosine of each chunk of latents is looked at
# first. This is the largest size of a chunk.
CHUNK = 128


def sum_losses(latents, inverse, codes, margin, scale, top_k, gradient):
    """Compute the margin loss of each code and sum over the codes.

    It takes two matrix products, as many as with the whole matrix, and one pass over each tile
    while that is in the cache. A block of codes keeps its cosines to all latents until its gradient
    is added.

    Args:
        latents: Latents (N, D).
        inverse: 1 / norm of each latent (N,), or 0.
        codes: Normalized codes (K, D).
        margin: Angular margin in radians.
        scale: Scale of the cosines.
        top_k: Latents that each code pulls, from 1 to N.
        gradient: Where to add the gradient to the normalized latents (N, D); or None.
    """
    size = _codes_per_block(len(codes), latents, top_k)
    memory = latents.new_empty(size, len(latents))  # used by one block after the other
    total = 0
    for block in codes.split(size):
        weights = memory[: len(block)]
        total += _block_loss(latents, inverse, block, weights, margin, scale, top_k, gradient)
    return total


def _codes_per_block(num_codes, latents, top_k):
    """Codes in a block: blocks of equal size whose tensors have at most `BLOCK` entries."""
    count, dim = latents.shape
    # Entries of a code: its cosines to all latents, or what is made of its nearest ones.
    nearest = 4 * top_k * max(dim, CHUNK)
    entries = max(count, nearest)
    most = max(1, BLOCK // entries)
    blocks = math.ceil(num_codes / most)
    return math.ceil(num_codes / blocks)


def _block_loss(latents, inverse, codes, weights, margin, scale, top_k, gradient):
    """Sum of the loss over a block of codes.

    Adds to `gradient`, unless it is None, the gradient to the normalized latents. `weights` is
    memory (block, N) for exp(scale * cosine), up to a factor exp(-shift) for each code.
    """
    safe = scale <= SAFE_SCALE
    chunk = _chunk_size(len(latents), top_k)
    peaks = _fill_weights(latents, inverse, codes * scale, weights, chunk, exponential=safe)
    nearest = _nearest(weights, peaks, chunk, top_k)

    # From here on the weights are those of the others, i not in N_j.
    if safe:
        weights.scatter_(1, nearest, 0.0)
        shift = 0.0
    else:
        weights.scatter_(1, nearest, -math.inf)
        shift = _shifted_exp_(weights)
    others = weights.sum(1)

    log_others = others.log() + shift
    loss, lost = pull_nearest(latents, inverse, codes, nearest, log_others, margin, scale, gradient)
    if gradient is not None:
        # The derivative of the loss by another cosine is scale * lost * weight / others.
        tiny = torch.finfo(others.dtype).tiny  # others is 0 where there are none
        push = scale * lost / others.clamp_min(tiny)
        gradient.addmm_(weights.T, codes * push[:, None])
    return loss


def _shifted_exp_(logits):
    """Turn logits (block, N) in place into exp(logit - shift), the shift being each code's largest.

    Returns the shifts (block,).
    """
    shift = logits.amax(1)
    lowest = torch.finfo(logits.dtype).min
    shift.clamp_min_(lowest)  # it is -inf where all logits are
    logits.sub_(shift[:, None])
    logits.exp_()
    return shift


def _chunk_size(count, top_k):
    """Latents in a chunk, so that there are about as many chunks as latents in `top_k` of them."""
    # All sizes are powers of two. Near the square root of count / top_k both numbers are equal.
    exponent = round(math.log2(count / top_k) / 2)
    balanced = 2**exponent
    # Short chunks are slow to go through; eight longer ones are searched as quickly.
    an_eighth = max(1, count // 8)
    rounded_down = 2 ** (an_eighth.bit_length() - 1)
    longer = min(64, rounded_down)
    return min(CHUNK, max(16, balanced, longer))


def _fill_weights(latents, inverse, codes, weights, chunk, exponential):
    """Fill `weights` (block, N) with the logits, or with their exponentials.

    Returns the largest logit of each chunk of latents, (block, chunks).
    """
    chunks_per_tile = max(1, TILE // len(codes) // chunk)
    width = chunks_per_tile * chunk
    peaks = []
    for start in range(0, len(latents), width):
        end = start + width
        rows = latents[start:end]
        logits = weights[:, start:end]
        torch.mm(codes, rows.T, out=logits)
        logits.mul_(inverse[start:end])
        peaks += _peaks(logits, chunk)
        if exponential:
            logits.exp_()
    return torch.cat(peaks, dim=1)


def _peaks(logits, chunk):
    """Largest logit of each chunk of latents, in parts (block, chunks) to be joined."""
    count = logits.shape[1]
    whole = count // chunk * chunk  # latents in whole chunks
    chunks = logits[:, :whole].unflatten(1, (-1, chunk))
    peaks = [chunks.amax(2)]
    if whole < count:
        rest = logits[:, whole:]
        peaks.append(rest.amax(1, keepdim=True))
    return peaks


def _nearest(weights, peaks, chunk, top_k):
    """Places (block, k) of the k largest weights of each code.

    They lie in the k chunks with the largest peaks, so only these are searched.
    """
    count = weights.shape[1]
    searched = min(top_k, peaks.shape[1])
    chunks = peaks.topk(searched, dim=1, sorted=False).indices
    starts = chunks[..., None] * chunk
    offsets = torch.arange(chunk, device=chunks.device)
    places = (starts + offsets).flatten(1)
    if count % chunk == 0:
        found = weights.gather(1, places)
    else:  # the last chunk reaches beyond the latents
        found = weights.gather(1, places.clamp_max(count - 1))
        found.masked_fill_(places >= count, -math.inf)
    best = found.topk(top_k, dim=1, sorted=False)
    return places.gather(1, best.indices)


def pull_nearest(latents, inverse, codes, nearest, log_others, margin, scale, gradient):
    """Sum of the loss over a block of codes, from the nearest latents and the sum over all others.

    Args:
        latents: Latents (N, D).
        inverse: Their inverse norms (N,).
        codes: Normalized codes (block, D).
        nearest: Places of the nearest latents of each code (block, k).
        log_others: Logarithm of the sum of exp(logit) over all other latents (block,).
        margin: Angular margin in radians.
        scale: Scale of the cosines.
        gradient: Gradient to the normalized latents (N, D), to which the pull on the nearest ones
            is added; or None.

    Returns:
        The sum, and for each code the part of the softmax that its nearest latents do not hold.
    """
    factors = inverse[nearest]
    directions = latents[nearest] * factors[..., None]
    logits, slope = _margin_logits(directions, codes[:, None], margin, scale)
    # For each code the loss is -log(p) of the part p that its nearest latents hold of the softmax,
    # p = sigmoid(-gap). So the loss is softplus(gap), and 1 - p is sigmoid(gap).
    log_nearest = logits.logsumexp(1)
    gap = log_others - log_nearest
    lost = torch.sigmoid(gap)
    if gradient is not None:
        # The derivative of the loss by a nearest logit is minus its share of what is lost.
        share = lost[:, None] * logits.softmax(1)
        pull = -share * slope
        pull_along_codes = pull[..., None] * codes[:, None]
        gradient.index_add_(0, nearest.flatten(), pull_along_codes.flatten(0, 1))
    losses = softplus(gap)
    return losses.sum(), lost


def _margin_logits(directions, codes, margin, scale):
    """Logits scale * cos(theta + margin) of unit vectors, and their slopes by cos(theta).

    Sine and cosine come from |z - e| and |z + e| (Kahan), which is exact for small angles too,
    where 1 - cos^2 cancels. Rows of zeros are at right angles to all.
    """
    apart = torch.linalg.vector_norm(directions - codes, dim=-1)
    along = torch.linalg.vector_norm(directions + codes, dim=-1)
    near = apart.square()
    far = along.square()
    cosine = (far - near) / 4
    # For unit vectors the squares add up to 4, with a row of zeros to 2 or 0.
    sine = torch.where(near + far < 3, 1.0, apart * along / 2)

    cos_margin = math.cos(margin)
    sin_margin = math.sin(margin)
    logit = cosine * cos_margin - sine * sin_margin
    floor = torch.finfo(sine.dtype).eps  # keeps the slope finite where latent and code coincide
    cotangent = cosine / sine.clamp_min(floor)
    slope = cos_margin + cotangent * sin_margin

    # Where theta + margin > pi the cosine would rise again: go on falling in a straight line.
    beyond = cosine < -cos_margin
    logit = torch.where(beyond, cosine + cos_margin - 1, logit)
    slope = slope.masked_fill(beyond, 1.0)
    return scale * logit, scale * slope


def through_normalization_(gradient, latents, inverse, num_codes):
    """Turn a sum over codes of gradients to the normalized latents into the mean to the latents.

    Of a gradient to z / |z| the tangent part, divided by |z|, reaches z.
    """
    dim = latents.shape[1]
    # Small parts: gradient, latents and their product stay in the cache from one line to the next.
    size = max(1, TILE // 16 // dim)
    parts = zip(gradient.split(size), latents.split(size), inverse.split(size), strict=True)
    for part, rows, factors in parts:
        # The tangent part of g is g - z <g, z> / |z|^2.
        along = (part * rows).sum(1)
        along *= factors.square()
        part.addcmul_(rows, along[:, None], value=-1)
        part *= factors[:, None] / num_codes


def best_scores(latents, codes, center, bias):
    """Find the code with the largest score <z - center, code> + bias for each latent z.

    `center` is (D,) and `bias` is (K,), or None for none. Of equal scores the lowest index wins.
    """
    best = []
    size = max(1, TILE // len(codes))
    for rows in latents.split(size):
        if center is not None:
            rows = rows - center
        scores = rows @ codes.T if bias is None else torch.addmm(bias, rows, codes.T)
        best.append(_first_largest(scores))
    return torch.cat(best)


def _first_largest(scores):
    """Column of the largest entry of each row (N,), the first of equal ones.

    The largest entry alone is found several times as fast as with its column. So each row is cut
    into chunks, and only the first chunk that holds the largest entry is searched for its column.
    """
    num_codes = scores.shape[1]
    if num_codes % SEARCHED:
        return scores.argmax(1)
    chunks = scores.view(-1, SEARCHED)
    per_row = num_codes // SEARCHED
    peaks = chunks.amax(1)
    chunk = peaks.view(-1, per_row).argmax(1)
    # Chunks are numbered across all rows; these are the first ones of the rows.
    first = torch.arange(0, len(chunks), per_row, device=scores.device)
    searched = chunks.index_select(0, first + chunk)
    column = searched.argmax(1)
    return chunk * SEARCHED + column
