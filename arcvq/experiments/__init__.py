"""Experiments: grids of settings, what is measured of each run, and the tables that come of it."""

from arcvq.experiments.sweep import AXES, grid, parse_axis, sweep

__all__ = ["AXES", "grid", "parse_axis", "sweep"]
