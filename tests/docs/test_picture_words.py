"""Pictures of stored notebooks on the site keep their alternative texts."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import nbformat
from PIL import Image

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"
CONF = f"""
import sys

sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "picture_words"]
nb_execution_mode = "off"
"""


def test_each_picture_of_a_cell_has_the_words_of_its_output(tmp_path):
    outputs = []
    for words in ("A red square.", "A blue square."):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), words.split()[1]).save(file, "png")
        data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        about = {"image/png": {"alt": words, "width": 4, "height": 4}}
        outputs.append(nbformat.v4.new_output("display_data", data, metadata=about))
    cell = nbformat.v4.new_code_cell("draw()", outputs=outputs)
    title = nbformat.v4.new_markdown_cell("# Squares")
    nbformat.write(nbformat.v4.new_notebook(cells=[title, cell]), tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(CONF)
    command = [sys.executable, "-m", "sphinx", "-q", tmp_path, tmp_path / "site"]
    subprocess.run(command, check=True, timeout=120)
    page = (tmp_path / "site" / "index.html").read_text()
    assert page.count('alt="A red square."') == page.count('alt="A blue square."') == 1
    assert 'alt="_images' not in page
