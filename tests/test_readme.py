"""The README's tables and findings are the ones that benchmarks and experiments measured."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
STORED = sorted((ROOT / "data" / "results").glob("*.parquet"))
PRINTED = [path for path in RESULTS if path.stem != "few_images"]  # a sentence holds its figures


@pytest.mark.parametrize("path", PRINTED, ids=lambda path: path.stem)
def test_every_line_of_a_result_stands_in_the_readme(path):
    lines = (ROOT / "README.md").read_text().splitlines()
    missing = [line for line in path.read_text().splitlines() if line and line not in lines]
    assert missing == []


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("write_results", ROOT / "tools" / "write_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_findings_are_computed_from_the_stored_tables(results):
    assert results.section() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_reads_as_its_rows_say(results, path):
    assert path.with_suffix(".md").read_text() == results.page(path.stem)
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
