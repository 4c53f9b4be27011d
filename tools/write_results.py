"""Write what data/results/*.parquet hold for readers: a Markdown table and a picture each, and the README's findings.

    python tools/write_results.py

Needs Chromium or Chrome for the pictures, as `make notebooks` does.
"""

from pathlib import Path

from arcvq.experiments import EXPERIMENTS
from arcvq.experiments.findings import COMMANDS, findings
from arcvq.experiments.paper_table import differences, mismatches
from arcvq.experiments.stored_results import RESULTS, stored
from arcvq.experiments.tables import data_title, markdown
from arcvq.figures.experiment_results import pictures
from arcvq.runtime.files import write_whole

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- findings: written by tools/write_results.py -->", "<!-- end of findings -->"


def table(name: str) -> str:
    """The Markdown of a stored table."""
    return markdown(EXPERIMENTS[name.split("-")[0]].table(stored(name)))


def page(name: str) -> str:
    """What a reader of the table alone must know with it: the data."""
    return f"{data_title(stored(name))}\n\n{table(name)}"


def section() -> str:
    """The README's findings, each with its picture and its table; the commands; and the tables of quantizers."""
    lines = [f"{number}. **{about}.** {sentence} ([picture](data/results/{name}.png), [table](data/results/{name}.md))"
             for number, (name, about, sentence) in enumerate(findings(), start=1)]
    tables = [quantizers(name) for name in COMMANDS if name.startswith("paper-")]
    return "\n".join([START, *lines, "", "```", *COMMANDS.values(), "```", "", *tables, END])


def quantizers(name: str) -> str:
    """A stored table of quantizers, and what differs from the paper's."""
    rows = stored(name)
    return (f"**{data_title(rows)}.** Beside the paper's runs, ours had {differences(rows)}.\n\n{table(name)}\n"
            f"Not alike in every respect: {mismatches(rows)}.\n")


def main() -> None:
    for path in sorted(RESULTS.glob("*.parquet")):
        name = path.stem
        text = page(name)
        write_whole(path.with_suffix(".md"), lambda draft, text=text: draft.write_text(text))
        _, _, figure = pictures(stored(name))[0]
        write_whole(path.with_suffix(".png"), lambda draft, figure=figure: figure.write_image(draft, format="png"))
        print(name)
    text = README.read_text()
    before, after = text.split(START)[0], text.split(END)[1]
    write_whole(README, lambda draft: draft.write_text(before + section() + after))


if __name__ == "__main__":
    main()
