"""A causal transformer over tokens: a decoder with pre-norm and learned positions.

The input at each position is the token before it, so no output sees the token that it predicts.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from arcvq.priors.base import NetworkPrior
from arcvq.runtime.checks import check_whole
from arcvq.runtime.precision import at_least_float32


def attention(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """Compute PyTorch's attention, on a CPU in float32 at least, and return it as the queries are.

    In bfloat16 its backward pass takes 6 times as long there.
    """
    if queries.device.type != "cpu":
        return scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    dtype = queries.dtype
    queries, keys, values = map(at_least_float32, (queries, keys, values))
    with torch.autocast("cpu", enabled=False):
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return attended.to(dtype)


class Block(nn.Module):
    """Attention and a network of two linear layers, each after a LayerNorm, added to its input.

    Args:
        width: C, the channels.
        heads: The heads of the attention; a divisor of the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.before_linear = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        hidden = 4 * width
        self.linear = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        cache: Float[Tensor, "two B heads positions head_C"] | None = None,
        position: int = 0,
    ) -> Float[Tensor, "B T C"]:
        """Process all positions at once, or only one, which attends to those before it.

        Args:
            x: The input at all positions, or at one.
            cache: The keys and values of the earlier positions; those of this one are added.
            position: The one position, where there is a cache.
        """
        normed = self.before_attention(x)
        projected = self.queries_keys_values(normed)
        split = projected.unflatten(2, (3, self.heads, -1))
        heads = split.permute(2, 0, 3, 1, 4)  # (3, B, heads, T, C / heads)
        queries = heads[0]
        keys_values = heads[1:]
        if cache is not None:
            cache[..., position, :] = keys_values[..., 0, :]
            keys_values = cache[..., : position + 1, :]
        keys, values = keys_values
        attended = attention(queries, keys, values, causal=cache is None)
        joined = attended.transpose(1, 2).flatten(2)
        x = x + self.out(joined)
        return x + self.linear(self.before_linear(x))


class TransformerPrior(NetworkPrior):
    """The causal transformer; in sampling it keeps the keys and values of earlier positions.

    A position is a learned vector for the row plus one for the column. A label is a learned
    vector that is added at every position.

    Args:
        num_codes: See `Prior`.
        grid: See `Prior`.
        classes: See `Prior`.
        codebook: See `NetworkPrior`.
        width: See `NetworkPrior`.
        layers: How many blocks, at least 1.
        heads: The heads of the attention, at least 1; a divisor of the width.
    """

    def __init__(
        self,
        num_codes: int,
        grid: tuple[int, int],
        classes: int = 0,
        codebook: Float[Tensor, "K D"] | None = None,
        width: int = 96,
        layers: int = 4,
        heads: int = 4,
    ):
        super().__init__(num_codes, grid, classes, codebook, width)
        check_whole(1, layers=layers, heads=heads)
        if width % heads:
            raise ValueError(f"heads is {heads}; it must divide the width, {width}")
        self.heads = int(heads)
        self.rows = nn.Embedding(grid[0], width)
        self.columns = nn.Embedding(grid[1], width)
        self.labels = nn.Embedding(max(1, classes), width)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            self.blocks.append(Block(width, self.heads))
        self.norm = nn.LayerNorm(width)

    def features(self, embedded, labels):
        tokens = embedded.flatten(1, 2)
        before = pad(tokens[:, :-1], (0, 0, 1, 0))  # shifted by one position
        x = before + self._offsets(labels, len(tokens))
        for block in self.blocks:
            x = block(x)
        normed = self.norm(x)
        return normed.unflatten(1, self.grid)

    def start(self, batch, labels=None):
        state = super().start(batch, labels)
        rows, columns = self.grid
        head_width = self.width // self.heads
        heads = (self.heads, rows * columns, head_width)
        weight = self.rows.weight  # the cache has its precision
        state.cache = weight.new_zeros(len(self.blocks), 2, batch, *heads)
        return state

    @torch.no_grad()
    def next_logits(self, state):
        position = state.position
        tokens = state.tokens.flatten(1)
        # At position 0 this is the last token, which is not set yet: zeros take its place.
        before = tokens[:, position - 1]
        embedded = self.tokens.embed(before) * (position > 0)
        offsets = self._offsets(state.labels, len(tokens))
        x = embedded + offsets[:, position]
        x = x[:, None]
        for block, cache in zip(self.blocks, state.cache, strict=True):
            x = block(x, cache, position)
        features = self.norm(x[:, 0])
        return self.tokens.logits(features)

    def _offsets(self, labels: Tensor | None, batch: int) -> Tensor:
        """The vectors (B, T, C) of position and label, which are added to the tokens."""
        positions = self.rows.weight[:, None] + self.columns.weight
        rows = self.label_rows(labels, batch)
        of_labels = self.labels(rows)
        return positions.flatten(0, 1) + of_labels[:, None]

    def config(self):
        return {**super().config(), "layers": len(self.blocks), "heads": self.heads}
