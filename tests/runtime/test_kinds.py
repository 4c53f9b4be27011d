import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from arcvq.autoencoder import Autoencoder
from arcvq.priors import PixelCNN, Prior
from arcvq.quantizers import EMAQuantizer, Quantizer, SphericalQuantizer
from arcvq.runs import pretrained
from arcvq.runtime.kinds import Kinds
from arcvq.schedules import Exponential, Schedule, WarmUp
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


@pytest.fixture
def own_kinds(monkeypatch):
    """Let a test define classes that later tests do not find."""
    for base in BASES:
        monkeypatch.setattr(base, "kinds", dict(base.kinds))


def define(name, base):
    """A class as somebody else defines it, in a notebook for instance."""
    return type(name, (base,), {"__module__": "__main__"})


KINDS_OF_ARCVQ = [
    kind for base in BASES for kind in base.kinds.values() if kind.__module__.startswith("arcvq.")
]


@pytest.mark.parametrize("kind", KINDS_OF_ARCVQ, ids=lambda kind: kind.__name__)
def test_a_class_of_arcvq_keeps_its_name_when_somebody_defines_another(kind, own_kinds):
    name = kind.__name__
    own = define(name, kind)
    assert kind.kind == name
    assert kind.of_kind(name, "thing") is kind
    assert own.kind == f"own.{name}"
    assert kind.of_kind(f"own.{name}", "thing") is own


@pytest.mark.parametrize("name", ["Square", "Constant"])
def test_where_a_cell_runs_again_the_newest_class_counts(name, own_kinds):
    first = define(name, Schedule)
    second = define(name, Schedule)
    assert first.kind == second.kind
    assert Schedule.of_kind(second.kind, "schedule") is second


def test_shipped_models_open_where_somebody_has_classes_with_these_names(own_kinds):
    define("VQVAE", Autoencoder)
    define("SphericalQuantizer", Quantizer)
    define("Exponential", Schedule)
    model = pretrained.load("digits_samp")
    assert type(model) is VQVAE
    assert type(model.quantizer) is SphericalQuantizer
    assert type(model.quantizer.samp.radius) is Exponential


def test_an_own_model_and_quantizer_with_names_of_arcvq_open_as_what_they_are(own_kinds, tmp_path):
    model_class = define("VQVAE", VQVAE)
    quantizer_class = define("SphericalQuantizer", SphericalQuantizer)
    model = model_class(1, quantizer_class(8, 4), hidden=8, residual_hidden=4)
    model.save_pretrained(tmp_path)
    for opener in (Autoencoder, VQVAE, model_class):
        opened = opener.from_pretrained(tmp_path)
        assert type(opened) is model_class
        assert type(opened.quantizer) is quantizer_class
    with pytest.raises(ValueError, match=r"it is a VQVAE, no own\.VQVAE"):
        model_class.from_pretrained(pretrained.FOLDER / "digits")


def test_a_name_of_arcvq_is_known_before_its_module_is_imported():
    program = """
import sys
import arcvq
assert "arcvq.vqgan" not in sys.modules
class VQGAN(arcvq.VQVAE):
    pass
print(VQGAN.kind, type(arcvq.pretrained.load("photos_plain")).__module__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["own.VQGAN", "arcvq.vqgan.network"], done.stderr
