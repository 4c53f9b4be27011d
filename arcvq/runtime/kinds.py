"""Classes that are found by their names, as where a saved model is opened."""

from importlib import import_module
from typing import Any, ClassVar

PACKAGE = __name__.partition(".")[0]
PREFIX = "own."  # of a kind whose class has the name of one of the package


class Kinds:
    """A base of base classes, each of which knows the kinds that are derived from it.

    The names of the package's classes are theirs alone, so that what was saved with them opens with
    them. A class that somebody else defines under such a name, say SphericalQuantizer, is of the
    kind "own.SphericalQuantizer". Of classes from outside the package that have the same name, the
    one defined last counts, as where a cell of a notebook runs again.

    Attributes:
        kind: The name of the class, which a config holds.
        kinds: Every subclass of the same base by this name.
        kind_modules: Modules of the package that define more kinds and may not be imported yet.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, Any]]
    kind_modules: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if Kinds in cls.__bases__:
            cls.kinds = {}
            return
        # PyTorch derives classes of its own where it wraps a module (FSDP2, parametrizations). They
        # are still of the kind that they wrap.
        if not cls.__module__.startswith("torch."):
            cls.kind = cls._free_name()
            cls.kinds[cls.kind] = cls

    @classmethod
    def _free_name(cls) -> str:
        """The name of the class, with the prefix if a class of the package has this name."""
        name = cls.__name__
        if _is_of_package(cls):
            return name
        cls._import_kinds()
        return PREFIX + name if _is_of_package(cls.kinds.get(name)) else name

    @classmethod
    def _import_kinds(cls) -> None:
        """Import the modules that define more kinds."""
        for module in cls.kind_modules:
            import_module(module)

    @classmethod
    def of_kind(cls, kind: Any, what: str) -> Any:
        """Return the class of a kind.

        Args:
            kind: The name, as it stands in a config.
            what: What it is a kind of, for the message.

        Raises:
            ValueError: For a kind that is not there.
        """
        if kind not in cls.kinds:
            cls._import_kinds()
        if kind not in cls.kinds:
            known = ", ".join(sorted(cls.kinds))
            raise ValueError(
                f"{what} {kind!r} is unknown; known are {known}, and what you define or import"
            )
        return cls.kinds[kind]


def _is_of_package(kind: Any) -> bool:
    """Whether a class is defined in this package."""
    return getattr(kind, "__module__", "").partition(".")[0] == PACKAGE
