"""Quantizers of the maintained package vector-quantize-pytorch behind arcvq's interface, to compare with.

The arithmetic is the package's, in float32; arcvq adds its shapes, usage counts and saved files. The package takes
seconds to import, so that happens when the first baseline is made (ImportError if it is missing).
"""

import math
from abc import ABC, abstractmethod
from itertools import combinations_with_replacement
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from arcvq.quantizers import Quantized, Quantizer
from arcvq.runtime.distributed import world_size


class Baseline(Quantizer, ABC):
    """The base: a module of the package, `method`, as a quantizer for latents (B, D, h, w).

    num_codes: K from 1. dim: D from 1. `codebook` (K, D) holds the codes as the decoder gets them, computed from the
    method's own. `loss` and `losses` are the package's; in evaluation most methods have none.
    """

    commitment = 0.0  # the weight of the commitment loss

    def __init__(self, num_codes: int, dim: int):
        super().__init__(num_codes, dim, self.commitment)
        del self.codebook  # the parameter; the property below takes its place
        self.method: Any = self.build(package())

    @abstractmethod
    def build(self, package: ModuleType) -> nn.Module:
        """The package's module for these codes and latents."""

    @abstractmethod
    def call(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """What the module gives for latents (1, N, D): codes with its gradient, indices (1, N), loss and its terms."""

    @abstractmethod
    def codes(self) -> Tensor:
        """All codes (K, D), with gradient to what they are computed from."""

    @property
    @abstractmethod
    def mismatch(self) -> str:
        """What differs from a free codebook of K codes with D components, in a sentence."""

    @property
    def codebook(self) -> Float[Tensor, "K D"]:  # type: ignore[override]
        with torch.autocast(self.counts.device.type, enabled=False):
            return self.codes()

    def forward(self, latents: Float[Tensor, "B D h w"]) -> Quantized:
        """The package's codes, loss and gradient. Raises ValueError for a wrong shape and, in evaluation, for NaN."""
        self.check_latents(latents)
        batch, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            flat = latents.float().permute(0, 2, 3, 1).reshape(1, batch * height * width, self.dim)
            passed, indices, loss, losses = self.call(flat)
            indices = indices.long()
            if self.training:
                self.observe(flat[0], indices[0])
            # Adds an exact zero, so forward gives the very codes that `lookup` gives, with the package's gradient.
            codes = embedding(indices, self.codebook.detach()) + (passed - passed.detach())
        codes = codes.reshape(batch, height, width, self.dim).permute(0, 3, 1, 2)
        terms = {name: term.detach() for name, term in losses.items()}
        return Quantized(codes, indices.reshape(batch, height, width), loss, terms)

    def encode(self, latents):
        training = self.training
        try:
            with torch.no_grad():
                return self.eval()(latents).indices
        finally:
            self.train(training)

    def config(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "num_codes": self.num_codes, "dim": self.dim}


class ImplicitQuantizer(Baseline):
    """Codes on a fixed grid of few components; two linear layers lead from the latents there and back."""

    name: str

    def codes(self):
        return self.method.indices_to_codes(torch.arange(self.num_codes, device=self.counts.device))

    @property
    def mismatch(self):
        dim, components = self.dim, self.method.codebook_dim
        layers = (f"two linear layers, {dim} x {components} and {components} x {dim}, lead there and back"
                  if self.method.has_projections else "no layers are needed")
        return f"{self.name}: {self.num_codes} codes of {components} components; {layers}"


class FiniteScalarQuantizer(ImplicitQuantizer):
    """FSQ (Mentzer et al. 2024): each component is bounded by tanh and rounded to one of its levels; no loss.

    num_codes: from 4; it becomes the nearest size that `fsq_levels` can give.
    """

    def __init__(self, num_codes: int, dim: int):
        super().__init__(math.prod(fsq_levels(num_codes)), dim)
        self.name = f"FSQ with levels {fsq_levels(self.num_codes)}"

    def build(self, package):
        return package.FSQ(fsq_levels(self.num_codes), dim=self.dim)

    def call(self, latents):
        codes, indices = self.method(latents)
        return codes, indices, latents.new_zeros(()), {}


def fsq_levels(num_codes: int) -> list[int]:
    """The levels, largest first, whose product is nearest to num_codes, in as few components as possible.

    Each is from 4 to 8. The paper advises at least 5 (Mentzer et al. 2024, Table 1), but of the powers of two those
    give only the powers of 8. Raises ValueError below 4 codes.
    """
    if num_codes < 4:
        raise ValueError(f"num_codes is {num_codes}; FSQ needs at least 4, one component of 4 levels")
    sizes = range(1, math.ceil(math.log(num_codes, 4)) + 1)
    choices = (levels for size in sizes for levels in combinations_with_replacement((8, 7, 6, 5, 4), size))
    return list(min(choices, key=lambda levels: abs(math.prod(levels) - num_codes)))


class LookupFreeQuantizer(ImplicitQuantizer):
    """LFQ (Yu et al. 2024): the sign of each component, with an entropy loss that holds N x K numbers.

    num_codes: a power of two from 2. The weights, 0.1 for the entropy and 0.25 for the commitment, are those of issue
    88 of vector-quantize-pytorch; the package's default leaves commitment out, and hardly trains. Raises
    ValueError where many processes train together: the package's entropy over them is wrong.
    """

    name, spherical = "LFQ", False
    commitment = 0.25

    def build(self, package):
        if self.num_codes < 2 or self.num_codes.bit_count() > 1:
            raise ValueError(f"num_codes is {self.num_codes}; {self.name} needs a power of two from 2")
        return package.LFQ(dim=self.dim, codebook_size=self.num_codes, spherical=self.spherical,
                           commitment_loss_weight=self.commitment)

    def call(self, latents):
        if self.training and world_size() > 1:
            raise ValueError(f"{self.name} is trained by {world_size()} processes; it can be trained by one only")
        (codes, indices, loss), terms = self.method(latents, return_loss_breakdown=True)
        losses = {"sample_entropy": terms.per_sample_entropy, "codebook_entropy": terms.batch_entropy}
        if self.commitment:
            losses["commitment"] = terms.commitment
        return codes, indices, loss, losses if self.training else {}


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """BSQ (Zhao et al. 2024): LFQ on the unit sphere, before and after the signs are taken; no commitment loss.

    num_codes: a power of two from 2.
    """

    name, spherical = "BSQ on the unit sphere", True
    commitment = 0.0


class SimVQQuantizer(Baseline):
    """SimVQ (Zhu et al. 2024): a frozen Gaussian codebook times a learned D x D matrix, with the VQ loss.

    Straight-through gradient as in the paper; the package's default is the rotation trick.
    """

    commitment = 0.25

    def build(self, package):
        return package.SimVQ(self.dim, self.num_codes, rotation_trick=False,
                             input_to_quantize_commit_loss_weight=self.commitment)

    def call(self, latents):
        codes, indices, loss = self.method(latents)
        error = loss / (1 + self.commitment)  # both terms have this value
        return codes, indices, loss, {"codebook": error, "commitment": error}

    def codes(self):
        return self.method.codebook

    @property
    def mismatch(self):
        return (f"SimVQ: K and D match; the codes are a frozen {self.num_codes} x {self.dim} table times a learned "
                f"{self.dim} x {self.dim} matrix")


class MovingAverageQuantizer(Baseline):
    """The package's `VectorQuantize`: codes are moving averages of their latents, decay 0.8, commitment weight 1."""

    commitment = 1.0
    cosine = False  # choose by angle, with straight-through gradient; else by distance, with the rotation trick

    def build(self, package):
        # With manual_ema_update the codes stay those that forward chose until `after_step`. The package would
        # remember whether there were other processes when its first quantizer was made.
        return package.VectorQuantize(
            self.dim, self.num_codes, commitment_weight=self.commitment, use_cosine_sim=self.cosine,
            rotation_trick=not self.cosine, manual_ema_update=True, sync_codebook=world_size() > 1,
        )

    def call(self, latents):
        codes, indices, loss, terms = self.method(latents, return_loss_breakdown=True)
        return codes, indices, loss, {"commitment": terms.commitment} if self.training else {}

    def codes(self):
        return self.method.codebook

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        self.method._codebook.update_ema()


class RotationQuantizer(MovingAverageQuantizer):
    """VQ with the rotation trick (Fifty et al. 2025): the gradient turns and scales as the latent does to its code."""

    @property
    def mismatch(self):
        return "rotation trick: K and D match; codes are moving averages with decay 0.8 and commitment weight 1"


class CosineEMAQuantizer(MovingAverageQuantizer):
    """VQ of normalised latents (Yu et al. 2022, the Improved VQGAN): codes are moving averages kept on the unit sphere.

    Straight-through gradient; the package's default is the rotation trick.
    """

    cosine = True

    @property
    def mismatch(self):
        return ("cosine EMA: K and D match, but codes have norm 1; they are moving averages with decay 0.8 and "
                "commitment weight 1")


def package() -> ModuleType:
    """vector-quantize-pytorch, imported. Raises ImportError when it is missing."""
    try:
        import vector_quantize_pytorch
    except ImportError as error:
        raise ImportError("baselines need vector-quantize-pytorch: pip install vector-quantize-pytorch") from error
    return vector_quantize_pytorch


BASELINES: dict[str, type[Quantizer]] = {
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "simvq": SimVQQuantizer,
    "rotation": RotationQuantizer,
    "cosine_ema": CosineEMAQuantizer,
}
