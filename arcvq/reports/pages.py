"""The report of a headless run: an index page and every notebook as a page, readable without a network."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from arcvq.reports.key_figures import KeyFigure, outputs
from arcvq.reports.mathml import render_markdown
from arcvq.runtime.files import write_text

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
LIMIT = 8_000_000  # bytes of a page of figures
WIDGET_NOTE = "A live widget stands here: open the notebook in JupyterLab."


@dataclass(frozen=True)
class NotebookResult:
    """What a run made of a notebook: status "passed", "failed" or "waiting", seconds, and where it failed."""

    name: str
    title: str
    status: str = "waiting"
    seconds: float = 0.0
    failure: str = ""
    key_figures: list[KeyFigure] = field(default_factory=list)


def notebook_title(notebook) -> str:
    """The first heading of a notebook, or an empty text."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#\s+(.+)$", text, re.MULTILINE)
    return heading[1].strip() if heading else ""


def figure_text(figure: Mapping[str, Any]) -> str:
    """What stands for a plotly figure where it cannot be seen: its title and its summary."""
    layout = figure.get("layout", {})
    texts = ((layout.get("title") or {}).get("text"), (layout.get("meta") or {}).get("summary"))
    return ". ".join(re.sub(r"<[^>]+>", " ", text) for text in texts if text) or "A figure"


def write_notebook_page(notebook, path: Path, failure: str = "") -> None:
    """Writes an executed notebook as a page; its figures stay live by a plotly.min.js, written beside it."""
    import jinja2
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs


    notebook = copy.deepcopy(notebook)
    live = any(PLOTLY in output.get("data", {}) for output in outputs(notebook))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_for_page(output) for output in cell.outputs if not is_progress_bar(output)]
    if live and not (script := path.with_name("plotly.min.js")).exists():
        write_text(script, get_plotlyjs())

    @jinja2.pass_context
    def markdown(context, source: str) -> str:
        return render_markdown(source, context.get("cell", {}).get("attachments"))

    filters = {"markdown2html": markdown}
    exporter = HTMLExporter(template_name="basic", filters=filters, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r'(href="[\w-]+)\.ipynb\b', r"\1.html", body)  # from notebook to notebook, page to page
    body = re.sub(r'(?=class="[\w ]*output_error")', 'id="failure" ', body, count=1)
    link = f'<p class=failure>Failed in <a href="#failure">{escape(failure)}</a></p>' if failure else ""
    nav = f'<nav><a href="index.html">All notebooks</a>{link}</nav>'
    head = '<script src="plotly.min.js"></script>' if live else ""
    title = notebook_title(notebook) or path.stem
    write_text(path, _page(title, f"{nav}<main class=notebook>{body}</main>", head))


def is_progress_bar(output) -> bool:
    """True for tqdm's widget, which says nothing after the run."""
    return WIDGET in output.get("data", {}) and "%|" in output.data.get("text/plain", "")


def _for_page(output):
    import plotly.io as pio

    data = output.get("data", {})
    if PLOTLY in data:
        figure = dict(data[PLOTLY])
        config = {"displaylogo": False, "showSendToCloud": False} | figure.pop("config", {})
        div = pio.to_html(figure, config=config, include_plotlyjs=False, full_html=False, validate=False)
        output.data = {"text/html": f'<figure aria-label="{escape(figure_text(figure))}">{div}</figure>'}
    elif WIDGET in data:  # a page has no kernel behind it
        output.data = {"text/html": f"<p class=note>{WIDGET_NOTE}</p>"}
    return output


def write_index(path: Path, results: Sequence[NotebookResult], facts: Mapping[str, str]) -> None:
    """Writes the index page: the outcome, every notebook with its key figures, the facts of the run."""
    rows = "".join(_row(result) for result in results)
    items = "".join(f"<div><dt>{escape(name)}<dd>{escape(fact)}</div>" for name, fact in facts.items())
    body = (
        f"<main><h1>arcvq notebooks</h1><p class=outcome>{outcome(results)}</p>"
        "<table class=results><thead><tr><th scope=col>Notebook<th scope=col>Status<th scope=col>Time"
        f"<th scope=col>Key figures</thead><tbody>{rows}</tbody></table><dl class=facts>{items}</dl></main>"
    )
    write_text(path, _page("arcvq notebooks", body))


def outcome(results: Sequence[NotebookResult]) -> str:
    """The run in one sentence."""
    states, seconds = [result.status for result in results], sum(result.seconds for result in results)
    text = f"{states.count('passed')} of {len(states)} notebooks passed in {seconds:.0f} s"
    return text + "".join(f", {states.count(s)} {s}" for s in ("failed", "waiting") if s in states)


def _row(result: NotebookResult) -> str:
    name, title = escape(result.name), escape(result.title or result.name)
    figures = "".join(f"<li>{escape(str(figure))}</li>" for figure in result.key_figures)
    if result.status == "waiting":
        return f"<tr><th scope=row>{title}<br><small>{name}</small><td class=waiting>waiting<td><td>"
    failure = f'<p class=failure><a href="{name}.html#failure">{escape(result.failure)}</a></p>'
    return (
        f'<tr><th scope=row><a href="{name}.html">{title}</a>'
        f'<br><small>{name} · <a href="{name}.ipynb" download>notebook</a></small>'
        f"{failure if result.failure else ''}<td class={result.status}>{result.status}"
        f"<td class=time>{result.seconds:.1f} s<td><ul>{figures}</ul>"
    )


def write_page(
    path: str | Path, sections: Sequence[tuple[str, str, Any]], title: str = "arcvq explorers",
    table: Any = None,
) -> Path:
    """Writes plotly figures, each with a heading and a text, and a pandas table as one page with plotly.js inside.

    Raises ValueError for more than 8 MB.
    """
    from plotly.offline import get_plotlyjs

    from arcvq.figures.theme import summary

    config = {"displaylogo": False, "showSendToCloud": False}
    body = "".join(
        f"<section><h2>{escape(heading)}</h2><p>{escape(text)}</p><figure aria-label='{escape(summary(figure))}'>"
        f"{figure.to_html(config=config, include_plotlyjs=False, full_html=False, auto_play=False)}</figure></section>"
        for heading, text, figure in sections)
    if table is not None:
        body += f"<section><h2>Table</h2>{table.to_html(index=False, border=0)}</section>"
    page = _page(title, f"<main><h1>{escape(title)}</h1>{body}</main>",
                 f"<script>{get_plotlyjs()}</script>")
    if (size := len(page.encode())) > LIMIT:
        raise ValueError(f"the page would have {size / 1e6:.1f} MB; at most {LIMIT / 1e6:.0f} are allowed")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def _page(title: str, body: str, head: str = "") -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = Path(__file__).with_name("report.css").read_text("utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>{head}"
        f"<style>{light}\n@media (prefers-color-scheme: dark) {{{dark}}}\n{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )
