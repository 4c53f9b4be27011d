"""A map of the codebook's angles: click a code and see what it draws."""

from typing import Any

import numpy as np
import torch
import traitlets
from plotly.graph_objects import Figure

from arcvq import figures, geometry
from arcvq.analysis import projections
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.base import MapExplorer, pointed_code
from arcvq.explorers.code_map_figure import with_patch
from arcvq.explorers.encoding import decode_codes, encode_test
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.placing import PLACED
from arcvq.figures.parts import thin, to_pixels
from arcvq.images import ImageData

IMAGES = 1000  # that usage and classes are counted on, at most
CODES, HOLLOW, RING, PATCH = range(4)  # the traces
USAGE = "usage (tokens)"
NORM = "norm of the code"


class CodeMap(MapExplorer):
    """UMAP of a model's code angles in `dim` (2 or 3) dimensions, and the chosen code decoded.

    Usage and classes are counted on the first 1,000 test images. Click a code, or set `chosen`; the
    code under the pointer is decoded as long as the pointer stays. `used_only` leaves out codes
    that no image uses. Of more than 4,096 codes the map shows a sample, and says so. Coordinates
    are cached: a setting that was seen before costs nothing.
    """

    color = traitlets.Enum(("usage", "norm", "class", "cluster"), "usage").tag(label="color")
    neighbors = traitlets.Enum((5, 15, 50), 15).tag(label="neighbors")
    seed = traitlets.Int(0, min=0, max=9).tag(label="seed")
    used_only = traitlets.Bool(True).tag(label="used codes only")
    chosen = traitlets.Int(0, min=0, max=2**20).tag(label="code")

    def __init__(self, model: Autoencoder, data: ImageData, dim: int = 2, **settings: Any):
        self.model = model
        self.dim = dim
        self.classes = data.classes
        self.given = ("model", "images", str(dim))

        tokens = encode_test(model, data, IMAGES)
        labels = data.test.labels[:IMAGES]
        self.codebook = model.quantizer.codebook.detach().cpu()
        count = len(self.codebook)
        self.usage = geometry.usage_counts(tokens, count)
        self.norms = geometry.norms(self.codebook)
        self.owners = projections.dominant_classes(tokens, labels, count)
        self._pointed: int | None = None

        longest = int((self.norms * (self.usage > 0)).argmax())
        super().__init__(**{"chosen": longest} | settings)
        self._drawn_around = self._around()
        self.limit("chosen", 0, count - 1)
        for trace in self.figure.data[:2]:
            trace.on_click(self.choose_by_click)
            trace.on_hover(self._point)
            trace.on_unhover(lambda *_: self._point())

    @traitlets.validate("chosen")
    def _known(self, proposal) -> int:
        last = len(self.codebook) - 1
        if not 0 <= proposal.value <= last:
            raise ValueError(f"the chosen code is {proposal.value}; it must be from 0 to {last}")
        return proposal.value

    def picture(self) -> Figure:
        rows = torch.arange(len(self.codebook))
        if self.used_only:
            rows = rows[self.usage > 0]
        sample, note = thin(len(rows), "codes", limit=PLACED)
        rows = rows[torch.from_numpy(sample)]
        seen = projections.umap_angles(
            self.codebook[rows], self.dim, seed=self.seed, neighbors=self.neighbors
        )
        hover = {USAGE: self.usage[rows], NORM: self.norms[rows]}
        picture = figures.code_map(
            seen,
            **self._color(rows),
            hover=hover,
            indices=rows.numpy(),
            chosen=self.chosen,
            summary=f"{seen.trust}{note}",
        )
        return with_patch(picture, *self._patch())

    def values(self) -> Values:
        around = self._around()
        if around != self._drawn_around:
            self._drawn_around = around
            return super().values()
        # From code to code only these move, and a figure takes long to make.
        patch, title = self._patch()
        values = {f"{PATCH}/z": to_pixels(patch), "layout/xaxis9.title.text": title}
        return values | self._ring()

    def _around(self) -> dict[str, Any]:
        """The settings of all but the chosen code."""
        settings = self.settings()
        del settings["chosen"]
        return settings

    def _patch(self) -> tuple[torch.Tensor, str]:
        """The code under the pointer, else the chosen one, decoded; and its title."""
        drawn = self.chosen if self._pointed is None else self._pointed
        patch = decode_codes(self.model, torch.tensor([drawn]))[0]
        return patch, f"code {drawn}, decoded"

    def _ring(self) -> Values:
        """The ring, around the chosen code wherever the map has it."""
        values: Values = {}
        for column in (*"xyz"[: self.dim], "customdata"):
            places = []
            for trace in (CODES, HOLLOW):
                codes = self._shown[f"{trace}/customdata"][:, 0]
                places.append(self._shown[f"{trace}/{column}"][codes == self.chosen])
            values[f"{RING}/{column}"] = np.concatenate(places)
        values[f"{RING}/name"] = f"code {self.chosen}"
        values[f"{RING}/showlegend"] = len(values[f"{RING}/x"]) > 0
        return values

    def _color(self, rows: torch.Tensor) -> dict[str, Any]:
        if self.color == "usage":
            return {"color": self.usage[rows], "label": USAGE, "log": True}
        if self.color == "norm":
            return {"color": self.norms[rows], "label": NORM}
        if self.color == "class":
            owners = self.owners[rows.numpy()]
            return {"color": owners, "label": "class that uses it most", "classes": self.classes}
        groups = projections.clusters(self.codebook[rows])
        names = [str(number) for number in range(groups.max() + 1)]
        return {"color": groups, "label": "cluster", "classes": names}

    def _point(self, trace=None, points=None, state=None) -> None:
        """The pointer is on a code, or on none."""
        self._pointed = pointed_code(trace, points)
        self.redraw()
