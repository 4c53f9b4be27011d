"""What the pages of a report say, and what they never let through."""

import numpy as np
import pytest
import torch

from arcvq.reports.key_figures import KeyFigure, key_figure
from arcvq.reports.pages import NotebookResult, outcome, write_index
from arcvq.runtime.files import write_text


@pytest.mark.parametrize(
    ("value", "line"),
    [(24.98765, "usage: 24.99 dB"), (206, "usage: 206 dB"), (torch.tensor(0.5), "usage: 0.5 dB"),
     (np.int64(3), "usage: 3 dB"), (float("nan"), "usage: nan dB"), ("all", "usage: all dB")],
)
def test_a_key_figure_reads_as_one_line(capsys, value, line):
    key_figure("usage", value, "dB")
    assert capsys.readouterr().out.strip() == line


def test_a_key_figure_without_a_unit_ends_with_its_value():
    assert str(KeyFigure("codes used", 512)) == "codes used: 512"


def test_a_key_figure_is_found_again_in_the_metadata_of_its_output():
    data, metadata = KeyFigure("PSNR", 25.0, "dB")._repr_mimebundle_()
    assert data == {"text/plain": "PSNR: 25 dB"}
    assert KeyFigure(**metadata["arcvq"]["key_figure"]) == KeyFigure("PSNR", 25.0, "dB")


def test_the_outcome_counts_what_passed_failed_and_waits():
    results = [NotebookResult("a", "A", "passed", 2.0), NotebookResult("b", "B", "failed", 1.4)]
    results += [NotebookResult("c", "C")]
    assert outcome(results) == "1 of 3 notebooks passed in 3 s, 1 failed, 1 waiting"
    assert outcome(results[:1]) == "1 of 1 notebooks passed in 2 s"


def test_the_index_escapes_what_notebooks_and_callers_say(tmp_path):
    result = NotebookResult("a", "<i>A</i>", "failed", 1.0, "<script>1</script>", [KeyFigure("<b>", 1)])
    write_index(tmp_path / "index.html", [result], {"Parameters": "<u>"})
    page = (tmp_path / "index.html").read_text()
    assert not any(tag in page for tag in ("<i>", "<script>", "<b>", "<u>"))
    assert "&lt;script&gt;1&lt;/script&gt;" in page


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    write_text(tmp_path / "page.html", "earlier")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "page.html", "later")
    assert (tmp_path / "page.html").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
