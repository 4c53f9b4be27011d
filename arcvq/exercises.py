"""The coding exercises of the notebooks: `check` runs a reader's function against cases.

    from arcvq.exercises import check

    def nearest_code(latents, codebook):
        ...

    check(nearest_code)

The name of the function says which exercise it is. Each exercise has an oracle here, the formula
written out in float64, and cases that try what is easily forgotten.
"""

import copy
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, tensor
from torch.nn.functional import normalize, one_hot

from arcvq.ops import reference
from arcvq.samp import ball_radius

TOLERANCE = 1e-4  # relative, and absolute for numbers below 1
PUBLISHED_STEPS = 29_500  # that alpha = 3e-4 is made for
STUB = "it returns ..."
KINDS = {torch.bool: "booleans", torch.int64: "whole numbers (int64)"}

Arguments = tuple[Any, ...]
Cases = Iterator[Arguments]  # each in words, followed by the arguments


@dataclass(frozen=True)
class Exercise:
    """What a reader's function should return.

    Attributes:
        oracle: Returns it, given the arguments in float64.
        cases: Yields the arguments to try, behind a few words on them.
        learning: Names of the first arguments, where their gradients are tried as well. The oracle
            then returns the value, followed by the gradient of each of them.
    """

    oracle: Callable[..., Any]
    cases: Callable[[], Cases]
    learning: tuple[str, ...] = ()


def check(answer: Any) -> bool:
    """Try a function on the cases of its exercise; print the first that fails.

    Args:
        answer: A function with the name that the notebook gives it.

    Returns:
        Whether all cases came out right. A function that raises an error, returns another type or
        shape, or changes its arguments is told so in a sentence.

    Raises:
        ValueError: For a function whose name is no exercise, and for what is no function.
    """
    name = getattr(answer, "__name__", None)
    if not callable(answer) or name not in EXERCISES:
        shown = name or repr(answer)
        raise ValueError(
            f"{shown} is no exercise; check takes a function named {', '.join(EXERCISES)}"
        )
    exercise = EXERCISES[name]
    cases = list(exercise.cases())
    for words, *arguments in cases:
        fault = _fault(answer, exercise, tuple(arguments))
        if fault == STUB:
            print(f"{name}: not written yet.")
            return False
        if fault:
            print(f"{name}: not yet. With {words}, {fault}")
            return False
    print(f"{name}: right, in all {len(cases)} cases.")
    return True


def _fault(answer: Callable[..., Any], exercise: Exercise, arguments: Arguments) -> str:
    """What is wrong with an answer in a case, in words; empty if nothing is."""
    learning = exercise.learning
    given = copy.deepcopy(arguments)
    for argument in given[: len(learning)]:
        argument.requires_grad_()
    try:
        found = answer(*given)
    except Exception as error:  # the reader's function may raise anything
        words = str(error).split()
        return f"it raises {type(error).__name__}: {' '.join(words)}"
    if found is Ellipsis:
        return STUB
    if found is None:
        return "it returns None: does it end with return?"
    if not _equal_arguments(given, arguments):
        return "it changes its arguments: work on a copy."
    exact = [_in_float64(argument) for argument in arguments]
    expected = exercise.oracle(*exact)
    if not learning:
        return _difference(found, expected)
    value, *slopes = expected
    gradients = zip(learning, given, slopes, strict=False)
    return _difference(found, value) or _difference_of_gradients(found, gradients)


def _in_float64(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.double()
    return argument


def _difference_of_gradients(found: Tensor, gradients: Any) -> str:
    """What tells the gradients of a right value from the expected ones, in words.

    Args:
        found: The value.
        gradients: Name of the argument, argument and expected gradient.
    """
    if not found.requires_grad:
        return "the value is right, but no gradient reaches anything."
    (found * _weights(found)).sum().backward()
    for name, argument, expected in gradients:
        reached = argument.grad
        if reached is None:
            reached = torch.zeros_like(argument)
        difference = _difference_of_tensors(reached, expected)
        if difference:
            told = difference.replace("it returns", "it is")
            return f"the value is right, but not the gradient of {name}: {told}"
    return ""


def _weights(result: Tensor) -> Tensor:
    """Different weights of the entries of a result, so that each has a gradient of its own."""
    weights = torch.arange(1.0, result.numel() + 1)
    return weights.view(result.shape)


def _equal_arguments(given: Arguments, original: Arguments) -> bool:
    for ours, theirs in zip(given, original, strict=True):
        if isinstance(ours, Tensor) and not torch.equal(ours, theirs):
            return False
    return True


def _difference(found: Any, expected: Any) -> str:
    """What tells a result from the expected one, in words; empty if they agree."""
    if isinstance(expected, tuple):
        return _difference_of_tuples(found, expected)
    if isinstance(expected, Tensor):
        return _difference_of_tensors(found, expected)
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, numbers.Real):
        return f"it returns a {type(found).__name__}; a number is expected."
    if _is_close(tensor(float(found)), tensor(float(expected))).all():
        return ""
    return f"it returns {found:.5g}; {expected:.5g} is expected."


def _difference_of_tuples(found: Any, expected: Arguments) -> str:
    if not isinstance(found, (tuple, list)) or len(found) != len(expected):
        return f"it returns a {type(found).__name__}; {len(expected)} results are expected."
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        difference = _difference(ours, theirs)
        if difference:
            return f"as result {number} {difference}"
    return ""


def _difference_of_tensors(found: Any, expected: Tensor) -> str:
    if not isinstance(found, Tensor):
        return f"it returns a {type(found).__name__}; a tensor is expected."
    if found.shape != expected.shape:
        shape = tuple(found.shape)
        return f"it returns the shape {shape}; {tuple(expected.shape)} is expected."
    if found.device != expected.device:
        return f"it returns a tensor on {found.device}; {expected.device} is expected."
    kind = _kind(expected)
    if _kind(found) != kind:
        return f"it returns {found.dtype}; {kind} are expected."
    is_wrong = ~_is_close(found, expected)
    if not is_wrong.any():
        return ""
    place = tuple(is_wrong.nonzero()[0].tolist())
    where = f" at {list(place)}" if place else ""
    ours = found[place].item()
    theirs = expected[place].item()
    return f"it returns {ours:.5g}{where}; {theirs:.5g} is expected."


def _kind(values: Tensor) -> str:
    """What the entries of a tensor are, in words."""
    if values.is_floating_point():
        return "floating-point numbers"
    return KINDS.get(values.dtype, "others")


def _is_close(found: Tensor, expected: Tensor) -> Tensor:
    ours = found.detach().double()
    theirs = expected.detach().double()
    return torch.isclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


# 01: lookup, the straight-through estimator, perplexity


def _nearest_code(latents: Tensor, codebook: Tensor) -> Tensor:
    """The index of the code at the smallest angle."""
    cosines = normalize(latents, dim=1) @ normalize(codebook, dim=1).T
    return cosines.argmax(dim=1)


def _nearest_code_cases() -> Cases:
    latents = _random(20, 4)
    codebook = _random(6, 4, seed=1)
    lengths = tensor([[9.0], [1.0], [0.1], [1.0], [3.0], [0.5]])
    yield "codes of length 1", latents, normalize(codebook, dim=1)
    yield "codes of different lengths", latents, codebook * lengths
    yield "one latent", latents[:1], codebook
    yield "long latents", 100 * latents, codebook


def _straight_through(latents: Tensor, codes: Tensor) -> Arguments:
    """The codes, with the gradient of the latents."""
    return codes, _weights(codes), torch.zeros_like(codes)


def _straight_through_cases() -> Cases:
    yield "three latents", _random(3, 2), _random(3, 2, seed=1)
    yield "a grid of latents", _random(2, 4, 3, 3), _random(2, 4, 3, 3, seed=1)


def _perplexity(counts: Tensor) -> float:
    """2 to the entropy, in bits, of how often each code was chosen."""
    shares = counts.double() / counts.sum()
    used = shares[shares > 0]
    entropy = -(used * used.log2()).sum()
    return 2 ** entropy.item()


def _perplexity_cases() -> Cases:
    yield "four codes chosen equally often", tensor([5, 5, 5, 5])
    yield "shares 1/2, 1/4, 1/8, 1/8", tensor([4, 2, 1, 1])
    yield "codes that nobody chose", tensor([3, 0, 1, 0])
    yield "a single code", tensor([0, 7, 0])
    yield "a million tokens", tensor([999_999, 1])


# 02: angles


def _smallest_angle(codebook: Tensor) -> float:
    """The smallest angle between any two codes, in degrees."""
    units = normalize(codebook, dim=1)
    cosines = units @ units.T
    cosines.fill_diagonal_(-math.inf)
    largest = cosines.max().clamp(max=1)
    return math.degrees(math.acos(largest))


def _smallest_angle_cases() -> Cases:
    codes = _random(12, 5)
    lengths = torch.arange(1, 13)[:, None]
    yield "the axes of 3 dimensions", torch.eye(3)
    yield "opposite codes", tensor([[1.0, 0.0], [-2.0, 0.0]])
    yield "two codes in one direction", tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    # Rounding takes the cosine of one or another of these pairs above 1.
    pairs = torch.cat([_random(100, 8), 2 * _random(100, 8)])
    yield "100 codes, each a second time at twice the length", pairs
    yield "codes of different lengths", codes * lengths
    yield "64 codes in 64 dimensions", _random(64, 64)


# 03: the ball


def _project_to_ball(codebook: Tensor, radius: float) -> Tensor:
    """Longer codes shortened to the radius."""
    lengths = codebook.norm(dim=1, keepdim=True)
    factors = (radius / lengths).clamp(max=1)
    return codebook * factors


def _project_to_ball_cases() -> Cases:
    codebook = tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 2.0]])
    zero = torch.zeros(1, 2)
    yield "a code outside and one inside", codebook, 1.0
    yield "a code on the surface", codebook, 2.0
    yield "a ball around all codes", codebook, 10.0
    yield "a code of length 0", torch.cat([codebook, zero]), 1.0
    yield "many codes", 3 * _random(50, 8), 4.0


def _radius_in_a_run(step: int, steps: int) -> float:
    """The published ball, scaled to a run of any length."""
    return float(ball_radius(step * PUBLISHED_STEPS / steps))


def _radius_in_a_run_cases() -> Cases:
    yield "step 0 of 1,000", 0, 1_000
    yield "step 500 of 1,000", 500, 1_000
    yield "the last step of 300", 300, 300
    yield "step 3,000 of 29,500", 3_000, PUBLISHED_STEPS


# 04: the margin loss


def _margin_loss(
    latents: Tensor, codebook: Tensor, margin: float, scale: float, top_k: int
) -> Arguments:
    """L_A, for the latents to learn."""
    free = latents.clone().requires_grad_()
    loss = reference.margin_loss(free, codebook, margin, scale, top_k)
    (slope,) = torch.autograd.grad(loss, free)
    return loss.detach(), slope, torch.zeros_like(codebook)


def _margin_loss_cases() -> Cases:
    latents = _random(30, 4)
    codebook = _random(5, 4, seed=1)
    lengths = tensor([[9.0], [1.0], [0.1], [1.0], [3.0]])
    yield "no margin, one positive", latents, codebook, 0.0, 5.0, 1
    yield "margin 0.1, one positive", latents, codebook, 0.1, 5.0, 1
    yield "margin 0.1, three positives", latents, codebook, 0.1, 5.0, 3
    yield "scale 200", latents, codebook, 0.1, 200.0, 3
    yield "codes of different lengths", latents, codebook * lengths, 0.1, 5.0, 3


def _push(share: float, scale: float) -> float:
    """The slope of L_A in the cosine of a negative."""
    return scale * share


def _push_cases() -> Cases:
    yield "a share of 0.2 and scale 5", 0.2, 5.0
    yield "a share of 0", 0.0, 5.0
    yield "a share of 0.9 and scale 10", 0.9, 10.0


# 05: the VQ loss and the moving average


def _vq_loss(latents: Tensor, codes: Tensor, beta: float) -> Arguments:
    """Codebook term and commitment term."""
    gap = latents - codes
    loss = (1 + beta) * gap.square().mean()
    slope = 2 * gap / gap.numel()
    return loss, beta * slope, -slope


def _vq_loss_cases() -> Cases:
    latents = _random(6, 3)
    codes = _random(6, 3, seed=1)
    yield "beta 0.25", latents, codes, 0.25
    yield "beta 1", latents, codes, 1.0
    yield "latents on their codes", latents, latents, 0.25


def _ema_update(
    counts: Tensor, sums: Tensor, latents: Tensor, indices: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """The moving averages after a batch."""
    chosen = one_hot(indices, len(counts)).double()
    batch_counts = chosen.sum(dim=0)
    batch_sums = chosen.T @ latents
    new_counts = decay * counts + (1 - decay) * batch_counts
    new_sums = decay * sums + (1 - decay) * batch_sums
    return new_counts, new_sums


def _ema_update_cases() -> Cases:
    counts = tensor([2.0, 1.0, 4.0])
    sums = _random(3, 2)
    latents = _random(5, 2, seed=1)
    yield "each code chosen", counts, sums, latents, tensor([0, 1, 2, 1, 0]), 0.9
    yield "a code that nobody chose", counts, sums, latents, tensor([0, 0, 2, 2, 2]), 0.9
    yield "one code chosen by all", counts, sums, latents, tensor([1, 1, 1, 1, 1]), 0.9


# 06 and 07: the sphere


def _on_the_map(units: Tensor) -> Tensor:
    """Stereographic projection of unit vectors from the south pole."""
    x, y, z = units.T
    return torch.stack([x / (1 + z), y / (1 + z)], dim=1)


def _on_the_map_cases() -> Cases:
    yield "the north pole", tensor([[0.0, 0.0, 1.0]])
    yield "the equator", tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    yield "ten directions", normalize(_random(10, 3), dim=1)


def _from_angles(theta: Tensor, phi: Tensor) -> Tensor:
    """Points of the sphere from UMAP's haversine output."""
    x = theta.sin() * phi.cos()
    y = theta.sin() * phi.sin()
    z = theta.cos()
    return torch.stack([x, y, z], dim=1)


def _from_angles_cases() -> Cases:
    zero = torch.zeros(1)
    right_angle = tensor([math.pi / 2])
    yield "the pole", zero, zero
    yield "a point of the equator", right_angle, zero
    yield "angles beyond a full turn", 3 * _random(8), 5 * _random(8, seed=1)


# 08 and 09: priors


def _causal_mask(kernel: int, sees_itself: bool) -> Tensor:
    """The mask of a PixelCNN's kernel in raster order."""
    places = torch.arange(kernel * kernel).view(kernel, kernel)
    middle = kernel * kernel // 2
    return places <= middle if sees_itself else places < middle


def _causal_mask_cases() -> Cases:
    yield "a 3x3 kernel of the first layer", 3, False
    yield "a 3x3 kernel of a later layer", 3, True
    yield "a 5x5 kernel of the first layer", 5, False
    yield "a 1x1 kernel of a later layer", 1, True


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The likeliest codes that reach the sum, made to sum to 1."""
    values, order = probabilities.sort(descending=True)
    before = values.cumsum(0) - values
    kept = torch.zeros_like(values)
    kept[order] = values * (before < top_p - 1e-9)
    return kept / kept.sum()


def _nucleus_cases() -> Cases:
    four = tensor([0.1, 0.4, 0.2, 0.3])
    yield "0.1, 0.4, 0.2, 0.3 and top-p 0.5", four, 0.5
    yield "the same and top-p 0.65", four, 0.65
    yield "the same and top-p 0.01", four, 0.01
    yield "the same and top-p 1", four, 1.0
    halves = tensor([0.5, 0.25, 0.125, 0.125])  # sums of these are exact
    yield "1/2, 1/4, 1/8, 1/8 and top-p 0.5, which the first code alone reaches", halves, 0.5
    yield "100 codes and top-p 0.9", _random(100).softmax(0), 0.9


# 12: several processes


def _usage_of_all(counts: Tensor) -> float:
    """The share of codes that any of several processes chose."""
    is_used = counts.sum(dim=0) > 0
    return is_used.double().mean().item()


def _usage_of_all_cases() -> Cases:
    yield "two processes with different codes", tensor([[3, 0, 0, 0], [0, 2, 0, 0]])
    yield "two processes with the same code", tensor([[3, 0], [5, 0]])
    yield "one process", tensor([[1, 1, 0]])
    yield "three processes", tensor([[1, 0, 0], [0, 1, 0], [0, 0, 9]])


# 14 and 15: rounding in place of a codebook, and the usage of a step


def _round_to_levels(latents: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """FSQ's codes: each component bounded by tanh and rounded to its levels, from -1 to 1."""
    steps = levels - 1
    bounded = latents.tanh()
    places = (bounded + 1) / 2 * steps
    codes = places.round() / steps * 2 - 1
    slope_of_tanh = 1 - bounded.square()
    return codes, _weights(codes) * slope_of_tanh


def _round_to_levels_cases() -> Cases:
    latents = _random(12, 3)
    yield "3 levels in each component", latents, tensor([3, 3, 3])
    yield "8, 5 and 4 levels", latents, tensor([8, 5, 4])
    yield "latents far outside", 10 * latents, tensor([8, 8, 8])
    yield "2 levels, the signs", latents, tensor([2, 2, 2])


def _usage_of_step(indices: Tensor, num_codes: int) -> tuple[int, float]:
    """How many codes all micro-batches of a step used, and the perplexity of their usage."""
    real = indices[indices >= 0]
    counts = torch.bincount(real, minlength=num_codes).double()
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * shares.log()).sum().item()
    return len(shares), math.exp(entropy)


def _usage_of_step_cases() -> Cases:
    yield "one micro-batch", tensor([[0, 1, 1, 3]]), 4
    yield "two that chose different codes", tensor([[0, 0], [1, 2]]), 4
    yield "two that chose the same codes", tensor([[2, 3], [3, 2]]), 6
    yield "padding in the second", tensor([[0, 1, 2, 3], [0, -1, -1, -1]]), 4
    generator = torch.Generator().manual_seed(0)
    yield "8 micro-batches of 50 tokens", torch.randint(64, (8, 50), generator=generator), 512


# 16: the discriminator of a VQGAN


def _hinge_loss(real: Tensor, fake: Tensor) -> Arguments:
    """The discriminator's loss, for what it says of images and of reconstructions."""
    too_low = (1 - real).clamp(min=0)
    too_high = (1 + fake).clamp(min=0)
    loss = (too_low.mean() + too_high.mean()) / 2
    half = 0.5 / real.numel()
    return loss, -half * (real < 1), half * (fake > -1)


def _hinge_loss_cases() -> Cases:
    real = _random(4, 1, 3, 3)
    fake = _random(4, 1, 3, 3, seed=1)
    nothing = torch.zeros(2, 1, 2, 2)
    yield "a discriminator that knows nothing", nothing, nothing.clone()
    yield "one that tells all patches apart", nothing + 2, nothing - 3
    yield "one that takes each for the other", nothing - 2, nothing + 3
    yield "verdicts on both sides", 2 * real, 2 * fake
    yield "a single patch", real[:1, :, :1, :1], fake[:1, :, :1, :1]


EXERCISES = {
    "nearest_code": Exercise(_nearest_code, _nearest_code_cases),
    "straight_through": Exercise(
        _straight_through, _straight_through_cases, learning=("latents", "codes")
    ),
    "perplexity": Exercise(_perplexity, _perplexity_cases),
    "smallest_angle": Exercise(_smallest_angle, _smallest_angle_cases),
    "project_to_ball": Exercise(_project_to_ball, _project_to_ball_cases),
    "radius_in_a_run": Exercise(_radius_in_a_run, _radius_in_a_run_cases),
    "margin_loss": Exercise(_margin_loss, _margin_loss_cases, learning=("latents", "codebook")),
    "push": Exercise(_push, _push_cases),
    "vq_loss": Exercise(_vq_loss, _vq_loss_cases, learning=("latents", "codes")),
    "ema_update": Exercise(_ema_update, _ema_update_cases),
    "on_the_map": Exercise(_on_the_map, _on_the_map_cases),
    "from_angles": Exercise(_from_angles, _from_angles_cases),
    "causal_mask": Exercise(_causal_mask, _causal_mask_cases),
    "nucleus": Exercise(_nucleus, _nucleus_cases),
    "usage_of_all": Exercise(_usage_of_all, _usage_of_all_cases),
    "round_to_levels": Exercise(_round_to_levels, _round_to_levels_cases, learning=("latents",)),
    "usage_of_step": Exercise(_usage_of_step, _usage_of_step_cases),
    "hinge_loss": Exercise(_hinge_loss, _hinge_loss_cases, learning=("real", "fake")),
}
