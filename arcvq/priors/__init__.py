"""Priors over the tokens of a VQ-VAE: fit, measure in bits, draw and complete images."""

from arcvq.priors.angles import angle_correlation
from arcvq.priors.base import NetworkPrior, Prior, State
from arcvq.priors.counting import BigramPrior, HistogramPrior, NeighborPrior
from arcvq.priors.fitting import (
    PriorRun,
    TokenData,
    TokenSplit,
    bits_per_token,
    encode_split,
    fit_prior,
    fit_tokens,
)
from arcvq.priors.influence import influence
from arcvq.priors.pixelcnn import PixelCNN
from arcvq.priors.sampling import (
    SamplingStep,
    complete,
    complete_tokens,
    next_probabilities,
    sample,
    sample_tokens,
    sampling_steps,
)
from arcvq.priors.settings import PRIORS, PriorSettings, train_prior
from arcvq.priors.shipped import load_pretrained
from arcvq.priors.tokens import FreeTokens, TiedTokens, match_parameters, parameter_count
from arcvq.priors.transformer import TransformerPrior
from arcvq.runtime.fingerprint import fingerprint

__all__ = [
    "PRIORS",
    "BigramPrior",
    "FreeTokens",
    "HistogramPrior",
    "NeighborPrior",
    "NetworkPrior",
    "PixelCNN",
    "Prior",
    "PriorRun",
    "PriorSettings",
    "SamplingStep",
    "State",
    "TiedTokens",
    "TokenData",
    "TokenSplit",
    "TransformerPrior",
    "angle_correlation",
    "bits_per_token",
    "complete",
    "complete_tokens",
    "encode_split",
    "fingerprint",
    "fit_prior",
    "fit_tokens",
    "influence",
    "load_pretrained",
    "match_parameters",
    "next_probabilities",
    "parameter_count",
    "sample",
    "sample_tokens",
    "sampling_steps",
    "train_prior",
]
