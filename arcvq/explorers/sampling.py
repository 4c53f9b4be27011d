"""Sampling under the reader's hand: temperature, top-k, top-p, and the tokens one by one."""

from typing import Any

import ipywidgets as widgets
import traitlets
from plotly.graph_objects import Figure

from arcvq.autoencoder import Autoencoder
from arcvq.explorers.base import Explorer
from arcvq.explorers.figure_updates import Values
from arcvq.explorers.sampling_figure import TASKS, Sampler, sampling_picture, sampling_values
from arcvq.images import ImageData
from arcvq.priors import Prior


class SamplingExplorer(Explorer):
    """Images drawn from a prior, or test images whose lower half it draws; one of them by token.

    `temperature`, `top_k` (K: all codes) and `top_p` are those of `priors.next_probabilities`.
    `label`: the class asked for, or whose test images come first, each completed as its own class;
    a prior without classes knows none. `seed`: the same gives the same images; "draw again" takes
    the next. `position`: how many tokens are set, in raster order; those given count from the
    start. `method`: PCA or UMAP of the angles for the map. Model and prior may be on any device.

    Raises:
        ValueError: For a prior of another model, images that do not fit and settings out of range.
    """

    task = traitlets.Enum(TASKS, TASKS[0]).tag(label="task")
    temperature = traitlets.Float(1.0, min=0.1, max=10.0).tag(label="temperature", log=True)
    top_k = traitlets.Int(1, min=1, max=2**20).tag(label="top-k")
    top_p = traitlets.Float(1.0, min=0.01, max=1.0).tag(label="top-p")
    label = traitlets.Int(0, min=0, max=2**20).tag(label="class")
    seed = traitlets.Int(0, min=0, max=999).tag(label="seed")
    position = traitlets.Int(0, min=0, max=2**20).tag(label="tokens set")
    method = traitlets.Enum(("PCA", "UMAP"), "PCA").tag(label="map")
    given = ("model", "prior", "images")

    def __init__(self, model: Autoencoder, prior: Prior, data: ImageData, **settings: Any):
        self.sampler = Sampler(model, prior, data)
        places = prior.grid[0] * prior.grid[1]
        self.limits = {
            "top_k": (1, prior.num_codes),
            "label": (0, max(0, prior.classes - 1)),
            "position": (0, places),
        }
        super().__init__(**{"top_k": prior.num_codes, "position": places // 2} | settings)
        for name, (least, most) in self.limits.items():
            self.limit(name, least, most)
        again = self.button("again", self.draw_again)
        again.description = "draw again"
        play = widgets.Play(max=places, interval=200)
        play.add_class("arcvq-play")
        traitlets.link((self, "position"), (play, "value"))
        self.buttons.children = (again, play, *self.buttons.children)

    @traitlets.validate("top_k", "label", "position")
    def _possible(self, proposal) -> int:
        name = proposal.trait.name
        value = proposal.value
        least, most = self.limits[name]
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; here it must be from {least} to {most}")
        return value

    def draw_again(self) -> None:
        """Go on to the next seed."""
        self.seed = (self.seed + 1) % 1000

    def picture(self) -> Figure:
        return sampling_picture(self.sampler, **self.settings())

    def values(self) -> Values:
        return sampling_values(self.sampler, **self.settings())
