"""Interactive figures for JupyterLab: drag a setting, a code or a token, and they follow."""

from arcvq.runtime.extras import needs_extra

with needs_extra("kit"):
    from arcvq.explorers.base import Explorer
    from arcvq.explorers.code_map import CodeMap
    from arcvq.explorers.collapse_game import CollapseGame
    from arcvq.explorers.inspector import CodeInspector
    from arcvq.explorers.live import LiveTraining
    from arcvq.explorers.margin import MarginExplorer
    from arcvq.explorers.playground import Playground
    from arcvq.explorers.radius import RadiusExplorer
    from arcvq.explorers.replay import TrainingReplay
    from arcvq.explorers.sampling import SamplingExplorer
    from arcvq.explorers.zoom import ZoomExplorer

__all__ = [
    "CodeInspector",
    "CodeMap",
    "CollapseGame",
    "Explorer",
    "LiveTraining",
    "MarginExplorer",
    "Playground",
    "RadiusExplorer",
    "SamplingExplorer",
    "TrainingReplay",
    "ZoomExplorer",
]
