"""Pictures: tensors, arrays and tables in, plotly figures out, each with a one-line summary.

Every figure takes `title`, `summary`, `width` and `height` (pixels) by name in place of its own.
The two diagrams, `method_diagram` and `reading_path`, are drawings in SVG and take nothing.
"""

from arcvq.runtime.extras import needs_extra

with needs_extra("kit"):
    from arcvq.figures.code_maps import code_map, code_maps, token_map
    from arcvq.figures.codebook import (
        angle_histogram,
        norm_against_usage,
        norm_histogram,
        usage_bars,
    )
    from arcvq.figures.costs import cost_picture
    from arcvq.figures.curves import bars, history_curves, lines, schedule_curves
    from arcvq.figures.diagrams import method_diagram, reading_path
    from arcvq.figures.experiment_results import (
        ablation_panels,
        measure_panels,
        sample_panels,
        schedule_map,
    )
    from arcvq.figures.gradient_curves import feedback_picture, gradient_angles, gradient_norms
    from arcvq.figures.image_grids import image_grid, reconstruction_grid
    from arcvq.figures.latent_cells import latent_cells
    from arcvq.figures.plane import code_paths
    from arcvq.figures.sphere import margin_gradients, margin_panels, projected_sphere, sphere
    from arcvq.figures.sweep_map import sweep_map
    from arcvq.figures.theme import METHOD_COLORS, PALETTE, TEMPLATE, colors, finish, summary
    from arcvq.figures.token_grids import mask_picture, place_maps

__all__ = [
    "METHOD_COLORS",
    "PALETTE",
    "TEMPLATE",
    "ablation_panels",
    "angle_histogram",
    "bars",
    "code_map",
    "code_maps",
    "code_paths",
    "colors",
    "cost_picture",
    "feedback_picture",
    "finish",
    "gradient_angles",
    "gradient_norms",
    "history_curves",
    "image_grid",
    "latent_cells",
    "lines",
    "margin_gradients",
    "margin_panels",
    "mask_picture",
    "measure_panels",
    "method_diagram",
    "norm_against_usage",
    "norm_histogram",
    "place_maps",
    "projected_sphere",
    "reading_path",
    "reconstruction_grid",
    "sample_panels",
    "schedule_curves",
    "schedule_map",
    "sphere",
    "summary",
    "sweep_map",
    "token_map",
    "usage_bars",
]
