"""What the settings of all explorers share: they are traits, each with a control."""

import math
from collections.abc import Iterable
from typing import Any

import traitlets

from arcvq.runtime.checks import python_number


class OpensWhenMade(traitlets.MetaHasTraits):
    """The type of classes whose objects know when the last `__init__` has ended."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made._is_open = True
        return made


class HasSettings(traitlets.HasTraits, metaclass=OpensWhenMade):
    """Settings that are traits with a `label`; a name that is misspelled later is refused.

    They take single numbers of NumPy and PyTorch, and hold those of Python.
    """

    _is_open = False

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_open and not name.startswith("_") and not hasattr(type(self), name):
            names = ", ".join(self.settings_traits())
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}; it has {names}")
        number = python_number(value)
        if number is not value and name in self.settings_traits():
            value = number
        # min and max of a trait let NaN pass
        is_nan = isinstance(value, float) and math.isnan(value)
        if is_nan and name in self.settings_traits():
            raise ValueError(f"{name} of {type(self).__name__} is nan; it must be a number")
        super().__setattr__(name, value)

    @classmethod
    def settings_traits(cls) -> dict[str, traitlets.TraitType]:
        """Return the traits that have a control, in the order in which the class declares them."""
        found = cls.class_traits(label=lambda label: label is not None)
        ordered: dict[str, traitlets.TraitType] = {}
        for base in reversed(cls.__mro__):
            for name in vars(base):
                if name in found:
                    ordered[name] = found[name]
        return ordered

    def settings(self) -> dict[str, Any]:
        """Return the present settings by name."""
        return {name: getattr(self, name) for name in self.settings_traits()}

    def _check_names(self, names: Iterable[str]) -> None:
        known = self.settings_traits()
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no setting of {type(self).__name__}; it has {', '.join(known)}"
                )
