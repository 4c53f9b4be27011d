"""A causal transformer over tokens: decoder only, pre-norm, learned positions (a row's plus a column's).

Attention is PyTorch's scaled_dot_product_attention. The input at each position is the token before it, so the output
there never sees the token that it predicts.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from arcvq.priors.base import NetworkPrior
from arcvq.quantizers import at_least_float32
from arcvq.runtime.checks import check_whole


class Past:
    """Keys and values (B, heads, T, C / heads) of the positions so far, in one block of memory."""

    def __init__(self, batch: int, heads: int, positions: int, width: int, device: torch.device):
        self.keys, self.values = torch.zeros(2, batch, heads, positions, width // heads, device=device)

    def extend(self, position: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write those of one position; returns all up to it."""
        self.keys[:, :, position], self.values[:, :, position] = keys[:, :, 0], values[:, :, 0]
        return self.keys[:, :, : position + 1], self.values[:, :, : position + 1]


def attention(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """PyTorch's attention, on a CPU in float32 even under autocast: its backward pass takes 6 times as long there in
    bfloat16."""
    if queries.device.type != "cpu":
        return scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        queries, keys, values = map(at_least_float32, (queries, keys, values))
        return scaled_dot_product_attention(queries, keys, values, is_causal=causal)


class Block(nn.Module):
    """Attention, then two linear layers, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_linear = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.linear = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "B T C"], past: Past | None = None, position: int = 0) -> Float[Tensor, "B T C"]:
        """All positions at once, or with `past` the one at `position`, which attends to all up to it."""
        split = self.queries_keys_values(self.before_attention(x)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        if past is not None:
            keys, values = past.extend(position, keys, values)
        seen = attention(queries, keys, values, causal=past is None)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.linear(self.before_linear(x))


class TransformerPrior(NetworkPrior):
    """The causal transformer. Sampling keeps the keys and values of the positions so far.

    num_codes, grid, classes, codebook, width: see `Prior` and `NetworkPrior`. layers, heads: from 1; heads divides
    the width. A label is a learned vector added at every position.
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
        self.heads = heads
        self.rows, self.columns, self.labels = (nn.Embedding(n, width) for n in (*grid, max(1, classes)))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def features(self, embedded, labels):
        before = pad(embedded.flatten(1, 2)[:, :-1], (0, 0, 1, 0))
        x = before + self._places(labels, len(embedded))
        for block in self.blocks:
            x = block(x)
        return self.norm(x).unflatten(1, self.grid)

    def start(self, batch, labels=None):
        state = super().start(batch, labels)
        sizes = (batch, self.heads, self.grid[0] * self.grid[1], self.width, self.device)
        state.cache = [Past(*sizes) for _ in self.blocks]
        return state

    @torch.no_grad()
    def next_logits(self, state):
        position = state.position
        before = self.tokens.embed(state.tokens.flatten(1)[:, position - 1]) * (position > 0)
        x = (before + self._places(state.labels, len(before))[:, position])[:, None]
        for block, past in zip(self.blocks, state.cache, strict=True):
            x = block(x, past, position)
        return self.tokens.logits(self.norm(x)[:, 0])

    def _places(self, labels: Tensor | None, batch: int) -> Float[Tensor, "B T C"]:
        """What the input says of position and label."""
        places = (self.rows.weight[:, None] + self.columns.weight).flatten(0, 1)
        return places + self.labels(self.label_rows(labels, batch))[:, None]

    def config(self):
        return {**super().config(), "layers": len(self.blocks), "heads": self.heads}
