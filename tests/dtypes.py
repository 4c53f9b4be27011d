"""Integers of every dtype, for tests of what takes indices."""

import torch
from hypothesis import strategies as st

INTEGER_DTYPES = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]


@st.composite
def indices_of_any_dtype(draw, count, min_size=1):
    """A vector of indices of `count` things, in any integer dtype."""
    values = draw(st.lists(st.integers(0, count - 1), min_size=min_size, max_size=20))
    return torch.tensor(values).to(draw(st.sampled_from(INTEGER_DTYPES)))
