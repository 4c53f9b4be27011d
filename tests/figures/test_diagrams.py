"""The diagrams: well-formed, readable on dark pages, and true to the notebooks."""

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from IPython.core.formatters import DisplayFormatter

from arcvq.figures import method_diagram, reading_path
from arcvq.figures.diagrams import BRANCHES, CORE
from arcvq.figures.drawings import Canvas, on_circle
from arcvq.figures.theme import INK, PAPER

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STOPS = [*CORE, *itertools.chain.from_iterable(BRANCHES.values())]
DIAGRAMS = {"method": method_diagram, "reading_path": reading_path}


def first_cell(number):
    (path,) = (path for path in NOTEBOOKS if path.name.startswith(number))
    return nbformat.read(path, as_version=4).cells[0].source


def words_with_places(root, origin=(0, 0)):
    """The words of a drawing, each with its place on the sheet."""
    for element in root:
        moved = re.findall(r"-?[\d.]+", element.get("transform", "0 0"))
        x, y = (a + float(b) for a, b in zip(origin, moved, strict=True))
        if element.tag.endswith("}text"):
            yield element, (x + float(element.get("x")), y + float(element.get("y")))
        yield from words_with_places(element, (x, y))


@pytest.mark.parametrize("draw", DIAGRAMS.values(), ids=DIAGRAMS)
def test_a_diagram_is_a_document_with_words_for_those_who_cannot_see_it(draw):
    diagram = draw()
    root = ElementTree.fromstring(diagram.svg)
    assert root.get("aria-label") == diagram.words == repr(diagram)


@pytest.mark.parametrize("draw", DIAGRAMS.values(), ids=DIAGRAMS)
def test_a_notebook_keeps_the_words_of_a_diagram_with_its_picture(draw):
    diagram = draw()
    data, metadata = DisplayFormatter().format(diagram)
    assert data["image/svg+xml"] == diagram.svg
    assert metadata["image/svg+xml"]["alt"] == data["text/plain"] == diagram.words


@pytest.mark.parametrize("draw", DIAGRAMS.values(), ids=DIAGRAMS)
def test_a_diagram_brings_its_light_background_and_its_dark_words(draw):
    root = ElementTree.fromstring(draw().svg)
    sheet = root[0]
    assert (sheet.get("fill"), root.get("color")) == (PAPER, INK)
    assert (sheet.get("width"), sheet.get("height")) == (root.get("width"), root.get("height"))


@pytest.mark.parametrize("draw", DIAGRAMS.values(), ids=DIAGRAMS)
def test_all_words_of_a_diagram_lie_on_its_sheet(draw):
    root = ElementTree.fromstring(draw().svg)
    width = float(root.get("width"))
    height = float(root.get("height"))
    for element, (x, y) in words_with_places(root):
        # A letter is at most 0.65 of its size wide on average.
        length = 0.65 * float(element.get("font-size")) * len(element.text)
        before = {"start": 0, "middle": length / 2, "end": length}[element.get("text-anchor")]
        assert before <= x <= width - length + before, element.text
        assert 0 < y < height, element.text


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_drawings_of_the_site_are_up_to_date(name):
    stored = (ROOT / "docs" / "_static" / f"{name}.svg").read_text("utf-8")
    assert stored == DIAGRAMS[name]().svg, "run python tools/draw_diagrams.py"


def test_every_notebook_has_one_place_on_the_reading_path():
    placed = sorted(stop.number for stop in STOPS)
    there = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(placed)) == len(placed)
    assert set(there) <= set(placed)


def test_the_minutes_are_those_that_the_notebooks_tell():
    for stop in STOPS:
        if any(path.name.startswith(stop.number) for path in NOTEBOOKS):
            told = re.search(r"About (\d+) minutes", first_cell(stop.number))
            if told:
                assert stop.minutes == int(told[1]), stop


def test_what_a_notebook_needs_comes_before_it():
    order = [stop.number for stop in STOPS]
    for stop in STOPS:
        if stop.needs:
            assert order.index(stop.needs) < order.index(stop.number), stop


def drawn(method, *arguments, **options):
    """The elements that a method of a canvas draws."""
    canvas = Canvas()
    getattr(canvas, method)(*arguments, **options)
    return [ElementTree.fromstring(part) for part in canvas.parts]


def test_special_characters_are_escaped():
    (element,) = drawn("text", (10, 20), "a < b & c")
    assert element.text == "a < b & c"
    made = Canvas().diagram(100, 40, 'words with "quotes"')
    assert ElementTree.fromstring(made.svg).get("aria-label") == 'words with "quotes"'


def test_each_line_of_a_text_stands_below_the_one_before():
    lines = drawn("text", (10, 20), "one\ntwo", size=10)
    assert [line.text for line in lines] == ["one", "two"]
    assert [float(line.get("y")) for line in lines] == [20, 33.5]


def test_a_box_has_its_words_in_its_middle():
    frame, title, below = drawn("box", (10, 20), (100, 40), "blue", "name", "more")
    assert [frame.get(side) for side in ("x", "y", "width", "height")] == ["10", "20", "100", "40"]
    assert [title.text, below.text] == ["name", "more"]
    assert title.get("x") == below.get("x") == "60"


@pytest.mark.parametrize(("degrees", "point"), [(0, (15, 20)), (90, (10, 15)), (180, (5, 20))])
def test_angles_are_counted_from_the_right_and_counterclockwise(degrees, point):
    assert on_circle((10, 20), 5, degrees) == point


def corners(head):
    return [tuple(map(float, point.split(","))) for point in head.get("points").split()]


def test_the_head_of_an_arrow_is_at_its_end_and_points_along_its_last_line():
    _, head = drawn("arrow", [(0, 0), (0, 50), (40, 50)])
    tip, *back = corners(head)
    assert tip == (40, 50)
    assert all(x < 40 for x, _ in back)
    assert sum(y for _, y in back) / 2 == pytest.approx(50)


@pytest.mark.parametrize(("end", "side"), [(40, 1), (-40, -1)])
def test_a_curved_arrow_ends_on_the_circle_with_its_head_ahead(end, side):
    _, head = drawn("curved_arrow", (0, 0), 100, 0, end, "black")
    tip, *back = corners(head)
    assert tip == on_circle((0, 0), 100, end)
    # y grows downward: the head of a counterclockwise turn ends above its back corners.
    assert all(side * (y - tip[1]) > 0 for _, y in back)


def test_a_circle_is_dashed_if_asked_for():
    (plain,) = drawn("circle", (0, 0), 1, "black")
    (dashed,) = drawn("circle", (0, 0), 1, "black", dashed=True)
    assert plain.get("stroke-dasharray") == "none"
    assert dashed.get("stroke-dasharray") == "5 4"


def test_a_canvas_is_placed_on_another_with_its_origin_at_a_point():
    inner = Canvas()
    inner.circle((1, 2), 3, "black")
    (group,) = drawn("place", inner, (40, 50))
    assert group.get("transform") == "translate(40 50)"
    assert group[0].get("r") == "3"
