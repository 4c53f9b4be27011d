"""Experiments: grids of settings, what is measured of each run, and the tables of the results."""

from arcvq.runtime.extras import needs_extra

with needs_extra("kit"):
    from arcvq.experiments.ablations import ABLATIONS
    from arcvq.experiments.base import Experiment, Variant, run_experiment
    from arcvq.experiments.best_study import BEST, SEARCH
    from arcvq.experiments.generation_study import GENERATION
    from arcvq.experiments.gradient_study import GRADIENTS
    from arcvq.experiments.natural_study import NATURAL_IMAGES
    from arcvq.experiments.paper_table import PAPER_TABLE
    from arcvq.experiments.regime_study import REGIME
    from arcvq.experiments.schedule_study import SCHEDULES
    from arcvq.experiments.semantics_study import SEMANTICS
    from arcvq.experiments.share_study import CODES_PER_STEP
    from arcvq.experiments.stored_results import stored
    from arcvq.experiments.sweep import SWEEP_AXES, grid, parse_axis, sweep

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        PAPER_TABLE,
        BEST,
        SEARCH,
        ABLATIONS,
        REGIME,
        CODES_PER_STEP,
        SCHEDULES,
        SEMANTICS,
        GRADIENTS,
        NATURAL_IMAGES,
        GENERATION,
    )
}

__all__ = [
    "EXPERIMENTS",
    "SWEEP_AXES",
    "Experiment",
    "Variant",
    "grid",
    "parse_axis",
    "run_experiment",
    "stored",
    "sweep",
]
