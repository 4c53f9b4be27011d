"""Run notebooks without a browser, and write what they show as pages."""

from arcvq.reports.key_figures import KeyFigure, key_figure
from arcvq.reports.shared_parameters import check_parameters, check_reading
from arcvq.runtime.extras import extra_folder

__all__ = ["KeyFigure", "check_parameters", "check_reading", "key_figure"]

# Found, but not imported before they are used: they take seconds.
for package in ("ipykernel", "jinja2", "latex2mathml", "nbconvert", "papermill", "plotly"):
    extra_folder(package)
