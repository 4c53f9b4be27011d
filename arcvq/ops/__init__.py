"""The arithmetic that must be fast: the margin loss and the lookup, in blocks and as Triton kernels."""
