"""What a dashboard shows of a model that trains: losses, PSNR, codes, the ball, norms, images."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt32
from torch import Tensor

from arcvq import geometry
from arcvq.autoencoder import Autoencoder
from arcvq.explorers.drawn_codes import LIMIT, Axes, Codes, axes_share, code_axes, pack
from arcvq.figures.parts import thin, tile_sheet
from arcvq.figures.theme import array
from arcvq.images import to_float
from arcvq.runtime.run_record import Row
from arcvq.samp import SAMP
from arcvq.schedules import Schedule
from arcvq.streamed_images import StreamedImages

CURVES = (  # columns of the history
    "reconstruction",
    "commitment",
    "margin",
    "psnr",
    "validation_psnr",
    "codes_used",
    "perplexity",
    "radius",
    "weight",
)
POINTS = 600  # of a curve, at most
AHEAD = 61  # points of the lines of schedules
PIXELS = 2**16  # of the validation images on which the use of each code is counted
EXAMPLES = 4  # of them, those that are shown
TILE = 64  # pixels of an image, at most
HELD = 0.999  # of the radius: a code at least so long lies on the ball
# Facts of the last row for the caption: name, column and format
FACTS = (
    ("loss", "loss", "{:.3g}"),
    ("validation PSNR", "validation_psnr", "{:.1f} dB"),
    ("perplexity", "perplexity", "{:.1f}"),
    ("weight of the margin loss", "weight", "{:.3g}"),
)

Norms = Float[np.ndarray, " K"]


class LiveView:
    """Looks at a model from time to time while it trains.

    Args:
        images: Validation images, as pixels.
        steps: The length of the run.
        samp: The SAMP that the run begins with, None for a quantizer without it.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "N C H W"] | StreamedImages,
        steps: int,
        samp: SAMP | None,
    ):
        _, _, high, wide = images.shape
        count = max(EXAMPLES, PIXELS // (high * wide))
        self.images = to_float(images[:count])
        self.steps = steps
        self.samp = samp
        self.axes: Axes | None = None
        self.extent = 0.0

    def look(self, model: Autoencoder, rows: list[Row], growth: float) -> dict[str, Any]:
        """Return what there is to see now, as web/live.js takes it.

        Args:
            model: The model.
            rows: The history so far.
            growth: Of the ball's radius per step, as the reader has set it.
        """
        row = rows[-1] if rows else {}
        now = int(row.get("step", 0))
        quantizer: Any = model.quantizer
        samp = getattr(quantizer, "samp", None)
        schedule = samp.radius if samp else None
        radius = float(quantizer.radius) if schedule else np.inf
        weight = self.samp.weight if self.samp else None
        codes = array(model.quantizer.codebook)
        norms = np.linalg.norm(codes, axis=1)

        seen: dict[str, Any] = {"steps": self.steps, "step": now, "growth_then": growth}
        seen["title"] = f"Step {now:,} of {self.steps:,}"
        if row:
            seen["title"] += f": training PSNR {row['psnr']:.1f} dB, "
            seen["title"] += f"{row['codes_used']:,} of {len(codes):,} codes used"
        seen["summary"] = _sentence(norms, row, radius)
        seen["ball"] = np.array([radius])
        seen["radius_ahead"] = self._ahead(schedule, now)
        seen["weight_ahead"] = self._ahead(weight, now)
        for column in CURVES:
            seen[column] = _curve(rows, column)
        seen |= self._codes(model, codes, norms)
        return seen | self._tiles(model)

    def _codes(self, model: Autoencoder, codes: Codes, norms: Norms) -> dict[str, Any]:
        """The codes on the sphere, which does not turn by itself while they move."""
        count, dim = codes.shape
        axes = code_axes(codes)
        if self.axes is not None:
            # The turn within these axes that brings them nearest to those before (Procrustes)
            left, _, right = np.linalg.svd(axes.T @ self.axes)
            axes = axes @ left @ right
        self.axes = axes
        self.extent = max(self.extent, float(norms.max()))
        shown, note = thin(count, "codes", LIMIT)
        if dim > 3:
            share = axes_share(codes, axes)
            note = f" Directions by principal axes, {share:.0%} of the squared length.{note}"

        seen: dict[str, Any] = {"total": count, "note": note}
        seen["extent"] = self.extent
        seen["codes"] = pack(codes[shown], axes, self.extent)
        seen["shown"] = shown.astype(np.uint32)
        counts = self._counts(model)
        seen["counts"] = counts[shown]
        seen["counted"] = f"times in {len(self.images)} validation images"
        return seen

    def _counts(self, model: Autoencoder) -> UInt32[np.ndarray, " K"]:
        """How often each code is chosen for the validation images."""
        codebook = model.quantizer.codebook
        images = self.images.to(codebook.device)
        counts = geometry.usage_counts(model.encode(images).cpu(), len(codebook))
        return counts.numpy().astype(np.uint32)

    def _tiles(self, model: Autoencoder) -> dict[str, Any]:
        """Some images, reconstructed below; of large ones every so many-th pixel."""
        examples = self.images[:EXAMPLES]
        device = model.quantizer.codebook.device
        reconstructions = model.reconstruct(examples.to(device)).cpu()
        tiles = torch.cat([examples, reconstructions])
        stride = max(1, tiles.shape[3] // TILE)
        small = tiles[..., ::stride, ::stride]
        pixels = tile_sheet(small, len(examples))
        height, width, _ = pixels.shape
        return {"tiles": pixels, "tiles_width": width, "tiles_height": height}

    def _ahead(self, schedule: Schedule | None, now: int) -> Float[np.ndarray, "2 _"]:
        """Steps and values of a schedule from `now` to the end of the run, if there is one."""
        if schedule is None:
            return np.empty((2, 0))
        steps = np.linspace(now, self.steps, AHEAD)
        values = [schedule.value(step) for step in steps]
        return np.array([steps, values])


def _curve(rows: list[Row], column: str) -> Float[np.ndarray, "2 _"]:
    """Steps and values of a column where it was measured."""
    measured = [row for row in rows if column in row]
    earlier = measured[:-1]
    stride = 1 + len(earlier) // (POINTS - 1)
    shown = earlier[::stride] + measured[-1:]  # always with the newest
    steps = [row["step"] for row in shown]
    values = [row[column] for row in shown]
    return np.array([steps, values], np.float32)


def _sentence(norms: Norms, row: Row, radius: float) -> str:
    parts = []
    for name, column, form in FACTS:
        if column in row:
            value = form.format(row[column])
            parts.append(f"{name} {value}")
    parts.append(f"norms of the codes {norms.min():.3g} to {norms.max():.3g}")
    if radius < np.inf:
        held = np.mean(norms >= HELD * radius)
        size = f"{radius:,.0f}" if radius > 1000 else f"{radius:.2f}"
        parts.append(f"the ball of radius {size} holds {held:.0%} of the codes")
    text = "; ".join(parts)
    first = text[0].upper()
    return f"{first}{text[1:]}."
