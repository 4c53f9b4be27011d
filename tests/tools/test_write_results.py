"""docs/results.md and the files beside the stored tables say what the tables hold."""

import re

import pytest
import write_results
from findings import anchor

from arcvq.experiments.stored_results import RESULTS

STORED = sorted(RESULTS.glob("*.parquet"))


def test_the_findings_are_computed_from_the_stored_tables():
    assert write_results.body() in write_results.PAGE.read_text()


def test_every_link_of_the_findings_leads_to_a_file():
    folder = write_results.PAGE.parent
    links = re.findall(r"\]\((\.\./[^)]*)\)", write_results.body())
    assert len(links) == 2 * len(write_results.findings())
    for link in links:
        assert (folder / link).is_file()


def test_every_line_at_a_glance_leads_to_a_heading_of_the_page():
    page = write_results.PAGE.read_text()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    targets = re.findall(r"\]\(#([^)]*)\)", page)
    assert targets
    assert {*targets} <= {anchor(heading) for heading in headings}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_reads_as_its_rows_say(path):
    assert path.with_suffix(".md").read_text() == write_results.table_file(path.stem)
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
