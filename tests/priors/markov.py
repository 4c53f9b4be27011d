"""Grids of tokens from a known process: the oracle for what a prior can reach."""

import torch


def markov_grids(n, size=4, codes=3, seed=0):
    """n grids where each token depends on those left of it and above it, and the process' own bits per token."""
    generator = torch.Generator().manual_seed(7)
    table = (3 * torch.randn(codes + 1, codes + 1, codes, generator=generator, dtype=torch.float64)).softmax(-1)
    generator.manual_seed(seed)
    grids = torch.full((n, size + 1, size + 1), codes)  # a border of its own symbol
    bits = 0.0
    for row in range(1, size + 1):
        for column in range(1, size + 1):
            chances = table[grids[:, row, column - 1], grids[:, row - 1, column]]
            grids[:, row, column] = drawn = chances.multinomial(1, generator=generator)[:, 0]
            bits -= chances.gather(1, drawn[:, None]).log2().sum().item()
    return grids[:, 1:, 1:].contiguous(), bits / (n * size * size)
