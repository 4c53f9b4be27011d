"""Codes in the ball, and latents on the circle or sphere with the way the margin loss moves them."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from arcvq.figures import theme
from arcvq.figures.theme import Counts, Vectors, array, finish, thin, vectors

Direction = Float[Tensor, " _D"] | Float[np.ndarray, " _D"]
MOVES = "How the margin loss moves latents"


def sphere(codes: Vectors, latents: Vectors | None = None, radius: float | int | None = None,
           usage: Counts | None = None, **look: Any) -> go.Figure:
    """Codes (K, 3), their norm being the distance from the centre, in the ball of radius M(t).

    `usage` (K,) colors the codes on a log scale; unused ones are hollow. A ball more than twice as large as
    what it holds is named, not drawn. Raises ValueError for no codes, NaN, D other than 3, too few counts.
    """
    codes, figure = vectors(codes, "codes", 3), go.Figure()
    counts = np.ones(len(codes)) if usage is None else array(usage)
    if len(counts) != len(codes):
        raise ValueError(f"{len(codes)} codes need as many usage counts, not {len(counts)}")
    (rows, note), norms = thin(len(codes), "codes"), np.linalg.norm(codes, axis=1)
    used, unused, extent = rows[counts[rows] > 0], rows[counts[rows] == 0], float(norms.max())
    text = f"{len(codes)} codes, norms {norms.min():.3g} to {extent:.3g}"
    marker: dict[str, Any] = {"color": theme.BLUE, "size": 5}
    if latents is not None:
        latents = vectors(latents, "latents", 3)
        shown, more = thin(len(latents), "latents")
        extent, note = max(extent, np.linalg.norm(latents, axis=1).max()), note + more
        _draw(figure, latents[shown], "latents", marker={"size": 2, "color": theme.SKY})
    if usage is not None:
        ticks = np.arange(np.ceil(np.log10(max(10, counts.max()))) + 1)
        bar = {"title": {"text": "usage (tokens)", "side": "right"}, "thickness": 12, "len": 0.7,
               "tickvals": ticks, "ticktext": [f"{10**tick:,.0f}" for tick in ticks]}
        marker |= {"color": np.log10(counts[used]), "colorscale": "Viridis_r", "cmin": 0, "cmax": ticks[-1],
                   "colorbar": bar}
        hollow = {"size": 6, "color": theme.GRAY, "symbol": "circle-open"}
        _draw(figure, codes[unused], "unused codes", text=unused, marker=hollow)
        text += f", {np.count_nonzero(counts)} used, {np.count_nonzero(counts == 0)} unused (hollow)"
    _draw(figure, codes[used], "used codes", text=used, marker=marker)
    if radius is not None:
        text += f"; the ball's radius is {radius:,.4g}{', beyond the picture' if radius > 2 * extent else ''}"
        if radius <= 2 * extent:
            extent = max(extent, _shell(figure, radius, "ball of radius M(t)"))
    return _cube(figure, extent, [1.3, 1.3, 0.8], look, "Codes in the ball", f"{text}.{note}",
                 legend_itemsizing="constant")


def gradient_circle(latents: Vectors, code: Direction, gradients: Vectors, *, margin: float | int = 0.1,
                    top_k: int = 3, **look: Any) -> go.Figure:
    """Latents (N, 2) around one code (2,) on the unit circle, with arrows along the negative gradient.

    theta is the angle of the `top_k`-th nearest latent. The loss counts those latents as `margin` radians
    farther, so it pushes others beyond theta + margin; both are drawn, in degrees. The longest arrow is 0.3
    long. Raises ValueError for shapes that do not fit, NaN, and a code of norm zero.
    """
    figure, limit, _, text = _gradients(latents, code, gradients, margin, top_k, 2)
    figure.add_shape(type="circle", x0=-1, x1=1, y0=-1, y1=1, line_color=theme.GRAY, layer="between")
    axis = {"range": [-1.05 * limit, 1.05 * limit], "constrain": "domain"}
    figure.update_xaxes(title_text="component 1", **axis)
    figure.update_yaxes(title_text="component 2", scaleanchor="x", **axis)
    return finish(figure, look, MOVES, text, width=640, height=690)


def gradient_sphere(latents: Vectors, code: Direction, gradients: Vectors, *, margin: float | int = 0.1,
                    top_k: int = 3, **look: Any) -> go.Figure:
    """`gradient_circle` on the unit sphere, for latents (N, 3) around one code (3,)."""
    figure, limit, view, text = _gradients(latents, code, gradients, margin, top_k, 3)
    _shell(figure, 1.0, "")
    return _cube(figure, limit, 2 * view, look, MOVES, text, visible=False)


def _gradients(latents, code, gradients, margin: float, top_k: int, dim: int) -> tuple:
    """What circle and sphere share: the figure, its half width, where to look from, and the summary."""
    latents, gradients = vectors(latents, "latents", dim), vectors(gradients, "gradients", dim)
    code, figure = vectors(array(code)[None], "code", dim), go.Figure()
    if len(latents) != len(gradients) or not code.any() or top_k < 1:
        raise ValueError(f"{len(latents)} latents need as many gradients (not {len(gradients)}), a code that "
                         f"is not zero ({code[0]}) and top_k from 1 ({top_k})")
    longest, (rows, note) = np.linalg.norm(gradients, axis=1).max(), thin(len(latents), "latents")
    latents, moves = latents[rows], -0.3 * gradients[rows] / max(longest, 1e-12)
    code, across, up = code[0] / np.linalg.norm(code), *np.linalg.svd(code)[2][[1, -1]]
    cosines = latents @ code / np.maximum(np.linalg.norm(latents, axis=1), 1e-12)
    near, far = np.split(np.argsort(-cosines), [top_k])
    theta, turn = np.arccos(np.clip(cosines[near[-1]], -1, 1)), np.linspace(-1, 1, 91)[:, None]
    for angle, name, dash in ((theta, "θ", "solid"), (theta + margin, "θ + margin", "dash")):
        if dim == 2:
            cap = np.pad(np.cos(turn * angle) * code + np.sin(turn * angle) * across, ((1, 1), (0, 0)))
        else:
            ring = np.cos(turn * np.pi) * across + np.sin(turn * np.pi) * up
            cap = 1.004 * (np.cos(angle) * code + np.sin(angle) * ring)
        line = {"color": theme.ORANGE, "width": 2 * dim - 2, "dash": dash}
        _draw(figure, cap, f"{name} = {np.degrees(angle):.1f}°", mode="lines", line=line)
    head = {"symbol": "arrow", "angleref": "previous"} if dim == 2 else {"symbol": "diamond"}
    gap, tips = np.full_like(latents, np.nan), latents + moves
    for group, name, colour in ((near, "nearest", theme.VERMILLION), (far, "other", theme.BLUE)):
        ends = np.stack([latents, tips, gap], axis=1)[group]
        sizes = np.outer(np.linalg.norm(moves[group], axis=1) > 0.02, [0, 11 if dim == 2 else 3, 0]).ravel()
        _draw(figure, ends.reshape(-1, dim), "", mode="lines+markers", line={"color": colour, "width": dim},
              marker=head | {"color": colour, "size": sizes})
        dots = {"color": colour, "size": 10 - 2 * dim}
        _draw(figure, latents[group], f"{len(group)} {name} latents", marker=dots)
    diamond = {"size": 18 - 4 * dim, "symbol": "diamond", "color": theme.BLACK}
    _draw(figure, code[None], "code", marker=diamond)
    text = (f"Arrows follow the negative gradient (longest {longest:.2g}); {len(near)} of {len(latents)} "
            f"latents lie within θ = {np.degrees(theta):.1f}° of the code.{note}")
    limit = max(1.0, np.abs(latents).max(), np.abs(tips).max())
    return figure, limit, code + 0.3 * across, text


def _draw(figure: go.Figure, rows: np.ndarray, name: str, mode: str = "markers", **style: Any) -> None:
    """Rows (n, 2) or (n, 3) as points or as one line, in the legend if it has a name."""
    add = figure.add_scatter if rows.shape[1] == 2 else figure.add_scatter3d
    axes = dict(zip("xyz", rows.astype(np.float32).T, strict=False))
    add(**axes, name=name, mode=mode, showlegend=bool(name), **style)


def _shell(figure: go.Figure, radius: float | int, name: str) -> float | int:
    """A translucent sphere of 16 x 32 faces around the origin; returns its radius."""
    polar, around = np.linspace(0, np.pi, 17)[:, None], np.linspace(0, 2 * np.pi, 33)
    x, y, z = np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) + 0 * around
    x, y, z = radius * np.stack([x, y, z]).astype(np.float32)
    rings = {"show": True, "start": -radius, "end": radius, "size": radius / 3, "color": theme.GRAY}
    figure.add_surface(x=x, y=y, z=z, name=name, opacity=0.14, showscale=False, hoverinfo="skip",
                       showlegend=bool(name), colorscale=[theme.SKY, theme.SKY], contours_z=rings,
                       lighting={"ambient": 1, "diffuse": 0, "specular": 0})
    return radius


def _cube(figure: go.Figure, extent: float | int, view, look: dict, title: str, text: str,
          visible: bool = True, **layout: Any) -> go.Figure:
    """Equal ranges on three axes of equal length, without perspective, so that a sphere looks like one."""
    limit, zoom = 1.02 * max(float(extent), 1e-9), 1.15 if visible else 1.8
    axis = {"range": [-limit, limit], "showbackground": False, "nticks": 5, "visible": visible}
    axes = {f"{one}axis": axis | {"title": f"component {n}"} for n, one in enumerate("xyz", start=1)}
    camera = {"eye": dict(zip("xyz", view, strict=True)), "projection": {"type": "orthographic"}}
    figure.update_scenes(aspectmode="manual", aspectratio=dict.fromkeys("xyz", zoom), camera=camera, **axes)
    return finish(figure, look, title, text, width=640, height=580, left=24, bottom=8, **layout)
