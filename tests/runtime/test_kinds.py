from dataclasses import dataclass

import pytest
import torch
from torch import nn

from arcvq.autoencoder import Autoencoder
from arcvq.priors import PixelCNN, Prior
from arcvq.quantizers import EMAQuantizer, Quantizer
from arcvq.runtime.kinds import Kinds
from arcvq.schedules import Schedule, WarmUp
from arcvq.vqvae import VQVAE

BASES = [Autoencoder, Prior, Quantizer, Schedule]

every_base = pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)


class Shape(Kinds):
    """A base of its own."""


class Polygon(Shape):
    """A kind of shape."""


class Square(Polygon):
    """A kind of a kind."""


def test_a_base_knows_all_that_is_derived_from_it_by_name():
    assert Shape.kinds == {"Polygon": Polygon, "Square": Square}
    assert Square.kind == "Square"
    assert Square().kind == "Square"
    for shape in (Shape, Polygon, Square):
        assert shape.of_kind("Square", "shape") is Square


@every_base
def test_each_base_has_its_own_kinds(base):
    assert base.kinds
    for kind in base.kinds.values():
        assert issubclass(getattr(kind, "__self__", kind), base)
    assert "Square" not in base.kinds


@every_base
def test_a_kind_that_is_not_there_is_refused_with_those_that_are(base):
    known = sorted(base.kinds)
    message = f"thing 'Square' is unknown; known are {', '.join(known)}, and what you define"
    with pytest.raises(ValueError, match=message):
        base.of_kind("Square", "thing")


def prior():
    return PixelCNN(5, (3, 4), width=8, layers=1)


def autoencoder():
    return VQVAE(1, EMAQuantizer(7, 4), hidden=8, residual_hidden=4)


@pytest.mark.parametrize("make", [prior, autoencoder, lambda: EMAQuantizer(7, 4)])
def test_a_class_that_pytorch_derives_is_no_kind_and_leaves_the_config_alone(make):
    module = make()
    config = module.config()
    kinds = dict(module.kinds)
    module.own = nn.Parameter(torch.ones(2))
    nn.utils.parametrize.register_parametrization(module, "own", nn.Identity())
    assert type(module).__name__ != module.kind
    assert module.config() == config
    assert module.kinds == kinds


def test_a_schedule_may_be_derived_from_another():
    @dataclass(frozen=True)
    class Late(WarmUp):
        """Starts at step 100."""

        def value(self, step, usage=None):
            return super().value(step - 100)

    late = Late(0.0, 1.0, 50)
    try:
        opened = Schedule.from_config(late.config())
        assert opened == late
        assert opened.value(125) == 0.5
    finally:
        del Schedule.kinds["Late"]
