"""One code and its latents: what margin, scale and top-k do to gradients and loss."""

from typing import Any

import traitlets
from jaxtyping import Float
from torch import Generator, Tensor, randn
from torch.nn.functional import normalize

from arcvq.explorers.canvas import CanvasExplorer
from arcvq.figures.theme import check_vectors

COUNTS = {2: 24, 3: 80}  # latents of the example by dimension


class MarginExplorer(CanvasExplorer):
    """One code, its `top_k` nearest latents, and their gradients on the circle or the sphere.

    Args:
        latents: (N, D) with D 2 (circle) or 3 (sphere), drawn by their directions; an example by
            default.
        code: (D,), drawn by its direction; an example by default.
        dim: D of an example.
        **settings: values at the start.

    Raises:
        ValueError: for other D, NaN, no latents and norm zero.
    """

    module = "margin"
    margin = traitlets.Float(0.1, min=0.0, max=1.5).tag(label="margin m (rad)")
    scale = traitlets.Float(5.0, min=1.0, max=100.0).tag(label="scale s", log=True)
    top_k = traitlets.Int(3, min=1, max=50).tag(label="top-k")

    def __init__(
        self,
        latents: Float[Tensor, "N D"] | None = None,
        code: Float[Tensor, " D"] | None = None,
        dim: int = 3,
        **settings: Any,
    ):
        for given in (code, latents):
            if given is not None:
                dim = given.shape[-1]
        if dim not in COUNTS:
            raise ValueError(
                f"D is {dim}; the margin can be drawn on the circle (D = 2) and on the sphere "
                "(D = 3)"
            )
        example = randn(COUNTS[dim] + 1, dim, generator=Generator().manual_seed(1))
        latents = _directions(example[1:] if latents is None else latents, "latents")
        direction = _directions(example[:1] if code is None else code[None], "the code")[0]
        if len(direction) != dim:
            raise ValueError(f"the code has D = {len(direction)} but the latents have D = {dim}")
        data = {"latents": latents.numpy(), "code": direction.numpy(), "dim": dim}
        super().__init__(data, **settings)

    def template(self):
        return "arcvq.SAMP(margin={margin}, scale={scale}, top_k={top_k})"


def _directions(rows: Tensor, what: str) -> Tensor:
    rows = rows.detach().cpu().double()
    check_vectors(rows, what)
    zeros = len(rows) - int(rows.any(dim=1).sum())
    if zeros:
        raise ValueError(f"{what}: {zeros} of {len(rows)} rows have norm 0 and so no direction")
    return normalize(rows, dim=1, eps=1e-300)
