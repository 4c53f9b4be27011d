"""Stills: the picture that a notebook keeps of an explorer for when no kernel is behind it."""

import html
import uuid
from typing import Any

from IPython.display import HTML, display

NOTE = "A still picture of the explorer. Run the cell again to use it."
# JupyterLab would tell of a missing model in the place of the explorer.
HIDE_ERROR = """
.jp-OutputArea-child:has(+ .jp-OutputArea-child [data-arcvq-still="{name}"]):not(
:has(.arcvq-explorer)) {{ display: none; }}
"""


class Still:
    """A picture below an explorer.

    The explorer hides it as long as it lives, by a style for all of `[data-arcvq-still="NAME"]`.

    Attributes:
        name: Of the still; empty as long as it is not in the notebook.
    """

    def __init__(self) -> None:
        self.name = ""

    def show(self) -> str:
        """Put a place for the picture into the notebook, and return the name of the still."""
        self.name = self.name or uuid.uuid4().hex[:12]
        self._display("")
        return self.name

    def update(self, url: str, words: str, width: float) -> None:
        """Keep another picture.

        Args:
            url: The picture as a data URL.
            words: What it shows.
            width: Of the picture on the page, in pixels.
        """
        style = HIDE_ERROR.format(name=self.name)
        size = f'width="{width:.0f}" style="max-width: 100%"'
        self._display(
            f"<style>{style}</style><figcaption>{NOTE}</figcaption>"
            f'<img src="{html.escape(url)}" alt="{html.escape(words)}" {size}>',
            update=True,
        )

    def clear(self) -> None:
        """Leave nothing in the notebook."""
        if self.name:
            self._display("", update=True)

    def _display(self, content: str, **how: Any) -> None:
        figure = f'<figure data-arcvq-still="{self.name}" style="margin: 0">{content}</figure>'
        display(HTML(figure), display_id=self.name, **how)
