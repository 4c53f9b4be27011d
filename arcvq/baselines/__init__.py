"""Quantizers to compare with."""
