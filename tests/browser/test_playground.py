"""The playground by hand, on a page of its own and in JupyterLab."""

import pytest

from arcvq.explorers import Playground

IN_THE_LAB = """
import time
from ipywidgets import Label
from arcvq.explorers import Playground

playground = Playground(num_latents=60, num_codes=16)
label = Label()
label.add_class("arcvq-python")
playground.observe(lambda _: setattr(label, "value", playground.simulation.summary()), "data")
playground.observe(lambda _: time.sleep(5), "margin")
display(label)
playground
"""
TRY_A_STEP = """
try:
    playground.step()
except RuntimeError as error:
    print(error)
"""


class Page:
    """What a reader sees of a playground, and does with it."""

    def __init__(self, page):
        self.page = page

    def step(self):
        return int(self.says().split(":")[0].removeprefix("Step ").replace(",", ""))

    def steps(self):
        """The step of each view of it."""
        views = self.page.locator(".arcvq-summary:visible").all_inner_texts()
        return [words.split(":")[0] for words in views]

    def says(self):
        return self.page.locator(".arcvq-summary").first.inner_text()

    def click(self, name):
        self.page.locator(f"button.arcvq-{name}").click()

    def wait(self, ready):
        for _ in range(300):
            if ready():
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"it did not come; the playground says: {self.says()}")

    def drag(self, start, end):
        """Drag by pixels of the first sphere."""
        box = self.page.locator("canvas").first.bounding_box()
        self.page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)


@pytest.fixture
def open_page(browser, tmp_path):
    """`open_page(playground)`: its page without a kernel; at the end there was no error."""
    errors = []
    pages = []

    def load(playground, motion="no-preference"):
        page = browser.new_page(viewport={"width": 1000, "height": 600}, reduced_motion=motion)
        page.on("pageerror", lambda error: errors.append(str(error)))
        path = tmp_path / "playground.html"
        path.write_text(f"<!doctype html><meta charset=utf-8>{playground.html()}")
        page.goto(path.as_uri())
        page.locator("canvas[data-frames]").first.wait_for()
        pages.append(page)
        return Page(page)

    yield load
    for page in pages:
        page.close()
    assert errors == []


@pytest.fixture(scope="module")
def learned():
    playground = Playground(num_latents=60, num_codes=16)
    playground.step(30)
    return playground


def test_the_page_opens_at_the_state_of_python_and_goes_on_from_it(open_page, learned):
    page = open_page(learned)
    assert page.says().startswith(learned.simulation.summary())
    page.click("step")
    again = Playground(num_latents=60, num_codes=16)
    again.step(31)
    assert page.says().startswith(again.simulation.summary())


def test_it_plays_pauses_begins_again_and_is_reset(open_page, learned):
    page = open_page(learned)
    page.click("play")
    page.wait(lambda: page.step() > 40)
    page.click("play")
    paused = page.step()
    page.page.wait_for_timeout(300)
    assert page.step() == paused
    slider = page.page.get_by_role("slider", name="margin", exact=True)
    slider.press("ArrowRight")
    page.click("from-step-0")
    assert page.step() == 0
    assert slider.get_attribute("aria-valuetext") == "0.11 rad"
    page.click("step")
    page.click("reset")
    assert page.step() == 0
    assert slider.get_attribute("aria-valuetext") == "0.1 rad"


def test_a_preset_begins_again_with_its_settings(open_page, learned):
    page = open_page(learned)
    page.page.get_by_role("button", name="a tight ball").click()
    assert page.step() == 0
    assert "no code can come nearer" in page.page.locator(".arcvq-sentence").inner_text()
    growth = page.page.get_by_role("slider", name="growth of the ball")
    assert growth.get_attribute("aria-valuetext") == "0"


def test_it_stands_still_where_nobody_can_see_it(open_page, learned):
    page = open_page(learned)
    page.page.evaluate("document.body.style.paddingBottom = '3000px'")
    page.click("play")
    page.wait(lambda: page.step() > 33)
    page.page.evaluate("window.scrollTo(0, 3000)")
    page.page.wait_for_timeout(300)
    hidden = page.step()
    page.page.wait_for_timeout(300)
    assert page.step() == hidden
    page.page.evaluate("window.scrollTo(0, 0)")
    page.wait(lambda: page.step() > hidden)


@pytest.mark.parametrize(("motion", "plays"), [("no-preference", True), ("reduce", False)])
def test_it_plays_by_itself_only_where_motion_is_welcome(open_page, motion, plays):
    playground = Playground(num_latents=60, num_codes=16)
    playground.play()
    page = open_page(playground, motion)
    page.page.wait_for_timeout(500)
    assert (page.step() > 0) == plays
    if not plays:
        page.click("play")
        page.wait(lambda: page.step() > 3)


def test_a_code_is_moved_by_hand_and_by_keys(open_page, learned):
    page = open_page(learned)
    canvas = page.page.locator("canvas").first
    canvas.focus()
    canvas.press("p")  # the last code
    tip = page.page.locator(".arcvq-tip").first
    assert tip.inner_text().startswith("code 15")
    before = canvas.screenshot()
    for _ in range(4):
        canvas.press("Shift+ArrowUp")
    assert canvas.screenshot() != before
    assert page.step() == 30


def test_an_unused_code_of_plain_vq_is_dragged_among_the_latents(open_page):
    """It lies near the center, where no latent would ever choose it."""
    playground = Playground(num_codes=64)
    playground.step(150)
    page = open_page(playground)
    canvas = page.page.locator("canvas").first
    tip = page.page.locator(".arcvq-tip").first
    canvas.focus()
    for _ in range(64):
        canvas.press("p")
        if tip.inner_text().endswith(": 0 latents"):
            break
    else:
        pytest.fail("every code of plain VQ is used")
    for key in ["ArrowUp"] * 6 + ["ArrowRight"] * 6 + ["ArrowDown"] * 12 + ["ArrowLeft"] * 12:
        canvas.press(f"Shift+{key}")
        if not tip.inner_text().endswith(": 0 latents"):
            return
    pytest.fail("no latent chose the code")


def test_more_points_than_are_drawn_are_told_of(open_page):
    page = open_page(Playground(num_latents=2100, num_codes=8))
    assert "2,000 of 2,100 latents are drawn." in page.says()


def test_python_follows_and_the_browser_plays_on_while_the_kernel_is_busy(open_notebook):
    notebook = open_notebook(IN_THE_LAB)
    page = Page(notebook.page)
    python = notebook.page.locator(".arcvq-python")
    page.click("play")
    page.wait(lambda: page.step() > 20)
    page.click("play")
    page.wait(lambda: python.inner_text() and page.says().startswith(python.inner_text()))
    notebook.page.get_by_role("slider", name="margin", exact=True).press("ArrowRight")
    start = page.step()
    page.click("play")
    page.wait(lambda: page.step() > start + 20)
    page.click("play")
    page.wait(lambda: page.says().startswith(python.inner_text()))


def test_a_second_view_and_a_step_in_python_lose_nothing_of_what_was_learned(open_notebook):
    notebook = open_notebook(IN_THE_LAB)
    page = Page(notebook.page)
    page.click("play")
    page.wait(lambda: page.step() > 20)
    notebook.run(TRY_A_STEP)
    notebook.page.get_by_text("call pause() first").wait_for()
    played = page.step()
    notebook.run("playground")
    page.wait(lambda: len(page.steps()) == 2)
    page.page.wait_for_timeout(500)
    assert page.step() >= played, "the second view has set the first one back"
    page.page.locator("button.arcvq-play").first.click()
    page.wait(lambda: len(set(page.steps())) == 1)
    paused = page.step()
    assert paused > played
    notebook.run("playground.step(2)")
    page.wait(lambda: page.steps() == [f"Step {paused + 2}"] * 2)
    page.page.locator("button.arcvq-play").first.click()
    page.wait(lambda: page.step() > paused + 20)
    notebook.run("playground.restart()\nplayground.step(5)")
    page.wait(lambda: page.steps() == ["Step 5"] * 2)
    page.page.wait_for_timeout(500)
    assert page.steps() == ["Step 5"] * 2
