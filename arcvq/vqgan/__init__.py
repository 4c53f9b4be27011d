"""VQGAN: the autoencoder for natural images, its losses, and how it is trained."""

from arcvq.vqgan.fitting import VQGANLosses, fit_vqgan
from arcvq.vqgan.network import VQGAN
from arcvq.vqgan.perceptual import PerceptualDistance, mean_distance
from arcvq.vqgan.settings import VQGANSettings

__all__ = [
    "VQGAN",
    "PerceptualDistance",
    "VQGANLosses",
    "VQGANSettings",
    "fit_vqgan",
    "mean_distance",
]
