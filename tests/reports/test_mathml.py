"""Formulas of the notebooks as MathML, or as their source where MathML would be wrong."""

from html import escape
from xml.etree import ElementTree

import pytest

from arcvq.reports.mathml import formula, render_markdown

MARGIN_LOSS = (
    r"L_A = -\frac{1}{K}\sum_{j=1}^{K} \log \frac{\sum_{i\in N_j} e^{s\cos(\theta_{ij}+m)}}"
    r"{\sum_{i\in N_j} e^{s\cos(\theta_{ij}+m)} + \sum_{i\notin N_j} e^{s\cos\theta_{ij}}} \tag{3}"
)


@pytest.mark.parametrize(
    "tex",
    [
        MARGIN_LOSS,
        r"\hat z_i",
        r"k(i)=\operatorname*{arg\,max}_j \langle \hat z_i, \hat e_j\rangle",
        r"\arg\max_j x_j",
        r"\bigl\| z - e \bigr\|^2",
        r"\Bigl\lVert \tfrac1N \sum_i z_i \Bigr\rVert",
        r"M(t) = e^{\alpha t}",
        r"\begin{cases} e_j & \text{if } \lVert e_j\rVert\le M \\ M & \text{otherwise}\end{cases}",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\operatorname{sg}[z]",
        r"\mathbb{R}^{K \times D}",
    ],
)
def test_a_formula_becomes_mathml_without_a_trace_of_tex(tex):
    mathml = formula(tex, "block")
    text = "".join(ElementTree.fromstring(mathml).itertext())
    assert not set("\\&$") & set(text)
    assert 'display="block"' in mathml


@pytest.mark.parametrize("tex", [r"\unknown{x} < 1", r"a & b", r"\left( x"])
def test_a_formula_that_cannot_be_translated_stays_readable(tex):
    assert formula(tex) == f"<code>{escape(tex)}</code>"


def test_a_function_stands_apart_from_what_is_beside_it():
    spaced = '<mi>s</mi><mo lspace=".17em" rspace=".1em">log</mo><mi>x</mi>'
    assert spaced in formula(r"s \log x")


def test_markdown_keeps_its_text_and_folds_and_gets_its_formulas():
    fold = "<details><summary>Hint</summary>\n\n`code`\n\n</details>"
    page = render_markdown(f"A *word*, $x^2$.\n\n$$y$$\n\n{fold}")
    assert "<em>word</em>" in page
    assert "<msup>" in page
    assert "<details>" in page
    assert "<div class=formula><math" in page


def test_a_pasted_picture_is_shown():
    attachments = {"dot.png": {"image/png": "iVBORw0KGgo="}}
    page = render_markdown("![a dot](attachment:dot.png)", attachments)
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
