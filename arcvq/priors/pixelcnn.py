"""The gated PixelCNN over tokens (van den Oord et al. 2016, arXiv 1606.05328, section 2).

It has two stacks of convolutions (figure 2). The vertical stack sees all rows above a token. The
horizontal stack sees what is left of the token in its row, and takes in the maps of the vertical
stack. Together they see every token before it, without a blind spot.

There are no masks: the tokens are shifted once, by a row for the vertical stack and by a column
for the horizontal one, and then no convolution looks down or right.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from arcvq.priors.base import NetworkPrior, State
from arcvq.runtime.checks import check_whole


def gate(maps: Float[Tensor, "B two_C h w"]) -> Float[Tensor, "B C h w"]:
    """Multiply tanh of the first half of the channels by the sigmoid of the second (equation 2)."""
    values, gates = maps.chunk(2, dim=1)
    return values.tanh() * gates.sigmoid()


class GatedLayer(nn.Module):
    """A layer of both stacks; its biases depend on the label (equation 4).

    The convolutions do not pad at the top and at the left. The caller does: with zeros for whole
    grids, and in sampling with the rows and columns that came before.

    Args:
        width: C, the channels of either stack.
        kernel: The size of the convolutions if they were not masked, odd.
        labels: How many labels there are.
    """

    def __init__(self, width: int, kernel: int, labels: int):
        super().__init__()
        reach = kernel // 2
        rows_above = (reach + 1, kernel)
        columns_left = (1, reach + 1)
        gated = 2 * width  # channels of values and of gates
        self.reach = reach
        self.vertical = nn.Conv2d(width, gated, rows_above, padding=(0, reach), bias=False)
        self.across = nn.Conv2d(gated, gated, 1, bias=False)
        self.horizontal = nn.Conv2d(width, gated, columns_left, bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.biases = nn.Embedding(labels, 2 * gated)  # for both stacks

    def down(self, rows: Float[Tensor, "B C padded_n w"], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the next n rows of the vertical stack.

        Args:
            rows: The n rows, after the `reach` rows above them.
            labels: The label of each grid.

        Returns:
            The rows (B, C, n, w), and their contribution to the horizontal stack (B, 2 C, n, w).
        """
        # One bias a channel, the same at all places.
        biases = self.biases(labels)[..., None, None]
        vertical, horizontal = biases.chunk(2, dim=1)
        maps = self.vertical(rows) + vertical
        from_above = self.across(maps) + horizontal
        return gate(maps), from_above

    def right(
        self, columns: Float[Tensor, "B C h padded_n"], from_above: Float[Tensor, "B two_C h n"]
    ) -> Float[Tensor, "B C h n"]:
        """Compute the next n columns of the horizontal stack.

        Args:
            columns: The n columns, after the `reach` columns left of them.
            from_above: The contribution of the vertical stack to the n columns.
        """
        maps = self.horizontal(columns) + from_above
        change = self.mix(gate(maps))
        return columns[..., self.reach :] + change


class LayerCache(NamedTuple):
    """What a layer keeps while a batch of grids is sampled.

    Attributes:
        rows: What entered the vertical stack, below `reach` rows of zeros.
        columns: What entered the horizontal stack in the row at hand, right of `reach` zeros.
        from_above: The contribution of the vertical stack to the row at hand.
    """

    rows: Float[Tensor, "B C padded_h w"]
    columns: Float[Tensor, "B C 1 padded_w"]
    from_above: Float[Tensor, "B two_C 1 w"]


class PixelCNN(NetworkPrior):
    """The gated PixelCNN.

    Sampling computes the vertical stack once a row and the horizontal stack once a token.

    Args:
        num_codes: See `Prior`.
        grid: See `Prior`.
        classes: See `Prior`.
        codebook: See `NetworkPrior`.
        width: See `NetworkPrior`.
        layers: At least 1. Each layer widens the view by kernel // 2 rows and columns, so a grid of
            h rows and w columns needs max(w - 1, h - 2) / (kernel // 2) layers, rounded up, to be
            seen whole.
        kernel: The size of the convolutions, odd, from 3.
    """

    def __init__(
        self,
        num_codes: int,
        grid: tuple[int, int],
        classes: int = 0,
        codebook: Float[Tensor, "K D"] | None = None,
        width: int = 64,
        layers: int = 6,
        kernel: int = 3,
    ):
        super().__init__(num_codes, grid, classes, codebook, width)
        check_whole(1, layers=layers)
        check_whole(3, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; it must be an odd number from 3")
        self.kernel = int(kernel)
        self.reach = self.kernel // 2
        labels = max(1, classes)
        self.layers: Any = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(GatedLayer(width, self.kernel, labels))
        mix = nn.Conv2d(width, width, 1)
        self.head = nn.Sequential(nn.ReLU(), mix, nn.ReLU())

    def features(self, embedded, labels):
        labels = self.label_rows(labels, len(embedded))
        # Shifted by one row and by one column, so that no place sees its own token.
        all_but_last_row = embedded[:, :-1]
        all_but_last_column = embedded[:, :, :-1]
        above = pad(all_but_last_row, (0, 0, 0, 0, 1, 0))
        left = pad(all_but_last_column, (0, 0, 1, 0))

        rows = above.permute(0, 3, 1, 2)
        columns = left.permute(0, 3, 1, 2)
        for layer in self.layers:
            padded_rows = pad(rows, (0, 0, self.reach, 0))
            rows, from_above = layer.down(padded_rows, labels)
            padded_columns = pad(columns, (self.reach, 0))
            columns = layer.right(padded_columns, from_above)
        features = self.head(columns)
        return features.permute(0, 2, 3, 1)

    def start(self, batch, labels=None):
        state = super().start(batch, labels)
        state.cache = []
        height, width = self.grid
        padded_height = self.reach + height
        padded_width = self.reach + width
        zeros = self.layers[0].mix.weight.new_zeros  # in the precision of the weights
        for _ in self.layers:
            rows = zeros(batch, self.width, padded_height, width)
            columns = zeros(batch, self.width, 1, padded_width)
            from_above = zeros(batch, 2 * self.width, 1, width)
            state.cache.append(LayerCache(rows, columns, from_above))
        return state

    @torch.no_grad()
    def next_logits(self, state):
        _, width = self.grid
        row, column = divmod(state.position, width)
        if column == 0:
            self._start_row(state, row)
        # Left of the first column there is no token, and above the first row there is no row.
        left = state.tokens[:, row, column - 1, None]
        pixel = self._embed_row(left, present=column > 0)
        for layer, cache in zip(self.layers, state.cache, strict=True):
            seen = self._store(pixel, cache.columns, column, dim=3)
            from_above = cache.from_above.narrow(3, column, 1)
            pixel = layer.right(seen, from_above)
        features = self.head(pixel)[..., 0, 0]
        return self.tokens.logits(features)

    def _start_row(self, state: State, row: int) -> None:
        """Run the vertical stack for a row."""
        tokens = state.tokens
        labels = self.label_rows(state.labels, len(tokens))
        above = self._embed_row(tokens[:, row - 1], present=row > 0)
        for layer, cache in zip(self.layers, state.cache, strict=True):
            seen = self._store(above, cache.rows, row, dim=2)
            above, from_above = layer.down(seen, labels)
            cache.from_above.copy_(from_above)

    def _store(self, maps: Tensor, cache: Tensor, position: int, dim: int) -> Tensor:
        """Put a row or column into a cache; return it with the `reach` ones before it."""
        seen = cache.narrow(dim, position, self.reach + 1)
        seen.narrow(dim, self.reach, 1).copy_(maps)
        return seen

    def _embed_row(self, tokens: Tensor, present: bool) -> Tensor:
        """Tokens (B, n) of one row as maps (B, C, 1, n); zeros beyond the edge of the grid."""
        embedded = self.tokens.embed(tokens) * present
        maps = embedded.transpose(1, 2)
        return maps[:, :, None]

    def config(self):
        return {**super().config(), "layers": len(self.layers), "kernel": self.kernel}
