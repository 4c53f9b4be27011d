"""Trained models that come with arcvq, each with a card: how it was made, how good it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from arcvq.autoencoder import Autoencoder
from arcvq.runtime.files import SHIPPED, reason_of, write_text
from arcvq.runtime.model_folder import WEIGHTS

FOLDER = SHIPPED / "data" / "checkpoints"
CARD = "card.json"
PAGE_HEADER = """---
license: mit
library_name: arcvq
---

"""


def names() -> list[str]:
    """The models that come with arcvq."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def load(name: str) -> Autoencoder:
    """Open a model that comes with arcvq, in evaluation mode.

    Args:
        name: "digits" or "mnist": K = 512, D = 64, trained with SAMP. "digits_plain",
            "digits_cosine", "digits_cvq" or "digits_samp": K = 256, D = 16, trained alike, so that
            their quantizers can be compared. These are each a `VQVAE` for gray images of 28x28
            pixels. "photos_plain", "photos_cosine", "photos_cvq" or "photos_samp": a small `VQGAN`
            for color images, K = 256, D = 16, trained alike on patches of photographs;
            "photos_samp_pixels" is the last one trained on the absolute error alone.

    Raises:
        FileNotFoundError: If there is no model of this name.
        ValueError: If the card is damaged or belongs to other weights.
    """
    card(name)
    return Autoencoder.from_pretrained(FOLDER / name)


def card(name: str) -> dict[str, Any]:
    """How a model was made (`settings`, `command`, `machine`) and its `figures` on test images.

    Raises as `load` does.
    """
    folder = FOLDER / name
    if not (folder / CARD).is_file():
        known = ", ".join(names()) or "none; install arcvq again"
        raise FileNotFoundError(f"there is no pretrained model {name!r}; there are {known}")
    try:
        facts = dict(json.loads((folder / CARD).read_text("utf-8")))
    except (ValueError, TypeError) as error:
        reason = reason_of(error)
        raise ValueError(f"{folder / CARD} is damaged ({reason}); fetch it again") from error
    found = _sha256(folder / WEIGHTS)
    if facts.get("sha256") != found:
        raise ValueError(
            f"the card of {folder} was written for other weights: sha256 {facts.get('sha256')}, "
            f"the file has {found}; fetch both again"
        )
    return facts


@runtime_checkable
class Saved(Protocol):
    """A model or a prior, which writes itself into a folder."""

    def save_pretrained(self, folder: Path, /) -> Any:
        """Write config.json and model.safetensors."""


def write_pretrained(folder: Path, model: Saved, facts: Mapping[str, Any]) -> None:
    """Write a model with its card: README.md to read by eye and, last, card.json to read by code.

    Args:
        folder: The folder; its name is that of the model.
        model: The model, or a prior.
        facts: What the card says, by the names of its lines or, where a fact is a mapping, tables.
    """
    folder = folder.expanduser()
    model.save_pretrained(folder)
    facts = {**facts, "sha256": _sha256(folder / WEIGHTS)}
    write_text(folder / "README.md", _page(folder.name, facts))
    write_text(folder / CARD, json.dumps(facts, indent=2) + "\n")


def _sha256(path: Path) -> str:
    """The checksum of a file."""
    if not path.is_file():
        return "nothing, as it is missing"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _page(name: str, facts: Mapping[str, Any]) -> str:
    """The card in Markdown, with the header of a model on the Hugging Face hub."""
    parts = [f"# {name}\n"]
    for title, fact in facts.items():
        if isinstance(fact, Mapping):
            lines = [f"| {key} | {value} |\n" for key, value in fact.items()]
            parts.append(f"## {title}\n\n| | |\n|---|---|\n" + "".join(lines))
        else:
            parts.append(f"{title}: `{fact}`\n")
    return PAGE_HEADER + "\n".join(parts)
