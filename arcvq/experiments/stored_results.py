"""Tables of experiments that took longer than a notebook may: measured once, kept in the checkout's data/results."""

import pandas as pd

from arcvq.runtime.files import CHECKOUT

RESULTS = CHECKOUT / "data" / "results"


def stored(name: str) -> pd.DataFrame:
    """The rows of a stored experiment, such as "paper-mnist": NAME-DATASET, as `run_experiment` gave them.

    Raises FileNotFoundError that names those that are there.
    """
    path = RESULTS / f"{name}.parquet"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in RESULTS.glob("*.parquet"))) or "none; call arcvq from a checkout"
        raise FileNotFoundError(f"no stored results {name!r}; there are {there}")
    return pd.read_parquet(path)
