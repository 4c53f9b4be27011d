"""The diagrams of the course: the model with SAMP, and the order of the notebooks."""

from itertools import pairwise
from typing import NamedTuple

from arcvq.figures.drawings import Canvas, Diagram, Point, on_circle
from arcvq.figures.theme import BLUE, GRAY, GREEN, ORANGE, VERMILLION

WIDTH = 860
DARK_ORANGE = "#9A6700"  # of words; the orange of lines is too light to read


# The order of the notebooks


class Stop(NamedTuple):
    """A notebook on the reading path.

    Attributes:
        number: Its number.
        title: Its title, in short.
        minutes: How long it takes to read.
        needs: Numbers of the notebooks that it builds on, as text.
    """

    number: str
    title: str
    minutes: int
    needs: str = ""


CORE = [
    Stop("00", "Start here", 15),
    Stop("01", "Codebook collapse", 30),
    Stop("02", "Codebook geometry", 20),
    Stop("03", "Ball-bounded norm", 25),
    Stop("04", "ArcCosine margin", 50),
    Stop("05", "Training with SAMP", 50),
]
BRANCHES = {
    "Look at codes": [
        Stop("06", "Sphere in 3-D", 25, "03"),
        Stop("07", "UMAP of code angles", 30, "02"),
        Stop("11", "What codes mean", 40, "05"),
    ],
    "Make new images": [
        Stop("08", "Fit a prior", 30, "05"),
        Stop("09", "Sample and complete", 30, "08"),
    ],
    "Compare": [
        Stop("14", "Which quantizer?", 20, "05"),
        Stop("10", "Ablations, schedules", 40, "05"),
        Stop("12", "Speed and scale", 25, "04"),
    ],
    "Use it": [
        Stop("13", "Your own images", 35, "00"),
        Stop("15", "Ship it", 25, "13"),
        Stop("16", "Natural images", 30, "11"),
    ],
}


def reading_path() -> Diagram:
    """Draw the notebooks in the order to read them: a core path, then branches."""
    canvas = Canvas()
    canvas.text((20, 30), "Read these first, in order", 14, "start", "bold")
    canvas.place(_core_path(), (20, 44))
    canvas.text((210, 158), "Then any of these", 14, "start", "bold")
    canvas.place(_branches(), (0, 174))
    # From the last notebook of the core path to the branches.
    canvas.line([(780, 106), (780, 134), (190, 134), (190, 174)])

    words = f"The core path is {_named(CORE)}."
    for name, stops in BRANCHES.items():
        words += f" {name}: {_named(stops)}."
    return canvas.diagram(WIDTH, 430, words)


def _core_path() -> Canvas:
    canvas = Canvas()
    for place, stop in enumerate(CORE):
        left = 140 * place
        middle = left + 60
        canvas.box((left, 0), (120, 62), BLUE)
        canvas.text((middle, 19), stop.number, weight="bold")
        canvas.text((middle, 36), stop.title, 11)
        canvas.text((middle, 52), f"{stop.minutes} min", 11, opacity=0.85)
        if place > 0:
            canvas.arrow([(left - 18, 31), (left - 2, 31)])
    return canvas


def _branches() -> Canvas:
    canvas = Canvas()
    middles = []
    for row, (name, stops) in enumerate(BRANCHES.items()):
        top = 62 * row
        middle = top + 23
        middles.append(middle)
        canvas.text((174, middle + 5), name, anchor="end", weight="bold")
        canvas.arrow([(190, middle), (208, middle)])
        for place, stop in enumerate(stops):
            left = 210 * place + 210
            title = f"{stop.number} {stop.title}"
            below = f"{stop.minutes} min, needs {stop.needs}"
            canvas.box((left, top), (190, 46), GREEN, title, below)
            if place > 0:
                canvas.arrow([(left - 18, middle), (left - 2, middle)])
    canvas.line([(190, 0), (190, middles[-1])])
    return canvas


def _named(stops: list[Stop]) -> str:
    names = [f"{stop.number} {stop.title}" for stop in stops]
    return ", ".join(names)


# The model and SAMP

PANEL = (400, 300)  # width and height
RADIUS = 150  # of the circle that latents lie on, in pixels
STAGES = {  # name: (left edge, right edge, color, what stands below the name)
    "image": (20, 100, GREEN, "pixels"),
    "encoder": (126, 222, BLUE, "convolutions"),
    "quantizer": (340, 508, ORANGE, "nearest code by angle"),
    "decoder": (594, 690, BLUE, "convolutions"),
    "reconstruction": (716, 840, GREEN, "pixels"),
}


def method_diagram() -> Diagram:
    """Draw the VQ-VAE from image to reconstruction, and below it the two halves of SAMP."""
    canvas = Canvas()
    canvas.place(_data_flow(), (0, 30))
    canvas.arrow([(281, 178), (281, 80)], VERMILLION, dashed=True)
    canvas.text((272, 168), "acts on the latents", 11, "end", color=VERMILLION)
    canvas.arrow([(496, 178), (496, 86)], VERMILLION, dashed=True)
    canvas.text((505, 168), "acts on the codes", 11, "start", color=VERMILLION)
    canvas.place(_margin_panel(), (20, 182))
    canvas.place(_ball_panel(), (440, 182))
    words = (
        "An encoder turns an image into latents z, the quantizer replaces each latent by a code e "
        "of the codebook, and a decoder turns the codes into a reconstruction. SAMP has two "
        "halves. The margin loss turns the latents nearest to a code toward it and the other "
        "latents away. The ball shortens codes that are longer than M(t), and M(t) grows."
    )
    return canvas.diagram(WIDTH, 502, words)


def _data_flow() -> Canvas:
    canvas = Canvas()
    for name, (left, right, color, below) in STAGES.items():
        canvas.box((left, 0), (right - left, 52), color, name, below)
    for before, after in pairwise(STAGES.values()):
        start = before[1] + 3
        end = after[0] - 3
        canvas.arrow([(start, 26), (end, 26)])
    for middle, name in ((281, "latents z"), (551, "codes e")):
        canvas.text((middle, 18), name, 12)
        canvas.text((middle, 43), "one per place", 11, opacity=0.85)
    canvas.arrow([(400, 55), (400, 80)])
    canvas.text((400, 95), "tokens: one index per place", 12)
    return canvas


def _margin_panel() -> Canvas:
    """Draw a code and latents by their directions: those nearest to it turn to it, others away."""
    note = (
        "In the backward pass, each code pulls the few latents\nnearest to it and pushes the rest."
    )
    canvas = _panel("The margin loss turns the latents", note)

    center = (200, 280)
    canvas.circle(center, 2.5, GRAY, fill=1)
    canvas.arc(center, RADIUS, 8, 172, GRAY)
    canvas.arrow([center, on_circle(center, RADIUS, 97)], BLUE, width=3)
    name = on_circle(center, RADIUS + 9, 97)
    canvas.text(name, "a code", 12, weight="bold", color=BLUE)
    for start, end in ((61, 71), (78, 88), (124, 112)):
        _turn_latent(canvas, center, start, end, GREEN)
    for start, end in ((22, 14), (40, 31), (150, 159)):
        _turn_latent(canvas, center, start, end, GRAY)
    canvas.text((276, 128), "its nearest latents", 12, "start", color=GREEN)
    canvas.text((348, 236), "others", 12, "start", color=GRAY)
    return canvas


def _turn_latent(canvas: Canvas, center: Point, start: int, end: int, color: str) -> None:
    """Draw a latent at an angle (degrees), and the way that it turns."""
    latent = on_circle(center, RADIUS, start)
    canvas.line([center, latent], color, opacity=0.45)
    canvas.circle(latent, 4, color, fill=1)
    canvas.curved_arrow(center, RADIUS - 14, start, end, color)


def _ball_panel() -> Canvas:
    """Draw codes as arrows from the origin, one of them cut back to the circle of radius M(t)."""
    note = (
        "After each optimizer step, a code longer than M(t)\nis shortened to M(t). The ball grows."
    )
    canvas = _panel("The ball bounds the norms of the codes", note)

    center = (200, 178)
    radius = 76
    canvas.circle(center, radius, ORANGE, fill=0.12)
    canvas.circle(center, 1.42 * radius, ORANGE, dashed=True)
    canvas.circle(center, 2.5, GRAY, fill=1)
    for degrees, share in ((15, 0.72), (62, 0.5), (165, 0.62), (205, 1.0), (285, 0.8)):
        tip = on_circle(center, share * radius, degrees)
        canvas.arrow([center, tip], BLUE, width=2)

    on_ball = on_circle(center, radius, 128)
    too_far = on_circle(center, 1.75 * radius, 128)
    canvas.arrow([center, on_ball], BLUE, width=2)
    canvas.arrow([too_far, on_ball], VERMILLION, width=2, dashed=True)
    canvas.circle(too_far, 3.5, BLUE, fill=0.3)
    canvas.text((16, 96), "a code that\ngrew too long", 12, "start")
    canvas.text((172, 224), "radius M(t)", 11, color=DARK_ORANGE)
    canvas.text((308, 220), "later", 12, "start", color=DARK_ORANGE)
    return canvas


def _panel(title: str, note: str) -> Canvas:
    """Draw a frame with a title and a note."""
    canvas = Canvas()
    canvas.frame((0, 0), PANEL, GRAY)
    canvas.text((16, 26), title, 14, "start", "bold")
    canvas.text((16, 46), note, 11.5, "start")
    return canvas
