"""arcvq: spherical vector quantization with an arccosine margin (ArcVQ-VAE, arXiv 2605.13517), to learn and to use."""

from arcvq import geometry, priors
from arcvq.geometry import describe
from arcvq.images import ImageData, ImageSplit, load_images
from arcvq.priors import complete, fit_prior, sample
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
from arcvq.runs.parallel import train_many
from arcvq.runs.settings import RunSettings, train
from arcvq.runtime.devices import choose_device
from arcvq.samp import SAMP, arc_margin_loss, ball_radius, project_to_ball_, rescale_codes_
from arcvq.schedules import Adaptive, Constant, Cosine, Exponential, Oscillating, Schedule, WarmUp
from arcvq.training import Compute, Recording, Run, Snapshot, evaluate, fit
from arcvq.vqvae import VQVAE, VQVAEOutput

__version__ = "0.1.0"

__all__ = [
    "QUANTIZERS",
    "SAMP",
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
    "ImageData",
    "ImageSplit",
    "OnlineClusteredQuantizer",
    "Oscillating",
    "Quantized",
    "Quantizer",
    "Recording",
    "Run",
    "RunSettings",
    "Schedule",
    "Snapshot",
    "SphericalQuantizer",
    "VQVAEOutput",
    "WarmUp",
    "arc_margin_loss",
    "ball_radius",
    "choose_device",
    "complete",
    "describe",
    "evaluate",
    "fit",
    "fit_prior",
    "geometry",
    "load_images",
    "nearest_code",
    "priors",
    "project_to_ball_",
    "rescale_codes_",
    "sample",
    "train",
    "train_many",
]
