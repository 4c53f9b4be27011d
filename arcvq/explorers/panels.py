"""Panels of an explorer's figure: rectangles, given in pixels, with axes of their own."""

from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure

from arcvq.figures.theme import Number

Properties = dict[str, Any]

BARE = {
    "showgrid": False,
    "showline": False,
    "ticks": "",
    "constrain": "domain",
}
SLIM = {  # a color bar
    "lenmode": "pixels",
    "thickness": 8,
    "xpad": 0,
    "ypad": 0,
    "xanchor": "left",
}


@dataclass(frozen=True)
class Panel:
    """A rectangle of a figure.

    Attributes:
        number: Of its pair of axes, from 1.
        left: Pixels.
        top: Pixels.
        width: Pixels.
        height: Pixels.
    """

    number: int
    left: Number
    top: Number
    width: Number
    height: Number

    @property
    def axes(self) -> dict[str, str]:
        """The axes, as a trace names them."""
        return {"xaxis": f"x{self.number}", "yaxis": f"y{self.number}"}

    @property
    def xaxis(self) -> str:
        """The x-axis, as the layout names it."""
        return "xaxis" if self.number == 1 else f"xaxis{self.number}"

    @property
    def yaxis(self) -> str:
        """The y-axis, as the layout names it."""
        return "yaxis" if self.number == 1 else f"yaxis{self.number}"

    def place(self, figure: Figure, size: tuple[int, int], x: Properties, y: Properties) -> None:
        """Lay out the axes, without lines.

        Args:
            figure: The figure.
            size: Width and height in pixels of all panels together.
            x: More properties of the x-axis.
            y: More properties of the y-axis.
        """
        across, down = size
        right = self.left + self.width
        bottom = self.top + self.height
        x_domain = [self.left / across, right / across]
        y_domain = [1 - bottom / down, 1 - self.top / down]
        x_axis = BARE | {"anchor": f"y{self.number}", "domain": x_domain, "side": "top"}
        y_axis = BARE | {"anchor": f"x{self.number}", "domain": y_domain, "constraintoward": "top"}
        figure.layout[self.xaxis] = x_axis | x
        figure.layout[self.yaxis] = y_axis | y
