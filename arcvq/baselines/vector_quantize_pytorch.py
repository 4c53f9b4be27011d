"""Quantizers of the package vector-quantize-pytorch behind the interface of arcvq, to compare with.

The arithmetic is the package's, in float32 whatever the precision of the model; arcvq adds its
shapes, masks, usage counts and saved files, and moves averages only in `after_step`.
Importing the package takes seconds, so that happens when the first of these quantizers is made.
"""

import math
from abc import ABC, abstractmethod
from itertools import chain, combinations_with_replacement
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding

from arcvq.quantizers import Quantizer, follow_average_
from arcvq.runtime.distributed import in_group, world_size
from arcvq.runtime.extras import extra_import
from arcvq.runtime.modes import evaluation_mode
from arcvq.runtime.precision import autocast_off


class Baseline(Quantizer, ABC):
    """Base class: a module of the package, `method`, as a `Quantizer`.

    The codebook holds the codes as the decoder gets them, computed from what the method learns. The
    losses are the package's: in evaluation only SimVQ's has a gradient, all others are 0.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        commitment: Weight of the commitment loss, at least 0; None for the usual one. Only for
            methods that have such a loss.

    Attributes:
        commitment: Weight of the commitment loss; 0 where there is none.
        frozen: Whether `freeze` was called: then the method learns nothing.
        method: The module of the package.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """

    commitment = 0.0
    frozen = False

    def __init__(self, num_codes: int, dim: int, commitment: float | None = None):
        usual = self.commitment
        super().__init__(num_codes, dim, usual if commitment is None else commitment)
        if not usual and commitment is not None:
            raise ValueError(f"commitment is {commitment}, but {self.kind} has no commitment loss")
        self.commitment = self.beta
        del self.codebook  # the parameter; the property below takes its place
        package = extra_import("vector_quantize_pytorch", extra="baselines")
        self.method: Any = self.build(package)

    @abstractmethod
    def build(self, package: ModuleType) -> nn.Module:
        """Make the module of the package."""

    @abstractmethod
    def call(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Call the module, by `run_method`, on latents (1, N, D).

        Returns:
            Codes (1, N, D) with their gradient, indices (1, N), the loss and its terms.
        """

    def run_method(self, latents: Tensor, **options: Any) -> Any:
        """Call `method`; in evaluation without gradient to what it has learned."""
        if self.training or not torch.is_grad_enabled():
            return self.method(latents, **options)
        learned = {name: value.detach() for name, value in self.method.named_parameters()}
        return functional_call(self.method, learned, (latents,), options)

    def codes(self) -> Tensor:
        """Compute all codes (K, D), with gradient to what they are computed from."""
        return self.method.codebook

    @property
    @abstractmethod
    def mismatch(self) -> str:
        """What differs from a free codebook of K codes in D dimensions, in a sentence."""

    @property
    def codebook(self) -> Float[Tensor, "K D"]:  # type: ignore[override]
        with autocast_off(self.counts):
            return self.codes()

    def quantize(self, latents):
        if latents.shape[0] > 0:  # unlike len, it stays symbolic in torch.export
            passed, indices, loss, terms = self.call(latents.float()[None])
        else:  # the package's means over nothing are NaN
            passed = latents[None]
            indices = passed[..., 0]
            loss = latents.sum()
            terms = {}
        if in_group() and not self.training:  # as in `Quantizer.quantize`
            loss = loss + 0.0 * sum(value.sum() for value in self.method.parameters())
        # Of latents that are not finite, FSQ would make an index of no code.
        indices = indices[0].long().clamp(0, self.num_codes - 1)
        if self.training:
            self.observe(latents, indices)
        if latents.requires_grad and not passed.requires_grad:  # most methods in evaluation
            passed = latents.float()[None]
        # The bracket is exactly zero, so these are the very codes that `lookup` returns, with the
        # gradient that the package gives them, or else straight through.
        codes = embedding(indices, self.codebook.detach()) + (passed - passed.detach())[0]
        return codes, indices, loss, terms

    def encode(self, latents):
        with torch.no_grad(), evaluation_mode(self):
            return self(latents).indices

    def freeze(self):
        self.frozen = True
        self.method.requires_grad_(False)
        for parameter in self.method.parameters():
            parameter.grad = None  # or an optimizer step that is still to come would move it

    def unfreeze(self):
        self.frozen = False
        self.method.requires_grad_(True)

    def replace_codes(self, chosen, codes):
        raise ValueError(f"the codes of a {self.kind} follow from its method; they cannot be set")

    def _apply(self, fn, recurse=True):
        def keep_precision(tensor):
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        return super()._apply(keep_precision, recurse)

    def config(self):
        config = {"kind": self.kind, "num_codes": self.num_codes, "dim": self.dim}
        if self.commitment != type(self).commitment:
            config["commitment"] = self.commitment
        return config


class ImplicitQuantizer(Baseline):
    """Codes on a fixed grid of few components; linear layers map latents to it and back.

    Attributes:
        name: Name of the method, for messages.
    """

    name: str

    def codes(self):
        return self.method.indices_to_codes(torch.arange(self.num_codes, device=self.counts.device))

    @property
    def mismatch(self):
        dim = self.dim
        components = self.method.codebook_dim
        layers = "no layers are needed"
        if self.method.has_projections:
            layers = (
                f"two linear layers, {dim} x {components} and {components} x {dim}, "
                "lead there and back"
            )
        return f"{self.name}: {self.num_codes} codes of {components} components; {layers}"


class FiniteScalarQuantizer(ImplicitQuantizer):
    """FSQ (Mentzer et al. 2024): each component is bounded by tanh and rounded to a level.

    It has no loss.

    Args:
        num_codes: Number of codes, from 4; it becomes the nearest one that `fsq_levels` can give.
        dim: Dimension D of the latents, at least 1.
    """

    def __init__(self, num_codes: int, dim: int):
        levels = fsq_levels(num_codes)
        super().__init__(math.prod(levels), dim)
        self.name = f"FSQ with levels {levels}"

    def build(self, package):
        return package.FSQ(fsq_levels(self.num_codes), dim=self.dim)

    def call(self, latents):
        codes, indices = self.run_method(latents)
        return codes, indices, latents.new_zeros(()), {}


def fsq_levels(num_codes: int) -> list[int]:
    """Choose the levels of FSQ's components, whose product is the number of codes.

    Each component has 4 to 8 levels. The paper advises at least 5 (Mentzer et al. 2024, table 1),
    but of the powers of two those give only the powers of 8.

    Returns:
        The levels whose product is nearest to `num_codes`, in as few components as possible,
        largest first.

    Raises:
        ValueError: Below 4 codes.
    """
    if num_codes < 4:
        raise ValueError(
            f"num_codes is {num_codes}; FSQ needs at least 4, one component of 4 levels"
        )
    sizes = range(1, math.ceil(math.log(num_codes, 4)) + 1)  # numbers of components
    choices = chain.from_iterable(
        combinations_with_replacement((8, 7, 6, 5, 4), size) for size in sizes
    )
    return list(min(choices, key=lambda levels: abs(math.prod(levels) - num_codes)))


class LookupFreeQuantizer(ImplicitQuantizer):
    """LFQ (Yu et al. 2024): the sign of each component, with an entropy loss over N x K numbers.

    The weights of the losses, 0.1 for the entropy and 0.25 for the commitment, are those of issue
    88 of vector-quantize-pytorch. Without a commitment loss, the package's default, it hardly
    trains. It trains in one process only, since the package's entropy over several is wrong.

    Args:
        num_codes: Number of codes K, a power of two from 2.
        dim: Dimension D of the latents, at least 1.
    """

    name = "LFQ"
    commitment = 0.25
    spherical = False

    def build(self, package):
        if self.num_codes < 2 or self.num_codes.bit_count() > 1:
            raise ValueError(
                f"num_codes is {self.num_codes}; {self.name} needs a power of two from 2"
            )
        return package.LFQ(
            dim=self.dim,
            codebook_size=self.num_codes,
            spherical=self.spherical,
            commitment_loss_weight=self.commitment,
        )

    def call(self, latents):
        if self.training and world_size() > 1:
            raise ValueError(
                f"{self.name} is trained by {world_size()} processes; it can be trained by one only"
            )
        (codes, indices, loss), terms = self.run_method(latents, return_loss_breakdown=True)
        losses = {
            "sample_entropy": terms.per_sample_entropy,
            "codebook_entropy": terms.batch_entropy,
        }
        if self.commitment:
            losses["commitment"] = terms.commitment
        return codes, indices, loss, losses if self.training else {}


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """BSQ (Zhao et al. 2024): LFQ on the unit sphere, before and after the signs are taken.

    It has no commitment loss.
    """

    name = "BSQ on the unit sphere"
    commitment = 0.0
    spherical = True


class SimVQQuantizer(Baseline):
    """SimVQ (Zhu et al. 2024): a frozen Gaussian codebook times a learned D x D matrix.

    The gradient is straight-through as in the paper; the package's default is the rotation trick.
    """

    commitment = 0.25

    @property
    def mismatch(self):
        return (
            f"SimVQ: K and D match; the codes are a frozen {self.num_codes} x {self.dim} table "
            f"times a learned {self.dim} x {self.dim} matrix"
        )

    def build(self, package):
        return package.SimVQ(
            self.dim,
            self.num_codes,
            rotation_trick=False,
            input_to_quantize_commit_loss_weight=self.commitment,
        )

    def call(self, latents):
        codes, indices, loss = self.run_method(latents)
        error = loss / (1 + self.commitment)  # the value of both terms
        return codes, indices, loss, {"codebook": error, "commitment": error}


class MovingAverageQuantizer(Baseline):
    """The package's `VectorQuantize`: codes are moving averages of their latents, with decay 0.8.

    A code that is never chosen shrinks toward zero; it gets there after some 400 steps.

    Attributes:
        cosine: Whether codes are chosen by angle, with a straight-through gradient, or by distance,
            with the rotation trick.
    """

    commitment = 1.0
    cosine = False

    def build(self, package):
        return package.VectorQuantize(
            self.dim,
            self.num_codes,
            commitment_weight=self.commitment,
            use_cosine_sim=self.cosine,
            rotation_trick=not self.cosine,
            # By itself the package asks only once, when its first quantizer is made.
            sync_codebook=world_size() > 1,
        )

    def call(self, latents):
        # It would also move the codes; here they stay those that forward chose until `after_step`.
        codes, indices, loss, terms = self.run_method(
            latents, freeze_codebook=True, return_loss_breakdown=True
        )
        return codes, indices, loss, {"commitment": terms.commitment} if self.training else {}

    def begin_step(self):
        super().begin_step()
        for average in self._averages():
            average.grad = torch.zeros_like(average)

    def collect(self, latents, indices, counts, counted):
        codebook = self.method._codebook
        latents = codebook.transform_input(latents.float()[None])
        earlier = [average.grad.clone() for average in self._averages()]
        codebook.update_indices(latents, indices[None], accum_ema_update=True)
        for average, before in zip(self._averages(), earlier, strict=True):
            average.grad = torch.where(counted, average.grad, before)

    def follow(self):
        codebook = self.method._codebook
        moves = codebook.cluster_size.grad.sum() > 0  # a step of empty batches moves nothing
        for average in self._averages():
            target = torch.where(moves, average.grad, average)
            follow_average_(average, target, 1 - codebook.decay)
        codebook.update_ema()

    def _averages(self):
        """What the package averages. It collects the sums of a step in their `grad`."""
        codebook = self.method._codebook
        return codebook.cluster_size, codebook.embed_avg


class RotationQuantizer(MovingAverageQuantizer):
    """VQ with the rotation trick (Fifty et al. 2025).

    The gradient is rotated and scaled as the latent is to become its code.
    """

    @property
    def mismatch(self):
        return (
            "rotation trick: K and D match; codes are moving averages with decay 0.8 and "
            f"commitment weight {self.commitment:g}"
        )


class CosineEMAQuantizer(MovingAverageQuantizer):
    """VQ of normalized latents (Yu et al. 2022, the improved VQGAN); codes in use have norm 1.

    A code that is never chosen loses this norm after some 100 steps. Once it is zero, a latent
    whose cosines to all other codes are negative may choose it. The gradient is straight-through;
    the package's default is the rotation trick.
    """

    cosine = True

    @property
    def mismatch(self):
        return (
            "cosine EMA: K and D match, but codes in use have norm 1; they are moving averages "
            f"with decay 0.8 and commitment weight {self.commitment:g}"
        )


BASELINES: dict[str, type[Quantizer]] = {
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "simvq": SimVQQuantizer,
    "rotation": RotationQuantizer,
    "cosine_ema": CosineEMAQuantizer,
}
