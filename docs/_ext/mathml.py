"""A Sphinx extension: formulas as MathML, which browsers draw without a script or a network."""

from docutils import nodes
from sphinx.application import Sphinx

from arcvq.reports.mathml import formula


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(translator, node):
    """Write a formula of running text."""
    translator.body.append(formula(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Write a formula that stands by itself."""
    translator.body.append(f'<div class="formula">{formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode
