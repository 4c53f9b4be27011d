"""web/math.js and web/simulation.js against the package in float64."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcvq import geometry, schedules
from arcvq.explorers.simulation import Settings, Simulation
from arcvq.quantizers import nearest_code
from arcvq.samp import arc_margin_loss, project_to_ball_
from tests.explorers.javascript import modules


@pytest.fixture(scope="module")
def javascript():
    with modules("math", "simulation") as call:
        yield call


def vectors(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator)


def flat(tensor):
    return tensor.flatten().tolist()


LATENTS = vectors(30, 3)
CODES = vectors(8, 3, seed=1)
CASES = {
    "random": (LATENTS, CODES, 0.1, 5.0, 3),
    "two dimensions": (vectors(20, 2), vectors(5, 2, seed=1), 0.3, 7.0, 2),
    "an angle past pi": (torch.stack([-CODES[0], CODES[0]]).double(), CODES[:1], 1.2, 5.0, 2),
    "a large scale": (LATENTS, CODES, 0.1, 100.0, 3),
    "more positives than latents": (LATENTS[:4], CODES, 0.1, 5.0, 9),
    "a latent near its code": (torch.cat([CODES[:2] + 1e-3, LATENTS]), CODES, 0.5, 10.0, 1),
    "a latent of norm zero": (torch.cat([torch.zeros(1, 3), LATENTS]).double(), CODES, 0.1, 5.0, 3),
    "a code of norm zero": (LATENTS, torch.cat([CODES, torch.zeros(1, 3)]).double(), 0.1, 5.0, 3),
    "a single latent": (LATENTS[:1], CODES, 0.1, 5.0, 3),
}


def losses_of(javascript, latents, codes, margin, scale, top_k):
    """Loss and gradient to the latents, of JavaScript and of the package."""
    latents = latents.clone().requires_grad_()
    loss = arc_margin_loss(latents, codes, margin=margin, scale=scale, top_k=top_k)
    loss.backward()
    found = javascript(
        "marginLoss(latents, codes, dim, { margin, scale, topK })",
        latents=flat(latents),
        codes=flat(codes),
        dim=codes.shape[1],
        margin=margin,
        scale=scale,
        topK=top_k,
    )
    gradient = torch.tensor(found["gradient"], dtype=torch.float64).view_as(latents)
    return (found["loss"], gradient), (loss.item(), latents.grad)


@pytest.mark.parametrize("case", CASES)
def test_the_margin_loss_and_its_gradient_are_the_packages(javascript, case):
    (loss, gradient), (expected, expected_gradient) = losses_of(javascript, *CASES[case])
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_of_equal_latents_it_does_not_matter_which_is_pulled(javascript):
    copies = LATENTS[:5].repeat(3, 1)
    (loss, gradient), (expected, expected_gradient) = losses_of(
        javascript, copies, CODES, 0.1, 5.0, 4
    )
    assert loss == pytest.approx(expected, rel=1e-9)
    together = gradient.view(3, 5, 3).sum(0)
    assert torch.allclose(together, expected_gradient.view(3, 5, 3).sum(0), rtol=1e-9, atol=1e-12)


def test_the_gradient_of_the_margin_loss_is_that_of_finite_differences(javascript):
    call = "marginLoss(latents, codes, 3, { margin: 0.3, scale: 7, topK: 2 })"
    start = flat(LATENTS[:6])
    gradient = javascript(call, latents=start, codes=flat(CODES))["gradient"]
    for at in (0, 4, 11, 17):
        losses = []
        for move in (-1e-5, 1e-5):
            moved = [*start]
            moved[at] += move
            losses.append(javascript(call, latents=moved, codes=flat(CODES))["loss"])
        assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(gradient[at], abs=1e-8)


def test_the_gradients_of_the_vq_loss_are_those_of_finite_differences(javascript):
    call = "vqLoss(latents, codes, [0, 2, 2, 5], 3, 1)"  # with beta 1 both terms are one loss
    rows = {"latents": flat(LATENTS[:4]), "codes": flat(CODES)}
    found = javascript(call, **rows)
    for name, gradient in (("latents", found["toLatents"]), ("codes", found["toCodes"])):
        for at in (0, 7, 8):
            losses = []
            for move in (-1e-5, 1e-5):
                moved = [*rows[name]]
                moved[at] += move
                losses.append(javascript(call, **rows | {name: moved})["loss"])
            # The latents learn from one term and the codes from the other: half of the sum each
            assert (losses[1] - losses[0]) / 4e-5 == pytest.approx(gradient[at], abs=1e-8)


@pytest.mark.parametrize("dim", [2, 3, 16])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_codes_are_the_packages(javascript, metric, dim):
    latents = vectors(200, dim)
    codes = torch.cat([vectors(40, dim, seed=1), torch.zeros(1, dim)]).double()
    found = javascript(
        "nearestCode(latents, codes, dim, metric)",
        latents=flat(latents),
        codes=flat(codes),
        dim=dim,
        metric=metric,
    )
    assert found == nearest_code(latents, codes, metric).tolist()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_equal_codes_the_lowest_is_found(javascript, metric):
    codes = flat(torch.eye(3, dtype=torch.float64).repeat(3, 1))
    latents = flat(2 * torch.eye(3, dtype=torch.float64))
    call = "nearestCode(latents, codes, 3, metric)"
    assert javascript(call, latents=latents, codes=codes, metric=metric) == [0, 1, 2]


@pytest.mark.parametrize("radius", [0.1, 1.0, 1e30])
def test_the_ball_is_the_packages(javascript, radius):
    codes = torch.cat([CODES, torch.zeros(1, 3)]).double()
    found = javascript("projectToBall(codes, 3, radius)", codes=flat(codes), radius=radius)
    assert found == pytest.approx(flat(project_to_ball_(codes, radius)), rel=1e-12)


def test_usage_perplexity_and_the_smallest_angle_are_the_packages(javascript):
    indices = torch.tensor([0, 1, 1, 5, 5, 5])
    counts = geometry.usage_counts(indices, 8)
    assert javascript("usageCounts([0, 1, 1, 5, 5, 5], 8)") == counts.tolist()
    assert javascript("perplexity([1, 2, 0, 3])") == pytest.approx(
        float(geometry.perplexity(torch.tensor([1, 2, 0, 3])))
    )
    codes = torch.cat([CODES, torch.zeros(1, 3), CODES[:1] + 1e-9]).double()
    found = javascript("minAngle(codes, 3)", codes=flat(codes))
    assert found == pytest.approx(geometry.min_angle(codes), rel=1e-9)
    assert javascript("minAngle([1, 0, 0], 3)") == "NaN"


SCHEDULES = [
    schedules.Constant(0.3),
    schedules.Exponential(0.01, 2.0),
    schedules.Exponential(-3.0),
    schedules.WarmUp(0.0, 2.0, 50),
    schedules.Cosine(1.0, 0.2, 40),
    schedules.Oscillating(0.5, 3.0, 17),
    schedules.Adaptive(0.1, 2.0, 0.6),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("step", [0, 1, 33, 10_000])
def test_every_schedule_has_the_packages_values(javascript, schedule, step):
    call = "scheduleValue(config, step, usage)"
    found = javascript(call, config=schedule.config(), step=step, usage=0.4)
    assert found == pytest.approx(schedule.value(step, 0.4), rel=1e-12)


def test_no_schedule_is_missing(javascript):
    known = set(javascript("Object.keys(SCHEDULES)"))
    assert known == set(schedules.Schedule.kinds)


def arguments(simulation):
    """Draws and settings as the browser names them."""
    names = {"top_k": "topK", "learning_rate": "learningRate"}
    settings = dataclasses.asdict(simulation.settings)
    return {
        "draws": {name: flat(tensor) for name, tensor in simulation.draws._asdict().items()},
        "settings": {names.get(name, name): value for name, value in settings.items()},
    }


AFTER = """(() => {
  const simulation = new Simulation(draws, settings);
  if (state) simulation.state = state;
  for (let step = 0; step < count; step++) simulation.step();
  return simulation.state;
})()"""


@settings(max_examples=6, deadline=None)
@given(
    margin=st.floats(0, 1.5),
    scale=st.floats(0.5, 50),
    top_k=st.integers(1, 20),
    growth=st.floats(0, 0.03),
    weight=st.floats(0, 3),
    learning_rate=st.floats(1e-3, 0.1),
    clusters=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_fifty_steps_go_where_the_packages_quantizers_go(javascript, seed, **changes):
    simulation = Simulation(Settings(**changes), num_latents=40, num_codes=12, seed=seed)
    found = javascript(AFTER, **arguments(simulation), state=None, count=50)
    simulation.step(50)
    assert found == pytest.approx(simulation.state, abs=1e-6)


def test_a_state_goes_to_the_browser_and_back_and_both_go_on_alike(javascript):
    simulation = Simulation(num_latents=40, num_codes=12)
    simulation.step(20)
    found = javascript(AFTER, **arguments(simulation), state=simulation.state.tolist(), count=50)
    again = Simulation(num_latents=40, num_codes=12)
    again.resume(np.array(found))
    assert again.steps == 70
    again.step(50)
    simulation.step(100)
    assert again.state == pytest.approx(simulation.state, abs=1e-6)


@pytest.mark.parametrize("rows", ["codes", "latents"])
def test_a_point_stays_where_it_is_held_and_learns_again_once_released(javascript, rows):
    found = javascript(
        """(() => {
          const simulation = new Simulation(draws, settings);
          const place = () => Array.from(simulation.samp[rows].subarray(12, 15));
          simulation.hold("samp", rows, 4, [0, 3, 0]);
          simulation.step();
          const held = place();
          simulation.release();
          simulation.step();
          return { held, free: place() };
        })()""",
        **arguments(Simulation(num_latents=40, num_codes=12)),
        rows=rows,
    )
    assert found["held"] == [0, 3, 0]
    assert found["free"][1] < 3
