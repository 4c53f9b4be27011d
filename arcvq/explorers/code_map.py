"""A map of the codebook's angles: click a code and see what it draws."""

from typing import Any

import plotly.graph_objects as go
import torch
import traitlets

from arcvq import figures, geometry
from arcvq.analysis import projections
from arcvq.explorers.base import Explorer, pointed_code
from arcvq.explorers.code_map_figure import with_patch
from arcvq.images import ImageData
from arcvq.vqvae import VQVAE

IMAGES = 1000  # that usage and classes are counted on, at most


class CodeMap(Explorer):
    """UMAP of a model's code angles in `dim` (2 or 3) dimensions, and the chosen code as it decodes alone.

    Usage and classes are counted on the first 1,000 test images. Click a code, or set `chosen`; the code under the
    pointer is decoded as long as the pointer stays. `used_only` leaves out codes that no image uses. Coordinates are
    cached: a setting that was seen before costs nothing.
    """

    colour = traitlets.Enum(("usage", "norm", "class", "cluster"), "usage").tag(label="colour")
    neighbors = traitlets.Enum((5, 15, 50), 15).tag(label="neighbours")
    seed = traitlets.Int(0, min=0, max=9).tag(label="seed")
    used_only = traitlets.Bool(True).tag(label="used codes only")
    chosen = traitlets.Int(0, min=0, max=2**20).tag(label="code")

    def __init__(self, model: VQVAE, images: ImageData, dim: int = 2, **settings: Any):
        self.model, self.dim, self.classes = model, dim, images.classes
        some = torch.arange(min(IMAGES, len(images.test)))
        indices, self.codebook = (
            model.encode(images.test.batch(some)),
            model.quantizer.codebook.detach().cpu(),
        )
        count, labels = len(self.codebook), images.test.labels[some]
        self.usage, self.norms = (
            geometry.usage_counts(indices.cpu(), count),
            geometry.norms(self.codebook),
        )
        self.owners = projections.dominant_classes(indices, labels, count)
        self._pointed: int | None = None
        longest = int((self.norms * (self.usage > 0)).argmax())
        super().__init__(**{"chosen": longest} | settings)
        self.controls["chosen"].max = count - 1
        for trace in self.figure.data[:2]:
            trace.on_click(self._clicked)
            trace.on_hover(self._point)
            trace.on_unhover(lambda *_: self._point())

    @traitlets.validate("chosen")
    def _known(self, proposal: Any) -> int:
        if not 0 <= proposal.value < len(self.codebook):
            raise ValueError(
                f"the chosen code is {proposal.value}; it must be from 0 to {len(self.codebook) - 1}"
            )
        return proposal.value

    def code(self) -> str:
        return super().code().replace("(", f"(model, images, {self.dim}, ", 1)

    def picture(self) -> go.Figure:
        rows = (
            (self.usage > 0).nonzero()[:, 0] if self.used_only else torch.arange(len(self.codebook))
        )
        seen = projections.umap_angles(
            self.codebook[rows], self.dim, seed=self.seed, neighbors=self.neighbors
        )
        hover = {"usage": self.usage[rows], "norm": self.norms[rows]}
        picture = figures.code_map(
            seen, **self._colour(rows), hover=hover, indices=rows.numpy(), chosen=self.chosen
        )
        drawn = self.chosen if self._pointed is None else self._pointed
        grid = torch.full((1, 3, 3), drawn, device=self.model.quantizer.codebook.device)
        return with_patch(picture, self.model.decode(grid)[0].cpu(), f"code {drawn}, decoded")

    def _colour(self, rows: torch.Tensor) -> dict[str, Any]:
        if self.colour == "usage":
            return {"color": self.usage[rows], "log": True}
        if self.colour == "norm":
            return {"color": self.norms[rows], "label": "norm of the code"}
        if self.colour == "class":
            return {
                "color": self.owners[rows.numpy()],
                "label": "class that uses it most",
                "classes": self.classes,
            }
        groups = projections.clusters(self.codebook[rows])
        return {
            "color": groups,
            "label": "cluster",
            "classes": [str(number) for number in range(groups.max() + 1)],
        }

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if (code := pointed_code(trace, points)) is not None:
            self.chosen = code

    def _point(self, trace: Any = None, points: Any = None, state: Any = None) -> None:
        """The pointer is on a code, or on none."""
        self._pointed = pointed_code(trace, points)
        self.redraw()
