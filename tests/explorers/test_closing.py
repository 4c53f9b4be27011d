"""Every explorer closes all widgets that it opened, and none of anybody else."""

import ipywidgets as widgets
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from plotly.graph_objects import Figure

import arcvq
from arcvq.explorers import (
    CodeInspector,
    CodeMap,
    CollapseGame,
    Explorer,
    LiveTraining,
    MarginExplorer,
    Playground,
    RadiusExplorer,
    SamplingExplorer,
    TrainingReplay,
    ZoomExplorer,
)
from arcvq.images import ImageData
from tests.explorers.test_collapse_game import make_run
from tests.explorers.test_sampling import make_parts
from tests.test_training import stripes


def data():
    return ImageData("stripes", stripes(16, 0), stripes(8, 1), stripes(8, 2), ("across", "down"))


def model():
    torch.manual_seed(0)
    return arcvq.VQVAE(1, arcvq.SphericalQuantizer(16, 4), hidden=4, residual_hidden=2)


def live():
    dashboard = LiveTraining(
        model(), data(), steps=40, batch_size=4, precision="float32", device="cpu"
    )
    dashboard.start()
    return dashboard


class Nested(Explorer):
    """An explorer that holds another one."""

    def __init__(self):
        super().__init__()
        self.inner = live()
        self.children = (*self.children, self.inner)

    def picture(self):
        return Figure(layout_title_text="outside")


def replay():
    run = make_run(arcvq.EuclideanQuantizer(20, 4), 3)
    run.rows[:] = [{"step": 37, "codes_used": 3, "psnr": 20.5}]
    return TrainingReplay(run)


EXPLORERS = {
    "margin": MarginExplorer,
    "radius": RadiusExplorer,
    "playground": Playground,
    "replay": replay,
    "game": lambda: CollapseGame({"plain": make_run(arcvq.EuclideanQuantizer(20, 4), 3)}),
    "inspector": lambda: CodeInspector(model(), data()),
    "map": lambda: CodeMap(model(), data(), used_only=False),
    "live": live,
    "sampling": lambda: SamplingExplorer(*make_parts()),
    "zoom": lambda: ZoomExplorer(torch.zeros(1, 3, 8, 8), {"SAMP": torch.zeros(1, 3, 8, 8)}),
    "nested": Nested,
}


@pytest.fixture(scope="module", autouse=True)
def one_before():
    """plotly's script stays for the next figure."""
    EXPLORERS["game"]().close()


def open_widgets():
    return set(_instances)


@pytest.mark.parametrize("make", EXPLORERS.values(), ids=EXPLORERS)
def test_close_leaves_no_widget_and_may_be_called_twice(make):
    before = open_widgets()
    explorer = make()
    opened = open_widgets() - before
    assert opened
    explorer.close()
    assert open_widgets() == before
    explorer.close()
    if isinstance(explorer, Explorer):
        explorer.redraw()  # what is still on its way finds nobody
        assert open_widgets() == before


def test_closing_an_explorer_ends_the_training_of_one_inside_it():
    outer = Nested()
    thread = outer.inner._thread
    outer.close()
    assert not thread.is_alive()


def test_close_leaves_what_others_opened():
    mine = widgets.VBox([MarginExplorer(), RadiusExplorer()])
    first, second = mine.children
    kept = open_widgets()
    extra = MarginExplorer()
    extra.close()
    assert open_widgets() == kept
    first.close()
    assert second.model_id in open_widgets()
    assert mine.model_id in open_widgets()
