"""Codes in the ball, and latents around a code with the way the margin loss moves them."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.linalg import norm
from plotly.graph_objects import Figure

from arcvq.analysis.projections import Projection
from arcvq.figures.parts import (
    COMPONENTS,
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
    summary,
)
from arcvq.runtime.checks import check_whole

Code = Float[Array, " _D"]
SCENE = {"width": 640, "height": 580, "left": 24, "bottom": 8}  # pixels


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
        radius: The radius M(t) of the ball. A ball more than twice as large as what it holds is
            named in the caption and not drawn.
        usage: (K,), how many tokens chose each code. It colors the codes on a log scale; unused
            codes are hollow.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with the components on axes of one scale.

    Raises:
        ValueError: For codes or latents that are not rows of 3 finite numbers, and a usage of
            another length than the codes.
    """
    codes = check_vectors(codes, "codes", 3)
    counts = np.ones(len(codes))
    if usage is not None:
        counts = check_numbers(usage, len(codes), "usage")
    figure = Figure()
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

    # Unused codes have no place on a log scale.
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

    # A ball far outside would shrink the codes to a dot.
    if radius is not None:
        text += f"; the ball's radius is {radius:,.4g}"
        if radius <= 2 * extent:
            extent = max(extent, radius)
            add_ball(figure, radius, "ball of radius M(t)")
        else:
            text += ", beyond the picture"
    set_scene(figure, 1.02 * max(extent, 1e-9), visible=True)
    layout = {"legend_itemsizing": "constant", **SCENE}
    return finish(figure, look, "Codes in the ball", f"{text}.{note}", **layout)


def projected_sphere(
    projection: Projection,
    norms: Float[Array, " _K"] | None = None,
    usage: Counts | None = None,
    radius: Number | None = None,
    **look: Any,
) -> Figure:
    """Draw codes of many dimensions at their projected directions and at their true norms.

    Args:
        projection: Directions (K, 3), of `arcvq.analysis.projections` with sphere=True.
        norms: (K,), the distances from the center; by default the codes are on the unit sphere.
        usage: (K,), as in `sphere`.
        radius: The radius M(t) of the ball, as in `sphere`.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with the trust in the projection as caption.

    Raises:
        ValueError: For a projection onto a map, and norms of another length than the codes.
    """
    codes = projection.points
    if not projection.sphere:
        found = f"this projection ({projection.method}) is a map, not a sphere"
        raise ValueError(f"{found}; make one with sphere=True")
    if norms is not None:
        lengths = check_numbers(norms, len(codes), "norms")
        codes = codes * lengths[:, None]
    unit = norms is None and radius is None
    if unit:
        radius = 1.0
    # The caption is that of `sphere`, after the trust in the directions.
    text = summary(sphere(codes, radius=radius, usage=usage))
    title = f"Codes on the sphere: {projection.method}"
    words = {"title": title, "summary": f"{projection.trust} {text}"}
    figure = sphere(codes, radius=radius, usage=usage, **words | look)
    if unit:
        figure.update_traces(name="unit sphere", selector={"type": "surface"})
    if projection.method != "exact":
        figure.update_scenes(xaxis_title="axis 1", yaxis_title="axis 2", zaxis_title="axis 3")
    return figure


def margin_gradients(
    latents: Vectors,
    code: Code,
    gradients: Vectors,
    *,
    margin: Number = 0.1,
    top_k: int = 3,
    **look: Any,
) -> Figure:
    """Draw how the margin loss of one code moves latents on the unit circle or the unit sphere.

    Arrows follow the negative gradient; the longest is 0.3 long. θ is the angle of the latent that
    is the `top_k`-th nearest to the code. The loss counts the latents within θ as `margin` farther
    from the code, so that it pushes others beyond θ + margin; both angles are drawn.

    Args:
        latents: (N, D), with D 2 (circle) or 3 (sphere).
        code: (D,); drawn at norm 1.
        gradients: (N, D), of the loss at the latents.
        margin: Radians; drawn in degrees.
        top_k: How many latents the loss pulls to the code.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For another D, vectors that are not finite, gradients of another number than
            the latents, a code of norm zero, and top_k below 1.
    """
    unit = array(code)
    dim = 3 if len(unit) == 3 else 2
    unit = check_vectors(unit[None], "code", dim)[0]
    latents = check_vectors(latents, "latents", dim)
    gradients = check_vectors(gradients, "gradients", dim)
    check_whole(1, top_k=top_k)
    if len(latents) != len(gradients) or not unit.any():
        raise ValueError(
            f"{len(latents)} latents need as many gradients (not {len(gradients)}) and a code "
            f"that is not zero (not {unit})"
        )
    unit = unit / norm(unit)
    longest = norm(gradients, axis=1).max()
    rows, note = thin(len(latents), "latents")
    starts: np.ndarray = latents[rows]
    moves = -0.3 * gradients[rows] / max(longest, 1e-12)

    # The loss sees directions only, so the nearest latents are those by angle.
    lengths = np.maximum(norm(starts, axis=1), 1e-12)
    cosines = starts @ unit / lengths
    near, far = np.split(np.argsort(-cosines), [top_k])
    theta = np.arccos(np.clip(cosines[near[-1]], -1, 1))
    wider = theta + margin
    told = f"θ = {np.degrees(theta):.1f}°"

    figure = Figure()
    add_cap(figure, unit, theta, told, "solid")
    add_cap(figure, unit, wider, f"θ + margin = {np.degrees(wider):.1f}°", "dash")
    for group, name, color in ((near, "nearest", VERMILLION), (far, "other", BLUE)):
        add_arrows(figure, starts[group], moves[group], color)
        marker = {"color": color, "size": 10 - 2 * dim}
        add_points(figure, starts[group], f"{len(group)} {name} latents", marker=marker)
    marker = {"size": 18 - 4 * dim, "symbol": "diamond", "color": BLACK}
    add_points(figure, unit[None], "code", marker=marker)

    places = np.concatenate([starts, starts + moves])
    extent = max(1.0, np.abs(places).max())
    if dim == 2:
        layout = {"width": 640, "height": 690}
        _frame_circle(figure, 1.05 * extent)
    else:
        layout = SCENE
        add_ball(figure, 1, "")
        eye = 2 * unit + 0.6 * normals(unit)[0]  # the code faces the reader, a bit to the side
        set_scene(figure, 1.02 * extent, eye=eye, zoom=1.8, visible=False)
    text = (
        f"Arrows follow the negative gradient (longest {longest:.2g}); {len(near)} of "
        f"{len(starts)} latents lie within {told} of the code.{note}"
    )
    return finish(figure, look, "How the margin loss moves latents", text, **layout)


def _frame_circle(figure: Figure, extent: Number) -> None:
    """Draw the unit circle on axes of one scale."""
    add_circle(figure)
    axis = {"range": [-extent, extent], "constrain": "domain"}
    figure.update_xaxes(axis, title_text=COMPONENTS[0])
    figure.update_yaxes(axis, title_text=COMPONENTS[1], scaleanchor="x")
