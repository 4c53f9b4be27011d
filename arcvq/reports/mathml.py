"""TeX formulas as MathML, which browsers show without a script and without a network."""

import re
from html import escape
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# What latex2mathml does not know, in terms of what it knows: a pattern and its replacement.
_TEX = (
    (r"\\begin\{(aligned|align\*?|split)\}", r"\\begin{array}{rl}"),
    (r"\\end\{(aligned|align\*?|split)\}", r"\\end{array}"),
    (
        r"\\operatorname\*?\{\s*arg\s*(?:\\,)?\s*\\?(max|min)\}|\\arg\s*\\(max|min)",
        r"\\arg\1\2",
    ),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\[bB]igg?[lrm]?\s*(?=\\)", ""),
    (r"\\tag\b", r"\\qquad\\tag"),
)
_NOT_TRANSLATED = r"<mi>&</mi>|\\"  # the converter passes on what it does not understand
_FUNCTION = r"<(m[io])>((?:arc)?(?:cos|sin|tan)|log|ln|exp|max|min)</\1>(?!</)"
_SPACED_FUNCTION = r'<mo lspace=".17em" rspace=".1em">\2</mo>'


def formula(tex: str, display: str = "inline") -> str:
    """Translate a TeX formula to MathML, or show its source where that is not possible.

    Args:
        tex: The formula without its dollar signs.
        display: "inline" or "block".
    """
    known = tex
    for pattern, replacement in _TEX:
        known = re.sub(pattern, replacement, known)
    source = f"<code>{escape(tex)}</code>"
    try:
        mathml = convert(known, display=display)
    except Exception:  # latex2mathml has a dozen kinds, without a common base
        return source
    if re.search(_NOT_TRANSLATED, mathml):
        return source
    return re.sub(_FUNCTION, _SPACED_FUNCTION, mathml)


class _MathMLRenderer(IPythonRenderer):
    """nbconvert's renderer of Markdown, with formulas as MathML."""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return f"<div class=formula>{formula(body, 'block')}</div>"

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def render_markdown(source: str, attachments: dict[str, Any] | None = None) -> str:
    """Turn a notebook's Markdown into HTML, with formulas as MathML.

    Args:
        source: Text of the cell; HTML in it is kept.
        attachments: Pictures that were pasted into the cell.
    """
    renderer = _MathMLRenderer(escape=False, attachments=attachments)
    return MarkdownWithMath(renderer).render(source)
