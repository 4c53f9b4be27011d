"""Find the notebooks that a path, a name or a number means."""

from collections.abc import Sequence
from pathlib import Path

from arcvq.runtime.files import CHECKOUT


def notebooks_folder() -> Path:
    """Return the folder notebooks/ of the checkout that holds this package, else of ./.

    Raises:
        FileNotFoundError: Neither has notebooks.
    """
    for folder in (CHECKOUT / "notebooks", Path("notebooks").resolve()):
        if any(folder.glob("*.ipynb")):
            return folder
    raise FileNotFoundError(
        "no folder notebooks/ was found; call arcvq in a checkout, or name the files"
    )


def find_notebooks(names: Sequence[str | Path] = ()) -> list[Path]:
    """Find notebooks, in the order in which they were named.

    Args:
        names: Files, names ("02_codebook_geometry") or numbers ("2"); none means all notebooks.

    Raises:
        FileNotFoundError: A notebook does not exist.
        ValueError: Two notebooks have the same file name.
    """
    found = [_find(str(name)) for name in names] if names else _all_notebooks()
    stems = [path.stem for path in found]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ValueError(f"{stem}.ipynb was named twice; a report holds one notebook of a name")
    return found


def _all_notebooks() -> list[Path]:
    return sorted(notebooks_folder().glob("*.ipynb"))


def _find(name: str) -> Path:
    """One notebook by its path, its name or its number."""
    path = Path(name)
    if path.is_file():
        return path.resolve()
    if len(path.parts) > 1:
        raise FileNotFoundError(f"there is no notebook {name}")

    start = f"{int(name):02d}_" if name.isdecimal() else f"{path.stem}.ipynb"
    candidates = _all_notebooks()
    for candidate in candidates:
        if candidate.name.startswith(start):
            return candidate
    known = ", ".join(candidate.stem for candidate in candidates)
    raise FileNotFoundError(f"there is no notebook {name!r} among {known}")
