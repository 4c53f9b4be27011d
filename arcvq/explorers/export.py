"""The public page: explorers between the paragraphs that lead from one to the next, in one file."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jinja2 import StrictUndefined, Template
from PIL import Image

from arcvq.explorers import MarginExplorer, Playground, RadiusExplorer, TrainingReplay
from arcvq.explorers.bundle import WEB, bundle
from arcvq.explorers.canvas import CanvasExplorer
from arcvq.explorers.tokens import TokenExplorer
from arcvq.images import to_float
from arcvq.reports.pages import check_page_is_ours
from arcvq.runs.pretrained import FOLDER, card
from arcvq.runtime.files import write_text
from arcvq.training import Run
from arcvq.vqvae import VQVAE

PAGE = FOLDER / "page"  # what tools/make_pretrained.py has made for it


def export_explorers(path: str | Path) -> Path:
    """Write the page: text, explorers and a trained model, all in one HTML file of about 1 MB.

    The page needs no kernel, no network and no other file.

    Args:
        path: The file; or a folder, where it is called index.html.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: If there is a page that arcvq has not written.
        OSError: If the file cannot be written; an earlier one is then kept.
    """
    path = Path(path).expanduser()
    if path.suffix != ".html":
        path = path / "index.html"
    check_page_is_ours(path)
    runs = {name: Run.load(PAGE / name) for name in ("plain", "samp")}
    write_text(path, page_html(runs))
    return path


def page_html(runs: dict[str, Run]) -> str:
    """Return the page.

    Args:
        runs: A run of plain VQ, "plain", and one with SAMP, "samp", whose model the page runs.
    """
    model = cast(VQVAE, runs["samp"].model)
    explorers: dict[str, CanvasExplorer] = {
        "tokens": token_explorer(model, image=3, place=24),
        "playground": Playground(),
        "radius": RadiusExplorer(runs["plain"]),
        "margin": MarginExplorer(),
        "replay": TrainingReplay({"plain VQ": runs["plain"], "SAMP": runs["samp"]}, step=0),
    }
    elements = {}
    scripts = [bundle("page", *(explorer.module for explorer in explorers.values()))]
    for name, explorer in explorers.items():
        elements[name], script = explorer.on_page(address=name)
        scripts.append(script)
    template = Template((WEB / "page.html.j2").read_text(), undefined=StrictUndefined)
    return template.render(
        **elements,
        style=(WEB / "style.css").read_text(),
        script="\n".join(scripts),
        parameters=f"{sum(weight.numel() for weight in model.parameters()):,}",
        minutes=round(runs["samp"].seconds / 60),
        **{f"{name}_psnr": f"{card(f'page/{name}')['figures']['psnr']:.1f}" for name in runs},
    )


def token_explorer(model: VQVAE, **settings: Any) -> TokenExplorer:
    """Return the explorer of a model's tokens, with ten digits to choose from."""
    row = np.asarray(Image.open(PAGE / "images.png"))
    digits = np.stack(np.split(row, 10, axis=1))
    images = to_float(torch.from_numpy(digits)[:, None])
    return TokenExplorer(model, images, **settings)
