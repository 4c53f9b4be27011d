"""What the site says of the package is complete: tables, modules, layers, commands."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from arcvq import EMAQuantizer
from arcvq.cli import main
from arcvq.experiments import stored
from arcvq.experiments.stored_results import RESULTS as TABLES
from arcvq.experiments.tables import intervals_overlap, variant_interval

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
INCLUDE = re.compile(r"```\{include\} (\S+)")


def visible_lines(page: Path) -> list[str]:
    """The lines of a page, with those of the files that it includes."""
    text = page.read_text("utf-8")
    included = [(page.parent / name).read_text("utf-8") for name in INCLUDE.findall(text)]
    return "\n".join([text, *included]).splitlines()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_line_of_a_measured_table_is_on_the_page_about_speed(path):
    lines = visible_lines(DOCS / "speed.md")
    assert [line for line in path.read_text("utf-8").splitlines() if line not in lines] == []


def test_every_public_module_has_a_place_in_the_api_reference():
    package = ROOT / "arcvq"
    files = [path.relative_to(ROOT) for path in package.rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts) for path in files if path.stem[0] != "_"}
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    assert modules - documented == {"arcvq.cli"}  # its page lists the commands


def test_every_guide_is_in_the_table_of_guides_and_in_the_contents():
    guides = [path.stem for path in sorted((DOCS / "how-to").glob("*.md"))]
    guides.remove("index")
    page = (DOCS / "how-to" / "index.md").read_text("utf-8")
    table, _, contents = page.partition("{toctree}")
    linked = re.findall(r"^\| \[.+?\]\((?:\.\./)?(\w+)\.md\)", table, re.MULTILINE)
    listed = re.findall(r"^(?:\.\./)?(\w+)$", contents, re.MULTILINE)
    assert linked == listed
    assert sorted(linked) == sorted([*guides, "explorers"])


def test_arguments_beside_those_of_vector_quantize_pytorch_have_the_defaults_of_both():
    package = pytest.importorskip("vector_quantize_pytorch")
    theirs = inspect.signature(package.VectorQuantize).parameters
    ours = inspect.signature(EMAQuantizer).parameters
    page = (DOCS / "how-to" / "from_vector_quantize_pytorch.md").read_text("utf-8")
    section = page.partition("## Arguments side by side")[2].partition("What the other")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| (.+?) \| (.*?) ?\|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| "), "a row that is not read"
    for name, their_default, our_argument, our_default in rows[1:]:  # below the titles
        expected = theirs[name].default
        shown = "" if expected is inspect.Parameter.empty else f"`{expected}`"
        assert their_default == shown, name
        if our_default:
            argument = re.match(r"`(\w+)`", our_argument)[1]
            assert our_default == f"`{ours[argument].default}`", name


def test_every_command_is_on_its_page():
    page = (DOCS / "api" / "cli.md").read_text("utf-8")
    assert [name for name in main.commands if f"`arcvq {name}`" not in page] == []


def test_the_drawing_has_the_layers_that_the_import_linter_holds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    names = []
    for layer in layers:
        names += layer.split(" : ")
    drawing = (DOCS / "_static" / "architecture.svg").read_text("utf-8")
    drawn = re.findall(r">([^<>]+)</text>", drawing.partition("Imports point one way")[2])
    assert [word for word in drawn if word in names] == names


def test_every_notebook_is_in_both_tables_and_in_order():
    notebooks = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for page in (ROOT / "README.md", DOCS / "notebooks.md"):
        linked = re.findall(
            r"^\| \[.*?\]\(notebooks/(\S+?)\)", page.read_text("utf-8"), re.MULTILINE
        )
        assert linked == notebooks, page


def test_the_readme_is_short_and_its_film_is_small():
    text = (ROOT / "README.md").read_text("utf-8")
    lines = re.sub(r"\[!\[Open in Colab.*\n\n", "", text).splitlines()
    assert len(lines) <= 130
    assert (DOCS / "_static" / "explorer.webp").stat().st_size < 2_000_000


def test_the_readme_has_the_numbers_of_the_stored_table():
    table = (ROOT / "data" / "results" / "paper-mnist.md").read_text("utf-8")
    names = {"CVQ-VAE": "CVQ", "no quantization": "continuous"}
    rows = re.findall(
        r"^\| (.+?) \| (\S+ \(\S+ to \S+\)) \| (\d*) ?\|$",
        (ROOT / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) >= 5
    for name, psnr, codes in rows:
        (line,) = (
            row for row in table.splitlines() if row.startswith(f"| {names.get(name, name)} |")
        )
        assert f"| {psnr} |" in line
        assert f"| {codes} " in line


def test_the_readme_has_the_decibels_of_the_runs_of_the_papers_length():
    rows = stored("paper-mnist_full")
    means = rows.groupby("variant").psnr.mean()
    sentence = (
        "In three runs of the paper's length, with a smaller network and batch, it reached "
        f"{means['SAMP']:.1f} dB, plain VQ {means['plain VQ']:.1f}, CVQ-VAE {means['CVQ']:.1f} "
        f"and EMA {means['EMA']:.1f}."
    )
    assert rows.seed.nunique() == 3, "the sentence speaks of three runs"
    assert sentence in (ROOT / "README.md").read_text("utf-8").replace("\n", " ")


def test_the_first_page_says_what_is_true_of_the_ball_and_of_samples():
    page = " ".join((DOCS / "index.md").read_text("utf-8").split())
    assert "the two reach the same PSNR: their ranges overlap" in page
    for file in TABLES.glob("*.parquet"):
        rows = stored(file.stem)
        with_ball = "both halves" if "both halves" in {*rows.variant} else "SAMP"
        if {*rows.variant}.issuperset(["margin alone", with_ball]):
            ranges = [variant_interval(rows, name) for name in ("margin alone", with_ball)]
            assert intervals_overlap(*ranges), file.stem

    assert (
        "the tokens of the cosine quantizer come nearer to real images than those of SAMP" in page
    )
    rows = stored("generation-mnist_full")
    drawn = rows[rows.prior == "pixelcnn"].set_index("variant").frechet
    assert drawn["cosine"].max() < drawn["SAMP"].min()
