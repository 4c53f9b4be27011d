"""The page of a notebook: what it takes from files beside it, and what it folds."""

import base64
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from tqdm.notebook import tqdm as notebook_tqdm

from arcvq.reports.local_files import LocalFiles
from arcvq.reports.notebook_page import WIDGET, is_progress_bar, write_notebook_page
from arcvq.reports.pages import NotebookResult


@pytest.fixture
def folder(tmp_path):
    """A folder with a notebook's pictures and the notebooks that it links to."""
    (tmp_path / "sub").mkdir()
    for name in ("picture.png", "my picture.png", "sub/deep.png"):
        Image.new("RGB", (2, 2), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def page_of(folder, *cells, pages=None, failure=""):
    """The page of a notebook with these cells, parsed."""
    out = folder / "out"
    result = NotebookResult("mine", "Mine", "failed" if failure else "passed", failure=failure)
    local = LocalFiles(folder, pages or {})
    write_notebook_page(new_notebook(cells=list(cells)), result, out, local)
    return BeautifulSoup((out / "mine.html").read_text(), "html.parser").main


def printed(text, name="stdout"):
    return new_code_cell("f()", outputs=[new_output("stream", name=name, text=text)])


@pytest.mark.parametrize(
    "source",
    [
        "![red](picture.png)",
        "![red](./picture.png)",
        "![red](<my picture.png>)",
        "![red](my%20picture.png)",
        "![red](sub/../sub/deep.png)",
        "![red][here]\n\n[here]: picture.png",
        "[![red](picture.png)](https://example.org)",
        '<img alt="red" src="picture.png" width="20">',
        "<div align=center><img src='picture.png'></div>",
        "| a |\n|---|\n| ![red](picture.png) |",
    ],
)
def test_a_picture_beside_the_notebook_is_in_the_page(folder, source):
    (picture,) = page_of(folder, new_markdown_cell(source)).find_all("img")
    start, _, content = picture["src"].partition(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_a_picture_with_an_absolute_path_is_in_the_page(folder):
    for address in (folder / "picture.png", (folder / "picture.png").as_uri()):
        (picture,) = page_of(folder, new_markdown_cell(f"![red]({address})")).find_all("img")
        assert picture["src"].startswith("data:image/png")


def test_a_pasted_picture_is_in_the_page(folder):
    content = base64.b64encode((folder / "picture.png").read_bytes()).decode()
    cell = new_markdown_cell("![red](attachment:pasted.png)")
    cell.attachments = {"pasted.png": {"image/png": content}}
    (picture,) = page_of(folder, cell).find_all("img")
    assert picture["src"] == f"data:image/png;base64,{content}"


def test_a_picture_that_an_output_names_is_in_the_page(folder):
    data = {"text/html": "<img src='picture.png'/>", "text/plain": "<Image>"}
    cell = new_code_cell("Image(url='picture.png')", outputs=[new_output("display_data", data)])
    (picture,) = page_of(folder, cell).find_all("img")
    assert picture["src"].startswith("data:image/png")


@pytest.mark.parametrize("name", ["nowhere.png", "notes.txt", "sub"])
def test_a_picture_that_is_not_there_is_named(folder, name):
    page = page_of(folder, new_markdown_cell(f"![The *map*]({name})"))
    assert not page.find_all("img")
    assert page.em.text == f"The map (there is no picture {name})"


@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "//example.org/a.png", "data:image/png;base64,AAAA"]
)
def test_a_picture_from_elsewhere_is_left_alone(folder, address):
    (picture,) = page_of(folder, new_markdown_cell(f"![a]({address})")).find_all("img")
    assert picture["src"] == address


@pytest.mark.parametrize(
    ("address", "leads_to"),
    [
        ("other.ipynb", "other.html"),
        ("./other.ipynb", "other.html"),
        ("other.ipynb#A-heading", "other.html#A-heading"),
        ("sub/my%20own%20%231.ipynb", "my%20own%20%231.html"),
        ("https://example.org/other.ipynb", "https://example.org/other.ipynb"),
        ("mailto:me@example.org", "mailto:me@example.org"),
        ("#A-heading", "#A-heading"),
    ],
)
def test_a_link_leads_to_the_page_of_a_notebook_of_the_report(folder, address, leads_to):
    pages = {folder / "other.ipynb": "other", folder / "sub" / "my own #1.ipynb": "my own #1"}
    page = page_of(folder, new_markdown_cell(f"[there]({address})"), pages=pages)
    assert page.p.a["href"] == leads_to
    assert page.p.a.text == "there"


@pytest.mark.parametrize("address", ["other.ipynb", "../mine/other.ipynb", "notes.txt", "sub/"])
def test_a_link_to_what_is_not_in_the_report_is_text_that_says_so(folder, address):
    pages = {folder / "sub" / "other.ipynb": "other"}  # another notebook of that name
    page = page_of(folder, new_markdown_cell(f"[**there**]({address})"), pages=pages)
    assert not page.p.find_all("a")
    assert page.p.text == "there"
    name = Path(address).name
    assert page.p.span["title"] == f"{name} is not part of this report"


def test_a_long_output_is_folded_under_the_number_of_its_lines(folder):
    text = "".join(f"line {number} < 5\n" for number in range(3000))
    page = page_of(folder, printed(text), printed("short"), printed(text, "stderr"))
    folded = page.find_all("details")
    assert [fold.summary.text for fold in folded] == ["3,000 lines of output"] * 2
    assert folded[0].pre.text.strip() == text.strip()
    assert "short" in page.text


def test_a_long_line_is_folded_too(folder):
    page = page_of(folder, printed("x" * 100_000))
    assert page.details.summary.text == "100,000 characters"


def test_a_long_table_is_folded_under_the_number_of_its_rows(folder):
    table = "<table><tr><th>a</th></tr>" + "<tr><td>1</td></tr>\n" * 150 + "</table>"
    cell = new_code_cell("table", outputs=[new_output("display_data", {"text/html": table})])
    assert page_of(folder, cell).details.summary.text == "151 lines of output"


def test_the_error_that_a_notebook_ended_with_is_never_folded(folder):
    trace = [f"frame {number}" for number in range(500)]
    error = new_output("error", ename="E", evalue="e", traceback=trace)
    page = page_of(folder, new_code_cell("f()", outputs=[error]), failure="cell In [1]: E: e")
    assert not page.find_all("details")
    assert page.find(id="failure").text.strip().startswith("frame 0")


def test_what_an_author_wrote_as_html_is_kept(folder):
    source = "<details><summary>Hint</summary>\n\nUse $a < b$ & `c`.\n\n</details>\n\nAfter"
    page = page_of(folder, new_markdown_cell(source))
    assert page.details.summary.text == "Hint"
    assert page.details.math
    assert page.details.code.text == "c"
    assert "After" not in page.details.text


def test_the_page_leaves_the_notebook_as_it_is(folder):
    cell = new_markdown_cell("![red](picture.png)")
    before = nbformat.from_dict(cell)
    page_of(folder, cell)
    assert cell == before


@pytest.mark.parametrize("total", [0, 6, None])
def test_a_bar_of_tqdm_is_known_with_any_total(total):
    bar = notebook_tqdm(total=total, desc="runs", unit="run", display=False)
    data = {WIDGET: {}, "text/plain": repr(bar.container)}
    assert is_progress_bar(new_output("display_data", data))


@pytest.mark.parametrize("text", ["IntSlider(value=0)", "Select(options=[1, 2])", "HBox()"])
def test_another_widget_is_no_bar(text):
    assert not is_progress_bar(new_output("display_data", {WIDGET: {}, "text/plain": text}))


def test_a_printed_meter_is_no_bar():
    data = {"text/plain": "runs: 0run [00:00, ?run/s]"}
    assert not is_progress_bar(new_output("display_data", data))
