"""An executed notebook as a web page: nbconvert's HTML with live figures and MathML formulas."""

import copy
import re
from pathlib import Path
from typing import Any

import jinja2
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from arcvq.reports.key_figures import cell_outputs
from arcvq.reports.mathml import render_markdown
from arcvq.reports.pages import NotebookResult, figure_html, render
from arcvq.runtime.files import write_text

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "A live widget stands here: open the notebook in JupyterLab."


def write_notebook_page(notebook: NotebookNode, result: NotebookResult, folder: Path) -> None:
    """Write an executed notebook as a page.

    Args:
        notebook: The executed notebook; it is left as it is.
        result: Its name, title and failure.
        folder: Where NAME.html goes, and plotly.min.js if the notebook has live figures.
    """
    is_live = any(PLOTLY in output.get("data", {}) for output in cell_outputs(notebook))
    if is_live:
        write_text(folder / "plotly.min.js", get_plotlyjs())
    page = render(
        "notebook.html.j2",
        result=result,
        title=result.title,
        body=_body(notebook),
        is_live=is_live,
        code_style=_code_style,
    )
    write_text(folder / f"{result.name}.html", page)


def is_progress_bar(output: NotebookNode) -> bool:
    """Tell whether an output is tqdm's widget, which says nothing after the run."""
    return WIDGET in output.get("data", {}) and "%|" in output.data.get("text/plain", "")


def _body(notebook: NotebookNode) -> str:
    """The cells as HTML."""
    exporter = HTMLExporter(
        template_name="basic",
        filters={"markdown2html": _markdown2html},
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(_without_kernel(notebook))
    # Links to notebooks lead to their pages, and #failure leads to the first error.
    body = re.sub(r'(href="[\w-]+)\.ipynb\b', r"\1.html", body)
    return re.sub(r'(?=class="[\w ]*output_error")', 'id="failure" ', body, count=1)


def _without_kernel(notebook: NotebookNode) -> NotebookNode:
    """A copy whose outputs need no kernel: live figures as HTML, a note in place of a widget."""
    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
    for output in cell_outputs(page):
        data = output.get("data", {})
        if PLOTLY in data:
            output.data = {"text/html": str(figure_html(data[PLOTLY]))}
        elif WIDGET in data:
            output.data = {"text/markdown": f"*{WIDGET_NOTE}*"}
    return page


@jinja2.pass_context
def _markdown2html(context: Any, source: str) -> str:
    """nbconvert's filter for text cells, with our formulas; pasted pictures come with the cell."""
    return render_markdown(source, context.get("cell", {}).get("attachments"))


def _code_style(name: str) -> str:
    """CSS of one of Pygments' styles for highlighted code."""
    return HtmlFormatter(style=name).get_style_defs(".highlight")
