import pytest
import torch

from arcvq.priors import PixelCNN, TransformerPrior

SMALL = {
    PixelCNN: {"num_codes": 5, "grid": (3, 4), "width": 8, "layers": 3},
    TransformerPrior: {"num_codes": 5, "grid": (3, 4), "width": 8, "layers": 2, "heads": 4},
}


@pytest.fixture(params=SMALL, ids=lambda cls: cls.__name__)
def make(request):
    """Makes a small prior of either kind; keywords change its settings."""
    return lambda **changes: request.param(**(SMALL[request.param] | changes))


@pytest.fixture(params=["free", "tied"])
def kind(request):
    """Settings for free tokens and for tokens tied to a codebook (5, 3)."""
    return {"codebook": None if request.param == "free" else torch.randn(5, 3)}
