"""Angles, norms and usage of codebooks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.linalg import norm
from plotly.graph_objects import Figure

from arcvq import geometry
from arcvq.figures.parts import add_points, thin
from arcvq.figures.theme import (
    BLUE,
    DOTTED,
    GRAY,
    LOG,
    Counts,
    Vectors,
    array,
    as_vectors,
    colored,
    faint,
    finish,
    named,
)
from arcvq.runtime.wording import span

Codebooks = Mapping[str, Vectors] | Vectors


def angle_histogram(codebooks: Codebooks, dim: int | None = None, **look: Any) -> Figure:
    """Draw the angles of all pairs of codes, beside those of random directions.

    A dashed line marks the smallest angle of each codebook, a dotted one the largest that is
    possible with as many codes in as many dimensions (`geometry.best_min_angle_bound`).

    Args:
        codebooks: Codes (K, D) by name, or a single codebook. Codes of norm zero have no direction
            and are left out; of more than 2,048 codes a sample is drawn.
        dim: Dimensions of the random directions, by default those of the codes.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure, with angles in degrees.

    Raises:
        ValueError: For no codebooks, codes that are not finite, and fewer than two with a norm.
    """
    figure = Figure()
    degrees = np.arange(181)
    bins = degrees[::2]
    # By K and D of a codebook; with the color of the first one of this size.
    bounds: dict[tuple[int, ...], tuple[float, str]] = {}
    sizes = []  # codebooks of one dimension share a curve of random directions
    text = []
    notes = ""
    for name, book, color in colored(codebooks):
        codes = torch.from_numpy(as_vectors(book, f"codebook {name!r}"))
        codes = codes[codes.any(dim=1)]  # a zero code has no direction
        if len(codes) < 2:
            found = f"{len(codes)} codes with a direction"
            raise ValueError(f"codebook {name!r} has {found}; an angle needs 2")
        # All pairs of 2,048 codes are two million angles; the smallest is over all codes.
        rows, note = thin(len(codes), "codes", limit=2048)
        angles = geometry.pairwise_angles(codes[rows]).rad2deg()
        share, _ = np.histogram(angles.numpy(), bins, density=True)
        _add_staircase(figure, bins, 100 * share, name, color)
        smallest = np.degrees(geometry.min_angle(codes))
        bound = np.degrees(geometry.best_min_angle_bound(*codes.shape))
        figure.add_vline(x=smallest, line={"color": color, "dash": "dash", "width": 1.5})
        bounds.setdefault(tuple(codes.shape), (bound, color))
        sizes.append(dim or codes.shape[1])
        text.append(f"{name} {smallest:.1f}° (bound {bound:.1f}°)")
        notes += note
    radians = torch.from_numpy(np.radians(degrees))
    for size in dict.fromkeys(sizes):
        density = geometry.random_angle_density(radians, size)
        percent = np.radians(100 * density.numpy())
        name = f"random, D = {size}"
        figure.add_scatter(x=degrees, y=percent, name=name, mode="lines", line_color=GRAY)
    for (count, size), (bound, color) in bounds.items():
        line = DOTTED | {"color": color} if len(bounds) > 1 else DOTTED
        name = f"bound, K = {count}, D = {size}"
        figure.add_vline(x=bound, line=line, name=name, showlegend=True)
    figure.update_xaxes(title_text="angle between two codes (degrees)", range=[0, 180], dtick=30)
    figure.update_yaxes(title_text="pairs of codes (% per degree)", rangemode="tozero")
    summary = f"Smallest angle: {'; '.join(text)}.{notes}"
    return finish(figure, look, "Angles between codes", summary)


def norm_histogram(codebooks: Codebooks, **look: Any) -> Figure:
    """Draw how many codes have which norm.

    Args:
        codebooks: Codes (K, D) by name, or a single codebook.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure.

    Raises:
        ValueError: For no codebooks, and codes that are not finite.
    """
    norms = {}
    text = []
    for name, book in named(codebooks).items():
        lengths = norm(as_vectors(book, f"codebook {name!r}"), axis=1)
        norms[name] = lengths
        text.append(f"{name} {span(lengths)}")
    longest = max(map(np.max, norms.values()))
    bins = np.linspace(0, 1.02 * max(1e-9, longest), 61)
    figure = Figure()
    for name, lengths, color in colored(norms):
        counts, _ = np.histogram(lengths, bins)
        _add_staircase(figure, bins, counts, name, color)
    figure.update_xaxes(title_text="norm of the code", rangemode="tozero")
    figure.update_yaxes(title_text="codes", rangemode="tozero")
    return finish(figure, look, "Norms of the codes", f"Norms: {'; '.join(text)}.")


def usage_bars(counts: Mapping[str, Counts] | Counts, **look: Any) -> Figure:
    """Draw the tokens of each code on a log scale, the most used code first.

    Args:
        counts: How many tokens chose each code (K,), by name, or those of a single codebook.
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure: a staircase that ends where the unused codes begin. Its caption tells the
        perplexity and its ceiling min(K, tokens).

    Raises:
        ValueError: For no codebooks, counts below 0, and counts without any token.
    """
    figure = Figure()
    text = []
    most = 1.0
    longest = 0
    for name, usage, color in colored(counts):
        usage = np.sort(array(usage))[::-1]
        tokens = int(usage.sum())
        if tokens <= 0 or usage[-1] < 0:
            found = f"usage of {name!r} sums to {tokens} tokens"
            raise ValueError(f"{found}; counts are from 0, the sum from 1")
        used = np.count_nonzero(usage)
        label = f"{name}: {used} of {len(usage)} used"
        _add_staircase(figure, np.arange(used + 1), usage[:used], label, color, floor=0.5)
        perplexity = geometry.perplexity(torch.tensor(usage.copy()))
        ceiling = geometry.perplexity_ceiling(len(usage), tokens)
        text.append(f"{name} {perplexity:.1f} (at most {ceiling:,})")
        most = max(most, usage[0])
        longest = max(longest, len(usage))
    figure.update_xaxes(title_text="codes, the most used first", range=[0, longest])
    figure.update_yaxes(LOG, title_text="usage (tokens)", range=np.log10([0.5, 2 * most]))
    summary = f"Perplexity: {'; '.join(text)}."
    return finish(figure, look, "Usage of the codes", summary)


def norm_against_usage(codebook: Vectors, counts: Counts, **look: Any) -> Figure:
    """Draw the norm of each code over its usage, on a log scale that begins with the unused codes.

    Args:
        codebook: Codes (K, D).
        counts: How many tokens chose each code (K,).
        **look: Title, summary, width, height, or properties of the layout.

    Returns:
        The figure. Its caption tells the rank correlations of norm and usage.

    Raises:
        ValueError: For codes that are not finite, and counts of another length.
    """
    codes = torch.from_numpy(as_vectors(codebook, "codebook"))
    usage = torch.from_numpy(array(counts))
    over_all = geometry.norm_usage_correlation(codes, usage)
    used = (usage > 0).numpy()
    over_used = 0.0
    if used.any():
        over_used = geometry.norm_usage_correlation(codes[used], usage[used])

    figure = Figure()
    # A log axis has no 0: unused codes stand at half a token.
    places = torch.stack([usage.clamp(min=0.5), codes.norm(dim=1)], dim=1).numpy()
    rows, note = thin(len(codes), "codes")
    for name, symbol, group in (("used", "circle", used), ("unused", "circle-open", ~used)):
        shown = rows[group[rows]]
        marker = {"size": 7, "color": BLUE, "opacity": 0.6, "symbol": symbol}
        add_points(figure, places[shown], f"{name} codes", text=shown, marker=marker)
    powers = [10**power for power in range(len(f"{usage.max():.0f}") + 1)]
    figure.update_xaxes(
        title_text="usage (tokens)",
        type="log",
        tickvals=[0.5, *powers],
        ticktext=["0", *(f"{power:,}" for power in powers)],
    )
    figure.update_yaxes(title_text="norm of the code", rangemode="tozero")
    text = (
        f"Rank correlation of norm and usage: {over_all:.2f} over all codes, {over_used:.2f} over "
        f"the {used.sum()} used; near 1, long codes win.{note}"
    )
    return finish(figure, look, "Norm against usage", text)


def _add_staircase(
    figure: Figure,
    edges: np.ndarray,
    heights: np.ndarray,
    name: str,
    color: str,
    floor: float = 0.0,
) -> None:
    """Draw a translucent histogram without its empty ends; bars would hide each other."""
    first, last = np.flatnonzero(heights)[[0, -1]]
    # From the floor up at the first bin, and down to it after the last.
    x = edges[[first, *range(first, last + 2)]]
    y = [floor, *heights[first : last + 1], floor]
    line = {"color": color, "shape": "hv", "width": 1.5}
    fill = {"fill": "tozeroy", "fillcolor": faint(color)}
    figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, showlegend=True, **fill)
