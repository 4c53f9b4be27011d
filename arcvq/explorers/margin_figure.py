"""One code of the margin loss, to be moved: latents and their gradients, caps, and the logit over the angle."""

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
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
from arcvq.figures.theme import finish
from arcvq.samp import arc_margin_loss

Number = float | int
ARROWS, LONGEST = (
    512,
    0.3,
)  # arrows of a group at most, the longest first; the length of the longest
WIDTH, HEIGHT, SIDE = 860, 540, 24  # pixels
THETA = np.linspace(0, np.pi, 181)
# The traces that move, in the order in which they are drawn.
PULLED, PUSHED, NEAR, FAR, CAP, WIDER, SHIFTED, BEYOND, TURN, POSITIVES = range(10)


def margin_logit(theta: Any, margin: Number) -> np.ndarray:
    """The logit at scale 1 that `arc_margin_loss` gives a positive at theta in [0, pi] (radians)."""
    theta = np.asarray(theta, float)
    return np.where(
        theta > np.pi - margin, np.cos(theta) + math.cos(margin) - 1, np.cos(theta + margin)
    )


def margin_picture(
    latents: Float[Tensor, "N D"],
    code: Float[Tensor, " D"],
    *,
    margin: Number = 0.1,
    scale: Number = 5.0,
    top_k: int = 3,
) -> go.Figure:
    """Unit latents around one unit code on the circle (D = 2) or sphere (D = 3); beside it the logit over theta.

    Arrows follow the negative gradient of this code's loss; the longest is 0.3 long. The solid cap reaches to theta,
    the angle of the farthest of the `top_k` nearest latents; the dashed one to theta + margin. The curves are
    cos(theta), cos(theta + margin), and what the loss uses where theta + margin has passed pi.
    """
    flat, figure, e = latents.shape[1] == 2, go.Figure(), code.double().numpy()
    for color in (theme.VERMILLION, theme.BLUE):
        add_arrows(figure, e[None], e[None], color, hoverinfo="skip")
    for name, colour in (("nearest latents", theme.VERMILLION), ("other latents", theme.BLUE)):
        add_points(figure, e[None], name, marker={"color": colour, "size": 7 if flat else 4})
    for name, dash in (("cap θ", "solid"), ("cap θ + m", "dash")):
        add_cap(figure, e, 0.0, name, dash, hoverinfo="skip")
    _curves(figure, {"xaxis": "x2", "yaxis": "y2"} if flat else {})
    diamond = {"size": 14 if flat else 6, "symbol": "diamond", "color": theme.BLACK}
    add_points(figure, e[None], "code", marker=diamond)
    _circle(figure) if flat else _sphere(figure, e)
    values = margin_values(latents, code, margin=margin, scale=scale, top_k=top_k)
    finish(
        figure,
        {},
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        width=WIDTH,
        height=HEIGHT,
        left=SIDE,
        right=SIDE,
        legend_itemsizing="constant",
    )
    assign(figure, values)
    return figure


def margin_values(
    latents: Float[Tensor, "N D"],
    code: Float[Tensor, " D"],
    *,
    margin: Number,
    scale: Number,
    top_k: int,
) -> Values:
    """What moves in `margin_picture`, by path."""
    leaf = latents.detach().double().requires_grad_()
    loss = arc_margin_loss(leaf, code[None].double(), margin=margin, scale=scale, top_k=top_k)
    gradient = torch.autograd.grad(loss, leaf)[0].numpy()
    z, e, steepest = (
        leaf.detach().numpy(),
        code.double().numpy(),
        np.linalg.norm(gradient, axis=1).max(),
    )
    theta = 2 * np.arctan2(
        np.linalg.norm(z - e, axis=1), np.linalg.norm(z + e, axis=1)
    )  # Kahan: exact near 0, pi
    near, far = np.split(np.argsort(theta, kind="stable"), [top_k])
    moves, limit, turn = -LONGEST * gradient / max(steepest, 1e-9), theta[near[-1]], np.pi - margin
    shown, note = thin(len(far), "other latents")
    values = _arrows(PULLED, z, moves, near) | _arrows(PUSHED, z, moves, far)
    values |= points(NEAR, z[near]) | points(FAR, z[far[shown]])
    values |= points(CAP, cap(e, limit)) | points(WIDER, cap(e, min(limit + margin, np.pi)))
    beyond = np.linspace(turn, np.pi, 31)
    values |= {f"{SHIFTED}/y": np.cos(THETA + margin)} | _curve(
        BEYOND, beyond, margin_logit(beyond, margin)
    )
    values |= _curve(TURN, [turn, turn], [-1, 1]) | _curve(
        POSITIVES, theta[near], margin_logit(theta[near], margin)
    )
    text = (
        f"The {len(near)} nearest of {len(z):,} latents lie within θ = {math.degrees(limit):.1f}° of the code and "
        f"count as {math.degrees(margin):.1f}° farther; beyond {math.degrees(turn):.1f}° θ + m has passed 180°. "
        f"Arrows follow the negative gradient, at most {steepest:.2g} per radian.{note}"
    )
    title = f"Loss of one code {loss.item():.4g}: margin {margin:.3g} rad, scale {scale:.3g}, top-k {top_k}"
    return values | words(title, text, WIDTH - 2 * SIDE)


def _curve(trace: int, theta: Any, logit: Any) -> Values:
    return points(trace, np.stack([np.degrees(theta), logit], axis=1))


def _arrows(trace: int, z: np.ndarray, moves: np.ndarray, group: np.ndarray) -> Values:
    """Lines from latents along their moves, with a head where an arrow is long enough to have one."""
    lengths = np.linalg.norm(moves[group], axis=1)
    kept = np.argsort(-lengths, kind="stable")[:ARROWS]
    lines, heads = arrow_lines(z[group[kept]], moves[group[kept]])
    return points(trace, lines) | {f"{trace}/marker.size": heads}


def _curves(figure: go.Figure, axes: dict[str, str]) -> None:
    """The panel on the right: the logit of a positive over its angle."""
    figure.add_scatter(
        x=np.degrees(THETA).tolist(),
        name="cos(θ + m)",
        mode="lines",
        line_color=theme.ORANGE,
        **axes,
    )
    figure.add_scatter(
        name="arcvq beyond it", mode="lines", line={"color": theme.GREEN, "width": 4}, **axes
    )
    figure.add_scatter(
        name="θ + m = 180°",
        mode="lines+markers",
        line=theme.DOTTED,
        marker={"size": [9, 0], "color": theme.BLACK},
        **axes,
    )
    figure.add_scatter(
        mode="markers", marker={"color": theme.VERMILLION, "size": 7}, showlegend=False, **axes
    )
    figure.add_scatter(
        x=np.degrees(THETA).tolist(),
        y=np.cos(THETA).tolist(),
        name="cos θ",
        mode="lines",
        line_color=theme.GRAY,
        **axes,
    )
    number = "2" if axes else ""
    figure.layout[f"xaxis{number}"] = {
        "domain": [0.64, 1],
        "range": [0, 180],
        "dtick": 30,
        "anchor": f"y{number}",
        "title_text": "angle θ to the code (degrees)",
    }
    figure.layout[f"yaxis{number}"] = {
        "range": [-2.05, 1.05],
        "title_text": "logit at scale 1",
        "anchor": f"x{number}",
    }


def _circle(figure: go.Figure) -> None:
    add_circle(figure)
    axis = {"range": [-1.3, 1.3], "constrain": "domain"}
    figure.update_layout(
        xaxis={"title_text": "component 1", "domain": [0.05, 0.53], **axis},
        yaxis={"title_text": "component 2", "scaleanchor": "x", **axis},
    )


def _sphere(figure: go.Figure, e: np.ndarray) -> None:
    add_ball(figure, 1.0, "")
    set_scene(figure, 1.25, eye=2 * e + normals(e)[0], zoom=2.1, visible=False)
    figure.update_scenes(domain={"x": [0, 0.55]})
