"""A codebook's angles, norms and usage."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from arcvq import geometry
from arcvq.figures import theme
from arcvq.figures.theme import Counts, Vectors, array, colors, finish, named, thin, vectors

Codebooks = Mapping[str, Vectors] | Vectors


def angle_histogram(codebooks: Codebooks, dim: int | None = None, **look: Any) -> go.Figure:
    """Angles of all pairs of codes (degrees) against those of random directions in `dim` (the codes' D).

    Dashed: each codebook's smallest angle. Dotted: the bound for its K and D. Codes of norm zero have no
    direction and are left out. Raises ValueError for fewer than two others.
    """
    figure, books, x, text = go.Figure(), named(codebooks), np.arange(181), []
    bounds: dict[int, float] = {}
    for name, colour in colors(books).items():
        codes = torch.from_numpy(vectors(books[name], f"codebook {name!r}"))
        if len(codes := codes[codes.any(dim=1)]) < 2:
            raise ValueError(f"codebook {name!r} has {len(codes)} codes with a direction; an angle needs 2")
        rows, note = thin(len(codes), "codes", 2048)
        angles = np.degrees(array(geometry.pairwise_angles(codes[rows])))
        smallest, bound = np.degrees([geometry.min_angle(codes), geometry.best_min_angle_bound(*codes.shape)])
        _steps(figure, x[::2], np.histogram(angles, x[::2], density=True)[0] * 100, name, colour)
        figure.add_vline(x=smallest, line={"color": colour, "dash": "dash", "width": 1.5})
        bounds[dim or codes.shape[1]] = bound
        text.append(f"{name} {smallest:.1f}° of {bound:.1f}°.{note}")
    for size, bound in bounds.items():
        density = array(geometry.random_angle_density(torch.from_numpy(np.radians(x)), size))
        figure.add_scatter(x=x, y=density * 100 * np.pi / 180, name=f"random, D = {size}", mode="lines",
                           line_color=theme.GRAY)
        figure.add_vline(x=bound, line=theme.DOTTED, name=f"bound, D = {size}", showlegend=True)
    figure.update_xaxes(title_text="angle between two codes (degrees)", range=[0, 180], dtick=30)
    figure.update_yaxes(title_text="pairs of codes (% per degree)", rangemode="tozero")
    return finish(figure, look, "Angles between codes", f"Smallest angle and its bound: {' '.join(text)}")


def norm_histogram(codebooks: Codebooks, radius: float | int | None = None, **look: Any) -> go.Figure:
    """How many codes have which norm; the radius M(t) of the ball is a dotted line, unless far outside."""
    figure, books = go.Figure(), named(codebooks)
    norms = {name: np.linalg.norm(vectors(books[name], f"codebook {name!r}"), axis=1) for name in books}
    edges = np.linspace(0, 1.02 * max(1e-9, *map(np.max, norms.values())), 61)
    text = [f"{name} {values.min():.3g} to {values.max():.3g}" for name, values in norms.items()]
    for name, colour in colors(norms).items():
        _steps(figure, edges, np.histogram(norms[name], edges)[0], name, colour)
    if radius is not None:
        text.append(f"radius of the ball {radius:,.4g}")
        if radius <= 2 * edges[-1]:
            figure.add_vline(x=radius, line=theme.DOTTED, name="radius M(t) of the ball", showlegend=True)
    figure.update_xaxes(title_text="norm of the code", rangemode="tozero")
    figure.update_yaxes(title_text="codes", rangemode="tozero")
    return finish(figure, look, "Norms of the codes", f"Norms: {'; '.join(text)}.")


def usage_bars(counts: Mapping[str, Counts] | Counts, **look: Any) -> go.Figure:
    """Tokens for each code (log), the most used first; a staircase ends where the unused codes begin.

    The summary names perplexity and its ceiling min(K, tokens). Raises ValueError for counts without tokens.
    """
    figure, text, most, longest = go.Figure(), [], 1.0, 0
    for name, colour in colors(named(counts)).items():
        usage = np.sort(array(named(counts)[name]))[::-1]
        used, tokens = np.count_nonzero(usage), int(usage.sum())
        if tokens <= 0 or usage[-1] < 0:
            raise ValueError(f"usage of {name!r} sums to {tokens} tokens; counts are from 0, the sum from 1")
        _steps(figure, np.arange(used + 1), usage[:used], f"{name}: {used} of {len(usage)} used", colour, 0.5)
        perplexity = geometry.perplexity(torch.tensor(usage.copy()))
        text.append(f"{name} {perplexity:.1f} of {geometry.perplexity_ceiling(len(usage), tokens):,}")
        most, longest = max(most, usage[0]), max(longest, len(usage))
    figure.update_xaxes(title_text="codes, the most used first", range=[0, longest])
    figure.update_yaxes(title_text="usage (tokens)", **theme.LOG, range=np.log10([0.5, 2 * most]))
    return finish(figure, look, "Usage of the codes", f"Perplexity and its ceiling: {'; '.join(text)}.")


def norm_against_usage(codebook: Vectors, counts: Counts, **look: Any) -> go.Figure:
    """Each code's norm over its usage (log; unused codes stand at 0 on the left), with rank correlations."""
    codes, usage, figure = vectors(codebook, "codebook"), array(counts), go.Figure()
    both = torch.from_numpy(codes), torch.from_numpy(usage)
    over_all, used = geometry.norm_usage_correlation(*both), both[1] > 0
    over_used = geometry.norm_usage_correlation(*(rows[used] for rows in both)) if used.any() else 0.0
    (rows, note), norms = thin(len(codes), "codes"), np.linalg.norm(codes, axis=1)
    for name, symbol in (("used", "circle"), ("unused", "circle-open")):
        shown = rows[(usage[rows] > 0) == (name == "used")]
        marker = {"size": 7, "symbol": symbol, "color": theme.BLUE, "opacity": 0.6}
        # A log axis has no 0: unused codes stand at half a token.
        figure.add_scatter(x=np.maximum(usage[shown], 0.5), y=norms[shown], text=shown, name=f"{name} codes",
                           mode="markers", marker=marker)
    ticks = [10**power for power in range(len(str(int(usage.max()))) + 1)]
    figure.update_xaxes(title_text="usage (tokens)", type="log", tickvals=[0.5, *ticks],
                        ticktext=["0", *(f"{tick:,}" for tick in ticks)])
    figure.update_yaxes(title_text="norm of the code", rangemode="tozero")
    text = (f"Rank correlation of norm and usage: {over_all:.2f} over all codes, {over_used:.2f} over the "
            f"{int(used.sum())} used; near 1, long codes win.{note}")
    return finish(figure, look, "Norm against usage", text)


def _steps(figure: go.Figure, edges, heights, name: str, colour: str, floor: float = 0.0) -> None:
    """A translucent staircase without its empty ends, since bars would hide each other."""
    first, last = np.flatnonzero(heights)[[0, -1]]
    x, y = edges[[first, *range(first, last + 2)]], [floor, *heights[first:last + 1], floor]
    figure.add_scatter(x=x, y=y, name=name, mode="lines", showlegend=True, fill="tozeroy",
                       fillcolor=colour + "26", line={"color": colour, "shape": "hv", "width": 1.5})
