"""Draw docs/_static/architecture.svg: how data flows, and which module may import which.

    python tools/draw_architecture.py

The page includes the drawing as part of its HTML, so text and lines take the color of the page, in
light and in dark. Fills are translucent for the same reason.
"""

from itertools import pairwise
from pathlib import Path

from arcvq.figures.drawings import Canvas
from arcvq.figures.theme import BLUE, GREEN
from arcvq.figures.theme import VERMILLION as ORANGE

WIDTH = 860
OUT = Path(__file__).parents[1] / "docs" / "_static" / "architecture.svg"

# Each row may import from the rows below it.
LAYERS = [
    (["cli"], "the command arcvq"),
    (["explorers"], "interactive figures"),
    (["reports", "exercises"], "notebooks without a browser; exercises"),
    (["figures"], "data in, plotly figure out"),
    (["experiments"], "named grids and their tables"),
    (["priors", "analysis"], "models of tokens; what is measured on models"),
    (["runs"], "settings in, kept run out; many at once"),
    (["vqgan"], "the network for natural images, and its losses"),
    (["training"], "the loop: fit, evaluate"),
    (["vqvae"], "the paper's network"),
    (["autoencoder"], "what networks have in common"),
    (["baselines", "composites", "clustering"], "quantizers of others, and of several parts"),
    (["quantizers"], "one interface for all"),
    (["samp", "images"], "the method; data sets as tensors"),
    (["streamed_images"], "images that are decoded batch by batch"),
    (["image_folders"], "what a folder of files holds"),
    (["ops", "schedules", "geometry", "metrics"], "arithmetic and measures"),
    (["runtime"], "devices, processes, files"),
]
LAYERS_TOP = 262
LAYER_STEP = 28
HEIGHT = LAYERS_TOP + LAYER_STEP * len(LAYERS) + 6


STAGES = {  # name: (left edge, width, color, what stands below the name)
    "images": (20, 90, GREEN, "(B, C, H, W)"),
    "encoder": (150, 90, BLUE, "VQVAE"),
    "quantizer": (340, 130, ORANGE, "nearest code"),
    "decoder": (560, 90, BLUE, "VQVAE"),
    "reconstruction": (710, 130, GREEN, "(B, C, H, W)"),
}


def draw_data_flow(canvas):
    canvas.text((20, 26), "How data flows", 15, "start", "bold")
    for name, (left, width, color, below) in STAGES.items():
        canvas.box((left, 48), (width, 52), color, name, below)
    for before, after in pairwise(STAGES.values()):
        end_of_box = before[0] + before[1]
        canvas.arrow([(end_of_box + 3, 74), (after[0] - 5, 74)])
    canvas.text((289, 66), "latents", 11)
    canvas.text((514, 66), "codes", 11)

    canvas.box((180, 152), (130, 46), ORANGE, "margin loss", "pulls latents")
    canvas.box((340, 152), (130, 46), ORANGE, "ball", "after_step: codes")
    canvas.box((560, 152), (90, 46), BLUE, "prior", "over tokens")
    canvas.arrow([(290, 78), (290, 148)], dashed=True)
    canvas.arrow([(390, 148), (390, 105)], dashed=True)
    canvas.arrow([(435, 103), (435, 128), (590, 128), (590, 148)])
    canvas.text((512, 122), "indices (B, h, w)", 11)
    canvas.arrow([(630, 148), (630, 105)])
    canvas.text((638, 132), "new tokens, looked up", 11, "start")


def draw_import_layers(canvas):
    top = LAYERS_TOP
    canvas.text((20, top - 20), "Imports point one way", 15, "start", "bold")
    rule = "a module may import from the rows below its own"
    canvas.text((215, top - 20), rule, 12, "start")
    for row, (names, words) in enumerate(LAYERS):
        y = top + row * LAYER_STEP
        # Modules of one row share its width.
        width = (430 - 6 * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            x = 20 + place * (width + 6)
            canvas.box((x, y), (width, 22), color_of(row, name), name)
        canvas.text((466, y + 16), words, 12, "start", opacity=0.85)

    last = top + 3 * LAYER_STEP + 22
    canvas.line([(750, top), (758, top), (758, last), (750, last)], opacity=0.7)
    canvas.text((766, (top + last) / 2 - 3), "only here:\nplotly, widgets", 11, "start")


def color_of(row, name):
    if row < 4:
        return GREEN
    return ORANGE if name in ("samp", "quantizers") else BLUE


def main():
    canvas = Canvas()
    draw_data_flow(canvas)
    draw_import_layers(canvas)
    title = (
        "Data flow: images, encoder, quantizer, decoder, reconstruction; a prior over the indices. "
        "Import layers, from cli at the top to runtime at the bottom."
    )
    # Part of the page, and so without a background and a color of its own.
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}" style="width:100%;max-width:{WIDTH}px;height:auto" '
        'font-family="system-ui, sans-serif">'
    )
    lines = [start, *canvas.parts, "</svg>"]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
