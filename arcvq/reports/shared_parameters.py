"""The parameters that every notebook has: what is wrong with them is said before anything runs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from arcvq.image_folders import Reading
from arcvq.images import check_dataset
from arcvq.runs.settings import check_profile
from arcvq.runtime.checks import check_whole
from arcvq.runtime.devices import choose_device

SHARED = ("dataset", "profile", "device", "seed", "reading")
# UMAP takes no seed above 32 bits, and notebooks use seed + 2 as well.
LARGEST_NOTEBOOK_SEED = 1_000_000_000


def check_parameters(dataset: Any, profile: Any, device: Any, seed: Any, reading: Any) -> None:
    """Check the parameters that every notebook has, before it loads or trains anything.

    Args:
        dataset: Name of the data set, for `load_images`.
        profile: A name in `PROFILES`.
        device: A device, or "auto"; see `choose_device`.
        seed: A whole number from 0 to `LARGEST_NOTEBOOK_SEED`.
        reading: Fields of `Reading` as a dict, for a data set "folder:PATH".

    Raises:
        ValueError: One of them is not allowed. The message names it and says what is.
        FileNotFoundError: The folder of images is not there.
    """
    check_reading(reading)
    check_dataset(dataset, Reading(**reading))
    check_profile(profile)
    choose_device(device)
    check_seed(seed)


def check_seed(seed: Any) -> None:
    """Raise ValueError for a seed that notebooks do not take."""
    check_whole(0, LARGEST_NOTEBOOK_SEED, seed=seed)


def check_reading(reading: Any) -> None:
    """Raise ValueError unless `reading` is a dict of fields of `Reading` with allowed values."""
    known = [field.name for field in dataclasses.fields(Reading)]
    if not isinstance(reading, Mapping) or not set(reading) <= set(known):
        raise ValueError(f"reading is {reading!r}; it takes {', '.join(known)}, in a dict")
    Reading(**reading)
