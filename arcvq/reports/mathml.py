"""TeX formulas as MathML, which browsers show without a script and without a network."""

import re
from html import escape

# What latex2mathml does not know, said in what it knows.
_TEX = (
    (r"\\begin\{(aligned|align\*?|split)\}", r"\\begin{array}{rl}"),
    (r"\\end\{(aligned|align\*?|split)\}", r"\\end{array}"),
    (r"\\operatorname\*?\{\s*arg\s*(?:\\,)?\s*\\?(max|min)\}|\\arg\s*\\(max|min)", r"\\arg\1\2"),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\[bB]igg?[lrm]?\s*(?=\\)", ""),
    (r"\\tag\b", r"\\qquad\\tag"),
)
_FUNCTION = r"<(m[io])>((?:arc)?(?:cos|sin|tan)|log|ln|exp|max|min)</\1>(?!</)"  # stands apart from what is beside it


def formula(tex: str, display: str = "inline") -> str:
    """A TeX formula as MathML ("inline" or "block"), or its source where it cannot be translated."""
    from latex2mathml.converter import convert

    known = tex
    for pattern, replacement in _TEX:
        known = re.sub(pattern, replacement, known)
    try:
        mathml = convert(known, display=display)
    except Exception:
        mathml = "\\"
    if re.search(r"<mi>&</mi>|\\", mathml):  # what the converter does not understand it passes through
        return f"<code>{escape(tex)}</code>"
    return re.sub(_FUNCTION, r'<mo lspace=".17em" rspace=".1em">\2</mo>', mathml)


def render_markdown(source: str, attachments: dict | None = None) -> str:
    """A notebook's markdown as HTML, its formulas as MathML; `attachments` are the pictures of its cell."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return formula(body)

        def block_math(self, body: str) -> str:
            return f"<div class=formula>{formula(body, 'block')}</div>"

        def latex_environment(self, name: str, body: str) -> str:
            return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    return MarkdownWithMath(Renderer(escape=False, attachments=attachments)).render(source)
