"""Run the Python blocks of pages, each page in a namespace and a folder of its own.

    python -m tests.docs.run_blocks REPORT PAGE...

REPORT becomes a JSON object with the traceback of each page, empty where all blocks ran.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

OPEN = "```python"
CLOSE = "```"


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """The blocks of a page that are marked as Python, with the number of their first line.

    Blocks inside an HTML comment are set-ups that readers do not see; they count as well.
    """
    blocks = []
    start = None
    lines = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if start is None and line.strip() == OPEN:
            start = number + 1
            lines = []
        elif start is not None and line.strip() == CLOSE:
            blocks.append((start, "\n".join(lines)))
            start = None
        elif start is not None:
            lines.append(line)
    return blocks


def run_page(page: Path) -> str:
    """Run all blocks of a page in order, in a temporary folder; return the traceback, if any."""
    namespace = {"__name__": page.stem}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for first_line, code in python_blocks(page):
                # Empty lines in front, so that a traceback has the line numbers of the page.
                source = "\n" * (first_line - 1) + code
                exec(compile(source, str(page), "exec"), namespace)
        except Exception:
            return traceback.format_exc()
        finally:
            os.chdir("/")
    return ""


def main() -> None:
    report, *pages = map(Path, sys.argv[1:])
    report.write_text(json.dumps({str(page): run_page(page) for page in pages}))


if __name__ == "__main__":
    main()
