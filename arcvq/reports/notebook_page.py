"""An executed notebook as a web page: nbconvert's HTML with live figures and MathML formulas."""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from arcvq.reports.key_figures import cell_outputs
from arcvq.reports.local_files import LocalFiles
from arcvq.reports.mathml import render_markdown
from arcvq.reports.pages import NotebookResult, figure_html, render
from arcvq.runtime.files import write_text

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "A live widget stands here: open the notebook in JupyterLab."
# What tqdm's widgets are as text: "runs: 0%|   | 0/6 [00:00<?", or "0run [00:00, ?run/s]" if there
# is nothing to do or the total is not known.
TQDM = re.compile(r"%\||\[\d+:\d\d[\d:]*[<,]")
# An output longer than this is folded.
FOLDED_LINES = 100
FOLDED_CHARACTERS = 20_000


def write_notebook_page(
    notebook: NotebookNode, result: NotebookResult, folder: Path, local: LocalFiles
) -> None:
    """Write an executed notebook as a page.

    Args:
        notebook: The executed notebook; it is left as it is.
        result: Its name, title and failure.
        folder: Where NAME.html goes, and plotly.min.js if the notebook has live figures.
        local: The files that its texts name.
    """
    is_live = any(PLOTLY in output.get("data", {}) for output in cell_outputs(notebook))
    if is_live:
        write_text(folder / "plotly.min.js", get_plotlyjs())
    html = BeautifulSoup(_body(notebook), "html.parser")
    local.bring(html)
    for output in html.select(".output_area"):
        _fold(html, output)
    if result.failure:
        for error in html.select(".output_error")[-1:]:  # earlier ones were allowed
            error["id"] = "failure"
    _write_page(str(html), result, folder, is_live)


def write_waiting_page(result: NotebookResult, folder: Path) -> None:
    """Write the page of a notebook that has not run, for links that lead there."""
    _write_page(render("waiting.html.j2", result=result), result, folder, is_live=False)


def _write_page(body: str, result: NotebookResult, folder: Path, is_live: bool) -> None:
    page = render(
        "notebook.html.j2",
        result=result,
        title=result.title,
        body=body,
        is_live=is_live,
        code_style=_code_style,
    )
    write_text(folder / f"{result.name}.html", page)


def is_progress_bar(output: NotebookNode) -> bool:
    """Tell whether an output is tqdm's widget, which says nothing after the run."""
    text = output.get("data", {}).get("text/plain", "")
    return WIDGET in output.get("data", {}) and bool(TQDM.search(text))


def _body(notebook: NotebookNode) -> str:
    """The cells as HTML."""
    body, _ = _exporter().from_notebook_node(_without_kernel(notebook))
    return body


@cache
def _exporter() -> HTMLExporter:
    return HTMLExporter(
        template_name="basic",
        filters={"markdown2html": _markdown2html},
        exclude_output_prompt=True,
    )


def _fold(html: BeautifulSoup, output: Tag) -> None:
    """Fold a long text or table; an error is what the reader came for."""
    text = "".join(part.get_text() for part in output.select("pre, table"))
    lines = len(output.select("tr")) or text.count("\n")
    is_long = lines > FOLDED_LINES or len(text) > FOLDED_CHARACTERS
    if not is_long or output.select(".output_error"):
        return
    summary = html.new_tag("summary")
    summary.string = f"{lines:,} lines of output" if lines > 1 else f"{len(text):,} characters"
    details = output.wrap(html.new_tag("details"))
    details.insert(0, summary)


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
