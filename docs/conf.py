"""Configuration of the documentation site.

    sphinx-build -W --keep-going docs build/docs

The site is built without a network and asks its readers for none: formulas become MathML while the
pages are built, and fonts and scripts come with the theme.
"""

import re
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(ROOT))

from arcvq.explorers.export import export_explorers, token_explorer  # noqa: E402
from arcvq.runs import pretrained  # noqa: E402


def copy_notebooks() -> None:
    """Make docs/notebooks the same as notebooks/; files that did not change keep their time."""
    names = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    for name in _fresh_folder("notebooks", names):
        shutil.copy2(ROOT / "notebooks" / name, HERE / "notebooks" / name)


def write_tables() -> None:
    """Make a page in docs/tables of every stored table and its picture."""
    stored = sorted((ROOT / "data" / "results").glob("*.md"))
    pictures = [path.with_suffix(".png") for path in stored]
    _fresh_folder("tables", {path.name for path in (*stored, *pictures)})
    for path, picture in zip(stored, pictures, strict=True):
        data, _, table = path.read_text().partition("\n\n")
        study = path.stem.partition("-")[0].capitalize()
        image = f"![Measures of {path.stem}]({picture.name})"
        page = f"# {study}: {data}\n\n{image}\n\n{keep_intervals(table)}"
        target = HERE / "tables" / path.name
        if not target.exists() or target.read_text() != page:
            target.write_text(page)
        shutil.copy2(picture, HERE / "tables" / picture.name)


def write_live_page() -> None:
    """Make the page of `arcvq export-explorers`, and the explorer on our first page."""
    export_explorers(HERE / "extra" / "live")
    explorer = token_explorer(pretrained.load("page/samp"), image=3, place=24)
    (HERE / "tokens.html").write_text(explorer.html("tokens"))


def keep_intervals(text: str) -> str:
    """Let `24.1 (23.9 to 24.3)` not be broken into lines, which would make tall tables."""
    return re.sub(r"(\S+) (\(\S+) to (\S+\))", "\\1\u00a0\\2\u00a0to\u00a0\\3", text)


def _fresh_folder(name: str, files: set[str]) -> set[str]:
    """Make the folder docs/NAME and remove from it what is not among `files`; return `files`."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in files:
            path.unlink()
    return files


copy_notebooks()
write_tables()
write_live_page()

project = "arcvq"
author = "arcvq authors"
copyright = "arcvq authors, MIT license"
version = release = installed_version("arcvq")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "picture_words",
]
exclude_patterns = ["_ext", "extra", "**.ipynb_checkpoints"]

# The notebooks are shown as they are stored, with their outputs and stills. Sphinx reads only what
# lies below its own folder, so they are copied there; so are the stored tables.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# API pages: one a group of modules, written by hand, filled from the docstrings (Google style).
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what a method overrides is described once, in the base class
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "py:obj"  # `name` in a docstring: a link where the name is known, code elsewhere
python_maximum_signature_line_length = 80

html_theme = "pydata_sphinx_theme"
html_title = "arcvq"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["arcvq.css"]
html_context = {"default_mode": "auto"}
html_sidebars = {name: [] for name in ("index", "start", "speed")}  # they have no pages below
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
}
pygments_style = "sphinx"
highlight_language = "none"  # of blocks that do not name theirs, which are mostly commands


def escape_marks(app, what, name, obj, options, lines: list[str]) -> None:
    """Let `|z|`, `2 * x` and `name_` in a docstring mean themselves, not reStructuredText marks."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`)", line)
        plain = [re.sub(r"([|*])|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
        parts[::2] = plain
        lines[number] = "".join(parts)


def escape_types(app, what, name, obj, options, lines: list[str]) -> None:
    """Do the same for the types of attributes, such as `Float[Tensor, "B D *grid"]`."""
    for number, line in enumerate(lines):
        if line.startswith(":vartype"):
            lines[number] = line.replace("*", "\\*")


def link_tables(app, page: str, source: list[str]) -> None:
    """Let the results link to the pages of their tables; in the repository they link to files."""
    if page == "results":
        source[0] = keep_intervals(source[0].replace("../data/results/", "tables/"))


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Leave out the fields of named tuples, which their class describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("source-read", link_tables)
    # Before napoleon (priority 500), which writes marks of its own.
    app.connect("autodoc-process-docstring", escape_marks, priority=400)
    # After napoleon, which adds these types.
    app.connect("autodoc-process-docstring", escape_types, priority=600)
