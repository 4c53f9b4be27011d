"""Results of experiments that take longer than a notebook may; they come with arcvq."""

import pandas as pd

from arcvq.runtime.files import SHIPPED, reason_of

RESULTS = SHIPPED / "data" / "results"


def stored(name: str) -> pd.DataFrame:
    """Open the rows of a stored experiment, as `run_experiment` returned them.

    Args:
        name: The experiment and its data, such as "paper-mnist".

    Raises:
        FileNotFoundError: If there are no such results; the message names those there are.
        ValueError: If their file is damaged.
    """
    path = RESULTS / f"{name}.parquet"
    if not path.is_file():
        known = sorted(file.stem for file in RESULTS.glob("*.parquet"))
        there = ", ".join(known) or "none; install arcvq again"
        raise FileNotFoundError(f"no stored results {name!r}; there are {there}")
    try:
        return pd.read_parquet(path)
    except Exception as error:
        reason = reason_of(error)
        raise ValueError(f"{path} is damaged ({reason}); install arcvq again") from error
