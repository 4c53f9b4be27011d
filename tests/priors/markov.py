"""Grids of tokens from a known process: the oracle for what a prior can reach."""

import torch


def markov_grids(n, size=4, codes=3, seed=0):
    """n grids where each token depends on the one left of it and the one above it.

    Returns the grids, and the bits per token of the process itself.
    """
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(codes + 1, codes + 1, codes, generator=generator, dtype=torch.float64)
    table = (3 * logits).softmax(-1)
    generator.manual_seed(seed)
    grids = torch.full((n, size + 1, size + 1), codes)  # the border is a symbol of its own
    bits = 0.0
    for row in range(1, size + 1):
        for column in range(1, size + 1):
            chances = table[grids[:, row, column - 1], grids[:, row - 1, column]]
            drawn = chances.multinomial(1, generator=generator)
            grids[:, row, column] = drawn[:, 0]
            bits -= chances.gather(1, drawn).log2().sum().item()
    return grids[:, 1:, 1:].contiguous(), bits / (n * size * size)
