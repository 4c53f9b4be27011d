"""Tables of experiments that took longer than a notebook may: measured once, kept in the checkout's data/results."""

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def stored(name: str) -> pd.DataFrame:
    """The rows of a stored experiment, such as "paper-mnist": NAME-DATASET, as `run_experiment` gave them.

    Raises FileNotFoundError that names those that are there.
    """
    path = RESULTS / f"{name}.parquet"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in RESULTS.glob("*.parquet"))) or "none; call arcvq from a checkout"
        raise FileNotFoundError(f"no stored results {name!r}; there are {there}")
    return pd.read_parquet(path)
