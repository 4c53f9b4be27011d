"""Write links that open the notebooks in Google Colab and on Binder.

Usage: python tools/publish_links.py OWNER/NAME   (the repository on GitHub)

README.md and each notebook get two badges below their title, and each notebook a first cell of code
that installs arcvq in Colab and does nothing elsewhere. Another address replaces the former.
"""

import re
import sys
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat.v4 import new_code_cell

from arcvq.runtime.files import write_text

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"

COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
BINDER_BADGE = "https://mybinder.org/badge_logo.svg"
LINE_OF_BADGES = re.compile(r"^\[!\[Open in Colab\]\(.*\n\n", re.MULTILINE)

COLAB_CELL = "colab"  # its id
COLAB_SOURCE = """\
# In Google Colab this installs arcvq and lets its explorers be shown; elsewhere it does nothing.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules:
    from google.colab import output

    if importlib.util.find_spec("arcvq") is None:
        package = "arcvq[kit] @ git+https://github.com/{repository}"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
    output.enable_custom_widget_manager()"""


def main(arguments: list[str]) -> int:
    """Write the links, and return the exit code: 2 if no repository was named."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        publish(ROOT, arguments[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def publish(root: Path, repository: str) -> None:
    """Write the links into README.md and the notebooks.

    Args:
        root: Folder of the checkout.
        repository: OWNER/NAME on GitHub.

    Raises:
        ValueError: The repository is named in another way; then nothing is written.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(
            f"{repository!r} is no name of a repository; it must be OWNER/NAME, as in ada/arcvq"
        )
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    write_text(readme, with_badges(text, badges(repository, FIRST_NOTEBOOK)))

    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0]
        title.source = with_badges(title.source, badges(repository, f"notebooks/{path.name}"))
        put_first(notebook, COLAB_SOURCE.format(repository=repository))
        write_text(path, nbformat.writes(notebook) + "\n")


def badges(repository: str, file: str) -> str:
    """The line of Markdown whose badges open a notebook of the repository."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/{file}"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath={quote(f'lab/tree/{file}')}"
    return (
        f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open on Binder]({BINDER_BADGE})]({binder})"
    )


def with_badges(text: str, line: str) -> str:
    """Put a line of badges below the title, in place of the former."""
    title, _, rest = LINE_OF_BADGES.sub("", text).partition("\n")
    return f"{title}\n\n{line}\n{rest}"


def put_first(notebook: nbformat.NotebookNode, source: str) -> None:
    """Make `source` the first cell of code, in place of the former, and number the cells anew."""
    notebook.cells = [cell for cell in notebook.cells if cell.id != COLAB_CELL]
    kinds = [cell.cell_type for cell in notebook.cells]
    notebook.cells.insert(kinds.index("code"), new_code_cell(source, id=COLAB_CELL))

    run = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    for count, cell in enumerate(run, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
