"""Devices, processes, files, checkpoints and kept results."""
