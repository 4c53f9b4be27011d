"""Pages that need no network: the index of a run, and figures on one page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from arcvq.reports.key_figures import KeyFigure
from arcvq.runtime.files import write_text
from arcvq.runtime.wording import counted

PAGE_LIMIT = 8_000_000  # bytes of a page of figures, of which plotly.js takes almost 5 million
GENERATOR = '<meta name="generator" content="arcvq">'  # in every page that is ours
REPORT_TITLE = "arcvq notebooks"  # the reports of earlier versions have only this
PLOTLY_CONFIG = {"displaylogo": False, "showSendToCloud": False}


@dataclass(frozen=True)
class NotebookResult:
    """Outcome of one notebook of a run.

    Attributes:
        name: File name without its ending.
        title: First heading of the notebook.
        status: "waiting", "running", then "passed", "failed" (a cell raised an error), "stopped"
            (from outside, in the middle) or "not run" (the run ended before).
        seconds: Time that the notebook took.
        failure: Cell and message of the error; empty where there was none.
        key_figures: Key figures that the notebook showed, in order.
        given: Parameters that the run set, as source text.
        defaults: The other parameters, as the notebook has them in its source.
        progress: How far it is while it runs.
    """

    name: str
    title: str
    status: str = "waiting"
    seconds: float = 0.0
    failure: str = ""
    key_figures: list[KeyFigure] = field(default_factory=list)
    given: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    progress: str = ""

    @property
    def has_run(self) -> bool:
        """Whether cells of it have run, so that it has a page."""
        return self.status in ("passed", "failed", "stopped")


def outcome(results: Sequence[NotebookResult]) -> str:
    """Summarize a run in one sentence: how many notebooks passed and how many not, and the time.

    The time is that of all notebooks together. Where several run at the same time, the user waits
    for less.
    """
    states = [result.status for result in results]
    seconds = sum(result.seconds for result in results)
    sentence = f"{states.count('passed')} of {counted(len(states), 'notebook')} passed"
    for state in ("failed", "stopped", "running", "waiting", "not run"):
        if state in states:
            sentence += f", {states.count(state)} {state}"
    return f"{sentence}; total notebook time: {seconds:.0f} s"


def write_index(path: Path, results: Sequence[NotebookResult], facts: Mapping[str, str]) -> None:
    """Write the index page of a run: outcome, notebooks with their key figures, facts."""
    page = render(
        "index.html.j2",
        title=REPORT_TITLE,
        outcome=outcome(results),
        results=results,
        facts=facts,
    )
    write_text(path, page)


def is_report(path: Path) -> bool:
    """Whether this page is the index of a run of notebooks."""
    return f"<title>{REPORT_TITLE}</title>" in _text_of(path)


def is_our_page(path: Path) -> bool:
    """Whether arcvq has written this page."""
    return GENERATOR in _text_of(path) or is_report(path)


def _text_of(page: Path) -> str:
    """The text of a page; empty where there is none."""
    return page.read_text("utf-8", errors="replace") if page.exists() else ""


def check_page_is_ours(path: Path) -> None:
    """Raise FileExistsError for a page that something else than arcvq has written."""
    if path.exists() and not is_our_page(path):
        raise FileExistsError(
            f"{path} was not written by arcvq, which would replace it; name another folder"
        )


def write_figures_page(
    path: Path,
    title: str,
    sections: Sequence[tuple[str, str, go.Figure]],
    table: pd.DataFrame | None = None,
) -> None:
    """Write plotly figures and a table as one page that stays live, with plotly.js inside.

    Args:
        path: The HTML file; its folder is made if it is missing.
        title: Heading of the page.
        sections: A heading, a text (may be empty) and a figure for each section.
        table: Rows to show below the figures.

    Raises:
        ValueError: The page would be larger than 8 MB.
        OSError: The page cannot be written; an earlier page is kept.
    """
    page = render(
        "figures.html.j2",
        title=title,
        sections=sections,
        table=table,
        plotly_script=get_plotlyjs(),
    )
    size = len(page.encode())
    if size > PAGE_LIMIT:
        raise ValueError(
            f"the page would have {size / 1e6:.1f} MB; at most {PAGE_LIMIT / 1e6:.0f} are allowed"
        )
    write_text(path, page)


def figure_text(figure: Mapping[str, Any]) -> str:
    """Describe a plotly figure, given as JSON, for readers who cannot see it: title and summary."""
    layout = figure.get("layout", {})
    title = (layout.get("title") or {}).get("text")
    summary = (layout.get("meta") or {}).get("summary")
    texts = [re.sub(r"<[^>]+>", " ", text) for text in (title, summary) if text]
    return re.sub(r"([?!.])\. ", r"\1 ", ". ".join(texts)) or "A figure"


def figure_html(figure: Mapping[str, Any]) -> Markup:
    """Turn a plotly figure, given as JSON, into HTML that draws it where plotly.js is loaded."""
    plot = plotly.io.to_html(
        figure,
        config=PLOTLY_CONFIG,
        auto_play=False,
        include_plotlyjs=False,
        full_html=False,
        validate=False,
    )
    return Markup(render("figure.html.j2", text=figure_text(figure), plot=plot))


def render(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this module; text is escaped unless it is `Markup`."""
    return _TEMPLATES.get_template(template).render(values)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("arcvq.reports"),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.filters["figure_html"] = figure_html
