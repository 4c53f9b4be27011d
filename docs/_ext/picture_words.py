"""A Sphinx extension: pictures of stored notebooks keep their words for who cannot see them."""

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx

ALONE = NbElementRenderer.render_image


def setup(app: Sphinx) -> dict:
    NbElementRenderer.render_image = render_image
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def render_image(renderer: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """Render a picture with the "alt" of its output, of which MyST-NB takes the size alone."""
    rendered = ALONE(renderer, data)
    words = data.output_metadata.get(data.mime_type, {}).get("alt")
    if words:
        for element in rendered:
            for image in element.findall(nodes.image):
                image["alt"] = words
    return rendered
