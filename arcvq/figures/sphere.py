"""Codes in the ball, and latents around a code with the way the margin loss moves them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.linalg import norm
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.analysis.projections import Projection
from arcvq.figures.parts import (
    COMPONENTS,
    add_arrows,
    add_ball,
    add_cap,
    add_circle,
    add_points,
    name_once,
    normals,
    set_scene,
    square_panels,
    thin,
    usage_scale,
)
from arcvq.figures.theme import (
    BLACK,
    BLUE,
    GRAY,
    PAPER,
    SKY,
    VERMILLION,
    Array,
    Counts,
    Number,
    Vectors,
    array,
    as_numbers,
    as_vectors,
    finish,
)
from arcvq.runtime.checks import check_positive, check_whole
from arcvq.runtime.wording import counted, short, span

Code = Float[Array, " _D"]
SCENE = {"width": 640, "height": 580, "left": 24, "bottom": 8}  # pixels
LONGEST_ARROW = 0.3  # on a sphere of radius 1


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
    figure, text = _ball_with_codes(codes, latents, radius, usage)
    return finish(figure, look, "Codes in the ball", text, **SCENE)


def _ball_with_codes(
    codes: Vectors,
    latents: Vectors | None,
    radius: Number | None,
    usage: Counts | None,
) -> tuple[Figure, str]:
    """The figure of `sphere` before it is finished, and what its caption says."""
    codes = as_vectors(codes, "codes", 3)
    counts = np.ones(len(codes))
    if usage is not None:
        counts = as_numbers(usage, len(codes), "usage")
    figure = Figure()
    norms = norm(codes, axis=1)
    extent = norms.max()
    rows, note = thin(len(codes), "codes")
    text = f"{counted(len(codes), 'code')} of norm {span(norms)}"

    if latents is not None:
        latents = as_vectors(latents, "latents", 3)
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
        hidden = len(codes) - total
        text += f"; {total} used, {hidden} unused (hollow)" if hidden else "; all used"
    add_points(figure, codes[used], "used codes", text=used, marker=marker)

    # A ball far outside would shrink the codes to a dot.
    if radius is not None:
        text += f"; the radius of the ball is {short(radius)}"
        if radius <= 2 * extent:
            extent = max(extent, radius)
            add_ball(figure, radius, "ball of radius M(t)")
        else:
            text += ", beyond the picture"
    set_scene(figure, max(extent, 1e-9), visible=True)
    figure.update_layout(legend_itemsizing="constant")
    return figure, f"{text}.{note}"


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
        lengths = as_numbers(norms, len(codes), "norms")
        codes = codes * lengths[:, None]
    figure, text = _ball_with_codes(codes, None, radius, usage)
    if norms is None and radius is None:
        add_ball(figure, 1.0, "unit sphere")
    if projection.method != "exact":
        figure.update_scenes(xaxis_title="axis 1", yaxis_title="axis 2", zaxis_title="axis 3")
    title = f"Codes on the sphere: {projection.method}"
    return finish(figure, look, title, f"{projection.trust} {text}", **SCENE)


def margin_gradients(
    latents: Vectors,
    code: Code,
    gradients: Vectors,
    *,
    margin: Number = 0.1,
    top_k: int = 3,
    arrow_scale: Number | None = None,
    **look: Any,
) -> Figure:
    """Draw how the margin loss of one code moves latents on the unit circle or the unit sphere.

    Arrows follow the negative gradient. θ is the angle of the latent that is the `top_k`-th nearest
    to the code. The loss counts the latents within θ as `margin` farther from the code, so that it
    pushes others beyond θ + margin; both angles are drawn.

    Args:
        latents: (N, D), with D 2 (circle) or 3 (sphere).
        code: (D,); drawn at norm 1.
        gradients: (N, D), of the loss at the latents.
        margin: Radians; drawn in degrees.
        top_k: How many latents the loss pulls to the code.
        arrow_scale: How long the arrow of a gradient of norm 1 is drawn, above 0, the same for all
            pictures that are to be compared. None: the longest arrow is 0.3 long.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For another D, vectors that are not finite, gradients of another number than
            the latents, a code of norm zero, top_k below 1, and an arrow_scale that is not above 0.
    """
    scene = _margin_scene(latents, code, top_k)
    slopes = scene.check_gradients(gradients)
    longest = norm(slopes, axis=1).max()
    length, told_length = _arrow_length(arrow_scale, longest)
    moves = -length * slopes
    theta = scene.theta
    told = f"θ = {np.degrees(theta):.1f}°"
    told_wider = f"θ + margin = {np.degrees(theta + margin):.1f}°"

    figure = Figure()
    add_cap(figure, scene.unit, theta, told, "solid")
    add_cap(figure, scene.unit, min(theta + margin, math.pi), told_wider, "dash")
    note = scene.draw(figure, moves)

    extent = scene.extent(moves)
    if len(scene.unit) == 2:
        layout = {"width": 640, "height": 690}
        add_circle(figure)
        _frame_circle(figure, extent)
        figure.update_yaxes(title_text=COMPONENTS[1])
    else:
        layout = SCENE
        add_ball(figure, 1, "")
        # The code faces the reader, a bit to the side.
        eye = 2 * scene.unit + 0.6 * normals(scene.unit)[0]
        set_scene(figure, extent, eye=eye, zoom=1.8, visible=False)
    count = len(scene.latents)
    text = (
        f"Arrows point along the negative gradient. The largest norm is {longest:.2g}"
        f"{told_length}. The pulled latents, {min(top_k, count):,} of {count:,}, lie within "
        f"{told} of the code.{note}"
    )
    return finish(figure, look, "How the margin loss moves latents", text, **layout)


def margin_panels(
    latents: Vectors,
    code: Code,
    gradients: Mapping[Number, Vectors],
    *,
    top_k: int = 3,
    arrow_scale: Number | None = None,
    **look: Any,
) -> Figure:
    """Draw the latents of one code on the unit circle for several margins, side by side.

    Each panel is a picture of `margin_gradients`, with one scale of the arrows for all.

    Args:
        latents: (N, 2).
        code: (2,); drawn at norm 1.
        gradients: (N, 2), of the loss at the latents, by the margin in radians.
        top_k: How many latents the loss pulls to the code.
        arrow_scale: How long the arrow of a gradient of norm 1 is drawn, above 0. None: the longest
            arrow of all panels is 0.3 long.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure; its caption tells the longest gradient of each panel.

    Raises:
        ValueError: As `margin_gradients`, and for no margins.
    """
    scene = _margin_scene(latents, code, top_k)
    if len(scene.unit) != 2:
        raise ValueError(f"the panels are circles, for D = 2; the code has D = {len(scene.unit)}")
    if not gradients:
        raise ValueError("there is nothing to draw: the dictionary of gradients is empty")
    slopes = {}
    longest = {}
    for margin, found in gradients.items():
        slopes[margin] = scene.check_gradients(found)
        longest[margin] = norm(slopes[margin], axis=1).max()
    length, told_length = _arrow_length(arrow_scale, max(longest.values()))

    figure = make_subplots(1, len(slopes), horizontal_spacing=0.03)
    extent = 1.0
    for column, margin in enumerate(slopes, start=1):
        moves = -length * slopes[margin]
        extent = max(extent, scene.extent(moves))
        note = _add_panel(figure, scene, margin, moves, column)
    name_once(figure)
    _frame_circle(figure, extent)
    square_panels(figure)
    figure.update_yaxes(title_text=COMPONENTS[1], col=1)

    sizes = [f"{size:.2g} with margin {margin:g} rad" for margin, size in longest.items()]
    listed = ", ".join(sizes)
    angle = np.degrees(scene.theta)
    text = (
        f"Arrows point along the negative gradient{told_length}. Largest norm: {listed}. "
        f"The farthest latent that is pulled lies at θ = {angle:.1f}°.{note}"
    )
    width = max(480, 300 * len(slopes) + 60)
    return finish(figure, look, "What the margin changes", text, width=width, height=470)


@dataclasses.dataclass(frozen=True)
class _MarginScene:
    """A code and latents around it.

    Attributes:
        latents: (N, D).
        unit: (D,), the direction of the code.
        top_k: How many latents the loss pulls to the code.
    """

    latents: np.ndarray
    unit: np.ndarray
    top_k: int

    @property
    def cosines(self) -> np.ndarray:
        """Of the angles to the code: the loss sees directions only."""
        lengths = np.maximum(norm(self.latents, axis=1), 1e-12)
        return self.latents @ self.unit / lengths

    @property
    def theta(self) -> Number:
        """The angle of the farthest of the latents that are pulled."""
        pulled = np.sort(self.cosines)[-self.top_k :]
        return np.arccos(np.clip(pulled[0], -1, 1))

    def check_gradients(self, gradients: Vectors) -> np.ndarray:
        """Gradients of the latents as an array; ValueError if they do not fit."""
        dim = len(self.unit)
        found = as_vectors(gradients, "gradients", dim)
        count = len(self.latents)
        if len(found) != count:
            raise ValueError(f"{count} latents need as many gradients, not {len(found)}")
        return found

    def extent(self, moves: np.ndarray) -> Number:
        """The largest component of a latent, of the tip of an arrow, or of the unit sphere."""
        places = np.concatenate([self.latents, self.latents + moves])
        return max(1.0, np.abs(places).max())

    def draw(self, figure: Figure, moves: np.ndarray, **place: Any) -> str:
        """Add the code, the latents that it pulls and the others, with their arrows.

        Returns:
            A sentence for the caption if there are too many others to draw.
        """
        dim = len(self.unit)
        order = np.argsort(-self.cosines)
        near, far = np.split(order, [self.top_k])
        drawn, note = thin(len(far), "other latents")
        groups = ((near, "nearest", VERMILLION), (far[drawn], "other", BLUE))
        for group, name, color in groups:
            points = self.latents[group]
            add_arrows(figure, points, moves[group], color, **place)
            marker = {"color": color, "size": 10 - 2 * dim}
            label = counted(len(group), f"{name} latent")
            add_points(figure, points, label, marker=marker, **place)
        marker = {"size": 18 - 4 * dim, "symbol": "diamond", "color": BLACK}
        add_points(figure, self.unit[None], "code", marker=marker, **place)
        return note


def _margin_scene(latents: Vectors, code: Code, top_k: int) -> _MarginScene:
    """The scene, checked: see `margin_gradients`."""
    given = array(code)
    dim = 3 if len(given) == 3 else 2
    (direction,) = as_vectors(given[None], "code", dim)
    rows = as_vectors(latents, "latents", dim)
    check_whole(1, top_k=top_k)
    if not direction.any():
        raise ValueError(f"code is {direction}; it needs a direction, so it must not be zero")
    return _MarginScene(rows, direction / norm(direction), top_k)


def _arrow_length(asked: Number | None, longest: Number) -> tuple[Number, str]:
    """How long the arrow of a gradient of norm 1 is, and words for it if it was asked for."""
    if asked is None:
        return LONGEST_ARROW / max(longest, 1e-12), ""
    check_positive(arrow_scale=asked)
    return asked, f"; a norm of 1 is drawn {asked:g} long"


def _add_panel(
    figure: Figure, scene: _MarginScene, margin: Number, moves: np.ndarray, column: int
) -> str:
    """Draw the circle of one margin; return what the caption says of latents left out."""
    place = {"row": 1, "col": column}
    add_circle(figure, **place)
    add_cap(figure, scene.unit, scene.theta, "θ", "solid", **place)
    add_cap(figure, scene.unit, min(scene.theta + margin, math.pi), "θ + margin", "dash", **place)
    note = scene.draw(figure, moves, **place)
    x, y = -0.45 * scene.unit  # opposite to the code, where there is room for the title
    label = {"text": f"margin {margin:g} rad", "showarrow": False, "bgcolor": PAPER}
    figure.add_annotation(x=x, y=y, **label, **place)
    return note


def _frame_circle(figure: Figure, extent: Number) -> None:
    """Give circles axes of one scale."""
    axis = {"range": [-1.05 * extent, 1.05 * extent], "constrain": "domain"}
    figure.update_xaxes(axis, title_text=COMPONENTS[0])
    figure.update_yaxes(axis, scaleanchor="x")
