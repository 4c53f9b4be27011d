"""docs/results.md and the files beside the stored tables say what the tables hold."""

import pytest
import write_results

from arcvq.experiments.stored_results import RESULTS

STORED = sorted(RESULTS.glob("*.parquet"))


def test_the_findings_are_computed_from_the_stored_tables():
    assert write_results.section() in write_results.PAGE.read_text()


def test_every_link_of_the_findings_leads_to_a_file():
    for name, _, _ in write_results.findings():
        for ending in (".png", ".md"):
            assert (write_results.PAGE.parent / write_results.LINKS / (name + ending)).is_file()


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_reads_as_its_rows_say(path):
    assert path.with_suffix(".md").read_text() == write_results.table_file(path.stem)
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
