"""Quantizers made of other quantizers: residual and grouped (product) quantization.

Both have the interface of `Quantizer` and work in any training loop as it does::

    stages = [arcvq.EMAQuantizer(1024, 128) for _ in range(8)]
    quantizer = arcvq.ResidualQuantizer(stages, dropout=True)

Their parts may be any quantizers, composites included. Two things differ from a single quantizer:
indices have a last axis with a column for each part; and codebooks, usage counts and steps belong
to the parts, as in `quantizer.parts[0].codebook`.
"""

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from arcvq.quantizers import Quantized, Quantizer
from arcvq.runtime.checks import as_integers, check_whole
from arcvq.runtime.distributed import from_first
from arcvq.runtime.precision import at_least_float32


class CompositeQuantizer(Quantizer):
    """Base class: what residual and grouped quantizers have in common.

    The loss is the sum of the losses of the parts, so that each codebook learns as it would alone,
    however many parts there are. The commitment losses add up as well: to pull on the latents as
    strongly as a single quantizer does, divide the `beta` of the parts by their number. In `losses`
    each term carries the name of its part, such as "stage0.commitment".

    Args:
        parts: The quantizers. They agree in `channel_last`, which is that of the whole.

    Attributes:
        parts: The quantizers, an `nn.ModuleList`.
        num_codes: Number of different codes that the parts make together, the product of theirs.
            Its logarithm to base 2 is the number of bits per latent.
        index_shape: The axes of indices after those of the grid. The last one is that of the parts.

    Raises:
        ValueError: If there is no part, if a part is not a quantizer or appears twice, and if the
            parts differ in layout or in the shape of their indices.
    """

    part_name: str  # what messages and losses call a part
    parts: Any

    def __init__(self, parts: Iterable[Quantizer]):
        nn.Module.__init__(self)  # no codebook, no buffers: the parts have them
        parts = list(parts)
        self._check_parts(parts)
        self.parts = nn.ModuleList(parts)
        self.channel_last = parts[0].channel_last
        self.trainable = any(part.trainable for part in parts)
        self.num_codes = prod(part.num_codes for part in parts)
        self.index_shape = (*parts[0].index_shape, len(parts))

    def _check_parts(self, parts: list[Quantizer]) -> None:
        name = self.part_name
        if not parts:
            raise ValueError(f"there is no {name}; there must be at least one")
        for part in parts:
            if not isinstance(part, Quantizer):
                raise ValueError(f"a {name} is a {type(part).__name__}; it must be a quantizer")
        if len(set(parts)) < len(parts):
            raise ValueError(f"a quantizer appears twice; each {name} must be a different one")
        self._check_equal("channel_last", [part.channel_last for part in parts])
        self._check_equal("index_shape", [part.index_shape for part in parts])

    def _check_equal(self, attribute: str, values: list[Any]) -> None:
        """Raise ValueError, with all values, unless they are the same."""
        if len(set(values)) > 1:
            listed = ", ".join(map(str, values))
            raise ValueError(
                f"the {self.part_name}s have {attribute} {listed}; it must be the same in all"
            )

    def together(self, codes: Float[Tensor, "B *axes"], outputs: list[Quantized]) -> Quantized:
        """Combine the outputs of the parts, given the codes that they make together."""
        losses = {}
        for number, output in enumerate(outputs):
            for name, term in output.losses.items():
                losses[f"{self.part_name}{number}.{name}"] = term
        return Quantized(
            codes=codes,
            indices=torch.stack([output.indices for output in outputs], dim=-1),
            loss=torch.stack([output.loss for output in outputs]).sum(),
            losses=losses,
        )

    def columns(self, indices: Tensor, at_least: int) -> tuple[Tensor, ...]:
        """Split indices into columns, one for each part, as int64.

        Raises:
            ValueError: If there are fewer than `at_least` columns or more than parts, and if the
                indices are no integers.
        """
        indices = as_integers(indices, "indices")
        *inner, most = self.index_shape
        has_columns = indices.ndim > len(self.index_shape)
        if not has_columns or not at_least <= indices.shape[-1] <= most:
            columns = str(most) if at_least == most else f"{at_least} to {most}"
            axes = ", ".join([*map(str, inner), columns])
            raise ValueError(
                f"indices have shape {tuple(indices.shape)}; they must be (B, *grid, {axes}), "
                f"with a column for each {self.part_name}"
            )
        return indices.unbind(-1)

    def after_step(self) -> None:
        """Call `after_step` of all parts. Call it once per optimizer step, of the whole alone."""
        for part in self.parts:
            part.after_step()

    def reset_usage(self) -> None:
        """Start counting usage anew in all parts."""
        for part in self.parts:
            part.reset_usage()

    @property
    def frozen(self) -> bool:
        """Whether all parts are frozen."""
        return all(part.frozen for part in self.parts)

    def freeze(self) -> None:
        """Freeze all parts. A part can also be frozen on its own."""
        for part in self.parts:
            part.freeze()

    def unfreeze(self) -> None:
        """Let all parts learn again."""
        for part in self.parts:
            part.unfreeze()

    def set_codebook(self, codebook: Float[Tensor | np.ndarray, "K D"]) -> None:
        """Raise ValueError: there is no codebook of the whole."""
        raise ValueError(f"a {self.kind} has no codebook of its own; set those of its parts")

    def begin_run(self, steps: int, schedule: str = "restart") -> None:
        """Begin a training run in all parts; arguments are those of `Quantizer.begin_run`."""
        for part in self.parts:
            part.begin_run(steps, schedule)

    def config(self) -> dict[str, Any]:
        parts = [part.config() for part in self.parts]
        return {"kind": self.kind, "parts": parts}

    def config_in_run(self, steps: int, schedule: str = "restart") -> dict[str, Any]:
        parts = [part.config_in_run(steps, schedule) for part in self.parts]
        return self.config() | {"parts": parts}

    @classmethod
    def from_fields(cls, **fields: Any) -> Quantizer:
        parts = [Quantizer.from_config(part) for part in fields.pop("parts")]
        return cls(parts, **fields)

    def extra_repr(self) -> str:
        return f"num_codes={self.num_codes}, dim={self.dim}"


class ResidualQuantizer(CompositeQuantizer):
    """Residual quantization: each stage quantizes what the stages before it left over.

    The codes are the sum of the codes of all stages. The first n columns of the indices are a
    coarser description of the same latents, which `lookup` takes as well, so that a single model
    works at several bit rates. With `dropout` it is trained for that.

    Audio codecs have it since SoundStream (Zeghidour et al. 2021, arXiv 2107.03312). The gradient
    goes straight through to the latents once. Each stage has the loss of its own residual, from
    which the codes of earlier stages are subtracted without gradient: every commitment loss reaches
    the latents, and no loss moves the codes of another stage.

    To start from k-means, give each stage the residuals (N, D) of the stages before it::

        for stage in quantizer.parts:
            stage.set_codebook(arcvq.kmeans(residuals, stage.num_codes))
            residuals = residuals - stage.replace(residuals)

    Args:
        parts: The stages, quantizers of the same `dim`.
        dropout: Whether each batch in training uses a random number of stages, from 1 to all, each
            number with the same probability and the same in all processes. The other stages have
            indices of -1, no loss and a gradient of 0, and they count nothing, but their schedules
            go on. `torch.compile` then needs a graph break, so `fullgraph=True` is not possible.

    Raises:
        ValueError: As for `CompositeQuantizer`, and if the stages differ in `dim`.
    """

    part_name = "stage"

    def __init__(self, parts: Iterable[Quantizer], dropout: bool = False):
        super().__init__(parts)
        self._check_equal("dim", [stage.dim for stage in self.parts])
        if not isinstance(dropout, bool):
            raise ValueError(f"dropout is {dropout!r}; it must be True or False")
        self.dim = self.parts[0].dim
        self.dropout = dropout

    def forward(
        self, latents: Float[Tensor, "B *axes"], mask: Bool[Tensor, "B *grid"] | None = None
    ) -> Quantized:
        """Quantize latents in stages.

        Arguments, result and errors are those of `Quantizer.forward`, except that indices are
        (B, *grid, stages).
        """
        self.check_latents(latents)
        used = len(self.parts)
        if self.dropout and self.training:
            used = _draw_stages(used)
        residual = at_least_float32(latents)
        outputs = []
        for stage in self.parts[:used]:
            output = stage(residual, mask)
            residual = residual - output.codes.detach()
            outputs.append(output)

        # The straight-through gradient of the first stage is that of the sum.
        codes = outputs[0].codes
        for output in outputs[1:]:
            codes = codes + output.codes.detach()

        left_out = torch.full_like(outputs[0].indices, -1)
        for stage in self.parts[used:]:
            # An empty batch: the loss is 0, and the clock goes on. DistributedDataParallel waits
            # for a gradient of every parameter, and gets one.
            output = stage(residual[:0], None if mask is None else mask[:0])
            outputs.append(output._replace(indices=left_out, losses={}))
        return self.together(codes.to(latents.dtype), outputs)

    @torch.no_grad()
    def encode(
        self, latents: Float[Tensor, "B *axes"], stages: int | None = None
    ) -> Int[Tensor, "B *grid stages"]:
        """Return the indices of all stages or of the first ones, without counting them.

        Args:
            latents: Latents, laid out as for `forward`.
            stages: How many stages to use, from 1; by default all. The result is the same as the
                first columns of the indices of all stages, and faster.

        Raises:
            ValueError: As `Quantizer.encode` does, and if there are not so many stages.
        """
        self.check_latents(latents)
        if stages is None:
            stages = len(self.parts)
        check_whole(1, stages=stages)
        if stages > len(self.parts):
            raise ValueError(f"stages is {stages}; it must be at most {len(self.parts)}")
        residual = at_least_float32(latents)
        columns = []
        for stage in self.parts[:stages]:
            column = stage.encode(residual)
            residual = residual - stage.lookup(column).to(residual.dtype)
            columns.append(column)
        return torch.stack(columns, dim=-1)

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "B *grid stages"]) -> Float[Tensor, "B *axes"]:
        """Return the sum of the codes of all stages, exactly as `forward` adds them up.

        Args:
            indices: Indices of all stages or of the first ones. An index of -1 in any stage but the
                first says that this stage is left out.

        Returns:
            Codes (B, D, *grid) in the dtype of the codebooks; with `channel_last` (B, *grid, D).

        Raises:
            ValueError: As `Quantizer.lookup` does, and for too few or too many columns.
        """
        first, *others = self.columns(indices, at_least=1)
        codes = self.parts[0].lookup(first)
        total = at_least_float32(codes)
        for stage, column in zip(self.parts[1:], others, strict=False):
            total = total + self._lookup_where_used(stage, column)
        return total.to(codes.dtype)

    def _lookup_where_used(self, stage: Quantizer, column: Tensor) -> Tensor:
        """The codes of one stage, 0 where its index is -1."""
        left_out = column == -1
        # A stage that is a composite has several columns, and is left out if all are -1.
        inner_axes = tuple(range(-len(stage.index_shape), 0))
        if inner_axes:
            left_out = left_out.all(inner_axes, keepdim=True)
        codes = stage.lookup(column.masked_fill(left_out, 0))
        left_out = left_out.squeeze(inner_axes).unsqueeze(self.channel_axis)
        return codes.masked_fill(left_out, 0.0)

    def config(self):
        config = super().config()
        if self.dropout:
            config["dropout"] = True
        return config


def _draw_stages(count: int) -> int:
    """Draw how many stages a batch uses, from 1 to `count`, the same on all ranks."""
    drawn = int(torch.randint(1, count + 1, ()))
    return from_first(drawn)


class GroupedQuantizer(CompositeQuantizer):
    """Grouped quantization: groups of channels are quantized independently of each other.

    Also called product quantization (Jegou et al. 2011): K codes in each of n groups make K^n in
    all. The first part takes as many of the first channels as it has dimensions, the next one those
    that follow, and so on.

    Groups of residual quantizers with dropout draw their stages each on its own. Stages of grouped
    quantizers do the same work and drop the same stages in all groups.

    Args:
        parts: The quantizers of the groups. Their dimensions add up to the channels of the latents.
    """

    part_name = "group"

    def __init__(self, parts: Iterable[Quantizer]):
        super().__init__(parts)
        self.dims = [group.dim for group in self.parts]
        self.dim = sum(self.dims)

    def forward(
        self, latents: Float[Tensor, "B *axes"], mask: Bool[Tensor, "B *grid"] | None = None
    ) -> Quantized:
        """Quantize each group of channels.

        Arguments, result and errors are those of `Quantizer.forward`, except that indices are
        (B, *grid, groups).
        """
        self.check_latents(latents)
        channels = latents.split(self.dims, dim=self.channel_axis)
        outputs = [group(part, mask) for group, part in zip(self.parts, channels, strict=True)]
        codes = torch.cat([output.codes for output in outputs], dim=self.channel_axis)
        if latents.is_contiguous():
            codes = codes.contiguous()
        return self.together(codes, outputs)

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "B *axes"]) -> Int[Tensor, "B *grid groups"]:
        """Return the indices of all groups without counting them; raises as `Quantizer.encode`."""
        self.check_latents(latents)
        channels = latents.split(self.dims, dim=self.channel_axis)
        columns = [group.encode(part) for group, part in zip(self.parts, channels, strict=True)]
        return torch.stack(columns, dim=-1)

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "B *grid groups"]) -> Float[Tensor, "B *axes"]:
        """Return the codes of all groups side by side, exactly those that `forward` chose.

        Args:
            indices: Indices of any integer type. Where the groups are residual quantizers,
                (B, *grid, stages, groups), from the first stage on.

        Raises:
            ValueError: As `Quantizer.lookup` does, and for another number of columns.
        """
        columns = self.columns(indices, at_least=len(self.parts))
        codes = [group.lookup(column) for group, column in zip(self.parts, columns, strict=True)]
        return torch.cat(codes, dim=self.channel_axis)
