import math

import numpy as np
import pytest
import torch
import traitlets
from torch.nn.functional import normalize

import arcvq
from arcvq.explorers import MarginExplorer
from tests.explorers.javascript import drawn, modules

MEASURE = "measure(latents, code, dim, { margin, scale, topK })"
# margin, scale, top-k
SETTINGS = [(0.1, 5.0, 3), (0.0, 5.0, 1), (0.5, 40.0, 4), (1.5, 1.0, 50), (0.07, 100.0, 2)]
START = {"margin": 0.1, "scale": 5.0, "top_k": 3, "moved": ""}


@pytest.fixture(scope="module")
def javascript():
    with modules("margin", "page") as call:
        yield call


def measured(javascript, explorer, call=MEASURE):
    """What web/margin.js knows of the explorer's loss."""
    latents = explorer.latents
    code = explorer.direction
    return javascript(
        call,
        latents=latents.flatten().tolist(),
        code=code.tolist(),
        dim=len(code),
        margin=explorer.margin,
        scale=explorer.scale,
        topK=explorer.top_k,
    )


def loss_and_gradient(explorer):
    latents = explorer.latents.clone().requires_grad_()
    settings = {name: getattr(explorer, name) for name in ("margin", "scale", "top_k")}
    loss = arcvq.arc_margin_loss(latents, explorer.direction[None], **settings)
    loss.backward()
    return loss.item(), latents.grad


def opposite():
    """A latent near the code, and one whose angle and the margin pass pi."""
    code = torch.tensor([0.0, 0.0, 1.0])
    return torch.stack([normalize(code + 0.01, dim=0), -normalize(code + 0.01, dim=0)]), code


def layer(picture, kind, place=0):
    return [layer for layer in picture["layers"] if layer["kind"] == kind][place]


def rows(values):
    return np.array(values).reshape(-1, 3)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_pull_and_push_are_the_packages(javascript, dim, settings):
    explorer = MarginExplorer(dim=dim)
    explorer.margin, explorer.scale, explorer.top_k = settings
    found = measured(javascript, explorer)
    loss, gradient = loss_and_gradient(explorer)
    assert found["loss"] == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert found["gradient"] == pytest.approx(gradient.flatten().tolist(), rel=1e-9, abs=1e-9)
    assert found["sizes"] == pytest.approx(gradient.norm(dim=1).tolist(), rel=1e-9, abs=1e-9)
    assert -math.log(found["ofPulled"]) == pytest.approx(loss, abs=1e-9)
    assert sum(found["shares"]) == pytest.approx(1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [MarginExplorer, lambda: MarginExplorer(*opposite())])
def test_the_curves_of_pull_and_push_go_through_the_gradients(javascript, settings, make):
    explorer = make()
    explorer.margin, explorer.scale, explorer.top_k = settings
    call = f"""(() => {{
      const found = {MEASURE};
      const at = (theta, i) => (found.isPulled[i] ? pullAt : pushAt)(theta, found, {{ margin, scale }});
      return {{ sizes: found.sizes, curves: found.angles.map(at) }};
    }})()"""
    found = measured(javascript, explorer, call)
    assert found["curves"] == pytest.approx(found["sizes"], rel=1e-6, abs=1e-9)


def test_arrows_have_one_scale_for_all_settings(javascript):
    for settings in SETTINGS:
        explorer = MarginExplorer()
        explorer.margin, explorer.scale, explorer.top_k = settings
        picture = drawn(javascript, explorer)
        sizes = loss_and_gradient(explorer)[1].norm(dim=1)
        for place in (0, 1):
            arrows = layer(picture, "arrows", place)
            for start, move in zip(rows(arrows["rows"]), rows(arrows["moves"]), strict=True):
                i = int((explorer.latents - torch.tensor(start)).norm(dim=1).argmin())
                assert np.linalg.norm(move) == pytest.approx(
                    0.25 * sizes[i].item() ** (1 / 3), rel=1e-6
                )


def test_arrows_go_against_the_gradient(javascript):
    explorer = MarginExplorer(margin=0.5)
    picture = drawn(javascript, explorer)
    pushes, pulls = (layer(picture, "arrows", place) for place in (0, 1))
    code = explorer.direction.numpy()
    assert len(pulls["rows"]) == 3 * 3
    assert (rows(pulls["moves"]) @ code > 0).all()
    assert (rows(pushes["moves"]) @ code < 0).all()
    assert np.abs((rows(pulls["rows"]) * rows(pulls["moves"])).sum(1)).max() < 1e-9


def test_a_larger_margin_draws_longer_arrows(javascript):
    lengths = []
    for margin in (0.0, 0.5):
        pulls = layer(drawn(javascript, MarginExplorer(margin=margin)), "arrows", 1)
        lengths.append(np.linalg.norm(rows(pulls["moves"]), axis=1).min())
    assert lengths[1] > 1.4 * lengths[0]


def test_weak_gradients_keep_their_arrows(javascript):
    angle = math.radians(65.9)
    code = torch.tensor([math.cos(angle), math.sin(angle)])
    latents = torch.randn(25, 2, generator=torch.Generator().manual_seed(1))[1:]
    explorer = MarginExplorer(latents, code, margin=0.07, scale=40.0)
    picture = drawn(javascript, explorer)
    pushes, pulls = (rows(layer(picture, "arrows", place)["moves"]) for place in (0, 1))
    assert np.linalg.norm(pulls, axis=1).max() > 0.025
    assert np.linalg.norm(pushes, axis=1).max() > 0.05
    assert "without an arrow: 1 pull and" in picture["summary"]


@pytest.mark.parametrize(
    "explorer",
    [
        MarginExplorer(torch.eye(3)[:2], torch.eye(3)[0], scale=100.0, top_k=1),
        MarginExplorer(torch.randn(1, 3)),
        MarginExplorer(torch.randn(4, 3), top_k=5, margin=1.5, scale=100.0),
    ],
)
def test_without_a_gradient_the_summary_says_why_there_is_no_arrow(javascript, explorer):
    picture = drawn(javascript, explorer)
    assert not any(layer(picture, "arrows", place)["rows"] for place in (0, 1))
    assert "No gradient reaches 0.0001: no arrow is drawn." in picture["summary"]


def test_title_and_summary_tell_loss_gradient_pull_and_push(javascript):
    explorer = MarginExplorer()
    loss, gradient = loss_and_gradient(explorer)
    picture = drawn(javascript, explorer)
    assert picture["title"] == f"Loss {loss:.3g}, gradient norm {gradient.norm():.3g}"
    nearest = (explorer.latents @ explorer.direction).argmax()
    assert f"sin(θ\u00a0+\u00a0m) = {gradient[nearest].norm():.3g}, with p" in picture["summary"]


def test_the_formula_of_the_pull_gives_the_number_beside_it(javascript):
    code = torch.tensor([0.0, 0.0, 1.0])
    far = -code + 0.1 * torch.randn(20, 3)
    for latents, formula in ((far, "sin θ ="), (-far, "sin(θ + m) =")):
        explorer = MarginExplorer(latents, code, margin=1.5)
        words = drawn(javascript, explorer)["summary"].replace("\u00a0", " ")
        _, gradient = loss_and_gradient(explorer)
        nearest = (explorer.latents @ explorer.direction).argmax()
        size = f"{gradient[nearest].norm():.3g}"
        assert "Pull on the nearest: s (p / P" in words
        assert f"p) {formula} {size}, with p" in words
        assert ("past 180°" in words) == (latents is far)
    on_it = MarginExplorer(torch.cat([code[None], far]), code)
    words = drawn(javascript, on_it)["summary"]
    assert "Pull on the nearest: 0. It lies on the code" in words


@pytest.mark.parametrize("dim", [2, 3])
def test_caps_lie_at_theta_and_at_theta_plus_margin(javascript, dim):
    explorer = MarginExplorer(dim=dim, margin=0.4, top_k=5)
    picture = drawn(javascript, explorer)
    angles = torch.arccos(explorer.latents @ explorer.direction).sort().values
    code = (
        explorer.direction
        if dim == 3
        else torch.tensor([explorer.direction[0], 0, explorer.direction[1]])
    )
    for place, angle in ((1, angles[4]), (0, angles[4] + 0.4)):
        cap = rows(layer(picture, "line", place)["rows"])
        cosines = cap @ code.numpy() / np.linalg.norm(cap, axis=1)
        assert cosines.min() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_latent_on_the_code_and_one_opposite_are_drawn_without_nan(javascript):
    code = torch.tensor([0.0, 0.0, 2.0])
    for top_k in (1, 2):
        explorer = MarginExplorer(
            torch.stack([code, -code]), code, top_k=top_k, margin=1.5, scale=100.0
        )
        picture = drawn(javascript, explorer)
        assert "NaN" not in picture["title"] + picture["summary"]
        assert None not in layer(picture, "points")["rows"]


def test_many_latents_are_thinned_and_the_summary_says_so(javascript):
    explorer = MarginExplorer(torch.randn(25_000, 3), top_k=50)
    picture = drawn(javascript, explorer)
    points = layer(picture, "points")
    assert 4096 <= len(points["rows"]) / 3 <= 4096 + 50
    assert "4,096 of 25,000 latents are drawn." in picture["summary"]
    assert points["colors"].count("#D55E00") == 50
    assert len(layer(picture, "arrows", 0)["rows"]) == 3 * 256


def test_a_point_moved_by_hand_is_the_same_in_python_and_in_the_browser(javascript):
    explorer = MarginExplorer()
    explorer.moved = "code:0.6,0,0.8 12:0,0,2"
    assert explorer.direction.tolist() == pytest.approx([0.6, 0, 0.8])
    assert explorer.latents[12].tolist() == [0, 0, 1]
    picture = drawn(javascript, explorer)
    assert layer(picture, "points", 1)["rows"] == pytest.approx([0.6, 0, 0.8])
    assert [0, 0, 1] in rows(layer(picture, "points")["rows"]).tolist()
    loss, _ = loss_and_gradient(explorer)
    assert f"Loss {loss:.3g}," in picture["title"]
    explorer.reset()
    assert torch.equal(explorer.latents, MarginExplorer().latents)


def test_a_second_move_of_a_point_takes_the_place_of_the_first(javascript):
    call = "withPlace(withPlace('code:1,0,0', '7', [0, 0.60001, 0.8]), 'code', [0, 1, 0])"
    moved = javascript(call)
    assert moved == "code:0,1,0 7:0,0.6,0.8"
    MarginExplorer().moved = moved


@pytest.mark.parametrize(
    "moved", ["7", "code:0,0,0", "80:1,0,0", "code:1,0", "code:1,0,0,0", "x:1,0,0", "1:a,b,c"]
)
def test_a_place_that_makes_no_sense_is_refused_in_python_and_left_out_in_a_link(javascript, moved):
    explorer = MarginExplorer()
    with pytest.raises(
        traitlets.TraitError, match="it must name code or a latent below 80"
    ) as caught:
        explorer.moved = moved
    assert "\n" not in str(caught.value)
    found = javascript(
        "placed({ latents, code, dim: 3 }, moved)",
        latents=explorer.latents.flatten().tolist(),
        code=explorer.direction.tolist(),
        moved=moved,
    )
    assert found["code"] == explorer.direction.tolist()
    assert found["latents"] == explorer.latents.flatten().tolist()


def test_code_evaluates_to_the_settings_scaled_to_the_run():
    explorer = MarginExplorer()
    explorer.margin = 0.3
    explorer.scale = 12.6
    explorer.top_k = 4
    samp = eval(explorer.code(), {"arcvq": arcvq, "steps": 400})
    assert samp == arcvq.SAMP.for_run(400, margin=0.3, scale=12.6, top_k=4)
    explorer.reset()
    assert explorer.settings() == START


@pytest.mark.parametrize("name", MarginExplorer.presets)
def test_every_preset_can_be_chosen(name):
    explorer = MarginExplorer(margin=0.4)
    explorer.choose_preset(name)
    expected = START | {"margin": 0.4} | dict(MarginExplorer.presets[name].settings)
    assert explorer.settings() == expected


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", MarginExplorer.presets)
def test_every_preset_has_arrows_to_see_in_the_example(javascript, name, dim):
    explorer = MarginExplorer(dim=dim)
    explorer.choose_preset(name)
    picture = drawn(javascript, explorer)
    assert layer(picture, "arrows", 1)["rows"]
    assert "no arrow is drawn" not in picture["summary"]


def test_a_change_is_told_to_observers():
    explorer = MarginExplorer()
    seen = []
    explorer.observe(lambda change: seen.append(change.new), "margin")
    explorer.margin = 0.7
    assert seen == [0.7]
    assert explorer.settings() == START | {"margin": 0.7}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 4}, "D is 4; the margin can be drawn on the circle"),
        ({"latents": torch.randn(5, 64)}, "D is 64"),
        (
            {"latents": torch.randn(5, 3), "code": torch.randn(2)},
            "the code has D = 2 but the latents have D = 3",
        ),
        ({"latents": torch.zeros(1, 3)}, "latents: 1 of 1 rows have norm 0 and so no direction"),
        (
            {"latents": torch.randn(5, 3), "code": torch.zeros(3)},
            "the code: 1 of 1 rows have norm 0",
        ),
        (
            {"latents": torch.full((2, 3), math.nan)},
            "latents has NaN or infinity in 2 of its 2 rows",
        ),
        ({"latents": torch.empty(0, 3)}, "latents must be rows"),
        ({"margins": 1}, "'margins' is no setting of MarginExplorer"),
    ],
)
def test_bad_input_is_one_sentence(unchecked, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        MarginExplorer(**arguments)
    assert "\n" not in str(caught.value)


def test_a_value_out_of_range_is_named_and_the_next_one_works():
    explorer = MarginExplorer()
    for name, value in (("margin", -0.1), ("margin", 1.6), ("scale", 0.0), ("top_k", 0)):
        with pytest.raises(traitlets.TraitError, match=name):
            setattr(explorer, name, value)
    with pytest.raises(ValueError, match="margin of MarginExplorer is nan"):
        explorer.margin = math.nan
    with pytest.raises(AttributeError, match="MarginExplorer has no setting 'codes'"):
        explorer.codes = 8
    explorer.margin = 0.2
    assert explorer.settings() == START | {"margin": 0.2}


def test_the_code_given_is_drawn_by_its_direction():
    explorer = MarginExplorer(torch.randn(9, 3), torch.tensor([3.0, 0.0, 4.0]))
    assert explorer.direction.tolist() == pytest.approx([0.6, 0.0, 0.8])
