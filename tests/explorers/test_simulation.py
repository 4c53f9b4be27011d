"""The small world of the playground: clusters, two learners and what their settings change."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from arcvq import geometry
from arcvq.explorers.simulation import REACH, Draws, Settings, Simulation, vmf_mixture


def mixture(count, clusters, kappa, seed=0):
    return vmf_mixture(Draws.of_seed(seed, count), clusters, kappa)


@pytest.fixture(scope="module")
def learned():
    simulation = Simulation()
    simulation.step(150)
    return simulation


def state(simulation):
    found = []
    for learner in simulation.learners.values():
        found += [learner.latents.clone(), learner.codes.clone(), learner.counts.clone()]
    return found


@pytest.mark.parametrize("kappa", [1e-6, 0.1, 1.0, 10.0, 300.0, 1e4])
def test_a_cluster_has_the_mean_resultant_length_of_its_law(kappa):
    count = 40_000
    points = mixture(count, 1, kappa)
    expected = kappa / 3 if kappa < 1e-3 else 1 / math.tanh(kappa) - 1 / kappa
    # The mean over n points scatters by about sqrt(E sin^2 / n) across the mean direction and by
    # sd(w) / sqrt(n) along it.
    assert abs(geometry.mean_resultant_length(points) - expected) < 4 * math.sqrt(
        max(1 - expected**2, 1e-8) / count
    )


@pytest.mark.parametrize("kappa", [0.5, 30.0])
def test_cosines_to_the_mean_follow_the_law(kappa):
    points = mixture(20_000, 1, kappa, seed=1).numpy()
    mean = torch.nn.functional.normalize(Draws.of_seed(1, 20_000).normals)[0].numpy()
    cosines = np.sort(points @ mean)
    # The CDF of the cosine, and the test of Kolmogorov at p = 0.006
    lowest = np.exp(-2 * kappa)
    law = (np.exp(kappa * (cosines - 1)) - lowest) / (1 - lowest)
    distance = np.abs(law - np.linspace(0, 1, len(law))).max()
    assert distance < 1.7 / math.sqrt(len(law))


@pytest.mark.parametrize("kappa", [0, 1e-300, 1e-9, 1e4])
def test_extreme_concentrations_give_finite_unit_vectors(kappa):
    points = mixture(1000, 3, kappa)
    assert torch.allclose(points.norm(dim=1), torch.ones(1000, dtype=torch.float64), atol=1e-12)


def test_a_mixture_has_clusters_of_equal_size_around_different_means():
    points = mixture(90, 3, 1e4)
    near = (points @ points.T > 0.99).sum(1)
    assert near.tolist() == [30] * 90


def test_the_same_seed_gives_the_same_points_and_a_larger_concentration_draws_them_closer():
    loose, again, tight = (mixture(50, 1, kappa) for kappa in (5.0, 5.0, 50.0))
    assert torch.equal(loose, again)
    assert geometry.mean_resultant_length(tight) > geometry.mean_resultant_length(loose)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1.0), "num_latents is 0"),
        ((5, 0, 1.0), "clusters is 0"),
        ((5, 21, 1.0), "clusters is 21; it must be at most 20"),
        ((5, 1, -1.0), "concentration is -1"),
        ((5, 1, 2e4), "concentration is 20000"),
        ((5, 1, math.nan), "concentration is nan"),
    ],
)
def test_wrong_numbers_of_a_mixture_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mixture(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clusters", 0),
        ("concentration", -1.0),
        ("margin", 1.6),
        ("scale", 0.0),
        ("top_k", 0),
        ("growth", -1e-3),
        ("weight", math.inf),
        ("learning_rate", 0.0),
    ],
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is"):
        Settings(**{name: value})


def test_data_lie_on_the_sphere_and_both_codebooks_start_in_the_same_directions():
    simulation = Simulation()
    assert torch.allclose(simulation.data.norm(dim=1), torch.tensor(REACH, dtype=torch.float64))
    samp = simulation.samp.codes
    plain = simulation.plain.codes
    assert torch.allclose(samp.norm(dim=1), torch.ones(64, dtype=torch.float64))
    assert plain.abs().max() <= 1 / 64
    assert torch.allclose(torch.nn.functional.normalize(plain, dim=1), samp, atol=1e-5)


def test_plain_vq_collapses_while_samp_keeps_more_codes(learned):
    used = {name: int((learner.counts > 0).sum()) for name, learner in learned.learners.items()}
    assert used["plain"] < 12
    assert used["samp"] > 3 * used["plain"]


def test_one_step_is_a_step_of_adam_on_the_losses_of_the_method():
    simulation = Simulation(
        Settings(weight=0.0, growth=10.0, learning_rate=0.01), num_latents=8, num_codes=3
    )
    start = state(simulation)
    data = simulation.data
    simulation.step()
    for place, learner in ((0, simulation.samp), (3, simulation.plain)):
        codes = start[place + 1]
        gradient = torch.zeros_like(codes)
        for latent in data:  # the loss of the codebook alone moves the codes: mean (z - e)^2
            if place == 0:
                chosen = int((codes / codes.norm(dim=1, keepdim=True) @ latent).argmax())
            else:
                chosen = int((codes - latent).norm(dim=1).argmin())
            gradient[chosen] += 2 * (codes[chosen] - latent) / data.numel()
        moved = codes - 0.01 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
        assert torch.allclose(learner.codes, moved, atol=1e-5)


def test_the_ball_holds_the_codes_until_it_has_grown():
    simulation = Simulation(Settings(growth=0.0))
    simulation.step(30)
    assert simulation.samp.codes.norm(dim=1).max() <= 1 + 1e-6
    assert simulation.plain.codes.norm(dim=1).max() > 0.5
    simulation.change(Settings(growth=0.05))
    simulation.step(10)
    assert math.isclose(simulation.radius, math.exp(0.5))
    assert simulation.samp.codes.norm(dim=1).max() > 1.05


def test_the_spring_brings_latents_back_when_the_margin_loss_goes():
    simulation = Simulation(Settings(weight=3.0))
    simulation.step(60)
    pulled = (simulation.samp.latents - simulation.data).norm(dim=1).mean()
    simulation.change(Settings(weight=0.0))
    simulation.step(60)
    assert (simulation.samp.latents - simulation.data).norm(dim=1).mean() < pulled / 2


@pytest.mark.parametrize(
    "change",
    [
        {"margin": 0.5},
        {"scale": 20.0},
        {"top_k": 9},
        {"growth": 0.03},
        {"weight": 3.0},
        {"learning_rate": 0.1},
        {"clusters": 2},
        {"concentration": 100.0},
    ],
)
def test_each_setting_changes_the_next_steps(change):
    one = Simulation()
    other = Simulation()
    one.step(5), other.step(5)
    other.change(dataclasses.replace(other.settings, **change))
    one.step(15), other.step(15)
    assert not torch.equal(one.samp.codes, other.samp.codes)
    own = {"margin", "scale", "top_k", "growth", "weight"} & change.keys()  # of SAMP alone
    assert torch.equal(one.plain.codes, other.plain.codes) == bool(own)


def test_reset_returns_to_the_start_exactly_and_goes_the_same_way_again():
    simulation = Simulation()
    start = state(simulation)
    simulation.step(20)
    first = Simulation()
    first.step(20)
    simulation.reset()
    assert all(map(torch.equal, state(simulation), start))
    assert simulation.steps == 0
    assert simulation.radius == 1
    simulation.step(20)
    assert all(map(torch.equal, state(simulation), state(first)))


@pytest.mark.parametrize("steps", [0, 20])
def test_another_simulation_goes_on_from_a_state_exactly(steps):
    first = Simulation(num_latents=30, num_codes=8)
    first.step(steps)
    other = Simulation(num_latents=30, num_codes=8)
    other.step(7)
    other.resume(first.state)
    first.step(15)
    other.step(15)
    assert np.array_equal(first.state, other.state)
    assert first.summary() == other.summary()


def test_curves_are_the_geometry_of_the_state_and_remember_a_window(learned, monkeypatch):
    learner = learned.samp
    step, used, perplexity, angle = learner.history[-1]
    assert (step, used) == (150, int((learner.counts > 0).sum()))
    assert perplexity == geometry.perplexity(learner.counts)
    assert math.isclose(angle, math.degrees(geometry.min_angle(learner.codes)))
    monkeypatch.setattr("arcvq.explorers.simulation.WINDOW", 10)
    short = Simulation(num_latents=4, num_codes=2)
    short.step(15)
    assert short.plain.table()["step"].tolist() == list(range(6, 16))
    assert learner.counts.sum() == len(learned.data)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(clusters=1),
        Settings(concentration=0),
        Settings(concentration=1e4),
        Settings(learning_rate=1.0),
        Settings(margin=1.5, scale=50.0, weight=3.0, top_k=300),
        Settings(growth=100.0),
    ],
)
def test_extremes_stay_finite(settings):
    simulation = Simulation(settings)
    simulation.step(40)
    assert all(tensor.isfinite().all() for tensor in state(simulation))
    assert math.isfinite(simulation.radius)


def test_one_code_and_one_latent_learn_too():
    simulation = Simulation(num_latents=1, num_codes=1)
    simulation.step(3)
    assert simulation.samp.counts.tolist() == [1]
    assert math.isnan(simulation.samp.history[-1][3])
    with pytest.raises(ValueError, match="num_codes is 0"):
        Simulation(num_codes=0)
    with pytest.raises(ValueError, match="count is -1"):
        simulation.step(-1)


def test_the_summary_tells_of_both(learned):
    text = learned.summary()
    assert text.startswith("Step 150: SAMP uses")
    assert "plain VQ uses" in text
    assert "\n" not in text
