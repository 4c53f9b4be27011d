"""Trained models that come with the checkout, each with a card that says how it was made and how good it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcvq.runtime.files import CHECKOUT, write_whole
from arcvq.vqvae import VQVAE

FOLDER = CHECKOUT / "data" / "checkpoints"
WEIGHTS, CARD = "model.safetensors", "card.json"


def load(name: str) -> VQVAE:
    """A model that comes with arcvq, in evaluation mode: "digits" or "mnist", 28x28 grey, K 512, D 64, with SAMP.

    Raises FileNotFoundError for a name that is not there, ValueError where the card does not belong to the weights.
    """
    card(name)
    return VQVAE.from_pretrained(FOLDER / name)


def card(name: str) -> dict[str, Any]:
    """How a model was made (`settings`, `command`, `machine`) and its `figures` on test images; raises as `load`."""
    folder = FOLDER / name
    if not (folder / CARD).is_file():
        known = ", ".join(sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))) or "none; see a checkout"
        raise FileNotFoundError(f"there is no pretrained model {name!r}; there are {known}")
    facts = json.loads((folder / CARD).read_text())
    if facts.get("sha256") != (found := _digest(folder / WEIGHTS)):
        raise ValueError(f"the card of {folder} was written for other weights: sha256 {facts.get('sha256')}, the file "
                         f"has {found}; fetch both again")
    return facts


def write_pretrained(folder: Path, model: VQVAE, facts: Mapping[str, Any]) -> None:
    """Write the model and, last, its card with these facts: card.json to read by code, README.md to read by eye."""
    model.save_pretrained(folder)
    known = {**facts, "sha256": _digest(folder / WEIGHTS)}
    write_whole(folder / "README.md", lambda path: path.write_text(_page(folder.name, known)))
    write_whole(folder / CARD, lambda path: path.write_text(json.dumps(known, indent=2) + "\n"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing, as it is missing"


def _page(name: str, facts: Mapping[str, Any]) -> str:
    lines = ["---", "license: mit", "library_name: arcvq", "---", "", f"# {name}", ""]
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"## {key}", "", "| | |", "|---|---|", *(f"| {line} | {told} |" for line, told in value.items())]
            lines += [""]
        else:
            lines += [f"{key}: `{value}`", ""]
    return "\n".join(lines)
