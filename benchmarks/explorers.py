"""What a change of a slider costs in Python: processor time of one change, median of 20, at 512 and 4,096 points.

    python -m benchmarks.explorers

The time in the browser comes on top and is measured by the browser tests.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import torch

from arcvq.explorers import MarginExplorer, RadiusExplorer

ROUNDS = 20


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'points':>7} {'change':18} {'ms':>6}")
    for count in (512, 4096):
        for name, change in changes(count).items():
            change(0)
            median = statistics.median(seconds(change, n) for n in range(1, ROUNDS + 1))
            print(f"{count:7,} {name:18} {median * 1e3:6.1f}")


def changes(count: int) -> dict[str, Callable[[int], None]]:
    """What is timed: each takes the number of its round, so that every round changes something."""
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    bare = go.FigureWidget(go.Scatter3d(dict(zip("xyz", points.numpy().T, strict=True))))
    margin, radius = MarginExplorer(points), RadiusExplorer(points)

    def move(round: int) -> None:
        with bare.batch_update():
            bare.data[0].x, bare.data[0].y, bare.data[0].z = np.roll(points.numpy().T, round, axis=1)

    def setter(explorer, name: str, start: float, step: float) -> Callable[[int], None]:
        return lambda round: setattr(explorer, name, type(getattr(explorer, name))(start + step * round))

    return {"bare FigureWidget": move, "margin": setter(margin, "margin", 0.2, 0.02),
            "scale": setter(margin, "scale", 6, 1), "top-k": setter(margin, "top_k", 4, 1),
            "step": setter(radius, "step", 700, 30), "growth": setter(radius, "growth", 4e-4, 1e-5)}


def seconds(change: Callable[[int], None], round: int) -> float:
    start = time.process_time()
    change(round)
    return time.process_time() - start


if __name__ == "__main__":
    main()
