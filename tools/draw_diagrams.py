"""Draw docs/_static/method.svg and docs/_static/reading_path.svg, the diagrams of notebook 00.

    python tools/draw_diagrams.py

Draw them again after a change of `arcvq.figures.diagrams`.
"""

from pathlib import Path

from arcvq import figures

FOLDER = Path(__file__).parents[1] / "docs" / "_static"


def main():
    diagrams = {"method": figures.method_diagram(), "reading_path": figures.reading_path()}
    for name, drawing in diagrams.items():
        (FOLDER / f"{name}.svg").write_text(drawing.svg, "utf-8")


if __name__ == "__main__":
    main()
