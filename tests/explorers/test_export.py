"""The page: one small file with every explorer, its text and a model, whatever stood there before."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch
from click.testing import CliRunner

from arcvq.cli import main
from arcvq.composites import ResidualQuantizer
from arcvq.explorers import export
from arcvq.explorers.tokens import TokenExplorer
from arcvq.quantizers import SphericalQuantizer
from arcvq.runs import pretrained
from arcvq.vqvae import VQVAE
from tests.strokes import IMAGES, SMALL

LIMIT = 2_000_000  # bytes
EXPLORERS = ["tokens", "playground", "radius", "margin", "replay"]


class Links(HTMLParser):
    """What a page asks for from elsewhere: none but links for the reader."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        address = named.get("src") or named.get("href") or "#"
        if tag != "a" and not address.startswith(("#", "data:")):
            self.found.append((tag, address))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return export.export_explorers(tmp_path_factory.mktemp("page")).read_text()


def test_the_page_is_one_small_file_that_asks_for_no_other(page):
    assert len(page.encode()) < LIMIT
    links = Links()
    links.feed(page)
    assert links.found == []
    assert "@import" not in page
    assert "url(" not in page


def test_every_explorer_is_on_it_and_what_they_share_is_there_once(page):
    for name in EXPLORERS:
        assert page.count(f'"address": "{name}"') == 1
    assert page.count(".arcvq-explorer {") == 1
    for module in ("math", "sphere", "controls", "theme"):
        assert page.count(f"const {module}Module = ") == 1


def test_its_model_has_less_than_a_megabyte():
    model = pretrained.load("page/samp")
    data = export.token_explorer(model).data
    assert data["weights"]["array"] == "Uint16Array"
    assert len(data["weights"]["bytes"]) < 1_000_000


def test_the_command_writes_a_folder_or_a_file_and_again_in_its_place(tmp_path):
    for out in ("site", "one.html", "site"):
        done = CliRunner().invoke(main, ["export-explorers", "--out", str(tmp_path / out)])
        assert done.exit_code == 0, done.output
        assert str(tmp_path / out) in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "site"]
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]


def test_a_page_of_somebody_else_is_left_alone(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("my home page")
    done = CliRunner().invoke(main, ["export-explorers", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "was not written by arcvq" in done.output
    assert page.read_text() == "my home page"


def test_a_model_that_cannot_be_drawn_on_a_sphere_is_refused():
    model = pretrained.load("digits")
    with pytest.raises(ValueError, match="D = 64 and images of 1 channels"):
        export.token_explorer(model)


@pytest.mark.parametrize("kind", ["fsq", "continuous"])
def test_a_model_that_does_not_choose_the_nearest_code_is_refused(kind):
    settings = dataclasses.replace(SMALL, quantizer=kind, num_codes=64, dim=3)
    with pytest.raises(ValueError, match="one that gives each latent the nearest code"):
        TokenExplorer(settings.model(IMAGES), IMAGES.train.batch(torch.arange(32)))


@pytest.mark.parametrize("shape", [(0, 1, 16, 16), (2, 1, 16, 24)])
def test_there_must_be_square_images_to_choose_from(shape, unchecked):
    model = VQVAE(1, SphericalQuantizer(16, 3), hidden=8)
    with pytest.raises(ValueError, match="there must be at least one, and they must be square"):
        TokenExplorer(model, torch.zeros(shape))


def test_a_model_with_several_tokens_a_place_is_refused():
    stages = [SphericalQuantizer(16, 3), SphericalQuantizer(16, 3)]
    model = VQVAE(1, ResidualQuantizer(stages), hidden=8)
    with pytest.raises(ValueError, match="an explorer takes one with a single codebook"):
        TokenExplorer(model, torch.zeros(1, 1, 16, 16))


def test_the_text_has_no_place_left_open(page):
    text = page.partition("<script type")[0]
    assert not re.search(r"\{\{|\}\}|None|nan", text)
