"""The quantizers that have a codebook, for tests of what holds for all of them."""

from functools import partial

import pytest

from arcvq.quantizers import (
    CosineQuantizer,
    EMAQuantizer,
    EuclideanQuantizer,
    OnlineClusteredQuantizer,
    SphericalQuantizer,
)

KINDS = {
    "plain": EuclideanQuantizer,
    "ema": EMAQuantizer,
    "cosine": CosineQuantizer,
    "samp": SphericalQuantizer,
    "cvq": OnlineClusteredQuantizer,
    "cvq_closest": partial(OnlineClusteredQuantizer, anchor="closest"),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)

# Those that can revive dead codes.
REVIVING = {name: make for name, make in KINDS.items() if not name.startswith("cvq")}
REVIVED = {name: partial(make, revive_after=1) for name, make in REVIVING.items()}
every_reviving_kind = pytest.mark.parametrize("make", REVIVING.values(), ids=REVIVING)


def state_of(quantizer):
    """A copy of all that a quantizer holds, also of the buffers that are not saved."""
    state = quantizer.state_dict() | dict(quantizer.named_buffers())
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same_state(one, other, *, but=()):
    """Bit for bit the same parameters and buffers, except for those named in `but`."""
    assert one.keys() == other.keys()
    for name in one.keys() - set(but):
        assert one[name].equal(other[name]), name


def twins(make, *arguments, **options):
    """Two quantizers that are equal, and stay so if they see the same."""
    one = make(*arguments, **options)
    other = make(*arguments, **options)
    other.load_state_dict(one.state_dict())
    return one, other
