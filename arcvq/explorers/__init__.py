"""Sliders over figures, for JupyterLab: take hold of a codebook and see it answer."""

from arcvq.explorers.base import Explorer
from arcvq.explorers.code_map import CodeMap
from arcvq.explorers.margin import MarginExplorer
from arcvq.explorers.playground import Playground
from arcvq.explorers.radius import RadiusExplorer
from arcvq.explorers.replay import TrainingReplay

__all__ = ["CodeMap", "Explorer", "MarginExplorer", "Playground", "RadiusExplorer", "TrainingReplay"]
