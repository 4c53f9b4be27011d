"""Vector quantizers with one interface: latents (B, D, h, w) in, `Quantized` out.

They work inside any training loop::

    quantized = quantizer(latents)
    (reconstruction_loss(quantized.codes) + quantized.loss).backward()
    optimizer.step()
    quantizer.after_step()

All arithmetic is float32 (float64 for float64 latents), also under autocast, so half precision never changes an
index. All state is in parameters and buffers. In evaluation nothing changes and no margin loss is computed.
Where many processes train together (arcvq.runtime.distributed), counts, averages, anchors and margin loss are those of the
latents of all.
"""

import json
from collections.abc import Iterator
from functools import partial
from inspect import isabstract
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, normalize

from arcvq.ops import TINY, nearest_code
from arcvq.ops.blockwise import BLOCK
from arcvq.runtime.checks import check_finite, check_range, check_whole
from arcvq.runtime.distributed import gather, gathered_margin, own_codes, sum_
from arcvq.samp import SAMP, arc_margin_loss, project_to_ball_


class Quantized(NamedTuple):
    """What every quantizer returns.

    codes: (B, D, h, w) float, the chosen codes; their gradient goes straight through to the latents. indices:
    (B, h, w) int64. loss: scalar to add to the training loss. losses: its terms, unweighted and without gradient.
    """

    codes: Float[Tensor, "B D h w"]
    indices: Int[Tensor, "B h w"]
    loss: Float[Tensor, ""]
    losses: dict[str, Float[Tensor, ""]]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class Quantizer(nn.Module):
    """The base: lookup, straight-through codes, the VQ loss and the usage counts.

    num_codes: K from 1. dim: D from 1. beta: the weight of the commitment loss, from 0. `codebook` is (K, D);
    `counts` (K,) int64 counts how often training chose each code since `reset_usage`; `step` counts optimiser steps.
    Follows van den Oord et al. 2017.
    """

    metric = "euclidean"

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25):
        super().__init__()
        check_whole(1, num_codes=num_codes, dim=dim)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta is {beta}; it must be a finite number from 0")
        self.num_codes, self.dim, self.beta = num_codes, dim, beta
        self.codebook: Tensor = nn.Parameter(self.initial_codebook())
        self.counts: Tensor
        self.step: Tensor
        self.batch_counts: Tensor
        self.register_buffer("counts", torch.zeros(num_codes, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batch_counts", torch.zeros(num_codes, dtype=torch.int64), persistent=False)

    def initial_codebook(self) -> Tensor:
        """Uniform in +-1/K: all codes near the origin, as plain VQ-VAEs start."""
        return torch.empty(self.num_codes, self.dim).uniform_(-1 / self.num_codes, 1 / self.num_codes)

    def forward(self, latents: Float[Tensor, "B D h w"]) -> Quantized:
        """Replace each latent by its nearest code. Raises ValueError for a wrong shape and, in evaluation, for NaN."""
        self.check(latents)
        batch, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            flat = at_least_float32(latents).permute(0, 2, 3, 1).reshape(-1, self.dim)
            codebook = self.codebook.to(flat.dtype)
            indices = nearest_code(flat, codebook, self.metric)
            if self.training:
                with torch.no_grad():
                    self.observe(flat.detach(), indices)
            codes = embedding(indices, codebook)
            loss, losses = self.losses(flat, codes)
            # Adds an exact zero, so forward gives the very codes that `lookup` gives, and the gradient goes through.
            codes = (codes.detach() + (flat - flat.detach())).reshape(batch, height, width, self.dim)
        return Quantized(codes.permute(0, 3, 1, 2), indices.reshape(batch, height, width), loss, losses)

    def losses(self, latents: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms, for flat latents and their codes (N, D)."""
        codebook_loss = mse_loss(codes, latents.detach())
        commitment = mse_loss(latents, codes.detach())
        loss = codebook_loss + self.beta * commitment
        return loss, {"codebook": codebook_loss.detach(), "commitment": commitment.detach()}

    def observe(self, latents: Tensor, indices: Tensor) -> None:
        """Count the codes that a training batch chose, over all ranks."""
        self.batch_counts = sum_(torch.zeros_like(self.counts).index_add_(0, indices, torch.ones_like(indices)))
        self.counts += self.batch_counts

    @torch.no_grad()
    def after_step(self) -> None:
        """Call once after each optimiser step; it counts the step and lets the codebook follow."""
        self.step += 1

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "B D h w"]) -> Int[Tensor, "B h w"]:
        """The indices of the nearest codes; nothing is counted. Raises ValueError for a wrong shape or for NaN."""
        self.check(latents)
        check_finite(latents, "latents")
        flat = at_least_float32(latents).permute(0, 2, 3, 1)
        indices = nearest_code(flat.reshape(-1, self.dim), self.codebook.to(flat.dtype), self.metric)
        return indices.reshape(flat.shape[:3])

    @torch.no_grad()
    def lookup(self, indices: Int[Tensor, "B h w"]) -> Float[Tensor, "B D h w"]:
        """The codes of the indices, exactly those that `forward` chose. Raises ValueError for an index out of range."""
        check_range(indices, self.num_codes)
        return embedding(indices, self.codebook).permute(0, 3, 1, 2)

    def reset_usage(self) -> None:
        """Start counting usage anew."""
        self.counts.zero_()

    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build this quantizer again, without its weights."""
        return {"kind": type(self).__name__, "num_codes": self.num_codes, "dim": self.dim, "beta": self.beta}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Quantizer":
        """The quantizer that `config` describes, freshly initialised: of any subclass that was imported.

        Raises ValueError for an unknown kind.
        """
        fields = dict(config)
        kind = fields.pop("kind", None)
        classes: dict[str, Any] = {cls.__name__: cls for cls in _subclasses(Quantizer) if not isabstract(cls)}
        if kind not in classes:
            raise ValueError(f"quantizer {kind!r} is unknown; known are {', '.join(classes)}")
        if fields.get("samp") is not None:
            samp = fields["samp"]
            # Earlier versions wrote the settings of SAMP as a JSON text within the config.
            fields["samp"] = SAMP.from_config(json.loads(samp) if isinstance(samp, str) else samp)
        return classes[kind](**fields)

    def check(self, latents: Tensor) -> None:
        """Raise ValueError for latents of a wrong shape or, in evaluation where waiting is no loss, not finite."""
        if latents.ndim != 4 or latents.shape[1] != self.dim:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; they must be (B, {self.dim}, h, w)")
        if not self.training:
            check_finite(latents, "latents")

    def extra_repr(self) -> str:
        return f"num_codes={self.num_codes}, dim={self.dim}, beta={self.beta}"


def _subclasses(base: type[Quantizer]) -> Iterator[type[Quantizer]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


class EuclideanQuantizer(Quantizer):
    """Plain VQ: the nearest code by Euclidean distance, learned by the VQ loss from a start near the origin."""


class EMAQuantizer(Quantizer):
    """VQ whose codes are moving averages of their latents, Laplace-smoothed (van den Oord et al. 2017, A.1).

    decay: in [0, 1), per step. The codebook gets no gradient. The averages start at the codes with a count of 1.
    """

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25, decay: float = 0.99):
        super().__init__(num_codes, dim, beta)
        self.decay = check_decay(decay)
        self.codebook.requires_grad_(False)
        self.sizes: Tensor
        self.sums: Tensor
        self.batch_sums: Tensor
        self.register_buffer("sizes", torch.ones(num_codes))
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("batch_sums", torch.zeros(num_codes, dim), persistent=False)

    def losses(self, latents, codes):
        commitment = mse_loss(latents, codes.detach())
        return self.beta * commitment, {"commitment": commitment.detach()}

    def observe(self, latents, indices):
        super().observe(latents, indices)
        self.batch_sums = sum_(torch.zeros_like(self.sums).index_add_(0, indices, latents.to(self.sums.dtype)))

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        self.sizes.lerp_(self.batch_counts.to(self.sizes.dtype), 1 - self.decay)
        self.sums.lerp_(self.batch_sums, 1 - self.decay)
        total, epsilon = self.sizes.sum(), 1e-5
        smoothed = (self.sizes + epsilon) / (total + self.num_codes * epsilon) * total
        self.codebook.copy_(self.sums / smoothed[:, None])

    def config(self):
        return {**super().config(), "decay": self.decay}


def check_decay(decay: float) -> float:
    """The decay, or ValueError when it is not in [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
    return decay


class CosineQuantizer(Quantizer):
    """The nearest code by angle, learned by the VQ loss on un-normalised vectors from a start on the unit sphere."""

    metric = "cosine"

    def initial_codebook(self):
        return normalize(torch.empty(self.num_codes, self.dim).uniform_(-1, 1), dim=1, eps=TINY)


class SphericalQuantizer(CosineQuantizer):
    """The cosine quantizer with SAMP (arXiv 2605.13517): the margin loss in `forward`, the ball in `after_step`.

    samp: settings of the prior; with None, `fit` sets `SAMP.for_run(steps)` and other loops get `SAMP.paper()`. A
    `SAMP` whose radius or weight is None leaves that half out.
    """

    def __init__(self, num_codes: int, dim: int, samp: SAMP | None = None, beta: float = 0.25):
        super().__init__(num_codes, dim, beta)
        self.samp = samp

    def settings(self) -> SAMP:
        """The settings in force."""
        return self.samp or SAMP.paper()

    def losses(self, latents, codes):
        loss, terms = super().losses(latents, codes)
        samp = self.settings()
        if not self.training or samp.weight is None:
            return loss, terms
        margin_loss = partial(arc_margin_loss, margin=samp.margin, scale=samp.scale, top_k=samp.top_k)
        margin = gathered_margin(latents, self.codebook, margin_loss)
        return loss + samp.weight.value(self.step, self.batch_usage()) * margin, {**terms, "margin": margin.detach()}

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        radius = self.settings().radius
        if radius is not None:
            project_to_ball_(self.codebook, radius.value(self.step, self.batch_usage()))

    def batch_usage(self) -> Tensor:
        """The share of codes that the last training batch chose, of those that it could: min(K, N)."""
        reachable = self.batch_counts.sum().clamp(1, self.num_codes)
        return (self.batch_counts > 0).sum() / reachable

    def config(self):
        return {**super().config(), "samp": self.samp.config() if self.samp else None}


class OnlineClusteredQuantizer(CosineQuantizer):
    """CVQ-VAE (Zheng and Vedaldi 2023): codes that are rarely chosen move to latents drawn from the batch.

    decay: of the running usage, in [0, 1). As in the authors' code: lookup by cosine, start in +-1/K, anchors drawn
    with probability softmax over the batch of the cosine. Their extra contrastive loss is left out.
    """

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25, decay: float = 0.99):
        super().__init__(num_codes, dim, beta)
        self.decay = check_decay(decay)
        self.shares: Tensor
        self.anchors: Tensor
        self.register_buffer("shares", torch.zeros(num_codes))
        self.register_buffer("anchors", torch.zeros(num_codes, dim), persistent=False)

    def initial_codebook(self):
        return Quantizer.initial_codebook(self)

    def observe(self, latents, indices):
        super().observe(latents, indices)
        latents = gather(latents)
        if len(latents):
            anchors = torch.zeros_like(self.anchors)
            anchors[own_codes(self.num_codes)] = latents[self.draw(latents)].to(anchors.dtype)
            self.anchors = sum_(anchors)

    def draw(self, latents: Tensor) -> Tensor:
        """One of the latents for each code of this rank, drawn with probability softmax_i cos(z_i, e_j)."""
        own, size = own_codes(self.num_codes), max(1, BLOCK // len(latents))
        directions = normalize(latents, dim=1, eps=TINY)
        codes = normalize(self.codebook[own].to(latents.dtype), dim=1, eps=TINY)
        # Numbers for all codes on every rank: with equal seeds the ranks together draw what one alone would.
        numbers = torch.rand(self.num_codes, 1, device=codes.device, dtype=codes.dtype)[own]
        drawn = []
        for block, number in zip(codes.split(size), numbers.split(size), strict=True):
            shares = (block @ directions.T).exp_().cumsum(1)
            drawn.append(torch.searchsorted(shares, number * shares[:, -1:])[:, 0])
        return torch.cat(drawn).clamp_max_(len(latents) - 1)

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        total = self.batch_counts.sum().clamp_min(1)
        self.shares.lerp_(self.batch_counts.to(self.shares.dtype) / total, 1 - self.decay)
        move = torch.exp(-self.shares * self.num_codes * 10 / (1 - self.decay) - 1e-3)
        self.codebook.lerp_(self.anchors, move[:, None])

    def config(self):
        return {**super().config(), "decay": self.decay}


class ContinuousQuantizer(Quantizer):
    """No quantization: the latents go through. An autoencoder with it is the limit that quantizers aim at."""

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25):
        super().__init__(num_codes, dim, beta)
        self.codebook.requires_grad_(False)

    def forward(self, latents):
        self.check(latents)
        codes, zero = at_least_float32(latents), latents.new_zeros((), dtype=torch.float32)
        indices = torch.zeros_like(latents[:, 0], dtype=torch.int64)
        return Quantized(codes, indices, zero, {})


QUANTIZERS: dict[str, type[Quantizer]] = {
    "plain": EuclideanQuantizer,
    "ema": EMAQuantizer,
    "cosine": CosineQuantizer,
    "cvq": OnlineClusteredQuantizer,
    "samp": SphericalQuantizer,
    "continuous": ContinuousQuantizer,
}
