"""The gated PixelCNN over tokens (van den Oord et al. 2016, arXiv 1606.05328, section 2 and figure 2).

Two stacks of convolutions: the vertical one sees all rows above a token, the horizontal one what is left of it in its
row, and takes the vertical one's maps in. Together they see every token before it, without a blind spot. Instead of
masks, the tokens are shifted once, by a row for the vertical stack and by a column for the horizontal one; then no
convolution looks down or right.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from arcvq.priors.base import NetworkPrior, State
from arcvq.runtime.checks import check_whole


def gate(maps: Float[Tensor, "B two_C h w"]) -> Float[Tensor, "B C h w"]:
    """tanh of the first half of the channels times the sigmoid of the second (equation 2)."""
    values, gates = maps.chunk(2, dim=1)
    return values.tanh() * gates.sigmoid()


class GatedLayer(nn.Module):
    """One layer of both stacks. Its convolutions leave padding at the top and left to the caller, who may have the
    rows and columns there from earlier. The biases depend on the label (equation 4)."""

    def __init__(self, width: int, kernel: int, labels: int):
        super().__init__()
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(width, 2 * width, (self.reach + 1, kernel), padding=(0, self.reach), bias=False)
        self.across = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.horizontal = nn.Conv2d(width, 2 * width, (1, self.reach + 1), bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.biases = nn.Embedding(labels, 4 * width)

    def down(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, C, reach + n, w) to the vertical stack's next n rows and the horizontal stack's share of them."""
        vertical, horizontal = self.biases(labels)[..., None, None].chunk(2, dim=1)
        maps = self.vertical(rows) + vertical
        return gate(maps), self.across(maps) + horizontal

    def right(self, columns: Tensor, maps: Tensor) -> Tensor:
        """Columns (B, C, h, reach + n) and the vertical stack's maps to the horizontal stack's next n columns."""
        return columns[..., self.reach :] + self.mix(gate(self.horizontal(columns) + maps))


@dataclasses.dataclass
class _Cache:
    """For each of L layers the rows that entered it, the columns of the row at hand that did, both after the zeros of
    the padding, and the vertical stack's maps for this row."""

    rows: Float[Tensor, "L B C padded_h w"]
    columns: Float[Tensor, "L B C 1 padded_w"]
    maps: Float[Tensor, "L B two_C 1 w"]


class PixelCNN(NetworkPrior):
    """The gated PixelCNN. Sampling computes the vertical stack once a row and the horizontal one once a token.

    num_codes, grid, classes, codebook, width: see `Prior` and `NetworkPrior`. layers: from 1; each widens the view by
    kernel // 2 columns to either side, so a grid of w columns needs (w - 1) / (kernel // 2) layers to be seen whole.
    kernel: odd, from 3.
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
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; it must be an odd number from 3")
        self.kernel, self.reach = kernel, kernel // 2
        self.layers: Any = nn.ModuleList(GatedLayer(width, kernel, max(1, classes)) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU())

    def features(self, embedded, labels):
        labels = self.label_rows(labels, len(embedded))
        rows = pad(embedded[:, :-1], (0, 0, 0, 0, 1, 0)).permute(0, 3, 1, 2)
        columns = pad(embedded[:, :, :-1], (0, 0, 1, 0)).permute(0, 3, 1, 2)
        for layer in self.layers:
            rows, maps = layer.down(pad(rows, (0, 0, self.reach, 0)), labels)
            columns = layer.right(pad(columns, (self.reach, 0)), maps)
        return self.head(columns).permute(0, 2, 3, 1)

    def start(self, batch, labels=None):
        state = super().start(batch, labels)
        (height, width), layers = self.grid, len(self.layers)
        state.cache = _Cache(
            rows=torch.zeros(layers, batch, self.width, self.reach + height, width, device=self.device),
            columns=torch.zeros(layers, batch, self.width, 1, self.reach + width, device=self.device),
            maps=torch.zeros(layers, batch, 2 * self.width, 1, width, device=self.device),
        )
        return state

    @torch.no_grad()
    def next_logits(self, state):
        row, column = divmod(state.position, self.grid[1])
        if column == 0:
            self._enter(state, row)
        pixel = self._embed(state.tokens[:, row, column - 1, None], present=column > 0)
        for layer, columns, maps in zip(self.layers, state.cache.columns, state.cache.maps, strict=True):
            columns[..., self.reach + column] = pixel[..., 0]
            pixel = layer.right(columns[..., column : self.reach + column + 1], maps[..., column : column + 1])
        return self.tokens.logits(self.head(pixel)[..., 0, 0])

    def _enter(self, state: State, row: int) -> None:
        """Run the vertical stack for a row."""
        labels = self.label_rows(state.labels, len(state.tokens))
        above = self._embed(state.tokens[:, row - 1], present=row > 0)
        for layer, rows, maps in zip(self.layers, state.cache.rows, state.cache.maps, strict=True):
            rows[:, :, self.reach + row] = above[:, :, 0]
            above, maps[:] = layer.down(rows[:, :, row : self.reach + row + 1], labels)

    def _embed(self, tokens: Int[Tensor, "B n"], present: bool) -> Float[Tensor, "B C 1 n"]:
        """Embedded tokens of one row; zeros where nothing is present, beyond the grid's edge."""
        return (self.tokens.embed(tokens) * present).transpose(1, 2)[:, :, None]

    def config(self):
        return {**super().config(), "layers": len(self.layers), "kernel": self.kernel}
