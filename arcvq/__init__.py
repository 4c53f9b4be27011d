"""Spherical vector quantization with SAMP (ArcVQ-VAE, arXiv 2605.13517), to learn and to use.

The quantizers, the model and `fit` are loaded at once and need little more than PyTorch. Everything
else (kept runs, priors, figures, explorers, experiments) is loaded when it is first used.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# This process is the command, as `arcvq` or `python -m arcvq`. Its threads sleep while they wait,
# or they would take the cores of other work. OpenMP reads this when PyTorch is loaded. In a program
# of others the choice is theirs.
if sys.argv[:1] == ["-m"] or Path(*sys.argv[:1]).stem == "arcvq":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from arcvq.autoencoder import VQVAEOutput
from arcvq.clustering import kmeans
from arcvq.composites import GroupedQuantizer, ResidualQuantizer
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit, load_images
from arcvq.quantizers import (
    QUANTIZERS,
    ContinuousQuantizer,
    CosineQuantizer,
    EMAQuantizer,
    EuclideanQuantizer,
    OnlineClusteredQuantizer,
    Quantized,
    Quantizer,
    SphericalQuantizer,
    nearest_code,
)
from arcvq.runtime.devices import choose_device
from arcvq.samp import SAMP, arc_margin_loss, ball_radius, project_to_ball_, rescale_codes_
from arcvq.schedules import Adaptive, Constant, Cosine, Exponential, Oscillating, Schedule, WarmUp
from arcvq.training import Compute, Recording, Run, Snapshot, evaluate, fit
from arcvq.vqvae import VQVAE

if TYPE_CHECKING:  # for type checkers and editors, which do not see what __getattr__ loads
    from arcvq import analysis, experiments, explorers, figures, geometry, metrics, priors
    from arcvq.priors import complete, fit_prior, sample
    from arcvq.runs import pretrained
    from arcvq.runs.parallel import train_many
    from arcvq.runs.settings import RunSettings, train
    from arcvq.vqgan import VQGAN, VQGANLosses, VQGANSettings, fit_vqgan

__version__ = "0.1.0"

__all__ = [
    "QUANTIZERS",
    "SAMP",
    "VQGAN",
    "VQVAE",
    "Adaptive",
    "Compute",
    "Constant",
    "ContinuousQuantizer",
    "Cosine",
    "CosineQuantizer",
    "EMAQuantizer",
    "EuclideanQuantizer",
    "Exponential",
    "GroupedQuantizer",
    "ImageData",
    "ImageSplit",
    "OnlineClusteredQuantizer",
    "Oscillating",
    "Quantized",
    "Quantizer",
    "Recording",
    "ResidualQuantizer",
    "Run",
    "RunSettings",
    "Schedule",
    "Snapshot",
    "SphericalQuantizer",
    "VQGANLosses",
    "VQGANSettings",
    "VQVAEOutput",
    "WarmUp",
    "analysis",
    "arc_margin_loss",
    "ball_radius",
    "choose_device",
    "complete",
    "describe",
    "evaluate",
    "experiments",
    "explorers",
    "figures",
    "fit",
    "fit_prior",
    "fit_vqgan",
    "geometry",
    "kmeans",
    "load_images",
    "metrics",
    "nearest_code",
    "pretrained",
    "priors",
    "project_to_ball_",
    "rescale_codes_",
    "sample",
    "train",
    "train_many",
]

# What is loaded on first use: functions and classes with the module that holds them, and modules.
_LAZY_OBJECTS = {
    "RunSettings": "arcvq.runs.settings",
    "VQGAN": "arcvq.vqgan",
    "VQGANLosses": "arcvq.vqgan",
    "VQGANSettings": "arcvq.vqgan",
    "complete": "arcvq.priors",
    "fit_prior": "arcvq.priors",
    "fit_vqgan": "arcvq.vqgan",
    "sample": "arcvq.priors",
    "train": "arcvq.runs.settings",
    "train_many": "arcvq.runs.parallel",
}
_LAZY_MODULES = {
    "analysis": "arcvq.analysis",
    "experiments": "arcvq.experiments",
    "explorers": "arcvq.explorers",
    "figures": "arcvq.figures",
    "pretrained": "arcvq.runs.pretrained",
    "priors": "arcvq.priors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(_LAZY_MODULES[name])
    if name in _LAZY_OBJECTS:
        return getattr(import_module(_LAZY_OBJECTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
