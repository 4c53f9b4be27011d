"""Drawings in SVG, for what is not a plot of data: boxes, arrows, circles and words.

Colors follow the text around a drawing (`currentColor`) where it is part of a page. A `Diagram` is
shown as a picture, which cannot follow anything: it has a light background and dark words, as the
plots have, and so can be read on a dark page as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from arcvq.figures.theme import INK, PAPER, Number

Point = tuple[Number, Number]

LINE_HEIGHT = 1.35  # of the size of the letters
HEAD = 9  # pixels from the tip of an arrow to the end of its head
COVERED = 0.7 * HEAD  # pixels of an arrow's line that its head covers, so that the tip is sharp
DASHES = "5 4"


@dataclass(frozen=True, repr=False)
class Diagram:
    """A drawing that a notebook shows.

    Attributes:
        svg: The drawing, a whole SVG document.
        words: What it shows, for those who cannot see it.
    """

    svg: str
    words: str

    def __repr__(self) -> str:
        return self.words

    def _repr_svg_(self) -> tuple[str, dict[str, str]]:
        """The drawing and, for pages made of a notebook, its words."""
        return self.svg, {"alt": self.words}


class Canvas:
    """What has been drawn so far.

    Points are pixels to the right of and below the origin. Angles are in degrees, counted from the
    right and counterclockwise.

    Attributes:
        parts: The elements, as SVG.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(
        self,
        at: Point,
        words: str,
        size: Number = 13,
        anchor: str = "middle",
        weight: str = "normal",
        opacity: Number = 1,
        color: str = "currentColor",
    ) -> None:
        """Write words; a line break in them begins a new line.

        Args:
            at: The start, the middle or the end of the first line, on its base line.
            words: The words.
            size: Of the letters, in pixels.
            anchor: What `at` is: "start", "middle" or "end".
            weight: "normal" or "bold".
            opacity: From 0 to 1.
            color: Of the letters.
        """
        x, y = at
        for line in words.splitlines():
            self._add(
                "text",
                escape(line),
                x=x,
                y=y,
                font_size=size,
                text_anchor=anchor,
                font_weight=weight,
                opacity=opacity,
                fill=color,
            )
            y += size * LINE_HEIGHT

    def box(self, corner: Point, size: Point, color: str, words: str = "", below: str = "") -> None:
        """Draw a box with bold words in its middle, and smaller ones below them.

        Args:
            corner: The upper left corner.
            size: Width and height.
            color: Of the frame, and thinly of the inside.
            words: The bold words.
            below: The smaller words.
        """
        self.frame(corner, size, color, fill=0.15)
        x = corner[0] + size[0] / 2
        y = corner[1] + size[1] / 2
        if below:
            self.text((x, y - 2), words, weight="bold")
            self.text((x, y + 15), below, size=11, opacity=0.85)
        else:
            self.text((x, y + 5), words, weight="bold")

    def frame(self, corner: Point, size: Point, color: str, fill: Number = 0) -> None:
        """Draw a rectangle with round corners; `fill` is the opacity of its inside."""
        self._add(
            "rect",
            x=corner[0],
            y=corner[1],
            width=size[0],
            height=size[1],
            rx=6,
            fill=color,
            fill_opacity=fill,
            stroke=color,
        )

    def line(self, points: Sequence[Point], color: str = "currentColor", **style: Any) -> None:
        """Draw straight lines through points.

        Args:
            points: The points.
            color: Of the lines.
            **style: More attributes of the element, such as `stroke_width`.
        """
        self._add("polyline", points=_places(points), fill="none", stroke=color, **style)

    def arrow(
        self,
        points: Sequence[Point],
        color: str = "currentColor",
        width: Number = 1.4,
        dashed: bool = False,
    ) -> None:
        """Draw an arrow along straight lines, with its head at the last point.

        Args:
            points: Where it goes, at least two points.
            color: Of the arrow.
            width: Of the line, in pixels.
            dashed: Whether the line is dashed.
        """
        *before, tip = points
        x, y = before[-1]
        heading = math.degrees(math.atan2(y - tip[1], tip[0] - x))
        end = on_circle(tip, COVERED, heading + 180)
        dashes = DASHES if dashed else "none"
        self.line([*before, end], color, stroke_width=width, stroke_dasharray=dashes)
        self._head(tip, heading, color)

    def arc(
        self,
        center: Point,
        radius: Number,
        start: Number,
        end: Number,
        color: str,
        width: Number = 1.4,
    ) -> None:
        """Draw a part of a circle, less than a half.

        Args:
            center: Of the circle.
            radius: Of the circle.
            start: The angle where the arc starts.
            end: The angle where it ends; if it is smaller, the arc goes clockwise.
            color: Of the line.
            width: Of the line, in pixels.
        """
        clockwise = int(end < start)
        from_x, from_y = on_circle(center, radius, start)
        to_x, to_y = on_circle(center, radius, end)
        path = f"M {from_x} {from_y} A {radius} {radius} 0 0 {clockwise} {to_x} {to_y}"
        self._add("path", d=path, fill="none", stroke=color, stroke_width=width)

    def curved_arrow(
        self,
        center: Point,
        radius: Number,
        start: Number,
        end: Number,
        color: str,
    ) -> None:
        """Draw an `arc` as an arrow, with its head at the end."""
        ahead = 1 if end > start else -1
        covered = math.degrees(COVERED / radius)
        self.arc(center, radius, start, end - ahead * covered, color, width=2)
        # The head lies along the chord that it covers.
        heading = end + ahead * (90 - covered / 2)
        self._head(on_circle(center, radius, end), heading, color)

    def circle(
        self,
        center: Point,
        radius: Number,
        color: str,
        fill: Number = 0,
        dashed: bool = False,
    ) -> None:
        """Draw a circle; `fill` is the opacity of its inside, from 0 to 1."""
        self._add(
            "circle",
            cx=center[0],
            cy=center[1],
            r=radius,
            fill=color,
            fill_opacity=fill,
            stroke=color,
            stroke_width=1.5,
            stroke_dasharray=DASHES if dashed else "none",
        )

    def place(self, other: "Canvas", at: Point) -> None:
        """Draw what is on another canvas, with its origin at a point."""
        x, y = at
        content = "".join(other.parts)
        self._add("g", content, transform=f"translate({x} {y})")

    def diagram(self, width: int, height: int, words: str) -> Diagram:
        """Put all that was drawn on a light background.

        Args:
            width: In pixels.
            height: In pixels.
            words: What the drawing shows, for those who cannot see it.
        """
        background = _element("rect", width=width, height=height, rx=8, fill=PAPER)
        svg = _element(
            "svg",
            "\n".join(["", background, *self.parts, ""]),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
            role="img",
            aria_label=escape(words),
            color=INK,
            font_family="system-ui, sans-serif",
        )
        return Diagram(svg + "\n", words)

    def _head(self, tip: Point, heading: Number, color: str) -> None:
        """Draw the head of an arrow that points along an angle."""
        left = on_circle(tip, HEAD, heading + 155)
        right = on_circle(tip, HEAD, heading - 155)
        self._add("polygon", points=_places([tip, left, right]), fill=color)

    def _add(self, name: str, content: str = "", **attributes: Any) -> None:
        self.parts.append(_element(name, content, **attributes))


def on_circle(center: Point, radius: Number, degrees: Number) -> Point:
    """Return the point of a circle at an angle, from the right and counterclockwise."""
    angle = math.radians(degrees)
    x = center[0] + radius * math.cos(angle)
    y = center[1] - radius * math.sin(angle)  # y grows downward
    return round(x, 1), round(y, 1)


def _places(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _element(name: str, content: str = "", **attributes: Any) -> str:
    """An element of SVG; `fill_opacity` is the attribute fill-opacity."""
    words = [name]
    for key, value in attributes.items():
        shown = value if isinstance(value, str) else f"{value:g}"
        words.append(f'{key.replace("_", "-")}="{shown}"')
    start = " ".join(words)
    return f"<{start}>{content}</{name}>" if content else f"<{start}/>"
