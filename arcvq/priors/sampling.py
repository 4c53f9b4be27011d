"""Draw images from a prior: token by token in raster order, all images of a batch together.

Every token has its own uniform random number, drawn before all else, which picks a code from the
cumulative probabilities. So an image depends on the seed and on its place among the n images, and
not on how these are split into batches. In half precision, a network rounds differently in batches
of another size, which can change a token.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from arcvq.autoencoder import Autoencoder
from arcvq.priors.base import Prior
from arcvq.runtime.checks import as_integers, check_whole, is_whole
from arcvq.runtime.precision import at_least_float32

# Images drawn together: enough to keep all cores busy, at some hundred MB of caches.
BATCH = 256

FLOAT32 = torch.finfo(torch.float32)  # smaller numbers than its `tiny` become 0 on their way

# One for each grid, or one for all.
Labels = Integer[Tensor, " n"] | np.ndarray | Sequence[int] | int | np.integer | None


class SamplingStep(NamedTuple):
    """One token of each grid being drawn.

    Attributes:
        position: Row and column of the token.
        probabilities: What it was drawn from, after temperature, top-k and top-p.
        tokens: The grids with all tokens up to this one; the others are 0, or as given.
    """

    position: tuple[int, int]
    probabilities: Float[Tensor, "n K"]
    tokens: Int[Tensor, "n h w"]


def check_choice(
    num_codes: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> None:
    """Raise ValueError for arguments that `next_probabilities` does not allow."""
    if not FLOAT32.tiny <= temperature <= FLOAT32.max:
        allowed = f"in the range of float32, {FLOAT32.tiny:.2g} to {FLOAT32.max:.2g}"
        raise ValueError(f"temperature is {temperature}; it must be above 0 and {allowed}")
    if top_k is not None and not (is_whole(top_k) and 1 <= top_k <= num_codes):
        allowed = f"a whole number from 1 to {num_codes}, the number of codes"
        raise ValueError(f"top_k is {top_k}; it must be {allowed}")
    if top_p is not None and not FLOAT32.tiny <= top_p <= 1:
        allowed = f"above 0, at least {FLOAT32.tiny:.2g}, and at most 1"
        raise ValueError(f"top_p is {top_p}; it must be {allowed}")


def next_probabilities(
    logits: Float[Tensor, "n K"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "n K"]:
    """Return the probabilities that a token is drawn from, in float32 for half precision.

    Args:
        logits: What the prior predicts.
        temperature: The logits are divided by this; above 0, in the range of float32.
        top_k: Only so many of the likeliest codes are kept, 1 to K.
        top_p: Of these, only the fewest that together reach this probability; above 0, at most 1
            (nucleus sampling, Holtzman et al. 2020).

    Raises:
        ValueError: For a temperature, top_k or top_p out of range.
    """
    check_choice(logits.shape[-1], temperature, top_k, top_p)
    logits = at_least_float32(logits)
    largest = logits.amax(-1, keepdim=True)
    # Logits of at most 0 do not overflow, however low the temperature.
    logits = (logits - largest) / temperature
    if top_k is not None:
        kept, codes = logits.topk(top_k)
        none = torch.full_like(logits, -math.inf)
        logits = none.scatter(-1, codes, kept)
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:  # at 1, rounding would drop the least likely codes
        falling, codes = probabilities.sort(descending=True)
        likelier = falling.cumsum(-1) - falling
        kept = falling * (likelier < top_p)
        kept = kept / kept.sum(-1, keepdim=True)
        zeros = torch.zeros_like(kept)
        probabilities = zeros.scatter(-1, codes, kept)
    return probabilities


def draw(probabilities: Float[Tensor, "n K"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Pick the first code whose cumulative probability exceeds a uniform number in [0, 1).

    A code of probability 0 is never picked.
    """
    cumulative = probabilities.cumsum(-1)
    # Rounding must not lift the product to the whole sum, which no cumulative value exceeds.
    uniform = uniform * (1 - 2**-22)
    whole = cumulative[:, -1:]
    threshold = uniform[:, None] * whole
    return (cumulative <= threshold).sum(-1)


class _Grids(NamedTuple):
    """Grids to complete, on the device of the prior."""

    tokens: Int[Tensor, "n h w"]  # 0 where none is given
    mask: Bool[Tensor, "n h w"]  # True where a token is given
    uniform: Float[Tensor, "n places"]
    labels: Int[Tensor, " n"]  # 0 for a prior without classes


def _prepare(prior, tokens, mask, labels, generator, choice) -> _Grids:
    """Check all arguments and draw the uniform numbers."""
    n = len(tokens)
    check_whole(1, n=n)
    check_choice(prior.num_codes, **choice)
    prior.check_shape(tokens)
    one_each = (n, *prior.grid)
    if mask.dtype != torch.bool or mask.shape not in (prior.grid, one_each):
        raise ValueError(
            f"mask is {mask.dtype} {tuple(mask.shape)}; "
            f"it must be torch.bool {prior.grid}, or with one mask for each grid {one_each}"
        )
    mask = mask.to(prior.device).expand(one_each)
    # Open places may hold anything, such as -1.
    tokens = as_integers(tokens, "tokens").to(prior.device) * mask
    if labels is not None:
        labels = _as_tensor(labels, prior.classes)
        labels = labels.expand(n) if labels.ndim == 0 else labels
    tokens, labels = prior.as_tokens(tokens, labels)

    rows, columns = prior.grid
    source = "cpu" if generator is None else generator.device
    uniform = torch.rand(n, rows * columns, generator=generator, device=source)
    if labels is None:
        labels = torch.zeros(n, dtype=torch.int64)
    grids = (tokens, mask, uniform, labels)
    return _Grids(*(tensor.to(prior.device) for tensor in grids))


def _as_tensor(labels: Any, classes: int) -> Tensor:
    """Labels as a tensor; Python's whole numbers may be larger than it holds."""
    try:
        return torch.as_tensor(labels)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        allowed = f"whole numbers from 0 to {classes - 1}"
        if not classes:
            allowed = "left out, since this prior was made without classes"
        raise ValueError(f"labels are {labels!r}; they must be {allowed}") from None


@torch.no_grad()
def _draw_tokens(prior, grids: _Grids, choice) -> Iterator[SamplingStep]:
    """Draw the tokens of one batch, up to the last one that a mask leaves open."""
    _, width = prior.grid
    labels = grids.labels if prior.classes else None
    state = prior.start(len(grids.tokens), labels)
    state.tokens.copy_(grids.tokens)
    is_open = (~grids.mask).flatten(1).any(0)
    still_open = is_open.nonzero()
    end = int(still_open.max()) + 1 if len(still_open) else 0
    for position in range(end):
        row, column = divmod(position, width)
        probabilities = next_probabilities(prior.next_logits(state), **choice)
        if probabilities.isnan().any():
            raise FloatingPointError(
                f"the prior's probabilities at row {row}, column {column} are NaN; its weights are "
                "damaged or its training diverged"
            )
        drawn = draw(probabilities, grids.uniform[:, position])
        given = grids.tokens[:, row, column]
        is_given = grids.mask[:, row, column]
        prior.append(state, torch.where(is_given, given, drawn))
        yield SamplingStep((row, column), probabilities, state.tokens.clone())


def sampling_steps(
    prior: Prior,
    tokens: Integer[Tensor, "n h w"],
    mask: Bool[Tensor, "*n h w"],
    labels: Labels = None,
    generator: torch.Generator | None = None,
    **choice: Any,
) -> Iterator[SamplingStep]:
    """Do what `complete_tokens` does, in one batch, and yield each step, to show it."""
    grids = _prepare(prior, tokens, mask, labels, generator, choice)
    return _draw_tokens(prior, grids, choice)


def complete_tokens(
    prior: Prior,
    tokens: Integer[Tensor, "n h w"],
    mask: Bool[Tensor, "*n h w"],
    labels: Labels = None,
    generator: torch.Generator | None = None,
    batch_size: int = BATCH,
    **choice: Any,
) -> Int[Tensor, "n h w"]:
    """Keep given tokens and draw the others in raster order, each given those before it.

    A given token does not inform the open places before it, since the prior looks only back.

    Args:
        prior: The prior to draw from.
        tokens: The grids; only tokens under the mask matter, and the others may be -1.
        mask: True where a token is kept: (h, w), or (n, h, w) with one mask for each grid.
        labels: The class of each grid, or one for all, if the prior has classes.
        generator: Of the random numbers; None for PyTorch's own.
        batch_size: How many grids are drawn together.
        **choice: The temperature, top_k and top_p of `next_probabilities`.

    Raises:
        ValueError: For arguments that do not fit.
        FloatingPointError: If the prior gives NaN.
    """
    check_whole(1, batch_size=batch_size)
    grids = _prepare(prior, tokens, mask, labels, generator, choice)
    completed = []
    for parts in zip(*(tensor.split(int(batch_size)) for tensor in grids), strict=True):
        batch = _Grids(*parts)
        drawn = batch.tokens
        for step in _draw_tokens(prior, batch, choice):
            drawn = step.tokens
        completed.append(drawn)
    return torch.cat(completed)


def sample_tokens(prior: Prior, n: int, **options: Any) -> Int[Tensor, "n h w"]:
    """Draw n grids from the prior; options are those of `complete_tokens`."""
    check_whole(1, n=n)
    nothing = torch.zeros(n, *prior.grid, dtype=torch.int64, device=prior.device)
    return complete_tokens(prior, nothing, nothing.bool(), **options)


def sample(
    model: Autoencoder,
    prior: Prior,
    n: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    labels: Labels = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n C H W"]:
    """Draw n images: tokens from the prior, decoded by the model.

    The same seed gives the same images. More than 256 images are drawn in batches.

    Args:
        model: The model whose tokens the prior was fitted to.
        prior: The prior.
        n: How many images, at least 1.
        temperature: See `next_probabilities`.
        top_k: See `next_probabilities`.
        top_p: See `next_probabilities`.
        labels: See `complete_tokens`.
        generator: See `complete_tokens`.

    Returns:
        Images in [-1, 1], on the device of the model.

    Raises:
        ValueError: For arguments out of range, and for a prior of another codebook than the
            model's.
    """
    prior.check_model(model)
    choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    tokens = sample_tokens(prior, n, labels=labels, generator=generator, **choice)
    return _decode(model, tokens)


def complete(
    model: Autoencoder,
    prior: Prior,
    images: Float[Tensor, "n C H W"],
    mask: Bool[Tensor, "*n h w"],
    labels: Labels = None,
    generator: torch.Generator | None = None,
    **choice: Any,
) -> Float[Tensor, "n C H W"]:
    """Encode images, draw the tokens outside the mask anew, and decode.

    A mask of True everywhere reconstructs the images, one of False everywhere samples.

    Args:
        model: The model whose tokens the prior was fitted to.
        prior: The prior.
        images: In [-1, 1].
        mask: See `complete_tokens`.
        labels: See `complete_tokens`.
        generator: See `complete_tokens`.
        **choice: See `complete_tokens`.

    Returns:
        Images in [-1, 1], on the device of the model.

    Raises:
        ValueError: As `sample` does, and for images or a mask that do not fit the prior's grid.
    """
    prior.check_model(model)
    tokens = torch.cat([model.encode(batch.to(model.device)) for batch in images.split(BATCH)])
    tokens = complete_tokens(prior, tokens, mask, labels, generator, **choice)
    return _decode(model, tokens)


def _decode(model: Autoencoder, tokens: Tensor) -> Tensor:
    return torch.cat([model.decode(batch.to(model.device)) for batch in tokens.split(BATCH)])
