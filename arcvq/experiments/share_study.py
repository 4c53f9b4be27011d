"""The margin loss on a random share of the codes, drawn anew each step, with few and many codes."""

import dataclasses
import time
from pathlib import Path

import pandas as pd

from arcvq.experiments.base import Experiment, Rows, Variant
from arcvq.experiments.measures import MAIN_MEASURES
from arcvq.experiments.tables import cells, regime_titles, summary
from arcvq.images import ImageData
from arcvq.runs.settings import RunSettings
from arcvq.runtime.devices import threads_kept
from arcvq.samp import SAMP
from arcvq.training import Compute, Optimization, Recording, Run, VQVAESession, evaluate

CODES = (512, 4096, 65536)
SHARES = (1.0, 0.1, 0.03)
TIMED_STEPS = 20
SHOWN = MAIN_MEASURES | {
    "usage": "share of the codes used",
    "processor_milliseconds": "processor time per step (ms)",
}


def variants(base: RunSettings) -> list[Variant]:
    """SAMP with each share of the codes; cosine, which has no margin loss, stands at share 0."""
    samp = base.samp or SAMP.for_run(base.steps)
    found = []
    for num_codes in CODES:
        line = f"K {num_codes:,}"
        cosine = dataclasses.replace(base, quantizer="cosine", num_codes=num_codes, samp=None)
        facts = {"axis": "share", "line": line}
        found.append(Variant(f"{line}, cosine", cosine, {**facts, "value": 0.0}))
        for share in SHARES:
            drawn = None if share == 1 else max(1, round(share * num_codes))
            changed = dataclasses.replace(samp, codes_per_step=drawn)
            settings = dataclasses.replace(cosine, quantizer="samp", samp=changed)
            name = f"{line}, SAMP on {share:.0%}"
            found.append(Variant(name, settings, {**facts, "value": share}))
    return found


def measure(run: Run, settings: RunSettings, data: ImageData, root: Path) -> Rows:
    """Measure the test images, as `evaluate` does, and the time of a step."""
    row = evaluate(run.model, data.test)
    row["processor_milliseconds"] = processor_milliseconds(settings, data)
    return [row]


def processor_milliseconds(settings: RunSettings, data: ImageData) -> float:
    """Measure the processor time of a training step on one thread, in milliseconds.

    Unlike the time of a clock, it leaves out the time that other processes took. On a GPU it is
    only that of launching the work.
    """
    data = settings.subset(data)
    optimization = Optimization(TIMED_STEPS, settings.batch_size, settings.lr, settings.seed)
    compute = Compute(data.device, settings.precision)
    session = VQVAESession(
        settings.model(data), data, optimization, compute, Recording(progress=False)
    )
    with threads_kept(1):
        session.advance()  # the first step is slower
        began = time.process_time()
        for _ in range(TIMED_STEPS):
            session.advance()
        seconds = time.process_time() - began
    return seconds / TIMED_STEPS * 1000


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each number of codes and share of them."""
    titles = {"variant": "setting", **regime_titles(rows)}
    return cells(summary(rows, [*SHOWN], by=[*titles]), {**titles, **SHOWN})


CODES_PER_STEP = Experiment(
    name="codes_per_step",
    question="Is the margin loss on a random share of the codes as good as on all of them?",
    variants=variants,
    measure=measure,
    table=table,
)
