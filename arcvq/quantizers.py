"""Vector quantizers with one interface: latents (B, D, h, w) in, `Quantized` out.

A quantizer works inside any training loop::

    quantized = quantizer(latents)
    loss = reconstruction_loss(decoder(quantized.codes)) + quantized.loss
    loss.backward()
    optimizer.step()
    quantizer.after_step()

The arithmetic is in float32 (in float64 for float64 latents), also under autocast, so that half
precision never changes an index. All state is in parameters and buffers. In eval mode no
state is updated, and there is no margin loss.

Where several processes train together (DistributedDataParallel), usage counts, moving averages,
anchors and the margin loss are those of the latents of all processes. The functions of
`arcvq.runtime.distributed` that appear below see to that; in a single process they do nothing.
"""

import json
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, normalize

from arcvq.ops import nearest_code
from arcvq.ops.blockwise import BLOCK
from arcvq.runtime.checks import check_finite, check_range, check_whole
from arcvq.runtime.distributed import gather, gathered_margin, own_codes, sum_
from arcvq.samp import SAMP, arc_margin_loss, project_to_ball_


class Quantized(NamedTuple):
    """What every quantizer returns.

    Attributes:
        codes: The chosen codes in the place of their latents. Their gradient goes straight through
            to the latents.
        indices: Their indices in the codebook, int64.
        loss: What to add to the training loss.
        losses: The unweighted terms of `loss` by name, without gradient.
    """

    codes: Float[Tensor, "B D h w"]
    indices: Int[Tensor, "B h w"]
    loss: Float[Tensor, ""]
    losses: dict[str, Float[Tensor, ""]]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Quantizer(nn.Module):
    """Base class: lookup of the nearest code, straight-through gradient, VQ loss and usage counts.

    Follows van den Oord et al. 2017. Subclasses choose the `metric` and override
    `initial_codebook`, `compute_loss`, `observe` and `after_step` as needed, or all of `quantize`.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.

    Attributes:
        metric: What "nearest" means: "euclidean" distance or "cosine", the angle.
        trainable: Whether the optimizer moves the codebook.
        kinds: Every subclass by its name.
        codebook: (K, D) the codes.
        counts: (K,) how often training has chosen each code since `reset_usage`.
        batch_counts: (K,) the same for the last training batch alone.
        step: () number of optimizer steps done, as `after_step` counts them.
    """

    metric = "euclidean"
    trainable = True
    kinds: ClassVar[dict[str, Any]] = {}
    codebook: Tensor
    counts: Tensor
    batch_counts: Tensor
    step: Tensor

    def __init_subclass__(cls) -> None:
        Quantizer.kinds[cls.__name__] = cls

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25):
        super().__init__()
        check_whole(1, num_codes=num_codes, dim=dim)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta is {beta}; it must be a finite number from 0")
        self.num_codes = num_codes
        self.dim = dim
        self.beta = beta
        self.codebook = nn.Parameter(self.initial_codebook(), requires_grad=self.trainable)
        no_counts = torch.zeros(num_codes, dtype=torch.int64)
        self.register_buffer("counts", no_counts)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batch_counts", no_counts.clone(), persistent=False)

    def initial_codebook(self) -> Float[Tensor, "K D"]:
        """Draw the first codes: uniform in +-1/K, all near the origin, as plain VQ-VAEs start."""
        limit = 1 / self.num_codes
        return torch.empty(self.num_codes, self.dim).uniform_(-limit, limit)

    def forward(self, latents: Float[Tensor, "B D h w"]) -> Quantized:
        """Replace each latent by its nearest code, and compute the loss.

        Args:
            latents: Output of an encoder.

        Returns:
            Codes, indices and losses; the usage counts are updated in training mode.

        Raises:
            ValueError: For latents of a wrong shape and, in evaluation, for NaN or infinite ones.
        """
        self.check_latents(latents)
        grid = latents.movedim(1, -1)
        with torch.autocast(latents.device.type, enabled=False):
            rows = at_least_float32(grid).reshape(-1, self.dim)
            codes, indices, loss, terms = self.quantize(rows)
        return Quantized(
            codes=codes.reshape(grid.shape).movedim(-1, 1),
            indices=indices.reshape(grid.shape[:-1]),
            loss=loss,
            losses={name: term.detach() for name, term in terms.items()},
        )

    def quantize(
        self, latents: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"], Tensor, dict[str, Tensor]]:
        """Do the work of `forward` on flat latents, in their precision and without checks.

        Returns:
            Codes with their gradient, indices, the loss and its terms.
        """
        codebook = self.codebook.to(latents.dtype)
        indices = nearest_code(latents, codebook, self.metric)
        if self.training:
            # Before the loss, whose weight may depend on the usage of this batch.
            with torch.no_grad():
                self.observe(latents.detach(), indices)
        codes = embedding(indices, codebook)
        loss, terms = self.compute_loss(latents, codes)
        # Straight-through estimator. The bracket is exactly 0 for finite latents, so these are the
        # very codes that `lookup` returns, while the gradient goes to the latents.
        codes = codes.detach() + (latents - latents.detach())
        return codes, indices, loss, terms

    def compute_loss(
        self, latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the VQ loss of flat latents and their codes.

        Returns:
            The weighted sum, and its terms without their weights.
        """
        # The codebook learns from the first term alone, the encoder from the second alone.
        codebook_loss = mse_loss(codes, latents.detach())
        commitment_loss = mse_loss(latents, codes.detach())
        loss = codebook_loss + self.beta * commitment_loss
        return loss, {"codebook": codebook_loss, "commitment": commitment_loss}

    def observe(self, latents: Float[Tensor, "N D"], indices: Int[Tensor, " N"]) -> None:
        """Update statistics from a training batch: here, count the codes that it chose."""
        counts = torch.zeros_like(self.counts).index_add_(0, indices, torch.ones_like(indices))
        # Summed over all processes, so that the buffers stay equal in all of them.
        self.batch_counts = sum_(counts)
        self.counts += self.batch_counts

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step, and let a codebook that needs it follow. Call once per optimizer step."""
        self.step += 1

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "B D h w"]) -> Int[Tensor, "B h w"]:
        """Return the indices of the nearest codes without counting them.

        Raises:
            ValueError: For latents of a wrong shape, and for NaN or infinite ones.
        """
        self.check_latents(latents)
        check_finite(latents, "latents")
        grid = at_least_float32(latents).movedim(1, -1)
        rows = grid.reshape(-1, self.dim)
        indices = nearest_code(rows, self.codebook.to(rows.dtype), self.metric)
        return indices.reshape(grid.shape[:-1])

    @torch.no_grad()
    def lookup(self, indices: Int[Tensor, "B h w"]) -> Float[Tensor, "B D h w"]:
        """Return the codes of indices, exactly those that `forward` chose.

        Raises:
            ValueError: For an index out of range.
        """
        check_range(indices, self.num_codes)
        return embedding(indices, self.codebook).movedim(-1, 1)

    def reset_usage(self) -> None:
        """Start counting usage anew."""
        self.counts.zero_()

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build this quantizer again, without its weights."""
        return {
            "kind": type(self).__name__,
            "num_codes": self.num_codes,
            "dim": self.dim,
            "beta": self.beta,
        }

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Quantizer":
        """Build the quantizer that `config` describes, with a new codebook.

        Args:
            config: What `config()` of a quantizer returned. Its "kind" is the name of any subclass
                of `Quantizer` that has been imported, so your own works as well.

        Raises:
            ValueError: For an unknown kind.
        """
        fields = dict(config)
        kind = fields.pop("kind", None)
        if kind not in Quantizer.kinds:
            raise ValueError(
                f"quantizer {kind!r} is unknown; known are {', '.join(Quantizer.kinds)}"
            )
        samp = fields.get("samp")
        if isinstance(samp, str):  # earlier versions wrote these settings as a JSON text
            samp = json.loads(samp)
        if samp is not None:
            fields["samp"] = SAMP.from_config(samp)
        return Quantizer.kinds[kind](**fields)

    def check_latents(self, latents: Tensor) -> None:
        """Raise ValueError for latents of a wrong shape and, in evaluation, for NaN or infinity.

        In training, values are not looked at, since that would wait for the device.
        """
        if latents.ndim != 4 or latents.shape[1] != self.dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; they must be (B, {self.dim}, h, w)"
            )
        if not self.training:
            check_finite(latents, "latents")

    def extra_repr(self) -> str:
        return f"num_codes={self.num_codes}, dim={self.dim}, beta={self.beta}"


class EuclideanQuantizer(Quantizer):
    """Plain VQ: the nearest code by Euclidean distance, learned by the VQ loss."""


class EMAQuantizer(Quantizer):
    """VQ whose codes are moving averages of their latents (van den Oord et al. 2017, appendix A.1).

    The codebook gets no gradient. The averages start at the initial codes, each with a count of 1,
    and the counts are Laplace-smoothed.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.
        decay: Decay of the averages per step, in [0, 1).
    """

    trainable = False
    sizes: Tensor  # (K,) average number of latents of each code
    sums: Tensor  # (K, D) average sum of these latents
    batch_sums: Tensor  # (K, D) sum of the latents of the last batch

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25, decay: float = 0.99):
        super().__init__(num_codes, dim, beta)
        _check_decay(decay)
        self.decay = decay
        self.register_buffer("sizes", torch.ones(num_codes))
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("batch_sums", torch.zeros(num_codes, dim), persistent=False)

    def compute_loss(self, latents, codes):
        commitment_loss = mse_loss(latents, codes.detach())
        return self.beta * commitment_loss, {"commitment": commitment_loss}

    def observe(self, latents, indices):
        super().observe(latents, indices)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, latents.to(self.sums.dtype))
        self.batch_sums = sum_(sums)  # over all processes

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        self.sizes.lerp_(self.batch_counts.to(self.sizes.dtype), 1 - self.decay)
        self.sums.lerp_(self.batch_sums, 1 - self.decay)
        # Laplace smoothing: no code has size 0, and the sizes still add up to the total.
        total = self.sizes.sum()
        epsilon = 1e-5
        smoothed = (self.sizes + epsilon) / (total + self.num_codes * epsilon) * total
        self.codebook.copy_(self.sums / smoothed[:, None])

    def config(self):
        return {**super().config(), "decay": self.decay}


def _check_decay(decay):
    """Raise ValueError for a decay that is not in [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")


class CosineQuantizer(Quantizer):
    """The nearest code by angle, learned by the VQ loss from a start on the unit sphere.

    Only the lookup looks at directions alone: the VQ loss and the decoder get the codes with their
    norms.
    """

    metric = "cosine"

    def initial_codebook(self):
        return normalize(torch.empty(self.num_codes, self.dim).uniform_(-1, 1), dim=1)


class SphericalQuantizer(CosineQuantizer):
    """The cosine quantizer with SAMP, the prior of ArcVQ-VAE (arXiv 2605.13517; see `arcvq.samp`).

    `forward` adds the margin loss, and `after_step` keeps the codes inside the ball.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        samp: Settings of the prior, where a radius or a weight of None leaves out that half. With
            None, `arcvq.fit` sets `SAMP.for_run(steps)`, and other loops get `SAMP.paper()`.
        beta: Weight of the commitment loss, at least 0.
    """

    def __init__(self, num_codes: int, dim: int, samp: SAMP | None = None, beta: float = 0.25):
        super().__init__(num_codes, dim, beta)
        self.samp = samp

    def active_samp(self) -> SAMP:
        """Return the settings in force: `samp`, or the paper's where it is None."""
        return self.samp or SAMP.paper()

    def compute_loss(self, latents, codes):
        loss, terms = super().compute_loss(latents, codes)
        samp = self.active_samp()
        if not self.training or samp.weight is None:
            return loss, terms

        # The margin loss has no gradient to the codebook (`arc_margin_loss` detaches it). With
        # several processes, each takes a share of the codes and compares it with all latents.
        margin_loss = gathered_margin(
            latents,
            self.codebook,
            partial(arc_margin_loss, margin=samp.margin, scale=samp.scale, top_k=samp.top_k),
        )
        weight = samp.weight.value(self.step, self.batch_usage())
        return loss + weight * margin_loss, {**terms, "margin": margin_loss}

    def after_step(self):
        # The ball comes after the optimizer step and has the radius M(t) for t steps done, this one
        # included. So the codes are inside it whenever they are used or saved.
        super().after_step()
        radius = self.active_samp().radius
        if radius is not None:
            project_to_ball_(self.codebook, radius.value(self.step, self.batch_usage()))

    def batch_usage(self) -> Float[Tensor, ""]:
        """Return the share of codes that the last training batch chose.

        N latents cannot choose more than N codes, so it is the share of the smaller of K and N.
        """
        reachable = self.batch_counts.sum().clamp(1, self.num_codes)
        return (self.batch_counts > 0).sum() / reachable

    def config(self):
        return {**super().config(), "samp": self.samp.config() if self.samp else None}


class OnlineClusteredQuantizer(CosineQuantizer):
    """CVQ-VAE (Zheng and Vedaldi 2023): codes that are rarely chosen move to latents of the batch.

    As in the authors' code, the lookup is by cosine, the codes start in +-1/K, and each code draws
    its anchor among the latents with probability softmax(cosine). Their additional contrastive loss
    is left out.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.
        decay: Decay of the average usage per step, in [0, 1).
    """

    shares: Tensor  # (K,) average share of the latents that chose each code
    anchors: Tensor  # (K, D) latent of the last batch that each code may move to

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25, decay: float = 0.99):
        super().__init__(num_codes, dim, beta)
        _check_decay(decay)
        self.decay = decay
        self.register_buffer("shares", torch.zeros(num_codes))
        self.register_buffer("anchors", torch.zeros(num_codes, dim), persistent=False)

    initial_codebook = Quantizer.initial_codebook

    def observe(self, latents, indices):
        super().observe(latents, indices)
        # Each process draws anchors for its share of the codes among the latents of all.
        latents = gather(latents)
        if len(latents):
            anchors = torch.zeros_like(self.anchors)
            drawn = latents[self.draw_anchors(latents)]
            anchors[own_codes(self.num_codes)] = drawn.to(anchors.dtype)
            self.anchors = sum_(anchors)

    def draw_anchors(self, latents: Float[Tensor, "N D"]) -> Int[Tensor, " own"]:
        """Draw an anchor among the latents for each code of this process.

        For code j, latent i is drawn with probability softmax_i(cos(z_i, e_j)).

        Returns:
            Places of the anchors among the latents.
        """
        own = own_codes(self.num_codes)
        directions = normalize(latents, dim=1)
        codes = normalize(self.codebook[own].to(latents.dtype), dim=1)
        # Every process draws numbers for all codes, so that with equal seeds all processes together
        # draw what a single one would.
        uniform = torch.rand(self.num_codes, 1, device=codes.device, dtype=codes.dtype)[own]
        drawn = []
        size = max(1, BLOCK // len(latents))  # codes at a time, for the sake of memory
        for block, numbers in zip(codes.split(size), uniform.split(size), strict=True):
            cumulative = (block @ directions.T).exp_().cumsum(1)
            places = torch.searchsorted(cumulative, numbers * cumulative[:, -1:])
            drawn.append(places[:, 0])
        return torch.cat(drawn).clamp_max_(len(latents) - 1)

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        total = self.batch_counts.sum().clamp_min(1)
        self.shares.lerp_(self.batch_counts.to(self.shares.dtype) / total, 1 - self.decay)
        # With the paper's constants a code of the average share 1/K stays where it is, and one that
        # nobody chooses goes all the way to its anchor.
        move = torch.exp(-self.shares * self.num_codes * 10 / (1 - self.decay) - 1e-3)
        self.codebook.lerp_(self.anchors, move[:, None])

    def config(self):
        return {**super().config(), "decay": self.decay}


class ContinuousQuantizer(Quantizer):
    """No quantization: the latents pass through unchanged, with loss 0 and indices 0.

    An autoencoder with it shows the quality that quantizers can at best come near to.
    """

    trainable = False

    def forward(self, latents):
        self.check_latents(latents)
        return Quantized(
            codes=at_least_float32(latents),
            indices=torch.zeros_like(latents[:, 0], dtype=torch.int64),
            loss=latents.new_zeros((), dtype=torch.float32),
            losses={},
        )


QUANTIZERS: dict[str, type[Quantizer]] = {
    "plain": EuclideanQuantizer,
    "ema": EMAQuantizer,
    "cosine": CosineQuantizer,
    "cvq": OnlineClusteredQuantizer,
    "samp": SphericalQuantizer,
    "continuous": ContinuousQuantizer,
}
