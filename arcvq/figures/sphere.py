"""Codes in the ball, and latents around a code with the way the margin loss moves them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.linalg import norm
from plotly.graph_objects import Figure

from arcvq.analysis.projections import Projection
from arcvq.figures.parts import (
    COMPONENTS,
    Direction,
    add_arrows,
    add_ball,
    add_cap,
    add_circle,
    add_points,
    normals,
    set_scene,
    thin,
    usage_scale,
)
from arcvq.figures.theme import (
    BLACK,
    BLUE,
    GRAY,
    SKY,
    VERMILLION,
    Array,
    Counts,
    Number,
    Vectors,
    array,
    check_numbers,
    check_vectors,
    finish,
)

Code = Float[Array, " _D"]
SCENE = {"width": 640, "height": 580, "left": 24, "bottom": 8}  # pixels
BALL = "ball of radius M(t)"
GRADIENTS = "How the margin loss moves latents"


def sphere(
    codes: Vectors,
    latents: Vectors | None = None,
    radius: Number | None = None,
    usage: Counts | None = None,
    **look: Any,
) -> Figure:
    """Draw three-dimensional codes in the ball that bounds their norms.

    Args:
        codes: (K, 3).
        latents: (N, 3), drawn as small dots.
        radius: the radius M(t) of the ball. A ball more than twice as large as what it holds is
            named in the caption and not drawn.
        usage: (K,), how many tokens chose each code. It colors the codes on a log scale; unused
            codes are hollow.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with the components on axes of one scale.

    Raises:
        ValueError: for codes or latents that are not rows of 3 finite numbers, and a usage of
            another length than the codes.
    """
    figure = Figure()
    text = _draw_ball(figure, codes, latents, radius, usage)
    return finish(figure, look, "Codes in the ball", text, **SCENE)


def projected_sphere(
    projection: Projection,
    norms: Float[Array, " _K"] | None = None,
    usage: Counts | None = None,
    radius: Number | None = None,
    **look: Any,
) -> Figure:
    """Draw codes of many dimensions at their projected directions and at their true norms.

    Args:
        projection: directions (K, 3), of `arcvq.analysis.projections.on_sphere`.
        norms: (K,), the distances from the center; by default the codes are on the unit sphere.
        usage: (K,), as in `sphere`.
        radius: the radius M(t) of the ball, as in `sphere`.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with the trust in the projection as caption.

    Raises:
        ValueError: for a projection onto a map, and norms of another length than the codes.
    """
    directions = projection.points
    if not projection.sphere:
        raise ValueError(
            f"this projection ({projection.method}) is a map, not a sphere; make one with on_sphere"
        )
    codes = directions
    ball = BALL
    if norms is not None:
        codes = directions * check_numbers(norms, len(directions), "norms")[:, None]
    elif radius is None:
        radius = 1
        ball = "unit sphere"
    names = COMPONENTS if projection.method == "exact" else ("axis 1", "axis 2", "axis 3")
    figure = Figure()
    text = _draw_ball(figure, codes, None, radius, usage, ball, names)
    title = f"Codes on the sphere: {projection.method}"
    return finish(figure, look, title, f"{projection.trust} {text}", **SCENE)


def _draw_ball(
    figure: Figure,
    codes: Vectors,
    latents: Vectors | None,
    radius: Number | None,
    usage: Counts | None,
    ball: str = BALL,
    names: Sequence[str] = COMPONENTS,
) -> str:
    """Draw codes, latents and a ball on axes of these names; return the caption."""
    codes = check_vectors(codes, "codes", 3)
    counts = np.ones(len(codes))
    if usage is not None:
        counts = check_numbers(usage, len(codes), "usage counts")
    norms = norm(codes, axis=1)
    extent = norms.max()
    rows, note = thin(len(codes), "codes")
    text = f"{len(codes)} codes, norms {norms.min():.3g} to {extent:.3g}"

    if latents is not None:
        latents = check_vectors(latents, "latents", 3)
        extent = max(extent, norm(latents, axis=1).max())
        shown, thinned = thin(len(latents), "latents")
        note += thinned
        add_points(figure, latents[shown], "latents", marker={"size": 2, "color": SKY})

    used = rows[counts[rows] > 0]
    marker: dict[str, Any] = {"size": 5, "color": BLUE}
    if usage is not None:
        marker |= usage_scale(counts.max(), len=0.7)
        marker["color"] = np.log10(counts[used])
        unused = rows[counts[rows] == 0]
        hollow = {"size": 6, "color": GRAY, "symbol": "circle-open"}
        add_points(figure, codes[unused], "unused codes", text=unused, marker=hollow)
        total = np.count_nonzero(counts)
        text += f", {total} used, {len(codes) - total} unused (hollow)"
    add_points(figure, codes[used], "used codes", text=used, marker=marker)

    if radius is not None:
        text += f"; the ball's radius is {radius:,.4g}"
        if radius <= 2 * extent:
            extent = max(extent, radius)
            add_ball(figure, radius, ball)
        else:
            text += ", beyond the picture"
    set_scene(figure, 1.02 * max(extent, 1e-9), names=names, visible=True)
    figure.update_layout(legend_itemsizing="constant")
    return f"{text}.{note}"


def gradient_circle(
    latents: Vectors,
    code: Code,
    gradients: Vectors,
    *,
    margin: Number = 0.1,
    top_k: int = 3,
    **look: Any,
) -> Figure:
    """Draw how the margin loss of one code moves latents on the unit circle.

    Arrows follow the negative gradient; the longest is 0.3 long. θ is the angle of the latent that
    is the `top_k`-th nearest to the code. The loss counts the latents within θ as `margin` farther
    from the code, so that it pushes others beyond θ + margin; both angles are drawn.

    Args:
        latents: (N, 2).
        code: (2,); drawn at norm 1.
        gradients: (N, 2), of the loss at the latents.
        margin: radians; drawn in degrees.
        top_k: how many latents the loss pulls to the code.
        **look: title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: for vectors that are not rows of 2 finite numbers, gradients of another number
            than the latents, a code of norm zero, and top_k below 1.
    """
    figure = Figure()
    _, extent, text = _draw_gradients(figure, latents, code, gradients, margin, top_k, dim=2)
    add_circle(figure)
    axis = {"range": [-1.05 * extent, 1.05 * extent], "constrain": "domain"}
    figure.update_xaxes(axis, title_text=COMPONENTS[0])
    figure.update_yaxes(axis, title_text=COMPONENTS[1], scaleanchor="x")
    return finish(figure, look, GRADIENTS, text, width=640, height=690)


def gradient_sphere(
    latents: Vectors,
    code: Code,
    gradients: Vectors,
    *,
    margin: Number = 0.1,
    top_k: int = 3,
    **look: Any,
) -> Figure:
    """Draw `gradient_circle` on the unit sphere, for latents (N, 3) around one code (3,)."""
    figure = Figure()
    unit, extent, text = _draw_gradients(figure, latents, code, gradients, margin, top_k, dim=3)
    add_ball(figure, 1, "")
    eye = 2 * unit + 0.6 * normals(unit)[0]  # the code faces the reader, somewhat to the side
    set_scene(figure, 1.02 * extent, eye=eye, zoom=1.8, visible=False)
    return finish(figure, look, GRADIENTS, text, **SCENE)


def _draw_gradients(
    figure: Figure,
    latents: Vectors,
    code: Code,
    gradients: Vectors,
    margin: Number,
    top_k: int,
    dim: int,
) -> tuple[Direction, Number, str]:
    """Draw code, latents, arrows and angles; return the unit code, half the width, the caption."""
    latents = check_vectors(latents, "latents", dim)
    gradients = check_vectors(gradients, "gradients", dim)
    unit = check_vectors(array(code)[None], "code", dim)[0]
    if len(latents) != len(gradients) or not unit.any() or top_k < 1:
        raise ValueError(
            f"{len(latents)} latents need as many gradients (not {len(gradients)}), a code that "
            f"is not zero ({unit}) and top_k from 1 ({top_k})"
        )
    unit = unit / norm(unit)
    longest = norm(gradients, axis=1).max()
    rows, note = thin(len(latents), "latents")
    latents = latents[rows]
    moves = -0.3 * gradients[rows] / max(longest, 1e-12)

    cosines = latents @ unit / np.maximum(norm(latents, axis=1), 1e-12)
    near, far = np.split(np.argsort(-cosines), [top_k])
    theta = np.arccos(np.clip(cosines[near[-1]], -1, 1))
    wider = theta + margin
    told = f"θ = {np.degrees(theta):.1f}°"
    add_cap(figure, unit, theta, told, "solid")
    add_cap(figure, unit, wider, f"θ + margin = {np.degrees(wider):.1f}°", "dash")
    for group, name, color in ((near, "nearest", VERMILLION), (far, "other", BLUE)):
        add_arrows(figure, latents[group], moves[group], color)
        marker = {"color": color, "size": 10 - 2 * dim}
        add_points(figure, latents[group], f"{len(group)} {name} latents", marker=marker)
    diamond = {"size": 18 - 4 * dim, "symbol": "diamond", "color": BLACK}
    add_points(figure, unit[None], "code", marker=diamond)

    text = (
        f"Arrows follow the negative gradient (longest {longest:.2g}); {len(near)} of "
        f"{len(latents)} latents lie within {told} of the code.{note}"
    )
    return unit, max(1.0, np.abs(latents).max(), np.abs(latents + moves).max()), text
