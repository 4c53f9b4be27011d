"""Priors that come with arcvq, beside the models whose tokens they were fitted to."""

from arcvq.priors.base import Prior
from arcvq.runs import pretrained

FOLDER_NAME = "prior"  # inside the model's folder


def load_pretrained(name: str) -> Prior:
    """Open the prior of a model that comes with arcvq, in evaluation mode.

    Args:
        name: The model, as for `arcvq.pretrained.load`: "digits_samp", whose prior is a transformer
            that knows the labels of the digits.

    Raises:
        FileNotFoundError: If there is no such model, or it has no prior.
        ValueError: If the card of the prior is damaged or belongs to other weights.
    """
    pretrained.card(name)
    prior_name = f"{name}/{FOLDER_NAME}"
    pretrained.card(prior_name)
    return Prior.from_pretrained(pretrained.FOLDER / prior_name)
