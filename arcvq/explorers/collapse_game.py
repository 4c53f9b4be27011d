"""A game: predict how many codes a run uses, lock the guess, and see."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import traitlets
from plotly.graph_objects import Figure

from arcvq.explorers.base import Explorer
from arcvq.explorers.collapse_game_figure import Round, game_picture, game_values, rounds, score
from arcvq.explorers.figure_updates import Values
from arcvq.training import Run


class CollapseGame(Explorer):
    """Read the settings of a run, guess how many codes it uses in the end, and see what it did.

    `guesses` holds the guesses locked so far; `reset()` forgets them.

    Args:
        runs: Trained runs by name.
        unlocked: Show everything from the start, as a still needs it.
        **settings: Values at the start.

    Raises:
        ValueError: For no runs, and for a run without history or snapshots.
    """

    run = traitlets.Unicode().tag(label="run")
    guess = traitlets.Int(0, min=0, max=2**20).tag(label="my guess (codes)")

    def __init__(self, runs: Mapping[str, Run], unlocked: bool = False, **settings: Any):
        self.rounds = rounds(runs)
        self.unlocked = unlocked
        self.guesses: dict[str, int] = {}
        self.given = ("runs", "unlocked=True") if unlocked else ("runs",)
        self.lock_button = self.button("lock", self.lock)
        self.lock_button.description = "lock my guess"
        super().__init__(**settings)
        self.next_button = self.button("next", self.next)
        self.next_button.description = "next run"
        self.buttons.children = (self.lock_button, self.next_button, *self.buttons.children)
        self._prepare()

    @traitlets.default("run")
    def _first(self) -> str:
        return next(iter(self.rounds))

    @traitlets.default("guess")
    def _half(self) -> int:
        return self.rounds[self.run].codes // 2

    @traitlets.validate("run")
    def _known(self, proposal) -> str:
        if proposal.value not in self.rounds:
            known = ", ".join(self.rounds)
            raise ValueError(f"run {proposal.value!r} is unknown; known are {known}")
        return proposal.value

    @traitlets.validate("guess")
    def _within_the_codes(self, proposal) -> int:
        guess = proposal.value
        locked = self.guesses.get(self.run, guess)
        if guess != locked:
            raise ValueError(
                f"the guess for run {self.run!r} is locked at {locked}; reset() forgets all guesses"
            )
        codes = self.rounds[self.run].codes
        if not 0 <= guess <= codes:
            raise ValueError(
                f"guess is {guess}; it must be from 0 to {codes}, the codes of run {self.run!r}"
            )
        return guess

    @property
    def seen(self) -> bool:
        """Whether this run shows what it did."""
        return self.unlocked or self.run in self.guesses

    def lock(self) -> None:
        """Lock the guess for this run, for good, and show what the run did."""
        self.guesses.setdefault(self.run, self.guess)
        self._prepare()
        self.redraw()

    def next(self) -> None:
        """Go on to the next run, and after the last to the first."""
        names = list(self.rounds)
        following = names.index(self.run) + 1
        self.run = names[following % len(names)]

    def reset(self) -> None:
        self.guesses.clear()
        super().reset()
        self._prepare()
        self.redraw()

    def picture(self) -> Figure:
        return game_picture(*self._state())

    def values(self) -> Values:
        return game_values(*self._state())

    def _state(self) -> tuple[Round, int, bool, str]:
        total = score(self.rounds, self.guesses)
        return self.rounds[self.run], self.guess, self.seen, total

    @traitlets.observe("run")
    def _prepare(self, _=None) -> None:
        """Set the slider and the buttons for the present run."""
        codes = self.rounds[self.run].codes
        slider = self.controls["guess"]
        slider.max = max(slider.max, codes)
        self.guess = self.guesses.get(self.run, min(self.guess, codes))
        self.end_slider("guess", codes)
        locked = self.run in self.guesses
        slider.disabled = locked
        self.lock_button.disabled = locked

    def _widget(self, name: str, trait: Any) -> widgets.Widget:
        if name == "run":
            return widgets.Dropdown(options=[*self.rounds], value=self.run, description="run")
        return super()._widget(name, trait)
