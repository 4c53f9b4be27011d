import math

import numpy as np
import pytest
import torch
import traitlets
from torch.nn.functional import normalize

import arcvq
from arcvq.explorers import MarginExplorer
from arcvq.explorers import margin_figure as view


def rows(explorer, trace):
    data = explorer.figure.data[trace]
    return np.stack([data[axis] for axis in "xyz" if axis in data], axis=1)


def by_formula(explorer):
    """Loss and angles by the paper's formula in float64, with arcvq's line beyond pi."""
    z, e = explorer.latents.numpy(), explorer.direction.numpy()
    m, s, k = explorer.margin, explorer.scale, explorer.top_k
    theta = np.arccos(np.clip(z @ e, -1, 1))
    order = np.argsort(theta)
    near, far = order[:k], order[k:]
    logits = [
        math.cos(t + m) if t + m <= math.pi else math.cos(t) + math.cos(m) - 1 for t in theta[near]
    ]
    positive, negative = (
        sum(math.exp(s * x) for x in logits),
        sum(math.exp(s * math.cos(t)) for t in theta[far]),
    )
    return -math.log(positive / (positive + negative)), theta, near, far


def shown_loss(explorer):
    return float(explorer.figure.layout.title.text.split("code ")[1].split(":")[0])


CHANGES = [
    ("margin", 0.0),
    ("margin", 0.73),
    ("margin", 1.5),
    ("scale", 1.0),
    ("scale", 31.6),
    ("top_k", 1),
    ("top_k", 17),
]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("through", ["trait", "slider"])
@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_each_slider_moves_loss_points_and_curves_as_the_formula_says(dim, through, name, value):
    explorer = MarginExplorer(dim=dim)
    if through == "slider":
        explorer.controls[name].value = value
    else:
        setattr(explorer, name, value)
    assert getattr(explorer, name) == value
    loss, theta, near, far = by_formula(explorer)
    assert shown_loss(explorer) == pytest.approx(loss, rel=1e-3)
    assert np.allclose(rows(explorer, view.NEAR), explorer.latents[near], atol=1e-6)
    assert np.allclose(rows(explorer, view.FAR), explorer.latents[far], atol=1e-6)
    assert np.allclose(explorer.figure.data[view.SHIFTED].y, np.cos(view.THETA + explorer.margin))
    turn = rows(explorer, view.TURN)
    assert np.allclose(turn, [[180 - math.degrees(explorer.margin), y] for y in (-1, 1)], atol=1e-4)
    assert np.allclose(rows(explorer, view.POSITIVES)[:, 0], np.degrees(theta[near]), atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_caps_lie_at_theta_and_at_theta_plus_margin(dim):
    explorer = MarginExplorer(dim=dim, margin=0.4, top_k=5)
    theta = np.sort(by_formula(explorer)[1])[4]
    for trace, angle in ((view.CAP, theta), (view.WIDER, theta + 0.4)):
        cap = rows(explorer, trace)[1:-1]
        cosines = cap @ explorer.direction.numpy() / np.linalg.norm(cap, axis=1)
        assert (cosines.min() if dim == 2 else cosines) == pytest.approx(np.cos(angle), abs=1e-5)


def test_arrows_follow_the_negative_gradient_and_are_tangent():
    explorer = MarginExplorer(margin=0.5, top_k=4)
    latents = explorer.latents.clone().requires_grad_()
    arcvq.arc_margin_loss(
        latents, explorer.direction[None], margin=0.5, scale=5.0, top_k=4
    ).backward()
    longest = latents.grad.norm(dim=1).max()
    for trace in (view.PULLED, view.PUSHED):
        ends = rows(explorer, trace).reshape(-1, 3, 3)
        assert np.isnan(ends[:, 2]).all()
        for start, tip in ends[:, :2]:
            found = int((explorer.latents - torch.tensor(start)).norm(dim=1).argmin())
            assert np.allclose(tip - start, -0.3 * latents.grad[found] / longest, atol=1e-6)
            assert abs(start @ (tip - start)) < 1e-6
    [nearest] = [tip for tip in rows(explorer, view.PULLED).reshape(-1, 3, 3)[:1, 1]]
    assert (
        nearest @ explorer.direction.numpy()
        > rows(explorer, view.PULLED)[0] @ explorer.direction.numpy()
    )


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.5])
def test_the_curve_is_the_logit_that_the_loss_uses(margin):
    angles = np.radians(np.arange(1, 180, 7))
    code = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for theta, logit in zip(angles, view.margin_logit(angles, margin), strict=True):
        latents = torch.tensor([[math.cos(theta), math.sin(theta)], [-1, 0]], dtype=torch.float64)
        loss = arcvq.arc_margin_loss(latents, code, margin=margin, scale=1.0, top_k=1).item()
        assert -1 - math.log(math.expm1(loss)) == pytest.approx(logit, abs=1e-6)


def test_the_curve_beyond_the_turn_is_arcvqs():
    explorer = MarginExplorer(margin=1.0)
    degrees, logits = rows(explorer, view.BEYOND).T
    assert degrees[0] == pytest.approx(180 - math.degrees(1.0)) and degrees[-1] == 180
    assert np.allclose(logits, np.cos(np.radians(degrees)) + math.cos(1.0) - 1, atol=1e-5)
    assert (np.diff(logits) < 0).all()


def test_one_latent_and_fewer_latents_than_top_k_have_loss_zero():
    for count in (1, 4):
        explorer = MarginExplorer(torch.randn(count, 3), top_k=5)
        assert shown_loss(explorer) == 0 and len(rows(explorer, view.NEAR)) == count
        explorer.margin, explorer.scale = 1.5, 100.0
        assert shown_loss(explorer) == 0 and len(rows(explorer, view.FAR)) == 0


def test_a_latent_on_the_code_and_one_opposite_are_drawn_without_nan():
    code = torch.tensor([0.0, 0.0, 2.0])
    explorer = MarginExplorer(torch.stack([code, -code]), code, top_k=1, margin=1.5, scale=100.0)
    explorer.top_k = 2
    assert np.isfinite(rows(explorer, view.NEAR)).all() and math.isfinite(shown_loss(explorer))


def test_many_latents_are_thinned_and_the_summary_says_so():
    explorer = MarginExplorer(torch.randn(25_000, 3))
    assert len(rows(explorer, view.FAR)) == 20_000
    assert "20,000 of 24,997 other latents are drawn." in explorer.figure.layout.meta["summary"]
    assert len(rows(explorer, view.PUSHED)) == 3 * view.ARROWS


def test_code_evaluates_to_the_settings_and_reset_goes_back():
    explorer = MarginExplorer()
    explorer.margin, explorer.scale, explorer.top_k = 0.3, 12.6, 4
    assert (
        explorer.code()
        == "arcvq.SAMP(margin=0.3, scale=12.6, top_k=4)"
        == explorer.copy_button.code
    )
    samp = eval(explorer.code())
    assert explorer.settings() == {name: getattr(samp, name) for name in explorer.controls}
    explorer.reset()
    assert explorer.settings() == {"margin": 0.1, "scale": 5.0, "top_k": 3}


def test_a_change_is_one_message_without_points_that_stay_or_the_camera():
    explorer, sent = MarginExplorer(), []
    explorer.figure.observe(lambda change: change.new and sent.append(change.new), "_py2js_update")
    explorer.figure.layout.scene.camera.eye.x = 5
    sent.clear()
    explorer.margin = 0.7
    assert len(sent) == 1 and explorer.figure.layout.scene.camera.eye.x == 5
    assert not {view.NEAR, view.FAR, view.CAP} & set(sent[0]["style_traces"])
    assert not [key for key in sent[0]["layout_data"] if "camera" in key]


@pytest.mark.parametrize(
    "settings", [{}, {"margin": 1.5}, {"scale": 100.0, "top_k": 50}, {"margin": 0.0}]
)
@pytest.mark.parametrize("dim", [2, 3])
def test_the_caption_never_outgrows_its_place(dim, settings):
    explorer = MarginExplorer(dim=dim)
    top = explorer.figure.layout.margin.t
    for name, value in settings.items():
        setattr(explorer, name, value)
    assert (
        explorer.figure.layout.annotations[0].text.count("<br>") == 1
        and explorer.figure.layout.margin.t == top
    )


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
    explorer.margin = 0.2
    assert shown_loss(explorer) == pytest.approx(by_formula(explorer)[0], rel=1e-3)


def test_the_code_given_is_drawn_by_its_direction():
    explorer = MarginExplorer(torch.randn(9, 3), torch.tensor([3.0, 0.0, 4.0]))
    [drawn] = [trace for trace in explorer.figure.data if trace.name == "code"]
    assert np.allclose(
        [drawn.x, drawn.y, drawn.z], normalize(torch.tensor([[3.0, 0.0, 4.0]])).T, atol=1e-6
    )
