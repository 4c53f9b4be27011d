"""The README's tables are the ones that benchmarks measured."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
PRINTED = [path for path in RESULTS if path.stem != "few_images"]  # a sentence holds its figures


@pytest.mark.parametrize("path", PRINTED, ids=lambda path: path.stem)
def test_every_line_of_a_result_stands_in_the_readme(path):
    lines = (ROOT / "README.md").read_text().splitlines()
    missing = [line for line in path.read_text().splitlines() if line and line not in lines]
    assert missing == []
