import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq.samp import (
    PAPER_REGIME,
    SAMP,
    arc_margin_loss,
    ball_radius,
    project_to_ball_,
    rescale_codes_,
)
from arcvq.schedules import Constant, Cosine, Exponential, Oscillating


def logit_by_the_formula(angle, margin, scale, is_nearest):
    if not is_nearest:
        return scale * angle.cos()
    if angle + margin > math.pi:
        return scale * (angle.cos() + math.cos(margin) - 1)
    return scale * torch.cos(angle + margin)


def margin_loss_by_the_formula(latents, codebook, margin, scale, top_k):
    """The formula of the paper, code by code and latent by latent, in float64."""
    latents = latents.double()
    latents = latents / latents.norm(dim=1, keepdim=True)
    codebook = codebook.double().detach()
    codebook = codebook / codebook.norm(dim=1, keepdim=True)
    losses = []
    for code in codebook:
        cosines = latents @ code
        nearest = set(cosines.argsort(descending=True)[:top_k].tolist())
        logits = []
        for i, angle in enumerate(torch.acos(cosines)):
            logits.append(logit_by_the_formula(angle, margin, scale, i in nearest))
        positive = torch.stack([logits[i] for i in nearest])
        losses.append(torch.stack(logits).logsumexp(0) - positive.logsumexp(0))
    return torch.stack(losses).mean()


def clusters(count, dim, spread=0.05):
    centers = torch.randn(5, dim)
    return centers[torch.arange(count) % 5] + spread * torch.randn(count, dim)


@pytest.mark.parametrize("scale", [5.0, 10.0, 100.0])
@pytest.mark.parametrize(("margin", "top_k"), [(0.0, 1), (0.1, 3), (0.5, 3), (1.2, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("latents", [torch.randn, clusters], ids=["random", "clustered"])
def test_margin_loss_equals_the_formula(scale, margin, top_k, dtype, latents):
    stored = latents(200, 16).to(dtype)
    codebook = torch.randn(8, 16).to(dtype)  # few, since the formula goes from cosine to cosine
    # Half-precision input is held exactly by float32, where its gradient can be seen unrounded.
    result_dtype = torch.promote_types(dtype, torch.float32)
    given = stored.clone().to(result_dtype).requires_grad_()
    exact = stored.detach().clone().double().requires_grad_()
    loss = arc_margin_loss(given, codebook, margin=margin, scale=scale, top_k=top_k)
    expected = margin_loss_by_the_formula(exact, codebook, margin, scale, top_k)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
    assert (given.grad - exact.grad).norm() <= 1e-5 * exact.grad.norm() + 1e-9

    direct = arc_margin_loss(stored, codebook, margin=margin, scale=scale, top_k=top_k)
    assert direct.item() == loss.item()
    assert direct.dtype == result_dtype


@pytest.mark.parametrize(
    ("margin", "scale", "top_k"), [(0.1, 5.0, 3), (1.2, 20.0, 2), (0.3, 60.0, 1)]
)
def test_margin_loss_passes_gradcheck(margin, scale, top_k):
    latents = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(6, 4, dtype=torch.float64)

    def loss(latents):
        return arc_margin_loss(latents, codebook, margin=margin, scale=scale, top_k=top_k)

    assert torch.autograd.gradcheck(loss, latents)


def test_a_second_backward_through_the_same_graph_gives_the_gradient_again():
    latents = torch.randn(30, 4, requires_grad=True)
    loss = 2 * arc_margin_loss(latents, torch.randn(6, 4))
    (first,) = torch.autograd.grad(loss, latents, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, latents)
    assert torch.equal(first, kept)
    assert torch.allclose(second, 3 * first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, latents)


def test_margin_loss_has_no_gradient_to_the_codebook():
    latents = torch.randn(30, 4, requires_grad=True)
    codebook = torch.randn(6, 4, requires_grad=True)
    arc_margin_loss(latents, codebook).backward()
    assert codebook.grad is None
    assert latents.grad.abs().sum() > 0


@settings(max_examples=25)
@given(
    n=st.integers(0, 12),
    k=st.integers(0, 7),
    d=st.integers(1, 5),
    top_k=st.integers(1, 20),
    margin=st.floats(0, 1.57),
    scale=st.floats(0.01, 1000),
    seed=st.integers(0, 99),
)
def test_margin_loss_and_gradient_are_finite_for_any_shape(n, k, d, top_k, margin, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, d, generator=generator) * 10.0 ** (seed % 7 - 3)
    codebook = torch.randn(k, d, generator=generator)
    if n > 1 and k > 1:  # a zero latent, a zero code, and a latent that coincides with a code
        latents[0] = 0
        codebook[0] = 0
        latents[1] = codebook[1]
    latents.requires_grad_()
    loss = arc_margin_loss(latents, codebook, margin=margin, scale=scale, top_k=top_k)
    loss.backward()
    assert 0 <= loss.item() < math.inf
    assert latents.grad.isfinite().all()
    if n <= top_k:
        assert loss.item() == 0
        assert not latents.grad.any()


def on_the_circle(angles):
    return torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()


def angles_after_a_step(latents, length):
    moved = latents.detach() - length * latents.grad
    return torch.atan2(moved[:, 1], moved[:, 0])


def test_margin_loss_moves_the_nearest_latents_towards_their_code():
    angles = torch.tensor([0.5, 1.0, 2.0, 2.5])
    latents = on_the_circle(angles)
    arc_margin_loss(latents, torch.tensor([[1.0, 0.0]]), top_k=1).backward()
    change = angles_after_a_step(latents, 0.01) - angles
    assert change[0] < 0
    assert (change[1:] > 0).all()


def test_latents_are_told_apart_up_to_norms_whose_squares_overflow():
    directions = torch.nn.functional.normalize(torch.randn(20, 4), dim=1)
    codes = torch.randn(6, 4)
    expected = arc_margin_loss(directions, codes)
    assert torch.allclose(arc_margin_loss(1.8e19 * directions, codes), expected)
    beyond = 1.9e19 * directions
    assert torch.equal(arc_margin_loss(beyond, codes), arc_margin_loss(0 * directions, codes))
    in_float64 = arc_margin_loss(beyond.double(), codes.double())
    assert torch.allclose(in_float64.float(), expected)


def test_a_latent_past_the_turn_of_the_cosine_is_still_pulled():
    """At theta = 3.1 and margin 0.5 the bare cos(theta + m) would push the nearest latent away."""
    latents = on_the_circle(torch.tensor([3.0, 3.1]))
    arc_margin_loss(latents, torch.tensor([[1.0, 0.0]]), margin=0.5, top_k=1).backward()
    assert angles_after_a_step(latents, 0.1)[0] < 3.0


OUT_OF_RANGE = [
    ({"margin": -0.1}, "margin is -0.1 rad"),
    ({"margin": 1.6}, "below pi/2"),
    ({"margin": math.pi / 2}, "below pi/2"),
    ({"margin": math.nan}, "margin is nan"),
    ({"margin": "0.1"}, "margin is '0.1' rad"),
    ({"scale": 0.0}, "scale is 0.0"),
    ({"scale": "5"}, "scale is '5'; it must be a finite number above 0"),
    ({"scale": math.inf}, "scale is inf"),
    ({"top_k": 0}, "top_k is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), OUT_OF_RANGE)
def test_margin_loss_refuses_settings_out_of_range(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        arc_margin_loss(torch.randn(4, 2), torch.randn(3, 2), **arguments)
    with pytest.raises(ValueError, match=message):
        SAMP(**arguments)


def test_margin_loss_refuses_unequal_dimensions(unchecked):
    with pytest.raises(ValueError, match=r"latents have shape \(4, 3\); they must be \(N, 2\)"):
        arc_margin_loss(torch.randn(4, 3), torch.randn(3, 2))


@pytest.mark.parametrize(
    ("codes", "latents", "indices", "message"),
    [
        ((3, 2), (4, 2, 5, 5), (4,), r"latents have shape \(4, 2, 5, 5\); they must be \(N, 2\)"),
        ((3, 2), (2,), (1,), r"latents have shape \(2,\); they must be \(N, 2\)"),
        ((2,), (4, 2), (4,), r"the codebook has shape \(2,\); it must be \(K, D\)"),
        ((1, 3, 2), (4, 2), (4,), r"the codebook has shape \(1, 3, 2\); it must be \(K, D\)"),
        ((3, 2), (4, 2), (3,), r"indices have shape \(3,\); they must be \(4,\)"),
        ((3, 2), (4, 2), (4, 1), r"indices have shape \(4, 1\); they must be \(4,\)"),
    ],
)
def test_tensors_of_other_shapes_are_refused(codes, latents, indices, message, unchecked):
    codes = torch.randn(codes)
    latents = torch.randn(latents)
    indices = torch.zeros(indices, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        rescale_codes_(codes, latents, indices)
    if not message.startswith("indices"):
        with pytest.raises(ValueError, match=message):
            arc_margin_loss(latents, codes)


@pytest.mark.parametrize(
    ("halves", "message"),
    [
        ({"radius": 4.0}, r"radius is 4.0; it must be a schedule such as Constant\(4.0\), or None"),
        ({"weight": 1}, "weight is 1; it must be a schedule"),
        ({"weight": math.exp}, "weight is .*exp.*; it must be a schedule"),
        ({"radius": Constant(0.0)}, r"radius is Constant\(.*0.0\); it must stay above 0"),
        ({"radius": Exponential(1e-3, start=-1.0)}, "radius is Exponential.*must stay above 0"),
        ({"radius": Oscillating(0.0, 4.0, 4)}, "radius is Oscillating.*must stay above 0"),
        ({"radius": Cosine(1.0, 0.0, 10)}, "radius is Cosine.*must stay above 0"),
    ],
)
def test_what_is_no_schedule_and_a_ball_without_inside_are_refused(halves, message, unchecked):
    with pytest.raises(ValueError, match=message):
        SAMP(**halves)


def test_ball_radius_is_the_papers_and_finite_for_any_step():
    assert ball_radius(0) == 1.0
    assert ball_radius(29_500) == pytest.approx(math.exp(8.85))
    assert ball_radius(29_500) == pytest.approx(6_974, abs=0.5)
    for step in (295_800, 10_000_000, 10**9):
        assert math.isfinite(ball_radius(step))
        assert torch.isfinite(ball_radius(torch.tensor(step)))
    codebook = project_to_ball_(torch.randn(4, 3), ball_radius(10_000_000))
    assert codebook.isfinite().all()


@pytest.mark.parametrize("number", ["5", None, [5], True, 1j], ids=repr)
def test_what_is_no_number_is_refused_as_a_step_growth_or_limit(number, unchecked):
    with pytest.raises(ValueError, match=r"^step is .*; it must be a number or a tensor$"):
        ball_radius(number)
    with pytest.raises(ValueError, match=r"^growth is .*; it must be a finite number$"):
        ball_radius(100, number)
    codes = torch.eye(2)
    with pytest.raises(ValueError, match=r"^radius is .*; it must be a number above 0$"):
        project_to_ball_(codes, number)
    if number is not None:
        with pytest.raises(ValueError, match=r"^max_norm is .*; it must be a number above 0$"):
            rescale_codes_(codes, codes, torch.arange(2), max_norm=number)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_of_norms_that_leaves_no_code_is_refused(limit):
    codes = torch.eye(2)
    with pytest.raises(ValueError, match=r"^max_norm is"):
        rescale_codes_(codes, codes, torch.arange(2), max_norm=limit)


@settings(max_examples=25)
@given(
    k=st.integers(0, 9),
    d=st.integers(1, 6),
    radius=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_projection_holds_codes_in_the_ball_and_keeps_their_direction(k, d, radius, seed):
    codebook = torch.randn(k, d, generator=torch.Generator().manual_seed(seed)) * 10
    before = codebook.clone()
    result = project_to_ball_(codebook, radius)
    assert result is codebook
    assert (codebook.norm(dim=1) <= radius * (1 + 1e-6)).all()
    inside = before.norm(dim=1) <= radius
    assert torch.equal(codebook[inside], before[inside])
    cosines = torch.cosine_similarity(codebook, before, dim=1)
    assert torch.allclose(cosines, torch.ones(k), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_projection_is_as_exact_as_the_codes(dtype):
    codebook = torch.randn(50, 8).to(dtype)
    before = codebook.double()
    radius = torch.tensor(2.5, dtype=torch.float64)
    project_to_ball_(codebook, radius)
    norms = before.norm(dim=1, keepdim=True)
    expected = before * (2.5 / norms).clamp(max=1)
    assert (norms > 2.5).any()
    assert (norms < 2.5).any()
    tolerance = 2 * torch.finfo(dtype).eps
    assert torch.allclose(codebook.double(), expected, rtol=tolerance, atol=0)
    assert codebook.dtype == dtype


def test_ball_radius_of_a_tensor_is_exact():
    for step in (107, 29_500):
        expected = math.exp(3e-4 * step)
        assert float(ball_radius(torch.tensor(step))) == pytest.approx(expected, rel=1e-14)
        assert float(ball_radius(torch.tensor(float(step)))) == pytest.approx(expected, rel=1e-14)


def test_projection_is_safe_at_its_ends():
    codebook = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    for infinite in (math.inf, torch.tensor(math.inf)):
        assert torch.equal(project_to_ball_(codebook.clone(), infinite), codebook)
    expected = torch.tensor([[0.0, 0.0], [0.6, 0.8]])
    assert torch.allclose(project_to_ball_(codebook.clone(), 1.0), expected)
    parameter = torch.nn.Parameter(codebook.clone())
    project_to_ball_(parameter, torch.tensor(2.5))
    assert parameter.requires_grad
    assert torch.allclose(parameter[1], torch.tensor([1.5, 2.0]))
    for radius in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="radius is"):
            project_to_ball_(codebook, radius)


@pytest.mark.parametrize(
    ("dtype", "length"),
    [(torch.bfloat16, 1e20), (torch.float32, 1e20), (torch.float32, 3e38), (torch.float64, 1e200)],
)
def test_codes_whose_squares_overflow_keep_their_direction(dtype, length):
    direction = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    code = (length * direction).to(dtype)
    tolerance = 4 * torch.finfo(dtype).eps

    projected = project_to_ball_(code.clone(), 2.5)
    assert torch.allclose(projected.double(), 2.5 * direction, rtol=tolerance, atol=0)

    latents = (3.0 * direction).to(dtype)
    rescaled = rescale_codes_(code.clone(), latents, torch.tensor([0]))
    assert torch.allclose(rescaled.double(), 3.0 * direction, rtol=tolerance, atol=0)


def test_rescaling_gives_each_code_its_least_squares_norm():
    codebook = torch.randn(4, 3)
    latents = torch.randn(200, 3) * 2
    indices = torch.cosine_similarity(latents[:, None], codebook[None, :3], dim=2).argmax(1)
    before = codebook.clone()
    rescale_codes_(codebook, latents, indices)
    assert torch.equal(codebook[3], before[3]), "a code without latents stays"
    norms = torch.linspace(0, 5, 2001)
    for j in range(3):
        direction = before[j] / before[j].norm()
        candidates = norms[:, None] * direction
        errors = torch.cdist(latents[indices == j], candidates).square().sum(0)
        best = norms[errors.argmin()]
        assert codebook[j].norm().item() == pytest.approx(best.item(), abs=0.003)
        assert torch.allclose(codebook[j] / codebook[j].norm(), direction, atol=1e-6)


def test_rescaling_keeps_to_the_ball_and_checks_indices():
    codebook = torch.eye(2)
    latents = torch.tensor([[5.0, 0.0], [0.0, -3.0]])
    rescale_codes_(codebook, latents, torch.tensor([0, 1]), max_norm=2.0)
    expected = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert torch.equal(codebook, expected), "a mean below 0 leaves the code as it is"
    with pytest.raises(ValueError, match="indices reach from 0 to 7"):
        rescale_codes_(codebook, latents, torch.tensor([0, 7]))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_rescaling_refuses_latents_that_are_not_finite(value):
    codebook = torch.eye(2)
    latents = torch.tensor([[value, 0.0], [0.0, 3.0]])
    with pytest.raises(ValueError, match="1 of 4 values of the latents are NaN or infinite"):
        rescale_codes_(codebook, latents, torch.tensor([0, 1]))
    assert torch.equal(codebook, torch.eye(2))


def test_settings_hold_the_papers_values_and_scale_to_a_run():
    paper = SAMP.paper()
    assert (paper.margin, paper.scale, paper.top_k) == (0.1, 5.0, 3)
    assert paper.radius == Exponential(3e-4)
    assert paper.weight == Exponential(-5e-4)
    for steps in (1, 400, 29_500):
        run = SAMP.for_run(steps)
        assert run.radius.value(steps) == pytest.approx(math.exp(8.85))
        assert run.weight.value(steps) == pytest.approx(math.exp(-14.75))
    assert SAMP.for_run(29_500).radius.rate == pytest.approx(3e-4)
    with pytest.raises(ValueError, match="steps is 0"):
        SAMP.for_run(0)


def test_other_settings_go_with_the_schedules_of_a_run():
    samp = SAMP.for_run(400, margin=0.3, top_k=5, weight=None)
    assert samp == SAMP(0.3, top_k=5, radius=SAMP.for_run(400).radius, weight=None)
    with pytest.raises(TypeError, match="margins"):
        SAMP.for_run(400, margins=0.3)


SETTINGS = [
    SAMP.paper(),
    SAMP.for_run(100),
    SAMP(radius=None),
    SAMP(0.3, weight=Constant(0.2)),
    SAMP(codes_per_step=16),
]


@pytest.mark.parametrize("samp", SETTINGS)
def test_a_config_goes_through_json_and_back(samp):
    config = json.loads(json.dumps(samp.config()))
    assert SAMP.from_config(config) == samp


def test_a_config_that_lacks_a_field_or_has_a_strange_one_is_refused():
    config = SAMP().config()
    with pytest.raises(ValueError, match=r"cannot be made from .*: TypeError .*'warmth'"):
        SAMP.from_config(config | {"warmth": 2})
    del config["radius"]
    with pytest.raises(ValueError, match=r"cannot be made from .*: KeyError 'radius'"):
        SAMP.from_config(config)


def test_the_json_text_of_a_config_stays_what_it_was():
    """Digests of runs are made from it."""
    assert json.dumps(SAMP(0.2, 7.0, 4, Constant(2.0), None).config()) == (
        '{"margin": 0.2, "scale": 7.0, "top_k": 4, '
        '"radius": {"kind": "Constant", "level": 2.0}, "weight": null}'
    )


def test_the_settings_for_imagenet_are_those_of_the_authors_code():
    samp = SAMP.imagenet()
    assert (samp.margin, samp.scale, samp.top_k) == (0.1, 10.0, 3)
    assert samp.radius == Exponential(5e-5)
    assert samp.weight == Exponential(-1e-4)


@pytest.mark.parametrize(("lr", "dim"), [(3e-4, 64), (1e-3, 64), (3e-3, 16), (1e-4, 1)])
def test_a_run_that_is_told_lr_and_dimension_keeps_the_papers_rate_of_the_ball(lr, dim):
    samp = SAMP.for_run(400, lr=lr, dim=dim)
    assert samp.radius.rate / (lr * math.sqrt(dim)) == pytest.approx(0.125)
    assert samp.weight == SAMP.for_run(400).weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 1e-3}, "lr is 0.001 and dim is None; give both or neither"),
        ({"dim": 8}, "lr is None and dim is 8; give both or neither"),
        ({"lr": 0.0, "dim": 8}, "lr is 0.0; it must be a finite number above 0"),
        ({"lr": 1e-3, "dim": 0}, "dim is 0; it must be a whole number from 1"),
    ],
)
def test_a_rate_of_the_ball_needs_lr_and_dimension(arguments, message):
    with pytest.raises(ValueError, match=message):
        SAMP.for_run(100, **arguments)


def test_the_papers_regime_is_the_published_one():
    assert PAPER_REGIME.positives_per_latent == pytest.approx(512 * 3 / (1024 * 49))
    assert PAPER_REGIME.ball_rate == pytest.approx(3e-4 / (3e-4 * 8), rel=1e-3)
    # alpha exp(alpha t) = lr sqrt(D) at t = log(8) / alpha.
    assert PAPER_REGIME.last_binding_step == pytest.approx(math.log(8) / 3e-4, abs=1)


SIZES = {"num_codes": 512, "dim": 64, "latents": 32 * 49, "lr": 3e-3, "steps": 400}


def test_a_short_run_has_another_regime_than_the_paper():
    regime = SAMP.for_run(400).regime(**SIZES)
    assert regime.positives_per_latent == pytest.approx(0.98, abs=0.005)
    assert regime.ball_rate == pytest.approx(0.92, abs=0.02)
    assert regime.last_binding_step < 10


def test_in_a_very_short_run_the_first_step_of_the_ball_is_longer_than_alpha():
    regime = SAMP.for_run(50).regime(**SIZES | {"steps": 50, "lr": 1.5e-3})
    alpha = 8.85 / 50
    reach = 1.5e-3 * 8
    assert regime.ball_rate == pytest.approx(math.expm1(alpha) / reach)
    assert regime.ball_rate == pytest.approx(1.09 * alpha / reach, rel=0.01)


def test_fewer_codes_a_step_pull_fewer_latents():
    assert SAMP(codes_per_step=16).regime(**SIZES).positives_per_latent == 16 * 3 / 1568
    assert SAMP(codes_per_step=999).regime(**SIZES) == SAMP().regime(**SIZES)


def test_more_positives_than_latents_are_all_latents():
    sizes = SIZES | {"num_codes": 5, "latents": 4}
    assert SAMP(top_k=9).regime(**sizes).positives_per_latent == 5


def test_a_half_that_is_left_out_has_no_regime():
    neither = SAMP(radius=None, weight=None).regime(**SIZES)
    assert neither == (None, None, None)


@pytest.mark.parametrize("steps", [1, 2, 400])
def test_a_constant_ball_can_bind_to_the_end(steps):
    regime = SAMP(radius=Constant(2.0)).regime(**SIZES | {"steps": steps})
    assert regime.ball_rate == 0
    assert regime.last_binding_step == steps


def test_a_ball_that_outruns_adam_at_every_step_never_binds():
    regime = SAMP(radius=Exponential(1.0)).regime(**SIZES | {"steps": 30})
    assert regime.ball_rate > 1
    assert regime.last_binding_step == 0


def test_a_ball_that_swings_binds_where_it_turns_back():
    regime = SAMP(radius=Oscillating(1.0, 50.0, 100)).regime(**SIZES | {"steps": 220})
    assert regime.last_binding_step == 220  # it shrinks from step 200 to 250


def test_a_ball_beyond_all_codes_does_not_bind_where_its_radius_is_clipped():
    steps = 300_000  # the exponent is clipped from step 266,667 on
    long = SAMP.paper().regime(num_codes=512, dim=64, latents=1024 * 49, lr=3e-4, steps=steps)
    assert long.last_binding_step == PAPER_REGIME.last_binding_step


@pytest.mark.parametrize("name", ["num_codes", "dim", "latents", "steps"])
def test_sizes_of_a_regime_are_whole_numbers_from_1(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be a whole number from 1"):
        SAMP().regime(**SIZES | {name: 0})


@pytest.mark.parametrize("codes", [0, 2.5, True])
def test_codes_per_step_is_a_whole_number_from_1(codes, unchecked):
    with pytest.raises(ValueError, match=f"codes_per_step is {codes}; it must be a whole number"):
        SAMP(codes_per_step=codes)


def test_a_ball_that_shrinks_has_the_rate_0():
    regime = SAMP(radius=Cosine(4.0, 1.0, 400)).regime(**SIZES)
    assert regime.ball_rate == 0


def test_rescaling_takes_latents_of_any_dtype():
    latents = torch.randn(50, 3, dtype=torch.float64)
    indices = torch.arange(50) % 4
    codebook = torch.randn(4, 3)
    expected = rescale_codes_(codebook.double(), latents, indices)
    torch.testing.assert_close(rescale_codes_(codebook, latents, indices), expected.float())
