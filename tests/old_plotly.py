"""The colors that every plotly 6 takes: 6.1 to 6.6 know fewer forms than later ones."""

import re

import pytest
from _plotly_utils.basevalidators import ColorValidator

HEX = re.compile(r"#([A-Fa-f0-9]{6}|[A-Fa-f0-9]{3})")
FUNCTION = re.compile(r"(rgb|hsl|hsv)a?\([\d.]+%?(,[\d.]+%?){2,3}\)")


@pytest.fixture(autouse=True)
def colors_of_plotly_6_1(monkeypatch):
    """Every figure that a test draws is refused with any other color, as by plotly 6.1."""
    normalized = ColorValidator.perform_validate_coerce

    def checked(value, **options):
        if isinstance(value, str) and value.startswith(("#", "rgb", "hsl")):
            plain = value.replace(" ", "")
            assert HEX.fullmatch(plain) or FUNCTION.fullmatch(plain), value
        return normalized(value, **options)

    monkeypatch.setattr(ColorValidator, "perform_validate_coerce", staticmethod(checked))
