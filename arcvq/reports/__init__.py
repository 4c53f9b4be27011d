"""Notebooks run without a browser, and the pages that come of it."""

from arcvq.reports.key_figures import KeyFigure, key_figure

__all__ = ["KeyFigure", "key_figure"]
