"""A round of the collapse game: the settings of a run, a guess at how many codes it uses, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from arcvq.explorers.figure_updates import Values, assign, points, words
from arcvq.figures import theme
from arcvq.figures.codebook import usage_bars
from arcvq.figures.theme import colors, finish
from arcvq.training import Run

WIDTH, HEIGHT, LEFT, SIDE, HEAD = (
    900,
    320,
    76,
    24,
    136,
)  # pixels: figure, plots, their margins (4 lines of caption)
CURVE, BARS, GUESS, TRUTH = (
    0,
    1,
    (2, 3),
    (4, 5),
)  # the traces; a guess and the truth are a line in both plots
HIDDEN = "hidden until you lock your guess"
KINDS = {
    "EuclideanQuantizer": "Plain VQ: the nearest code by distance",
    "EMAQuantizer": "VQ with moving averages: the nearest code by distance, which follows its latents",
    "CosineQuantizer": "Cosine VQ: the nearest code by angle",
    "OnlineClusteredQuantizer": "CVQ: the nearest code by angle, and codes without use move to latents",
    "SphericalQuantizer": "SAMP: the nearest code by angle, with the margin loss and the growing ball",
}


@dataclass(frozen=True)
class Round:
    """One run of the game.

    title and words: what the reader is told. codes: K. curve: steps and codes used (n, 2). usage: a staircase of
    tokens over the codes, the most used first (m, 2). used: the codes that the last `tokens` tokens of training chose.
    """

    name: str
    title: str
    words: str
    codes: int
    curve: Float[np.ndarray, "n 2"]
    usage: Float[np.ndarray, "m 2"]
    used: int
    tokens: int


def rounds(runs: Mapping[str, Run]) -> dict[str, Round]:
    """The rounds by name. Raises ValueError for no runs, and for a run without history, snapshots or tokens."""
    if not runs:
        raise ValueError("there is no run to guess at: the game needs at least one, by its name")
    return {
        name: _round(name, run, f"Run {number} of {len(runs)}, {name}: how many codes does it use?")
        for number, (name, run) in enumerate(runs.items(), start=1)
    }


def _round(name: str, run: Run, title: str) -> Round:
    history = run.history.reindex(columns=["step", "codes_used"]).dropna().to_numpy(np.float64)
    if not len(history):
        raise ValueError(
            f"run {name!r} has no history of the codes used, so there is nothing to guess at"
        )
    if not run.snapshots:
        raise ValueError(
            f"run {name!r} has no snapshots, whose last one counts the usage at the end"
        )
    counts, quantizer, settings = (
        run.snapshots[max(run.snapshots)].counts,
        run.model.quantizer,
        run.settings,
    )
    told = {
        "K": quantizer.num_codes,
        "D": quantizer.dim,
        "steps": settings.get("steps"),
        "batch size": settings.get("batch_size"),
        "learning rate": settings.get("lr"),
        "data": settings.get("data"),
    }
    kind = KINDS.get(type(quantizer).__name__, type(quantizer).__name__)
    sentence = ", ".join(f"{label} {value}" for label, value in told.items() if value is not None)
    staircase = usage_bars({name: counts}).data[0]
    return Round(
        name,
        title,
        f"{kind}. Settings: {sentence}.",
        quantizer.num_codes,
        history,
        np.stack([staircase.x, staircase.y], axis=1),
        int((counts > 0).sum()),
        int(counts.sum()),
    )


def score(rounds: Mapping[str, Round], guesses: Mapping[str, int]) -> str:
    """The score of the guesses locked so far: 100 less their mean distance from the truth in percent of K."""
    if not guesses:
        return ""
    off = [abs(guess - rounds[name].used) / rounds[name].codes for name, guess in guesses.items()]
    return (
        f" Score so far: {100 * (1 - np.mean(off)):.0f} of 100 ({len(off)} of {len(rounds)} runs)."
    )


def game_picture(round: Round, guess: int, seen: bool, score: str = "", **look: Any) -> go.Figure:
    """Codes used over the steps and their usage at the end, with the guess and the truth as lines.

    As long as it is not `seen`, the figure holds the guess alone, and nothing that tells the truth.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    figure.add_scatter(mode="lines", row=1, col=1, showlegend=False)
    figure.add_scatter(
        mode="lines", row=1, col=2, showlegend=False, fill="tozeroy", line_shape="hv"
    )
    for line in (
        {"color": theme.ORANGE, "dash": "dash", "width": 3},
        theme.DOTTED | {"width": 2.5},
    ):
        for column in (1, 2):
            figure.add_scatter(mode="lines", row=1, col=column, line=line, showlegend=column == 1)
    figure.update_xaxes(title_text="step", col=1)
    figure.update_yaxes(title_text="codes used (codes)", col=1)
    figure.update_xaxes(title_text="codes, the most used first", col=2)
    figure.update_yaxes(title_text="usage at the end (tokens)", **theme.LOG | {"dtick": 1}, col=2)
    values = game_values(round, guess, seen, score)
    finish(
        figure,
        look,
        values["layout/title.text"],
        values["layout/meta"]["summary"],
        left=LEFT,
        right=SIDE,
    )
    figure.layout.annotations[0].update(
        yanchor="top", yshift=HEAD - 44
    )  # from below the title down
    figure.update_layout(margin_t=HEAD, height=HEAD + HEIGHT)
    for axis in ("", "2"):
        figure.add_annotation(
            x=0.5,
            y=0.9,
            xref=f"x{axis} domain",
            yref=f"y{axis} domain",
            showarrow=False,
            font={"size": 14, "color": theme.GRAY},
            bgcolor=theme.PAPER,
        )
    return assign(figure, values)


def game_values(round: Round, guess: int, seen: bool, score: str) -> Values:
    """What moves in `game_picture`, by path."""
    none, colour, end = np.empty((0, 2)), colors([round.name])[round.name], round.curve[-1, 0]
    values = points(CURVE, round.curve if seen else none) | points(
        BARS, round.usage if seen else none
    )
    values |= {
        f"{CURVE}/line.color": colour,
        f"{BARS}/line.color": colour,
        f"{BARS}/fillcolor": colour + "26",
    }
    for traces, codes, name, shown in (
        (GUESS, guess, "your guess", True),
        (TRUTH, round.used, "truth", seen),
    ):
        lines = np.array([[[0, codes], [end, codes]], [[codes, 0.5], [codes, round.tokens]]])
        for trace, line in zip(traces, lines, strict=True):
            values |= points(trace, line if shown else none)
            values |= {f"{trace}/name": f"{name}: {codes:,} codes" if shown else name}
    ranges = (
        ("xaxis", [0, end]),
        ("yaxis", [0, 1.04 * round.codes]),
        ("xaxis2", [0, 1.04 * round.codes]),
        ("yaxis2", np.log10([0.5, round.tokens]).tolist()),
    )
    values |= {f"layout/{axis}.range": limits for axis, limits in ranges}
    values |= {f"layout/annotations[{place}].text": "" if seen else HIDDEN for place in (1, 2)}
    off = guess - round.used
    verdict = f"{abs(off):,} codes too {'many' if off > 0 else 'few'}" if off else "exactly right"
    text = (
        f"{round.name} used {round.used:,} of {round.codes:,} codes ({round.used / round.codes:.0%}) in the last "
        f"{round.tokens:,} tokens of its training; your guess of {guess:,} is {verdict}."
        if seen
        else f"How many of the {round.codes:,} codes do the last {round.tokens:,} tokens of its training use? Your "
        f"guess is {guess:,} ({guess / round.codes:.0%})."
    )
    return values | words(round.title, f"{round.words} {text}{score}", WIDTH - LEFT - SIDE)
