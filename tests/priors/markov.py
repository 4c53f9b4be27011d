"""Grids of tokens from a known process: the oracle for what a prior can reach."""

import torch


def markov_grids(n, size=4, codes=3, seed=0):
    """n grids where each token depends on the one left of it and the one above it.

    Returns the grids, and the bits per token of the process itself.
    """
    generator = torch.Generator().manual_seed(7)
    border = codes  # a symbol of its own
    symbols = codes + 1
    logits = torch.randn(symbols, symbols, codes, generator=generator, dtype=torch.float64)
    table = (3 * logits).softmax(-1)

    generator.manual_seed(seed)
    grids = torch.full((n, size + 1, size + 1), border)
    bits = 0.0
    for row in range(1, size + 1):
        for column in range(1, size + 1):
            left = grids[:, row, column - 1]
            above = grids[:, row - 1, column]
            chances = table[left, above]
            drawn = chances.multinomial(1, generator=generator)
            grids[:, row, column] = drawn[:, 0]
            chances_of_drawn = chances.gather(1, drawn)
            bits -= chances_of_drawn.log2().sum().item()

    without_border = grids[:, 1:, 1:].contiguous()
    return without_border, bits / without_border.numel()
