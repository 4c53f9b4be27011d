"""Run notebooks without a browser, and write what they show as pages."""

from arcvq.reports.key_figures import KeyFigure, key_figure

__all__ = ["KeyFigure", "key_figure"]
