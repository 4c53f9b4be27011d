"""What can be measured on trained models."""

from arcvq.runtime.extras import extra_import

extra_import("pandas")
