"""Draw docs/_static/architecture.svg: how data flows, and which module may import which.

    python tools/draw_architecture.py

The page includes the drawing as part of its HTML, so text and lines take the color of the page, in
light and in dark. Fills are translucent for the same reason.
"""

from itertools import pairwise
from pathlib import Path

WIDTH = 860
OUT = Path(__file__).parents[1] / "docs" / "_static" / "architecture.svg"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# Each row may import from the rows below it.
LAYERS = [
    (["cli"], "the command arcvq"),
    (["explorers"], "what a reader drags"),
    (["reports", "exercises"], "notebooks without a browser, pages; checks of exercises"),
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
    (["image_folders"], "what a folder of files holds"),
    (["ops", "schedules", "geometry", "metrics"], "arithmetic and measures"),
    (["runtime"], "devices, processes, files"),
]
LAYERS_TOP = 262
LAYER_STEP = 28
HEIGHT = LAYERS_TOP + LAYER_STEP * len(LAYERS) + 6


def text(x, y, words, size=13, anchor="middle", weight="normal", opacity=1.0):
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" opacity="{opacity}"'
    return f'<text x="{x}" y="{y}" {style} fill="currentColor">{words}</text>'


def box(x, y, width, height, color, words, below=""):
    middle, center = x + width / 2, y + height / 2
    shape = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
        f'fill="{color}" fill-opacity="0.18" stroke="{color}"/>'
    )
    if not below:
        return shape + text(middle, center + 5, words, weight="bold")
    lines = text(middle, center - 2, words, weight="bold")
    return shape + lines + text(middle, center + 15, below, size=11, opacity=0.8)


def arrow(points, dashed=False, words="", at=None, anchor="middle"):
    path = " L ".join(f"{x} {y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    line = (
        f'<path d="M {path}" fill="none" stroke="currentColor" stroke-width="1.4"{dash} '
        'marker-end="url(#arrow-head)"/>'
    )
    return line + (text(*at, words, size=11, anchor=anchor, opacity=0.9) if words else "")


def data_flow():
    top, height = 48, 52
    parts = [text(20, 26, "How data flows", size=15, anchor="start", weight="bold")]
    places = {"images": 20, "encoder": 150, "quantizer": 340, "decoder": 560, "reconstruction": 710}
    widths = {"quantizer": 130, "reconstruction": 130}
    below = {
        "images": "(B, C, H, W)",
        "encoder": "VQVAE",
        "quantizer": "nearest code",
        "decoder": "VQVAE",
        "reconstruction": "(B, C, H, W)",
    }
    colors = {"images": GREEN, "reconstruction": GREEN, "quantizer": ORANGE}
    ends = {}
    for name, x in places.items():
        width = widths.get(name, 90)
        ends[name] = x + width
        parts.append(box(x, top, width, height, colors.get(name, BLUE), name, below[name]))

    middle = top + height / 2
    names = list(places)
    labels = {"encoder": "latents", "quantizer": "codes"}
    for before, after in pairwise(names):
        start, end = ends[before] + 3, places[after] - 5
        label = labels.get(before, "")
        parts.append(
            arrow([(start, middle), (end, middle)], words=label, at=((start + end) / 2, middle - 8))
        )

    low = 152
    parts += [
        box(180, low, 130, 46, ORANGE, "margin loss", "pulls latents"),
        box(340, low, 130, 46, ORANGE, "ball", "after_step: codes"),
        box(560, low, 90, 46, BLUE, "prior", "over tokens"),
        arrow([(290, middle + 4), (290, low - 4)], dashed=True),
        arrow([(390, low - 4), (390, top + height + 5)], dashed=True),
        arrow(
            [(435, top + height + 3), (435, 128), (590, 128), (590, low - 4)],
            words="indices (B, h, w)",
            at=(512, 122),
        ),
        arrow(
            [(630, low - 4), (630, top + height + 5)],
            words="new tokens, looked up",
            at=(638, 132),
            anchor="start",
        ),
    ]
    return parts


def import_layers():
    top, height, step = LAYERS_TOP, 22, LAYER_STEP
    left, width = 20, 430
    parts = [
        text(left, top - 20, "Imports point one way", size=15, anchor="start", weight="bold"),
        text(
            left + 195,
            top - 20,
            "a module may import from the rows below its own",
            size=12,
            anchor="start",
        ),
    ]
    for row, (names, words) in enumerate(LAYERS):
        y = top + row * step
        room = (width - 6 * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            color = GREEN if row < 4 else ORANGE if name in ("samp", "quantizers") else BLUE
            x = left + place * (room + 6)
            parts.append(box(round(x, 1), y, round(room, 1), height, color, name))
        parts.append(text(left + width + 16, y + 16, words, size=12, anchor="start", opacity=0.85))

    last = top + 3 * step + height
    edge = left + width + 300
    bracket = f"M {edge} {top} h 8 V {last} h -8"
    parts.append(f'<path d="{bracket}" fill="none" stroke="currentColor" opacity="0.7"/>')
    parts.append(text(edge + 16, (top + last) / 2 - 3, "only here:", 11, "start"))
    parts.append(text(edge + 16, (top + last) / 2 + 12, "plotly, widgets", 11, "start"))
    return parts


def main():
    head = (
        '<defs><marker id="arrow-head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M 0 0 L 10 5 L 0 10 z" fill="currentColor"/>'
        "</marker></defs>"
    )
    title = (
        "Data flow: images, encoder, quantizer, decoder, reconstruction; a prior over the indices. "
        "Import layers, from cli at the top to runtime at the bottom."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}" style="width:100%;max-width:{WIDTH}px;height:auto" '
        'font-family="system-ui, sans-serif">',
        head,
        *data_flow(),
        *import_layers(),
        "</svg>",
    ]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
