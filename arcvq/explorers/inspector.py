"""One code taken apart: what it draws, who uses it, its neighbours, and what another code would draw in its place."""

from typing import Any

import plotly.graph_objects as go
import traitlets

from arcvq import geometry
from arcvq.explorers.base import Explorer, pointed_code
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.inspector_figure import (
    CODES,
    TILES,
    UNUSED,
    inspector_picture,
    inspector_values,
    subject,
)
from arcvq.images import ImageData
from arcvq.vqvae import VQVAE


class CodeInspector(Explorer):
    """A chosen code of a model: decoded, its nearest codes, its places in images, and the ways to `other` code.

    Click a code on the map, or set `chosen`; at the start, these are the longest used code and the most used other.
    Usage is counted on the first 1,000 test images. rank: which of the images that use the code most gets the other
    code in its places. method: of the map, PCA or UMAP of the angles. The model may be on any device. Raises ValueError
    without test images, for images that do not fit the model, and for a code that does not exist.
    """

    chosen = traitlets.Int(0, min=0, max=2**20).tag(label="code")
    other = traitlets.Int(0, min=0, max=2**20).tag(label="other code")
    rank = traitlets.Int(1, min=1, max=TILES).tag(label="image")
    method = traitlets.Enum(("PCA", "UMAP"), "PCA").tag(label="map")

    def __init__(self, model: VQVAE, images: ImageData, **settings: Any):
        self.subject = subject(model, images)
        usage, norms = self.subject.usage, geometry.norms(self.subject.codebook)
        most, longest = (
            usage.argsort(descending=True, stable=True).tolist(),
            int((norms * (usage > 0)).argmax()),
        )
        other = next((code for code in most if code != longest), longest)
        super().__init__(**{"chosen": longest, "other": other} | settings)
        for name in ("chosen", "other"):
            self.controls[name].max = max(
                1, len(usage) - 1
            )  # a slider in the browser needs two ends
            self.controls[name].disabled = len(usage) == 1
        for trace in (CODES, UNUSED):
            self.figure.data[trace].on_click(self._clicked)

    @traitlets.validate("chosen", "other")
    def _known(self, proposal: Any) -> int:
        last = len(self.subject.codebook) - 1
        if not 0 <= proposal.value <= last:
            raise ValueError(
                f"{proposal.trait.name} is {proposal.value}; it must be a code, 0 to {last}"
            )
        return proposal.value

    def picture(self) -> go.Figure:
        return inspector_picture(self.subject, **self.settings())

    def values(self) -> Values:
        return inspector_values(self.subject, **self.settings())

    def code(self) -> str:
        return super().code().replace("(", "(model, images, ", 1)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if (code := pointed_code(trace, points)) is not None:
            self.chosen = code
