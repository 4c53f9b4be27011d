"""The page of `arcvq export-explorers` in Chromium: offline, from a file and from a server."""

import functools
import http.server
import os
import threading
from pathlib import Path

import pytest

from arcvq.explorers import export

PAUSE = 300  # milliseconds, longer than what an explorer waits for before it draws neighbors
AXE = os.environ.get("ARCVQ_AXE")  # axe.min.js of the npm package axe-core


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export.export_explorers(tmp_path_factory.mktemp("page")).parent


@pytest.fixture
def open_page(page, folder):
    """`open_page(hash)`: the page from its file; at the end it has asked for nothing and no error came."""
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("request", lambda request: trouble.append(request.url))
    address = (folder / "index.html").as_uri()

    def load(state=""):
        page.goto(address + state)
        page.wait_for_function("document.querySelectorAll('[data-frames]').length > 3")
        return Tokens(page)

    yield load
    allowed = (address, "data:", "blob:")
    assert [line for line in trouble if not line.startswith(allowed)] == []


class Tokens:
    """The explorer of tokens on the page."""

    def __init__(self, page):
        self.page = page
        self.root = page.locator(".arcvq-explorer").first
        self.pad, self.map, self.result, self.sphere = (
            self.root.locator("figure canvas").nth(place) for place in range(4)
        )

    def pixels(self, canvas):
        return canvas.evaluate("canvas => canvas.toDataURL()")

    def words(self):
        self.page.wait_for_timeout(PAUSE)
        return self.root.locator(".arcvq-summary").inner_text()

    def code(self):
        return int(self.words().split("token ")[1].split(".")[0])

    def drag(self, canvas, *points):
        """Drag through points, in shares of the canvas."""
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()
        self.page.wait_for_timeout(PAUSE)


def test_a_drawing_is_encoded_and_decoded_and_its_link_gives_its_tokens_back(open_page):
    tokens = open_page()
    before = tokens.pixels(tokens.map)
    tokens.root.get_by_role("button", name="erase").click()
    tokens.drag(tokens.pad, (0.3, 0.2), (0.7, 0.2), (0.4, 0.8))
    assert tokens.pixels(tokens.map) != before
    decoded = tokens.pixels(tokens.result)
    address = tokens.page.url
    assert "tokens.image=-1" in address
    again = open_page(f"?again#{address.partition('#')[2]}")
    assert again.pixels(again.result) == decoded
    assert "A link keeps the tokens of a drawing" in again.words()


def test_the_encoders_tokens_of_a_drawing_stay_in_the_link_too(open_page):
    tokens = open_page()
    tokens.root.get_by_role("button", name="erase").click()
    tokens.drag(tokens.pad, (0.3, 0.2), (0.7, 0.2), (0.4, 0.8))
    decoded = tokens.pixels(tokens.result)
    tokens.root.get_by_role("button", name="put it here").last.click()
    assert tokens.pixels(tokens.result) != decoded
    tokens.root.get_by_role("button", name="the encoder's tokens").click()
    assert tokens.pixels(tokens.result) == decoded
    tokens.page.wait_for_timeout(PAUSE)
    again = open_page(f"?again#{tokens.page.url.partition('#')[2]}")
    assert again.pixels(again.result) == decoded
    # The drawing is not in the link, and so there is nothing that the encoder could see.
    assert again.root.get_by_role("button", name="the encoder's tokens").is_disabled()
    again.root.get_by_role("button", name="image 5").click()
    assert again.root.get_by_role("button", name="the encoder's tokens").is_enabled()


def test_a_token_gets_another_code_by_drag_by_button_and_by_keys(open_page):
    tokens = open_page()
    tokens.root.get_by_role("button", name="image 5").click()
    tokens.map.click(position={"x": 2, "y": 2})
    assert tokens.words().startswith("Row 1, column 1")
    seen = {tokens.code()}

    decoded = tokens.pixels(tokens.result)
    tokens.root.get_by_role("button", name="put it here").last.click()
    seen.add(tokens.code())
    assert tokens.pixels(tokens.result) != decoded
    assert "Chosen by you and not by the encoder: 1." in tokens.words()

    tokens.map.press("ArrowRight")
    assert tokens.words().startswith("Row 1, column 2")
    first = tokens.code()
    tokens.sphere.focus()
    for key in ("n", "Enter"):
        tokens.sphere.press(key)
    assert tokens.code() == 0 != first

    tokens.root.get_by_role("button", name="the encoder's tokens").click()
    assert tokens.code() == first
    right, down = ring(tokens)
    tokens.drag(tokens.sphere, (right, down), (right + 0.1, down + 0.1), (0.5, 0.5))
    assert tokens.code() != first
    assert len(seen) == 2


def ring(tokens):
    """Where the ring of the selected code is, in shares of the sphere's canvas; its latent is near."""
    tokens.page.wait_for_timeout(2 * PAUSE)  # until the sphere has turned to it
    return tokens.sphere.evaluate(
        """canvas => {
          const { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          let [count, right, down] = [0, 0, 0];
          for (let at = 0; at < width * height; at++) {
            const [red, green, blue] = data.subarray(4 * at, 4 * at + 3);
            if (Math.abs(red - 213) + Math.abs(green - 94) + blue > 30) continue;
            count += 1;
            right += at % width;
            down += Math.floor(at / width);
          }
          return [right / count / width, down / count / height];
        }"""
    )


def test_an_image_is_encoded_and_decoded_in_30_milliseconds(open_page):
    tokens = open_page()
    for number in range(10):
        tokens.root.get_by_role("button", name=f"image {number}").click()
    tokens.page.wait_for_timeout(PAUSE)
    took = tokens.result.get_attribute("data-milliseconds")
    assert float(took) < 30 * 4  # the machine may have other work


def test_a_page_without_its_model_says_so_in_one_sentence(page, folder, tmp_path):
    text = (folder / "index.html").read_text()
    (tmp_path / "index.html").write_text(text.replace('"weights": {', '"no weights": {'))
    page.goto((tmp_path / "index.html").as_uri())
    page.get_by_text("This page has come without its trained model").wait_for()
    page.wait_for_function("document.querySelectorAll('[data-frames]').length > 1")


def test_it_works_from_a_plain_server(page, folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("document.querySelectorAll('[data-frames]').length > 3")
        server.shutdown()
    assert [url for url in asked if not url.startswith("data:")] == [page.url]


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_sticks_out_to_the_side(open_page, width):
    tokens = open_page()
    tokens.page.set_viewport_size({"width": width, "height": 720})
    tokens.page.wait_for_timeout(PAUSE)
    assert tokens.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.skipif(not AXE, reason="ARCVQ_AXE names no axe.min.js (npm install axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(open_page, scheme):
    tokens = open_page()
    tokens.page.emulate_media(color_scheme=scheme)
    tokens.page.add_script_tag(content=Path(AXE).read_text())
    found = tokens.page.evaluate("axe.run()")["violations"]
    serious = [finding for finding in found if finding["impact"] in ("serious", "critical")]
    assert [(finding["id"], finding["nodes"][0]["html"]) for finding in serious] == []
