"""A round of the collapse game: the settings of a run, a guess at its codes, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from arcvq.explorers.figure_updates import Values, assign, finish_moving, points, words
from arcvq.figures.codebook import usage_bars
from arcvq.figures.parts import measured
from arcvq.figures.theme import DOTTED, GRAY, LOG, ORANGE, PAPER, colors, faint
from arcvq.runtime.wording import counted
from arcvq.training import Run

# Pixels: figure, plots, their margins (4 lines of caption)
WIDTH = 900
HEIGHT = 320
LEFT = 76
SIDE = 24
HEAD = 136
# The traces; a guess and the truth are a line in both plots.
CURVE = 0
BARS = 1
GUESS = (2, 3)
TRUTH = (4, 5)
HIDDEN = "hidden until you lock your guess"
METHODS = {
    "EuclideanQuantizer": "Plain VQ: the nearest code by distance",
    "EMAQuantizer": (
        "EMA: the nearest code by distance, and codes are moving averages of their latents"
    ),
    "CosineQuantizer": "Cosine VQ: the nearest code by angle",
    "OnlineClusteredQuantizer": (
        "CVQ: the nearest code by angle, and rarely chosen codes move to latents"
    ),
    "SphericalQuantizer": (
        "SAMP: the nearest code by angle, with the margin loss and the growing ball"
    ),
}
TOLD = {  # settings of a run, in words
    "steps": "{:,} steps",
    "batch_size": "batches of {:,} images",
    "lr": "learning rate {}",
    "data": "trained on {}",
}


@dataclass(frozen=True)
class Round:
    """One run of the game.

    Attributes:
        name: Of the run.
        title: The question.
        words: The settings, as the reader is told them.
        codes: K.
        curve: Steps and codes used.
        usage: A staircase of tokens over the codes, the most used first.
        used: How many codes the last `tokens` tokens of training chose.
        tokens: How many tokens the usage at the end was counted on.
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
    """Make the rounds, by name.

    Raises:
        ValueError: For no runs, and for a run without history, snapshots or tokens.
    """
    if not runs:
        raise ValueError("there is no run to guess at: the game needs at least one, by its name")
    made = {}
    for number, (name, run) in enumerate(runs.items(), start=1):
        title = f"Run {number} of {len(runs)}, {name}: how many codes does it use?"
        made[name] = _round(name, run, title)
    return made


def _round(name: str, run: Run, title: str) -> Round:
    curve = measured(run.history, "codes_used").T
    if not len(curve):
        raise ValueError(
            f"run {name!r} has no history of the codes used, so there is nothing to guess at"
        )
    if not run.snapshots:
        raise ValueError(
            f"run {name!r} has no snapshots, whose last one counts the usage at the end"
        )
    last = max(run.snapshots)
    counts = run.snapshots[last].counts
    staircase = usage_bars({name: counts}).data[0]
    usage = np.column_stack([staircase.x, staircase.y])
    codes = run.model.quantizer.num_codes
    used = int(counts.count_nonzero())
    tokens = int(counts.sum())
    return Round(name, title, _described(run), codes, curve, usage, used, tokens)


def _described(run: Run) -> str:
    """The method and the settings of a run in words."""
    quantizer = run.model.quantizer
    settings = run.settings
    told = [f"K = {quantizer.num_codes:,}", f"D = {quantizer.dim}"]
    for name, text in TOLD.items():
        if settings.get(name) is not None:
            told.append(text.format(settings[name]))
    name = type(quantizer).__name__
    return f"{METHODS.get(name, name)}. Settings: {', '.join(told)}."


def score(rounds: Mapping[str, Round], guesses: Mapping[str, int]) -> str:
    """Tell the score so far: 100 less the mean distance of the guesses from the truth in % of K."""
    if not guesses:
        return ""
    off = []
    for name, guess in guesses.items():
        played = rounds[name]
        off.append(abs(guess - played.used) / played.codes)
    points = 100 * (1 - np.mean(off))
    return f" Score so far: {points:.0f} of 100 ({len(off)} of {len(rounds)} runs)."


def game_picture(played: Round, guess: int, seen: bool, score: str) -> Figure:
    """Draw codes used over the steps, their usage at the end, and guess and truth as lines.

    As long as it is not `seen`, the figure holds the guess alone, and nothing that tells the truth.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    bare = {"mode": "lines", "showlegend": False}
    figure.add_scatter(row=1, col=1, **bare)
    figure.add_scatter(row=1, col=2, fill="tozeroy", line_shape="hv", **bare)
    guess_line = {"color": ORANGE, "dash": "dash", "width": 3}
    truth_line = DOTTED | {"width": 2.5}
    for line in (guess_line, truth_line):
        for column in (1, 2):
            figure.add_scatter(mode="lines", row=1, col=column, line=line, showlegend=column == 1)
    figure.update_xaxes(title_text="step", col=1)
    figure.update_yaxes(title_text="codes used", col=1)
    figure.update_xaxes(title_text="codes, the most used first", col=2)
    figure.update_yaxes(title_text="usage at the end (tokens)", **LOG | {"dtick": 1}, col=2)

    values = game_values(played, guess, seen, score)
    finish_moving(figure, values, HEAD, HEIGHT, left=LEFT, right=SIDE)
    for axis in ("", "2"):
        _add_note(figure, axis)
    return assign(figure, values)


def _add_note(figure: Figure, axis: str) -> None:
    """Add what covers a plot whose run is hidden, still empty."""
    figure.add_annotation(
        x=0.5,
        y=0.9,
        xref=f"x{axis} domain",
        yref=f"y{axis} domain",
        showarrow=False,
        font={"size": 14, "color": GRAY},
        bgcolor=PAPER,
    )


def game_values(played: Round, guess: int, seen: bool, score: str) -> Values:
    """Return what moves in `game_picture`, by path."""
    color = colors([played.name])[played.name]
    codes = [0, 1.04 * played.codes]
    hidden = "" if seen else HIDDEN
    values = {
        f"{CURVE}/line.color": color,
        f"{BARS}/line.color": color,
        f"{BARS}/fillcolor": faint(color),
        "layout/xaxis.range": [0, played.curve[-1, 0]],
        "layout/yaxis.range": codes,
        "layout/xaxis2.range": codes,
        "layout/yaxis2.range": np.log10([0.5, played.tokens]).tolist(),
        "layout/annotations[1].text": hidden,
        "layout/annotations[2].text": hidden,
    }
    values |= _shown(CURVE, played.curve, seen)
    values |= _shown(BARS, played.usage, seen)
    values |= _lines(GUESS, played, guess, "your guess", True)
    values |= _lines(TRUTH, played, played.used, "truth", seen)
    text = _verdict(played, guess) if seen else _question(played, guess)
    return values | words(played.title, f"{played.words} {text}{score}", WIDTH - LEFT - SIDE)


def _lines(traces: tuple[int, int], played: Round, codes: int, name: str, shown: bool) -> Values:
    """A number of codes as a line in both plots: across the steps, and upright among the codes."""
    across, upright = traces
    steps = played.curve[-1, 0]
    values = _shown(across, np.array([[0, codes], [steps, codes]]), shown)
    values |= _shown(upright, np.array([[codes, 0.5], [codes, played.tokens]]), shown)
    for trace in traces:
        values[f"{trace}/name"] = f"{name}: {counted(codes, 'code')}" if shown else name
    return values


def _shown(trace: int, rows: np.ndarray, shown: bool) -> Values:
    return points(trace, rows if shown else np.empty((0, 2)))


def _question(played: Round, guess: int) -> str:
    return (
        f"How many of its {played.codes:,} codes did the last {played.tokens:,} training tokens "
        f"choose? Your guess is {guess:,} ({guess / played.codes:.0%})."
    )


def _verdict(played: Round, guess: int) -> str:
    verdict = "exactly right"
    if guess > played.used:
        verdict = f"{counted(guess - played.used, 'code')} too many"
    elif guess < played.used:
        verdict = f"{counted(played.used - guess, 'code')} too few"
    return (
        f"{played.name} used {played.used:,} of {played.codes:,} codes "
        f"({played.used / played.codes:.0%}) for its last {played.tokens:,} training tokens; "
        f"your guess of {guess:,} is {verdict}."
    )
