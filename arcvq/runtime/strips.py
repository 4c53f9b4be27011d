"""Networks on large images: feature maps computed in strips of rows, with the same result.

A convolution needs only a few rows above and below those that it computes. Group normalization and
attention see the whole map, so overlapping tiles of the image would not give the same result. Here
each layer gets what it would have seen:

- A convolution, an activation or an enlargement is not computed at once. It is kept as a rule that
  computes any rows of its output from rows of its input.
- Group normalization passes once over its input, strip by strip, for mean and variance. After that
  it is such a rule too.
- A sum, which ends a residual block, is computed strip by strip and stored. If its first term is a
  stored map, the sum takes over its memory.
- Any other operation gets whole maps. In a VQGAN this is attention, at the lowest resolution.

Only sums are held, not what lies inside a block. The price is that the rows before a normalization
are computed twice or more: once for each normalization and each sum that they lead to, and again
where neighboring strips need the same rows.
"""

import ctypes
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, interpolate, pad, relu, silu
from torch.utils._pytree import tree_map_only

from arcvq.runtime.precision import at_least_float32, autocast_off

Rows = Callable[[int, int], Tensor]  # the rows from the first number to before the second


@torch.no_grad()
def in_strips(
    network: nn.Module,
    x: Tensor,
    pixels: int,
    on_strip: Callable[[], object] = lambda: None,
) -> Tensor:
    """Apply a network to maps (B, C, h, w), a few rows of each feature map at a time.

    Gradients are not recorded, and autocast is off: a map is of one precision, known before its
    rows are.

    Args:
        network: Any network, in evaluation mode.
        x: Its input.
        pixels: Size of a strip. It has as many whole rows as fit, but at least one.
        on_strip: Called after each strip.

    Raises:
        RuntimeError: If the network uses a map again that has become the first term of a sum (as a
            U-Net does), or has an activation that works in place.
    """
    strips = Strips(pixels, on_strip)
    with autocast_off(x):
        output = network(StripedMap(x.shape, x, strips, stored=x))
        if isinstance(output, StripedMap):
            return output.whole()
        return output


class Strips:
    """How maps are cut into strips.

    Args:
        pixels: Size of a strip: the lower the resolution, the more rows it has.
        on_strip: Called after each strip.
    """

    def __init__(self, pixels: int, on_strip: Callable[[], object]):
        self.pixels = pixels
        self.on_strip = on_strip

    def of(self, x: Tensor) -> Iterator[tuple[int, int]]:
        """The first row of each strip of a map, and the row after its last."""
        _return_free_memory()
        height, width = x.shape[2:]
        rows = max(self.pixels // width, 1)
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            yield start, stop
            self.on_strip()


def _return_free_memory() -> None:
    """Have the C library give memory that is free back to the operating system, if it is glibc.

    Each layer allocates and frees blocks of other sizes than the layer before. Left alone, glibc
    keeps the free ones and takes more memory where none of them fits, in the end several times
    what the strips need.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


class StripedMap(Tensor):
    """Feature maps (B, C, h, w) whose rows are computed when they are needed, or are stored.

    To a network it is a tensor with shape, type and device, but without memory of its own.

    Args:
        shape: (B, C, h, w).
        like: A tensor of the same type and on the same device.
        strips: How it is cut.
        compute: Computes rows of it, unless it is stored.
        stored: The whole map, where it is in memory.
        reusable: Whether a sum may take over the memory of `stored`.
    """

    def __new__(cls, shape: Any, like: Tensor, *_: Any, **__: Any) -> "StripedMap":
        make = torch.Tensor._make_wrapper_subclass
        return make(cls, tuple(shape), dtype=like.dtype, device=like.device)

    def __init__(
        self,
        shape: Any,
        like: Tensor,
        strips: Strips,
        compute: Rows | None = None,
        stored: Tensor | None = None,
        reusable: bool = False,
    ):
        self.strips = strips
        self.compute = compute
        self.stored = stored
        self.reusable = reusable
        self.highest_used = 0  # the highest row that was used since a sum last set this

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function in DESCRIPTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*arguments, **options)
        if function in RULES:
            rule = RULES[function]
            result = rule(*arguments, **options)
            if result is not NotImplemented:
                return result
        arguments = tree_map_only(StripedMap, StripedMap.whole, arguments)
        options = tree_map_only(StripedMap, StripedMap.whole, options)
        return function(*arguments, **options)

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise NotImplementedError(f"{function} cannot be computed in strips")

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows from `start` to before `stop`."""
        if self.compute is not None:
            return self.compute(start, stop)
        if self.stored is None:
            raise RuntimeError(
                "a sum has taken over the memory of this map, which can be used only once in a sum"
            )
        self.highest_used = min(self.highest_used, start)
        return self.stored[:, :, start:stop]

    def padded_rows(self, start: int, stop: int) -> Tensor:
        """Rows from `start` to before `stop`, with zeros where they lie outside of the map."""
        height = self.shape[2]
        if start >= 0 and stop <= height:
            return self.rows(start, stop)

        # What lies wholly above or below the map is cut from zeros beside its first or last row.
        first = min(max(start, 0), height - 1)
        last = max(min(stop, height), 1)
        above = max(-start, 0)
        below = max(stop - height, 0)
        inside = self.rows(first, last)
        padded = pad(inside, (0, 0, above, below))
        skipped = max(start - first, 0)
        return padded[:, :, skipped : skipped + stop - start]

    def whole(self) -> Tensor:
        """The whole map, in memory."""
        if self.stored is not None:
            self.reusable = False  # whoever has it may keep it
            return self.stored
        result = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for start, stop in self.strips.of(self):
            result[:, :, start:stop] = self.rows(start, stop)
        return result

    def then(self, compute: Rows, shape: Any = None) -> "StripedMap":
        """A map whose rows are computed from those of this one."""
        return StripedMap(shape or self.shape, self, self.strips, compute)


def _pair(value):
    """A setting of a convolution for rows and for columns, which may be given as one number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        return NotImplemented
    stride = _pair(stride)
    padding = _pair(padding)
    dilation = _pair(dilation)

    def extent(axis):
        return dilation[axis] * (weight.shape[2 + axis] - 1) + 1

    def output_size(axis):
        size = x.shape[2 + axis] + 2 * padding[axis]
        return (size - extent(axis)) // stride[axis] + 1

    def compute(start, stop):
        first = start * stride[0] - padding[0]
        first_of_last = (stop - 1) * stride[0] - padding[0]
        strip = x.padded_rows(first, first_of_last + extent(0))
        return torch.conv2d(strip, weight, bias, stride, (0, padding[1]), dilation, groups)

    shape = (len(x), len(weight), output_size(0), output_size(1))
    return x.then(compute, shape)


def _conv_transpose2d(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    stride = _pair(stride)
    padding = _pair(padding)
    kernel = weight.shape[2:]
    has_gaps = kernel[0] < stride[0]  # between the rows that the input reaches
    if has_gaps or any(_pair(output_padding)) or _pair(dilation) != (1, 1):
        return NotImplemented

    def output_size(axis):
        return (x.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + kernel[axis]

    def compute(start, stop):
        # Row i of the input reaches rows i * stride to i * stride + kernel - 1, before `padding`
        # rows are cut off.
        top = start + padding[0]
        bottom = stop + padding[0]
        first = max(math.ceil((top - kernel[0] + 1) / stride[0]), 0)
        last = min((bottom - 1) // stride[0], x.shape[2] - 1)
        inputs = x.rows(first, last + 1)
        strip = torch.conv_transpose2d(inputs, weight, bias, stride, (0, padding[1]), 0, groups)
        skipped = first * stride[0]
        return strip[:, :, top - skipped : bottom - skipped]

    channels = weight.shape[1] * groups
    shape = (len(x), channels, output_size(0), output_size(1))
    return x.then(compute, shape)


def _pad(x, sizes, mode="constant", value=None):
    if mode != "constant" or value or len(sizes) != 4 or min(sizes) < 0:
        return NotImplemented
    left, right, top, bottom = sizes
    batch, channels, height, width = x.shape

    def compute(start, stop):
        strip = x.padded_rows(start - top, stop - top)
        return pad(strip, (left, right))

    shape = (batch, channels, height + top + bottom, width + left + right)
    return x.then(compute, shape)


def _interpolate(x, size=None, scale_factor=None, mode="nearest", *rest, **options):
    is_number = isinstance(scale_factor, int | float)
    if mode != "nearest" or size is not None or not is_number or scale_factor % 1:
        return NotImplemented
    factor = int(scale_factor)
    batch, channels, height, width = x.shape

    def compute(start, stop):
        first = start // factor
        last = (stop - 1) // factor
        strip = x.rows(first, last + 1)
        enlarged = interpolate(strip, scale_factor=factor, mode="nearest")
        skipped = first * factor
        return enlarged[:, :, start - skipped : stop - skipped]

    shape = (batch, channels, height * factor, width * factor)
    return x.then(compute, shape)


def _pointwise(function):
    """The rule of a function that is applied to each entry on its own."""

    def rule(x, inplace=False):
        if inplace:
            raise RuntimeError("a map in strips cannot be changed in place; use inplace=False")

        def compute(start, stop):
            strip = x.rows(start, stop)
            return function(strip)

        return x.then(compute)

    return rule


def _group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    mean, variance = _moments(x, num_groups)
    group_scale = (variance + eps).rsqrt()
    group_shift = -mean * group_scale

    # From one number for each group to one for each channel.
    group_size = x.shape[1] // num_groups
    scale = group_scale.repeat_interleave(group_size, dim=1)
    shift = group_shift.repeat_interleave(group_size, dim=1)
    if weight is not None:
        scale = scale * weight
        shift = shift * weight
    if bias is not None:
        shift = shift + bias
    scale = scale[:, :, None, None]
    shift = shift[:, :, None, None]

    def compute(start, stop):
        strip = x.rows(start, stop)
        return torch.addcmul(shift, strip, scale).to(x.dtype)

    return x.then(compute)


def _moments(x: StripedMap, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups) over the whole map, from those of its strips."""
    means = []
    variances = []
    shares = []
    for start, stop in x.strips.of(x):
        strip = at_least_float32(x.rows(start, stop))
        entries = strip.reshape(len(x), groups, -1)
        strip_variance, strip_mean = torch.var_mean(entries, dim=2, correction=0)
        variances.append(strip_variance)
        means.append(strip_mean)
        shares.append((stop - start) / x.shape[2])

    strip_means = torch.stack(means)
    share = torch.tensor(shares, dtype=strip_means.dtype, device=x.device)
    share = share[:, None, None]
    mean = (share * strip_means).sum(0)

    # The law of total variance: the mean of the variances, plus the variance of the means.
    distances = strip_means - mean
    spread = torch.stack(variances) + distances**2
    variance = (share * spread).sum(0)
    return mean, variance


def _add(x, y, *, alpha=1):
    both_are_maps = isinstance(x, Tensor) and isinstance(y, Tensor)
    if not both_are_maps or x.shape != y.shape or x.dtype != y.dtype:
        return NotImplemented
    if alpha != 1:
        return NotImplemented
    if not isinstance(x, StripedMap):
        x, y = y, x
    if not isinstance(y, StripedMap):
        y = StripedMap(y.shape, y, x.strips, stored=y)

    reuses = x.reusable and x is not y
    result = x.stored if reuses else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    waiting: deque[tuple[int, int, Tensor]] = deque()  # strips that overwrite rows still needed

    def store_until(row):
        while waiting and waiting[0][1] <= row:
            first, last, strip = waiting.popleft()
            result[:, :, first:last] = strip

    for start, stop in x.strips.of(x):
        x.highest_used = start
        strip = x.rows(start, stop) + y.rows(start, stop)
        waiting.append((start, stop, strip))
        # A later strip needs no row above the highest that this one has used: those are free.
        store_until(x.highest_used if reuses else stop)
    store_until(stop)

    if reuses:
        x.stored = None
    return StripedMap(result.shape, result, x.strips, stored=result, reusable=True)


RULES = {
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
    pad: _pad,
    interpolate: _interpolate,
    relu: _pointwise(relu),
    silu: _pointwise(silu),
    group_norm: _group_norm,
    Tensor.add: _add,
}

# What is known of a map without its entries.
ATTRIBUTES = ("shape", "dtype", "device", "ndim", "requires_grad")
DESCRIPTIONS = {
    *(getattr(Tensor, name).__get__ for name in ATTRIBUTES),
    Tensor.__len__,
    Tensor.__hash__,
}
