"""A game: predict how many codes a run uses, lock the guess, and see."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

from arcvq.explorers.base import Explorer
from arcvq.explorers.collapse_game_figure import Round, game_picture, game_values, rounds, score
from arcvq.explorers.figure_updates import Values
from arcvq.training import Run


class CollapseGame(Explorer):
    """The settings of a run in words; guess how many codes it uses in the end, lock the guess, and see what it did.

    runs: trained runs by name. unlocked: show everything from the start, as a still needs it. From Python: set `guess`,
    `lock()`, `next()`; `guesses` holds those locked so far. `reset()` forgets them. Raises ValueError for no runs, and
    for a run without history or snapshots.
    """

    run = traitlets.Unicode().tag(label="run")
    guess = traitlets.Int(0, min=0, max=2**20).tag(label="my guess (codes)")

    def __init__(self, runs: Mapping[str, Run], unlocked: bool = False, **settings: Any):
        self.rounds, self.unlocked, self.guesses = rounds(runs), unlocked, dict[str, int]()
        super().__init__(**settings)
        self.lock_button, self.next_button = (
            self.button("lock", self.lock),
            self.button("next", self.next),
        )
        self.lock_button.description, self.next_button.description = "lock my guess", "next run"
        self.buttons.children = (self.lock_button, self.next_button, *self.buttons.children)
        self._prepare()

    @traitlets.default("run")
    def _first(self) -> str:
        return next(iter(self.rounds))

    @traitlets.default("guess")
    def _half(self) -> int:
        return self.rounds[self.run].codes // 2

    @traitlets.validate("run")
    def _known(self, proposal: Any) -> str:
        if proposal.value not in self.rounds:
            raise ValueError(
                f"run {proposal.value!r} is unknown; known are {', '.join(self.rounds)}"
            )
        return proposal.value

    @traitlets.validate("guess")
    def _within_the_codes(self, proposal: Any) -> int:
        codes, locked = self.rounds[self.run].codes, self.guesses.get(self.run, proposal.value)
        if proposal.value != locked:
            raise ValueError(
                f"the guess for run {self.run!r} is locked at {locked}; reset() forgets all guesses"
            )
        if not 0 <= proposal.value <= codes:
            raise ValueError(
                f"guess is {proposal.value}; it must be from 0 to {codes}, the codes of run {self.run!r}"
            )
        return proposal.value

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
        names = [*self.rounds]
        self.run = names[(names.index(self.run) + 1) % len(names)]

    def reset(self) -> None:
        self.guesses.clear()
        super().reset()
        self._prepare()
        self.redraw()

    def picture(self) -> go.Figure:
        return game_picture(*self._state())

    def values(self) -> Values:
        return game_values(*self._state())

    def code(self) -> str:
        return super().code().replace("(", f"(runs, {'unlocked=True, ' * self.unlocked}", 1)

    def _state(self) -> tuple[Round, int, bool, str]:
        return self.rounds[self.run], self.guess, self.seen, score(self.rounds, self.guesses)

    @traitlets.observe("run")
    def _prepare(self, _: Any = None) -> None:
        """Set the slider and the buttons for the present run."""
        if hasattr(self, "lock_button"):
            codes, slider = self.rounds[self.run].codes, self.controls["guess"]
            slider.max = max(slider.max, codes)
            self.guess = self.guesses.get(self.run, min(self.guess, codes))
            slider.max = codes
            slider.disabled = self.lock_button.disabled = self.run in self.guesses

    def _control(self, name: str, trait: Any) -> widgets.Widget:
        if name != "run":
            return super()._control(name, trait)
        control = widgets.Dropdown(options=[*self.rounds], value=self.run, description="run")
        control.add_class("arcvq-run")
        traitlets.link((self, name), (control, "value"))
        return control
