"""One photograph and its reconstructions side by side, to look at closely."""

from typing import Any

import traitlets
from jaxtyping import Float
from plotly.graph_objects import Figure
from torch import Tensor

from arcvq.explorers.base import Explorer
from arcvq.explorers.figure_updates import Values, assign, finish_moving, words
from arcvq.explorers.panels import Panel
from arcvq.figures.parts import image_source, to_pixels
from arcvq.figures.theme import check_images, named

Photograph = Float[Tensor, "1 C H W"]

WIDTH = 900  # pixels of the figure
SIDE = 12  # beside and below the panels
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
        whole = check_images(photograph, "photograph")
        self.images = {"photograph": whole}
        for name, image in named(rebuilt).items():
            self.images[name] = check_images(image, name)
        for name, image in self.images.items():
            if len(whole) != 1 or image.shape != whole.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(image.shape)}; it must be one image of the "
                    f"size of the photograph, {tuple(whole.shape[2:])}"
                )
        self.size = whole.shape[2:]
        super().__init__(**settings)

    def picture(self) -> Figure:
        panels, height = self._panels()
        size = (WIDTH - 2 * SIDE, height)
        figure = Figure()
        values = self.values()
        for panel, (name, image) in zip(panels, self.images.items(), strict=True):
            source = image_source(to_pixels(image[0]), "jpeg", quality=QUALITY)
            # Pixels as they are: smoothed, they would hide what is looked for.
            figure.add_image(source=source, zsmooth=False, hoverinfo="skip", **panel.axes)
            x = {"ticktext": [name], "tickangle": 0}
            panel.place(figure, size, x, {"showticklabels": False})
        margins = {"width": WIDTH, "left": SIDE, "right": SIDE, "bottom": SIDE}
        finish_moving(figure, values, HEAD, height + SIDE, dragmode="pan", **margins)
        assign(figure, values)
        return figure

    def values(self) -> Values:
        left, right, top, bottom = self._window()
        title = f"Rows {top:.0f} to {bottom:.0f}, columns {left:.0f} to {right:.0f}"
        high, wide = self.size
        size = f"{right - left:.0f} x {bottom - top:.0f}"
        summary = f"{size} pixels of {wide} x {high}, in each panel the same."
        values = words(title, summary, WIDTH - 2 * SIDE)
        panels, _ = self._panels()
        for panel in panels:
            # A pixel reaches half a unit to each side of its number.
            values[f"layout/{panel.xaxis}.range"] = [left - 0.5, right - 0.5]
            values[f"layout/{panel.yaxis}.range"] = [bottom - 0.5, top - 0.5]
            values[f"layout/{panel.xaxis}.tickvals"] = [(left + right - 1) / 2]
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
        columns = min(COLUMNS, len(self.images))
        width = (WIDTH - 2 * SIDE - (columns - 1) * GAP) // columns
        height = round(width * high / wide)
        panels = []
        for number in range(len(self.images)):
            row, column = divmod(number, columns)
            left = column * (width + GAP)
            top = TITLE + row * (height + TITLE + GAP)
            panels.append(Panel(number + 1, left, top, width, height))
        rows = row + 1
        return panels, rows * (height + TITLE) + (rows - 1) * GAP


def _span(length: int, place: float, zoom: float) -> tuple[float, float]:
    """Both ends of a part of a length around a place (0 to 1), moved inside."""
    part = length / zoom
    start = min(max(place * length - part / 2, 0.0), length - part)
    return start, start + part
