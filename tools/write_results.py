"""Write what the tables of data/results hold for readers.

    python tools/write_results.py

Each table gets a Markdown file and a picture beside it; docs/results.md gets a section for each of
them, with the command that made it. The pictures need Chromium or Chrome, as `make notebooks` does.
"""

from pathlib import Path

from findings import Finding, at_a_glance, command, findings

from arcvq.experiments import EXPERIMENTS
from arcvq.experiments.stored_results import RESULTS, stored
from arcvq.experiments.tables import data_title, markdown, regime_note
from arcvq.figures.experiment_results import pictures
from arcvq.runtime.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
LINKS = "../data/results"  # from the page to the tables and pictures
START = "<!-- findings: written by tools/write_results.py -->"
END = "<!-- end of findings -->"


def table(name: str) -> str:
    """A stored table in Markdown."""
    experiment = EXPERIMENTS[name.split("-")[0]]
    return markdown(experiment.table(stored(name)))


def table_file(name: str) -> str:
    """The Markdown file of a stored table, which says what data it is about."""
    rows = stored(name)
    return f"{data_title(rows)}\n\n{table(name)}\n{regime_note(rows)}\n"


def body() -> str:
    """The part of docs/results.md between START and END."""
    found = findings()
    sections = [section(finding) for finding in found]
    return "\n\n".join([START, at_a_glance(found).strip(), *sections, END])


def section(finding: Finding) -> str:
    """A section of the page: what was found, the picture, the command, the whole table."""
    name, title, text = finding
    return "\n\n".join(
        [
            f"## {title}",
            text,
            f"![Picture of the stored table {name}]({LINKS}/{name}.png)",
            f"```\n{command(name)}\n```",
            f"[All measures of {name}]({LINKS}/{name}.md)",
        ]
    )


def main() -> None:
    """Write the files of every stored table, then the page."""
    for path in sorted(RESULTS.glob("*.parquet")):
        name = path.stem
        write_text(path.with_suffix(".md"), table_file(name))
        _, _, figure = pictures(stored(name))[0]
        picture = figure.to_image(format="png")
        path.with_suffix(".png").write_bytes(picture)
        print(name)

    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    write_text(PAGE, before + body() + after)


if __name__ == "__main__":
    main()
