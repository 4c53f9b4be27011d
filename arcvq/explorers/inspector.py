"""One code taken apart: what it draws, which images use it, its nearest codes, and a swap."""

from typing import Any

import traitlets
from plotly.graph_objects import Figure

from arcvq import geometry
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.base import MapExplorer
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.inspector_figure import (
    CODES,
    TILES,
    UNUSED,
    Subject,
    inspector_picture,
    inspector_values,
)
from arcvq.images import ImageData


class CodeInspector(MapExplorer):
    """A code of a model: decoded, its nearest codes, its places in images, the ways to another.

    Click a code on the map, or set `chosen`; at the start it is the longest code in use, and
    `other` the most used of the rest. Usage is counted on the first 1,000 test images. `rank`:
    which of the images that use the code most gets the other code in its places. `method`: PCA or
    UMAP of the angles for the map. The model may be on any device.

    Raises:
        ValueError: Without test images, for images that do not fit the model, and for a code that
            does not exist.
    """

    chosen = traitlets.Int(0, min=0, max=2**20).tag(label="code")
    other = traitlets.Int(0, min=0, max=2**20).tag(label="other code")
    rank = traitlets.Int(1, min=1, max=TILES).tag(label="image")
    method = traitlets.Enum(("PCA", "UMAP"), "PCA").tag(label="map")
    given = ("model", "images")

    def __init__(self, model: Autoencoder, data: ImageData, **settings: Any):
        self.subject = Subject(model, data)
        usage = self.subject.usage
        norms = geometry.norms(self.subject.codebook)
        longest = int((norms * (usage > 0)).argmax())
        by_usage = usage.argsort(descending=True, stable=True).tolist()
        other = next((code for code in by_usage if code != longest), longest)
        super().__init__(**{"chosen": longest, "other": other} | settings)

        last = len(usage) - 1
        self.limit("chosen", 0, last)
        self.limit("other", 0, last)
        for trace in (CODES, UNUSED):
            self.figure.data[trace].on_click(self.choose_by_click)

    @traitlets.validate("chosen", "other")
    def _known(self, proposal) -> int:
        name = proposal.trait.name
        last = len(self.subject.codebook) - 1
        if not 0 <= proposal.value <= last:
            raise ValueError(f"{name} is {proposal.value}; it must be a code, 0 to {last}")
        return proposal.value

    def picture(self) -> Figure:
        return inspector_picture(self.subject, **self.settings())

    def values(self) -> Values:
        return inspector_values(self.subject, **self.settings())
