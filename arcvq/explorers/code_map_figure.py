"""The map of `arcvq.figures.code_map` with an image beside it."""

from jaxtyping import Float
from plotly.graph_objects import Figure
from torch import Tensor

from arcvq.explorers.panels import BARE
from arcvq.figures.parts import to_pixels

PANEL = 220  # pixels of width for the image
HEIGHT = 540


def with_patch(figure: Figure, patch: Float[Tensor, "C H W"], title: str) -> Figure:
    """Put an image in [-1, 1], such as a code decoded, on the right of a map.

    Args:
        figure: Of `code_map`; it becomes wider.
        patch: (C, H, W) in [-1, 1], with C 1 or 3.
        title: Title of the image.

    Returns:
        The same figure.
    """
    figure.add_image(z=to_pixels(patch), xaxis="x9", yaxis="y9", hoverinfo="skip")
    bare = {**BARE, "showticklabels": False}
    top = {"title": {"text": title}, "side": "top", "anchor": "y9", "domain": [0.82, 1]}
    left = {"anchor": "x9", "domain": [0.25, 0.75], "scaleanchor": "x9", "autorange": "reversed"}
    figure.update_layout(
        width=figure.layout.width + PANEL,
        height=HEIGHT,
        xaxis_domain=[0, 0.68],
        scene_domain_x=[0, 0.68],
        xaxis9=bare | top,
        yaxis9=bare | left,
    )
    bar = {"x": 0.7, "xanchor": "left"}
    return figure.update_traces(marker_colorbar=bar, selector={"name": "codes"})
