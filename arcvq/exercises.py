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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from arcvq.ops import reference
from arcvq.samp import ball_radius

TOLERANCE = 1e-4  # relative, and absolute for numbers below 1


@dataclass(frozen=True)
class Case:
    """Arguments to try.

    Attributes:
        words: What the arguments are.
        arguments: The arguments.
        oracle: What the exercise asks for, of the same arguments.
        learning: Names of the first arguments, where their gradients are tried as well. The oracle
            then returns the value, followed by the gradient of each of them.
    """

    words: str
    arguments: tuple[Any, ...]
    oracle: Callable[..., Any]
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
    cases = list(EXERCISES[name]())
    for case in cases:
        fault = _fault(answer, case)
        if fault == STUB:
            print(f"{name}: not written yet.")
            return False
        if fault:
            print(f"{name}: not yet. With {case.words}, {fault}")
            return False
    print(f"{name}: right, in all {len(cases)} cases.")
    return True


STUB = "it returns ..."


def _fault(answer: Callable[..., Any], case: Case) -> str:
    """What is wrong with an answer in a case, in words; empty if nothing is."""
    given = copy.deepcopy(case.arguments)
    for argument in given[: len(case.learning)]:
        argument.requires_grad_()
    try:
        found = answer(*given)
    except Exception as error:  # the reader's function may raise anything
        return f"it raises {type(error).__name__}: {' '.join(str(error).split())}"
    if found is Ellipsis:
        return STUB
    if found is None:
        return "it returns None: does it end with return?"
    if not _equal_arguments(given, case.arguments):
        return "it changes its arguments: work on a copy."
    expected = case.oracle(*case.arguments)
    if not case.learning:
        return _difference(found, expected)
    value, *slopes = expected
    return _difference(found, value) or _difference_of_gradients(found, given, case, slopes)


def _difference_of_gradients(
    found: Tensor, given: tuple[Any, ...], case: Case, expected: list[Tensor]
) -> str:
    """What tells the gradients of a right value from the expected ones, in words."""
    if not found.requires_grad:
        return "the value is right, but no gradient reaches anything."
    (found * _weights(found)).sum().backward()
    for name, argument, slope in zip(case.learning, given, expected, strict=False):
        reached = torch.zeros_like(argument) if argument.grad is None else argument.grad
        difference = _difference_of_tensors(reached, slope)
        if difference:
            told = difference.replace("it returns", "it is")
            return f"the value is right, but not the gradient of {name}: {told}"
    return ""


def _weights(result: Tensor) -> Tensor:
    """Different weights of the entries of a result, so that each has a gradient of its own."""
    return torch.arange(1.0, result.numel() + 1).view(result.shape)


def _equal_arguments(given: tuple[Any, ...], original: tuple[Any, ...]) -> bool:
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
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return f"it returns a {type(found).__name__}; a number is expected."
    if _is_close(torch.tensor(float(found)), torch.tensor(float(expected))):
        return ""
    return f"it returns {found:.5g}; {expected:.5g} is expected."


def _difference_of_tuples(found: Any, expected: tuple[Any, ...]) -> str:
    if not isinstance(found, (tuple, list)) or len(found) != len(expected):
        return f"it returns a {type(found).__name__}; {len(expected)} results are expected."
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        difference = _difference(ours, theirs)
        if difference:
            return f"of result {number}, {difference}"
    return ""


def _difference_of_tensors(found: Any, expected: Tensor) -> str:
    if not isinstance(found, Tensor):
        return f"it returns a {type(found).__name__}; a tensor is expected."
    if found.shape != expected.shape:
        ours, theirs = tuple(found.shape), tuple(expected.shape)
        return f"it returns the shape {ours}; {theirs} is expected."
    if found.device != expected.device:
        return f"it returns a tensor on {found.device}; {expected.device} is expected."
    for kind, words in KINDS.items():
        if kind(expected) and not kind(found):
            return f"it returns {found.dtype}; {words} are expected."
    found, expected = found.detach().double(), expected.detach().double()
    if _is_close(found, expected):
        return ""
    wrong = ~torch.isclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    place: tuple[int, ...] = tuple(wrong.nonzero()[0].tolist())
    where = f" at {list(place)}" if place else ""
    return f"it returns {found[place].item():.5g}{where}; {expected[place].item():.5g} is expected."


KINDS: dict[Callable[[Tensor], bool], str] = {
    lambda x: x.dtype == torch.bool: "booleans",
    lambda x: x.dtype == torch.int64: "whole numbers (int64)",
    torch.is_floating_point: "floating-point numbers",
}


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(
        found.double(), expected.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# 01: lookup, the straight-through estimator, perplexity


def _nearest_code() -> Iterator[Case]:
    """`nearest_code(latents, codebook)`: the index of the code at the smallest angle."""

    def oracle(latents: Tensor, codebook: Tensor) -> Tensor:
        units = normalize(latents.double(), dim=1)
        return (units @ normalize(codebook.double(), dim=1).T).argmax(dim=1)

    latents, codebook = _random(20, 4), _random(6, 4, seed=1)
    lengths = torch.tensor([9.0, 1.0, 0.1, 1.0, 3.0, 0.5])[:, None]
    yield Case("codes of length 1", (latents, normalize(codebook, dim=1)), oracle)
    yield Case("codes of different lengths", (latents, codebook * lengths), oracle)
    yield Case("one latent", (latents[:1], codebook), oracle)
    yield Case("long latents", (100 * latents, codebook), oracle)


def _straight_through() -> Iterator[Case]:
    """`straight_through(latents, codes)`: the codes, with the gradient of the latents."""

    def oracle(latents: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
        return codes, _weights(codes), torch.zeros_like(codes)

    names = ("latents", "codes")
    yield Case("three latents", (_random(3, 2), _random(3, 2, seed=1)), oracle, names)
    grids = (_random(2, 4, 3, 3), _random(2, 4, 3, 3, seed=1))
    yield Case("a grid of latents", grids, oracle, names)


def _perplexity() -> Iterator[Case]:
    """`perplexity(counts)`: 2 to the entropy, in bits, of how often each code was chosen."""

    def oracle(counts: Tensor) -> float:
        shares = counts.double() / counts.sum()
        used = shares[shares > 0]
        return math.exp(-(used * used.log()).sum().item())

    yield Case("four codes chosen equally often", (torch.tensor([5, 5, 5, 5]),), oracle)
    yield Case("shares 1/2, 1/4, 1/8, 1/8", (torch.tensor([4, 2, 1, 1]),), oracle)
    yield Case("codes that nobody chose", (torch.tensor([3, 0, 1, 0]),), oracle)
    yield Case("a single code", (torch.tensor([0, 7, 0]),), oracle)
    yield Case("a million tokens", (torch.tensor([999_999, 1]),), oracle)


# 02: angles


def _smallest_angle() -> Iterator[Case]:
    """`smallest_angle(codebook)`: in degrees, between any two codes."""

    def oracle(codebook: Tensor) -> float:
        units = normalize(codebook.double(), dim=1)
        cosines = (units @ units.T).fill_diagonal_(-math.inf)
        return math.degrees(math.acos(min(1.0, cosines.max().item())))

    yield Case("the axes of 3 dimensions", (torch.eye(3),), oracle)
    yield Case("opposite codes", (torch.tensor([[1.0, 0], [-2.0, 0]]),), oracle)
    yield Case(
        "codes of different lengths", (_random(12, 5) * torch.arange(1, 13)[:, None],), oracle
    )
    yield Case("64 codes in 64 dimensions", (_random(64, 64),), oracle)


# 03: the ball


def _project_to_ball() -> Iterator[Case]:
    """`project_to_ball(codebook, radius)`: longer codes shortened to the radius."""

    def oracle(codebook: Tensor, radius: float) -> Tensor:
        lengths = codebook.double().norm(dim=1, keepdim=True)
        factors = torch.where(lengths > radius, radius / lengths, torch.ones_like(lengths))
        return codebook.double() * factors

    codebook = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 2.0]])
    yield Case("a code outside and one inside", (codebook, 1.0), oracle)
    yield Case("a code on the surface", (codebook, 2.0), oracle)
    yield Case("a ball around all codes", (codebook, 10.0), oracle)
    with_zero = torch.cat([codebook, torch.zeros(1, 2)])
    yield Case("a code of length 0", (with_zero, 1.0), oracle)
    yield Case("many codes", (3 * _random(50, 8), 4.0), oracle)


def _radius_in_a_run() -> Iterator[Case]:
    """`radius_in_a_run(step, steps)`: the published ball, scaled to a run of any length."""
    published = 29_500  # steps that alpha = 3e-4 is made for

    def oracle(step: int, steps: int) -> float:
        return float(ball_radius(step * published / steps))

    yield Case("step 0 of 1,000", (0, 1_000), oracle)
    yield Case("step 500 of 1,000", (500, 1_000), oracle)
    yield Case("the last step of 300", (300, 300), oracle)
    yield Case("step 3,000 of 29,500", (3_000, published), oracle)


# 04: the margin loss


def _margin_loss() -> Iterator[Case]:
    """`margin_loss(latents, codebook, margin, scale, top_k)`: L_A, for the latents to learn."""

    def oracle(
        latents: Tensor, codebook: Tensor, margin: float, scale: float, top_k: int
    ) -> tuple[Tensor, ...]:
        free = latents.double().requires_grad_()
        loss = reference.margin_loss(free, codebook.double(), margin, scale, top_k)
        (slope,) = torch.autograd.grad(loss, free)
        return loss.detach(), slope, torch.zeros_like(codebook)

    names = ("latents", "codebook")
    latents, codebook = _random(30, 4), _random(5, 4, seed=1)
    yield Case("no margin, one positive", (latents, codebook, 0.0, 5.0, 1), oracle, names)
    yield Case("margin 0.1, one positive", (latents, codebook, 0.1, 5.0, 1), oracle, names)
    yield Case("margin 0.1, three positives", (latents, codebook, 0.1, 5.0, 3), oracle, names)
    yield Case("scale 200", (latents, codebook, 0.1, 200.0, 3), oracle, names)
    lengths = torch.tensor([9.0, 1.0, 0.1, 1.0, 3.0])[:, None]
    unequal = (latents, codebook * lengths, 0.1, 5.0, 3)
    yield Case("codes of different lengths", unequal, oracle, names)


def _push() -> Iterator[Case]:
    """`push(share, scale)`: the slope of L_A in the cosine of a negative."""

    def oracle(share: float, scale: float) -> float:
        return scale * share

    yield Case("a share of 0.2 and scale 5", (0.2, 5.0), oracle)
    yield Case("a share of 0", (0.0, 5.0), oracle)
    yield Case("a share of 0.9 and scale 10", (0.9, 10.0), oracle)


# 05: the VQ loss and the moving average


def _vq_loss() -> Iterator[Case]:
    """`vq_loss(latents, codes, beta)`: codebook term and commitment term."""

    def oracle(latents: Tensor, codes: Tensor, beta: float) -> tuple[Tensor, ...]:
        gap = latents.double() - codes.double()
        slope = 2 * gap / gap.numel()
        return (1 + beta) * gap.square().mean(), beta * slope, -slope

    names = ("latents", "codes")
    latents, codes = _random(6, 3), _random(6, 3, seed=1)
    yield Case("beta 0.25", (latents, codes, 0.25), oracle, names)
    yield Case("beta 1", (latents, codes, 1.0), oracle, names)
    yield Case("latents on their codes", (latents, latents, 0.25), oracle, names)


def _ema_update() -> Iterator[Case]:
    """`ema_update(counts, sums, latents, indices, decay)`: the moving averages of a batch."""

    def oracle(
        counts: Tensor, sums: Tensor, latents: Tensor, indices: Tensor, decay: float
    ) -> tuple[Tensor, Tensor]:
        chosen = torch.nn.functional.one_hot(indices, len(counts)).double()
        new_counts = decay * counts.double() + (1 - decay) * chosen.sum(dim=0)
        new_sums = decay * sums.double() + (1 - decay) * chosen.T @ latents.double()
        return new_counts, new_sums

    counts, sums = torch.tensor([2.0, 1.0, 4.0]), _random(3, 2)
    latents = _random(5, 2, seed=1)
    for words, indices in (
        ("each code chosen", [0, 1, 2, 1, 0]),
        ("a code that nobody chose", [0, 0, 2, 2, 2]),
        ("one code chosen by all", [1, 1, 1, 1, 1]),
    ):
        yield Case(words, (counts, sums, latents, torch.tensor(indices), 0.9), oracle)


# 06 and 07: the sphere


def _on_the_map() -> Iterator[Case]:
    """`on_the_map(units)`: stereographic projection of unit vectors from the south pole."""

    def oracle(units: Tensor) -> Tensor:
        return units[:, :2].double() / (1 + units[:, 2:].double())

    yield Case("the north pole", (torch.tensor([[0.0, 0.0, 1.0]]),), oracle)
    yield Case("the equator", (torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]),), oracle)
    yield Case("ten directions", (normalize(_random(10, 3), dim=1),), oracle)


def _from_angles() -> Iterator[Case]:
    """`from_angles(theta, phi)`: points of the sphere from UMAP's haversine output."""

    def oracle(theta: Tensor, phi: Tensor) -> Tensor:
        theta, phi = theta.double(), phi.double()
        columns = [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()]
        return torch.stack(columns, dim=1)

    yield Case("the pole", (torch.zeros(1), torch.zeros(1)), oracle)
    right_angle = torch.tensor([math.pi / 2])
    yield Case("a point of the equator", (right_angle, right_angle), oracle)
    yield Case("angles beyond a full turn", (3 * _random(8), 5 * _random(8, seed=1)), oracle)


# 08 and 09: priors


def _causal_mask() -> Iterator[Case]:
    """`causal_mask(kernel, sees_itself)`: the mask of a PixelCNN's kernel in raster order."""

    def oracle(kernel: int, sees_itself: bool) -> Tensor:
        places = torch.arange(kernel * kernel).view(kernel, kernel)
        middle = kernel * kernel // 2
        return places <= middle if sees_itself else places < middle

    yield Case("a 3x3 kernel of the first layer", (3, False), oracle)
    yield Case("a 3x3 kernel of a later layer", (3, True), oracle)
    yield Case("a 5x5 kernel of the first layer", (5, False), oracle)
    yield Case("a 1x1 kernel of a later layer", (1, True), oracle)


def _nucleus() -> Iterator[Case]:
    """`nucleus(probabilities, top_p)`: the likeliest codes that reach the sum, made to sum to 1."""

    def oracle(probabilities: Tensor, top_p: float) -> Tensor:
        values, order = probabilities.double().sort(descending=True)
        before = values.cumsum(0) - values
        kept = torch.zeros_like(values).scatter(0, order, values * (before < top_p - 1e-9))
        return kept / kept.sum()

    four = torch.tensor([0.1, 0.4, 0.2, 0.3])
    yield Case("0.1, 0.4, 0.2, 0.3 and top-p 0.5", (four, 0.5), oracle)
    yield Case("the same and top-p 0.65", (four, 0.65), oracle)
    yield Case("the same and top-p 0.01", (four, 0.01), oracle)
    yield Case("the same and top-p 1", (four, 1.0), oracle)
    yield Case("100 codes and top-p 0.9", (_random(100).softmax(0), 0.9), oracle)


# 12: several processes


def _usage_of_all() -> Iterator[Case]:
    """`usage_of_all(counts)`: the share of codes that any of several processes chose."""

    def oracle(counts: Tensor) -> float:
        return (counts.sum(dim=0) > 0).double().mean().item()

    yield Case(
        "two processes with different codes", (torch.tensor([[3, 0, 0, 0], [0, 2, 0, 0]]),), oracle
    )
    yield Case("two processes with the same code", (torch.tensor([[3, 0], [5, 0]]),), oracle)
    yield Case("one process", (torch.tensor([[1, 1, 0]]),), oracle)
    yield Case("three processes", (torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 9]]),), oracle)


EXERCISES: dict[str, Callable[[], Iterator[Case]]] = {
    "nearest_code": _nearest_code,
    "straight_through": _straight_through,
    "perplexity": _perplexity,
    "smallest_angle": _smallest_angle,
    "project_to_ball": _project_to_ball,
    "radius_in_a_run": _radius_in_a_run,
    "margin_loss": _margin_loss,
    "push": _push,
    "vq_loss": _vq_loss,
    "ema_update": _ema_update,
    "on_the_map": _on_the_map,
    "from_angles": _from_angles,
    "causal_mask": _causal_mask,
    "nucleus": _nucleus,
    "usage_of_all": _usage_of_all,
}
