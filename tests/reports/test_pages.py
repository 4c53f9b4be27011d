"""What the pages of a report say, and what they never let through."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from arcvq.reports import pages
from arcvq.reports.key_figures import KeyFigure
from arcvq.reports.pages import NotebookResult, outcome, write_figures_page, write_index


def test_the_outcome_counts_what_passed_failed_and_waits():
    results = [
        NotebookResult("a", "A", "passed", 2.0),
        NotebookResult("b", "B", "failed", 1.4),
        NotebookResult("c", "C"),
    ]
    assert (
        outcome(results) == "1 of 3 notebooks passed, 1 failed, 1 waiting; total notebook time: 3 s"
    )
    assert outcome(results[:1]) == "1 of 1 notebook passed; total notebook time: 2 s"


def test_the_index_escapes_what_notebooks_and_callers_say(tmp_path):
    failure = "<script>1</script>"
    figures = [KeyFigure("<b>", 1)]
    result = NotebookResult("a", "<i>A</i>", "failed", 1.0, failure, figures)
    write_index(tmp_path / "index.html", [result], {"Parameters": "<u>"})
    page = (tmp_path / "index.html").read_text()
    assert not any(tag in page for tag in ("<i>", "<script>", "<b>", "<u>"))
    assert "&lt;script&gt;1&lt;/script&gt;" in page


def test_a_page_of_figures_escapes_its_texts_and_describes_its_figures(tmp_path):
    figure = go.Figure(go.Scatter(y=[1, 3]), layout={"title": {"text": 'The "curve"'}})
    table = pd.DataFrame({"name": ["<i>"], "value": [1.5]})
    path = tmp_path / "new" / "page.html"
    write_figures_page(path, "A & B", [("<b>", "x < y", figure)], table)
    page = path.read_text()
    assert "<title>A &amp; B</title>" in page
    assert "<h2>&lt;b&gt;</h2>" in page
    assert "<p>x &lt; y</p>" in page
    assert '<figure aria-label="The &#34;curve&#34;">' in page
    assert "<td>&lt;i&gt;</td>" in page


def test_a_question_as_a_title_keeps_its_mark_alone():
    layout = {"title": {"text": "How many codes?"}, "meta": {"summary": "Some. All. 0.5."}}
    assert pages.figure_text({"layout": layout}) == "How many codes? Some. All. 0.5."
    layout["title"]["text"] = "Codes"
    assert pages.figure_text({"layout": layout}) == "Codes. Some. All. 0.5."


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    page = tmp_path / "index.html"
    page.write_text("earlier")
    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_index(page, [], {})
    assert page.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_page_beyond_the_limit_is_refused_and_the_earlier_one_survives(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("earlier")
    monkeypatch.setattr(pages, "PAGE_LIMIT", 1_000_000)
    with pytest.raises(ValueError, match=r"the page would have .* MB; at most 1 are allowed"):
        write_figures_page(path, "Title", [("Nothing", "Nothing moves.", go.Figure())])
    assert path.read_text() == "earlier"
