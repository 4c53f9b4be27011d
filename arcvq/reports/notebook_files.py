"""Find the notebooks that a path, a name or a number means, and copy them."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from arcvq.runtime.files import SHIPPED, write_whole


def notebooks_folder() -> Path:
    """Return the folder of the notebooks that come with arcvq: a checkout's, or the wheel's.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = SHIPPED / "notebooks"
    if not any(folder.glob("*.ipynb")):
        raise FileNotFoundError(f"{folder} holds no notebooks; install arcvq again")
    return folder


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the notebooks that come with arcvq, to work on them.

    Args:
        folder: Where they go; it is made if need be. A copy that is there already stays.

    Returns:
        The notebooks in `folder`, in order.

    Raises:
        FileExistsError: A file of the same name is there and differs; then nothing is copied.
        OSError: The folder cannot be written.
    """
    copies = {folder / notebook.name: notebook for notebook in _all_notebooks()}
    missing = [copy for copy in copies if not os.path.lexists(copy)]
    for copy in copies.keys() - set(missing):
        if not copy.is_file() or copy.read_bytes() != copies[copy].read_bytes():
            raise FileExistsError(
                f"{copy} is there and differs from the notebook that comes with arcvq; "
                "nothing was copied, so name another folder"
            )
    for copy in missing:
        write_whole(copy, partial(shutil.copyfile, copies[copy]))
    return list(copies)


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
    path = Path(name).expanduser()
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
