"""Right answers to the exercises pass, typical mistakes are refused, and each is told in a sentence."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, one_hot, relu

import arcvq
from arcvq.exercises import EXERCISES, check
from arcvq.vqgan import discriminator

# The solutions, as the notebooks have them.


def nearest_code(latents, codebook):
    cosines = normalize(latents, dim=1) @ normalize(codebook, dim=1).T
    return cosines.argmax(dim=1)


def straight_through(latents, codes):
    return latents + (codes - latents).detach()


def perplexity(counts):
    shares = counts / counts.sum()
    used = shares[shares > 0]
    entropy = -(used * used.log2()).sum()
    return 2**entropy


def smallest_angle(codebook):
    units = normalize(codebook, dim=1)
    cosines = units @ units.T
    cosines.fill_diagonal_(-1)
    return torch.rad2deg(cosines.max().clamp(max=1).acos())


def smallest_angle_without_clamp(codebook):
    units = normalize(codebook, dim=1)
    cosines = (units @ units.T).fill_diagonal_(-1)
    return torch.rad2deg(cosines.max().acos())


def smallest_angle_but_zero(codebook):
    units = normalize(codebook, dim=1)
    angles = (units @ units.T).clamp(-1, 1).acos()
    return torch.rad2deg(angles[angles > 0.1].min())


def project_to_ball(codebook, radius):
    lengths = codebook.norm(dim=1, keepdim=True)
    return torch.where(lengths > radius, codebook * radius / lengths, codebook)


def radius_in_a_run(step, steps):
    return math.exp(3e-4 * 29_500 * step / steps)


def margin_loss(latents, codebook, margin, scale, top_k):
    units = normalize(codebook.detach(), dim=1)
    cosines = units @ normalize(latents, dim=1).T
    nearest = cosines.topk(top_k, dim=1).indices
    is_positive = torch.zeros_like(cosines, dtype=torch.bool).scatter(1, nearest, True)
    sines = (1 - cosines.square()).clamp(min=0).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    logits = scale * torch.where(is_positive, shifted, cosines)
    positives = logits.masked_fill(~is_positive, -math.inf)
    return (logits.logsumexp(dim=1) - positives.logsumexp(dim=1)).mean()


def push(share, scale):
    return scale * share


def vq_loss(latents, codes, beta):
    codebook_term = (latents.detach() - codes).square().mean()
    commitment_term = (latents - codes.detach()).square().mean()
    return codebook_term + beta * commitment_term


def ema_update(counts, sums, latents, indices, decay):
    chosen = one_hot(indices, len(counts)).to(latents.dtype)
    new_counts = decay * counts + (1 - decay) * chosen.sum(dim=0)
    new_sums = decay * sums + (1 - decay) * chosen.T @ latents
    return new_counts, new_sums


def on_the_map(units):
    return units[:, :2] / (1 + units[:, 2:])


def from_angles(theta, phi):
    columns = [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()]
    return torch.stack(columns, dim=1)


def causal_mask(kernel, sees_itself):
    middle = kernel // 2
    mask = torch.zeros(kernel, kernel, dtype=torch.bool)
    mask[:middle] = True
    mask[middle, :middle] = True
    mask[middle, middle] = sees_itself
    return mask


def nucleus(probabilities, top_p):
    values, order = probabilities.sort(descending=True)
    before = values.cumsum(0) - values
    kept = torch.zeros_like(probabilities)
    kept[order] = values * (before < top_p - 1e-6)
    return kept / kept.sum()


def nucleus_with_one_more(probabilities, top_p):
    values, order = probabilities.sort(descending=True)
    before = values.cumsum(0) - values
    kept = torch.zeros_like(probabilities)
    kept[order] = values * (before <= top_p)
    return kept / kept.sum()


def usage_of_all(counts):
    return (counts.sum(dim=0) > 0).float().mean()


def round_to_levels(latents, levels):
    bounded = latents.tanh()
    steps = levels - 1
    places = ((bounded + 1) / 2 * steps).round()
    codes = places / steps * 2 - 1
    return bounded + (codes - bounded).detach()


def usage_of_step(indices, num_codes):
    real = indices[indices >= 0]
    counts = torch.bincount(real, minlength=num_codes)
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * shares.log()).sum()
    return len(shares), entropy.exp()


def hinge_loss(real, fake):
    of_images = relu(1 - real).mean()
    of_reconstructions = relu(1 + fake).mean()
    return (of_images + of_reconstructions) / 2


SOLUTIONS = {name: globals()[name] for name in EXERCISES}

# Typical mistakes, at least three for each exercise.


def _unequal_softmax_margin(latents, codebook, margin, scale, top_k):
    units = normalize(codebook.detach(), dim=1)
    cosines = units @ normalize(latents, dim=1).T
    angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    logits = scale * (angles + margin).cos()
    positives = logits.topk(top_k, dim=1).values
    return (logits.logsumexp(dim=1) - positives.logsumexp(dim=1)).mean()


def _one_mask_too_wide(kernel, sees_itself):
    mask = causal_mask(kernel, sees_itself)
    mask[:, : kernel // 2] = True
    return mask


def _in_place(codebook, radius):
    return codebook.renorm_(2, 0, radius)


MISTAKES = {
    "nearest_code": {
        "no normalization": lambda z, e: (z @ e.T).argmax(dim=1),
        "Euclidean": lambda z, e: torch.cdist(z, e).argmin(dim=1),
        "farthest": lambda z, e: (normalize(z, dim=1) @ normalize(e, dim=1).T).argmin(dim=1),
        "codes": lambda z, e: e[nearest_code(z, e)],
    },
    "straight_through": {
        "all detached": lambda z, q: (z + (q - z)).detach(),
        "nothing detached": lambda z, q: z + (q - z),
        "codes alone": lambda z, q: q,
        "latents alone": lambda z, q: z,
        "the wrong way": lambda z, q: q + (z - q).detach(),
    },
    "perplexity": {
        "codes used": lambda counts: int((counts > 0).sum()),
        "entropy": lambda counts: math.log2(perplexity(counts)),
        "nats to the base 2": lambda counts: 2 ** math.log(perplexity(counts)),
        "zero times minus infinity": lambda counts: (
            2 ** -((counts / counts.sum()) * (counts / counts.sum()).log2()).sum()
        ),
    },
    "smallest_angle": {
        "without the clamp": smallest_angle_without_clamp,
        "zeros left out": smallest_angle_but_zero,
        "radians": lambda e: math.radians(smallest_angle(e)),
        "the diagonal": lambda e: torch.rad2deg(
            (normalize(e, dim=1) @ normalize(e, dim=1).T).clamp(-1, 1).acos().min()
        ),
        "lines": lambda e: torch.rad2deg(
            (normalize(e, dim=1) @ normalize(e, dim=1).T).abs().fill_diagonal_(0).max().acos()
        ),
        "the mean": lambda e: torch.rad2deg(
            (normalize(e, dim=1) @ normalize(e, dim=1).T).clamp(-1, 1).acos().mean()
        ),
    },
    "project_to_ball": {
        "all on the sphere": lambda e, r: r * normalize(e, dim=1),
        "clamped components": lambda e, r: e.clamp(-r, r),
        "zero over zero": lambda e, r: (
            normalize(e, dim=1)
            / normalize(e, dim=1).norm(dim=1, keepdim=True)
            * e.norm(dim=1, keepdim=True).clamp(max=r)
        ),
        "in place": _in_place,
    },
    "radius_in_a_run": {
        "the rate of each step": lambda step, steps: math.exp(3e-4 * step),
        "the exponent alone": lambda step, steps: 3e-4 * 29_500 * step / steps,
        "a straight line": lambda step, steps: 1 + (math.exp(8.85) - 1) * step / steps,
        "shortened the wrong way": lambda step, steps: math.exp(3e-4 * step * steps / 29_500),
    },
    "margin_loss": {
        "no margin": lambda z, e, m, s, k: margin_loss(z, e, 0.0, s, k),
        "margin on all": _unequal_softmax_margin,
        "one positive": lambda z, e, m, s, k: margin_loss(z, e, m, s, 1),
        "margin minus": lambda z, e, m, s, k: margin_loss(z, e, -m, s, k),
        "a sum over codes": lambda z, e, m, s, k: len(e) * margin_loss(z, e, m, s, k),
        "no gradient": lambda z, e, m, s, k: margin_loss(z.detach(), e, m, s, k),
        "codes learn too": lambda z, e, m, s, k: (
            margin_loss(z, e, m, s, k) + (e - e.detach()).sum()
        ),
    },
    "push": {
        "the pull": lambda p, s: s * (p - 1),
        "no scale": lambda p, s: p,
        "the other sign": lambda p, s: -s * p,
        "only scale 5": lambda p, s: 5 * p,
    },
    "vq_loss": {
        "no stop-gradient": lambda z, q, beta: (1 + beta) * (z - q).square().mean(),
        "sum": lambda z, q, beta: z.numel() * vq_loss(z, q, beta),
        "beta on the other term": lambda z, q, beta: (
            beta * (z.detach() - q).square().mean() + (z - q.detach()).square().mean()
        ),
        "beta 0.25 always": lambda z, q, beta: vq_loss(z, q, 0.25),
        "one term": lambda z, q, beta: (z.detach() - q).square().mean(),
    },
    "ema_update": {
        "shares exchanged": lambda n, m, z, i, d: ema_update(n, m, z, i, 1 - d),
        "only counts": lambda n, m, z, i, d: ema_update(n, m, z, i, d)[0],
        "a plain sum": lambda n, m, z, i, d: ema_update(n / d, m / d, z / (1 - d), i, d),
        "sums not moved": lambda n, m, z, i, d: (ema_update(n, m, z, i, d)[0], m),
    },
    "on_the_map": {
        "from above": lambda x: x[:, :2],
        "the other pole": lambda x: x[:, :2] / (1 - x[:, 2:] + 1e-9),
        "twice as large": lambda x: 2 * x[:, :2] / (1 + x[:, 2:]),
        "a wrong shape": lambda x: (x[:, :2] / (1 + x[:, 2:])).T,
    },
    "from_angles": {
        "latitude": lambda t, p: torch.stack([t.cos() * p.cos(), t.cos() * p.sin(), t.sin()], 1),
        "exchanged": lambda t, p: from_angles(p, t),
        "degrees": lambda t, p: from_angles(torch.rad2deg(t), torch.rad2deg(p)),
        "rows": lambda t, p: from_angles(t, p).T,
    },
    "causal_mask": {
        "always itself": lambda kernel, sees_itself: causal_mask(kernel, True),
        "never itself": lambda kernel, sees_itself: causal_mask(kernel, False),
        "what comes later": lambda kernel, sees_itself: ~causal_mask(kernel, sees_itself),
        "the left half": _one_mask_too_wide,
        "numbers": lambda kernel, sees_itself: causal_mask(kernel, sees_itself).float(),
    },
    "nucleus": {
        "one code too many": nucleus_with_one_more,
        "not normalized": lambda p, top: p * (nucleus(p, top) > 0),
        "below the sum": lambda p, top: normalize(
            torch.zeros_like(p)
            .scatter(0, p.argsort(descending=True), p.sort(descending=True)[0])
            .where(p.sort(descending=True)[0].cumsum(0) <= top, 0),
            p=1,
            dim=0,
        ),
        "a threshold": lambda p, top: p * (p > 1 - top) / (p * (p > 1 - top)).sum(),
        "sorted": lambda p, top: nucleus(p, top).sort(descending=True).values,
    },
    "round_to_levels": {
        "no straight-through": lambda z, levels: (
            ((z.tanh() + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1
        ),
        "nothing rounded": lambda z, levels: z.tanh(),
        "past the tanh as well": lambda z, levels: z + (round_to_levels(z, levels) - z).detach(),
        "not bounded": lambda z, levels: (z * (levels - 1) / 2).round() * 2 / (levels - 1),
        "rounded down": lambda z, levels: (
            z.tanh()
            + (
                ((z.tanh() + 1) / 2 * (levels - 1)).floor() / (levels - 1) * 2 - 1 - z.tanh()
            ).detach()
        ),
        "one level too many": lambda z, levels: round_to_levels(z, levels + 1),
        "the first component's levels": lambda z, levels: round_to_levels(z, levels[0]),
        "whole numbers": lambda z, levels: (
            z.tanh() + (((z.tanh() + 1) / 2 * (levels - 1)).round() - z.tanh()).detach()
        ),
    },
    "usage_of_step": {
        "the last micro-batch": lambda indices, k: usage_of_step(indices[-1:], k),
        "a sum over micro-batches": lambda indices, k: (
            sum(usage_of_step(part, k)[0] for part in indices),
            usage_of_step(indices, k)[1],
        ),
        "a mean of perplexities": lambda indices, k: (
            usage_of_step(indices, k)[0],
            torch.stack([usage_of_step(part, k)[1] for part in indices]).mean(),
        ),
        "padding as a code": lambda indices, k: usage_of_step(indices + 1, k + 1),
        "a share": lambda indices, k: (
            usage_of_step(indices, k)[0] / k,
            usage_of_step(indices, k)[1],
        ),
        "the entropy": lambda indices, k: (
            usage_of_step(indices, k)[0],
            usage_of_step(indices, k)[1].log(),
        ),
    },
    "usage_of_all": {
        "the mean of shares": lambda counts: (counts > 0).float().mean(),
        "codes": lambda counts: int((counts.sum(dim=0) > 0).sum()),
        "chosen by all": lambda counts: (counts > 0).all(dim=0).float().mean(),
        "the first process": lambda counts: (counts[0] > 0).float().mean(),
    },
    "hinge_loss": {
        "a sum of the halves": lambda real, fake: 2 * hinge_loss(real, fake),
        "images and reconstructions exchanged": lambda real, fake: hinge_loss(fake, real),
        "no hinge": lambda real, fake: (1 - real).mean() / 2 + (1 + fake).mean() / 2,
        "a hinge at zero": lambda real, fake: relu(-real).mean() / 2 + relu(fake).mean() / 2,
        "squared": lambda real, fake: (
            relu(1 - real).square().mean() / 2 + relu(1 + fake).square().mean() / 2
        ),
        "the hinge behind the mean": lambda real, fake: (
            relu(1 - real.mean()) / 2 + relu(1 + fake.mean()) / 2
        ),
        "the loss of the decoder": lambda real, fake: -fake.mean(),
        "a number for each image": lambda real, fake: (
            (relu(1 - real) + relu(1 + fake)).flatten(1).mean(dim=1) / 2
        ),
        "a detached answer": lambda real, fake: hinge_loss(real, fake.detach()),
    },
}
CASES = []
for name, mistakes in MISTAKES.items():
    CASES += [(name, words) for words in mistakes]


def named(name, function):
    def answer(*arguments):
        return function(*arguments)

    answer.__name__ = name
    return answer


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right(name, capsys):
    assert check(SOLUTIONS[name])
    assert capsys.readouterr().out.startswith(f"{name}: right, in all ")


@pytest.mark.parametrize(("name", "words"), CASES)
def test_a_typical_mistake_is_refused_with_the_case_and_what_is_expected(name, words, capsys):
    assert not check(named(name, MISTAKES[name][words]))
    told = capsys.readouterr().out
    assert told.startswith(f"{name}: not yet. With ")
    assert "raises" in told or "expected" in told or "gradient" in told or "changes" in told


def test_there_are_three_mistakes_for_each_exercise_and_no_other():
    assert set(MISTAKES) == set(EXERCISES)
    assert all(len(mistakes) >= 3 for mistakes in MISTAKES.values())


def test_the_package_itself_passes_where_it_has_the_function():
    assert check(named("nearest_code", arcvq.nearest_code))
    assert check(named("project_to_ball", lambda e, r: arcvq.project_to_ball_(e.clone(), r)))
    assert check(
        named(
            "margin_loss",
            lambda z, e, m, s, k: arcvq.arc_margin_loss(z, e, margin=m, scale=s, top_k=k),
        )
    )
    assert check(named("hinge_loss", discriminator.hinge_loss))


# Answers that are no answers


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize(
    "result", [None, ..., "three", [1, 2], {}, True, torch.zeros(2, 7, 3), float("nan")]
)
def test_a_result_of_another_kind_gets_a_sentence_and_no_traceback(name, result, capsys):
    assert not check(named(name, lambda *_: result))
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "Traceback" not in told


def test_a_stub_is_told_to_be_unwritten(capsys):
    def perplexity(counts):
        return ...

    assert not check(perplexity)
    assert capsys.readouterr().out == "perplexity: not written yet.\n"


def test_an_error_in_the_answer_is_told_with_the_case(capsys):
    def perplexity(counts):
        return counts.nothing

    assert not check(perplexity)
    told = capsys.readouterr().out
    assert "With four codes chosen equally often, it raises AttributeError" in told


def test_a_function_of_another_signature_is_told(capsys):
    assert not check(named("perplexity", lambda: 1))
    assert "it raises TypeError" in capsys.readouterr().out


def test_a_tensor_on_another_device_is_told(capsys):
    assert not check(named("on_the_map", lambda units: units[:, :2].to("meta")))
    assert "it returns a tensor on meta; cpu is expected" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [3, None, "perplexity", lambda x: x, len])
def test_what_is_no_exercise_is_refused_with_the_names(answer):
    with pytest.raises(ValueError, match="is no exercise; check takes a function named nearest_"):
        check(answer)


def test_a_number_of_numpy_is_a_number_too():
    def push(share, scale):
        return np.float32(scale * share)

    assert check(push)
