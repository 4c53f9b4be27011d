"""Vector quantizers with one interface: latents (B, D, *grid) in, `Quantized` out.

A quantizer works inside any training loop::

    quantized = quantizer(latents)
    loss = reconstruction_loss(decoder(quantized.codes)) + quantized.loss
    loss.backward()
    optimizer.step()
    quantizer.after_step()

In training, `forward` collects the statistics of the batch and `after_step` uses them: several
forward passes before one `after_step` (gradient accumulation) count as one large batch, and a batch
with NaN or infinite latents counts for nothing. In evaluation, and with a frozen codebook, no code
moves. (In evaluation within a group of processes, codes get a gradient of 0, on which momentum and
weight decay still act.)

The arithmetic is in float32 (in float64 for float64 latents), also under autocast and for modules
in half precision, and lookup and losses take no notice of `torch.set_float32_matmul_precision`. So
half precision inside the quantizer never changes an index. All state is in parameters and buffers.

Where several processes train together (DistributedDataParallel, FSDP2), usage counts, moving
averages, anchors and the margin loss are those of the latents of all processes. The functions of
`arcvq.runtime.distributed` that appear below see to that; in a single process they do nothing.
"""

import json
import warnings
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, normalize
from torch.nn.utils.parametrize import is_parametrized

from arcvq.ops import nearest_code
from arcvq.ops.blockwise import BLOCK
from arcvq.runtime.checks import (
    as_indices,
    check_finite,
    check_not_negative,
    check_whole,
    is_number,
    is_transformed,
)
from arcvq.runtime.distributed import (
    assign_,
    gather,
    gathered_margin,
    in_group,
    own_codes,
    sum_,
    whole,
    world_size,
)
from arcvq.runtime.kinds import Kinds
from arcvq.runtime.precision import HALF, at_least_float32, autocast_off
from arcvq.samp import SAMP, arc_margin_loss, project_to_ball_
from arcvq.schedules import exact


class Quantized(NamedTuple):
    """What every quantizer returns.

    Attributes:
        codes: The chosen codes in the place of their latents, in their dtype; 0 where a mask is
            False. Their gradient goes straight through to the latents.
        indices: Their indices in the codebook, int64, in the shape of the latents without D; -1
            where a mask is False.
        loss: What to add to the training loss.
        losses: The unweighted terms of `loss` by name, without gradient.
    """

    codes: Float[Tensor, "B D *grid"]
    indices: Int[Tensor, "B *grid"]
    loss: Float[Tensor, ""]
    losses: dict[str, Float[Tensor, ""]]


def mean_squared_error(
    latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]
) -> Float[Tensor, ""]:
    """Return the mean squared error; of an empty batch 0, which is still part of the graph."""
    if latents.shape[0] == 0:  # unlike len, it stays symbolic in torch.export
        return (latents - codes).sum()
    return mse_loss(latents, codes)


def all_finite(tensor: Tensor) -> Bool[Tensor, ""]:
    """Whether all values are finite, without waiting for the device."""
    # 0 times infinity is NaN. The sum of the values themselves could overflow.
    return (tensor * 0).sum() == 0


def is_repeated() -> bool:
    """Whether activation checkpointing repeats a forward pass, which it does in a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@torch.library.custom_op("arcvq::is_first", mutates_args=())
def _is_first(latents: Tensor) -> Tensor:
    """Whether it is not `is_repeated`, found out anew whenever a compiled forward pass runs."""
    return torch.full((), not is_repeated(), device=latents.device)


@_is_first.register_fake
def _(latents):
    return latents.new_empty((), dtype=torch.bool)


def is_counted(latents: Tensor) -> Bool[Tensor, ""]:
    """Whether a batch of latents counts, without waiting for the device.

    One with NaN or infinity does not. Usually its optimizer step is skipped as well, and one such
    batch would stay in a moving average for ever. Neither does a compiled forward pass that is
    repeated; others end before they ask.
    """
    counted = all_finite(latents)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        counted &= _is_first(latents)
    return counted


class Quantizer(nn.Module, Kinds):
    """Base class: lookup of the nearest code, straight-through gradient, VQ loss and usage counts.

    Follows van den Oord et al. 2017. Subclasses choose the `metric` and override
    `initial_codebook`, `compute_loss`, `collect` and `follow` as needed, or all of `quantize`.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.
        channel_last: Whether latents and codes are (B, *grid, D), as in transformers, instead of
            (B, D, *grid).
        revive_after: A code that no latent has chosen for this many steps is replaced by a random
            latent of the batch; None to leave such codes alone.

    Attributes:
        metric: What "nearest" means: "euclidean" distance or "cosine", the angle.
        trainable: Whether the optimizer moves the codebook.
        index_shape: The axes of indices after those of the grid: none, where there is a single
            codebook (see `arcvq.composites`).
        codebook: (K, D) the codes.
        counts: (K,) how often training has chosen each code since `reset_usage`.
        batch_counts: (K,) the same for the last optimizer step alone, or the one under way.
        step: () number of optimizer steps done, as `after_step` counts them.
    """

    metric = "euclidean"
    trainable = True
    index_shape: tuple[int, ...] = ()
    codebook: Tensor
    counts: Tensor
    batch_counts: Tensor
    step: Tensor
    idle: Tensor  # (K,) steps since a latent chose each code, kept with `revive_after`
    anchors: Tensor  # (K, D) for each code a latent of the step that it may move to
    anchor_weights: Tensor  # (K,) what the choice of anchors knows of earlier batches of the step

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        *,
        channel_last: bool = False,
        revive_after: int | None = None,
    ):
        super().__init__()
        check_whole(1, num_codes=num_codes, dim=dim)
        check_not_negative(beta=beta)
        if revive_after is not None:
            check_whole(1, revive_after=revive_after)
        self.num_codes = int(num_codes)
        self.dim = int(dim)
        self.beta = float(beta)
        self.channel_last = channel_last
        self.revive_after = None if revive_after is None else int(revive_after)
        self.pending = False  # whether a batch was collected since the last `after_step`
        self.masked = False  # whether the latents of the last batch came with a mask
        self.codebook = nn.Parameter(self.initial_codebook())
        no_counts = torch.zeros(self.num_codes, dtype=torch.int64)
        self.register_buffer("counts", no_counts)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batch_counts", no_counts.clone(), persistent=False)
        if revive_after is not None:
            self.register_buffer("idle", no_counts.clone())
            self.register_anchors()

    def initial_codebook(self) -> Float[Tensor, "K D"]:
        """Draw the first codes: uniform in +-1/K, all near the origin, as plain VQ-VAEs start."""
        limit = 1 / self.num_codes
        return torch.empty(self.num_codes, self.dim).uniform_(-limit, limit)

    # ---- forward ----

    def forward(
        self, latents: Float[Tensor, "B *axes"], mask: Bool[Tensor, "B *grid"] | None = None
    ) -> Quantized:
        """Replace each latent by its nearest code, and compute the loss.

        Args:
            latents: Output of an encoder, (B, D, *grid) with any number of axes in the grid, none
                included; with `channel_last` (B, *grid, D).
            mask: False for padding, which gets no index (-1) and the code 0, and which neither
                counts nor adds to any loss. A mask makes the step wait for the device.

        Returns:
            Codes, indices and losses.

        Raises:
            ValueError: If the latents or the mask have a wrong shape or type, if the mask is False
                everywhere, and in evaluation if the latents or the codebook are not finite.
        """
        self.check_latents(latents)
        grid = self._channels_at_end(latents)
        rows = at_least_float32(grid).reshape(-1, self.dim)
        self.masked = mask is not None
        if mask is not None:
            check_mask(mask, grid.shape[:-1])
            mask = mask.flatten().to(rows.device)
            padded_length = len(rows)
            rows = rows[mask]
        if not self.training:  # in training it would wait for the device
            self.check_values(rows)
        with autocast_off(latents):
            codes, indices, loss, terms = self.quantize(rows)
        if mask is not None:
            codes = codes.new_zeros(padded_length, self.dim).masked_scatter(mask[:, None], codes)
            indices = indices.new_full((padded_length,), -1).masked_scatter(mask, indices)
        return Quantized(
            codes=self._like_latents(codes.reshape(grid.shape), latents),
            indices=indices.reshape(grid.shape[:-1]),
            loss=loss,
            losses={name: term.detach() for name, term in terms.items()},
        )

    @property
    def channel_axis(self) -> int:
        """The axis of latents and codes that has D entries."""
        return -1 if self.channel_last else 1

    def _channels_at_end(self, latents: Tensor) -> Tensor:
        """(B, *grid, D), whatever the layout of the latents."""
        return latents.movedim(self.channel_axis, -1)

    def _like_latents(self, codes: Tensor, latents: Tensor) -> Tensor:
        """Codes (B, *grid, D) in layout, dtype and memory format of the latents."""
        codes = codes.movedim(-1, self.channel_axis).to(latents.dtype)
        return codes.contiguous() if latents.is_contiguous() else codes

    def quantize(
        self, latents: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"], Tensor, dict[str, Tensor]]:
        """Do the work of `forward` on flat latents, in their precision and without checks.

        Returns:
            Codes with their gradient, indices, the loss and its terms.
        """
        codebook = whole(self.codebook).to(latents.dtype)
        indices = nearest_code(latents, codebook, self.metric)
        if self.training:
            # Before the loss, whose weight may depend on the usage of this batch.
            self.observe(latents.detach(), indices)
        codes = embedding(indices, codebook)
        # In evaluation the loss has the same value, but no gradient that would move a code.
        loss, terms = self.compute_loss(latents, codes if self.training else codes.detach())
        if in_group() and not (self.training and self.trainable):
            # DistributedDataParallel waits for a gradient of every parameter, also where it has a
            # single process; this one is zero.
            loss = loss + 0.0 * codes.sum()
        # Straight-through estimator. The bracket is exactly 0 for finite latents, so these are the
        # very codes that `lookup` returns, while the gradient goes to the latents.
        codes = codes.detach() + (latents - latents.detach())
        return codes, indices, loss, terms

    def compute_loss(
        self, latents: Float[Tensor, "N D"], codes: Float[Tensor, "N D"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the VQ loss of flat latents and their codes.

        Args:
            latents: Latents with their gradient.
            codes: Their codes; in evaluation without gradient, so that no code moves.

        Returns:
            The weighted sum, and its terms without their weights.
        """
        # The codebook learns from the first term alone, the encoder from the second alone.
        codebook_loss = mean_squared_error(latents.detach(), codes)
        commitment_loss = mean_squared_error(latents, codes.detach())
        loss = codebook_loss + self.beta * commitment_loss
        return loss, {"codebook": codebook_loss, "commitment": commitment_loss}

    # ---- statistics of a step ----

    @torch.no_grad()
    def observe(self, latents: Float[Tensor, "N D"], indices: Int[Tensor, " N"]) -> None:
        """Add a training batch to the statistics of the step under way."""
        if is_transformed():
            return
        numbers = self.draw_numbers(latents)
        if is_repeated():
            return  # the batch has been counted
        if not self.pending:
            self.begin_step()
            self.pending = True
        counted = is_counted(latents)
        ones = counted.to(self.counts.dtype).expand(len(indices))
        counts = torch.zeros_like(self.counts).index_add_(0, indices, ones)
        # Summed over all processes, so that the buffers stay equal in all of them.
        counts = sum_(counts)
        self.batch_counts += counts
        self.counts += counts
        if not self.frozen:
            self.collect(latents, indices, counts, counted)
        if numbers is not None:
            self.collect_anchors(latents, numbers)

    def begin_step(self) -> None:
        """Clear the statistics for the first batch of an optimizer step."""
        self.batch_counts.zero_()
        if self.has_anchors:
            self.anchor_weights.zero_()

    def collect(
        self,
        latents: Float[Tensor, "N D"],
        indices: Int[Tensor, " N"],
        counts: Int[Tensor, " K"],
        counted: Bool[Tensor, ""],
    ) -> None:
        """Collect what `follow` needs of a batch, besides counts and anchors: here nothing.

        Not called while the codebook is frozen.

        Args:
            latents: The latents of this process.
            indices: Indices of their codes.
            counts: How often each code was chosen, by the latents of all processes.
            counted: Whether the batch counts (`is_counted`). Otherwise nothing may be collected.
        """

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step, and let the codebook follow it. Call once per optimizer step.

        In evaluation nothing happens, and with a frozen codebook only the step is counted. Without
        a forward pass in training since the last call, it warns and does nothing.
        """
        if not self.training:
            return
        if not self.pending:
            warnings.warn(
                "after_step was called without a forward pass in training since the last call; "
                "it did nothing",
                stacklevel=3,  # above the decorator
            )
            return
        self.pending = False
        self.step += 1
        if not self.frozen:
            self.follow()

    def follow(self) -> None:
        """Move the codebook after an optimizer step: here, revive codes."""
        if self.revive_after is None:
            return
        seen = self.batch_counts.sum() > 0
        self.idle += seen
        self.idle.masked_fill_(self.batch_counts > 0, 0)
        dead = (self.idle >= self.revive_after) & (self.anchor_weights > 0)
        self.replace_codes(dead, self.anchors)

    def replace_codes(self, chosen: Bool[Tensor, " K"], codes: Float[Tensor, "K D"]) -> None:
        """Replace the chosen codes by others, as if these had been there from the start."""
        codebook = whole(self.codebook)
        codes = codes.to(codebook.dtype)
        assign_(self.codebook, torch.where(chosen[:, None], codes, codebook))
        if self.revive_after is not None:
            self.idle.masked_fill_(chosen, 0)

    # ---- anchors: latents of the batch that codes may move to ----

    @property
    def has_anchors(self) -> bool:
        """Whether anchors are collected."""
        return "anchors" in self._buffers

    def register_anchors(self) -> None:
        """Make the buffers of the anchors."""
        anchors = torch.zeros(self.num_codes, self.dim)
        weights = torch.zeros(self.num_codes)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("anchor_weights", weights, persistent=False)

    def draw_numbers(self, latents: Float[Tensor, "N D"]) -> Float[Tensor, " K"] | None:
        """Draw a number in [0, 1) for each code, to choose its anchor by; None without anchors.

        Every process draws numbers for all codes, so that with equal seeds all processes together
        choose what a single one would. A repeated forward pass draws again, so that what follows
        the quantizer in it, dropout for instance, draws what it drew the first time.
        """
        if self.frozen or not self.has_anchors:
            return None
        return torch.rand(self.num_codes, device=latents.device, dtype=latents.dtype)

    def collect_anchors(self, latents: Float[Tensor, "N D"], numbers: Float[Tensor, " K"]) -> None:
        """Choose a latent for each code among those of the whole step, and keep it in `anchors`."""
        # Each process chooses for its share of the codes among the latents of all.
        latents = gather(latents, ragged=self.masked)
        if len(latents) == 0:
            return
        own = own_codes(self.num_codes)
        weights = self.anchor_weights[own]
        places, new_weights = self.choose_anchors(latents, weights, numbers[own])
        counted = is_counted(latents)
        taken = (places >= 0) & counted
        drawn = latents[places.clamp_min(0)].to(self.anchors.dtype)
        anchors = torch.where(taken[:, None], drawn, self.anchors[own])
        self.anchors.copy_(self._of_all(anchors))
        self.anchor_weights.copy_(self._of_all(torch.where(counted, new_weights, weights)))

    def choose_anchors(
        self,
        latents: Float[Tensor, "N D"],
        weights: Float[Tensor, " own"],
        numbers: Float[Tensor, " own"],
    ) -> tuple[Int[Tensor, " own"], Float[Tensor, " own"]]:
        """Choose an anchor for each code of this process, each latent with the same probability.

        Args:
            latents: Latents of a batch, at least one.
            weights: Weight of earlier batches of this step, here their number of latents.
            numbers: Random numbers in [0, 1).

        Returns:
            Places of the anchors among the latents, -1 to keep the earlier anchor; and the weights
            with this batch.
        """
        total = weights + len(latents)
        places = numbers * total - weights
        return places.floor().long().clamp(-1, len(latents) - 1), total

    def _of_all(self, own_values: Tensor) -> Tensor:
        """Combine the values that each process has for its own codes."""
        if world_size() == 1:
            return own_values
        values = own_values.new_zeros(self.num_codes, *own_values.shape[1:])
        values[own_codes(self.num_codes)] = own_values
        return sum_(values)

    # ---- indices and codes ----

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "B *axes"]) -> Int[Tensor, "B *grid"]:
        """Return the indices of the nearest codes without counting them.

        Args:
            latents: Latents, laid out as for `forward`.

        Raises:
            ValueError: If the latents have a wrong shape or type, and if latents or codebook are
                not finite.
        """
        self.check_latents(latents)
        self.check_values(latents)
        grid = at_least_float32(self._channels_at_end(latents))
        rows = grid.reshape(-1, self.dim)
        indices = nearest_code(rows, whole(self.codebook).to(rows.dtype), self.metric)
        return indices.reshape(grid.shape[:-1])

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "B *grid"]) -> Float[Tensor, "B *axes"]:
        """Return the codes of indices, exactly those that `forward` chose.

        Args:
            indices: Indices of any integer type.

        Returns:
            Codes (B, D, *grid) in the dtype of the codebook; with `channel_last` (B, *grid, D).

        Raises:
            ValueError: If an index is not in the codebook, or the indices are no integers.
        """
        if indices.ndim == 0:
            raise ValueError("indices have shape (); they must be (B, *grid)")
        codes = embedding(as_indices(indices, self.num_codes), whole(self.codebook))
        return codes.movedim(-1, self.channel_axis).contiguous()

    def replace(self, latents: Float[Tensor, "B *axes"]) -> Float[Tensor, "B *axes"]:
        """Return the code of each latent, without gradient, loss or counting."""
        return self.lookup(self.encode(latents)).to(latents.dtype)

    def reset_usage(self) -> None:
        """Start counting usage anew."""
        self.counts.zero_()

    # ---- the codebook as a whole ----

    @property
    def frozen(self) -> bool:
        """Whether the codebook stays as it is: then nothing moves it, with or without gradient."""
        return not any(parameter.requires_grad for parameter in self._learned())

    def _learned(self) -> list[Tensor]:
        """What training moves: the codebook, or the parameters that it is computed from."""
        if is_parametrized(self, "codebook"):
            return [*self.get_submodule("parametrizations.codebook").parameters()]
        return [self.codebook]

    def freeze(self) -> None:
        """Keep the codebook as it is from now on, and drop its gradient.

        `codebook.requires_grad_(False)` is the same for a codebook without one. Usage and steps are
        still counted in training.
        """
        for parameter in self._learned():
            parameter.requires_grad_(False)
            parameter.grad = None  # or an optimizer step that is still to come would move it

    def unfreeze(self) -> None:
        """Let the codebook learn again."""
        for parameter in self._learned():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def set_codebook(self, codebook: Float[Tensor | np.ndarray, "K D"]) -> None:
        """Start from other codes, those of k-means for instance (`arcvq.kmeans`).

        The quantizer is as if it had been made with them: averages start from them, and usage is
        counted anew. The number of steps stays.

        Args:
            codebook: The codes.

        Raises:
            ValueError: If the codes have another shape or are not finite.
        """
        codebook = torch.as_tensor(codebook)
        shape = (self.num_codes, self.dim)
        if tuple(codebook.shape) != shape:
            raise ValueError(f"codebook has shape {tuple(codebook.shape)}; it must be {shape}")
        check_finite(codebook, "codebook")
        everywhere = torch.ones_like(self.counts, dtype=torch.bool)
        self.replace_codes(everywhere, codebook.to(self.counts.device))
        self.reset_usage()
        self.pending = False  # what was collected belongs to the codes before

    def begin_run(self, steps: int, schedule: str = "restart") -> None:
        """Begin a training run, as `arcvq.fit` does.

        Args:
            steps: Number of optimizer steps of the run, at least 1.
            schedule: "restart" sets the clock of the schedules to step 0; "continue" lets it go on
                from the steps that were done before.
        """
        check_whole(1, steps=steps)
        if schedule not in ("restart", "continue"):
            raise ValueError(f"schedule is {schedule!r}; it must be 'restart' or 'continue'")
        self.reset_usage()
        self.pending = False  # a forward pass before the run is no part of its first step
        if schedule == "restart":
            self.step.zero_()

    def initial_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the buffers as they are at the start of training with a given codebook.

        Args:
            state: A state dict of this quantizer or of another kind; it holds the "codebook".
        """
        device = state["codebook"].device
        no_counts = torch.zeros(self.num_codes, dtype=torch.int64, device=device)
        no_steps = torch.zeros((), dtype=torch.int64, device=device)
        return {"counts": no_counts, "idle": no_counts.clone(), "step": no_steps}

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # What a state dict lacks, one of another kind or one with a codebook alone, starts anew.
        names = [name for name in state_dict if name.startswith(prefix)]
        own = {name.removeprefix(prefix): state_dict[name] for name in names}
        if "codebook" in own:
            buffers = self._buffers.keys() - self._non_persistent_buffers_set
            for name, value in self.initial_state(own).items():
                if name in buffers:
                    state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.pending = False
        # With assign=True the tensors of the state dict take the place of the buffers, in their
        # dtype, and what no state dict holds would be left on the device "meta".
        for name, buffer in list(self.named_buffers(recurse=False)):
            if buffer.is_meta and name in self._non_persistent_buffers_set:
                buffer = torch.zeros_like(buffer, device=self.counts.device)
            if buffer.dtype in HALF:
                buffer = buffer.float()
            setattr(self, name, buffer)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        # Averages are never in half precision, not even where torch.set_default_dtype asks for it:
        # what a step adds to them is often smaller than its rounding.
        if tensor is not None and tensor.dtype in HALF:
            tensor = tensor.float()
        super().register_buffer(name, tensor, persistent)

    def _apply(self, fn, recurse=True):
        # Nor do .half() and .bfloat16() change the precision of averages.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            applied = getattr(self, name)
            if applied.dtype in HALF:
                setattr(self, name, at_least_float32(buffer).to(applied.device))
        return self

    # ---- settings and checks ----

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build this quantizer again, without its weights."""
        config = {
            "kind": self.kind,
            "num_codes": self.num_codes,
            "dim": self.dim,
            "beta": self.beta,
        }
        if self.channel_last:
            config["channel_last"] = True
        if self.revive_after is not None:
            config["revive_after"] = self.revive_after
        return config

    def config_in_run(self, steps: int, schedule: str = "restart") -> dict[str, Any]:
        """Return the config that the quantizer has after `begin_run`, without beginning a run."""
        return self.config()

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Quantizer":
        """Build the quantizer that `config` describes, with a new codebook.

        Args:
            config: What `config()` of a quantizer returned. Its "kind" is that of any subclass
                of `Quantizer` that has been imported, so your own works as well.

        Raises:
            ValueError: For an unknown kind.
        """
        fields = dict(config)
        quantizer_class = Quantizer.of_kind(fields.pop("kind", None), "quantizer")
        return quantizer_class.from_fields(**fields)

    @classmethod
    def from_fields(cls, **fields: Any) -> "Quantizer":
        """Build the quantizer from the fields of its config besides its kind."""
        samp = fields.get("samp")
        if isinstance(samp, str):  # earlier versions wrote these settings as a JSON text
            samp = json.loads(samp)
        if samp is not None:
            fields["samp"] = SAMP.from_config(samp)
        return cls(**fields)

    def check_latents(self, latents: Tensor) -> None:
        """Raise ValueError for latents of a shape or type that the quantizer cannot take."""
        shape = tuple(latents.shape)
        if latents.ndim < 2 or shape[self.channel_axis] != self.dim:
            needed = f"(B, *grid, {self.dim})" if self.channel_last else f"(B, {self.dim}, *grid)"
            raise ValueError(
                f"latents have shape {shape}; they must be {needed} "
                f"for a quantizer with channel_last={self.channel_last}"
            )
        if not latents.is_floating_point():
            raise ValueError(f"latents are {latents.dtype}; they must be floating point")

    def check_values(self, latents: Tensor) -> None:
        """Raise ValueError if latents or codebook are not finite. Waits for the device."""
        check_finite(latents, "latents")
        check_finite(whole(self.codebook), "codebook")

    def extra_repr(self) -> str:
        return f"num_codes={self.num_codes}, dim={self.dim}, beta={self.beta}"


def follow_average_(average: Tensor, values: Tensor, weight: float | Tensor) -> None:
    """Move a moving average in place toward the values of a step, by this part of the way.

    What falls below the smallest normal number becomes 0. Otherwise an average that only shrinks
    would end in subnormal numbers and stay there, and many CPUs take twenty times as long for a
    lookup among such codes.
    """
    average.lerp_(values, weight)
    smallest = torch.finfo(average.dtype).tiny
    average.masked_fill_(average.abs() < smallest, 0.0)


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the mask is boolean, has this shape and is True somewhere."""
    kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
    if kind != torch.bool:
        raise ValueError(f"mask is {kind}; it must be a tensor of torch.bool")
    if mask.shape != shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must be {tuple(shape)}, that of the indices"
        )
    if mask.numel() and not mask.any():
        raise ValueError("mask is False everywhere; it must be True for at least one latent")


class EuclideanQuantizer(Quantizer):
    """Plain VQ: the nearest code by Euclidean distance, learned by the VQ loss."""


class EMAQuantizer(Quantizer):
    """VQ whose codes are moving averages of their latents (van den Oord et al. 2017, appendix A.1).

    The codebook gets no gradient. The averages start at the initial codes, each with a count of 1,
    and the counts are Laplace-smoothed. As in Sonnet, whose formula this is, a code that is never
    chosen shrinks toward zero; with the default decay it gets there after some 9,000 steps.

    A codebook that is changed from outside is taken over: the averages follow it. So leave it out
    of an optimizer with weight decay, which would shrink it where it has a gradient: in a group of
    processes (torch.distributed) it has one, of zeros.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.
        decay: Decay of the averages per step, in [0, 1).
        channel_last: As for `Quantizer`.
        revive_after: As for `Quantizer`.
    """

    trainable = False
    sizes: Tensor  # (K,) average number of latents of each code
    sums: Tensor  # (K, D) average sum of these latents
    batch_sizes: Tensor  # (K,) number of latents of each code in the step under way
    batch_sums: Tensor  # (K, D) sum of these latents

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        decay: float = 0.99,
        *,
        channel_last: bool = False,
        revive_after: int | None = None,
    ):
        super().__init__(num_codes, dim, beta, channel_last=channel_last, revive_after=revive_after)
        _check_decay(decay)
        self.decay = float(decay)
        self.register_buffer("sizes", torch.ones(self.num_codes))
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("batch_sizes", torch.zeros_like(self.counts), persistent=False)
        self.register_buffer("batch_sums", torch.zeros_like(self.sums), persistent=False)

    def compute_loss(self, latents, codes):
        commitment_loss = mean_squared_error(latents, codes.detach())
        return self.beta * commitment_loss, {"commitment": commitment_loss}

    def begin_step(self):
        super().begin_step()
        self.batch_sizes.zero_()
        self.batch_sums.zero_()

    def collect(self, latents, indices, counts, counted):
        self.batch_sizes += counts
        sums = torch.zeros_like(self.sums).index_add_(0, indices, latents.to(self.sums.dtype))
        sums = torch.where(counted, sums, 0.0)
        self.batch_sums += sum_(sums)  # over all processes

    def follow(self):
        codebook = whole(self.codebook)
        # A code that is not the quotient of its averages was set from outside.
        sizes = self._smoothed_sizes()
        untouched = (self.sums / sizes).to(codebook.dtype) == codebook
        self.sums.copy_(torch.where(untouched, self.sums, codebook * sizes))

        # Without a finite batch the weight is 0, and nothing moves. The same goes for latents that
        # are so large that their sums are infinite, as the averages would then be for ever.
        seen = (self.batch_sizes.sum() > 0) & all_finite(self.batch_sums)
        weight = (1 - self.decay) * seen.to(self.sizes.dtype)
        follow_average_(self.sizes, self.batch_sizes.to(self.sizes.dtype), weight)
        follow_average_(self.sums, self.batch_sums, weight)
        moved = (self.sums / self._smoothed_sizes()).to(codebook.dtype)
        assign_(self.codebook, torch.where(seen, moved, codebook))
        super().follow()

    def _smoothed_sizes(self) -> Tensor:
        """Laplace smoothing (K, 1): no code has size 0, and the sizes still add up to the total."""
        total = self.sizes.sum()
        epsilon = 1e-5
        sizes = (self.sizes + epsilon) / (total + self.num_codes * epsilon) * total
        return sizes[:, None]

    def replace_codes(self, chosen, codes):
        super().replace_codes(chosen, codes)
        self.sizes.masked_fill_(chosen, 1.0)
        self.sums.copy_(torch.where(chosen[:, None], codes.to(self.sums.dtype), self.sums))

    def initial_state(self, state):
        codebook = whole(state["codebook"]).detach()
        averages = {
            "sizes": torch.ones(self.num_codes, device=codebook.device),
            "sums": codebook.to(self.sums.dtype, copy=True),
        }
        return super().initial_state(state) | averages

    def config(self):
        return {**super().config(), "decay": self.decay}


def _check_decay(decay):
    """Raise ValueError for a decay that is not in [0, 1)."""
    if not is_number(decay) or not 0 <= decay < 1:
        raise ValueError(f"decay is {decay!r}; it must be a number from 0 and below 1")


class CosineQuantizer(Quantizer):
    """The nearest code by angle, learned by the VQ loss from a start on the unit sphere.

    Only the lookup looks at directions alone: the VQ loss and the decoder get the codes with their
    norms.
    """

    metric = "cosine"

    def initial_codebook(self):
        return normalize(torch.empty(self.num_codes, self.dim).uniform_(-1, 1), dim=1)


PAPER = SAMP.paper()  # made once, since torch.compile cannot make it while it traces


class SphericalQuantizer(CosineQuantizer):
    """The cosine quantizer with SAMP, the prior of ArcVQ-VAE (arXiv 2605.13517; see `arcvq.samp`).

    `forward` adds the margin loss, and `after_step` keeps the codes inside the ball. The ball never
    shortens a code that came into the codebook from outside, from a checkpoint or by hand: where
    such a code is longer than the ball, the ball is from then on at least as large as the longest
    one.

    With gradient accumulation, the margin loss of each micro-batch compares only the latents of
    that micro-batch. Give it as many latents as memory allows.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        samp: Settings of the prior, where a radius or a weight of None leaves out that half. With
            None, `arcvq.fit` sets `SAMP.for_run(steps)`, and other loops get `SAMP.paper()`.
        beta: Weight of the commitment loss, at least 0.
        channel_last: As for `Quantizer`.
        revive_after: As for `Quantizer`.
    """

    radius: Tensor  # () radius of the ball after the last step; before the first 1, as codes start
    min_radius: Tensor  # () norm of the longest code from outside that did not fit into the ball
    # () length of the run that made `samp` for itself; 0 where the settings were given, and -1 in
    # a model of an earlier version, which does not say
    samp_steps: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        samp: SAMP | None = None,
        beta: float = 0.25,
        *,
        channel_last: bool = False,
        revive_after: int | None = None,
    ):
        super().__init__(num_codes, dim, beta, channel_last=channel_last, revive_after=revive_after)
        if samp is not None and not isinstance(samp, SAMP):
            raise ValueError(f"samp is {samp!r}; it must be a SAMP or None (beta comes after it)")
        self.samp = samp
        self.register_buffer("radius", torch.ones(()), persistent=False)
        self.register_buffer("min_radius", torch.zeros(()))
        self.register_buffer("samp_steps", torch.zeros((), dtype=torch.int64))

    def active_samp(self) -> SAMP:
        """Return the settings in force: `samp`, or the paper's where it is None."""
        return PAPER if self.samp is None else self.samp

    def begin_run(self, steps, schedule="restart"):
        sets_samp = self._is_set_by_run(schedule)
        super().begin_run(steps, schedule)
        restart = schedule == "restart"
        if sets_samp:
            self.samp = SAMP.for_run(steps)
            self.samp_steps.fill_(steps)
        elif restart:
            self.samp_steps.zero_()
        if restart:
            self._forget_ball()

    def _is_set_by_run(self, schedule: str) -> bool:
        """Whether a run sets `samp`: if none was given, or an earlier run made it for itself."""
        steps_done = int(self.step)
        if schedule == "continue" and steps_done > 0:
            return False
        if self.samp is None:
            return True
        made_for = int(self.samp_steps)
        if made_for < 0:
            # Of an earlier version, only a run that came to its end is known.
            made_for = steps_done
        return made_for > 0 and self.samp == SAMP.for_run(made_for)

    def set_codebook(self, codebook):
        super().set_codebook(codebook)
        self._forget_ball()

    def _forget_ball(self):
        """From now on, the codes that are longer than 1 have come from outside."""
        self.radius.fill_(1.0)
        self.min_radius.zero_()

    def compute_loss(self, latents, codes):
        loss, terms = super().compute_loss(latents, codes)
        samp = self.active_samp()
        if not self.training or samp.weight is None:
            return loss, terms

        margin_loss = self.margin_loss(latents, self.pulling_codes())
        weight = samp.weight.value(self.step, self.batch_usage())
        weighted = (weight * margin_loss).to(loss.dtype)
        return loss + weighted, {**terms, "margin": margin_loss}

    def pulling_codes(self) -> Float[Tensor, "M D"]:
        """Return the codes of the margin loss: all, or as many as `codes_per_step` drawn anew."""
        codebook = whole(self.codebook)
        codes_per_step = self.active_samp().codes_per_step
        if codes_per_step is None:
            return codebook
        drawn = torch.randperm(self.num_codes, device=codebook.device)
        return codebook[drawn[:codes_per_step]]

    def margin_loss(
        self, latents: Float[Tensor, "N D"], codes: Float[Tensor, "M D"]
    ) -> Float[Tensor, ""]:
        """Compute the margin loss of flat latents, without its weight."""
        # It has no gradient to the codes (`arc_margin_loss` detaches them). With several processes,
        # each takes a share of the codes and compares it with all latents.
        samp = self.active_samp()
        return gathered_margin(
            latents,
            codes,
            partial(arc_margin_loss, margin=samp.margin, scale=samp.scale, top_k=samp.top_k),
            ragged=self.masked,
        )

    def begin_step(self):
        # The last step left all codes inside the ball, so a longer one has come from outside. It
        # is not outside on the unit sphere, where codes start, whatever the radius.
        norms = torch.linalg.vector_norm(at_least_float32(whole(self.codebook)), dim=1)
        longest = norms.max().to(self.radius.dtype)
        rounding = 1e-4 + 4 * torch.finfo(self.codebook.dtype).eps
        outside = longest > (1 + rounding) * self.radius.clamp_min(1.0)
        outside &= longest.isfinite()
        self.min_radius.copy_(torch.where(outside, longest, self.min_radius))
        super().begin_step()

    def follow(self):
        super().follow()
        # The ball comes after the optimizer step and has the radius M(t) for t steps done, this one
        # included. So the codes are inside it whenever they are used or saved.
        schedule = self.active_samp().radius
        if schedule is None:
            return
        radius = torch.empty_like(self.radius).fill_(schedule.value(self.step, self.batch_usage()))
        # A batch without latents says nothing of the usage, so the ball does not shrink on it.
        seen = self.batch_counts.sum() > 0
        radius = torch.where(seen, radius, torch.maximum(radius, self.radius))
        self.radius.copy_(torch.maximum(radius, self.min_radius))
        codebook = whole(self.codebook).detach().clone()
        assign_(self.codebook, project_to_ball_(codebook, self.radius))

    def batch_usage(self) -> Float[Tensor, ""]:
        """Return the share of codes that the last training batch chose.

        N latents cannot choose more than N codes, so it is the share of the smaller of K and N.
        """
        reachable = self.batch_counts.sum().clamp(1, self.num_codes)
        used = (self.batch_counts > 0).sum()
        return torch.as_tensor(exact(used) / exact(reachable))

    def initial_state(self, state):
        device = state["codebook"].device
        samp_steps = self.samp_steps
        if "step" in state or samp_steps.is_meta:
            samp_steps = torch.full((), -1, device=device)
        own = {"min_radius": torch.zeros((), device=device), "samp_steps": samp_steps}
        return super().initial_state(state) | own

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        has_codebook = prefix + "codebook" in state_dict
        has_ball = prefix + "min_radius" in state_dict  # before it is filled in
        # Settings that were given stay; those that a run has made are made again, for its length.
        is_given = self.samp is not None
        if is_given and not self.samp_steps.is_meta:
            is_given = not self._is_set_by_run("restart")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not has_codebook:
            return
        if not is_given and not self.samp_steps.is_meta and self.samp_steps > 0:
            self.samp = SAMP.for_run(int(self.samp_steps))
        self.radius.fill_(1.0)
        schedule = self.active_samp().radius
        if schedule is None or not has_ball:
            return
        # The largest ball that this schedule has after so many steps, whatever the usage was. A
        # longer code was trained with other settings, and so comes from outside.
        largest = self.min_radius
        for usage in torch.tensor([0.0, 1.0], device=self.step.device):
            value = torch.empty_like(largest).fill_(schedule.value(self.step, usage))
            largest = torch.maximum(largest, value)
        self.radius.copy_(torch.where(self.step > 0, largest, self.radius))

    def config(self):
        return {**super().config(), "samp": self.samp.config() if self.samp else None}

    def config_in_run(self, steps, schedule="restart"):
        config = self.config()
        if self._is_set_by_run(schedule):
            config["samp"] = SAMP.for_run(steps).config()
        return config

    def __setstate__(self, state):
        super().__setstate__(state)
        if "samp_steps" not in self._buffers:  # pickled by an earlier version
            unknown = torch.full_like(self.step, -1)
            self.register_buffer("samp_steps", unknown)


class OnlineClusteredQuantizer(CosineQuantizer):
    """CVQ-VAE (Zheng and Vedaldi 2023): codes that are rarely chosen move to latents of the batch.

    As in the authors' code, the lookup is by cosine and the codes start in +-1/K. Their additional
    contrastive loss is left out.

    Args:
        num_codes: Number of codes K, at least 1.
        dim: Dimension D of codes and latents, at least 1.
        beta: Weight of the commitment loss, at least 0.
        decay: Decay of the average usage per step, in [0, 1).
        anchor: The latent that a code may move to: "random" draws one with probability
            softmax(cosine), which their class calls `probrandom` and does by default, and "closest"
            takes the one with the largest cosine, as their published command does. Their `random`,
            a draw from a pool of earlier latents, is left out.
        channel_last: As for `Quantizer`.
    """

    shares: Tensor  # (K,) average share of the latents that chose each code

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        decay: float = 0.99,
        anchor: str = "random",
        *,
        channel_last: bool = False,
    ):
        super().__init__(num_codes, dim, beta, channel_last=channel_last)
        _check_decay(decay)
        if anchor not in ("random", "closest"):
            raise ValueError(f"anchor is {anchor!r}; it must be 'random' or 'closest'")
        self.decay = float(decay)
        self.anchor = anchor
        self.register_buffer("shares", torch.zeros(self.num_codes))
        self.register_anchors()

    initial_codebook = Quantizer.initial_codebook

    def choose_anchors(self, latents, weights, numbers):
        directions = normalize(latents, dim=1).T
        own = own_codes(self.num_codes)
        codes = normalize(whole(self.codebook)[own].to(latents.dtype), dim=1)
        choose = self._choose_closest if self.anchor == "closest" else self._choose_by_softmax
        size = max(1, BLOCK // len(latents))  # codes at a time, for the sake of memory
        parts = zip(codes.split(size), weights.split(size), numbers.split(size), strict=True)
        chosen = [choose(block @ directions, *others) for block, *others in parts]
        places, new_weights = zip(*chosen, strict=True)
        return torch.cat(places), torch.cat(new_weights)

    def _choose_by_softmax(self, cosines, weights, numbers):
        """Take latent i for code j with probability softmax_i(cos(z_i, e_j)), over all batches."""
        cumulative = cosines.exp_().cumsum(1)
        total = weights + cumulative[:, -1]
        # Below 0 the number falls to the earlier batches of this step.
        numbers = numbers * total - weights
        places = torch.searchsorted(cumulative, numbers[:, None])[:, 0]
        places = places.clamp_max(cosines.shape[1] - 1)
        return places.masked_fill(numbers < 0, -1), total

    def _choose_closest(self, cosines, weights, numbers):
        """Take the latent with the largest cosine; the weight is the largest cosine plus 2."""
        cosine, places = cosines.max(1)
        closer = cosine + 2 > weights
        return places.masked_fill(~closer, -1), torch.where(closer, cosine + 2, weights)

    def follow(self):
        super().follow()
        latents = self.batch_counts.sum()
        shares = self.batch_counts.to(self.shares.dtype) / latents.clamp_min(1)
        # A step without finite latents says nothing of the shares.
        weight = (1 - self.decay) * (latents > 0).to(self.shares.dtype)
        follow_average_(self.shares, shares, weight)
        # With the paper's constants a code of the average share 1/K stays where it is, and one that
        # nobody chooses goes all the way to its anchor.
        move = torch.exp(-self.shares * self.num_codes * 10 / (1 - self.decay) - 1e-3)
        codebook = whole(self.codebook)
        codes = codebook.to(self.anchors.dtype)
        # Without an anchor a code stays.
        anchors = torch.where(self.anchor_weights[:, None] > 0, self.anchors, codes)
        assign_(self.codebook, codes.lerp(anchors, move[:, None]).to(codebook.dtype))

    def replace_codes(self, chosen, codes):
        super().replace_codes(chosen, codes)
        self.shares.masked_fill_(chosen, 0.0)

    def initial_state(self, state):
        shares = torch.zeros(self.num_codes, device=state["codebook"].device)
        return super().initial_state(state) | {"shares": shares}

    def config(self):
        config = {**super().config(), "decay": self.decay}
        if self.anchor != "random":
            config["anchor"] = self.anchor
        return config


class ContinuousQuantizer(Quantizer):
    """No quantization: the latents pass through unchanged, with loss 0 and indices 0.

    An autoencoder with it shows the quality that quantizers can at best approach. It has no codes
    to look up, and its codebook, which plays no part, is always frozen.
    """

    trainable = False

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.freeze()  # DistributedDataParallel would wait for its gradient

    def unfreeze(self):
        pass

    def quantize(self, latents):
        if self.training:
            self.pending = True
        indices = torch.zeros_like(latents[:, 0], dtype=torch.int64)
        return latents, indices, latents.new_zeros(()), {}

    def encode(self, latents):
        self.check_latents(latents)
        self.check_values(latents)
        return torch.zeros_like(self._channels_at_end(latents)[..., 0], dtype=torch.int64)

    def lookup(self, indices):
        raise ValueError("a ContinuousQuantizer has no codes to look up; call it on latents")

    def replace(self, latents):
        self.check_latents(latents)
        self.check_values(latents)
        return latents


QUANTIZERS: dict[str, type[Quantizer]] = {
    "plain": EuclideanQuantizer,
    "ema": EMAQuantizer,
    "cosine": CosineQuantizer,
    "cvq": OnlineClusteredQuantizer,
    "samp": SphericalQuantizer,
    "continuous": ContinuousQuantizer,
}
