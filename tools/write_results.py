"""Write what the tables of data/results hold for readers.

    python tools/write_results.py

Each table gets a Markdown file and a picture beside it; docs/results.md gets the findings, the
commands that made the tables, and the tables of quantizers. The pictures need Chromium or Chrome,
as `make notebooks` does.
"""

from pathlib import Path

from findings import COMMANDS, commands, differences, findings, mismatches

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


def section() -> str:
    """The part of docs/results.md between START and END."""
    lines = []
    for number, (name, topic, text) in enumerate(findings(), start=1):
        links = f"[picture]({LINKS}/{name}.png), [table]({LINKS}/{name}.md)"
        lines.append(f"{number}. **{topic}.** {text} ({links})")
    block = ["```", *commands(), "```"]
    tables = [quantizers(name) for name in COMMANDS if name.startswith("paper-")]
    return "\n".join([START, *lines, "", *block, "", *tables, END])


def quantizers(name: str) -> str:
    """A stored table of quantizers, with how its runs differ from the paper's."""
    rows = stored(name)
    unequal = mismatches(rows)
    note = f"Not matched in size: {unequal}.\n" if unequal else ""
    return (
        f"**{data_title(rows)}.** Compared with the paper's runs, ours had {differences(rows)}.\n"
        f"Their regime: {regime_note(rows)}.\n\n"
        f"{table(name)}\n{note}"
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
    write_text(PAGE, before + section() + after)


if __name__ == "__main__":
    main()
