"""One code of the margin loss, to be moved: latents and gradients, caps, logit over the angle."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from plotly.graph_objects import Figure
from torch import Tensor

from arcvq import geometry
from arcvq.explorers.figure_updates import Values, assign, finish_moving, points, words
from arcvq.figures.parts import (
    add_arrows,
    add_ball,
    add_cap,
    add_circle,
    add_points,
    arrow_lines,
    cap,
    normals,
    set_scene,
    thin,
)
from arcvq.figures.theme import BLACK, BLUE, DOTTED, GRAY, GREEN, ORANGE, VERMILLION, Number
from arcvq.samp import arc_margin_loss

ARROWS = 512  # of a group at most, the longest first
LONGEST = 0.3  # length of the longest arrow
WIDTH = 860  # pixels
HEIGHT = 540
SIDE = 24
THETA = np.linspace(0, np.pi, 181)
# The traces that move, in the order in which they are drawn.
PULLED, PUSHED, NEAR, FAR, CAP, WIDER, SHIFTED, BEYOND, TURN, POSITIVES = range(10)


def margin_logit(theta: Any, margin: Number) -> np.ndarray:
    """Return the logit at scale 1 that `arc_margin_loss` gives a positive.

    Args:
        theta: angles in [0, pi] (radians).
        margin: in radians.
    """
    theta = np.asarray(theta, float)
    beyond = np.cos(theta) + math.cos(margin) - 1
    return np.where(theta > np.pi - margin, beyond, np.cos(theta + margin))


def margin_picture(
    latents: Float[Tensor, "N D"], code: Float[Tensor, " D"], **settings: Any
) -> Figure:
    """Draw unit latents around one unit code on the circle or sphere, and the logit over theta.

    Arrows follow the negative gradient of this code's loss; the longest is 0.3 long. The solid cap
    reaches to theta, the angle of the farthest of the `top_k` nearest latents; the dashed one to
    theta + margin. The curves are cos(theta), cos(theta + margin), and what the loss uses where
    theta + margin has passed pi.

    Args:
        latents: (N, D) with D 2 (circle) or 3 (sphere).
        code: (D,).
        **settings: margin, scale and top_k.
    """
    flat = latents.shape[1] == 2
    figure = Figure()
    e = code.double().numpy()
    at_code = e[None]
    for color in (VERMILLION, BLUE):
        add_arrows(figure, at_code, at_code, color, hoverinfo="skip")
    for name, color in (("nearest latents", VERMILLION), ("other latents", BLUE)):
        add_points(figure, at_code, name, marker={"color": color, "size": 7 if flat else 4})
    for name, dash in (("cap θ", "solid"), ("cap θ + m", "dash")):
        add_cap(figure, e, 0.0, name, dash, hoverinfo="skip")
    _curves(figure, "2" if flat else "")
    diamond = {"size": 14 if flat else 6, "symbol": "diamond", "color": BLACK}
    add_points(figure, at_code, "code", marker=diamond)
    if flat:
        _circle(figure)
    else:
        _sphere(figure, e)
    values = margin_values(latents, code, **settings)
    finish_moving(
        figure,
        values,
        width=WIDTH,
        height=HEIGHT,
        left=SIDE,
        right=SIDE,
        legend_itemsizing="constant",
    )
    return assign(figure, values)


def margin_values(
    latents: Float[Tensor, "N D"],
    code: Float[Tensor, " D"],
    *,
    margin: Number,
    scale: Number,
    top_k: int,
) -> Values:
    """Return what moves in `margin_picture`, by path."""
    leaf = latents.detach().double().requires_grad_()
    loss = arc_margin_loss(leaf, code[None].double(), margin=margin, scale=scale, top_k=top_k)
    gradient = torch.autograd.grad(loss, leaf)[0].numpy()
    steepest = np.linalg.norm(gradient, axis=1).max()
    moves = -LONGEST * gradient / max(steepest, 1e-9)
    z = leaf.detach().numpy()
    e = code.double().numpy()

    theta = geometry.angles_to(latents, code).numpy()
    near, far = np.split(np.argsort(theta, kind="stable"), [top_k])
    limit = theta[near[-1]]
    turn = np.pi - margin
    beyond = np.linspace(turn, np.pi, 31)
    shown, note = thin(len(far), "other latents")
    values = {f"{SHIFTED}/y": np.cos(THETA + margin)}
    values |= _arrows(PULLED, z, moves, near) | _arrows(PUSHED, z, moves, far)
    values |= points(NEAR, z[near]) | points(FAR, z[far[shown]])
    values |= points(CAP, cap(e, limit)) | points(WIDER, cap(e, min(limit + margin, np.pi)))
    values |= _curve(BEYOND, beyond, margin_logit(beyond, margin))
    values |= _curve(TURN, [turn, turn], [-1, 1])
    values |= _curve(POSITIVES, theta[near], margin_logit(theta[near], margin))

    text = (
        f"The {len(near)} nearest of {len(z):,} latents lie within θ = {math.degrees(limit):.1f}° "
        f"of the code and count as {math.degrees(margin):.1f}° farther; beyond "
        f"{math.degrees(turn):.1f}° θ + m has passed 180°. Arrows follow the negative gradient, "
        f"at most {steepest:.2g} per radian.{note}"
    )
    title = (
        f"Loss of one code {loss.item():.4g}: margin {margin:.3g} rad, scale {scale:.3g}, "
        f"top-k {top_k}"
    )
    return values | words(title, text, WIDTH - 2 * SIDE)


def _curve(trace: int, theta: Any, logit: Any) -> Values:
    return points(trace, np.column_stack([np.degrees(theta), logit]))


def _arrows(trace: int, z: np.ndarray, moves: np.ndarray, group: np.ndarray) -> Values:
    """Arrows from latents along their moves; the long ones have a head."""
    lengths = np.linalg.norm(moves[group], axis=1)
    longest = group[np.argsort(-lengths, kind="stable")[:ARROWS]]
    lines, heads = arrow_lines(z[longest], moves[longest])
    return points(trace, lines) | {f"{trace}/marker.size": heads}


def _curves(figure: Figure, number: str) -> None:
    """The panel on the right, on the axes of this number: a positive's logit over its angle."""
    x = f"x{number}"
    y = f"y{number}"
    place = {"xaxis": x, "yaxis": y}
    lines = place | {"mode": "lines"}
    angles = np.degrees(THETA).tolist()
    figure.add_scatter(x=angles, name="cos(θ + m)", line_color=ORANGE, **lines)
    figure.add_scatter(name="arcvq beyond it", line={"color": GREEN, "width": 4}, **lines)
    ends = {"size": [9, 0], "color": BLACK}
    figure.add_scatter(name="θ + m = 180°", mode="lines+markers", line=DOTTED, marker=ends, **place)
    dots = {"color": VERMILLION, "size": 7}
    figure.add_scatter(mode="markers", marker=dots, showlegend=False, **place)
    cosines = np.cos(THETA).tolist()
    figure.add_scatter(x=angles, y=cosines, name="cos θ", line_color=GRAY, **lines)
    figure.layout[f"xaxis{number}"] = {
        "domain": [0.64, 1],
        "range": [0, 180],
        "dtick": 30,
        "anchor": y,
        "title_text": "angle θ to the code (degrees)",
    }
    figure.layout[f"yaxis{number}"] = {
        "range": [-2.05, 1.05],
        "title_text": "logit at scale 1",
        "anchor": x,
    }


def _circle(figure: Figure) -> None:
    add_circle(figure)
    axis = {"range": [-1.3, 1.3], "constrain": "domain"}
    figure.update_layout(
        xaxis={"title_text": "component 1", "domain": [0.05, 0.53], **axis},
        yaxis={"title_text": "component 2", "scaleanchor": "x", **axis},
    )


def _sphere(figure: Figure, e: np.ndarray) -> None:
    add_ball(figure, 1.0, "")
    set_scene(figure, 1.25, eye=2 * e + normals(e)[0], zoom=2.1, visible=False)
    figure.update_scenes(domain={"x": [0, 0.55]})
