"""What explorers on a canvas share, by hand: in JupyterLab with a kernel that ends, and on a page."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from arcvq.explorers import MarginExplorer
from tests.browser.lab import GIVEN_UP, PATIENCE

CELLS = (
    "from arcvq.explorers import MarginExplorer\nexplorer = MarginExplorer()\nexplorer",
    "explorer.margin = 0.7",
    "print('the margin is', explorer.margin)",
)
# anywidget waits two seconds for a module; a busy machine takes longer, and so does every one here.
NO_PATIENCE = """
const patient = AbortSignal.timeout;
AbortSignal.timeout = (time) => patient.call(AbortSignal, time === 2000 ? 0 : time);
"""
# A browser whose canvases lack some kinds of drawing.
LACKING = """
const given = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return /^(%s)$/.test(kind) ? null : given.call(this, kind, ...more);
};
"""
SPARE = 3500  # milliseconds, after which a copy would stand in for a widget that is not there
WIDE = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def on_page(browser, tmp_path):
    """`on_page(viewport, hash, lacking)`: the margin explorer on a page without a kernel."""
    contexts = []
    path = Path(tmp_path, "page.html")
    body = MarginExplorer().html("margin")
    path.write_text(f'<!doctype html><meta name="viewport" content="width=device-width">{body}')

    def open_page(viewport=WIDE, hash="", lacking="nothing"):
        contexts.append(browser.new_context(viewport=viewport, has_touch=True))
        page = contexts[-1].new_page()
        page.add_init_script(LACKING % lacking)
        page.goto(f"{path.as_uri()}{hash}")
        expect(page.locator(".arcvq-explorer canvas[data-frames]").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()


def value(page, setting):
    return page.locator(f".arcvq-{setting} output").first.inner_text()


def choose(page, menu, item):
    page.locator("#jp-MainMenu .lm-MenuBar-itemLabel", has_text=menu).first.click()
    page.locator(".lm-Menu-itemLabel", has_text=item).first.click()


def test_it_answers_without_anywidgets_patience_after_the_kernel_and_after_a_reload(
    page, open_notebook
):
    page.add_init_script(NO_PATIENCE)
    sizes = []

    def listen(socket):
        socket.on("framereceived", lambda frame: sizes.append(len(frame)))

    page.on("websocket", listen)
    notebook = open_notebook(*CELLS, expected=[GIVEN_UP])
    margin = page.locator(".arcvq-margin output").first
    expect(margin).to_have_text("0.7 rad", timeout=PATIENCE * 1000)  # which Python has set
    assert max(sizes) < 100_000

    page.locator(".arcvq-margin input").first.focus()
    page.keyboard.press("ArrowRight")
    expect(margin).to_have_text("0.71 rad")
    page.locator(".jp-CodeCell .jp-Editor").last.click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".jp-OutputArea-output").last).to_have_text("the margin is 0.71")

    choose(page, "Kernel", re.compile(r"^Restart Kernel…$"))
    page.locator(".jp-Dialog .jp-mod-accept").click()
    note = page.locator(".arcvq-note").first
    expect(note).to_contain_text("run the cell again", timeout=PATIENCE * 1000)
    page.locator(".arcvq-margin input").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(margin).to_have_text("0.7 rad")

    choose(page, "File", re.compile(r"^Save Notebook$"))
    expect(page.locator(".jp-mod-dirty")).to_have_count(0)
    page.reload()
    spare = page.locator(".arcvq-explorer", has_text="Drawn by the browser alone")
    expect(spare).to_be_visible(timeout=PATIENCE * 1000)
    expect(page.get_by_text("model not found")).to_be_hidden()
    spare.locator(".arcvq-margin input").focus()
    page.keyboard.press("ArrowRight")
    expect(spare.locator(".arcvq-margin output")).to_have_text("0.11 rad")
    notebook.errors.clear()  # JupyterLab tells the console of the widget that it has not found


def test_two_cells_show_one_explorer_and_both_follow_python_and_each_other(page, open_notebook):
    notebook = open_notebook(CELLS[0], "explorer")
    margins = page.locator(".arcvq-margin output:visible")
    expect(margins).to_have_text(["0.1 rad"] * 2, timeout=PATIENCE * 1000)
    notebook.run("explorer.margin = 0.7")
    expect(margins).to_have_text(["0.7 rad"] * 2, timeout=PATIENCE * 1000)
    page.locator(".arcvq-margin input").first.press("ArrowRight")
    expect(margins).to_have_text(["0.71 rad"] * 2)

    page.locator(".jp-CodeCell .cm-content").nth(1).click()
    page.keyboard.press("Control+Enter")  # the cell that holds only the explorer, again
    expect(page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt")).to_have_text("[4]:")
    notebook.run("explorer.margin = 0.3")
    expect(margins).to_have_text(["0.3 rad"] * 2, timeout=PATIENCE * 1000)
    page.wait_for_timeout(SPARE)
    expect(margins).to_have_text(["0.3 rad"] * 2)


def test_settings_stand_in_the_address_and_come_from_it(on_page):
    page = on_page(hash="#margin.margin=0.5&margin.top_k=1000&margin.scale=much&other.step=3")
    assert value(page, "margin") == "0.5 rad"
    assert value(page, "top-k") == "50"  # the most that it can be
    assert value(page, "scale") == "5"  # no number, so left as it was
    page.locator(".arcvq-scale input").focus()
    page.keyboard.press("End")
    address = re.compile(r"#other\.step=3&margin\.margin=0\.5&margin\.scale=100&margin\.top_k=50$")
    expect(page).to_have_url(address)
    page.get_by_role("button", name="reset").click()
    expect(page).to_have_url(re.compile(r"#other\.step=3$"))


def test_a_preset_sets_all_and_says_what_to_see(on_page):
    page = on_page()
    for name, preset in MarginExplorer.presets.items():
        button = page.get_by_role("button", name=name, exact=True)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".arcvq-sentence")).to_have_text(preset.sentence)
    page.locator(".arcvq-margin input").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)


def test_sliders_have_names_and_tell_the_true_value(on_page):
    page = on_page()
    slider = page.get_by_role("slider", name="scale s")
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "1")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "1.1")


def test_keys_turn_the_sphere_zoom_and_go_from_point_to_point(on_page):
    page = on_page()
    sphere = page.locator("canvas").first
    assert "n and p go from point to point" in sphere.get_attribute("aria-label")
    sphere.focus()
    for key in ("ArrowLeft", "ArrowUp", "+", "n"):
        before = sphere.evaluate("canvas => canvas.toDataURL()")
        page.keyboard.press(key)
        page.wait_for_function(
            "before => document.querySelector('canvas').toDataURL() !== before", arg=before
        )
    expect(page.locator(".arcvq-tip").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".arcvq-tip").first).to_be_hidden()


def test_a_tap_says_what_a_point_is(on_page):
    page = on_page(PHONE)
    sphere = page.locator("canvas").first.bounding_box()
    across = sphere["x"] + sphere["width"] / 2
    down = sphere["y"] + sphere["height"] / 2
    page.touchscreen.tap(across, down + 14)  # where the code is, a little below the middle
    expect(page.locator(".arcvq-tip").first).to_have_text(re.compile("code"))


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_is_cut_and_every_stop_of_the_margin_has_a_pixel(on_page, viewport):
    page = on_page(viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator(".arcvq-margin input").bounding_box()["width"] >= 151
    if viewport is WIDE:
        canvas = page.locator("canvas").first.bounding_box()
        assert canvas["y"] + canvas["height"] <= viewport["height"]


def test_without_webgl_it_is_drawn_all_the_same(on_page):
    page = on_page(lacking="webgl|webgl2|webgpu")
    assert "Loss" in page.locator("figcaption").first.inner_text()


def test_without_a_canvas_it_says_so_in_one_sentence(browser, tmp_path):
    page = browser.new_page()
    page.add_init_script(LACKING % "2d")
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html>{MarginExplorer().html()}")
    page.goto(path.as_uri())
    words = "This explorer cannot be drawn: the browser gives no canvas to draw on."
    expect(page.locator(".arcvq-explorer")).to_have_text(words)
    page.close()
