"""Draw images from a prior: token by token in raster order, all images of a batch together.

Every token takes its own uniform number, drawn beforehand from the generator, and is read off the cumulative
probabilities. So an image depends on the seed and its place among the n, and not on how they are split into batches.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcvq.priors.base import Prior
from arcvq.runtime.checks import check_whole
from arcvq.vqvae import VQVAE

BATCH = 256  # images drawn together: enough to fill the cores, while caches and decoder stay at some hundred MB


class Step(NamedTuple):
    """One token of sampling.

    position: (row, column). probabilities: (n, K), what the token was drawn from, after temperature, top-k and top-p.
    tokens: (n, h, w), those up to here; the rest are 0, or as given.
    """

    position: tuple[int, int]
    probabilities: Float[Tensor, "n K"]
    tokens: Int[Tensor, "n h w"]


def check_choice(
    num_codes: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> None:
    """Raise ValueError where `next_probabilities` could not work: see there for what is allowed."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be a finite number above 0")
    if top_k is not None and not 1 <= top_k <= num_codes:
        raise ValueError(f"top_k is {top_k}; it must be from 1 to {num_codes}, the number of codes")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")


def next_probabilities(
    logits: Float[Tensor, "n K"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "n K"]:
    """softmax(logits / temperature), of it the top_k likeliest, of these the fewest that reach top_p together.

    temperature: finite, above 0. top_k: 1 to K. top_p: above 0, at most 1 (nucleus sampling, Holtzman et al. 2020).
    """
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0, so no temperature overflows upwards
    if top_k is not None:
        kept, order = logits.topk(top_k)
        logits = torch.full_like(logits, -math.inf).scatter(-1, order, kept)
    probabilities = logits.softmax(-1)
    if top_p is not None:
        falling, order = probabilities.sort(descending=True)
        kept = falling * (falling.cumsum(-1) - falling < top_p)
        probabilities = torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))
    return probabilities


def draw(probabilities: Float[Tensor, "n K"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The first code whose cumulative probability exceeds the uniform number in [0, 1), so never one of chance 0."""
    cumulative = probabilities.cumsum(-1)
    below = uniform * (1 - 2**-22)  # rounding may not lift the product below to the whole sum
    return (cumulative <= below[:, None] * cumulative[:, -1:]).sum(-1)


@torch.no_grad()
def _steps(prior, choice, tokens, mask, uniform, labels) -> Iterator[Step]:
    """One batch, up to the last token that a mask leaves open."""
    missing = (~mask).flatten(1).any(0).nonzero()
    state = prior.start(len(tokens), labels)
    state.tokens.copy_(tokens)
    for position in range(int(missing.max()) + 1 if len(missing) else 0):
        row, column = divmod(position, prior.grid[1])
        probabilities = next_probabilities(prior.next_logits(state), **choice)
        drawn = draw(probabilities, uniform[:, position])
        prior.append(state, torch.where(mask[:, row, column], tokens[:, row, column], drawn))
        yield Step((row, column), probabilities, state.tokens.clone())


def _prepare(prior, choice, tokens, mask, labels, generator) -> list[Any]:
    """Tokens (n, h, w), mask (n, h, w), uniform numbers (n, h w) and labels (n,) on the prior's device, checked."""
    n, device = len(tokens), prior.device
    check_whole(1, n=n)
    check_choice(prior.num_codes, **choice)
    labels = torch.full((n,), labels) if isinstance(labels, int) else labels
    prior.check(tokens, labels)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (prior.grid, (n, *prior.grid)):
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}; it must be torch.bool {prior.grid}, or with one "
                         f"mask for each grid {(n, *prior.grid)}")
    source = generator.device if generator is not None else "cpu"
    uniform = torch.rand(n, prior.grid[0] * prior.grid[1], generator=generator, device=source)
    mask = mask.expand(tokens.shape)
    everything = (torch.where(mask, tokens, 0), mask, uniform, labels)
    return [None if tensor is None else tensor.to(device) for tensor in everything]


def steps(
    prior: Prior,
    tokens: Int[Tensor, "n h w"],
    mask: Bool[Tensor, "*n h w"],
    labels: Int[Tensor, " n"] | int | None = None,
    generator: torch.Generator | None = None,
    **choice: Any,
) -> Iterator[Step]:
    """What `complete_tokens` does, in one batch and shown step by step, for a picture of tokens that appear."""
    return _steps(prior, choice, *_prepare(prior, choice, tokens, mask, labels, generator))


def complete_tokens(
    prior: Prior,
    tokens: Int[Tensor, "n h w"],
    mask: Bool[Tensor, "*n h w"],
    labels: Int[Tensor, " n"] | int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = BATCH,
    **choice: Any,
) -> Int[Tensor, "n h w"]:
    """Keep the tokens where the mask is True and draw the others in raster order, each given those before it.

    A token after an open place does not inform it, since the prior looks only back. mask: (h, w), or (n, h, w) with
    one for each grid. labels: one for each grid, or one for all, where the prior has classes. generator: of the draws;
    None for PyTorch's own. batch_size: grids that are drawn together. choice: temperature, top_k and top_p of
    `next_probabilities`. Raises ValueError for what does not fit.
    """
    check_whole(1, batch_size=batch_size)
    prepared = _prepare(prior, choice, tokens, mask, labels, generator)
    drawn = []
    for some in torch.arange(len(tokens)).split(batch_size):
        batch: list[Any] = [None if tensor is None else tensor[some.to(tensor.device)] for tensor in prepared]
        drawn.append(batch[0])
        for step in _steps(prior, choice, *batch):
            drawn[-1] = step.tokens
    return torch.cat(drawn)


def sample_tokens(prior: Prior, n: int, **options: Any) -> Int[Tensor, "n h w"]:
    """n grids drawn from the prior; options as `complete_tokens` takes them."""
    check_whole(1, n=n)
    nothing = torch.zeros(n, *prior.grid, dtype=torch.int64, device=prior.device)
    return complete_tokens(prior, nothing, torch.zeros(prior.grid, dtype=torch.bool, device=prior.device), **options)


def sample(
    model: VQVAE,
    prior: Prior,
    n: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    labels: Int[Tensor, " n"] | int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = BATCH,
) -> Float[Tensor, "n C H W"]:
    """n images in [-1, 1], drawn from the prior and decoded by the model, on the model's device.

    n: from 1; more than fit in memory at once are drawn `batch_size` at a time. temperature, top_k, top_p: see
    `next_probabilities`. labels, generator: see `complete_tokens`. The same seed gives the same images. Raises
    ValueError for values out of range, and for a prior of another codebook or number of codes than the model's.
    """
    prior.check_model(model)
    tokens = sample_tokens(prior, n, labels=labels, generator=generator, batch_size=batch_size,
                           temperature=temperature, top_k=top_k, top_p=top_p)
    return _decode(model, tokens, batch_size)


def complete(
    model: VQVAE,
    prior: Prior,
    images: Float[Tensor, "n C H W"],
    mask: Bool[Tensor, "*n h w"],
    labels: Int[Tensor, " n"] | int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = BATCH,
    **choice: Any,
) -> Float[Tensor, "n C H W"]:
    """Encode images in [-1, 1], redraw the tokens where the mask is False, decode; see `complete_tokens`.

    A mask of True everywhere reconstructs, one of False everywhere samples. Raises ValueError as `sample` does, and
    for images or a mask of another size than the prior's grid.
    """
    prior.check_model(model)
    check_whole(1, n=len(images), batch_size=batch_size)
    device = next(model.parameters()).device
    tokens = torch.cat([model.encode(some.to(device)) for some in images.split(batch_size)])
    tokens = complete_tokens(prior, tokens, mask.to(device), labels, generator, batch_size, **choice)
    return _decode(model, tokens, batch_size)


def _decode(model: VQVAE, tokens: Tensor, batch_size: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat([model.decode(some.to(device)) for some in tokens.split(batch_size)])
