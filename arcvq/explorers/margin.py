"""One code and its latents: what margin, scale and top-k do to gradients and loss."""

import re
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Generator, Tensor, randn
from torch.nn.functional import normalize

from arcvq.explorers.canvas import CanvasExplorer, Preset
from arcvq.figures.parts import thin
from arcvq.figures.theme import as_vectors

COUNT = 80  # latents of the example
DRAWN = 4096  # latents at most, beside those that are pulled
NUMBER = r"-?\d+(?:\.\d+)?"
PLACE = re.compile(rf"(code|\d+):({NUMBER}(?:,{NUMBER})+)")
PRESETS = {  # Their sentences must hold for any latents.
    "no margin": Preset(
        {"margin": 0.0, "scale": 5.0, "top_k": 3},
        "Without a margin, the pull fades like sin θ as a latent comes near its code.",
    ),
    "the paper's settings": Preset(
        {"margin": 0.1, "scale": 5.0, "top_k": 3},
        "m = 0.1, s = 5, k = 3. The margin keeps up the pull on latents that are already near.",
    ),
    "margin too large": Preset(
        {"margin": 1.2, "scale": 5.0, "top_k": 3},
        "With m = 1.2 the pulled latents count as 69° farther, however near they are: the factor "
        "sin(θ + m) of their pull is 0.93 even at θ = 0.",
    ),
    "sharp scale": Preset(
        {"margin": 0.1, "scale": 40.0, "top_k": 3},
        "With s = 40 only latents about as near as the pulled ones have a share in the "
        "softmax. All others feel next to nothing.",
    ),
    "many pulled": Preset(
        {"margin": 0.1, "scale": 5.0, "top_k": 20},
        "With k = 20 a code pulls its 20 nearest latents, however far from it they are.",
    ),
}


class MarginExplorer(CanvasExplorer):
    """One code, its `top_k` nearest latents, and their gradients on the circle or the sphere.

    Code and latents can be moved by hand. `moved` says where to, as in "code:0.6,0,0.8 12:0,0,1",
    and `latents` and `direction` are where they are now.

    Args:
        latents: (N, D) with D 2 (circle) or 3 (sphere), drawn by their directions; an example by
            default.
        code: (D,), drawn by its direction; an example by default.
        dim: D of an example.
        **settings: Values at the start.

    Raises:
        ValueError: For other D, NaN, no latents and norm zero.
    """

    module = "margin"
    presets = PRESETS
    margin = traitlets.Float(0.1, min=0.0, max=1.5).tag(label="margin m", unit="rad")
    scale = traitlets.Float(5.0, min=1.0, max=100.0).tag(label="scale s", log=True)
    top_k = traitlets.Int(3, min=1, max=50).tag(label="top-k")
    moved = traitlets.Unicode("").tag(label="moved by hand")

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
        if dim not in (2, 3):
            raise ValueError(
                f"D is {dim}; the margin can be drawn on the circle (D = 2) and on the sphere "
                "(D = 3)"
            )
        example = randn(COUNT + 1, dim, generator=Generator().manual_seed(1))
        rows = _directions(example[1:] if latents is None else latents, "latents")
        direction = _directions(example[:1] if code is None else code[None], "the code")[0]
        if len(direction) != dim:
            raise ValueError(f"the code has D = {len(direction)} but the latents have D = {dim}")
        drawn, note = thin(len(rows), "latents", DRAWN)
        data = {
            "latents": rows.numpy(),
            "code": direction.numpy(),
            "dim": dim,
            "drawn": drawn,
            "note": note.strip(),
        }
        super().__init__(data, **settings)

    @property
    def latents(self) -> Float[Tensor, "N D"]:
        """The directions of the latents, where they are now."""
        latents = torch.tensor(self._numbers["latents"])
        for name, place in self._places(self.moved).items():
            if name != "code":
                latents[int(name)] = place
        return latents

    @property
    def direction(self) -> Float[Tensor, " D"]:
        """The direction of the code, where it is now."""
        given = torch.tensor(self._numbers["code"])
        return self._places(self.moved).get("code", given)

    def template(self):
        return "arcvq.SAMP.for_run(steps, margin={margin}, scale={scale}, top_k={top_k})"

    def _places(self, moved: str) -> dict[str, Tensor]:
        """Where points were moved to, by the number of the latent or "code"."""
        places = {}
        for name, numbers in PLACE.findall(moved):
            place = torch.tensor([float(number) for number in numbers.split(",")])
            places[name] = normalize(place.double(), dim=0)
        return places

    @traitlets.validate("moved")
    def _check_moved(self, proposal) -> str:
        moved = proposal.value
        rows, dim = self._numbers["latents"].shape
        wrong = PLACE.sub("", moved).strip()
        for name, place in self._places(moved).items():
            is_known = name == "code" or int(name) < rows
            if not is_known or len(place) != dim or not place.any():
                wrong = wrong or name
        if wrong:
            raise traitlets.TraitError(
                f"moved is {moved!r}; it must name code or a latent below {rows} with {dim} "
                'numbers that are not all 0, as "code:0.6,0,0.8 12:0,0,1"'
            )
        return moved


def _directions(rows: Tensor, what: str) -> Tensor:
    rows = torch.from_numpy(as_vectors(rows, what))
    zeros = len(rows) - int(rows.any(dim=1).sum())
    if zeros:
        raise ValueError(f"{what}: {zeros} of {len(rows)} rows have norm 0 and so no direction")
    return normalize(rows, dim=1, eps=1e-300)
