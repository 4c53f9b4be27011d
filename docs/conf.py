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
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent))

def copy_notebooks() -> None:
    """Make docs/notebooks the same as notebooks/; files that did not change keep their time."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    names = {path.name for path in (HERE.parent / "notebooks").glob("*.ipynb")}
    for path in target.glob("*.ipynb"):
        if path.name not in names:
            path.unlink()
    for name in names:
        shutil.copy2(HERE.parent / "notebooks" / name, target / name)


copy_notebooks()

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
]
exclude_patterns = ["_ext", "**.ipynb_checkpoints"]

# The notebooks are shown as they are stored, with their outputs and stills. Sphinx reads only what
# lies below its own folder, so they are copied there.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# API pages: one a group of modules, written by hand, filled from the docstrings (Google style).
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "py:obj"  # `name` in a docstring: a link where the name is known, code elsewhere
python_maximum_signature_line_length = 80

html_theme = "pydata_sphinx_theme"
html_title = "arcvq"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["arcvq.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
pygments_style = "sphinx"


def escape_marks(app, what, name, obj, options, lines: list[str]) -> None:
    """Let `|z|`, `2 * x` and `name_` in a docstring mean themselves, not reStructuredText marks."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`)", line)
        plain = [re.sub(r"([|*])|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
        parts[::2] = plain
        lines[number] = "".join(parts)


def setup(app) -> None:
    # Before napoleon (priority 500), which writes marks of its own.
    app.connect("autodoc-process-docstring", escape_marks, priority=400)
