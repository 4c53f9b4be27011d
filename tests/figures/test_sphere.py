import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from arcvq.analysis.projections import exact, pca
from arcvq.figures import margin_gradients, margin_panels, projected_sphere, sphere, summary
from arcvq.samp import arc_margin_loss

CODES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
USAGE = torch.tensor([1, 0, 100, 1000, 0, 10])


def rows(trace):
    return np.stack(
        [trace[axis] for axis in ("xyz" if trace.type == "scatter3d" else "xy")], axis=1
    )


def named(figure, part):
    return next(trace for trace in figure.data if part in (trace.name or ""))


def scene(dim, n=12, margin=0.2):
    latents = normalize(torch.randn(n, dim), dim=1).requires_grad_()
    code = normalize(torch.randn(1, dim), dim=1)
    arc_margin_loss(latents, code, margin=margin).backward()
    return latents.detach(), code[0], latents.grad


def test_codes_lie_where_they_are_on_axes_of_equal_range_and_length():
    codes = torch.randn(40, 3) * 2
    figure = sphere(codes, radius=5.0)
    assert np.allclose(rows(figure.data[0]), codes, atol=1e-6)
    view = figure.layout.scene
    assert view.xaxis.range == view.yaxis.range == view.zaxis.range
    assert view.xaxis.range[1] >= 5
    assert view.aspectratio.x == view.aspectratio.y == view.aspectratio.z
    assert view.camera.projection.type == "orthographic"
    assert [view.xaxis.title.text, view.zaxis.title.text] == ["component 1", "component 3"]


def test_the_ball_is_a_small_translucent_mesh_of_its_radius():
    shell = named(sphere(torch.randn(9, 3), radius=4), "ball of radius M(t)")
    assert shell.type == "surface"
    assert shell.opacity < 0.3
    assert np.asarray(shell.x).shape == (17, 33)
    points = np.stack([np.asarray(shell[axis]) for axis in "xyz"])
    assert np.allclose(np.linalg.norm(points, axis=0), 4, atol=1e-5)


def test_a_ball_far_outside_is_named_and_does_not_shrink_the_codes():
    codes = normalize(torch.randn(9, 3), dim=1)
    figure = sphere(codes, radius=6974.0)
    assert {trace.type for trace in figure.data} == {"scatter3d"}
    assert figure.layout.scene.xaxis.range[1] < 1.5
    assert "the radius of the ball is 6,974, beyond the picture" in summary(figure)


def test_usage_is_colored_on_a_log_scale_and_unused_codes_are_hollow():
    codes = torch.randn(4, 3)
    usage = torch.tensor([1, 0, 100, 1000])
    figure = sphere(codes, usage=usage)
    unused = named(figure, "unused codes")
    used = next(trace for trace in figure.data if trace.name == "used codes")
    assert np.allclose(used.marker.color, [0, 2, 3])
    assert (used.marker.cmin, used.marker.cmax) == (
        0,
        3,
    )
    assert list(used.marker.colorbar.ticktext) == ["1", "10", "100", "1,000"]
    assert "tokens" in used.marker.colorbar.title.text
    assert unused.marker.symbol == "circle-open"
    assert np.allclose(rows(unused), codes[1:2])
    assert "3 used, 1 unused (hollow)" in summary(figure)


def test_latents_are_drawn_and_thinned():
    figure = sphere(torch.randn(5, 3), latents=torch.randn(30_000, 3))
    assert len(rows(named(figure, "latents"))) == 20_000
    assert "20,000 of 30,000 latents are drawn." in summary(figure)
    assert len(figure.to_json()) < 450_000


def test_a_sphere_of_512_codes_is_small():
    figure = sphere(torch.randn(512, 3), usage=torch.arange(512), radius=3.0)
    assert len(figure.to_json()) < 60_000


def test_the_sphere_keeps_true_norms_and_drawn_directions():
    norms = CODES.norm(dim=1)
    seen = pca(CODES, sphere=True)
    figure = projected_sphere(seen, norms, USAGE, radius=3.0)
    used = next(trace for trace in figure.data if trace.name == "used codes")
    assert np.allclose(np.linalg.norm(rows(used), axis=1), norms[USAGE > 0], atol=1e-5)
    assert np.allclose(
        rows(used), seen.points[USAGE > 0] * norms[USAGE > 0, None].numpy(), atol=1e-5
    )
    assert seen.trust in summary(figure)
    assert "the radius of the ball is 3" in summary(figure)
    assert figure.layout.scene.xaxis.title.text == "axis 1"


def test_without_norms_codes_are_on_the_unit_sphere():
    figure = projected_sphere(exact(torch.randn(9, 3)))
    assert np.allclose(np.linalg.norm(rows(figure.data[0]), axis=1), 1, atol=1e-5)
    assert any(trace.name == "unit sphere" for trace in figure.data)


@pytest.mark.parametrize("dim", [2, 3])
def test_arrows_go_along_the_negative_gradient_and_the_longest_is_0_3(dim):
    latents, code, gradients = scene(dim)
    figure = margin_gradients(latents, code, gradients, margin=0.2)
    arrows = np.concatenate(
        [
            rows(trace)
            for trace in figure.data
            if trace.type != "surface" and trace.mode == "lines+markers"
        ]
    )
    starts = arrows[::3]
    ends = arrows[1::3]
    gaps = arrows[2::3]
    assert np.isnan(gaps).all()
    assert len(starts) == 12
    order = [int(np.abs(latents.numpy() - start).sum(axis=1).argmin()) for start in starts]
    scale = 0.3 / gradients.norm(dim=1).max()
    assert sorted(order) == list(range(12))
    assert np.allclose(ends - starts, -float(scale) * gradients.numpy()[order], atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_caps_lie_at_theta_of_the_top_k_and_theta_plus_margin(dim):
    latents, code, gradients = scene(dim)
    figure = margin_gradients(latents, code, gradients, margin=0.2, top_k=4)
    theta = np.sort(np.arccos(np.clip((latents @ code).numpy(), -1, 1)))[3]
    for label, angle in (("θ =", theta), ("θ + margin", theta + 0.2)):
        cap = named(figure, label)
        assert f"{math.degrees(angle):.1f}°" in cap.name
        edge = rows(cap)[1] if dim == 2 else rows(cap)[10]
        cosine = edge @ code.numpy() / np.linalg.norm(edge)
        assert np.arccos(cosine) == pytest.approx(angle, abs=1e-3)
    assert len(rows(named(figure, "4 nearest"))) == 4
    assert len(rows(named(figure, "8 other"))) == 8
    assert f"4 of 12, lie within θ = {math.degrees(theta):.1f}°" in summary(figure)


def arrow_lengths(traces):
    """The lengths of all arrows, in the order in which they are drawn."""
    points = np.concatenate([rows(trace) for trace in traces if trace.mode == "lines+markers"])
    return np.linalg.norm(points[1::3] - points[::3], axis=1)


@pytest.mark.parametrize("dim", [2, 3])
def test_an_arrow_scale_is_the_length_of_a_gradient_of_norm_1_and_is_told(dim):
    latents, code, gradients = scene(dim)
    figure = margin_gradients(latents, code, gradients, margin=0.2, arrow_scale=0.5)
    drawn = arrow_lengths([trace for trace in figure.data if trace.type != "surface"])
    assert np.sort(drawn) == pytest.approx(0.5 * np.sort(gradients.norm(dim=1)), abs=1e-5)
    assert "a norm of 1 is drawn 0.5 long" in summary(figure)


def panels(**options):
    """Three panels, with the gradients of each margin and the arrows that are drawn in it."""
    latents, code, _ = scene(2)
    gradients = {}
    for margin in (0.0, 0.1, 0.6):
        free = latents.clone().requires_grad_()
        arc_margin_loss(free, code[None], margin=margin).backward()
        gradients[margin] = free.grad
    figure = margin_panels(latents, code, gradients, **options)
    drawn = []
    for axis in ("x", "x2", "x3"):
        traces = [trace for trace in figure.data if trace.xaxis == axis]
        drawn.append(arrow_lengths(traces))
    return figure, list(gradients.values()), drawn


@pytest.mark.parametrize("options", [{}, {"arrow_scale": 0.2}])
def test_the_arrows_of_all_panels_have_one_scale(options):
    figure, gradients, drawn = panels(**options)
    sizes = [np.sort(rows.norm(dim=1)) for rows in gradients]
    scale = options.get("arrow_scale", 0.3 / max(size[-1] for size in sizes))
    for lengths, size in zip(drawn, sizes, strict=True):
        assert np.sort(lengths) == pytest.approx(scale * size, abs=1e-5)
    assert [note.text for note in figure.layout.annotations][:3] == [
        "margin 0 rad",
        "margin 0.1 rad",
        "margin 0.6 rad",
    ]
    longest = ", ".join(
        f"{size[-1]:.2g} with margin {margin} rad"
        for size, margin in zip(sizes, ("0", "0.1", "0.6"), strict=True)
    )
    assert longest in summary(figure)


def test_the_dashed_cap_ends_opposite_to_the_code():
    latents, code, gradients = scene(2)
    figure = margin_gradients(latents, code, gradients, margin=1.5, top_k=len(latents))
    (cap,) = [trace for trace in figure.data if (trace.name or "").startswith("θ + margin")]
    cosines = rows(cap) @ (code / code.norm()).numpy()
    assert cosines.min() == pytest.approx(-1, abs=1e-3)
    turns = np.diff(np.unwrap(np.arctan2(*rows(cap).T)))
    assert np.abs(turns.sum()) <= 2 * np.pi + 1e-6


def test_each_panel_opens_the_dashed_cap_by_its_margin():
    figure, _, _ = panels(top_k=4)
    edges = {}
    for trace in figure.data:
        if trace.name and trace.name.startswith("θ"):
            start = rows(trace)[1]
            edges[trace.xaxis, trace.name] = start / np.linalg.norm(start)
    for axis, margin in (("x", 0.0), ("x2", 0.1), ("x3", 0.6)):
        cosine = edges[axis, "θ"] @ edges[axis, "θ + margin"]
        assert np.arccos(np.clip(cosine, -1, 1)) == pytest.approx(margin, abs=1e-3)


def test_all_panels_are_round_and_of_one_size_with_one_legend():
    figure, _, _ = panels()
    layout = figure.layout
    assert [layout.yaxis.scaleanchor, layout.yaxis2.scaleanchor] == ["x", "x2"]
    assert layout.xaxis.range == layout.xaxis3.range == layout.yaxis2.range
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == sorted(set(shown))
    assert all(shown)
    assert len(layout.shapes) == 3


def test_the_circle_is_round():
    figure = margin_gradients(*scene(2))
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.xaxis.range == figure.layout.yaxis.range


def test_a_long_code_and_vanishing_gradients_can_be_drawn():
    latents, code, _ = scene(3)
    figure = margin_gradients(latents, 5 * code, torch.zeros(12, 3), top_k=50)
    assert np.allclose(rows(named(figure, "code")), code, atol=1e-5)
    assert "12 nearest" in str(figure.data)


def test_of_very_many_latents_all_that_are_pulled_are_drawn_and_theta_is_theirs():
    angles = torch.linspace(0.1, 3, 30_000)
    latents = torch.stack([angles.cos(), angles.sin()], dim=1)
    code = torch.tensor([1.0, 0.0])
    figure = margin_gradients(latents, code, torch.ones(30_000, 2), top_k=3)
    assert np.allclose(rows(named(figure, "3 nearest")), latents[:3])
    assert len(rows(named(figure, "20,000 other"))) == 20_000
    assert f"3 of 30,000, lie within θ = {math.degrees(angles[2]):.1f}°" in summary(figure)
    assert "20,000 of 29,997 other latents are drawn." in summary(figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sphere(torch.zeros(0, 3)),
            r"codes must be rows of shape \(3,\), at least one; it is \(0, 3\)",
        ),
        (lambda: sphere(torch.zeros(5, 64)), r"codes must be rows of shape \(3,\).*\(5, 64\)"),
        (
            lambda: sphere(torch.full((5, 3), torch.nan)),
            "codes has NaN or infinity in 5 of its 5 rows",
        ),
        (lambda: sphere(torch.ones(5, 3), latents=torch.ones(5, 2)), "latents must be rows"),
        (
            lambda: sphere(torch.ones(5, 3), usage=torch.ones(4, dtype=torch.int64)),
            "5 codes need as many numbers of 'usage'",
        ),
        (lambda: projected_sphere(pca(CODES)), r"\(PCA\) is a map, not a sphere"),
        (
            lambda: projected_sphere(pca(CODES, sphere=True), torch.ones(2)),
            "6 codes need as many numbers of 'norms'",
        ),
        (
            lambda: margin_gradients(torch.ones(5, 3), torch.ones(2), torch.ones(5, 2)),
            "latents must be rows of",
        ),
        (
            lambda: margin_gradients(torch.ones(5, 2), torch.ones(2), torch.ones(4, 2)),
            "5 latents need as many",
        ),
        (
            lambda: margin_gradients(torch.ones(5, 3), torch.zeros(3), torch.ones(5, 3)),
            "code is .*; it needs a direction, so it must not be zero",
        ),
        (
            lambda: margin_gradients(torch.ones(5, 3), torch.ones(3), torch.ones(5, 3), top_k=0),
            "top_k is 0",
        ),
        (
            lambda: margin_gradients(
                torch.ones(5, 3), torch.ones(3), torch.ones(5, 3), arrow_scale=-1
            ),
            "arrow_scale is -1; it must be a finite number above 0",
        ),
        (
            lambda: margin_panels(torch.ones(5, 3), torch.ones(3), {0.1: torch.ones(5, 3)}),
            "the panels are circles, for D = 2; the code has D = 3",
        ),
        (
            lambda: margin_panels(torch.ones(5, 2), torch.ones(2), {}),
            "there is nothing to draw: the dictionary of gradients is empty",
        ),
    ],
)
def test_bad_points_get_one_clear_sentence(call, words, unchecked):
    with pytest.raises(ValueError, match=words):
        call()
