"""One photograph and its reconstructions side by side, to look at closely."""

import math
from typing import Any

import traitlets
from jaxtyping import Float
from plotly.graph_objects import Figure
from torch import Tensor

from arcvq.explorers.base import Explorer
from arcvq.explorers.figure_updates import Values, assign, finish_moving, words
from arcvq.explorers.panels import Panel
from arcvq.figures.parts import image_source, to_pixels
from arcvq.figures.theme import as_images, named

Photograph = Float[Tensor, "1 C H W"]

WIDTH = 900  # pixels of the figure
SIDE = 12  # beside and below the panels
INNER = WIDTH - 2 * SIDE  # between both sides
GAP = 12  # between panels
TITLE = 24  # above each panel, for its name
HEAD = 66  # above all panels
COLUMNS = 3  # at most
QUALITY = 95  # of JPEG, so that its own traces are not seen


class ZoomExplorer(Explorer):
    """A photograph and what models make of it, all of them seen through the same window.

    `zoom` says how many times smaller than the photograph the window is, and `across` and `down`
    where its center lies, from 0 (left, top) to 1 (right, bottom).

    Args:
        photograph: (1, C, H, W) in [-1, 1], with C 1 or 3.
        rebuilt: Images of the same size by name, at least one.
        **settings: The settings to begin with.

    Raises:
        ValueError: For several photographs, images of another size, or none.
    """

    zoom = traitlets.Float(1.0, min=1.0, max=16.0).tag(label="zoom", log=True)
    across = traitlets.Float(0.5, min=0.0, max=1.0).tag(label="across")
    down = traitlets.Float(0.5, min=0.0, max=1.0).tag(label="down")
    given = ("photograph", "rebuilt")

    def __init__(
        self, photograph: Photograph, rebuilt: dict[str, Photograph], **settings: Any
    ) -> None:
        whole = as_images(photograph, "photograph")
        self.images = {"photograph": whole}
        for name, image in named(rebuilt).items():
            self.images[name] = as_images(image, name)
        self.size = whole.shape[2:]
        for name, image in self.images.items():
            if len(whole) != 1 or image.shape != whole.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(image.shape)}; it must be one image of the "
                    f"size of the photograph, {tuple(self.size)}"
                )
        super().__init__(**settings)

    def picture(self) -> Figure:
        panels, height = self._panels()
        figure = Figure()
        for panel, (name, image) in zip(panels, self.images.items(), strict=True):
            pixels = to_pixels(image[0])
            source = image_source(pixels, "jpeg", quality=QUALITY)
            # Pixels as they are: smoothed, they would hide what is looked for.
            figure.add_image(source=source, zsmooth=False, hoverinfo="skip", **panel.axes)
            x: dict[str, Any] = {"ticktext": [name], "tickangle": 0}
            x["fixedrange"] = True  # the sliders move all panels together
            y = {"showticklabels": False, "fixedrange": True}
            panel.place(figure, (INNER, height), x, y)
        values = self.values()
        around = {"left": SIDE, "right": SIDE, "bottom": SIDE}
        finish_moving(figure, values, HEAD, height + SIDE, width=WIDTH, dragmode=False, **around)
        assign(figure, values)
        return figure

    def values(self) -> Values:
        left, right, top, bottom = self._window()
        title = f"Rows {top:.0f} to {bottom:.0f}, columns {left:.0f} to {right:.0f}"
        high, wide = self.size
        size = f"{bottom - top:.0f} x {right - left:.0f}"
        summary = f"Each panel shows the same {size} of {high} x {wide} pixels."
        values = words(title, summary, INNER)
        # A pixel reaches half a unit to each side of its number.
        columns = [left - 0.5, right - 0.5]
        rows = [bottom - 0.5, top - 0.5]
        middle = (left + right - 1) / 2
        panels, _ = self._panels()
        for panel in panels:
            values[f"layout/{panel.xaxis}.range"] = columns
            values[f"layout/{panel.yaxis}.range"] = rows
            values[f"layout/{panel.xaxis}.tickvals"] = [middle]  # where the name stands
        return values

    def _window(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom edge of the window in pixels, inside the photograph."""
        high, wide = self.size
        left, right = _span(wide, self.across, self.zoom)
        top, bottom = _span(high, self.down, self.zoom)
        return left, right, top, bottom

    def _panels(self) -> tuple[list[Panel], int]:
        """Panels in rows, as large as they can be, and the height of all of them."""
        high, wide = self.size
        count = len(self.images)
        columns = min(COLUMNS, count)
        rows = math.ceil(count / columns)
        gaps_across = (columns - 1) * GAP
        gaps_down = (rows - 1) * GAP
        width = (INNER - gaps_across) // columns
        height = round(width * high / wide)
        panels = []
        for number in range(count):
            row, column = divmod(number, columns)
            left = column * (width + GAP)
            top = TITLE + row * (TITLE + height + GAP)
            panels.append(Panel(number + 1, left, top, width, height))
        return panels, rows * (TITLE + height) + gaps_down


def _span(length: int, place: float, zoom: float) -> tuple[float, float]:
    """Both ends of a part of a length around a place (0 to 1), moved inside."""
    part = length / zoom
    centered = place * length - part / 2
    start = min(max(centered, 0.0), length - part)
    return start, start + part
