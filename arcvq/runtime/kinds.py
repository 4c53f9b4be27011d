"""Classes that are found by their names, as where a saved model is opened."""

from typing import Any, ClassVar


class Kinds:
    """A base of base classes, each of which knows the kinds that are derived from it.

    Attributes:
        kind: The name of the class, which a config holds.
        kinds: Every subclass of the same base by this name.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if Kinds in cls.__bases__:
            cls.kinds = {}
            return
        # PyTorch derives classes of its own where it wraps a module (FSDP2, parametrizations). They
        # are still of the kind that they wrap.
        if not cls.__module__.startswith("torch."):
            cls.kind = cls.__name__
            cls.kinds[cls.kind] = cls

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
            known = ", ".join(sorted(cls.kinds))
            raise ValueError(
                f"{what} {kind!r} is unknown; known are {known}, and what you define or import"
            )
        return cls.kinds[kind]
